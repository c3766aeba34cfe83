//! Requests: matched to their transactions, or begun (§16.3, §17.2.3).

use std::time::Duration;

use sip::{HeaderName, Message, Method, Via};
use stdx::text::write_decimal;
use tables::{Counter, TRANSACTION};
use transaction::{
    Actions, InviteServer, NonInviteServer, Reliability, ServerAction, ServerInput, key,
};

use crate::{
    ask::AskKind,
    context::{Context, ContextId, Origin, Server, Stage},
    hidden::{Came, Restored},
    intake::{self, Intake, Refusal, Way},
    io::{Datagram, Disposition},
    proxy::{AtHand, Found},
    step::{Hand, Step},
};

impl Step<'_, '_> {
    /// A well-formed request. Returns what it became.
    pub(crate) fn on_request(
        &mut self,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
    ) -> (Disposition, Found) {
        let served = (Disposition::Served, Found::Done);
        let value = message.first_value(HeaderName::Via);
        let via = value.and_then(|value| Via::parse(value.value).ok());
        let (Some(line), Some(value), Some(via)) = (message.request(), value, via) else {
            match Way::of(
                message,
                datagram.source,
                self.key,
                self.settings.registrar.nat,
            ) {
                Some(way) => self.refuse(message, datagram, &way, &Refusal::bad("Bad Via")),
                None => self.env.count(Counter::Malformed),
            }
            return served;
        };
        let way = Way::by(
            message,
            value.value,
            &via,
            datagram.source,
            self.key,
            self.settings.registrar.nat,
        );
        let came = self.restore(message, datagram.listener);
        let restored = came.restored().and_then(Restored::message);
        let intake = Intake::of(
            restored.as_ref().unwrap_or(message),
            &way,
            self.key,
            &self.settings,
        );
        let mut intake = match intake {
            Ok(intake) => intake,
            Err(refusal) => {
                self.refuse(message, datagram, &way, &refusal);
                return served;
            }
        };
        self.know_by_names(restored.as_ref().unwrap_or(message), &mut intake);
        // A CANCEL is looked up by its INVITE: nobody has a question about its own transaction, it is answered at once, and again
        // for a retransmission.
        let written = key::lookup_key(message, &via, self.key, &mut self.room.key);
        if written.is_err() {
            let refusal = Refusal::new(400, Counter::BadRequest);
            self.refuse(message, datagram, &way, &refusal);
            return served;
        }
        let owner = self.owner();
        if let Owner::Other(slot) = owner {
            return (Disposition::Owner(slot), Found::Done);
        }
        match (line.method, owner) {
            (Method::Ack, owner) => {
                let hand = Hand::of(*message, came.restored(), &way, &intake);
                let begun = self.on_ack(&hand, datagram, owner);
                let begun = begun
                    .map(|id| Found::Begun(AtHand::new(id, way, intake, came.into_restored())));
                return (Disposition::Served, begun.unwrap_or(Found::Done));
            }
            (Method::Cancel, owner) => {
                self.on_cancel(message, datagram, &way, owner);
                return served;
            }
            (_, Owner::Mine(id)) => {
                let hand = Hand::of(*message, came.restored(), &way, &intake);
                self.on_retransmission(id, &hand);
                return (Disposition::Served, Found::Copy);
            }
            (_, Owner::Nobody | Owner::Other(_)) => {}
        }
        if matches!(came, Came::Lost) {
            self.refuse(
                message,
                datagram,
                &way,
                &Refusal::new(481, Counter::HiddenLost),
            );
            return served;
        }
        if let Err(refusal) = intake::validate(message, &way, &intake, self.key) {
            self.refuse(message, datagram, &way, &refusal);
            return served;
        }
        let hand = Hand::of(*message, came.restored(), &way, &intake);
        let id = self.begin(&hand, line.method, datagram);
        let begun = AtHand::new(id, way, intake, came.into_restored());
        (Disposition::Served, Found::Begun(begun))
    }

