//! What probes and requests say of one destination.
//!
//! ```text
//! Unknown ── probe or request answered ──> Up
//! Unknown, Up ── `down_after` probes or `failures` requests failed in a row ──> Down
//! Down, probed ── `up_after` probes answered in a row ──> Up, slowly
//! Down, not probed ── `retry` after the last failure it is offered little; one answer ──> Up, slowly
//! ```
//!
//! Probes and requests are counted apart. A gateway that answers OPTIONS and swallows INVITEs goes down by its requests, though every probe succeeds; one that asks by a
//! 503 to its probes to be left alone goes down by them, though its calls still work.

use std::time::Duration;

use stdx::Instant;

/// What is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Health {
    /// Nobody has asked: it is given calls.
    #[default]
    Unknown = 0,
    Up = 1,
    /// It is given no calls until it answers.
    Down = 2,
}

impl Health {
    /// As it is written down; `None`: by another release.
    pub fn read(byte: u8) -> Option<Self> {
        [Self::Unknown, Self::Up, Self::Down]
            .into_iter()
            .find(|health| *health as u8 == byte)
    }
}

/// When probes decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probing {
    /// Failures in a row that bring it down.
    pub down_after: u32,
    /// Answers in a row that bring it up.
    pub up_after: u32,
}

/// When a destination of a group is down, and how it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `None`: it is not probed.
    pub probing: Option<Probing>,
    /// Requests that failed in a row and bring it down; 0: none do.
    pub failures: u32,
    /// How long one that is not probed is left alone.
    pub retry: Duration,
    /// How long one that came back gets less than its share; zero: it has it at once.
    pub slow_start: Duration,
}

/// What a destination has shown so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Condition {
    pub health: Health,
    /// Probes that succeeded in a row.
    pub probes_ok: u32,
    /// Probes that failed in a row.
    pub probes_failed: u32,
    /// Requests that failed in a row.
    pub failures: u32,
    /// Moving average of its response times; `None`: not measured.
    pub latency: Option<Duration>,
    /// It answered last, a probe or a request.
    pub answered_at: Option<Instant>,
    /// It failed last.
    pub failed_at: Option<Instant>,
    /// It came back, or was let in, and starts slowly.
    pub recovered_at: Option<Instant>,
}

/// The least share of one that comes back.
const SHARE_MIN: f64 = 1.0 / 16.0;
/// A new measurement counts as one of so many.
const LATENCY_GAIN: u32 = 8;

impl Condition {
    /// A probe was answered as it should be, after so long.
    pub fn probe_answered(&mut self, now: Instant, took: Duration, rules: &Rules) {
        self.measure(took, 1);
        self.answered_at = Some(now);
        self.probes_failed = 0;
        self.probes_ok = self.probes_ok.saturating_add(1);
        let enough = rules.probing.map_or(1, |probing| probing.up_after);
        match self.health {
            Health::Unknown => self.health = Health::Up,
            Health::Down if self.probes_ok >= enough => self.recover(now),
            Health::Up | Health::Down => {}
        }
    }

    /// A probe was not answered in time, or with a refusal.
    pub fn probe_failed(&mut self, now: Instant, rules: &Rules) {
        self.failed_at = Some(now);
        self.probes_ok = 0;
        self.probes_failed = self.probes_failed.saturating_add(1);
        let enough = rules.probing.map_or(u32::MAX, |probing| probing.down_after);
        if self.probes_failed >= enough {
            self.health = Health::Down;
        }
    }

    /// A request was answered, and not by a refusal that counts as a failure. A 100 says nothing: it comes before anybody has looked.
    pub fn served(&mut self, now: Instant, rules: &Rules) {
        self.answered_at = Some(now);
        match self.health {
            Health::Unknown => self.health = Health::Up,
            Health::Up => {}
            Health::Down if rules.probing.is_none() => self.recover(now),
            // It is for the probes to say.
            Health::Down => return,
        }
        self.failures = 0;
    }

    /// A request was not answered in time, did not leave, or was refused as by one that is out of service.
    pub fn failed(&mut self, now: Instant, rules: &Rules) {
        self.failed_at = Some(now);
        self.failures = self.failures.saturating_add(1);
        if rules.failures > 0 && self.failures >= rules.failures && self.health != Health::Down {
            self.health = Health::Down;
            self.probes_ok = 0;
        }
    }

    fn recover(&mut self, now: Instant) {
        self.health = Health::Up;
        self.failures = 0;
        self.recovered_at = Some(now);
    }

    /// Whether it is given calls.
    pub fn is_open(&self, now: Instant, rules: &Rules) -> bool {
        match (self.health, rules.probing) {
            (Health::Unknown | Health::Up, _) => true,
            (Health::Down, Some(_)) => false,
            (Health::Down, None) => self
                .failed_at
                .is_none_or(|at| now.saturating_duration_since(at) >= rules.retry),
        }
    }

    /// What part of its weight counts: less than 1 for one that came back lately, or is tried again.
    pub fn share(&self, now: Instant, rules: &Rules) -> f64 {
        if self.health == Health::Down {
            return SHARE_MIN;
        }
        let Some(since) = self.recovered_at else {
            return 1.0;
        };
        let since = now.saturating_duration_since(since);
        if since >= rules.slow_start {
            return 1.0;
        }
        let part = since.as_secs_f64() / rules.slow_start.as_secs_f64();
        SHARE_MIN.max(part)
    }

