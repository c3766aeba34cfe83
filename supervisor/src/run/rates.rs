//! Figures that need two looks: messages a second, and when an heir served its first message.

use stdx::Instant;

use super::memory::SlotFigures;

#[derive(Debug)]
pub(crate) struct Rates {
    at: Instant,
    messages: u64,
    pub(crate) messages_per_s: f64,
    /// By slot: the last death whose first served message was logged.
    told: Vec<u64>,
}

impl Rates {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            at: now,
            messages: 0,
            messages_per_s: 0.0,
            told: Vec::new(),
        }
    }

    pub(crate) fn on_second(&mut self, now: Instant, slots: &[SlotFigures]) {
        for (slot, ns) in self.first_served(slots) {
            let ms = format!("{}.{:02}", ns / 1_000_000, ns % 1_000_000 / 10_000);
            tracing::info!(
                slot,
                ms,
                "first message served by the heir, counted from the end of its predecessor"
            );
        }
        let messages: u64 = slots.iter().map(|slot| slot.messages).sum();
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        if seconds > 0.0 {
            self.messages_per_s =
                (messages.saturating_sub(self.messages) as f64 / seconds * 10.0).round() / 10.0;
        }
        (self.at, self.messages) = (now, messages);
    }

    /// Slots whose heir has served since the last look, and the ns from the death to its first message.
    fn first_served(&mut self, slots: &[SlotFigures]) -> Vec<(usize, u64)> {
        self.told.resize(slots.len(), 0);
        let mut fresh = Vec::new();
        for (slot, (figures, told)) in slots.iter().zip(&mut self.told).enumerate() {
            if let (Some(died), Some(served)) = (figures.died_ns, figures.first_served_ns)
                && *told != died
            {
                *told = died;
                fresh.push((slot, served.saturating_sub(died)));
            }
        }
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_first_messages() {
        let second = |n: u64| Instant::from_nanos(n * 1_000_000_000);
        let mut rates = Rates::new(second(1));
        let slot = |messages| SlotFigures {
            messages,
            ..SlotFigures::default()
        };
        rates.on_second(second(3), &[slot(10), slot(5)]);
        assert_eq!(rates.messages_per_s, 7.5);
        rates.on_second(second(4), &[slot(10), slot(5)]);
        assert_eq!(rates.messages_per_s, 0.0);
        let died = SlotFigures {
            died_ns: Some(100),
            first_served_ns: Some(350),
            ..slot(1)
        };
        assert_eq!(rates.first_served(&[slot(0), died]), [(1, 250)]);
        assert_eq!(rates.first_served(&[slot(0), died]), []);
    }
}
