//! Requests on their way downstream (§16.6).

use std::{io::Write, net::SocketAddr};

use shm::AllocClass;
use sip::{
    HeaderName, Method, NameAddr, Patch, PatchError,
    uri::{Scheme, Uri},
};
use stdx::hash::hash64;
use tables::{Counter, TRANSACTION};
use transaction::{InviteClient, NonInviteClient, Reliability, ServerInput};

use crate::{
    ask::{AskKind, Target},
    branch::{Branch as BranchText, Place},
    context::{Branch, Cancel, Client, Context, Kept, Row, Server, Stage},
    intake,
    io::Datagram,
    local,
    proxy::{Hand, Step, store},
    request::Respond,
    route::{self, RouteInfo},
};

/// Max-Forwards of a request that has none (§16.6 step 3).
const MAX_FORWARDS: &[u8] = b"70";
/// Seconds in Retry-After when a table is full.
const RETRY_AFTER: &[u8] = b"Retry-After: 5\r\n";

/// Where one copy of a request goes.
#[derive(Clone, Copy)]
struct Copy<'c> {
    target: &'c Target,
    /// The listener to send from, and the one that the request came in by.
    listener: u32,
    came_in_by: u32,
    branch: BranchText,
}

impl Step<'_, '_> {
    /// Forwards a request to where its Route set and Request-URI say.
    pub(crate) fn forward_as_addressed(&mut self, context: &mut Context, hand: &Hand<'_>) {
        self.forward(context, hand, vec![Target::default()]);
    }

    /// Forwards a request to all targets at once (§16.6, §16.7: a parallel fork).
    pub(crate) fn forward(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        mut targets: Vec<Target>,
    ) {
        targets.truncate(self.settings.branches_max.min(usize::from(u8::MAX)));
        if targets.is_empty() {
            self.end_with(context, hand, 480, Counter::Unavailable, b"");
            return;
        }
        if matches!(context.row, Row::None) {
            match self.env.arena.reserve(TRANSACTION, &context.key) {
                Ok(reserved) => context.row = Row::Reserved(reserved),
                // Another slot has it; `settle` meets the same again and gives the request up.
                Err(shm::InsertError::Exists { .. }) => return,
                Err(shm::InsertError::Stale) => return,
                Err(_) => {
                    self.end_with(context, hand, 503, Counter::Full, RETRY_AFTER);
                    return;
                }
            }
        }
        context.stage = Stage::Forwarding;
        self.touch(context);
        let info = self.route_info(&hand.message);
        for (number, target) in targets.into_iter().enumerate() {
            let number = u8::try_from(number).unwrap_or(u8::MAX);
            context.branches.push(Branch {
                number,
                client: None,
                to: context.source,
                listener: context.listener,
                sent: None,
                code: 0,
                rang: false,
                cancel: Cancel::No,
                timer_c: None,
                waiting: None,
            });
            match next_hop(hand, &info, &target) {
                NextHop::Address(to) => self.launch(context, hand, number, &target, to),
                NextHop::Name(uri) => {
                    if let Some(branch) = context.branch(number) {
                        branch.waiting = Some(Box::new(Target {
                            next_hop: Some(uri),
                            ..target
                        }));
                    }
                    self.ask(context, AskKind::Resolve { branch: number });
                }
                NextHop::Nowhere => self.fail_branch(context, number, 503, Counter::Unroutable),
            }
        }
        let pending = context.branches.iter().any(Branch::is_pending);
        if pending && context.is_invite() && context.last.is_none() {
            // §17.2.1: at once, rather than after 200 ms, because nothing tells us how quick the callee is.
            self.step_server(
                context,
                ServerInput::Respond(100),
                Some(Respond::Local {
                    hand: Some(hand),
                    code: 100,
                    headers: b"",
                }),
            );
        }
        self.conclude_with(context, Some(hand));
    }

