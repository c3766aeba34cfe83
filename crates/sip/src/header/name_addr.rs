//! `name-addr / addr-spec` with header parameters: From, To, Contact, Route and their like (§20.10, §20.20).

use super::cursor::{Cursor, is_token, trim, unquote};
use super::numbers::{self, Q};
use super::params::{Params, ParamsError};
use crate::span::{ByteAt, Span};
use crate::uri::{Uri, UriError};

/// Why a text is not one address with parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameAddrError {
    /// An unclosed quoted string, or unquoted text that is not made of tokens.
    #[error("display name is malformed at byte {0}")]
    Display(ByteAt),
    /// A `<` without its `>`.
    #[error("angle bracket at byte {0} is not closed")]
    Bracket(ByteAt),
    /// The URI; the place in the error is counted from the URI's start, which is the first place.
    #[error("URI at byte {0}: {1}")]
    Uri(ByteAt, UriError),
    /// A URI with a comma or a question mark outside of angle brackets (§20).
    #[error("URI at byte {0} needs angle brackets")]
    NeedsBrackets(ByteAt),
    #[error("header parameters: {0}")]
    Params(#[from] ParamsError),
}

/// One address with its header parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// As written, quotes included; `None` if there is none. See [`NameAddr::write_display`].
    pub display: Option<&'a [u8]>,
    pub uri: Uri<'a>,
    /// Parameters of the header; those inside the angle brackets are the URI's.
    pub params: Params<'a>,
    /// Where the URI lies in the value, without angle brackets.
    pub uri_span: Span,
    /// Whether the URI is in angle brackets.
    pub bracketed: bool,
    /// Where the value ends: a patch may add `;tag=...` here.
    pub end: ByteAt,
    tag: Option<&'a [u8]>,
}

/// Whether a Contact's value is the `*` that removes all bindings (§10.2.2).
pub fn is_star(value: &[u8]) -> bool {
    trim(value) == b"*"
}

impl<'a> NameAddr<'a> {
    /// Parses one value.
    pub fn parse(value: &'a [u8]) -> Result<Self, NameAddrError> {
        let mut cursor = Cursor::new(value);
        cursor.skip_lws();
        let display = display_at(&mut cursor)?;
        let bracketed = cursor.peek() == Some(b'<');
        let uri_text = if bracketed {
            in_brackets(&mut cursor)?
        } else {
            bare(&mut cursor)?
        };
        let behind = usize::from(bracketed);
        let end = cursor.offset().saturating_sub(behind);
        let uri_span = Span::of(end.saturating_sub(uri_text.len()), end);
        let place = ByteAt(uri_span.start);
        let uri = Uri::parse(uri_text).map_err(|error| NameAddrError::Uri(place, error))?;
        let (mut end, mut tag) = (cursor.at(), None);
        let params = Params::parse_each(cursor, |param| {
            end = ByteAt(param.span.end);
            if tag.is_none() && param.is("tag") {
                tag = Some(param.value);
            }
            Ok::<_, NameAddrError>(())
        })?;
        Ok(Self {
            display,
            uri,
            params,
            uri_span,
            bracketed,
            end,
            tag: tag.flatten(),
        })
    }

