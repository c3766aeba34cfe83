//! Requests within a dialog that would not reach the other party of the call on record.
//!
//! What a BYE is answered ends a call in the books, and where a re-INVITE is answered from becomes the party's remote target. So both, UPDATE and the ACK go where the record says
//! that the party is: else a caller could send his BYE to an address of his own, answer it himself, and have a call that nobody counts or writes down any more. A Request-URI and
//! Route set that say the same as the record are left as they came; others are put right, which helps phones that lose theirs, too.
//!
//! In an early dialog a callee may be anybody yet: there a request goes where it says, and its answer counts only if that was right ([`Step::went_there`]). What is hidden is
//! left alone: its way is sealed.

use std::net::SocketAddr;

use sip::{HeaderName, Message, Method, NameAddr, uri::Uri};
use tables::{
    Counter, Dialogs,
    dialog::{DialogState, Sender, View},
};

use crate::{
    alias,
    ask::Target,
    call::{Role, answer::leads_to, place},
    context::Context,
    route::{NextHop, RouteInfo, list, next_hop},
    settings::{PORT_DEFAULT, Settings},
    step::{Hand, Step},
};

/// Where the record says that a party is.
pub(super) struct Party<'v> {
    target: &'v [u8],
    routes: &'v [u8],
    listener: u32,
    /// What his answers come from.
    address: Option<SocketAddr>,
}

impl<'v> Party<'v> {
    /// Whom a request by this sender is for.
    pub(super) fn for_(sender: Sender, view: &View<'v>) -> Self {
        let header = &view.header;
        match sender {
            Sender::Caller => Self {
                target: view.callee_target(),
                routes: view.callee_routes(),
                listener: header.callee_listener.get(),
                address: header.callee_address.get(),
            },
            Sender::Callee => Self {
                target: view.caller_target(),
                routes: view.caller_routes(),
                listener: header.caller_listener.get(),
                address: header.caller_address.get(),
            },
        }
    }

    fn as_target(&self) -> Target {
        let led = match self.routes {
            [] => alias::led(self.target),
            _ => None,
        };
        let uri = || Target {
            uri: Some(self.target.to_vec()),
            ..Target::default()
        };
        Target {
            path: Some(self.routes.to_vec()),
            whole: true,
            listener: Some(self.listener),
            ..led.unwrap_or_else(uri)
        }
    }

    /// Whether a request goes there. `led`: whither the alias that its Request-URI has lost has led it.
    pub(super) fn is_meant(
        &self,
        message: &Message<'_>,
        info: &RouteInfo,
        request_uri: &[u8],
        led: Option<SocketAddr>,
        settings: &Settings,
    ) -> bool {
        let mut asked = Some(request_uri).filter(|_| !info.strict_before);
        let (mut came, mut known) = (
            message.values(HeaderName::Route).skip(info.ours).peekable(),
            list(self.routes),
        );
        while let Some(route) = came.next() {
            let Ok(route) = NameAddr::parse(route.value) else {
                return false;
            };
            if info.strict_before && came.peek().is_none() {
                // The Request-URI is ours, and the last Route value the target (§16.4).
                asked = Some(route.uri.text);
                break;
            }
            let known = known.next().map(NameAddr::parse);
            let same = |known: NameAddr<'_>| leads_alike(&route.uri, &known.uri, None);
            if !known.is_some_and(|known| known.is_ok_and(same)) {
                return false;
            }
        }
        let same_target = asked.is_some_and(|asked| {
            let parsed = || Some((Uri::parse(asked).ok()?, Uri::parse(self.target).ok()?));
            asked == self.target
                || parsed().is_some_and(|(asked, known)| leads_alike(&asked, &known, led))
        });
        same_target && known.next().is_none() && self.is_by_listener(message, info, settings)
    }

    /// Whether the last of our own Route values names the listener that he is reached by, and no other.
    fn is_by_it_alone(&self, info: &RouteInfo, settings: &Settings) -> bool {
        // One that a reload has taken away is no reason to doubt it.
        info.listener.is_none_or(|by| by.id == self.listener)
            || settings.listener(self.listener).is_none()
    }

    /// As [`Party::is_by_it_alone`], where several may go by the same name.
    fn is_by_listener(&self, message: &Message<'_>, info: &RouteInfo, settings: &Settings) -> bool {
        if self.is_by_it_alone(info, settings) {
            return true;
        }
        let Some(listener) = settings.listener(self.listener) else {
            return true;
        };
        let last = message
            .values(HeaderName::Route)
            .nth(info.ours.saturating_sub(1));
        let last = last.map(|last| NameAddr::parse(last.value));
        last.is_some_and(|last| {
            last.is_ok_and(|NameAddr { uri, .. }| {
                let port = uri.port.unwrap_or(PORT_DEFAULT);
                uri.host
                    .is_some_and(|host| settings.names(listener, &host, port))
            })
        })
    }
}