    /// An address has come for a branch that waited for it.
    pub(crate) fn on_resolved(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        number: u8,
        addresses: &[SocketAddr],
    ) {
        let Some(target) = context
            .branch(number)
            .and_then(|branch| branch.waiting.take())
        else {
            return;
        };
        self.touch(context);
        match addresses.first() {
            Some(&to) => self.launch(context, hand, number, &target, to),
            None => self.fail_branch(context, number, 503, Counter::Unroutable),
        }
        if context
            .branches
            .iter()
            .all(|branch| branch.waiting.is_none())
            && context.request.is_some()
            && context.branches.iter().any(|branch| branch.sent.is_some())
        {
            let request = context.request.take();
            self.release(request, context);
        }
        self.conclude_with(context, Some(hand));
    }

    /// Sends one copy and starts its client transaction (§16.6 steps 8 to 11).
    fn launch(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        number: u8,
        target: &Target,
        to: SocketAddr,
    ) {
        let row = match &context.row {
            Row::Reserved(reserved) => reserved.row(),
            Row::Live(row, _) => *row,
            Row::None => return,
        };
        let info = self.route_info(&hand.message);
        let wanted = target
            .listener
            .or(info.listener)
            .unwrap_or(context.listener);
        let Some(listener) = self
            .settings
            .listener_towards(&to, wanted)
            .map(|listener| listener.id)
        else {
            self.fail_branch(context, number, 503, Counter::Unroutable);
            return;
        };
        let copy = Copy {
            target,
            listener,
            came_in_by: context.listener,
            branch: BranchText {
                place: Place::Transaction { row, number },
                listener: Some(context.listener),
                fold: intake::fold(&hand.message, self.key),
            },
        };
        let start = self.out.bytes.len();
        if self.write_copy(hand, &info, &copy).is_err() {
            self.out.bytes.truncate(start);
            self.fail_branch(context, number, 500, Counter::Unroutable);
            return;
        }
        let bytes = start..self.out.bytes.len();
        let Some(sent) = self
            .out
            .bytes
            .get(bytes.clone())
            .and_then(|text| store(self.env, text, AllocClass::New))
        else {
            self.out.bytes.truncate(start);
            self.fail_branch(context, number, 503, Counter::Full);
            return;
        };
        let (now, timers) = (self.env.now, &self.settings.timers);
        let invite = context.is_invite();
        let timer_c = invite.then(|| now + self.settings.timer_c);
        if let Some(branch) = context.branch(number) {
            branch.client = Some(if invite {
                Client::Invite(InviteClient::new(now, timers, Reliability::Unreliable))
            } else {
                Client::NonInvite(NonInviteClient::new(now, timers, Reliability::Unreliable))
            });
            branch.to = to;
            branch.listener = listener;
            branch.sent = Some(sent);
            branch.timer_c = timer_c;
        }
        self.env.count(Counter::Forwarded);
        self.out.sends.push(crate::io::Send {
            listener,
            to,
            bytes,
        });
    }

    /// Sends an ACK for a 2xx on its way, with nothing kept (§16.11).
    pub(crate) fn forward_stateless(
        &mut self,
        message: &sip::Message<'_>,
        datagram: &Datagram<'_>,
    ) {
        let hand = Hand {
            message: *message,
            via: None,
            sent: false,
        };
        let info = self.route_info(message);
        let target = Target::default();
        let NextHop::Address(to) = next_hop(&hand, &info, &target) else {
            self.env.count(Counter::AckUnmatched);
            return;
        };
        let wanted = info.listener.unwrap_or(datagram.listener);
        let Some(listener) = self
            .settings
            .listener_towards(&to, wanted)
            .map(|listener| listener.id)
        else {
            self.env.count(Counter::AckUnmatched);
            return;
        };
        let incoming = local::branch_at(message, 0);
        let derived = hash64(
            self.key,
            &[
                b"stateless",
                incoming,
                message.call_id().unwrap_or_default(),
            ],
        );
        let branch = BranchText {
            place: Place::Stateless { derived },
            listener: Some(datagram.listener),
            fold: intake::fold(message, self.key),
        };
        let start = self.out.bytes.len();
        let value = message.first_value(HeaderName::Via);
        let path = value.and_then(|value| {
            Some(intake::reply_path(
                value.value,
                &sip::Via::parse(value.value).ok()?,
                datagram.source,
            ))
        });
        let hand = Hand {
            message: *message,
            via: path.as_ref().and_then(|path| path.via.as_deref()),
            sent: false,
        };
        let copy = Copy {
            target: &target,
            listener,
            came_in_by: datagram.listener,
            branch,
        };
        if self.write_copy(&hand, &info, &copy).is_err() {
            self.out.bytes.truncate(start);
            self.env.count(Counter::AckUnmatched);
            return;
        }
        let bytes = start..self.out.bytes.len();
        self.env.count(Counter::ForwardedStateless);
        self.out.sends.push(crate::io::Send {
            listener,
            to,
            bytes,
        });
    }

