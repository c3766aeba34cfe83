//! The `quarantine` table: messages that workers died of.
//!
//! ```text
//! key = keyed hash of the message's bytes | payload = QuarantineRow, then the bytes
//! ```
//!
//! A message that was at hand when its worker died by a fault of its own is a *suspect*; at the second such death the same bytes, in whatever buffer they came,
//! are in *quarantine*: they are dropped until the record expires. Only who recovers a dead slot counts deaths, and a death once: it carries the *mark* of the
//! dead turn, so that a recovery that dies is repeated without counting again.
//!
//! Who looks at messages need not look in here for each: `shm::Arena::notices` is raised whenever the quarantine has changed, and [`Filter`] is what to keep until then.
//!
//! At most [`CASES_MAX`] records; the oldest leaves. *Full*: the death is not counted, and the attempts of the receive buffer alone decide.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use shm::{Cursor, InsertError, Participant, Record, ReplaceError, RowMeta, RowRef, Version};
use stdx::Instant;
use stdx::hash::{Key, hash64};
use sync::Ordering;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use crate::QUARANTINE;
use crate::row::{Address, Header, row};

/// Records at most, suspects included.
pub const CASES_MAX: usize = 1000;
/// Deaths that put a message in quarantine.
pub const DEATHS_MAX: u32 = 2;
/// Rows looked at in one go of a walk.
const ROWS: usize = 4096;
/// Attempts before a change gives up.
const ATTEMPTS_MAX: usize = 16;

row! {
    /// The header of a case; the message is what follows it. Expiry lies in the body's own head.
    pub struct QuarantineRow: version 1, 92 bytes {
        /// How many workers died of it.
        pub deaths: U32,
        /// Which death was counted last.
        pub mark: U64,
        /// When the first died; ms since 1970.
        pub first_unix_ms: U64,
        /// When it came last; ms since 1970.
        pub last_unix_ms: U64,
        /// How often it was dropped.
        pub dropped: U64,
        /// Who sent it.
        pub source: Address,
        /// Where it came in.
        pub local: Address,
        /// Zero.
        pub reserved: U32,
    }
}

/// The name of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CaseId(pub u64);

impl CaseId {
    /// Of these bytes; keyed, so that nobody can make two messages that have the same.
    pub fn of(key: &Key, bytes: &[u8]) -> Self {
        Self(hash64(key, &[b"quarantine", bytes]))
    }
}

impl fmt::Display for CaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The text is no name of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("16 hexadecimal digits name a message in quarantine")]
pub struct NoCaseId;

impl FromStr for CaseId {
    type Err = NoCaseId;
    fn from_str(text: &str) -> Result<Self, NoCaseId> {
        let number = u64::from_str_radix(text, 16).ok();
        number
            .filter(|_| text.len() == 16)
            .map(Self)
            .ok_or(NoCaseId)
    }
}

/// A case taken out of the arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    pub id: CaseId,
    pub deaths: u32,
    pub dropped: u64,
    pub first_unix_ms: u64,
    pub last_unix_ms: u64,
    pub source: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    pub expires_at: Option<Instant>,
    pub bytes: Vec<u8>,
}

impl Case {
    /// Whether it is dropped; otherwise it is a suspect.
    pub fn is_dropped(&self) -> bool {
        self.deaths >= DEATHS_MAX
    }
}

/// A death, as the heir finds it.
#[derive(Clone, Copy, Debug)]
pub struct Death<'m> {
    /// The message that was at hand.
    pub bytes: &'m [u8],
    pub source: SocketAddr,
    pub local: Option<SocketAddr>,
    /// Differs from that of any other death.
    pub mark: u64,
    pub unix_ms: u64,
    /// When the case is forgotten.
    pub expires_at: Instant,
}

/// The death could not be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotCounted {
    #[error("no memory for a suspect")]
    Full,
    #[error("the record is being changed too often")]
    Busy,
}

/// What may be in quarantine, by length: what most messages are compared with. The default lets everything pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    lengths: [u64; 16],
    any: bool,
}

impl Filter {
    /// Whether a message of this length has to be looked up.
    #[inline]
    pub fn may_hold(&self, len: usize) -> bool {
        self.any
            && self
                .lengths
                .get(len / 64 % 16)
                .is_some_and(|word| word & (1 << (len % 64)) != 0)
    }

    fn add(&mut self, len: usize) {
        self.any = true;
        if let Some(word) = self.lengths.get_mut(len / 64 % 16) {
            *word |= 1 << (len % 64);
        }
    }
}

/// The `quarantine` table through one participant.
pub struct Quarantine<'p>(pub &'p mut Participant);

struct Seen {
    row: RowRef,
    version: Version,
    header: QuarantineRow,
    expires_at: Option<Instant>,
}

