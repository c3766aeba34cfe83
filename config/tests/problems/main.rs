//! The texts that an operator gets to read, with their places.

mod calls;
mod keys;
mod routes;
mod server;

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
