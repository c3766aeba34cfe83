//! Instruction counts of whole messages and a whole call through the machine, from bytes to settled outputs, without I/O.
//!
//! `cargo bench -p proxy` needs valgrind and the `gungraun-runner` of the same version as the library.
//!
//! What a phone answers depends on the branches that the machine makes. They follow from the arena's seed and from what came before, so
//! each bench plays its messages once in a world of its own, writes down what the phones say, and measures the same in a second world.

use std::{hint::black_box, net::SocketAddr, sync::Arc, time::Duration};

use gungraun::{library_benchmark, library_benchmark_group, main};
use proxy::{
    Admission, Answer, AskKind, CallPlan, Datagram, Decision, Destination, Domain, Env, Input,
    Limit, Listener, Outputs, Proxy, Settings, Target,
};
use shm::{Arena, Layout, Participant, ParticipantId, RowRef};
use stdx::Instant;
use tables::balancer::{Balancer, Resource, ResourceKey, ResourceKind};

const SDP: &str = "v=0\r\no=alice 2890844526 2890844526 IN IP4 192.0.2.101\r\ns=-\r\nc=IN IP4 192.0.2.101\r\nt=0 0\r\n\
    m=audio 49172 RTP/AVP 0 8 9 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:9 G722/8000\r\n\
    a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:20\r\na=sendrecv\r\n";
const ALICE: &str = "192.0.2.101:5060";
const BOB: &str = "198.51.100.4:5060";
/// Calls played before: slabs are taken, buffers have grown, tables are in use.
const CALLS_BEFORE: u32 = 40;

/// One slot, driven as a worker drives it.
struct World {
    participant: Participant,
    proxy: Proxy,
    out: Outputs,
    turn: u64,
    /// What becomes of calls.
    plan: CallPlan,
    /// They go to a destination of a group, where they have seats.
    group: Option<RowRef>,
}

impl World {
    fn new() -> Self {
        let mut layout = Layout::new(32 << 20, 1, 1, tables::TABLES);
        layout.rx_buffers = 4;
        layout.rx_buffer_bytes = 1024;
        let arena = Arena::heap(&layout, [7; 16]).expect("an arena");
        let mut participant = arena.participant(ParticipantId(0));
        participant.online();
        let settings = Settings {
            version: 1,
            listeners: vec![Listener::new(1, address("192.0.2.1:5060"), None)],
            addresses: proxy::Addresses::default(),
            domains: vec![Domain::new("example.com", true)],
            timers: transaction::Timers::default(),
            timer_c: Duration::from_secs(190),
            registrar: registrar::Policy::default(),
            dialog_key: stdx::hash::Key([9; 16]),
            hiding: proxy::Hiding::of_key(&stdx::hash::Key([9; 16])),
            auth: proxy::AuthPolicy::default(),
            branches_max: 12,
            forking: proxy::Forking::default(),
            media: Vec::new(),
        };
        Self {
            participant,
            proxy: Proxy::new(0, arena.key(), Arc::new(settings)),
            out: Outputs::default(),
            turn: 0,
            plan: CallPlan::default(),
            group: None,
        }
    }

    /// One datagram, one turn.
    fn serve(&mut self, message: &Message) {
        self.out.clear();
        self.turn += 1;
        self.participant.quiescent();
        let datagram = Datagram {
            bytes: message.text.as_bytes(),
            source: message.source,
            listener: 1.into(),
            truncated: false,
        };
        let mut env = Env {
            now: Instant::from_nanos(1_000_000_000_000 + self.turn * 1_000_000),
            turn: self.turn,
            arena: &mut self.participant,
        };
        self.proxy
            .step(&mut env, Input::Datagram(datagram), &mut self.out);
        while let Some(ask) = self.out.asks.pop() {
            let answer = match ask.kind {
                AskKind::Admit => Answer::Admitted(Admission::Allow),
                AskKind::Credentials => Answer::Credentials(None),
                AskKind::Route => Answer::Routed(route(self.group), self.plan.clone()),
                AskKind::Resolve { .. } => Answer::Resolved(Vec::new()),
            };
            let input = Input::Answer {
                id: ask.id,
                answer,
                at_hand: Some(datagram),
            };
            self.proxy.step(&mut env, input, &mut self.out);
        }
        self.proxy.settle(&mut env, Some(datagram), &mut self.out);
    }

