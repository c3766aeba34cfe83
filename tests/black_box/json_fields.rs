//! docs/json.md against what the commands print.

use std::collections::{BTreeMap, BTreeSet};

use blackbox::machine::{eventually, shared};
use blackbox::server::{DEFAULT, LIMIT, Server};
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../docs/json.md");

/// Fields by command, as listed.
fn listed() -> BTreeMap<String, BTreeSet<String>> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut command = None;
    for line in DOCUMENT.lines() {
        if let Some(heading) = line.strip_prefix("## `tandem ") {
            let name = heading.strip_suffix('`').expect("a heading is one command");
            assert!(all.insert(name.to_owned(), BTreeSet::new()).is_none());
            command = Some(name.to_owned());
        } else if let Some(field) = line.strip_prefix("| `") {
            let (field, _) = field.split_once('`').expect("a field ends");
            let command = command.as_ref().expect("a table has a heading");
            assert!(
                all.get_mut(command)
                    .is_some_and(|fields| fields.insert(field.to_owned())),
                "{command}: {field} twice"
            );
        }
    }
    all
}

/// Every field, by its path; the same in each object of a list.
fn fields(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let dot = if path.is_empty() { "" } else { "." };
                fields(value, &format!("{path}{dot}{name}"), into);
            }
        }
        Value::Array(all) if all.iter().any(Value::is_object) => {
            let sets = all.iter().map(|element| {
                let mut set = BTreeSet::new();
                fields(element, &format!("{path}[]"), &mut set);
                set
            });
            let sets: BTreeSet<BTreeSet<String>> = sets.collect();
            assert_eq!(sets.len(), 1, "{path}: fields that are not always there");
            into.extend(sets.into_iter().flatten());
        }
        _ => {
            into.insert(path.to_owned());
        }
    }
}

/// Commands that their help says to have `--json`.
fn with_json(server: &Server, prefix: &[&str], into: &mut BTreeSet<String>) {
    let help = server.run(&[prefix, &["--help"]].concat());
    if help.contains("--json") {
        into.insert(prefix.join(" "));
    }
    let rest = help.split("Commands:\n").nth(1).unwrap_or_default();
    for line in rest.lines().take_while(|line| line.starts_with("  ")) {
        let name = line.split_whitespace().next().unwrap_or_default();
        // Deeper lines go on with the description above.
        if line.starts_with("   ") || name == "help" {
            continue;
        }
        with_json(server, &[prefix, &[name]].concat(), into);
    }
}

#[test]
fn every_field_is_listed_and_nothing_else() {
    let _shared = shared();
    let group = "[[group]]\nname = \"g\"\ndestinations = [ { uri = \"sip:{ip}:9\" } ]\n\
                 [[route]]\nmatch = { user = \"^9\" }\nto = \"group:g\"\n";
    let server = Server::start_with_failpoints(
        &format!("{DEFAULT}{group}"),
        "worker.begun=segv-if:X-Poison",
    );
    let media = server.json(&["destinations", "list"])[0]["uri"]
        .as_str()
        .expect("a destination")
        .to_owned();
    let destination = ["g", media.as_str(), "--json"];
    let phone = server.ua("alice");
    assert_eq!(phone.register(300).status(), 200);
    let to = format!("sip:{}", server.address());
    phone.send(&phone.request("OPTIONS", &to).with("X-Poison", "yes"));
    let poisoned = eventually("a message in quarantine", LIMIT, || {
        let list = server.json(&["quarantine", "list"]);
        list[0]["id"].as_str().map(str::to_owned)
    });
    server.wait_ready();
    let aor = server.json(&["registrations", "list"])[0]["aor"]
        .as_str()
        .expect("a registration")
        .to_owned();
    let callee = server.ua("bob");
    assert_eq!(callee.register(300).status(), 200);
    phone.send(&phone.invite(&format!("sip:bob@{}", blackbox::server::DOMAIN)));
    let call = eventually("a call", LIMIT, || {
        let list = server.json(&["calls", "list"]);
        list[0]["id"].as_str().map(str::to_owned)
    });
    let wrong = server.state().with_file_name("wrong.toml");
    std::fs::write(&wrong, "no_such_key = 1\n").expect("a file");
    let wrong = wrong.display().to_string();
    let users = server.state().with_file_name("users.csv");
    std::fs::write(&users, "").expect("a file");
    let users = users.display().to_string();
    let bob = format!("bob@{}", blackbox::server::DOMAIN);
    let secret = ["--password", "a long secret", "--json"];
    // In an order in which each has something to show.
    let commands: Vec<(&str, Vec<&str>)> = vec![
        ("check", vec!["--config", &wrong, "--json"]),
        ("status", vec!["--json"]),
        ("stats", vec!["--json"]),
        ("registrations list", vec!["--json"]),
        ("registrations show", vec![&aor, "--json"]),
        ("registrations remove", vec![&aor, "--json"]),
        ("topology rotate", vec!["--json"]),
        ("user add", [&[bob.as_str()], &secret[..]].concat()),
        ("user set", [&[bob.as_str()], &secret[..]].concat()),
        ("user list", vec!["--json"]),
        ("user remove", vec![&bob, "--json"]),
        ("user import", vec![&users, "--json"]),
        ("calls list", vec!["--json"]),
        ("calls show", vec![&call, "--json"]),
        ("calls follow", vec!["--limit", "1", "--json"]),
        ("calls end", vec![&call, "--json"]),
        ("destinations list", vec!["--json"]),
        ("destinations enable", destination.to_vec()),
        ("destinations disable", destination.to_vec()),
        ("destinations drain", destination.to_vec()),
        ("destinations weight", [&destination[..], &["7"]].concat()),
        ("route test", vec!["4930", "--json"]),
        ("quarantine list", vec!["--json"]),
        ("quarantine show", vec![&poisoned, "--json"]),
        ("quarantine clear", vec!["--json"]),
        ("audit", vec!["--json"]),
        ("about", vec!["--json"]),
    ];
    let mut listed = listed();
    let mut offered = BTreeSet::from(["about".to_owned()]);
    with_json(&server, &[], &mut offered);
    let names: BTreeSet<String> = commands
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(names, offered, "every command that has --json is tried");
    for (name, arguments) in commands {
        let words: Vec<&str> = name.split(' ').chain(arguments).collect();
        let out = server.command(&words);
        let printed: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|error| {
            panic!("{name}: {error}: {}", String::from_utf8_lossy(&out.stderr))
        });
        let mut found = BTreeSet::new();
        fields(&printed, "", &mut found);
        let wanted = listed.remove(name).unwrap_or_default();
        assert_eq!(found, wanted, "{name} (left: printed, right: docs/json.md)");
    }
    assert!(listed.is_empty(), "no such command: {listed:?}");
    assert!(server.stop().success());
}
