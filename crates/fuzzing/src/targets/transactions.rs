//! The four machines by lists of operations: two bytes each, what happens and when.

use std::time::Duration;

use stdx::Instant;
use transaction::{
    Actions, ClientAction, ClientInput, InviteClient, InviteServer, NonInviteClient,
    NonInviteServer, Reliability, ServerAction, ServerInput, Timers,
};

use crate::Source;

const CODES: [u16; 12] = [100, 180, 183, 199, 200, 299, 302, 404, 487, 503, 699, 42];

/// Unit: milliseconds.
const STEPS: [u64; 8] = [0, 1, 499, 500, 3_999, 4_000, 32_000, 200_000];

/// A message that is sent again doubles its pause, or waits T2: no more than this within 64 * T1.
const RESENDS_MAX: usize = 12;

/// One of the four.
trait Machine: Sized + Copy + PartialEq + std::fmt::Debug {
    type Input: Copy + 'static;
    type Action: Copy + PartialEq + std::fmt::Debug;
    const RESEND: Self::Action;
    const TICK: Self::Input;
    fn new(now: Instant, timers: &Timers, reliability: Reliability) -> Self;
    fn step(
        self,
        now: Instant,
        timers: &Timers,
        input: Self::Input,
        out: &mut Actions<Self::Action>,
    ) -> Option<Self>;
    fn deadline(&self) -> Option<Instant>;
    fn again(&self) -> Option<Self>;
    fn resumed(self, now: Instant) -> Self;
    fn input(source: &mut Source<'_>) -> Self::Input;
    /// What the other side and the TU do in the end.
    const END: &'static [Self::Input];
}

macro_rules! machine {
    ($name:ident, $input:ident, $action:ident, $end:expr, $read:expr) => {
        impl Machine for $name {
            type Input = $input;
            type Action = $action;
            const RESEND: $action = $action::Resend;
            const TICK: $input = $input::Tick;
            const END: &'static [$input] = $end;
            fn new(now: Instant, timers: &Timers, reliability: Reliability) -> Self {
                $name::new(now, timers, reliability)
            }
            fn step(
                self,
                now: Instant,
                timers: &Timers,
                input: $input,
                out: &mut Actions<$action>,
            ) -> Option<Self> {
                $name::step(self, now, timers, input, out)
            }
            fn deadline(&self) -> Option<Instant> {
                $name::deadline(self)
            }
            fn again(&self) -> Option<Self> {
                $name::decode(&self.encode())
            }
            fn resumed(self, now: Instant) -> Self {
                self.resume(now)
            }
            fn input(source: &mut Source<'_>) -> $input {
                let read: fn(&mut Source<'_>) -> $input = $read;
                read(source)
            }
        }
    };
}

fn client_input(source: &mut Source<'_>) -> ClientInput {
    match source.below(6) {
        0 => ClientInput::TransportError,
        1 | 2 => ClientInput::Tick,
        _ => ClientInput::Response(source.of(&CODES)),
    }
}

fn server_input(source: &mut Source<'_>) -> ServerInput {
    match source.below(8) {
        0 => ServerInput::TransportError,
        1 | 2 => ServerInput::Tick,
        3 => ServerInput::Ack,
        4 => ServerInput::Request,
        _ => ServerInput::Respond(source.of(&CODES)),
    }
}

const CLIENT_END: &[ClientInput] = &[ClientInput::Response(487)];
const SERVER_END: &[ServerInput] = &[ServerInput::Respond(487), ServerInput::Ack];

machine!(
    InviteClient,
    ClientInput,
    ClientAction,
    CLIENT_END,
    client_input
);
machine!(
    NonInviteClient,
    ClientInput,
    ClientAction,
    CLIENT_END,
    client_input
);
machine!(
    InviteServer,
    ServerInput,
    ServerAction,
    SERVER_END,
    server_input
);
machine!(
    NonInviteServer,
    ServerInput,
    ServerAction,
    SERVER_END,
    server_input
);

pub(crate) fn run(bytes: &[u8]) {
    let mut source = Source::new(bytes);
    match source.byte() % 4 {
        0 => drive::<InviteClient>(&mut source),
        1 => drive::<NonInviteClient>(&mut source),
        2 => drive::<InviteServer>(&mut source),
        _ => drive::<NonInviteServer>(&mut source),
    }
}

fn drive<M: Machine>(source: &mut Source<'_>) {
    let reliability = source.of(&[Reliability::Unreliable, Reliability::Reliable]);
    let timers = Timers::default();
    let mut now = Instant::ZERO + Duration::from_secs(1);
    let mut machine = Some(M::new(now, &timers, reliability));
    while let (false, Some(at_hand)) = (source.is_empty(), machine) {
        now += Duration::from_millis(source.of(&STEPS));
        if source.byte() % 16 == 15 {
            machine = Some(at_hand.resumed(now));
            continue;
        }
        machine = one::<M>(at_hand, now, &timers, M::input(source)).0;
    }
    // The other side falls silent: every machine ends, and sends a bounded number of messages until then.
    let mut resends = 0;
    for input in M::END.iter().copied() {
        if let Some(at_hand) = machine {
            machine = one::<M>(at_hand, now, &timers, input).0;
        }
    }
    for _ in 0..100 {
        let Some(at_hand) = machine else { return };
        let deadline = at_hand
            .deadline()
            .expect("a machine that waits for nobody waits for a timer");
        now = now.max(deadline);
        let (next, resent) = one::<M>(at_hand, now, &timers, M::TICK);
        resends += usize::from(resent);
        assert!(resends <= RESENDS_MAX, "{resends} messages to nobody");
        machine = next;
    }
    panic!("{machine:?} never ends");
}

/// One step, and what holds for each.
fn one<M: Machine>(
    machine: M,
    now: Instant,
    timers: &Timers,
    input: M::Input,
) -> (Option<M>, bool) {
    assert_eq!(machine.again(), Some(machine), "its image is the machine");
    let mut out = Actions::new();
    let next = machine.step(now, timers, input, &mut out);
    if let Some(next) = next {
        assert_eq!(next.again(), Some(next));
        // A tick is harmless, however often it comes.
        let mut more = Actions::new();
        if let Some(ticked) = next.step(now, timers, M::TICK, &mut more) {
            let mut still = Actions::new();
            assert_eq!(ticked.step(now, timers, M::TICK, &mut still), Some(ticked));
            let deadline = ticked.deadline();
            assert!(
                deadline.is_none_or(|at| at > now),
                "what is due was done: {ticked:?} at {now:?}"
            );
        }
    }
    (next, out.iter().any(|action| action == M::RESEND))
}