impl Quarantine<'_> {
    /// Counts a death; how many there are by now, and whether this call has counted one.
    pub fn note_death(&mut self, death: &Death<'_>) -> Result<(u32, bool), NotCounted> {
        let id = CaseId::of(&self.0.arena().key(), death.bytes);
        for _ in 0..ATTEMPTS_MAX {
            let seen = self.see(id, death.bytes);
            let (deaths, counted) = seen.as_ref().map_or((1, true), |seen| {
                let counted = seen.header.mark.get() != death.mark;
                let deaths = seen.header.deaths.get().saturating_add(u32::from(counted));
                (deaths, counted)
            });
            if !counted {
                return Ok((deaths, false));
            }
            let mut header = QuarantineRow::new_zeroed();
            header.begin(0);
            if let Some(seen) = &seen {
                header = seen.header;
            } else {
                header.first_unix_ms = U64::new(death.unix_ms);
            }
            header.deaths = U32::new(deaths);
            header.mark = U64::new(death.mark);
            header.last_unix_ms = U64::new(death.unix_ms);
            header.source = Address::new(Some(death.source));
            header.local = Address::new(death.local);
            let meta = RowMeta {
                expires_at: Some(death.expires_at),
                flags: 0,
            };
            let payload = [header.as_bytes(), death.bytes];
            let done = match seen {
                Some(seen) => match self.0.replace(seen.row, seen.version, &payload, &[], meta) {
                    Ok(_) => true,
                    Err(ReplaceError::Changed | ReplaceError::Gone) => false,
                    Err(_) => return Err(NotCounted::Full),
                },
                None => {
                    self.make_room();
                    match self
                        .0
                        .insert(QUARANTINE, &id.0.to_le_bytes(), &payload, &[], meta)
                    {
                        Ok(_) => true,
                        Err(InsertError::Exists { row, .. }) => {
                            // Not a case that can be read, or of other bytes: it goes.
                            self.0.remove(row, None);
                            false
                        }
                        Err(InsertError::Stale) => false,
                        Err(_) => return Err(NotCounted::Full),
                    }
                }
            };
            if done {
                if deaths >= DEATHS_MAX {
                    self.give_notice();
                }
                return Ok((deaths, true));
            }
        }
        Err(NotCounted::Busy)
    }

    /// Whether the message is in quarantine; if so, that it came again is noted.
    pub fn drops(&mut self, bytes: &[u8], now: Instant, unix_ms: u64) -> bool {
        let id = CaseId::of(&self.0.arena().key(), bytes);
        let Some(mut seen) = self.see(id, bytes) else {
            return false;
        };
        if seen.header.deaths.get() < DEATHS_MAX || seen.expires_at.is_some_and(|at| at <= now) {
            return false;
        }
        let dropped = seen.header.dropped.get().saturating_add(1);
        seen.header.dropped = U64::new(dropped);
        seen.header.last_unix_ms = U64::new(unix_ms);
        let meta = RowMeta {
            expires_at: seen.expires_at,
            flags: 0,
        };
        // If somebody else counted at the same moment, or memory is full, one is missed.
        let payload = [seen.header.as_bytes(), bytes];
        let _ = self.0.replace(seen.row, seen.version, &payload, &[], meta);
        true
    }

    /// What to compare messages with from now on.
    pub fn filter(&self) -> Filter {
        let mut filter = Filter::default();
        self.walk(|_, case| {
            if case.is_dropped() {
                filter.add(case.bytes.len());
            }
        });
        filter
    }

    /// Every case, oldest first.
    pub fn list(&self, now: Instant) -> Vec<Case> {
        let mut cases = Vec::new();
        self.walk(|_, case| cases.push(case));
        cases.retain(|case| case.expires_at.is_none_or(|at| at > now));
        cases.sort_by_key(|case| (case.first_unix_ms, case.id));
        cases
    }

    /// Forgets one case, or all; how many.
    pub fn clear(&mut self, id: Option<CaseId>) -> usize {
        let mut rows = Vec::new();
        self.walk(|row, case| {
            if id.is_none_or(|id| id == case.id) {
                rows.push(row);
            }
        });
        let gone = rows.into_iter().filter(|row| self.0.remove(*row, None));
        let gone = gone.count();
        self.give_notice();
        gone
    }

    fn give_notice(&self) {
        // SYNC notices: Release, pairs with the Acquire of who compares: what has changed is seen by who sees the notice.
        self.0.arena().notices().fetch_add(1, Ordering::Release);
    }

    /// The oldest leave, until there is room for one more.
    fn make_room(&mut self) {
        let mut cases = Vec::new();
        self.walk(|row, case| cases.push((case.first_unix_ms, row)));
        let over = (cases.len() + 1).saturating_sub(CASES_MAX);
        cases.sort_unstable_by_key(|(first, _)| *first);
        for (_, row) in cases.into_iter().take(over) {
            self.0.remove(row, None);
        }
    }

    fn see(&self, id: CaseId, bytes: &[u8]) -> Option<Seen> {
        let key = id.0.to_le_bytes();
        let seen = self.0.find(QUARANTINE, &key, |record| {
            let (header, rest) = QuarantineRow::read(record.payload)?;
            (rest == bytes).then_some(Seen {
                row: record.row,
                version: record.version,
                header,
                expires_at: record.expires_at,
            })
        });
        seen.flatten()
    }

    fn walk(&self, mut look: impl FnMut(RowRef, Case)) {
        let mut next = Some(Cursor::default());
        while let Some(cursor) = next {
            next = self.0.scan(QUARANTINE, cursor, ROWS, |record| {
                if let Some(case) = case(&record) {
                    look(record.row, case);
                }
            });
        }
    }
}