    /// Appends the request as it goes to one target (§16.6 steps 1 to 8).
    fn write_copy(
        &mut self,
        hand: &Hand<'_>,
        info: &RouteInfo,
        copy: &Copy<'_>,
    ) -> Result<(), PatchError> {
        let mut patch = Patch::reusing(hand.message, std::mem::take(&mut self.room.patch));
        let result = self.patch_copy(&mut patch, hand, info, copy);
        if result.is_ok() {
            patch.write(&mut self.out.bytes);
        }
        self.room.patch = patch.into_space();
        result
    }

    fn patch_copy(
        &self,
        patch: &mut Patch<'_>,
        hand: &Hand<'_>,
        info: &RouteInfo,
        copy: &Copy<'_>,
    ) -> Result<(), PatchError> {
        let message = &hand.message;
        let Some(line) = message.request() else {
            return Ok(());
        };
        // Step 2.
        let mut uri: Option<&[u8]> = copy.target.uri.as_deref();
        let mut moved = Vec::new();
        if info.strict_before
            || copy.target.next_hop.is_none() && is_strict(message, info, copy.target)
        {
            let routes = strict_routes(message, info, copy.target, line.uri);
            patch.remove_all(HeaderName::Route)?;
            if !routes.rest.is_empty() {
                patch.push_top(HeaderName::Route, &routes.rest)?;
            }
            moved = routes.uri;
        } else {
            for _ in 0..info.ours {
                patch.remove_first_value(HeaderName::Route)?;
            }
            // Step 6, RFC 3327 §5.3: the Path of a binding is its Route set.
            if let Some(path) = &copy.target.path {
                patch.push_top(HeaderName::Route, path)?;
            }
        }
        if !moved.is_empty() {
            uri = Some(&moved);
        }
        // Step 3.
        match (
            message.first(HeaderName::MaxForwards),
            message.max_forwards(),
        ) {
            (Some(header), Ok(Some(hops))) => {
                let mut text = [0; 3];
                patch.replace_value(
                    header.value_span,
                    decimal(hops.saturating_sub(1), &mut text),
                )?;
            }
            _ => patch.append("Max-Forwards", MAX_FORWARDS)?,
        }
        if let Some(uri) = uri {
            patch.set_request_uri(uri)?;
        }
        // Step 4.
        if self.wants_record_route(hand) {
            self.push_record_route(patch, copy)?;
        }
        // §18.2.1 for the Via that came, then step 8.
        if let (Some(via), Some(value)) = (hand.via, message.first_value(HeaderName::Via)) {
            patch.replace_value(value.span, via)?;
        }
        let mut via = [0; VIA_BYTES_MAX];
        let via = self.via(copy, &mut via);
        patch.push_top(HeaderName::Via, via)
    }

    fn via<'v>(&self, copy: &Copy<'_>, out: &'v mut [u8; VIA_BYTES_MAX]) -> &'v [u8] {
        let sent_by = self
            .settings
            .listener(copy.listener)
            .map_or(&b"invalid"[..], |listener| &listener.sent_by);
        let mut rest = &mut out[..];
        // A host that does not fit is cut, which the configuration's check has excluded.
        for part in [
            b"SIP/2.0/UDP ",
            sent_by,
            b";branch=",
            &copy.branch.encode(self.key),
        ] {
            let _ = rest.write(part);
        }
        let left = rest.len();
        out.get(..VIA_BYTES_MAX - left).unwrap_or_default()
    }

