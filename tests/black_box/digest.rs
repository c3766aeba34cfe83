//! Digest against the real server: what is taken, what is refused, what outlives a worker; and users that come and go while it runs.

use std::time::Duration;

use blackbox::machine::{eventually, shared};
use blackbox::message::{Message, param};
use blackbox::server::{DEFAULT, Server};
use blackbox::sipp::{Run, Sipp};
use blackbox::sipsak;
use blackbox::ua::Ua;
use md5::Digest as _;

const LIMIT: Duration = Duration::from_secs(20);
const REALM: &str = "example.test";

fn config(more: &str) -> String {
    DEFAULT.replace("\"none\"\nrecord", "\"digest\"\nrecord")
        + "\n[[user]]\nname = \"alice@example.test\"\npassword = \"secret\"\n"
        + more
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn md5(text: &str) -> String {
    hex(&md5::Md5::digest(text.as_bytes()))
}

fn sha512_256(text: &str) -> String {
    hex(&sha2::Sha512_256::digest(text.as_bytes()))
}

fn sha256(text: &str) -> String {
    hex(&sha2::Sha256::digest(text.as_bytes()))
}

/// What a phone answers a challenge with.
#[derive(Clone)]
struct Answer {
    user: String,
    password: String,
    nonce: String,
    uri: String,
    count: u32,
}

impl Answer {
    fn to(challenge: &Message, user: &str, password: &str) -> Self {
        let name = match challenge.status() {
            401 => "WWW-Authenticate",
            _ => "Proxy-Authenticate",
        };
        let value = challenge.first(name).expect("a challenge");
        let nonce = value.split("nonce=\"").nth(1).expect("a nonce");
        Self {
            user: user.to_owned(),
            password: password.to_owned(),
            nonce: nonce.split('"').next().expect("its end").to_owned(),
            uri: format!("sip:{REALM}"),
            count: 1,
        }
    }

    fn counted(&self, count: u32) -> Self {
        Self {
            count,
            ..self.clone()
        }
    }

    fn text(&self, method: &str) -> String {
        let Self {
            user,
            password,
            nonce,
            uri,
            count,
        } = self;
        let ha1 = md5(&format!("{user}:{REALM}:{password}"));
        let ha2 = md5(&format!("{method}:{uri}"));
        let response = md5(&format!("{ha1}:{nonce}:{count:08x}:0a4f113b:auth:{ha2}"));
        format!(
            "Digest username=\"{user}\", realm=\"{REALM}\", nonce=\"{nonce}\", uri=\"{uri}\", response=\"{response}\", \
             algorithm=MD5, cnonce=\"0a4f113b\", qop=auth, nc={count:08x}"
        )
    }

    fn register(&self, ua: &Ua) -> Message {
        let mut request = ua.register_request(600);
        request.push("Authorization", self.text("REGISTER"));
        request
    }
}

/// A challenge, answered.
fn answer(ua: &Ua, password: &str) -> Answer {
    let challenge = ua.register(600);
    assert_eq!(challenge.status(), 401);
    Answer::to(&challenge, &ua.user, password)
}

fn is_stale(response: &Message) -> bool {
    response.status() == 401
        && response
            .first("WWW-Authenticate")
            .is_some_and(|value| value.contains("stale=true"))
}

/// A rule that leads out takes whatever matches it. A REGISTER to elsewhere would bind our number there to whoever sends it.
#[test]
fn whatever_leads_out_asks_as_a_proxy() {
    let _shared = shared();
    let server = Server::start_with(&config(
        "[[domain]]\nname = \"another.test\"\n\
         [[group]]\nname = \"out\"\ndestinations = [ { uri = \"sip:{ip}:9\" } ]\n\
         [[route]]\nmatch = { user = \"^$\" }\nto = \"group:out\"\n",
    ));
    let alice = server.ua("alice");
    let stranger = |method: &str, uri: &str| {
        let mut request = alice.request(method, uri);
        request.set("From", "<sip:4930@provider.test>;tag=1");
        request.set("To", "<sip:4930@provider.test>");
        if method == "REGISTER" {
            request.push("Contact", alice.contact());
        }
        request
    };
    for method in ["REGISTER", "OPTIONS", "MESSAGE"] {
        let challenge = alice.ask(&stranger(method, "sip:provider.test"));
        assert_eq!(challenge.status(), 407, "{method}");
        // The first domain of the file.
        let value = challenge.first("Proxy-Authenticate").expect("a challenge");
        assert!(value.contains("realm=\"example.test\""), "{value}");
    }
    assert_eq!(server.counter("proxy.forwarded"), 0);

    // One of ours gets out, and his credentials stay here.
    let register = stranger("REGISTER", "sip:provider.test");
    let mut known = Answer::to(&alice.ask(&register), "alice", "secret");
    known.uri = "sip:provider.test".to_owned();
    let mut register = stranger("REGISTER", "sip:provider.test");
    register.push("Proxy-Authorization", known.text("REGISTER"));
    alice.send(&register);
    eventually("it is sent on", LIMIT, || {
        (server.counter("proxy.forwarded") == 1).then_some(())
    });
    // What is for the server itself is asked as before.
    assert_eq!(alice.register(600).status(), 401);
    let options = alice.ask(&alice.request("OPTIONS", "sip:example.test"));
    assert_eq!(options.status(), 200);
}

/// Whatever a REGISTER's Request-URI and From are, and whatever rule takes it: our registrar serves it by its To.
#[test]
fn nobody_registers_somebody_else_by_another_request_uri() {
    let _shared = shared();
    let (carol, location) = (
        "[[user]]\nname = \"carol@example.test\"\npassword = \"other\"\n",
        "[[route]]\nto = \"location\"\n",
    );
    let trusted = "[[route]]\nmatch = { source = \"127.0.0.0/8\" }\nto = \"location\"\n";
    for rules in ["", location, trusted] {
        let server = Server::start_with(&config(&format!("{carol}{rules}")));
        let (alice, carol) = (server.ua("alice"), server.ua("carol"));
        let good = answer(&carol, "other");
        for uri in [
            "sip:x@example.test".to_owned(),
            "sip:alice@example.test".to_owned(),
            "sip:example.test:9999".to_owned(),
            "sip:elsewhere.test".to_owned(),
            "sip:192.0.2.77".to_owned(),
            format!("sip:{}", server.address()),
            format!("sip:x@{}", server.address()),
        ] {
            let mut request = carol.register_request(600);
            request.start = format!("REGISTER {uri} SIP/2.0");
            request.set("To", "<sip:alice@example.test>");
            let mut stranger = request.clone();
            stranger.set("Via", carol.via());
            stranger.set("From", "<sip:m@evil.test>;tag=1");
            let status = carol.ask(&stranger).status();
            assert_eq!(status, 401, "{uri}, a stranger");
            let mut known = Answer::to(&carol.ask(&request), "carol", "other");
            known.uri.clone_from(&uri);
            for name in ["Authorization", "Proxy-Authorization"] {
                let mut other = request.clone();
                other.set("Via", carol.via());
                other.push(name, known.text("REGISTER"));
                let status = carol.ask(&other).status();
                assert!([401, 403].contains(&status), "{uri}: {status}, {name}");
            }
        }
        let status = carol.ask(&good.register(&carol)).status();
        assert_eq!(status, 200, "her own");
        assert_eq!(alice.register(600).status(), 401);
        let mut call = carol.request("MESSAGE", "sip:alice@example.test");
        call.set("From", "<sip:m@evil.test>;tag=1");
        assert_eq!(carol.ask(&call).status(), 480, "nobody is bound to alice");
    }
}

#[test]
fn a_nonce_count_is_good_for_one_request_whoever_serves_it() {
    let _shared = shared();
    let server = Server::start_with(&config(""));
    let alice = server.ua("alice");
    let good = answer(&alice, "secret");
    let first = good.register(&alice);
    assert_eq!(alice.ask(&first).status(), 200);
    // A retransmission is answered as before.
    assert_eq!(alice.ask(&first).status(), 200);
    // What was heard on the way is of no use, to whichever slot it comes.
    for _ in 0..12 {
        let thief = server.ua("alice");
        assert!(is_stale(&thief.ask(&good.register(&thief))));
    }
    assert_eq!(server.counter("auth.replayed"), 12);
    // Out of order, once each.
    for count in [4, 2, 3] {
        let request = good.counted(count).register(&alice);
        assert_eq!(alice.ask(&request).status(), 200, "{count}");
        let again = good.counted(count).register(&alice);
        assert!(is_stale(&alice.ask(&again)), "{count}");
    }
    // A phone that never counts takes a new nonce each time.
    for _ in 0..5 {
        let request = answer(&alice, "secret").register(&alice);
        assert_eq!(alice.ask(&request).status(), 200);
    }
    // Nobody who served any of it lives.
    let before = server.restarts();
    for worker in server.workers() {
        server.kill_worker(worker.pid);
    }
    eventually("all slots have heirs", LIMIT, || {
        (server.try_restarts()? >= before + 2).then_some(())
    });
    server.wait_ready();
    let thief = server.ua("alice");
    assert!(is_stale(&thief.ask(&good.counted(3).register(&thief))));
    assert_eq!(alice.ask(&good.counted(5).register(&alice)).status(), 200);
}

#[test]
fn a_worker_dies_between_challenge_and_answer() {
    let _shared = shared();
    let server = Server::start_with(&config(""));
    let alice = server.ua("alice");
    let good = answer(&alice, "secret");
    let before = server.restarts();
    for worker in server.signalling() {
        server.kill_worker(worker.pid);
    }
    eventually("all slots have heirs", LIMIT, || {
        (server.try_restarts()? >= before + 2).then_some(())
    });
    assert_eq!(alice.ask(&good.register(&alice)).status(), 200);
    // Another server's nonce is nobody's.
    let other = Server::start_with(&config(""));
    let stranger = other.ua("alice");
    let refused = stranger.ask(&good.register(&stranger));
    assert!(refused.status() == 401 && !is_stale(&refused));
}

#[test]
fn credentials_of_every_broken_kind_are_refused() {
    let _shared = shared();
    let server = Server::start_with(&config("[auth]\nfailures = 0\nfailures_address = 0\n"));
    let alice = server.ua("alice");
    let good = answer(&alice, "secret");
    let whole = good.text("REGISTER");
    let ask = |text: &str| {
        let mut request = alice.register_request(600);
        request.push("Authorization", text);
        alice.ask(&request).status()
    };
    for (from, to, code) in [
        ("realm=\"example.test\"", "realm=\"elsewhere.test\"", 401),
        ("username=\"alice\"", "username=\"bob\"", 401),
        ("username=\"alice\", ", "", 400),
        ("qop=auth", "qop=auth-conf", 401),
        ("qop=auth", "qop=auth-int", 401),
        ("algorithm=MD5", "algorithm=SHA-1", 401),
        ("algorithm=MD5", "algorithm=MD5-sess", 401),
        ("nc=00000001", "nc=1", 400),
        ("nc=00000001", "nc=00000002", 401),
        (
            "uri=\"sip:example.test\"",
            "uri=\"sip:elsewhere.test\"",
            400,
        ),
        ("uri=\"sip:example.test\"", "uri=\"sip:127.0.0.1\"", 401),
        ("nonce=\"", "nonce=\"0", 401),
        ("Digest ", "Basic ", 401),
        ("qop=auth", "qop=auth, userhash=true", 401),
        (", nc=", "; nc=", 400),
    ] {
        assert!(whole.contains(from), "{from}");
        assert_eq!(ask(&whole.replacen(from, to, 1)), code, "{from} -> {to}");
    }
    // Cut anywhere, and with single bytes changed: never taken, never the end of a worker.
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..300 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut bytes = whole.clone().into_bytes();
        let at = random as usize % bytes.len();
        match round % 3 {
            0 => bytes.truncate(at),
            1 => bytes[at] = 33 + (random >> 32) as u8 % 90,
            _ => drop(bytes.splice(at..at, [b"\",=\\ "[(random >> 40) as usize % 5]; 3])),
        }
        let text = String::from_utf8(bytes).expect("ASCII");
        let code = ask(&text);
        // A change of what the digest does not cover, such as the case of a name.
        let harmless = code == 200 && round % 3 != 0;
        assert!(matches!(code, 400 | 401) || harmless, "{code}: {text}");
    }
    assert_eq!(server.restarts(), 0);
    let last = answer(&alice, "secret").register(&alice);
    assert_eq!(alice.ask(&last).status(), 200);
    // A right password does not make alice somebody else, neither here nor there.
    let mut as_bob = answer(&alice, "secret").register(&alice);
    as_bob.set("To", "<sip:bob@example.test>");
    assert_eq!(alice.ask(&as_bob).status(), 403);
}

