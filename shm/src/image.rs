//! Records out of an arena and into another: for snapshots, and for the move to an arena of another size or layout.
//!
//! *Export* walks the rows of a table while everybody goes on. What it gives is fuzzy: each record is as it was at one moment, but not all of them at the same
//! moment. Of a record that is there from the beginning of the walk to its end, one version is given; one that is removed and made again meanwhile may be given
//! twice (the later one is the newer), or not at all.
//!
//! A record is copied out in these steps: 1. load its control word (**the moment at which it was LIVE**); 2. copy key, payload and the payloads of its
//! children, all of them immutable and safe from reuse until our next quiescence; 3. load the control word again, and if it has changed, start again. The last step is
//! not needed for a whole copy: it gives the newest version, leaves out what went meanwhile, and notices a process that breaks the protocol. It is tried a few
//! times only; then the last whole copy counts. An exporter writes nothing into the arena but its epoch; if it dies, there is its epoch to recover.
//!
//! *Import* puts a record at the same row number and generation, so that names of it (in branches, in Record-Route values) stay true. The arena must be nobody
//! else's: the importer acts as every slot at once. Rows keep their owner where there is such a slot; other owners' go to the slot of their number modulo the
//! slots. A block of cells becomes one of its whole total, which is exact if nobody counts meanwhile. Where a row can't be had (its slab does not exist, or is something else already), the record goes to any row of its owner. If an importer dies,
//! or gives up, the arena is thrown away: nobody has seen it.

use stdx::Instant;

use crate::arena::Arena;
use crate::body::CHILDREN_MAX;
use crate::id::{Block, ParticipantId, RowRef, TableId};
use crate::ops::{InsertError, New, RowMeta};
use crate::participant::{AllocClass, Participant, Record};
use crate::slab::{Kind, row_slab};
use crate::walk::{Cursor, walk};

/// A record outside of any arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image<'a> {
    /// Its table.
    pub table: TableId,
    /// Its name.
    pub row: RowRef,
    /// Whose slab its row lies in: a participant's number.
    pub owner: u16,
    /// As given with the record.
    pub flags: u8,
    /// As given with the record; `None`: never.
    pub expires_at: Option<Instant>,
    /// Its key.
    pub key: &'a [u8],
    /// Its other name, if it has one.
    pub alias: Option<&'a [u8]>,
    /// Its payload.
    pub payload: &'a [u8],
    /// The payloads of its further blocks, in their order; of a block of cells its total, eight bytes in little-endian order.
    pub children: &'a [&'a [u8]],
    /// Which of the children are blocks of cells, a bit each, the first one's lowest.
    pub cells: u64,
}

/// Copies of one record before the last counts, although it has changed again.
const COPIES_MAX: u32 = 8;

/// Where a record is copied to, used again for the next.
#[derive(Debug, Default)]
struct Copied {
    bytes: Vec<u8>,
    /// Ends of key, alias (empty without), payload and children in `bytes`.
    ends: Vec<usize>,
    /// As in [`Image`].
    cells: u64,
}

impl Copied {
    fn push(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
        self.ends.push(self.bytes.len());
    }

    fn take(&mut self, record: &Record<'_>, of: &Participant) {
        self.bytes.clear();
        self.ends.clear();
        self.push(record.key);
        self.push(record.alias.unwrap_or_default());
        self.push(record.payload);
        self.cells = 0;
        for (nth, child) in record.children.iter().enumerate() {
            if of.is_cells(*child) {
                self.cells |= 1 << nth;
                self.push(&of.cells_total(*child).to_le_bytes());
            } else {
                self.push(of.block(*child));
            }
        }
    }

    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let starts = core::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(from, to)| self.bytes.get(from..*to).unwrap_or_default())
    }
}

impl Participant {
    /// Copies out the records of a table, looking at `max` rows from `cursor` on; `None` at the end. Online, with a quiescent point between two calls, so that the
    /// walk does not hold up anybody's memory: `f` gets its own copy, and is to keep it short.
    pub fn export(
        &self,
        table: TableId,
        cursor: Cursor,
        max: usize,
        mut f: impl FnMut(&Image<'_>),
    ) -> Option<Cursor> {
        debug_assert!(self.online, "an export needs an announced epoch");
        let inner = self.inner();
        let mine = |slab| inner.descriptor(slab).kind() == Some(Kind::Rows(table));
        let mut copied = Copied::default();
        walk(inner, cursor, max, mine, |index, words| {
            let mut seen = words.load();
            for copies in 1.. {
                let body = seen.is_live().then(|| seen.body()).flatten();
                let Some(body) = body.and_then(|body| inner.body(body)) else {
                    return;
                };
                let row = RowRef {
                    index,
                    generation: seen.generation(),
                };
                let record = self.record(row, seen, &body);
                copied.take(&record, self);
                let now = words.load();
                if now != seen && copies < COPIES_MAX {
                    seen = now;
                    continue;
                }
                let mut parts = copied.parts();
                let (key, alias, payload) = (parts.next(), parts.next(), parts.next());
                let children: Vec<&[u8]> = parts.collect();
                f(&Image {
                    table,
                    row,
                    owner: record.owner,
                    flags: record.flags,
                    expires_at: record.expires_at,
                    key: key.unwrap_or_default(),
                    alias: alias.filter(|_| record.alias.is_some()),
                    payload: payload.unwrap_or_default(),
                    children: &children,
                    cells: copied.cells,
                });
                return;
            }
        })
    }
}

/// What an import did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Records that are there now.
    pub records: u64,
    /// Of these, such as are not in the row that they had.
    pub moved: u64,
    /// Records that a later one of the same key or alias took the place of.
    pub replaced: u64,
}

