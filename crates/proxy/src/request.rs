//! Requests: matched to their transactions, or begun (§16.3, §17.2.3).

use sip::{HeaderName, Message, Method, NameAddr, Via, uri::Uri};
use tables::{Counter, TRANSACTION};
use transaction::{
    Actions, InviteServer, NonInviteServer, Reliability, ServerAction, ServerInput, key,
};

use crate::{
    ask::AskKind,
    context::{Context, ContextId, Row, Server, Stage},
    intake::{self, Refusal, ReplyPath},
    io::{Datagram, Disposition},
    local,
    proxy::{Hand, Step},
};

impl Step<'_, '_> {
    /// A well-formed request. Returns the context that it began, if it waits for answers now.
    pub(crate) fn on_request(
        &mut self,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
    ) -> (Disposition, Option<ContextId>) {
        let served = (Disposition::Served, None);
        let Some(line) = message.request() else {
            return served;
        };
        let Some(value) = message.first_value(HeaderName::Via) else {
            self.env.count(Counter::Malformed);
            return served;
        };
        let Ok(via) = Via::parse(value.value) else {
            self.env.count(Counter::Malformed);
            return served;
        };
        let path = intake::reply_path(value.value, &via, datagram.source);
        if let Err(refusal) = intake::check_syntax(message) {
            self.refuse(message, datagram, &path, &refusal);
            return served;
        }
        let mut buffer = key::KeyBuf::new();
        let Ok(_) = key::server_key(message, self.key, &mut buffer) else {
            self.refuse(
                message,
                datagram,
                &path,
                &Refusal::new(400, Counter::BadRequest),
            );
            return served;
        };
        match line.method {
            Method::Ack => return (self.on_ack(message, datagram, buffer.as_bytes()), None),
            Method::Cancel => {
                return (
                    self.on_cancel(message, datagram, &path, buffer.as_bytes()),
                    None,
                );
            }
            _ => {}
        }
        match self.owner_of(buffer.as_bytes()) {
            Owner::Mine(id) => {
                self.on_retransmission(id);
                return served;
            }
            Owner::Other(slot) => return (Disposition::Owner(slot), None),
            Owner::Nobody => {}
        }
        let fold = intake::fold(message, self.key);
        if let Err(refusal) = intake::validate(message, self.settings, self.key, fold) {
            self.refuse(message, datagram, &path, &refusal);
            return served;
        }
        let id = self.begin(message, datagram, &path, buffer.as_bytes());
        (Disposition::Served, Some(id))
    }

    /// Begins a context and asks its first question.
    fn begin(
        &mut self,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
        path: &ReplyPath,
        key: &[u8],
    ) -> ContextId {
        let (now, timers) = (self.env.now, &self.settings.timers);
        let method = message.request().map_or(Method::Other, |line| line.method);
        let server = match method {
            Method::Invite => {
                Server::Invite(InviteServer::new(now, timers, Reliability::Unreliable))
            }
            _ => Server::NonInvite(NonInviteServer::new(now, timers, Reliability::Unreliable)),
        };
        let id = self.contexts.add(|id| {
            Box::new(Context {
                id,
                key: key.to_vec(),
                row: Row::None,
                stage: Stage::Admission,
                method,
                listener: datagram.listener,
                source: datagram.source,
                reply_to: path.to,
                server: Some(server),
                request: None,
                branches: Vec::new(),
                best: None,
                challenges: None,
                last: None,
                realm: Vec::new(),
                cancelled: false,
                asked: 0,
                dirty: false,
                turn: 0,
                armed: None,
            })
        });
        let Some(mut context) = self.contexts.take(id) else {
            return id;
        };
        self.touch(&mut context);
        if self.is_within_dialog(message) {
            // The dialog was let in and routed when it began: its Route set says where this goes (§16.4, §16.5).
            context.stage = Stage::Routing;
            let hand = Hand {
                message: *message,
                via: path.via.as_deref(),
                sent: false,
            };
            self.forward_as_addressed(&mut context, &hand);
        } else {
            self.ask(&mut context, AskKind::Admit);
        }
        self.contexts.put(context);
        id
    }

    /// Whether a request belongs to a dialog that we put ourselves into: it has a To tag, and its Route set leads through us.
    pub(crate) fn is_within_dialog(&self, message: &Message<'_>) -> bool {
        if !message.to().is_ok_and(|to| to.tag().is_some()) {
            return false;
        }
        let route = message
            .first_value(HeaderName::Route)
            .and_then(|value| NameAddr::parse(value.value).ok());
        if route.is_some_and(|route| self.settings.listener_named(&route.uri).is_some()) {
            return true;
        }
        // A strict router before us put our Record-Route URI into the Request-URI (§16.4).
        message.has(HeaderName::Route)
            && message
                .request()
                .and_then(|line| Uri::parse(line.uri).ok())
                .is_some_and(|uri| self.is_our_record_route(&uri))
    }

