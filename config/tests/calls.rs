//! `[calls]`, `[[profile]]` and the keys of a domain about its calls.

use std::{fmt::Write, time::Duration};

use expect_test::{Expect, expect};

fn load(text: &str) -> config::Config {
    config::load(text, "calls.toml")
        .expect("a good configuration")
        .0
}

fn check(text: &str, expected: Expect) {
    let problems = match config::load(text, "calls.toml") {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems,
    };
    let mut shown = String::new();
    for problem in problems {
        writeln!(shown, "{problem}").unwrap();
    }
    expected.assert_eq(&shown);
}

#[test]
fn a_domain_says_otherwise() {
    let config = load(
        r#"
        [calls]
        duration_max = "4h"
        session_expires = "30min"
        probe_interval = "1min"
        [[domain]]
        name = "one.example"
        [[domain]]
        name = "two.example"
        calls_max = 10
        user_calls_max = 2
        duration_max = "none"
        session_expires = "10min"
        session_min = "2min"
        probe_interval = "none"
        probe_failures = 5
        "#,
    );
    let [one, two] = ["one.example", "two.example"].map(|name| {
        let domain = config.domain(name).expect("it is there");
        (domain.calls.calls_max, domain.calls.over(&config.calls))
    });
    let minutes = |n: u64| Duration::from_secs(60 * n);
    assert_eq!(one.0, None);
    assert_eq!(one.1.duration_max, Some(minutes(240)));
    assert_eq!(one.1.session_expires, Some(minutes(30)));
    assert_eq!(one.1.session_min, Duration::from_secs(90));
    assert_eq!(
        (one.1.probe_interval, one.1.probe_failures),
        (Some(minutes(1)), 2)
    );
    assert_eq!(two.0, Some(10));
    assert_eq!(two.1.duration_max, None);
    assert_eq!(two.1.session_expires, Some(minutes(10)));
    assert_eq!(two.1.session_min, minutes(2));
    assert_eq!((two.1.probe_interval, two.1.probe_failures), (None, 5));
}

