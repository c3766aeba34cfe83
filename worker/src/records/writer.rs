//! The thread that writes: it waits for the lock, for the disk, and for nothing else. It never sees the arena.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use cdr::{Clock, Position};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use tables::cdr::{Cdr, CdrId};

use super::file::{RecordFile, Setup};
use super::lock::Lock;

/// How often somebody who has no lock tries to get it.
const TRY_LOCK: Duration = Duration::from_millis(100);
/// How often who can't even try does.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What the thread is to do.
pub(super) enum Order {
    /// Open the file: up to there everything has been dealt with.
    Open(Option<Position>),
    /// Write these, and have them on the disk.
    Write(Vec<Cdr>),
    /// Put the file aside if its time has come, follow it if it was moved away.
    Look,
}

/// What it has done.
#[derive(Debug)]
pub(super) enum Told {
    /// It has the lock: from now on nobody else writes.
    Locked,
    /// These records are in the file, behind the position.
    Opened {
        ids: HashSet<CdrId>,
        torn: u64,
        position: Position,
    },
    /// The batch is on the disk.
    Written(Position),
    /// The file has been looked at, and may have been put aside; `None`: it is to be opened anew.
    Looked(Option<Position>),
    /// What was asked for is not done, and can be asked for again; `lost`: after it was opened.
    Failed { message: String, lost: bool },
}

/// The control thread's end.
pub(super) struct Writer {
    /// `None` only while it is dropped.
    orders: Option<Sender<Order>>,
    pub(super) told: Receiver<Told>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// `arena`: where its memory can be opened anew. `bell` is rung after each word.
    pub(super) fn start(
        setup: Setup,
        arena: Option<PathBuf>,
        bell: Arc<OwnedFd>,
    ) -> std::io::Result<Self> {
        let (orders, from_control) = crossbeam_channel::unbounded();
        let (to_control, told) = crossbeam_channel::unbounded();
        let end = End {
            orders: from_control,
            told: to_control,
            bell,
        };
        let thread = std::thread::Builder::new()
            .name("records".to_owned())
            .spawn(move || run(&setup, arena.as_deref(), &end))?;
        Ok(Self {
            orders: Some(orders),
            told,
            thread: Some(thread),
        })
    }

    pub(super) fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // A thread that has ended has told why.
            let _ = orders.send(order);
        }
    }
}

impl Drop for Writer {
    /// It gives the lock back, once the disk has let go of it: whoever drops this does not wait.
    fn drop(&mut self) {
        self.orders = None;
        drop(self.thread.take());
    }
}

struct End {
    orders: Receiver<Order>,
    told: Sender<Told>,
    bell: Arc<OwnedFd>,
}

impl End {
    fn tell(&self, told: Told) {
        // Nobody listens any more once the control thread has another setup.
        let _ = self.told.send(told);
        let _ = os::ring_eventfd(self.bell.as_fd());
    }

    fn failed(&self, what: &str, setup: &Setup, error: &std::io::Error, lost: bool) {
        let message = format!("{what} {}: {error}", setup.path.display());
        self.tell(Told::Failed { message, lost });
    }
}

/// Until the other end is gone.
fn run(setup: &Setup, arena: Option<&Path>, end: &End) {
    let Some(mut lock) = wait_for_lock(setup, arena, end) else {
        return;
    };
    failpoint::failpoint!("records.locked");
    end.tell(Told::Locked);
    let mut open = None;
    while let Ok(order) = end.orders.recv() {
        if lock.is_lost() {
            // What another one may have written meanwhile is read.
            open = None;
            if !renew(&mut lock, setup, end) {
                continue;
            }
        }
        match (order, &mut open) {
            (Order::Open(position), _) => open = reopen(setup, position, end),
            (Order::Write(batch), Some(file)) => write(setup, file, &batch, end),
            (Order::Look, Some(file)) => match file.rotate(os::unix_now()) {
                Ok(_) if file.is_lost() => end.tell(Told::Looked(None)),
                Ok(_) => match file.position() {
                    Ok(position) => end.tell(Told::Looked(Some(position))),
                    Err(error) => end.failed("can't look at", setup, &error, true),
                },
                Err(error) => end.failed("can't put aside", setup, &error, true),
            },
            (Order::Write(_) | Order::Look, None) => end.tell(Told::Looked(None)),
        }
    }
}

fn wait_for_lock(setup: &Setup, arena: Option<&Path>, end: &End) -> Option<Lock> {
    let mut told = false;
    loop {
        let wait = match Lock::take(setup, arena) {
            Ok(Some(lock)) => return Some(lock),
            Ok(None) => TRY_LOCK,
            Err(error) => {
                if !told {
                    told = true;
                    end.failed("can't lock the file beside", setup, &error, true);
                }
                TRY_AGAIN
            }
        };
        match end.orders.recv_timeout(wait) {
            Err(RecvTimeoutError::Disconnected) => return None,
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Whoever has removed the file that is locked, or moved its folder away, does not let another server write beside this one.
fn renew(lock: &mut Lock, setup: &Setup, end: &End) -> bool {
    let error = match lock.renew() {
        Ok(true) => return true,
        Ok(false) => std::io::Error::other("another server has the lock beside it"),
        Err(error) => error,
    };
    end.failed("can't lock the file beside", setup, &error, true);
    false
}

fn reopen(setup: &Setup, position: Option<Position>, end: &End) -> Option<RecordFile> {
    let opened = RecordFile::open(setup, position, os::unix_now());
    let opened = opened.and_then(|(file, found)| Ok((file.position()?, file, found)));
    match opened {
        Ok((position, file, found)) => {
            end.tell(Told::Opened {
                ids: found.ids,
                torn: found.torn,
                position,
            });
            Some(file)
        }
        Err(error) => {
            end.failed("can't open", setup, &error, true);
            None
        }
    }
}

fn write(setup: &Setup, file: &mut RecordFile, batch: &[Cdr], end: &End) {
    // Whoever moved it away, to compress it, say, has had all of it.
    if file.is_lost() {
        end.tell(Told::Looked(None));
        return;
    }
    let mut lines = String::with_capacity(batch.len() * 384);
    let clock = Clock {
        now: os::now(),
        unix: os::unix_now(),
    };
    for cdr in batch {
        setup.form.write(cdr, &clock, &mut lines);
    }
    let written = file.append(&lines, clock.unix);
    match written.and_then(|()| file.position()) {
        Ok(position) => end.tell(Told::Written(position)),
        Err(error) => end.failed("can't write to", setup, &error, file.is_lost()),
    }
}