#[test]
fn who_guesses_is_refused_where_he_is_and_nowhere_else() {
    let _shared = shared();
    let server = Server::start_with(&config("[auth]\nfailures = 3\nban = \"1h\"\n"));
    let here = server.ua("alice");
    for _ in 0..3 {
        let wrong = answer(&here, "guess").register(&here);
        let refused = here.ask(&wrong);
        assert!(refused.status() == 401 && !is_stale(&refused));
    }
    let right = answer(&here, "secret");
    let refused = here.ask(&right.register(&here));
    assert_eq!(refused.status(), 403);
    assert!(refused.first("Retry-After").is_some());
    // Not even a new worker has forgotten it.
    let before = server.restarts();
    for worker in server.signalling() {
        server.kill_worker(worker.pid);
    }
    eventually("all slots have heirs", LIMIT, || {
        (server.try_restarts()? >= before + 2).then_some(())
    });
    assert_eq!(here.ask(&right.counted(2).register(&here)).status(), 403);
    let elsewhere = Ua::new(
        blackbox::machine::fresh_address(),
        server.address(),
        "alice",
        REALM,
    );
    let request = answer(&elsewhere, "secret").register(&elsewhere);
    assert_eq!(elsewhere.ask(&request).status(), 200);
    assert_eq!(server.counter("auth.banned"), 1);
    assert!(server.log().contains("too many wrong passwords"));
}