#[test]
fn problems() {
    check(
        r#"
[calls]
record = false
session_expires = "10s"
duration_max = "0s"

[[profile]]
name = "out"

[[profile]]
name = "out"
calls_max = 3
code = 200

[[domain]]
name = "one.example"
record_route = false
calls_max = 1

[[domain]]
name = "two.example"
user_calls_max = -1
session_expires = "100s"
session_min = "200s"

[[route]]
to = "location"
profile = "ut"
"#,
        expect![[r#"
            error: `calls.session_expires` must be 1m 30s to 1day
             --> calls.toml:4:19
              |
            4 | session_expires = "10s"
              |                   ^^^^^
              = help: choose a duration from 1m 30s to 1day
            warning: `calls.session_expires` does nothing: calls have no record
             --> calls.toml:4:19
              |
            4 | session_expires = "10s"
              |                   ^^^^^
              = help: set calls.record = true, or remove it
            error: `calls.duration_max` must be 1s to 30days
             --> calls.toml:5:16
              |
            5 | duration_max = "0s"
              |                ^^^^
              = help: choose a duration from 1s to 30days
            warning: `calls.duration_max` does nothing: calls have no record
             --> calls.toml:5:16
              |
            5 | duration_max = "0s"
              |                ^^^^
              = help: set calls.record = true, or remove it
            error: `profile.calls_max` is missing
             --> calls.toml:7:1
              |
            7 | [[profile]]
              | ^^^^^^^^^^^
              = help: write for example: calls_max = 30
            error: `profile.name` "out" is there already
              --> calls.toml:11:8
               |
            11 | name = "out"
               |        ^^^^^
               = help: remove one of the two [[profile]]
            error: `profile.code` must be 400 to 699, not 200
              --> calls.toml:13:8
               |
            13 | code = 200
               |        ^^^
               = help: choose a number from 400 to 699
            warning: `domain.calls_max` does nothing: the calls of this domain do not pass through us to their end
              --> calls.toml:18:13
               |
            18 | calls_max = 1
               |             ^
               = help: set record_route = true, or remove it
            error: `domain.user_calls_max` must be 0 to 10000000, not -1
              --> calls.toml:22:18
               |
            22 | user_calls_max = -1
               |                  ^^
               = help: choose a number from 0 to 10000000
            warning: `domain.user_calls_max` does nothing: calls have no record
              --> calls.toml:22:18
               |
            22 | user_calls_max = -1
               |                  ^^
               = help: set calls.record = true, or remove it
            error: `domain.session_expires` leaves session_expires shorter than session_min
              --> calls.toml:23:19
               |
            23 | session_expires = "100s"
               |                   ^^^^^^
               = help: raise session_expires, or lower session_min
            warning: `domain.session_expires` does nothing: calls have no record
              --> calls.toml:23:19
               |
            23 | session_expires = "100s"
               |                   ^^^^^^
               = help: set calls.record = true, or remove it
            error: `route.profile` there is no profile "ut"
              --> calls.toml:28:11
               |
            28 | profile = "ut"
               |           ^^^^
               = help: did you mean "out"?
            warning: `route.profile` does nothing: calls have no record
              --> calls.toml:28:11
               |
            28 | profile = "ut"
               |           ^^^^
               = help: set calls.record = true, or remove it
        "#]],
    );
    check(
        r#"
[calls]
record = false
[[domain]]
name = "one.example"
calls_max = 1
[[profile]]
name = "idle"
calls_max = 3
"#,
        expect![[r#"
            warning: `domain.name` "one.example" asks for a password, but no [[user]] has one there: nobody can register but users of `tandem user`
             --> calls.toml:5:8
              |
            5 | name = "one.example"
              |        ^^^^^^^^^^^^^
              = help: add a [[user]] with a name like "alice@one.example", or run `tandem user add alice@one.example`
            warning: `domain.calls_max` does nothing: calls have no record
             --> calls.toml:6:13
              |
            6 | calls_max = 1
              |             ^
              = help: set calls.record = true, or remove it
            warning: `profile.name` "idle" is used by nothing
             --> calls.toml:8:8
              |
            8 | name = "idle"
              |        ^^^^^^
              = help: add profile = "idle" to a [[route]], or remove it
        "#]],
    );
}

#[test]
fn what_counts_calls_needs_their_records() {
    check(
        r#"
[calls]
record = false
duration_max = "1h"
probe_interval = "1min"
[[domain]]
name = "one.example"
auth = "none"
[[profile]]
name = "out"
calls_max = 3
[[group]]
name = "a"
policy = "least-calls"
destinations = [{ uri = "sip:192.0.2.1" }]
[[group]]
name = "b"
destinations = [{ uri = "sip:192.0.2.2", capacity = 5 }]
[[group]]
name = "c"
destinations = [{ uri = "sip:192.0.2.3" }]
[[route]]
match = { user = "^1" }
to = "group:a"
profile = "out"
[[route]]
match = { user = "^2" }
to = "group:b"
[[route]]
match = { user = "^3" }
to = "group:c"
"#,
        expect![[r#"
            warning: `calls.duration_max` does nothing: calls have no record
             --> calls.toml:4:16
              |
            4 | duration_max = "1h"
              |                ^^^^
              = help: set calls.record = true, or remove it
            warning: `calls.probe_interval` does nothing: calls have no record
             --> calls.toml:5:18
              |
            5 | probe_interval = "1min"
              |                  ^^^^^^
              = help: set calls.record = true, or remove it
            warning: `group.policy` counts calls, of which none has a record
              --> calls.toml:14:10
               |
            14 | policy = "least-calls"
               |          ^^^^^^^^^^^^^
               = help: set calls.record = true, or choose another policy and no `capacity`
            warning: `group.destinations` counts calls, of which none has a record
              --> calls.toml:18:16
               |
            18 | destinations = [{ uri = "sip:192.0.2.2", capacity = 5 }]
               |                ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
               = help: set calls.record = true, or choose another policy and no `capacity`
            warning: `route.profile` does nothing: calls have no record
              --> calls.toml:25:11
               |
            25 | profile = "out"
               |           ^^^^^
               = help: set calls.record = true, or remove it
        "#]],
    );
}

#[test]
fn session_timers_that_contradict_each_other() {
    check(
        r#"
[calls]
session_expires = "100s"
session_min = "200s"
[[domain]]
name = "one.example"
auth = "none"
[[domain]]
name = "two.example"
auth = "none"
session_min = "90s"
[[domain]]
name = "three.example"
auth = "none"
session_expires = "3min"
"#,
        expect![[r#"
            error: `calls.session_expires` leaves session_expires shorter than session_min
             --> calls.toml:3:19
              |
            3 | session_expires = "100s"
              |                   ^^^^^^
              = help: raise session_expires, or lower session_min
            error: `domain.session_expires` leaves session_expires shorter than session_min
              --> calls.toml:15:19
               |
            15 | session_expires = "3min"
               |                   ^^^^^^
               = help: raise session_expires, or lower session_min
        "#]],
    );
}
