//! An exhaustive model of the protocol in `ops`, `index` and `recover`: every interleaving of three processes on one key, each of which may die before any step, with
//! recovery of the dead among the survivors. Sequentially consistent; grace periods are not modelled (nothing is reused).
//!
//! One step is one access to shared memory. Each process has one row and one block of its own, as from slabs of its own. The last row, with the last
//! block, may be a record from before. Broken variants must be caught, or the model proves nothing.

use std::collections::HashSet;

const PROCESSES: usize = 3;
/// A bucket of so many entries stands for all places of the key.
const PLACES: usize = 4;
/// The row and the block from before.
const BEFORE: u8 = PROCESSES as u8;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Row {
    Free,
    Pending,
    /// With its body.
    Live(u8),
    /// With the body that is to be retired, if it ever was LIVE.
    Dying(Option<u8>),
    Retired,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Body {
    Free,
    /// Back-reference.
    Used(u8),
    Retired,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Kind {
    Insert,
    Replace,
    Remove,
    Idle,
}

/// What a process does next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Next {
    // insert
    Scan {
        at: u8,
        linked: bool,
    },
    Meet {
        at: u8,
        linked: bool,
        row: u8,
    },
    AbortOther {
        at: u8,
        linked: bool,
        row: u8,
    },
    Clear {
        at: u8,
        linked: bool,
        row: u8,
        aborted: bool,
    },
    RetireOther {
        at: u8,
        linked: bool,
        row: u8,
    },
    TakeRow,
    Link {
        at: u8,
    },
    TakeBody,
    Publish,
    FreeBody,
    AbortMine,
    // replace, remove
    Find {
        at: u8,
    },
    SetIntent {
        row: u8,
        old: u8,
    },
    Swap {
        row: u8,
        old: u8,
    },
    Kill {
        row: u8,
        old: u8,
    },
    // the end of remove, of an abort, of a replace
    Unlink {
        row: u8,
        at: u8,
    },
    RetireBody {
        row: u8,
    },
    RetireRow {
        row: u8,
    },
    RetireOld {
        row: u8,
        old: u8,
    },
    ClearIntent,
    Done,
    Dead,
    Recovered,
}

/// Where recovery is: whom, and what next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Heir {
    Waits,
    Intent(u8),
    /// Finishing a DYING row: the dead one's intent (then its slabs follow), or a row of its slabs.
    Unlink {
        dead: u8,
        row: u8,
        at: u8,
        slabs: bool,
    },
    RetireBody {
        dead: u8,
        row: u8,
        slabs: bool,
    },
    RetireRow {
        dead: u8,
        row: u8,
        slabs: bool,
    },
    SweepRow(u8),
    SweepBody(u8),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    entries: [Option<u8>; PLACES],
    rows: [Row; PROCESSES + 1],
    bodies: [Body; PROCESSES + 1],
    next: [Next; PROCESSES],
    /// Row and old body.
    intents: [Option<(u8, u8)>; PROCESSES],
    heir: Heir,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Variant {
    Right,
    NoRescan,
    NoAbort,
    NoIntent,
    NoRecovery,
    OldBodyForgotten,
}

fn step(world: &World, me: usize, kind: Kind, variant: Variant) -> Option<World> {
    let mut w = world.clone();
    let mine = me as u8;
    let next = match w.next[me] {
        Next::Done | Next::Dead | Next::Recovered => return None,
        Next::Scan { at, linked } if usize::from(at) == PLACES => {
            if linked {
                Next::TakeBody
            } else {
                Next::TakeRow
            }
        }
        Next::Scan { at, linked } => match w.entries[usize::from(at)] {
            Some(row) if row != mine => Next::Meet { at, linked, row },
            _ => Next::Scan { at: at + 1, linked },
        },
        Next::Meet { at, linked, row } => match w.rows[usize::from(row)] {
            Row::Live(_) if linked => Next::AbortMine,
            Row::Live(_) => Next::Done,
            Row::Pending if variant == Variant::NoAbort => Next::Scan { at: at + 1, linked },
            Row::Pending => Next::AbortOther { at, linked, row },
            _ => Next::Clear {
                at,
                linked,
                row,
                aborted: false,
            },
        },
        Next::AbortOther { at, linked, row } => {
            if w.rows[usize::from(row)] == Row::Pending {
                w.rows[usize::from(row)] = Row::Dying(None);
                Next::Clear {
                    at,
                    linked,
                    row,
                    aborted: true,
                }
            } else {
                Next::Meet { at, linked, row }
            }
        }
        Next::Clear {
            at,
            linked,
            row,
            aborted,
        } => {
            if w.entries[usize::from(at)] == Some(row) {
                w.entries[usize::from(at)] = None;
            }
            if aborted {
                Next::RetireOther { at, linked, row }
            } else {
                Next::Scan { at: at + 1, linked }
            }
        }
        Next::RetireOther { at, linked, row } => {
            retire_row(&mut w, row);
            Next::Scan { at: at + 1, linked }
        }
        Next::TakeRow => {
            w.rows[me] = Row::Pending;
            Next::Link { at: 0 }
        }
        Next::Link { at } if usize::from(at) == PLACES => Next::AbortMine,
        Next::Link { at } => {
            if w.entries[usize::from(at)].is_none() {
                w.entries[usize::from(at)] = Some(mine);
                if variant == Variant::NoRescan {
                    Next::TakeBody
                } else {
                    Next::Scan {
                        at: 0,
                        linked: true,
                    }
                }
            } else {
                Next::Link { at: at + 1 }
            }
        }
        Next::TakeBody => {
            w.bodies[me] = Body::Used(mine);
            Next::Publish
        }
        Next::Publish => {
            if w.rows[me] == Row::Pending {
                w.rows[me] = Row::Live(mine);
                Next::Done
            } else {
                Next::FreeBody
            }
        }
        Next::FreeBody => {
            w.bodies[me] = Body::Free;
            if kind == Kind::Insert {
                Next::AbortMine
            } else {
                Next::ClearIntent
            }
        }
        Next::AbortMine => {
            if w.rows[me] == Row::Pending {
                w.rows[me] = Row::Dying(None);
            }
            Next::Unlink { row: mine, at: 0 }
        }
        Next::Find { at } if usize::from(at) == PLACES => Next::Done,
        Next::Find { at } => {
            match w.entries[usize::from(at)].map(|row| (row, w.rows[usize::from(row)])) {
                Some((row, Row::Live(old))) => Next::SetIntent { row, old },
                _ => Next::Find { at: at + 1 },
            }
        }
        Next::SetIntent { row, old } => {
            if variant != Variant::NoIntent {
                w.intents[me] = Some((row, old));
            }
            if kind == Kind::Remove {
                Next::Kill { row, old }
            } else {
                w.bodies[me] = Body::Used(row);
                Next::Swap { row, old }
            }
        }
        Next::Swap { row, old } => {
            if w.rows[usize::from(row)] == Row::Live(old) {
                w.rows[usize::from(row)] = Row::Live(mine);
                Next::RetireOld { row, old }
            } else {
                Next::FreeBody
            }
        }
        Next::RetireOld { row, old } => {
            retire_body(&mut w, row, old);
            Next::ClearIntent
        }
        Next::Kill { row, old } => {
            if w.rows[usize::from(row)] == Row::Live(old) {
                w.rows[usize::from(row)] = Row::Dying(Some(old));
                Next::Unlink { row, at: 0 }
            } else {
                Next::ClearIntent
            }
        }
        Next::Unlink { row, at } if usize::from(at) == PLACES => Next::RetireBody { row },
        Next::Unlink { row, at } => {
            unlink(&mut w, row, at);
            Next::Unlink { row, at: at + 1 }
        }
        Next::RetireBody { row } => {
            release(&mut w, row);
            Next::RetireRow { row }
        }
        Next::RetireRow { row } => {
            retire_row(&mut w, row);
            if kind == Kind::Insert {
                Next::Done
            } else {
                Next::ClearIntent
            }
        }
        Next::ClearIntent => {
            w.intents[me] = None;
            Next::Done
        }
    };
    w.next[me] = next;
    Some(w)
}

fn unlink(w: &mut World, row: u8, at: u8) {
    if w.entries[usize::from(at)] == Some(row) {
        w.entries[usize::from(at)] = None;
    }
}

fn retire_body(w: &mut World, row: u8, body: u8) {
    if w.bodies[usize::from(body)] == Body::Used(row) {
        w.bodies[usize::from(body)] = Body::Retired;
    }
}

fn release(w: &mut World, row: u8) {
    if let Row::Dying(Some(body)) = w.rows[usize::from(row)] {
        retire_body(w, row, body);
    }
}

fn retire_row(w: &mut World, row: u8) {
    if let Row::Dying(_) = w.rows[usize::from(row)] {
        w.rows[usize::from(row)] = Row::Retired;
    }
}

fn holds(w: &World, row: u8, body: u8) -> bool {
    matches!(w.rows[usize::from(row)], Row::Live(b) | Row::Dying(Some(b)) if b == body)
}

fn recover(world: &World, variant: Variant) -> Option<World> {
    let mut w = world.clone();
    w.heir = match w.heir {
        Heir::Waits => {
            let dead = w.next.iter().position(|n| *n == Next::Dead)?;
            Heir::Intent(dead as u8)
        }
        Heir::Intent(dead) => match w.intents[usize::from(dead)] {
            Some((row, old)) => {
                if variant != Variant::OldBodyForgotten && !holds(&w, row, old) {
                    retire_body(&mut w, row, old);
                }
                match w.rows[usize::from(row)] {
                    Row::Dying(_) => Heir::Unlink {
                        dead,
                        row,
                        at: 0,
                        slabs: false,
                    },
                    _ => Heir::SweepRow(dead),
                }
            }
            None => Heir::SweepRow(dead),
        },
        Heir::Unlink {
            dead,
            row,
            at,
            slabs,
        } if usize::from(at) == PLACES => Heir::RetireBody { dead, row, slabs },
        Heir::Unlink {
            dead,
            row,
            at,
            slabs,
        } => {
            unlink(&mut w, row, at);
            Heir::Unlink {
                dead,
                row,
                at: at + 1,
                slabs,
            }
        }
        Heir::RetireBody { dead, row, slabs } => {
            release(&mut w, row);
            Heir::RetireRow { dead, row, slabs }
        }
        Heir::RetireRow { dead, row, slabs } => {
            retire_row(&mut w, row);
            if slabs {
                Heir::SweepBody(dead)
            } else {
                Heir::SweepRow(dead)
            }
        }
        Heir::SweepRow(dead) => {
            let row = &mut w.rows[usize::from(dead)];
            match *row {
                Row::Pending => {
                    *row = Row::Dying(None);
                    Heir::Unlink {
                        dead,
                        row: dead,
                        at: 0,
                        slabs: true,
                    }
                }
                Row::Dying(_) => Heir::Unlink {
                    dead,
                    row: dead,
                    at: 0,
                    slabs: true,
                },
                _ => Heir::SweepBody(dead),
            }
        }
        Heir::SweepBody(dead) => {
            if let Body::Used(row) = w.bodies[usize::from(dead)]
                && !holds(&w, row, dead)
            {
                w.bodies[usize::from(dead)] = Body::Retired;
            }
            w.next[usize::from(dead)] = Next::Recovered;
            Heir::Waits
        }
    };
    Some(w)
}

/// What must hold at every moment.
fn wrong_now(w: &World) -> Option<&'static str> {
    let live = w.rows.iter().filter(|r| matches!(r, Row::Live(_))).count();
    if live > 1 {
        return Some("two LIVE");
    }
    let held = |(row, state): (usize, &Row)| match state {
        Row::Live(body) => w.bodies[usize::from(*body)] == Body::Used(row as u8),
        _ => true,
    };
    if !w.rows.iter().enumerate().all(held) {
        return Some("a LIVE row without its body");
    }
    None
}

