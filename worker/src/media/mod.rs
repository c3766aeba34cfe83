//! A slot's client of media engines: the machine of crate `ng`, its sockets, and whose questions it answers.
//!
//! Questions of requests wait as rows in the arena; what is here is lost with the worker, and the heir asks again. What an engine has to free is owed
//! as long as there is a record in `media` whose dialog has gone: the slot is told when a call ends, and looks for itself now and then.

mod sets;
mod sockets;

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use ng::{Client, Input, Outcome, Outputs, Question};
use proxy::{AskId, MediaSet};
use shm::{Cursor, Participant, RowRef};
use stdx::{
    Instant,
    hash::{Key, hash128},
};
use tables::{
    Counter, Dialogs, MediaCalls,
    dialog::{DialogId, DialogState},
    media::MediaCall,
};

use crate::active::Active;
pub(crate) use sets::sets;
use sockets::{Heard, Sockets};

/// Rows looked at for deletes that are owed, each time.
const WALK_ROWS: usize = 2048;
/// Deletes under way at the same moment.
const FREEING_MAX: usize = 512;
/// How long a delete is tried; an engine whose calls are silent for so long has ended them by itself.
const ABANDON: Duration = Duration::from_secs(180);
/// How long one delete waits for its engine.
const FREE_TIMEOUT: Duration = Duration::from_secs(2);

/// A late answer.
pub(crate) type Late = (AskId, Outcome);

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Ask(AskId),
    /// This record's call is over.
    Free(RowRef),
}

pub(crate) struct Media {
    slot: u16,
    slots: u16,
    client: Client<Token>,
    sockets: Sockets,
    outputs: Outputs<Token>,
    sets: HashMap<String, Arc<MediaSet>>,
    arena: Key,
    freeing: BTreeSet<u64>,
    cursor: Cursor,
    /// There may be something to read.
    ready: bool,
}

impl Media {
    /// `once` is a number that no other incarnation of the slot has had.
    pub(crate) fn new(
        slot: u16,
        slots: u16,
        arena: &Key,
        once: u64,
        now: Instant,
        active: &Active,
    ) -> io::Result<Self> {
        // Cookies are drawn from it: an engine takes one that it knows for a copy.
        let key = hash128(
            arena,
            &[
                b"media",
                &slot.to_le_bytes(),
                &once.to_le_bytes(),
                &std::process::id().to_le_bytes(),
            ],
        );
        let mut media = Self {
            slot,
            slots,
            client: Client::new(Key(key.to_le_bytes())),
            sockets: Sockets::new()?,
            outputs: Outputs::default(),
            sets: HashMap::new(),
            arena: *arena,
            freeing: BTreeSet::new(),
            cursor: Cursor::default(),
            ready: false,
        };
        media.configure(now, active);
        Ok(media)
    }

