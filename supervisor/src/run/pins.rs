//! Which core each slot's thread is pinned to.

use config::Pin;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// The cores that this process may use, in order.
pub(crate) fn allowed() -> Vec<u16> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else {
        return Vec::new();
    };
    (0..CpuSet::count())
        .filter(|core| set.is_set(*core).unwrap_or(false))
        .filter_map(|core| u16::try_from(core).ok())
        .collect()
}

/// One entry a slot.
pub(crate) fn cores(pin: &Pin, slots: u16, allowed: &[u16]) -> Vec<Option<u16>> {
    let slots = usize::from(slots);
    match pin {
        Pin::None => vec![None; slots],
        // Two threads pinned to one core would wait for each other while other cores are idle.
        Pin::Auto if allowed.len() < slots => vec![None; slots],
        Pin::Auto => allowed.iter().copied().map(Some).take(slots).collect(),
        Pin::List(list) => (0..slots).map(|slot| list.get(slot).copied()).collect(),
    }
}

/// Cores of a list that this process may not use.
pub(crate) fn forbidden(cores: &[Option<u16>], allowed: &[u16]) -> Vec<u16> {
    cores
        .iter()
        .flatten()
        .copied()
        .filter(|core| !allowed.contains(core))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins() {
        let allowed = [2, 3, 8];
        for (pin, slots, cores_wanted) in [
            (Pin::None, 2, vec![None, None]),
            (Pin::Auto, 2, vec![Some(2), Some(3)]),
            (Pin::Auto, 4, vec![None; 4]),
            (Pin::List(vec![8, 1]), 2, vec![Some(8), Some(1)]),
        ] {
            assert_eq!(cores(&pin, slots, &allowed), cores_wanted, "{pin:?}");
        }
        assert_eq!(forbidden(&[Some(8), Some(1), None], &allowed), [1]);
        assert!(!super::allowed().is_empty());
    }
}