#[test]
fn users_come_and_go_while_it_runs_and_stay_over_a_stop() {
    let _shared = shared();
    let mut server = Server::start_with(&config(""));
    let (bob, carol) = (server.ua("bob"), server.ua("carol"));
    let register = |ua: &Ua, password: &str| {
        let request = answer(ua, password).register(ua);
        ua.ask(&request).status()
    };
    assert_eq!(register(&bob, "one"), 401);
    server.run(&["user", "add", "bob@example.test", "--password", "one"]);
    assert_eq!(register(&bob, "one"), 200);
    let twice = server.command(&["user", "add", "bob@example.test", "--password", "x"]);
    assert_eq!(twice.status.code(), Some(1));
    server.run(&["user", "set", "bob@example.test", "--password", "two"]);
    assert_eq!(register(&bob, "one"), 401);
    assert_eq!(register(&bob, "two"), 200);
    server.run(&["user", "set", "bob@example.test", "--as", "carol"]);
    let mut as_carol = Answer {
        user: "bob".to_owned(),
        ..answer(&carol, "two")
    }
    .register(&carol);
    as_carol.set("From", "<sip:bob@example.test>;tag=1");
    assert_eq!(carol.ask(&as_carol).status(), 200);
    let said = server.run(&["user", "add", "alice@example.test", "--password", "other"]);
    assert!(said.contains("[[user]]"), "{said}");
    let alice = server.ua("alice");
    assert_eq!(register(&alice, "secret"), 200);
    assert_eq!(register(&alice, "other"), 401);
    let list = server.json(&["user", "list"]);
    let names: Vec<_> = list.as_array().expect("a list").iter().collect();
    assert_eq!(names.len(), 3, "{list}");
    let file = std::fs::read_to_string(server.state().join("users")).expect("the file");
    assert!(!file.contains("two") && file.contains("bob@example.test"));
    // A new worker, a new supervisor, a new server.
    for worker in server.workers() {
        server.kill_worker(worker.pid);
    }
    server.wait_ready();
    assert_eq!(register(&bob, "two"), 200);
    server.kill_supervisor();
    server.run_again();
    server.wait_ready();
    assert_eq!(register(&bob, "two"), 200);
    server.kill_all();
    server.run_again();
    server.wait_ready();
    assert_eq!(register(&bob, "two"), 200);
    server.run(&["user", "remove", "bob@example.test"]);
    assert_eq!(register(&bob, "two"), 401);
}

