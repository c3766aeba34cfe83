//! A proxy as small as it can be: Via and Record-Route as RFC 3261 has them, and hiding around that.

use std::net::{IpAddr, Ipv4Addr};

use sip::{HeaderName, Host, Layout, Message, Via};

use crate::{
    Answer, Contacts, Hide, Known, Leg, Mode, Origin, Policy, SealKey, Sealer, Sent, Side, Tokens,
    leak, restore, via_token,
};

pub struct Border {
    pub sealer: Sealer,
    pub policy: Policy,
    /// Responses find their way by our Via alone.
    pub by_via: bool,
    branches: std::cell::Cell<u32>,
}

/// What the border calls itself towards the caller and towards the callee.
pub const OWN: [&str; 2] = ["198.51.100.1:5060", "203.0.113.1:5062"];
pub const DOMAIN: &str = "example.com";

pub fn own(side: Side) -> &'static str {
    match side {
        Side::Caller => OWN[0],
        Side::Callee => OWN[1],
    }
}

pub fn is_open(host: &Host<'_>) -> bool {
    matches!(host, Host::Name(name) if name.eq_ignore_ascii_case(DOMAIN.as_bytes()))
}

/// The marks of a side, as its messages of [`agent`] have them.
pub fn marks(side: &str) -> Vec<String> {
    let own = match side {
        "a" => ["10.77.1.1", "10.77.1.2", "10.77.1.3", "10.77.1.9"],
        _ => ["10.88.1.1", "10.88.1.2", "10.88.1.3", "10.88.1.9"],
    };
    let port = |n: u32| match side {
        "a" => (37_000 + n).to_string(),
        _ => (48_000 + n).to_string(),
    };
    own.iter()
        .map(|ip| (*ip).to_owned())
        .chain([
            format!("{side}.inside.net"),
            format!("branch{side}"),
            format!("callid{side}"),
            port(1),
            port(2),
        ])
        .collect()
}

/// What went to a side, and the request as the sender wrote it.
pub struct Passed {
    pub text: String,
    pub raw: String,
    pub towards: Side,
    pub initial: bool,
}

impl Border {
    pub fn new(mode: Mode) -> Self {
        Self {
            sealer: Sealer::new(SealKey::of_secret(b"test"), []),
            policy: Policy {
                mode,
                ..Policy::default()
            },
            by_via: mode == Mode::Stateless,
            branches: std::cell::Cell::new(0),
        }
    }

    pub fn hide<R>(&self, towards: Side, policy: Policy, work: impl FnOnce(&Hide<'_>) -> R) -> R {
        work(&Hide {
            sealer: &self.sealer,
            policy,
            towards,
            own: own(towards).as_bytes(),
            identity: own(towards).as_bytes(),
            is_open: &is_open,
            known: &|_, _, _| Known::No,
        })
    }

    /// Passes a request on.
    pub fn request(&self, raw: &str) -> Passed {
        let mut layout = Layout::new();
        let message = sip::parse(raw.as_bytes(), &mut layout).expect("a request");
        let initial = message.to().expect("a To").tag().is_none();
        let tokens = Tokens::of(&self.sealer, &message);
        let leg = tokens.map(|tokens| match tokens {
            Tokens::Whole(leg) => leg,
            Tokens::Record { .. } => panic!("no records here"),
        });
        let (towards, policy) = match &leg {
            Some(leg) if !initial => (leg.side, leg.policy),
            _ => (Side::Callee, self.policy),
        };
        let normal = match &leg {
            Some(leg) => self.restored(&message, leg),
            None => raw.to_owned(),
        };
        let copied = self.copied(&normal, initial);
        let mut copy_layout = Layout::new();
        let copied = sip::parse(copied.as_bytes(), &mut copy_layout).expect("a copy");
        let sent = Sent {
            raw: &message,
            initial,
            own: false,
            contacts: Contacts::Tokens,
            via: self.by_via,
            source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        let mut out = Vec::new();
        self.hide(towards, policy, |hide| {
            hide.request(&copied, &sent, &mut out).expect("hidden");
        });
        let text = String::from_utf8(out).expect("text");
        whole(&text);
        Passed {
            text,
            raw: raw.to_owned(),
            towards,
            initial,
        }
    }

    fn restored(&self, message: &Message<'_>, leg: &Leg) -> String {
        let mut out = Vec::new();
        restore(&self.sealer, message, leg, &mut out);
        let text = String::from_utf8(out).expect("text");
        whole(&text);
        text
    }

    /// Our Via, our Record-Route; our Route taken off.
    fn copied(&self, normal: &str, initial: bool) -> String {
        let branch = self.branches.get() + 1;
        self.branches.set(branch);
        let (line, rest) = normal.split_once("\r\n").expect("lines");
        let mut text = format!(
            "{line}\r\nVia: SIP/2.0/UDP {};branch=z9hG4bKours{branch}\r\n",
            OWN[1]
        );
        let forms = ["INVITE ", "SUBSCRIBE ", "REFER "];
        if initial && forms.iter().any(|method| line.starts_with(method)) {
            text += "Record-Route: <sip:198.51.100.1:5060;lr;td=seal>\r\n";
        }
        let ours = "Route: <sip:198.51.100.1:5060;lr;td=seal>";
        text += &rest
            .replace(&format!("{ours}, "), "Route: ")
            .replace(&format!("{ours}\r\n"), "");
        text
    }

    /// Passes a response back to the sender of the request.
    pub fn response(&self, request: &Passed, raw: &str) -> String {
        let mut layout = Layout::new();
        let message = sip::parse(raw.as_bytes(), &mut layout).expect("a response");
        let mut request_layout = Layout::new();
        let original = sip::parse(request.raw.as_bytes(), &mut request_layout).expect("a request");
        let token = message
            .first_value(HeaderName::Via)
            .and_then(|via| Via::parse(via.value).ok())
            .and_then(|via| via_token(&self.sealer, &via));
        assert_eq!(token.is_some(), self.by_via);
        let origin = match &token {
            Some(token) => Origin::Token(token),
            None => Origin::Request {
                message: &original,
                top_via: None,
            },
        };
        let answer = Answer {
            origin,
            contacts: Contacts::Tokens,
            own_routes: b"",
            source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        let mut out = Vec::new();
        let back = match request.initial {
            true => Side::Caller,
            false => request.towards.other(),
        };
        self.hide(back, self.policy, |hide| {
            hide.response(&message, &answer, &mut out).expect("hidden");
        });
        let text = String::from_utf8(out).expect("text");
        whole(&text);
        text
    }
}

/// Fails unless the text is one message whose Content-Length is right.
pub fn whole(text: &str) {
    let mut layout = Layout::new();
    let message =
        sip::parse(text.as_bytes(), &mut layout).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let length = message.content_length().expect("a number");
    assert_eq!(
        length.map(|n| n as usize),
        Some(message.body().len()),
        "{text}"
    );
    assert!(message.glitches().is_empty(), "{text}");
}

/// The value of the first header of this name.
pub fn value(text: &str, name: HeaderName) -> String {
    values(text, name).into_iter().next().unwrap_or_default()
}

pub fn values(text: &str, name: HeaderName) -> Vec<String> {
    let mut layout = Layout::new();
    let message = sip::parse(text.as_bytes(), &mut layout).expect("a message");
    message
        .values(name)
        .map(|value| String::from_utf8(value.value.to_vec()).expect("text"))
        .collect()
}

#[track_caller]
pub fn assert_clean(text: &str, of: &str) {
    let leaks = leak::find(text.as_bytes(), &marks(of));
    assert!(leaks.is_empty(), "{leaks:?} in\n{text}");
}
