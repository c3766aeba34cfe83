//! Tables of numbers: where calls go, what a reload does to them while calls run, and what is left of them after deaths.

use blackbox::machine::shared;
use blackbox::message::Message;
use blackbox::server::{DEFAULT, Server};
use blackbox::ua::Ua;

/// Two carriers, a table of numbers, and what is left for others.
struct Border {
    server: Server,
    one: Ua,
    two: Ua,
}

const RULES: &str = "prefix,to,caller,time,strip,add\n\
    49,one,,,,\n\
    4930,two|one,,,,\n\
    4930,one,inside,,,\n\
    4940,one,,never,,\n\
    4940,two,,!never,2,0\n\
    49900,reject:603,,,,\n\
    77,one,,,4,+\n";

impl Border {
    fn open() -> Self {
        let server = Server::start();
        let (one, two) = (server.ua("one"), server.ua("two"));
        let border = Self { server, one, two };
        border.write_rules(RULES);
        border.server.write_config(&border.config());
        border.server.reload();
        border
    }

    fn config(&self) -> String {
        format!(
            "{DEFAULT}\n[proxy]\nhop_timeout = \"200ms\"\n\
             [[group]]\nname = \"one\"\ndestinations = [{{ uri = \"sip:{}\" }}]\n\
             [[group]]\nname = \"two\"\ndestinations = [{{ uri = \"sip:{}\" }}]\n\
             [[caller]]\nname = \"inside\"\nuser = \"^inside$\"\n\
             [[period]]\nname = \"never\"\ndates = [\"1999-12-31\"]\n\
             [[prefix_table]]\nname = \"numbers\"\nfile = \"numbers.csv\"\nremove = [\"+\", \"00\"]\n\
             [[route]]\nto = \"prefix:numbers\"\n\
             [[route]]\nmatch = {{ user = \"^[0-9]+$\" }}\nto = \"reject:404\"\n",
            self.one.peer.address, self.two.peer.address
        )
    }

    fn write_rules(&self, rules: &str) {
        std::fs::write(self.server.dir().join("numbers.csv"), rules).expect("a file of rules");
    }

    /// Who is asked for a number, and by which Request-URI.
    #[track_caller]
    fn asked(&self, caller: &Ua, number: &str) -> (&str, String) {
        let message = caller.request("MESSAGE", &format!("sip:{number}@example.test"));
        caller.send(&message);
        let is_it = |got: &Message| got.is_request() && got.call_id() == message.call_id();
        let (name, ua, got) =
            blackbox::machine::eventually("a carrier is asked", blackbox::server::LIMIT, || {
                [("one", &self.one), ("two", &self.two)]
                    .into_iter()
                    .find_map(|(name, ua)| {
                        let got = ua.peer.receive_now().filter(|(got, _)| is_it(got))?;
                        Some((name, ua, got))
                    })
            });
        ua.reply(&got, 200, "OK", "n");
        assert_eq!(caller.expect_final(&message).status(), 200);
        (name, got.0.uri().to_owned())
    }

    #[track_caller]
    fn refused(&self, caller: &Ua, number: &str) -> u16 {
        caller
            .ask(&caller.request("MESSAGE", &format!("sip:{number}@example.test")))
            .status()
    }

    #[track_caller]
    fn goes_by_the_rules(&self) {
        let outside = self.server.ua("outside");
        let inside = self.server.ua("inside");
        let plain = |number: &str| format!("sip:{number}@example.test");
        assert_eq!(self.asked(&outside, "+4920123"), ("one", plain("+4920123")));
        assert_eq!(
            self.asked(&outside, "004930123"),
            ("two", plain("004930123"))
        );
        assert_eq!(self.asked(&inside, "4930123"), ("one", plain("4930123")));
        assert_eq!(self.asked(&outside, "%34940123"), ("two", plain("040123")));
        assert_eq!(self.refused(&outside, "4990012"), 603);
        assert_eq!(self.asked(&outside, "77001"), ("one", plain("+1")));
        assert_eq!(self.refused(&outside, "7700"), 484, "nothing is left of it");
        assert_eq!(self.refused(&outside, "33123"), 404, "the next route");
        assert_eq!(self.refused(&outside, "bob"), 404, "registered nowhere");
    }
}

#[test]
fn numbers_go_where_the_longest_prefix_leads() {
    let _shared = shared();
    let border = Border::open();
    border.goes_by_the_rules();
    // The first group is silent: the next one of the rule has it.
    let caller = border.server.ua("outside");
    let message = caller.request("INVITE", "sip:4930999@example.test");
    caller.send(&message);
    let at_two = border.two.expect_request("INVITE");
    assert_eq!(at_two.0.call_id(), message.call_id());
    let at_one = border.one.expect_request("INVITE");
    border.one.reply(&at_one, 486, "Busy Here", "b");
    assert_eq!(caller.expect_final(&message).status(), 486);
}

