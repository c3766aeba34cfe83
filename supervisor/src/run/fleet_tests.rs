//! Tables of inputs and outputs: `check("start 2 | ready 0 | ...", "...")`, one line of outputs an input.

use std::fmt::Write as _;

use super::*;

/// Runs a script of inputs separated by `|` over a fleet of two seats; `+500` moves the clock by ms and ticks.
fn run(script: &str) -> String {
    let (fleet, script) = match script.split_once(" >> ") {
        Some((found, script)) => (adopted(found), script),
        None => (
            Fleet::new(2, Fleet::aux_wanted(2), Patience::default()),
            script,
        ),
    };
    run_on(fleet, script)
}

/// A fleet that another supervisor left: `serving 0 | spare | gone | ...`, one word for each participant, whose process has its number and 10.
fn adopted(found: &str) -> Fleet {
    let mut census = Census {
        next: 20,
        all_served: true,
        seats: vec![
            SeatRecord {
                used: true,
                restarts: 4,
                last_exit: Some(Cause::Planned),
            };
            2
        ],
        ..Census::default()
    };
    for (aux, word) in (0u16..).zip(found.split('|').map(str::trim)) {
        let (word, seat) = word.split_once(' ').unwrap_or((word, ""));
        let seat = seat.parse().ok();
        let state = match (word, seat) {
            ("starting", _) => State::Starting,
            ("spare", _) => State::Spare,
            ("assigned", Some(seat)) => State::Assigned(seat),
            ("serving", Some(seat)) => State::Serving(seat),
            ("silent", seat) => State::Leaving(seat),
            ("gone", _) => {
                census.aux_dead.insert(aux);
                continue;
            }
            ("fresh", _) => {
                census.aux_fresh.insert(aux);
                continue;
            }
            other => panic!("{other:?}"),
        };
        census.processes.push(Found {
            process: ProcessId(u32::from(aux) + 10),
            aux,
            state,
            started_at: Instant::ZERO,
        });
    }
    census
        .aux_fresh
        .extend(found.split('|').count() as u16..Fleet::aux_wanted(2));
    Fleet::adopt(Instant::ZERO, census, Patience::default())
}

fn run_on(mut fleet: Fleet, script: &str) -> String {
    let mut now = Instant::from_nanos(0);
    let mut log = String::new();
    for step in script.split('|').map(str::trim) {
        let mut out = Vec::new();
        for input in inputs(step, &mut now) {
            fleet.step(now, input, &mut out);
        }
        let texts: Vec<String> = out.iter().map(text).collect();
        writeln!(
            log,
            "{step}: {}",
            if texts.is_empty() {
                "-".to_owned()
            } else {
                texts.join(", ")
            }
        )
        .unwrap();
        invariants(&fleet);
    }
    log
}

