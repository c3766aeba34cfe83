//! Records of calls, from the arena into a file: the control thread's half of it. The other one is a thread that waits for the disk ([`writer`]).
//!
//! Every worker process has both, and whoever has the locks on the arena and beside the file writes: the kernel gives them to another one as soon as
//! their holder dies.
//!
//! ```text
//! locks --> position of the arena --> open the file, ids behind the position --> records with these ids: removed --> position
//!           .-> records whose dialogs are gone --> grace period --> written, on the disk --> removed --> position --.
//!           '---------------------------------------------------------------------------------------------------------'
//! ```
//!
//! Why no record is written twice, and none lost, is told in `tables::cdr`; here is what a death after each step leaves:
//!
//! | dead after | left | the next holder of the lock |
//! |---|---|---|
//! | the lock, the file opened or repaired | records in the arena | does the same |
//! | half of a batch written | whole lines, half a line; all its records in the arena | cuts off the half line, knows the ids of the others, removes those records, writes the rest |
//! | the batch written, or on the disk | all its records in the arena | knows their ids, removes them |
//! | some removed, all removed, no position yet | fewer, or none | as above, from the old position |
//! | the position noted | nothing | goes on |
//! | the file put aside | no file, or an empty one | reads the old one from the position, which names it by its inode; begins the new one |
//!
//! The position always names the file that is written to, or one before it that has nothing new: it is noted before the first batch goes into a file. So it is found whatever the
//! next holder of the locks has been told to write to.
//!
//! What can't be written stays in the arena and is tried again; beyond `cdr.waiting_max` calls end unrecorded, which is counted and told.

mod file;
mod lock;
mod writer;

use std::collections::HashSet;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cdr::{Field, Form, Format, Position, Rotation};
use config::{RecordFormat, Records};
use failpoint::failpoint;
use shm::{Arena, Cursor, Grace, Participant, RowRef, Version};
use stdx::Instant;
use sync::Ordering;
use tables::cdr::{CdrId, Lying};
use tables::{CDR, Cdrs, Counter};

use file::Setup;
use writer::{Order, Told, Writer};

/// How often a holder of the lock looks whether something has happened.
const LOOK: Duration = Duration::from_millis(100);
/// While a grace period is waited for.
const GRACE: Duration = Duration::from_millis(5);
/// How often the table is looked at although nothing is said to have happened: who dies tells nothing. And the file, whether it was moved away.
const LOOK_ANYWAY: Duration = Duration::from_secs(1);
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Records in a batch.
const BATCH: usize = 2048;
/// Rows looked at between two points of quiescence.
const ROWS: usize = 8192;

/// The control thread's half.
pub(crate) struct Recorder {
    /// What it is asked for, if anything.
    asked: Option<Asked>,
    /// Where the arena's memory can be opened anew.
    arena: Option<PathBuf>,
    bell: Arc<OwnedFd>,
}

struct Asked {
    setup: Setup,
    waiting_max: u32,
    writer: Writer,
    state: State,
    /// Nothing is tried before that.
    retry_at: Instant,
    /// Up to where the arena knows of the file.
    noted: Option<Position>,
    /// `Arena::events_numbered` when there was nothing to do.
    numbered: u64,
    looked_at: Instant,
    /// When to look whether too many wait.
    bound_at: Instant,
    /// The operator has been told that it fails.
    failing: bool,
}

enum State {
    /// Somebody else has the lock.
    Waiting,
    /// The file is to be opened.
    Closed,
    Opening,
    Ready,
    /// Nobody may have these calls in hand any more before they are written.
    Grace(Grace, Vec<Lying>),
    /// Rows to be removed once they are on the disk.
    Writing(Vec<(RowRef, Version)>),
    /// The file is being looked at.
    Looking,
}

impl Recorder {
    pub(crate) fn new(arena: &Arena) -> std::io::Result<Self> {
        let arena = arena.fds().map(|(_, data)| {
            // Its number stays as long as the process.
            PathBuf::from(format!("/proc/self/fd/{}", data.as_raw_fd()))
        });
        Ok(Self {
            arena,
            asked: None,
            bell: Arc::new(os::eventfd()?),
        })
    }