    /// Whether we stay on the way of the dialog that this request may begin (§16.6 step 4).
    fn wants_record_route(&self, hand: &Hand<'_>) -> bool {
        let message = &hand.message;
        let method = message.request().map(|line| line.method);
        let begins = matches!(
            method,
            Some(Method::Invite | Method::Subscribe | Method::Refer | Method::Notify)
        );
        if !begins || message.to().is_ok_and(|to| to.tag().is_some()) {
            return false;
        }
        let domain = message
            .request()
            .and_then(|line| Uri::parse(line.uri).ok())
            .and_then(|uri| self.settings.domain_of(&uri).cloned());
        let from = || {
            message
                .from()
                .ok()
                .and_then(|from| self.settings.domain_of(&from.uri).cloned())
        };
        domain
            .or_else(from)
            .is_none_or(|domain| domain.record_route)
    }

    /// Two values where the sides differ, so that each side sees the address that it can reach.
    fn push_record_route(&self, patch: &mut Patch<'_>, copy: &Copy<'_>) -> Result<(), PatchError> {
        let mut sides = [Some(copy.came_in_by), Some(copy.listener)];
        if copy.came_in_by == copy.listener {
            sides[0] = None;
        }
        let mut text = Vec::with_capacity(64);
        for listener in sides
            .into_iter()
            .flatten()
            .filter_map(|id| self.settings.listener(id))
        {
            text.clear();
            text.extend_from_slice(b"<sip:");
            text.extend_from_slice(&listener.sent_by);
            text.extend_from_slice(b";lr>");
            patch.push_top("Record-Route", &text)?;
        }
        Ok(())
    }

    /// A branch could not be sent: it counts as if this response had come (§16.7, §16.9).
    pub(crate) fn fail_branch(
        &mut self,
        context: &mut Context,
        number: u8,
        code: u16,
        counter: Counter,
    ) {
        self.env.count(counter);
        if let Some(branch) = context.branch(number) {
            branch.code = code;
            branch.waiting = None;
        }
        let better = context
            .best
            .is_none_or(|best| crate::response::rank(code) < crate::response::rank(best.code));
        if better {
            let old = context
                .best
                .replace(Kept { code, block: None })
                .and_then(|kept| kept.block);
            self.release(old, context);
        }
        self.touch(context);
    }

    /// Ends a request with an answer of our own: without a transaction, if it has no record yet.
    pub(crate) fn end_with(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        code: u16,
        counter: Counter,
        headers: &[u8],
    ) {
        self.end_saying(context, hand, code, None, counter, headers);
    }

    /// [`Step::end_with`] with a reason phrase of its own.
    pub(crate) fn end_saying(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        code: u16,
        reason: Option<&str>,
        counter: Counter,
        headers: &[u8],
    ) {
        self.env.count(counter);
        self.touch(context);
        let fresh = match &context.row {
            Row::None => true,
            Row::Reserved(_) => context.branches.iter().all(|branch| branch.sent.is_none()),
            Row::Live(..) => false,
        };
        if !fresh {
            self.answer_local(context, Some(hand), code, headers);
            return;
        }
        let tag = local::to_tag(self.key, &hand.message, local::branch_at(&hand.message, 0));
        let local = local::Local {
            code,
            reason,
            tag: Some(&tag),
            via: hand.via,
            skip_via: false,
            headers,
        };
        self.out.send(context.listener, context.reply_to, |out| {
            local::write(&hand.message, &local, out)
        });
        context.stage = Stage::Answered;
        context.server = None;
        context.branches.clear();
    }

    /// Ends a non-INVITE request without an answer.
    pub(crate) fn end_silently(&mut self, context: &mut Context) {
        context.stage = Stage::Answered;
        if matches!(context.server, Some(Server::NonInvite(_))) {
            context.server = None;
        }
        self.touch(context);
    }
}

/// Longest Via value of ours.
const VIA_BYTES_MAX: usize = 400;

/// Where the next hop is.
enum NextHop {
    Address(SocketAddr),
    /// A URI whose host must be looked up.
    Name(Vec<u8>),
    Nowhere,
}

