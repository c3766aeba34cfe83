//! Retransmissions of our own while a slot is in distress: a bounded addition to what is new.
//!
//! UDP's timers send each request up to seven or eleven times to a hop that does not answer in time. When the hop, or we, do not keep
//! up, these copies are what keeps it so. With a budget, fresh requests earn a tenth of a copy each; what is not earned is left
//! out, its timer going on as if it had been sent and lost.

/// Earned and unspent copies.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Tenths of a copy.
    saved: u32,
}

/// What a copy costs, in requests.
const COPY: u32 = 10;
/// So many copies may be saved up.
const COPIES_MAX: u32 = 200;

impl Default for Budget {
    fn default() -> Self {
        Self {
            saved: COPY * COPIES_MAX,
        }
    }
}

impl Budget {
    /// A request was sent for the first time.
    pub fn earn(&mut self) {
        self.saved = (self.saved + 1).min(COPY * COPIES_MAX);
    }

    /// Whether a copy may be sent.
    pub fn spend(&mut self) -> bool {
        let left = self.saved.checked_sub(COPY);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_what_is_new() {
        let mut budget = Budget::default();
        let mut sent = 0;
        for _ in 0..100_000 {
            budget.earn();
            sent += u32::from(budget.spend());
        }
        assert!((10_000..=10_200).contains(&sent), "{sent}");
    }
}
