//! Good configurations: the examples, defaults, what travels to workers, what a reload changes.

use std::time::Duration;

use config::*;
use expect_test::{Expect, expect, expect_file};
use proptest::prelude::*;

fn good(text: &str) -> Config {
    match load_for(text, "test.toml", &Overrides::default(), 4) {
        Ok((config, _)) => config,
        Err(problems) => panic!(
            "{}",
            problems
                .iter()
                .map(Problem::to_string)
                .collect::<Vec<_>>()
                .join("\n")
        ),
    }
}

#[test]
fn the_examples_have_nothing_to_complain_about() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("the folder of examples") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a text");
        match load_for(&text, &path.to_string_lossy(), &Overrides::default(), 4) {
            Ok((config, warnings)) => {
                assert_eq!(warnings, [], "{}", path.display());
                assert_eq!(
                    Config::decode(&config.encode().expect("it fits")),
                    Ok(config)
                );
            }
            Err(problems) => panic!(
                "{}",
                problems.iter().map(Problem::to_string).collect::<String>()
            ),
        }
        seen += 1;
    }
    assert!(seen >= 3);
}

#[test]
fn the_default_is_open_to_this_machine_only() {
    let (config, warnings) = load(DEFAULT, DEFAULT_NAME).expect("the default is good");
    assert_eq!(warnings, []);
    assert!(
        config
            .listen
            .iter()
            .all(|listen| listen.address.ip().is_loopback())
    );
    let names: Vec<_> = config
        .domains
        .iter()
        .map(|domain| (domain.name.as_str(), domain.auth))
        .collect();
    assert_eq!(
        names,
        [("localhost", Auth::None), ("127.0.0.1", Auth::None)]
    );
}

#[test]
fn every_default_is_what_the_reference_says() {
    let config = good("");
    let mut text = String::new();
    for section in keys::SECTIONS
        .iter()
        .filter(|section| section.header.starts_with("[") && !section.header.starts_with("[["))
    {
        text.push_str(&format!("{}\n", section.header));
        for key in section.keys {
            let literal = key.default.starts_with('"') || key.default.parse::<u64>().is_ok();
            if literal {
                text.push_str(&format!("{} = {}\n", key.name, key.default));
            }
        }
    }
    assert_eq!(good(&text), config, "with\n{text}");
    // The listener of an empty file is a [[listen]] with defaults.
    let listen = "[[listen]]\naddress = '127.0.0.1:5060'\ntransports = ['udp']\nspread = 'flow'\n";
    assert_eq!(good(listen), config);
}

#[test]
fn every_example_line_of_the_reference_can_be_read() {
    for section in keys::SECTIONS
        .iter()
        .filter(|section| !section.name.contains('.'))
    {
        for key in section.keys {
            let beside = section.keys.iter().filter(|other| {
                let secret = section.name == "user"
                    && matches!(key.name, "name" | "identities")
                    && other.name == "password";
                other.name != key.name && (other.default == "required" || secret)
            });
            let mut text = format!("{}\n{}\n", section.header, key.example);
            text.extend(beside.map(|other| format!("{}\n", other.example)));
            if section.name == "route" {
                text.push_str("[[domain]]\nname = \"example.com\"\n");
            }
            if key.name == "profile" {
                text.push_str("[[profile]]\nname = \"trunk-out\"\ncalls_max = 30\n");
            }
            if key.name == "except" {
                text.insert_str(0, "[[period]]\nname = \"holidays\"\n");
            }
            if key.name == "media" {
                text.push_str(
                    "[[media]]\nname = \"relay\"\nengines = [{ address = \"192.0.2.20:2223\" }]\n",
                );
            }
            good(&text);
        }
    }
}

#[test]
fn the_reference_page_is_up_to_date() {
    expect_file!["../../docs/settings.md"].assert_eq(&reference_markdown());
}

#[test]
fn slots_follow_the_cores() {
    let slots = |cores, text| {
        let (config, _) = load_for(text, "t", &Overrides::default(), cores).expect("good");
        (config.workers.count, config.workers.reactors)
    };
    assert_eq!(slots(1, ""), (2, 1));
    assert_eq!(slots(4, ""), (2, 2));
    assert_eq!(slots(16, ""), (4, 4));
    assert_eq!(slots(16, "[workers]\ncount = 8"), (8, 2));
    assert_eq!(slots(16, "[workers]\nreactors = 1"), (4, 1));
    assert_eq!(slots(4096, "[workers]\nreactors = 200"), (1, 200));
    let (count, reactors) = slots(u16::MAX, "");
    assert!(count * reactors <= SLOTS_MAX, "{count} * {reactors}");
}

#[test]
fn a_secret_is_not_shown() {
    let config =
        good("[[domain]]\nname='a.example'\n[[user]]\nname='u@a.example'\npassword='hunter2'\n");
    assert!(!format!("{config:?}").contains("hunter2"));
}