    /// The last thing that we sent to `to` and that begins like this.
    fn heard(&self, begins: &str) -> String {
        self.out
            .sends
            .iter()
            .map(|send| String::from_utf8_lossy(self.out.text(send)).into_owned())
            .rfind(|text| text.starts_with(begins))
            .expect("it was sent")
    }
}

fn route(group: Option<RowRef>) -> Decision {
    let Some(resource) = group else {
        return Decision::Location { known: true };
    };
    Decision::Targets(vec![Target {
        next_hop: Some(format!("sip:{BOB}").into_bytes()),
        destination: Some(Destination {
            resource,
            limit: Some(1000),
        }),
        ..Target::default()
    }])
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

struct Message {
    text: String,
    source: SocketAddr,
}

impl Message {
    fn new(source: &str, text: String) -> Self {
        Self {
            text,
            source: address(source),
        }
    }
}

fn register(number: u32) -> Message {
    Message::new(
        BOB,
        format!(
            "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP {BOB};rport;branch=z9hG4bKPjr{number}\r\nMax-Forwards: 70\r\n\
             From: <sip:bob@example.com>;tag=r{number}\r\nTo: <sip:bob@example.com>\r\nCall-ID: 1j9FpLxk3uxtm8tn@{BOB}\r\n\
             CSeq: {number} REGISTER\r\nContact: <sip:bob@{BOB};ob>\r\nExpires: 3600\r\nUser-Agent: Example Phone 4.2\r\n\
             Content-Length: 0\r\n\r\n"
        ),
    )
}

fn invite(call: u32) -> Message {
    Message::new(
        ALICE,
        format!(
            "INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP {ALICE};rport;branch=z9hG4bKPj8a1c0f52e47b{call}\r\n\
             Max-Forwards: 70\r\nFrom: \"Alice\" <sip:alice@example.com>;tag=9fxced76sl\r\nTo: <sip:bob@example.com>\r\n\
             Contact: <sip:alice@{ALICE};ob>\r\nCall-ID: 38482762982201885{call}@192.0.2.101\r\nCSeq: 1 INVITE\r\n\
             Allow: PRACK, INVITE, ACK, BYE, CANCEL, UPDATE, INFO, SUBSCRIBE, NOTIFY, REFER, MESSAGE, OPTIONS\r\n\
             Supported: replaces, 100rel, timer, norefersub\r\nSession-Expires: 1800\r\nMin-SE: 90\r\n\
             User-Agent: Example Phone 4.2\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{SDP}",
            SDP.len()
        ),
    )
}

fn options(number: u32) -> Message {
    Message::new(
        ALICE,
        format!(
            "OPTIONS sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP {ALICE};branch=z9hG4bKhjhs8ass{number}\r\nMax-Forwards: 70\r\n\
             From: <sip:monitor@{ALICE}>;tag=1928301774\r\nTo: <sip:example.com>\r\nCall-ID: a84b4c76e6{number}\r\n\
             CSeq: 63104 OPTIONS\r\nContent-Length: 0\r\n\r\n"
        ),
    )
}

/// What a user agent answers to a request that it has got.
fn respond(source: &str, request: &str, status: &str, body: &str) -> Message {
    let mut text = format!("SIP/2.0 {status}\r\n");
    for name in ["Via", "Record-Route", "From", "To", "Call-ID", "CSeq"] {
        for line in lines(request, name) {
            text.push_str(line);
            if name == "To" && !line.contains(";tag=") {
                text.push_str(";tag=8321234356");
            }
            text.push_str("\r\n");
        }
    }
    text.push_str(&format!(
        "Contact: <sip:bob@{BOB};ob>\r\nServer: Softphone (build 7, 64 bit)\r\n"
    ));
    if !body.is_empty() {
        text.push_str("Content-Type: application/sdp\r\n");
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    Message::new(source, text)
}

/// The caller's request within the dialog that this 200 has made.
fn in_dialog(answer: &str, method: &str, number: u32) -> Message {
    // Of who answered, or ours, where he is hidden.
    let target = lines(answer, "Contact")
        .find_map(|line| line.split(['<', '>']).nth(1))
        .expect("a Contact");
    let mut text = format!(
        "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP {ALICE};rport;branch=z9hG4bKPj5f2b7e91{method}{number}\r\nMax-Forwards: 70\r\n"
    );
    for (name, new) in [
        ("Record-Route", "Route"),
        ("From", "From"),
        ("To", "To"),
        ("Call-ID", "Call-ID"),
    ] {
        for line in lines(answer, name) {
            text.push_str(&line.replacen(name, new, 1));
            text.push_str("\r\n");
        }
    }
    let cseq = if method == "ACK" { 1 } else { 2 };
    text.push_str(&format!(
        "CSeq: {cseq} {method}\r\nUser-Agent: Example Phone 4.2\r\nContent-Length: 0\r\n\r\n"
    ));
    Message::new(ALICE, text)
}

fn lines<'t>(text: &'t str, name: &'t str) -> impl Iterator<Item = &'t str> {
    text.split("\r\n").filter(move |line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(':'))
    })
}

