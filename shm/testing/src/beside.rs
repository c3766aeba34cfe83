//! A process that is killed after so many instructions of one operation, beside a second one that works on the same keys all the time: while the first is stepped, when it
//! is killed, and while an heir recovers it.
//!
//! These are real kills, one process each, because the arena is another one each time: [`judge`](crate::judge) can't bring it back. Between two instructions of the first
//! the second does anything from nothing to whole operations; it rests now and then, so that some of the first one's CASes succeed.
//!
//! After each recovery the second process is paused between two operations, and everything is judged that must hold then: the audit, one record per key, and what the
//! caller checks, such as cells against a recount. Every so often it is ended, everybody's limbo is emptied and the stricter audit made; at the end all
//! records are removed, and nothing may be left.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid};
use shm::{Arena, Participant, ParticipantId, TableId, audit};

use crate::hammer::random;
use crate::judge::settle;
use crate::walk::{die_after, die_after_stores, end, spawn};

/// Random numbers below the one given.
pub type Dice<'a> = &'a mut dyn FnMut(u32) -> u32;

/// An operation to die in, of participant 0. Any of its keys may be there or not.
pub struct Operation {
    /// For reports.
    pub name: &'static str,
    /// What it needs, not stepped.
    pub before: fn(&mut Participant),
    /// What is stepped.
    pub operate: fn(&mut Participant),
}

impl Operation {
    /// One that needs nothing.
    pub const fn new(name: &'static str, operate: fn(&mut Participant)) -> Self {
        Self {
            name,
            before: |_| {},
            operate,
        }
    }

    /// After this.
    pub const fn before(self, before: fn(&mut Participant)) -> Self {
        Self { before, ..self }
    }
}

/// The second process, participant 1, and what must hold whenever nobody is within an operation.
pub struct Rival {
    /// One random operation.
    pub act: fn(&mut Participant, Dice<'_>),
    /// Such as cells against a recount.
    pub check: fn(&Participant) -> Result<(), String>,
}

/// After how many instructions there are deaths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deaths {
    /// So many: after a random number of stores into the arena, and of single instructions after that. What is between the stores runs at full speed, because an unoptimised
    /// operation has tens of thousands of instructions.
    Sample(u32),
    /// After each; of an operation that is too long for that (the square of its length counts), as many as [`STEPS_MAX`] allows, evenly.
    Every,
}

/// Instructions stepped for one operation by [`Deaths::Every`], about.
pub const STEPS_MAX: u64 = 10_000_000;
/// A sample does not look further than after so many stores.
const STORES_WITHIN: u64 = 64;
/// Or so many instructions after one.
const INSTRUCTIONS_WITHIN: u32 = 2_000;
/// What is longer, beside somebody in the way, is ended.
const LONGEST: u64 = 5_000_000;
/// Kills of a sample.
const SAMPLE: u32 = 12;
/// Kills between two settlements.
const SETTLE_EVERY: u64 = 50;
/// That the rival goes on within this time is part of the proof.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came out.
#[derive(Debug, Default)]
pub struct Toll {
    /// Processes killed.
    pub kills: u64,
    /// Of these, those that had come to the operation's end.
    pub ended: u64,
    /// Stops: instructions stepped, or stores.
    pub steps: u64,
    /// A death after each so many instructions; 0: a sample.
    pub stride: u64,
    /// Operations of the rival.
    pub rivals: u64,
    /// What was wrong.
    pub violations: Vec<String>,
}

/// Counter cells of participant 1 by which it is told what to do.
const ASK: u8 = 255;
const ANSWER: u8 = 254;
const DONE: u8 = 253;
const STOP: u64 = u64::MAX;

fn get(arena: &Arena, cell: u8) -> u64 {
    let cell = arena.counters().cell(ParticipantId(1), cell);
    cell.expect("a participant").load(Ordering::SeqCst)
}

fn set(arena: &Arena, cell: u8, value: u64) {
    let cell = arena.counters().cell(ParticipantId(1), cell);
    cell.expect("a participant").store(value, Ordering::SeqCst);
}

/// The second process. Odd questions pause it, even ones have it go on.
struct Running<'a> {
    arena: &'a Arena,
    pid: Pid,
    asked: u64,
}

impl<'a> Running<'a> {
    fn start(arena: &'a Arena, rival: &Rival, seed: u64) -> Self {
        set(arena, ASK, 0);
        set(arena, ANSWER, 0);
        let parent = getpid();
        let pid = spawn(|| {
            let me = ParticipantId(1);
            let mut p = arena.participant(me);
            p.recover(me);
            let mut random = random(seed);
            // Ends with the test, however that ends.
            while get(arena, ASK) != STOP && getppid() == parent {
                let asked = get(arena, ASK);
                set(arena, ANSWER, asked);
                if !asked.is_multiple_of(2) {
                    p.offline();
                    std::thread::sleep(Duration::from_micros(20));
                    continue;
                }
                p.online();
                (rival.act)(&mut p, &mut random);
                set(arena, DONE, get(arena, DONE) + 1);
                match random(16) {
                    0..5 => p.quiescent(),
                    5 => {
                        p.scrub(3);
                    }
                    6 => p.offline(),
                    7..10 => std::thread::sleep(Duration::from_micros(1 << random(11))),
                    _ => {}
                }
            }
            p.offline();
        });
        Self {
            arena,
            pid,
            asked: 0,
        }
    }

