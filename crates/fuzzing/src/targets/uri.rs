//! URIs: written and read again, compared, as addresses-of-record. A line feed divides two of them.

use sip::uri::{Aor, Uri, equivalent};

pub(crate) fn run(bytes: &[u8]) {
    let (one, other) = match bytes.iter().position(|b| *b == b'\n') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, bytes),
    };
    let (one, other) = (Uri::parse(one), Uri::parse(other));
    for uri in [one, other].into_iter().flatten() {
        alone(&uri);
    }
    if let (Ok(one), Ok(other)) = (one, other) {
        let same = equivalent(&one, &other);
        assert_eq!(same, equivalent(&other, &one), "symmetric");
        let (mut a, mut b) = (Vec::new(), Vec::new());
        if let (true, Ok(a), Ok(b)) = (same, Aor::of(&one, &mut a), Aor::of(&other, &mut b)) {
            assert_eq!(a, b, "what is equivalent has one address-of-record");
        }
    }
}

fn alone(uri: &Uri<'_>) {
    assert!(
        uri.text.iter().all(u8::is_ascii_graphic),
        "nothing that could end a line or a word"
    );
    assert!(equivalent(uri, uri), "reflexive");
    let mut out = Vec::new();
    uri.write(&mut out);
    let again = Uri::parse(&out).expect("a URI that was written");
    assert!(equivalent(&again, uri));
    for param in uri.params() {
        assert!(uri.param(param.name).is_some());
    }
    assert_eq!(uri.headers.is_empty(), uri.headers.iter().next().is_none());
    let _ = (uri.lr(), uri.transport(), uri.is_phone(), uri.telephone());
    let mut buffer = Vec::new();
    if let Ok(aor) = Aor::of(uri, &mut buffer) {
        let text = aor.as_bytes().to_vec();
        let again = Uri::parse(&text).expect("an address-of-record is a URI");
        let mut twice = Vec::new();
        assert_eq!(
            Aor::of(&again, &mut twice).map(|a| a.as_bytes().to_vec()),
            Ok(text)
        );
    }
}
