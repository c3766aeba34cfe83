//! Destinations whose URI has a host name, with unbound as the name server.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use blackbox::{
    machine::{eventually, free_port, fresh_address, shared},
    server::{DEFAULT, LIMIT, Server},
    unbound::Unbound,
};

use super::{
    got,
    site::{Caller, Plan, Site},
};

/// A record of a site: its name is that of its place in the list.
fn records(sites: &[Site], services: &[(usize, u16, u16)]) -> Vec<String> {
    let mut records = Vec::new();
    for (number, site) in sites.iter().enumerate() {
        records.push(format!("s{number}.far.test. 1 IN A {}", site.address.ip()));
    }
    for (number, priority, weight) in services {
        let port = sites[*number].address.port();
        records.push(format!(
            "_sip._udp.site.far.test. 1 IN SRV {priority} {weight} {port} s{number}.far.test."
        ));
    }
    records
}

fn uris(server: &Server) -> Vec<String> {
    let list = server.json(&["destinations", "list"]);
    let lines = list.as_array().expect("a list").iter();
    let mut uris: Vec<String> = lines
        .map(|line| line["uri"].as_str().expect("a text").to_owned())
        .collect();
    uris.sort();
    uris
}

#[track_caller]
fn wait_for(server: &Server, sites: &[&Site]) {
    let mut wanted: Vec<String> = sites.iter().map(|site| site.uri()).collect();
    wanted.sort();
    eventually("the addresses of the name", LIMIT, || {
        (uris(server) == wanted).then_some(())
    });
}

#[test]
fn a_name_is_followed_as_it_changes() {
    let _shared = shared();
    let sites = [Site::start(), Site::start(), Site::start(), Site::start()];
    let ip: Ipv4Addr = fresh_address();
    let address = SocketAddr::from((ip, free_port(ip)));
    let unbound = Unbound::start_at(
        address,
        &records(&sites, &[(0, 1, 30), (1, 1, 10), (3, 5, 1)]),
    );
    let server = Server::start_with(&format!(
        "{DEFAULT}\n[dns]\nservers = [\"{address}\"]\nttl_min = \"0s\"\nstale_max = \"1m\"\n\
         [[group]]\nname = \"g\"\npolicy = \"weighted\"\nslow_start = \"1h\"\n\
         destinations = [{{ uri = \"sip:site.far.test\" }}]\nprobe = {{ interval = \"200ms\", timeout = \"1s\" }}\n\
         [[route]]\nto = \"group:g\"\n"
    ));
    wait_for(&server, &[&sites[0], &sites[1], &sites[3]]);
    for line in server
        .json(&["destinations", "list"])
        .as_array()
        .expect("a list")
    {
        assert_eq!(line["name"], "sip:site.far.test");
    }
    let caller = Caller::new(fresh_address(), server.address());
    let plan = |calls| Plan {
        calls,
        window: 4,
        hang_up: true,
    };
    // Both slots know of it within their next look.
    eventually("the weights of the records", LIMIT, || {
        let before = got(&sites);
        assert_eq!(caller.call(plan(40), |_, _| ()).of(200), 40);
        let more: Vec<usize> = got(&sites).iter().zip(before).map(|(a, b)| a - b).collect();
        (more == [30, 10, 0, 0]).then_some(())
    });
    // Each is probed for itself.
    eventually("probes", LIMIT, || {
        let probes: Vec<u64> = sites.iter().map(Site::probes).collect();
        (probes[0] > 2 && probes[1] > 2 && probes[3] > 2 && probes[2] == 0).then_some(())
    });
    // One leaves, another comes: calls of the first go on, and the new one starts slowly.
    let up = caller.call(
        Plan {
            hang_up: false,
            ..plan(8)
        },
        |_, _| (),
    );
    drop(unbound);
    let unbound = Unbound::start_at(address, &records(&sites, &[(1, 1, 10), (2, 1, 10)]));
    wait_for_members(&server, &[&sites[1], &sites[2]]);
    eventually("the new share", LIMIT, || {
        let before = got(&sites);
        assert_eq!(caller.call(plan(34), |_, _| ()).of(200), 34);
        let more: Vec<usize> = got(&sites).iter().zip(before).map(|(a, b)| a - b).collect();
        (more == [0, 32, 2, 0]).then_some(())
    });
    caller.hang_up(&up.up);
    wait_for(&server, &[&sites[1], &sites[2]]);
    // The name server is gone: what is known is kept.
    drop(unbound);
    let before = got(&sites);
    eventually("some time without answers", Duration::from_secs(30), || {
        assert_eq!(caller.call(plan(34), |_, _| ()).of(200), 34);
        (server.counter("dns.timeouts") + server.counter("dns.stale") > 0).then_some(())
    });
    wait_for(&server, &[&sites[1], &sites[2]]);
    assert_eq!(got(&sites)[0], before[0]);
    // The name stands for all of its addresses.
    server.run(&["destinations", "disable", "g", "sip:site.far.test"]);
    assert_eq!(caller.call(plan(2), |_, _| ()).of(503), 2);
    server.run(&["destinations", "enable", "g", "sip:site.far.test"]);
    assert_eq!(caller.call(plan(2), |_, _| ()).of(200), 2);
    assert!(server.stop().success());
}

/// Those that new calls go to; one that has left may still have calls.
#[track_caller]
fn wait_for_members(server: &Server, sites: &[&Site]) {
    let mut wanted: Vec<String> = sites.iter().map(|site| site.uri()).collect();
    wanted.sort();
    eventually("other addresses", LIMIT, || {
        let list = server.json(&["destinations", "list"]);
        let lines = list.as_array().expect("a list").iter();
        let mut uris: Vec<String> = lines
            .filter(|line| line["mode"] != "removed")
            .map(|line| line["uri"].as_str().expect("a text").to_owned())
            .collect();
        uris.sort();
        (uris == wanted).then_some(())
    });
}
