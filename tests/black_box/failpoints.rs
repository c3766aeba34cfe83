//! Deaths at the named steps of an upgrade, a move to another arena and an adoption: whoever dies there, the registrations are there
//! afterwards, the server serves, and its memory is in order. The points of the arena itself: `shm/tests/points.rs`.

use std::time::Instant;

use blackbox::binary::{tandem_with_another_layout, tandem_with_failpoints};
use blackbox::machine::{eventually, process, shared};
use blackbox::manager::Manager;
use blackbox::server::{DEFAULT, LIMIT, Server};

use crate::load::Registrations;

/// What is going on when somebody dies.
#[derive(Clone, Copy, Debug)]
enum During {
    Upgrade,
    /// Of the arena, by a raised limit.
    Move,
    Adoption,
}

fn begin(server: &mut Server, during: During) {
    match during {
        During::Upgrade => {
            let program = tandem_with_failpoints().to_str().expect("UTF-8");
            server.begin(&["upgrade", program]);
        }
        During::Move => {
            server.write_config(&DEFAULT.replace("64MiB", "96MiB"));
            server.begin(&["reload"]);
        }
        During::Adoption => {
            server.kill_supervisor();
            server.run_again();
        }
    }
}

/// The new arena serves, and workers of the old one still stand by.
const TWO_FLEETS: [&str; 3] = [
    "supervisor.switch.concluding",
    "supervisor.switch.one_let_go",
    "supervisor.switch.serves",
];

fn supervisor_dies(server: &Server) {
    eventually("the supervisor's death", LIMIT, || {
        process(server.supervisor())
            .is_none_or(|p| p.state == 'Z')
            .then_some(())
    });
}

/// Has this point kill whoever meets it first, process by process.
fn die(point: &str, during: During) {
    let begun = Instant::now();
    let plan = format!("{point}=kill");
    let line = format!("failpoint {point}: Kill");
    let mut server = if point.starts_with("orphan.") {
        die_as_orphan(&plan, &line)
    } else {
        let mut server = Server::start_with_failpoints(DEFAULT, &plan);
        Registrations::make(&server, 10);
        if !point.starts_with("supervisor.adopt") {
            server.forget_failpoints();
        }
        begin(&mut server, during);
        eventually(&line, LIMIT, || server.log().contains(&line).then_some(()));
        server
    };
    let mut phones = 10;
    if point.starts_with("supervisor.") || point.starts_with("succession.") {
        supervisor_dies(&server);
        if TWO_FLEETS.contains(&point) {
            // In the new arena alone: whoever goes on with the old one has lost it.
            assert_eq!(server.ua("late").register(300).status(), 200, "{point}");
            phones += 1;
        }
        server.forget_failpoints();
        server.kill_supervisor();
        server.run_again();
    }
    server.wait_ready();
    if matches!(during, During::Move) && point.starts_with("supervisor.") {
        // By the dead supervisor, or by a move of the new one, in which a worker that is asked may have to go.
        eventually("the larger arena", LIMIT, || {
            let limit = server.try_status()?["arena"]["limit"].as_u64();
            (limit == Some(96 << 20)).then_some(())
        });
        server.wait_ready();
    }
    let audit = server.command(&["audit"]);
    let said = String::from_utf8_lossy(&audit.stdout).into_owned();
    assert!(audit.status.success(), "{point}: {said}\n{}", server.log());
    assert_eq!(
        server.number("registrations"),
        phones,
        "{point}: {}",
        server.log()
    );
    assert!(server.stop().success(), "{point}");
    println!("{point}: {:?}", begun.elapsed());
}

/// Supervisors come and go, until an orphan has died. If all did, nothing would be left: only those have the point that a supervisor with it has started, which is
/// everybody but the one that was its spare.
fn die_as_orphan(plan: &str, line: &str) -> Server {
    let mut server = Server::start_with_failpoints(DEFAULT, "");
    Registrations::make(&server, 10);
    server.set_failpoints(plan);
    begin(&mut server, During::Adoption);
    server.wait_ready();
    server.run(&["restart", "--all"]);
    server.wait_ready();
    server.forget_failpoints();
    for _ in 0..20 {
        begin(&mut server, During::Adoption);
        server.wait_ready();
        if server.log().contains(line) {
            return server;
        }
    }
    panic!("not within 20 adoptions: {line}");
}

/// Every point of these steps that there is, by who is doing what.
fn points() -> Vec<(&'static str, During)> {
    let during = |name: &str| match name.split('.').collect::<Vec<_>>()[..] {
        ["supervisor", "upgrade", _] | ["succession", "leaving"] => Some(During::Upgrade),
        ["supervisor", "switch", _] | ["carry", _] => Some(During::Move),
        ["supervisor", "adopt", _] | ["orphan", _] => Some(During::Adoption),
        _ => None,
    };
    let all = failpoint::NAMES.iter();
    all.filter_map(|name| Some((*name, during(name)?)))
        .collect()
}

