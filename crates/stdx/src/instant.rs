//! The monotonic instant that all workers share.

use core::fmt;
use core::ops::{Add, AddAssign, Sub};
use core::time::Duration;

/// A moment of CLOCK_MONOTONIC in nanoseconds. All processes of one machine agree on it, so it may lie in the arena; it
/// means nothing after a reboot. Arithmetic saturates: a timer beyond the end of time never fires, it does not wrap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The clock's zero, earlier than every reading.
    pub const ZERO: Self = Self(0);
    /// Later than every reading (584 years of uptime).
    pub const MAX: Self = Self(u64::MAX);

    /// The instant `nanos` nanoseconds after the clock's zero.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's zero.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// This instant moved forward, or [`Instant::MAX`].
    pub const fn saturating_add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(nanos(by)))
    }

    /// This instant moved back, or [`Instant::ZERO`].
    pub const fn saturating_sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(by)))
    }

    /// This instant moved by so many nanoseconds, forward or back, within the clock's range; [`Instant::MAX`], which is "never", stays.
    pub const fn shifted(self, nanos: i64) -> Self {
        if self.0 == u64::MAX {
            return self;
        }
        Self(self.0.saturating_add_signed(nanos))
    }

    /// The time from `earlier` to this instant; `None` if `earlier` is the later one.
    pub const fn checked_duration_since(self, earlier: Self) -> Option<Duration> {
        match self.0.checked_sub(earlier.0) {
            Some(nanos) => Some(Duration::from_nanos(nanos)),
            None => None,
        }
    }

    /// The time from `earlier` to this instant; zero if `earlier` is the later one.
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A moment that may lie before the zero of the monotonic clock: what happened before the machine's boot, and is still told of. Otherwise as an
/// [`Instant`], and cut at 292 years.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(i64);

impl Moment {
    /// The moment `nanos` nanoseconds after the clock's zero; before it, if that is negative.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's zero.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// As something that time comes to: what was before the clock's zero is at it.
    pub const fn instant(self) -> Instant {
        if self.0 < 0 {
            Instant::ZERO
        } else {
            Instant(self.0.cast_unsigned())
        }
    }

    /// This moment moved by so many nanoseconds, forward or back.
    pub const fn shifted(self, nanos: i64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// The time from `earlier` to this moment; zero if `earlier` is the later one.
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        if self.0 > earlier.0 {
            Duration::from_nanos(self.0.abs_diff(earlier.0))
        } else {
            Duration::ZERO
        }
    }
}

impl From<Instant> for Moment {
    fn from(at: Instant) -> Self {
        Self(i64::try_from(at.0).unwrap_or(i64::MAX))
    }
}

/// As an [`Instant`].
impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{:?}", Instant(self.0.unsigned_abs()))
    }
}

/// A duration in nanoseconds, cut at 584 years.
const fn nanos(duration: Duration) -> u64 {
    let nanos = duration.as_nanos();
    if nanos > u64::MAX as u128 {
        u64::MAX
    } else {
        nanos as u64
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        self.saturating_add(by)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, by: Duration) {
        *self = self.saturating_add(by);
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, by: Duration) -> Self {
        self.saturating_sub(by)
    }
}

/// Seconds with nanoseconds, as the kernel prints its clock: `12.000000345s`.
impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:09}s",
            self.0 / 1_000_000_000,
            self.0 % 1_000_000_000
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Instant::MAX + Duration::from_nanos(1), Instant::MAX);
        assert_eq!(Instant::from_nanos(5) + Duration::MAX, Instant::MAX);
        assert_eq!(
            Instant::from_nanos(5) - Duration::from_secs(1),
            Instant::ZERO
        );
        assert_eq!(
            Instant::from_nanos(5) + Duration::from_micros(1),
            Instant::from_nanos(1005)
        );
    }

    #[test]
    fn shifts_stay_in_range() {
        assert_eq!(Instant::from_nanos(5).shifted(-6), Instant::ZERO);
        assert_eq!(Instant::from_nanos(5).shifted(6), Instant::from_nanos(11));
        assert_eq!(Instant::MAX.shifted(-1), Instant::MAX);
    }

    #[test]
    fn moments_have_both_sides_of_the_zero() {
        let (before, after) = (Moment::from_nanos(-5), Moment::from_nanos(7));
        assert_eq!(
            after.saturating_duration_since(before),
            Duration::from_nanos(12)
        );
        assert_eq!(before.saturating_duration_since(after), Duration::ZERO);
        assert_eq!(after.shifted(-12), before);
        assert_eq!(before.instant(), Instant::ZERO);
        assert_eq!(after.instant(), Instant::from_nanos(7));
        assert_eq!(
            format!("{before:?} {after:?}"),
            "-0.000000005s 0.000000007s"
        );
        let (first, last) = (Moment::from_nanos(i64::MIN), Moment::from(Instant::MAX));
        assert_eq!((first.shifted(-1), last.shifted(1)), (first, last));
        assert_eq!(
            last.saturating_duration_since(first),
            Duration::from_nanos(u64::MAX)
        );
        assert_eq!(format!("{first:?}"), "-9223372036.854775808s");
    }

    #[test]
    fn differences_know_their_direction() {
        let (early, late) = (Instant::from_nanos(10), Instant::from_nanos(25));
        assert_eq!(
            late.checked_duration_since(early),
            Some(Duration::from_nanos(15))
        );
        assert_eq!(early.checked_duration_since(late), None);
        assert_eq!(early.saturating_duration_since(late), Duration::ZERO);
        assert_eq!(
            format!("{:?}", Instant::from_nanos(12_000_000_345)),
            "12.000000345s"
        );
    }
}
