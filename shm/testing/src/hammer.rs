//! Processes that do random operations on the same few keys and are killed at random moments; an heir recovers each and goes on. The histories must have an explanation, the
//! arena must be whole.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use shm::{Arena, Participant, ParticipantId, audit};

use crate::history::{Ask, Log, Told, explain};
use crate::judge::settle;
use crate::walk::spawn;

/// Processes, and participants with a number below.
pub const PROCESSES: usize = 3;
/// Kills in one round: then everybody stops, and the histories so far are looked at.
const KILLS: u32 = 12;

/// What is done to an arena.
pub struct Hammer {
    /// One random operation, through [`Log::note`], as this process; `random` gives numbers. `false`: the log is full.
    pub act: fn(&mut Participant, &Log, usize, &mut dyn FnMut(u32) -> u32) -> bool,
    /// What is there of a key.
    pub get: fn(&Participant, u8) -> Option<i64>,
    /// How many keys there are.
    pub keys: u8,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Operations with an answer, or without.
    pub operations: usize,
    /// Processes killed.
    pub kills: u32,
}

/// A small generator of our own: the same numbers for the same seed.
pub(crate) fn random(seed: u64) -> impl FnMut(u32) -> u32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as u32 % below.max(1)
    }
}

fn process(arena: &Arena, log: &Log, hammer: &Hammer, id: usize, seed: u64) -> Pid {
    spawn(|| {
        let me = ParticipantId(id as u16);
        let mut p = arena.participant(me);
        p.recover(me);
        log.recovered(id);
        let mut random = random(seed);
        while !log.stopped() && (hammer.act)(&mut p, log, id, &mut random) {
            match random(12) {
                0..4 => p.quiescent(),
                4 => drop(p.scrub(3)),
                5 => {
                    p.offline();
                    p.online();
                }
                _ => {}
            }
        }
        p.offline();
    })
}

/// Hammers for so long, at least one round. The first violation ends it.
pub fn hammer(arena: &Arena, hammer: &Hammer, time: Duration, seed: u64) -> Result<Done, String> {
    let end = Instant::now() + time;
    let mut random = random(seed);
    let mut done = Done::default();
    let mut state = vec![None; usize::from(hammer.keys)];
    loop {
        let log = Log::new(PROCESSES + 1);
        let mut seed = || u64::from(random(u32::MAX));
        let mut pids: Vec<Pid> = (0..PROCESSES)
            .map(|id| process(arena, &log, hammer, id, seed()))
            .collect();
        for _ in 0..KILLS {
            let id = seed() as usize % PROCESSES;
            // Anywhere from its recovery to some hundred operations later.
            std::thread::sleep(Duration::from_micros(seed() % 3_000));
            // Half of the time another one stands still meanwhile, and with it the epoch.
            let still = (seed() % 2 == 0).then(|| pids[(id + 1) % PROCESSES]);
            if let Some(still) = still {
                kill(still, Signal::SIGSTOP).expect("our child");
                std::thread::sleep(Duration::from_micros(seed() % 3_000));
            }
            kill(pids[id], Signal::SIGKILL).expect("our child");
            waitpid(pids[id], None).expect("our child");
            pids[id] = process(arena, &log, hammer, id, seed());
            if let Some(still) = still {
                std::thread::sleep(Duration::from_micros(seed() % 1_000));
                kill(still, Signal::SIGCONT).expect("our child");
            }
            done.kills += 1;
        }
        log.stop();
        for pid in pids {
            waitpid(pid, None).expect("our child");
        }
        let last = ParticipantId(PROCESSES as u16);
        let mut p = arena.participant(last);
        p.recover(last);
        done.operations += log.len();
        for key in 0..hammer.keys {
            log.note(PROCESSES, key, Ask::Get, || {
                Told::Value((hammer.get)(&p, key))
            });
            let start = &mut state[usize::from(key)];
            explain(&log.history(key), *start).map_err(|stuck| {
                format!("key {key}, which was {start:?}: no order explains it: {stuck}")
            })?;
            *start = (hammer.get)(&p, key);
        }
        let wrong = audit(arena, false);
        if !wrong.is_empty() {
            return Err(format!("{:?}", &wrong[..wrong.len().min(4)]));
        }
        drop(p);
        if Instant::now() >= end {
            break;
        }
    }
    let mut all: Vec<_> = (0..arena.participants())
        .map(|id| {
            let mut p = arena.participant(ParticipantId(id));
            p.recover(ParticipantId(id));
            p
        })
        .collect();
    settle(&mut all);
    match audit(arena, true) {
        wrong if wrong.is_empty() => Ok(done),
        wrong => Err(format!("settled: {:?}", &wrong[..wrong.len().min(4)])),
    }
}
