//! Fragments of SIP in bodies (message/sipfrag, RFC 3420): what a NOTIFY tells of a REFER.
//!
//! Headers that lead somewhere within the sender's network lead nowhere from here, and are left out; the others are treated as in a message.

use sip::{HeaderName, NameAddr, Scheme, Uri};

use crate::{
    body::{name_and_value, split_head, unfolded_lines},
    hide::Hide,
    inventory::{Treatment, treatment},
    marks::Marks,
};

impl Hide<'_> {
    pub(crate) fn fragment(&self, text: &[u8], marks: &Marks<'_>, out: &mut Vec<u8>) {
        // A body within it is described by headers that may be missing; the headers are all that is wanted of it.
        let (head, _) = split_head(text);
        for (at, line) in unfolded_lines(head).enumerate() {
            if at == 0 && is_start(&line) {
                self.start_line(&line, marks, out);
                out.extend_from_slice(b"\r\n");
                continue;
            }
            let Some((name, value)) = name_and_value(&line) else {
                continue;
            };
            let known = HeaderName::of(name);
            let mut told = Vec::new();
            let tells = match treatment(known) {
                Treatment::Safe => {
                    told.extend_from_slice(value);
                    // There is no body any more.
                    !matches!(
                        known,
                        HeaderName::ContentType
                            | HeaderName::ContentEncoding
                            | HeaderName::ContentDisposition
                            | HeaderName::ContentLanguage
                    )
                }
                Treatment::Own => match known {
                    HeaderName::From | HeaderName::To => {
                        self.identity(value, marks, &mut told);
                        true
                    }
                    HeaderName::CallId => {
                        let named = self.pointed(value, b"", b"");
                        told.extend(named.unwrap_or_default());
                        !told.is_empty()
                    }
                    _ => false,
                },
                Treatment::Identity => {
                    self.identity(value, marks, &mut told);
                    true
                }
                Treatment::Scan => {
                    self.scan(value, marks, &mut told);
                    true
                }
                Treatment::Warning => {
                    self.warning(value, marks, &mut told);
                    !told.is_empty()
                }
                Treatment::Refer => self.refer_to(value, marks, &mut told),
                Treatment::Dialog => self.dialog(value, &mut told),
                Treatment::Unknown => self.unknown(value, marks, &mut told),
                Treatment::Agent => self.policy.agents && self.unknown(value, marks, &mut told),
                Treatment::Strip
                | Treatment::Calls
                | Treatment::Fetch
                | Treatment::ServiceRoute
                | Treatment::Signed => false,
            };
            if tells {
                out.extend_from_slice(name);
                out.extend_from_slice(b": ");
                out.extend_from_slice(&told);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    fn start_line(&self, line: &[u8], marks: &Marks<'_>, out: &mut Vec<u8>) {
        let mut parts = line.splitn(3, |b| *b == b' ');
        if let (Some(method), Some(uri), Some(version)) = (parts.next(), parts.next(), parts.next())
            && !line.starts_with(b"SIP/")
        {
            let uri = match Uri::parse(uri) {
                Ok(uri) if uri.scheme != Scheme::Other => {
                    let hidden = self.identity_uri(&uri, marks);
                    hidden.unwrap_or_else(|| uri.text.to_vec())
                }
                _ => uri.to_vec(),
            };
            out.extend_from_slice(method);
            out.push(b' ');
            self.scan(&uri, marks, out);
            out.push(b' ');
            out.extend_from_slice(version);
        } else {
            self.scan(line, marks, out);
        }
    }
}

/// Whether the first line is a start line, and no header.
fn is_start(line: &[u8]) -> bool {
    line.starts_with(b"SIP/") || line.ends_with(b"SIP/2.0") && NameAddr::parse(line).is_err()
}
