//! What the machine notes, as lines of the log: whatever a peer can repeat, not more often than an operator can read.

use std::time::Duration;

use proxy::Note;
use stdx::Instant;

/// Lines of a slot in each [`PERIOD`].
const LINES: u32 = 10;
const PERIOD: Duration = Duration::from_secs(10);

/// What may still be written.
#[derive(Debug, Default)]
pub(crate) struct Log {
    period_ends: Instant,
    lines: u32,
    left_out: u64,
}

impl Log {
    pub(crate) fn note(&mut self, now: Instant, slot: u16, note: &Note) {
        let Some(left_out) = self.admit(now) else {
            return;
        };
        match note {
            Note::Banned { source, user, ban } => {
                let user = user.as_deref().map(String::from_utf8_lossy);
                // A stranger wrote it: with escapes.
                let user = user.map_or("any".to_owned(), |user| format!("{user:?}"));
                tracing::warn!(
                    slot,
                    %source,
                    user,
                    ban_s = ban.as_secs(),
                    left_out,
                    "too many wrong passwords: refused for a while"
                );
            }
        }
    }

    /// How many lines were left out before this one; `None`: this one is left out as well.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if now >= self.period_ends {
            self.period_ends = now.saturating_add(PERIOD);
            self.lines = 0;
        }
        if self.lines == LINES {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted() {
        let mut log = Log::default();
        let now = Instant::from_nanos(1_000_000_000);
        let written = (0..25).filter(|_| log.admit(now).is_some()).count();
        assert_eq!(written, 10);
        assert_eq!(log.admit(now.saturating_add(PERIOD)), Some(15));
        assert_eq!(log.admit(now.saturating_add(PERIOD)), Some(0));
    }
}
