//! OPTIONS that ask a destination of a group whether it is there (§11).
//!
//! A probe has no transaction record. Its branch carries the destination's row and the time that it was sent at, sealed as all our branches are: its answer is
//! understood by whichever slot reads it, also after the death of the one that sent it, and nobody else can make one up. Whoever keeps the
//! destination's condition repeats it (Timer E), gives it up, and takes no second answer.

use std::net::SocketAddr;

use shm::RowRef;
use stdx::{Instant, hash::hash64, text::encode_base32_u64};

use crate::{
    addresses::Interface,
    branch::{Branch, Place},
    io::{Outputs, Send},
    proxy::Proxy,
};

/// Who is asked.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'p> {
    /// Its row in `balancer`.
    pub resource: RowRef,
    /// The Request-URI.
    pub uri: &'p [u8],
    pub to: SocketAddr,
    /// When it is sent first; a repetition says the same.
    pub sent_at: Instant,
}

impl Proxy {
    /// Writes a probe to the outputs; the same one for equal arguments. False: no listener of ours reaches the address.
    pub fn probe(&self, probe: &Probe<'_>, out: &mut Outputs) -> bool {
        let settings = self.settings();
        let nobody = Interface::from(u32::MAX);
        let Some(listener) = settings.listener_towards(&probe.to, nobody) else {
            return false;
        };
        let key = self.key();
        let branch = Branch {
            place: Place::Probe {
                resource: probe.resource,
            },
            listener: Some(listener.id),
            fold: probe.sent_at.as_nanos(),
        };
        self.write_options(&branch.encode(key), probe.uri, listener, probe.to, out);
        true
    }

    /// An OPTIONS of ours outside of dialogs, with this branch.
    pub(crate) fn write_options(
        &self,
        branch: &[u8],
        uri: &[u8],
        listener: Interface,
        to: SocketAddr,
        out: &mut Outputs,
    ) {
        let (settings, key) = (self.settings(), self.key());
        let name = |what: &[u8]| encode_base32_u64(hash64(key, &[what, branch]));
        let (tag, call_id) = (name(b"probe-tag"), name(b"probe-call"));
        let start = out.bytes.len();
        let us = |text: &mut Vec<u8>| {
            // Writing to a Vec does not fail.
            let _ = settings.write_sent_by(listener, text);
        };
        let text = &mut out.bytes;
        text.extend_from_slice(b"OPTIONS ");
        text.extend_from_slice(uri);
        text.extend_from_slice(b" SIP/2.0\r\nVia: SIP/2.0/UDP ");
        us(text);
        text.extend_from_slice(b";branch=");
        text.extend_from_slice(branch);
        text.extend_from_slice(b"\r\nMax-Forwards: 70\r\nFrom: <sip:");
        us(text);
        text.extend_from_slice(b">;tag=");
        text.extend_from_slice(&tag);
        text.extend_from_slice(b"\r\nTo: <");
        text.extend_from_slice(uri);
        text.extend_from_slice(b">\r\nCall-ID: ");
        text.extend_from_slice(&call_id);
        text.extend_from_slice(b"\r\nCSeq: 1 OPTIONS\r\nContact: <sip:");
        us(text);
        text.extend_from_slice(b">\r\nAccept: application/sdp\r\nContent-Length: 0\r\n\r\n");
        out.sends.push(Send {
            listener,
            to,
            bytes: start..out.bytes.len(),
        });
    }
}
