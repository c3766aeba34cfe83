//! All reachable states: depth first, each state once, known again by 64 bits of hash (of 10^8 states, the chance that two share them and one is
//! missed is 1 in 4,000).

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use crate::actor::{Actor, Answer, Config, Event, Frame, Operation, Recovery};
use crate::broken::Broken;
use crate::memory::{ACTORS, Id, Index, Memory, State as RowState};
use crate::properties::{Violation, always, prompt, settled};

/// What a search found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Different states.
    pub states: usize,
    /// Of these, those in which nobody has anything left to do.
    pub ends: usize,
    /// The first fault.
    pub fault: Option<Fault>,
    /// `false`: there were more states than allowed.
    pub complete: bool,
}

/// A violation and how it came about.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Fault {
    pub violation: Violation,
    pub path: Vec<String>,
}

/// A moment of the whole system.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Moment {
    memory: Memory,
    actors: [Actor; ACTORS],
    deaths: u8,
    /// For each index and name: a record was acknowledged, and no removal has begun since.
    acknowledged: [[bool; 4]; 2],
    /// Removals under way.
    removing: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Step(Id),
    Die(Id),
}

impl Moment {
    fn first(config: &Config) -> Self {
        let mut memory = Memory::default();
        for announced in memory.announced.iter_mut().take(config.programs.len()) {
            *announced = 1;
        }
        Self {
            memory,
            actors: [Actor::default(); ACTORS],
            deaths: 0,
            acknowledged: [[false; 4]; 2],
            removing: 0,
        }
    }

    /// The party that recovers others, if there is one.
    fn recoverer(config: &Config) -> Option<usize> {
        (config.recovery == Recovery::Other).then_some(config.programs.len())
    }

    fn can(&self, choice: Choice, config: &Config) -> bool {
        let recoverer = Self::recoverer(config);
        match choice {
            Choice::Step(id) => {
                let actor = &self.actors[usize::from(id)];
                if recoverer == Some(usize::from(id)) {
                    let somebody = self.actors.iter().any(|a| a.dead);
                    return !config.broken.is_some_and(|b| b == Broken::NoRecovery)
                        && (!actor.frames.is_empty() || somebody);
                }
                !(actor.dead || actor.done && actor.frames.is_empty())
            }
            Choice::Die(id) => {
                let actor = &self.actors[usize::from(id)];
                let begun = !actor.frames.is_empty() || actor.next > 0;
                let alive = begun && !actor.dead && !actor.done;
                self.deaths < config.deaths && alive
            }
        }
    }

    fn go(&mut self, choice: Choice, config: &Config) -> Option<Violation> {
        match choice {
            Choice::Step(id) => self.step(id, config),
            Choice::Die(id) => {
                self.die(id, config);
                None
            }
        }
    }

    fn die(&mut self, id: Id, config: &Config) {
        self.deaths += 1;
        let actor = &mut self.actors[usize::from(id)];
        if matches!(
            actor.doing,
            Some(Operation::Remove { .. } | Operation::RemoveKept)
        ) {
            self.removing -= 1;
        }
        *actor = Actor::default();
        if config.broken == Some(Broken::NoRecovery) {
            actor.done = true;
        } else if Self::recoverer(config) == Some(usize::from(id)) {
            // It begins again, with whoever is still dead.
        } else if config.recovery == Recovery::Other {
            actor.dead = true;
        } else {
            actor.is_heir = true;
            actor.frames.push(Frame::Recover { dead: id });
        }
    }

    fn step(&mut self, id: Id, config: &Config) -> Option<Violation> {
        let at = usize::from(id);
        let recovers = Self::recoverer(config) == Some(at);
        if recovers && self.actors[at].frames.is_empty() {
            let dead = self.actors.iter().position(|a| a.dead)? as Id;
            self.actors[at].next = dead;
            self.actors[at].frames.push(Frame::Recover { dead });
        }
        let live = self.live();
        let mut events = Vec::new();
        let mut actor = self.actors[at];
        let mut violation = actor.step(id, config, &mut self.memory, &mut events);
        self.actors[at] = actor;
        if recovers && actor.frames.is_empty() {
            let dead = &mut self.actors[usize::from(actor.next)];
            (dead.dead, dead.done) = (false, true);
            self.actors[at] = Actor::default();
        }
        self.publish(live);
        for event in events {
            violation = violation.or(self.note(event));
        }
        violation.or_else(|| always(&self.memory, config))
    }

