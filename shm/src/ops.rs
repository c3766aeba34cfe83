//! The operations on records. Each is a list of steps; a process may die after any of them.
//!
//! | insert (reserve, then publish) | survivors see | who cleans up |
//! |---|---|---|
//! | 1. look at all entries of the key: a LIVE one → `Exists`; PENDING ones are aborted | nothing of us | |
//! | 2. row FREE → PENDING in a slab of ours; store its hash | nothing (in no index) | recovery: our slabs |
//! | 3. entry 0 → row; fence; look again as in 1 | a PENDING row, skipped by `find` | any inserter of the key, recovery |
//! | 4. block FREE → LOOSE, fill; metas of body and children LOOSE → USED by the row | the same | recovery: USED, but the row does not hold it |
//! | 5. **row PENDING → LIVE with its body** | the record | |
//!
//! | replace | survivors see | who cleans up |
//! |---|---|---|
//! | 1. block FREE → LOOSE, fill; intent := row, old word; metas → USED; expiry hint lowered | the old record | recovery, as above |
//! | 2. **LIVE, old body → LIVE, new body** | the new record | |
//! | 3. old body, and children that the new body does not list: USED → RETIRED, limbo | the same | recovery: intent; sweep: USED, not held |
//! | 4. clear the intent | | |
//!
//! | remove | survivors see | who cleans up |
//! |---|---|---|
//! | 1. intent := row, word | the record | |
//! | 2. **LIVE → DYING** | nothing | anyone who meets the entry unlinks it |
//! | 3. entries → 0; body and children USED → RETIRED, limbo | nothing | recovery: intent; sweep: DYING |
//! | 4. DYING → RETIRED, limbo; clear the intent | nothing | sweep: RETIRED |
//! | 5. after the grace period RETIRED → FREE | nothing | sweep |
//!
//! Linearization points in bold. An operation that fails undoes its steps backwards; a `find` that succeeds takes effect at
//! its load of the control word. Steps 3 and 4 of remove are idempotent and may be done by several at once: each change has one winner, and the
//! winner puts the object into its limbo. *Progress*: find and with are wait-free; replace and remove fail rather than retry against others'
//! changes; insert as said in `index`.

use std::rc::Rc;

use stdx::Instant;
use sync::{Ordering, spin_loop};

use crate::arena::{Arena, Inner};
use crate::body::{CHILDREN_MAX, Contents, KEY_MAX, NEVER};
use crate::ctl::{BlockState, Ctl, RowState, Version};
use crate::epoch::Intent;
use crate::id::{Block, RowRef, TableId};
use crate::index::Met;
use crate::participant::{AllocClass, Full, Item, Participant, Record};
use crate::slab::{block_slab, row_slab};

/// What is kept in the row or beside the payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowMeta {
    /// When `expire` may remove the record; `None`: never.
    pub expires_at: Option<Instant>,
    /// Eight bits for the table.
    pub flags: u8,
}

/// Why there is no new record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InsertError {
    /// There is one with this key.
    #[error("a record with this key exists")]
    Exists {
        /// Its row.
        row: RowRef,
        /// Whose it is.
        owner: u16,
    },
    /// No memory for new records.
    #[error("the arena is full")]
    Full,
    /// Another inserter of the same key aborted this one, and has not finished; or a listed child is not an unattached block of ours. Start again.
    #[error("aborted by another inserter of the same key")]
    Stale,
    /// The key, the list of children or the whole body is longer than the arena holds.
    #[error("key, children or body are too long")]
    TooLong,
}

/// Why a record was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// Somebody changed it since the version was seen, or a listed child is not this record's.
    #[error("the record has changed")]
    Changed,
    /// It is no more.
    #[error("the record is gone")]
    Gone,
    /// No memory, not even for updates.
    #[error("the arena is full")]
    Full,
    /// As for an insert.
    #[error("key, children or body are too long")]
    TooLong,
}

