//! A record as a line.

use std::fmt::Write as _;
use std::time::Duration;

use stdx::{Instant, Moment};
use tables::cdr::Cdr;

macro_rules! fields {
    ($($variant:ident $name:literal $description:literal,)*) => {
        /// A field of a line.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Field { $(#[doc = $description] $variant,)* }

        impl Field {
            /// All of them, in the order in which they are written if nothing else is asked for.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As in the first line of a CSV file, in JSON, and in the configuration.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it tells.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $description,)* }
            }

            /// The field with this name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|field| field.name() == name)
            }
        }
    };
}

fields! {
    Id "id" "the call's id, which `tandem calls` shows too; no two records have the same",
    CallId "call_id" "Call-ID, as the caller sent it",
    CallerTag "caller_tag" "tag in From",
    CalleeTag "callee_tag" "tag in To; empty if nobody answered",
    From "from" "URI in From",
    To "to" "URI in To",
    RequestUri "request_uri" "Request-URI, as the INVITE came",
    Domain "domain" "our domain that the call was routed by",
    Source "source" "address and port that the INVITE came from",
    Target "target" "address and port where it was answered; of a call that nobody answered, where it was sent last; empty if nowhere",
    Destination "destination" "group and destination that answered the call, or was tried last; empty if that is of no group",
    Start "start" "when the INVITE came, UTC",
    Answer "answer" "when the first 2xx came, UTC; empty if none did",
    End "end" "when it was over, UTC",
    Duration "duration" "seconds from answer to end; 0 without an answer",
    Cause "cause" "why it was over",
    Code "code" "the final response to a call that was not answered; 0 for one that was",
}

/// The same moment on two clocks: on the one that calls are timed by, which nobody sets, and on the wall.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub now: Instant,
    /// Since 1970.
    pub unix: Duration,
}

impl Clock {
    /// RFC 3339, in UTC, with milliseconds.
    fn utc(&self, at: Moment) -> String {
        let now = Moment::from(self.now);
        let ago = now.saturating_duration_since(at);
        let ahead = at.saturating_duration_since(now);
        let at = (self.unix + ahead).saturating_sub(ago);
        utc(at.as_millis() as u64)
    }
}

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// RFC 4180, with a first line that names the fields. Lines end with LF.
    #[default]
    Csv,
    /// An object in each line.
    Json,
}

/// Format and fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    format: Format,
    fields: Vec<Field>,
}

impl Form {
    /// These fields in this order; the id comes first, whether it is among them or not. None at all means all.
    pub fn new(format: Format, fields: &[Field]) -> Self {
        let asked = if fields.is_empty() {
            Field::ALL
        } else {
            fields
        };
        let mut fields = vec![Field::Id];
        for field in asked {
            if !fields.contains(field) {
                fields.push(*field);
            }
        }
        Self { format, fields }
    }

    /// What a file begins with; nothing, if lines explain themselves.
    pub fn head(&self) -> String {
        let mut head = String::new();
        if self.format == Format::Csv {
            for (nth, field) in self.fields.iter().enumerate() {
                head.push_str(if nth == 0 { "" } else { "," });
                head.push_str(field.name());
            }
            head.push('\n');
        }
        head
    }

    /// Whether a file whose first bytes are these goes on with lines of this form.
    pub fn continues(&self, first: &[u8]) -> bool {
        match self.format {
            Format::Csv => first.starts_with(self.head().as_bytes()),
            Format::Json => first.first().is_none_or(|byte| *byte == b'{'),
        }
    }

    /// Appends the line of a record.
    pub fn write(&self, cdr: &Cdr, clock: &Clock, out: &mut String) {
        if self.format == Format::Json {
            out.push('{');
        }
        for (nth, field) in self.fields.iter().enumerate() {
            if nth > 0 {
                out.push(',');
            }
            if self.format == Format::Json {
                // Writing to a String does not fail, here and below.
                let _ = write!(out, "\"{}\":", field.name());
            }
            self.value(*field, cdr, clock, out);
        }
        out.push_str(match self.format {
            Format::Csv => "\n",
            Format::Json => "}\n",
        });
    }

