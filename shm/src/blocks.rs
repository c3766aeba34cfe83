//! Blocks on their way to a row and back: LOOSE while they are filled, USED by the row that lists them, RETIRED when it does not any more.

use std::rc::Rc;

use crate::arena::Arena;
use crate::body::{Contents, HEADER_BYTES};
use crate::ctl::BlockState;
use crate::id::{Block, RowRef};
use crate::participant::{AllocClass, Full, Item, Participant};
use crate::slab::block_slab;

impl Participant {
    /// An unattached block of `len` bytes, to be filled and then listed as a child of a row. Dropped, it is freed; so it is if we die first.
    pub fn allocate(&mut self, len: usize, for_what: AllocClass) -> Result<BlockMut, Full> {
        let block = self.allocate_block(HEADER_BYTES.saturating_add(len), for_what)?;
        let Some((at, _)) = self.inner().block_bytes(block) else {
            return Err(Full);
        };
        // SAFETY: a LOOSE block of ours of at least HEADER_BYTES + len bytes: nobody else touches it.
        unsafe { crate::body::write_child_header(at, len) };
        Ok(BlockMut {
            arena: Rc::clone(&self.arena),
            block: Block(block),
            len,
        })
    }

    /// The bytes of a child, valid until the next `quiescent`: of a row that was found since the last one, or of an unattached block
    /// of our own. Empty if there is no such block.
    pub fn block(&self, block: Block) -> &[u8] {
        debug_assert!(self.online);
        self.inner().body(block.0).map_or(&[], |b| b.payload)
    }

    pub(crate) fn write_body(
        &mut self,
        contents: &Contents<'_>,
        for_what: AllocClass,
    ) -> Result<u32, Full> {
        let bytes = contents.bytes();
        let block = self.allocate_block(bytes, for_what)?;
        let Some((at, size)) = self.inner().block_bytes(block) else {
            return Err(Full);
        };
        assert!(bytes <= size, "a block of the class that was asked for");
        // SAFETY: a LOOSE block of ours, 64-aligned, big enough (checked): nobody else touches it. `contents` may lie in the arena, but in
        // other blocks.
        unsafe { contents.write(at) };
        Ok(block)
    }

    /// LOOSE → USED by this row, for a block of ours.
    pub(crate) fn attach(&self, block: u32, row: RowRef) -> bool {
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
    pub(crate) fn detach(&self, blocks: &[Block], row: RowRef) {
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

    /// LOOSE or USED → FREE for a block that no row has named yet.
    pub(crate) fn free_unseen(&mut self, block: u32) {
        let arena = Rc::clone(&self.arena);
        if let Some(meta) = arena.0.load_meta(block)
            && matches!(meta.state(), Some(BlockState::Loose | BlockState::Used))
            && arena.0.change_meta(block, meta, meta.free())
        {
            self.freed_block(block);
        }
    }

    /// USED by this row → RETIRED, by exactly one party; the winner waits out the grace period.
    pub(crate) fn retire_block(&mut self, row: RowRef, block: u32) -> bool {
        let arena = Rc::clone(&self.arena);
        let Some(meta) = arena.0.load_meta(block) else {
            return false;
        };
        let ours = meta.state() == Some(BlockState::Used) && meta.row() == row;
        let won = ours && arena.0.change_meta(block, meta, meta.retired());
        if won {
            self.push_limbo(Item::Block(block), meta.retired().0);
        }
        won
    }
}

/// A block that no row has yet: to be filled, then frozen and listed as a child.
#[derive(Debug)]
#[must_use = "a block that is dropped is freed"]
pub struct BlockMut {
    arena: Rc<Arena>,
    block: Block,
    len: usize,
}

impl BlockMut {
    /// The finished block. To be listed in the next `insert`, `publish` or `replace`, which frees it when it fails.
    pub fn freeze(self) -> Block {
        let block = self.block;
        let mut this = core::mem::ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped or used again, so the Rc is dropped once.
        unsafe { core::ptr::drop_in_place(&raw mut this.arena) };
        block
    }

    /// Fills the block from parts, as far as they fit, and freezes it.
    pub fn fill(mut self, parts: &[&[u8]]) -> Block {
        let mut rest: &mut [u8] = &mut self;
        for part in parts {
            let len = part.len().min(rest.len());
            let (head, tail) = rest.split_at_mut(len);
            head.copy_from_slice(&part[..len]);
            rest = tail;
        }
        self.freeze()
    }
}

impl core::ops::Deref for BlockMut {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.arena.0.body(self.block.0).map_or(&[], |b| b.payload)
    }
}

impl core::ops::DerefMut for BlockMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        let Some((at, size)) = self.arena.0.block_bytes(self.block.0) else {
            return &mut [];
        };
        let len = self.len.min(size - HEADER_BYTES);
        // SAFETY: HEADER_BYTES < the smallest block.
        let at = unsafe { at.add(HEADER_BYTES) };
        // SAFETY: `len` bytes inside a LOOSE block of ours; nobody else knows of it, and `self` is borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(at.as_ptr(), len) }
    }
}

impl Drop for BlockMut {
    fn drop(&mut self) {
        // A simulated death: whoever was killed tidies nothing up.
        #[cfg(feature = "failpoints")]
        if std::thread::panicking() {
            return;
        }
        let inner = &self.arena.0;
        if let Some(meta) = inner.load_meta(self.block.0)
            && meta.state() == Some(BlockState::Loose)
            && inner.change_meta(self.block.0, meta, meta.free())
        {
            // Here it is ourselves.
            inner.tell_owner(block_slab(self.block.0));
        }
    }
}
