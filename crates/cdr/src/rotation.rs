//! When a file is put aside, what it is called then, and where in which file a writer stands.

use std::time::Duration;

use crate::line::date;

/// When a file is put aside; by neither, it only is when somebody asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Once it has so many bytes. It is a little longer in the end: a batch is not cut in two.
    pub bytes: Option<u64>,
    /// When a stretch of time so long is over, counted from 1970 on in UTC: `1d` is at midnight, `1h` at each full hour.
    pub every: Option<Duration>,
}

impl Rotation {
    /// Whether a file of so many bytes, written last then, is to be put aside before something is written to it now. Times are since 1970.
    pub fn is_due(&self, bytes: u64, written: Duration, now: Duration) -> bool {
        if bytes == 0 {
            return false;
        }
        let full = self.bytes.is_some_and(|most| bytes >= most);
        let stretch = |at: Duration| {
            let every = self.every.map_or(0, |every| every.as_secs());
            at.as_secs().checked_div(every)
        };
        full || stretch(written) < stretch(now)
    }

    /// When, after this moment, a stretch of time ends; `None`: never.
    pub fn next(&self, now: Duration) -> Option<Duration> {
        let every = self.every?.as_secs();
        let stretch = now.as_secs().checked_div(every)?;
        Some(Duration::from_secs((stretch + 1) * every))
    }
}

/// What a file that is put aside is called: its own name, when, and a number if there are several of that second.
pub fn aside(name: &str, now: Duration, nth: u32) -> String {
    let s = now.as_secs();
    let (year, month, day) = date(s / 86_400);
    let (h, m, s) = (s / 3600 % 24, s / 60 % 60, s % 60);
    let number = if nth == 0 {
        String::new()
    } else {
        format!("-{nth}")
    };
    format!("{name}.{year:04}{month:02}{day:02}T{h:02}{m:02}{s:02}Z{number}")
}

/// Up to where a file has been dealt with: every record before that is gone from the arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub device: u64,
    pub inode: u64,
    pub offset: u64,
    /// What it was called then.
    pub path: Vec<u8>,
}

/// Of the format below.
const VERSION: u8 = 1;

impl Position {
    /// As it is kept in the arena.
    pub fn encode(&self) -> Vec<u8> {
        let numbers = [self.device, self.inode, self.offset].map(u64::to_le_bytes);
        [&[VERSION], numbers.as_flattened(), &self.path].concat()
    }

    /// `None`: nobody who could be understood has kept one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&version, rest) = bytes.split_first()?;
        let (device, rest) = rest.split_first_chunk()?;
        let (inode, rest) = rest.split_first_chunk()?;
        let (offset, path) = rest.split_first_chunk()?;
        (version == VERSION).then(|| Self {
            device: u64::from_le_bytes(*device),
            inode: u64::from_le_bytes(*inode),
            offset: u64::from_le_bytes(*offset),
            path: path.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn by_size() {
        let rotation = Rotation {
            bytes: Some(1000),
            every: None,
        };
        assert!(!rotation.is_due(999, at(0), DAY * 9));
        assert!(rotation.is_due(1000, at(0), at(0)));
        assert_eq!(rotation.next(at(5)), None);
        assert!(!Rotation::default().is_due(u64::MAX, at(0), DAY * 9));
    }

    #[test]
    fn by_time() {
        let rotation = Rotation {
            bytes: None,
            every: Some(DAY),
        };
        let noon = DAY * 20_000 + DAY / 2;
        assert!(!rotation.is_due(1, noon, noon + at(43_199)));
        assert!(rotation.is_due(1, noon, noon + at(43_200)));
        assert!(!rotation.is_due(0, noon, noon + DAY), "nothing in it");
        assert!(!rotation.is_due(1, noon + DAY, noon), "the clock went back");
        assert_eq!(rotation.next(noon), Some(DAY * 20_001));
        assert_eq!(rotation.next(DAY * 20_001), Some(DAY * 20_002));
    }

    #[test]
    fn names_of_what_is_put_aside() {
        let now = at(1_795_400_100);
        assert_eq!(aside("calls.csv", now, 0), "calls.csv.20261123T021500Z");
        assert_eq!(aside("calls.csv", now, 2), "calls.csv.20261123T021500Z-2");
    }

    #[test]
    fn positions_are_kept() {
        let position = Position {
            device: 1,
            inode: u64::MAX,
            offset: 1 << 40,
            path: b"/var/log/calls".to_vec(),
        };
        assert_eq!(Position::decode(&position.encode()), Some(position.clone()));
        let mut other = position.encode();
        other[0] = 9;
        for wrong in [&other[..], &other[..24], &[]] {
            assert_eq!(Position::decode(wrong), None);
        }
    }
}