/// Plays a whole call; returns what came to us, in order.
fn play_call(world: &mut World, call: u32) -> Vec<Message> {
    let mut said = vec![invite(call)];
    world.serve(&said[0]);
    let invite = world.heard("INVITE ");
    for (status, body) in [("180 Ringing", ""), ("200 OK", SDP)] {
        said.push(respond(BOB, &invite, status, body));
        world.serve(&said[said.len() - 1]);
    }
    let answer = world.heard("SIP/2.0 200");
    said.push(in_dialog(&answer, "ACK", call));
    world.serve(&said[3]);
    world.heard("ACK ");
    said.push(in_dialog(&answer, "BYE", call));
    world.serve(&said[4]);
    let bye = world.heard("BYE ");
    said.push(respond(BOB, &bye, "200 OK", ""));
    world.serve(&said[5]);
    world.heard("SIP/2.0 200");
    said
}

/// A world that has been at work for a while.
fn busy() -> World {
    busy_with(CallPlan::default())
}

/// Every call is on record and counts in its domain.
fn tracked() -> CallPlan {
    CallPlan {
        class: Some(Arc::default()),
        limits: vec![Limit {
            key: ResourceKey::of(ResourceKind::Domain, b"example.com"),
            calls_max: Some(1000),
            code: 503,
        }],
        ..CallPlan::default()
    }
}

/// On record, and neither side learns of the other.
fn hidden(mode: topology::Mode) -> CallPlan {
    CallPlan {
        hide: Some(mode),
        ..tracked()
    }
}

fn busy_with(plan: CallPlan) -> World {
    busy_as(plan, false)
}

fn busy_as(plan: CallPlan, grouped: bool) -> World {
    let mut world = World::new();
    world.plan = plan;
    if grouped {
        let key = ResourceKey::of(ResourceKind::Destination, b"media 198.51.100.4");
        let made = Balancer(&mut world.participant).ensure(&key, &Resource::default());
        world.group = Some(made.expect("room"));
    }
    world.serve(&register(1));
    for call in 0..CALLS_BEFORE {
        play_call(&mut world, 1000 + call);
    }
    for number in 0..10 {
        world.serve(&options(1000 + number));
    }
    world
}

type Bench = (World, Vec<Message>);

fn call() -> Bench {
    call_with(&CallPlan::default())
}

fn call_with(plan: &CallPlan) -> Bench {
    let said = play_call(&mut busy_with(plan.clone()), 9999);
    (busy_with(plan.clone()), said)
}

/// Through a group.
fn balanced() -> Bench {
    let said = play_call(&mut busy_as(tracked(), true), 9999);
    (busy_as(tracked(), true), said)
}

/// INFO of the caller within a call that is up, and its answer.
fn info(plan: &CallPlan) -> Bench {
    let talk = |world: &mut World| {
        let mut said = vec![invite(9999)];
        world.serve(&said[0]);
        let invite = world.heard("INVITE ");
        said.push(respond(BOB, &invite, "200 OK", SDP));
        world.serve(&said[1]);
        let answer = world.heard("SIP/2.0 200");
        said.push(in_dialog(&answer, "ACK", 9999));
        world.serve(&said[2]);
        let info = in_dialog(&answer, "INFO", 9999);
        world.serve(&info);
        let ok = respond(BOB, &world.heard("INFO "), "200 OK", "");
        (said, vec![info, ok])
    };
    let (before, measured) = talk(&mut busy_with(plan.clone()));
    let mut world = busy_with(plan.clone());
    for message in &before {
        world.serve(message);
    }
    (world, measured)
}

