//! REGISTER (RFC 3261 §10.3 steps 6 to 8).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sip::{HeaderName, Message, NameAddr, Uri};
use stdx::Instant;

use crate::binding::{
    BINDINGS_MAX, CALL_ID_BYTES_MAX, CONTACT_BYTES_MAX, Flow, INSTANCE_BYTES_MAX, PATH_BYTES_MAX,
    SET_BYTES_MAX, USER_AGENT_BYTES_MAX,
};
use crate::encoding::{self, has_control, is_control};
use crate::nat::NatRule;
use crate::view::{BindingView, BindingsView};

/// The operator's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Lifetime of a binding whose REGISTER asks for none.
    pub expires_default: Duration,
    /// A shorter lifetime is refused with 423.
    pub expires_min: Duration,
    /// A longer lifetime is lowered to this.
    pub expires_max: Duration,
    /// Bindings of one address-of-record; never more than [`BINDINGS_MAX`].
    pub bindings_max: usize,
    /// Who is taken to be behind address translation.
    pub nat: NatRule,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            expires_default: HOUR,
            expires_min: Duration::from_secs(60),
            expires_max: 2 * HOUR,
            bindings_max: 10,
            nat: NatRule::Off,
        }
    }
}

/// Where a REGISTER was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entrance {
    pub listener: u32,
    /// The address that it was sent to, where the listener has several.
    pub local: Option<IpAddr>,
}

impl From<u32> for Entrance {
    fn from(listener: u32) -> Self {
        Self {
            listener,
            local: None,
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// What a REGISTER led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub reply: Reply,
    /// Whether the set must be stored. Expired bindings alone are no reason.
    pub changed: bool,
}

impl Outcome {
    /// The bindings after the request, of which some may have expired: `next` as [`register()`] wrote it, or those before.
    pub fn bindings<'b>(&self, before: &BindingsView<'b>, next: &'b [u8]) -> BindingsView<'b> {
        if self.changed {
            BindingsView::just_written(next)
        } else {
            *before
        }
    }
}

/// The answer, before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// 200: the list of all bindings follows (§10.3 step 8).
    Ok,
    /// 400.
    Malformed(Fault),
    /// 420: a Require names what we do not know (§8.2.2.3).
    BadExtension,
    /// 423: shorter than Min-Expires (§10.3 step 7).
    IntervalTooBrief,
    /// 500: the update is aborted, since a newer REGISTER was served before (§10.3 steps 6 and 7).
    OutOfOrder,
    /// 503: more bindings than one address-of-record may have.
    ///
    /// No RFC says what to answer. Kamailio (`max_contacts`) and OpenSIPS answer 503 without Retry-After, so that is
    /// what clients are used to.
    TooMany,
}

/// What is wrong with the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    CallId,
    CSeq,
    Contact,
    /// `*` together with another Contact, or without `Expires: 0` (§10.2.2, §10.3 step 6).
    Star,
    Path,
    TooLong,
    /// To compare two URIs costs the product of their numbers of parameters.
    Parameters,
}

impl Reply {
    pub fn code(&self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::Malformed(_) => 400,
            Self::BadExtension => 420,
            Self::IntervalTooBrief => 423,
            Self::OutOfOrder => 500,
            Self::TooMany => 503,
        }
    }

    pub fn reason(&self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Malformed(Fault::CallId) => "Bad Call-ID",
            Self::Malformed(Fault::CSeq) => "Bad CSeq",
            Self::Malformed(Fault::Contact) => "Bad Contact",
            Self::Malformed(Fault::Star) => "Bad Wildcard Contact",
            Self::Malformed(Fault::Path) => "Bad Path",
            Self::Malformed(Fault::TooLong) => "Contact Too Long",
            Self::Malformed(Fault::Parameters) => "Contact With Too Many Parameters",
            Self::BadExtension => "Bad Extension",
            Self::IntervalTooBrief => "Interval Too Brief",
            Self::OutOfOrder => "CSeq Out of Order",
            Self::TooMany => "Too Many Contacts",
        }
    }
}