    /// Readable when there is something to be read.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.sockets.as_fd()
    }

    /// The descriptor was readable.
    pub(crate) fn wake(&mut self) {
        self.ready = true;
    }

    pub(crate) fn configure(&mut self, now: Instant, active: &Active) {
        self.client.configure(now, sets::engines(&active.config));
        let sets = &active.settings.media;
        self.sets = sets
            .iter()
            .map(|set| (set.name.clone(), Arc::clone(set)))
            .collect();
    }

    /// When [`Media::turn`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.ready || !self.outputs.answers.is_empty() {
            Some(Instant::ZERO)
        } else {
            self.client.deadline()
        }
    }

    /// Asks an engine; the answer comes by a later [`Media::turn`].
    pub(crate) fn ask(&mut self, now: Instant, id: AskId, question: Question) {
        let token = Token::Ask(id);
        let input = Input::Ask { token, question };
        self.client.step(now, input, &mut self.outputs);
        self.act(now);
    }

    /// A call has ended: its engine is told.
    pub(crate) fn ended(&mut self, now: Instant, id: DialogId, participant: &mut Participant) {
        if let Some((row, call)) = MediaCalls(participant).find(id) {
            self.free(now, row, &call, participant);
        }
    }

    /// Hears what has come and does what is due. Appends answers.
    pub(crate) fn turn(
        &mut self,
        now: Instant,
        participant: &mut Participant,
        answers: &mut Vec<Late>,
    ) {
        if self.ready {
            let Self {
                sockets,
                client,
                outputs,
                ..
            } = self;
            self.ready = sockets.hear(|heard| {
                let input = match heard {
                    Heard::Datagram(engine, bytes) => Input::Datagram { engine, bytes },
                    Heard::Unreachable(engine) => Input::Unreachable { engine },
                };
                client.step(now, input, outputs);
            });
        }
        if self.client.deadline().is_some_and(|due| due <= now) {
            self.client.step(now, Input::Tick, &mut self.outputs);
        }
        self.act(now);
        for answer in std::mem::take(&mut self.outputs.answers) {
            match answer.token {
                Token::Ask(id) => answers.push((id, answer.outcome)),
                Token::Free(row) => self.freed(now, row, &answer.outcome, participant),
            }
        }
        self.count(participant);
    }

    /// Looks for calls that are over and whose engine does not know it, a few rows at a time.
    pub(crate) fn keep_house(&mut self, now: Instant, participant: &mut Participant) {
        let mut found = Vec::new();
        let next =
            MediaCalls(participant).walk(self.slots, self.cursor, WALK_ROWS, |row, id, call| {
                found.push((row, id, call));
            });
        self.cursor = next.unwrap_or_default();
        for (row, id, call) in found {
            let lives = |state| matches!(state, DialogState::Early | DialogState::Confirmed);
            let alive = Dialogs(participant).find_id(id, |view| lives(view.state));
            if alive != Some(true) {
                self.free(now, row, &call, participant);
            }
        }
        self.count(participant);
    }

    fn free(&mut self, now: Instant, row: RowRef, call: &MediaCall, participant: &mut Participant) {
        if self.freeing.len() >= FREEING_MAX || self.freeing.contains(&row.pack()) {
            // The walk finds it again.
            return;
        }
        let since = call.owed_at.map(|owed| now.saturating_duration_since(owed));
        let members = self.sets.get(&call.set).map(|set| Arc::clone(&set.members));
        let nobody = call.engine.is_none() && members.is_none();
        if nobody || since.is_some_and(|since| since >= ABANDON) {
            MediaCalls(participant).end(row);
            participant.count(Counter::MediaAbandoned.cell(), 1);
            return;
        }
        let mut command = Vec::new();
        ng::command::write_delete(&call.call_id, &call.caller_tag, &mut command);
        let question = Question {
            members: members.unwrap_or_default(),
            engine: call.engine,
            // Where it was never said which engine has it, the one is told that was asked first.
            may_move: false,
            seed: proxy::media_seed(&self.arena, &call.call_id),
            command,
            timeout: FREE_TIMEOUT,
        };
        self.freeing.insert(row.pack());
        let token = Token::Free(row);
        let input = Input::Ask { token, question };
        self.client.step(now, input, &mut self.outputs);
        self.act(now);
    }

    /// What has become of a delete.
    fn freed(
        &mut self,
        now: Instant,
        row: RowRef,
        outcome: &Outcome,
        participant: &mut Participant,
    ) {
        self.freeing.remove(&row.pack());
        match outcome {
            // An engine that knows nothing of the call says so, and has nothing to free.
            Outcome::Done { .. } | Outcome::Refused { .. } => {
                if MediaCalls(participant).end(row) {
                    participant.count(Counter::MediaFreed.cell(), 1);
                }
            }
            Outcome::Silent | Outcome::NoEngine | Outcome::Busy => {
                // Gone, or no memory: the walk finds it again, and knows no better since when.
                let _ = MediaCalls(participant).update(row, |call| {
                    let first = call.owed_at.is_none();
                    call.owed_at.get_or_insert(now);
                    first
                });
            }
        }
    }

    /// Carries out what the machine wants.
    fn act(&mut self, now: Instant) {
        let Self {
            sockets,
            client,
            outputs,
            ..
        } = self;
        // What can't be sent is told at once, and may lead to another send: each question goes to each engine once.
        while !outputs.sends.is_empty() {
            for (engine, bytes) in std::mem::take(&mut outputs.sends) {
                if !sockets.send(engine, &bytes) {
                    client.step(now, Input::Unreachable { engine }, outputs);
                }
            }
        }
        for (engine, up) in outputs.states.drain(..) {
            tell_state(self.slot, engine, up);
        }
    }

    /// Adds what happened to the counters.
    fn count(&mut self, participant: &Participant) {
        let tally = std::mem::take(&mut self.client.tally);
        if tally == ng::Tally::default() {
            return;
        }
        for (counter, n) in [
            (Counter::MediaQuestions, tally.questions),
            (Counter::MediaRepeated, tally.retransmissions),
            (Counter::MediaRefused, tally.refused),
            (Counter::MediaSilent, tally.silent),
            (Counter::MediaNoEngine, tally.no_engine),
            (Counter::MediaBusy, tally.busy),
            (Counter::MediaMoved, tally.moved),
            (Counter::MediaMismatched, tally.mismatched),
            (Counter::MediaDown, tally.went_down),
        ] {
            if n > 0 {
                participant.count(counter.cell(), n);
            }
        }
    }
}

fn tell_state(slot: u16, engine: SocketAddr, up: bool) {
    if up {
        tracing::info!(slot, %engine, "a media engine answers again");
    } else {
        tracing::warn!(slot, %engine, "a media engine does not answer");
    }
}
