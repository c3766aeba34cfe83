//! Addresses, secrets, slots, lifetimes: what the server itself needs.

use expect_test::expect;

use crate::check;

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
fn keepalives_that_nobody_answers() {
    check(
        "[nat]\nkeepalive_failures = 3\nkeepalive_method = \"crlf\"\n",
        expect![[r#"
            warning: `nat.keepalive_failures` counts nothing: nothing is sent that is answered
             --> tandem.toml:2:22
              |
            2 | keepalive_failures = 3
              |                      ^
              = help: set keepalive to a time and keepalive_method to "options", or remove it"#]],
    );
    check(
        "[nat]\nkeepalive_failures = 101\nkeepalive_method = \"options\"\n",
        expect![[r#"
            error: `nat.keepalive_failures` must be 0 to 100, not 101
             --> tandem.toml:2:22
              |
            2 | keepalive_failures = 101
              |                      ^^^
              = help: choose a number from 0 to 100"#]],
    );
    check("[nat]\nkeepalive_failures = 3\n", expect![""]);
}