    fn value(&self, field: Field, cdr: &Cdr, clock: &Clock, out: &mut String) {
        match field {
            Field::Id => self.text(cdr.id.to_string().as_bytes(), out),
            Field::CallId => self.text(&cdr.call_id, out),
            Field::CallerTag => self.text(&cdr.caller_tag, out),
            Field::CalleeTag => self.text(&cdr.callee_tag, out),
            Field::From => self.text(&cdr.caller_uri, out),
            Field::To => self.text(&cdr.callee_uri, out),
            Field::RequestUri => self.text(&cdr.request_uri, out),
            Field::Domain => self.text(&cdr.domain, out),
            Field::Source => self.perhaps(cdr.source.map(|at| at.to_string()), out),
            Field::Target => self.perhaps(cdr.target.map(|at| at.to_string()), out),
            Field::Destination => self.text(&cdr.destination, out),
            Field::Start => self.text(clock.utc(cdr.start_at).as_bytes(), out),
            Field::Answer => self.perhaps(cdr.answer_at.map(|at| clock.utc(at)), out),
            Field::End => self.text(clock.utc(cdr.end_at).as_bytes(), out),
            Field::Duration => {
                let duration = cdr.duration();
                let _ = write!(
                    out,
                    "{}.{:03}",
                    duration.as_secs(),
                    duration.subsec_millis()
                );
            }
            Field::Cause => self.text(cdr.cause.name().as_bytes(), out),
            Field::Code => {
                let _ = write!(out, "{}", cdr.code);
            }
        }
    }

    fn perhaps(&self, text: Option<String>, out: &mut String) {
        match (text, self.format) {
            (Some(text), _) => self.text(text.as_bytes(), out),
            (None, Format::Csv) => {}
            (None, Format::Json) => out.push_str("null"),
        }
    }

    /// What is no UTF-8, and in CSV what is no character that can be seen, becomes U+FFFD.
    fn text(&self, bytes: &[u8], out: &mut String) {
        let text = String::from_utf8_lossy(bytes);
        match self.format {
            Format::Json => {
                out.push('"');
                for c in text.chars() {
                    match c {
                        '"' => out.push_str("\\\""),
                        '\\' => out.push_str("\\\\"),
                        c if is_line_end_or_control(c) => {
                            let _ = write!(out, "\\u{:04x}", u32::from(c));
                        }
                        c => out.push(c),
                    }
                }
                out.push('"');
            }
            Format::Csv => {
                let quoted = text.contains([',', '"', ' ']);
                out.push_str(if quoted { "\"" } else { "" });
                for c in text.chars() {
                    match c {
                        '"' => out.push_str("\"\""),
                        c if is_line_end_or_control(c) => out.push(char::REPLACEMENT_CHARACTER),
                        c => out.push(c),
                    }
                }
                out.push_str(if quoted { "\"" } else { "" });
            }
        }
    }
}