/// A domain that nobody serves is told; a file that is gone takes nobody's login away, neither by a reload nor by a new user.
#[test]
fn users_are_not_lost_with_their_file() {
    let _shared = shared();
    let server = Server::start_with(&config(""));
    let bob = server.ua("bob");
    let register = || {
        let request = answer(&bob, "one").register(&bob);
        bob.ask(&request).status()
    };
    let said = server.run(&["user", "add", "x@nosuch.test", "--password", "one"]);
    assert!(said.contains("no [[domain]] nosuch.test"), "{said}");
    let said = server.run(&["user", "remove", "x@nosuch.test"]);
    assert!(!said.contains("nosuch.test:"), "{said}");
    server.run(&["user", "add", "bob@example.test", "--password", "one"]);
    assert_eq!(register(), 200);
    let (file, away) = (server.state().join("users"), server.state().join("away"));
    std::fs::rename(&file, &away).expect("the file is there");
    let refused = |arguments: &[&str], word: &str| {
        let output = server.command(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?}: {text}");
        assert!(text.contains(word), "{arguments:?}: {text}");
        assert_eq!(register(), 200, "{arguments:?}");
    };
    let add = ["user", "add", "carol@example.test", "--password", "two"];
    refused(&["reload"], "is gone");
    refused(&add, "is gone");
    assert!(!file.exists());
    std::os::unix::fs::symlink(server.state().join("not-mounted/users"), &file).expect("a link");
    refused(&["reload"], "not-mounted");
    refused(&add, "not-mounted");
    std::fs::rename(&away, &file).expect("it goes back");
    server.run(&["reload"]);
    server.run(&add);
    assert_eq!(register(), 200);
    server.run(&["user", "remove", "bob@example.test"]);
    server.run(&["user", "remove", "carol@example.test"]);
    assert_eq!(register(), 401, "who is taken away is gone");
}

