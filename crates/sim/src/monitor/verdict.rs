//! At the end: did everything lead to what it has to?

use std::time::Duration;

use stdx::Instant;

use crate::{
    phone::{LIMIT, T1, T2},
    text::Text,
};

use super::{Answer, Branch, Monitor, Request, SLACK};

/// When it was given up, unless it had its final response by then: Timer B, or so long after its CANCEL.
fn given_up(branch: &Branch) -> Option<Instant> {
    let at = match (branch.cancels.first(), branch.first(|_| true)) {
        (Some(&cancelled), _) => cancelled,
        (None, Some(heard)) if heard < branch.sent[0] + LIMIT => return None,
        (None, _) => branch.sent[0],
    };
    Some(at + LIMIT)
}

/// When a message that is retransmitted goes out, counted from its first: doubling (Timer A), or up to T2 (Timers E and G).
fn schedule(capped: bool, until: Duration) -> usize {
    let (mut at, mut every, mut count) = (Duration::ZERO, T1, 0);
    while at < until && at < LIMIT {
        count += 1;
        at += every;
        every *= 2;
        if capped {
            every = every.min(T2);
        }
    }
    count
}

/// What is said of an INVITE by itself and the configuration alone, challenges, and what may follow from them.
const AT_THE_DOOR: [u16; 12] = [400, 401, 403, 407, 416, 420, 440, 482, 483, 500, 503, 505];

impl Monitor {
    /// Everything has come to its end. Says what is wrong.
    pub(crate) fn judge(&mut self) {
        let requests = std::mem::take(&mut self.requests);
        let branches = std::mem::take(&mut self.branches);
        for request in &requests {
            let own: Vec<&Branch> = request
                .branches
                .iter()
                .filter_map(|&at| branches.get(at))
                .collect();
            let mut faults = Vec::new();
            match request.method.as_str() {
                "INVITE" => self.judge_invite(request, &own, &mut faults),
                "ACK" => self.judge_ack(request, &own, &mut faults),
                _ => self.judge_other(request, &own, &mut faults),
            }
            if request.method != "ACK" {
                self.judge_order(request, &own, &mut faults);
            }
            for branch in &own {
                self.judge_sends(request, branch, &own, &mut faults);
                if request.method == "INVITE" {
                    self.judge_branch(request, branch, &own, &mut faults);
                }
            }
            let name = Text::read(&request.bytes).map(|text| text.summary());
            for fault in faults {
                let at = request.ins[0];
                let name = name.clone().unwrap_or_default();
                self.fault(at, format!("{fault}: {name}"));
            }
        }
        self.requests = requests;
        self.branches = branches;
    }

    fn judge_invite(&self, request: &Request, branches: &[&Branch], faults: &mut Vec<String>) {
        let finals: Vec<&Answer> = request.answers.iter().filter(|a| a.code >= 200).collect();
        let failures: Vec<&&Answer> = finals.iter().filter(|a| a.code >= 300).collect();
        if finals.is_empty() {
            faults.push("no final answer".to_owned());
        }
        // An INVITE that is refused without a look-up is kept nowhere: its retransmission is judged anew.
        let refused = failures
            .first()
            .map_or(Instant::MAX, |failure| failure.at[0]);
        let tried = |a: &Answer| a.code == 100 && a.at[0] < refused;
        let repeated = branches.iter().any(|branch| branch.sent[0] < refused)
            || request.answers.iter().any(tried);
        let at_the_door = failures
            .first()
            .is_some_and(|failure| AT_THE_DOOR.contains(&failure.code));
        if (repeated || !at_the_door) && failures.len() > 1 {
            faults.push(format!("{} and {}", failures[0].code, failures[1].code));
        }
        let late = branches.iter().find(|branch| branch.sent[0] > refused);
        if let Some(late) = late.filter(|_| !at_the_door && !self.jumped()) {
            let code = failures.first().map_or(0, |failure| failure.code);
            faults.push(format!("sent to {} after a {code}", late.to));
        }
        if !request.cancels.is_empty() && request.cancel_answers == 0 {
            faults.push("no answer to its CANCEL".to_owned());
        }
        let end = request.ins.last().copied().unwrap_or_default() + LIMIT;
        let most = request.cancels.len() + 2 * self.deaths_in(request.ins[0], end);
        if request.cancel_answers as usize > most {
            faults.push("answers to its CANCEL that nothing asked for".to_owned());
        }
        let Some(failure) = failures.first() else {
            return;
        };
        let at = failure.at[0];
        if finals.iter().any(|a| a.code < 300 && a.at[0] < at) {
            faults.push(format!("{} after a 2xx", failure.code));
        }
        self.judge_failure(branches, failure, faults);
        if repeated {
            self.judge_timer_g(request, failure, faults);
        }
    }