fn case(record: &Record<'_>) -> Option<Case> {
    let (header, bytes) = QuarantineRow::read(record.payload)?;
    Some(Case {
        id: CaseId(u64::from_le_bytes(record.key.try_into().ok()?)),
        deaths: header.deaths.get(),
        dropped: header.dropped.get(),
        first_unix_ms: header.first_unix_ms.get(),
        last_unix_ms: header.last_unix_ms.get(),
        source: header.source.get(),
        local: header.local.get(),
        expires_at: record.expires_at,
        bytes: bytes.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use shm::{Arena, Layout, ParticipantId};
    use std::time::Duration;

    use super::*;

    fn arena() -> Arena {
        let layout = Layout {
            rx_buffers: 8,
            ..Layout::new(64 << 20, 2, 1, crate::TABLES)
        };
        Arena::heap(&layout, [7; 16]).unwrap()
    }

    const TTL: Duration = Duration::from_secs(3600);

    fn now() -> Instant {
        Instant::from_nanos(1_000_000)
    }

    fn death(bytes: &[u8], mark: u64) -> Death<'_> {
        Death {
            bytes,
            source: "192.0.2.1:5060".parse().unwrap(),
            local: Some("192.0.2.9:5060".parse().unwrap()),
            mark,
            unix_ms: 1000 + mark,
            expires_at: now() + TTL,
        }
    }

    #[test]
    fn the_second_death_quarantines_and_each_death_counts_once() {
        let arena = arena();
        let mut p = arena.participant(ParticipantId(0));
        p.online();
        let mut table = Quarantine(&mut p);
        let notices = || arena.notices().load(Ordering::Relaxed);
        assert_eq!(table.note_death(&death(b"bad", 1)), Ok((1, true)));
        assert_eq!(table.note_death(&death(b"bad", 1)), Ok((1, false)));
        assert!(!table.drops(b"bad", now(), 5));
        assert_eq!((table.filter(), notices()), (Filter::default(), 0));
        assert_eq!(table.note_death(&death(b"bad", 2)), Ok((2, true)));
        assert_eq!(notices(), 1);
        let filter = table.filter();
        assert!(filter.may_hold(3) && !filter.may_hold(4));
        assert!(table.drops(b"bad", now(), 5) && table.drops(b"bad", now(), 6));
        assert!(!table.drops(b"odd", now(), 5), "as long, but another");
        let cases = table.list(now());
        let [case] = cases.as_slice() else {
            panic!("{cases:?}")
        };
        assert_eq!(
            (case.deaths, case.dropped, case.first_unix_ms),
            (2, 2, 1001)
        );
        assert_eq!((case.last_unix_ms, case.bytes.as_slice()), (6, &b"bad"[..]));
        assert_eq!(case.id.to_string().parse(), Ok(case.id));
        assert_eq!("12".parse::<CaseId>(), Err(NoCaseId));
        assert_eq!(table.clear(Some(CaseId(1))), 0);
        assert_eq!(table.clear(Some(case.id)), 1);
        assert!(!table.drops(b"bad", now(), 7));
        assert_eq!(table.filter(), Filter::default());
    }

    #[test]
    fn cases_are_forgotten_in_time() {
        let arena = arena();
        let mut p = arena.participant(ParticipantId(0));
        p.online();
        let mut table = Quarantine(&mut p);
        for mark in [1, 2] {
            table.note_death(&death(b"bad", mark)).unwrap();
        }
        let later = now() + TTL;
        assert!(!table.drops(b"bad", later, 5));
        assert_eq!(table.list(later), []);
        assert_eq!(table.clear(None), 1);
    }

    #[test]
    fn the_oldest_leave() {
        let arena = arena();
        let mut p = arena.participant(ParticipantId(0));
        p.online();
        let mut table = Quarantine(&mut p);
        for n in 0..CASES_MAX as u64 + 3 {
            let bytes = format!("message {n}");
            assert_eq!(table.note_death(&death(bytes.as_bytes(), n)), Ok((1, true)));
        }
        let cases = table.list(now());
        assert_eq!(cases.len(), CASES_MAX);
        assert_eq!(cases.first().unwrap().bytes, b"message 3");
    }
}
