//! Routes, and the groups that they lead to.

use expect_test::expect;

use crate::check;

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

/// Toll fraud needs no more than a rule that leads out and asks nobody.
#[test]
fn a_way_out_for_everybody() {
    let out = r#"
[[listen]]
address = "192.0.2.1:5060"

[[caller]]
name = "office"
source = ["192.0.2.0/24"]

[[caller]]
name = "named"
domain = ["example.com"]

[[group]]
name = "trunk"
destinations = [{ uri = "sip:192.0.2.9" }]

[[route]]
match = { user = "^1", source = "192.0.2.0/24" }
to = "group:trunk"

[[route]]
match = { user = "^2", caller = "office" }
to = "group:trunk"

[[route]]
match = { user = "^3" }
to = "reject:404"

[[route]]
match = { user = "^4", caller = "named" }
to = "group:trunk"

[[route]]
match = { user = "^5" }
to = "dns"
"#;
    check(
        out,
        expect![[r#"
        warning: `route.to` is open to everybody who reaches 192.0.2.1:5060: no [[domain]] asks for a password
          --> tandem.toml:31:6
           |
        31 | to = "group:trunk"
           |      ^^^^^^^^^^^^^
           = help: give `match` a source, or a caller with one; or add a [[domain]] with auth = "digest"

        warning: `route.to` is open to everybody who reaches 192.0.2.1:5060: no [[domain]] asks for a password
          --> tandem.toml:35:6
           |
        35 | to = "dns"
           |      ^^^^^
           = help: give `match` a source, or a caller with one; or add a [[domain]] with auth = "digest""#]],
    );
    let asks = "[[domain]]\nname = \"example.com\"\n[[user]]\nname = \"a@example.com\"\npassword = \"secret secret\"\n";
    check(&format!("{out}{asks}"), expect![[r#""#]]);
    let free = "[[domain]]\nname = \"free.example\"\nauth = \"none\"\n";
    check(
        &format!("{out}{asks}{free}"),
        expect![[r#"
            warning: `route.to` is open to everybody who reaches 192.0.2.1:5060: what is called in free.example needs no password
              --> tandem.toml:31:6
               |
            31 | to = "group:trunk"
               |      ^^^^^^^^^^^^^
               = help: give `match` a source, a caller with one, or a domain with auth = "digest"

            warning: `route.to` is open to everybody who reaches 192.0.2.1:5060: what is called in free.example needs no password
              --> tandem.toml:35:6
               |
            35 | to = "dns"
               |      ^^^^^
               = help: give `match` a source, a caller with one, or a domain with auth = "digest"

            warning: everybody who reaches 192.0.2.1:5060 can register as any user of free.example and take their calls
              --> tandem.toml:43:8
               |
            43 | auth = "none"
               |        ^^^^^^
               = help: write auth = "digest" and add a [[user]] for each phone, or listen on a loopback address only"#]],
    );
    let first = "[[route]]\nmatch = { domain = \"free.example\" }\nto = \"location\"\n\n[[route]]\nmatch = { user = \"^1\"";
    let first = out.replacen("[[route]]\nmatch = { user = \"^1\"", first, 1);
    check(
        &format!("{first}{asks}{free}"),
        expect![[r#"
            warning: everybody who reaches 192.0.2.1:5060 can register as any user of free.example and take their calls
              --> tandem.toml:47:8
               |
            47 | auth = "none"
               |        ^^^^^^
               = help: write auth = "digest" and add a [[user]] for each phone, or listen on a loopback address only"#]],
    );
    let here = out.replace("192.0.2.1:5060", "127.0.0.1:5060");
    check(&here, expect![[r#""#]]);
}
