//! Registrations outlive the server: over a stop, over a power cut but for the last moments, and never from a file that is not whole.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use blackbox::machine::{eventually, shared};
use blackbox::message::Message;
use blackbox::server::{DEFAULT, DOMAIN, LIMIT, Server};
use blackbox::storm::Dice;
use blackbox::ua::{Ua, answers};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use snapshot::{Clock, Encoder, Entry, Head, Reader};

fn config(period: &str) -> String {
    let memory = format!("limit = \"64MiB\"\nsnapshot = \"{period}\"");
    DEFAULT.replace("limit = \"64MiB\"", &memory)
}

/// Registers `user0` to `user(count - 1)`, many at a time, from one socket; the lifetime is `expires` plus the number.
fn register_many(ua: &Ua, count: u32, expires: u32) {
    let (mut next, mut waiting) = (0, Vec::new());
    while next < count || !waiting.is_empty() {
        while next < count && waiting.len() < 40 {
            let request = register_request(ua, &format!("user{next}"), expires + next);
            ua.send(&request);
            waiting.push(request);
            next += 1;
        }
        let (answer, _) = ua
            .peer
            .expect("an answer to a REGISTER", |m| !m.is_request());
        assert_eq!(answer.status(), 200);
        let before = waiting.len();
        waiting.retain(|request| !answers(&answer, request));
        assert_eq!(waiting.len() + 1, before, "one answer each");
    }
}

fn register_request(ua: &Ua, user: &str, expires: u32) -> Message {
    let mut request = ua.register_request(expires);
    request.set("To", format!("<sip:{user}@{DOMAIN}>"));
    request.set("From", format!("<sip:{user}@{DOMAIN}>;tag=1"));
    request.set("Contact", format!("<sip:{user}@{}>", ua.peer.address));
    request
}

/// Seconds that the only binding of a user has left.
#[track_caller]
fn seconds_left(server: &Server, user: &str) -> u64 {
    let shown = server.json(&["registrations", "show", &format!("sip:{user}@{DOMAIN}")]);
    let text = shown.to_string();
    let at = text
        .find("\"expires_s\":")
        .unwrap_or_else(|| panic!("no binding in {text}"));
    let digits: String = text[at + 12..]
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().expect("a number")
}

#[track_caller]
fn registered(server: &Server) -> BTreeSet<String> {
    let listed = server.json(&["registrations", "list"]).to_string();
    let marks = listed.split("sip:").skip(1);
    let users = marks.filter_map(|text| text.split_once(&format!("@{DOMAIN}")));
    users
        .map(|(user, _)| user.to_owned())
        .filter(|user| user.chars().all(char::is_alphanumeric))
        .collect()
}

/// `caller` reaches `callee`, which answers, and hangs up.
#[track_caller]
fn call(caller: &Ua, callee: &Ua) {
    let invite = caller.invite(&callee.aor());
    caller.send(&invite);
    let arrived = callee.expect_request("INVITE");
    callee.reply(&arrived, 200, "OK", "callee");
    let ok = caller.expect_status(&invite, 200);
    caller.send_routed(&caller.ack(&invite, &ok));
    callee.expect_request("ACK");
    let bye = caller.in_dialog("BYE", 2, &invite, &ok);
    caller.send_routed(&bye);
    let arrived = callee.expect_request("BYE");
    callee.reply(&arrived, 200, "OK", "callee");
    caller.expect_status(&bye, 200);
}

/// The file as it is, and with its head changed.
fn with_head(bytes: &[u8], change: impl FnOnce(&mut Head)) -> Vec<u8> {
    let mut reader = Reader::open(bytes).expect("a snapshot");
    let mut head = *reader.head();
    change(&mut head);
    let (mut encoder, mut out) = (Encoder::new(&head), Vec::new());
    while reader
        .next(|entry| match entry {
            Entry::Record(image) => encoder.push(&image),
            Entry::Unknown(_) => panic!("a record of another release"),
        })
        .expect("a whole file")
    {}
    encoder.finish(&mut out).expect("a Vec takes everything");
    out
}