impl Step<'_, '_> {
    /// Where such a request has to go; `None`: where it says.
    pub(crate) fn brought_back(&mut self, hand: &Hand<'_>) -> Option<Target> {
        let (message, route) = (&hand.message, &hand.intake.route);
        let line = message.request()?;
        let counts = matches!(
            line.method,
            Method::Bye | Method::Invite | Method::Update | Method::Ack
        );
        if !counts || !hand.intake.within_dialog || hand.hidden.is_some() {
            return None;
        }
        let place = route.place.filter(|&place| place != place::NOWHERE)?;
        let call_id = message.call_id().ok()?;
        let (from_tag, to_tag) = hand.tags();
        let settings = &self.settings;
        let target = Dialogs(self.env.arena)
            .at_place(place, call_id, from_tag, to_tag, |view, sender| {
                let party = Party::for_(sender, &view);
                let answered = matches!(view.state, DialogState::Confirmed | DialogState::Ending);
                let known = (answered || sender == Sender::Callee) && !party.target.is_empty();
                let meant = !known || party.is_meant(message, route, line.uri, None, settings);
                let kept = meant && (!known || party.is_by_it_alone(route, settings));
                (!kept).then(|| (party.as_target(), !meant))
            })
            .flatten();
        let (target, astray) = target?;
        // A target that is not for us, such as sips:, may have been made one that is by who is in between.
        if matches!(next_hop(message, route, &target), NextHop::Nowhere(_)) {
            return None;
        }
        if astray {
            self.env.count(Counter::DialogsAstray);
        }
        Some(target)
    }

    /// Whether what was answered had gone where the other party of this dialog is.
    pub(crate) fn went_there(
        &mut self,
        context: &Context,
        response: &Message<'_>,
        row: shm::RowRef,
        sender: Sender,
    ) -> bool {
        if context.hidden.is_some() {
            return true;
        }
        let branch = self.branch_of(context, response);
        let Some((sent, to)) = branch.and_then(|branch| Some((branch.sent?, branch.to))) else {
            return false;
        };
        let there = self.with_stored(sent, |step, copy| {
            let uri = copy.request()?.uri;
            Dialogs(step.env.arena).with(row, |view| {
                let party = Party::for_(sender, &view);
                // Before a strict router the copy has been turned round (§16.6 step 6).
                let first = list(party.routes).next().map(NameAddr::parse);
                let strict = first.is_some_and(|first| first.is_ok_and(|first| !first.lr()));
                // He may call himself otherwise in each of his answers. Who does not answer from what his Contact says has somebody before him, who may know others.
                let direct = party.routes.is_empty()
                    && party.address == Some(to)
                    && leads_to(party.target, to)
                    && !copy.has(HeaderName::Route);
                let settings = &step.settings;
                party.target.is_empty()
                    || strict
                    || direct
                    || party.is_meant(copy, &RouteInfo::NONE, uri, Some(to), settings)
            })
        });
        there.flatten().unwrap_or(false)
    }
}

/// Who is taken for the sender of a request of this role.
pub(crate) fn sender(role: Role) -> Sender {
    match role {
        Role::Callee => Sender::Callee,
        _ => Sender::Caller,
    }
}

/// Whether what is sent to one URI comes to the other one's owner. It may have lost parameters on its way, but those that lead; it has no others.
fn leads_alike(asked: &Uri<'_>, known: &Uri<'_>, led: Option<SocketAddr>) -> bool {
    let same_host = match (&asked.host, &known.host) {
        (Some(asked), Some(known)) => asked.is_same(known),
        (None, None) => true,
        _ => false,
    };
    let port = |uri: &Uri<'_>| uri.port.unwrap_or(PORT_DEFAULT);
    let (address, known_address) = (alias::address(asked), alias::address(known));
    let same_value = |one: Option<&[u8]>, other: Option<&[u8]>| match (one, other) {
        (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
        (one, other) => one == other,
    };
    same_host
        && asked.scheme == known.scheme
        && asked.user == known.user
        && port(asked) == port(known)
        && asked.maddr() == known.maddr()
        && asked.lr() == known.lr()
        && (address == known_address || address.is_none() && led == known_address)
        && asked.params().all(|param| {
            let known = known.param(param.name);
            known.is_some_and(|known| same_value(param.value, known))
        })
}