    fn live(&self) -> u32 {
        let live = |n: &usize| self.memory.rows[*n].ctl.state == RowState::Live;
        (0..self.memory.rows.len())
            .filter(live)
            .fold(0, |set, n| set | 1 << n)
    }

    /// Tells every inserter of a row that has become LIVE under it.
    fn publish(&mut self, before: u32) {
        if self.live() & !before == 0 {
            return;
        }
        for at in 0..ACTORS {
            if let Some(Operation::Insert { .. }) = self.actors[at].doing {
                self.actors[at].ghost.was_live |= self.any_live(at);
            }
        }
    }

    /// Whether there is a record with one of the names that this one is inserting.
    fn any_live(&self, at: usize) -> bool {
        let Some(Operation::Insert { names, .. }) = self.actors[at].doing else {
            return false;
        };
        self.memory.rows.iter().any(|row| {
            row.ctl.state == RowState::Live
                && (row.names.key == names.key
                    || (names.alias.is_some() && row.names.alias == names.alias))
        })
    }

    fn note(&mut self, event: Event) -> Option<Violation> {
        match event {
            Event::Began(id, operation) => {
                let at = usize::from(id);
                let ghost = &mut self.actors[at].ghost;
                ghost.must_find = false;
                match operation {
                    Operation::Find { key } => {
                        ghost.must_find = self.acknowledged[0][usize::from(key)];
                    }
                    Operation::FindAlias { alias } => {
                        ghost.must_find = self.acknowledged[1][usize::from(alias)];
                    }
                    Operation::Insert { .. } => {
                        self.actors[at].ghost.was_live = self.any_live(at);
                    }
                    Operation::Remove { .. } | Operation::RemoveKept => {
                        // Of any key: what it may remove is found out only later.
                        self.removing += 1;
                        self.acknowledged = [[false; 4]; 2];
                        for actor in &mut self.actors {
                            actor.ghost.must_find = false;
                        }
                    }
                    Operation::Replace { .. }
                    | Operation::Keep { .. }
                    | Operation::Quiescent
                    | Operation::Scrub => {}
                }
                None
            }
            Event::Ended(id, operation, answer) => {
                let ghost = std::mem::take(&mut self.actors[usize::from(id)].ghost);
                match (operation, answer) {
                    (Operation::Insert { names, .. }, Answer::Done) if self.removing == 0 => {
                        for index in [Index::Key, Index::Alias] {
                            if let Some(name) = names.of(index) {
                                self.acknowledged[index as usize][usize::from(name)] = true;
                            }
                        }
                        None
                    }
                    (Operation::Insert { .. }, Answer::Exists) if !ghost.was_live => {
                        Some(Violation::ExistsWithoutLive(id))
                    }
                    (Operation::Remove { .. } | Operation::RemoveKept, _) => {
                        self.removing -= 1;
                        None
                    }
                    (Operation::Find { .. } | Operation::FindAlias { .. }, Answer::Nothing) => {
                        ghost.must_find.then_some(Violation::Missed(id))
                    }
                    _ => None,
                }
            }
        }
    }
}

