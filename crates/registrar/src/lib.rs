//! (bindings, REGISTER, now) to (new bindings, response): RFC 3261 section 10.3.
//!
//! - [`register()`] decides: all or nothing, the clock handed in, nothing kept. [`Outcome`] writes the answer. It goes from encoding to
//!   encoding: what a request does not touch is copied.
//! - [`BindingSet`] is what an address-of-record has, for operators and tests; its encoding outlives the worker and the release.
//! - [`BindingsView`] looks into the encoding without allocation.
//!
//! With RFC 3327 (Path) and the keys of RFC 5626 (`+sip.instance` with `reg-id`). What is not here: choosing the
//! address-of-record, authentication, and where the bindings live.
//!
//! | case | answer |
//! |---|---|
//! | a Require we do not know | 420 with Unsupported |
//! | a malformed Contact, Path, Call-ID or CSeq; `*` not alone or without `Expires: 0`; a field too long | 400 |
//! | 0 < expiration < minimum, and less than one hour | 423 with Min-Expires |
//! | CSeq lower than that of a binding with the same Call-ID | 500, nothing changes |
//! | CSeq equal to it | 200, that binding stays as it is: a retransmission |
//! | more bindings than the limit, and more than before | 503, as Kamailio and OpenSIPS answer |
//! | else | 200 with all bindings |

#![forbid(unsafe_code)]

mod answer;
mod binding;
mod encoding;
mod nat;
mod old;
mod register;
mod view;

pub use binding::Flow;
pub use binding::{
    BINDINGS_MAX, Binding, BindingSet, CALL_ID_BYTES_MAX, CONTACT_BYTES_MAX, INSTANCE_BYTES_MAX,
    PATH_BYTES_MAX, SET_BYTES_MAX, USER_AGENT_BYTES_MAX,
};
pub use encoding::{DecodeError, shift};
pub use nat::{NatRule, is_private, means_nothing};
pub use register::{Entrance, Fault, Outcome, Policy, Reply, register};
pub use view::{BindingView, BindingsView, Current};
