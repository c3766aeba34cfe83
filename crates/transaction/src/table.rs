//! The notation of the state-table tests, and the properties that all machines share.
//!
//! A script is `0 start | 500ms tick | 600ms 180`; `start` may say `reliable`, or `late` for a
//! machine that begins where others end. The answer to each part is
//! `actions: state, next deadline`; `done` is a terminated machine.

use core::fmt::{Debug, Write as _};
use core::time::Duration;

use proptest::prelude::*;
use stdx::Instant;

use crate::*;

/// What the four machines have in common.
pub(crate) trait Machine: Copy + PartialEq + Debug {
    type Input: Copy + Debug;
    type Action: Copy + Debug;
    /// States that no timer ends: the TU or the peer moves on.
    fn waits(&self) -> bool;
    fn new(now: Instant, timers: &Timers, reliability: Reliability) -> Self;
    fn step(
        self,
        now: Instant,
        timers: &Timers,
        input: Self::Input,
        out: &mut Actions<Self::Action>,
    ) -> Option<Self>;
    fn deadline(&self) -> Option<Instant>;
    fn resume(self, now: Instant) -> Self;
    fn encode(&self) -> Image;
    fn decode(image: &Image) -> Option<Self>;
    const TICK: Self::Input;
    /// How else it may begin: `start late`.
    fn late(_now: Instant, _timers: &Timers) -> Option<Self> {
        None
    }
    fn input(words: &str) -> Self::Input;
    fn any_input() -> BoxedStrategy<Self::Input>;
}

fn server_input(words: &str) -> ServerInput {
    match words.split_once(' ') {
        None if words == "request" => ServerInput::Request,
        None if words == "ack" => ServerInput::Ack,
        None if words == "tick" => ServerInput::Tick,
        None if words == "error" => ServerInput::TransportError,
        Some(("respond", code)) => ServerInput::Respond(code.parse().unwrap()),
        _ => panic!("what is {words:?}?"),
    }
}

fn client_input(word: &str) -> ClientInput {
    match word {
        "tick" => ClientInput::Tick,
        "error" => ClientInput::TransportError,
        code => ClientInput::Response(code.parse().unwrap()),
    }
}

fn any_server_input() -> BoxedStrategy<ServerInput> {
    prop_oneof![
        Just(ServerInput::Request),
        Just(ServerInput::Ack),
        any_code().prop_map(ServerInput::Respond),
        Just(ServerInput::Tick),
        Just(ServerInput::TransportError),
    ]
    .boxed()
}

fn any_client_input() -> BoxedStrategy<ClientInput> {
    prop_oneof![
        4 => any_code().prop_map(ClientInput::Response),
        2 => Just(ClientInput::Tick),
        1 => Just(ClientInput::TransportError),
    ]
    .boxed()
}

fn any_code() -> impl Strategy<Value = u16> {
    prop_oneof![4 => 100..200u16, 2 => 200..300u16, 2 => 300..700u16, 1 => any::<u16>()]
}

macro_rules! machine {
    ($machine:ident, $input:ident, $action:ident, $words:ident, $any:ident, $waits:expr $(, $late:ident)?) => {
        impl Machine for $machine {
            type Input = $input;
            type Action = $action;
            const TICK: $input = $input::Tick;
            $(
                fn late(now: Instant, timers: &Timers) -> Option<Self> {
                    Some($machine::$late(now, timers))
                }
            )?
            fn waits(&self) -> bool {
                let waits: fn(&$machine) -> bool = $waits;
                waits(self)
            }
            fn new(now: Instant, timers: &Timers, reliability: Reliability) -> Self {
                $machine::new(now, timers, reliability)
            }
            fn step(
                self,
                now: Instant,
                timers: &Timers,
                input: $input,
                out: &mut Actions<$action>,
            ) -> Option<Self> {
                $machine::step(self, now, timers, input, out)
            }
            fn deadline(&self) -> Option<Instant> {
                $machine::deadline(self)
            }
            fn resume(self, now: Instant) -> Self {
                $machine::resume(self, now)
            }
            fn encode(&self) -> Image {
                $machine::encode(self)
            }
            fn decode(image: &Image) -> Option<Self> {
                $machine::decode(image)
            }
            fn input(words: &str) -> $input {
                $words(words)
            }
            fn any_input() -> BoxedStrategy<$input> {
                $any()
            }
        }
    };
}

machine!(
    InviteClient,
    ClientInput,
    ClientAction,
    client_input,
    any_client_input,
    |m| matches!(m, InviteClient::Proceeding(_)),
    failed_late
);
machine!(
    NonInviteClient,
    ClientInput,
    ClientAction,
    client_input,
    any_client_input,
    |_| false
);
machine!(
    InviteServer,
    ServerInput,
    ServerAction,
    server_input,
    any_server_input,
    |m| matches!(m, InviteServer::Proceeding(_)),
    refused
);
machine!(
    NonInviteServer,
    ServerInput,
    ServerAction,
    server_input,
    any_server_input,
    |m| matches!(
        m,
        NonInviteServer::Trying(_) | NonInviteServer::Proceeding(_)
    )
);

