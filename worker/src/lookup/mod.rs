//! A slot's resolver: the machine of crate `dns`, its sockets, and whose questions it answers.
//!
//! The machine's questions wait as rows in the arena; what is here is lost with the worker, and the heir asks again.

mod sockets;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use ::slot::{hop_input, target_of};
use dns::{Input, Outputs, Reason, Resolver};
use proxy::{AskId, HopState, Question};
use shm::{Participant, RowRef};
use sip::uri::Uri;
use stdx::{
    Instant,
    hash::{Key, hash64, hash128},
};
use tables::Counter;

use crate::active::Active;
use sockets::{Heard, Sockets};

/// At most so often a line about next hops that only other transports lead to.
const TRANSPORT_NOTE: Duration = Duration::from_secs(60);

/// A late answer: hops, best first.
pub(crate) type Late = (AskId, Vec<SocketAddr>);

/// What names of destinations lead to.
pub(crate) type Name = (RowRef, dns::Answer<Token>);

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Token {
    /// A request, for its next hop.
    Ask(AskId),
    /// The destination in this row of `balancer`, whose URI has a name.
    Destination(RowRef),
}

pub(crate) struct Lookup {
    slot: u16,
    resolver: Resolver<Token>,
    sockets: Sockets,
    outputs: Outputs<Token>,
    /// What names of destinations lead to, as far as it was said at once.
    named: Vec<(RowRef, dns::Answer<Token>)>,
    /// Chooses among equals, the same for all messages of a call and in all workers.
    seeds: Key,
    noted: Option<Instant>,
    /// There may be something to read.
    ready: bool,
}

impl Lookup {
    /// `once` is a number that no other incarnation of the slot has had.
    pub(crate) fn new(slot: u16, arena: &Key, once: u64, active: &Active) -> io::Result<Self> {
        // Ids and ports are drawn from it: nobody may draw from the same again.
        let key = hash128(
            arena,
            &[
                b"dns",
                &slot.to_le_bytes(),
                &once.to_le_bytes(),
                &std::process::id().to_le_bytes(),
            ],
        );
        let resolver = Resolver::new(
            active.dns.clone(),
            active.families,
            Arc::clone(&active.hosts),
            Key(key.to_le_bytes()),
        );
        let mut sockets = Sockets::new()?;
        sockets.configure(resolver.servers());
        Ok(Self {
            slot,
            resolver,
            sockets,
            outputs: Outputs::default(),
            named: Vec::new(),
            seeds: *arena,
            noted: None,
            ready: false,
        })
    }