#[track_caller]
fn head_of(server: &Server) -> (Head, u64) {
    let bytes = fs::read(server.state().join("snapshot")).expect("a snapshot");
    let mut users = 0;
    let (head, _) = snapshot::check(&bytes[..], |_| users += 1).expect("a whole snapshot");
    (head, users)
}

#[test]
fn phones_stay_registered_over_a_stop() {
    const PHONES: u32 = 700;
    let _shared = shared();
    let mut server = Server::start_with(&config("10s"));
    // Before anybody registers: how long that takes is no fault of the server's.
    let start = Instant::now();
    let (alice, bob) = (server.ua("alice"), server.ua("bob"));
    assert_eq!(bob.register(600).status(), 200);
    let bulk = server.ua("bulk");
    register_many(&bulk, PHONES, 1_000);
    let before = registered(&server);
    assert_eq!(before.len() as u32, PHONES + 1);
    // The second time with another number of slots, the third from the same file once more.
    for (round, reactors) in [1, 2, 1].into_iter().enumerate() {
        server.run(&["stop"]);
        assert!(server.wait_exit().success(), "{}", server.log());
        let (head, records) = head_of(&server);
        assert!(
            head.exact && records == u64::from(PHONES) + 1,
            "{records} in the file"
        );
        let text = config("10s").replace("reactors = 1", &format!("reactors = {reactors}"));
        server.write_config(&text);
        server.run_again();
        server.wait_ready();
        assert_eq!(registered(&server), before, "round {round}");
        for (user, given) in [("bob", 600), ("user0", 1_000), ("user699", 1_699)] {
            let (left, gone) = (seconds_left(&server, user), start.elapsed().as_secs());
            let right = given - gone - 3..=given;
            assert!(
                right.contains(&left),
                "{user} has {left} of {given} s left after {gone} s"
            );
        }
        call(&alice, &bob);
        // A refresh goes on where it was: the same Call-ID with a higher CSeq, or another.
        assert_eq!(bob.register(600).status(), 200);
    }
    assert_eq!(server.number("registrations"), u64::from(PHONES) + 1);
    let audit = server.command(&["audit"]);
    assert!(
        audit.status.success(),
        "{}",
        String::from_utf8_lossy(&audit.stdout)
    );
    let status = server.status();
    assert_eq!(status["snapshot"]["period_ms"], 10_000);
    assert!(
        status["snapshot"]["age_ms"].is_u64(),
        "{}",
        status["snapshot"]
    );
    assert_eq!(server.counter("snapshot.restored"), u64::from(PHONES) + 1);
}

#[test]
fn another_boot_means_another_clock() {
    let _shared = shared();
    let mut server = Server::start_with(&config("10s"));
    let ua = server.ua("bulk");
    register_many(&ua, 3, 600);
    assert_eq!(ua.ask(&register_request(&ua, "brief", 60)).status(), 200);
    server.run(&["stop"]);
    assert!(server.wait_exit().success());
    let file = server.state().join("snapshot");
    let bytes = fs::read(&file).expect("a snapshot");
    let mut again = |change: &dyn Fn(&mut Clock)| {
        let changed = with_head(&bytes, |head| change(&mut head.clock));
        fs::write(&file, changed).expect("room for a file");
        server.run_again();
        server.wait_ready();
        let (left, users) = (seconds_left(&server, "user0"), registered(&server).len());
        server.run(&["stop"]);
        assert!(server.wait_exit().success());
        (left, users)
    };
    // Taken 100 s ago, before a boot: whatever the instants of that boot were.
    let (left, users) = again(&|clock| {
        clock.boot = [7; 16];
        clock.wall -= Duration::from_secs(100);
    });
    assert!((480..=500).contains(&left), "{left} s of 600 - 100");
    assert_eq!(users, 3, "the brief one has expired");
    // The wall clock went back by two hours.
    let (left, users) = again(&|clock| {
        clock.boot = [7; 16];
        clock.wall += Duration::from_secs(7200);
    });
    assert!((570..=600).contains(&left), "{left} s of 600");
    assert_eq!(users, 4);
    // The same boot: nobody asks the wall clock.
    let (left, users) = again(&|clock| clock.wall -= Duration::from_secs(5_000));
    assert!((550..=600).contains(&left), "{left} s of 600");
    assert_eq!(users, 4);
    // Long ago: nothing is left, and nothing is wrong.
    let changed = with_head(&bytes, |head| {
        head.clock.boot = [7; 16];
        head.clock.wall -= Duration::from_secs(5_000);
    });
    fs::write(&file, changed).expect("room for a file");
    server.run_again();
    server.wait_ready();
    assert_eq!(server.number("registrations"), 0);
    assert_eq!(server.counter("snapshot.expired"), 4);
}

