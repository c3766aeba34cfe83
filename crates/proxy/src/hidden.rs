//! Hidden calls: what comes with tokens of ours is restored before anything else reads it, and what leaves for the other side is hidden last (see `topology`).
//!
//! - A request that comes ([`Step::restore`]): its Request-URI and Route are tokens, or name the call's record. What follows is about the restored request; the
//!   answer goes back to the one that came ([`Hand::raw`]).
//! - A request that goes ([`Step::hide_copy`]): the copy is made as ever, and then hidden.
//! - A response ([`Step::write_hidden`]): made for the request as it came. That request is kept as long as responses may come; in stateless mode our Via has
//!   what is needed, and a response is passed on without any record ([`Step::pass_hidden`]).
//!
//! The record of a call, the transaction's key and everything in the arena but what was sent is about the call as its caller knows it.

use std::cell::RefCell;
use std::net::IpAddr;

use shm::{Participant, RowRef};
use sip::{Layout, Message, Method, Via, uri::Host};
use stdx::hash::Key;
use tables::{
    Counter, Dialogs,
    dialog::{Dialog, DialogState, Sender, flag},
};
use topology::{
    Answer, Contacts, Hide, HideError, Known, Leg, Mode, Origin, Policy, SealKey, Sealer, Sent,
    Side, Tokens, token::CallId,
};

use crate::{
    addresses::Interface,
    branch::{Branch as BranchText, Place},
    call::{CallRef, Role, place},
    context::Context,
    copy::{Copy, VALUE_BYTES_MAX, gathered},
    intake::Way,
    settings::Settings,
    step::{Hand, Step},
};

/// How calls are hidden, where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hiding {
    /// Seals what is sent, and opens what comes back.
    pub sealer: Sealer,
    /// The host of people in place of hidden ones; `None`: what the listener calls itself.
    pub host: Option<Vec<u8>>,
    /// All of it but the mode, which the route of a call says.
    pub policy: Policy,
}

impl Hiding {
    /// With a key that is made of the one that seals dialogs.
    pub fn of_key(key: &Key) -> Self {
        Self {
            sealer: Sealer::new(SealKey::of_secret(&key.0), []),
            host: None,
            policy: Policy::default(),
        }
    }
}

/// How a request is hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hidden {
    /// Whom it goes to.
    pub(crate) towards: Side,
    pub(crate) policy: Policy,
    /// It is not within a dialog.
    pub(crate) initial: bool,
}

/// Bits of [`Dialog::flags`] that have the policy of a hidden call.
const POLICY_SHIFT: u32 = 16;

impl Hidden {
    /// A request that begins something, and is to be hidden.
    pub(crate) fn beginning(policy: Policy) -> Self {
        Self {
            towards: Side::Callee,
            policy,
            initial: true,
        }
    }

    /// What the call's record says of it.
    pub(crate) fn flags(self) -> u32 {
        flag::HIDDEN | u32::from(self.policy.encode()).wrapping_shl(POLICY_SHIFT)
    }

    /// For the record of the transaction.
    pub(crate) fn encode(self) -> [u8; 4] {
        let [high, low] = self.policy.encode().to_be_bytes();
        [self.towards as u8, u8::from(self.initial), high, low]
    }

    pub(crate) fn decode(bytes: [u8; 4]) -> Option<Self> {
        let [towards, initial, high, low] = bytes;
        Some(Self {
            towards: match towards {
                1 => Side::Caller,
                2 => Side::Callee,
                _ => return None,
            },
            initial: initial != 0,
            policy: Policy::decode(u16::from_be_bytes([high, low])),
        })
    }

    /// Whether what came must be kept for the responses.
    pub(crate) fn needs_request(self) -> bool {
        self.policy.mode == Mode::Dialog
    }
}

fn policy_of(flags: u32) -> Option<Policy> {
    let bits = u16::try_from(flags.wrapping_shr(POLICY_SHIFT)).ok()?;
    (flags & flag::HIDDEN != 0).then(|| Policy::decode(bits))
}

/// A request as it would have come if nothing had been hidden.
pub(crate) struct Restored {
    bytes: Vec<u8>,
    layout: Layout,
    pub(crate) hidden: Hidden,
}

impl Restored {
    pub(crate) fn message(&self) -> Option<Message<'_>> {
        self.layout.message(&self.bytes)
    }
}

