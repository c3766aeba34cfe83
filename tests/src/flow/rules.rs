//! What holds for every message that a flow expects from the server, whether the flow says so or not.

use std::net::SocketAddr;

use super::party::Heard;
use crate::message::{Message, param};

/// What a proxy may change in a request, or take from it.
const CHANGED: [&str; 7] = [
    "Via",
    "Max-Forwards",
    "Max-Breadth",
    "Route",
    "Record-Route",
    "Proxy-Authorization",
    "Content-Length",
];

/// What a proxy may change in a response. Challenges of several branches are put together (RFC 3261 §16.7 step 7), and contacts of
/// several redirections.
const CHANGED_BACK: [&str; 4] = [
    "Via",
    "WWW-Authenticate",
    "Proxy-Authenticate",
    "Content-Length",
];

/// Checks a message that came from the server at `source`: `said` is what all parties have sent so far, `heard` the history of the
/// one that got it, without this message.
pub fn check(
    message: &Message,
    source: SocketAddr,
    said: &[Message],
    heard: &[Heard],
) -> Result<(), String> {
    whole(message)?;
    if message.is_request() {
        request(message, source, said, heard)
    } else {
        response(message, said, heard)
    }
}

/// It has what every message has.
pub(super) fn whole(message: &Message) -> Result<(), String> {
    for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
        if message.first(name).is_none() {
            return Err(format!("it has no {name}"));
        }
    }
    if let Some(length) = message.first("Content-Length")
        && length.parse() != Ok(message.body.len())
    {
        return Err(format!(
            "Content-Length {length} with a body of {} bytes",
            message.body.len()
        ));
    }
    Ok(())
}

/// Whether a proxy may change this, or take it away or add it.
pub(super) fn may_change(name: &str, in_request: bool) -> bool {
    let names = match in_request {
        true => &CHANGED[..],
        false => &CHANGED_BACK[..],
    };
    names.iter().any(|other| other.eq_ignore_ascii_case(name))
}

fn request(
    message: &Message,
    source: SocketAddr,
    said: &[Message],
    heard: &[Heard],
) -> Result<(), String> {
    top_via(message, source)?;
    if let Some(invite) = own_invite(message, heard)? {
        return of_invite(message, invite);
    }
    let vias = message.values("Via");
    // RFC 3261 §16.6: as somebody sent it, plus a Via for each server that it went through.
    let cause = said.iter().rev().find(|other| {
        other.is_request()
            && other.method() == message.method()
            && other.call_id() == message.call_id()
            && other.first("CSeq") == message.first("CSeq")
            && behind(&vias, &other.values("Via"))
    });
    let Some(cause) = cause else {
        return Err("nobody sent a request that this could be a copy of".to_owned());
    };
    let hops = vias.len().saturating_sub(cause.values("Via").len());
    let number = |m: &Message| {
        m.first("Max-Forwards")
            .and_then(|v| v.parse::<usize>().ok())
    };
    let wanted = number(cause).map_or(Some(70), |sent| sent.checked_sub(hops));
    if hops == 0 || number(message) != wanted {
        return Err(format!(
            "{hops} servers were on its way, but Max-Forwards went from {:?} to {:?}",
            cause.first("Max-Forwards"),
            message.first("Max-Forwards")
        ));
    }
    untouched(cause, message, &CHANGED)
}

pub(super) fn top_via(message: &Message, source: SocketAddr) -> Result<(), String> {
    let vias = message.values("Via");
    let top = vias.first().cloned().unwrap_or_default();
    if !top.starts_with(&format!("SIP/2.0/UDP {source};"))
        || !message.branch().starts_with("z9hG4bK")
    {
        return Err(format!("its top Via is not the server's ({source}): {top}"));
    }
    Ok(())
}

