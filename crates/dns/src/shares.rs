//! Who holds how many of the places that there are: a source may take one more as long as it holds fewer than are free.
//!
//! So one source alone gets half of them, each of two a third, each of `n` gets one in `n + 1`: nobody needs to be asked for anything
//! back when somebody new comes, and something is always free for him. (Thresholds that follow the free room: Choudhury and Hahne,
//! IEEE/ACM Transactions on Networking 6(2), 1998.)

use std::{collections::BTreeMap, net::IpAddr};

/// Whom a place is for: an IPv4 address, or a /64 of IPv6, which is the least that a site has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    V4(u32),
    V6(u64),
}

impl From<IpAddr> for Source {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.to_bits()),
            IpAddr::V6(ip) => Self::V6((ip.to_bits() >> 64) as u64),
        }
    }
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// None is free.
    All,
    /// This source has its share.
    Share,
}

/// Places that are held. No more sources are known than hold one.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    held: BTreeMap<Source, usize>,
    total: usize,
}

impl Shares {
    /// Takes one of `max` places.
    pub(crate) fn take(&mut self, source: Source, max: usize) -> Result<(), Full> {
        let free = max.saturating_sub(self.total);
        if free == 0 {
            return Err(Full::All);
        }
        let held = self.held.get(&source).copied().unwrap_or(0);
        if held >= free {
            return Err(Full::Share);
        }
        self.held.insert(source, held + 1);
        self.total += 1;
        Ok(())
    }

    /// Gives one back that was taken.
    pub(crate) fn give(&mut self, source: Source) {
        let Some(held) = self.held.get_mut(&source) else {
            debug_assert!(false, "a place is given back once");
            return;
        };
        *held -= 1;
        if *held == 0 {
            self.held.remove(&source);
        }
        self.total -= 1;
    }

    /// Nobody holds anything.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.total == 0 && self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u32) -> Source {
        Source::V4(n)
    }

    /// Takes as many as it may.
    fn fill(shares: &mut Shares, source: Source, max: usize) -> (usize, Full) {
        let mut took = 0;
        loop {
            match shares.take(source, max) {
                Ok(()) => took += 1,
                Err(full) => return (took, full),
            }
        }
    }

    #[test]
    fn half_alone_and_always_room_for_one_more() {
        let mut shares = Shares::default();
        assert_eq!(fill(&mut shares, source(1), 1000), (500, Full::Share));
        assert_eq!(fill(&mut shares, source(2), 1000), (250, Full::Share));
        assert_eq!(fill(&mut shares, source(3), 1000), (125, Full::Share));
        // The greedy get nothing before they hold less than is free again.
        for _ in 0..300 {
            shares.give(source(1));
        }
        assert_eq!(fill(&mut shares, source(1), 1000).0, 113);
        for (n, held) in [(1, 313), (2, 250), (3, 125)] {
            for _ in 0..held {
                shares.give(source(n));
            }
        }
        assert!(shares.is_empty());
    }

    #[test]
    fn who_come_together_get_equal_shares() {
        let mut shares = Shares::default();
        let mut took = [0; 4];
        for _ in 0..1000 {
            for (n, took) in (0..).zip(&mut took) {
                *took += usize::from(shares.take(source(n), 1000).is_ok());
            }
        }
        assert_eq!(took, [200; 4]);
        // More sources than places: each that comes finds one until all are held.
        let mut shares = Shares::default();
        let took = (0..100).filter(|&n| shares.take(source(n), 10).is_ok());
        assert_eq!(took.count(), 10);
        assert_eq!(shares.take(source(100), 10), Err(Full::All));
        assert_eq!(Shares::default().take(source(1), 1), Ok(()), "one place");
    }

    #[test]
    fn a_site_is_one_source() {
        let of = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