/// What a request is that came.
pub(crate) enum Came {
    /// Nothing of it is hidden.
    Plain,
    Restored(Box<Restored>),
    /// It belongs to a hidden call that is no more, or is forged.
    Lost,
}

impl Came {
    pub(crate) fn restored(&self) -> Option<&Restored> {
        match self {
            Self::Restored(restored) => Some(restored),
            Self::Plain | Self::Lost => None,
        }
    }

    pub(crate) fn into_restored(self) -> Option<Box<Restored>> {
        match self {
            Self::Restored(restored) => Some(restored),
            Self::Plain | Self::Lost => None,
        }
    }
}

impl Settings {
    /// Whether a host says nothing of anybody's network: a domain of ours, or our own name.
    pub(crate) fn is_open(&self, host: &Host<'_>) -> bool {
        let Host::Name(name) = host else {
            let ip = host.address();
            return self.domains.iter().any(|domain| domain.ip == ip);
        };
        self.domain(name).is_some()
            || self
                .listeners
                .iter()
                .any(|listener| listener.host.eq_ignore_ascii_case(name))
            || self
                .hiding
                .host
                .as_ref()
                .is_some_and(|host| host.eq_ignore_ascii_case(name))
    }
}

impl Step<'_, '_> {
    /// Reads a request's tokens, and makes of it what it would be without.
    pub(crate) fn restore(&mut self, message: &Message<'_>, came_in_by: Interface) -> Came {
        if !topology::may_have(message) {
            return Came::Plain;
        }
        let begun = message.to().is_ok_and(|to| to.tag().is_some());
        let cancels = message
            .request()
            .is_none_or(|line| line.method == Method::Cancel);
        if cancels {
            return Came::Plain;
        }
        let leg = match Tokens::of(&self.settings.hiding.sealer, message) {
            None => return Came::Plain,
            Some(Tokens::Whole(leg)) => Some(leg),
            Some(Tokens::Record {
                side,
                policy,
                place,
            }) => self
                .leg_on_record(message, side, place, begun, came_in_by)
                .map(|leg| Leg { policy, ..leg }),
        };
        let Some(leg) = leg else {
            return Came::Lost;
        };
        let mut bytes = Vec::with_capacity(message.bytes().len().saturating_add(256));
        topology::restore(&self.settings.hiding.sealer, message, &leg, &mut bytes);
        let mut layout = Layout::new();
        if layout.read(&bytes).is_err() {
            return Came::Lost;
        }
        Came::Restored(Box::new(Restored {
            bytes,
            layout,
            hidden: Hidden {
                towards: if begun { leg.side } else { Side::Callee },
                policy: leg.policy,
                initial: !begun,
            },
        }))
    }

    /// One side of a call, as its record has it.
    fn leg_on_record(
        &mut self,
        message: &Message<'_>,
        side: Side,
        place: u64,
        begun: bool,
        came_in_by: Interface,
    ) -> Option<Leg> {
        let came = message.call_id().ok()?;
        let opened = match side {
            Side::Caller => CallId::open(&self.settings.hiding.sealer, came),
            Side::Callee => None,
        };
        let call_id = match &opened {
            Some(CallId::Hidden(call_id)) => call_id.as_slice(),
            _ => came,
        };
        let dialogs = Dialogs(self.env.arena);
        let dialog = if begun {
            let (from, to) = (message.from().ok()?, message.to().ok()?);
            let tags = (from.tag().unwrap_or_default(), to.tag().unwrap_or_default());
            let wanted = match side {
                Side::Caller => Sender::Callee,
                Side::Callee => Sender::Caller,
            };
            dialogs
                .at_place(place, call_id, tags.0, tags.1, |view, sender| {
                    (sender == wanted).then(|| view.take())
                })
                .flatten()
        } else {
            // A third party that was told of it.
            dialogs
                .with(RowRef::unpack(place), |view| {
                    (view.place() == place).then(|| view.take())
                })
                .flatten()
        }?;
        let whom = match side {
            Side::Caller => &dialog.caller,
            Side::Callee => &dialog.callee,
        };
        if whom.target.is_empty() {
            return None;
        }
        let by = match Interface::from(whom.listener) {
            by if by.id == came_in_by.id => came_in_by,
            by => by,
        };
        let mut routes = Vec::new();
        if begun {
            routes = self.own_route(by, place, &dialog.call_id);
            if !whom.routes.is_empty() {
                routes.extend_from_slice(b", ");
            }
        }
        routes.extend_from_slice(&whom.routes);
        let (own, peer) = match side {
            Side::Caller => (dialog.caller.uri.clone(), dialog.callee.uri.clone()),
            Side::Callee => {
                let policy = policy_of(dialog.flags)?;
                let hidden = Hidden {
                    towards: side,
                    policy,
                    initial: false,
                };
                self.with_hide(hidden, by, |hide, _| {
                    (
                        hide.party(&dialog.callee.uri),
                        hide.party(&dialog.caller.uri),
                    )
                })
            }
        };
        Some(Leg {
            side,
            policy: Policy::default(),
            contact: Some(whom.target.clone()),
            routes,
            own,
            peer,
        })
    }