fn all_of(wanted: impl Fn(During) -> bool) {
    let _shared = shared();
    let points = points();
    let chosen = points.iter().filter(|(_, during)| wanted(*during));
    let mut died = 0;
    for (point, during) in chosen {
        die(point, *during);
        died += 1;
    }
    assert!(died > 3, "{died}");
}

#[test]
fn deaths_during_an_upgrade() {
    all_of(|during| matches!(during, During::Upgrade));
}

#[test]
fn deaths_during_a_move() {
    all_of(|during| matches!(during, During::Move));
}

#[test]
fn deaths_during_an_adoption() {
    all_of(|during| matches!(during, During::Adoption));
}

/// The supervisor dies while it moves to a program that lays out the arena in another way, or right behind it. Each of the two programs can go on with an arena of
/// its own only: the one whose arena lives takes over with everything, and the other one is refused, and does no harm.
#[test]
fn the_supervisor_dies_during_an_upgrade_to_another_layout() {
    let (old, new) = (tandem_with_failpoints(), tandem_with_another_layout());
    let _shared = shared();
    let of_a_move = |name: &&&str| name.starts_with("supervisor.switch.");
    let points = failpoint::NAMES.iter().filter(of_a_move).copied();
    let mut moved = 0;
    for point in points.chain(["succession.leaving"]) {
        let begun = Instant::now();
        let mut server = Server::start_with_failpoints(DEFAULT, &format!("{point}=kill"));
        Registrations::make(&server, 10);
        server.begin(&["upgrade", new.to_str().expect("UTF-8")]);
        supervisor_dies(&server);
        // From the moment on at which one of its slots is given away it is the new one.
        let serves = TWO_FLEETS.contains(&point) || point == "succession.leaving";
        let is_new = serves || point == "supervisor.switch.assigned";
        let mut phones = 10;
        if serves {
            assert_eq!(server.ua("late").register(300).status(), 200, "{point}");
            (phones, moved) = (phones + 1, moved + 1);
        }
        server.forget_failpoints();
        server.kill_supervisor();
        server.set_program(if is_new { old } else { new });
        server.run_again();
        assert!(!server.wait_exit().success(), "{point}: {}", server.log());
        let log = server.log();
        let refused = "start the `tandem` that they were started with";
        assert!(log.contains(refused), "{point}: {log}");
        server.set_program(if is_new { new } else { old });
        server.run_again();
        server.wait_ready();
        let version = server.status()["version"].to_string();
        assert_eq!(
            version.contains("layout-probe"),
            is_new,
            "{point}: {version}"
        );
        let audit = server.command(&["audit"]);
        assert!(
            audit.status.success(),
            "{point}: {audit:?}\n{}",
            server.log()
        );
        let found = server.number("registrations");
        assert_eq!(found, phones, "{point}: {}", server.log());
        assert!(server.stop().success(), "{point}");
        println!("{point}, with another layout: {:?}", begun.elapsed());
    }
    assert!(moved > 3, "{moved}");
}

/// The service manager keeps both arenas meanwhile: with everybody dead it is the new one if it has served anything, else the old one.
#[test]
fn everybody_dies_during_a_move_but_the_descriptor_store() {
    let _shared = shared();
    let old = ["supervisor.switch.halting", "supervisor.switch.copied"];
    for point in TWO_FLEETS.into_iter().chain(old) {
        let manager = Manager::start();
        let (socket, plan) = (manager.socket(), format!("{point}=kill"));
        let environment = [
            ("NOTIFY_SOCKET", socket.as_str()),
            ("TANDEM_FAILPOINTS", plan.as_str()),
        ];
        let mut server = Server::spawn_planned_with_env(DEFAULT, &environment);
        server.wait_ready();
        Registrations::make(&server, 10);
        begin(&mut server, During::Move);
        supervisor_dies(&server);
        let mut phones = 10;
        if TWO_FLEETS.contains(&point) {
            assert_eq!(server.ua("late").register(300).status(), 200, "{point}");
            phones += 1;
        }
        server.kill_all();
        server.forget_failpoints();
        server.run_again_by(&manager);
        server.wait_ready();
        let found = server.number("registrations");
        assert_eq!(found, phones, "{point}: {}", server.log());
        eventually("one arena is stored", LIMIT, || {
            let names = manager.names();
            let arenas = names.iter().filter(|name| name.starts_with("arena-"));
            (arenas.count() == 2).then_some(())
        });
        assert!(server.stop().success(), "{point}");
    }
}
