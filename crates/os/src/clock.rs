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

/// The kernel's name for this boot: what was noted by the monotonic clock means something as long as it is the same. `None` without /proc.
pub fn boot_id() -> Option<[u8; 16]> {
    parse_uuid(
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()?
            .trim(),
    )
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| *byte != b'-')
        .map(|byte| char::from(byte).to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    let mut id = [0; 16];
    if digits.len() != 2 * id.len() {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair.iter().fold(0, |byte, digit| byte << 4 | digit);
    }
    Some(id)
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

    #[test]
    fn a_boot_has_a_name() {
        assert_eq!(boot_id(), boot_id());
        let id = parse_uuid("00010203-0405-0607-0809-0a0b0c0d0eff").unwrap();
        assert_eq!(id, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        for broken in ["", "0001", "00010203-0405-0607-0809-0a0b0c0d0exx"] {
            assert_eq!(parse_uuid(broken), None);
        }
    }
}