/// Applies a REGISTER to the bindings of its address-of-record, all or nothing. If they change, `next` holds the encoding of the new set,
/// without expired bindings; otherwise nothing.
///
/// `source` is where it came from and `entrance` where it was received. The caller has settled whose bindings they are
/// and who may change them (§10.3 steps 1 to 5).
pub fn register(
    policy: &Policy,
    now: Instant,
    current: &BindingsView<'_>,
    request: &Message<'_>,
    source: SocketAddr,
    entrance: impl Into<Entrance>,
    next: &mut Vec<u8>,
) -> Outcome {
    next.clear();
    let result = Update::new(policy, now, request, source, entrance.into())
        .and_then(|update| update.apply(current, next));
    let (reply, changed) = match result {
        Ok(changed) => (Reply::Ok, changed),
        Err(reply) => (reply, false),
    };
    Outcome { reply, changed }
}

/// The most Contact values in one REGISTER; each is compared with every binding.
const CONTACTS_MAX: usize = 2 * BINDINGS_MAX;

/// The most parameters of a Contact URI; phones have three or four.
const CONTACT_PARAMS_MAX: usize = 16;

/// The option tags that a REGISTER may require of us.
const EXTENSIONS: [&[u8]; 1] = [b"path"];

/// The option tags in Require that we do not know (§8.2.2.3).
pub(crate) fn unsupported<'a>(request: &Message<'a>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    request
        .values(HeaderName::Require)
        .map(|tag| tag.value)
        .filter(|tag| {
            !EXTENSIONS
                .iter()
                .any(|known| known.eq_ignore_ascii_case(tag))
        })
}

/// What a REGISTER asks for, read but not yet applied.
struct Update<'a> {
    policy: &'a Policy,
    now: Instant,
    request: &'a Message<'a>,
    call_id: &'a [u8],
    cseq: u32,
    source: SocketAddr,
    entrance: Entrance,
}

impl<'a> Update<'a> {
    fn new(
        policy: &'a Policy,
        now: Instant,
        request: &'a Message<'a>,
        source: SocketAddr,
        entrance: Entrance,
    ) -> Result<Self, Reply> {
        if unsupported(request).next().is_some() {
            return Err(Reply::BadExtension);
        }
        let call_id = request
            .call_id()
            .map_err(|_| Reply::Malformed(Fault::CallId))?;
        if call_id.len() > CALL_ID_BYTES_MAX || has_control(call_id) {
            return Err(Reply::Malformed(Fault::CallId));
        }
        let cseq = request
            .cseq()
            .map_err(|_| Reply::Malformed(Fault::CSeq))?
            .number;
        Ok(Self {
            policy,
            now,
            request,
            call_id,
            cseq,
            source,
            entrance,
        })
    }

    /// Writes the bindings afterwards; false if they are the same.
    fn apply(&self, current: &BindingsView<'_>, next: &mut Vec<u8>) -> Result<bool, Reply> {
        // The bindings, then those of the request: apart, because a later Contact may replace an earlier one of the same CSeq.
        let mut list = Vec::with_capacity(current.len().saturating_add(1));
        for binding in current.all() {
            if binding.is_current(self.now) {
                list.push(Known::stored(binding));
            }
        }
        if self.request.has_star_contact() {
            let changed = self.removes_all(&list)?;
            if changed {
                encoding::write_head(0, next);
            }
            return Ok(changed);
        }
        let contacts = self.request.values(HeaderName::Contact);
        if contacts.clone().nth(CONTACTS_MAX).is_some() {
            return Err(Reply::TooMany);
        }
        let path = self.path()?;
        let before = list.len();
        let mut changed = false;
        for value in contacts {
            let contact =
                NameAddr::parse(value.value).map_err(|_| Reply::Malformed(Fault::Contact))?;
            let lifetime = self.lifetime(&contact)?;
            let binding = self.binding(&contact, lifetime.unwrap_or_default(), &path)?;
            let binding = Known::new(binding, contact.uri);
            // URI equivalence is not transitive (§19.1.4), so there may be several.
            let mut any = false;
            for other in &mut list {
                other.is_replaced = other.is_same(&binding);
                any |= other.is_replaced;
            }
            let stored = list
                .iter()
                .filter(|other| other.is_replaced && other.is_stored);
            if any && !self.is_newer(stored.map(|other| &other.binding))? {
                continue;
            }
            if any {
                changed |= list
                    .iter()
                    .any(|other| other.is_replaced && other.is_stored);
                list.retain(|other| !other.is_replaced);
            }
            if lifetime.is_some() {
                list.push(binding);
            }
        }
        changed |= list.last().is_some_and(|last| !last.is_stored);
        self.check_limits(before, &list)?;
        if changed {
            encoding::write_head(list.len(), next);
            for known in &list {
                encoding::write_binding(&known.binding, next);
            }
        }
        Ok(changed)
    }