    /// A request that is not to begin anything now: 503 with Retry-After (§21.5.4), unless it belongs to something that is there, or
    /// does not say enough to be answered at once. Returns whether it was refused.
    pub(crate) fn refuse_new(
        &mut self,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
        retry_after_s: u32,
    ) -> bool {
        let value = message.first_value(HeaderName::Via);
        let via = value.and_then(|value| Via::parse(value.value).ok());
        let (Some(line), Some(value), Some(via)) = (message.request(), value, via) else {
            return false;
        };
        let begins = !matches!(line.method, Method::Ack | Method::Cancel);
        if !begins || key::lookup_key(message, &via, self.key, &mut self.room.key).is_err() {
            return false;
        }
        let key = self.room.key.as_bytes();
        if self.env.arena.find(TRANSACTION, key, |_| ()).is_some() {
            return false;
        }
        let way = Way::by(
            message,
            value.value,
            &via,
            datagram.source,
            self.key,
            self.settings.registrar.nat,
        );
        let mut headers = b"Retry-After: ".to_vec();
        write_decimal(retry_after_s.into(), &mut headers);
        headers.extend_from_slice(b"\r\n");
        self.env.count(Counter::Requests);
        self.env.count(Counter::OverloadRefused);
        self.reply_by(message, datagram.listener, &way, 503, None, &headers);
        true
    }

    /// Begins a context and asks its first question.
    fn begin(&mut self, hand: &Hand<'_>, method: Method, datagram: &Datagram<'_>) -> ContextId {
        let (now, timers) = (self.env.now, &self.settings.timers);
        let reliability = Reliability::Unreliable;
        let (server, trying_after) = match method {
            Method::Invite => (
                Server::Invite(InviteServer::new(now, timers, reliability)),
                None,
            ),
            // RFC 4320 §4.1: not before the client's Timer E has come to T2.
            _ => (
                Server::NonInvite(NonInviteServer::new(now, timers, reliability)),
                Some(timers.t2.saturating_sub(timers.t1)),
            ),
        };
        let id = self.add(hand, method, datagram, Some(server), trying_after);
        let Some(mut context) = self.take(id) else {
            return id;
        };
        context.hidden = hand.hidden.map(|(_, hidden)| hidden);
        if hand.intake.within_dialog {
            // The dialog was let in and routed when it began: its Route set says where this goes (§16.4, §16.5).
            context.stage = Stage::Routing;
            if self.enter_call(&mut context, hand) {
                self.forward_as_addressed(&mut context, hand);
            }
        } else {
            self.ask(&mut context, AskKind::Admit);
        }
        self.contexts.put(context);
        id
    }

    /// Adds a context for the request whose key was written to the room.
    pub(crate) fn add(
        &mut self,
        hand: &Hand<'_>,
        method: Method,
        datagram: &Datagram<'_>,
        server: Option<Server>,
        trying_after: Option<Duration>,
    ) -> ContextId {
        let (key, settings) = (self.room.key.as_bytes(), &self.settings);
        let trying_at = trying_after.map(|after| self.env.now.saturating_add(after));
        let origin = Origin {
            key,
            fold: hand.intake.fold,
            method,
            listener: datagram.listener,
            source: datagram.source,
            reply_to: hand.way.to,
        };
        let id = self.contexts.add(|id| {
            Box::new(Context {
                server,
                trying_at,
                ..Context::new(id, settings, &origin)
            })
        });
        self.dirty.push_back(id);
        id
    }

    /// Refuses a request without a transaction.
    fn refuse(
        &mut self,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
        way: &Way,
        refusal: &Refusal,
    ) {
        // Nothing is ever sent in answer to an ACK (§17.1.1.3).
        if message
            .request()
            .is_none_or(|line| line.method == Method::Ack)
        {
            self.env.count(Counter::Malformed);
            return;
        }
        self.env.count(refusal.counter);
        self.reply_by(
            message,
            datagram.listener,
            way,
            refusal.code,
            refusal.reason,
            &refusal.headers,
        );
    }

    /// Whose transaction the key in the room names.
    fn owner(&mut self) -> Owner {
        let found = self
            .env
            .arena
            .find(TRANSACTION, self.room.key.as_bytes(), |record| {
                (record.row, record.owner)
            });
        match found {
            None => Owner::Nobody,
            Some((_, owner)) if owner != self.slot => Owner::Other(owner),
            Some((row, _)) => self
                .contexts
                .of_row(row)
                .or_else(|| self.load(row, None))
                .map_or(Owner::Nobody, Owner::Mine),
        }
    }

    /// A retransmitted request (§17.2.1, §17.2.2).
    fn on_retransmission(&mut self, id: ContextId, hand: &Hand<'_>) {
        if let Some(mut context) = self.take(id) {
            let copy = Respond::Again { hand };
            self.step_server(&mut context, ServerInput::Request, Some(copy));
            self.contexts.put(context);
        }
    }

