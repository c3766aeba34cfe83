//! Names and values of keys.

use expect_test::expect;

use crate::check;

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
