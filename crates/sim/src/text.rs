//! Messages as people out there read and write them: text, with no help of the `sip` crate, so that a mistake in it cannot hide itself.

use std::{fmt::Write as _, net::SocketAddr};

use md5::{Digest as _, Md5};

/// A message, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Text<'t> {
    pub(crate) whole: &'t str,
    pub(crate) line: &'t str,
    lines: Vec<(&'t str, &'t str)>,
    pub(crate) body: &'t str,
}

impl<'t> Text<'t> {
    pub(crate) fn read(bytes: &'t [u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let line = lines.next()?;
        let lines = lines
            .map(|line| {
                let (name, value) = line.split_once(':')?;
                Some((name, value.trim()))
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Self {
            whole: text,
            line,
            lines,
            body,
        })
    }

    /// The values of all headers of this name, as lines.
    pub(crate) fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'t str> + 's {
        self.lines
            .iter()
            .filter(move |(other, _)| other.eq_ignore_ascii_case(name))
            .map(|&(_, value)| value)
    }

    /// The values of all headers of this name, those in one line apart.
    pub(crate) fn values(&self, name: &str) -> Vec<&'t str> {
        self.all(name).flat_map(apart).collect()
    }

    /// The first header of this name, or nothing.
    pub(crate) fn header(&self, name: &str) -> &'t str {
        self.lines
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map_or("", |&(_, value)| value)
    }

    /// Headers that a proxy has no business with.
    pub(crate) fn foreign(&self) -> impl Iterator<Item = (&'t str, &'t str)> + '_ {
        const OURS: [&str; 9] = [
            "via",
            "route",
            "record-route",
            "max-forwards",
            "max-breadth",
            "proxy-authorization",
            "www-authenticate",
            "proxy-authenticate",
            "authorization",
        ];
        self.lines
            .iter()
            .copied()
            .filter(|(name, _)| !OURS.iter().any(|ours| ours.eq_ignore_ascii_case(name)))
    }

    /// The status code of a response.
    pub(crate) fn code(&self) -> Option<u16> {
        self.line.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }

    /// The Request-URI of a request.
    pub(crate) fn uri(&self) -> &'t str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// The method of a request, and that of the request that a response is for.
    pub(crate) fn method(&self) -> &'t str {
        match self.code() {
            Some(_) => self.cseq().1,
            None => self.line.split(' ').next().unwrap_or_default(),
        }
    }

    pub(crate) fn cseq(&self) -> (u32, &'t str) {
        self.header("CSeq")
            .split_once(' ')
            .and_then(|(number, method)| Some((number.parse().ok()?, method.trim())))
            .unwrap_or_default()
    }

    pub(crate) fn call_id(&self) -> &'t str {
        self.header("Call-ID")
    }

    /// The branch of the top Via.
    pub(crate) fn branch(&self) -> &'t str {
        self.all("Via")
            .next()
            .and_then(|line| apart(line).next())
            .and_then(|via| param(via, "branch"))
            .unwrap_or_default()
    }

    pub(crate) fn to_tag(&self) -> &'t str {
        param(self.header("To"), "tag").unwrap_or_default()
    }

    pub(crate) fn tag_of_from(&self) -> &'t str {
        param(self.header("From"), "tag").unwrap_or_default()
    }

    /// Line and where to, for a ladder.
    pub(crate) fn summary(&self) -> String {
        let line = match self.code() {
            Some(code) => format!("{code} {}", self.method()),
            None => self.line.trim_end_matches(" SIP/2.0").to_owned(),
        };
        format!(
            "{line}  {} {} {}",
            self.call_id(),
            self.cseq().0,
            short(self.branch())
        )
    }
}

/// The end of a branch, enough to tell it from others.
pub(crate) fn short(branch: &str) -> &str {
    branch
        .get(branch.len().saturating_sub(6)..)
        .unwrap_or(branch)
}

/// Values between commas.
fn apart(line: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut deep) = (false, false);
    line.split(move |c| {
        match c {
            '"' => quoted = !quoted,
            '<' if !quoted => deep = true,
            '>' if !quoted => deep = false,
            _ => {}
        }
        c == ',' && !quoted && !deep
    })
    .map(str::trim)
}

