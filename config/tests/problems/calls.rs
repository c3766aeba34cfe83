//! What is done with calls: media, records, topology hiding.

use expect_test::expect;

use crate::check;

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
    check(
        r#"
[[media]]
name = "relay"
engines = [{ address = "192.0.2.20:2223" }]
[[group]]
name = "trunk"
destinations = [{ uri = "sip:192.0.2.30" }]
media = "relay"
[[domain]]
name = "example.com"
auth = "none"
record_route = false
[[domain]]
name = "example.net"
auth = "none"
record_route = false
[[route]]
match = { domain = "example.com", user = "^0" }
to = "group:trunk"
"#,
        expect![[r#"
            warning: `domain.record_route` leaves calls of this domain without the media engines that [[route]] number 1 leads them to
              --> tandem.toml:12:16
               |
            12 | record_route = false
               |                ^^^^^
               = help: set record_route = true: later offers and answers have to pass here too"#]],
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
