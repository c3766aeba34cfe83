//! The texts that an operator gets to read, with their places. Past 1,000 lines, because each text stands whole beside what it is about.

use config::{Overrides, Pin, Problem, load_for};
use expect_test::{Expect, expect};

/// Cores of the machine that these tests pretend to run on.
const CORES: u16 = 4;

fn show(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(|problem| format!("{problem}\n\n"))
        .collect::<String>()
        .trim_end()
        .to_owned()
}

fn check_with(overrides: &Overrides, text: &str, expected: Expect) {
    let problems = match load_for(text, "tandem.toml", overrides, CORES) {
        Ok((_, warnings)) => warnings,
        Err(problems) => {
            assert!(
                problems.iter().any(Problem::is_error),
                "refused without an error"
            );
            problems
        }
    };
    expected.assert_eq(&show(&problems));
}

fn check(text: &str, expected: Expect) {
    check_with(&Overrides::default(), text, expected);
}

#[test]
fn nothing_at_all_is_a_configuration() {
    check("", expect![""]);
}

#[test]
fn syntax() {
    check(
        "[workers]\ncount = = 2\n",
        expect![[r#"
        error: this is not TOML: extra `=`, expected nothing
         --> tandem.toml:2:9
          |
        2 | count = = 2
          |         ^
          = help: see https://toml.io for the syntax"#]],
    );
    check(
        "[workers\n",
        expect![[r#"
        error: this is not TOML: unclosed table, expected `]`
         --> tandem.toml:1:9
          |
        1 | [workers
          |         ^
          = help: see https://toml.io for the syntax"#]],
    );
    check(
        "a = 1\na = 2\n",
        expect![[r#"
        error: this is not TOML: duplicate key
         --> tandem.toml:2:1
          |
        2 | a = 2
          | ^
          = help: see https://toml.io for the syntax"#]],
    );
}

#[test]
fn unknown_names_come_with_a_suggestion() {
    check(
        "[worker]\ncount = 2\n[workers]\ncuont = 2\nzzz = 1\n[nonsense]\n[[domain]]\nname = 'a.example'\nrecord-route = true\n",
        expect![[r#"
            error: unknown table `worker`
             --> tandem.toml:1:2
              |
            1 | [worker]
              |  ^^^^^^
              = help: did you mean `workers`?

            error: unknown key `workers.cuont`
             --> tandem.toml:4:1
              |
            4 | cuont = 2
              | ^^^^^
              = help: did you mean `count`?

            error: unknown key `workers.zzz`
             --> tandem.toml:5:1
              |
            5 | zzz = 1
              | ^^^
              = help: the keys here are count, reactors, pin, spin_us, hang_timeout, user

            error: unknown table `nonsense`
             --> tandem.toml:6:2
              |
            6 | [nonsense]
              |  ^^^^^^^^
              = help: the tables are listen, workers, memory, registrar, limits, proxy, overload, timers, auth, dns, nat, cdr, user, domain, group, calls, profile, caller, period, prefix_table, topology, media, route

            error: unknown key `domain.record-route`
             --> tandem.toml:9:1
              |
            9 | record-route = true
              | ^^^^^^^^^^^^
              = help: did you mean `record_route`?"#]],
    );
}

#[test]
fn keys_of_other_versions_are_named_as_such() {
    check(
        r#"
[database]
url = "sqlite:tandem.db"

[[listen]]
address = "127.0.0.1:5060"
transports = ["udp", "tcp"]

[workers]
drain = "2s"

[limits]
rate = 100

[[domain]]
name = "example.com"
auth = "ip"
script = "office.luau"

[[group]]
name = "media"
policy = "least-calls"
destinations = [{ uri = "sip:10.0.0.1", enabled = true }, { uri = "sips:10.0.0.2" }, { uri = "sip:a.example;transport=tcp" }]
sticky = true

[[route]]
to = "group:media"
"#,
        expect![[r#"
            error: `database` does not exist in this version
             --> tandem.toml:2:2
              |
            2 | [database]
              |  ^^^^^^^^
              = help: remove it; docs/settings.md lists every key that exists

            error: `listen.transports` has a value "tcp" that does not exist in this version
             --> tandem.toml:7:22
              |
            7 | transports = ["udp", "tcp"]
              |                      ^^^^^
              = help: write "udp"

            error: `workers.drain` does not exist in this version
              --> tandem.toml:10:1
               |
            10 | drain = "2s"
               | ^^^^^
               = help: remove it; docs/settings.md lists every key that exists

            error: `limits.rate` does not exist in this version
              --> tandem.toml:13:1
               |
            13 | rate = 100
               | ^^^^
               = help: remove it; docs/settings.md lists every key that exists

            error: `domain.auth` has a value "ip" that does not exist in this version
              --> tandem.toml:17:8
               |
            17 | auth = "ip"
               |        ^^^^
               = help: write "digest" or "none"

            error: `domain.script` does not exist in this version
              --> tandem.toml:18:1
               |
            18 | script = "office.luau"
               | ^^^^^^
               = help: remove it; docs/settings.md lists every key that exists

            error: `group.destinations.enabled` does not exist in this version
              --> tandem.toml:23:41
               |
            23 | destinations = [{ uri = "sip:10.0.0.1", enabled = true }, { uri = "sips:10.0.0.2" }, { uri = "sip:a.example;transport=tcp" }]
               |                                         ^^^^^^^
               = help: remove it; docs/settings.md lists every key that exists

            error: `group.destinations.uri` needs TLS, which does not exist in this version
              --> tandem.toml:23:67
               |
            23 | destinations = [{ uri = "sip:10.0.0.1", enabled = true }, { uri = "sips:10.0.0.2" }, { uri = "sip:a.example;transport=tcp" }]
               |                                                                   ^^^^^^^^^^^^^^^
               = help: use a sip: URI

            error: `group.destinations.uri` asks for transport "tcp", which does not exist in this version
              --> tandem.toml:23:94
               |
            23 | destinations = [{ uri = "sip:10.0.0.1", enabled = true }, { uri = "sips:10.0.0.2" }, { uri = "sip:a.example;transport=tcp" }]
               |                                                                                              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
               = help: leave the transport parameter away

            error: `group.sticky` does not exist in this version
              --> tandem.toml:24:1
               |
            24 | sticky = true
               | ^^^^^^
               = help: remove it; docs/settings.md lists every key that exists"#]],
    );
}

#[test]
fn wrong_types() {
    check(
        r#"
workers = 3
memory.limit = 256
domain = { name = "a" }

[[timers]]
t1 = "1s"

[registrar]
bindings_max = "ten"
expires_min = 60

[[listen]]
address = 5060
transports = "udp"

[[user]]
name = true

[[group]]
name = "g"
destinations = ["sip:10.0.0.1"]

[[route]]
match = "all"
to = []
"#,
        expect![[r#"
            error: `workers` is a table, not an integer
             --> tandem.toml:2:11
              |
            2 | workers = 3
              |           ^
              = help: write [workers]

            error: `memory.limit` must be a string, not an integer
             --> tandem.toml:3:16
              |
            3 | memory.limit = 256
              |                ^^^
              = help: write for example: limit = "256MiB"

            error: `domain` is a list of tables, not a table
             --> tandem.toml:4:10
              |
            4 | domain = { name = "a" }
              |          ^^^^^^^^^^^^^^
              = help: write [[domain]]

            error: `timers` can be there only once
             --> tandem.toml:6:1
              |
            6 | [[timers]]
              | ^^^^^^^^^^
              = help: write [timers]

            error: `registrar.bindings_max` must be an integer, not a string
              --> tandem.toml:10:16
               |
            10 | bindings_max = "ten"
               |                ^^^^^
               = help: write for example: bindings_max = 10

            error: `registrar.expires_min` must be a string, not an integer
              --> tandem.toml:11:15
               |
            11 | expires_min = 60
               |               ^^
               = help: write for example: expires_min = "60s"

            error: `listen.address` must be a string, not an integer
              --> tandem.toml:14:11
               |
            14 | address = 5060
               |           ^^^^
               = help: write for example: address = "192.0.2.1:5060"

            error: `listen.transports` must be a list, not a string
              --> tandem.toml:15:14
               |
            15 | transports = "udp"
               |              ^^^^^
               = help: write for example: transports = ["udp"]

            error: `user.name` must be a string, not a boolean
              --> tandem.toml:18:8
               |
            18 | name = true
               |        ^^^^
               = help: write for example: name = "alice@example.com"

            error: `user.name` has no secret
              --> tandem.toml:18:8
               |
            18 | name = true
               |        ^^^^
               = help: add one of `password`, `ha1`, `ha1_sha256` and `ha1_sha512_256`

            error: `group.destinations` is a list of tables, not a string
              --> tandem.toml:22:17
               |
            22 | destinations = ["sip:10.0.0.1"]
               |                 ^^^^^^^^^^^^^^
               = help: write a list of tables: [{ … }]

            error: `route.match` must be a table, not a string
              --> tandem.toml:25:9
               |
            25 | match = "all"
               |         ^^^^^
               = help: write for example: match = { domain = "example.com" }

            error: `route.to` must be a string, not a list
              --> tandem.toml:26:6
               |
            26 | to = []
               |      ^^
               = help: write for example: to = "location""#]],
    );
}

#[test]
fn wrong_values() {
    check(
        r#"
[workers]
count = 900
spin_us = -1
pin = [0, 5000, "x"]
user = "no body"

[memory]
limit = "256MB"

[registrar]
expires_default = "soon"
expires_max = "1year"
bindings_max = 0

[timers]
t1 = "1ms"
"#,
        expect![[r#"
            error: `workers.count` must be 1 to 125, not 900
             --> tandem.toml:3:9
              |
            3 | count = 900
              |         ^^^
              = help: choose a number from 1 to 125

            error: `workers.spin_us` must be 0 to 1000000, not -1
             --> tandem.toml:4:11
              |
            4 | spin_us = -1
              |           ^^
              = help: choose a number from 0 to 1000000

            error: `workers.pin` must have numbers from 0 to 1023
             --> tandem.toml:5:11
              |
            5 | pin = [0, 5000, "x"]
              |           ^^^^
              = help: write for example: pin = [0, 1, 2, 3]

            error: `workers.pin` must be a list of integers, not a string
             --> tandem.toml:5:17
              |
            5 | pin = [0, 5000, "x"]
              |                 ^^^
              = help: write for example: pin = [0, 1, 2, 3]

            error: `workers.user` is not an account name
             --> tandem.toml:6:8
              |
            6 | user = "no body"
              |        ^^^^^^^^^
              = help: write the name of an account of this machine, like tandem

            error: `memory.limit` is not a size
             --> tandem.toml:9:9
              |
            9 | limit = "256MB"
              |         ^^^^^^^
              = help: write MiB

            error: `registrar.expires_default` is not a duration
              --> tandem.toml:12:19
               |
            12 | expires_default = "soon"
               |                   ^^^^^^
               = help: write a number and a unit, like "500ms", "30s", "3m" or "1h"

            error: `registrar.expires_max` must be 1s to 30days
              --> tandem.toml:13:15
               |
            13 | expires_max = "1year"
               |               ^^^^^^^
               = help: choose a duration from 1s to 30days

            error: `registrar.bindings_max` must be 1 to 32, not 0
              --> tandem.toml:14:16
               |
            14 | bindings_max = 0
               |                ^
               = help: choose a number from 1 to 32

            error: `timers.t1` must be 10ms to 10s
              --> tandem.toml:17:6
               |
            17 | t1 = "1ms"
               |      ^^^^^
               = help: choose a duration from 10ms to 10s"#]],
    );
}

#[test]
fn wrong_addresses() {
    check(
        r#"
[[listen]]
address = "127.0.0.1"
[[listen]]
address = "::1"
[[listen]]
address = "127.0.0.1:99999"
[[listen]]
address = "sip.example.com:5060"
advertise = "sip:example.com"
[[listen]]
advertise = "2001:db8::1"
[[domain]]
name = "sip:example.com"
[[domain]]
name = "1.2.3.400"
[[user]]
name = "alice"
password = "x"
[[user]]
name = "sip:alice@example.com"
password = ""
"#,
        expect![[r#"
            error: `listen.address` has no port
             --> tandem.toml:3:11
              |
            3 | address = "127.0.0.1"
              |           ^^^^^^^^^^^
              = help: write 127.0.0.1:5060

            error: `listen.address` has no port
             --> tandem.toml:5:11
              |
            5 | address = "::1"
              |           ^^^^^
              = help: write [::1]:5060

            error: `listen.address` has a port "99999" that is no port
             --> tandem.toml:7:11
              |
            7 | address = "127.0.0.1:99999"
              |           ^^^^^^^^^^^^^^^^^
              = help: choose a port from 1 to 65535, usually 5060

            error: `listen.address` is not an IP address with a port
             --> tandem.toml:9:11
              |
            9 | address = "sip.example.com:5060"
              |           ^^^^^^^^^^^^^^^^^^^^^^
              = help: write an address of this machine, like 192.0.2.1:5060 or [2001:db8::1]:5060; a name can go into `advertise`

            error: `listen.advertise` has no valid port behind the colon
              --> tandem.toml:10:13
               |
            10 | advertise = "sip:example.com"
               |             ^^^^^^^^^^^^^^^^^
               = help: choose a port from 1 to 65535

            error: `listen.address` is missing
              --> tandem.toml:11:1
               |
            11 | [[listen]]
               | ^^^^^^^^^^
               = help: write for example: address = "192.0.2.1:5060"

            error: `listen.advertise` is an IPv6 address without brackets
              --> tandem.toml:12:13
               |
            12 | advertise = "2001:db8::1"
               |             ^^^^^^^^^^^^^
               = help: write [2001:db8::1]

            error: `domain.name` is not a host name or address
              --> tandem.toml:14:8
               |
            14 | name = "sip:example.com"
               |        ^^^^^^^^^^^^^^^^^
               = help: write the host alone, like example.com, with no scheme, user or port

            error: `domain.name` is not a host name or address
              --> tandem.toml:16:8
               |
            16 | name = "1.2.3.400"
               |        ^^^^^^^^^^^
               = help: write four numbers from 0 to 255, like 192.0.2.1

            error: `user.name` has no domain
              --> tandem.toml:18:8
               |
            18 | name = "alice"
               |        ^^^^^^^
               = help: write "alice@example.com" with the domain of the account

            error: `user.name` has a scheme
              --> tandem.toml:21:9
               |
            21 | name = "sip:alice@example.com"
               |         ^^^^
               = help: write "alice@example.com"

            error: `user.password` is empty
              --> tandem.toml:22:12
               |
            22 | password = ""
               |            ^^
               = help: choose a password"#]],
    );
}

#[test]
fn secrets() {
    check(
        r#"
[[domain]]
name = "example.com"
[[user]]
name = "a@example.com"
[[user]]
name = "b@example.com"
password = "x"
ha1 = "0123456789abcdef0123456789abcdef"
[[user]]
name = "c@example.com"
ha1 = "0123"
[[user]]
name = "d@example.com"
ha1_sha256 = "0123456789abcdef0123456789abcdef"
"#,
        expect![[r#"
            error: `user.name` has no secret
             --> tandem.toml:5:8
              |
            5 | name = "a@example.com"
              |        ^^^^^^^^^^^^^^^
              = help: add one of `password`, `ha1`, `ha1_sha256` and `ha1_sha512_256`

            error: `user.ha1` is a second secret beside `password`
             --> tandem.toml:9:7
              |
            9 | ha1 = "0123456789abcdef0123456789abcdef"
              |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: keep one of them

            error: `user.ha1` is not 32 hexadecimal digits
              --> tandem.toml:12:7
               |
            12 | ha1 = "0123"
               |       ^^^^^^
               = help: write the digest of NAME:DOMAIN:PASSWORD, or give `password` instead

            error: `user.ha1_sha256` is not 64 hexadecimal digits
              --> tandem.toml:15:14
               |
            15 | ha1_sha256 = "0123456789abcdef0123456789abcdef"
               |              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
               = help: write the digest of NAME:DOMAIN:PASSWORD, or give `password` instead"#]],
    );
}

#[test]
fn routes() {
    check(
        r#"
[[domain]]
name = "example.com"
auth = "none"

[[group]]
name = "media"
destinations = []

[[group]]
name = "other"
destinations = [{ uri = "10.0.0.1" }, { uri = "sip:10.0.0.1" }, { uri = "sip:10.0.0.1" }]

[[route]]
match = { user = '^9[0-9' }
to = "location"

[[route]]
match = { user = "a{5000}{5000}" }
to = "location"

[[route]]
match = { user = "^(?<x)" , method = "invite", source = "10.0.0.1/8" }
to = "reject:200"

[[route]]
match = { domain = "exmaple.com" }
to = "group:medai"

[[route]]
match = { domain = "elsewhere.org" }
to = "location"

[[route]]
match = { method = "INVITE REGISTER", source = "anywhere" }
to = "uri:sip:bo b@example.com"

[[route]]
to = "sip:10.0.0.1"
"#,
        expect![[r#"
            error: `group.destinations` has no destination
             --> tandem.toml:8:16
              |
            8 | destinations = []
              |                ^^
              = help: add at least one: { uri = "sip:192.0.2.10:5060" }

            error: `group.destinations.uri` is not a SIP URI: no scheme at byte 8
              --> tandem.toml:12:25
               |
            12 | destinations = [{ uri = "10.0.0.1" }, { uri = "sip:10.0.0.1" }, { uri = "sip:10.0.0.1" }]
               |                         ^^^^^^^^^^
               = help: write sip:10.0.0.1

            error: `group.destinations.uri` is in this group already
              --> tandem.toml:12:73
               |
            12 | destinations = [{ uri = "10.0.0.1" }, { uri = "sip:10.0.0.1" }, { uri = "sip:10.0.0.1" }]
               |                                                                         ^^^^^^^^^^^^^^
               = help: remove one of the two

            error: `route.match.user` is not a regular expression: unclosed character class
              --> tandem.toml:15:21
               |
            15 | match = { user = '^9[0-9' }
               |                     ^
               = help: the syntax is that of Perl without look-around and back-references

            error: `route.match.user` is a regular expression that takes too much memory
              --> tandem.toml:19:18
               |
            19 | match = { user = "a{5000}{5000}" }
               |                  ^^^^^^^^^^^^^^^
               = help: use smaller repetitions

            error: `route.match.user` is not a regular expression: invalid capture group character
              --> tandem.toml:23:24
               |
            23 | match = { user = "^(?<x)" , method = "invite", source = "10.0.0.1/8" }
               |                        ^
               = help: the syntax is that of Perl without look-around and back-references

            error: `route.match.method` is not in upper case, and methods differ by case
              --> tandem.toml:23:38
               |
            23 | match = { user = "^(?<x)" , method = "invite", source = "10.0.0.1/8" }
               |                                      ^^^^^^^^
               = help: write "INVITE"

            error: `route.match.source` has bits behind its prefix of 8
              --> tandem.toml:23:57
               |
            23 | match = { user = "^(?<x)" , method = "invite", source = "10.0.0.1/8" }
               |                                                         ^^^^^^^^^^^^
               = help: write 10.0.0.0/8 for the network, or 10.0.0.1 for the one address

            error: `route.to` has no failure status
              --> tandem.toml:24:14
               |
            24 | to = "reject:200"
               |              ^^^
               = help: choose a status from 400 to 699, like reject:403

            warning: this server does not serve the domain exmaple.com
              --> tandem.toml:27:20
               |
            27 | match = { domain = "exmaple.com" }
               |                    ^^^^^^^^^^^^^
               = help: did you mean domain = "example.com"?

            error: `route.to` names a group that does not exist (medai)
              --> tandem.toml:28:6
               |
            28 | to = "group:medai"
               |      ^^^^^^^^^^^^^
               = help: did you mean "group:media"?

            error: nobody can be registered at elsewhere.org: this server does not serve that domain
              --> tandem.toml:31:20
               |
            31 | match = { domain = "elsewhere.org" }
               |                    ^^^^^^^^^^^^^^^
               = help: add a [[domain]] with name = "elsewhere.org"

            error: `route.match.method` is not a method
              --> tandem.toml:35:20
               |
            35 | match = { method = "INVITE REGISTER", source = "anywhere" }
               |                    ^^^^^^^^^^^^^^^^^
               = help: write one method, like INVITE

            error: `route.match.source` is not a network
              --> tandem.toml:35:48
               |
            35 | match = { method = "INVITE REGISTER", source = "anywhere" }
               |                                                ^^^^^^^^^^
               = help: write an IP address or a network, like 192.0.2.0/24 or 2001:db8::/32

            error: `route.to` is not a SIP URI: user part is malformed at byte 6
              --> tandem.toml:36:17
               |
            36 | to = "uri:sip:bo b@example.com"
               |                 ^
               = help: write a SIP URI, like sip:192.0.2.10:5060

            error: `route.to` is not a target
              --> tandem.toml:39:6
               |
            39 | to = "sip:10.0.0.1"
               |      ^^^^^^^^^^^^^^
               = help: write "uri:sip:10.0.0.1""#]],
    );
}

#[test]
fn a_route_that_nothing_reaches() {
    check(
        r#"
[[domain]]
name = "example.com"
auth = "none"

[[route]]
match = { source = "10.0.0.0/8" }
to = "dns"

[[route]]
match = { source = "10.1.0.0/16", method = "INVITE" }
to = "location"

[[route]]
to = "reject:403"

[[route]]
match = { domain = "example.com" }
to = "location"
"#,
        expect![[r#"
            warning: `route.match` is never reached: an earlier route matches all that it matches
              --> tandem.toml:11:9
               |
            11 | match = { source = "10.1.0.0/16", method = "INVITE" }
               |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
               = help: move this [[route]] before that one, or remove it

            warning: `route.match` is never reached: an earlier route matches everything
              --> tandem.toml:18:9
               |
            18 | match = { domain = "example.com" }
               |         ^^^^^^^^^^^^^^^^^^^^^^^^^^
               = help: move this [[route]] before that one, or remove it"#]],
    );
}

#[test]
fn things_that_are_there_twice() {
    check(
        r#"
[[listen]]
address = "127.0.0.1:5060"
[[listen]]
address = "127.0.0.1:5060"
[[domain]]
name = "Example.com"
auth = "none"
[[domain]]
name = "example.COM."
auth = "none"
[[user]]
name = "a@example.com"
password = "x"
[[user]]
name = "a@EXAMPLE.com"
password = "y"
[[group]]
name = "g"
destinations = [{ uri = "sip:10.0.0.1" }]
[[group]]
name = "g"
destinations = [{ uri = "sip:10.0.0.2" }]
[[route]]
to = "group:g"
"#,
        expect![[r#"
            error: `listen.address` 127.0.0.1:5060 is listened on already
             --> tandem.toml:5:11
              |
            5 | address = "127.0.0.1:5060"
              |           ^^^^^^^^^^^^^^^^
              = help: remove one of the two [[listen]]

            error: `domain.name` "example.com" is there already
              --> tandem.toml:10:8
               |
            10 | name = "example.COM."
               |        ^^^^^^^^^^^^^^
               = help: remove one of the two [[domain]]

            warning: `user.name` is in a domain with auth = "none", where nobody is asked for a password (example.com)
              --> tandem.toml:13:8
               |
            13 | name = "a@example.com"
               |        ^^^^^^^^^^^^^^^
               = help: write auth = "digest" in that [[domain]], or remove the user

            error: `user.name` "a@example.com" is there already
              --> tandem.toml:16:8
               |
            16 | name = "a@EXAMPLE.com"
               |        ^^^^^^^^^^^^^^^
               = help: remove one of the two [[user]]

            warning: `user.name` is in a domain with auth = "none", where nobody is asked for a password (example.com)
              --> tandem.toml:16:8
               |
            16 | name = "a@EXAMPLE.com"
               |        ^^^^^^^^^^^^^^^
               = help: write auth = "digest" in that [[domain]], or remove the user

            error: `group.name` "g" is there already
              --> tandem.toml:22:8
               |
            22 | name = "g"
               |        ^^^
               = help: remove one of the two [[group]]"#]],
    );
}

#[test]
fn what_an_operator_should_look_at() {
    check(
        r#"
[[listen]]
address = "0.0.0.0:5060"
[timers]
c = "30s"
[[domain]]
name = "open.example"
auth = "none"
[[domain]]
name = "empty.example"
[[user]]
name = "a@opne.example"
password = "x"
[[group]]
name = "unused"
destinations = [{ uri = "sip:10.0.0.1" }]
"#,
        expect![[r#"
            warning: `timers.c` is not over 3 minutes, as RFC 3261 §16.6 asks: calls that ring longer are cancelled
             --> tandem.toml:5:5
              |
            5 | c = "30s"
              |     ^^^^^
              = help: use at least c = "181s", except in tests

            warning: everybody who reaches 0.0.0.0:5060 can register as any user of open.example and take their calls
             --> tandem.toml:8:8
              |
            8 | auth = "none"
              |        ^^^^^^
              = help: write auth = "digest" and add a [[user]] for each phone, or listen on a loopback address only

            warning: `domain.name` "empty.example" asks for a password, but no [[user]] has one there: nobody can register but users of `tandem user`
              --> tandem.toml:10:8
               |
            10 | name = "empty.example"
               |        ^^^^^^^^^^^^^^^
               = help: add a [[user]] with a name like "alice@empty.example", or run `tandem user add alice@empty.example`

            warning: `user.name` is in a domain that this server does not serve (opne.example)
              --> tandem.toml:12:8
               |
            12 | name = "a@opne.example"
               |        ^^^^^^^^^^^^^^^^
               = help: did you mean "a@open.example"?

            warning: `group.name` "unused" is used by no route
              --> tandem.toml:15:8
               |
            15 | name = "unused"
               |        ^^^^^^^^
               = help: add a [[route]] with to = "group:unused", or remove the group"#]],
    );
}

#[test]
fn slots_and_pins() {
    check(
        "[workers]\ncount = 100\nreactors = 3\n",
        expect![[r#"
        error: 100 workers with 3 reactors are 300 slots; there can be 256
         --> tandem.toml:3:12
          |
        3 | reactors = 3
          |            ^
          = help: keep `workers.count` times `workers.reactors` within 256; one slot for each core is enough"#]],
    );
    check(
        "[workers]\ncount = 2\nreactors = 2\npin = [0, 1, 2]\n",
        expect![[r#"
            error: `workers.pin` has 3 core numbers for 4 slots (2 workers with 2 reactors)
             --> tandem.toml:4:7
              |
            4 | pin = [0, 1, 2]
              |       ^^^^^^^^^
              = help: name one core for every slot, or write pin = "auto""#]],
    );
    check(
        "[workers]\ncount = 2\nreactors = 1\npin = [1, 1]\n",
        expect![[r#"
            error: `workers.pin` names core 1 twice
             --> tandem.toml:4:7
              |
            4 | pin = [1, 1]
              |       ^^^^^^
              = help: give every slot a core of its own"#]],
    );
    check(
        "[workers]\npin = \"all\"\n",
        expect![[r#"
        error: `workers.pin` has an unknown value "all"
         --> tandem.toml:2:7
          |
        2 | pin = "all"
          |       ^^^^^
          = help: write "auto" or "none""#]],
    );
}

#[test]
fn lifetimes_that_contradict_each_other() {
    check(
        "[registrar]\nexpires_min = '10min'\nexpires_max = '5min'\n",
        expect![[r#"
            error: `registrar.expires_min` makes `expires_min` (10m) longer than `expires_max` (5m)
             --> tandem.toml:2:15
              |
            2 | expires_min = '10min'
              |               ^^^^^^^
              = help: let the shortest lifetime be below the longest"#]],
    );
    check(
        "[registrar]\nexpires_default = '2days'\n",
        expect![[r#"
        error: `registrar.expires_default` is not between `expires_min` and `expires_max`
         --> tandem.toml:2:19
          |
        2 | expires_default = '2days'
          |                   ^^^^^^^
          = help: choose a lifetime that lies between the two"#]],
    );
    check(
        "[timers]\nt1 = '5s'\n",
        expect![[r#"
            error: `timers.t1` makes `t2` (4s) shorter than `t1` (5s)
             --> tandem.toml:2:6
              |
            2 | t1 = '5s'
              |      ^^^^
              = help: let t2 be at least t1"#]],
    );
}

#[test]
fn tabs_and_wide_letters_keep_the_caret_in_place() {
    check(
        "[workers]\n\tcount =\t\"zwölf\" # zwölf\n",
        expect![[r#"
        error: `workers.count` must be an integer, not a string
         --> tandem.toml:2:10
          |
        2 | 	count =	"zwölf" # zwölf
          | 	       	^^^^^^^
          = help: write for example: count = 2"#]],
    );
}

#[test]
fn what_the_command_line_says_wins_and_is_checked() {
    let overrides = Overrides {
        listen: vec!["192.0.2.1:5060".parse().expect("an address"); 2],
        workers: Some(3),
        reactors: Some(0),
        pin: Some(Pin::List(vec![0])),
    };
    check_with(
        &overrides,
        "[[listen]]\naddress = '127.0.0.1:5060'\n[workers]\npin = [0, 1]\n[[domain]]\nname = 'a.example'\nauth = 'none'\n",
        expect![[r#"
            error: --reactors must be 1 to 256
              = help: choose a number from 1 to 256

            error: --listen names 192.0.2.1:5060 twice
              = help: remove one of the two

            warning: everybody who reaches 192.0.2.1:5060 can register as any user of a.example and take their calls
             --> tandem.toml:7:8
              |
            7 | auth = 'none'
              |        ^^^^^^
              = help: write auth = "digest" and add a [[user]] for each phone, or listen on a loopback address only"#]],
    );
}

#[test]
fn problems_are_bounded() {
    let text = "[[domain]]\nname = 'a.example'\n".repeat(5) + &"[[domain]]\nnmae = 1\n".repeat(500);
    let problems =
        load_for(&text, "tandem.toml", &Overrides::default(), CORES).expect_err("wrong all over");
    assert_eq!(problems.len(), 100);
    assert!(problems.iter().all(Problem::is_error));
}

#[test]
fn name_servers() {
    check(
        r#"
[dns]
servers = ["192.0.2.53", "2001:db8::53", "[2001:db8::54]", "192.0.2.54:5353", "[2001:db8::55]:53"]
timeout = "200ms"
attempts = 3
rotate = true
deadline = "3s"
hosts = "none"
prefer = "ipv6"
ttl_min = "0s"
ttl_max = "10min"
negative_ttl_max = "0s"
stale_max = "0s"
cache_entries_max = 0
pending_max = 1
blacklist = "0s"
"#,
        expect![""],
    );
    check(
        "[dns]\nservers = ['fe80::53', '[fe80::53%2]:53']\n",
        expect![[r#"
            error: `dns.servers` is a link-local address without its interface
             --> tandem.toml:2:12
              |
            2 | servers = ['fe80::53', '[fe80::53%2]:53']
              |            ^^^^^^^^^^
              = help: add the interface's number, the first column of `ip link`: [fe80::53%2]:53"#]],
    );
    check(
        "[dns]\nservers = ['dns.example.com', '0.0.0.0', '192.0.2.1:0', 7]\nhosts = 'hosts'\nttl_min = '1h'\nttl_max = '1s'\nattempts = 9\n",
        expect![[r#"
            error: `dns.servers` is not an IP address
             --> tandem.toml:2:12
              |
            2 | servers = ['dns.example.com', '0.0.0.0', '192.0.2.1:0', 7]
              |            ^^^^^^^^^^^^^^^^^
              = help: write an address like 192.0.2.53, with a port if it is not 53: 192.0.2.53:5353 or [2001:db8::53]:5353

            error: `dns.servers` is no address of a server
             --> tandem.toml:2:31
              |
            2 | servers = ['dns.example.com', '0.0.0.0', '192.0.2.1:0', 7]
              |                               ^^^^^^^^^
              = help: write the address of a name server, like 127.0.0.1

            error: `dns.servers` is no address of a server
             --> tandem.toml:2:42
              |
            2 | servers = ['dns.example.com', '0.0.0.0', '192.0.2.1:0', 7]
              |                                          ^^^^^^^^^^^^^
              = help: write the address of a name server, like 127.0.0.1

            error: `dns.servers` must be a list of strings, not an integer
             --> tandem.toml:2:57
              |
            2 | servers = ['dns.example.com', '0.0.0.0', '192.0.2.1:0', 7]
              |                                                         ^
              = help: write for example: servers = ["192.0.2.53", "[2001:db8::53]:53"]

            error: `dns.hosts` is not an absolute path
             --> tandem.toml:3:9
              |
            3 | hosts = 'hosts'
              |         ^^^^^^^
              = help: write the path from / on, or "none"

            error: `dns.ttl_max` makes `ttl_max` (1s) shorter than `ttl_min` (1h)
             --> tandem.toml:5:11
              |
            5 | ttl_max = '1s'
              |           ^^^^
              = help: let ttl_max be at least ttl_min

            error: `dns.attempts` must be 1 to 5, not 9
             --> tandem.toml:6:12
              |
            6 | attempts = 9
              |            ^
              = help: choose a number from 1 to 5"#]],
    );
    check(
        "[dns]\nservers = ['192.0.2.1', '192.0.2.1:53']\n",
        expect![[r#"
            error: `dns.servers` names 192.0.2.1:53 twice
             --> tandem.toml:2:11
              |
            2 | servers = ['192.0.2.1', '192.0.2.1:53']
              |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: remove one of the two"#]],
    );
    check(
        "[dns]\nservers = []\nhosts = 'none'\ntimeout = '6s'\n",
        expect![[r#"
            warning: `dns.servers` is empty and there is no hosts file: no name has an address
             --> tandem.toml:2:11
              |
            2 | servers = []
              |           ^^
              = help: name a server, or a hosts file

            warning: `dns.timeout` is not below `deadline`: a second server is never asked
             --> tandem.toml:4:11
              |
            4 | timeout = '6s'
              |           ^^^^
              = help: choose a timeout of a fraction of `deadline`"#]],
    );
}

#[test]
fn media() {
    check(
        r#"
[[media]]
name = "relay"
engines = [{ address = "192.0.2.20:2223" }, { address = "192.0.2.20:2223", weight = 2 }, { address = "rtp.example.com" }]
on_failure = "reject:200"
flags = ["trust-address", "loop protect"]
caller = { interface = "public", ice = "Remove", transport = "RTP/SAFP" }
[[media]]
name = "relay"
engines = []
[[domain]]
name = "example.com"
media = "realy"
"#,
        expect![[r#"
            error: `media.engines.address` is in this list already
             --> tandem.toml:4:57
              |
            4 | engines = [{ address = "192.0.2.20:2223" }, { address = "192.0.2.20:2223", weight = 2 }, { address = "rtp.example.com" }]
              |                                                         ^^^^^^^^^^^^^^^^^
              = help: remove one of the two

            error: `media.engines.address` is not an IP address with a port
             --> tandem.toml:4:102
              |
            4 | engines = [{ address = "192.0.2.20:2223" }, { address = "192.0.2.20:2223", weight = 2 }, { address = "rtp.example.com" }]
              |                                                                                                      ^^^^^^^^^^^^^^^^^
              = help: write the address and port of its listen-ng, like 192.0.2.20:2223

            error: `media.on_failure` has no status from 400 to 699
             --> tandem.toml:5:14
              |
            5 | on_failure = "reject:200"
              |              ^^^^^^^^^^^^
              = help: write "reject:503" or "pass"

            error: `media.flags` has "trust-address", which is not said by a flag here
             --> tandem.toml:6:10
              |
            6 | flags = ["trust-address", "loop protect"]
              |          ^^^^^^^^^^^^^^^
              = help: write send_to = "sdp" or send_to = "source"

            error: `media.flags` has a flag that is none
             --> tandem.toml:6:27
              |
            6 | flags = ["trust-address", "loop protect"]
              |                           ^^^^^^^^^^^^^^
              = help: write it as rtpengine's documentation has it, without spaces

            error: `media.caller` has an `interface`, and `callee` has none
             --> tandem.toml:7:10
              |
            7 | caller = { interface = "public", ice = "Remove", transport = "RTP/SAFP" }
              |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: add `interface` to `callee`: rtpengine wants both or none

            error: `media.caller.ice` has an unknown value "Remove"
             --> tandem.toml:7:40
              |
            7 | caller = { interface = "public", ice = "Remove", transport = "RTP/SAFP" }
              |                                        ^^^^^^^^
              = help: did you mean "remove"?

            error: `media.caller.transport` has an unknown value "RTP/SAFP"
             --> tandem.toml:7:62
              |
            7 | caller = { interface = "public", ice = "Remove", transport = "RTP/SAFP" }
              |                                                              ^^^^^^^^^^
              = help: did you mean "RTP/SAVP"?

            error: `media.name` "relay" is there already
             --> tandem.toml:9:8
              |
            9 | name = "relay"
              |        ^^^^^^^
              = help: remove one of the two [[media]]

            error: `media.engines` has no engine
              --> tandem.toml:10:11
               |
            10 | engines = []
               |           ^^
               = help: add at least one: { address = "192.0.2.20:2223" }

            error: `domain.media` names engines that do not exist (realy)
              --> tandem.toml:13:9
               |
            13 | media = "realy"
               |         ^^^^^^^
               = help: did you mean "relay"?"#]],
    );
    check(
        r#"
[[media]]
name = "relay"
engines = [{ address = "192.0.2.20:2223" }]
"#,
        expect![[r#"
            warning: `media.name` "relay" is used by nothing
             --> tandem.toml:3:8
              |
            3 | name = "relay"
              |        ^^^^^^^
              = help: add media = "relay" to a [[domain]], a [[group]] or a [[route]], or remove it"#]],
    );
}

#[test]
fn values_of_a_group() {
    check(
        r#"
[[group]]
name = "a"
policy = "least-cals"
hash = "header:"
destinations = [{ uri = "sip:10.0.0.1", weight = 0, capacity = 0, priority = 70000 }]
probe = { method = "INFO", interval = "1ms", codes = 200 }
passive = { codes = [200] }

[[group]]
name = "b"
policy = "free-capacity"
hash = "call-id"
destinations = [{ uri = "sip:10.0.0.1", capacity = 1 }, { uri = "sip:10.0.0.2" }]

[[route]]
to = "group:a"
"#,
        expect![[r#"
            error: `group.policy` has an unknown value "least-cals"
             --> tandem.toml:4:10
              |
            4 | policy = "least-cals"
              |          ^^^^^^^^^^^^
              = help: did you mean "least-calls"?

            warning: `group.hash` does nothing without policy = "hash"
             --> tandem.toml:5:8
              |
            5 | hash = "header:"
              |        ^^^^^^^^^
              = help: remove it, or write policy = "hash"

            error: `group.hash` has an unknown value "header:"
             --> tandem.toml:5:8
              |
            5 | hash = "header:"
              |        ^^^^^^^^^
              = help: write "call-id", "from-user", "to-user", "request-uri" or "header:NAME"

            error: `group.destinations.weight` must be 1 to 1000, not 0
             --> tandem.toml:6:50
              |
            6 | destinations = [{ uri = "sip:10.0.0.1", weight = 0, capacity = 0, priority = 70000 }]
              |                                                  ^
              = help: choose a number from 1 to 1000

            error: `group.destinations.capacity` must be 1 to 10000000, not 0
             --> tandem.toml:6:64
              |
            6 | destinations = [{ uri = "sip:10.0.0.1", weight = 0, capacity = 0, priority = 70000 }]
              |                                                                ^
              = help: choose a number from 1 to 10000000

            error: `group.destinations.priority` must be 0 to 65535, not 70000
             --> tandem.toml:6:78
              |
            6 | destinations = [{ uri = "sip:10.0.0.1", weight = 0, capacity = 0, priority = 70000 }]
              |                                                                              ^^^^^
              = help: choose a number from 0 to 65535

            error: `group.probe.method` has an unknown value "INFO"
             --> tandem.toml:7:20
              |
            7 | probe = { method = "INFO", interval = "1ms", codes = 200 }
              |                    ^^^^^^
              = help: write "OPTIONS"

            error: `group.probe.interval` must be 100ms to 1h
             --> tandem.toml:7:39
              |
            7 | probe = { method = "INFO", interval = "1ms", codes = 200 }
              |                                       ^^^^^
              = help: choose a duration from 100ms to 1h

            error: `group.probe.codes` must be a list of status codes
             --> tandem.toml:7:54
              |
            7 | probe = { method = "INFO", interval = "1ms", codes = 200 }
              |                                                      ^^^
              = help: write for example: codes = [200]

            error: `group.passive.codes` must have numbers from 400 to 699
             --> tandem.toml:8:22
              |
            8 | passive = { codes = [200] }
              |                      ^^^
              = help: write for example: codes = [503]

            warning: `group.hash` does nothing without policy = "hash"
              --> tandem.toml:13:8
               |
            13 | hash = "call-id"
               |        ^^^^^^^^^
               = help: remove it, or write policy = "hash"

            error: `group.destinations.capacity` is missing: policy = "free-capacity" compares what is free
              --> tandem.toml:14:57
               |
            14 | destinations = [{ uri = "sip:10.0.0.1", capacity = 1 }, { uri = "sip:10.0.0.2" }]
               |                                                         ^^^^^^^^^^^^^^^^^^^^^^^^
               = help: write for example: capacity = 500"#]],
    );
}

#[test]
fn records_of_calls() {
    check(
        "[cdr]\npath = \"/var/log/calls.csv\"\n[calls]\nrecord = false\n",
        expect![[r#"
            warning: `cdr.path` has no effect: `calls.record` is false, so no call is known when it ends
             --> tandem.toml:2:8
              |
            2 | path = "/var/log/calls.csv"
              |        ^^^^^^^^^^^^^^^^^^^^
              = help: set calls.record = true, or remove the path"#]],
    );
    check(
        "[cdr]\npath = \"/var/log/calls.csv\"\n[[domain]]\nname = \"a.example\"\nrecord_route = false\n",
        expect![[r#"
            warning: `domain.name` "a.example" asks for a password, but no [[user]] has one there: nobody can register but users of `tandem user`
             --> tandem.toml:4:8
              |
            4 | name = "a.example"
              |        ^^^^^^^^^^^
              = help: add a [[user]] with a name like "alice@a.example", or run `tandem user add alice@a.example`

            warning: `domain.record_route` leaves the calls of this domain out of `cdr.path`: their ends do not pass here
             --> tandem.toml:5:16
              |
            5 | record_route = false
              |                ^^^^^
              = help: set record_route = true, or mind that they are missing"#]],
    );
    check(
        "[cdr]\npath = \"/var/log/calls.csv\"\nfields = [\"to\"]\n",
        expect![""],
    );
    check(
        "[cdr]\npath = \"calls.csv\"\nfields = [\"form\"]\nrotate_every = \"0s\"\nrotate_size = \"1KiB\"\nwaiting_max = 5\ntable = \"cdr\"\n",
        expect![[r#"
            error: `cdr.path` is not an absolute path
             --> tandem.toml:2:8
              |
            2 | path = "calls.csv"
              |        ^^^^^^^^^^^
              = help: write the path from / on, or "none"

            error: `cdr.fields` is no field of a record
             --> tandem.toml:3:11
              |
            3 | fields = ["form"]
              |           ^^^^^^
              = help: did you mean from?

            error: `cdr.rotate_every` must be 1s to 7days
             --> tandem.toml:4:16
              |
            4 | rotate_every = "0s"
              |                ^^^^
              = help: choose a duration from 1s to 7days

            error: `cdr.rotate_size` must be 64KiB to 1024GiB
             --> tandem.toml:5:15
              |
            5 | rotate_size = "1KiB"
              |               ^^^^^^
              = help: choose a size from 64KiB to 1024GiB

            error: `cdr.waiting_max` must be 1000 to 10000000, not 5
             --> tandem.toml:6:15
              |
            6 | waiting_max = 5
              |               ^
              = help: choose a number from 1000 to 10000000

            error: `cdr.table` does not exist in this version
             --> tandem.toml:7:1
              |
            7 | table = "cdr"
              | ^^^^^
              = help: remove it; docs/settings.md lists every key that exists"#]],
    );
    check(
        "[cdr]\nformat = \"json\"\n",
        expect![[r#"
        warning: `cdr.format` has no effect: no records are made without a path
         --> tandem.toml:2:10
          |
        2 | format = "json"
          |          ^^^^^^
          = help: write for example: path = "/var/log/tandem/calls.csv""#]],
    );
    check(
        "[cdr]\npath = \"/var/log/\"\n",
        expect![[r#"
        error: `cdr.path` names a folder
         --> tandem.toml:2:8
          |
        2 | path = "/var/log/"
          |        ^^^^^^^^^^^
          = help: add the name of a file"#]],
    );
}

#[test]
fn media_wants_to_see_the_whole_call() {
    check(
        r#"
[calls]
record = false
[[media]]
name = "relay"
engines = [{ address = "192.0.2.20:2223" }]
[[domain]]
name = "example.com"
record_route = false
media = "relay"
"#,
        expect![[r#"
            warning: `domain.name` "example.com" asks for a password, but no [[user]] has one there: nobody can register but users of `tandem user`
             --> tandem.toml:8:8
              |
            8 | name = "example.com"
              |        ^^^^^^^^^^^^^
              = help: add a [[user]] with a name like "alice@example.com", or run `tandem user add alice@example.com`

            error: `domain.media` needs `record_route`
              --> tandem.toml:10:9
               |
            10 | media = "relay"
               |         ^^^^^^^
               = help: write record_route = true: later offers and answers have to pass here too

            error: `domain.media` is for calls on record only
              --> tandem.toml:10:9
               |
            10 | media = "relay"
               |         ^^^^^^^
               = help: remove it, or `record = false` in [calls]"#]],
    );
}

#[test]
fn topology() {
    check(
        r#"
[topology]
identities = "hide"
host = "a b"
mode = "dialog"

[[domain]]
name = "example.com"
topology_hiding = "always"

[[route]]
to = "dns"
topology_hiding = 1
"#,
        expect![[r#"
            error: `topology.identities` has an unknown value "hide"
             --> tandem.toml:3:14
              |
            3 | identities = "hide"
              |              ^^^^^^
              = help: write "own" or "keep"

            error: `topology.host` is not a host name or address
             --> tandem.toml:4:8
              |
            4 | host = "a b"
              |        ^^^^^
              = help: write a host name, like example.com; international names in their xn-- form

            error: `topology.mode` does not exist in this version
             --> tandem.toml:5:1
              |
            5 | mode = "dialog"
              | ^^^^
              = help: remove it; docs/settings.md lists every key that exists

            error: `domain.topology_hiding` has an unknown value "always"
             --> tandem.toml:9:19
              |
            9 | topology_hiding = "always"
              |                   ^^^^^^^^
              = help: write "dialog" or "stateless"

            error: `route.topology_hiding` must be a string, not an integer
              --> tandem.toml:13:19
               |
            13 | topology_hiding = 1
               |                   ^
               = help: write for example: topology_hiding = true"#]],
    );
    // What media tell is warned of where it is to be hidden, and only there.
    check(
        r#"
[[media]]
name = "relay"
engines = [{ address = "192.0.2.20:2223" }]

[[domain]]
name = "example.com"
topology_hiding = true

[[domain]]
name = "example.org"
topology_hiding = "stateless"
media = "relay"

[[route]]
match = { domain = "example.net" }
to = "dns"
topology_hiding = false
"#,
        expect![[r#"
            warning: `domain.name` "example.com" asks for a password, but no [[user]] has one there: nobody can register but users of `tandem user`
             --> tandem.toml:7:8
              |
            7 | name = "example.com"
              |        ^^^^^^^^^^^^^
              = help: add a [[user]] with a name like "alice@example.com", or run `tandem user add alice@example.com`

            warning: `domain.topology_hiding` hides signalling, but has no media relay: SDP still tells each side the address that the other one has its media at
             --> tandem.toml:8:19
              |
            8 | topology_hiding = true
              |                   ^^^^
              = help: add media = "NAME" of a [[media]] here, or say bodies = "keep" in [topology] if SDP is to stay as it is

            warning: `domain.name` "example.org" asks for a password, but no [[user]] has one there: nobody can register but users of `tandem user`
              --> tandem.toml:11:8
               |
            11 | name = "example.org"
               |        ^^^^^^^^^^^^^
               = help: add a [[user]] with a name like "alice@example.org", or run `tandem user add alice@example.org`"#]],
    );
}
