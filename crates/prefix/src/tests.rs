//! The trie against a plain search through the lines, and what is said about bad files.

use std::fmt::Write as _;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use crate::*;

fn known() -> Known {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Known {
        groups: names(&["a", "b", "c", "carrier-x"]),
        callers: names(&["retail", "wholesale"]),
        periods: names(&["office", "night"]),
    }
}

fn heads() -> Vec<String> {
    vec!["+".to_owned(), "00".to_owned()]
}

fn table(text: &str) -> Table<Vec<u8>> {
    let compiled = compile(text.as_bytes(), &known(), &heads()).expect("a good file");
    Table::open(compiled.image).expect("a table")
}

/// Every rule that a number meets, in order: `prefix:line>targets`.
fn met(table: &Table<Vec<u8>>, number: &str, caller: Option<&str>) -> String {
    let caller = caller.and_then(|name| table.callers().position(|other| other == name));
    let groups: Vec<&str> = table.groups().collect();
    let number = table.number(number.as_bytes());
    let mut text = String::new();
    for rule in table.rules(&number, caller.map(|caller| caller as u32)) {
        let to: Vec<String> = rule
            .targets()
            .map(|target| match target {
                Target::Group(group) => groups[group as usize].to_owned(),
                Target::Reject(code) => code.to_string(),
            })
            .collect();
        let _ = write!(
            text,
            "{}:{}>{} ",
            number.prefix_text(rule.prefix),
            rule.line,
            to.join("|")
        );
    }
    text.trim_end().to_owned()
}

#[test]
fn the_longest_prefix_comes_first_then_priority_then_the_callers_own() {
    let table = table(
        "prefix,to,caller,priority\n\
         ,a,,\n\
         49,a|b,,\n\
         +4930,b,,\n\
         004930,c,,5\n\
         4930,a,wholesale,5\n\
         493012345678901234,c|reject:603,retail|wholesale,\n",
    );
    for (number, caller, rules) in [
        ("+4930123", None, "4930:5>c 4930:4>b 49:3>a|b :2>a"),
        (
            "4930123",
            Some("wholesale"),
            "4930:6>a 4930:5>c 4930:4>b 49:3>a|b :2>a",
        ),
        ("4930123", Some("retail"), "4930:5>c 4930:4>b 49:3>a|b :2>a"),
        ("004940", None, "49:3>a|b :2>a"),
        ("4", None, ":2>a"),
        ("bob", None, ":2>a"),
        (
            "49301234567890123456",
            Some("retail"),
            "493012345678901234:7>c|603 4930:5>c 4930:4>b 49:3>a|b :2>a",
        ),
        (
            "49301234567890123",
            Some("retail"),
            "4930:5>c 4930:4>b 49:3>a|b :2>a",
        ),
    ] {
        assert_eq!(met(&table, number, caller), rules, "{number}");
    }
    let number = table.number(b"4930123");
    assert_eq!(table.rules_of_others(&number, 4, None), 1);
    assert_eq!(table.lines(), 6);
}

#[test]
fn a_rule_says_when_it_holds_and_what_becomes_of_the_number() {
    let table = table(
        "prefix;to;time;strip;add;note\n\
         49;a;office;2;0;inland\n\
         49;b;!office;;+;\n\
         49;c;night;;;\n",
    );
    let number = table.number(b"+4930-123");
    let rules: Vec<_> = table.rules(&number, None).collect();
    let mut active = Active::default();
    let office = table.periods().position(|name| name == "office").unwrap();
    let holding = |active: &Active| {
        let rules = rules.iter().filter(|rule| rule.when.holds(active));
        rules.map(|rule| rule.line).collect::<Vec<_>>()
    };
    assert_eq!(holding(&active), [3]);
    active.set(office);
    assert_eq!(holding(&active), [2]);
    let rewritten = |at: usize| {
        rules[at]
            .rewritten(&number)
            .map(|text| String::from_utf8(text).unwrap())
    };
    assert_eq!(rewritten(0).as_deref(), Some("030123"));
    assert_eq!(rewritten(1).as_deref(), Some("+4930123"));
    assert_eq!(rewritten(2), None);
}

