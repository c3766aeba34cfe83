//! Small pages or huge ones.
//!
//! A worker that dies gives back one page-table entry for each page that it has touched, and the kernel tells of its death only after that: 20 to 70 µs for
//! each MiB of small pages, next to nothing with huge ones (`examples/exit.rs`). So huge pages decide how soon an heir can begin (and how often a look-up misses the TLB).
//!
//! | [`Paging`] | comes from | backed by |
//! |---|---|---|
//! | `Reserved` | pages set aside by `vm.nr_hugepages` | `fallocate`, huge page by huge page |
//! | `Advised` | `shmem_enabled` allows them on request | MADV_POPULATE_WRITE through our mapping |
//! | `Collapsed` | neither: small pages are gathered afterwards (MADV_COLLAPSE), ahead of their use | `fallocate` |
//! | `Small` | huge pages are off | `fallocate` |
//!
//! Whatever the form, memory is there before anybody stores to it: an arena never faults with SIGBUS.

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use os::{HUGE_PAGE, Seals};
use sync::Ordering;

use crate::arena::Arena;
use crate::layout::{AT_SLABS_FREE, EXTENT_SLABS};
use crate::map::Map;

/// Tries of a page before it counts as refused.
const COLLAPSE_TRIES: u32 = 3;

/// What is asked for (`memory.huge_pages`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Small pages.
    #[default]
    Off,
    /// The best form that the kernel offers.
    Auto,
    /// Pages that the kernel gives as huge ones from the start, or no arena.
    Required,
}

/// What an arena is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paging {
    /// Small pages.
    Small,
    /// Huge pages that were set aside.
    Reserved,
    /// Huge pages on request.
    Advised,
    /// Small pages that are gathered into huge ones ahead of their use.
    Collapsed,
}

impl Paging {
    pub(crate) const fn pack(self) -> u64 {
        match self {
            Self::Small => 0,
            Self::Reserved => 1,
            Self::Advised => 2,
            Self::Collapsed => 3,
        }
    }

    /// A word that we did not write means small pages, which are right for any file.
    pub(crate) const fn unpack(word: u64) -> Self {
        match word {
            1 => Self::Reserved,
            2 => Self::Advised,
            3 => Self::Collapsed,
            _ => Self::Small,
        }
    }

    /// The word for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Reserved => "huge, set aside",
            Self::Advised => "huge, on request",
            Self::Collapsed => "huge, gathered",
        }
    }

    /// The length of the data file for a geometry that ends here.
    pub(crate) const fn file_bytes(self, end: u64) -> u64 {
        match self {
            Self::Reserved | Self::Advised | Self::Collapsed => end.next_multiple_of(HUGE_PAGE),
            Self::Small => end,
        }
    }

    /// Has the kernel reserve these bytes of the file. Huge pages are taken whole.
    pub(crate) fn back(self, file: &OwnedFd, map: &Map, at: u64, bytes: u64) -> Result<(), Errno> {
        let (at, bytes) = match self {
            Self::Small | Self::Collapsed => (at, bytes),
            Self::Reserved | Self::Advised => {
                let first = at - at % HUGE_PAGE;
                (first, (at + bytes).next_multiple_of(HUGE_PAGE) - first)
            }
        };
        if bytes == 0 {
            return Ok(());
        }
        if self == Self::Advised
            && let Some(mapping) = map.mapping()
        {
            return again(|| mapping.populate(at, bytes).map_err(|e| errno(&e)));
        }
        let (Ok(at), Ok(bytes)) = (i64::try_from(at), i64::try_from(bytes)) else {
            return Err(Errno::EFBIG);
        };
        again(|| fallocate(file, FallocateFlags::empty(), at, bytes))
    }
}

fn again(mut call: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

fn errno(error: &io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}

/// The data file in the form that is asked for and possible.
pub(crate) fn data_file(end: u64, huge: HugePages, seals: Seals) -> io::Result<(OwnedFd, Paging)> {
    let small = |paging: Paging| {
        let file = os::memfd("tandem-data", paging.file_bytes(end), seals)?;
        Ok((file, paging))
    };
    if huge == HugePages::Off {
        return small(Paging::Small);
    }
    let bytes = Paging::Reserved.file_bytes(end);
    if os::huge_pages_free() >= bytes
        && let Ok(file) = os::memfd_huge("tandem-data", bytes, seals)
    {
        return Ok((file, Paging::Reserved));
    }
    if os::shared_memory_may_be_huge() {
        return small(Paging::Advised);
    }
    match huge {
        HugePages::Required => Err(Errno::EOPNOTSUPP.into()),
        HugePages::Auto | HugePages::Off => small(Paging::Collapsed),
    }
}

/// What one call of [`Arena::collapse`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collapsed {
    /// Bytes in huge pages now.
    pub huge: u64,
    /// Bytes that the kernel did not gather: no huge page was free, or somebody used them.
    pub refused: u64,
}

impl Arena {
    /// What the arena is made of.
    pub fn paging(&self) -> Paging {
        self.0.paging
    }

    /// Slabs that are backed by memory, of all.
    pub fn slabs_backed(&self) -> (u32, u32) {
        (self.0.slabs_backed(), self.0.geometry.slabs)
    }