/// Plays a script; every state on the way must survive its image.
pub(crate) fn play<M: Machine>(script: &str) -> String {
    let timers = Timers::default();
    let mut machine: Option<M> = None;
    let mut answer = String::new();
    for part in script.split('|') {
        let (time, words) = part.trim().split_once(' ').unwrap();
        let now = START.saturating_add(duration(time));
        let mut out = Actions::new();
        machine = match words {
            "start" => Some(M::new(now, &timers, Reliability::Unreliable)),
            "start late" => M::late(now, &timers),
            "start reliable" => Some(M::new(now, &timers, Reliability::Reliable)),
            "resume" => machine.map(|m| m.resume(now)),
            words => machine.and_then(|m| m.step(now, &timers, M::input(words), &mut out)),
        };
        if let Some(machine) = machine {
            assert_eq!(M::decode(&machine.encode()), Some(machine));
        }
        if !answer.is_empty() {
            answer.push_str(" | ");
        }
        for action in out {
            write!(answer, "{action:?} ").unwrap();
        }
        match machine {
            None => answer.push_str("done"),
            Some(machine) => {
                let debug = format!("{machine:?}");
                write!(answer, "{}", &debug[..debug.find('(').unwrap()]).unwrap();
                if let Some(at) = machine.deadline() {
                    write!(answer, ", next {:?}", at.saturating_duration_since(START)).unwrap();
                }
            }
        }
    }
    answer
}

/// Scripts start at some uptime, not at the clock's zero.
const START: Instant = Instant::from_nanos(1_000_000_000_000);

fn duration(text: &str) -> Duration {
    if let Some(millis) = text.strip_suffix("ms") {
        Duration::from_millis(millis.parse().unwrap())
    } else if let Some(seconds) = text.strip_suffix('s') {
        Duration::from_secs_f64(seconds.parse().unwrap())
    } else {
        Duration::from_secs(text.parse().unwrap())
    }
}

/// One thing that happens to a machine: wait, then an input, or an heir takes over.
#[derive(Clone, Copy, Debug)]
enum Event<I> {
    Input(Duration, I),
    Resume,
}

fn events<M: Machine>() -> impl Strategy<Value = Vec<Event<M::Input>>>
where
    M::Input: 'static,
{
    let wait = prop_oneof![3 => Just(0), 3 => 0..2_000u64, 1 => 0..40_000u64];
    let event = prop_oneof![
        12 => (wait, M::any_input())
            .prop_map(|(millis, input)| Event::Input(Duration::from_millis(millis), input)),
        1 => Just(Event::Resume),
    ];
    prop::collection::vec(event, 0..40)
}

/// Whatever happens: no panic, images are faithful, ticks repeated or early change nothing, and once nothing but time
/// happens the machine ends, or waits for its TU.
fn holds<M: Machine>(reliable: bool, events: &[Event<M::Input>]) {
    let timers = Timers::default();
    let reliability = if reliable {
        Reliability::Reliable
    } else {
        Reliability::Unreliable
    };
    let mut now = START;
    let mut machine = M::new(now, &timers, reliability);
    for event in events {
        let next = match *event {
            Event::Resume => Some(machine.resume(now)),
            Event::Input(wait, input) => {
                now = now.saturating_add(wait);
                machine.step(now, &timers, input, &mut Actions::new())
            }
        };
        match next {
            None => return,
            Some(next) => machine = next,
        }
        assert_eq!(M::decode(&machine.encode()), Some(machine));
        // An early tick is harmless.
        if machine.deadline().is_none_or(|at| at > now) {
            let mut out = Actions::new();
            assert_eq!(machine.step(now, &timers, M::TICK, &mut out), Some(machine));
            assert!(out.is_empty());
        }
    }
    let mut ticks = 0;
    while let Some(at) = machine.deadline() {
        now = now.max(at);
        match machine.step(now, &timers, M::TICK, &mut Actions::new()) {
            None => return,
            Some(next) => machine = next,
        }
        // A repeated tick is harmless.
        assert!(machine.deadline().is_none_or(|at| at > now));
        ticks += 1;
        assert!(ticks < 30, "{machine:?} does not end");
    }
    assert!(machine.waits(), "{machine:?} has no deadline");
}

/// A machine comes out of these bytes only if it would have written them.
fn distrusts<M: Machine>(image: &Image) {
    if let Some(machine) = M::decode(image) {
        assert_eq!(machine.encode(), *image);
        let _ = machine.deadline();
        let _ = machine.step(START, &Timers::default(), M::TICK, &mut Actions::new());
        let _ = machine.resume(START);
    }
}

fn image() -> impl Strategy<Value = Image> {
    let head = (0..3u8, 0..0x46u8, 0..9u8);
    let numbers = (
        any::<u64>(),
        prop_oneof![Just(0), any::<u64>()],
        any::<u64>(),
    );
    let noise = prop_oneof![4 => Just(None), 1 => (0..IMAGE_BYTES, any::<u8>()).prop_map(Some)];
    (head, numbers, noise).prop_map(|((version, tag, flags), (first, interval, limit), noise)| {
        let mut image = [0; IMAGE_BYTES];
        image[..3].copy_from_slice(&[version, tag, flags]);
        image[8..16].copy_from_slice(&first.to_le_bytes());
        image[16..24].copy_from_slice(&interval.to_le_bytes());
        image[24..32].copy_from_slice(&limit.to_le_bytes());
        if let Some((at, byte)) = noise {
            image[at] = byte;
        }
        image
    })
}

proptest! {
    #[test]
    fn invite_client_holds(reliable: bool, events in events::<InviteClient>()) {
        holds::<InviteClient>(reliable, &events);
    }

    #[test]
    fn non_invite_client_holds(reliable: bool, events in events::<NonInviteClient>()) {
        holds::<NonInviteClient>(reliable, &events);
    }

    #[test]
    fn invite_server_holds(reliable: bool, events in events::<InviteServer>()) {
        holds::<InviteServer>(reliable, &events);
    }

    #[test]
    fn non_invite_server_holds(reliable: bool, events in events::<NonInviteServer>()) {
        holds::<NonInviteServer>(reliable, &events);
    }

    #[test]
    fn images_are_distrusted(image in image()) {
        distrusts::<InviteClient>(&image);
        distrusts::<NonInviteClient>(&image);
        distrusts::<InviteServer>(&image);
        distrusts::<NonInviteServer>(&image);
    }
}
