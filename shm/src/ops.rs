//! The operations on records. Each is a list of steps; a process may die after any of them.
//!
//! | insert (reserve, then publish) | survivors see | who cleans up |
//! |---|---|---|
//! | 1. look at all entries of the key and of the alias: a LIVE one → `Exists`; PENDING ones are aborted | nothing of us | |
//! | 2. row FREE → PENDING in a slab of ours; store its hashes | nothing (in no index) | recovery: our slabs |
//! | 3. entry 0 → row, the same for an alias; fence; look again as in 1 | a PENDING row, skipped by `find` | any inserter of the key, recovery |
//! | 4. block FREE → LOOSE, fill; metas of body and children LOOSE → USED by the row | the same | recovery: USED, but the row does not hold it |
//! | 5. **row PENDING → LIVE with its body** | the record | |
//!
//! | replace | survivors see | who cleans up |
//! |---|---|---|
//! | 1. block FREE → LOOSE, fill; intent := row, old word; metas → USED; expiry hint lowered | the old record | recovery, as above |
//! | 2. **LIVE, old body → LIVE, new body** | the new record | |
//! | 3. expiry hint lowered again; old body, and children that the new body does not list: USED → RETIRED, limbo | the same | recovery: intent; sweep: USED, not held |
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
//! Records that count in cells have steps more: see `counts`.
//!
//! Linearization points in bold. An operation that fails undoes its steps backwards; a `find` that succeeds takes effect at
//! its load of the control word. Steps 3 and 4 of remove are idempotent and may be done by several at once: each change has one winner, and the
//! winner puts the object into its limbo. *Progress*: find and with are wait-free; replace and remove fail rather than retry against others'
//! changes; insert as said in `index`.

use failpoint::failpoint;
use std::rc::Rc;

use stdx::Instant;
use sync::{Ordering, fence, spin_loop};

use crate::arena::{Arena, Inner};
use crate::body::{CHILDREN_MAX, Contents, KEY_MAX, NEVER};
use crate::counts::Count;
use crate::ctl::{Ctl, RowState, Version};
use crate::id::{Block, RowRef, TableId};
use crate::index::{Met, Name};
use crate::participant::{AllocClass, Full, Participant, Record};
use crate::slab::{Row, row_slab};

/// What is kept in the row or beside the payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowMeta {
    /// When `expire` may remove the record; `None`: never.
    pub expires_at: Option<Instant>,
    /// Eight bits for the table.
    pub flags: u8,
}

/// A record to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct New<'a> {
    /// Its name, unique in its table.
    pub key: &'a [u8],
    /// A second name, unique among the aliases of its table. Both stay as long as the record.
    pub alias: Option<&'a [u8]>,
    /// Its bytes, in parts.
    pub payload: &'a [&'a [u8]],
    /// Unattached blocks of ours.
    pub children: &'a [Block],
    /// Expiry and flags.
    pub meta: RowMeta,
    /// What it counts in: at most [`COUNTS_MAX`](crate::COUNTS_MAX). Such a record goes by [`remove_counted`](Participant::remove_counted) only.
    pub counts: &'a [Count],
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
    /// There is one with this alias, and another key.
    #[error("a record with this alias exists")]
    AliasTaken {
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
    /// There are as many records as the limit of this count allows.
    #[error("count {nth} is at its limit")]
    OverLimit {
        /// Which of [`New::counts`].
        nth: usize,
    },
    /// This count names no block of cells, or one of a record that is closed or gone, or is one too many.
    #[error("count {nth} names no block of cells")]
    NoCells {
        /// Which of [`New::counts`].
        nth: usize,
    },
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
}

impl Reserved {
    /// What the record's name will be.
    pub fn row(&self) -> RowRef {
        self.row
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // A simulated death: whoever was killed tidies nothing up.
        #[cfg(feature = "failpoints")]
        if std::thread::panicking() {
            return;
        }
        let inner = &self.arena.0;
        let Some(words) = inner.row(self.row.index) else {
            return;
        };
        let ctl = words.load();
        // Published, or abandoned so long ago that the row is another's.
        if ctl.is_live() || ctl.generation() != self.row.generation {
            return;
        }
        if ctl.state() == Some(RowState::Pending) {
            // Lost: somebody else aborts it, to the same word.
            words.change(ctl, ctl.dying());
        }
        // The sweep of our slab does the rest of what `Participant::finish` does.
        inner.unlink_row(&words, self.row);
    }
}

