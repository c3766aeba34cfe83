//! REGISTER (RFC 3261 §10.3 steps 6 to 8).

use std::net::SocketAddr;
use std::time::Duration;

use sip::{HeaderName, Message, NameAddr, Uri};
use stdx::Instant;

use crate::binding::{
    BINDINGS_MAX, Binding, BindingSet, CALL_ID_BYTES_MAX, CONTACT_BYTES_MAX, INSTANCE_BYTES_MAX,
    PATH_BYTES_MAX, SET_BYTES_MAX, USER_AGENT_BYTES_MAX,
};
use crate::encoding::is_control;

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
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            expires_default: HOUR,
            expires_min: Duration::from_secs(60),
            expires_max: 2 * HOUR,
            bindings_max: 10,
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// What a REGISTER led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub reply: Reply,
    /// Whether `set` must be stored. Expired bindings alone are no reason.
    pub changed: bool,
    /// The bindings after the request, without expired ones; those before it if the reply is not 200.
    pub set: BindingSet,
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
            Self::BadExtension => "Bad Extension",
            Self::IntervalTooBrief => "Interval Too Brief",
            Self::OutOfOrder => "CSeq Out of Order",
            Self::TooMany => "Too Many Contacts",
        }
    }
}

/// Applies a REGISTER to the bindings of its address-of-record, all or nothing.
///
/// `source` is where it came from and `listener` where it was received. The caller has settled whose bindings they are
/// and who may change them (§10.3 steps 1 to 5).
pub fn register(
    policy: &Policy,
    now: Instant,
    current: &BindingSet,
    request: &Message<'_>,
    source: SocketAddr,
    listener: u32,
) -> Outcome {
    let before: Vec<Binding> = current.current(now).cloned().collect();
    let result = Update::new(policy, now, request, source, listener)
        .and_then(|update| update.apply(&before));
    match result {
        Ok(Some(bindings)) => Outcome {
            reply: Reply::Ok,
            changed: true,
            set: BindingSet { bindings },
        },
        Ok(None) => Outcome {
            reply: Reply::Ok,
            changed: false,
            set: BindingSet { bindings: before },
        },
        Err(reply) => Outcome {
            reply,
            changed: false,
            set: BindingSet { bindings: before },
        },
    }
}

/// The most Contact values in one REGISTER; each is compared with every binding.
const CONTACTS_MAX: usize = 2 * BINDINGS_MAX;

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
    listener: u32,
}

