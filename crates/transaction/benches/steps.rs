//! Instructions per step of the machines.

use std::hint::black_box;
use std::time::Duration;

use gungraun::{library_benchmark, library_benchmark_group, main};
use stdx::Instant;
use transaction::{
    Actions, ClientInput, InviteClient, InviteServer, NonInviteClient, Reliability, ServerInput,
    Timers,
};

const START: Instant = Instant::from_nanos(1_000_000_000_000);

fn calling() -> (InviteClient, Timers) {
    let timers = Timers::default();
    (
        InviteClient::new(START, &timers, Reliability::Unreliable),
        timers,
    )
}

#[library_benchmark]
#[bench::provisional(calling(), ClientInput::Response(180))]
#[bench::success(calling(), ClientInput::Response(200))]
#[bench::retransmit(calling(), ClientInput::Tick)]
fn invite_client(
    (machine, timers): (InviteClient, Timers),
    input: ClientInput,
) -> Option<InviteClient> {
    let now = START.saturating_add(Duration::from_millis(500));
    let mut out = Actions::new();
    black_box(machine).step(now, &timers, black_box(input), &mut out)
}

#[library_benchmark]
fn invite_server_call() -> Option<InviteServer> {
    let timers = Timers::default();
    let mut machine = Some(InviteServer::new(START, &timers, Reliability::Unreliable));
    for input in [
        ServerInput::Respond(100),
        ServerInput::Respond(180),
        ServerInput::Request,
        ServerInput::Respond(200),
    ] {
        let mut out = Actions::new();
        machine = machine.and_then(|m| m.step(START, &timers, black_box(input), &mut out));
        black_box(out);
    }
    machine
}

#[library_benchmark]
fn image_round_trip() -> Option<NonInviteClient> {
    let machine = NonInviteClient::new(START, &Timers::default(), Reliability::Unreliable);
    NonInviteClient::decode(&black_box(black_box(machine).encode()))
}

library_benchmark_group!(
    name = steps,
    benchmarks = [invite_client, invite_server_call, image_round_trip]
);
main!(library_benchmark_groups = steps);
