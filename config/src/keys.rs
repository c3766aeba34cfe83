//! Every key of the configuration, once: the reader refuses what is not here, `docs/settings.md` is
//! written from here, and [`crate::Diff`] asks here what can change live.

/// One table of the file.
#[derive(Debug)]
pub struct Section {
    /// Name in messages: `workers`, `route.match`.
    pub name: &'static str,
    /// As written in a file: `[workers]`, `[[listen]]`.
    pub header: &'static str,
    pub doc: &'static str,
    pub keys: &'static [Key],
    /// Keys that another version may have, so that the error about them can say more than "unknown".
    pub absent: &'static [&'static str],
}

/// One key.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    /// What may stand there, with its unit and range.
    pub value: &'static str,
    /// `required`, or what holds when the key is not there.
    pub default: &'static str,
    pub effect: Effect,
    pub doc: &'static str,
    /// A line as it may stand in a file; also the remedy for a value of the wrong type.
    pub example: &'static str,
}

/// When a changed value takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// With `tandem reload`.
    Reload,
    /// With a restart of the server; a reload leaves the old value and names the key.
    Restart,
}

impl Section {
    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// The section of this name.
///
/// # Panics
/// If there is none: the names are written in this crate.
pub(crate) fn section(name: &str) -> &'static Section {
    SECTIONS
        .iter()
        .find(|section| section.name == name)
        .expect("every section that is read is in the table")
}

/// Whole tables that another version may have.
pub(crate) const SECTIONS_ABSENT: &[&str] = &[
    "admin",
    "balancer",
    "cluster",
    "connection",
    "database",
    "dns",
    "edge",
    "listener",
    "log",
    "metrics",
    "presence",
    "script",
    "tls",
    "trace",
    "transport",
];

use Effect::{Reload, Restart};

