//! Instants in the arena are of CLOCK_MONOTONIC, which begins anew with each boot. A file therefore says what both clocks showed.

use core::time::Duration;

use stdx::Instant;

/// What the clocks show at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Time since the Unix epoch.
    pub wall: Duration,
    pub monotonic: Instant,
    /// The kernel's name for this boot; zeros if it tells none.
    pub boot: [u8; 16],
}

impl Clock {
    /// By how many nanoseconds instants that were noted by this clock must be moved to mean the same moment by `now`.
    ///
    /// In the same boot they mean what they meant: 0. Otherwise the wall clock tells how much time has gone by. One that went backwards tells nothing: then as good
    /// as none has, so that what was to live for an hour lives for an hour more at most, and not for as much longer as the clock is wrong.
    pub fn shift_to(&self, now: &Self) -> i64 {
        let same_boot = self.boot == now.boot && self.boot != [0; 16];
        if same_boot && now.monotonic >= self.monotonic {
            return 0;
        }
        let gone = now.wall.saturating_sub(self.wall).as_nanos();
        let then = i128::from(self.monotonic.as_nanos()) + gone.cast_signed();
        let shift = i128::from(now.monotonic.as_nanos()) - then;
        i64::try_from(shift).unwrap_or(if shift < 0 { i64::MIN } else { i64::MAX })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(wall: u64, monotonic: u64, boot: u8) -> Clock {
        Clock {
            wall: Duration::from_secs(wall),
            monotonic: Instant::from_nanos(monotonic * 1_000_000_000),
            boot: [boot; 16],
        }
    }

    /// What is left, in seconds, of a binding that had 3600 s when the file was taken.
    fn left(taken: Clock, now: Clock) -> i64 {
        let expires_at = taken.monotonic + Duration::from_secs(3600);
        let after = expires_at.shifted(taken.shift_to(&now));
        (i128::from(after.as_nanos()) - i128::from(now.monotonic.as_nanos())) as i64 / 1_000_000_000
    }

    #[test]
    fn lifetimes_run_on() {
        let taken = clock(1_000_000, 5_000, 1);
        // The same boot: whatever the wall clock says.
        assert_eq!(left(taken, clock(1_000_100, 5_060, 1)), 3540);
        assert_eq!(left(taken, clock(900_000, 5_060, 1)), 3540);
        // Another one.
        assert_eq!(left(taken, clock(1_000_060, 10, 2)), 3540);
        assert_eq!(left(taken, clock(1_000_060, 90_000, 2)), 3540);
        // Long ago: before the clock's zero, which is as good as expired.
        assert_eq!(left(taken, clock(2_000_000, 10, 2)), -10);
    }

    #[test]
    fn a_clock_that_went_backwards_gives_nothing_away() {
        let taken = clock(1_000_000, 5_000, 1);
        assert_eq!(left(taken, clock(0, 10, 2)), 3600);
        assert_eq!(left(taken, clock(999_999, 10, 2)), 3600);
    }

    #[test]
    fn doubtful_boots_go_by_the_wall_clock() {
        let taken = clock(1_000_000, 5_000, 0);
        assert_eq!(left(taken, clock(1_000_100, 5_060, 0)), 3500);
        // The same boot, but its clock went backwards: a container with another zero.
        assert_eq!(
            left(clock(1_000_000, 5_000, 1), clock(1_000_100, 60, 1)),
            3500
        );
    }

    #[test]
    fn extremes_do_not_overflow() {
        let far = Clock {
            wall: Duration::MAX,
            monotonic: Instant::MAX,
            boot: [1; 16],
        };
        let near = clock(0, 0, 2);
        assert_eq!(far.shift_to(&near), i64::MIN);
        assert_eq!(near.shift_to(&far), i64::MIN);
    }
}