    /// Rung when there is something to do.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// From now on as this says. A file that stays the same stays open.
    pub(crate) fn configure(&mut self, records: &Records) {
        let setup = setup(records);
        match (&mut self.asked, setup) {
            (Some(asked), Some(setup)) if asked.setup == setup => {
                asked.waiting_max = records.waiting_max;
            }
            (_, None) => self.asked = None,
            (_, Some(setup)) => {
                // Its end gives the lock back.
                self.asked = None;
                match Writer::start(setup.clone(), self.arena.clone(), Arc::clone(&self.bell)) {
                    Ok(writer) => {
                        self.asked = Some(Asked {
                            setup,
                            waiting_max: records.waiting_max,
                            writer,
                            state: State::Waiting,
                            retry_at: Instant::default(),
                            noted: None,
                            numbered: 0,
                            looked_at: Instant::default(),
                            bound_at: Instant::default(),
                            failing: false,
                        });
                    }
                    Err(error) => tracing::error!(%error, "no thread for records of calls"),
                }
            }
        }
    }

    /// How long may be waited before the next [`turn`](Self::turn), unless the bell rings.
    pub(crate) fn wait(&self) -> Duration {
        match self.asked.as_ref().map(|asked| &asked.state) {
            None => Duration::MAX,
            Some(State::Waiting) => LOOK_ANYWAY,
            Some(State::Grace(..)) => GRACE,
            Some(_) => LOOK,
        }
    }

    /// A step; never waits.
    pub(crate) fn turn(&mut self, participant: &mut Participant, now: Instant) {
        os::hear_eventfd(self.bell.as_fd());
        if let Some(asked) = &mut self.asked {
            participant.online();
            asked.turn(participant, now);
            participant.offline();
        }
    }
}

impl Asked {
    fn turn(&mut self, participant: &mut Participant, now: Instant) {
        while let Ok(told) = self.writer.told.try_recv() {
            self.hear(told, participant, now);
        }
        if now >= self.bound_at {
            self.bound_at = now + LOOK_ANYWAY;
            self.bound(participant);
        }
        if now < self.retry_at {
            return;
        }
        match std::mem::replace(&mut self.state, State::Ready) {
            State::Closed => {
                let position = Cdrs(participant).position(now);
                let position = position.and_then(|bytes| Position::decode(&bytes));
                self.writer.order(Order::Open(position));
                self.state = State::Opening;
            }
            State::Ready => self.collect(participant, now),
            State::Grace(grace, batch) if participant.is_over_since(grace) => {
                self.write(batch);
            }
            other => self.state = other,
        }
    }

