//! What tokens carry.

use sip::{NameAddr, Uri};

use crate::{
    policy::{Policy, Side},
    seal::{PREFIX, Sealer},
};

const HIDDEN: u8 = 1;
const POINTER: u8 = 2;
const CONTACT: u8 = 3;
const RECORD: u8 = 4;
const ROUTES: u8 = 5;
const VIA: u8 = 6;

/// Whether a text may be a token of ours: worth to be opened.
pub fn may_be(text: &[u8]) -> bool {
    text.starts_with(PREFIX)
}

/// A Call-ID of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallId {
    /// The caller's, as the callee knows the call.
    Hidden(Vec<u8>),
    /// Exactly this, for whom it is written: a call that a third party was told of.
    Pointer(Vec<u8>),
}

impl CallId {
    pub fn open(sealer: &Sealer, text: &[u8]) -> Option<Self> {
        if !may_be(text) {
            return None;
        }
        let plain = sealer.open(text)?;
        match plain.split_first()? {
            (&HIDDEN, id) => Some(Self::Hidden(id.to_vec())),
            (&POINTER, id) => Some(Self::Pointer(id.to_vec())),
            _ => None,
        }
    }

    /// What the callee knows a call as whose caller has named it `call_id`, by the key with this id. `None`: it is too long.
    pub fn hidden(sealer: &Sealer, key: u8, call_id: &[u8]) -> Option<Vec<u8>> {
        Self::write(sealer, key, HIDDEN, call_id)
    }

    /// A name for a third party, that stands for exactly this one.
    pub fn pointer(sealer: &Sealer, call_id: &[u8]) -> Option<Vec<u8>> {
        Self::write(sealer, sealer.id(), POINTER, call_id)
    }

    fn write(sealer: &Sealer, key: u8, kind: u8, call_id: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        // Each of ours wraps another one; a call that comes by again and again ends here.
        let plain = [&[kind], call_id].concat();
        (call_id.len() <= CALL_ID_MAX && sealer.seal_by(key, &plain, &mut out)).then_some(out)
    }

    /// What was sealed at first, whatever number of times.
    pub fn innermost(sealer: &Sealer, text: &[u8]) -> Option<Vec<u8>> {
        let mut found = None;
        let mut text = text.to_vec();
        while let Some(Self::Hidden(inner) | Self::Pointer(inner)) = Self::open(sealer, &text) {
            text.clone_from(&inner);
            found = Some(inner);
        }
        found
    }
}

/// Longest Call-ID that is sealed.
const CALL_ID_MAX: usize = 1024;

/// A URI of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// In the place of a Contact.
    Contact {
        /// Whose it is.
        side: Side,
        policy: Policy,
        uri: Vec<u8>,
        /// The way there, as the value of a Route header, where the contact is not within a dialog.
        routes: Vec<u8>,
    },
    /// In the place of a Contact that is in the call's record.
    Record {
        side: Side,
        policy: Policy,
        /// Names the record.
        place: u64,
    },
    /// In the place of Record-Route values, or Service-Route.
    Routes(Routes),
}

/// One side's part of a Route set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    /// Whose it is: who is reached by it.
    pub side: Side,
    pub policy: Policy,
    /// The URI of this side in From or To, as it is known there; empty: as the other side knows it.
    pub own: Vec<u8>,
    /// The URI of the other side, as it is known on this side.
    pub peer: Vec<u8>,
    /// How many of the routes, at their beginning, are our own.
    pub ours: u8,
    /// The value of a Route header.
    pub routes: Vec<u8>,
}

impl Target {
    /// Reads a URI; `None` if it is not one of ours.
    pub fn of(sealer: &Sealer, uri: &Uri<'_>) -> Option<Self> {
        let user = uri.user.filter(|user| may_be(user))?;
        let plain = sealer.open(user)?;
        let mut from = Reader(&plain);
        let kind = from.byte()?;
        let side = Side::decode(from.byte()?)?;
        let policy = Policy::decode(u16::from_be_bytes(from.array()?));
        Some(match kind {
            CONTACT => Self::Contact {
                side,
                policy,
                uri: from.text()?,
                routes: from.0.to_vec(),
            },
            RECORD => Self::Record {
                side,
                policy,
                place: u64::from_be_bytes(from.array()?),
            },
            ROUTES => Self::Routes(Routes {
                side,
                policy,
                own: from.text()?,
                peer: from.text()?,
                ours: from.byte()?,
                routes: from.0.to_vec(),
            }),
            _ => return None,
        })
    }

    /// Reads one value of a header that lists addresses.
    pub fn of_value(sealer: &Sealer, value: &[u8]) -> Option<Self> {
        Self::of(sealer, &NameAddr::parse(value).ok()?.uri)
    }

    /// The user part; `None`: it is too long.
    pub fn seal(&self, sealer: &Sealer) -> Option<Vec<u8>> {
        let mut plain = Vec::new();
        match self {
            Self::Contact {
                side,
                policy,
                uri,
                routes,
            } => {
                begin(CONTACT, *side, *policy, &mut plain);
                text(uri, &mut plain)?;
                plain.extend_from_slice(routes);
            }
            Self::Record {
                side,
                policy,
                place,
            } => {
                begin(RECORD, *side, *policy, &mut plain);
                plain.extend_from_slice(&place.to_be_bytes());
            }
            Self::Routes(routes) => {
                begin(ROUTES, routes.side, routes.policy, &mut plain);
                text(&routes.own, &mut plain)?;
                text(&routes.peer, &mut plain)?;
                plain.push(routes.ours);
                plain.extend_from_slice(&routes.routes);
            }
        }
        let mut out = Vec::new();
        sealer.seal(&plain, &mut out).then_some(out)
    }
}

