//! The messages a proxy makes itself: responses (§8.2.6), ACK for a non-2xx (§17.1.1.3), CANCEL (§9.1).
//!
//! All write into the caller's buffer, which is as it was before when a message cannot be made. Values copied from
//! another message are unfolded: no line of ours is continued.

use crate::header::{HeaderName, Method};
use crate::message::{Header, Message, is_token, unfold};
use crate::patch::{Decimal, FieldName, check_text, is_request_uri};

/// Max-Forwards of a request we start (§8.1.1.6).
const MAX_FORWARDS: &[u8] = b"70";

/// Why a message cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    #[error("only a request can be answered or cancelled")]
    NotARequest,
    #[error("an ACK answers a response")]
    NotAResponse,
    #[error("status code {0} does not exist")]
    Code(u16),
    #[error("the message has no {}", .0.as_str())]
    Missing(HeaderName),
    #[error("CSeq is malformed")]
    CSeq,
    #[error("Request-URI holds white space or control characters")]
    Uri,
    #[error("text of a header holds CR, LF or NUL")]
    LineBreak,
    #[error("header name is not a token")]
    Name,
}

/// A response being written; [`finish`](ResponseBuilder::finish) or [`body`](ResponseBuilder::body) ends it.
///
/// The first error sticks and comes back at the end.
#[derive(Debug)]
#[must_use = "a response is complete after `finish` or `body`"]
pub struct ResponseBuilder<'a, 'o> {
    request: Message<'a>,
    out: &'o mut Vec<u8>,
    /// Length of `out` before the response.
    start: usize,
    error: Option<BuildError>,
}

/// Starts a response to `request`: Via lines, From, To, Call-ID and CSeq are copied in order (§8.2.6.2), a 100 gets
/// the Timestamp too (§8.2.6.1). `to_tag` is added to To if that has none and the code is not 100. An empty `reason`
/// becomes [`reason_phrase`].
pub fn response<'a, 'o>(
    request: Message<'a>,
    code: u16,
    reason: &str,
    to_tag: Option<&[u8]>,
    out: &'o mut Vec<u8>,
) -> ResponseBuilder<'a, 'o> {
    response_via(request, None, code, reason, to_tag, out)
}

/// [`response`], with another value in the place of the topmost Via: the one with `received` and `rport` filled in
/// (§18.2.1, RFC 3581 §4).
pub fn response_via<'a, 'o>(
    request: Message<'a>,
    top_via: Option<&[u8]>,
    code: u16,
    reason: &str,
    to_tag: Option<&[u8]>,
    out: &'o mut Vec<u8>,
) -> ResponseBuilder<'a, 'o> {
    let start = out.len();
    let error = write_response_head(request, top_via, code, reason, to_tag, out).err();
    ResponseBuilder {
        request,
        out,
        start,
        error,
    }
}

