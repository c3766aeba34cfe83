//! One thread's way into the arena: its identity, its free lists, its limbo.
//!
//! Everything in a `Participant` is a hint or a debt: free lists are rebuilt from meta words (by `refill`), what is
//! in limbo when it dies is found RETIRED by the sweep of whoever owns the slab. Nothing here is needed to go on without it.

use std::collections::VecDeque;
use std::rc::Rc;

use failpoint::failpoint;
use sync::{Ordering, fence};

use crate::arena::{Arena, Inner};
use crate::body::{BodyView, expiry};
use crate::ctl::{Ctl, Meta, RowState, Version};
use crate::id::{Block, ParticipantId, RowRef, TableId};
use crate::layout::{BLOCKS_PER_SLAB, CLASSES, blocks_in};
use crate::slab::{Kind, block_slab, row_slab};

/// A thread's access to the arena. Not `Send`: to be made on the thread that uses it.
///
/// Between [`online`](Self::online) and [`offline`](Self::offline) it may hold references, until the next
/// [`quiescent`](Self::quiescent); all operations on rows need it online.
#[derive(Debug)]
pub struct Participant {
    pub(crate) arena: Rc<Arena>,
    pub(crate) id: u16,
    pub(crate) online: bool,
    classes: [List; CLASSES.len()],
    tables: Vec<List>,
    adopted: bool,
    /// Slabs are looked for from here on.
    next_slab: u32,
    limbo: VecDeque<Limbo>,
    /// Takes what is kept back for updates as well: whoever fills an arena with what another one held, or puts one record in the place of another.
    pub(crate) fills: bool,
    /// How many at the front of `limbo` have their epoch.
    tagged: usize,
    oldest: u64,
    pub(crate) scrub: crate::recover::ScrubCursor,
    pub(crate) backoff: u32,
}

/// Free rows of one table or free blocks of one class, in slabs of our own.
#[derive(Debug, Default)]
struct List {
    /// With the value of `freed` at the last look.
    slabs: Vec<(u32, Option<u64>)>,
    /// Hints: an object is ours only after the CAS of its word.
    free: VecDeque<u32>,
    /// In this turn there was nothing more for new records, for updates.
    exhausted: [bool; 2],
}

#[derive(Clone, Copy, Debug)]
struct Limbo {
    epoch: u64,
    item: Item,
    /// The RETIRED word; if it has changed, somebody else freed the object.
    word: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Item {
    Row(u32),
    Block(u32),
}

/// What an allocation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocClass {
    /// A new record, or something for one: refused while the last 5 % are left.
    New,
    /// A change of a record that exists.
    Update,
}

/// A moment from which on a grace period is waited for: see [`Participant::grace`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace(u64);

/// No memory for this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the arena is full")]
pub struct Full;

/// A record as seen at one moment.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Record<'a> {
    /// Its row.
    pub row: RowRef,
    /// The whole truth about it, for `replace` and `remove`.
    pub version: Version,
    /// The participant whose slab the row lies in: who inserted it, or its heir under the same number.
    pub owner: u16,
    /// As given with the record.
    pub flags: u8,
    /// As given with the record; `None`: never.
    pub expires_at: Option<stdx::Instant>,
    /// Its key.
    pub key: &'a [u8],
    /// Its other name, if it has one.
    pub alias: Option<&'a [u8]>,
    /// Its payload.
    pub payload: &'a [u8],
    /// Its further blocks.
    pub children: &'a [Block],
}

/// Blocks freed and rows freed per call of `quiescent`, at least.
const RECLAIM_MIN: usize = 256;

impl Participant {
    /// As [`Arena::board`].
    #[inline]
    #[cfg(not(loom))]
    pub fn board(&self) -> &[sync::AtomicU64] {
        self.arena.board()
    }

    pub(crate) fn new(arena: &Arena, id: ParticipantId) -> Self {
        assert!(id.0 < arena.participants(), "a participant of this arena");
        let tables = usize::from(arena.layout().tables);
        Self {
            arena: Rc::new(arena.clone()),
            id: id.0,
            online: false,
            classes: std::array::from_fn(|_| List::default()),
            tables: std::iter::repeat_with(List::default).take(tables).collect(),
            adopted: false,
            next_slab: 0,
            limbo: VecDeque::new(),
            fills: false,
            tagged: 0,
            oldest: 0,
            scrub: crate::recover::ScrubCursor::default(),
            backoff: u32::from(id.0).wrapping_mul(0x9e37_79b9) | 1,
        }
    }

    /// Our number.
    pub fn id(&self) -> ParticipantId {
        ParticipantId(self.id)
    }

    /// The arena.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    #[inline]
    pub(crate) fn inner(&self) -> &Inner {
        &self.arena.0
    }