fn check_diff(old: &str, new: &str, expected: Expect) {
    let (old, new) = (good(old), good(new));
    let found = diff(&old, &new);
    let live = merge_live(&old, &new);
    assert_eq!(found.is_empty(), old == new);
    assert_eq!(
        diff(&old, &live).needs_restart,
        Vec::<&str>::new(),
        "what runs after a reload needs no restart"
    );
    assert_eq!(diff(&old, &live).applied, found.applied);
    assert_eq!(diff(&live, &new).needs_restart, found.needs_restart);
    let mut lines = found.applied;
    lines.extend(
        found
            .needs_restart
            .iter()
            .map(|key| format!("restart: {key}")),
    );
    lines.extend(
        found
            .limit_raised
            .map(|limit| format!("the arena moves into a larger one: {limit}")),
    );
    expected.assert_eq(&lines.join("\n"));
}

#[test]
fn what_a_reload_changes() {
    check_diff("", "", expect![""]);
    check_diff(
        r#"
        [[listen]]
        address = "127.0.0.1:5060"
        [[listen]]
        address = "127.0.0.1:5070"
        [workers]
        count = 2
        reactors = 2
        pin = [0, 1, 2, 3]
        [[domain]]
        name = "a.example"
        [[domain]]
        name = "b.example"
        [[user]]
        name = "u@a.example"
        password = "x"
        "#,
        r#"
        [[listen]]
        address = "127.0.0.1:5060"
        spread = "datagram"
        [[listen]]
        address = "127.0.0.1:5080"
        advertise = "a.example"
        [workers]
        count = 2
        reactors = 2
        pin = [3, 2, 1, 0]
        spin_us = 5
        [memory]
        limit = "1GiB"
        [limits]
        branches_max = 3
        [[domain]]
        name = "a.example"
        record_route = false
        [[domain]]
        name = "c.example"
        [[user]]
        name = "u@a.example"
        password = "y"
        [[group]]
        name = "g"
        destinations = [{ uri = "sip:10.0.0.1" }]
        [[route]]
        to = "group:g"
        "#,
        expect![[r#"
            listener 127.0.0.1:5080 added
            listener 127.0.0.1:5070 removed
            workers.pin changed
            [limits] changed
            user u@a.example changed
            domain a.example changed
            domain c.example added
            domain b.example removed
            group g added
            routes changed: 1 now, 0 before
            restart: listen.spread
            restart: workers.spin_us
            the arena moves into a larger one: 1073741824"#]],
    );
    check_diff(
        "[workers]\ncount = 2\nreactors = 1\npin = [0, 1]\n",
        "[workers]\ncount = 3\nreactors = 1\npin = [0, 1, 2]\nuser = 'tandem'\n",
        expect![[r#"
            restart: workers.count
            restart: workers.user
            restart: workers.pin"#]],
    );
    check_diff(
        "",
        "[workers]\npin = 'auto'\nhang_timeout = '1s'\n[timers]\nt1 = '1s'\n",
        expect![[r#"
            workers.hang_timeout changed
            workers.pin changed
            [timers] changed"#]],
    );
    check_diff(
        "[memory]\nlimit = '64MiB'\n",
        "[memory]\nlimit = '32MiB'\n",
        expect!["restart: memory.limit"],
    );
}

#[test]
fn the_reference_and_the_comparison_agree_on_what_needs_a_restart() {
    let old = good("");
    let mut new = old.clone();
    new.workers = Workers {
        count: 1,
        reactors: 9,
        pin: Pin::None,
        spin_us: 9,
        hang_timeout: new.workers.hang_timeout,
        user: Some("tandem".into()),
    };
    new.memory.limit = 1 << 30;
    new.memory.huge_pages = HugePages::Required;
    for listen in &mut new.listen {
        listen.spread = Spread::Datagram;
        listen.transports.clear();
    }
    let mut compared: Vec<_> = diff(&old, &new).needs_restart;
    let mut written: Vec<_> = keys::SECTIONS
        .iter()
        .flat_map(|section| section.keys.iter().map(move |key| (section, key)))
        .filter(|(_, key)| key.effect == keys::Effect::Restart)
        .map(|(section, key)| format!("{}.{}", section.name, key.name))
        .collect();
    compared.sort_unstable();
    written.sort_unstable();
    assert_eq!(compared, written);
}

fn words() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("[[listen]]\n"),
        Just("[workers]\n"),
        Just("[[user]]\n"),
        Just("[[domain]]\n"),
        Just("[[group]]\n"),
        Just("[[route]]\n"),
        Just("[memory]\n"),
        Just("[timers]\n"),
        Just("address"),
        Just("name"),
        Just("match"),
        Just("to"),
        Just("user"),
        Just("destinations"),
        Just("pin"),
        Just("limit"),
        Just("t1"),
        Just("ha1"),
        Just("source"),
        Just(" = "),
        Just("\n"),
        Just("{ "),
        Just(" }"),
        Just("["),
        Just("]"),
        Just(", "),
        Just("."),
        Just("\""),
        Just("'"),
        Just("0"),
        Just("-1"),
        Just("1e9"),
        Just("true"),
        Just("\"256MiB\""),
        Just("\"5s\""),
        Just("\"sip:a@[::1]:5060;lr\""),
        Just("\"uri:sip:ä\""),
        Just("\"(\""),
        Just("'\\p{Foo'"),
        Just("\"group:g\""),
        Just("\"127.0.0.1:5060\""),
        Just("\"ä@ö\""),
        Just("\"\\u00e4(\""),
        Just("#"),
        Just("1979-05-27"),
    ];
    proptest::collection::vec(word, 0..40).prop_map(|words| words.concat())
}

/// One key with a value of some kind, where the key belongs.
fn assignment() -> impl Strategy<Value = String> {
    let keys: Vec<(&str, &str)> = keys::SECTIONS
        .iter()
        .filter(|section| !section.name.contains('.'))
        .flat_map(|section| section.keys.iter().map(|key| (section.header, key.name)))
        .collect();
    let value = prop_oneof![
        "[ -~äö\u{1f600}]{0,12}".prop_map(|text| format!("{text:?}")),
        Just("[]".to_owned()),
        Just("[1, 'x', {}]".to_owned()),
        Just("[{ uri = 1 }, { uri = 'sip:(' }]".to_owned()),
        Just("{ user = '[', source = '::/129', domain = '' }".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<u64>().prop_map(|number| format!("'{number}GiB'")),
        any::<u64>().prop_map(|number| format!("'{number}s'")),
    ];
    (proptest::sample::select(keys), value)
        .prop_map(|((header, key), value)| format!("{header}\n{key} = {value}\n"))
}

fn survives(text: &str) {
    let problems = match load_for(text, "t.toml", &Overrides::default(), 4) {
        Ok((config, warnings)) => {
            Router::new(&config);
            assert_eq!(
                Config::decode(&config.encode().expect("it fits")),
                Ok(config)
            );
            warnings
        }
        Err(problems) => problems,
    };
    for problem in problems {
        assert!(!problem.to_string().is_empty() && !problem.remedy.is_empty());
        if let Some(place) = problem.place {
            assert!(place.column <= place.text.chars().count() + 1, "{place:?}");
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) { survives(&text); }

    #[test]
    fn arbitrary_words_never_panic(text in words()) { survives(&text); }

    #[test]
    fn arbitrary_values_never_panic(parts in proptest::collection::vec(assignment(), 1..6)) {
        survives(&parts.concat());
        for part in parts { survives(&part); }
    }

    #[test]
    fn damaged_examples_never_panic(cut in any::<proptest::sample::Index>(), insert in any::<char>()) {
        for text in [include_str!("../examples/office.toml"), include_str!("../examples/trunk.toml")] {
            let at = text.floor_char_boundary(cut.index(text.len()));
            survives(&text[..at]);
            survives(&format!("{}{insert}{}", &text[..at], &text[at..]));
        }
    }

    #[test]
    fn garbage_is_no_configuration(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Config::decode(&frame).is_err());
    }
}

#[test]
fn a_group_says_what_it_leaves_out() {
    let group = |text: &str| good(text).groups.remove(0);
    let text = r#"
        [[group]]
        name = "media"
        policy = "least-calls"
        destinations = [ { uri = "sip:10.0.0.1:5060", weight = 2, capacity = 500 } ]
        probe = { method = "OPTIONS", interval = "5s", down_after = 3, up_after = 2 }
    "#;
    let media = group(text);
    let probe = media.probe.expect("it has one");
    assert_eq!(
        (media.policy, media.hash),
        (Policy::LeastCalls, HashOf::CallId)
    );
    assert_eq!(media.slow_start, Duration::ZERO);
    assert_eq!((probe.interval.as_secs(), probe.timeout.as_secs()), (5, 2));
    assert_eq!((probe.down_after, probe.up_after), (3, 2));
    assert!(probe.accepts(200) && probe.accepts(404) && probe.accepts(501));
    assert!(!probe.accepts(503) && !probe.accepts(408) && !probe.accepts(603));
    assert_eq!(
        (media.passive.down_after, media.passive.codes),
        (3, vec![503])
    );
    let text = r#"
        [[group]]
        name = "trunks"
        policy = "priority"
        destinations = [ { uri = "sip:a" }, { uri = "sip:b" }, { uri = "sip:c", priority = 1 } ]
        probe = { codes = [200, 404] }
    "#;
    let trunks = group(text);
    let order: Vec<u16> = trunks.destinations.iter().map(|to| to.priority).collect();
    assert_eq!(order, [0, 1, 1]);
    let probe = trunks.probe.expect("it has one");
    assert!(probe.accepts(404) && !probe.accepts(202));
}