/// Registrations, and calls with records in JSON.
fn calls_config(more: &str) -> String {
    let records = "[cdr]\npath = \"{dir}/cdr/calls\"\nformat = \"json\"\n";
    format!("{}\n{records}\n{more}\n", config("10s"))
}

/// A call that is up: the INVITE and its 200.
#[track_caller]
fn answered(caller: &Ua, callee: &Ua) -> (Message, Message) {
    let invite = caller.invite(&callee.aor());
    answered_as(caller, callee, invite)
}

#[track_caller]
fn answered_as(caller: &Ua, callee: &Ua, invite: Message) -> (Message, Message) {
    caller.send(&invite);
    let arrived = callee.expect_request("INVITE");
    callee.reply(&arrived, 200, "OK", &blackbox::peer::unique());
    let ok = caller.expect_status(&invite, 200);
    caller.send_routed(&caller.ack(&invite, &ok));
    callee.expect_request("ACK");
    (invite, ok)
}

#[track_caller]
fn hang_up(caller: &Ua, callee: &Ua, (invite, ok): &(Message, Message)) {
    let bye = caller.in_dialog("BYE", 2, invite, ok);
    caller.send_routed(&bye);
    let arrived = callee.expect_request("BYE");
    callee.reply(&arrived, 200, "OK", "");
    caller.expect_status(&bye, 200);
}

/// Stops the server, and starts it after a boot: it was down for that long, by its clocks.
fn boot(server: &mut Server, down: Duration) {
    server.run(&["stop"]);
    assert!(server.wait_exit().success(), "{}", server.log());
    let file = server.state().join("snapshot");
    let bytes = fs::read(&file).expect("a snapshot");
    let changed = with_head(&bytes, |head| {
        head.clock.boot = [7; 16];
        head.clock.wall -= down;
    });
    fs::write(&file, changed).expect("room for a file");
    server.run_again();
    server.wait_ready();
}

/// So long that what was before it is before the zero of the machine's monotonic clock.
fn before_this_boot() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
    Duration::from_secs(now.tv_sec().unsigned_abs() + 3600)
}

/// The record of a call, once it is written.
#[track_caller]
fn record_of(server: &Server, invite: &Message) -> Value {
    eventually("a record", LIMIT, || {
        let text = fs::read_to_string(server.dir().join("cdr/calls")).ok()?;
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let mut records = whole
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        records.find(|record: &Value| record["call_id"] == invite.call_id())
    })
}

/// Seconds from one time of a record to the present.
#[track_caller]
fn seconds_ago(record: &Value, name: &str) -> f64 {
    let text = record[name]
        .as_str()
        .unwrap_or_else(|| panic!("{name} in {record}"));
    let at: SystemTime = humantime::parse_rfc3339(text).expect("a time");
    let ago = SystemTime::now().duration_since(at).expect("in the past");
    ago.as_secs_f64()
}

#[track_caller]
fn assert_about(what: &str, is: f64, should: f64) {
    assert!((is - should).abs() < 1.5, "{what}: {is} s, not {should} s");
}