fn inputs(step: &str, now: &mut Instant) -> Vec<Input> {
    if let Some(ms) = step.strip_prefix('+') {
        *now = now.saturating_add(Duration::from_millis(ms.parse().unwrap()));
        return vec![Input::Tick];
    }
    let mut words = step.split(' ');
    let (verb, rest): (&str, Vec<&str>) = (words.next().unwrap(), words.collect());
    let id = |at: usize| ProcessId(rest[at].parse().unwrap());
    match verb {
        "start" => vec![Input::Tick],
        // Three processes come up and two of them serve.
        "up" => {
            let mut inputs = vec![Input::Tick];
            inputs.extend((0..3).map(|n| Input::Ready(ProcessId(n))));
            inputs.extend((0..2).map(|n| Input::Serving(ProcessId(n))));
            inputs
        }
        "ready" => vec![Input::Ready(id(0))],
        "serving" => vec![Input::Serving(id(0))],
        "failed" => vec![Input::Failed(id(0))],
        "hung" => vec![Input::Hung(id(0))],
        "hangs" => vec![Input::Hangs(id(0))],
        "stopped" => vec![Input::Stopped(id(0))],
        "kill9" => vec![Input::Exited {
            process: id(0),
            cause: Cause::Signal(libc::SIGKILL),
        }],
        "segv" => vec![Input::Exited {
            process: id(0),
            cause: Cause::Signal(libc::SIGSEGV),
        }],
        "exit" => vec![Input::Exited {
            process: id(0),
            cause: Cause::Code(rest[1].parse().unwrap()),
        }],
        "noexec" => vec![Input::Exited {
            process: id(0),
            cause: Cause::NotStarted(libc::EAGAIN),
        }],
        "restart" if rest[0] == "all" => vec![Input::Restart {
            ticket: Ticket(0),
            seats: Seats::All,
        }],
        "restart" => vec![Input::Restart {
            ticket: Ticket(0),
            seats: Seats::One(rest[0].parse().unwrap()),
        }],
        "upgrade" => vec![Input::Upgrade {
            ticket: Ticket(1),
            image: Image(1),
        }],
        "downgrade" => vec![Input::Downgrade {
            ticket: Ticket(1),
            image: Image(0),
        }],
        "answered" => vec![Input::Answered(id(0))],
        "standby" => vec![Input::StandBy],
        "stoodby" => vec![Input::StoodBy(id(0))],
        "resume" => vec![Input::Resume],
        "go" => vec![Input::Go { since: *now }],
        "stop" => vec![Input::Stop],
        other => panic!("{other}"),
    }
}

fn text(output: &Output) -> String {
    match output {
        Output::Spawn {
            process,
            image,
            aux,
            recover_aux,
        } => {
            format!(
                "spawn {} aux {aux}{}{}",
                process.0,
                if *recover_aux { "*" } else { "" },
                if *image == Image(0) { "" } else { " new" }
            )
        }
        Output::Assign {
            process,
            seat,
            heritage,
        } => {
            let recover = heritage
                .as_ref()
                .map_or("", |heritage| match heritage.suspect {
                    true => " recover suspect",
                    false => " recover",
                });
            format!("assign {} seat {seat}{recover}", process.0)
        }
        Output::HandOver(id) => format!("handover {}", id.0),
        Output::Kill(id) => format!("kill {}", id.0),
        Output::TookOver {
            seat,
            process,
            cause,
            waited,
        } => {
            format!(
                "took over {seat} by {} after {cause} in {}ms",
                process.0,
                waited.as_millis()
            )
        }
        Output::AllServing => "all serving".into(),
        Output::Restarted(_) => "restarted".into(),
        Output::Refused(_, why) => format!("refused: {why}"),
        Output::StandBy(id) => format!("standby {}", id.0),
        Output::AllStoodBy => "all stood by".into(),
        Output::Broken => "broken".into(),
        Output::Gathered => "gathered".into(),
        Output::Ring(id) => format!("ring {}", id.0),
        Output::Moved(_, seat) => format!("moved {seat}"),
        Output::Upgraded(_) => "upgraded".into(),
        Output::GoesBack(_, why) => format!("goes back: {why}"),
        Output::WentBack(_, _) => "went back".into(),
        Output::GiveUp => "give up".into(),
        Output::Stopped => "stopped".into(),
    }
}

/// True after every step: no participant is used twice or lost, no process sits on two seats.
fn invariants(fleet: &Fleet) {
    let mut all: Vec<u16> = fleet
        .processes
        .values()
        .map(|process| process.aux)
        .collect();
    all.extend(&fleet.aux_fresh);
    all.extend(&fleet.aux_dead);
    all.sort_unstable();
    assert_eq!(all, (0..Fleet::aux_wanted(2)).collect::<Vec<_>>());
    for (number, seat) in (0u16..).zip(&fleet.seats) {
        if let Some(id) = seat.incumbent {
            assert_eq!(fleet.processes[&id].seat(), Some(number));
        }
    }
}

#[track_caller]
fn check(script: &str, wanted: &[&str]) {
    let got = run(script);
    let got: Vec<&str> = got.lines().collect();
    let skip = got.len() - wanted.len().min(got.len());
    assert_eq!(got[skip..], *wanted, "{script}");
}