/// Rows of one table and owner beside each other, at least one of them with a record: what an importer has to claim before it is given the first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    pub table: TableId,
    /// A participant's number.
    pub owner: u16,
    /// The first one's number.
    pub first: u32,
    pub count: u32,
}

impl Arena {
    /// Where the records of an arena at rest lie.
    pub fn rows_in_use(&self) -> impl Iterator<Item = Rows> + '_ {
        (0..self.layout().tables).flat_map(move |table| {
            let table = TableId(table);
            let slabs = self.0.row_slabs(Some(table));
            slabs.filter_map(move |(slab, owner)| {
                let mut used = self
                    .0
                    .rows_in(slab)
                    .filter(|(_, words)| words.load().is_live())
                    .map(|(index, _)| index);
                let first = used.next()?;
                let last = used.last().unwrap_or(first);
                Some(Rows {
                    table,
                    owner,
                    first,
                    count: last - first + 1,
                })
            })
        })
    }
}

/// Fills an arena that nobody else uses.
#[derive(Debug)]
pub struct Importer {
    /// By slot.
    slots: Vec<Participant>,
    done: Imported,
    /// Records since the last quiescence.
    since: u32,
}

/// Records between two points of quiescence.
const RECORDS_PER_TURN: u32 = 1024;
/// Turns after which the last grace periods are over, in any case.
const LAST_TURNS: usize = 64;

impl Importer {
    /// Acts as every slot of this arena, which nobody else uses.
    pub fn new(arena: &Arena) -> Self {
        let mut slots: Vec<Participant> = (0..arena.layout().slots)
            .map(|slot| arena.participant(ParticipantId(slot)))
            .collect();
        for participant in &mut slots {
            participant.online();
            // What it owns by now; claimed slabs come later, so that no record which has to move takes another's row.
            participant.adopt();
            // What fitted there fits here, or a full server could not be started again.
            participant.fills = true;
        }
        Self {
            slots,
            done: Imported::default(),
            since: 0,
        }
    }

    fn slot_of(&self, owner: u16) -> usize {
        usize::from(owner) % self.slots.len()
    }

    /// Takes the slab of this row for its table and owner, so that nothing else comes to lie there. To be called for every record before the first
    /// [`insert`](Self::insert); a record whose row was not claimed moves.
    pub fn claim(&mut self, table: TableId, row: RowRef, owner: u16) {
        let slot = self.slot_of(owner);
        let Some(participant) = self.slots.get(slot) else {
            return;
        };
        let inner = participant.inner();
        let slab = row_slab(row.index);
        let free = slab < inner.geometry.slabs
            && table.0 < inner.geometry.layout.tables
            && inner.descriptor(slab).kind() == Some(Kind::Free);
        if free {
            // Without it the record moves.
            let _ = inner.take_this_slab(slab, Kind::Rows(table), slot as u16);
        }
    }

    /// Puts a record in, in place of earlier ones of the same key or alias. Says where it is now.
    pub fn insert(&mut self, image: &Image<'_>) -> Result<RowRef, InsertError> {
        self.since += 1;
        if self.since >= RECORDS_PER_TURN {
            self.turn();
        }
        let slot = self.slot_of(image.owner);
        let Some(participant) = self.slots.get_mut(slot) else {
            return Err(InsertError::Full);
        };
        if image.table.0 >= participant.inner().geometry.layout.tables {
            return Err(InsertError::Full);
        }
        let earlier = [
            participant.find(image.table, image.key, |record| record.row),
            image
                .alias
                .and_then(|alias| participant.find_alias(image.table, alias, |record| record.row)),
        ];
        for earlier in earlier.into_iter().flatten() {
            if participant.remove(earlier, None) {
                self.done.replaced += 1;
                self.done.records -= 1;
            }
        }
        let children = allocate(participant, image)?;
        let meta = RowMeta {
            expires_at: image.expires_at,
            flags: image.flags,
        };
        let d = participant.inner().descriptor(row_slab(image.row.index));
        let ours = d.kind() == Some(Kind::Rows(image.table)) && usize::from(d.owner()) == slot;
        let place = ours
            .then(|| participant.reserve_at(image.table, image.key, image.alias, image.row))
            .flatten();
        let payload = [image.payload];
        let new = New {
            key: image.key,
            alias: image.alias,
            payload: &payload,
            children: &children,
            meta,
            counts: &[],
        };
        let row = match place {
            Some(place) => participant.publish_new(place, &new)?,
            None => participant.insert_new(image.table, &new)?,
        };
        self.done.records += 1;
        self.done.moved += u64::from(row != image.row);
        Ok(row)
    }

    fn turn(&mut self) {
        self.since = 0;
        self.slots.iter_mut().for_each(Participant::quiescent);
    }

    /// Leaves the arena as if no slot had ever been served, with its records in it.
    pub fn finish(mut self) -> Imported {
        for _ in 0..LAST_TURNS {
            self.turn();
        }
        self.done
    }
}

/// The children of a record, all or none.
fn allocate(participant: &mut Participant, image: &Image<'_>) -> Result<Vec<Block>, InsertError> {
    let mut children = Vec::with_capacity(image.children.len());
    for (nth, payload) in image.children.iter().enumerate() {
        let cells = nth < CHILDREN_MAX && image.cells & (1 << nth) != 0;
        let block = match payload.first_chunk() {
            Some(total) if cells => participant.allocate_cells_with(i64::from_le_bytes(*total)),
            _ => participant
                .allocate(payload.len(), AllocClass::New)
                .map(|block| block.fill(&[payload])),
        };
        match block {
            Ok(block) => children.push(block),
            Err(full) => {
                participant.free_children(&children);
                return Err(full.into());
            }
        }
    }
    Ok(children)
}