/// What our Via carries: how a response goes on if nobody remembers the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViaToken {
    /// Whom the request went to.
    pub towards: Side,
    pub policy: Policy,
    /// It was not within a dialog.
    pub initial: bool,
    /// The URIs of From and To as the sender wrote them; empty: as the response has them.
    pub from: Vec<u8>,
    pub to: Vec<u8>,
    /// The Vias below ours.
    pub vias: Vec<u8>,
}

impl ViaToken {
    pub fn open(sealer: &Sealer, token: &[u8]) -> Option<Self> {
        let plain = sealer.open(token)?;
        let mut from = Reader(&plain);
        if from.byte()? != VIA {
            return None;
        }
        Some(Self {
            towards: Side::decode(from.byte()?)?,
            policy: Policy::decode(u16::from_be_bytes(from.array()?)),
            initial: from.byte()? != 0,
            from: from.text()?,
            to: from.text()?,
            vias: from.0.to_vec(),
        })
    }

    /// The topmost of the Vias.
    pub fn first_via(&self) -> &[u8] {
        crate::hide::split_list(&self.vias)
            .next()
            .unwrap_or_default()
    }

    /// Appends the token; false, and nothing was done, if it is too long.
    pub fn seal(&self, sealer: &Sealer, out: &mut Vec<u8>) -> bool {
        let mut plain = Vec::new();
        begin(VIA, self.towards, self.policy, &mut plain);
        plain.push(u8::from(self.initial));
        let texts = text(&self.from, &mut plain).and_then(|()| text(&self.to, &mut plain));
        plain.extend_from_slice(&self.vias);
        texts.is_some() && sealer.seal(&plain, out)
    }
}

fn begin(kind: u8, side: Side, policy: Policy, plain: &mut Vec<u8>) {
    plain.extend_from_slice(&[kind, side as u8]);
    plain.extend_from_slice(&policy.encode().to_be_bytes());
}

fn text(text: &[u8], plain: &mut Vec<u8>) -> Option<()> {
    let bytes = u16::try_from(text.len()).ok()?;
    plain.extend_from_slice(&bytes.to_be_bytes());
    plain.extend_from_slice(text);
    Some(())
}

struct Reader<'r>(&'r [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn text(&mut self) -> Option<Vec<u8>> {
        let bytes = u16::from_be_bytes(self.array()?);
        let (text, rest) = self.0.split_at_checked(usize::from(bytes))?;
        self.0 = rest;
        Some(text.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{policy::Mode, seal::SealKey};

    #[test]
    fn what_is_sealed_comes_back() {
        let sealer = Sealer::new(SealKey::of_secret(b"k"), []);
        let policy = Policy {
            mode: Mode::Stateless,
            agents: true,
            ..Policy::default()
        };
        let targets = [
            Target::Contact {
                side: Side::Callee,
                policy,
                uri: b"sip:bob@192.0.2.4:5070;x=y".to_vec(),
                routes: Vec::new(),
            },
            Target::Record {
                side: Side::Caller,
                policy: Policy::default(),
                place: 0x1234_5678_9abc_def0,
            },
            Target::Routes(Routes {
                side: Side::Caller,
                policy,
                own: b"sip:alice@a".to_vec(),
                peer: Vec::new(),
                ours: 1,
                routes: b"<sip:p1;lr>, <sip:p2;lr>".to_vec(),
            }),
        ];
        for target in targets {
            let user = target.seal(&sealer).unwrap();
            let text = [b"sip:", &user[..], b"@192.0.2.1:5060;lr"].concat();
            let uri = Uri::parse(&text).unwrap();
            assert_eq!(Target::of(&sealer, &uri), Some(target));
            assert_eq!(CallId::open(&sealer, &user), None);
        }
        let via = ViaToken {
            towards: Side::Callee,
            policy,
            initial: true,
            from: b"sip:a@b".to_vec(),
            to: Vec::new(),
            vias: b"SIP/2.0/UDP a;branch=z9hG4bKx".to_vec(),
        };
        let mut token = Vec::new();
        assert!(via.seal(&sealer, &mut token));
        assert_eq!(ViaToken::open(&sealer, &token), Some(via));
    }

    #[test]
    fn call_ids_wrap_and_unwrap() {
        let sealer = Sealer::new(SealKey::of_secret(b"k"), []);
        let first = CallId::hidden(&sealer, 0, b"x@a").unwrap();
        let second = CallId::pointer(&sealer, &first).unwrap();
        assert_eq!(
            CallId::open(&sealer, &second),
            Some(CallId::Pointer(first.clone()))
        );
        assert_eq!(
            CallId::innermost(&sealer, &second).as_deref(),
            Some(&b"x@a"[..])
        );
        assert_eq!(CallId::innermost(&sealer, b"x@a"), None);
        // A loop ends.
        let mut call_id = b"x@a".to_vec();
        let wraps = std::iter::from_fn(|| {
            call_id = CallId::hidden(&sealer, 0, &call_id)?;
            Some(())
        });
        assert!((5..100).contains(&wraps.count()));
    }
}