    /// The value of a header parameter; `Some(None)` if it has none.
    pub fn param(&self, name: impl AsRef<[u8]>) -> Option<Option<&'a [u8]>> {
        self.params.value(name)
    }

    /// The tag of From or To (§19.3).
    pub fn tag(&self) -> Option<&'a [u8]> {
        self.tag
    }

    /// The preference of a Contact (§20.10). `None` if absent or malformed.
    pub fn q(&self) -> Option<Q> {
        Q::parse(self.param("q")??).ok()
    }

    /// The expires parameter of a Contact in seconds; a malformed one means 3600 (§20.10). `None` if absent.
    pub fn expires(&self) -> Option<u32> {
        let value = self.param("expires")?;
        Some(
            value
                .and_then(|text| numbers::delta_seconds(text).ok())
                .unwrap_or(3600),
        )
    }

    /// `+sip.instance` (RFC 5626 §4.1) without its quotes: `<urn:uuid:...>`.
    pub fn instance(&self) -> Option<&'a [u8]> {
        self.params.find("+sip.instance")?.unquoted()
    }

    /// `reg-id` (RFC 5626 §4.2): 1 to 2^31-1; `None` if absent or malformed.
    pub fn reg_id(&self) -> Option<u32> {
        let id = numbers::number(self.param("reg-id")??).ok()?;
        (id > 0 && id <= i32::MAX.unsigned_abs()).then_some(id)
    }

    /// Whether the URI says that its element is a loose router (§19.1.1).
    pub fn lr(&self) -> bool {
        self.uri.lr()
    }

    /// Writes the display name without quotes and backslashes; nothing if there is none.
    pub fn write_display(&self, out: &mut Vec<u8>) {
        unquote(self.display.unwrap_or_default(), out);
    }

    /// Writes the value, the URI in angle brackets.
    pub fn write(&self, out: &mut Vec<u8>) {
        if let Some(display) = self.display {
            out.extend_from_slice(display);
            out.push(b' ');
        }
        out.push(b'<');
        self.uri.write(out);
        out.push(b'>');
        out.extend_from_slice(self.params.text());
    }
}

/// Reads the display name, if a `<` follows it, and the white space behind it.
///
/// Deviation: §25.1 `display-name`; bytes beyond ASCII are taken as parts of tokens, because phones do not quote
/// names in UTF-8.
fn display_at<'a>(cursor: &mut Cursor<'a>) -> Result<Option<&'a [u8]>, NameAddrError> {
    let at = cursor.at();
    if cursor.peek() == Some(b'"') {
        let quoted = cursor.take_quoted().ok_or(NameAddrError::Display(at))?;
        cursor.skip_lws();
        return if cursor.peek() == Some(b'<') {
            Ok(Some(quoted))
        } else {
            Err(NameAddrError::Display(cursor.at()))
        };
    }
    if cursor.peek() == Some(b'<') {
        return Ok(None);
    }
    let mut ahead = *cursor;
    ahead.take_while(|b| !matches!(b, b'<' | b'"' | b';' | b','));
    if ahead.peek() != Some(b'<') {
        // No angle bracket before the parameters: a bare addr-spec.
        return Ok(None);
    }
    let start = cursor.offset();
    let mut end = start;
    while cursor.offset() < ahead.offset() {
        if cursor
            .take_while(|b| is_token(b) || !b.is_ascii())
            .is_empty()
        {
            return Err(NameAddrError::Display(cursor.at()));
        }
        end = cursor.offset();
        cursor.skip_lws();
    }
    let len = end.saturating_sub(start);
    let display = cursor.since(start).get(..len).unwrap_or_default();
    Ok((!display.is_empty()).then_some(display))
}

/// Reads `<URI>`.
fn in_brackets<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], NameAddrError> {
    let at = cursor.at();
    cursor.advance(1);
    let rest = cursor.rest();
    let len = memchr::memchr(b'>', rest).ok_or(NameAddrError::Bracket(at))?;
    cursor.advance(len.saturating_add(1));
    Ok(rest.get(..len).unwrap_or_default())
}