#[test]
fn a_start_fills_the_seats_and_keeps_a_spare() {
    check(
        "start | ready 1 | ready 0 | ready 2 | serving 1 | serving 0",
        &[
            "start: spawn 0 aux 0, spawn 1 aux 1, spawn 2 aux 2",
            "ready 1: assign 1 seat 0",
            "ready 0: assign 0 seat 1",
            "ready 2: -",
            "serving 1: -",
            "serving 0: all serving",
        ],
    );
}

#[test]
fn a_death_is_taken_over_in_the_same_step() {
    check(
        "up | kill9 1 | +7 | serving 2 | ready 3",
        &[
            "kill9 1: assign 2 seat 1 recover",
            "+7: -",
            "serving 2: took over 1 by 2 after SIGKILL in 7ms, spawn 3 aux 1*",
            "ready 3: -",
        ],
    );
}

#[test]
fn the_next_spare_comes_even_if_the_heir_takes_long() {
    check(
        "up | segv 0 | +60",
        &[
            "segv 0: assign 2 seat 0 recover suspect",
            "+60: spawn 3 aux 0*",
        ],
    );
}

#[test]
fn an_heir_that_dies_is_replaced_at_once() {
    check(
        "up | kill9 0 | kill9 2 | +9 | ready 3 | serving 3",
        &[
            "kill9 0: assign 2 seat 0 recover",
            "kill9 2: spawn 3 aux 0*, spawn 4 aux 2*",
            "+9: -",
            "ready 3: assign 3 seat 0 recover",
            "serving 3: took over 0 by 3 after SIGKILL in 9ms",
        ],
    );
}

#[test]
fn two_deaths_with_one_spare_start_the_second_heir_at_once() {
    check(
        "up | kill9 0 | segv 1 | +50 | ready 3 | serving 2 | ready 4 | serving 3",
        &[
            "kill9 0: assign 2 seat 0 recover",
            "segv 1: spawn 3 aux 0*, spawn 4 aux 1*",
            "+50: -",
            "ready 3: assign 3 seat 1 recover suspect",
            "serving 2: took over 0 by 2 after SIGKILL in 50ms",
            "ready 4: -",
            "serving 3: took over 1 by 3 after SIGSEGV in 50ms",
        ],
    );
}

#[test]
fn spares_that_keep_dying_are_started_ever_more_slowly() {
    check(
        "up | kill9 2 | kill9 3 | +99 | +1 | kill9 4 | +199 | +1",
        &[
            "kill9 2: spawn 3 aux 2*",
            "kill9 3: -",
            "+99: -",
            "+1: spawn 4 aux 2*",
            "kill9 4: -",
            "+199: -",
            "+1: spawn 5 aux 2*",
        ],
    );
}

#[test]
fn heirs_are_started_at_once_however_many_die() {
    check(
        "up | kill9 0 | kill9 2 | kill9 3 | kill9 4 | kill9 5 | kill9 6",
        &[
            "kill9 3: spawn 5 aux 0*",
            "kill9 4: spawn 6 aux 2*",
            "kill9 5: spawn 7 aux 0*",
            "kill9 6: spawn 8 aux 2*",
        ],
    );
}

#[test]
fn what_could_not_be_started_leaves_its_participant_as_it_was() {
    check(
        "up | kill9 0 | serving 2 | noexec 3 | noexec 4 | +100",
        &[
            "serving 2: took over 0 by 2 after SIGKILL in 0ms, spawn 3 aux 0*",
            "noexec 3: spawn 4 aux 0*",
            "noexec 4: -",
            "+100: spawn 5 aux 0*",
        ],
    );
    check("start | noexec 1", &["noexec 1: spawn 3 aux 1"]);
}

