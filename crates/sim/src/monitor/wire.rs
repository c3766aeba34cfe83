//! Each datagram as it passes.

use std::{net::SocketAddr, rc::Rc};

use stdx::Instant;

use crate::{
    network::Packet,
    text::{Text, address_of, uri_of},
};

use super::{Answer, Branch, EVIL, Monitor, Request, note};

impl Monitor {
    pub(super) fn on_in(&mut self, now: Instant, packet: &Packet) {
        let Some(text) = Text::read(&packet.bytes) else {
            return;
        };
        if text.call_id().starts_with(EVIL) || self.listeners.contains(&packet.from) {
            return;
        }
        match text.code() {
            Some(code) => self.on_response_in(now, code, &text),
            None => self.on_request_in(now, packet, &text),
        }
    }

    fn on_request_in(&mut self, now: Instant, packet: &Packet, text: &Text<'_>) {
        let method = text.method();
        if matches!(method, "ACK" | "CANCEL")
            && let Some(&at) = self.by_key.get(&Self::key(text.branch(), "INVITE"))
        {
            let request = &mut self.requests[at];
            match method {
                "ACK" => request.acked = request.acked.or(Some(now)),
                _ => request.cancels.push(now),
            }
            return;
        }
        let key = Self::key(text.branch(), method);
        if let Some(&at) = self.by_key.get(&key) {
            self.requests[at].ins.push(now);
            return;
        }
        self.by_key.insert(key, self.requests.len());
        self.requests.push(Request {
            method: method.to_owned(),
            bytes: Rc::clone(&packet.bytes),
            source: packet.from,
            ins: vec![now],
            answers: Vec::new(),
            branches: Vec::new(),
            cancels: Vec::new(),
            cancel_answers: 0,
            acked: None,
        });
    }

    fn on_response_in(&mut self, now: Instant, code: u16, text: &Text<'_>) {
        let Some(&at) = self.by_branch.get(text.branch()) else {
            return;
        };
        let branch = &mut self.branches[at];
        match text.method() {
            "CANCEL" => branch.cancel_answered = branch.cancel_answered.or(Some(now)),
            _ => note(&mut branch.heard, code, text.to_tag(), now),
        }
    }

    /// The datagram that was just sent did not leave.
    pub(super) fn on_no_way(&mut self, now: Instant, packet: &Packet) {
        let found = Text::read(&packet.bytes)
            .filter(|text| text.code().is_none())
            .and_then(|text| self.by_branch.get(text.branch()).copied());
        if let Some(at) = found {
            let branch = &mut self.branches[at];
            branch.no_way = branch.no_way.or(Some(now));
            let known = (branch.slot, branch.to);
            self.known_dead.insert(known, now);
        }
    }

    pub(super) fn on_out(&mut self, now: Instant, packet: &Packet, slot: u16) {
        if self.victims.contains(&packet.to) {
            let text = String::from_utf8_lossy(&packet.bytes);
            let line = text.lines().next().unwrap_or_default().to_owned();
            self.fault(now, format!("sent to a stranger, {}: {line}", packet.to));
        }
        let Some(text) = Text::read(&packet.bytes) else {
            // What is torn may be no text any more, and is passed on as it is.
            if !packet
                .bytes
                .windows(EVIL.len())
                .any(|bytes| bytes == EVIL.as_bytes())
            {
                self.fault(now, "what was sent is no message");
            }
            return;
        };
        if text.call_id().starts_with(EVIL) || self.listeners.contains(&packet.to) {
            return;
        }
        if text.code().is_some() {
            self.on_response_out(now, packet, &text);
        } else {
            self.on_request_out(now, packet, &text, slot);
        }
    }

    fn on_response_out(&mut self, now: Instant, packet: &Packet, text: &Text<'_>) {
        let code = text.code().unwrap_or_default();
        let cancel = text.method() == "CANCEL";
        let method = if cancel { "INVITE" } else { text.method() };
        let found = self.by_key.get(&Self::key(text.branch(), method)).copied();
        let found = found.or_else(|| {
            // A CANCEL whose INVITE never came.
            self.by_key
                .get(&Self::key(text.branch(), text.method()))
                .copied()
        });
        let Some(at) = found else {
            self.fault(
                now,
                format!("a response without a request: {}", text.summary()),
            );
            return;
        };
        let request = &mut self.requests[at];
        if cancel {
            request.cancel_answers += 1;
            if !matches!(code, 200 | 481) {
                self.fault(now, format!("a CANCEL is answered {code}"));
            }
            return;
        }
        note(&mut request.answers, code, text.to_tag(), now);
        let bytes = Rc::clone(&request.bytes);
        let (source, branches) = (request.source, request.branches.clone());
        let Some(of) = Text::read(&bytes) else {
            return;
        };
        let same = |name: &str| of.header(name) == text.header(name);
        let fits = same("From")
            && same("Call-ID")
            && same("CSeq")
            && of.values("Via") == text.values("Via")
            && uri_of(of.header("To")) == uri_of(text.header("To"))
            && source == packet.to;
        if !fits {
            self.fault(
                now,
                format!("a response that does not fit: {}", text.summary()),
            );
        }
        // What is no failure of ours has been said by somebody.
        if (101..300).contains(&code) && !matches!(of.method(), "REGISTER" | "OPTIONS") {
            let said = branches.iter().any(|&branch| {
                let heard = &self.branches[branch].heard;
                heard
                    .iter()
                    .any(|answer| answer.code == code && answer.tag == text.to_tag())
            });
            if !said {
                self.fault(
                    now,
                    format!("a {code} that nobody said: {}", text.summary()),
                );
            }
        }
    }