/// C0, DEL, C1 and the two line ends of Unicode: all below U+10000.
fn is_line_end_or_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// RFC 3339, in UTC, with milliseconds.
fn utc(unix_ms: u64) -> String {
    let (s, ms) = (unix_ms / 1000, unix_ms % 1000);
    let (year, month, day) = date(s / 86_400);
    let (h, m, s) = (s / 3600 % 24, s / 60 % 60, s % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
}

/// The date so many days after 1970-01-01, in the Gregorian calendar: whole 400, 100, 4 and single years from 0000-03-01 on, whose leap days come last.
pub(crate) fn date(days: u64) -> (u64, u64, u64) {
    const TO_1970: u64 = 719_468;
    let days = days + TO_1970;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let dom = day - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year + month / 10;
    (year, (month + 2) % 12 + 1, dom)
}

#[cfg(test)]
pub(crate) mod tests {
    use expect_test::expect;
    use tables::cdr::CdrId;
    use tables::dialog::EndCause;

    use super::*;

    pub(crate) fn cdr() -> Cdr {
        Cdr {
            id: CdrId {
                dialog: [0xab; 16],
                fork: 0,
            },
            call_id: b"a84b4c76e66710".to_vec(),
            caller_tag: b"1928301774".to_vec(),
            callee_tag: b"a6c85cf".to_vec(),
            caller_uri: b"sip:alice@example.com".to_vec(),
            callee_uri: b"sip:bob@example.com".to_vec(),
            request_uri: b"sip:bob@example.com;user=phone,1".to_vec(),
            domain: b"example.com".to_vec(),
            destination: b"sip:192.0.2.7:5060".to_vec(),
            source: Some("192.0.2.1:5060".parse().unwrap()),
            target: Some("[2001:db8::7]:5060".parse().unwrap()),
            start_at: Moment::from_nanos(5_000_000_000),
            answer_at: Some(Moment::from_nanos(8_250_000_000)),
            end_at: Moment::from_nanos(70_251_000_000),
            cause: EndCause::Callee,
            code: 0,
            flags: 0,
        }
    }

    /// A minute after the end.
    pub(crate) const CLOCK: Clock = Clock {
        now: Instant::from_nanos(130_251_000_000),
        unix: Duration::from_millis(1_795_400_225_251),
    };

    fn line(form: &Form, cdr: &Cdr) -> String {
        let mut out = String::new();
        form.write(cdr, &CLOCK, &mut out);
        out
    }

    #[test]
    fn a_call_in_both_formats() {
        let csv = Form::new(Format::Csv, &[]);
        expect![[r#"
            id,call_id,caller_tag,callee_tag,from,to,request_uri,domain,source,target,destination,start,answer,end,duration,cause,code
            abababababababababababababababab,a84b4c76e66710,1928301774,a6c85cf,sip:alice@example.com,sip:bob@example.com,"sip:bob@example.com;user=phone,1",example.com,192.0.2.1:5060,[2001:db8::7]:5060,sip:192.0.2.7:5060,2026-11-23T02:15:00.000Z,2026-11-23T02:15:03.250Z,2026-11-23T02:16:05.251Z,62.001,callee,0
        "#]]
        .assert_eq(&(csv.head() + &line(&csv, &cdr())));
        let json = Form::new(Format::Json, &[]);
        expect![[r#"
            {"id":"abababababababababababababababab","call_id":"a84b4c76e66710","caller_tag":"1928301774","callee_tag":"a6c85cf","from":"sip:alice@example.com","to":"sip:bob@example.com","request_uri":"sip:bob@example.com;user=phone,1","domain":"example.com","source":"192.0.2.1:5060","target":"[2001:db8::7]:5060","destination":"sip:192.0.2.7:5060","start":"2026-11-23T02:15:00.000Z","answer":"2026-11-23T02:15:03.250Z","end":"2026-11-23T02:16:05.251Z","duration":62.001,"cause":"callee","code":0}
        "#]]
        .assert_eq(&(json.head() + &line(&json, &cdr())));
    }

    /// The clock began anew while its record waited, or while the call was up.
    #[test]
    fn a_call_of_before_the_boot() {
        let hour = |at: Moment| at.shifted(-3_600_000_000_000);
        let fields = [Field::Start, Field::Answer, Field::End, Field::Duration];
        let csv = Form::new(Format::Csv, &fields);
        let mut cdr = cdr();
        cdr.start_at = hour(cdr.start_at);
        cdr.answer_at = cdr.answer_at.map(hour);
        let up = line(&csv, &cdr);
        cdr.end_at = hour(cdr.end_at);
        expect![[r#"
            id,start,answer,end,duration
            abababababababababababababababab,2026-11-23T01:15:00.000Z,2026-11-23T01:15:03.250Z,2026-11-23T02:16:05.251Z,3662.001
            abababababababababababababababab,2026-11-23T01:15:00.000Z,2026-11-23T01:15:03.250Z,2026-11-23T01:16:05.251Z,62.001
        "#]]
        .assert_eq(&(csv.head() + &up + &line(&csv, &cdr)));
        cdr.start_at = Moment::from_nanos(i64::MIN);
        cdr.end_at = Moment::from_nanos(i64::MAX);
        assert!(line(&csv, &cdr).contains(",1970-01-01T00:00:00.000Z,"));
    }

    #[test]
    fn a_call_that_nobody_answered() {
        let mut cdr = cdr();
        (cdr.answer_at, cdr.target) = (None, None);
        (cdr.cause, cdr.code) = (EndCause::Failed, 486);
        let fields = [
            Field::Answer,
            Field::Target,
            Field::Duration,
            Field::Cause,
            Field::Code,
        ];
        let csv = Form::new(Format::Csv, &fields);
        expect![[r#"
            id,answer,target,duration,cause,code
            abababababababababababababababab,,,0.000,failed,486
        "#]]
        .assert_eq(&(csv.head() + &line(&csv, &cdr)));
        let json = Form::new(Format::Json, &fields);
        expect![[r#"
            {"id":"abababababababababababababababab","answer":null,"target":null,"duration":0.000,"cause":"failed","code":486}
        "#]]
        .assert_eq(&line(&json, &cdr));
    }

    #[test]
    fn whatever_a_stranger_sends_stays_in_its_field() {
        let mut cdr = cdr();
        cdr.call_id = b"a\r\nb,\"c\\ \x00\xff\xc2\x85\xe2\x80\xa8d".to_vec();
        let csv = Form::new(Format::Csv, &[Field::CallId]);
        expect![[r#"
            abababababababababababababababab,"a��b,""c\ ����d"
        "#]]
        .assert_eq(&line(&csv, &cdr));
        let text = line(&Form::new(Format::Json, &[Field::CallId]), &cdr);
        assert_eq!(text.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["call_id"], "a\r\nb,\"c\\ \0\u{fffd}\u{85}\u{2028}d");
    }

    #[test]
    fn a_file_goes_on_only_in_the_form_that_it_has() {
        let all = Form::new(Format::Csv, &[]);
        let few = Form::new(Format::Csv, &[Field::From]);
        let json = Form::new(Format::Json, &[]);
        assert!(all.continues(all.head().as_bytes()) && json.continues(b"{\"id\""));
        assert!(json.continues(b""));
        assert!(!all.continues(few.head().as_bytes()) && !all.continues(b"{"));
        assert!(!json.continues(all.head().as_bytes()) && !few.continues(b"id,from"));
    }

    #[test]
    fn names_lead_to_fields_and_back() {
        for field in Field::ALL {
            assert_eq!(Field::named(field.name()), Some(*field));
            assert!(!field.description().is_empty());
        }
        assert_eq!(Field::named("what"), None);
        let twice = Form::new(Format::Csv, &[Field::Code, Field::Id, Field::Code]);
        assert_eq!(twice.head(), "id,code\n");
    }

    #[test]
    fn the_book_has_every_field_and_every_cause() {
        let book = include_str!("../../../docs/cdr.md");
        for field in Field::ALL {
            let line = format!("| `{}` | {}", field.name(), field.description());
            assert!(book.contains(&line), "{line}");
        }
        for cause in EndCause::ALL {
            assert!(book.contains(&format!("`{}`", cause.name())), "{cause:?}");
        }
    }

    #[test]
    fn dates() {
        let of = |days| date(days);
        assert_eq!(of(0), (1970, 1, 1));
        assert_eq!(of(11_016), (2000, 2, 29));
        assert_eq!(of(11_017), (2000, 3, 1));
        assert_eq!(of(20_780), (2026, 11, 23));
        assert_eq!(of(47_540), (2100, 2, 28));
        assert_eq!(of(47_541), (2100, 3, 1));
        // Every day follows the one before it.
        let mut last = of(0);
        for days in 1..60_000 {
            let next = of(days);
            assert!(
                next > last && next.0 - last.0 <= 1 && (1..=12).contains(&next.1),
                "{days}"
            );
            assert!(next.2 == last.2 + 1 || next.2 == 1);
            last = next;
        }
    }
}