    /// An ACK: for a final response of 300..=699 it ends at our transaction, for a 2xx it goes on (§16.11, §17.2.1). Returns the
    /// context that it began, if its way must be asked for.
    fn on_ack(
        &mut self,
        hand: &Hand<'_>,
        datagram: &Datagram<'_>,
        owner: Owner,
    ) -> Option<ContextId> {
        if let Owner::Mine(id) = owner
            && let Some(mut context) = self.take(id)
        {
            // For a 2xx, by a client of RFC 2543, or one that uses the INVITE's branch again: it goes on.
            let accepted = matches!(
                context.server,
                Some(Server::Invite(InviteServer::Accepted(_)))
            );
            if !accepted {
                self.env.count(Counter::RequestAbsorbed);
                self.step_server(&mut context, ServerInput::Ack, None);
                self.touch(&mut context);
            }
            self.contexts.put(context);
            if !accepted {
                return None;
            }
        }
        let intake = hand.intake;
        if intake.answered_here {
            // For an answer that we gave without a transaction.
            self.env.count(Counter::RequestAbsorbed);
            return None;
        }
        if !intake.within_dialog || intake.max_forwards == Some(0) {
            self.env.count(Counter::AckUnmatched);
            return None;
        }
        self.forward_ack(hand, datagram)
    }

    /// A CANCEL (§9.2, §16.10). It is answered here, and its INVITE's branches are cancelled.
    ///
    /// Deviation: §16.10 has a proxy forward a CANCEL that it knows no INVITE for, in case that it forwarded the INVITE without
    /// a transaction. We never do that, so that nobody downstream could know it either: 481.
    fn on_cancel(
        &mut self,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
        way: &Way,
        owner: Owner,
    ) {
        let context = match owner {
            Owner::Mine(id) => self.take(id),
            Owner::Nobody | Owner::Other(_) => None,
        };
        let Some(mut context) = context else {
            let refusal = Refusal::new(481, Counter::CancelUnmatched);
            self.refuse(message, datagram, way, &refusal);
            return;
        };
        self.reply_by(message, datagram.listener, way, 200, None, b"");
        if context.is_invite() && context.stage != Stage::Answered {
            self.cancel_context(&mut context);
        }
        self.contexts.put(context);
    }

    /// Feeds the server transaction and does what it says. `response` is what there is to send for [`ServerInput::Respond`], and
    /// to make it of again for [`ServerInput::Request`].
    pub(crate) fn step_server(
        &mut self,
        context: &mut Context,
        input: ServerInput,
        response: Option<Respond<'_>>,
    ) {
        let mut wanted = Actions::new();
        let (now, timers) = (self.env.now, &self.settings.timers);
        context.server = match context.server.take() {
            None => None,
            Some(Server::Invite(machine)) => machine
                .step(now, timers, input, &mut wanted)
                .map(Server::Invite),
            Some(Server::NonInvite(machine)) => machine
                .step(now, timers, input, &mut wanted)
                .map(Server::NonInvite),
        };
        let mut response = response;
        for action in wanted {
            match action {
                ServerAction::Send => {
                    if let Some(response) = response.take() {
                        self.send_upstream(context, response);
                    }
                }
                ServerAction::Resend => {
                    let hand = match response.take() {
                        Some(Respond::Again { hand }) => Some(hand),
                        _ => None,
                    };
                    self.resend_upstream(context, hand);
                }
                ServerAction::Timeout => self.env.count(Counter::NoAck),
                ServerAction::Absorb => self.env.count(Counter::RequestAbsorbed),
                ServerAction::DeliverAck | ServerAction::Failed => {}
            }
        }
        if context.server.is_none() {
            self.touch(context);
        }
    }
}

/// Whose transaction a request belongs to.
#[derive(Clone, Copy)]
enum Owner {
    Nobody,
    Mine(ContextId),
    Other(u16),
}

/// A response on its way upstream.
pub(crate) enum Respond<'r> {
    /// The last one once more, to this copy of the request.
    Again { hand: &'r Hand<'r> },
    /// From downstream, with our Via still on top.
    Forwarded { message: &'r Message<'r>, code: u16 },
    /// One that was kept, our Via gone already; `code` takes the place of its own.
    Kept {
        block: shm::Block,
        code: u16,
        extra: Option<shm::Block>,
    },
    /// Our own.
    Local {
        hand: Option<&'r Hand<'r>>,
        code: u16,
        /// `None`: the phrase that goes with the code.
        reason: Option<&'r str>,
        headers: &'r [u8],
    },
}