    /// Was it time to give up, and is this what was to be said (RFC 3261 §16.7 step 6)?
    fn judge_failure(&self, branches: &[&Branch], failure: &Answer, faults: &mut Vec<String>) {
        let at = failure.at[0];
        let (mut best, mut global) = (7, false);
        for branch in branches.iter().filter(|branch| branch.sent[0] < at) {
            let last = branch
                .first(|code| code >= 200)
                .filter(|&heard| heard <= at);
            if last.is_some() && !self.undisturbed(branch.sent[0], at) {
                // Its time may have been over before that.
                best = 0;
                continue;
            }
            if last.is_some() {
                let code = branch
                    .heard
                    .iter()
                    .find(|a| a.code >= 200)
                    .map_or(0, |a| a.code);
                if self.facts.recurses && code / 100 == 3 {
                    // It was followed.
                    continue;
                }
                best = best.min(code / 100);
                global |= code >= 600;
                continue;
            }
            if !self.undisturbed(branch.sent[0], at) {
                continue;
            }
            let superseded = self.superseded(branch, branches);
            let given_up = branch.sent[0] + self.facts.forking.hop_timeout;
            if !self.facts.names_are_good && branch.first(|_| true).is_none() && given_up <= at {
                // The next hop had no address in time.
                continue;
            }
            if superseded
                .into_iter()
                .chain(branch.no_way)
                .any(|gone| gone <= at)
            {
                continue;
            }
            // Pending: it must have had its time.
            let rang = branch.first(|_| true).filter(|&heard| heard + SLACK < at);
            let begun = match (rang, branch.cancels.first()) {
                (_, Some(&cancelled)) => cancelled,
                (None, None) => branch.sent[0],
                (Some(_), None) => {
                    faults.push(format!("{} while a branch rang", failure.code));
                    continue;
                }
            };
            if at + SLACK < begun + LIMIT {
                faults.push(format!("{} before a branch had its time", failure.code));
            }
        }
        let class = failure.code / 100;
        if branches.iter().all(|branch| branch.sent[0] >= at) {
            return;
        }
        if global && best > 0 && class != 6 {
            faults.push(format!("{} though somebody said 6xx", failure.code));
        } else if !global && best > 0 && class > best && failure.code != 487 {
            faults.push(format!("{} though somebody said {best}xx", failure.code));
        }
        let own = matches!(failure.code, 408 | 487 | 500 | 503)
            // A redirection to where it came from is followed, and leads nowhere.
            || failure.code == 480 && self.facts.recurses;
        let said = branches
            .iter()
            .any(|branch| branch.heard.iter().any(|a| a.code == failure.code));
        if !own && !said {
            faults.push(format!("{} that no branch said", failure.code));
        }
        let forked = branches.iter().any(|b| {
            b.first(|c| (200..300).contains(&c))
                .is_some_and(|h| h + SLACK < at)
        });
        // Disturbed it may lie in a buffer, unread.
        if forked && !self.jumped() {
            faults.push(format!("{} though somebody took the call", failure.code));
        }
    }

    /// A failure goes upstream again until its ACK comes (Timers G and H).
    fn judge_timer_g(&self, request: &Request, failure: &Answer, faults: &mut Vec<String>) {
        let begun = failure.at[0];
        let until = request
            .acked
            .map_or(LIMIT, |at| at.saturating_duration_since(begun));
        let end = begun + until.min(LIMIT);
        let deaths = 2 * self.deaths_in(request.ins[0], end);
        let asked = request
            .ins
            .iter()
            .filter(|&&at| at + SLACK >= begun)
            .count();
        let most = schedule(true, until + SLACK) + asked + deaths;
        if failure.at.len() > most && self.undisturbed(begun, end) {
            let count = failure.at.len();
            faults.push(format!(
                "{} was sent {count} times, not {most}",
                failure.code
            ));
        }
        let least = schedule(true, until.saturating_sub(SLACK));
        if self.undisturbed(begun, end) && failure.at.len() < least {
            let count = failure.at.len();
            faults.push(format!(
                "{} was sent {count} times only, not {least}",
                failure.code
            ));
        }
    }

