//! Each typed header: what is read is written, read again and the same. The first byte says which.

use sip::header::{numbers, quote, unquote};
use sip::uri::{Host, equivalent};
use sip::{CSeq, Challenge, HeaderName, Method, NameAddr, Params, Q, SentBy, Via};

pub(crate) fn run(bytes: &[u8]) {
    let Some((which, text)) = bytes.split_first() else {
        return;
    };
    match which % 10 {
        0 => via(text),
        1 => address(text),
        2 => cseq(text),
        3 => challenge(text),
        4 => credentials(text),
        5 => params(text),
        6 => some_numbers(text),
        7 => names(text),
        8 => sent_by(text),
        _ => quoted(text),
    }
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn via(text: &[u8]) {
    let Ok(via) = Via::parse(text) else { return };
    let out = written(|out| via.write(out));
    let again = Via::parse(&out).expect("a Via that was written");
    assert_eq!((again.sent_by, again.branch()), (via.sent_by, via.branch()));
    assert_eq!(
        (again.received(), again.rport()),
        (via.received(), via.rport())
    );
    assert_eq!((again.maddr(), again.ttl()), (via.maddr(), via.ttl()));
    assert_eq!(again.is_sip_2_0(), via.is_sip_2_0());
    assert!(via.end.0 as usize <= text.len() && via.sent_by_span.end <= via.end.0);
    assert!(!via.has_magic_cookie() || via.branch().is_some());
}

fn address(text: &[u8]) {
    let Ok(address) = NameAddr::parse(text) else {
        return;
    };
    let out = written(|out| address.write(out));
    let again = NameAddr::parse(&out).expect("an address that was written");
    assert!(equivalent(&again.uri, &address.uri) && again.tag() == address.tag());
    assert_eq!(
        (again.q(), again.expires()),
        (address.q(), address.expires())
    );
    assert_eq!(
        (again.instance(), again.reg_id()),
        (address.instance(), address.reg_id())
    );
    assert_eq!(
        written(|out| again.write_display(out)),
        written(|out| address.write_display(out))
    );
    assert_eq!(address.uri_span.slice(text), address.uri.text);
    assert!(address.end.0 as usize <= text.len());
}

fn cseq(text: &[u8]) {
    let Ok(cseq) = CSeq::parse(text) else { return };
    let out = written(|out| cseq.write(out));
    assert_eq!(CSeq::parse(&out), Ok(cseq));
}

fn challenge(text: &[u8]) {
    let Ok(challenge) = Challenge::parse(text) else {
        return;
    };
    for param in challenge {
        assert!(
            challenge
                .find(param.name)
                .is_some_and(|p| p.raw == param.raw)
        );
        let _ = written(|out| param.unquote(out));
    }
}

fn credentials(text: &[u8]) {
    match auth::Credentials::parse(text) {
        Ok(credentials) => {
            let secret = auth::ha1(credentials.algorithm, b"bob", b"example.com", b"secret");
            let _ = auth::verify(&credentials, b"REGISTER", b"", Some(&secret));
            assert!(
                !auth::verify(&credentials, b"REGISTER", b"", None),
                "nobody is proved"
            );
        }
        Err(error) => {
            let _ = error.verdict();
        }
    }
}

fn params(text: &[u8]) {
    let Ok(params) = Params::parse(text) else {
        return;
    };
    for param in params.iter() {
        assert!(params.find(param.name).is_some());
        let _ = param.unquoted();
    }
    assert_eq!(params.is_empty(), params.iter().next().is_none());
}

fn some_numbers(text: &[u8]) {
    let number = numbers::number(text);
    assert!(number.is_err() || sip::header::trim(text).iter().all(u8::is_ascii_digit));
    let _ = (
        numbers::delta_seconds(text),
        numbers::max_forwards(text),
        numbers::ttl(text),
        numbers::content_length(text),
    );
    let _ = numbers::port(text).map(|port| assert_ne!(port, 0));
    if let Ok(q) = Q::parse(text) {
        assert!(q.thousandths() <= 1000);
        assert_eq!(Q::parse(&written(|out| q.write(out))), Ok(q));
        assert_eq!(Q::from_thousandths(q.thousandths()), Some(q));
    }
}

fn names(text: &[u8]) {
    let name = HeaderName::of(text);
    if name != HeaderName::Other {
        assert_eq!(HeaderName::of(name.as_str().as_bytes()), name);
        let compact = name.compact().map(|c| HeaderName::of(&[c]));
        assert!(compact.is_none_or(|c| c == name));
    }
    let method = Method::of(text);
    if method != Method::Other {
        assert_eq!(method.as_str().as_bytes(), text);
    }
}

fn sent_by(text: &[u8]) {
    if let Ok(sent_by) = SentBy::parse(text) {
        let out = written(|out| sent_by.write(out));
        let again = SentBy::parse(&out).expect("a sent-by that was written");
        assert!(again.is_same(&sent_by));
    }
    if let Ok(host) = Host::parse(text) {
        let out = written(|out| host.write_canonical(out));
        assert!(
            Host::parse(&out)
                .expect("a host that was written")
                .is_same(&host)
        );
        let _ = host.address();
    }
}

fn quoted(text: &[u8]) {
    // A line end cannot be quoted; whoever quotes has checked the text.
    if text.iter().any(|b| matches!(b, b'\r' | b'\n')) {
        let _ = written(|out| unquote(text, out));
        return;
    }
    let out = written(|out| quote(text, out));
    assert_eq!(written(|unquoted| unquote(&out, unquoted)), text);
}
