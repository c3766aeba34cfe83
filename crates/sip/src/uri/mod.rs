//! SIP, SIPS and tel URIs (RFC 3261 §19.1, RFC 3966).
//!
//! - [`Uri::parse`]: strict about structure, since a URI that one element reads otherwise than the next is a way
//!   around routing rules; the few liberties are marked `Deviation`;
//! - [`equivalent`]: the comparison of §19.1.4 and RFC 3966 §4;
//! - [`Aor`]: the canonical form under which bindings are kept (§10.3 step 5).

mod aor;
mod equivalence;
mod escape;
mod host;
mod params;

use escape::Part;

pub use aor::{AOR_MAX, Aor, AorError};
pub use equivalence::equivalent;
pub use host::{Host, HostError};
pub use params::{
    HeaderIter, ParamIter, URI_PARTS_MAX, UriHeader, UriHeaders, UriParam, UriParams,
};

use crate::header::cursor::Cursor;
use crate::header::numbers;
use crate::span::ByteAt;

/// Why a text is not a URI. Places are counted from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    #[error("no scheme at byte {0}")]
    Scheme(ByteAt),
    #[error("user part is malformed at byte {0}")]
    User(ByteAt),
    #[error("password is malformed at byte {0}")]
    Password(ByteAt),
    #[error("host at byte {0}: {1}")]
    Host(ByteAt, HostError),
    #[error("port at byte {0} is not a port")]
    Port(ByteAt),
    #[error("URI parameter is malformed at byte {0}")]
    Param(ByteAt),
    #[error("URI header is malformed at byte {0}")]
    Header(ByteAt),
    #[error("telephone number is malformed at byte {0}")]
    Number(ByteAt),
    #[error("byte {0} cannot be in a URI")]
    Char(ByteAt),
    #[error("too many URI parameters or headers at byte {0}")]
    TooMany(ByteAt),
}

/// The scheme of a URI, compared without regard to case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Sip,
    Sips,
    Tel,
    /// Any other: the URI is opaque.
    Other,
}

impl Scheme {
    /// The scheme in lower case; empty for `Other`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sip => "sip",
            Self::Sips => "sips",
            Self::Tel => "tel",
            Self::Other => "",
        }
    }

    fn of(text: &[u8]) -> Self {
        [Self::Sip, Self::Sips, Self::Tel]
            .into_iter()
            .find(|scheme| scheme.as_str().as_bytes().eq_ignore_ascii_case(text))
            .unwrap_or(Self::Other)
    }
}

/// A URI and its parts, all as written: escapes are still in place.
///
/// The parts may be replaced before [`Uri::write`]; who does so answers for what the bytes hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uri<'a> {
    pub scheme: Scheme,
    /// The user part; for `tel` the number. `None` for a URI without an `@` and for other schemes.
    pub user: Option<&'a [u8]>,
    pub password: Option<&'a [u8]>,
    /// `None` for `tel` and other schemes.
    pub host: Option<Host<'a>>,
    /// `None`: as §19.1.2 and RFC 3263 choose.
    pub port: Option<u16>,
    pub params: UriParams<'a>,
    pub headers: UriHeaders<'a>,
    /// The whole URI.
    pub text: &'a [u8],
}

impl<'a> Uri<'a> {
    /// Parses a whole URI; nothing may stand before or behind it.
    pub fn parse(text: &'a [u8]) -> Result<Self, UriError> {
        let mut cursor = Cursor::new(text);
        let scheme = match text {
            [b's' | b'S', b'i' | b'I', b'p' | b'P', b':', ..] => {
                cursor.advance(4);
                Scheme::Sip
            }
            _ => scheme_at(&mut cursor)?,
        };
        let uri = Self {
            scheme,
            user: None,
            password: None,
            host: None,
            port: None,
            params: UriParams::default(),
            headers: UriHeaders::default(),
            text,
        };
        match uri.scheme {
            Scheme::Sip | Scheme::Sips => uri.read_sip(cursor),
            Scheme::Tel => uri.read_tel(cursor),
            Scheme::Other => uri.read_other(cursor),
        }
    }