/// Until a call is up that came so many milliseconds ago.
fn wait_for_age(server: &Server, ms: f64) {
    eventually("a call of that age", LIMIT, || {
        let listed = server.json(&["calls", "list", "--phase", "confirmed"]);
        let ages = listed.as_array()?.iter();
        let oldest = ages.filter_map(|call| call["age_ms"].as_f64());
        (oldest.fold(0.0, f64::max) >= ms).then_some(())
    });
}

/// The clock that calls are timed by has another zero after a boot, and what was before it is told as it was all the same.
#[test]
fn calls_keep_their_times_over_a_boot() {
    let _shared = shared();
    let mut server = Server::start_with(&calls_config(""));
    let phones = ["alice", "bob", "carol", "dora", "erna"].map(|user| server.ua(user));
    let [alice, bob, carol, dora, erna] = &phones;
    for phone in &phones {
        assert_eq!(phone.register(600).status(), 200);
    }
    // One that is over, and whose record can't be written; one that goes on; one that rings.
    let over = answered(alice, bob);
    let (over_at, up_at) = (Instant::now(), Instant::now());
    let up = answered(alice, carol);
    let (second_up_at, second_up) = (Instant::now(), answered(alice, erna));
    let (rings_at, rings) = (Instant::now(), alice.invite(&dora.aor()));
    alice.send(&rings);
    let arrived = dora.expect_request("INVITE");
    dora.reply(&arrived, 180, "Ringing", "d");
    alice.expect_status(&rings, 180);
    wait_for_age(&server, 2000.0);
    hang_up(alice, bob, &over);
    let (lasted, hung_up_at) = (over_at.elapsed().as_secs_f64(), Instant::now());
    wait_for_age(&server, 4000.0);
    let stopped_at = Instant::now();
    let down = before_this_boot();
    boot(&mut server, down);
    let away = down.as_secs_f64();
    // As if it had all been that much earlier.
    let ago = |at: &Instant, away: f64| at.elapsed().as_secs_f64() + away;
    let listed = server.json(&[
        "calls",
        "list",
        "--phase",
        "confirmed",
        "--longer-than",
        "1h",
    ]);
    let ages = listed.as_array().expect("a list").iter().map(|call| {
        let ms = |name: &str| call[name].as_f64().expect("a number") / 1000.0;
        assert_about("its age", ms("age_ms"), ms("answered_ms"));
        ms("age_ms")
    });
    let ages: Vec<f64> = ages.collect();
    assert_eq!(ages.len(), 2, "{listed}");
    for age in ages {
        assert_about("the age", age, ago(&up_at, away));
    }
    fs::create_dir(server.dir().join("cdr")).expect("a folder");
    let record = record_of(&server, &over.0);
    assert_about(
        "duration",
        record["duration"].as_f64().expect("a number"),
        lasted,
    );
    for (name, at) in [
        ("start", &over_at),
        ("answer", &over_at),
        ("end", &hung_up_at),
    ] {
        assert_about(name, seconds_ago(&record, name), ago(at, away));
    }
    let record = record_of(&server, &rings);
    assert_eq!(
        (&record["cause"], &record["answer"]),
        (&"lost".into(), &Value::Null)
    );
    for (name, at) in [("start", &rings_at), ("end", &stopped_at)] {
        assert_about(name, seconds_ago(&record, name), ago(at, away));
    }
    hang_up(alice, carol, &up);
    let record = record_of(&server, &up.0);
    let duration = record["duration"].as_f64().expect("a number");
    assert_about("duration", duration, ago(&up_at, away));
    for name in ["start", "answer"] {
        assert_about(name, seconds_ago(&record, name), ago(&up_at, away));
    }
    assert_about("end", seconds_ago(&record, "end"), 0.0);
    // Once more: from a clock on which it began before the zero.
    boot(&mut server, Duration::from_secs(7200));
    let away = away + 7200.0;
    hang_up(alice, erna, &second_up);
    let record = record_of(&server, &second_up.0);
    let duration = record["duration"].as_f64().expect("a number");
    assert_about("duration", duration, ago(&second_up_at, away));
    assert_about(
        "start",
        seconds_ago(&record, "start"),
        ago(&second_up_at, away),
    );
    assert!(server.stop().success());
}

