//! What requests and probes have told of destinations, on its way into the arena.
//!
//! What changes a destination's health is written at once, by whichever slot learns it: failures in a row are counted over all slots. What only adds up (calls, response
//! times) is gathered and written four times a second.

use std::{collections::HashMap, time::Duration};

use balance::{Condition, Health, Rules};
use proxy::{Outcome, OutcomeKind};
use shm::{Participant, RowRef};
use stdx::Instant;
use tables::{
    Counter,
    balancer::{Balancer, BalancerError, Statistics},
};

use super::Groups;

/// What is known of destinations, and what is to be told of them.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    about: HashMap<RowRef, About>,
    waiting: HashMap<RowRef, Waiting>,
}

/// By what a destination is judged.
#[derive(Clone, Debug)]
struct About {
    group: String,
    uri: String,
    rules: Rules,
    /// Answers to requests that count as failures.
    failing: Vec<u16>,
    probe: Option<config::Probe>,
}

/// What has not been written yet.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    statistics: Statistics,
    took: Duration,
    measured: u32,
}

impl Reports {
    /// Takes over what the configuration says now.
    pub(crate) fn learn(&mut self, groups: &Groups) {
        self.about.clear();
        for group in groups.list() {
            for place in &group.places {
                let Some(row) = place.row else { continue };
                let about = About {
                    group: group.settings.name.clone(),
                    uri: String::from_utf8_lossy(&place.uri).into_owned(),
                    rules: group.rules,
                    failing: group.settings.passive.codes.clone(),
                    probe: group.settings.probe.clone(),
                };
                self.about.insert(row, about);
            }
        }
    }

    /// Takes in one outcome.
    pub(crate) fn hear(&mut self, now: Instant, outcome: &Outcome, participant: &mut Participant) {
        let row = outcome.resource;
        let Some(about) = self.about.get(&row) else {
            return;
        };
        match outcome.kind {
            OutcomeKind::Sent => self.waiting.entry(row).or_default().statistics.calls += 1,
            OutcomeKind::Full => self.waiting.entry(row).or_default().statistics.refused += 1,
            OutcomeKind::Answered { code, took } => {
                let waiting = self.waiting.entry(row).or_default();
                waiting.took = waiting.took.saturating_add(took);
                waiting.measured = waiting.measured.saturating_add(1);
                self.judge(now, row, code, participant);
            }
            OutcomeKind::Final { code } => self.judge(now, row, code, participant),
            OutcomeKind::Silent | OutcomeKind::Unreachable => self.failed(now, row, participant),
            OutcomeKind::Probed { code, sent_at } => {
                about.probed(now, row, code, sent_at, participant);
            }
        }
    }

    fn judge(&mut self, now: Instant, row: RowRef, code: u16, participant: &mut Participant) {
        let Some(about) = self.about.get(&row) else {
            return;
        };
        if about.failing.contains(&code) {
            return self.failed(now, row, participant);
        }
        if (200..300).contains(&code) {
            self.waiting.entry(row).or_default().statistics.answered += 1;
        }
        // Mostly there is nothing to be written.
        let news = code > 100
            && Balancer(participant).glance(row).is_some_and(|glance| {
                glance.condition.failures > 0 || glance.condition.health != Health::Up
            });
        if news {
            about.change(row, participant, |condition| {
                condition.served(now, &about.rules);
            });
        }
    }

    fn failed(&mut self, now: Instant, row: RowRef, participant: &mut Participant) {
        self.waiting.entry(row).or_default().statistics.failed += 1;
        if let Some(about) = self.about.get(&row) {
            about.change(row, participant, |condition| {
                condition.failed(now, &about.rules);
            });
        }
    }

    /// A probe was not answered in time; `true`: it is the one that was waited for.
    pub(crate) fn unanswered(
        &self,
        now: Instant,
        row: RowRef,
        sent_at: Instant,
        participant: &mut Participant,
    ) {
        if let Some(about) = self.about.get(&row) {
            about.probed(now, row, 0, sent_at, participant);
        }
    }

    /// Writes what has gathered.
    pub(crate) fn flush(&mut self, now: Instant, participant: &mut Participant) {
        for (row, waiting) in self.waiting.drain() {
            let mean = waiting.took.checked_div(waiting.measured);
            // Gone, or no memory: figures only.
            let _ = Balancer(participant).update(row, |resource| {
                if let Some(mean) = mean {
                    resource.condition.measure(mean, waiting.measured);
                    resource.condition.answered_at = Some(now);
                }
                let sum = &mut resource.statistics;
                sum.calls = sum.calls.wrapping_add(waiting.statistics.calls);
                sum.answered = sum.answered.wrapping_add(waiting.statistics.answered);
                sum.failed = sum.failed.wrapping_add(waiting.statistics.failed);
                sum.refused = sum.refused.wrapping_add(waiting.statistics.refused);
            });
        }
    }
}

impl About {
    /// The end of a probe: its answer, or 0. What is no news (another one has been sent meanwhile, its end is known) changes nothing.
    fn probed(
        &self,
        now: Instant,
        row: RowRef,
        code: u16,
        sent_at: Instant,
        participant: &mut Participant,
    ) {
        let Some(probe) = &self.probe else { return };
        let good = code != 0 && probe.accepts(code);
        let (mut before, mut news) = (Health::Unknown, false);
        let done = Balancer(participant).update(row, |resource| {
            before = resource.condition.health;
            news = resource.probe.waiting() == Some(sent_at);
            if !news {
                return;
            }
            resource.probe.judged_at = Some(sent_at);
            resource.probe.code = code;
            let condition = &mut resource.condition;
            if good {
                let took = now.saturating_duration_since(sent_at);
                condition.probe_answered(now, took, &self.rules);
            } else {
                condition.probe_failed(now, &self.rules);
            }
        });
        let Some(resource) = done.ok().filter(|_| news) else {
            return;
        };
        if !good {
            participant.count(Counter::ProbesFailed.cell(), 1);
        }
        self.note(before, &resource.condition, participant);
    }

    fn change(
        &self,
        row: RowRef,
        participant: &mut Participant,
        mut change: impl FnMut(&mut Condition),
    ) {
        let mut before = Health::Unknown;
        let done = Balancer(participant).update(row, |resource| {
            before = resource.condition.health;
            change(&mut resource.condition);
        });
        match done {
            Ok(resource) => self.note(before, &resource.condition, participant),
            Err(BalancerError::Gone) => {}
            Err(error) => {
                tracing::debug!(group = self.group, destination = self.uri, %error, "its condition is not noted");
            }
        }
    }

    fn note(&self, before: Health, condition: &Condition, participant: &Participant) {
        let (group, destination) = (&self.group, &self.uri);
        match (before, condition.health) {
            (Health::Down, Health::Up) => {
                participant.count(Counter::DestinationsUp.cell(), 1);
                tracing::info!(group, destination, "a destination is up again");
            }
            (Health::Unknown | Health::Up, Health::Down) => {
                participant.count(Counter::DestinationsDown.cell(), 1);
                let (probes, requests) = (condition.probes_failed, condition.failures);
                tracing::warn!(
                    group,
                    destination,
                    probes,
                    requests,
                    "a destination is down: so many probes or requests in a row have failed"
                );
            }
            _ => {}
        }
    }
}