    /// `[user [":" password] "@"] host [":" port] *(";" param) ["?" headers]` (§25.1).
    fn read_sip(mut self, mut cursor: Cursor<'a>) -> Result<Self, UriError> {
        // No part but the user part may be followed by an at sign, and no part may hold one that is not escaped.
        if memchr::memchr(b'@', cursor.rest()).is_some() {
            let at = cursor.at();
            let user = cursor.take_while(|b| b != b':' && b != b'@');
            escape::check(user, at, Part::USER).map_err(UriError::User)?;
            if user.is_empty() {
                return Err(UriError::User(at));
            }
            self.user = Some(user);
            if cursor.eat(b':') {
                let at = cursor.at();
                let password = cursor.take_while(|b| b != b'@');
                escape::check(password, at, Part::PASSWORD).map_err(UriError::Password)?;
                self.password = Some(password);
            }
            cursor.eat(b'@');
        }
        let at = cursor.at();
        let start = cursor.offset();
        if cursor.peek() == Some(b'[') {
            cursor.take_while(|b| !matches!(b, b']' | b';' | b'?'));
            cursor.eat(b']');
        } else {
            cursor.take_while(|b| !matches!(b, b':' | b';' | b'?'));
        }
        let host = Host::parse(cursor.since(start)).map_err(|error| UriError::Host(at, error))?;
        self.host = Some(host);
        if cursor.eat(b':') {
            let at = cursor.at();
            let digits = cursor.take_while(|b| b.is_ascii_digit());
            self.port = Some(numbers::port(digits).map_err(|_| UriError::Port(at))?);
        }
        self.params = UriParams::read(&mut cursor)?;
        self.headers = UriHeaders::read(&mut cursor)?;
        if cursor.is_at_end() {
            Ok(self)
        } else {
            Err(UriError::Char(cursor.at()))
        }
    }

    /// `number *(";" param)` (RFC 3966 §3).
    ///
    /// Deviation: RFC 3966 §5.1.5 demands a phone-context with a local number; numbers without one are dialled daily.
    fn read_tel(mut self, mut cursor: Cursor<'a>) -> Result<Self, UriError> {
        let at = cursor.at();
        let number = cursor.take_while(|b| b != b';');
        let is_global = number.first() == Some(&b'+');
        let digits = number.strip_prefix(b"+").unwrap_or(number);
        let is_digit = |b: u8| {
            b.is_ascii_digit()
                || (!is_global && (b.is_ascii_hexdigit() || matches!(b, b'*' | b'#')))
        };
        let all_legal = digits
            .iter()
            .all(|b| is_digit(*b) || escape::is_visual_separator(*b));
        if !all_legal || !digits.iter().any(|b| is_digit(*b)) {
            return Err(UriError::Number(at));
        }
        self.user = Some(number);
        self.params = UriParams::read(&mut cursor)?;
        if cursor.is_at_end() {
            Ok(self)
        } else {
            Err(UriError::Char(cursor.at()))
        }
    }

    /// Anything visible: only its own scheme's elements know more.
    fn read_other(self, mut cursor: Cursor<'a>) -> Result<Self, UriError> {
        let rest = cursor.take_while(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>' | b'"'));
        if rest.is_empty() || !cursor.is_at_end() {
            return Err(UriError::Char(cursor.at()));
        }
        Ok(self)
    }

    /// The parameters in their order.
    pub fn params(&self) -> ParamIter<'a> {
        self.params.iter()
    }

