//! SIP messages as the tests see them: text, headers in order, nothing clever. Independent of the
//! server's own parser on purpose.

use std::fmt::Write as _;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub start: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    pub fn new(start: impl Into<String>) -> Self {
        Self {
            start: start.into(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// A request without any header.
    pub fn request(method: &str, uri: &str) -> Self {
        Self::new(format!("{method} {uri} SIP/2.0"))
    }

    /// Parses one datagram; `None` when it is not a SIP message.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let split = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(bytes.get(..split)?).into_owned();
        let body = bytes.get(split + 4..)?.to_vec();
        let mut lines: Vec<String> = Vec::new();
        for line in head.split("\r\n") {
            match (line.starts_with([' ', '\t']), lines.last_mut()) {
                (true, Some(last)) => {
                    last.push(' ');
                    last.push_str(line.trim());
                }
                _ => lines.push(line.to_owned()),
            }
        }
        let mut lines = lines.into_iter();
        let start = lines.next().filter(|s| s.contains("SIP/2.0"))?;
        let headers = lines
            .map(|l| {
                l.split_once(':')
                    .map(|(n, v)| (n.trim().to_owned(), v.trim().to_owned()))
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Self {
            start,
            headers,
            body,
        })
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.start);
        for (name, value) in &self.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        if self.first("Content-Length").is_none() {
            let _ = write!(text, "Content-Length: {}\r\n", self.body.len());
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    pub fn is_request(&self) -> bool {
        !self.start.starts_with("SIP/2.0 ")
    }

    /// The method of a request, or of a response's CSeq.
    pub fn method(&self) -> &str {
        if self.is_request() {
            self.start.split(' ').next().unwrap_or("")
        } else {
            self.first("CSeq")
                .and_then(|v| v.split_whitespace().nth(1))
                .unwrap_or("")
        }
    }

    pub fn uri(&self) -> &str {
        if self.is_request() {
            self.start.split(' ').nth(1).unwrap_or("")
        } else {
            ""
        }
    }

    /// The status code; 0 for a request.
    pub fn status(&self) -> u16 {
        if self.is_request() {
            return 0;
        }
        self.start
            .split(' ')
            .nth(1)
            .and_then(|c| c.parse().ok())
            .unwrap_or(0)
    }

    pub fn first(&self, name: &str) -> Option<&str> {
        self.all(name).into_iter().next()
    }

    /// All header lines of that name, in order; compact forms are the same name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(n, _)| same_name(n, name))
            .map(|(_, v)| v.as_str())
            .collect()
    }

    /// All values of that name, lines split at commas outside quotes and angle brackets.
    pub fn values(&self, name: &str) -> Vec<String> {
        self.all(name).into_iter().flat_map(split_commas).collect()
    }

    pub fn call_id(&self) -> &str {
        self.first("Call-ID").unwrap_or("")
    }

    pub fn cseq(&self) -> u32 {
        self.first("CSeq")
            .and_then(|v| v.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    }

    pub fn branch(&self) -> String {
        self.values("Via")
            .first()
            .and_then(|v| param(v, "branch"))
            .unwrap_or_default()
    }

    pub fn from_tag(&self) -> Option<String> {
        param(self.first("From")?, "tag")
    }

    pub fn to_tag(&self) -> Option<String> {
        param(self.first("To")?, "tag")
    }

    /// The URI in the first Contact.
    pub fn contact_uri(&self) -> Option<String> {
        self.values("Contact").first().map(|v| uri_of(v))
    }

    pub fn push(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn push_front(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.headers.insert(0, (name.to_owned(), value.into()));
        self
    }

    /// The header, added or builder-style.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.push(name, value);
        self
    }

    /// Replaces all headers of that name by one, at the place of the first.
    pub fn set(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        let at = self.headers.iter().position(|(n, _)| same_name(n, name));
        self.remove(name);
        let at = at.unwrap_or(self.headers.len()).min(self.headers.len());
        self.headers.insert(at, (name.to_owned(), value.into()));
        self
    }

    pub fn remove(&mut self, name: &str) -> &mut Self {
        self.headers.retain(|(n, _)| !same_name(n, name));
        self
    }

    /// A response to this request as a UAS writes it (RFC 3261 §8.2.6.2): Via, From, To, Call-ID, CSeq
    /// and Record-Route are copied; `to_tag` is added when To has none.
    pub fn response(&self, code: u16, reason: &str, to_tag: &str) -> Self {
        let mut r = Self::new(format!("SIP/2.0 {code} {reason}"));
        for (name, value) in &self.headers {
            if ["Via", "Record-Route", "From", "Call-ID", "CSeq"]
                .iter()
                .any(|n| same_name(name, n))
            {
                r.push(name, value.clone());
            } else if same_name(name, "To") {
                let tagged = param(value, "tag").is_some() || to_tag.is_empty();
                r.push(
                    name,
                    if tagged {
                        value.clone()
                    } else {
                        format!("{value};tag={to_tag}")
                    },
                );
            }
        }
        r
    }
}

/// `name` parameter of a header value, outside its angle brackets.
pub fn param(value: &str, name: &str) -> Option<String> {
    let outside = value.rfind('>').map_or(value, |i| &value[i + 1..]);
    outside
        .split(';')
        .skip(usize::from(!value.contains('>')))
        .find_map(|p| {
            let (n, v) = p.split_once('=').unwrap_or((p, ""));
            n.trim()
                .eq_ignore_ascii_case(name)
                .then(|| v.trim().to_owned())
        })
}

/// The URI of a name-addr or addr-spec.
pub fn uri_of(value: &str) -> String {
    match (value.find('<'), value.find('>')) {
        (Some(open), Some(close)) if open < close => value[open + 1..close].to_owned(),
        _ => value.split(';').next().unwrap_or("").trim().to_owned(),
    }
}

fn split_commas(line: &str) -> Vec<String> {
    let (mut out, mut quoted, mut angle, mut escaped) = (vec![String::new()], false, false, false);
    for c in line.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '<' if !quoted => angle = true,
            '>' if !quoted => angle = false,
            ',' if !quoted && !angle => {
                out.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = out.last_mut() {
            last.push(c);
        }
    }
    out.into_iter().map(|v| v.trim().to_owned()).collect()
}

fn same_name(a: &str, b: &str) -> bool {
    full_name(a).eq_ignore_ascii_case(full_name(b))
}

fn full_name(name: &str) -> &str {
    match name {
        "v" | "V" => "Via",
        "f" | "F" => "From",
        "t" | "T" => "To",
        "i" | "I" => "Call-ID",
        "m" | "M" => "Contact",
        "l" | "L" => "Content-Length",
        "c" | "C" => "Content-Type",
        "k" | "K" => "Supported",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVITE: &[u8] = b"INVITE sip:b@x SIP/2.0\r\nv: SIP/2.0/UDP h;branch=z9hG4bK1,SIP/2.0/UDP i;branch=z9hG4bK2\r\n\
        From: \"A, B\" <sip:a@x>;tag=1\r\nTo:\r\n <sip:b@x>\r\nCall-ID: c\r\nCSeq: 7 INVITE\r\n\
        Contact: <sip:a@h;x=1>;q=0.5\r\n\r\nbody";

    #[test]
    fn reads_what_it_needs() {
        let m = Message::parse(INVITE).expect("parses");
        assert_eq!(
            (m.method(), m.uri(), m.cseq(), m.status()),
            ("INVITE", "sip:b@x", 7, 0)
        );
        assert_eq!(m.branch(), "z9hG4bK1");
        assert_eq!(m.values("Via").len(), 2);
        assert_eq!(m.values("From").len(), 1);
        assert_eq!(m.from_tag().as_deref(), Some("1"));
        assert_eq!(m.to_tag(), None);
        assert_eq!(m.contact_uri().as_deref(), Some("sip:a@h;x=1"));
        assert_eq!(m.first("to"), Some("<sip:b@x>"));
        assert_eq!(m.body, b"body");
        assert_eq!(Message::parse(b"noise\r\n\r\n"), None);
    }

    #[test]
    fn answers_copy_what_they_must() {
        let m = Message::parse(INVITE).expect("parses");
        let r = m.response(180, "Ringing", "t");
        assert_eq!(
            (r.status(), r.method(), r.to_tag().as_deref()),
            (180, "INVITE", Some("t"))
        );
        assert_eq!(r.values("Via").len(), 2);
        assert!(r.first("Contact").is_none());
        let again = Message::parse(&r.to_bytes()).expect("round trip");
        assert_eq!(again.start, r.start);
        assert_eq!(again.first("Content-Length"), Some("0"));
    }

    #[test]
    fn parameters_outside_the_brackets() {
        assert_eq!(
            param("<sip:a;tag=no>;tag=yes", "tag").as_deref(),
            Some("yes")
        );
        assert_eq!(param("sip:a;tag=yes", "tag").as_deref(), Some("yes"));
        assert_eq!(
            param("SIP/2.0/UDP h;rport;branch=b", "rport").as_deref(),
            Some("")
        );
        assert_eq!(param("<sip:a;tag=no>", "tag"), None);
    }

    #[test]
    fn set_keeps_the_place() {
        let mut m = Message::parse(INVITE).expect("parses");
        m.set("From", "<sip:z@x>");
        assert_eq!(
            m.headers.get(1).map(|(n, v)| (n.as_str(), v.as_str())),
            Some(("From", "<sip:z@x>"))
        );
        m.set("New", "1");
        assert_eq!(m.first("new"), Some("1"));
    }
}