    /// May hold references from now on. A dead predecessor of this number must have been recovered.
    pub fn online(&mut self) {
        if !self.online {
            self.online = true;
            self.quiescent();
        }
    }

    /// Holds no references until `online`: before sleeping.
    pub fn offline(&mut self) {
        if self.online {
            self.online = false;
            self.inner().announce_offline(self.id);
        }
    }

    /// Once per turn: no reference from before is held any more. Frees what nobody can hold, a bounded number.
    pub fn quiescent(&mut self) {
        debug_assert!(self.online, "only who is online holds references");
        let now = self.inner().announce(self.id);
        failpoint!("shm.epoch.announced");
        let tagged = self.tagged;
        for limbo in self.limbo.iter_mut().skip(tagged) {
            limbo.epoch = now;
        }
        self.tagged = self.limbo.len();
        for list in self.classes.iter_mut().chain(&mut self.tables) {
            list.exhausted = [false; 2];
        }
        let Some(front) = self.limbo.front() else {
            return;
        };
        if front.epoch >= self.oldest {
            self.oldest = self.inner().oldest();
        }
        for _ in 0..RECLAIM_MIN.max(self.limbo.len() / 8) {
            match self.limbo.front() {
                Some(l) if self.is_over(l.epoch) => {}
                _ => break,
            }
            let Some(limbo) = self.limbo.pop_front() else {
                break;
            };
            self.tagged -= 1;
            failpoint!("shm.epoch.over");
            self.reclaim(limbo);
        }
    }

    /// From now on, until [`is_over_since`](Self::is_over_since) says so, somebody may still hold what he read before. For who waits until everybody has seen a
    /// change that was made before this call. Online or not.
    pub fn grace(&self) -> Grace {
        // SYNC epoch: as in `announce`, between the change that was seen and the read of the epoch.
        fence(Ordering::SeqCst);
        Grace(self.inner().epoch_now())
    }

    /// Whether everybody has been without references since. Has the epoch move on, as far as that is possible now; never true for who stays online without
    /// [`quiescent`](Self::quiescent).
    pub fn is_over_since(&self, grace: Grace) -> bool {
        grace.0 < self.inner().oldest()
    }

    /// Whether the grace period of what was retired in this epoch is over.
    fn is_over(&self, epoch: u64) -> bool {
        failpoint!("shm.broken.no_grace", true);
        epoch < self.oldest
    }

    /// RETIRED → FREE. Lost if somebody else did it, or if we die here: the word then stays RETIRED for the next sweep.
    fn reclaim(&mut self, limbo: Limbo) {
        let arena = Rc::clone(&self.arena);
        let inner = &arena.0;
        match limbo.item {
            Item::Row(index) => {
                let retired = Ctl(limbo.word);
                if !inner
                    .row(index)
                    .is_some_and(|row| row.change(retired, retired.free()))
                {
                    return;
                }
                failpoint!("shm.row.freed");
                let slab = row_slab(index);
                let d = inner.descriptor(slab);
                match d.kind() {
                    Some(Kind::Rows(table)) if d.owner() == self.id => {
                        if let Some(list) = self.tables.get_mut(usize::from(table.0)) {
                            list.free.push_back(index);
                        }
                        inner.not_used_up(slab);
                    }
                    _ => inner.tell_owner(slab),
                }
            }
            Item::Block(block) => {
                let retired = Meta(limbo.word);
                if inner.change_meta(block, retired, retired.free()) {
                    failpoint!("shm.block.freed");
                    self.freed_block(block);
                }
            }
        }
    }

    /// A block has become FREE by our hand.
    pub(crate) fn freed_block(&mut self, block: u32) {
        let slab = block_slab(block);
        let d = self.inner().descriptor(slab);
        match d.kind() {
            Some(Kind::Blocks(class)) if d.owner() == self.id => {
                // The youngest first: its bytes are in the cache.
                self.classes[usize::from(class)].free.push_front(block);
                self.inner().not_used_up(slab);
            }
            _ => self.inner().tell_owner(slab),
        }
    }

    pub(crate) fn push_limbo(&mut self, item: Item, word: u64) {
        self.limbo.push_back(Limbo {
            epoch: u64::MAX,
            item,
            word,
        });
    }

    /// How many objects wait for their grace period: for tests and statistics.
    pub fn limbo_len(&self) -> usize {
        self.limbo.len()
    }