/// Reads a URI without brackets: everything from the first semicolon on belongs to the header (§20.10).
fn bare<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], NameAddrError> {
    let at = cursor.at();
    let uri = cursor.take_while(|b| b.is_ascii_graphic() && b != b';');
    if uri.iter().any(|b| matches!(b, b',' | b'?')) {
        return Err(NameAddrError::NeedsBrackets(at));
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{NameAddr, NameAddrError, is_star};
    use crate::header::{ParamsError, Q};
    use crate::span::ByteAt;
    use crate::uri::Scheme;

    fn parse(text: &[u8]) -> NameAddr<'_> {
        NameAddr::parse(text)
            .unwrap_or_else(|error| panic!("{:?}: {error}", String::from_utf8_lossy(text)))
    }

    fn display(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        parse(text).write_display(&mut out);
        out
    }

    #[test]
    fn display_names_are_quoted_or_tokens_or_absent() {
        assert_eq!(
            display(b"\"A. G. Bell\" <sip:agb@bell-telephone.com> ;tag=a48s"),
            b"A. G. Bell"
        );
        assert_eq!(
            display(b"Anonymous <sip:c8oqz84zk7z@privacy.org>;tag=hyh8"),
            b"Anonymous"
        );
        assert_eq!(display(b"\"J Rosenberg \\\\\\\"\"       <sip:jdrosen@example.com>\r\n  ;\r\n  tag = 98asjd8"), b"J Rosenberg \\\"");
        assert_eq!(
            display(b"caller<sip:caller@example.com>;tag=323"),
            b"caller"
        );
        assert_eq!(
            display(b"token1~` token2'+_ token3*%!.- <sip:mundane@example.com>"),
            b"token1~` token2'+_ token3*%!.-"
        );
        assert_eq!(display(b"\"\" <sip:a@b>"), b"");
        assert_eq!(display(b"\"a>b<;,\"<sip:a@b>"), b"a>b<;,");
        assert_eq!(parse(b"\"\" <sip:a@b>").display, Some(&b"\"\""[..]));
        assert_eq!(parse(b"<sip:a@b>").display, None);
        assert_eq!(parse(b"sip:a@b").display, None);
        assert_eq!(
            display("J\u{fc}rgen M <sip:a@b>".as_bytes()),
            "J\u{fc}rgen M".as_bytes()
        );
    }

    #[test]
    fn parameters_belong_to_whom_the_brackets_say() {
        let bare = parse(b"sip:+12125551212@server.phone2net.com;tag=887s;transport=tcp");
        assert_eq!(bare.tag(), Some(&b"887s"[..]));
        assert!(bare.uri.params.is_empty() && !bare.bracketed);
        let bracketed = parse(b"<sip:alice@atlanta.com;transport=tcp;lr>;tag=887s");
        assert_eq!(bracketed.uri.transport(), Some(&b"tcp"[..]));
        assert!(bracketed.lr() && bracketed.param("transport").is_none());
        let folded = parse(b"\r\n sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n");
        assert_eq!(folded.tag(), Some(&b"1918181833n"[..]));
    }

    #[test]
    fn contact_parameters_have_types() {
        let contact = parse(
            b"\"Mr. Watson\" <sip:watson@worcester.bell-telephone.com>;q=0.7; expires=3600;\
              +sip.instance=\"<urn:uuid:00000000-0000-1000-8000-000A95A0E128>\";reg-id=1",
        );
        assert_eq!(contact.q(), Q::from_thousandths(700));
        assert_eq!(contact.expires(), Some(3600));
        assert_eq!(
            contact.instance(),
            Some(&b"<urn:uuid:00000000-0000-1000-8000-000A95A0E128>"[..])
        );
        assert_eq!(contact.reg_id(), Some(1));
        let odd = parse(b"<sip:a@b>;q=x;expires=soon;reg-id=0");
        assert_eq!(
            (odd.q(), odd.expires(), odd.reg_id()),
            (None, Some(3600), None)
        );
        assert_eq!(
            parse(b"<sip:a@b>;expires=280297596632815").expires(),
            Some(u32::MAX)
        );
        assert_eq!(parse(b"<sip:a@b>").expires(), None);
        let quoted = parse(b"\"Quoted string \\\"\\\"\" <sip:jdrosen@example.com> ; newparam =\r\n newvalue ;\r\n  secondparam ; q = 0.33");
        assert_eq!(
            (quoted.q(), quoted.uri_span.len()),
            (Q::from_thousandths(330), 23)
        );
    }

    #[test]
    fn a_colon_is_no_token() {
        assert_eq!(
            NameAddr::parse(b"m:Q <sip:a@b>"),
            Err(NameAddrError::Display(ByteAt(1)))
        );
    }

    #[test]
    fn other_schemes_are_addresses_too() {
        assert_eq!(parse(b"isbn:2983792873;tag=1").uri.scheme, Scheme::Other);
        assert_eq!(parse(b"<http://www.example.com>").uri.scheme, Scheme::Other);
        assert_eq!(
            parse(b"<tel:+1-201-555-0123;ext=5>").uri.scheme,
            Scheme::Tel
        );
    }

    #[test]
    fn spans_say_where_to_patch() {
        let text = b" \"x\" <sip:a@b;lr> ;a=1 ;tag=z ";
        let addr = parse(text);
        assert_eq!(addr.uri_span.slice(text), b"sip:a@b;lr");
        assert_eq!(&text[addr.end.0 as usize..], b" ");
        let bare = b" sip:a@b ";
        assert_eq!(parse(bare).uri_span.slice(bare), b"sip:a@b");
        assert_eq!(parse(bare).end, ByteAt(8));
    }

    #[test]
    fn faults_have_a_place() {
        for (text, at) in [
            (&b"\"Mr. J. User <sip:j.user@example.com>"[..], 0),
            (b"\"a\"b <sip:a@b>", 3),
            (b"\"a\" sip:a@b", 4),
            (b"a(b) <sip:a@b>", 1),
        ] {
            assert_eq!(
                NameAddr::parse(text),
                Err(NameAddrError::Display(ByteAt(at))),
                "{text:?}"
            );
        }
        assert_eq!(
            NameAddr::parse(b"<sip:a@b"),
            Err(NameAddrError::Bracket(ByteAt(0)))
        );
        assert_eq!(
            NameAddr::parse(b"sip:a@b?Route=%3Csip:c%3E"),
            Err(NameAddrError::NeedsBrackets(ByteAt(0)))
        );
        assert_eq!(
            NameAddr::parse(b"sip:a,b@c"),
            Err(NameAddrError::NeedsBrackets(ByteAt(0)))
        );
        assert_eq!(
            NameAddr::parse(b"<sip:a@b>;;;;"),
            Err(NameAddrError::Params(ParamsError::Name(ByteAt(10))))
        );
        assert_eq!(
            NameAddr::parse(b"<sip:a@b>, <sip:c@d>"),
            Err(NameAddrError::Params(ParamsError::Junk(ByteAt(9))))
        );
        for text in [
            &b""[..],
            b"<>",
            b"a",
            b"< sip:a@b >",
            b"<sip:a@b\r\n >",
            b"Bell, Alexander <sip:a@b>",
            b"*",
        ] {
            assert!(NameAddr::parse(text).is_err(), "{text:?}");
        }
        assert!(is_star(b" * ") && !is_star(b"**") && !is_star(b"<sip:*@a>"));
    }

    proptest! {
        #[test]
        fn print_then_parse(
            display in "|[a-z]{1,4}( [a-z.!]{1,4})?|\"([a-z<>;, ]|\\\\\")*\"",
            uri in "sip:[a-z;=?]{1,5}@[a-z]{1,5}(:[1-9][0-9]{1,3})?(;lr)?|tel:\\+[0-9]{3}|urn:[a-z:]{1,5}",
            params in "|;tag=[a-z0-9]{1,5}|;q=0\\.[0-9];expires=[0-9]{1,5}|;x=\"[;,<> ]\"",
        ) {
            let blank = if display.is_empty() { "" } else { " " };
            let text = format!("{display}{blank}<{uri}>{params}");
            let mut printed = Vec::new();
            parse(text.as_bytes()).write(&mut printed);
            prop_assert_eq!(std::str::from_utf8(&printed), Ok(&text[..]));
        }

        #[test]
        fn no_bytes_panic(bytes in super::super::noise::noise()) {
            for text in [bytes.clone(), [b"<sip:a@b>", &bytes[..]].concat(), [b"sip:", &bytes[..]].concat()] {
                if let Ok(addr) = NameAddr::parse(&text) {
                    let mut printed = Vec::new();
                    addr.write(&mut printed);
                    let again = NameAddr::parse(&printed).unwrap();
                    prop_assert_eq!((again.uri, again.tag()), (addr.uri, addr.tag()));
                    let _ = (addr.q(), addr.expires(), addr.instance(), addr.reg_id());
                }
            }
        }
    }
}