#[test]
fn a_rolling_restart_goes_seat_by_seat_and_waits_for_spares() {
    check(
        "up | restart all | exit 0 0 | serving 2 | ready 3 | exit 1 0 | serving 3 | ready 4",
        &[
            "restart all: handover 0",
            "exit 0 0: assign 2 seat 0 recover",
            "serving 2: took over 0 by 2 after planned restart in 0ms, spawn 3 aux 0*",
            "ready 3: handover 1",
            "exit 1 0: assign 3 seat 1 recover",
            "serving 3: took over 1 by 3 after planned restart in 0ms, restarted, spawn 4 aux 1*",
            "ready 4: -",
        ],
    );
}

#[test]
fn a_worker_that_does_not_leave_is_killed() {
    check(
        "up | restart 1 | +1999 | +1 | kill9 1 | serving 2",
        &[
            "restart 1: handover 1",
            "+1999: -",
            "+1: kill 1",
            "kill9 1: assign 2 seat 1 recover",
            "serving 2: took over 1 by 2 after SIGKILL in 0ms, restarted, spawn 3 aux 1*",
        ],
    );
}

#[test]
fn restarts_are_refused_with_a_reason() {
    check(
        "up | restart 7",
        &["restart 7: refused: there is no worker of that number"],
    );
    check(
        "up | restart 0 | stop",
        &[
            "restart 0: handover 0",
            "stop: refused: the server is stopping, handover 1, handover 2",
        ],
    );
}

#[test]
fn a_stop_lets_everybody_leave_and_a_second_one_does_not_wait() {
    check(
        "up | stop | exit 2 0 | exit 0 0 | exit 1 0",
        &[
            "stop: handover 0, handover 1, handover 2",
            "exit 2 0: -",
            "exit 0 0: -",
            "exit 1 0: stopped",
        ],
    );
    check(
        "up | stop | stop | kill9 0 | kill9 1 | kill9 2",
        &[
            "stop: kill 0, kill 1, kill 2",
            "kill9 0: -",
            "kill9 1: -",
            "kill9 2: stopped",
        ],
    );
    check("up | stop | +2000", &["+2000: kill 0, kill 1, kill 2"]);
    check(
        "start | stop | exit 0 0 | exit 1 0 | exit 2 0 | +9000",
        &["exit 2 0: stopped", "+9000: -"],
    );
}

#[test]
fn a_hung_worker_is_killed_once_and_its_message_is_suspect() {
    check(
        "up | hung 0 | hung 0 | kill9 0",
        &[
            "hung 0: kill 0",
            "hung 0: -",
            "kill9 0: assign 2 seat 0 recover suspect",
        ],
    );
    check(
        "up | kill9 0 | +50 | +29950",
        &["+50: spawn 3 aux 0*", "+29950: kill 2, kill 3"],
    );
}

#[test]
fn a_first_start_that_fails_gives_up() {
    check("start | failed 0", &["failed 0: give up, kill 0"]);
    check("start | segv 0 | segv 1 | segv 2", &["segv 2: give up"]);
    check("up | failed 0", &["failed 0: kill 0"]);
}

#[test]
fn a_thousand_deaths_use_up_nothing() {
    let mut script = String::from("up");
    for n in 0..1000 {
        // The heir of round n is process n + 2; the seat alternates, so the victim is the older incumbent.
        write!(script, " | kill9 {n} | serving {} | ready {}", n + 2, n + 3).unwrap();
    }
    let log = run(&script);
    assert_eq!(log.matches("took over").count(), 1000);
    assert!(
        log.lines()
            .last()
            .is_some_and(|line| line == "ready 1002: -")
    );
}