    /// Whether `Contact: *` (§10.2.2) removes anything.
    fn removes_all(&self, before: &[Known<'_>]) -> Result<bool, Reply> {
        let is_alone = self.request.values(HeaderName::Contact).nth(1).is_none();
        if !is_alone || self.request.expires() != Ok(Some(0)) {
            return Err(Reply::Malformed(Fault::Star));
        }
        let is_newer = self.is_newer(before.iter().map(|known| &known.binding))?;
        Ok(is_newer && !before.is_empty())
    }

    /// Whether the request comes after the ones that made these bindings (§10.3 step 7). `false`: it is one of them,
    /// come again.
    fn is_newer<'b, 'v: 'b>(
        &self,
        bindings: impl Iterator<Item = &'b BindingView<'v>>,
    ) -> Result<bool, Reply> {
        let mut newer = true;
        for binding in bindings.filter(|binding| binding.call_id == self.call_id) {
            if self.cseq < binding.cseq {
                return Err(Reply::OutOfOrder);
            }
            newer &= self.cseq > binding.cseq;
        }
        Ok(newer)
    }

    /// How long the contact is to be bound; `None` removes it.
    fn lifetime(&self, contact: &NameAddr<'_>) -> Result<Option<Duration>, Reply> {
        let requested = match contact.expires() {
            Some(seconds) => Duration::from_secs(seconds.into()),
            None => match self.request.expires() {
                Ok(Some(seconds)) => Duration::from_secs(seconds.into()),
                Ok(None) => self.policy.expires_default,
                // §10.2.1.1: a malformed value counts as 3600.
                Err(_) => HOUR,
            },
        };
        if requested.is_zero() {
            return Ok(None);
        }
        if requested < self.policy.expires_min.min(HOUR) {
            return Err(Reply::IntervalTooBrief);
        }
        Ok(Some(requested.min(self.policy.expires_max)))
    }

    fn binding<'b>(
        &self,
        contact: &NameAddr<'b>,
        lifetime: Duration,
        path: &'b [u8],
    ) -> Result<BindingView<'b>, Reply>
    where
        'a: 'b,
    {
        let uri = contact.uri.text;
        // One walk over the parameters, which are few: most contacts have none of these.
        let instance = contact.instance();
        let is_too_long = uri.len() > CONTACT_BYTES_MAX
            || instance.is_some_and(|instance| instance.len() > INSTANCE_BYTES_MAX);
        if is_too_long {
            return Err(Reply::Malformed(Fault::TooLong));
        }
        if contact.uri.params().nth(CONTACT_PARAMS_MAX).is_some() {
            return Err(Reply::Malformed(Fault::Parameters));
        }
        // What is kept goes into headers.
        if has_control(uri) {
            return Err(Reply::Malformed(Fault::Contact));
        }
        // RFC 5626 §6: without an instance, reg-id is ignored.
        let reg_id = instance.and_then(|_| contact.reg_id());
        let agent = self
            .request
            .first(HeaderName::UserAgent)
            .map_or(&b""[..], |header| header.value);
        Ok(BindingView {
            contact: uri,
            q: contact.q().map_or(1000, |q| q.thousandths()),
            expires_at: self.now.saturating_add(lifetime),
            call_id: self.call_id,
            cseq: self.cseq,
            path,
            instance,
            reg_id,
            received: Some(self.source),
            listener: self.entrance.listener,
            user_agent: agent.get(..USER_AGENT_BYTES_MAX).unwrap_or(agent),
            updated_at: self.now,
            flow: Flow {
                nat: path.is_empty()
                    && self
                        .policy
                        .nat
                        .detects(self.request, &contact.uri, self.source),
                local: self.entrance.local,
            },
            more: b"",
        })
    }

    /// The Path values as one list (RFC 3327 §5.3).
    ///
    /// A Path from a client that does not say `Supported: path` is kept all the same, as with Kamailio's `path_mode` 1:
    /// the edge proxies that add it are ours to trust or to keep away.
    fn path(&self) -> Result<Vec<u8>, Reply> {
        let mut path = Vec::new();
        for value in self.request.values(HeaderName::Path) {
            NameAddr::parse(value.value).map_err(|_| Reply::Malformed(Fault::Path))?;
            if !path.is_empty() {
                path.push(b',');
            }
            sip::message::unfold(value.value, &mut path);
            if path.len() > PATH_BYTES_MAX {
                return Err(Reply::Malformed(Fault::TooLong));
            }
        }
        Ok(path)
    }

    /// A set that did not grow is let through, so that a lowered limit does not keep bindings from being refreshed.
    fn check_limits(&self, before: usize, after: &[Known<'_>]) -> Result<(), Reply> {
        let limit = self.policy.bindings_max.min(BINDINGS_MAX);
        if after.len() > BINDINGS_MAX || (after.len() > limit && after.len() > before) {
            return Err(Reply::TooMany);
        }
        let bytes = after
            .iter()
            .map(|known| bytes_max(&known.binding))
            .sum::<usize>();
        if bytes > SET_BYTES_MAX {
            Err(Reply::TooMany)
        } else {
            Ok(())
        }
    }
}

