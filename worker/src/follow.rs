//! `tandem calls follow`: the stream of what happens to calls, to a client that reads as long as it likes.
//!
//! A thread for each client, since the control thread waits for nobody. It needs no way into the tables: the control thread has told what is on record before.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use control::{CallEventLine, ClientReply, write_message};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shm::{Event, Follower};
use stdx::Moment;
use tables::calls::{CallEvent, What};

/// Clients at the same time, of this process.
const FOLLOWERS_MAX: usize = 16;
/// How often the stream is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Something is said at least that often: who hears nothing for long takes the server for dead.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Events read at once of each slot.
const EVENTS: usize = 1024;

static FOLLOWERS: AtomicUsize = AtomicUsize::new(0);

/// One of those that there may be.
pub(crate) struct Place;

impl Place {
    pub(crate) fn take() -> Option<Self> {
        // Relaxed: a number, and nothing besides.
        let taken = FOLLOWERS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |followers| {
            (followers < FOLLOWERS_MAX).then_some(followers + 1)
        });
        taken.is_ok().then_some(Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        FOLLOWERS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells the client of everything from where the follower stands, until it goes away.
pub(crate) fn start(place: Place, follower: Follower, to: OwnedFd) -> std::io::Result<()> {
    let follow = move || {
        let _place = place;
        // It ends with the client.
        let _ = run(follower, to);
    };
    let thread = std::thread::Builder::new().name("follow".to_owned());
    thread.spawn(follow).map(drop)
}

fn run(mut follower: Follower, to: OwnedFd) -> anyhow::Result<()> {
    let mut out = BufWriter::new(File::from(to));
    let mut events: Vec<Event> = Vec::new();
    let mut said = os::now();
    loop {
        events.clear();
        let told = follower.follow(EVENTS, &mut events);
        let now = os::now();
        let unix = os::unix_now();
        let wall = |at: Moment| {
            let ago = Moment::from(now).saturating_duration_since(at);
            unix.saturating_sub(ago).as_millis() as u64
        };
        if told.missing {
            let line = CallEventLine {
                event: "missing".to_owned(),
                unix_ms: wall(now.into()),
                ..CallEventLine::default()
            };
            write_message(&mut out, &ClientReply::CallEvent(Some(line)))?;
        }
        for event in events.iter().filter_map(CallEvent::read) {
            let line = line(&event, wall(event.at));
            write_message(&mut out, &ClientReply::CallEvent(Some(line)))?;
        }
        if told.missing || !events.is_empty() {
            said = now;
        } else if now.saturating_duration_since(said) >= SILENCE_MAX {
            said = now;
            write_message(&mut out, &ClientReply::CallEvent(None))?;
        }
        out.flush()?;
        if !told.more {
            wait(&out)?;
        }
    }
}

/// For a while, or until the client is gone.
fn wait(out: &BufWriter<File>) -> anyhow::Result<()> {
    let mut gone = [PollFd::new(out.get_ref().as_fd(), PollFlags::empty())];
    let look = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::MAX);
    match poll(&mut gone, look) {
        Ok(0) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Ok(_) => anyhow::bail!("the client is gone"),
        Err(error) => Err(error.into()),
    }
}

fn line(event: &CallEvent, unix_ms: u64) -> CallEventLine {
    let (name, cause) = match event.what {
        What::Begun => ("begun", None),
        What::Answered => ("answered", None),
        What::Ended { cause, code } => ("ended", Some((cause.name().to_owned(), code))),
    };
    let (cause, code) = cause.unzip();
    CallEventLine {
        event: name.to_owned(),
        unix_ms,
        id: Some(event.id.to_string()),
        cause,
        code,
    }
}