    /// Pauses it between two operations, or has it go on.
    fn turn(&mut self) -> Result<(), String> {
        self.asked += 1;
        set(self.arena, ASK, self.asked);
        // To go on is not waited for.
        let until = Instant::now() + PATIENCE;
        while !self.asked.is_multiple_of(2) && get(self.arena, ANSWER) != self.asked {
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_micros(20));
                }
                other => return Err(format!("the second process does not go on: {other:?}")),
            }
        }
        Ok(())
    }

    fn stop(self) -> Result<(), String> {
        set(self.arena, ASK, STOP);
        let until = Instant::now() + PATIENCE;
        while matches!(
            waitpid(self.pid, Some(WaitPidFlag::WNOHANG)),
            Ok(WaitStatus::StillAlive)
        ) {
            if Instant::now() > until {
                return Err("the second process does not end".to_owned());
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        end(self.pid);
    }
}

/// What must hold while nobody is within an operation.
fn whole(p: &Participant, rival: &Rival, settled: bool) -> Result<(), String> {
    let arena = p.arena();
    let wrong = audit(arena, settled);
    if !wrong.is_empty() {
        let first = &wrong[..wrong.len().min(3)];
        return Err(format!("settled: {settled}: {first:?}"));
    }
    for table in (0..arena.layout().tables).map(TableId) {
        let mut keys = BTreeSet::new();
        let mut twice = None;
        p.rows(table, |r| {
            if !keys.insert(r.key.to_vec()) {
                twice = Some(format!("{:?} is there twice", r.key));
            }
        });
        twice.map_or(Ok(()), Err)?;
    }
    (rival.check)(p)
}

fn everybody(arena: &Arena) -> Vec<Participant> {
    let heir = |id| {
        let mut heir = arena.participant(ParticipantId(id));
        heir.recover(ParticipantId(id));
        heir
    };
    (0..arena.participants()).map(heir).collect()
}

/// The dead participant 0 is recovered, by itself or by another first. The second process works on.
fn recover(arena: &Arena, way: u64) -> Participant {
    let dead = ParticipantId(0);
    if !way.is_multiple_of(2) {
        let id = ParticipantId(arena.participants() - 1);
        let mut other = arena.participant(id);
        other.recover(id);
        other.recover(dead);
    }
    let mut heir = arena.participant(dead);
    heir.recover(dead);
    if way.is_multiple_of(3) {
        heir.scrub(u32::MAX);
        (0..4).for_each(|_| heir.quiescent());
    }
    heir
}

/// One process, killed after so many instructions, or stores, at the most, and recovered. How many it did, and whether it was under way.
fn kill(
    arena: &Arena,
    operation: &Operation,
    rival: &Rival,
    running: &mut Running<'_>,
    (after, then): (u64, Option<u64>),
    way: u64,
) -> Result<(u64, bool), String> {
    let ready = |arena: &Arena| {
        let mut p = arena.participant(ParticipantId(0));
        p.recover(ParticipantId(0));
        (operation.before)(&mut p);
        p
    };
    let operate = |p: &mut Participant| (operation.operate)(p);
    let (steps, under_way) = match then {
        Some(then) => die_after_stores(arena, ready, operate, after, then),
        None => {
            let steps = die_after(arena, ready, operate, after);
            (steps, steps == after)
        }
    };
    let heir = recover(arena, way);
    running.turn()?;
    whole(&heir, rival, false).map_err(|wrong| format!("stopped {steps} times: {wrong}"))?;
    drop(heir);
    running.turn()?;
    Ok((steps, under_way))
}

/// Ends the second process, and looks at what is left when nothing is in between.
fn settled(arena: &Arena, rival: &Rival, running: Running<'_>) -> Result<(), String> {
    running.stop()?;
    let mut all = everybody(arena);
    settle(&mut all);
    whole(&all[0], rival, true)
}

/// Removes every record; nothing else may be left.
fn emptied(arena: &Arena, empty: u64) -> Result<(), String> {
    let mut all = everybody(arena);
    for table in (0..arena.layout().tables).map(TableId) {
        let mut rows = Vec::new();
        all[0].rows(table, |r| rows.push(r.row));
        for row in rows {
            all[1].remove(row, None);
        }
    }
    settle(&mut all);
    let wrong = audit(arena, true);
    let left = arena.usage().bytes_used;
    if wrong.is_empty() && left == empty {
        return Ok(());
    }
    Err(format!("emptied: {left} bytes, not {empty}; {wrong:?}"))
}

/// Dies in the operation again and again. `prepare` brings a fresh arena to where it begins.
pub fn beside(
    arena: &Arena,
    prepare: fn(&Arena),
    operation: &Operation,
    rival: &Rival,
    deaths: Deaths,
    seed: u64,
) -> Toll {
    let mut toll = Toll::default();
    if let Err(wrong) = campaign(arena, prepare, operation, rival, deaths, seed, &mut toll) {
        let (name, kills) = (operation.name, toll.kills);
        let wrong = format!("{name}, kill {kills}, seed {seed}: {wrong}");
        toll.violations.push(wrong);
    }
    toll.rivals = get(arena, DONE);
    toll
}

fn campaign(
    arena: &Arena,
    prepare: fn(&Arena),
    operation: &Operation,
    rival: &Rival,
    deaths: Deaths,
    seed: u64,
    toll: &mut Toll,
) -> Result<(), String> {
    let empty = arena.usage().bytes_used;
    prepare(arena);
    let mut random = random(seed);
    let mut running = Running::start(arena, rival, seed);
    // How long it is, as far as is known: that depends on what the other does, too.
    let mut length = match deaths {
        Deaths::Sample(_) => STORES_WITHIN,
        Deaths::Every => LONGEST,
    };
    let mut longest = 0;
    let mut after = match deaths {
        Deaths::Sample(_) => u64::from(random(length as u32)),
        Deaths::Every => length,
    };
    loop {
        let sampled = matches!(deaths, Deaths::Sample(_));
        let then = sampled.then(|| u64::from(random(INSTRUCTIONS_WITHIN)));
        let (steps, under_way) = kill(
            arena,
            operation,
            rival,
            &mut running,
            (after, then),
            toll.kills,
        )?;
        toll.kills += 1;
        toll.steps += steps;
        toll.ended += u64::from(!under_way);
        let last = match deaths {
            Deaths::Sample(count) => {
                // The next time it may take another way, and longer.
                if !under_way {
                    longest = longest.max(steps);
                    length = (longest * 3 / 2 + 1).min(STORES_WITHIN);
                }
                // One that has ended early, because there was nothing to do, does not say much.
                let within = match random(3) {
                    0 => STORES_WITHIN,
                    _ => length,
                };
                after = u64::from(random(within as u32));
                toll.kills >= u64::from(count)
            }
            Deaths::Every if toll.kills == 1 => {
                length = steps;
                toll.stride = (length.saturating_mul(length) / (2 * STEPS_MAX)).max(1);
                after = seed % toll.stride;
                false
            }
            Deaths::Every => {
                // Beside another it may take longer than the first time.
                length = length.max(steps);
                after += toll.stride;
                after > length
            }
        };
        if last {
            break;
        }
        if toll.kills.is_multiple_of(SETTLE_EVERY) {
            settled(arena, rival, running)?;
            let seed = u64::from(random(u32::MAX));
            running = Running::start(arena, rival, seed);
        }
    }
    settled(arena, rival, running)?;
    emptied(arena, empty)
}

/// [`beside`] for each of these operations, in an arena of its own; tells of each, and panics if anything was wrong.
///
/// # Panics
/// If anything was wrong.
#[track_caller]
pub fn campaigns(
    of: &str,
    operations: &[Operation],
    rival: &Rival,
    arena: fn() -> Arena,
    prepare: fn(&Arena),
) {
    let text = |name| std::env::var(name).ok();
    let deaths = match text("SHM_EVERY_INSTRUCTION") {
        Some(_) => Deaths::Every,
        None => Deaths::Sample(SAMPLE),
    };
    let given = text("SHM_SEED").and_then(|s| s.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
    let only = text("SHM_BESIDE").unwrap_or_default();
    println!("{of}: SHM_SEED={seed}");
    let (mut all, mut count) = (Toll::default(), 0);
    for operation in operations.iter().filter(|o| o.name.contains(&only)) {
        let seed = seed.wrapping_add(count);
        let toll = beside(&arena(), prepare, operation, rival, deaths, seed);
        let how = match toll.stride {
            0 => "a sample".to_owned(),
            n => format!("each {n}."),
        };
        println!(
            "{} beside another: {} kills ({how}), {} after its end, {} stops, {} operations of the other, {} violations",
            operation.name,
            toll.kills,
            toll.ended,
            toll.steps,
            toll.rivals,
            toll.violations.len()
        );
        count += 1;
        all.kills += toll.kills;
        all.steps += toll.steps;
        all.rivals += toll.rivals;
        all.violations.extend(toll.violations);
    }
    println!(
        "{of}: {count} operations, {} kills, {} stops, {} operations of the other, {} violations",
        all.kills,
        all.steps,
        all.rivals,
        all.violations.len()
    );
    assert!(all.violations.is_empty(), "{:#?}", all.violations);
}