/// What would have ended while the server was down ends when it is up again, and has a record.
#[test]
fn a_call_whose_time_came_during_a_stop_is_ended() {
    let _shared = shared();
    let more = "[calls]\nduration_max = \"1h\"";
    let mut server = Server::start_with(&calls_config(more));
    fs::create_dir(server.dir().join("cdr")).expect("a folder");
    let (alice, bob) = (server.ua("alice"), server.ua("bob"));
    assert_eq!(bob.register(600).status(), 200);
    let (long, long_at) = (answered(&alice, &bob), Instant::now());
    boot(&mut server, Duration::from_secs(1800));
    // Half of it is left.
    let listed = server.json(&["calls", "list"]);
    let left = listed[0]["duration_left_s"].as_f64().expect("a number");
    assert_about("left", left, 1800.0 - long_at.elapsed().as_secs_f64());
    boot(&mut server, Duration::from_secs(7200));
    for phone in [&alice, &bob] {
        let bye = phone.expect_request("BYE");
        phone.reply(&bye, 200, "OK", "");
    }
    let record = record_of(&server, &long.0);
    assert_eq!(record["cause"], "duration", "{record}");
    let duration = record["duration"].as_f64().expect("a number");
    assert_about(
        "duration",
        duration,
        9000.0 + long_at.elapsed().as_secs_f64(),
    );
    assert!(server.stop().success());
}

/// Nobody could refresh it: it was over before the longest duration was, although that is over, too, when somebody looks.
#[test]
fn a_session_that_ended_during_a_stop_is_as_long_as_it_was() {
    let _shared = shared();
    let more = "[calls]\nduration_max = \"4h\"\nsession_expires = \"30min\"";
    let mut server = Server::start_with(&calls_config(more));
    fs::create_dir(server.dir().join("cdr")).expect("a folder");
    let (alice, bob) = (server.ua("alice"), server.ua("bob"));
    assert_eq!(bob.register(600).status(), 200);
    let invite = alice.invite(&bob.aor()).with("Supported", "timer");
    let call = answered_as(&alice, &bob, invite);
    boot(&mut server, Duration::from_secs(5 * 3600));
    let record = record_of(&server, &call.0);
    assert_eq!(record["cause"], "session", "{record}");
    let duration = record["duration"].as_f64().expect("a number");
    assert_about("duration", duration, 1800.0);
    assert!(server.stop().success());
}