/// Rounds against other inserters of one key before giving up as `Stale`.
const ROUNDS_MAX: u32 = 64;

/// Both names of a record to be.
#[derive(Clone, Copy)]
struct Names<'a> {
    key: Name<'a>,
    alias: Option<Name<'a>>,
}

impl<'a> Names<'a> {
    #[inline]
    fn new(inner: &Inner, table: TableId, key: &'a [u8], alias: Option<&'a [u8]>) -> Self {
        Self {
            key: inner.key_name(table, key),
            alias: alias.map(|a| inner.alias_name(table, a)),
        }
    }
}

impl Inner {
    /// Step 3 of an insert but for the second look. `false`: no place in the index.
    fn enter(&self, words: &Row<'_>, row: RowRef, names: &Names<'_>) -> bool {
        // Relaxed: the entry's CAS publishes them (SYNC entry).
        words.hash.store(names.key.hash, Ordering::Relaxed);
        let alias = names.alias.map_or(0, |a| a.hash);
        words.alias.store(alias, Ordering::Relaxed);
        words.expires_at.store(NEVER, Ordering::Relaxed);
        self.link(names.key.hash, row) && (alias == 0 || self.link(alias, row))
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
        let (row, ctl) = inner.find(&inner.key_name(table, key))?;
        let body = inner.body(ctl.body()?)?;
        Some(f(self.record(row, ctl, &body)))
    }

