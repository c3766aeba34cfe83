//! Writing the answer to a REGISTER (RFC 3261 §10.3 step 8, RFC 3327 §5.3).

use std::io::Write;
use std::time::Duration;

use sip::build::{BuildError, response};
use sip::{HeaderName, Message, Q};
use stdx::Instant;

use crate::register::{clean, unsupported};
use crate::{Binding, BindingSet, Outcome, Policy, Reply};

impl Outcome {
    /// Appends the header lines that belong to this reply beyond those of every response, each with its CRLF.
    pub fn write_headers(
        &self,
        policy: &Policy,
        now: Instant,
        request: &Message<'_>,
        out: &mut Vec<u8>,
    ) {
        match self.reply {
            Reply::Ok => {
                for binding in self.set.current(now) {
                    out.extend_from_slice(b"Contact: ");
                    write_contact(binding, now, out);
                    out.extend_from_slice(b"\r\n");
                }
                for path in path_echo(request) {
                    out.extend_from_slice(b"Path: ");
                    out.extend_from_slice(&path);
                    out.extend_from_slice(b"\r\n");
                }
            }
            Reply::BadExtension => {
                out.extend_from_slice(b"Unsupported: ");
                write_unsupported(request, out);
                out.extend_from_slice(b"\r\n");
            }
            Reply::IntervalTooBrief => {
                // Writing to a Vec does not fail.
                let _ = write!(out, "Min-Expires: {}\r\n", seconds(policy.expires_min));
            }
            Reply::Malformed(_) | Reply::OutOfOrder | Reply::TooMany => {}
        }
    }

    /// Appends the whole response.
    pub fn write(
        &self,
        policy: &Policy,
        now: Instant,
        request: &Message<'_>,
        to_tag: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), BuildError> {
        if self.reply == Reply::Ok {
            return write_ok(&self.set, request, to_tag, now, out);
        }
        let builder = response(
            *request,
            self.reply.code(),
            self.reply.reason(),
            Some(to_tag),
            out,
        );
        let mut value = Vec::new();
        match self.reply {
            Reply::BadExtension => {
                write_unsupported(request, &mut value);
                builder.header(HeaderName::Unsupported, &value)
            }
            Reply::IntervalTooBrief => {
                let _ = write!(value, "{}", seconds(policy.expires_min));
                builder.header(HeaderName::MinExpires, &value)
            }
            Reply::Ok | Reply::Malformed(_) | Reply::OutOfOrder | Reply::TooMany => builder,
        }
        .finish()
    }
}

/// Appends a 200 with all current bindings, and the Path values that the request brought if the client supports Path.
pub fn write_ok(
    set: &BindingSet,
    request: &Message<'_>,
    to_tag: &[u8],
    now: Instant,
    out: &mut Vec<u8>,
) -> Result<(), BuildError> {
    let mut builder = response(*request, 200, "OK", Some(to_tag), out);
    let mut value = Vec::new();
    for binding in set.current(now) {
        value.clear();
        write_contact(binding, now, &mut value);
        builder = builder.header(HeaderName::Contact, &value);
    }
    for path in path_echo(request) {
        builder = builder.header(HeaderName::Path, &path);
    }
    builder.finish()
}

/// One Contact value (§10.3 step 8): the URI in angle brackets and what we know of the binding.
fn write_contact(binding: &Binding, now: Instant, out: &mut Vec<u8>) {
    out.push(b'<');
    out.extend_from_slice(&binding.contact);
    out.push(b'>');
    if let Some(q) = Q::from_thousandths(binding.q).filter(|q| *q != Q::MAX) {
        out.extend_from_slice(b";q=");
        q.write(out);
    }
    let left = seconds(binding.expires_at.saturating_duration_since(now));
    let _ = write!(out, ";expires={left}");
    if let Some(instance) = &binding.instance {
        out.extend_from_slice(b";+sip.instance=\"");
        out.extend_from_slice(instance);
        out.push(b'"');
    }
    if let Some(reg_id) = binding.reg_id {
        let _ = write!(out, ";reg-id={reg_id}");
    }
}

/// Whole seconds, rounded up: a binding that still exists has not zero seconds left.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// The Path values to return (RFC 3327 §5.3): those of the request, if the client says that it understands them.
fn path_echo<'a>(request: &Message<'a>) -> impl Iterator<Item = Vec<u8>> + use<'a> {
    let is_supported = request
        .values(HeaderName::Supported)
        .any(|tag| tag.value.eq_ignore_ascii_case(b"path"));
    request
        .values(HeaderName::Path)
        .take_while(move |_| is_supported)
        .map(|value| clean(value.value))
}

fn write_unsupported(request: &Message<'_>, out: &mut Vec<u8>) {
    for (index, tag) in unsupported(request).enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        out.append(&mut clean(tag));
    }
}