    /// The value of a parameter; `Some(None)` if it has none.
    pub fn param(&self, name: impl AsRef<[u8]>) -> Option<Option<&'a [u8]>> {
        self.params.value(name)
    }

    /// Whether the scheme is sip or sips.
    pub fn is_sip(&self) -> bool {
        matches!(self.scheme, Scheme::Sip | Scheme::Sips)
    }

    /// The transport parameter as written; to compare it, [`UriParam::has_value`] knows escapes and case.
    pub fn transport(&self) -> Option<&'a [u8]> {
        self.param("transport")?
    }

    /// The address that overrides the host (§19.1.1).
    pub fn maddr(&self) -> Option<Host<'a>> {
        Host::parse(self.param("maddr")??).ok()
    }

    /// Whether the element is a loose router (§19.1.1).
    pub fn lr(&self) -> bool {
        self.param("lr").is_some()
    }

    /// Whether the user part is a telephone-subscriber (§19.1.1): the scheme or `user=phone` says so.
    pub fn is_phone(&self) -> bool {
        self.scheme == Scheme::Tel
            || self
                .params
                .find("user")
                .is_some_and(|kind| kind.has_value("phone"))
    }

    /// The telephone number, without the parameters that a telephone-subscriber may carry in a user part.
    pub fn telephone(&self) -> Option<&'a [u8]> {
        let user = self.user.filter(|_| self.is_phone())?;
        user.split(|b| *b == b';').next()
    }

    /// Writes the URI from its parts; one of another scheme as it was read.
    pub fn write(&self, out: &mut Vec<u8>) {
        if self.scheme == Scheme::Other {
            out.extend_from_slice(self.text);
            return;
        }
        out.extend_from_slice(self.scheme.as_str().as_bytes());
        out.push(b':');
        if let Some(user) = self.user {
            out.extend_from_slice(user);
            if let Some(password) = self.password {
                out.push(b':');
                out.extend_from_slice(password);
            }
            if self.host.is_some() {
                out.push(b'@');
            }
        }
        if let Some(host) = self.host {
            host.write(out);
        }
        if let Some(port) = self.port {
            // Writing to a Vec does not fail.
            out.push(b':');
            stdx::text::write_decimal(port.into(), out);
        }
        out.extend_from_slice(self.params.text());
        out.extend_from_slice(self.headers.text());
    }
}