    /// Slabs that nobody has taken, as of the last time anybody took or gave one back.
    pub fn slabs_free_hint(&self) -> u32 {
        // Relaxed: a hint.
        let free = self.0.map.word(AT_SLABS_FREE).load(Ordering::Relaxed);
        u32::try_from(free).unwrap_or(u32::MAX)
    }

    /// Backs slabs ahead of their use, up to this number.
    pub fn back_ahead(&self, slabs: u32) -> Result<(), Errno> {
        let last = slabs.min(self.0.geometry.slabs);
        for slab in (0..last).step_by(EXTENT_SLABS as usize) {
            self.0.back_slab(slab).ok_or(Errno::ENOMEM)?;
        }
        Ok(())
    }

    /// Gathers small pages into huge ones: those wholly inside what is backed, from the `from`th slab on and, with `from` 0, the fixed regions too. Takes
    /// milliseconds for each MiB, and stops who touches that very MiB for so long: to be called from a process of its own, before the slabs are used.
    pub fn collapse(&self, from: u32, mut goes_on: impl FnMut() -> bool) -> Collapsed {
        let mut done = Collapsed::default();
        let Some(mapping) = self.0.map.mapping() else {
            return done;
        };
        let g = &self.0.geometry;
        let (to, _) = self.slabs_backed();
        let from = from.min(to);
        // The page in which the range before this one ended lay half outside it: it is of this one.
        let from_page = |first: u64, from: u64| {
            let whole = from / HUGE_PAGE * HUGE_PAGE;
            whole.max(first.next_multiple_of(HUGE_PAGE))
        };
        let mut ranges = vec![
            (from_page(g.metas_of(0), g.metas_of(from)), g.metas_of(to)),
            (from_page(g.slab(0), g.slab(from)), g.slab(to)),
        ];
        if from == 0 {
            ranges.extend([(0, g.rings), (g.rx, g.metas)]);
        }
        for (start, end) in ranges {
            let mut at = start.next_multiple_of(HUGE_PAGE);
            while at + HUGE_PAGE <= end && goes_on() {
                // Which fails as well if one of the pages is in the kernel's own hands for a moment.
                let gathered = (0..COLLAPSE_TRIES).any(|_| mapping.collapse(at, HUGE_PAGE).is_ok());
                if gathered {
                    done.huge += HUGE_PAGE;
                } else {
                    done.refused += HUGE_PAGE;
                }
                at += HUGE_PAGE;
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;

    #[test]
    fn words_and_lengths() {
        for paging in [
            Paging::Small,
            Paging::Reserved,
            Paging::Advised,
            Paging::Collapsed,
        ] {
            assert_eq!(Paging::unpack(paging.pack()), paging);
            assert!(paging.file_bytes(5 << 20) >= 5 << 20);
        }
        assert_eq!(Paging::Small.file_bytes(4097), 4097);
        assert_eq!(Paging::Reserved.file_bytes(4097), HUGE_PAGE);
        assert_eq!(Paging::unpack(99), Paging::Small);
    }

    #[test]
    fn an_arena_in_the_best_form_there_is() {
        let layout = Layout::new(64 << 20, 2, 2, 2);
        let arena = Arena::create_paged(&layout, [1; 16], HugePages::Auto).unwrap();
        assert_ne!(arena.paging(), Paging::Small);
        assert_eq!(arena.slabs_backed().0, 0);
        arena.back_ahead(200).unwrap();
        let (backed, all) = arena.slabs_backed();
        assert!(backed >= 200 && backed <= all);
        if arena.paging() == Paging::Collapsed {
            let done = arena.collapse(0, || true);
            assert!(done.huge + done.refused >= 8 << 20, "{done:?}");
        }
        let (control, data) = arena.fds().unwrap();
        let twin = Arena::attach(
            control.try_clone_to_owned().unwrap(),
            data.try_clone_to_owned().unwrap(),
        )
        .unwrap();
        assert_eq!(twin.paging(), arena.paging());
        arena.back_ahead(u32::MAX).unwrap();
        let (backed, all) = twin.slabs_backed();
        assert_eq!(backed, all);
    }

    #[test]
    fn piece_by_piece_as_much_is_gathered_as_at_once() {
        let layout = Layout::new(64 << 20, 2, 2, 2);
        let arena = Arena::create_paged(&layout, [1; 16], HugePages::Auto).unwrap();
        if arena.paging() != Paging::Collapsed {
            return;
        }
        let looked_at = |from| {
            let done = arena.collapse(from, || true);
            done.huge + done.refused
        };
        let (mut pieces, mut from) = (0, 0);
        loop {
            arena.back_ahead(from + 100).unwrap();
            pieces += looked_at(from);
            let (backed, all) = arena.slabs_backed();
            if backed == all {
                break;
            }
            from = backed;
        }
        assert!(from > 300, "several pieces");
        assert_eq!(pieces, looked_at(0));
    }

    #[test]
    fn what_is_required_is_there_or_refused() {
        let layout = Layout::new(64 << 20, 2, 2, 2);
        match Arena::create_paged(&layout, [1; 16], HugePages::Required) {
            Ok(arena) => assert!(matches!(arena.paging(), Paging::Reserved | Paging::Advised)),
            Err(error) => assert!(error.to_string().contains("EOPNOTSUPP"), "{error}"),
        }
    }
}