fn write_response_head(
    request: Message<'_>,
    top_via: Option<&[u8]>,
    code: u16,
    reason: &str,
    to_tag: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> Result<(), BuildError> {
    if !request.is_request() {
        return Err(BuildError::NotARequest);
    }
    if !(100..700).contains(&code) {
        return Err(BuildError::Code(code));
    }
    let reason = if reason.is_empty() {
        reason_phrase(code)
    } else {
        reason
    };
    check(reason.as_bytes())?;
    out.extend_from_slice(b"SIP/2.0 ");
    out.extend_from_slice(Decimal::default().write(usize::from(code)));
    out.push(b' ');
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
    write_vias(request, top_via, out)?;
    write_line(
        HeaderName::From,
        need(request, HeaderName::From)?.value,
        out,
    );
    write_to(
        need(request, HeaderName::To)?.value,
        to_tag.filter(|_| code != 100),
        out,
    )?;
    write_line(
        HeaderName::CallId,
        need(request, HeaderName::CallId)?.value,
        out,
    );
    write_line(
        HeaderName::CSeq,
        need(request, HeaderName::CSeq)?.value,
        out,
    );
    if code == 100
        && let Some(timestamp) = request.first(HeaderName::Timestamp)
    {
        write_line(HeaderName::Timestamp, timestamp.value, out);
    }
    Ok(())
}

fn write_vias(
    request: Message<'_>,
    top_via: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> Result<(), BuildError> {
    let first = request
        .first_value(HeaderName::Via)
        .ok_or(BuildError::Missing(HeaderName::Via))?;
    // A line without a value may stand before the topmost one; it goes, or what replaces the top would be doubled.
    let mut vias = request
        .all(HeaderName::Via)
        .skip_while(|line| !line.value_span.contains(first.span));
    let top = vias.next().ok_or(BuildError::Missing(HeaderName::Via))?;
    match top_via {
        None => write_line(HeaderName::Via, top.value, out),
        Some(value) => {
            check(value)?;
            out.extend_from_slice(b"Via: ");
            out.extend_from_slice(value);
            let others = crate::Span::new(first.span.end, top.value_span.end);
            unfold(others.slice(request.bytes()), out);
            out.extend_from_slice(b"\r\n");
        }
    }
    for via in vias {
        write_line(HeaderName::Via, via.value, out);
    }
    Ok(())
}

fn write_to(to: &[u8], tag: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), BuildError> {
    out.extend_from_slice(b"To: ");
    unfold(to, out);
    if let Some(tag) = tag.filter(|_| !has_tag(to)) {
        if !is_token(tag) {
            return Err(BuildError::Name);
        }
        out.extend_from_slice(b";tag=");
        out.extend_from_slice(tag);
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Whether a To or From value has a tag. It has to do for malformed values too, which we answer with a 400: a `tag`
/// parameter anywhere after the last angle bracket counts.
fn has_tag(value: &[u8]) -> bool {
    if let Ok(value) = crate::header::NameAddr::parse(value) {
        return value.tag().is_some();
    }
    let params = value.rsplit(|b| *b == b'>').next().unwrap_or_default();
    params.split(|b| *b == b';').skip(1).any(|param| {
        let name = param.split(|b| *b == b'=').next().unwrap_or_default();
        crate::header::trim(name).eq_ignore_ascii_case(b"tag")
    })
}

impl ResponseBuilder<'_, '_> {
    /// Adds a header line.
    pub fn header<'n>(mut self, name: impl Into<FieldName<'n>>, value: &[u8]) -> Self {
        let name = name.into().text();
        let checked = if is_token(name) {
            check(value)
        } else {
            Err(BuildError::Name)
        };
        match checked {
            Ok(()) => write_text_line(name, value, self.out),
            Err(error) => self.error = self.error.or(Some(error)),
        }
        self
    }

    /// Copies every line of this name from the request, for instance Record-Route (§12.1.1).
    pub fn copy(self, name: HeaderName) -> Self {
        for header in self.request.all(name) {
            write_text_line(header.name_text, header.value, self.out);
        }
        self
    }

    /// Ends the response, without a body.
    pub fn finish(self) -> Result<(), BuildError> {
        self.end(&[])
    }

    /// Ends the response with a body.
    pub fn body(self, content_type: &[u8], body: &[u8]) -> Result<(), BuildError> {
        self.header(HeaderName::ContentType, content_type).end(body)
    }

    fn end(self, body: &[u8]) -> Result<(), BuildError> {
        if let Some(error) = self.error {
            self.out.truncate(self.start);
            return Err(error);
        }
        write_line(
            HeaderName::ContentLength,
            Decimal::default().write(body.len()),
            self.out,
        );
        self.out.extend_from_slice(b"\r\n");
        self.out.extend_from_slice(body);
        Ok(())
    }
}

/// Writes the ACK for a non-2xx final `response` to `invite`, the INVITE as we sent it (§17.1.1.3): its Request-URI,
/// topmost Via, Route, From, Call-ID and CSeq number, and the response's To.
pub fn ack_for(
    invite: Message<'_>,
    response: Message<'_>,
    out: &mut Vec<u8>,
) -> Result<(), BuildError> {
    if response.is_request() {
        return Err(BuildError::NotAResponse);
    }
    hop_by_hop(Method::Ack, invite, need(response, HeaderName::To)?, out)
}

/// Writes the CANCEL for `invite`, the INVITE as we sent it (§9.1): its Request-URI, topmost Via, Route, From, To,
/// Call-ID and CSeq number.
pub fn cancel_for(invite: Message<'_>, out: &mut Vec<u8>) -> Result<(), BuildError> {
    hop_by_hop(Method::Cancel, invite, need(invite, HeaderName::To)?, out)
}

fn hop_by_hop(
    method: Method,
    invite: Message<'_>,
    to: Header<'_>,
    out: &mut Vec<u8>,
) -> Result<(), BuildError> {
    let line = invite.request().ok_or(BuildError::NotARequest)?;
    // What could be read of a malformed request line may hold anything; see `Layout::partial`.
    if !is_request_uri(line.uri) {
        return Err(BuildError::Uri);
    }
    let via = invite
        .first_value(HeaderName::Via)
        .ok_or(BuildError::Missing(HeaderName::Via))?;
    let from = need(invite, HeaderName::From)?;
    let call_id = need(invite, HeaderName::CallId)?;
    let cseq = cseq_number(need(invite, HeaderName::CSeq)?.value).ok_or(BuildError::CSeq)?;

    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(line.uri);
    out.extend_from_slice(b" SIP/2.0\r\n");
    write_line(HeaderName::Via, via.value, out);
    for route in invite.all(HeaderName::Route) {
        write_line(HeaderName::Route, route.value, out);
    }
    write_line(HeaderName::MaxForwards, MAX_FORWARDS, out);
    write_line(HeaderName::From, from.value, out);
    write_line(HeaderName::To, to.value, out);
    write_line(HeaderName::CallId, call_id.value, out);
    out.extend_from_slice(b"CSeq: ");
    out.extend_from_slice(cseq);
    out.push(b' ');
    out.extend_from_slice(method.as_str().as_bytes());
    out.extend_from_slice(b"\r\nContent-Length: 0\r\n\r\n");
    Ok(())
}

/// The digits of a CSeq value, as they stand.
fn cseq_number(value: &[u8]) -> Option<&[u8]> {
    let len = value
        .iter()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(value.len());
    value.get(..len).filter(|digits| !digits.is_empty())
}

fn need(message: Message<'_>, name: HeaderName) -> Result<Header<'_>, BuildError> {
    message.first(name).ok_or(BuildError::Missing(name))
}

/// Writes a line whose value comes from a message, or from us.
fn write_line(name: HeaderName, value: &[u8], out: &mut Vec<u8>) {
    write_text_line(name.as_str().as_bytes(), value, out);
}

fn write_text_line(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    unfold(value, out);
    out.extend_from_slice(b"\r\n");
}

fn check(text: &[u8]) -> Result<(), BuildError> {
    check_text(text).map_err(|_| BuildError::LineBreak)
}

/// The reason phrase of a status code (§21 and IANA's registry); that of its class for one we don't know.
pub fn reason_phrase(code: u16) -> &'static str {
    match code {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        182 => "Queued",
        183 => "Session Progress",
        199 => "Early Dialog Terminated",
        200 => "OK",
        202 => "Accepted",
        204 => "No Notification",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        305 => "Use Proxy",
        380 => "Alternative Service",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        410 => "Gone",
        412 => "Conditional Request Failed",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        417 => "Unknown Resource-Priority",
        420 => "Bad Extension",
        421 => "Extension Required",
        422 => "Session Interval Too Small",
        423 => "Interval Too Brief",
        424 => "Bad Location Information",
        425 => "Bad Alert Message",
        428 => "Use Identity Header",
        429 => "Provide Referrer Identity",
        430 => "Flow Failed",
        433 => "Anonymity Disallowed",
        436 => "Bad Identity Info",
        437 => "Unsupported Credential",
        438 => "Invalid Identity Header",
        439 => "First Hop Lacks Outbound Support",
        440 => "Max-Breadth Exceeded",
        469 => "Bad Info Package",
        470 => "Consent Needed",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        484 => "Address Incomplete",
        485 => "Ambiguous",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        493 => "Undecipherable",
        494 => "Security Agreement Required",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        555 => "Push Notification Service Not Supported",
        580 => "Precondition Failure",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        607 => "Unwanted",
        608 => "Rejected",
        _ => match code / 100 {
            ..=1 => "Trying",
            2 => "OK",
            3 => "Redirection",
            4 => "Bad Request",
            5 => "Server Internal Error",
            6.. => "Global Failure",
        },
    }
}