/// Reads `scheme:`.
fn scheme_at(cursor: &mut Cursor<'_>) -> Result<Scheme, UriError> {
    let text = cursor.take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    let begins_well = text.first().is_some_and(u8::is_ascii_alphabetic);
    if begins_well && cursor.eat(b':') {
        Ok(Scheme::of(text))
    } else {
        Err(UriError::Scheme(cursor.at()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Aor, Host, HostError, Scheme, URI_PARTS_MAX, Uri, UriError, equivalent};
    use crate::span::ByteAt;

    fn parse(text: &[u8]) -> Uri<'_> {
        Uri::parse(text)
            .unwrap_or_else(|error| panic!("{:?}: {error}", String::from_utf8_lossy(text)))
    }

    #[test]
    fn every_part_is_found() {
        let uri = parse(
            b"sips:alice:secretword@atlanta.com:5061;transport=tcp;lr?subject=project%20x&to=",
        );
        assert_eq!(uri.scheme, Scheme::Sips);
        assert_eq!(uri.user, Some(&b"alice"[..]));
        assert_eq!(uri.password, Some(&b"secretword"[..]));
        assert_eq!(uri.host, Some(Host::Name(b"atlanta.com")));
        assert_eq!(uri.port, Some(5061));
        assert_eq!(uri.transport(), Some(&b"tcp"[..]));
        assert!(uri.lr() && uri.param("LR") == Some(None));
        let headers: Vec<_> = uri.headers.iter().map(|h| (h.name, h.value)).collect();
        assert_eq!(
            headers,
            [(&b"subject"[..], &b"project%20x"[..]), (b"to", b"")]
        );
    }

    #[test]
    fn user_parts_of_rfc_4475() {
        let uri = parse(b"sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com");
        assert_eq!(
            uri.user,
            Some(&b"1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"[..])
        );
        assert_eq!(
            uri.password,
            Some(&b"&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"[..])
        );
        assert_eq!(
            parse(b"sip:sips%3Auser%40example.com@example.net").user,
            Some(&b"sips%3Auser%40example.com"[..])
        );
        assert_eq!(
            parse(b"sip:null-%00-null@example.com").user,
            Some(&b"null-%00-null"[..])
        );
        let semicolon = parse(b"sip:user;par=u%40example.net@example.com");
        assert_eq!(semicolon.user, Some(&b"user;par=u%40example.net"[..]));
        assert!(semicolon.params.is_empty());
        let escaped = parse(b"sip:cal%6Cer@host5.example.net;%6C%72;n%61me=v%61lue%25%34%31");
        assert!(escaped.lr() && escaped.param("name").is_some());
        assert_eq!(
            parse(b"sip:vivekg@chair-dnrc.example.com;unknownparam").param("unknownparam"),
            Some(None)
        );
        assert_eq!(
            parse(b"sip:services.example.com;lr;unknownwith=value;unknown-no-value")
                .params()
                .count(),
            3
        );
    }

    #[test]
    fn hosts_of_rfc_5118() {
        let address = |text: &str| Some(Host::V6(text.parse().unwrap()));
        assert_eq!(parse(b"sip:[2001:db8::10]").host, address("2001:db8::10"));
        let port = parse(b"sip:user@[2001:db8::10]:5070;lr");
        assert_eq!(
            (port.host, port.port),
            (address("2001:db8::10"), Some(5070))
        );
        let ambiguous = parse(b"sip:[2001:db8::10:5070]");
        assert_eq!(
            (ambiguous.host, ambiguous.port),
            (address("2001:db8::10:5070"), None)
        );
        assert_eq!(
            parse(b"sip:user@[::ffff:192.0.2.10]:19823").port,
            Some(19823)
        );
        assert!(Uri::parse(b"sip:user@2001:db8::10").is_err());
    }

    #[test]
    fn telephone_numbers_live_in_two_schemes() {
        let tel = parse(b"tel:+1-201-555-0123;ext=22");
        assert_eq!(
            (tel.scheme, tel.user, tel.host),
            (Scheme::Tel, Some(&b"+1-201-555-0123"[..]), None)
        );
        assert_eq!(tel.param("ext"), Some(Some(&b"22"[..])));
        let sip = parse(b"sip:+358-555-1234567;postd=pp22@foo.com;user=phone");
        assert!(sip.is_phone());
        assert_eq!(sip.telephone(), Some(&b"+358-555-1234567"[..]));
        assert_eq!(parse(b"sip:+358@foo.com").telephone(), None);
        assert_eq!(parse(b"tel:*21#").telephone(), Some(&b"*21#"[..]));
    }

    #[test]
    fn other_schemes_are_kept() {
        for text in [
            &b"nobodyKnowsThisScheme:totallyopaquecontent"[..],
            b"soap.beep://192.0.2.103:3002",
            b"http://a/b?c#d",
        ] {
            let uri = parse(text);
            assert_eq!(
                (uri.scheme, uri.user, uri.host),
                (Scheme::Other, None, None)
            );
        }
    }

    #[test]
    fn faults_have_a_place() {
        for (text, error) in [
            (&b""[..], UriError::Scheme(ByteAt(0))),
            (b"sip", UriError::Scheme(ByteAt(3))),
            (b"1sip:a", UriError::Scheme(ByteAt(4))),
            (b" sip:a", UriError::Scheme(ByteAt(0))),
            (b"<sip:a@b>", UriError::Scheme(ByteAt(0))),
            (b"sip:", UriError::Host(ByteAt(4), HostError::Empty)),
            (b"sip:@host", UriError::User(ByteAt(4))),
            (b"sip::pw@host", UriError::User(ByteAt(4))),
            (b"sip:a@", UriError::Host(ByteAt(6), HostError::Empty)),
            (b"sip:a b@host", UriError::User(ByteAt(5))),
            (b"sip:a%4@host", UriError::User(ByteAt(5))),
            (b"sip:a\"@host", UriError::User(ByteAt(5))),
            (b"sip:a:b;@host", UriError::Password(ByteAt(7))),
            (b"sip:a@b@c", UriError::Host(ByteAt(6), HostError::Name)),
            (b"sip:a@-b", UriError::Host(ByteAt(6), HostError::Name)),
            (b"sip:a@[::1]b", UriError::Char(ByteAt(11))),
            (b"sip:a@b:", UriError::Port(ByteAt(8))),
            (b"sip:a@b:0", UriError::Port(ByteAt(8))),
            (b"sip:a@b:65536", UriError::Port(ByteAt(8))),
            (b"sip:a@b:5060x", UriError::Char(ByteAt(12))),
            (b"sip:a@b;", UriError::Param(ByteAt(8))),
            (b"sip:a@b;;lr", UriError::Param(ByteAt(8))),
            (b"sip:a@b;lr=", UriError::Param(ByteAt(11))),
            (b"sip:a@b; lr", UriError::Param(ByteAt(8))),
            (b"sip:a@b;x=\"y\"", UriError::Param(ByteAt(10))),
            (b"sip:a@b;maddr=::1", UriError::Param(ByteAt(14))),
            (b"sip:a@b;maddr", UriError::Param(ByteAt(13))),
            (b"sip:a@b?", UriError::Header(ByteAt(8))),
            (b"sip:a@b?x", UriError::Header(ByteAt(9))),
            (b"sip:a@b?x=y&", UriError::Header(ByteAt(12))),
            (b"sip:a@b?x=<y>", UriError::Header(ByteAt(10))),
            (b"sip:a@b?x=%0", UriError::Header(ByteAt(10))),
            (
                b"sip:a@b\r\nVia: x",
                UriError::Host(ByteAt(6), HostError::Name),
            ),
            (b"tel:", UriError::Number(ByteAt(4))),
            (b"tel:+", UriError::Number(ByteAt(4))),
            (b"tel:+1a", UriError::Number(ByteAt(4))),
            (b"tel:1 2", UriError::Number(ByteAt(4))),
            (b"tel:12@host", UriError::Number(ByteAt(4))),
            (b"tel:12?a=b", UriError::Number(ByteAt(4))),
            (b"urn:", UriError::Char(ByteAt(4))),
            (b"urn:a b", UriError::Char(ByteAt(5))),
        ] {
            assert_eq!(
                Uri::parse(text),
                Err(error),
                "{:?}",
                String::from_utf8_lossy(text)
            );
        }
    }

    #[test]
    fn parts_are_bounded() {
        let params = |count: usize| [b"sip:h", &b";a=b".repeat(count)[..]].concat();
        assert!(Uri::parse(&params(URI_PARTS_MAX)).is_ok());
        assert!(matches!(
            Uri::parse(&params(URI_PARTS_MAX + 1)),
            Err(UriError::TooMany(_))
        ));
        let headers = |count: usize| [b"sip:h?a=b", &b"&a=b".repeat(count - 1)[..]].concat();
        assert_eq!(
            parse(&headers(URI_PARTS_MAX)).headers.iter().count(),
            URI_PARTS_MAX
        );
        assert!(matches!(
            Uri::parse(&headers(URI_PARTS_MAX + 1)),
            Err(UriError::TooMany(_))
        ));
    }

    #[test]
    fn parts_may_be_replaced_before_printing() {
        let uri = parse(b"sip:a:pw@b:5060;lr?x=y");
        let changed = Uri {
            password: None,
            port: None,
            host: Some(Host::V6("::1".parse().unwrap())),
            ..uri
        };
        let mut out = Vec::new();
        changed.write(&mut out);
        assert_eq!(out, b"sip:a@[::1];lr?x=y");
    }

    proptest! {
        #[test]
        fn print_then_parse(
            scheme in "sips?",
            user in "|([a-zA-Z0-9&=+$,;?/#]|%[0-9A-F]{2}){1,6}(:[a-z]{0,4})?@",
            host in "[a-z]{1,5}(\\.[a-z]{1,5})?|192\\.0\\.2\\.[1-9]|\\[2001:db8::[1-9a-f]\\]",
            port in proptest::option::of(1_u16..),
            params in "(;[a-z]{1,4}(=[a-z0-9\\[\\]/:&+$=]{1,4})?){0,4}",
            headers in "|\\?[a-z]{1,3}=[a-z?:]{0,4}(&[a-z]{1,3}=)?",
        ) {
            let port = port.map_or(String::new(), |p| format!(":{p}"));
            let text = format!("{scheme}:{user}{host}{port}{params}{headers}");
            let mut printed = Vec::new();
            parse(text.as_bytes()).write(&mut printed);
            prop_assert_eq!(std::str::from_utf8(&printed), Ok(&text[..]));
        }

        #[test]
        fn no_bytes_panic(bytes in crate::header::noise::noise()) {
            for prefix in [&b""[..], b"sip:", b"sip:a@b", b"tel:1"] {
                let text = [prefix, &bytes[..]].concat();
                let Ok(uri) = Uri::parse(&text) else { continue };
                prop_assert!(text.iter().all(u8::is_ascii_graphic));
                prop_assert!(equivalent(&uri, &uri));
                let mut printed = Vec::new();
                uri.write(&mut printed);
                prop_assert!(equivalent(&Uri::parse(&printed).unwrap(), &uri));
                if let Ok(aor) = Aor::of(&uri, &mut Vec::new()) {
                    prop_assert!(Uri::parse(aor.as_bytes()).is_ok());
                }
            }
        }
    }
}
