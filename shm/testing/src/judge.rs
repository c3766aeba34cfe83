//! Recovery of each moment, and the verdict: every invariant holds, all or nothing of the operation has happened, nothing leaks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use shm::{Arena, Participant, ParticipantId, SlotId, TableId, audit};

use crate::twin::Twin;
use crate::walk::{Pace, Walk, walk};

/// What an arena holds, in words: records, buffers to serve, mail, what is on the board.
pub type Facts = BTreeMap<String, String>;

/// What a death in the middle may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// All or nothing: one CAS.
    AllOrNothing,
    /// Of each record all or nothing.
    Parts,
    /// Something that is neither before nor after, by design: only the invariants are judged.
    Others,
}

/// An operation to die in. Participant 0 does it.
pub struct Case {
    /// For reports.
    pub name: String,
    /// Brings a fresh arena to where the operation begins.
    pub prepare: Box<dyn Fn(&Arena)>,
    /// What the process does before it is stepped: so that its slabs are taken and its free lists filled.
    pub warm: fn(&mut Participant),
    /// The operation.
    pub operate: Box<dyn Fn(&mut Participant)>,
    /// What a death may leave of the operation.
    pub leaves: Leaves,
    /// Further conditions, such as cells that equal a recount: after recovery.
    pub check: fn(&Participant) -> Result<(), String>,
}

impl Case {
    /// One that is atomic, cold, and has no further conditions.
    pub fn new(
        name: &str,
        prepare: impl Fn(&Arena) + 'static,
        operate: impl Fn(&mut Participant) + 'static,
    ) -> Self {
        Self {
            name: name.to_owned(),
            prepare: Box::new(prepare),
            warm: |_| {},
            operate: Box::new(operate),
            leaves: Leaves::AllOrNothing,
            check: |_| Ok(()),
        }
    }

    /// After this.
    pub fn warm(self, warm: fn(&mut Participant)) -> Self {
        Self { warm, ..self }
    }

    /// Its parts may happen one without the other.
    pub fn in_parts(self) -> Self {
        Self {
            leaves: Leaves::Parts,
            ..self
        }
    }

    /// It passes through contents that are neither before nor after it.
    pub fn through_others(self) -> Self {
        Self {
            leaves: Leaves::Others,
            ..self
        }
    }

    /// With this condition.
    pub fn check(self, check: fn(&Participant) -> Result<(), String>) -> Self {
        Self { check, ..self }
    }
}

/// What came out.
#[derive(Debug, Default)]
pub struct Report {
    /// Instructions after each of which a death was judged; or those that store into the arena, see [`Pace`].
    pub instructions: u64,
    /// Different contents of the arena.
    pub moments: usize,
    /// Of these, those that were recovered and judged.
    pub judged: usize,
    /// What was wrong.
    pub violations: Vec<String>,
}

/// Every record, every buffer in a journal, every mail, every word of the board. Takes the mail.
pub fn facts(participants: &[Participant]) -> Facts {
    let Some(p) = participants.first() else {
        return Facts::new();
    };
    let arena = p.arena().clone();
    let mut facts = Facts::new();
    for table in 0..arena.layout().tables {
        p.rows(TableId(table), |r| {
            let children: Vec<_> = r.children.iter().map(|c| p.block(*c)).collect();
            let about = format!(
                "{:?} {:?} {:?} flags {} until {:?}",
                r.row, r.payload, children, r.flags, r.expires_at
            );
            facts.insert(format!("record {table} {:?}", r.key), about);
        });
    }
    for slot in (0..arena.layout().slots).map(SlotId) {
        for buffer in arena.journal(slot, None) {
            facts.insert(
                format!("buffer {buffer:?}"),
                format!("to serve by {slot:?}"),
            );
        }
    }
    // The model checker's memory has none.
    #[cfg(not(loom))]
    for (nth, word) in arena.board().iter().enumerate() {
        let word = word.load(Ordering::SeqCst);
        if word != 0 {
            facts.insert(format!("board {nth}"), format!("{word:#x}"));
        }
    }
    for p in participants {
        let mut nth = 0;
        p.receive(|from, mail| {
            facts.insert(
                format!("mail {nth} from {from:?} to {:?}", p.id()),
                format!("{mail:?}"),
            );
            nth += 1;
        });
    }
    facts
}