#[test]
fn options_that_lead_out_and_other_peoples_names_need_a_password() {
    let _shared = shared();
    let server = Server::start_with(&config(
        "[[group]]\nname = \"out\"\ndestinations = [ { uri = \"sip:{ip}:9\" } ]\n\
         [[route]]\nmatch = { user = \"^9\" }\nto = \"group:out\"\n",
    ));
    let alice = server.ua("alice");
    let ask = |method: &str, uri: &str, from: &str| {
        let mut request = alice.request(method, uri);
        request.set("From", format!("<sip:{from}>;tag=1"));
        alice.ask(&request)
    };
    let out = "sip:9123@example.test";
    assert_eq!(ask("OPTIONS", out, "x@foreign.test").status(), 407);
    let free = ask("OPTIONS", "sip:example.test", "x@foreign.test");
    assert_eq!(free.status(), 200);
    // Somebody else's From with one's own password.
    let challenge = ask("MESSAGE", out, "bob@example.test");
    assert_eq!(challenge.status(), 407);
    let mut good = Answer::to(&challenge, "alice", "secret");
    good.uri = out.to_owned();
    let mut request = alice.request("MESSAGE", out);
    request.set("From", "<sip:bob@example.test>;tag=1");
    request.push("Proxy-Authorization", good.text("MESSAGE"));
    assert_eq!(alice.ask(&request).status(), 403);
    let realm = challenge
        .first("Proxy-Authenticate")
        .and_then(|value| param(value, "x"));
    assert_eq!(realm, None);
}

#[test]
fn sipp_and_sipsak_know_the_password() {
    let _shared = shared();
    // sipsak resolves the host of a URI, so its domain is an address.
    let server = Server::start_with(&config(
        "[[domain]]\nname = \"{ip}\"\n[[user]]\nname = \"alice@{ip}\"\npassword = \"secret\"\n",
    ));
    let run = Run {
        calls: Some(20),
        service: "alice",
        extra: &["-au", "alice", "-ap", "secret"],
        ..Run::caller("register_auth", server.ip, server.address())
    };
    Sipp::start(&run).wait(LIMIT).assert_clean("sipp", 20);
    let address = server.address().to_string();
    let uri = format!("sip:alice@{}", server.ip);
    let contact = "sip:alice@127.0.0.1:5999";
    let told = sipsak::run(&[
        "-U", "-i", "-v", "-C", contact, "-s", &uri, "-u", "alice", "-a", "secret", "-x", "60",
        "-p", &address,
    ]);
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    assert_eq!(told.status.code(), Some(0), "{text}");
    assert!(server.counter("auth.succeeded") >= 21, "{text}");
}