#[test]
fn a_power_cut_takes_the_last_moments_only() {
    let _shared = shared();
    let mut server = Server::start_with(&config("1s"));
    let mut dice = Dice::from_environment("power cuts");
    let mut acknowledged: Vec<(Instant, String)> = Vec::new();
    for round in 0..4 {
        let (ua, stop) = (server.ua("bulk"), AtomicBool::new(false));
        let served = Instant::now();
        let wait = Duration::from_millis(700 + dice.below(2_500) as u64);
        let (new, cut) = std::thread::scope(|scope| {
            let registrar = scope.spawn(|| {
                let mut new = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let user = format!("r{round}u{}", new.len());
                    let request = register_request(&ua, &user, 3_600);
                    ua.send(&request);
                    let end = Instant::now() + Duration::from_secs(1);
                    while let Some((m, _)) = ua
                        .peer
                        .receive(end.saturating_duration_since(Instant::now()))
                    {
                        if answers(&m, &request) && m.status() == 200 {
                            new.push((Instant::now(), user));
                            break;
                        }
                    }
                }
                new
            });
            std::thread::sleep(wait);
            let cut = Instant::now();
            server.power_cut();
            stop.store(true, Ordering::Relaxed);
            (registrar.join().expect("the registrar ends"), cut)
        });
        acknowledged.extend(new);
        let file = server.state().join("snapshot");
        let (head, records) = if file.exists() {
            let (head, records) = head_of(&server);
            (Some(head), records)
        } else {
            (None, 0)
        };
        // Both clocks are CLOCK_MONOTONIC: how long before now the file was begun.
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
        let now = Duration::new(now.tv_sec().unsigned_abs(), now.tv_nsec() as u32);
        let begun = head.map(|head| {
            let ago = now - Duration::from_nanos(head.clock.monotonic.as_nanos());
            Instant::now() - ago
        });
        if let Some(begun) = begun {
            // What came over the cut before is in the file that it came from. One period, and generously what writing takes while others have the machine.
            let lost = cut.saturating_duration_since(begun.max(served));
            assert!(
                lost < Duration::from_secs(4),
                "{lost:?} before the cut, with a period of 1 s"
            );
        }
        server.run_again();
        server.wait_ready();
        let there = registered(&server);
        assert_eq!(
            there.len() as u64,
            records,
            "all of the file and nothing else"
        );
        let sure = |at: &Instant| begun.is_some_and(|begun| *at < begun);
        let missing: Vec<_> = acknowledged
            .iter()
            .filter(|(at, user)| sure(at) && !there.contains(user))
            .collect();
        assert!(
            missing.is_empty(),
            "lost, although before the snapshot: {missing:?}"
        );
        println!(
            "round {round}: {} acknowledged, {} after the cut",
            acknowledged.len(),
            there.len()
        );
        // What the cut took is gone for good.
        acknowledged.retain(|(_, user)| there.contains(user));
    }
    assert!(!acknowledged.is_empty(), "something came over a cut");
}

#[test]
fn a_file_that_is_not_whole_is_set_aside() {
    let _shared = shared();
    let mut server = Server::start_with(&config("10s"));
    let ua = server.ua("bulk");
    register_many(&ua, 300, 3_600);
    server.run(&["stop"]);
    assert!(server.wait_exit().success());
    let file = server.state().join("snapshot");
    let whole = fs::read(&file).expect("a snapshot");
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 4;
    let mut newer = whole.clone();
    newer[8] = 9;
    let torn = [&whole[..whole.len() / 2], &vec![0; whole.len() / 2]].concat();
    let cases: [(&str, &[u8]); 6] = [
        ("it ends at byte", &whole[..whole.len() - 1]),
        ("it is damaged", &changed),
        ("it is damaged", &torn),
        ("a newer release wrote it", &newer),
        (
            "it is no snapshot",
            b"SQLite format 3\0, or whatever else lies about in a directory of that name ......",
        ),
        ("it ends at byte 0", b""),
    ];
    for (nth, (why, bytes)) in cases.iter().enumerate() {
        fs::write(&file, bytes).expect("room for a file");
        server.run_again();
        server.wait_ready();
        let log = server.log();
        let bad = server.state().join(format!("snapshot.bad-{}", nth + 1));
        let told = log.lines().any(|line| {
            line.contains("ERROR")
                && line.contains(why)
                && line.contains(&bad.display().to_string())
        });
        assert!(told, "{why}, in {log}");
        assert_eq!(&fs::read(&bad).expect("set aside"), bytes);
        assert_eq!(server.number("registrations"), 0, "{why}");
        assert_eq!(server.counter("snapshot.refused"), 1);
        // It goes on as ever.
        assert_eq!(ua.ask(&register_request(&ua, "again", 60)).status(), 200);
        server.run(&["stop"]);
        assert!(server.wait_exit().success());
        assert_eq!(head_of(&server).1, 1);
    }
    // The whole one still is one.
    fs::write(&file, &whole).expect("room for a file");
    server.run_again();
    server.wait_ready();
    assert_eq!(server.number("registrations"), 300);
}

