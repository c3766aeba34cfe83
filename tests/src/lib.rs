//! The harness of the black-box tests: it starts the real `tandem`, drives it with outside clients
//! (SIPp, sipsak, baresip) and with raw UDP peers, and looks only at what an operator could see.
//!
//! - [`server::Server`]: a running `tandem`, its command line, its log, its processes;
//! - [`peer::Peer`], [`message::Message`], [`ua::Ua`]: a SIP client that never retransmits;
//! - [`sipp::Sipp`], [`baresip::Baresip`], [`sipsak`]: the outside clients;
//! - [`unbound::Unbound`]: a name server, and a gate before it;
//! - [`rtpengine::Engine`], [`rtpengine::Party`]: a relay of media, and who sends media through it;
//! - [`networks::Networks`]: networks of their own, with routers that translate addresses;
//! - [`registers::Registering`]: REGISTERs at a rate, by clients that remember what was acknowledged;
//! - [`crowd::Crowd`]: a hundred thousand calls from one thread;
//! - [`flow`]: call flows in text files, and what plays them;
//! - [`manager::Manager`]: stands for systemd and its descriptor store;
//! - [`stalls`]: when the machine itself stood still, and measuring again then;
//! - [`machine`]: waiting for conditions, free addresses, `/proc`, and who may run at the same time.
//!
//! The topics are in `black_box/`, the SIPp scenarios in `sipp/`.
#![forbid(unsafe_code)]

pub mod baresip;
pub mod binary;
pub mod crowd;
pub mod flow;
pub mod machine;
pub mod manager;
pub mod message;
pub mod networks;
pub mod peer;
pub mod registers;
pub mod rtpengine;
pub mod server;
pub mod sipp;
pub mod sipsak;
pub mod stalls;
pub mod storm;
pub mod ua;
pub mod unbound;

/// Is the long form of the tests asked for (`TANDEM_LONG=1`)? The short form runs in CI.
pub fn long() -> bool {
    std::env::var_os("TANDEM_LONG").is_some_and(|v| !v.is_empty() && v != "0")
}

/// `short` in CI, `long` with `TANDEM_LONG=1`.
pub fn either<T>(short: T, long_form: T) -> T {
    if long() { long_form } else { short }
}