/// A binding, and its contact read when somebody asks.
struct Known<'a> {
    binding: BindingView<'a>,
    uri: Contact<'a>,
    /// It was there before the request.
    is_stored: bool,
    /// The Contact at hand takes its place.
    is_replaced: bool,
}

enum Contact<'a> {
    Unread,
    Read(Uri<'a>),
    /// Nobody's: what is stored was read when it came.
    Unreadable,
}

impl<'a> Known<'a> {
    fn stored(binding: BindingView<'a>) -> Self {
        Self {
            binding,
            uri: Contact::Unread,
            is_stored: true,
            is_replaced: false,
        }
    }

    fn new(binding: BindingView<'a>, uri: Uri<'a>) -> Self {
        Self {
            binding,
            uri: Contact::Read(uri),
            is_stored: false,
            is_replaced: false,
        }
    }

    /// Whether a contact of the request means this binding: by instance and reg-id if both have them (RFC 5626 §6), else
    /// by URI (§19.1.4). A device with two flows may use one contact URI for both.
    fn is_same(&mut self, contact: &Known<'_>) -> bool {
        let (ours, theirs) = (&self.binding, &contact.binding);
        if let (Some(our_instance), Some(our_id), Some(their_instance), Some(their_id)) =
            (ours.instance, ours.reg_id, theirs.instance, theirs.reg_id)
        {
            return our_id == their_id && is_same_text(our_instance, their_instance);
        }
        if ours.contact == theirs.contact {
            return true;
        }
        if let Contact::Unread = self.uri {
            self.uri = Uri::parse(ours.contact).map_or(Contact::Unreadable, Contact::Read);
        }
        match (&self.uri, &contact.uri) {
            (Contact::Read(ours), Contact::Read(theirs)) => sip::equivalent(ours, theirs),
            _ => false,
        }
    }
}

/// Whether texts are the same once they are kept, which is without control bytes.
fn is_same_text(a: &[u8], b: &[u8]) -> bool {
    let kept = |byte: &u8| if is_control(*byte) { b' ' } else { *byte };
    a == b || a.iter().map(kept).eq(b.iter().map(kept))
}

/// An upper bound of a binding's encoding.
fn bytes_max(binding: &BindingView<'_>) -> usize {
    const FIXED: usize = 128;
    FIXED
        + binding.contact.len()
        + binding.call_id.len()
        + binding.path.len()
        + binding.instance.map_or(0, <[u8]>::len)
        + binding.user_agent.len()
        + binding.more.len()
        + encoding::FLOW_BYTES_MAX
}