/// The next hop of one copy (§16.6 step 7): what the target says, else the first Route, else the Request-URI.
fn next_hop(hand: &Hand<'_>, info: &RouteInfo, target: &Target) -> NextHop {
    let message = &hand.message;
    let request_uri = message.request().map_or(&b""[..], |line| line.uri);
    let routes;
    let text = if let Some(next_hop) = &target.next_hop {
        next_hop.as_slice()
    } else if info.strict_before {
        routes = strict_routes(message, info, target, request_uri);
        // What has become the Request-URI is where it goes, unless a loose route is left.
        match NameAddr::parse(first_of_list(&routes.rest)) {
            Ok(route) if route.lr() => route.uri.text,
            _ => routes.uri.as_slice(),
        }
    } else {
        let route = match &target.path {
            Some(path) => Some(first_of_list(path)),
            None => message
                .values(HeaderName::Route)
                .nth(info.ours)
                .map(|value| value.value),
        };
        match (route, &target.uri) {
            (Some(route), _) => match NameAddr::parse(route) {
                Ok(route) => route.uri.text,
                Err(_) => return NextHop::Nowhere,
            },
            (None, Some(uri)) => uri.as_slice(),
            (None, None) => request_uri,
        }
    };
    let Ok(uri) = Uri::parse(text) else {
        return NextHop::Nowhere;
    };
    // A sips: or tel: URI as next hop needs TLS or ENUM, which do not exist in this version.
    if uri.scheme != Scheme::Sip
        || uri
            .param("transport")
            .flatten()
            .is_some_and(|transport| !transport.eq_ignore_ascii_case(b"udp"))
    {
        return NextHop::Nowhere;
    }
    match route::literal_address(&uri) {
        Some(address) => NextHop::Address(address),
        None => NextHop::Name(text.to_vec()),
    }
}

/// A Route set around a strict router, ours taken off.
struct StrictRoutes {
    uri: Vec<u8>,
    rest: Vec<u8>,
}

/// Whether the next hop by Route is a strict router: one whose URI lacks lr (§16.6 step 6).
fn is_strict(message: &sip::Message<'_>, info: &RouteInfo, target: &Target) -> bool {
    let route = match &target.path {
        Some(path) => Some(first_of_list(path)),
        None => message
            .values(HeaderName::Route)
            .nth(info.ours)
            .map(|value| value.value),
    };
    route
        .and_then(|route| NameAddr::parse(route).ok())
        .is_some_and(|route| !route.lr())
}

/// Moves URIs between Route and Request-URI for a strict router before us (§16.4) and after us (§16.6 step 6).
fn strict_routes(
    message: &sip::Message<'_>,
    info: &RouteInfo,
    target: &Target,
    request_uri: &[u8],
) -> StrictRoutes {
    let mut routes: Vec<&[u8]> = message
        .values(HeaderName::Route)
        .skip(info.ours)
        .map(|value| value.value)
        .collect();
    let mut uri = target.uri.as_deref().unwrap_or(request_uri);
    if info.strict_before
        && target.uri.is_none()
        && let Some(last) = routes.pop()
        && let Ok(last) = NameAddr::parse(last)
    {
        uri = last.uri.text;
    }
    if let Some(path) = &target.path {
        routes.insert(0, path);
    }
    let mut own = Vec::new();
    let first = routes
        .first()
        .and_then(|first| NameAddr::parse(first_of_list(first)).ok());
    if let Some(first) = first
        && !first.lr()
        && target.path.is_none()
    {
        own.push(b'<');
        own.extend_from_slice(uri);
        own.push(b'>');
        uri = first.uri.text;
        routes.remove(0);
    }
    if !own.is_empty() {
        routes.push(&own);
    }
    StrictRoutes {
        uri: uri.to_vec(),
        rest: routes.join(&b", "[..]),
    }
}

/// The first value of a comma separated list of name-addrs.
fn first_of_list(list: &[u8]) -> &[u8] {
    let mut inside = false;
    for (at, &byte) in list.iter().enumerate() {
        match byte {
            b'<' => inside = true,
            b'>' => inside = false,
            b',' if !inside => return list.get(..at).unwrap_or(list).trim_ascii(),
            _ => {}
        }
    }
    list.trim_ascii()
}

fn decimal(value: u8, out: &mut [u8; 3]) -> &[u8] {
    let mut rest = &mut out[..];
    // Three digits always fit.
    let _ = write!(rest, "{value}");
    let left = rest.len();
    out.get(..3 - left).unwrap_or_default()
}
