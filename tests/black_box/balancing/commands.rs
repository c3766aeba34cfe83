//! `tandem destinations`.

use blackbox::{
    machine::{eventually, fresh_address, shared},
    server::{LIMIT, Server},
};

use super::{
    config, got, server,
    site::{Caller, Plan, Report, Site},
};

fn call(server: &Server, calls: usize, hang_up: bool) -> (Caller, Report) {
    let caller = Caller::new(fresh_address(), server.address());
    let plan = Plan {
        calls,
        window: 4,
        hang_up,
    };
    let report = caller.call(plan, |_, _| ());
    (caller, report)
}

#[track_caller]
fn refused(server: &Server, arguments: &[&str], because: &str) {
    let out = server.command(&[&["destinations"], arguments].concat());
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains(because), "{said}");
}

#[test]
fn the_operator_has_the_last_word() {
    let _shared = shared();
    let sites = [Site::start(), Site::start()];
    let group = "policy = \"weighted\"\ndestinations = [{ uri = \"{0}\", capacity = 500 }, { uri = \"{1}\" }]";
    let server = server(&sites, group);
    let (one, two) = (sites[0].uri(), sites[1].uri());
    let listed = server.run(&["destinations", "list"]);
    assert!(
        listed.contains(&one) && listed.contains("500") && listed.contains("2 destinations"),
        "{listed}"
    );
    let (caller, up) = call(&server, 10, false);
    assert_eq!(got(&sites), [5, 5]);

    // Draining: what it has goes on, nothing new comes.
    server.run(&["destinations", "drain", "g", &one]);
    call(&server, 10, true);
    assert_eq!(got(&sites), [5, 15]);
    assert_eq!(sites[0].seen().live.len(), 5);
    let line = |field: &str| server.json(&["destinations", "list"])[0][field].clone();
    assert_eq!((line("mode"), line("calls")), ("draining".into(), 5.into()));
    caller.hang_up(&up.up);
    eventually("it is empty", LIMIT, || (line("calls") == 0).then_some(()));

    // A reload changes nothing of it.
    server.write_config(&(config(&sites, group) + "\n[registrar]\nbindings_max = 9\n"));
    server.reload();
    assert_eq!(line("mode"), "draining");
    call(&server, 4, true);
    assert_eq!(got(&sites), [5, 19]);

    // Written without the scheme, too.
    server.run(&["destinations", "enable", "g", &sites[0].address.to_string()]);
    server.run(&["destinations", "weight", "g", &one, "3"]);
    assert_eq!(
        (line("weight"), line("weight_configured")),
        (3.into(), 1.into())
    );
    call(&server, 40, true);
    assert_eq!(got(&sites), [35, 29]);
    server.run(&["destinations", "weight", "g", &one, "default"]);
    call(&server, 40, true);
    assert_eq!(got(&sites), [55, 49]);

    server.run(&["destinations", "disable", "g", &one]);
    server.run(&["destinations", "disable", "g", &two]);
    let (_, report) = call(&server, 2, true);
    assert_eq!(report.of(503), 2, "nobody is left");

    refused(
        &server,
        &["drain", "g", "sip:192.0.2.1"],
        "no destination sip:192.0.2.1",
    );
    refused(&server, &["drain", "h", &one], "no group \"h\"");
    refused(&server, &["list", "--group", "h"], "no group \"h\"");
    refused(&server, &["weight", "g", &one, "0"], "1 to 1000");
    assert!(server.stop().success());
}

/// What leaves the configuration with calls is shown until they have ended, and is forgotten then.
#[test]
fn a_reload_takes_one_away() {
    let _shared = shared();
    let sites = [Site::start(), Site::start()];
    let both = config(
        &sites,
        "destinations = [{ uri = \"{0}\" }, { uri = \"{1}\" }]",
    );
    let server = Server::start_with(&both);
    let (caller, up) = call(&server, 10, false);
    server.run(&["destinations", "disable", "g", &sites[1].uri()]);
    server.write_config(&config(&sites, "destinations = [{ uri = \"{0}\" }]"));
    server.reload();
    let mode = || {
        let list = server.json(&["destinations", "list"]);
        list[1]["mode"].as_str().map(str::to_owned)
    };
    eventually("it is on its way out", LIMIT, || {
        (mode()? == "removed").then_some(())
    });
    call(&server, 10, true);
    assert_eq!(got(&sites), [15, 5]);
    caller.hang_up(&up.up);
    eventually("it is gone", LIMIT, || mode().is_none().then_some(()));
    // Back again, it is as new: what was said of it is forgotten.
    server.write_config(&both);
    server.reload();
    assert_eq!(mode().as_deref(), Some("enabled"));
    call(&server, 10, true);
    assert_eq!(got(&sites), [20, 10]);
    assert!(server.stop().success());
}
