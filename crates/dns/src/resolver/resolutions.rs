//! Resolutions: from a target over what is known to hops, and what is asked on the way.

use std::{net::IpAddr, time::Duration};

use stdx::Instant;

use super::{Answer, Outputs, Resolution, Resolver, Timer, questions::Asked};
use crate::{
    cache::{Cached, Known},
    facts::Facts,
    plan::{Plan, Reason, Sight, Target, Wanted},
    shares::{Full, Source},
};

/// How much longer is waited for the rest once the best hop is known (RFC 8305 §3 has 50 ms for a person who waits).
const REST: Duration = Duration::from_millis(250);

impl<T> Resolver<T> {
    pub(super) fn resolve(
        &mut self,
        now: Instant,
        token: T,
        target: &Target<'_>,
        (source, seed, ranked): (IpAddr, u64, bool),
        out: &mut Outputs<T>,
    ) {
        self.tally.resolutions += 1;
        let wanted = match Wanted::new(target, self.families) {
            Ok(wanted) => wanted,
            Err(Ok(hop)) => return self.answer(token, Plan::of(hop), true, out),
            Err(Err(reason)) => return self.answer(token, Plan::none(reason), true, out),
        };
        // What is known at once needs no place.
        let mut facts = Facts::default();
        let plan = self.plan_from_cache(now, &wanted, (seed, ranked), &mut facts);
        if plan.missing.is_empty() {
            self.tally.cached += u64::from(!plan.hops.is_empty());
            return self.finish(now, token, plan, out);
        }
        let source = Source::from(source);
        if let Err(full) = self.waiting.take(source, self.settings.pending_max) {
            self.tally.over_share += u64::from(full == Full::Share);
            return self.answer(token, Plan::none(Reason::Busy), false, out);
        }
        let number = self.number();
        let timer = now + self.settings.deadline;
        self.timers.insert((timer, Timer::Resolution(number)));
        let resolution = Resolution {
            token,
            wanted,
            source,
            seed,
            ranked,
            facts,
            asked: false,
            full: None,
            timer,
            hurried: false,
        };
        self.resolutions.insert(number, Box::new(resolution));
        self.advance(now, number, out);
    }

    fn sight<'s>(&'s self, facts: &'s Facts, (seed, ranked): (u64, bool)) -> Sight<'s> {
        Sight {
            facts,
            hosts: &self.hosts,
            families: self.families,
            prefer_v6: self.settings.prefer_v6,
            seed,
            ranked,
        }
    }

    /// As far as one comes without asking anybody.
    fn plan_from_cache(
        &mut self,
        now: Instant,
        wanted: &Wanted,
        how: (u64, bool),
        facts: &mut Facts,
    ) -> Plan {
        loop {
            let plan = self.sight(facts, how).plan(wanted);
            let mut more = false;
            for question in &plan.missing {
                match self.cache.get(now, question) {
                    Cached::Fresh(found) => {
                        facts.learn(question, found);
                        more = true;
                    }
                    Cached::Rechecked(found) => {
                        self.tally.stale += 1;
                        facts.learn(question, found);
                        more = true;
                    }
                    Cached::Stale(_) | Cached::Miss => {}
                }
            }
            if !more {
                return plan;
            }
        }
    }

    /// Goes as far as it can; asks for what is missing.
    pub(super) fn advance(&mut self, now: Instant, number: u64, out: &mut Outputs<T>) {
        let Some(mut resolution) = self.resolutions.remove(&number) else {
            return;
        };
        let plan = loop {
            let of = &mut *resolution;
            let plan = self.plan_from_cache(now, &of.wanted, (of.seed, of.ranked), &mut of.facts);
            let mut more = false;
            for question in &plan.missing {
                if of.facts.awaits(question) {
                    continue;
                }
                match self.ask(now, question, number, of.source, out) {
                    Asked::Waits => {
                        of.facts.wait(question);
                        of.asked = true;
                    }
                    Asked::Known(found) => {
                        of.facts.learn(question, found);
                        more = true;
                    }
                    Asked::Full(full) => {
                        of.facts.learn(question, Known::Failed);
                        of.full = Some(full);
                        more = true;
                    }
                }
            }
            if !more {
                break plan;
            }
        };
        if plan.missing.is_empty() {
            self.timers
                .remove(&(resolution.timer, Timer::Resolution(number)));
            if !resolution.asked && !plan.hops.is_empty() {
                self.tally.cached += 1;
            }
            return self.end(now, *resolution, plan, out);
        }
        let soon = now + REST;
        if plan.best_known && !resolution.hurried {
            resolution.hurried = true;
            if soon < resolution.timer {
                self.timers
                    .remove(&(resolution.timer, Timer::Resolution(number)));
                resolution.timer = soon;
                self.timers.insert((soon, Timer::Resolution(number)));
            }
        }
        self.resolutions.insert(number, resolution);
    }

    /// The end of a resolution that held a place.
    fn end(
        &mut self,
        now: Instant,
        resolution: Resolution<T>,
        mut plan: Plan,
        out: &mut Outputs<T>,
    ) {
        self.waiting.give(resolution.source);
        if let Some(full) = resolution.full
            && plan.hops.is_empty()
        {
            plan.reason = Reason::Busy;
            self.tally.over_share += u64::from(full == Full::Share);
        }
        self.finish(now, resolution.token, plan, out);
    }

    fn finish(&mut self, now: Instant, token: T, mut plan: Plan, out: &mut Outputs<T>) {
        self.blacklist
            .order(now, self.settings.blacklist, &mut plan.hops);
        let whole = plan.whole && plan.missing.is_empty();
        self.answer(token, plan, whole, out);
    }

    fn answer(&mut self, token: T, plan: Plan, whole: bool, out: &mut Outputs<T>) {
        if plan.hops.is_empty() {
            let counter = match plan.reason {
                Reason::NotFound => &mut self.tally.not_found,
                Reason::Failed => &mut self.tally.failed,
                Reason::Transport => &mut self.tally.transport,
                Reason::Busy => &mut self.tally.refused,
            };
            *counter += 1;
        }
        out.answers.push(Answer {
            token,
            hops: plan.hops,
            ranks: plan.ranks,
            whole,
            reason: plan.reason,
        });
    }

    /// The deadline of a resolution: what is known must do.
    pub(super) fn expire(&mut self, now: Instant, number: u64, out: &mut Outputs<T>) {
        let Some(mut resolution) = self.resolutions.remove(&number) else {
            return;
        };
        let of = &mut *resolution;
        let mut plan = self.plan_from_cache(now, &of.wanted, (of.seed, of.ranked), &mut of.facts);
        plan.reason = Reason::Failed;
        self.end(now, *resolution, plan, out);
    }
}