/// The stronger challenge comes first, and is the one that a phone answers.
#[test]
fn the_strongest_algorithm_comes_first() {
    let _shared = shared();
    let server = Server::start_with(&config(
        "[auth]\nfailures = 0\nalgorithms = [\"MD5\", \"SHA-256\", \"SHA-512-256\"]\n",
    ));
    let alice = server.ua("alice");
    let challenge = alice.register(600);
    let offered: Vec<String> = challenge
        .all("WWW-Authenticate")
        .iter()
        .filter_map(|value| {
            Some(
                value
                    .split("algorithm=")
                    .nth(1)?
                    .split(',')
                    .next()?
                    .to_owned(),
            )
        })
        .collect();
    assert_eq!(offered, ["SHA-512-256", "SHA-256", "MD5"]);
    let Answer { nonce, uri, .. } = Answer::to(&challenge, "alice", "secret");
    let (ha1, ha2) = (
        sha256(&format!("alice:{REALM}:secret")),
        sha256(&format!("REGISTER:{uri}")),
    );
    // Without qop, as of RFC 2069: good for one request.
    let response = sha256(&format!("{ha1}:{nonce}:{ha2}"));
    let text = format!(
        "Digest username=\"alice\", realm=\"{REALM}\", nonce=\"{nonce}\", uri=\"{uri}\", response=\"{response}\", algorithm=SHA-256"
    );
    let request = || {
        let mut request = alice.register_request(600);
        request.push("Authorization", text.clone());
        request
    };
    assert_eq!(alice.ask(&request()).status(), 200);
    assert!(is_stale(&alice.ask(&request())));
    // With qop and a count, by each of the three: SIPp 3.6, sipsak 0.9.8 and baresip 1.0 know MD5 only, and only as the first challenge.
    let challenges = alice.register(600);
    for (algorithm, digest) in [
        ("SHA-512-256", sha512_256 as fn(&str) -> String),
        ("SHA-256", sha256),
        ("MD5", md5),
    ] {
        let all = challenges.all("WWW-Authenticate");
        let of = |value: &&&str| value.contains(&format!("algorithm={algorithm},"));
        let challenge = all.iter().find(of).expect("one for each");
        let nonce = challenge.split("nonce=\"").nth(1).expect("a nonce");
        let nonce = nonce.split('"').next().expect("its end");
        let count = match algorithm {
            // All are of one nonce, and each use of it counts.
            "SHA-512-256" => "00000001",
            "SHA-256" => "00000002",
            _ => "00000003",
        };
        let ha1 = digest(&format!("alice:{REALM}:secret"));
        let ha2 = digest(&format!("REGISTER:{uri}"));
        let good = digest(&format!("{ha1}:{nonce}:{count}:c1:auth:{ha2}"));
        let text = |response: &str| {
            format!(
                "Digest username=\"alice\", realm=\"{REALM}\", nonce=\"{nonce}\", uri=\"{uri}\", response=\"{response}\", \
                 algorithm={algorithm}, cnonce=\"c1\", qop=auth, nc={count}"
            )
        };
        let register = |text: String| {
            let mut request = alice.register_request(600);
            request.push("Authorization", text);
            alice.ask(&request).status()
        };
        let other = format!(
            "{}{}",
            if good.starts_with('0') { '1' } else { '0' },
            &good[1..]
        );
        assert_eq!(register(text(&other)), 401, "{algorithm}");
        assert_eq!(
            register(text(&good[..good.len() - 1])),
            400,
            "{algorithm}, cut"
        );
        assert_eq!(register(text(&good)), 200, "{algorithm}");
    }
}
