//! The clocks. Nothing else in the workspace reads one.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use stdx::Instant;

/// Now, by CLOCK_MONOTONIC.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux always has CLOCK_MONOTONIC");
    Instant::from_nanos(nanos(time.tv_sec(), time.tv_nsec()))
}

/// Time since the Unix epoch, for people and for files; it may jump. Zero for a clock set before 1970.
pub fn unix_now() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_REALTIME).expect("Linux always has CLOCK_REALTIME");
    Duration::from_nanos(nanos(time.tv_sec(), time.tv_nsec()))
}

fn nanos(seconds: i64, nanos: i64) -> u64 {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanos.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on() {
        let first = now();
        assert!(now() >= first && first > Instant::ZERO);
        assert!(unix_now() > Duration::from_secs(1_700_000_000));
    }
}