/// One message of a call, with what is before it done already.
fn part(at: usize) -> Bench {
    part_of(at, &CallPlan::default())
}

fn part_of(at: usize, plan: &CallPlan) -> Bench {
    let (mut world, mut said) = call_with(plan);
    let rest = said.split_off(at);
    for message in &said {
        world.serve(message);
    }
    (world, rest.into_iter().take(1).collect())
}

fn one(message: Message) -> Bench {
    (busy(), vec![message])
}

fn new_user() -> Bench {
    let mut message = register(1);
    message.text = message
        .text
        .replace("<sip:bob@example.com>", "<sip:eve@example.com>");
    one(message)
}

fn play((mut world, said): Bench) -> Bench {
    for message in &said {
        world.serve(black_box(message));
    }
    assert!(!world.out.sends.is_empty());
    (world, said)
}

/// As many contacts as an address-of-record may have, alike but for one of many parameters, and then the same once more.
fn many_alike() -> Bench {
    let contacts: Vec<String> = (0..10)
        .map(|nth| {
            let params: String = (0..62).map(|name| format!(";p{name:02}=v")).collect();
            format!("<sip:bob@{BOB}{params};z={nth}>")
        })
        .collect();
    let message = |number: u32, contacts: String| {
        let mut message = register(number);
        message.text = message
            .text
            .replace(&format!("<sip:bob@{BOB};ob>"), &contacts)
            .replace("<sip:bob@example.com>", "<sip:eve@example.com>");
        message
    };
    let mut world = busy();
    world.serve(&message(1, contacts.join(", ")));
    let upper = contacts.join(", ").replace("=v", "=V");
    (world, vec![message(2, upper)])
}

#[library_benchmark]
#[bench::new(new_user())]
#[bench::refresh(one(register(2)))]
#[bench::many_alike(many_alike())]
fn whole_register(bench: Bench) -> Bench {
    play(bench)
}

#[library_benchmark]
#[bench::to_us(one(options(9999)))]
fn whole_options(bench: Bench) -> Bench {
    play(bench)
}

// Each message of a call for itself.
#[library_benchmark]
#[bench::invite(part(0))]
#[bench::ringing(part(1))]
#[bench::answer(part(2))]
#[bench::ack(part(3))]
#[bench::bye(part(4))]
#[bench::bye_answer(part(5))]
fn whole_message(bench: Bench) -> Bench {
    play(bench)
}

// Of a call that is on record.
#[library_benchmark]
#[bench::invite(part_of(0, &tracked()))]
#[bench::ringing(part_of(1, &tracked()))]
#[bench::answer(part_of(2, &tracked()))]
#[bench::ack(part_of(3, &tracked()))]
#[bench::bye(part_of(4, &tracked()))]
#[bench::bye_answer(part_of(5, &tracked()))]
fn message_on_record(bench: Bench) -> Bench {
    play(bench)
}

// INFO and its 200: what a request within a dialog costs more for being followed.
#[library_benchmark]
#[bench::plain(info(&CallPlan::default()))]
#[bench::on_record(info(&tracked()))]
#[bench::hidden(info(&hidden(topology::Mode::Dialog)))]
#[bench::sealed(info(&hidden(topology::Mode::Stateless)))]
fn within_dialog(bench: Bench) -> Bench {
    play(bench)
}

// INVITE, 180, 200, ACK, BYE, 200.
#[library_benchmark]
#[bench::basic(call())]
#[bench::on_record(call_with(&tracked()))]
#[bench::balanced(balanced())]
#[bench::hidden(call_with(&hidden(topology::Mode::Dialog)))]
#[bench::sealed(call_with(&hidden(topology::Mode::Stateless)))]
fn whole_call(bench: Bench) -> Bench {
    play(bench)
}

library_benchmark_group!(
    name = whole,
    benchmarks = [
        whole_register,
        whole_options,
        whole_message,
        message_on_record,
        within_dialog,
        whole_call
    ]
);
main!(library_benchmark_groups = whole);