pub static SECTIONS: &[Section] = &[
    Section {
        name: "listen",
        header: "[[listen]]",
        doc: "An address to receive requests on. Without any `[[listen]]` there is one: UDP on `127.0.0.1:5060`. Listeners can be added and removed by a reload.",
        keys: &[
            Key {
                name: "address",
                value: "IP address and port; IPv6 in brackets",
                default: "required",
                effect: Reload,
                doc: "Where to bind. Port 0 takes any free port, which `tandem status` shows.",
                example: r#"address = "192.0.2.1:5060""#,
            },
            Key {
                name: "transports",
                value: "list of `\"udp\"`",
                default: r#"["udp"]"#,
                effect: Restart,
                doc: "Transports on this address.",
                example: r#"transports = ["udp"]"#,
            },
            Key {
                name: "spread",
                value: "`\"flow\"` or `\"datagram\"`",
                default: r#""flow""#,
                effect: Restart,
                doc: "How datagrams are spread over the slots. `flow` keeps all from one source address and port on one slot, which is cheapest with many sources. `datagram` puts each anywhere, for few sources such as one trunk, which would otherwise load a single slot.",
                example: r#"spread = "flow""#,
            },
            Key {
                name: "advertise",
                value: "host name or address, with or without a port",
                default: "the listener's address",
                effect: Reload,
                doc: "What Via and Record-Route name in place of `address`, so that answers and later requests find the way back. Needed where `address` is `0.0.0.0` or `[::]`, or behind address translation.",
                example: r#"advertise = "sip.example.com""#,
            },
        ],
        absent: &[
            "cert",
            "key",
            "certificate",
            "tls",
            "proxy_protocol",
            "script",
            "websocket",
            "tcp",
        ],
    },
    Section {
        name: "workers",
        header: "[workers]",
        doc: "Worker processes and their threads. A *slot* is one reactor thread; `count` times `reactors` is at most 256.",
        keys: &[
            Key {
                name: "count",
                value: "integer, 1 to 125",
                default: "one for every 4 cores, at least 2",
                effect: Restart,
                doc: "Worker processes that handle messages. One more, the warm spare, always stands by.",
                example: "count = 2",
            },
            Key {
                name: "reactors",
                value: "integer, 1 to 256",
                default: "the number of cores divided by `count`, at least 1",
                effect: Restart,
                doc: "Reactor threads of each worker process.",
                example: "reactors = 2",
            },
            Key {
                name: "pin",
                value: "list of core numbers, `\"auto\"` or `\"none\"`",
                default: r#""none""#,
                effect: Reload,
                doc: "Which core each slot's thread is bound to. A list has one core for every slot. `auto` takes the cores that the server may use in their order, and binds nothing if there are fewer cores than slots.",
                example: "pin = [0, 1, 2, 3]",
            },
            Key {
                name: "spin_us",
                value: "integer, 0 to 1000000; microseconds",
                default: "0",
                effect: Restart,
                doc: "How long an idle thread keeps polling before it sleeps. Spends processor time for latency.",
                example: "spin_us = 0",
            },
            Key {
                name: "hang_timeout",
                value: "duration, `\"100ms\"` to `\"1h\"`",
                default: r#""2s""#,
                effect: Reload,
                doc: "How long a slot may leave its doorbell unanswered, which is rung once a second, and a worker its orders unread. Then the worker is killed, with the stack of the thread that hangs in the log, and the spare takes over.",
                example: r#"hang_timeout = "2s""#,
            },
            Key {
                name: "user",
                value: "account name",
                default: "the account that started the server",
                effect: Restart,
                doc: "Account that worker processes drop their privileges to. Needs a server that was started as root.",
                example: r#"user = "tandem""#,
            },
        ],
        absent: &["edge_reactors", "drain", "driver", "io_uring"],
    },
    Section {
        name: "memory",
        header: "[memory]",
        doc: "Memory that all workers share: registrations and transactions live there.",
        keys: &[
            Key {
                name: "limit",
                value: "size, `\"16MiB\"` to `\"8GiB\"`; KiB, MiB or GiB",
                default: r#""256MiB""#,
                effect: Reload,
                doc: "Most memory that the shared tables may take. It is taken as it is needed. A reload raises it: everything moves into a larger arena while messages wait in their sockets for some milliseconds. To lower it takes a restart of the server. When it is full, new registrations and calls are refused with 503 and everything that exists goes on.",
                example: r#"limit = "256MiB""#,
            },
            Key {
                name: "huge_pages",
                value: "`true`, `false` or `\"auto\"`",
                default: r#""auto""#,
                effect: Restart,
                doc: "Whether the shared memory is made of huge pages. With small ones the kernel takes 20 to 70 µs for each MiB that a worker had touched until it tells of the worker's death, and look-ups are slower. `\"auto\"` takes pages that are set aside (`vm.nr_hugepages`) if there are enough, else asks for them where `transparent_hugepage/shmem_enabled` allows it, else has small pages gathered in the background. `true` refuses to start if the kernel gives no huge pages from the start. `tandem status` shows what is in effect.",
                example: r#"huge_pages = "auto""#,
            },
            Key {
                name: "snapshot",
                value: "duration, `\"1s\"` to `\"1day\"`, or `\"off\"`",
                default: r#""10s""#,
                effect: Reload,
                doc: "How often registrations, dialogs and key-value pairs are written to the file `snapshot` in the state directory, from which they come back at the next start. So much is lost by a power cut at most, and nothing by `tandem stop`, which writes a last one. Times at which nothing happened are left out. `\"off\"`: no file is written, and none is read at the start.",
                example: r#"snapshot = "10s""#,
            },
        ],
        absent: &[],
    },
    Section {
        name: "registrar",
        header: "[registrar]",
        doc: "Registrations (RFC 3261 §10.3).",
        keys: &[
            Key {
                name: "expires_default",
                value: "duration, `\"1s\"` to `\"30days\"`",
                default: r#""1h""#,
                effect: Reload,
                doc: "Lifetime of a binding whose REGISTER asks for none. Without the key it is kept between `expires_min` and `expires_max`.",
                example: r#"expires_default = "1h""#,
            },
            Key {
                name: "expires_min",
                value: "duration, `\"0s\"` to `\"1h\"`",
                default: r#""60s""#,
                effect: Reload,
                doc: "Shortest lifetime; a REGISTER that asks for less gets 423 with Min-Expires. RFC 3261 §10.3 allows no refusal from one hour on.",
                example: r#"expires_min = "60s""#,
            },
            Key {
                name: "expires_max",
                value: "duration, `\"1s\"` to `\"30days\"`",
                default: r#""1day""#,
                effect: Reload,
                doc: "Longest lifetime; a REGISTER that asks for more gets this.",
                example: r#"expires_max = "1day""#,
            },
            Key {
                name: "bindings_max",
                value: "integer, 1 to 32",
                default: "10",
                effect: Reload,
                doc: "Most bindings of one address-of-record. A REGISTER over it changes nothing and is refused.",
                example: "bindings_max = 10",
            },
        ],
        absent: &["path", "outbound", "gruu"],
    },
    Section {
        name: "limits",
        header: "[limits]",
        doc: "Bounds on what one request may cause.",
        keys: &[
            Key {
                name: "branches_max",
                value: "integer, 1 to 32",
                default: "16",
                effect: Reload,
                doc: "Most targets that one request is forked to, those of redirections included.",
                example: "branches_max = 16",
            },
            Key {
                name: "quarantine_ttl",
                value: "duration, `\"1s\"` to `\"30days\"`",
                default: r#""1h""#,
                effect: Reload,
                doc: "How long a message that two workers died of is dropped wherever it comes in, and how long it is remembered that one has. `tandem quarantine` shows them.",
                example: r#"quarantine_ttl = "1h""#,
            },
        ],
        absent: &["rate", "calls_max", "message_bytes_max", "connections_max"],
    },
    Section {
        name: "proxy",
        header: "[proxy]",
        doc: "How a request goes from one target to the next, and from one address of a target to the next.",
        keys: &[
            Key {
                name: "fork",
                value: "`\"by-q\"` or `\"at-once\"`",
                default: r#""by-q""#,
                effect: Reload,
                doc: "In which order the contacts of a user are tried. `by-q`: those with the highest `q` at once, and those with less when these have failed or have rung for `serial_timeout` (RFC 3261 §16.6). `at-once`: all of them, whatever their `q`.",
                example: r#"fork = "by-q""#,
            },
            Key {
                name: "serial_timeout",
                value: "duration, `\"1s\"` to `\"1h\"`",
                default: r#""20s""#,
                effect: Reload,
                doc: "How long contacts may ring while others with a lower `q` wait. Then they are cancelled and the next ones ring.",
                example: r#"serial_timeout = "20s""#,
            },
            Key {
                name: "hop_timeout",
                value: "duration, `\"100ms\"` to `\"32s\"`",
                default: r#""4s""#,
                effect: Reload,
                doc: "How long an address may be silent while the same target has others: further addresses of its name, further destinations of a group. The last one has 64 times `timers.t1`.",
                example: r#"hop_timeout = "4s""#,
            },
            Key {
                name: "failover_codes",
                value: "list of status codes, 400 to 599",
                default: "[503]",
                effect: Reload,
                doc: "With which answers an address sends a request to the next one of the same target (RFC 3263 §4.3). Other answers are the target's.",
                example: "failover_codes = [503]",
            },
        ],
        absent: &["topology_hiding", "advertise", "max_forwards"],
    },
    Section {
        name: "overload",
        header: "[overload]",
        doc: "What happens beyond capacity. Responses and requests within dialogs always pass.",
        keys: &[
            Key {
                name: "occupancy",
                value: "integer, 50 to 100. Unit: percent of a slot's time",
                default: "95",
                effect: Reload,
                doc: "A slot that is busier than this for 0.1 s refuses as many requests outside dialogs as brings it back there: 503 with Retry-After to those who send most, then silence, and at last the kernel drops a share of INVITEs before anybody reads them. `100` takes everything, whatever becomes of it.",
                example: "occupancy = 95",
            },
            Key {
                name: "source_rate",
                value: "integer, 0 to 1000000. Unit: requests per second",
                default: "0",
                effect: Reload,
                doc: "Requests outside dialogs that one address may send to one slot in a second; what is over is refused with 503 and Retry-After. `0`: no limit. With `spread = \"flow\"` one flow comes to one slot.",
                example: "source_rate = 200",
            },
            Key {
                name: "retry_after",
                value: "duration, `\"1s\"` to `\"1h\"`",
                default: r#""5s""#,
                effect: Reload,
                doc: "What Retry-After says in these refusals.",
                example: r#"retry_after = "5s""#,
            },
        ],
        absent: &[],
    },
    Section {
        name: "timers",
        header: "[timers]",
        doc: "Timers of RFC 3261 §17 and §16.6. Transactions that run keep theirs over a reload.",
        keys: &[
            Key {
                name: "t1",
                value: "duration, `\"10ms\"` to `\"10s\"`",
                default: r#""500ms""#,
                effect: Reload,
                doc: "Estimate of the round-trip time. The first retransmission comes after it, and a transaction gives up after 64 times it.",
                example: r#"t1 = "500ms""#,
            },
            Key {
                name: "t2",
                value: "duration, `\"10ms\"` to `\"60s\"`, not below `t1`",
                default: r#""4s""#,
                effect: Reload,
                doc: "Longest time between retransmissions of requests other than INVITE and of final responses to INVITE.",
                example: r#"t2 = "4s""#,
            },
            Key {
                name: "t4",
                value: "duration, `\"0s\"` to `\"60s\"`",
                default: r#""5s""#,
                effect: Reload,
                doc: "How long a message may wander in the network; ended transactions absorb latecomers for so long.",
                example: r#"t4 = "5s""#,
            },
            Key {
                name: "c",
                value: "duration, `\"1s\"` to `\"1h\"`",
                default: r#""181s""#,
                effect: Reload,
                doc: "Timer C: how long a callee may ring without a sign of life before the proxy cancels. RFC 3261 §16.6 asks for more than 3 minutes.",
                example: r#"c = "181s""#,
            },
        ],
        absent: &[
            "a", "b", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "session",
        ],
    },
    Section {
        name: "auth",
        header: "[auth]",
        doc: "How users prove who they are (Digest, RFC 7616), in domains with `auth = \"digest\"`.",
        keys: &[
            Key {
                name: "algorithms",
                value: "list of `\"SHA-512-256\"`, `\"SHA-256\"`, `\"MD5\"`",
                default: r#"["MD5"]"#,
                effect: Reload,
                doc: "Digests that are offered, one challenge for each, the strongest first whatever the order here (RFC 8760). Where a user has no secret for any of them, one that he has is offered in his domain as well. Phones should take the first that they know; some know MD5 only and give up at another, which is why it is alone by default.",
                example: r#"algorithms = ["SHA-256", "MD5"]"#,
            },
            Key {
                name: "auth_int",
                value: "`true` or `false`",
                default: "false",
                effect: Reload,
                doc: "Whether challenges offer `auth-int`, which protects the body as well, beside `auth`. Phones that use it are taken in any case. Whatever changes bodies on the way, such as a NAT's SIP helper, breaks it.",
                example: "auth_int = false",
            },
            Key {
                name: "qop",
                value: "`\"optional\"` or `\"required\"`",
                default: r#""optional""#,
                effect: Reload,
                doc: "Whether answers without `qop`, as of RFC 2069, are taken. They have no nonce count, so a nonce is good for one such request: the next one costs the phone another challenge.",
                example: r#"qop = "optional""#,
            },
            Key {
                name: "nonce_lifetime",
                value: "duration, `\"1s\"` to `\"1h\"`",
                default: r#""5m""#,
                effect: Reload,
                doc: "How long a phone may use a nonce before it gets a new one. A nonce is good for any number of requests, each with a count of its own.",
                example: r#"nonce_lifetime = "5m""#,
            },
            Key {
                name: "uri",
                value: "`\"loose\"`, `\"strict\"` or `\"off\"`",
                default: r#""loose""#,
                effect: Reload,
                doc: "What the `uri` in a phone's answer is compared with the Request-URI for; another one is refused with 400. `strict`: it is equivalent. `loose`: it has the same user, if both have one, and the same host, one of our own or an address.",
                example: r#"uri = "loose""#,
            },
            Key {
                name: "failures",
                value: "integer, 0 to 254",
                default: "10",
                effect: Reload,
                doc: "So many wrong answers of one user from one address within `window`, and this user is refused from this address for the time of `ban`; 0: any number. From other addresses he is not, whoever guesses here.",
                example: "failures = 10",
            },
            Key {
                name: "failures_address",
                value: "integer, 0 to 254",
                default: "100",
                effect: Reload,
                doc: "So many wrong answers from one address (of IPv6: one network of 64 bits), whatever the user, and all who have to prove who they are are refused from there; 0: any number. Behind one address may be a whole office.",
                example: "failures_address = 100",
            },
            Key {
                name: "window",
                value: "duration, `\"1s\"` to `\"1day\"`",
                default: r#""1m""#,
                effect: Reload,
                doc: "The time in which failures are counted together.",
                example: r#"window = "1m""#,
            },
            Key {
                name: "ban",
                value: "duration, `\"1s\"` to `\"30days\"`",
                default: r#""5m""#,
                effect: Reload,
                doc: "How long one who has failed too often is refused.",
                example: r#"ban = "5m""#,
            },
            Key {
                name: "banned",
                value: "`\"reject\"` or `\"drop\"`",
                default: r#""reject""#,
                effect: Reload,
                doc: "What one gets who is refused: 403 with Retry-After, or no answer at all.",
                example: r#"banned = "reject""#,
            },
        ],
        absent: &["realm", "methods", "database"],
    },
    Section {
        name: "user",
        header: "[[user]]",
        doc: "Somebody who may register and call with a password. Exactly one of `password`, `ha1`, `ha1_sha256` and `ha1_sha512_256` is required. More than a few are better kept by `tandem user`.",
        keys: &[
            Key {
                name: "name",
                value: "`NAME@DOMAIN`",
                default: "required",
                effect: Reload,
                doc: "The account. `NAME` is the username and `DOMAIN` the realm of the digest.",
                example: r#"name = "alice@example.com""#,
            },
            Key {
                name: "password",
                value: "string",
                default: "none",
                effect: Reload,
                doc: "Password in clear. Works with every digest algorithm.",
                example: r#"password = "correct horse""#,
            },
            Key {
                name: "ha1",
                value: "32 hexadecimal digits",
                default: "none",
                effect: Reload,
                doc: "MD5 of `NAME:DOMAIN:PASSWORD`, for phones that know no better.",
                example: r#"ha1 = "0123456789abcdef0123456789abcdef""#,
            },
            Key {
                name: "ha1_sha256",
                value: "64 hexadecimal digits",
                default: "none",
                effect: Reload,
                doc: "SHA-256 of `NAME:DOMAIN:PASSWORD` (RFC 8760). Phones that know MD5 only cannot use it.",
                example: r#"ha1_sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef""#,
            },
            Key {
                name: "ha1_sha512_256",
                value: "64 hexadecimal digits",
                default: "none",
                effect: Reload,
                doc: "SHA-512-256 of `NAME:DOMAIN:PASSWORD` (RFC 8760).",
                example: r#"ha1_sha512_256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef""#,
            },
            Key {
                name: "identities",
                value: "list of user parts, or `\"*\"`",
                default: "none",
                effect: Reload,
                doc: "Further users of the domain that this one may register and call as: aliases, the numbers behind a trunk or a gateway, `\"*\"` for all. Anybody else's address in To of a REGISTER or in From is refused with 403.",
                example: r#"identities = ["100", "101"]"#,
            },
        ],
        absent: &["display_name", "caller_id", "groups", "source"],
    },
    Section {
        name: "domain",
        header: "[[domain]]",
        doc: "A domain that this server is responsible for.",
        keys: &[
            Key {
                name: "name",
                value: "host name or IP address",
                default: "required",
                effect: Reload,
                doc: "As in the host part of addresses. Upper and lower case are the same.",
                example: r#"name = "example.com""#,
            },
            Key {
                name: "auth",
                value: "`\"digest\"` or `\"none\"`",
                default: r#""digest""#,
                effect: Reload,
                doc: "Who may register here, call from here, and use a rule of this domain that leads out (`group:`, `uri:`, `dns`): those who know a password of `[[user]]`, or everybody. Calls to registered phones are taken from everybody.",
                example: r#"auth = "digest""#,
            },
            Key {
                name: "record_route",
                value: "`true` or `false`",
                default: "true",
                effect: Reload,
                doc: "Whether the proxy stays in the way of a dialog's later requests (RFC 3261 §16.6 step 4).",
                example: "record_route = true",
            },
            Key {
                name: "recurse",
                value: "`true` or `false`",
                default: "false",
                effect: Reload,
                doc: "Whether the proxy follows redirections (300, 301, 302, 305) of this domain's users by itself, instead of leaving them to the caller (RFC 3261 §16.7 step 4). Phones then decide where calls go on, trunks included, with nobody's credentials asked for.",
                example: "recurse = false",
            },
        ],
        absent: &["topology_hiding", "script", "aliases", "tls", "realm"],
    },
    Section {
        name: "group",
        header: "[[group]]",
        doc: "Several destinations that share requests. Routes name it with `to = \"group:NAME\"`.",
        keys: &[
            Key {
                name: "name",
                value: "letters, digits, `-`, `_` and `.`",
                default: "required",
                effect: Reload,
                doc: "The name that routes use.",
                example: r#"name = "media""#,
            },
            Key {
                name: "policy",
                value: "`\"round-robin\"`",
                default: r#""round-robin""#,
                effect: Reload,
                doc: "How a destination is chosen: `round-robin` takes them in turn. When it is silent, cannot be reached or answers with one of `proxy.failover_codes`, the others are tried, up to seven.",
                example: r#"policy = "round-robin""#,
            },
            Key {
                name: "destinations",
                value: "list of tables, at least one",
                default: "required",
                effect: Reload,
                doc: "The destinations; their keys are in the next section.",
                example: r#"destinations = [{ uri = "sip:192.0.2.10:5060" }]"#,
            },
        ],
        absent: &["probe", "failover", "sticky", "hash"],
    },
    Section {
        name: "group.destinations",
        header: "destinations of a [[group]]",
        doc: "One destination.",
        keys: &[Key {
            name: "uri",
            value: "SIP URI",
            default: "required",
            effect: Reload,
            doc: "Where requests are sent. Its host and port count; the Request-URI stays what it was.",
            example: r#"uri = "sip:192.0.2.10:5060""#,
        }],
        absent: &["weight", "capacity", "priority", "enabled", "probe"],
    },
    Section {
        name: "route",
        header: "[[route]]",
        doc: "Where requests go. The first rule that matches wins. A request that no rule matches goes to the registered contacts if its domain is one of `[[domain]]`, and is refused with 403 otherwise.",
        keys: &[
            Key {
                name: "match",
                value: "table",
                default: "matches everything",
                effect: Reload,
                doc: "What a request must be; its keys are in the next section. All that are there must hold.",
                example: r#"match = { domain = "example.com" }"#,
            },
            Key {
                name: "to",
                value: "`\"location\"`, `\"group:NAME\"`, `\"uri:URI\"`, `\"reject:CODE\"` or `\"dns\"`",
                default: "required",
                effect: Reload,
                doc: "`location`: the contacts registered for the Request-URI. `group:NAME`: the next destination of a group. `uri:URI`: this URI in place of the Request-URI. `reject:CODE`: answered with this status, 400 to 699. `dns`: where the Request-URI points.",
                example: r#"to = "location""#,
            },
            Key {
                name: "recurse",
                value: "`true` or `false`",
                default: "false",
                effect: Reload,
                doc: "Whether the proxy follows redirections of what `group:` or `uri:` leads to by itself. For `location` the domain's `recurse` counts.",
                example: "recurse = false",
            },
        ],
        absent: &["script", "name", "set", "auth", "failover"],
    },
    Section {
        name: "route.match",
        header: "match of a [[route]]",
        doc: "Conditions on a request.",
        keys: &[
            Key {
                name: "domain",
                value: "host name or IP address",
                default: "any",
                effect: Reload,
                doc: "Host of the Request-URI.",
                example: r#"domain = "example.com""#,
            },
            Key {
                name: "method",
                value: "method",
                default: "any",
                effect: Reload,
                doc: "Method of the request, in upper case as on the wire.",
                example: r#"method = "INVITE""#,
            },
            Key {
                name: "user",
                value: "regular expression",
                default: "any",
                effect: Reload,
                doc: "Searched in the user part of the Request-URI; `^` and `$` anchor it. A Request-URI without a user part has an empty one; of a tel: URI it is the number. Escapes count as what they stand for: `%39` is a 9.",
                example: r#"user = "^9""#,
            },
            Key {
                name: "source",
                value: "IP address, or network such as `\"192.0.2.0/24\"`",
                default: "any",
                effect: Reload,
                doc: "Address that the request came from. A rule that names it trusts it: what matches is asked for no password. UDP addresses can be forged, so name only networks that nobody else can send from.",
                example: r#"source = "192.0.2.0/24""#,
            },
        ],
        absent: &["header", "from", "to", "time", "transport", "listener"],
    },
];