    /// Whether this is a URI that we put into Record-Route: one of our addresses, no user, and the lr parameter.
    pub(crate) fn is_our_record_route(&self, uri: &Uri<'_>) -> bool {
        uri.user.is_none()
            && uri.param("lr").is_some()
            && self.settings.listener_named(uri).is_some()
    }

    /// Refuses a request without a transaction.
    fn refuse(
        &mut self,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
        path: &ReplyPath,
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
            path,
            refusal.code,
            refusal.reason,
            &refusal.headers,
        );
    }

    /// Whose transaction this is.
    fn owner_of(&mut self, key: &[u8]) -> Owner {
        match self
            .env
            .arena
            .find(TRANSACTION, key, |record| (record.row, record.owner))
        {
            None => Owner::Nobody,
            Some((_, owner)) if owner != self.slot => Owner::Other(owner),
            Some((row, _)) => self.contexts.of_row(row).map_or(Owner::Nobody, Owner::Mine),
        }
    }

    /// A retransmitted request (§17.2.1, §17.2.2).
    fn on_retransmission(&mut self, id: ContextId) {
        let Some(mut context) = self.contexts.take(id) else {
            return;
        };
        self.step_server(&mut context, ServerInput::Request, None);
        self.contexts.put(context);
    }

    /// An ACK: for a final response of 300..=699 it ends at our transaction, for a 2xx it goes on (§16.11, §17.2.1).
    fn on_ack(
        &mut self,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
        key: &[u8],
    ) -> Disposition {
        match self.owner_of(key) {
            Owner::Other(slot) => return Disposition::Owner(slot),
            Owner::Mine(id) => {
                if let Some(mut context) = self.contexts.take(id) {
                    self.env.count(Counter::RequestAbsorbed);
                    self.step_server(&mut context, ServerInput::Ack, None);
                    self.touch(&mut context);
                    self.contexts.put(context);
                }
                return Disposition::Served;
            }
            Owner::Nobody => {}
        }
        let tag = local::to_tag(self.key, message, local::branch_at(message, 0));
        if message.to().is_ok_and(|to| to.tag() == Some(&tag)) {
            // For an answer that we gave without a transaction.
            self.env.count(Counter::RequestAbsorbed);
            return Disposition::Served;
        }
        if self.is_within_dialog(message) && !matches!(message.max_forwards(), Ok(Some(0))) {
            self.forward_stateless(message, datagram);
        } else {
            self.env.count(Counter::AckUnmatched);
        }
        Disposition::Served
    }

    /// A CANCEL (§9.2, §16.10). It is answered here, and its INVITE's branches are cancelled.
    ///
    /// Deviation: §16.10 has a proxy forward a CANCEL that it knows no INVITE for, in case that it forwarded the INVITE without
    /// a transaction. We never do that, so that nobody downstream could know it either: 481.
    fn on_cancel(
        &mut self,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
        path: &ReplyPath,
        _key: &[u8],
    ) -> Disposition {
        let mut buffer = key::KeyBuf::new();
        if key::cancel_target_key(message, self.key, &mut buffer).is_err() {
            self.refuse(
                message,
                datagram,
                path,
                &Refusal::new(400, Counter::BadRequest),
            );
            return Disposition::Served;
        }
        let id = match self.owner_of(buffer.as_bytes()) {
            Owner::Other(slot) => return Disposition::Owner(slot),
            Owner::Nobody => {
                self.refuse(
                    message,
                    datagram,
                    path,
                    &Refusal::new(481, Counter::CancelUnmatched),
                );
                return Disposition::Served;
            }
            Owner::Mine(id) => id,
        };
        self.reply_by(message, datagram.listener, path, 200, None, b"");
        if let Some(mut context) = self.contexts.take(id) {
            if context.is_invite() && context.stage != Stage::Answered {
                context.cancelled = true;
                self.touch(&mut context);
                self.cancel_pending(&mut context);
                if context.branches.is_empty() {
                    self.answer_local(&mut context, None, 487, b"");
                }
            }
            self.contexts.put(context);
        }
        Disposition::Served
    }

    /// Feeds the server transaction and does what it says. `response` is the place in the outputs of the response just
    /// written, for [`ServerInput::Respond`].
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
                ServerAction::Resend => self.resend_upstream(context),
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
enum Owner {
    Nobody,
    Mine(ContextId),
    Other(u16),
}

/// A response on its way upstream.
pub(crate) enum Respond<'r> {
    /// From downstream, with our Via still on top.
    Forwarded { message: &'r Message<'r>, code: u16 },
    /// One that was kept, our Via gone already.
    Kept {
        block: shm::Block,
        code: u16,
        extra: Option<shm::Block>,
    },
    /// Our own.
    Local {
        hand: Option<&'r Hand<'r>>,
        code: u16,
        headers: &'r [u8],
    },
}
