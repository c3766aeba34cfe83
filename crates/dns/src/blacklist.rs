//! Hops that did not answer: tried last for a while, then probed by one request.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use stdx::Instant;

/// Dead hops that are remembered; beyond, the one whose time ends first is forgotten.
const HOPS_MAX: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Dead {
    /// Last until then.
    until: Instant,
    /// A request is trying it; the others leave it last until then.
    probed: Option<Instant>,
}

/// The dead.
#[derive(Debug, Default)]
pub(crate) struct Blacklist(BTreeMap<SocketAddr, Dead>);

impl Blacklist {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// A hop has not answered. True if that is news.
    pub(crate) fn dead(&mut self, now: Instant, hop: SocketAddr, time: Duration) -> bool {
        if time == Duration::ZERO {
            return false;
        }
        let dead = Dead {
            until: now + time,
            probed: None,
        };
        let known = self.0.insert(hop, dead).is_some();
        if self.0.len() > HOPS_MAX
            && let Some((&first, _)) = self.0.iter().min_by_key(|(_, dead)| dead.until)
        {
            self.0.remove(&first);
        }
        !known
    }

    /// A hop has answered.
    pub(crate) fn alive(&mut self, hop: SocketAddr) {
        self.0.remove(&hop);
    }

    /// Puts the dead last, each part in its order. Who comes first although its time has just ended is probed by this request.
    pub(crate) fn order(&mut self, now: Instant, time: Duration, hops: &mut Vec<SocketAddr>) {
        if self.0.is_empty() {
            return;
        }
        let (mut alive, dead): (Vec<_>, Vec<_>) = hops
            .drain(..)
            .partition(|hop| self.0.get(hop).is_none_or(|dead| dead.may_be_tried(now)));
        if let Some(dead) = alive.first().and_then(|first| self.0.get_mut(first)) {
            dead.probed = Some(now + time);
        }
        alive.extend(dead);
        *hops = alive;
    }
}

impl Dead {
    fn may_be_tried(&self, now: Instant) -> bool {
        now >= self.until && self.probed.is_none_or(|until| now >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(30);

    fn hop(n: u8) -> SocketAddr {
        ([192, 0, 2, n], 5060).into()
    }

    #[test]
    fn last_then_probed_by_one() {
        let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
        let mut list = Blacklist::default();
        let first = |list: &mut Blacklist, time| {
            let mut hops = vec![hop(1), hop(2), hop(3)];
            list.order(at(time), TIME, &mut hops);
            assert_eq!(hops.len(), 3);
            hops
        };
        assert_eq!(first(&mut list, 0)[0], hop(1));
        assert!(list.dead(at(0), hop(1), TIME));
        assert!(!list.dead(at(0), hop(1), TIME), "no news");
        assert_eq!(first(&mut list, 29), [hop(2), hop(3), hop(1)]);
        assert_eq!(first(&mut list, 30)[0], hop(1), "the probe");
        assert_eq!(first(&mut list, 31)[0], hop(2), "the others wait for it");
        assert_eq!(first(&mut list, 60)[0], hop(1), "the probe was lost");
        list.dead(at(61), hop(1), TIME);
        assert_eq!(first(&mut list, 62)[0], hop(2));
        list.alive(hop(1));
        assert_eq!(first(&mut list, 62)[0], hop(1));
    }

    #[test]
    fn bounded() {
        let mut list = Blacklist::default();
        for n in 0..5000u16 {
            let hop = SocketAddr::from(([192, 0, 2, 1], n));
            list.dead(Instant::from_nanos(n.into()), hop, TIME);
        }
        assert_eq!(list.0.len(), HOPS_MAX);
        assert!(!list.dead(Instant::ZERO, hop(1), Duration::ZERO));
    }
}