    fn judge_other(&self, request: &Request, branches: &[&Branch], faults: &mut Vec<String>) {
        let first = request.ins[0];
        let here = matches!(request.method.as_str(), "REGISTER" | "CANCEL");
        let finals: Vec<&Answer> = request.answers.iter().filter(|a| a.code >= 200).collect();
        let soon = |branch: &&Branch, pick: fn(u16) -> bool| {
            branch
                .first(pick)
                .is_some_and(|at| at + SLACK < first + LIMIT)
                && self.undisturbed(branch.sent[0], first + LIMIT)
        };
        // One that says how it is, or the last one that was asked.
        let decided = |code: u16| (200..300).contains(&code) || code >= 600;
        let answered = branches.iter().any(|branch| soon(branch, decided))
            || (!branches.is_empty()
                && branches
                    .iter()
                    .all(|branch| soon(branch, |code| code >= 200 && code != 408)));
        if finals.is_empty() && (here || answered || branches.is_empty()) {
            faults.push("no answer".to_owned());
        }
        // What is refused at once is kept nowhere, and judged anew when it comes again.
        let kept = finals
            .first()
            .is_some_and(|first| branches.iter().any(|branch| branch.sent[0] < first.at[0]));
        if kept && finals.len() > 1 && self.undisturbed(first, first + LIMIT) {
            faults.push(format!("{} and {}", finals[0].code, finals[1].code));
        }
        let end = request.ins.last().copied().unwrap_or_default() + LIMIT;
        let most = request.ins.len() + 2 * self.deaths_in(first, end);
        let sent: usize = finals.iter().map(|answer| answer.at.len()).sum();
        if sent > most {
            faults.push(format!("{sent} answers to {} requests", request.ins.len()));
        }
    }

    /// The ACK for a 2xx: each one that comes goes on, once.
    fn judge_ack(&self, request: &Request, branches: &[&Branch], faults: &mut Vec<String>) {
        let sent: usize = branches.iter().map(|branch| branch.sent.len()).sum();
        let end = request.ins.last().copied().unwrap_or_default();
        let most = request.ins.len() + 2 * self.deaths_in(request.ins[0], end);
        if sent < request.ins.len() || sent > most {
            faults.push(format!("{} came, {sent} went on", request.ins.len()));
        }
    }

    /// How often a request was sent, and when (Timers A and E).
    fn judge_sends(
        &self,
        request: &Request,
        branch: &Branch,
        all: &[&Branch],
        faults: &mut Vec<String>,
    ) {
        if request.method == "ACK" {
            return;
        }
        let capped = request.method != "INVITE";
        let begun = branch.sent[0];
        let stop = if capped {
            branch.first(|code| code >= 200)
        } else {
            branch.first(|_| true)
        };
        let stop = stop.into_iter().chain(branch.no_way).min();
        let until = stop.map_or(LIMIT, |at| at.saturating_duration_since(begun));
        let end = begun + until.min(LIMIT);
        let deaths = 2 * self.deaths_in(begun, end);
        let (count, calm) = (branch.sent.len(), self.undisturbed(begun, end));
        // Disturbed it may still never be more, but for what heirs send again.
        let most = schedule(capped, until + SLACK) + deaths;
        if count > most && (calm || count > schedule(capped, LIMIT) + deaths) {
            faults.push(format!("sent {count} times to {}, not {most}", branch.to));
        }
        // A provisional response slows Timer E down.
        let slowed = capped && branch.first(|code| code < 200).is_some();
        let superseded = self.superseded(branch, all);
        let mut wanted =
            superseded.map_or(until, |at| until.min(at.saturating_duration_since(begun)));
        if !self.facts.names_are_good {
            // It may have given way to one that has no address yet, and the time of its group began before it had one itself.
            let forking = &self.facts.forking;
            let group = request.ins[0] + forking.serial_timeout;
            wanted = wanted
                .min(forking.hop_timeout)
                .min(group.saturating_duration_since(begun));
        }
        let least = schedule(capped, wanted.saturating_sub(SLACK));
        if calm && !slowed && count < least {
            faults.push(format!(
                "sent {count} times only to {}, not {least}",
                branch.to
            ));
        }
    }