    fn on_request_out(&mut self, now: Instant, packet: &Packet, text: &Text<'_>, slot: u16) {
        let vias = text.values("Via");
        let by_us = vias
            .first()
            .and_then(|via| via.split([' ', ';']).nth(1)?.parse().ok());
        if by_us.is_none_or(|by: SocketAddr| !self.listeners.contains(&by)) {
            self.fault(now, format!("the top Via is not ours: {}", text.summary()));
        }
        let known = self.by_branch.get(text.branch()).copied();
        match (text.method(), known) {
            ("CANCEL", Some(at)) => {
                self.branches[at].cancels.push(now);
                self.compare_own(now, at, packet, text);
            }
            ("ACK", Some(at)) if vias.len() == 1 => {
                self.branches[at].acks.push(now);
                self.compare_own(now, at, packet, text);
            }
            (_, Some(at)) => {
                let branch = &mut self.branches[at];
                branch.sent.push(now);
                if branch.bytes != packet.bytes || branch.to != packet.to {
                    self.fault(
                        now,
                        format!("a retransmission that differs: {}", text.summary()),
                    );
                }
            }
            (_, None) => self.on_new_branch(now, packet, text, slot),
        }
    }

    /// A CANCEL or the ACK for a failure: of the same branch, CSeq number and target as its INVITE (RFC 3261 §9.1, §17.1.1.3).
    fn compare_own(&mut self, now: Instant, at: usize, packet: &Packet, text: &Text<'_>) {
        let branch = &self.branches[at];
        let (bytes, to) = (Rc::clone(&branch.bytes), branch.to);
        let Some(invite) = Text::read(&bytes) else {
            return;
        };
        let fits = invite.method() == "INVITE"
            && invite.uri() == text.uri()
            && invite.cseq().0 == text.cseq().0
            && text.cseq().1 == text.method()
            && invite.call_id() == text.call_id()
            && invite.header("From") == text.header("From")
            && invite.all("Via").next() == text.all("Via").next()
            && invite.all("Route").eq(text.all("Route"))
            && to == packet.to;
        if !fits {
            self.fault(
                now,
                format!("it does not fit its INVITE: {}", text.summary()),
            );
        }
    }

    /// A copy of a request that came (RFC 3261 §16.6).
    fn on_new_branch(&mut self, now: Instant, packet: &Packet, text: &Text<'_>, slot: u16) {
        let vias = text.values("Via");
        let parent = vias
            .get(1)
            .and_then(|via| crate::text::param(via, "branch"))
            .and_then(|branch| self.by_key.get(&Self::key(branch, text.method())))
            .copied();
        let Some(parent) = parent else {
            self.fault(
                now,
                format!("a request without a cause: {}", text.summary()),
            );
            return;
        };
        self.judge_choice(now, parent, packet, text, slot);
        let request = &mut self.requests[parent];
        request.branches.push(self.branches.len());
        let bytes = Rc::clone(&request.bytes);
        let tried = request.answers.iter().find(|answer| answer.code == 100);
        let answered = tried.is_some_and(|tried| {
            let after = |answer: &Answer| answer.code >= 200 && answer.at[0] > tried.at[0];
            request.answers.iter().any(after)
        });
        let begun = request.ins[0];
        self.by_branch
            .insert(text.branch().to_owned(), self.branches.len());
        self.branches.push(Branch {
            to: packet.to,
            bytes: Rc::clone(&packet.bytes),
            sent: vec![now],
            heard: Vec::new(),
            cancels: Vec::new(),
            cancel_answered: None,
            acks: Vec::new(),
            no_way: None,
            slot,
        });
        let Some(of) = Text::read(&bytes) else {
            return;
        };
        // An heir sends what may not have been sent; and what was refused at once is judged anew when it comes again.
        if answered && text.method() != "ACK" && self.undisturbed(begun, now) {
            self.fault(
                now,
                format!("sent on after it was answered: {}", text.summary()),
            );
        }
        let hops = |text: &Text<'_>| text.header("Max-Forwards").parse::<u32>().unwrap_or(999);
        let within = !of.to_tag().is_empty();
        let ours =
            |route: &&str| address_of(uri_of(route)).is_some_and(|at| self.listeners.contains(&at));
        let came = of.values("Route");
        let theirs: Vec<&str> = came.iter().copied().skip_while(ours).collect();
        let recorded = text.values("Record-Route");
        let stays = text.method() == "INVITE" && !within;
        let faults = [
            (hops(text) + 1 != hops(&of), "Max-Forwards"),
            (vias.get(1..) != Some(&of.values("Via")[..]), "Vias"),
            (
                !of.foreign().eq(text.foreign()),
                "headers that are none of ours",
            ),
            (of.body != text.body, "the body"),
            (
                within && of.uri() != text.uri(),
                "the Request-URI of a dialog",
            ),
            (text.values("Route") != theirs, "the Route set"),
            (
                stays && !recorded.first().is_some_and(ours),
                "no Record-Route",
            ),
            (
                !stays && recorded.len() != of.values("Record-Route").len(),
                "a Record-Route too many",
            ),
        ];
        for (fault, what) in faults {
            if fault {
                self.fault(now, format!("{what}: {}", text.summary()));
            }
        }
    }
}