    /// The record with this alias, as [`find`](Self::find).
    pub fn find_alias<R>(
        &self,
        table: TableId,
        alias: &[u8],
        f: impl FnOnce(Record<'_>) -> R,
    ) -> Option<R> {
        debug_assert!(self.online, "find_alias needs an announced epoch");
        let inner = self.inner();
        let (row, ctl) = inner.find(&inner.alias_name(table, alias))?;
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

    /// A new record with a key only, as [`insert_new`](Self::insert_new).
    pub fn insert(
        &mut self,
        table: TableId,
        key: &[u8],
        payload: &[&[u8]],
        children: &[Block],
        meta: RowMeta,
    ) -> Result<RowRef, InsertError> {
        let new = New {
            key,
            alias: None,
            payload,
            children,
            meta,
            counts: &[],
        };
        self.insert_new(table, &new)
    }

    /// A new record that another one makes way for, so that it takes from what is kept back for changes as well: the other must go next.
    pub fn insert_instead(&mut self, table: TableId, new: &New<'_>) -> Result<RowRef, InsertError> {
        let fills = std::mem::replace(&mut self.fills, true);
        let inserted = self.insert_new(table, new);
        self.fills = fills;
        inserted
    }

    /// A new record, unless there is one with its key or its alias. On an error the listed children are freed.
    pub fn insert_new(&mut self, table: TableId, new: &New<'_>) -> Result<RowRef, InsertError> {
        for round in 0..=ROUNDS_MAX {
            let reserved = match self.reserve_new(table, new.key, new.alias) {
                Ok(reserved) => reserved,
                Err(e) => {
                    self.free_children(new.children);
                    return Err(e);
                }
            };
            let row = reserved.row;
            match self.try_publish(row, new) {
                Ok(()) => return Ok(row),
                Err(InsertError::Stale) if round < ROUNDS_MAX => {
                    self.abort(row);
                    self.back_off(round);
                }
                Err(e) => {
                    self.abort(row);
                    self.free_children(new.children);
                    return Err(e);
                }
            }
        }
        Err(InsertError::Stale)
    }

    /// A reservation of a key only, as [`reserve_new`](Self::reserve_new).
    pub fn reserve(&mut self, table: TableId, key: &[u8]) -> Result<Reserved, InsertError> {
        self.reserve_new(table, key, None)
    }

    /// Steps 1 to 3 of an insert: the row has its names, but is no record yet. Another inserter of one of them aborts it, in which case `publish` fails.
    pub fn reserve_new(
        &mut self,
        table: TableId,
        key: &[u8],
        alias: Option<&[u8]>,
    ) -> Result<Reserved, InsertError> {
        assert!(self.online, "insert needs an announced epoch");
        if key.len() > KEY_MAX || alias.is_some_and(|a| a.len() > KEY_MAX) {
            return Err(InsertError::TooLong);
        }
        let arena = Rc::clone(&self.arena);
        let inner = &arena.0;
        let names = Names::new(inner, table, key, alias);
        self.meet(&names, None)?;
        let row = self.allocate_row(table).ok_or(InsertError::Full)?;
        let Some(words) = inner.row(row.index) else {
            return Err(InsertError::Full);
        };
        failpoint!("shm.insert.allocated");
        if !inner.enter(&words, row, &names) {
            self.abort(row);
            return Err(InsertError::Full);
        }
        failpoint!("shm.insert.linked");
        if let Err(e) = self.meet(&names, Some(row)) {
            self.abort(row);
            return Err(e);
        }
        failpoint!("shm.insert.reserved");
        Ok(Reserved { arena, row })
    }

    /// A reservation in this very row and generation, on an arena that nobody else uses; `None` if the row is not free for it. The caller knows that no record
    /// has one of these names, and that the row's slab is ours.
    pub(crate) fn reserve_at(
        &mut self,
        table: TableId,
        key: &[u8],
        alias: Option<&[u8]>,
        row: RowRef,
    ) -> Option<Reserved> {
        let arena = Rc::clone(&self.arena);
        let inner = &arena.0;
        let names = Names::new(inner, table, key, alias);
        let words = inner.row(row.index)?;
        let free = words.load();
        let pending = Ctl::pending_as(row.generation)?;
        if free.state() != Some(RowState::Free) || !words.change(free, pending) {
            return None;
        }
        if !inner.enter(&words, row, &names) {
            self.abort(row);
            return None;
        }
        Some(Reserved { arena, row })
    }

    /// [`publish_new`](Self::publish_new) of a record with a key only.
    pub fn publish(
        &mut self,
        reserved: Reserved,
        key: &[u8],
        payload: &[&[u8]],
        children: &[Block],
        meta: RowMeta,
    ) -> Result<RowRef, InsertError> {
        let new = New {
            key,
            alias: None,
            payload,
            children,
            meta,
            counts: &[],
        };
        self.publish_new(reserved, &new)
    }

    /// Steps 4 and 5: the reservation becomes a record. Key and alias are those that were reserved. On an error the reservation and the listed children
    /// are freed.
    pub fn publish_new(
        &mut self,
        reserved: Reserved,
        new: &New<'_>,
    ) -> Result<RowRef, InsertError> {
        let row = reserved.row;
        let Err(e) = self.try_publish(row, new) else {
            return Ok(row);
        };
        let table = self.inner().table_of(row.index);
        self.abort(row);
        self.free_children(new.children);
        if e == InsertError::Stale
            && let Some(table) = table
        {
            // Perhaps the other one has finished by now.
            let arena = Rc::clone(&self.arena);
            let names = Names::new(&arena.0, table, new.key, new.alias);
            self.meet(&names, None)?;
        }
        Err(e)
    }

    /// Undoes a reservation.
    pub fn abandon(&mut self, reserved: Reserved) {
        self.abort(reserved.row);
    }

    fn try_publish(&mut self, row: RowRef, new: &New<'_>) -> Result<(), InsertError> {
        let arena = Rc::clone(&self.arena);
        let inner = &arena.0;
        let expires_at = new.meta.expires_at.map_or(NEVER, Instant::as_nanos);
        let children = new.children;
        let contents = Contents {
            key: new.key,
            alias: new.alias,
            payload: new.payload,
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
        debug_assert!(
            inner.is_named(&words, row, new.key, new.alias),
            "the names that were reserved"
        );
        self.has_room(new.counts)?;
        let body = self.write_body(&contents, AllocClass::New)?;
        failpoint!("shm.insert.written");
        let attached = children.iter().all(|c| self.attach(c.0, row)) && self.attach(body, row);
        failpoint!("shm.insert.attached");
        // Relaxed: the CAS publishes it.
        words.expires_at.store(expires_at, Ordering::Relaxed);
        let live = pending.live(body, new.meta.flags);
        let done = match new.counts {
            _ if !attached => Err(InsertError::Stale),
            [] if words.change(pending, live) => Ok(()),
            [] => Err(InsertError::Stale),
            counts => self.publish_counted(row, pending, live, counts),
        };
        if done.is_err() {
            self.detach(children, row);
            self.free_unseen(body);
            return done;
        }
        failpoint!("shm.insert.published");
        done
    }

    #[cold]
    fn publish_counted(
        &mut self,
        row: RowRef,
        pending: Ctl,
        live: Ctl,
        counts: &[Count],
    ) -> Result<(), InsertError> {
        let arena = Rc::clone(&self.arena);
        let words = arena.0.row(row.index).ok_or(InsertError::Stale)?;
        let cells = self.admit(row, pending, counts)?;
        failpoint!("shm.insert.counted");
        if !words.change(pending, live) {
            self.take_back(&cells);
            return Err(InsertError::Stale);
        }
        arena.0.clear_intent(self.id);
        Ok(())
    }

    /// Swaps a record's body, if it still is in the version that was seen. Key and alias stay. `children` are the record's own from that version, which stay,
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
            alias: old.alias,
            payload,
            children,
            expires_at,
        };
        if children.len() > CHILDREN_MAX || contents.bytes() > BODY_MAX {
            return Err(ReplaceError::TooLong);
        }
        let body = self.write_body(&contents, AllocClass::Update)?;
        failpoint!("shm.replace.written");
        inner.set_intent_uncounted(self.id, row.index, live.0);
        failpoint!("shm.replace.intended");
        let attached = children
            .iter()
            .all(|c| old.children.contains(c) || self.attach(c.0, row))
            && self.attach(body, row);
        inner.lower(&words, expires_at);
        failpoint!("shm.replace.attached");
        let changed = live.changed(body, meta.flags);
        if !attached || !words.change(live, changed) {
            for child in children.iter().filter(|c| !old.children.contains(c)) {
                self.detach(&[*child], row);
            }
            self.free_unseen(body);
            inner.clear_intent(self.id);
            return Err(ReplaceError::Changed);
        }
        // Once more: a scan may have raised it to what the old body said.
        inner.lower(&words, expires_at);
        failpoint!("shm.replace.swapped");
        self.release(row, live, Some(children));
        failpoint!("shm.replace.released");
        inner.clear_intent(self.id);
        Ok(Version(changed.0))
    }

    /// Changes a record's flags, if it still is in the version that was seen. Its body stays, so that it takes no memory.
    pub fn reflag(
        &mut self,
        row: RowRef,
        expect: Version,
        flags: u8,
    ) -> Result<Version, ReplaceError> {
        assert!(self.online, "reflag needs an announced epoch");
        let words = self.inner().row(row.index).ok_or(ReplaceError::Gone)?;
        let live = words.load();
        if live.generation() != row.generation || !live.is_live() {
            return Err(ReplaceError::Gone);
        }
        let body = live.body().ok_or(ReplaceError::Gone)?;
        let changed = live.changed(body, flags);
        if live.0 != expect.0 || !words.change(live, changed) {
            return Err(ReplaceError::Changed);
        }
        failpoint!("shm.reflag.changed");
        // Who closes a record looks at its cells next, see `counts`.
        fence(Ordering::SeqCst);
        Ok(Version(changed.0))
    }

    /// Looks at everybody with one of these names but `me`.
    fn meet(&mut self, names: &Names<'_>, me: Option<RowRef>) -> Result<(), InsertError> {
        if me.is_some() {
            failpoint!("shm.broken.no_rescan", Ok(()));
        }
        if let Some(row) = self.meet_name(&names.key, me) {
            let owner = self.owner_of(row);
            return Err(InsertError::Exists { row, owner });
        }
        if let Some(alias) = &names.alias
            && let Some(row) = self.meet_name(alias, me)
        {
            let owner = self.owner_of(row);
            return Err(InsertError::AliasTaken { row, owner });
        }
        Ok(())
    }

    #[inline]
    fn meet_name(&mut self, name: &Name<'_>, me: Option<RowRef>) -> Option<RowRef> {
        let arena = Rc::clone(&self.arena);
        let met = arena.0.meet(name, me, |row, dying| self.finish(row, dying));
        match met {
            Met::Nobody => None,
            Met::Live(row) => Some(row),
        }
    }

    fn owner_of(&self, row: RowRef) -> u16 {
        self.inner().descriptor(row_slab(row.index)).owner()
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