#[test]
fn a_name_is_not_rewritten_and_a_number_of_any_length_meets_its_rules() {
    let table = table("prefix,to,strip,add\n,a,1,00\n49,b,,\n");
    let first = |user: &str| {
        let number = table.number(user.as_bytes());
        let rule = table.rules(&number, None).next().unwrap();
        let rewritten = rule.rewritten(&number);
        (
            rule.line,
            rewritten.map(|text| String::from_utf8(text).unwrap()),
        )
    };
    assert_eq!(first("7123"), (2, Some("00123".to_owned())));
    assert_eq!(first("bob"), (2, None));
    let long = "1".repeat(200);
    assert_eq!(first(&format!("49{long}")), (3, None));
    assert_eq!(first(&format!("49{long}x")), (2, None));
}

fn refused(text: &[u8], expect: Expect) {
    let mut shown = String::new();
    let problems = match compile(text, &known(), &heads()) {
        Ok(compiled) => compiled.warnings,
        Err(problems) => problems,
    };
    for problem in problems {
        let kind = if problem.is_error { "error" } else { "warning" };
        let _ = writeln!(
            shown,
            "{kind} {}:{}+{} {}; {}",
            problem.line, problem.column, problem.width, problem.message, problem.remedy
        );
    }
    expect.assert_eq(&shown);
}