/// A parameter of a header's value, outside of its URI.
pub(crate) fn param<'v>(value: &'v str, name: &str) -> Option<&'v str> {
    let rest = value.rsplit_once('>').map_or(value, |(_, rest)| rest);
    rest.split(';').skip(1).find_map(|param| {
        let (key, value) = param.split_once('=').unwrap_or((param, ""));
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The URI of a header's value.
pub(crate) fn uri_of(value: &str) -> &str {
    value
        .split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'))
        .map_or(value, |(uri, _)| uri)
}

/// The address that a URI names, if it names one.
pub(crate) fn address_of(uri: &str) -> Option<SocketAddr> {
    let rest = uri.strip_prefix("sip:")?;
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let host = rest.split([';', '?']).next()?;
    host.parse()
        .or_else(|_| host.parse().map(|ip| SocketAddr::new(ip, 5060)))
        .ok()
}

/// A message of these lines, and perhaps a body.
pub(crate) fn message(lines: &[String], body: &str) -> String {
    let mut text = String::with_capacity(512);
    for line in lines {
        text.push_str(line);
        text.push_str("\r\n");
    }
    let _ = write!(text, "Content-Length: {}\r\n\r\n{body}", body.len());
    text
}

/// The lines of a response to a request, as a user agent server makes it (RFC 3261 §8.2.6).
pub(crate) fn response(request: &Text<'_>, code: u16, tag: &str, more: &[String]) -> String {
    let mut lines = vec![format!("SIP/2.0 {code} {}", phrase(code))];
    lines.extend(request.all("Via").map(|via| format!("Via: {via}")));
    if (101..300).contains(&code) {
        lines.extend(
            request
                .all("Record-Route")
                .map(|route| format!("Record-Route: {route}")),
        );
    }
    let to = request.header("To");
    let tag = if request.to_tag().is_empty() && code != 100 {
        format!(";tag={tag}")
    } else {
        String::new()
    };
    lines.extend([
        format!("From: {}", request.header("From")),
        format!("To: {to}{tag}"),
        format!("Call-ID: {}", request.call_id()),
        format!("CSeq: {}", request.header("CSeq")),
    ]);
    lines.extend(more.iter().cloned());
    message(&lines, "")
}

fn phrase(code: u16) -> &'static str {
    match code {
        100 => "Trying",
        180 => "Ringing",
        183 => "Session Progress",
        200 => "OK",
        302 => "Moved Temporarily",
        404 => "Not Found",
        481 => "Call/Transaction Does Not Exist",
        486 => "Busy Here",
        487 => "Request Terminated",
        503 => "Service Unavailable",
        603 => "Decline",
        _ => "Whatever",
    }
}

/// Digest credentials for a challenge, MD5 with qop=auth (RFC 7616 §3.4).
pub(crate) fn credentials(
    challenge: &str,
    user: &str,
    password: &str,
    method: &str,
    uri: &str,
) -> Option<String> {
    let of = |key: &str| {
        let rest = &challenge[challenge.find(&format!("{key}=\""))? + key.len() + 2..];
        Some(rest[..rest.find('"')?].to_owned())
    };
    let (realm, nonce) = (of("realm")?, of("nonce")?);
    let a1 = md5(&format!("{user}:{realm}:{password}"));
    let a2 = md5(&format!("{method}:{uri}"));
    let response = md5(&format!("{a1}:{nonce}:00000001:cn:auth:{a2}"));
    Some(format!(
        "Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
         response=\"{response}\", algorithm=MD5, cnonce=\"cn\", qop=auth, nc=00000001"
    ))
}

fn md5(text: &str) -> String {
    Md5::digest(text.as_bytes())
        .iter()
        .fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_message() {
        let text = Text::read(
            b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1, SIP/2.0/UDP b;branch=z9hG4bK2\r\n\
              To: <sip:b@c;tag=no>;tag=yes\r\nCSeq: 7 INVITE\r\n\r\nx",
        )
        .unwrap();
        assert_eq!(text.values("via").len(), 2);
        assert_eq!((text.branch(), text.to_tag()), ("z9hG4bK1", "yes"));
        assert_eq!((text.code(), text.cseq()), (Some(200), (7, "INVITE")));
        assert_eq!(
            address_of("sip:a@10.0.0.1:5070;lr"),
            "10.0.0.1:5070".parse().ok()
        );
        assert_eq!(address_of("sip:10.0.0.1"), "10.0.0.1:5060".parse().ok());
        assert_eq!(uri_of("<sip:a@b>;x"), "sip:a@b");
    }
}
