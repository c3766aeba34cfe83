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
    out.extend(number.iter().filter(|b| !is_visual_separator(**b)).map(u8::to_ascii_lowercase));
}