    /// What one branch of an INVITE is owed.
    fn judge_branch(
        &self,
        request: &Request,
        branch: &Branch,
        all: &[&Branch],
        faults: &mut Vec<String>,
    ) {
        let begun = branch.sent[0];
        let accepted = branch.first(|code| (200..300).contains(&code));
        let answered = request.answers.iter().filter(|a| a.code >= 200);
        let answered = answered.map(|a| a.at[0]).min();
        for heard in &branch.heard {
            let said = request
                .answers
                .iter()
                .find(|a| a.code == heard.code && a.tag == heard.tag)
                .map_or(0, |a| a.at.len());
            let (first, last) = (heard.at[0], *heard.at.last().unwrap_or(&heard.at[0]));
            let deaths = 2 * self.deaths_in(first, last);
            match heard.code {
                // Every 2xx goes upstream, each time that it comes (RFC 3261 §16.7 step 5, RFC 6026 §7).
                200..300 if said < heard.at.len() || said > heard.at.len() + deaths => {
                    let count = heard.at.len();
                    faults.push(format!("{count} times {} came, {said} went on", heard.code));
                }
                101..200
                    if said == 0
                        && answered.is_none_or(|at| at > first + SLACK)
                        && self.superseded(branch, all).is_none_or(|at| at > first)
                        && branch.first(|code| code >= 200).is_none_or(|at| at > first)
                        && self.undisturbed(begun, first + SLACK) =>
                {
                    faults.push(format!("a {} did not go on", heard.code));
                }
                // So long after a branch was given up there is nothing left to make an ACK of.
                300..
                    if accepted.is_none()
                        && given_up(branch).is_none_or(|at| at + LIMIT > first + SLACK) =>
                {
                    let within = heard
                        .at
                        .iter()
                        .filter(|&&at| at + SLACK < first + LIMIT)
                        .count();
                    let most = heard.at.len() + 2 * self.deaths_in(begun, last);
                    let acks = branch.acks.len();
                    if acks < within && !self.jumped() || acks > most {
                        faults.push(format!("{within} times {} came, {acks} ACKs", heard.code));
                    }
                }
                _ => {}
            }
        }
        if !branch.acks.is_empty() && branch.first(|code| code >= 300).is_none() {
            faults.push("an ACK for no failure".to_owned());
        }
        self.judge_cancel(request, branch, all, faults);
    }

    /// CANCEL where it belongs, and nowhere else (RFC 3261 §9.1, §16.7 step 10, §16.8, §16.10).
    fn judge_cancel(
        &self,
        request: &Request,
        branch: &Branch,
        all: &[&Branch],
        faults: &mut Vec<String>,
    ) {
        let rang = branch.first(|_| true);
        let ended = branch.first(|code| code >= 200);
        let ended = ended.into_iter().chain(branch.no_way).min();
        // Since when nobody wants this branch any more: the caller has cancelled, somebody else took the call or spoke for everybody.
        let elsewhere = all
            .iter()
            .filter(|other| !std::ptr::eq(**other, branch))
            .filter_map(|other| other.first(|code| (200..300).contains(&code) || code >= 600))
            .min();
        let unwanted = request
            .cancels
            .first()
            .copied()
            .into_iter()
            .chain(elsewhere)
            .min();
        let timer_c = branch
            .last(|code| (101..200).contains(&code))
            .into_iter()
            .chain([branch.sent[0]])
            .max()
            .map(|at| at + self.timer_c);
        let passed = self.passed_over(branch, all);
        let due = unwanted.into_iter().chain(timer_c).chain(passed).min();
        if let (Some(rang), Some(due)) = (rang, due) {
            let due = due.max(rang);
            let pending = ended.is_none_or(|at| at > due + SLACK);
            if pending && branch.cancels.is_empty() && self.undisturbed(branch.sent[0], due + SLACK)
            {
                faults.push(format!("no CANCEL to {}", branch.to));
            }
        }
        let Some(&first) = branch.cancels.first() else {
            return;
        };
        if rang.is_none_or(|at| at > first) {
            faults.push("a CANCEL before any sign of life".to_owned());
        }
        // Targets of its preference, or it as a hop, had their time; whoever is next may need an address first.
        let forking = &self.facts.forking;
        let least = forking.hop_timeout.min(forking.serial_timeout);
        let turn = if self.facts.names_are_good {
            self.superseded(branch, all).map(|_| branch.sent[0] + least)
        } else {
            Some(request.ins[0] + least)
        };
        let due = due.into_iter().chain(turn).min();
        if due.is_none_or(|due| first + SLACK < due) && self.undisturbed(branch.sent[0], first) {
            faults.push("a CANCEL without a cause".to_owned());
        }
        // Whoever has had a final answer does not care any more.
        let done = branch.cancel_answered.into_iter().chain(ended).min();
        let deaf = branch
            .cancel_answered
            .map_or(LIMIT, |at| at.saturating_duration_since(first));
        let until = done.map_or(LIMIT, |at| at.saturating_duration_since(first));
        let deaths = 2 * self.deaths_in(first, first + deaf.min(LIMIT));
        let most = schedule(true, deaf + SLACK) + deaths;
        let least = schedule(true, until.saturating_sub(SLACK));
        let (count, calm) = (
            branch.cancels.len(),
            self.undisturbed(first, first + deaf.min(LIMIT)),
        );
        if calm && (count > most || count < least) {
            faults.push(format!("{count} CANCELs, not {least} to {most}"));
        }
    }
}
