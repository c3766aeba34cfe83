//! The mapped bytes: the only place where an offset becomes a pointer.
//!
//! Words are reached as atomics, payload bytes through raw pointers; nobody ever holds a `&mut` into the map. Both doors check their
//! bounds, so garbage in the arena can at worst panic, never reach outside.
//!
//! Under the model checker a word is more than eight bytes: there the words live beside the bytes, line by line, made when they are first asked for.

use std::alloc;
use std::ptr::NonNull;

use os::Mapping;
use sync::AtomicU64;

pub(crate) struct Map {
    base: NonNull<u8>,
    len: u64,
    keep: Keep,
    #[cfg(loom)]
    typed: Typed,
}

/// Words of the model checker, by line; headers of slots, by number.
#[cfg(loom)]
#[derive(Default)]
struct Typed {
    lines: std::sync::Mutex<std::collections::HashMap<u64, Box<[AtomicU64; 8]>>>,
    slots: std::sync::Mutex<std::collections::HashMap<u16, Box<crate::slot::SlotHeader>>>,
}

/// What keeps the bytes mapped.
enum Keep {
    Mapped(Mapping),
    /// For Miri and for unit tests: no file behind it.
    Heap(alloc::Layout),
}

// SAFETY: the map is reached through atomics and through raw pointers whose users keep the arena's protocol (`ctl` decides who
// may write a payload byte, the epoch who may still read it), which is made for many threads and processes.
unsafe impl Send for Map {}
// SAFETY: as for Send.
unsafe impl Sync for Map {}

impl Map {
    pub(crate) fn mapped(mapping: Mapping) -> Self {
        Self {
            base: mapping.base(),
            len: mapping.len() as u64,
            keep: Keep::Mapped(mapping),
            #[cfg(loom)]
            typed: Typed::default(),
        }
    }

    /// What the kernel's advice can be asked of; `None` on the heap.
    pub(crate) fn mapping(&self) -> Option<&Mapping> {
        match &self.keep {
            Keep::Mapped(mapping) => Some(mapping),
            Keep::Heap(_) => None,
        }
    }

    pub(crate) fn heap(len: u64) -> Option<Self> {
        let layout = alloc::Layout::from_size_align(usize::try_from(len).ok()?, 4096).ok()?;
        if layout.size() == 0 {
            return None;
        }
        // SAFETY: the size is not zero.
        let base = unsafe { alloc::alloc_zeroed(layout) };
        NonNull::new(base).map(|base| Self {
            base,
            len,
            keep: Keep::Heap(layout),
            #[cfg(loom)]
            typed: Typed::default(),
        })
    }

    /// The word at this offset.
    #[inline]
    #[cfg(not(loom))]
    pub(crate) fn word(&self, at: u64) -> &AtomicU64 {
        assert!(
            at.is_multiple_of(8) && at < self.len && self.len - at >= 8,
            "a word of the map"
        );
        // SAFETY: at + 8 <= len, checked above; the map is at least `len` bytes.
        let word = unsafe { self.base.add(at as usize) };
        // SAFETY: page-aligned base plus a multiple of 8, inside the map, and mapped as long as `self` lives. Words and payload
        // bytes lie in different regions (rows in row slabs, bytes in block slabs; a slab changes its kind only while empty).
        unsafe { word.cast::<AtomicU64>().as_ref() }
    }

    /// The cache line at this offset.
    #[inline]
    #[cfg(not(loom))]
    pub(crate) fn line(&self, at: u64) -> &[AtomicU64; 8] {
        assert!(
            at.is_multiple_of(64) && at < self.len && self.len - at >= 64,
            "a line of the map"
        );
        // SAFETY: at + 64 <= len, checked above.
        let line = unsafe { self.base.add(at as usize) };
        // SAFETY: as in `word`.
        unsafe { line.cast::<[AtomicU64; 8]>().as_ref() }
    }

    /// `count` words from this offset on.
    #[cfg(not(loom))]
    pub(crate) fn words(&self, at: u64, count: usize) -> &[AtomicU64] {
        let bytes = count as u64 * 8;
        assert!(
            at.is_multiple_of(8) && at <= self.len && bytes <= self.len - at,
            "words of the map"
        );
        // SAFETY: at + bytes <= len, checked above.
        let first = unsafe { self.base.add(at as usize) };
        // SAFETY: as in `word`, `count` times.
        unsafe { core::slice::from_raw_parts(first.cast::<AtomicU64>().as_ptr(), count) }
    }

    /// The four words of a row at this offset.
    #[inline]
    #[cfg(not(loom))]
    pub(crate) fn row(&self, at: u64) -> &[AtomicU64; 4] {
        assert!(
            at.is_multiple_of(32) && at < self.len && self.len - at >= 32,
            "a row of the map"
        );
        // SAFETY: at + 32 <= len, checked above.
        let row = unsafe { self.base.add(at as usize) };
        // SAFETY: as in `word`.
        unsafe { row.cast::<[AtomicU64; 4]>().as_ref() }
    }

    #[cfg(loom)]
    pub(crate) fn line(&self, at: u64) -> &[AtomicU64; 8] {
        assert!(at.is_multiple_of(64) && at + 64 <= self.len);
        let mut lines = self.typed.lines.lock().expect("no panic while it is held");
        let line = lines.entry(at).or_default();
        let line = NonNull::from(&mut **line);
        // SAFETY: boxed, and never removed or replaced before `self` is dropped; shared references only from here on.
        unsafe { line.as_ref() }
    }

    #[cfg(loom)]
    pub(crate) fn word(&self, at: u64) -> &AtomicU64 {
        assert!(at.is_multiple_of(8));
        &self.line(at & !63)[(at % 64 / 8) as usize]
    }

    /// Only as far as a line goes: what is modelled needs no more.
    #[cfg(loom)]
    pub(crate) fn words(&self, at: u64, count: usize) -> &[AtomicU64] {
        &self.line(at & !63)[(at % 64 / 8) as usize..][..count]
    }

    #[cfg(loom)]
    pub(crate) fn row(&self, at: u64) -> &[AtomicU64; 4] {
        assert!(at.is_multiple_of(32));
        let words = self.words(at, 4);
        words.first_chunk().expect("half a line")
    }

    #[cfg(loom)]
    pub(crate) fn slot(&self, slot: u16) -> &crate::slot::SlotHeader {
        let mut slots = self.typed.slots.lock().expect("no panic while it is held");
        let slot = NonNull::from(&mut **slots.entry(slot).or_default());
        // SAFETY: as in `line`.
        unsafe { slot.as_ref() }
    }

    /// A pointer to `len` bytes at this offset.
    #[inline]
    pub(crate) fn bytes(&self, at: u64, len: u64) -> NonNull<u8> {
        assert!(at <= self.len && len <= self.len - at, "bytes of the map");
        // SAFETY: at + len <= len of the map, checked above.
        unsafe { self.base.add(at as usize) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if let Keep::Heap(layout) = self.keep {
            // SAFETY: allocated in `heap` with this layout, and freed once.
            unsafe { alloc::dealloc(self.base.as_ptr(), layout) }
        }
    }
}
