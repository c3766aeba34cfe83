//! How long a slot takes for a message, from taking its datagram to having given its consequences to the kernel: a histogram per slot.
//!
//! Buckets are log-linear, four to an octave from 1 µs on, so that a percentile read from them is at most a quarter too high. Each has one writer, the
//! slot's thread, and survives it; readers compare two readings ([`Latencies::since`]).

use core::time::Duration;

use sync::{AtomicU64, Ordering};

use crate::id::SlotId;

/// Buckets of a histogram. The last one holds everything above half an hour.
pub const LATENCY_BUCKETS: usize = 128;
/// Bytes of one slot's histogram.
pub(crate) const LATENCY_BYTES: u64 = LATENCY_BUCKETS as u64 * 8;

/// A quarter of the shortest octave. Unit: ns.
const QUARTER_NS: u64 = 250;

/// The bucket of a duration.
fn bucket(took: Duration) -> usize {
    let quarters = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) / QUARTER_NS;
    match quarters.checked_ilog2() {
        Some(bits @ 2..) => {
            let octave = bits as usize - 2;
            let quarter = (quarters >> octave) & 3;
            (1 + octave * 4 + quarter as usize).min(LATENCY_BUCKETS - 1)
        }
        _ => 0,
    }
}

/// The first duration that is too long for a bucket.
fn above(bucket: usize) -> Duration {
    let Some(nth) = bucket.checked_sub(1) else {
        return Duration::from_micros(1);
    };
    let (octave, quarter) = (nth / 4, nth as u64 % 4);
    Duration::from_nanos(((5 + quarter) << octave) * QUARTER_NS)
}

/// One slot's histogram in the arena.
#[derive(Clone, Copy, Debug)]
pub struct Histogram<'a>(&'a [AtomicU64]);

impl crate::Arena {
    /// A slot's latencies.
    ///
    /// # Panics
    /// If the arena has no such slot.
    pub fn latency(&self, slot: SlotId) -> Histogram<'_> {
        let g = &self.0.geometry;
        assert!(slot.0 < g.layout.slots, "a slot of this arena");
        let at = g.latency + u64::from(slot.0) * LATENCY_BYTES;
        Histogram(self.0.map.words(at, LATENCY_BUCKETS))
    }
}

impl Histogram<'_> {
    /// Notes that `messages` took this long each. For the slot's own thread.
    #[inline]
    pub fn record(&self, took: Duration, messages: u64) {
        if let Some(cell) = self.0.get(bucket(took)) {
            // Relaxed: one writer, and a counter orders nothing.
            cell.store(
                cell.load(Ordering::Relaxed).wrapping_add(messages),
                Ordering::Relaxed,
            );
        }
    }

    /// What has been noted so far.
    pub fn read(&self) -> Latencies {
        let mut counts = [0; LATENCY_BUCKETS];
        for (count, cell) in counts.iter_mut().zip(self.0) {
            *count = cell.load(Ordering::Relaxed);
        }
        Latencies(counts)
    }
}

/// One reading of a [`Histogram`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latencies([u64; LATENCY_BUCKETS]);

impl Latencies {
    /// What came between an earlier reading and this one.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut counts = self.0;
        for (count, before) in counts.iter_mut().zip(&earlier.0) {
            *count = count.wrapping_sub(*before);
        }
        Self(counts)
    }

    /// How many messages.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, n| sum.wrapping_add(*n))
    }

    /// The duration that so many of a million messages stayed below (500,000: the median); zero without messages.
    pub fn below(&self, of_a_million: u32) -> Duration {
        let wanted = u128::from(self.count()) * u128::from(of_a_million);
        let mut seen = 0;
        for (bucket, count) in self.0.iter().enumerate() {
            seen += u128::from(*count) * 1_000_000;
            if *count > 0 && seen >= wanted {
                return above(bucket);
            }
        }
        Duration::ZERO
    }

    /// Buckets that are not empty: the duration that they end below, and how many messages.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let used = |(bucket, count): (usize, &u64)| (*count > 0).then(|| (above(bucket), *count));
        self.0.iter().enumerate().filter_map(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arena, Layout};

    #[test]
    fn buckets_follow_each_other_without_gap() {
        let mut last = 0;
        for ns in (0..20_000).map(|n| n * 100) {
            let took = Duration::from_nanos(ns);
            let at = bucket(took);
            assert!(at >= last, "{took:?}");
            assert!(took < above(at), "{took:?} in bucket {at}");
            assert!(above(at) <= took.max(Duration::from_micros(1)) * 5 / 4);
            last = at;
        }
        assert_eq!(bucket(Duration::MAX), LATENCY_BUCKETS - 1);
    }

    #[test]
    fn percentiles_of_a_slot() {
        let arena = Arena::heap(&Layout::new(24 << 20, 2, 1, 1), [1; 16]).unwrap();
        let histogram = arena.latency(SlotId(1));
        let nothing = histogram.read();
        assert_eq!(
            (nothing.count(), nothing.below(500_000)),
            (0, Duration::ZERO)
        );
        histogram.record(Duration::from_micros(10), 98);
        histogram.record(Duration::from_millis(3), 2);
        let read = histogram.read();
        assert_eq!(read.count(), 100);
        assert_eq!(read.below(500_000), Duration::from_micros(12));
        assert!(read.below(990_000) > Duration::from_millis(3));
        assert_eq!(read.since(&read).count(), 0);
        assert_eq!(read.buckets().count(), 2);
        assert_eq!(arena.latency(SlotId(0)).read().count(), 0);
    }
}