    /// Finds out which slabs are ours: once, and again after recovery.
    pub(crate) fn adopt(&mut self) {
        self.adopted = true;
        for list in self.classes.iter_mut().chain(&mut self.tables) {
            *list = List::default();
        }
        let arena = Rc::clone(&self.arena);
        for slab in 0..arena.0.geometry.slabs {
            let d = arena.0.descriptor(slab);
            if d.owner() == self.id {
                match d.kind() {
                    Some(kind @ (Kind::Rows(_) | Kind::Blocks(_))) => {
                        let (count, used_up) = arena.0.freed_count(slab);
                        if let Some(list) = self.list(kind) {
                            list.slabs.push((slab, used_up.then_some(count)));
                        }
                    }
                    Some(Kind::Free | Kind::Taking) | None => {}
                }
            }
        }
    }

    /// FREE → PENDING for a row in one of our slabs of this table.
    pub(crate) fn allocate_row(&mut self, table: TableId) -> Option<RowRef> {
        let arena = Rc::clone(&self.arena);
        loop {
            while let Some(index) = self.tables.get_mut(usize::from(table.0))?.free.pop_front() {
                let Some(row) = arena.0.row(index) else {
                    continue;
                };
                let free = row.load();
                if free.state() == Some(RowState::Free) && row.change(free, free.pending()) {
                    failpoint!("shm.row.pending");
                    return Some(RowRef {
                        index,
                        generation: free.pending().generation(),
                    });
                }
            }
            self.refill(Kind::Rows(table), self.class_of(AllocClass::New))?;
        }
    }

    fn class_of(&self, for_what: AllocClass) -> AllocClass {
        if self.fills {
            AllocClass::Update
        } else {
            for_what
        }
    }

    /// FREE → LOOSE for a block of at least this many bytes in one of our slabs.
    pub(crate) fn allocate_block(
        &mut self,
        bytes: usize,
        for_what: AllocClass,
    ) -> Result<u32, Full> {
        let for_what = self.class_of(for_what);
        let first = CLASSES.partition_point(|&size| (size as usize) < bytes);
        for class in first..CLASSES.len() {
            match self.allocate_in(class as u8, for_what) {
                Some(block) => return Ok(block),
                // An update takes a bigger one, if we have it, before it fails.
                None if for_what == AllocClass::Update => {}
                None => break,
            }
        }
        Err(Full)
    }

    fn allocate_in(&mut self, class: u8, for_what: AllocClass) -> Option<u32> {
        let arena = Rc::clone(&self.arena);
        let which = usize::from(class);
        loop {
            let list = &mut self.classes[which];
            // When slabs run out, new records leave some blocks of each class to updates.
            let kept = match for_what {
                AllocClass::New if arena.0.tight() => {
                    (list.slabs.len() * blocks_in(class) as usize / 16).max(2)
                }
                _ => 0,
            };
            while list.free.len() > kept {
                let Some(block) = list.free.pop_front() else {
                    break;
                };
                let Some(free) = arena.0.load_meta(block) else {
                    continue;
                };
                if free.is_free() && arena.0.change_meta(block, free, free.loose()) {
                    failpoint!("shm.block.loose");
                    return Some(block);
                }
            }
            self.refill(Kind::Blocks(class), for_what)?;
        }
    }

    fn list(&mut self, kind: Kind) -> Option<&mut List> {
        match kind {
            Kind::Rows(table) => self.tables.get_mut(usize::from(table.0)),
            Kind::Blocks(class) => self.classes.get_mut(usize::from(class)),
            Kind::Free | Kind::Taking => None,
        }
    }

    /// More free objects: where others have freed some, else in a new slab. `None`: there are none in this turn.
    fn refill(&mut self, kind: Kind, for_what: AllocClass) -> Option<()> {
        if !self.adopted {
            self.adopt();
        }
        let arena = Rc::clone(&self.arena);
        let inner = &arena.0;
        let (id, next_slab) = (self.id, self.next_slab);
        let list = self.list(kind)?;
        let exhausted = usize::from(for_what == AllocClass::Update);
        if list.exhausted[exhausted] {
            return None;
        }
        let before = list.free.len();
        for nth in 0..list.slabs.len() {
            let (slab, seen) = list.slabs[nth];
            let (freed, used_up) = inner.freed_count(slab);
            if seen != Some(freed) {
                list.slabs[nth].1 = Some(freed);
                list.look(inner, kind, slab);
                if list.free.len() > before {
                    return Some(());
                }
            }
            if before == 0 && !used_up {
                inner.used_up(slab, freed);
            }
        }
        let free = inner.slabs_free();
        let least = if for_what == AllocClass::New {
            inner.slabs_reserved()
        } else {
            0
        };
        if free > least {
            if let Some(slab) = inner.take_slab(kind, id, next_slab) {
                inner.not_used_up(slab);
                list.slabs.push((slab, Some(inner.freed_count(slab).0)));
                list.look(inner, kind, slab);
                self.next_slab = slab + 1;
                return Some(());
            }
            // The number may be wrong.
            inner.count_slabs_free();
        }
        list.exhausted[exhausted] = true;
        None
    }