/// The INVITE that a CANCEL, or the ACK to a failure, belongs to.
pub(super) fn own_invite<'h>(
    message: &Message,
    heard: &'h [Heard],
) -> Result<Option<&'h Message>, String> {
    let invite = heard.iter().rev().find(|other| {
        !other.sent
            && other.message.start.starts_with("INVITE ")
            && other.message.branch() == message.branch()
    });
    match (message.method(), invite) {
        ("CANCEL", None) => {
            Err("it cancels no INVITE that came here (its branch is none's)".to_owned())
        }
        ("CANCEL" | "ACK", Some(invite)) => Ok(Some(&invite.message)),
        _ => Ok(None),
    }
}

/// A CANCEL and the ACK to a failure are of the INVITE's transaction (RFC 3261 §9.1, §17.1.1.3).
pub(super) fn of_invite(message: &Message, invite: &Message) -> Result<(), String> {
    if message.uri() != invite.uri() {
        return Err(format!(
            "its Request-URI is not that of its INVITE, {}",
            invite.uri()
        ));
    }
    for name in ["From", "Call-ID", "Route"] {
        if message.values(name) != invite.values(name) {
            return Err(format!(
                "its {name} is not that of its INVITE: {:?}",
                invite.all(name)
            ));
        }
    }
    if message.cseq() != invite.cseq() {
        return Err(format!(
            "its CSeq number is not that of its INVITE: {}",
            invite.cseq()
        ));
    }
    let vias = message.values("Via").len();
    if vias != 1 {
        return Err(format!("it goes from hop to hop, but has {vias} Vias"));
    }
    Ok(())
}

fn response(message: &Message, said: &[Message], heard: &[Heard]) -> Result<(), String> {
    answers(message, heard)?;
    let cause = said.iter().rev().find(|other| {
        other.status() == message.status()
            && other.call_id() == message.call_id()
            && other.first("CSeq") == message.first("CSeq")
            && other.to_tag() == message.to_tag()
    });
    match cause {
        Some(cause) if (300..400).contains(&message.status()) => {
            untouched(cause, message, &[&CHANGED_BACK[..], &["Contact"]].concat())
        }
        Some(cause) => untouched(cause, message, &CHANGED_BACK),
        None => uncaused(message),
    }
}

/// A response that nobody sent has to be one that the server may make.
pub(super) fn uncaused(message: &Message) -> Result<(), String> {
    if (200..300).contains(&message.status())
        && !matches!(message.method(), "REGISTER" | "OPTIONS" | "CANCEL")
    {
        return Err("nobody sent this 2xx".to_owned());
    }
    Ok(())
}

/// It answers a request of the party that got it.
pub(super) fn answers(message: &Message, heard: &[Heard]) -> Result<(), String> {
    let request = heard
        .iter()
        .rev()
        .map(|other| &other.message)
        .find(|other| {
            other.is_request()
                && other.call_id() == message.call_id()
                && other.first("CSeq") == message.first("CSeq")
                && other.branch() == message.branch()
        });
    let Some(request) = request else {
        return Err("it answers no request of this party".to_owned());
    };
    if !behind(&message.values("Via"), &request.values("Via"))
        || message.values("Via").len() != request.values("Via").len()
    {
        return Err(format!(
            "its Vias are not those of the request: {:?}",
            request.values("Via")
        ));
    }
    if message.first("From") != request.first("From") {
        return Err(format!(
            "its From is not that of the request: {:?}",
            request.first("From")
        ));
    }
    let to = request.first("To").unwrap_or_default();
    if !message
        .first("To")
        .is_some_and(|value| value.starts_with(to))
    {
        return Err(format!(
            "its To does not begin as that of the request: {to}"
        ));
    }
    if message.status() > 100 && message.to_tag().is_none() {
        return Err("its To has no tag".to_owned());
    }
    Ok(())
}

