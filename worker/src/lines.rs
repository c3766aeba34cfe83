//! Lines of the log of a worker and of the supervisor, written behind: standard error may be a file on a disk that is busy, or a pipe that nobody empties; a
//! slot that waited for it would serve nobody, and a supervisor would see to nobody.
//!
//! A line goes to a queue, and a thread of its own writes it. What the queue can't hold is left out and counted. Until the thread is there, while the process
//! starts, whoever has a line writes it.

use std::{
    io::{self, Write},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::sys::signal::{SigSet, SigmaskHow};

/// Lines that wait at most.
const WAITING_MAX: usize = 1024;
/// How long the end of a process waits for its last lines.
const LAST_LINES: Duration = Duration::from_millis(200);

enum Item {
    Line(Vec<u8>),
    /// All before it is written.
    Mark(Sender<()>),
}

static QUEUE: OnceLock<Sender<Item>> = OnceLock::new();
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// Takes one line, whole.
pub fn line() -> Line {
    Line(())
}

/// Where a line of the log goes.
#[derive(Debug)]
pub struct Line(());

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match QUEUE.get() {
            None => io::stderr().write(bytes),
            Some(queue) => {
                put(queue, &LEFT_OUT, bytes);
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From now on nobody but a thread of its own writes to standard error. It has the rights that the caller has now, and takes no signals.
pub fn write_behind() {
    let (queue, lines) = bounded(WAITING_MAX);
    let writer = std::thread::Builder::new().name("log".to_owned());
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let started = writer.spawn(move || write_all(&lines, &LEFT_OUT, io::stderr()));
    if let Ok(mask) = mask {
        let _ = mask.thread_set_mask();
    }
    if started.is_ok() {
        // Somebody was here before: then there are two threads, and one idles.
        let _ = QUEUE.set(queue);
    }
}

/// Waits for the lines of this process, a moment at most: its end may follow, or another program in its place.
pub fn last_lines() {
    if let Some(queue) = QUEUE.get() {
        let (done, written) = bounded(1);
        if queue.try_send(Item::Mark(done)).is_ok() {
            let _ = written.recv_timeout(LAST_LINES);
        }
    }
}

fn put(queue: &Sender<Item>, left_out: &AtomicU64, bytes: &[u8]) {
    if queue.try_send(Item::Line(bytes.to_vec())).is_err() {
        // Relaxed: a count that nothing else depends on.
        left_out.fetch_add(1, Ordering::Relaxed);
    }
}

fn write_all(lines: &Receiver<Item>, left_out: &AtomicU64, mut to: impl Write) {
    for item in lines {
        // Nobody can be told of an error of the log.
        match item {
            Item::Line(bytes) => drop(to.write_all(&bytes)),
            Item::Mark(done) => drop(done.try_send(())),
        }
        let missing = left_out.swap(0, Ordering::Relaxed);
        if missing > 0 {
            let _ = writeln!(
                to,
                "{missing} lines of this log were left out: it is written too slowly"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log that takes a line only when it is let.
    struct Slow(Receiver<()>, Vec<u8>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            self.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_log_holds_up_nobody_and_says_what_it_lacks() {
        let (queue, lines) = bounded(4);
        let left_out = AtomicU64::new(0);
        // Nobody reads yet: none of these waits.
        for n in 0..10 {
            put(&queue, &left_out, format!("line {n}\n").as_bytes());
        }
        let (let_it, may) = bounded(16);
        for _ in 0..16 {
            let_it.send(()).unwrap();
        }
        drop((queue, let_it));
        let mut log = Slow(may, Vec::new());
        write_all(&lines, &left_out, &mut log);
        let text = String::from_utf8(log.1).unwrap();
        let written: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("line"))
            .collect();
        assert_eq!(written, ["line 0", "line 1", "line 2", "line 3"]);
        assert!(text.contains("6 lines of this log were left out"), "{text}");
    }
}