#[test]
fn an_upgrade_goes_seat_by_seat_and_watches_each() {
    check(
        "up | upgrade | ready 3 | exit 2 0 | exit 0 0 | serving 3 | ready 4 | answered 3 | +500 | exit 1 0 | serving 4 \
         | ready 5 | answered 4 | +500",
        &[
            "upgrade: spawn 3 aux 3 new",
            "ready 3: handover 2, handover 0",
            "exit 2 0: -",
            "exit 0 0: assign 3 seat 0 recover",
            "serving 3: took over 0 by 3 after planned restart in 0ms, ring 3, spawn 4 aux 0* new",
            "ready 4: -",
            "answered 3: -",
            "+500: moved 0, handover 1",
            "exit 1 0: assign 4 seat 1 recover",
            "serving 4: took over 1 by 4 after planned restart in 0ms, ring 4, spawn 5 aux 1* new",
            "ready 5: -",
            "answered 4: -",
            "+500: moved 1, upgraded",
        ],
    );
}

#[test]
fn an_upgrade_whose_spare_dies_or_never_gets_ready_touches_no_seat() {
    check(
        "up | upgrade | exit 3 1",
        &[
            "upgrade: spawn 3 aux 3 new",
            "exit 3 1: goes back: its spare did not get ready (exit code 1), went back",
        ],
    );
    check(
        "up | upgrade | +15000 | kill9 3",
        &[
            "+15000: kill 3",
            "kill9 3: goes back: its spare did not get ready (hung, killed by the supervisor), went back",
        ],
    );
}

#[test]
fn a_worker_that_dies_in_an_upgrade_brings_all_back() {
    check(
        "up | upgrade | ready 3 | exit 2 0 | exit 0 0 | serving 3 | ready 4 | answered 3 | +500 | exit 1 0 | segv 4 \
         | ready 5 | serving 5 | ready 6 | exit 3 0 | serving 6 | ready 7",
        &[
            "segv 4: goes back: worker 1 died on it (SIGSEGV), spawn 5 aux 0*, spawn 6 aux 1*",
            "ready 5: assign 5 seat 1 recover suspect",
            "serving 5: took over 1 by 5 after planned restart in 0ms",
            "ready 6: handover 3",
            "exit 3 0: assign 6 seat 0 recover",
            "serving 6: took over 0 by 6 after planned restart in 0ms, spawn 7 aux 2*",
            "ready 7: went back",
        ],
    );
}

#[test]
fn a_worker_that_stays_silent_brings_all_back() {
    check(
        "up | upgrade | ready 3 | exit 2 0 | exit 0 0 | serving 3 | ready 4 | +1999 | +1 | kill9 4 | ready 5 | exit 3 0 \
         | serving 5 | ready 6",
        &[
            "+1999: -",
            "+1: kill 4, goes back: worker 0 does not answer on it, spawn 5 aux 2*",
            "kill9 4: -",
            "ready 5: handover 3",
            "exit 3 0: assign 5 seat 0 recover",
            "serving 5: took over 0 by 5 after planned restart in 0ms, spawn 6 aux 0*",
            "ready 6: went back",
        ],
    );
}

#[test]
fn a_death_of_an_old_worker_is_no_fault_of_the_new_program() {
    check(
        "up | upgrade | kill9 1 | serving 2 | ready 3 | exit 0 0 | serving 3 | answered 3 | +500 | ready 4 | exit 2 0 \
         | serving 4 | answered 4 | ready 5 | +500",
        &[
            "upgrade: spawn 3 aux 3 new",
            "kill9 1: assign 2 seat 1 recover",
            "serving 2: took over 1 by 2 after SIGKILL in 0ms",
            "ready 3: handover 0",
            "exit 0 0: assign 3 seat 0 recover",
            "serving 3: took over 0 by 3 after planned restart in 0ms, ring 3, spawn 4 aux 0* new",
            "answered 3: -",
            "+500: moved 0",
            "ready 4: handover 2",
            "exit 2 0: assign 4 seat 1 recover",
            "serving 4: took over 1 by 4 after planned restart in 0ms, ring 4, spawn 5 aux 1* new",
            "answered 4: -",
            "ready 5: -",
            "+500: moved 1, upgraded",
        ],
    );
}

