//! Where a message points to something else: Refer-To, Replaces, Join, Target-Dialog, In-Reply-To.
//!
//! A party names a call by the Call-ID that it knows itself: the caller by its own, the callee by the sealed one. Whoever is pointed to knows the other one. A third
//! party that is to pass the name on (Refer-To with Replaces) gets a pointer: a token of exactly what the one in the end knows.

use sip::{HeaderName, NameAddr, Scheme, Uri, message::unfold};

use crate::{
    hide::{Hide, Known},
    inventory::{Treatment, treatment},
    marks::Marks,
    names::{escape_header, unescaped},
    policy::Side,
    token::{CallId, Target},
};

/// Parameters of a header that names a dialog.
const PARAMS: [&[u8]; 5] = [
    b"to-tag",
    b"from-tag",
    b"local-tag",
    b"remote-tag",
    b"early-only",
];

impl Hide<'_> {
    /// The name of a call for the one that is pointed to. `None`: it has none that can be told.
    pub(crate) fn pointed(
        &self,
        call_id: &[u8],
        to_tag: &[u8],
        from_tag: &[u8],
    ) -> Option<Vec<u8>> {
        match CallId::open(self.sealer, call_id) {
            // The sender is the callee, or was told of it.
            Some(CallId::Hidden(own) | CallId::Pointer(own)) => Some(own),
            None => match (self.known)(call_id, to_tag, from_tag) {
                Known::Plain
                | Known::Hidden {
                    pointed: Side::Caller,
                    ..
                } => Some(call_id.to_vec()),
                Known::No => CallId::hidden(self.sealer, self.policy.key, call_id),
                Known::Hidden {
                    pointed: Side::Callee,
                    key,
                } => CallId::hidden(self.sealer, key, call_id),
            },
        }
    }

    /// Writes `call-id;to-tag=..;from-tag=..` (RFC 3891 §6.1, RFC 3911, RFC 4538) with the Call-ID that `name` makes of it. False: nothing was written.
    fn dialog_by(
        &self,
        value: &[u8],
        name: impl FnOnce(&[u8], &[u8], &[u8]) -> Option<Vec<u8>>,
        out: &mut Vec<u8>,
    ) -> bool {
        let mut flat = Vec::new();
        unfold(value, &mut flat);
        let mut parts = flat.split(|b| *b == b';').map(<[u8]>::trim_ascii);
        let call_id = parts.next().unwrap_or_default();
        let tag = |wanted: &[u8]| {
            flat.split(|b| *b == b';').skip(1).find_map(|part| {
                let (name, value) = part.split_at_checked(part.iter().position(|b| *b == b'=')?)?;
                name.trim_ascii()
                    .eq_ignore_ascii_case(wanted)
                    .then(|| value.get(1..).unwrap_or_default().trim_ascii())
            })
        };
        // Target-Dialog has the tags of its own ends (RFC 4538 §7).
        let to_tag = tag(b"to-tag").or_else(|| tag(b"remote-tag"));
        let from_tag = tag(b"from-tag").or_else(|| tag(b"local-tag"));
        let named = name(
            call_id,
            to_tag.unwrap_or_default(),
            from_tag.unwrap_or_default(),
        );
        let Some(named) = named.filter(|_| !call_id.is_empty()) else {
            return false;
        };
        out.extend_from_slice(&named);
        for part in parts {
            let name = part.split(|b| *b == b'=').next().unwrap_or_default();
            if PARAMS
                .iter()
                .any(|known| name.trim_ascii().eq_ignore_ascii_case(known))
            {
                out.push(b';');
                out.extend_from_slice(part);
            }
        }
        true
    }

    /// Writes a Replaces, Join or Target-Dialog for who is pointed to.
    pub(crate) fn dialog(&self, value: &[u8], out: &mut Vec<u8>) -> bool {
        self.dialog_by(value, |id, to, from| self.pointed(id, to, from), out)
    }

    /// The same for who is to pass it on.
    fn dialog_to_tell(&self, value: &[u8], out: &mut Vec<u8>) -> bool {
        let name = |id: &[u8], to: &[u8], from: &[u8]| {
            CallId::pointer(self.sealer, &self.pointed(id, to, from)?)
        };
        self.dialog_by(value, name, out)
    }

    /// Writes In-Reply-To (§20.21).
    pub(crate) fn calls(&self, value: &[u8], out: &mut Vec<u8>) {
        let known = value
            .split(|b| *b == b',')
            .filter_map(|id| self.pointed(id.trim_ascii(), b"", b""));
        out.extend_from_slice(&known.collect::<Vec<_>>().join(&b", "[..]));
    }

    /// Writes a Refer-To (RFC 3515 §2.1): a hidden contact is told as a token of ours, that leads there. False: nothing was written.
    pub(crate) fn refer_to(&self, value: &[u8], marks: &Marks<'_>, out: &mut Vec<u8>) -> bool {
        let Ok(address) = NameAddr::parse(value) else {
            return false;
        };
        let uri = &address.uri;
        let mut told = Vec::new();
        let is_sip = matches!(uri.scheme, Scheme::Sip | Scheme::Sips);
        if !is_sip {
            self.scan(uri.text, marks, &mut told);
        } else if Target::of(self.sealer, uri).is_some() {
            // One that we gave; it leads here from the other side too.
            told.extend_from_slice(b"sip:");
            told.extend_from_slice(uri.user.unwrap_or_default());
            told.push(b'@');
            told.extend_from_slice(self.own);
            write_method(uri, &mut told);
        } else if self.is_open(uri) {
            let end = uri.text.len().saturating_sub(uri.headers.text().len());
            told.extend_from_slice(uri.text.get(..end).unwrap_or_default());
        } else {
            let end = uri.text.len().saturating_sub(uri.headers.text().len());
            let bare = uri.text.get(..end).unwrap_or_default();
            if !self.own_uri(&self.contact(Side::Callee, bare, b""), &mut told) {
                return false;
            }
            write_method(uri, &mut told);
        }
        if is_sip {
            self.refer_headers(uri, marks, &mut told);
        }
        self.name_addr(&address, &told, marks, out);
        true
    }

    /// The headers that the new request is to have.
    fn refer_headers(&self, uri: &Uri<'_>, marks: &Marks<'_>, out: &mut Vec<u8>) {
        let mut mark = b'?';
        for header in uri.headers.iter() {
            let plain = unescaped(header.value);
            let mut told = Vec::new();
            let tells = match treatment(HeaderName::of(&unescaped(header.name))) {
                Treatment::Safe | Treatment::Signed => {
                    told.extend_from_slice(&plain);
                    true
                }
                Treatment::Scan | Treatment::Unknown => {
                    self.scan(&plain, marks, &mut told);
                    true
                }
                Treatment::Dialog => self.dialog_to_tell(&plain, &mut told),
                Treatment::Identity => {
                    self.identity(&plain, marks, &mut told);
                    true
                }
                _ => false,
            };
            if tells {
                out.push(mark);
                mark = b'&';
                out.extend_from_slice(header.name);
                out.push(b'=');
                escape_header(&told, out);
            }
        }
    }
}

fn write_method(uri: &Uri<'_>, out: &mut Vec<u8>) {
    if let Some(Some(method)) = uri.param("method") {
        out.extend_from_slice(b";method=");
        out.extend_from_slice(method);
    }
}