#[test]
fn every_error_has_its_place_and_a_remedy() {
    refused(
        b"prefix,to,time,strip\n49,d\n4x,a\n49,carrier-y\n49,a|reject:999\n49,reject:500|a\n49,,\n49,a,ofice\n49,a,,-1\n49,a,,1,5\n49,\"a\n49,\xff\n1234567890123456789012345,a\n",
        expect![[r#"
            error 2:4+1 there is no group "d"; add a [[group]] with name = "d" to the configuration, or write another name
            error 3:1+2 "4x" is no prefix of a number; write digits, A to F, * or #; an empty prefix is a rule for every number
            error 4:4+9 there is no group "carrier-y"; did you mean "carrier-x"?
            error 5:4+12 "999" is no status code of a refusal; write a code from 400 to 699, like reject:403
            error 6:4+12 there is something behind a refusal; let reject:CODE be the last
            error 7:4+1 no group is named; write names of groups in the order in which they are tried, like carrier-a|carrier-b, or reject:CODE
            error 8:6+5 there is no period "ofice"; did you mean "office"?
            error 9:7+2 "-1" is no number from 0 to 24; write a number from 0 to 24, or nothing for 0
            error 10:9+1 there are 5 fields, and 4 columns; put a field that has a separator in it into quotes
            error 11:4+1 a quote that does not end in this line; a field in quotes has a pair of them around it, and "" for a quote in it
            error 12:4+1 this is not UTF-8; save the file as UTF-8
            error 13:1+25 a prefix of more than 24 digits; shorten it
        "#]],
    );
    refused(
        b"prefx,to\n",
        expect![[r#"
            error 1:1+5 there is no column "prefx"; did you mean "prefix"?
        "#]],
    );
    refused(
        b"# nothing\n\nprefix,note\n",
        expect![[r#"
            error 3:1+1 there is no column "to"; the first line names the columns, for example: prefix,to,caller,time,priority,strip,add
        "#]],
    );
    refused(
        b"",
        expect![[r#"
            error 1:1+1 there is no line with the names of the columns; the first line names the columns, for example: prefix,to,caller,time,priority,strip,add
        "#]],
    );
}

#[test]
fn what_is_never_reached_is_named() {
    refused(
        b"\xef\xbb\xbfprefix,to,caller,time,priority\r\n49,a,,office,2\r\n+49,b,,,1\r\n49,c,,,\r\n49,c,retail,,\r\n",
        expect![[r#"
            warning 4:1+7 comes after line 3, which has the same prefix and caller, and always holds; remove one of the two, or give the other a `time`; if the table falls back, it is the next choice
        "#]],
    );
}

#[test]
fn rules_alike_are_bounded() {
    let mut text = "prefix,to\n".to_owned();
    (0..ALIKE_MAX + 1).for_each(|_| text.push_str("49,a\n"));
    let problems = compile(text.as_bytes(), &known(), &[]).unwrap_err();
    assert_eq!(problems[0].line as usize, ALIKE_MAX + 2);
    // A line for each of very many callers is not alike.
    let callers: Vec<String> = (0..70_000).map(|at| format!("c{at}")).collect();
    let mut text = "prefix,to,caller\n49,a,\n".to_owned();
    callers
        .iter()
        .for_each(|caller| text.push_str(&format!("49,b,{caller}\n")));
    let known = Known { callers, ..known() };
    let table = Table::open(compile(text.as_bytes(), &known, &[]).unwrap().image).unwrap();
    let last = table
        .callers()
        .position(|name| name == "c69999")
        .map(|at| at as u32);
    let number = table.number(b"49");
    let lines: Vec<_> = table.rules(&number, last).map(|rule| rule.line).collect();
    assert_eq!(lines, [70_002, 2]);
    assert_eq!(table.rules_of_others(&number, 2, last), 69_999);
}

#[test]
fn no_bytes_lead_astray() {
    let good = compile(
        b"prefix,to,caller,time,add\n49,a|b,retail,office,+\n4930,a\n,c\n",
        &known(),
        &heads(),
    );
    let good = good.unwrap().image;
    for cut in 0..good.len() {
        assert!(Table::open(&good[..cut]).is_err());
    }
    for at in 8..good.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            let Ok(table) = Table::open(bytes) else {
                continue;
            };
            let number = table.number(b"+4930123");
            for rule in table.rules(&number, Some(0)).take(1000) {
                let _ = (rule.targets().count(), rule.rewritten(&number));
            }
            let _ = table.rules_of_others(&number, 2, None);
        }
    }
}

/// One line of a file that is made up.
#[derive(Clone, Debug)]
struct Line {
    prefix: String,
    caller: Option<&'static str>,
    priority: i16,
}

fn line() -> impl Strategy<Value = Line> {
    let prefix = prop_oneof![4 => "[12]{0,4}", 3 => "12[12]{8,14}", 1 => "[0-9A-F*#]{0,24}"];
    let caller = prop_oneof![Just(None), Just(Some("retail")), Just(Some("wholesale"))];
    (prefix, caller, -1..2_i16).prop_map(|(prefix, caller, priority)| Line {
        prefix,
        caller,
        priority,
    })
}

proptest! {
    #[test]
    fn the_trie_finds_what_a_plain_search_finds(
        lines in prop::collection::vec(line(), 0..60),
        numbers in prop::collection::vec("[12]{0,6}|12[12]{6,20}|[0-9A-F*#]{0,30}", 1..20),
        caller in prop_oneof![Just(None), Just(Some("retail")), Just(Some("wholesale"))],
    ) {
        let mut text = "prefix,to,caller,priority\n".to_owned();
        for line in &lines {
            let _ = writeln!(text, "{},a,{},{}", line.prefix, line.caller.unwrap_or(""), line.priority);
        }
        let compiled = compile(text.as_bytes(), &known(), &[]).unwrap();
        let table = Table::open(compiled.image).unwrap();
        let number_of = |name: &str| table.callers().position(|other| other == name).map(|at| at as u32);
        for number in &numbers {
            let mut plain: Vec<_> = lines
                .iter()
                .enumerate()
                .filter(|(_, line)| number.starts_with(&line.prefix))
                .filter(|(_, line)| line.caller.is_none() || line.caller == caller)
                .map(|(at, line)| {
                    let longest = std::cmp::Reverse(line.prefix.len());
                    (longest, std::cmp::Reverse(line.priority), line.caller.is_none(), at as u32 + 2)
                })
                .collect();
            plain.sort();
            let plain: Vec<u32> = plain.into_iter().map(|(.., line)| line).collect();
            let found = table.rules(&table.number(number.as_bytes()), caller.and_then(number_of));
            prop_assert_eq!(found.map(|rule| rule.line).collect::<Vec<_>>(), plain);
        }
    }
}