    /// Has a slab of ours looked at again, in case hints were lost: for the scrubber, which has seen something free in it.
    pub(crate) fn doubt(&mut self, kind: Kind, slab: u32) {
        self.inner().not_used_up(slab);
        let Some(list) = self.list(kind) else { return };
        if let Some((_, seen)) = list.slabs.iter_mut().find(|(s, _)| *s == slab) {
            *seen = None;
        }
    }

    /// Forgets hints into a slab that is being given back.
    pub(crate) fn forget_slab(&mut self, class: u8, slab: u32) {
        let list = &mut self.classes[usize::from(class)];
        list.slabs.retain(|(s, _)| *s != slab);
        list.free.retain(|&b| block_slab(b) != slab);
    }

    /// How many slabs of this class are ours.
    pub(crate) fn slabs_of_class(&self, class: u8) -> usize {
        self.classes[usize::from(class)].slabs.len()
    }

    pub(crate) fn record<'a>(&self, row: RowRef, ctl: Ctl, body: &BodyView<'a>) -> Record<'a> {
        Record {
            row,
            version: Version(ctl.0),
            owner: self.inner().descriptor(row_slab(row.index)).owner(),
            flags: ctl.flags(),
            expires_at: expiry(body.expires_at),
            key: body.key,
            alias: body.alias,
            payload: body.payload,
            children: body.children,
        }
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        // A simulated death: whoever was killed tidies nothing up.
        #[cfg(feature = "failpoints")]
        if std::thread::panicking() {
            return;
        }
        // What waits in limbo stays RETIRED, for the sweep of the slab's owner.
        self.offline();
    }
}

impl List {
    /// Collects the free objects of one slab.
    fn look(&mut self, inner: &Inner, kind: Kind, slab: u32) {
        match kind {
            Kind::Rows(_) => {
                self.free.retain(|&index| row_slab(index) != slab);
                let free = |row: &crate::slab::Row<'_>| row.load().state() == Some(RowState::Free);
                self.free.extend(
                    inner
                        .rows_in(slab)
                        .filter(|(_, row)| free(row))
                        .map(|(index, _)| index),
                );
            }
            Kind::Blocks(class) => {
                self.free.retain(|&block| block_slab(block) != slab);
                let first = slab * BLOCKS_PER_SLAB;
                let free = |&b: &u32| inner.load_meta(b).is_some_and(Meta::is_free);
                self.free
                    .extend((first..first + blocks_in(class)).filter(free));
            }
            Kind::Free | Kind::Taking => {}
        }
    }
}

impl Inner {
    /// Whether only the reserve for updates is left, as of the last time anybody took or gave back a slab.
    pub(crate) fn tight(&self) -> bool {
        self.slabs_free() <= self.slabs_reserved()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layout, RowMeta};

    #[test]
    fn an_heir_looks_only_where_something_may_be_free() {
        let layout = Layout {
            rx_buffers: 4,
            ..Layout::new(16 << 20, 1, 2, 1)
        };
        let arena = Arena::heap(&layout, [1; 16]).unwrap();
        let mut p = arena.participant(ParticipantId(0));
        p.online();
        let insert = |p: &mut Participant, n: u32| {
            let meta = RowMeta::default();
            p.insert(TableId(0), &n.to_le_bytes(), &[&[7; 300]], &[], meta)
                .unwrap()
        };
        let rows: Vec<RowRef> = (0..5_000).map(|n| insert(&mut p, n)).collect();
        // In the middle of a slab that is used up, by ourselves and by another.
        let mut other = arena.participant(ParticipantId(1));
        other.online();
        assert!(p.remove(rows[1_000], None) && other.remove(rows[3_000], None));
        for _ in 0..6 {
            p.quiescent();
            other.quiescent();
        }
        drop(p);
        let mut heir = arena.participant(ParticipantId(0));
        heir.recover(ParticipantId(0));
        let bytes = crate::HEADER_BYTES + 4 + 300;
        let class = CLASSES.iter().position(|&size| size as usize >= bytes);
        let class = class.unwrap();
        for list in [&heir.tables[0], &heir.classes[class]] {
            let look = list.slabs.iter().filter(|(_, seen)| seen.is_none());
            // The two, and the last one.
            assert_eq!(look.count(), 3, "of {}", list.slabs.len());
        }
        assert!(heir.classes[class].slabs.len() > 20);
        let free = arena.usage().slabs_free;
        insert(&mut heir, 6_000);
        insert(&mut heir, 6_001);
        assert_eq!(arena.usage().slabs_free, free);
        assert!(heir.tables[0].slabs.len() == 3);
        assert_eq!(
            arena.0.slabs_free(),
            free,
            "the number beside the descriptors"
        );
    }
}