    /// Readable when there is something to be read.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.sockets.as_fd()
    }

    /// The descriptor was readable.
    pub(crate) fn wake(&mut self) {
        self.ready = true;
    }

    pub(crate) fn configure(&mut self, active: &Active) {
        self.resolver.configure(
            active.dns.clone(),
            active.families,
            Arc::clone(&active.hosts),
        );
        self.sockets.configure(self.resolver.servers());
    }

    /// When [`Lookup::turn`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.ready || !self.named.is_empty() {
            Some(Instant::ZERO)
        } else {
            self.resolver.deadline()
        }
    }

    /// Where a branch's next hop is (RFC 3263); `None`: the answer comes by a later [`Lookup::turn`].
    pub(crate) fn ask(
        &mut self,
        now: Instant,
        id: AskId,
        branch: u8,
        question: &Question<'_>,
    ) -> Option<Vec<SocketAddr>> {
        let uri = question
            .next_hop(branch)
            .and_then(|uri| Uri::parse(uri).ok());
        let Some(target) = uri.as_ref().and_then(target_of) else {
            return Some(Vec::new());
        };
        let call_id = question.message.call_id().unwrap_or_default();
        let input = Input::Resolve {
            token: Token::Ask(id),
            target,
            source: question.source().ip(),
            seed: hash64(&self.seeds, &[b"hop", call_id]),
            ranked: false,
        };
        self.resolver.step(now, input, &mut self.outputs);
        let answer = self.outputs.answers.pop();
        if let Some(answer) = &answer
            && answer.hops.is_empty()
        {
            self.note(now, answer.reason);
        }
        self.act(now);
        answer.map(|answer| answer.hops)
    }

    /// Asks where the name of a destination leads to. The answer comes by the next [`Lookup::turn`], or a later one.
    pub(crate) fn expand(&mut self, now: Instant, row: RowRef, uri: &[u8]) {
        let Ok(uri) = Uri::parse(uri) else { return };
        let Some(target) = target_of(&uri) else {
            return;
        };
        let input = Input::Resolve {
            token: Token::Destination(row),
            target,
            // It has a share of its own in what may wait.
            source: Ipv4Addr::UNSPECIFIED.into(),
            seed: 0,
            ranked: true,
        };
        self.resolver.step(now, input, &mut self.outputs);
        if let Some(answer) = self.outputs.answers.pop() {
            self.named.push((row, answer));
        }
        self.act(now);
    }

    /// Hears what has come and does what is due. Appends answers to questions that had to wait.
    pub(crate) fn turn(&mut self, now: Instant, answers: &mut Vec<Late>, names: &mut Vec<Name>) {
        names.append(&mut self.named);
        if self.ready {
            let Self {
                sockets,
                resolver,
                outputs,
                ..
            } = self;
            self.ready = sockets.hear(|heard| {
                let input = match heard {
                    Heard::Datagram(server, lane, bytes) => Input::Datagram {
                        server,
                        lane,
                        bytes,
                    },
                    Heard::Unreachable(server, lane) => Input::Unreachable { server, lane },
                    Heard::Stream(connection, bytes) => Input::Stream { connection, bytes },
                    Heard::Closed(connection) => Input::Closed { connection },
                };
                resolver.step(now, input, outputs);
            });
        }
        if self.resolver.deadline().is_some_and(|due| due <= now) {
            self.resolver.step(now, Input::Tick, &mut self.outputs);
        }
        self.act(now);
        for answer in std::mem::take(&mut self.outputs.answers) {
            if answer.hops.is_empty() {
                self.note(now, answer.reason);
            }
            match answer.token {
                Token::Ask(id) => answers.push((id, answer.hops)),
                Token::Destination(row) => names.push((row, answer)),
            }
        }
    }

    /// Carries out what the machine wants.
    fn act(&mut self, now: Instant) {
        let Self {
            sockets,
            resolver,
            outputs,
            ..
        } = self;
        // What can't be sent is told at once, and may lead to another send: each question has a bound on those.
        while !outputs.sends.is_empty() || !outputs.opens.is_empty() {
            let sends = std::mem::take(&mut outputs.sends);
            for (server, lane, bytes) in sends {
                if !sockets.send(server, lane, &bytes, resolver.questions()) {
                    resolver.step(now, Input::Unreachable { server, lane }, outputs);
                }
            }
            for (connection, server, bytes) in std::mem::take(&mut outputs.opens) {
                if !sockets.open(connection, server, bytes) {
                    resolver.step(now, Input::Closed { connection }, outputs);
                }
            }
        }
        for connection in outputs.closes.drain(..) {
            sockets.close(connection);
        }
        for (server, up) in outputs.servers.drain(..) {
            if up {
                tracing::info!(slot = self.slot, %server, "a name server answers again");
            } else {
                tracing::warn!(slot = self.slot, %server, "a name server does not answer");
            }
        }
    }

    /// What a request has told about its next hop.
    pub(crate) fn hop(&mut self, now: Instant, address: SocketAddr, state: HopState) {
        let input = hop_input(address, state);
        self.resolver.step(now, input, &mut self.outputs);
    }

    fn note(&mut self, now: Instant, reason: Reason) {
        let due = self
            .noted
            .is_none_or(|at| now.saturating_duration_since(at) >= TRANSPORT_NOTE);
        if reason == Reason::Transport && due {
            self.noted = Some(now);
            tracing::warn!(
                slot = self.slot,
                "a next hop can be reached only by a transport that this version lacks (`tandem stats dns`)"
            );
        }
    }

    /// Adds what happened to the counters.
    pub(crate) fn count(&mut self, participant: &Participant) {
        let tally = std::mem::take(&mut self.resolver.tally);
        if tally == dns::Tally::default() {
            return;
        }
        for (counter, n) in [
            (Counter::DnsResolutions, tally.resolutions),
            (Counter::DnsCached, tally.cached),
            (Counter::DnsQueries, tally.queries),
            (Counter::DnsStreams, tally.streams),
            (Counter::DnsAnswers, tally.answers),
            (Counter::DnsMismatched, tally.mismatched),
            (Counter::DnsTimeouts, tally.timeouts),
            (Counter::DnsStale, tally.stale),
            (Counter::DnsNotFound, tally.not_found),
            (Counter::DnsFailed, tally.failed),
            (Counter::DnsTransport, tally.transport),
            (Counter::DnsRefused, tally.refused),
            (Counter::DnsOverShare, tally.over_share),
            (Counter::DnsBlacklisted, tally.blacklisted),
        ] {
            if n > 0 {
                participant.count(counter.cell(), n);
            }
        }
    }
}