    fn hear(&mut self, told: Told, participant: &mut Participant, now: Instant) {
        match told {
            Told::Locked => {
                tracing::debug!(path = %self.setup.path.display(), "this worker writes the records of calls");
                self.state = State::Closed;
                self.retry_at = now;
            }
            Told::Opened {
                ids,
                torn,
                position,
            } => {
                if torn > 0 {
                    tracing::warn!(
                        path = %self.setup.path.display(),
                        bytes = torn,
                        "half a record was cut off, it is written again"
                    );
                }
                self.deal_with(&ids, participant);
                // From here on the arena knows of this file: before anything is written to it.
                self.state = if self.note(position, participant, now) {
                    State::Ready
                } else {
                    self.retry_at = now + RETRY;
                    State::Closed
                };
                self.look_again();
            }
            Told::Written(position) => {
                if let State::Writing(rows) = std::mem::replace(&mut self.state, State::Ready) {
                    failpoint!("records.told");
                    self.remove(&rows, participant);
                    participant.count(Counter::CdrsWritten.cell(), rows.len() as u64);
                    failpoint!("records.removed");
                    self.note(position, participant, now);
                    failpoint!("records.noted");
                }
                if std::mem::take(&mut self.failing) {
                    self.bound_at = now;
                    tracing::info!(path = %self.setup.path.display(), "records of calls can be written again");
                }
                self.look_again();
            }
            Told::Looked(position) => {
                self.state = match position {
                    // Put aside: all that was in it has been dealt with.
                    Some(position) => {
                        self.note(position, participant, now);
                        State::Ready
                    }
                    None => State::Closed,
                };
            }
            Told::Failed { message, lost } => {
                participant.count(Counter::CdrsFailed.cell(), 1);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!("{message}; records of calls wait in memory");
                }
                self.state = match &self.state {
                    State::Waiting => State::Waiting,
                    _ if lost => State::Closed,
                    _ => State::Ready,
                };
                self.retry_at = now + RETRY;
                self.look_again();
            }
        }
    }

    /// The next turn looks at the table, whatever the stream says.
    fn look_again(&mut self) {
        self.looked_at = Instant::default();
        self.numbered = u64::MAX;
    }

    /// Looks for records whose dialogs are gone.
    fn collect(&mut self, participant: &mut Participant, now: Instant) {
        let numbered = participant.arena().events_numbered();
        let anyway = now.saturating_duration_since(self.looked_at) >= LOOK_ANYWAY;
        if numbered == self.numbered && !anyway {
            return;
        }
        let mut batch: Vec<Lying> = Vec::new();
        let mut broken = Vec::new();
        let mut next = Some(Cursor::default());
        while let Some(cursor) = next
            && batch.len() < BATCH
        {
            next = Cdrs(participant).over(
                cursor,
                ROWS,
                |lying| batch.push(lying),
                |row, version| broken.push((row, version)),
            );
            participant.quiescent();
        }
        if !broken.is_empty() {
            tracing::error!(records = broken.len(), "records of calls could not be read");
            participant.count(Counter::CdrsLost.cell(), broken.len() as u64);
            self.remove(&broken, participant);
        }
        if !batch.is_empty() {
            // In the order in which they ended, as far as they are together.
            batch.sort_by_key(|lying| (lying.cdr.end_at, lying.cdr.id));
            batch.truncate(BATCH);
            // From now on nobody finds their dialogs; who has one in hand comes to the end of its turn.
            self.state = State::Grace(participant.grace(), batch);
            return;
        }
        self.numbered = numbered;
        if anyway {
            self.looked_at = now;
            self.writer.order(Order::Look);
            self.state = State::Looking;
        }
    }

    fn write(&mut self, batch: Vec<Lying>) {
        let rows = batch.iter().map(|lying| (lying.row, lying.version));
        self.state = State::Writing(rows.collect());
        let batch = batch.into_iter().map(|lying| lying.cdr).collect();
        self.writer.order(Order::Write(batch));
    }

    /// These are in a file: who wrote them did not come to remove them, or memory has come back from an older snapshot.
    fn deal_with(&self, ids: &HashSet<CdrId>, participant: &mut Participant) {
        let ghosts = ids.iter().filter(|id| Cdrs(participant).forget_ghost(id));
        let ghosts = ghosts.count();
        if ghosts > 0 {
            tracing::info!(
                ghosts,
                "calls that had come back from the snapshot were over already"
            );
        }
        let mut there = Vec::new();
        let mut next = Some(Cursor::default());
        while let Some(cursor) = next
            && !ids.is_empty()
        {
            let over = |lying: Lying| {
                if ids.contains(&lying.cdr.id) {
                    there.push((lying.row, lying.version));
                }
            };
            next = Cdrs(participant).over(cursor, ROWS, over, |_, _| ());
            participant.quiescent();
        }
        if !there.is_empty() {
            tracing::info!(
                records = there.len(),
                "records of calls were in the file already"
            );
            self.remove(&there, participant);
        }
    }

    fn remove(&self, rows: &[(RowRef, Version)], participant: &mut Participant) {
        for chunk in rows.chunks(256) {
            for (row, version) in chunk {
                Cdrs(participant).remove(*row, *version);
                failpoint!("records.removing");
            }
            participant.quiescent();
        }
    }

    /// False: there is no memory for it, and nothing may be written to a file that the arena does not know of.
    fn note(&mut self, position: Position, participant: &mut Participant, now: Instant) -> bool {
        if self.noted.as_ref() == Some(&position) {
            return true;
        }
        let noted = Cdrs(participant).set_position(&position.encode(), now);
        if let Err(error) = &noted {
            tracing::warn!(%error, "how far records of calls are written can't be noted");
        }
        self.noted = Some(position).filter(|_| noted.is_ok());
        noted.is_ok()
    }

    /// Has calls end unrecorded, or not any more, as there is room for what waits.
    fn bound(&mut self, participant: &Participant) {
        let waiting = participant.arena().live_rows(CDR);
        let full = waiting >= u64::from(self.waiting_max);
        let switch = tables::cdr::closed(participant.arena());
        // Relaxed: who ends a call at the same moment may see the one or the other. Each process with a recorder comes to the same, and one of them tells.
        let was_full = switch.swap(u64::from(full), Ordering::Relaxed) != 0;
        if full && !was_full {
            tracing::error!(
                waiting,
                "too many records of calls wait: calls end unrecorded (`cdr.waiting_max`)"
            );
        } else if was_full && !full {
            tracing::warn!("calls are recorded again");
        }
    }
}

fn setup(records: &Records) -> Option<Setup> {
    let format = match records.format {
        RecordFormat::Csv => Format::Csv,
        RecordFormat::Json => Format::Json,
    };
    let fields: Vec<Field> = records
        .fields
        .iter()
        .filter_map(|name| Field::named(name))
        .collect();
    Some(Setup {
        path: records.path.as_ref()?.into(),
        form: Form::new(format, &fields),
        rotation: Rotation {
            bytes: records.rotate_size,
            every: records.rotate_every,
        },
    })
}

#[cfg(test)]
mod tests;