/// What must hold when nobody has anything left to do.
fn wrong_at_the_end(w: &World) -> Option<&'static str> {
    for (row, state) in w.rows.iter().enumerate() {
        let entries = w.entries.iter().filter(|e| **e == Some(row as u8)).count();
        match state {
            Row::Pending => return Some("a leaked PENDING row"),
            Row::Dying(_) => return Some("a leaked DYING row"),
            Row::Live(_) if entries != 1 => {
                return Some("a LIVE row that is not in the index once");
            }
            Row::Free | Row::Retired if entries != 0 => return Some("a stale entry"),
            Row::Live(_) | Row::Free | Row::Retired => {}
        }
    }
    for (body, state) in w.bodies.iter().enumerate() {
        if let Body::Used(row) = *state
            && !holds(w, row, body as u8)
        {
            return Some("a leaked block");
        }
    }
    None
}

/// All states from here: how many, and the first violation.
fn explore(
    kinds: [Kind; PROCESSES],
    before: bool,
    deaths: usize,
    variant: Variant,
) -> (usize, Option<(&'static str, World)>) {
    let start = World {
        entries: std::array::from_fn(|at| (before && at == 1).then_some(BEFORE)),
        rows: std::array::from_fn(|row| {
            if before && row == usize::from(BEFORE) {
                Row::Live(BEFORE)
            } else {
                Row::Free
            }
        }),
        bodies: std::array::from_fn(|b| {
            if before && b == usize::from(BEFORE) {
                Body::Used(BEFORE)
            } else {
                Body::Free
            }
        }),
        next: kinds.map(|kind| match kind {
            Kind::Insert => Next::Scan {
                at: 0,
                linked: false,
            },
            Kind::Replace | Kind::Remove => Next::Find { at: 0 },
            Kind::Idle => Next::Done,
        }),
        intents: [None; PROCESSES],
        heir: Heir::Waits,
    };
    let mut seen = HashSet::from([start.clone()]);
    let mut open = vec![start];
    while let Some(w) = open.pop() {
        if let Some(what) = wrong_now(&w) {
            return (seen.len(), Some((what, w)));
        }
        let mut after = Vec::new();
        let dead = w
            .next
            .iter()
            .filter(|n| matches!(n, Next::Dead | Next::Recovered))
            .count();
        for (me, kind) in kinds.into_iter().enumerate() {
            if let Some(stepped) = step(&w, me, kind, variant) {
                after.push(stepped);
                if dead < deaths {
                    let mut died = w.clone();
                    died.next[me] = Next::Dead;
                    after.push(died);
                }
            }
        }
        if variant != Variant::NoRecovery {
            after.extend(recover(&w, variant));
        }
        if after.is_empty()
            && let Some(what) = wrong_at_the_end(&w)
        {
            return (seen.len(), Some((what, w)));
        }
        for w in after {
            if seen.insert(w.clone()) {
                open.push(w);
            }
        }
    }
    (seen.len(), None)
}

#[test]
fn no_interleaving_and_no_death_breaks_it() {
    use Kind::{Idle, Insert, Remove, Replace};
    for (kinds, before, deaths) in [
        ([Insert, Insert, Idle], false, 2),
        ([Insert, Insert, Remove], true, 2),
        ([Insert, Insert, Replace], true, 1),
        ([Insert, Remove, Replace], true, 2),
        ([Insert, Remove, Replace], false, 2),
        ([Replace, Replace, Remove], true, 2),
        ([Remove, Remove, Replace], true, 3),
    ] {
        let (states, wrong) = explore(kinds, before, deaths, Variant::Right);
        println!("{kinds:?}, {deaths} deaths: {states} states");
        assert_eq!(wrong, None, "{kinds:?}");
    }
}

#[test]
fn broken_variants_are_caught() {
    use Kind::{Idle, Insert, Remove, Replace};
    for (variant, kinds, before, deaths, expected) in [
        (
            Variant::NoRescan,
            [Insert, Insert, Idle],
            false,
            0,
            "two LIVE",
        ),
        (
            Variant::NoAbort,
            [Insert, Insert, Idle],
            false,
            0,
            "two LIVE",
        ),
        (
            Variant::NoRecovery,
            [Insert, Idle, Idle],
            false,
            1,
            "a leaked PENDING row",
        ),
        (
            Variant::NoIntent,
            [Remove, Idle, Idle],
            true,
            1,
            "a leaked DYING row",
        ),
        (
            Variant::NoIntent,
            [Replace, Idle, Idle],
            true,
            1,
            "a leaked block",
        ),
        (
            Variant::OldBodyForgotten,
            [Replace, Remove, Idle],
            true,
            1,
            "a leaked block",
        ),
    ] {
        let (_, wrong) = explore(kinds, before, deaths, variant);
        assert_eq!(wrong.map(|(what, _)| what), Some(expected), "{variant:?}");
    }
}
