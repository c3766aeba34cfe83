//! What an address-of-record is bound to.

use std::net::{IpAddr, SocketAddr};

use stdx::Instant;

use crate::encoding::{self, DecodeError};
use crate::view::{BindingView, BindingsView};

/// The most bindings of one address-of-record.
pub const BINDINGS_MAX: usize = 32;
/// The longest contact URI.
pub const CONTACT_BYTES_MAX: usize = 1024;
/// The longest list of Path values.
pub const PATH_BYTES_MAX: usize = 2048;
/// The longest Call-ID of a REGISTER.
pub const CALL_ID_BYTES_MAX: usize = 512;
/// The longest `+sip.instance`; a URN of a UUID takes 47.
pub const INSTANCE_BYTES_MAX: usize = 256;
/// What we keep of a User-Agent.
pub const USER_AGENT_BYTES_MAX: usize = 48;
/// The longest encoding of a set.
pub const SET_BYTES_MAX: usize = 14 * 1024;

/// One registered contact. Text in it holds no control bytes, so it can be written into a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The contact URI, whole.
    pub contact: Vec<u8>,
    /// Preference in thousandths, 0 to 1000; 1000 where the contact has none.
    pub q: u16,
    /// From then on the binding is gone.
    pub expires_at: Instant,
    /// Call-ID of the REGISTER that made the binding or refreshed it last.
    pub call_id: Vec<u8>,
    /// CSeq number of that REGISTER.
    pub cseq: u32,
    /// Path values, comma separated; the route to the contact (RFC 3327 §5.3). Empty without a Path.
    pub path: Vec<u8>,
    /// `+sip.instance` without its quotes (RFC 5626 §4.1).
    pub instance: Option<Vec<u8>>,
    /// `reg-id` (RFC 5626 §4.2).
    pub reg_id: Option<u32>,
    /// Where the REGISTER came from: the last hop, which need not be the contact itself.
    pub received: Option<SocketAddr>,
    /// The listener on which it came.
    pub listener: u32,
    /// User-Agent, for operators; cut at [`USER_AGENT_BYTES_MAX`].
    pub user_agent: Vec<u8>,
    /// When that REGISTER came.
    pub updated_at: Instant,
    pub flow: Flow,
}

/// The way that a REGISTER came by, beside its listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// The contact is behind address translation: it is reached where the REGISTER came from.
    pub nat: bool,
    /// The address that it was sent to, where the listener has several.
    pub local: Option<IpAddr>,
}

impl Binding {
    pub fn is_current(&self, now: Instant) -> bool {
        self.expires_at > now
    }

    /// The same, borrowed.
    pub fn view(&self) -> BindingView<'_> {
        BindingView {
            contact: &self.contact,
            q: self.q,
            expires_at: self.expires_at,
            call_id: &self.call_id,
            cseq: self.cseq,
            path: &self.path,
            instance: self.instance.as_deref(),
            reg_id: self.reg_id,
            received: self.received,
            listener: self.listener,
            user_agent: &self.user_agent,
            updated_at: self.updated_at,
            flow: self.flow,
            more: b"",
        }
    }
}

/// The bindings of one address-of-record, at most [`BINDINGS_MAX`], in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BindingSet {
    pub(crate) bindings: Vec<Binding>,
}

impl BindingSet {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn bindings(&self) -> &[Binding] {
        &self.bindings
    }

    /// Whether there is no binding, expired or not: then the row can go.
    pub fn is_empty(&self) -> bool {
        self.bindings.is_empty()
    }

    pub fn len(&self) -> usize {
        self.bindings.len()
    }

    /// The bindings that have not expired.
    pub fn current(&self, now: Instant) -> impl Iterator<Item = &Binding> {
        self.bindings
            .iter()
            .filter(move |binding| binding.is_current(now))
    }

    /// When the last binding expires, and with it the whole set; `None` for an empty one.
    pub fn expires_at(&self) -> Option<Instant> {
        self.bindings.iter().map(|binding| binding.expires_at).max()
    }

    /// Adds a binding unless there are [`BINDINGS_MAX`] already; says whether it did.
    pub fn push(&mut self, binding: Binding) -> bool {
        let has_room = self.bindings.len() < BINDINGS_MAX;
        if has_room {
            self.bindings.push(binding);
        }
        has_room
    }

    /// Removes the bindings of which `remove` says so, for operators; says how many.
    pub fn remove(&mut self, mut remove: impl FnMut(&Binding) -> bool) -> usize {
        let before = self.bindings.len();
        self.bindings.retain(|binding| !remove(binding));
        before - self.bindings.len()
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        // A set is bounded where bindings are added; what is beyond could not be read back.
        let bindings = self.bindings.iter().take(BINDINGS_MAX);
        encoding::write_head(bindings.len(), out);
        for binding in bindings {
            encoding::write_binding(&binding.view(), out);
        }
    }

    /// Reads what [`BindingSet::encode`] wrote, in this release or in another.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self::of(&BindingsView::new(bytes)?))
    }

    /// The bindings of an encoded set.
    pub fn of(view: &BindingsView<'_>) -> Self {
        Self {
            bindings: view.all().map(|binding| binding.to_owned()).collect(),
        }
    }
}

impl BindingView<'_> {
    pub fn to_owned(&self) -> Binding {
        Binding {
            contact: self.contact.to_vec(),
            q: self.q,
            expires_at: self.expires_at,
            call_id: self.call_id.to_vec(),
            cseq: self.cseq,
            path: self.path.to_vec(),
            instance: self.instance.map(<[u8]>::to_vec),
            reg_id: self.reg_id,
            received: self.received,
            listener: self.listener,
            user_agent: self.user_agent.to_vec(),
            updated_at: self.updated_at,
            flow: self.flow,
        }
    }
}
