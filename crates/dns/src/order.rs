//! In which order services are tried (RFC 2782) and pointers are followed (RFC 3403 §4.1).

use stdx::Rng;

use crate::wire::{Pointer, Service};

/// Lower priorities first; among equals each is as likely to be next as its weight says.
pub(crate) fn services(list: &[Service], rng: &mut Rng) -> Vec<Service> {
    let mut left: Vec<Service> = list.to_vec();
    // Those of weight 0 first, so that they have a small chance and not none (RFC 2782).
    left.sort_by_key(|service| (service.priority, service.weight > 0));
    let mut ordered = Vec::with_capacity(left.len());
    while let Some(first) = left.first() {
        let priority = first.priority;
        let class = || left.iter().take_while(|other| other.priority == priority);
        let sum: u32 = class().map(|other| u32::from(other.weight)).sum();
        let wanted = rng.below(sum.saturating_add(1));
        let mut running = 0;
        let at = class().position(|other| {
            running += u32::from(other.weight);
            running >= wanted
        });
        ordered.push(left.remove(at.unwrap_or(0)));
    }
    ordered
}

/// Lower orders first, then lower preferences.
pub(crate) fn pointers(list: &[Pointer]) -> Vec<&Pointer> {
    let mut ordered: Vec<&Pointer> = list.iter().collect();
    ordered.sort_by_key(|pointer| (pointer.order, pointer.preference));
    ordered
}

/// Any order, each as likely as the other.
pub(crate) fn shuffle<T>(list: &mut [T], rng: &mut Rng) {
    for end in (1..list.len()).rev() {
        let bound = u32::try_from(end + 1).unwrap_or(u32::MAX);
        list.swap(end, rng.below(bound) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::host_name;

    fn service(priority: u16, weight: u16, name: &str) -> Service {
        Service {
            priority,
            weight,
            port: 5060,
            target: host_name(name.as_bytes()).unwrap(),
        }
    }

    fn firsts(list: &[Service], rounds: u64) -> std::collections::BTreeMap<String, u32> {
        let mut count = std::collections::BTreeMap::new();
        for seed in 0..rounds {
            let ordered = services(list, &mut Rng::new(seed));
            assert_eq!(ordered.len(), list.len());
            assert!(
                ordered
                    .windows(2)
                    .all(|pair| pair[0].priority <= pair[1].priority)
            );
            *count.entry(ordered[0].target.to_ascii()).or_default() += 1;
        }
        count
    }

    #[test]
    fn weights_are_shares() {
        let list = [
            service(10, 60, "a.example"),
            service(10, 30, "b.example"),
            service(10, 10, "c.example"),
            service(5, 1, "never-second.example"),
        ];
        assert_eq!(firsts(&list, 100).len(), 1, "the lowest priority is first");
        let count = firsts(&list[..3], 10_000);
        for (name, share) in [
            ("a.example.", 6000),
            ("b.example.", 3000),
            ("c.example.", 1000),
        ] {
            assert!(count[name].abs_diff(share) < 300, "{count:?}");
        }
    }

    #[test]
    fn weight_zero_has_a_small_chance() {
        let list = [service(1, 0, "zero.example"), service(1, 99, "big.example")];
        let count = firsts(&list, 10_000);
        let zero = count.get("zero.example.").copied().unwrap_or(0);
        assert!((30..300).contains(&zero), "{count:?}");
        let equal = [service(1, 0, "x.example"), service(1, 0, "y.example")];
        assert!(!firsts(&equal, 10).is_empty());
    }
}
