//! `tandem route test`: the script-free router, step by step, without a message. It asks what the slots ask: the same rules, callers, tables and periods.

use config::{Config, Router, Target};
use control::{RouteReport, RouteStep, RouteTest};
use prefix::{Rule, When};
use sip::uri::{Scheme, Uri};

use crate::numbers::{Lead, Numbers, Table, Tables};
use crate::policy::with_number;

/// Rules of a table that are told.
const RULES_MAX: usize = 100;

/// Where a request would go by a configuration and its tables, and why.
///
/// # Errors
/// What is no request.
pub fn explain(config: &Config, tables: &Tables, test: &RouteTest) -> Result<RouteReport, String> {
    let request = whole(config, &test.uri);
    let uri = Uri::parse(request.as_bytes());
    let uri = uri.map_err(|error| format!("{:?} is no URI: {error}", test.uri))?;
    let from = test.from.as_deref().map(|from| {
        let parsed = Uri::parse(from.as_bytes());
        parsed.map_err(|error| format!("{from:?} is no URI: {error}"))
    });
    let from = from.transpose()?;
    let router = Router::new(config);
    let numbers = Numbers::new(config, tables, test.unix);
    let mut way = Way {
        config,
        numbers: &numbers,
        steps: Vec::new(),
    };

    let who = from.and_then(|from| Some((from.user.unwrap_or_default(), from.host?)));
    let caller = router.caller(test.source, who);
    way.tell_caller(caller);
    let asked = config::Question {
        domain: uri.host,
        method: test.method.as_bytes(),
        user: uri.user.unwrap_or_default(),
        source: test.source,
        caller,
    };
    let user = config::unescaped(asked.user);
    let matched = router.each(&asked, |rule, mismatch| {
        way.tell_route(rule, mismatch, &user, caller)
    });

    let mut report = RouteReport {
        steps: Vec::new(),
        decision: String::new(),
        code: None,
        uri: Some(request.clone()),
        groups: Vec::new(),
        trusted: matched.is_some_and(|rule| rule.names_source),
    };
    let served = uri.host.is_some_and(|host| router.domain(host).is_some());
    let fallback = match uri.scheme {
        // §16.3 step 2.
        Scheme::Tel => Target::Reject(416),
        _ => Config::fallback(served),
    };
    if matched.is_none() {
        let domain = if served {
            "is served here"
        } else {
            "is none of ours"
        };
        way.step(
            "fallback",
            "",
            true,
            format!("no route takes it, and its domain {domain}"),
        );
    }
    match matched.map_or(&fallback, |rule| rule.to) {
        Target::Location => report.decision = "location".to_owned(),
        Target::Dns => report.decision = "dns".to_owned(),
        Target::Reject(code) => report.refuse(*code),
        Target::Uri(to) => {
            report.decision = "targets".to_owned();
            report.uri =
                Some(String::from_utf8_lossy(&crate::policy::with_user_of(to, &uri)).into_owned());
        }
        Target::Group(name) => way.tell_groups(&mut report, &[name]),
        Target::Prefix(table) => match numbers.lead(table, &user, caller) {
            Some(Lead::Groups { names, number }) => {
                way.tell_groups(&mut report, &names);
                if let Some(number) = number {
                    let rewritten = with_number(request.as_bytes(), &uri, &number);
                    report.uri = rewritten.map(|uri| String::from_utf8_lossy(&uri).into_owned());
                }
            }
            Some(Lead::Reject(code)) => report.refuse(code),
            None => report.refuse(404),
        },
    }
    report.steps = way.steps;
    Ok(report)
}

/// A number alone is one of the first domain.
fn whole(config: &Config, uri: &str) -> String {
    if uri.contains([':', '@']) {
        return uri.to_owned();
    }
    let domain = config.domains.first().map(|domain| domain.name.as_str());
    format!("sip:{uri}@{}", domain.unwrap_or("localhost"))
}

trait Refuse {
    fn refuse(&mut self, code: u16);
}

impl Refuse for RouteReport {
    fn refuse(&mut self, code: u16) {
        self.decision = "reject".to_owned();
        self.code = Some(code);
        self.uri = None;
    }
}

struct Way<'w> {
    config: &'w Config,
    numbers: &'w Numbers,
    steps: Vec<RouteStep>,
}