    /// Our Record-Route as it would be, were the call not hidden.
    fn own_route(&self, by: Interface, place: u64, call_id: &[u8]) -> Vec<u8> {
        use std::io::Write as _;

        let mut value = [0; VALUE_BYTES_MAX];
        gathered(&mut value, |out| {
            out.write_all(b"<sip:")?;
            self.write_sent_by(by, out)?;
            out.write_all(b";lr;")?;
            out.write_all(place::PARAM)?;
            out.write_all(b"=")?;
            place::write(&self.settings.dialog_key, call_id, place, out)?;
            out.write_all(b">")
        })
        .to_vec()
    }

    /// Calls `work` with what hides a message, and with the outputs.
    fn with_hide<R>(
        &mut self,
        hidden: Hidden,
        by: Interface,
        work: impl FnOnce(&Hide<'_>, &mut Vec<u8>) -> R,
    ) -> R {
        let mut own = [0; VALUE_BYTES_MAX];
        let own = gathered(&mut own, |out| self.write_sent_by(by, out));
        let settings = &self.settings;
        let arena = RefCell::new(&mut *self.env.arena);
        let known = |call_id: &[u8], pointed: &[u8], other: &[u8]| {
            known(&mut arena.borrow_mut(), call_id, pointed, other)
        };
        let hide = Hide {
            sealer: &settings.hiding.sealer,
            policy: hidden.policy,
            towards: hidden.towards,
            own,
            identity: settings.hiding.host.as_deref().unwrap_or(own),
            is_open: &|host| settings.is_open(host),
            known: &known,
        };
        work(&hide, &mut self.out.bytes)
    }

    /// Hides the copy of a request that was appended to the outputs from `start` on.
    pub(crate) fn hide_copy(
        &mut self,
        start: usize,
        hand: &Hand<'_>,
        copy: &Copy<'_>,
    ) -> Result<(), HideError> {
        let own = copy.call.is_some_and(|call| call.role.is_own());
        let hidden = match copy.call {
            Some(call) if own => self.hidden_own(call, &hand.message),
            _ => copy.hidden,
        };
        let Some(hidden) = hidden else {
            return Ok(());
        };
        let text = self.out.bytes.split_off(start.min(self.out.bytes.len()));
        let mut layout = Layout::new();
        layout.read(&text).map_err(|_| HideError::Kind)?;
        let message = layout.message(&text).ok_or(HideError::Kind)?;
        let acknowledges = message
            .request()
            .is_some_and(|line| line.method == Method::Ack);
        let sent = Sent {
            raw: hand.raw(),
            initial: hidden.initial,
            own,
            contacts: self.contacts_of_request(hidden, copy.call),
            via: !own && !acknowledges && (hidden.policy.mode == Mode::Stateless || !copy.kept),
            source: copy.source.ip(),
        };
        let done = self.with_hide(hidden, copy.listener, |hide, out| {
            hide.request(&message, &sent, out)
        });
        if done.is_err() {
            self.env.count(Counter::HiddenSpoilt);
        }
        done
    }

    /// How a request of our own is hidden.
    fn hidden_own(&mut self, call: CallRef, message: &Message<'_>) -> Option<Hidden> {
        let from = message.from().ok()?;
        let tag = from.tag()?;
        let (flags, of_caller) = Dialogs(self.env.arena).with(call.row, |view| {
            (view.header.flags.get(), view.caller_tag() == tag)
        })?;
        Some(Hidden {
            towards: match of_caller {
                true => Side::Callee,
                false => Side::Caller,
            },
            policy: policy_of(flags)?,
            initial: false,
        })
    }

    /// Whether the other side is given the name of a record instead of a contact.
    fn contacts_of_request(&mut self, hidden: Hidden, call: Option<CallRef>) -> Contacts {
        let Some(call) = call.filter(|_| hidden.policy.mode == Mode::Dialog) else {
            return Contacts::Tokens;
        };
        let on_record = match call.role {
            Role::Begins | Role::Caller => true,
            // The record may have another callee yet, or none.
            Role::Callee => Dialogs(self.env.arena)
                .with(call.row, |view| view.state != DialogState::Early)
                .unwrap_or(false),
            _ => false,
        };
        match on_record {
            true => Contacts::Record(call.place),
            false => Contacts::Tokens,
        }
    }

    /// Appends a response as it goes to whoever sent a hidden request. `message` has our Via on top.
    pub(crate) fn write_hidden(
        &mut self,
        context: &Context,
        hidden: Hidden,
        message: &Message<'_>,
    ) -> bool {
        let mut stored = None;
        let by_request = hidden.policy.mode == Mode::Dialog || !says_how(message);
        if let Some(block) = context.request.filter(|_| by_request) {
            let text = self.env.arena.block(block).to_vec();
            let mut layout = Layout::new();
            if layout.read(&text).is_ok() {
                stored = Some((text, layout));
            }
        }
        let request = stored
            .as_ref()
            .and_then(|(text, layout)| layout.message(text));
        let Some(request) = request else {
            let source = self.source_of(context, message);
            return self.pass_hidden(message, context.listener, source);
        };
        let way = Way::of(
            &request,
            context.source,
            self.key,
            self.settings.registrar.nat,
        );
        let contacts = self.contacts_of_response(context, hidden, message, &request);
        let mut own_routes = Vec::new();
        if hidden.initial && hidden.policy.mode == Mode::Dialog {
            own_routes = self.own_routes(context, message, &request);
        }
        let answer = Answer {
            origin: Origin::Request {
                message: &request,
                top_via: way.as_ref().and_then(|way| way.via.as_deref()),
            },
            contacts,
            own_routes: &own_routes,
            source: self.source_of(context, message),
        };
        let back = Hidden {
            towards: match hidden.initial {
                true => Side::Caller,
                false => hidden.towards.other(),
            },
            ..hidden
        };
        let start = self.out.bytes.len();
        let done = self.with_hide(back, context.listener, |hide, out| {
            hide.response(message, &answer, out)
        });
        if done.is_err() {
            self.out.bytes.truncate(start);
            self.env.count(Counter::HiddenSpoilt);
        }
        done.is_ok()
    }

    /// Our own part of the Record-Route that the request would have had, the nearest to the callee first.
    fn own_routes(
        &self,
        context: &Context,
        message: &Message<'_>,
        request: &Message<'_>,
    ) -> Vec<u8> {
        let call_id = request.call_id().unwrap_or_default();
        let place = context.call.map_or(place::NOWHERE, |call| call.place);
        let sent_by = self
            .branch_of(context, message)
            .map_or(context.listener, |branch| branch.listener);
        let mut routes = self.own_route(sent_by, place, call_id);
        if self.settings.differ(sent_by, context.listener) {
            routes.extend_from_slice(b", ");
            routes.extend_from_slice(&self.own_route(context.listener, place, call_id));
        }
        routes
    }

    pub(crate) fn branch_of<'c>(
        &self,
        context: &'c Context,
        message: &Message<'_>,
    ) -> Option<&'c crate::context::Branch> {
        let via = message.top_via().ok()?;
        let Place::Transaction { number, .. } = BranchText::decode(self.key, via.branch()?)?.place
        else {
            return None;
        };
        context
            .branches
            .iter()
            .find(|branch| branch.number == number)
    }

    fn source_of(&self, context: &Context, message: &Message<'_>) -> IpAddr {
        self.branch_of(context, message)
            .map_or(context.source.ip(), |branch| branch.to.ip())
    }

    fn contacts_of_response(
        &mut self,
        context: &Context,
        hidden: Hidden,
        message: &Message<'_>,
        request: &Message<'_>,
    ) -> Contacts {
        let call = context.call.filter(|_| hidden.policy.mode == Mode::Dialog);
        let Some(call) = call else {
            return Contacts::Tokens;
        };
        let on_record = match hidden.towards {
            Side::Caller => true,
            // Of several that ring only the one that has answered is on record.
            Side::Callee => {
                let tag = message.to().ok().and_then(|to| to.tag());
                let from = request.from().ok().and_then(|from| from.tag());
                let call_id = request.call_id().ok();
                match (tag, from, call_id) {
                    (Some(tag), Some(from), Some(call_id)) => Dialogs(self.env.arena)
                        .at_place(call.place, call_id, from, tag, |view, _| {
                            view.state != DialogState::Early && view.callee_tag() == tag
                        })
                        .unwrap_or(false),
                    _ => false,
                }
            }
        };
        match on_record {
            true => Contacts::Record(call.place),
            false => Contacts::Tokens,
        }
    }

    /// Appends a response by what our Via says of the request alone. False: it says nothing.
    pub(crate) fn pass_hidden(
        &mut self,
        message: &Message<'_>,
        listener: Interface,
        source: IpAddr,
    ) -> bool {
        let token = message
            .top_via()
            .ok()
            .and_then(|via| topology::via_token(&self.settings.hiding.sealer, &via));
        let Some(token) = token else {
            return false;
        };
        let hidden = Hidden {
            towards: match token.initial {
                true => Side::Caller,
                false => token.towards.other(),
            },
            policy: token.policy,
            initial: token.initial,
        };
        let answer = Answer {
            origin: Origin::Token(&token),
            contacts: Contacts::Tokens,
            own_routes: b"",
            source,
        };
        let start = self.out.bytes.len();
        let done = self.with_hide(hidden, listener, |hide, out| {
            hide.response(message, &answer, out)
        });
        if done.is_err() {
            self.out.bytes.truncate(start);
            self.env.count(Counter::HiddenSpoilt);
        }
        done.is_ok()
    }

    /// Where a response goes by what our Via says of the request.
    pub(crate) fn hidden_way(&self, message: &Message<'_>) -> Option<std::net::SocketAddr> {
        let via = message.top_via().ok()?;
        let token = topology::via_token(&self.settings.hiding.sealer, &via)?;
        crate::route::response_address(&Via::parse(token.first_via()).ok()?)
    }

    /// Appends the Contact lines of a redirection.
    pub(crate) fn write_hidden_contacts(
        &mut self,
        context: &Context,
        hidden: Hidden,
        message: &Message<'_>,
    ) {
        let back = Hidden {
            towards: match hidden.initial {
                true => Side::Caller,
                false => hidden.towards.other(),
            },
            ..hidden
        };
        let start = self.out.bytes.len();
        let done = self.with_hide(back, context.listener, |hide, out| {
            hide.response_contacts(message, Contacts::Tokens, &topology::Marks::default(), out)
        });
        if done.is_err() {
            self.out.bytes.truncate(start);
            self.env.count(Counter::HiddenSpoilt);
        }
    }

    /// What a request that begins something is hidden by, if it is: what its route says, or that it names a hidden call.
    pub(crate) fn begin_hidden(
        &self,
        context: &Context,
        hand: &Hand<'_>,
        mode: Option<Mode>,
    ) -> Option<Hidden> {
        if context.hidden.is_some() {
            return context.hidden;
        }
        let begun = hand.message.to().is_ok_and(|to| to.tag().is_some());
        if begun {
            return None;
        }
        let names_hidden = || topology::names_hidden(&self.settings.hiding.sealer, &hand.message);
        let mode = mode.or_else(|| names_hidden().then_some(Mode::Stateless))?;
        let hiding = &self.settings.hiding;
        Some(Hidden::beginning(Policy {
            mode,
            key: hiding.sealer.id(),
            ..hiding.policy
        }))
    }
}

/// Whether our Via says how a response goes on. Then all copies of it go on alike, whether or not the request is still there.
fn says_how(message: &Message<'_>) -> bool {
    message
        .top_via()
        .is_ok_and(|via| via.params.find(topology::VIA_PARAM).is_some())
}

/// What is known of a call by a name that the caller gave it.
fn known(arena: &mut Participant, call_id: &[u8], pointed: &[u8], other: &[u8]) -> Known {
    let found = Dialogs(arena).find(call_id, pointed, other, |view, sender| {
        (policy_of(view.header.flags.get()), sender)
    });
    match found {
        None => Known::No,
        Some((None, _)) => Known::Plain,
        Some((Some(policy), sender)) => Known::Hidden {
            key: policy.key,
            pointed: match sender {
                Sender::Caller => Side::Caller,
                Sender::Callee => Side::Callee,
            },
        },
    }
}

/// Notes in a new record that its call is hidden.
pub(crate) fn note(dialog: &mut Dialog, context: &Context) {
    if let Some(hidden) = context.hidden {
        dialog.flags |= hidden.flags();
    }
}
