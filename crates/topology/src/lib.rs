//! Topology hiding: neither side of a call learns from SIP what the network of the other one looks like.
//!
//! - [`Sealer`]: texts that only we can read, and that are the same each time (AES-SIV, RFC 5297); [`token`]: what they carry;
//! - [`inventory`]: what is done with each header; [`Policy`]: what of that the operator chooses;
//! - [`restore()`]: a request with tokens of ours, as it would have come if nothing had been hidden;
//! - [`Hide`]: a request or response on its way to the other side;
//! - `names`: addresses in headers, `refer`: dialogs and targets that headers point to; `body`, `sdp`, `fragment`: what messages carry;
//! - [`Marks`]: addresses that a message tells of its sender (`learn`), looked for wherever no grammar says where they stand;
//! - [`leak`]: for tests, finds marks of one side in what the other side gets, whatever they are wrapped in.
//!
//! *How it works.* Everything between intake and output of the proxy sees a call as if nothing were hidden. A message is hidden when it leaves for the other
//! side, the last thing before it is sent; a request that comes with tokens is restored before anything else reads it. The caller's Call-ID is the call's; the callee
//! knows it sealed. What a party gets as Contact and Record-Route are URIs of ours whose user part is a token: it holds the contact and the Route set of the other
//! side, so that a request finds its way even if every state is lost. In [`Mode::Dialog`] the Contact names the record of the call instead, and is short.
//!
//! Tags stay: they say nothing of a network, and both sides need the same ones to name a call to a third.
//!
//! Nothing here has a socket, a clock or a thread.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod body;
mod fragment;
mod hide;
pub mod inventory;
pub mod leak;
mod learn;
mod marks;
mod names;
mod policy;
mod refer;
mod restore;
mod sdp;
mod seal;
#[cfg(test)]
mod tests;
pub mod token;

pub use hide::{
    Answer, Contacts, Hide, HideError, Known, LookUp, Origin, Sent, VIA_PARAM, via_token,
};
pub use marks::Marks;
pub use policy::{Identities, Mode, Policy, Side, Unknown};
pub use restore::{Leg, Tokens, may_have, names_hidden, restore};
pub use seal::{SEALED_BYTES_MAX, SealKey, Sealer};
