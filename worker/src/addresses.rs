//! What the machine says about its addresses, for listeners on all of them.
//!
//! Read by the control thread, never by a reactor: a list may be long.

use std::net::SocketAddr;

use proxy::{Addresses, Source};

/// The machine's addresses as they are now; nothing is asked where every listener has one of its own.
pub(crate) fn look(listeners: impl IntoIterator<Item = SocketAddr>) -> Addresses {
    let mut listeners = listeners.into_iter();
    if !listeners.any(|address| address.ip().is_unspecified()) {
        return Addresses::default();
    }
    let sources = os::sources().into_iter().map(|found| Source {
        network: found.network,
        prefix_bits: found.prefix_bits,
        source: found.source,
    });
    Addresses::new(os::addresses(), sources.collect())
}
