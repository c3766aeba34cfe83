//! What the tests of deaths do to the board: nonce counts and failed attempts, all in the same place and the same bucket.
//!
//! What was granted is noted outside the arena, by [`LEDGER`]: a use of a nonce that was granted twice, and a ban that is gone before its time, are found by that alone.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use shm::{Arena, Participant};
use shm_testing::beside::Dice;
use stdx::Instant;
use tables::attempts::{Attempts, Limit};
use tables::nonces::{Nonces, Used};

/// The hash of every nonce: the first place.
const HASH: u64 = 0;
/// Of whom there may be bans: fewer than a bucket holds. Their upper bits are of the first bucket.
const USERS: [u64; 3] = [1, 2, 3];
const STRANGERS: std::ops::Range<u64> = 100..1_100;
/// Counts of one nonce.
const COUNTS: u32 = 24;
const LIMIT: Limit = Limit {
    failures: 3,
    window: Duration::from_secs(5),
    ban: Duration::from_secs(20),
};
/// Of a stranger, who is never banned: what he takes is room.
const NEVER: Limit = Limit {
    failures: 254,
    ..LIMIT
};
/// How much faster bans pass than real time, so that there are beginnings and ends of them.
const FASTER: u64 = 200;

pub fn nonces(p: &Participant) -> Nonces<'_> {
    Nonces::of(p.board())
}

pub fn attempts(p: &Participant) -> Attempts<'_> {
    Attempts::of(p.board())
}

/// Deaths alone: at fixed times, from a board that has something of each kind.
pub mod alone {
    use super::*;

    pub const MADE: u64 = 60_000;
    /// Unit: s.
    pub const AT: u64 = 100;
    /// Is banned until [`BANNED_UNTIL`].
    pub const BANNED: u64 = 1;
    pub const BANNED_UNTIL: u64 = AT + 20;
    /// Has failed once less than it may.
    pub const NEARLY: u64 = 2;
    /// Has failed once.
    pub const ONCE: u64 = 3;
    /// Nobody.
    pub const NEW: u64 = 4;

    pub fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    /// Counts 1, 2 and 5 were used, each by the request with that number plus 1,000.
    pub fn prepare(arena: &Arena) {
        let nonces = Nonces::of(arena.board());
        for count in [1, 2, 5] {
            let used = nonces.take(at(AT), MADE, HASH, count, 1_000 + u64::from(count));
            assert_eq!(used, Used::Now);
        }
        let attempts = Attempts::of(arena.board());
        for (user, failures) in [(BANNED, 3), (NEARLY, 2), (ONCE, 1)] {
            for nth in 1..=failures {
                assert_eq!(attempts.failed(at(AT), user, &LIMIT), nth == 3);
            }
        }
    }

    /// And the bucket is full.
    pub fn prepare_full(arena: &Arena) {
        prepare(arena);
        for stranger in 0..5 {
            Attempts::of(arena.board()).failed(at(AT), STRANGERS.start + stranger, &NEVER);
        }
    }

    pub fn take(p: &Participant, made: u64, count: u32, request: u64) -> Used {
        nonces(p).take(at(AT), made, HASH, count, request)
    }

    pub fn fail(p: &Participant, seconds: u64, user: u64) -> bool {
        attempts(p).failed(at(seconds), user, &LIMIT)
    }

    /// After whatever death: what was used is used, and who was banned is banned.
    pub fn holds(p: &Participant) -> Result<(), String> {
        used(p)?;
        match attempts(p).refused(at(AT), BANNED) {
            Some(left) if left.as_secs() == BANNED_UNTIL - AT => Ok(()),
            left => Err(format!("banned for {left:?}")),
        }
    }

