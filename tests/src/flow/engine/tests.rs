//! The engine over a server that is made up.

use super::*;
use crate::flow::parse::parse;

/// A server that answers every request of a party as `answer` says.
struct Fake {
    answer: fn(Message) -> Vec<Message>,
    ready: VecDeque<Datagram>,
    now: Duration,
}

impl Stage for Fake {
    fn address(&self, name: &str) -> SocketAddr {
        let last = name.bytes().next().unwrap_or(1);
        ([127, 0, 0, last], 5060).into()
    }

    fn now(&self) -> Duration {
        self.now
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn send(&mut self, party: &str, to: SocketAddr, bytes: &[u8]) {
        let from = self.address(party);
        let message = Message::parse(bytes).expect("a message");
        self.ready
            .extend((self.answer)(message).iter().map(|answer| Datagram {
                from: to,
                to: from,
                bytes: answer.to_bytes(),
            }));
    }

    fn receive(&mut self, limit: Duration) -> Option<Datagram> {
        let next = self.ready.pop_front();
        if next.is_none() {
            self.now += limit;
        }
        next
    }

    fn kill(&mut self, _: &str, _: Option<u64>) -> Result<(), String> {
        Ok(())
    }

    fn forget(&mut self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn number(&mut self, _: &str, _: &str) -> Result<u64, String> {
        Ok(3)
    }

    fn run(&mut self, _: &str, _: &[String]) -> Result<(), String> {
        Err("no".to_owned())
    }
}

fn ok(m: &Message) -> Message {
    m.response(200, "OK", "t")
}

fn verdict(steps: &str, answer: fn(Message) -> Vec<Message>) -> Result<(), String> {
    verdict_of(Pass::Plain, steps, answer)
}

fn verdict_of(pass: Pass, steps: &str, answer: fn(Message) -> Vec<Message>) -> Result<(), String> {
    let text = format!("# T\nproxy p\nparty a sip:a@x\nparty b sip:b@x\n{steps}");
    let flow = parse("f", &text).expect("a flow");
    let mut stage = Fake {
        answer,
        ready: VecDeque::new(),
        now: Duration::ZERO,
    };
    let played = play(&flow, pass, &mut stage);
    played
        .map(drop)
        .map_err(|failure| format!("{}: {}", failure.line, failure.report))
}

#[track_caller]
fn fails(steps: &str, answer: fn(Message) -> Vec<Message>, part: &str) {
    let report = verdict(steps, answer).expect_err("a failure");
    assert!(report.contains(part), "{report}");
}

const OPTIONS: &str = "a -> p OPTIONS sip:x\n";

#[test]
fn what_is_expected_comes() {
    let all = "F1 p -> a 200 OK\n    To: <sip:x>;tag=$t\n    no Contact\np has 3 cells\nF1 came 2 times\np -> a again F1\nnothing for 3s\n";
    assert_eq!(
        verdict(&format!("{OPTIONS}{all}"), |m| vec![ok(&m), ok(&m)]),
        Ok(())
    );
    let either = "either\n    p -> a 404\nor\n    p -> a 200\n";
    assert_eq!(
        verdict(&format!("{OPTIONS}{either}"), |m| vec![ok(&m)]),
        Ok(())
    );
    let any = "any order\n    p -> a 200\n    p -> a 180\n";
    let two = |m: Message| vec![m.response(180, "R", "t"), ok(&m)];
    assert_eq!(verdict(&format!("{OPTIONS}{any}"), two), Ok(()));
}

#[test]
fn what_is_wrong_is_said() {
    let yes = |m: Message| vec![ok(&m)];
    fails(
        &format!("{OPTIONS}p -> a 404\n"),
        yes,
        "6: expected: SIP/2.0 404 ...",
    );
    fails(
        &format!("{OPTIONS}p -> a 200\n    no From\n"),
        yes,
        "there is a From",
    );
    fails(
        &format!("{OPTIONS}p -> a 200\n    To: <sip:x>\n"),
        yes,
        "line 7: To is not <sip:x> but",
    );
    fails(
        &format!("{OPTIONS}p -> a 200\n    To: *\n    Via: x\n    Via: y\n"),
        yes,
        "it has 1 values of Via, not 2",
    );
    fails(
        &format!("{OPTIONS}p -> a 200\np has 4 cells\n"),
        yes,
        "it has 3 cells",
    );
    fails(&format!("{OPTIONS}p -> a 200\nrun p it\n"), yes, "no");
    fails(
        &format!("{OPTIONS}F1 p -> a 200\nF1 came 2 times\n"),
        yes,
        "it came 1 times",
    );
    fails(
        &format!("{OPTIONS}F1 p -> a 200\np -> a again F1\n"),
        yes,
        "no other copy",
    );
    fails(
        &format!("{OPTIONS}nothing for 1s\n"),
        yes,
        "nobody expected this",
    );
    fails(OPTIONS, yes, "nobody expected this");
    fails(
        &format!("{OPTIONS}p -> a 200\n"),
        |_| Vec::new(),
        "nothing came",
    );
    fails(
        &format!("{OPTIONS}either\n    p -> a 1\nor\n    p -> a 404\n").replace(" 1\n", " 180\n"),
        yes,
        "none of the alternatives",
    );
    let tagless = |m: Message| vec![m.response(200, "OK", "")];
    fails(
        &format!("{OPTIONS}p -> a 200\n"),
        tagless,
        "its To has no tag",
    );
    fails("a -> p BYE\n", yes, "no dialog");
}

#[test]
fn what_tells_of_others_is_seen() {
    let hidden = |answer| verdict_of(Pass::Dialog, &format!("{OPTIONS}p -> a 200\n"), answer);
    assert_eq!(hidden(|m| vec![ok(&m)]), Ok(()));
    // Of oneself one may hear; of the other party neither plainly nor wrapped.
    let own = |m: Message| vec![ok(&m).with("X-Way", "a.inside.example, 127.0.0.97")];
    assert_eq!(hidden(own), Ok(()));
    for answer in [
        (|m| vec![ok(&m).with("X-Way", "at B.inside.example")]) as fn(Message) -> Vec<Message>,
        |m| vec![ok(&m).with("X-Way", "127.0.0.98:5060")],
        |m| vec![ok(&m).with("X-Way", "b%2Einside%2eexample")],
    ] {
        let report = hidden(answer).expect_err("a leak");
        assert!(report.contains(hidden::LEAK), "{report}");
    }
    // It is the first that is said, whatever else goes wrong.
    let late = |m: Message| vec![m.response(404, "b.inside.example", "t")];
    assert!(hidden(late).expect_err("a leak").contains(hidden::LEAK));
}