impl<'a> Update<'a> {
    fn new(
        policy: &'a Policy,
        now: Instant,
        request: &'a Message<'a>,
        source: SocketAddr,
        listener: u32,
    ) -> Result<Self, Reply> {
        if unsupported(request).next().is_some() {
            return Err(Reply::BadExtension);
        }
        let call_id = request
            .call_id()
            .map_err(|_| Reply::Malformed(Fault::CallId))?;
        if call_id.len() > CALL_ID_BYTES_MAX || call_id.iter().any(|&byte| is_control(byte)) {
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
            listener,
        })
    }

    /// The bindings afterwards; `None` if they are the same.
    fn apply(&self, before: &[Binding]) -> Result<Option<Vec<Binding>>, Reply> {
        if self.request.has_star_contact() {
            return self.remove_all(before);
        }
        if self.request.values(HeaderName::Contact).count() > CONTACTS_MAX {
            return Err(Reply::TooMany);
        }
        let path = self.path()?;
        let mut kept = before.to_vec();
        // Apart from the others, because a later Contact may replace an earlier one of the same CSeq.
        let mut fresh: Vec<Binding> = Vec::new();
        for value in self.request.values(HeaderName::Contact) {
            let contact =
                NameAddr::parse(value.value).map_err(|_| Reply::Malformed(Fault::Contact))?;
            let lifetime = self.lifetime(&contact)?;
            let binding = self.binding(&contact, lifetime.unwrap_or_default(), &path)?;
            let is_same = |other: &Binding| {
                other.is_for(&contact.uri, binding.instance.as_deref(), binding.reg_id)
            };
            if !self.is_newer(kept.iter().filter(|other| is_same(other)))? {
                continue;
            }
            // URI equivalence is not transitive (§19.1.4), so there may be several.
            kept.retain(|other| !is_same(other));
            fresh.retain(|other| !is_same(other));
            if lifetime.is_some() {
                fresh.push(binding);
            }
        }
        let changed = kept.len() < before.len() || !fresh.is_empty();
        kept.append(&mut fresh);
        self.check_limits(before, &kept)?;
        Ok(changed.then_some(kept))
    }

    /// `Contact: *` (§10.2.2).
    fn remove_all(&self, before: &[Binding]) -> Result<Option<Vec<Binding>>, Reply> {
        let is_alone = self.request.values(HeaderName::Contact).count() == 1;
        if !is_alone || self.request.expires() != Ok(Some(0)) {
            return Err(Reply::Malformed(Fault::Star));
        }
        if !self.is_newer(before.iter())? || before.is_empty() {
            return Ok(None);
        }
        Ok(Some(Vec::new()))
    }

    /// Whether the request comes after the ones that made these bindings (§10.3 step 7). `false`: it is one of them,
    /// come again.
    fn is_newer<'b>(&self, bindings: impl Iterator<Item = &'b Binding>) -> Result<bool, Reply> {
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

    fn binding(
        &self,
        contact: &NameAddr<'_>,
        lifetime: Duration,
        path: &[u8],
    ) -> Result<Binding, Reply> {
        let uri = contact.uri.text;
        let instance = contact.instance().map(clean);
        let is_too_long = uri.len() > CONTACT_BYTES_MAX
            || instance
                .as_ref()
                .is_some_and(|instance| instance.len() > INSTANCE_BYTES_MAX);
        if is_too_long {
            return Err(Reply::Malformed(Fault::TooLong));
        }
        // What is kept is parsed again on every look-up, and goes into headers.
        if uri.iter().any(|&byte| is_control(byte)) || Uri::parse(uri).is_err() {
            return Err(Reply::Malformed(Fault::Contact));
        }
        // RFC 5626 §6: without an instance, reg-id is ignored.
        let reg_id = instance.as_ref().and_then(|_| contact.reg_id());
        let agent = self
            .request
            .first(HeaderName::UserAgent)
            .map_or(&b""[..], |header| header.value);
        Ok(Binding {
            contact: uri.to_vec(),
            q: contact.q().map_or(1000, |q| q.thousandths()),
            expires_at: self.now.saturating_add(lifetime),
            call_id: self.call_id.to_vec(),
            cseq: self.cseq,
            path: path.to_vec(),
            instance,
            reg_id,
            received: Some(self.source),
            listener: self.listener,
            user_agent: clean(&agent[..agent.len().min(USER_AGENT_BYTES_MAX)]),
            updated_at: self.now,
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
            path.append(&mut clean(value.value));
            if path.len() > PATH_BYTES_MAX {
                return Err(Reply::Malformed(Fault::TooLong));
            }
        }
        Ok(path)
    }

    /// A set that did not grow is let through, so that a lowered limit does not keep bindings from being refreshed.
    fn check_limits(&self, before: &[Binding], after: &[Binding]) -> Result<(), Reply> {
        let limit = self.policy.bindings_max.min(BINDINGS_MAX);
        if after.len() > BINDINGS_MAX || (after.len() > limit && after.len() > before.len()) {
            return Err(Reply::TooMany);
        }
        let bytes = after.iter().map(bytes_max).sum::<usize>();
        if bytes > SET_BYTES_MAX {
            Err(Reply::TooMany)
        } else {
            Ok(())
        }
    }
}

/// An upper bound of a binding's encoding.
fn bytes_max(binding: &Binding) -> usize {
    const FIXED: usize = 128;
    let instance = binding.instance.as_ref().map_or(0, Vec::len);
    FIXED
        + binding.contact.len()
        + binding.call_id.len()
        + binding.path.len()
        + instance
        + binding.user_agent.len()
}

/// Text that can stand in one header line: folds (§7.3.1) and other control bytes become spaces.
pub(crate) fn clean(text: &[u8]) -> Vec<u8> {
    text.iter()
        .map(|&byte| if is_control(byte) { b' ' } else { byte })
        .collect()
}