#[test]
fn a_reload_takes_new_rules_whole_or_not_at_all() {
    let _shared = shared();
    let border = Border::open();
    let caller = border.server.ua("outside");
    assert_eq!(border.asked(&caller, "4920123").0, "one");
    border.write_rules("prefix,to\n49,two\n");
    let said = border.server.reload();
    assert!(said.contains("prefix table numbers has 1 rule"), "{said}");
    assert_eq!(border.asked(&caller, "4920123").0, "two");

    // Nothing has changed: nothing is compiled.
    let said = border.server.reload();
    assert!(said.contains("nothing has changed"), "{said}");

    border.write_rules("prefix,to\n49,one\n4x,one\n50,three\n");
    let output = border.server.command(&["reload"]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for expected in [
        "numbers.csv:3:1",
        "\"4x\" is no prefix of a number",
        "numbers.csv:4:4",
        "there is no group \"three\"",
        "add a [[group]]",
    ] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
    assert_eq!(
        border.asked(&caller, "4920123").0,
        "two",
        "the old rules stay"
    );
    let output = border.server.command(&[
        "check",
        "-c",
        &border.server.config_file().display().to_string(),
    ]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("numbers.csv:3:1"),
        "{said}"
    );

    std::fs::remove_file(border.server.dir().join("numbers.csv")).expect("it was there");
    let output = border.server.command(&["reload"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("can't be read"),
        "{said}"
    );
    assert_eq!(
        border.asked(&caller, "4920123").0,
        "two",
        "the old rules stay"
    );
}

#[test]
fn tables_outlive_workers_and_supervisors() {
    let _shared = shared();
    let mut border = Border::open();
    for worker in border.server.workers() {
        border.server.kill_worker(worker.pid);
        border.server.wait_ready();
    }
    border.goes_by_the_rules();

    // Whoever adopts the workers has the compiled table from them: its file is not even there.
    let file = border.server.dir().join("numbers.csv");
    let away = border.server.dir().join("away.csv");
    std::fs::rename(&file, &away).expect("it was there");
    border.server.kill_supervisor();
    border.server.run_again();
    border.server.wait_ready();
    for worker in border.server.workers() {
        border.server.kill_worker(worker.pid);
        border.server.wait_ready();
    }
    border.goes_by_the_rules();

    // A start needs the file.
    std::fs::rename(&away, &file).expect("it was there");
    border.server.kill_all();
    border.server.run_again();
    border.server.wait_ready();
    border.goes_by_the_rules();
}

#[test]
fn a_dry_run_tells_each_step() {
    let _shared = shared();
    let border = Border::open();
    let report = border.server.json(&["route", "test", "+4930123"]);
    assert_eq!(report["decision"], "targets");
    assert_eq!(report["groups"], serde_json::json!(["two", "one"]));
    assert_eq!(report["uri"], "sip:+4930123@example.test");
    let rules: Vec<(String, u64, bool)> = report["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .filter(|step| step["step"] == "rule" && !step["line"].is_null())
        .map(|step| {
            let prefix = step["prefix"].as_str().unwrap_or_default().to_owned();
            (
                prefix,
                step["line"].as_u64().unwrap_or(0),
                step["taken"] == true,
            )
        })
        .collect();
    assert_eq!(
        rules,
        [("4930".to_owned(), 3, true), ("49".to_owned(), 2, false)]
    );

    let inside = ["route", "test", "4930123", "--from", "sip:inside@a.test"];
    assert_eq!(
        border.server.json(&inside)["groups"],
        serde_json::json!(["one"])
    );
    let long_ago = ["route", "test", "4940123", "--at", "1999-12-31T12:00:00"];
    assert_eq!(
        border.server.json(&long_ago)["groups"],
        serde_json::json!(["one"])
    );
    let now = border.server.json(&["route", "test", "4940123"]);
    assert_eq!(
        (&now["groups"][0], &now["uri"]),
        (&"two".into(), &"sip:040123@example.test".into())
    );
    assert_eq!(border.server.json(&["route", "test", "33"])["code"], 404);

    // The same of a file that nobody serves by.
    let config = border.server.config_file().display().to_string();
    border.write_rules("prefix,to\n49,one\n");
    let offline = border
        .server
        .json(&["route", "test", "4930123", "-c", &config]);
    assert_eq!(offline["groups"], serde_json::json!(["one"]));
    let said = border.server.run(&["route", "test", "4930123"]);
    assert!(said.contains("goes to two, then one"), "{said}");
}

/// The group that a number is led to says how its calls are hidden, as one that a rule names does.
#[test]
fn a_group_behind_a_table_hides_its_calls() {
    let _shared = shared();
    let border = Border::open();
    let hiding = border.config().replace(
        "name = \"two\"\n",
        "name = \"two\"\ntopology_hiding = \"stateless\"\n",
    );
    border.server.write_config(&hiding);
    border.server.reload();
    let caller = border.server.ua("outside");
    for (number, hidden) in [("4920123", false), ("4930123", true)] {
        let message = caller.request("INVITE", &format!("sip:{number}@example.test"));
        caller.send(&message);
        let carrier = if hidden { &border.two } else { &border.one };
        let got = carrier.expect_request("INVITE");
        assert_eq!(got.0.call_id() != message.call_id(), hidden, "{number}");
        carrier.reply(&got, 486, "Busy Here", "b");
        assert_eq!(caller.expect_final(&message).status(), 486);
    }
}