    /// Takes in so many response times of this mean.
    pub fn measure(&mut self, took: Duration, measurements: u32) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let mut average = match self.latency {
            None => took,
            Some(average) => u64::try_from(average.as_nanos()).unwrap_or(u64::MAX),
        };
        // Beyond so many the old average is gone anyway.
        for _ in 0..measurements.min(8 * LATENCY_GAIN) {
            let step = average.abs_diff(took) / u64::from(LATENCY_GAIN);
            average = if took > average {
                average.saturating_add(step)
            } else {
                average.saturating_sub(step)
            };
        }
        self.latency = Some(Duration::from_nanos(average));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn probed() -> Rules {
        Rules {
            probing: Some(Probing {
                down_after: 3,
                up_after: 2,
            }),
            failures: 4,
            retry: 30 * SECOND,
            slow_start: 10 * SECOND,
        }
    }

    /// `p` probe answered, `P` probe failed, `a` request answered, `F` request failed; one a second. The state after each: `?`, `+`, `-`.
    fn run(events: &str, rules: &Rules) -> (String, Condition) {
        let mut condition = Condition::default();
        let mut states = String::new();
        for (second, event) in (1..).zip(events.chars()) {
            let now = at(second);
            match event {
                'p' => condition.probe_answered(now, SECOND, rules),
                'P' => condition.probe_failed(now, rules),
                'a' => condition.served(now, rules),
                'F' => condition.failed(now, rules),
                other => panic!("{other}"),
            }
            states.push(match condition.health {
                Health::Unknown => '?',
                Health::Up => '+',
                Health::Down => '-',
            });
        }
        (states, condition)
    }

    #[test]
    fn probes_bring_it_down_and_up() {
        for (events, states) in [
            ("p", "+"),
            ("PPP", "??-"),
            ("PPpPPP", "??+++-"),
            ("pPPPp", "+++--"),
            ("pPPPpp", "+++--+"),
            ("pPPPpPpp", "+++----+"),
            // Answers of calls do not excuse a refused probe, nor do they bring it up.
            ("pPaPaPaa", "+++++---"),
        ] {
            assert_eq!(run(events, &probed()).0, states, "{events}");
        }
    }

    #[test]
    fn requests_bring_it_down_though_probes_succeed() {
        for (events, states) in [
            ("FFFF", "???-"),
            ("pFpFpFpF", "+++++++-"),
            ("aFFFaFFF", "++++++++"),
            ("aFFFFpp", "++++--+"),
            ("aFFFFppFFF", "++++--++++"),
        ] {
            assert_eq!(run(events, &probed()).0, states, "{events}");
        }
        let blind = Rules {
            failures: 0,
            ..probed()
        };
        assert_eq!(run("aFFFFFFFF", &blind).0, "+++++++++");
    }

    #[test]
    fn without_probes_it_is_tried_again() {
        let rules = Rules {
            probing: None,
            ..probed()
        };
        let (states, condition) = run("aFFFF", &rules);
        assert_eq!(states, "++++-");
        assert!(!condition.is_open(at(6), &rules) && !condition.is_open(at(34), &rules));
        assert!(condition.is_open(at(35), &rules));
        assert_eq!(condition.share(at(35), &rules), SHARE_MIN);
        let mut failed = condition;
        failed.failed(at(36), &rules);
        assert!(!failed.is_open(at(37), &rules) && failed.is_open(at(66), &rules));
        let mut back = condition;
        back.served(at(36), &rules);
        assert_eq!((back.health, back.failures), (Health::Up, 0));
        assert!(back.is_open(at(36), &rules));
    }

    #[test]
    fn the_share_grows_after_a_recovery_only() {
        let rules = probed();
        let (_, first) = run("p", &rules);
        assert_eq!(first.share(at(1), &rules), 1.0, "nothing was wrong");
        let (_, back) = run("PPPpp", &rules);
        let shares = [5, 10, 14, 15, 99].map(|second| back.share(at(second), &rules));
        assert_eq!(shares, [SHARE_MIN, 0.5, 0.9, 1.0, 1.0]);
        let at_once = Rules {
            slow_start: Duration::ZERO,
            ..rules
        };
        assert_eq!(back.share(at(5), &at_once), 1.0);
    }

    #[test]
    fn latency_is_an_average_that_moves() {
        let ms = Duration::from_millis;
        let mut one = Condition::default();
        one.measure(ms(80), 1);
        assert_eq!(one.latency, Some(ms(80)));
        one.measure(ms(160), 1);
        assert_eq!(one.latency, Some(ms(90)));
        let (mut many, mut single) = (one, one);
        many.measure(ms(10), 20);
        for _ in 0..20 {
            single.measure(ms(10), 1);
        }
        assert_eq!(many.latency, single.latency);
        assert!(many.latency < Some(ms(17)));
        many.probe_answered(at(4), Duration::MAX, &probed());
        many.measure(Duration::ZERO, u32::MAX);
    }
}