impl From<Full> for InsertError {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

impl From<Full> for ReplaceError {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

/// A row that is not yet a record, but already has its name. Dropped, it is abandoned.
#[derive(Debug)]
#[must_use = "a reservation that is dropped is abandoned"]
pub struct Reserved {
    arena: Rc<Arena>,
    row: RowRef,
    hash: u64,
}

impl Reserved {
    /// What the record's name will be.
    pub fn row(&self) -> RowRef {
        self.row
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let inner = &self.arena.0;
        let Some(words) = inner.row(self.row.index) else {
            return;
        };
        let ctl = words.load();
        if ctl.generation() == self.row.generation
            && ctl.state() == Some(RowState::Pending)
            && words.change(ctl, ctl.dying())
        {
            // The sweep of our slab does the rest of what `Participant::finish` does.
            inner.unlink(self.hash, self.row);
        }
    }
}

/// Rounds against other inserters of one key before giving up as `Stale`.
const ROUNDS_MAX: u32 = 64;

impl Inner {
    pub(crate) fn hash(&self, table: TableId, key: &[u8]) -> u64 {
        stdx::hash::hash64(&self.key, &[&[table.0], key])
    }
}

impl Participant {
    /// The record with this key, read in place: `f` gets it as it was at one moment.
    pub fn find<R>(
        &self,
        table: TableId,
        key: &[u8],
        f: impl FnOnce(Record<'_>) -> R,
    ) -> Option<R> {
        debug_assert!(self.online, "find needs an announced epoch");
        let inner = self.inner();
        let (row, ctl) = inner.find(inner.hash(table, key), key)?;
        let body = inner.body(ctl.body()?)?;
        Some(f(self.record(row, ctl, &body)))
    }

    /// The record in this row, if it still is the one that was named.
    pub fn with<R>(&self, row: RowRef, f: impl FnOnce(Record<'_>) -> R) -> Option<R> {
        debug_assert!(self.online, "with needs an announced epoch");
        let ctl = self.inner().row(row.index)?.load();
        if !ctl.is_live() || ctl.generation() != row.generation {
            return None;
        }
        let body = self.inner().body(ctl.body()?)?;
        Some(f(self.record(row, ctl, &body)))
    }

    /// A new record, unless there is one with this key.
    /// On an error the listed children are freed.
    pub fn insert(
        &mut self,
        table: TableId,
        key: &[u8],
        payload: &[&[u8]],
        children: &[Block],
        meta: RowMeta,
    ) -> Result<RowRef, InsertError> {
        for round in 0.. {
            let reserved = match self.reserve(table, key) {
                Ok(reserved) => reserved,
                Err(e) => {
                    self.free_children(children);
                    return Err(e);
                }
            };
            let row = reserved.row;
            match self.try_publish(&reserved, key, payload, children, meta) {
                Err(InsertError::Stale) if round < ROUNDS_MAX => {
                    self.abort(row, reserved.hash);
                    self.back_off(round);
                }
                Err(e) => {
                    self.abort(row, reserved.hash);
                    self.free_children(children);
                    return Err(e);
                }
                Ok(()) => return Ok(row),
            }
        }
        Err(InsertError::Stale)
    }

    /// Steps 1 to 3 of an insert: the row has its name, but is no record yet. Another inserter of the same key aborts it, in which case `publish` fails.
    pub fn reserve(&mut self, table: TableId, key: &[u8]) -> Result<Reserved, InsertError> {
        assert!(self.online, "insert needs an announced epoch");
        if key.len() > KEY_MAX {
            return Err(InsertError::TooLong);
        }
        let arena = Rc::clone(&self.arena);
        let inner = &arena.0;
        let hash = inner.hash(table, key);
        self.meet(hash, key, None)?;
        let row = self.allocate_row(table).ok_or(InsertError::Full)?;
        let Some(words) = inner.row(row.index) else {
            return Err(InsertError::Full);
        };
        // Relaxed: the entry's CAS publishes both (SYNC entry).
        words.hash.store(hash, Ordering::Relaxed);
        words.expires_at.store(NEVER, Ordering::Relaxed);
        if !inner.link(hash, row) {
            self.abort(row, hash);
            return Err(InsertError::Full);
        }
        if let Err(e) = self.meet(hash, key, Some(row)) {
            self.abort(row, hash);
            return Err(e);
        }
        Ok(Reserved { arena, row, hash })
    }

    /// A reservation in this very row and generation, on an arena that nobody else uses; `None` if the row is not free for it. The caller knows that no record
    /// has this key, and that the row's slab is ours.
    pub(crate) fn reserve_at(
        &mut self,
        table: TableId,
        key: &[u8],
        row: RowRef,
    ) -> Option<Reserved> {
        let arena = Rc::clone(&self.arena);
        let inner = &arena.0;
        let words = inner.row(row.index)?;
        let (free, hash) = (words.load(), inner.hash(table, key));
        let pending = Ctl::pending_as(row.generation)?;
        if free.state() != Some(RowState::Free) || !words.change(free, pending) {
            return None;
        }
        // Relaxed: the entry's CAS publishes both (SYNC entry).
        words.hash.store(hash, Ordering::Relaxed);
        words.expires_at.store(NEVER, Ordering::Relaxed);
        if !inner.link(hash, row) {
            self.abort(row, hash);
            return None;
        }
        Some(Reserved { arena, row, hash })
    }

    /// Steps 4 and 5: the reservation becomes a record. `key` is the one that was reserved. On an error the reservation and the listed children are freed.
    pub fn publish(
        &mut self,
        reserved: Reserved,
        key: &[u8],
        payload: &[&[u8]],
        children: &[Block],
        meta: RowMeta,
    ) -> Result<RowRef, InsertError> {
        let (row, hash) = (reserved.row, reserved.hash);
        let result = self.try_publish(&reserved, key, payload, children, meta);
        if let Err(e) = result {
            self.abort(row, hash);
            self.free_children(children);
            if e == InsertError::Stale {
                // Perhaps the other one has finished by now.
                self.meet(hash, key, None)?;
            }
            return Err(e);
        }
        Ok(row)
    }

    /// Undoes a reservation.
    pub fn abandon(&mut self, reserved: Reserved) {
        self.abort(reserved.row, reserved.hash);
    }

    fn try_publish(
        &mut self,
        reserved: &Reserved,
        key: &[u8],
        payload: &[&[u8]],
        children: &[Block],
        meta: RowMeta,
    ) -> Result<(), InsertError> {
        let arena = Rc::clone(&self.arena);
        let inner = &arena.0;
        let row = reserved.row;
        let expires_at = meta.expires_at.map_or(NEVER, Instant::as_nanos);
        let contents = Contents {
            key,
            payload,
            children,
            expires_at,
        };
        if children.len() > CHILDREN_MAX || contents.bytes() > BODY_MAX {
            return Err(InsertError::TooLong);
        }
        let Some(words) = inner.row(row.index) else {
            return Err(InsertError::Stale);
        };
        let pending = words.load();
        if pending.generation() != row.generation || pending.state() != Some(RowState::Pending) {
            return Err(InsertError::Stale);
        }
        let body = self.write_body(&contents, AllocClass::New)?;
        if !children.iter().all(|c| self.attach(c.0, row)) || !self.attach(body, row) {
            self.detach(children, row);
            self.free_unseen(body);
            return Err(InsertError::Stale);
        }
        // Relaxed: the CAS publishes it.
        words.expires_at.store(expires_at, Ordering::Relaxed);
        if !words.change(pending, pending.live(body, meta.flags)) {
            self.detach(children, row);
            self.free_unseen(body);
            return Err(InsertError::Stale);
        }
        Ok(())
    }

    /// Swaps a record's body, if it still is in the version that was seen. The key stays. `children` are the record's own from that version, which stay,
    /// or unattached blocks of ours; the record's other children go. On an error the unattached ones are freed.
    pub fn replace(
        &mut self,
        row: RowRef,
        expect: Version,
        payload: &[&[u8]],
        children: &[Block],
        meta: RowMeta,
    ) -> Result<Version, ReplaceError> {
        let result = self.try_replace(row, expect, payload, children, meta);
        if result.is_err() {
            self.free_children(children);
        }
        result
    }

    fn try_replace(
        &mut self,
        row: RowRef,
        expect: Version,
        payload: &[&[u8]],
        children: &[Block],
        meta: RowMeta,
    ) -> Result<Version, ReplaceError> {
        assert!(self.online, "replace needs an announced epoch");
        let arena = Rc::clone(&self.arena);
        let inner = &arena.0;
        let words = inner.row(row.index).ok_or(ReplaceError::Gone)?;
        let live = words.load();
        if live.generation() != row.generation || !live.is_live() {
            return Err(ReplaceError::Gone);
        }
        if live.0 != expect.0 {
            return Err(ReplaceError::Changed);
        }
        let old = live
            .body()
            .and_then(|b| inner.body(b))
            .ok_or(ReplaceError::Gone)?;
        let expires_at = meta.expires_at.map_or(NEVER, Instant::as_nanos);
        let contents = Contents {
            key: old.key,
            payload,
            children,
            expires_at,
        };
        if children.len() > CHILDREN_MAX || contents.bytes() > BODY_MAX {
            return Err(ReplaceError::TooLong);
        }
        let body = self.write_body(&contents, AllocClass::Update)?;
        inner.set_intent(
            self.id,
            Intent {
                row: row.index,
                old: live.0,
            },
        );
        let attached = children
            .iter()
            .all(|c| old.children.contains(c) || self.attach(c.0, row))
            && self.attach(body, row);
        // Relaxed: only lowered here, before the CAS that publishes it; the scan raises it (see `walk`).
        words.expires_at.fetch_min(expires_at, Ordering::Relaxed);
        let changed = live.changed(body, meta.flags);
        if !attached || !words.change(live, changed) {
            for child in children.iter().filter(|c| !old.children.contains(c)) {
                self.detach(&[*child], row);
            }
            self.free_unseen(body);
            inner.clear_intent(self.id);
            return Err(ReplaceError::Changed);
        }
        self.release(row, live, Some(children));
        inner.clear_intent(self.id);
        Ok(Version(changed.0))
    }

    /// Removes a record, whatever its version or only in this one. `false`: it has changed or gone. Allocates nothing.
    pub fn remove(&mut self, row: RowRef, expect: Option<Version>) -> bool {
        assert!(self.online, "remove needs an announced epoch");
        let arena = Rc::clone(&self.arena);
        let inner = &arena.0;
        let Some(words) = inner.row(row.index) else {
            return false;
        };
        let removed = loop {
            let live = words.load();
            if live.generation() != row.generation
                || !live.is_live()
                || expect.is_some_and(|v| v.0 != live.0)
            {
                break false;
            }
            inner.set_intent(
                self.id,
                Intent {
                    row: row.index,
                    old: live.0,
                },
            );
            if words.change(live, live.dying()) {
                self.finish(row, live.dying());
                break true;
            }
        };
        inner.clear_intent(self.id);
        removed
    }

    /// Steps 3 and 4 of remove, for a row that somebody moved to DYING. Anyone may.
    pub(crate) fn finish(&mut self, row: RowRef, dying: Ctl) {
        let arena = Rc::clone(&self.arena);
        let Some(words) = arena.0.row(row.index) else {
            return;
        };
        // Relaxed: written before the row was PENDING in the index; ordered by the load of ctl.
        arena.0.unlink(words.hash.load(Ordering::Relaxed), row);
        self.release(row, dying, None);
        if words.change(dying, dying.retired()) {
            self.push_limbo(Item::Row(row.index), dying.retired().0);
        }
    }

    /// Retires the blocks of a body that its row does not hold any more, but those in `kept`.
    pub(crate) fn release(&mut self, row: RowRef, ctl: Ctl, kept: Option<&[Block]>) {
        let Some(block) = ctl.body() else { return };
        let arena = Rc::clone(&self.arena);
        if let Some(body) = arena.0.body(block) {
            for child in body.children {
                if !kept.is_some_and(|k| k.contains(child)) {
                    self.retire_block(row, child.0);
                }
            }
        }
        self.retire_block(row, block);
    }

    /// Takes our own PENDING row out, or helps with it if somebody aborted it.
    fn abort(&mut self, row: RowRef, hash: u64) {
        let arena = Rc::clone(&self.arena);
        let Some(words) = arena.0.row(row.index) else {
            return;
        };
        let ctl = words.load();
        if ctl.generation() != row.generation {
            return;
        }
        if ctl.state() == Some(RowState::Pending) {
            // Lost: somebody else aborts it, to the same word.
            words.change(ctl, ctl.dying());
        }
        arena.0.unlink(hash, row);
        let dying = ctl.dying();
        if words.change(dying, dying.retired()) {
            self.push_limbo(Item::Row(row.index), dying.retired().0);
        }
    }

    pub(crate) fn meet(
        &mut self,
        hash: u64,
        key: &[u8],
        me: Option<RowRef>,
    ) -> Result<(), InsertError> {
        let arena = Rc::clone(&self.arena);
        let met = arena
            .0
            .meet(hash, key, me, |row, dying| self.finish(row, dying));
        match met {
            Met::Nobody => Ok(()),
            Met::Live(row) => {
                let owner = arena.0.descriptor(row_slab(row.index)).owner();
                Err(InsertError::Exists { row, owner })
            }
        }
    }

    fn write_body(&mut self, contents: &Contents<'_>, for_what: AllocClass) -> Result<u32, Full> {
        let block = self.allocate_block(contents.bytes(), for_what)?;
        let Some((at, size)) = self.inner().block_bytes(block) else {
            return Err(Full);
        };
        assert!(
            contents.bytes() <= size,
            "a block of the class that was asked for"
        );
        // SAFETY: a LOOSE block of ours, 64-aligned, big enough (checked): nobody else touches it. `contents` may lie in the arena, but in
        // other blocks.
        unsafe { contents.write(at) };
        Ok(block)
    }

    /// LOOSE → USED by this row, for a block of ours.
    fn attach(&self, block: u32, row: RowRef) -> bool {
        let inner = self.inner();
        let ours = inner.descriptor(block_slab(block)).owner() == self.id;
        match inner.load_meta(block) {
            Some(meta) if ours && meta.state() == Some(BlockState::Loose) => {
                inner.change_meta(block, meta, meta.used(row))
            }
            _ => false,
        }
    }

    /// USED by a row that never held them → LOOSE.
    fn detach(&self, blocks: &[Block], row: RowRef) {
        let inner = self.inner();
        for block in blocks {
            if let Some(meta) = inner.load_meta(block.0)
                && meta.state() == Some(BlockState::Used)
                && meta.row() == row
                && inner.descriptor(block_slab(block.0)).owner() == self.id
            {
                inner.change_meta(block.0, meta, meta.back_to_loose());
            }
        }
    }

    /// Frees the unattached ones among these blocks; those that a row has are left alone, so that a caller need not know which they are.
    pub fn free_children(&mut self, children: &[Block]) {
        for child in children {
            let inner = self.inner();
            let loose = inner
                .load_meta(child.0)
                .is_some_and(|m| m.state() == Some(BlockState::Loose));
            if loose && inner.descriptor(block_slab(child.0)).owner() == self.id {
                self.free_unseen(child.0);
            }
        }
    }

    /// Spins a random while, longer with each round.
    fn back_off(&mut self, round: u32) {
        self.backoff ^= self.backoff << 13;
        self.backoff ^= self.backoff >> 17;
        self.backoff ^= self.backoff << 5;
        for _ in 0..self.backoff % (16 << round.min(8)) {
            spin_loop();
        }
    }
}

/// Bytes of a whole body at most: head, children's numbers, key and payload.
pub const BODY_MAX: usize = 65536;