impl Way<'_> {
    fn step(&mut self, step: &str, name: impl Into<String>, taken: bool, why: impl Into<String>) {
        self.steps.push(RouteStep {
            step: step.to_owned(),
            name: name.into(),
            taken,
            why: why.into(),
            ..RouteStep::default()
        });
    }

    fn tell_caller(&mut self, caller: Option<usize>) {
        let found = caller.and_then(|at| self.config.callers.get(at));
        match found {
            Some(found) => self.step("caller", &found.name, true, "the first group that fits"),
            None if self.config.callers.is_empty() => {}
            None => self.step("caller", "", false, "no group of callers fits"),
        }
    }

    /// True: this route is the one.
    fn tell_route(
        &mut self,
        rule: &config::Matched<'_>,
        mismatch: Option<&'static str>,
        user: &[u8],
        caller: Option<usize>,
    ) -> bool {
        let name = (rule.number + 1).to_string();
        if let Some(key) = mismatch {
            self.step("route", name, false, format!("`{key}` does not match"));
            return false;
        }
        let Target::Prefix(table) = rule.to else {
            self.step(
                "route",
                name,
                true,
                format!("leads to {}", text_of(rule.to)),
            );
            return true;
        };
        let leads = self.numbers.leads(table, user, caller);
        let why = match leads {
            true => format!("leads to the table {table}"),
            false => format!("the table {table} has no rule for this number"),
        };
        self.step("route", name, leads, why);
        self.tell_table(table, user, caller);
        leads
    }

    fn tell_table(&mut self, table: &str, user: &[u8], caller: Option<usize>) {
        let fallback = self
            .config
            .prefix_table(table)
            .is_some_and(|table| table.fallback);
        let told = self
            .numbers
            .explain(table, user, caller, |rules, number, caller, met| {
                let mut steps = vec![RouteStep {
                    step: "table".to_owned(),
                    name: table.to_owned(),
                    taken: true,
                    why: match number.is_empty() {
                        true => "what is dialled is no number".to_owned(),
                        false => format!("looks up {number}"),
                    },
                    ..RouteStep::default()
                }];
                let mut taken = false;
                let mut last = None;
                for (rule, holds) in met.take(RULES_MAX) {
                    if last.replace(rule.prefix) != Some(rule.prefix) {
                        steps.extend(others(rules, number, rule.prefix, caller));
                    }
                    let first = holds && !taken;
                    taken |= holds;
                    steps.push(RouteStep {
                        step: "rule".to_owned(),
                        name: table.to_owned(),
                        taken: first,
                        why: match (holds, first) {
                            (false, _) => format!("does not hold now: {}", when(rules, rule.when)),
                            (true, true) => leads_to(rules, &rule),
                            (true, false) if fallback => {
                                format!("next, if all of those fail: {}", leads_to(rules, &rule))
                            }
                            (true, false) => "another rule comes first".to_owned(),
                        },
                        prefix: Some(number.prefix_text(rule.prefix)),
                        line: Some(rule.line),
                    });
                }
                steps
            });
        match told {
            Some(steps) => self.steps.extend(steps),
            None => self.step("table", table, false, "is not loaded"),
        }
    }

    fn tell_groups(&mut self, report: &mut RouteReport, names: &[&str]) {
        report.decision = "targets".to_owned();
        report.groups = names.iter().map(|name| (*name).to_owned()).collect();
        for (at, name) in names.iter().enumerate() {
            let order = if at == 0 { "tried first" } else { "tried next" };
            match self.config.group(name) {
                Some(group) => {
                    let to: Vec<&str> = group
                        .destinations
                        .iter()
                        .map(|to| to.uri.as_str())
                        .collect();
                    self.step("group", *name, true, format!("{order}: {}", to.join(", ")));
                }
                None => self.step("group", *name, false, "there is no such group any more"),
            }
        }
    }
}

/// Rules of a prefix that are for somebody else.
fn others(
    rules: &Table,
    number: &prefix::Number,
    length: usize,
    caller: Option<u32>,
) -> Option<RouteStep> {
    let count = rules.rules_of_others(number, length, caller);
    (count > 0).then(|| RouteStep {
        step: "rule".to_owned(),
        why: format!("{count} for other callers"),
        prefix: Some(number.prefix_text(length)),
        ..RouteStep::default()
    })
}

fn when(rules: &Table, when: When) -> String {
    let name = |at: u16| {
        rules
            .periods()
            .nth(at.into())
            .unwrap_or_default()
            .to_owned()
    };
    match when {
        When::Always => "always".to_owned(),
        When::In(period) => format!("only in {}", name(period)),
        When::Outside(period) => format!("not in {}", name(period)),
    }
}

fn leads_to(rules: &Table, rule: &Rule<'_>) -> String {
    let groups: Vec<&str> = rules.groups().collect();
    let to: Vec<String> = rule
        .targets()
        .map(|target| match target {
            prefix::Target::Group(at) => {
                let name = usize::try_from(at).ok().and_then(|at| groups.get(at));
                name.copied().unwrap_or_default().to_owned()
            }
            prefix::Target::Reject(code) => format!("reject:{code}"),
        })
        .collect();
    let mut text = format!("leads to {}", to.join(", then "));
    if let Some(caller) = rule.caller {
        let name = usize::try_from(caller)
            .ok()
            .and_then(|at| rules.callers().nth(at));
        text.push_str(&format!(", for {}", name.unwrap_or_default()));
    }
    if rule.when != When::Always {
        text.push_str(&format!(", {}", when(rules, rule.when)));
    }
    if rule.strip > 0 {
        text.push_str(&format!(", {} digits off the front", rule.strip));
    }
    if !rule.add.is_empty() {
        text.push_str(&format!(", {} in front", rule.add));
    }
    text
}

fn text_of(target: &Target) -> String {
    match target {
        Target::Location => "the registered contacts".to_owned(),
        Target::Group(name) => format!("the group {name}"),
        Target::Prefix(name) => format!("the table {name}"),
        Target::Uri(uri) => uri.clone(),
        Target::Reject(code) => format!("a refusal with {code}"),
        Target::Dns => "where the Request-URI points".to_owned(),
    }
}
