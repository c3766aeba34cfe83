//! What a media engine sends, and bodies that SDP is looked for in. The first byte chooses.

use std::{net::SocketAddr, time::Duration};

use ng::{
    Client, Input, Member, Outcome, Outputs, Probe, Question, Reply, Settings, bencode::Value,
};
use stdx::{Instant, hash::Key};

pub(crate) fn run(bytes: &[u8]) {
    let Some((&choice, rest)) = bytes.split_first() else {
        return;
    };
    match choice % 3 {
        0 => body(rest),
        1 => walk(rest),
        _ => answer(rest),
    }
}

/// SDP is found inside the body, and again where other SDP has taken its place. The first line is the Content-Type.
fn body(bytes: &[u8]) {
    let at = bytes.iter().position(|&byte| byte == b'\n');
    let (kind, body) = match at {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (&b"application/sdp"[..], bytes),
    };
    let Some(range) = ng::body::sdp(kind, body) else {
        return;
    };
    let new = b"v=0\r\n";
    let other = [&body[..range.start], new, &body[range.end..]].concat();
    if let Some(again) = ng::body::sdp(kind, &other) {
        assert_eq!(again.start, range.start);
    }
}

/// Everything in a value can be reached, and takes no more bytes than there are.
fn walk(bytes: &[u8]) {
    fn size(value: Value<'_>) -> usize {
        match value {
            Value::Integer(_) => 3,
            Value::Text(text) => text.len() + 2,
            Value::List(list) => 2 + list.values().map(size).sum::<usize>(),
            Value::Dictionary(dictionary) => {
                let one = |(key, value): (&[u8], Value<'_>)| key.len() + 2 + size(value);
                2 + dictionary.entries().map(one).sum::<usize>()
            }
        }
    }
    if let Ok(value) = Value::parse(bytes) {
        assert!(size(value) <= bytes.len());
    }
}

/// A question has one outcome, whatever comes in answer to it.
fn answer(bytes: &[u8]) {
    let engine = SocketAddr::from(([192, 0, 2, 1], 2223));
    let mut now = Instant::from_nanos(1_000_000_000);
    let (mut client, mut out) = (Client::new(Key([1; 16])), Outputs::default());
    let engines = vec![(engine, Probe::default())];
    client.configure(now, Settings { engines });
    let question = Question {
        members: [Member {
            address: engine,
            weight: 1,
        }]
        .into(),
        engine: None,
        may_move: true,
        seed: 1,
        command: b"d7:command5:offere".to_vec(),
        timeout: Duration::from_secs(1),
    };
    let token = 7;
    client.step(now, Input::Ask { token, question }, &mut out);
    let asked = out.sends.first().expect("a question").1.clone();
    let cookie = asked.split(|&byte| byte == b' ').next().expect("a cookie");
    let mut said = false;
    for datagram in bytes.split(|&byte| byte == b'\n') {
        let right = [cookie, b" ", datagram].concat();
        for bytes in [datagram, &right] {
            client.step(now, Input::Datagram { engine, bytes }, &mut out);
        }
        said |= Reply::parse(datagram).is_ok();
        assert_eq!(
            out.answers.len(),
            usize::from(said),
            "a reply, and only a reply, ends it"
        );
    }
    let end = now + Duration::from_secs(1);
    while let Some(due) = client.deadline().filter(|&due| due <= end) {
        now = now.max(due);
        client.step(now, Input::Tick, &mut out);
    }
    assert_eq!(out.answers.len(), 1);
    assert_eq!(out.answers[0].token, token);
    assert!(!matches!(out.answers[0].outcome, Outcome::Busy));
}