    /// What was used is used; and what the dead one was at is granted once.
    pub fn used(p: &Participant) -> Result<(), String> {
        for count in [1, 2, 5] {
            match take(p, MADE, count, 7) {
                Used::Before | Used::Unknown => {}
                used => return Err(format!("count {count} once more: {used:?}")),
            }
        }
        // Those of the cases, and one that nobody is at.
        for (made, count) in [(MADE, 3), (MADE, 6), (MADE, 40), (MADE + 1, 1)] {
            // The dead one's own request comes again; here, and once more after the recovery has settled.
            let again = take(p, made, count, 2_000 + u64::from(count));
            for _ in 0..2 {
                match take(p, made, count, 8) {
                    Used::Before | Used::Unknown => {}
                    used => {
                        return Err(format!(
                            "{made}, {count}: {again:?}, and {used:?} by another"
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

/// What was granted: by anybody, in the order of the notes. A death between the grant and its note loses the note only.
struct Ledger {
    file: File,
    /// From which all processes count the time.
    since: std::time::Instant,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    read: u64,
    uses: HashSet<[u64; 2]>,
    /// The latest, to be tried again.
    latest: Vec<[u64; 2]>,
    checked: u64,
    bans: u64,
}

const NOTE_BYTES: usize = 16;
/// In place of a count: a ban of this user until then (s).
const BAN: u64 = 1 << 32;
const LATEST_MAX: usize = 200;

static LEDGER: OnceLock<Ledger> = OnceLock::new();

impl Ledger {
    fn open() -> Self {
        let name = format!("tandem-ledger-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create_new(true);
        let file = file.open(&path).expect("a temporary file");
        std::fs::remove_file(&path).expect("just made");
        Self {
            file,
            since: std::time::Instant::now(),
            seen: Mutex::default(),
        }
    }

    fn note(what: [u64; 2]) {
        let ledger = LEDGER.get().expect("prepared");
        let bytes: [u8; NOTE_BYTES] = bytes_of(what);
        // One append: whole, or not there.
        (&ledger.file).write_all(&bytes).expect("room on the disk");
    }
}

fn bytes_of([a, b]: [u64; 2]) -> [u8; NOTE_BYTES] {
    (u128::from(a) << 64 | u128::from(b)).to_be_bytes()
}

fn of_bytes(bytes: [u8; NOTE_BYTES]) -> [u64; 2] {
    let both = u128::from_be_bytes(bytes);
    [(both >> 64) as u64, both as u64]
}

/// A new arena: nothing was granted in it.
pub fn begin(_: &Arena) {
    let ledger = LEDGER.get_or_init(Ledger::open);
    ledger.file.set_len(0).expect("our file");
    let mut seen = ledger.seen.lock().unwrap_or_else(PoisonError::into_inner);
    *seen = Seen {
        checked: seen.checked,
        bans: seen.bans,
        ..Seen::default()
    };
}

/// How many grants and bans were looked at, of all arenas.
pub fn looked_at() -> (u64, u64) {
    let ledger = LEDGER.get().expect("prepared");
    let seen = ledger.seen.lock().unwrap_or_else(PoisonError::into_inner);
    (seen.checked, seen.bans)
}

/// The time of all processes: that of the nonces.
fn now() -> Instant {
    let ledger = LEDGER.get().expect("prepared");
    Instant::from_nanos(ledger.since.elapsed().as_nanos() as u64 + 1_000_000_000_000)
}

/// That of the bans.
fn fast() -> Instant {
    Instant::from_nanos(now().as_nanos() * FASTER)
}

fn millis() -> u64 {
    now().as_nanos() / 1_000_000
}

/// Whom nobody else is.
fn stamp() -> u64 {
    now().as_nanos() << 8 | u64::from(std::process::id() & 0xff)
}

fn any(below: u64) -> u64 {
    // The lowest bits of the clock, well mixed.
    (now().as_nanos().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % below
}

/// Both processes use the nonces that are made every 8 ms.
fn made() -> u64 {
    millis() & !7
}

fn take(p: &Participant, made: u64, count: u32, request: u64) -> Used {
    let used = nonces(p).take(now(), made, HASH, count, request);
    if used == Used::Now {
        Ledger::note([made, count.into()]);
    }
    used
}

/// A use, and at once another of the same by a stranger, who is refused whatever came of the first.
pub fn use_once(p: &mut Participant) {
    let (made, count) = (made(), 1 + any(COUNTS.into()) as u32);
    take(p, made, count, stamp());
    let stranger = take(p, made, count, stamp() | 1 << 63);
    assert!(
        !matches!(stranger, Used::Now | Used::Again),
        "{count}: {stranger:?}"
    );
}

/// A use, and the same request again.
pub fn use_and_repeat(p: &mut Participant) {
    let (made, count, request) = (made(), 1 + any(COUNTS.into()) as u32, stamp());
    take(p, made, count, request);
    let again = take(p, made, count, request);
    assert_ne!(again, Used::Now, "{count}");
}

/// Makes the others' nonce unknown until the next one.
pub fn use_newer(p: &mut Participant) {
    take(p, millis(), 1, stamp());
}

/// Has lost its place as a rule.
pub fn use_older(p: &mut Participant) {
    take(p, made() - 16, 1 + any(COUNTS.into()) as u32, stamp());
}

fn fail_as(p: &Participant, user: u64) {
    let now = fast();
    if attempts(p).failed(now, user, &LIMIT) {
        let until = now.as_nanos() / 1_000_000_000 + LIMIT.ban.as_secs();
        Ledger::note([BAN | user, until]);
    }
}

pub fn fail(p: &mut Participant) {
    fail_as(p, USERS[any(3) as usize]);
}

/// To the ban, whatever was before.
pub fn fail_often(p: &mut Participant) {
    (0..LIMIT.failures).for_each(|_| fail_as(p, USERS[0]));
}

/// Somebody whose note takes the place of another's.
pub fn fail_as_strangers(p: &mut Participant) {
    for _ in 0..4 {
        let stranger = STRANGERS.start + any(STRANGERS.end - STRANGERS.start);
        attempts(p).failed(fast(), stranger, &NEVER);
    }
}

pub fn succeed(p: &mut Participant) {
    attempts(p).succeeded(fast(), USERS[any(3) as usize]);
}

pub fn look(p: &mut Participant) {
    let attempts = attempts(p);
    attempts.refused_now(fast());
    attempts.refused(fast(), USERS[0]);
}

const ACTS: [fn(&mut Participant); 9] = [
    use_once,
    use_and_repeat,
    use_newer,
    use_older,
    fail,
    fail_often,
    fail_as_strangers,
    succeed,
    look,
];

/// What the second process does.
pub fn act(p: &mut Participant, dice: Dice<'_>) {
    ACTS[dice(ACTS.len() as u32) as usize](p);
}

/// While nobody is within an operation: each use was granted once and is not granted again, each ban lasts.
pub fn whole(p: &Participant) -> Result<(), String> {
    let ledger = LEDGER.get().expect("prepared");
    let mut seen = ledger.seen.lock().unwrap_or_else(PoisonError::into_inner);
    let mut bytes = [0; NOTE_BYTES];
    let mut bans = Vec::new();
    while ledger.file.read_exact_at(&mut bytes, seen.read).is_ok() {
        seen.read += NOTE_BYTES as u64;
        let what = of_bytes(bytes);
        if what[0] & BAN != 0 {
            bans.push(what);
        } else {
            if !seen.uses.insert(what) {
                return Err(format!(
                    "count {} of {} was granted twice",
                    what[1], what[0]
                ));
            }
            seen.checked += 1;
        }
        seen.latest.push(what);
    }
    let early = seen.latest.len().saturating_sub(LATEST_MAX);
    seen.latest.drain(..early);
    for &[what, number] in &seen.latest {
        let wrong = if what & BAN != 0 {
            let now = fast().as_nanos() / 1_000_000_000;
            // The clock goes on between the question and the answer.
            let lasts = number > now + 2;
            lasts && attempts(p).refused(fast(), what & !BAN).is_none()
        } else {
            let count = u32::try_from(number).expect("a count");
            nonces(p).take(now(), what, HASH, count, 9) == Used::Now
        };
        if wrong {
            return Err(format!("{what:#x}, {number} was noted, and is not there"));
        }
    }
    seen.bans += bans.len() as u64;
    Ok(())
}