/// Everybody scrubs and is quiescent, one after another, until nothing can be left.
fn settle(memory: &Memory, config: &Config) -> Option<Violation> {
    let mut memory = memory.clone();
    let quiet = Config {
        broken: None,
        ..config.clone()
    };
    let mut actors = [Actor::default(); ACTORS];
    let mut run = |actors: &mut [Actor; ACTORS], id: usize, operation| {
        let actor = &mut actors[id];
        actor.start(id as Id, &quiet, operation);
        let mut violation = None;
        while !actor.frames.is_empty() && violation.is_none() {
            violation = actor.step(id as Id, &quiet, &mut memory, &mut Vec::new());
            if actor.doing.is_none() {
                break;
            }
        }
        violation
    };
    for operation in [
        Operation::Quiescent,
        Operation::Scrub,
        Operation::Quiescent,
        Operation::Quiescent,
        Operation::Quiescent,
        Operation::Scrub,
        Operation::Quiescent,
        Operation::Quiescent,
        Operation::Quiescent,
    ] {
        for id in 0..config.programs.len() {
            if let Some(violation) = run(&mut actors, id, operation) {
                return Some(violation);
            }
        }
    }
    settled(&memory)
}

/// Searches all interleavings and all deaths, up to `most` states.
pub fn search(config: &Config, most: usize) -> Outcome {
    let actors = config.actors() as Id;
    let mut seen: HashSet<u64, BuildHasherDefault<Known>> = HashSet::default();
    let mut ends: HashSet<u64, BuildHasherDefault<Known>> = HashSet::default();
    let choices: Vec<Choice> = (0..actors)
        .flat_map(|id| [Choice::Step(id), Choice::Die(id)])
        .collect();
    let mut outcome = Outcome {
        states: 1,
        ends: 0,
        fault: None,
        complete: true,
    };
    let first = Moment::first(config);
    seen.insert(hash(&first));
    let mut path: Vec<(Moment, usize)> = vec![(first, 0)];
    while let Some((moment, next)) = path.last_mut() {
        let Some(&choice) = choices.get(*next) else {
            path.pop();
            continue;
        };
        *next += 1;
        if *next == 1
            && !choices
                .iter()
                .any(|c| matches!(c, Choice::Step(_)) && moment.can(*c, config))
        {
            outcome.ends += 1;
            if ends.insert(hash(&moment.memory)) {
                let wrong = prompt(&moment.memory).or_else(|| settle(&moment.memory, config));
                if let Some(violation) = wrong {
                    outcome.fault = Some(Fault {
                        violation,
                        path: told(&path, &choices),
                    });
                    return outcome;
                }
            }
        }
        if !moment.can(choice, config) {
            continue;
        }
        let mut then = moment.clone();
        if let Some(violation) = then.go(choice, config) {
            outcome.fault = Some(Fault {
                violation,
                path: told(&path, &choices),
            });
            return outcome;
        }
        if seen.insert(hash(&then)) {
            outcome.states += 1;
            if outcome.states > most {
                outcome.complete = false;
                return outcome;
            }
            path.push((then, 0));
        }
    }
    outcome
}

/// What led to the last moment of a path.
fn told(path: &[(Moment, usize)], choices: &[Choice]) -> Vec<String> {
    let choice = |next: usize| next.checked_sub(1).and_then(|n| choices.get(n));
    path.iter()
        .filter_map(|(moment, next)| match choice(*next)? {
            Choice::Step(id) => Some(format!("{id}: {}", moment.actors[usize::from(*id)].at())),
            Choice::Die(id) => Some(format!(
                "{id} dies before {}",
                moment.actors[usize::from(*id)].at()
            )),
        })
        .collect()
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = Mix(0x9e37_79b9_7f4a_7c15);
    value.hash(&mut hasher);
    hasher.finish()
}

/// A fast hash of good quality (folded multiplication); states are our own, nobody attacks it.
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        let folded = u128::from(self.0) * 0xd6e8_feb8_6659_fd93;
        (folded as u64) ^ ((folded >> 64) as u64)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n) + 0x100);
    }

    fn write_u64(&mut self, n: u64) {
        let folded = u128::from(self.0 ^ n) * 0xa076_1d64_78bd_642f;
        self.0 = ((folded as u64) ^ ((folded >> 64) as u64)).wrapping_add(0x2545_f491_4f6c_dd1d);
    }

    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64 + 0x10_0000);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64 + 0x20_0000);
    }
}

/// A key that is a hash already.
#[derive(Default)]
struct Known(u64);

impl Hasher for Known {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only hashes are kept")
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}
