//! Addresses-of-record in canonical form: the key of the location service.

use super::escape::{is_user_strictly, is_visual_separator, unescape, write_escaped};
use super::{Scheme, Uri};

/// Length of a canonical address-of-record.
pub const AOR_MAX: usize = 512;

/// Why a URI is not an address-of-record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AorError {
    /// Neither sip nor sips nor tel.
    #[error("an address-of-record is a sip, sips or tel URI")]
    Scheme,
    /// Longer than [`AOR_MAX`].
    #[error("address-of-record is too long")]
    TooLong,
}

/// An address-of-record in its canonical form (§10.3 step 5): two URIs that name one have the same bytes.
///
/// - sip and sips: `scheme:user@host`; no parameters, headers, password or port; escapes in the user part are
///   replaced by the characters they stand for where those may be written, and are `%HH` in upper case elsewhere; the
///   host is in lower case and without the root's dot;
/// - tel: the number without visual separators, in lower case, and the phone-context of a local number.
///
/// The port is left out because an address-of-record names a domain, not a place in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Aor<'b>(&'b [u8]);

impl<'b> Aor<'b> {
    /// Writes the canonical form of `uri` to `buffer`, which is cleared first.
    pub fn of(uri: &Uri<'_>, buffer: &'b mut Vec<u8>) -> Result<Self, AorError> {
        buffer.clear();
        // No step makes a text longer than three times the URI's, so a bounded URI makes a bounded text.
        if uri.text.len() > AOR_MAX.saturating_mul(8) {
            return Err(AorError::TooLong);
        }
        match (uri.scheme, uri.host) {
            (Scheme::Sip | Scheme::Sips, Some(host)) => {
                write_scheme(uri.scheme, buffer);
                if let Some(user) = uri.user {
                    write_user(user, buffer);
                    buffer.push(b'@');
                }
                host.write_canonical(buffer);
            }
            (Scheme::Tel, _) => {
                write_scheme(uri.scheme, buffer);
                write_number(uri, buffer);
            }
            _ => return Err(AorError::Scheme),
        }
        if buffer.len() > AOR_MAX {
            buffer.clear();
            return Err(AorError::TooLong);
        }
        Ok(Self(buffer))
    }

    /// The canonical text.
    pub fn as_bytes(&self) -> &'b [u8] {
        self.0
    }
}

fn write_scheme(scheme: Scheme, out: &mut Vec<u8>) {
    out.extend_from_slice(scheme.as_str().as_bytes());
    out.push(b':');
}

fn write_user(user: &[u8], out: &mut Vec<u8>) {
    for character in unescape(user) {
        if is_user_strictly(character.byte) {
            out.push(character.byte);
        } else {
            write_escaped(character.byte, out);
        }
    }
}

fn write_number(uri: &Uri<'_>, out: &mut Vec<u8>) {
    let number = uri.user.unwrap_or_default();
    write_digits(number, out);
    let is_global = number.first() == Some(&b'+');
    if let (false, Some(Some(context))) = (is_global, uri.param("phone-context")) {
        out.extend_from_slice(b";phone-context=");
        if context.first() == Some(&b'+') {
            write_digits(context, out);
        } else {
            out.extend(context.iter().map(u8::to_ascii_lowercase));
        }
    }
}

fn write_digits(number: &[u8], out: &mut Vec<u8>) {
    out.extend(
        number
            .iter()
            .filter(|b| !is_visual_separator(**b))
            .map(u8::to_ascii_lowercase),
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{AOR_MAX, Aor, AorError};
    use crate::uri::Uri;

    fn aor(text: &str) -> Result<String, AorError> {
        let uri = Uri::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}"));
        Aor::of(&uri, &mut Vec::new())
            .map(|aor| String::from_utf8(aor.as_bytes().to_vec()).unwrap())
    }

    #[test]
    fn the_form_is_canonical() {
        for (text, expected) in [
            ("sip:alice@Atlanta.COM", "sip:alice@atlanta.com"),
            (
                "SIP:Alice:secret@atlanta.com.:5070;transport=tcp;user=phone?subject=x",
                "sip:Alice@atlanta.com",
            ),
            ("sips:%61lice@atlanta.com", "sips:alice@atlanta.com"),
            ("sip:a%2fb%3b%40%20%00%c3@h", "sip:a/b;%40%20%00%C3@h"),
            ("sip:*72#@h", "sip:*72%23@h"),
            ("sip:*72%23@h", "sip:*72%23@h"),
            (
                "sip:user;par=u%40example.net@example.com",
                "sip:user;par=u%40example.net@example.com",
            ),
            ("sip:Example.com:5060", "sip:example.com"),
            ("sip:a@[2001:DB8:0::1]:5060", "sip:a@[2001:db8::1]"),
            ("tel:+1-(201)-555.0123;ext=7", "tel:+12015550123"),
            (
                "tel:70-4A;phone-context=Example.com",
                "tel:704a;phone-context=example.com",
            ),
            (
                "tel:7042;phone-context=+1-201",
                "tel:7042;phone-context=+1201",
            ),
        ] {
            assert_eq!(aor(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn not_every_uri_is_one() {
        assert_eq!(aor("urn:service:sos"), Err(AorError::Scheme));
        assert_eq!(
            aor(&format!("sip:{}@h", "a".repeat(AOR_MAX))),
            Err(AorError::TooLong)
        );
        assert_eq!(
            aor(&format!("sip:{}@h", "%00".repeat(AOR_MAX / 3))),
            Err(AorError::TooLong)
        );
    }

    proptest! {
        #[test]
        fn the_canonical_form_of_itself_is_itself(user in "([a-zA-Z0-9;=#*]|%[0-9a-f]{2}){1,12}", host in "[A-Za-z]{1,5}\\.?") {
            let once = aor(&format!("sip:{user}@{host}")).unwrap();
            prop_assert_eq!(aor(&once), Ok(once.clone()));
        }
    }
}
