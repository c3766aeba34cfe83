//! Writing the answer to a REGISTER (RFC 3261 §10.3 step 8, RFC 3327 §5.3).

use std::time::Duration;

use sip::{HeaderName, Message, Q};
use stdx::{Instant, text::write_decimal};

use crate::encoding::clean;
use crate::register::unsupported;
use crate::{BindingView, BindingsView, Outcome, Policy, Reply};

impl Outcome {
    /// Appends the header lines that belong to this reply beyond those of every response, each with its CRLF. `bindings` are
    /// those after the request.
    pub fn write_headers(
        &self,
        policy: &Policy,
        now: Instant,
        bindings: &BindingsView<'_>,
        request: &Message<'_>,
        out: &mut Vec<u8>,
    ) {
        match self.reply {
            Reply::Ok => {
                for binding in bindings.all().filter(|binding| binding.is_current(now)) {
                    out.extend_from_slice(b"Contact: ");
                    write_contact(&binding, now, out);
                    out.extend_from_slice(b"\r\n");
                }
                write_paths(request, out);
            }
            Reply::BadExtension => {
                out.extend_from_slice(b"Unsupported: ");
                for (nth, tag) in unsupported(request).enumerate() {
                    if nth > 0 {
                        out.extend_from_slice(b", ");
                    }
                    write_clean(tag, out);
                }
                out.extend_from_slice(b"\r\n");
            }
            Reply::IntervalTooBrief => {
                out.extend_from_slice(b"Min-Expires: ");
                write_decimal(seconds(policy.expires_min), out);
                out.extend_from_slice(b"\r\n");
            }
            Reply::Malformed(_) | Reply::OutOfOrder | Reply::TooMany => {}
        }
    }
}

/// One Contact value (§10.3 step 8): the URI in angle brackets and what we know of the binding.
fn write_contact(binding: &BindingView<'_>, now: Instant, out: &mut Vec<u8>) {
    out.push(b'<');
    out.extend_from_slice(binding.contact);
    out.push(b'>');
    if let Some(q) = Q::from_thousandths(binding.q).filter(|q| *q != Q::MAX) {
        out.extend_from_slice(b";q=");
        q.write(out);
    }
    out.extend_from_slice(b";expires=");
    write_decimal(
        seconds(binding.expires_at.saturating_duration_since(now)),
        out,
    );
    if let Some(instance) = binding.instance {
        out.extend_from_slice(b";+sip.instance=\"");
        out.extend_from_slice(instance);
        out.push(b'"');
    }
    if let Some(reg_id) = binding.reg_id {
        out.extend_from_slice(b";reg-id=");
        write_decimal(reg_id.into(), out);
    }
}

/// Whole seconds, rounded up: a binding that still exists has not zero seconds left.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// The Path values of the request, if the client says that it understands them (RFC 3327 §5.3).
fn write_paths(request: &Message<'_>, out: &mut Vec<u8>) {
    let mut paths = request.values(HeaderName::Path).peekable();
    let is_supported = paths.peek().is_some()
        && request
            .values(HeaderName::Supported)
            .any(|tag| tag.value.eq_ignore_ascii_case(b"path"));
    for path in paths.take_while(|_| is_supported) {
        out.extend_from_slice(b"Path: ");
        write_clean(path.value, out);
        out.extend_from_slice(b"\r\n");
    }
}

fn write_clean(text: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(text);
    clean(&mut out[start..]);
}