#[test]
fn one_thing_at_a_time() {
    for (script, line) in [
        (
            "up | upgrade | upgrade",
            "upgrade: refused: another upgrade is under way",
        ),
        (
            "up | upgrade | restart 0",
            "restart 0: refused: an upgrade is under way",
        ),
        (
            "up | restart 0 | upgrade",
            "upgrade: refused: a restart is under way",
        ),
        (
            "start | upgrade",
            "upgrade: refused: the server is still starting",
        ),
        (
            "up | upgrade | stop",
            "stop: refused: the server is stopping, handover 0, handover 1, handover 2, handover 3",
        ),
    ] {
        check(script, &[line]);
    }
}

#[test]
fn a_finished_upgrade_can_be_taken_back() {
    check(
        "up | upgrade | ready 3 | exit 2 0 | exit 0 0 | serving 3 | ready 4 | answered 3 | +500 | exit 1 0 | serving 4 | ready 5 \
         | answered 4 | +500 | downgrade | kill9 5 | ready 6 | exit 3 0 | serving 6 | ready 7 | exit 4 0 | serving 7 | ready 8",
        &[
            "downgrade: kill 5, goes back: the supervisor could not go on with it, spawn 6 aux 2*",
            "kill9 5: -",
            "ready 6: handover 3",
            "exit 3 0: assign 6 seat 0 recover",
            "serving 6: took over 0 by 6 after planned restart in 0ms, spawn 7 aux 1*",
            "ready 7: handover 4",
            "exit 4 0: assign 7 seat 1 recover",
            "serving 7: took over 1 by 7 after planned restart in 0ms, spawn 8 aux 0*",
            "ready 8: went back",
        ],
    );
}

#[test]
fn a_process_that_hangs_has_a_moment_to_tell_where() {
    check(
        "up | hangs 0 | hangs 0 | +999 | +1 | kill9 0",
        &[
            "hangs 0: -",
            "+999: -",
            "+1: kill 0",
            "kill9 0: assign 2 seat 0 recover suspect",
        ],
    );
    // It has told and ended itself.
    check(
        "up | hangs 0 | kill9 0",
        &["kill9 0: assign 2 seat 0 recover suspect"],
    );
}

#[test]
fn a_process_that_was_stopped_is_no_suspect() {
    check(
        "up | stopped 0 | kill9 0",
        &["stopped 0: kill 0", "kill9 0: assign 2 seat 0 recover"],
    );
}

#[test]
fn adopted_workers_go_on() {
    check(
        "serving 0 | serving 1 | spare >> start | kill9 10 | serving 12",
        &[
            "start: all serving",
            "kill9 10: assign 12 seat 0 recover",
            "serving 12: took over 0 by 12 after SIGKILL in 0ms, spawn 20 aux 0*",
        ],
    );
}

#[test]
fn what_has_no_living_owner_is_recovered_first() {
    check(
        "serving 0 | gone | spare >> start | serving 12",
        &[
            "start: assign 12 seat 1 recover",
            "serving 12: took over 1 by 12 after unknown: nobody watched in 0ms, all serving, spawn 20 aux 1*",
        ],
    );
    check(
        "gone | serving 1 | gone >> start | ready 21 | serving 21",
        &[
            "start: spawn 20 aux 0*, spawn 21 aux 2*",
            "ready 21: assign 21 seat 0 recover",
            "serving 21: took over 0 by 21 after unknown: nobody watched in 0ms, all serving",
        ],
    );
}

#[test]
fn nobody_survived() {
    check(
        "gone | gone | fresh >> start | ready 20 | ready 21",
        &[
            "start: spawn 20 aux 0*, spawn 21 aux 1*, spawn 22 aux 2",
            "ready 20: assign 20 seat 0 recover",
            "ready 21: assign 21 seat 1 recover",
        ],
    );
}

#[test]
fn a_silent_one_dies_before_its_seat_is_given_away() {
    check(
        "serving 0 | silent 1 | spare >> start | kill9 11",
        &["start: kill 11", "kill9 11: assign 12 seat 1 recover"],
    );
    check(
        "serving 0 | serving 1 | silent >> start | kill9 12",
        &["start: kill 12, all serving, spawn 20 aux 3", "kill9 12: -"],
    );
}