/// Whether the last of `vias` are `others`, which may have got `received` and `rport` on their way.
fn behind(vias: &[String], others: &[String]) -> bool {
    let Some(skipped) = vias.len().checked_sub(others.len()) else {
        return false;
    };
    let key = |via: &String| {
        let sent_by = via.split(';').next().unwrap_or_default().trim().to_owned();
        (sent_by, param(via, "branch"))
    };
    vias.iter()
        .skip(skipped)
        .map(key)
        .eq(others.iter().map(key))
}

/// Everything but `changed` goes through byte for byte and in its order, body included.
fn untouched(before: &Message, after: &Message, changed: &[&str]) -> Result<(), String> {
    let rest = |m: &Message| -> Vec<(String, String)> {
        let keeps = |name: &str| !changed.iter().any(|other| other.eq_ignore_ascii_case(name));
        m.headers
            .iter()
            .filter(|(name, _)| keeps(name))
            .cloned()
            .collect()
    };
    let (sent, came) = (rest(before), rest(after));
    if let Some((name, value)) = sent.iter().find(|header| !came.contains(header)) {
        return Err(format!(
            "what a proxy may not touch is gone or changed: {name}: {value}"
        ));
    }
    if let Some((name, value)) = came.iter().find(|header| !sent.contains(header)) {
        return Err(format!("what nobody sent was added: {name}: {value}"));
    }
    if sent != came {
        return Err("its headers are in another order than they were sent in".to_owned());
    }
    if before.body != after.body {
        return Err("its body is not the one that was sent".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> SocketAddr {
        ([1, 2, 3, 4], 5).into()
    }

    fn sent() -> Message {
        Message::request("MESSAGE", "sip:b@x")
            .with("Via", "SIP/2.0/UDP a;branch=z9hG4bKa")
            .with("Max-Forwards", "70")
            .with("From", "<sip:a@x>;tag=1")
            .with("To", "<sip:b@x>")
            .with("Call-ID", "1")
            .with("CSeq", "1 MESSAGE")
            .with("X-Own", "as it is")
    }

    fn forwarded() -> Message {
        let mut m = sent();
        m.set("Max-Forwards", "69");
        m.set("Via", "SIP/2.0/UDP a;branch=z9hG4bKa;received=9.9.9.9");
        m.push_front("Via", "SIP/2.0/UDP 1.2.3.4:5;branch=z9hG4bKs");
        m
    }

    fn verdict(change: impl FnOnce(&mut Message)) -> Result<(), String> {
        let mut m = forwarded();
        change(&mut m);
        check(&m, source(), &[sent()], &[])
    }

    #[test]
    fn a_forwarded_request() {
        assert_eq!(verdict(|_| {}), Ok(()));
        let wrong: [fn(&mut Message); 7] = [
            |m| {
                m.remove("X-Own");
            },
            |m| {
                m.set("X-Own", "As it is");
            },
            |m| {
                m.push("X-New", "1");
            },
            |m| {
                m.set("Max-Forwards", "70");
            },
            |m| {
                m.set("CSeq", "2 MESSAGE");
            },
            |m| m.body = b"x".to_vec(),
            |m| {
                m.set("Content-Length", "7");
            },
        ];
        for change in wrong {
            assert!(verdict(change).is_err());
        }
    }

    #[test]
    fn a_response() {
        let heard = [Heard {
            sent: true,
            message: sent(),
        }];
        let ok = sent().response(200, "OK", "b");
        assert_eq!(
            check(&ok, source(), std::slice::from_ref(&ok), &heard),
            Ok(())
        );
        assert!(check(&ok, source(), &[], &heard).is_err(), "nobody sent it");
        assert!(
            check(&ok, source(), std::slice::from_ref(&ok), &[]).is_err(),
            "nobody asked"
        );
        let mut two_vias = ok.clone();
        two_vias.push_front("Via", "SIP/2.0/UDP 1.2.3.4:5;branch=z9hG4bKs");
        assert!(check(&two_vias, source(), &[ok], &heard).is_err());
    }
}
