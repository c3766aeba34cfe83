//! Which hops and targets a request goes to, and in which order (RFC 3261 §16.6, §16.7; RFC 3263 §4.3).

use std::{net::SocketAddr, time::Duration};

use stdx::Instant;

use crate::{network::Packet, phone::LIMIT, text::Text};

use super::{Answer, Branch, Monitor, Request, SLACK};

/// For so long a dead hop is the last choice of whoever knows that it is dead, at least.
const BLACKLISTED: Duration = Duration::from_secs(29);

impl Monitor {
    /// A request is about to be sent somewhere for the first time.
    pub(super) fn judge_choice(
        &mut self,
        now: Instant,
        parent: usize,
        packet: &Packet,
        text: &Text<'_>,
        slot: u16,
    ) {
        if text.method() == "ACK" || self.jumped() {
            return;
        }
        let request = &self.requests[parent];
        // Behind its time a copy is a request of its own.
        let twice = now < request.ins[0] + LIMIT
            && request.branches.iter().any(|&at| {
                let branch = &self.branches[at];
                branch.to == packet.to
                    && Text::read(&branch.bytes).is_some_and(|other| other.uri() == text.uri())
            });
        let soon = now < request.ins[0] + Duration::from_secs(1);
        // What was known when the request came in; where it goes was decided then.
        let known = self.known_dead.get(&(slot, packet.to)).copied();
        let avoidable = request.branches.is_empty()
            && soon
            && self.facts.names_are_good
            && user_of(&request.bytes) == "trunk"
            && known.is_some_and(|at| at < request.ins[0] && now < at + BLACKLISTED);
        // The last choice is not the first one, unless the others are known to be dead as well.
        let others = self.facts.ways.get("trunk").into_iter().flatten();
        let alternative = others
            .filter(|&other| !self.facts.dead.contains(other))
            .any(|&other| self.is_well(other, now));
        if twice {
            self.fault(now, format!("the same target twice: {}", text.summary()));
        }
        if avoidable && alternative {
            let (to, summary) = (packet.to, text.summary());
            self.fault(now, format!("{to} is known to be dead: {summary}"));
        }
    }

    /// Nothing has happened lately that would make somebody take this address for dead.
    fn is_well(&self, address: SocketAddr, now: Instant) -> bool {
        self.branches
            .iter()
            .filter(|branch| branch.to == address)
            .all(|branch| {
                // Later it was given up as silent, and an answer that is late does not change that.
                let in_time = branch.sent[0] + self.facts.forking.hop_timeout;
                let answered = |answer: &Answer| answer.code != 503 && answer.at[0] < in_time;
                branch.heard.iter().any(answered) || branch.sent[0] + Duration::from_secs(100) < now
            })
    }

    /// Since when this branch has given way to others: a hop that was silent, or targets that had their time.
    pub(super) fn superseded(&self, branch: &Branch, all: &[&Branch]) -> Option<Instant> {
        let forking = &self.facts.forking;
        let least = forking.hop_timeout.min(forking.serial_timeout);
        let begun = branch.sent[0];
        all.iter()
            .filter(|other| !std::ptr::eq(**other, branch))
            .map(|other| other.sent[0])
            .filter(|&at| at + SLACK >= begun + least)
            .min()
    }

    /// When the targets of this branch's preference had had their time, and those of less had theirs.
    pub(super) fn passed_over(&self, branch: &Branch, all: &[&Branch]) -> Option<Instant> {
        let q = self.facts.q.get(&branch.to)?;
        if !self.facts.forking.by_q || self.facts.recurses {
            return None;
        }
        let worse = |other: &&&Branch| self.facts.q.get(&other.to).is_some_and(|other| other < q);
        let later = all.iter().filter(worse).map(|other| other.sent[0]);
        later.filter(|&at| at >= branch.sent[0]).min()
    }

    /// Targets have their turn by preference, and all that there are have theirs.
    pub(super) fn judge_order(
        &self,
        request: &Request,
        branches: &[&Branch],
        faults: &mut Vec<String>,
    ) {
        let within = Text::read(&request.bytes).is_none_or(|text| !text.to_tag().is_empty());
        if within || self.jumped() {
            return;
        }
        // The time of a group begins when the names of its targets are asked for.
        let in_order = branches.iter().filter(|_| self.facts.names_are_good);
        for branch in in_order {
            let over = branch
                .first(|code| code >= 200)
                .into_iter()
                .chain(branch.no_way)
                .chain([branch.sent[0] + self.facts.forking.serial_timeout])
                .min();
            if let (Some(over), Some(passed)) = (over, self.passed_over(branch, branches))
                && passed + SLACK < over
            {
                faults.push(format!("the next choice before {} had its time", branch.to));
            }
        }
        self.judge_all_tried(request, branches, faults);
    }

    fn judge_all_tried(&self, request: &Request, branches: &[&Branch], faults: &mut Vec<String>) {
        let user = user_of(&request.bytes);
        let mut answers = request.answers.iter();
        let (Some(ways), Some(failure)) = (
            self.facts.ways.get(&user),
            answers.find(|answer| (300..600).contains(&answer.code)),
        ) else {
            return;
        };
        let (begun, at) = (request.ins[0], failure.at[0]);
        // Hops are tried for one that says something; targets, all of them.
        let hops = user != "team";
        let failover = &self.facts.forking.failover_codes;
        let ended = branches.iter().any(|branch| {
            branch
                .first(|code| match code {
                    100..200 => false,
                    300..600 => hops && !failover.contains(&code),
                    _ => true,
                })
                .is_some()
        });
        if branches.is_empty()
            || ended
            || !request.cancels.is_empty()
            || !self.facts.names_are_good
            || !self.undisturbed(begun, at)
        {
            return;
        }
        for to in ways {
            if branches.iter().all(|branch| branch.to != *to) {
                faults.push(format!("{} though {to} was not tried", failure.code));
            }
        }
    }
}

/// Whom a request is for.
fn user_of(request: &[u8]) -> String {
    let Some(text) = Text::read(request) else {
        return String::new();
    };
    let user = text.uri().strip_prefix("sip:");
    let user = user.and_then(|uri| uri.strip_suffix("@example.org"));
    user.unwrap_or_default().to_owned()
}