/// An arena's violations, as a list for a report.
fn audited(arena: &Arena, settled: bool, wrong: &mut Vec<String>) {
    let found = audit(arena, settled);
    wrong.extend(
        found
            .iter()
            .take(3)
            .map(|v| format!("settled: {settled}: {v:?}")),
    );
}

/// Lets every grace period end and every lost object be found.
pub fn settle(participants: &mut [Participant]) {
    for _ in 0..3 {
        for p in participants.iter_mut() {
            p.scrub(u32::MAX);
        }
        for _ in 0..300 {
            participants.iter_mut().for_each(Participant::quiescent);
            if participants.iter().all(|p| p.limbo_len() == 0) {
                break;
            }
        }
    }
}

/// Heirs of everybody, in one of several ways.
fn recover(arena: &Arena, way: usize) -> Vec<Participant> {
    let count = arena.participants();
    if way % 2 == 1 {
        // By another first; and only then is the number used again.
        let mut other = arena.participant(ParticipantId(count - 1));
        other.recover(ParticipantId(count - 1));
        for dead in 0..count - 1 {
            other.recover(ParticipantId(dead));
        }
    }
    let heir = |id| {
        let mut heir = arena.participant(ParticipantId(id));
        heir.recover(ParticipantId(id));
        heir
    };
    (0..count).map(heir).collect()
}

/// Recovers what the twin holds, and says what is wrong.
fn judge(
    twin: &Twin,
    way: usize,
    allowed: &[Facts],
    leaves: Leaves,
    check: fn(&Participant) -> Result<(), String>,
    empty: u64,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut heirs = recover(&twin.arena, way);
    audited(&twin.arena, false, &mut wrong);
    let now = facts(&heirs);
    match leaves {
        Leaves::AllOrNothing if !allowed.contains(&now) => wrong.push(format!(
            "neither all nor nothing: {now:?}, allowed: {allowed:?}"
        )),
        Leaves::Parts => {
            let names = allowed.iter().flat_map(Facts::keys).chain(now.keys());
            for name in names.collect::<BTreeSet<_>>() {
                if !allowed.iter().any(|a| a.get(name) == now.get(name)) {
                    wrong.push(format!("{name} is {:?}", now.get(name)));
                }
            }
        }
        Leaves::AllOrNothing | Leaves::Others => {}
    }
    wrong.extend(check(&heirs[0]).err());
    settle(&mut heirs);
    audited(&twin.arena, true, &mut wrong);
    wrong.extend(check(&heirs[0]).err());
    for table in 0..twin.arena.layout().tables {
        let mut rows = Vec::new();
        heirs[0].rows(TableId(table), |r| rows.push(r.row));
        for row in rows {
            if !heirs[1].remove(row, None) {
                wrong.push(format!("{row:?} cannot be removed"));
            }
        }
    }
    settle(&mut heirs);
    audited(&twin.arena, true, &mut wrong);
    let left = twin.arena.usage().bytes_used;
    if left != empty {
        wrong.push(format!(
            "{left} bytes are used of an empty arena, not {empty}"
        ));
    }
    wrong
}

/// The facts before a walk and after it.
pub fn before_and_after(twin: &Twin, walk: &Walk) -> [Facts; 2] {
    [0, walk.moments.len() - 1].map(|moment| {
        walk.restore(twin, moment);
        facts(&recover(&twin.arena, 0))
    })
}

/// The walk through a case.
pub fn walked(case: &Case, arena: &Arena, pace: Pace) -> (Twin, Walk) {
    (case.prepare)(arena);
    let twin = Twin::of(arena);
    let content = twin.read_all();
    let walk = walk(
        &twin,
        &content,
        pace,
        |arena| {
            let mut p = arena.participant(ParticipantId(0));
            p.recover(ParticipantId(0));
            (case.warm)(&mut p);
            p
        },
        |p| (case.operate)(p),
    );
    (twin, walk)
}