#[test]
fn a_take_over_under_way_ends_as_it_would_have() {
    check(
        "serving 0 | assigned 1 | spare >> start | serving 11",
        &["start: -", "serving 11: all serving"],
    );
    check(
        "serving 0 | assigned 1 | spare >> start | +30001",
        &["start: -", "+30001: kill 11"],
    );
}

#[test]
fn figures_go_on_where_the_arena_keeps_them() {
    let fleet = adopted("serving 0 | gone | spare");
    let [served, vacant] = fleet.seats() else {
        panic!("two seats")
    };
    assert_eq!(
        (served.restarts, served.last_exit),
        (4, Some(Cause::Planned))
    );
    assert_eq!(
        (vacant.restarts, vacant.last_exit),
        (5, Some(Cause::Unwatched))
    );
}

#[test]
fn an_adopted_fleet_restarts_and_stops_like_any_other() {
    check(
        "serving 0 | serving 1 | spare >> start | restart 1 | exit 11 0 | stop",
        &[
            "start: all serving",
            "restart 1: handover 11",
            "exit 11 0: assign 12 seat 1 recover",
            "stop: refused: the server is stopping, handover 10, handover 12",
        ],
    );
}

#[test]
fn workers_stand_by_and_serve_again() {
    check(
        "up | standby | stoodby 1 | +20 | stoodby 0 | resume | serving 0 | serving 1",
        &[
            "standby: standby 0, standby 1",
            "stoodby 1: -",
            "+20: -",
            "stoodby 0: all stood by",
            "resume: assign 0 seat 0 recover, assign 1 seat 1 recover",
            "serving 0: took over 0 by 0 after planned restart in 20ms",
            "serving 1: took over 1 by 1 after planned restart in 20ms",
        ],
    );
    check(
        "up | standby | stoodby 1 | resume | stoodby 0",
        &[
            "resume: assign 1 seat 1 recover",
            "stoodby 0: assign 0 seat 0 recover",
        ],
    );
}

#[test]
fn a_death_while_they_stand_by_is_told_and_taken_over_after_the_resume() {
    check(
        "up | standby | segv 0 | kill9 2 | stoodby 1 | resume | ready 3",
        &[
            "segv 0: broken",
            "kill9 2: -",
            "stoodby 1: -",
            "resume: assign 1 seat 1 recover, spawn 3 aux 0*, spawn 4 aux 2*",
            "ready 3: assign 3 seat 0 recover suspect",
        ],
    );
    check(
        "up | standby | +2000 | kill9 0",
        &["+2000: kill 0, kill 1", "kill9 0: broken"],
    );
    check(
        "up | standby | restart all | upgrade | stop",
        &[
            "restart all: refused: the server is moving to another arena",
            "upgrade: refused: the server is moving to another arena",
            "stop: handover 0, handover 1, handover 2",
        ],
    );
}

#[test]
fn a_successor_gathers_and_takes_all_seats_at_once() {
    let first = Fleet::new(2, Fleet::aux_wanted(2), Patience::default());
    let next = || first.successor(50, Image(1), Patience::default());
    let script = "start | ready 50 | ready 51 | ready 52 | +9 | go | +7 | serving 50 | serving 51";
    let lines = "\
start: spawn 50 aux 0 new, spawn 51 aux 1 new, spawn 52 aux 2 new
ready 50: -
ready 51: -
ready 52: gathered
+9: -
go: assign 50 seat 0 recover, assign 51 seat 1 recover
+7: -
serving 50: took over 0 by 50 after planned restart in 7ms
serving 51: took over 1 by 51 after planned restart in 7ms, all serving
";
    assert_eq!(run_on(next(), script), lines);
    let log = run_on(next(), "start | segv 50 | segv 51 | segv 52");
    assert!(log.trim_end().ends_with("give up"), "{log}");
}