#[test]
fn without_snapshots_nothing_is_written_or_read() {
    let _shared = shared();
    let mut server = Server::start_with(&config("off"));
    let ua = server.ua("bulk");
    register_many(&ua, 5, 600);
    server.run(&["stop"]);
    assert!(server.wait_exit().success());
    assert!(!server.state().join("snapshot").exists());
    fs::write(server.state().join("snapshot"), b"left alone").expect("room for a file");
    server.run_again();
    server.wait_ready();
    assert_eq!(server.number("registrations"), 0);
    assert!(server.run(&["status"]).contains("snapshot: off"));
    // Taken up by a reload.
    fs::remove_file(server.state().join("snapshot")).expect("our file");
    register_many(&ua, 5, 600);
    server.write_config(&config("1s"));
    server.run(&["reload"]);
    eventually("a snapshot", LIMIT, || {
        (server.counter("snapshot.taken") > 0).then_some(())
    });
    assert_eq!(head_of(&server).1, 5);
}

/// The stop goes through, and whoever asked for it hears what it cost.
#[test]
fn a_last_snapshot_that_fails_is_told() {
    let _shared = shared();
    let mut server = Server::start_with(&config("1h"));
    register_many(&server.ua("many"), 3, 3600);
    let in_the_way = server.state().join("snapshot.new");
    fs::create_dir(&in_the_way).expect("our directory");
    let stop = server.command(&["stop"]);
    let told = String::from_utf8_lossy(&stop.stderr);
    assert_eq!(stop.status.code(), Some(1), "{told}");
    assert!(told.contains("last snapshot could not be taken"), "{told}");
    assert!(server.wait_exit().success());
}

/// Helper processes of this server that run right now.
fn helpers(server: &Server) -> Vec<Pid> {
    let supervisor = server.supervisor();
    let children = format!("/proc/{supervisor}/task/{supervisor}/children");
    let children = fs::read_to_string(children).unwrap_or_default();
    let is_helper = |pid: &&str| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(b"\0helper\0"))
    };
    let pids = children.split_whitespace().filter(is_helper);
    pids.map(|pid| Pid::from_raw(pid.parse().expect("a pid")))
        .collect()
}

#[test]
fn a_stop_in_the_middle_of_a_snapshot_takes_another() {
    let _shared = shared();
    let mut server = Server::start_with(&config("1s"));
    let ua = server.ua("bulk");
    for round in 1..=3 {
        register_many(&ua, 300 * round, 3_600);
        // Whatever the helper is doing at that moment.
        eventually("a helper", LIMIT, || {
            assert_eq!(ua.ask(&register_request(&ua, "user0", 3_600)).status(), 200);
            helpers(&server).pop()
        });
        server.signal(Signal::SIGTERM);
        assert!(server.wait_exit().success(), "{}", server.log());
        let (head, records) = head_of(&server);
        assert!(head.exact, "{}", server.log());
        assert_eq!(records, u64::from(300 * round));
        server.run_again();
        server.wait_ready();
        assert_eq!(server.number("registrations"), u64::from(300 * round));
    }
}

#[test]
fn a_helper_that_dies_is_cleaned_up_after() {
    let _shared = shared();
    let server = Server::start_with(&config("1s"));
    let ua = server.ua("bulk");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for helper in helpers(&server) {
                    // Perhaps it has just ended.
                    let _ = kill(helper, Signal::SIGKILL);
                }
            }
        });
        let end = Instant::now() + LIMIT;
        while server.counter("snapshot.failed") == 0 && Instant::now() < end {
            register_many(&ua, 200, 3_600);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(server.counter("snapshot.failed") > 0, "{}", server.log());
    let taken = server.counter("snapshot.taken");
    register_many(&ua, 200, 3_600);
    eventually("snapshots go on", LIMIT, || {
        (server.counter("snapshot.taken") > taken).then_some(())
    });
    assert_eq!(server.status()["snapshot"]["failures"], 0);
    let audit = server.command(&["audit"]);
    assert!(
        audit.status.success(),
        "{}",
        String::from_utf8_lossy(&audit.stdout)
    );
    assert!(!server.state().join("snapshot.new").exists());
}