/// Dies after every instruction of the operation, in a fresh arena, and judges each different content.
pub fn exhaust(case: &Case, arena: &Arena, pace: Pace) -> Report {
    let empty = arena.usage().bytes_used;
    let (twin, walk) = walked(case, arena, pace);
    let allowed = before_and_after(&twin, &walk);
    let mut report = Report {
        instructions: walk.instructions,
        moments: walk.moments.len(),
        ..Report::default()
    };
    for moment in 0..walk.moments.len() {
        walk.restore(&twin, moment);
        let wrong = judge(&twin, moment, &allowed, case.leaves, case.check, empty);
        report.judged += 1;
        let at = walk.moments[moment].at;
        let said = wrong
            .into_iter()
            .map(|w| format!("{}, after instruction {at}: {w}", case.name));
        report.violations.extend(said);
    }
    report
}

/// Every `nth` of `count`, one at least.
fn sample(count: usize, nth: usize, from: usize) -> impl Iterator<Item = usize> {
    (from % nth.min(count)..count).step_by(nth)
}

/// As [`exhaust`], for a recovery of the dead: of every `nth` moment of the case, beginning with `from`, a recovery is stepped through by an heir or by another participant, dies as
/// well, and is taken over.
pub fn exhaust_recovery(case: &Case, arena: &Arena, pace: Pace, nth: usize, from: usize) -> Report {
    let empty = arena.usage().bytes_used;
    let (twin, first) = walked(case, arena, pace);
    let allowed = before_and_after(&twin, &first);
    let mut report = Report::default();
    for moment in sample(first.moments.len(), nth, from) {
        first.restore(&twin, moment);
        let content = twin.read_all();
        let by = ParticipantId(if moment % 2 == 0 { 0 } else { 1 });
        let again = walk(
            &twin,
            &content,
            pace,
            |arena| {
                let mut p = arena.participant(by);
                if by.0 != 0 {
                    p.recover(by);
                }
                p
            },
            |p| {
                p.recover(ParticipantId(0));
            },
        );
        report.instructions += again.instructions;
        report.moments += again.moments.len();
        for second in 0..again.moments.len() {
            again.restore(&twin, second);
            let wrong = judge(&twin, second, &allowed, case.leaves, case.check, empty);
            report.judged += 1;
            let (one, two) = (first.moments[moment].at, again.moments[second].at);
            let said = wrong.into_iter().map(|w| {
                format!(
                    "{}, after instruction {one}, and recovery after {two}: {w}",
                    case.name
                )
            });
            report.violations.extend(said);
        }
    }
    report
}

/// As [`exhaust`], beside a participant that has died in the middle of another operation and has not been recovered: for every `nth` moment of `theirs`, whose
/// `operate` participant 1 does.
pub fn exhaust_beside(
    case: &Case,
    theirs: &Walk,
    twin: &Twin,
    empty: u64,
    pace: Pace,
    nth: usize,
    from: usize,
) -> Report {
    let mut report = Report::default();
    for moment in sample(theirs.moments.len(), nth, from) {
        theirs.restore(twin, moment);
        let content = twin.read_all();
        let mine = walk(
            twin,
            &content,
            pace,
            |arena| {
                let mut p = arena.participant(ParticipantId(0));
                p.recover(ParticipantId(0));
                p
            },
            |p| (case.operate)(p),
        );
        report.instructions += mine.instructions;
        report.moments += mine.moments.len();
        let mut allowed = before_and_after(twin, theirs).to_vec();
        allowed.extend(before_and_after(twin, &mine));
        for second in 0..mine.moments.len() {
            mine.restore(twin, second);
            let wrong = judge(twin, second, &allowed, Leaves::Parts, case.check, empty);
            report.judged += 1;
            let (one, two) = (theirs.moments[moment].at, mine.moments[second].at);
            let said = wrong.into_iter().map(|w| {
                format!(
                    "{}, after instruction {two}, beside one that died after {one}: {w}",
                    case.name
                )
            });
            report.violations.extend(said);
        }
    }
    report
}
