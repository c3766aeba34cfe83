//! Reads a flow: lines to a tree by their indentation, then the tree to [`Flow`].

use std::time::Duration;

use super::syntax::{
    Arrow, Credentials, Detail, DetailKind, Fault, Flow, Party, Pass, Proxy, Stages, Start, Step,
    What,
};

/// A line and what is indented below it.
#[derive(Debug)]
struct Node {
    line: usize,
    indent: usize,
    text: String,
    children: Vec<Node>,
}

/// Reads `text`, the content of the file `name`.
pub fn parse(name: &str, text: &str) -> Result<Flow, Fault> {
    let title = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("# "))
        .ok_or_else(|| Fault::new(1, "the first line is its title: `# RFC ...: ...`"))?;
    let mut flow = Flow {
        name: name.to_owned(),
        title: title.trim().to_owned(),
        proxies: Vec::new(),
        parties: Vec::new(),
        only: None,
        only_passes: None,
        is_about_hiding: false,
        shown: Vec::new(),
        steps: Vec::new(),
    };
    let nodes = tree(text)?;
    let mut nodes = nodes.iter().peekable();
    while let Some(node) = nodes.next() {
        let (word, rest) = first_word(&node.text);
        match word {
            "proxy" => flow.proxies.push(proxy(node, rest)?),
            "party" => flow.parties.push(party(node, rest)?),
            "only" => only(node, rest, &mut flow)?,
            "shown" => flow.shown = rest.split(',').map(|name| name.trim().to_owned()).collect(),
            _ => {
                let step = step(node, &mut nodes)?;
                flow.steps.push(step);
            }
        }
    }
    names(&flow)?;
    Ok(flow)
}

fn tree(text: &str) -> Result<Vec<Node>, Fault> {
    let mut roots: Vec<Node> = Vec::new();
    // The last node at each depth; a child goes below the last with less indentation.
    let mut path: Vec<Node> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        let content = line.trim_start();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        if line.contains('\t') {
            return Err(Fault::new(number, "a tab; indent with spaces"));
        }
        let indent = line.len() - content.len();
        close(&mut path, &mut roots, indent);
        path.push(Node {
            line: number,
            indent,
            text: without_comment(content).to_owned(),
            children: Vec::new(),
        });
    }
    close(&mut path, &mut roots, 0);
    if let Some(node) = roots.iter().find(|node| node.indent > 0) {
        return Err(Fault::new(node.line, "indented below nothing"));
    }
    Ok(roots)
}

/// Ends every open node that `indent` is not below.
fn close(path: &mut Vec<Node>, roots: &mut Vec<Node>, indent: usize) {
    while path.last().is_some_and(|last| last.indent >= indent) {
        let Some(done) = path.pop() else { return };
        match path.last_mut() {
            Some(parent) => parent.children.push(done),
            None => roots.push(done),
        }
    }
}

/// Two spaces and a `#` begin a comment behind something.
fn without_comment(line: &str) -> &str {
    line.split_once("  #")
        .map_or(line, |(before, _)| before)
        .trim_end()
}

fn first_word(text: &str) -> (&str, &str) {
    match text.split_once(' ') {
        Some((word, rest)) => (word, rest.trim()),
        None => (text, ""),
    }
}

fn proxy(node: &Node, rest: &str) -> Result<Proxy, Fault> {
    let name = rest.to_owned();
    if name.is_empty() || name.contains(' ') {
        return Err(Fault::new(node.line, "`proxy NAME`"));
    }
    let mut config = String::new();
    let mut failpoints = Vec::new();
    for child in &node.children {
        if let Some(rest) = child.text.strip_prefix("dies ") {
            failpoints.push(death(child.line, rest)?);
            continue;
        }
        flatten(child, &mut config);
    }
    Ok(Proxy {
        line: node.line,
        name,
        config,
        failpoints,
    })
}

/// TOML as it stood there, without its indentation.
fn flatten(node: &Node, out: &mut String) {
    out.push_str(&node.text);
    out.push('\n');
    for child in &node.children {
        flatten(child, out);
    }
}

/// `at POINT [serving TEXT]` as a failpoint that kills once.
fn death(line: usize, rest: &str) -> Result<String, Fault> {
    let point = rest
        .strip_prefix("at ")
        .ok_or_else(|| Fault::new(line, "`dies at POINT [serving TEXT]`"))?;
    let (point, condition) = match point.split_once(" serving ") {
        Some((point, text)) => (point, format!("-if:{text}")),
        None => (point, String::new()),
    };
    if !failpoint::NAMES.contains(&point) {
        return Err(Fault::new(line, format!("there is no point {point}")));
    }
    Ok(format!("{point}=kill@once{condition}"))
}

fn party(node: &Node, rest: &str) -> Result<Party, Fault> {
    let (name, aor) = first_word(rest);
    if name.is_empty() {
        return Err(Fault::new(node.line, "`party NAME [AOR]`"));
    }
    leaf(node)?;
    Ok(Party {
        line: node.line,
        name: name.to_owned(),
        aor: aor.to_owned(),
    })
}

fn only(node: &Node, rest: &str, flow: &mut Flow) -> Result<(), Fault> {
    let wrong = || {
        Fault::new(
            node.line,
            "`only real: WHY`, or `simulated`; or of `plain`, `dialog`, `stateless`, with commas",
        )
    };
    let (where_to, why) = rest.split_once(':').ok_or_else(wrong)?;
    let why = Some(why.trim().to_owned())
        .filter(|why| !why.is_empty())
        .ok_or_else(wrong)?;
    match where_to.trim() {
        "real" => flow.only = Some((Stages::Real, why)),
        "simulated" => flow.only = Some((Stages::Simulated, why)),
        passes => {
            let passes = passes.split(',').map(|pass| match pass.trim() {
                "plain" => Ok(Pass::Plain),
                "dialog" => Ok(Pass::Dialog),
                "stateless" => Ok(Pass::Stateless),
                _ => Err(wrong()),
            });
            flow.only_passes = Some((passes.collect::<Result<_, _>>()?, why));
        }
    }
    Ok(())
}

fn leaf(node: &Node) -> Result<(), Fault> {
    match node.children.first() {
        Some(child) => Err(Fault::new(child.line, "nothing can be indented here")),
        None => Ok(()),
    }
}

fn steps(nodes: &[Node]) -> Result<Vec<Step>, Fault> {
    let mut nodes = nodes.iter().peekable();
    let mut steps = Vec::new();
    while let Some(node) = nodes.next() {
        steps.push(step(node, &mut nodes)?);
    }
    Ok(steps)
}

fn step<'n>(
    node: &'n Node,
    more: &mut std::iter::Peekable<impl Iterator<Item = &'n Node>>,
) -> Result<Step, Fault> {
    let wrong = |what: &str| Fault::new(node.line, what);
    let words: Vec<&str> = node.text.split_whitespace().collect();
    let what = match words.as_slice() {
        ["any", "order"] => What::AnyOrder(steps(&node.children)?),
        ["either"] => {
            let mut alternatives = vec![steps(&node.children)?];
            while let Some(next) = more.next_if(|next| next.text == "or") {
                alternatives.push(steps(&next.children)?);
            }
            if alternatives.len() < 2 {
                return Err(wrong("`either` without an `or`"));
            }
            What::Either(alternatives)
        }
        ["wait", time] => What::Wait(duration(node.line, time)?),
        ["nothing", "for", time] => What::Nothing {
            to: None,
            duration: duration(node.line, time)?,
        },
        ["nothing", "to", party, "for", time] => What::Nothing {
            to: Some((*party).to_owned()),
            duration: duration(node.line, time)?,
        },
        ["kill", "slot", slot, "of", proxy] => What::Kill {
            proxy: (*proxy).to_owned(),
            slot: Some(slot.parse().map_err(|_| wrong("no slot number"))?),
        },
        ["kill", "every", "worker", "of", proxy] => What::Kill {
            proxy: (*proxy).to_owned(),
            slot: None,
        },
        [proxy, "forgets", "everything"] => What::Forget {
            proxy: (*proxy).to_owned(),
        },
        [label, "came", times, "times" | "time"] => came(node.line, label, times, times)?,
        [label, "came", least, "to", most, "times"] => came(node.line, label, least, most)?,
        [proxy, "has", number, of @ ..] if !of.is_empty() => What::Has {
            proxy: (*proxy).to_owned(),
            number: number.parse().map_err(|_| wrong("no number"))?,
            of: of.join(" "),
        },
        ["run", proxy, arguments @ ..] if !arguments.is_empty() => What::Run {
            proxy: (*proxy).to_owned(),
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        },
        words if words.contains(&"->") => What::Arrow(arrow(node, words)?),
        _ => {
            return Err(wrong(
                "neither a message (`alice -> tandem INVITE ...`) nor a step",
            ));
        }
    };
    if !matches!(what, What::Arrow(_) | What::AnyOrder(_) | What::Either(_)) {
        leaf(node)?;
    }
    Ok(Step {
        line: node.line,
        text: node.text.clone(),
        what,
    })
}

fn came(line: usize, label: &str, least: &str, most: &str) -> Result<What, Fault> {
    let number = |text: &str| {
        text.parse()
            .map_err(|_| Fault::new(line, format!("no number: {text}")))
    };
    Ok(What::Came {
        label: label.to_owned(),
        least: number(least)?,
        most: number(most)?,
    })
}

fn arrow(node: &Node, words: &[&str]) -> Result<Arrow, Fault> {
    let wrong = |what: &str| Fault::new(node.line, what);
    let mut words = words;
    let mut within = None;
    let mut label = None;
    loop {
        words = match words {
            ["within", time, rest @ ..] => {
                within = Some(duration(node.line, time)?);
                rest
            }
            [word, rest @ ..] if is_label(word) => {
                label = Some((*word).to_owned());
                rest
            }
            _ => break,
        };
    }
    let [from, "->", to, message @ ..] = words else {
        return Err(wrong("`[LABEL] [within TIME] FROM -> TO MESSAGE`"));
    };
    Ok(Arrow {
        label,
        within,
        from: (*from).to_owned(),
        to: (*to).to_owned(),
        message: start(node.line, message)?,
        details: node.children.iter().map(detail).collect::<Result<_, _>>()?,
    })
}

/// `F1`, `F12a`: as RFC 3665 has them.
pub fn is_label(word: &str) -> bool {
    word.strip_prefix('F')
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        && word.chars().all(|c| c.is_ascii_alphanumeric())
}

fn start(line: usize, words: &[&str]) -> Result<Start, Fault> {
    let wrong = |what: &str| Err(Fault::new(line, what));
    let Some((first, mut rest)) = words.split_first() else {
        return wrong("no message");
    };
    let mut about = None;
    if let [head @ .., "for" | "in" | "to" | "of", label] = rest
        && is_label(label)
    {
        about = Some((*label).to_owned());
        rest = head;
    }
    if let Ok(code) = first.parse::<u16>() {
        if !(100..700).contains(&code) {
            return wrong("no status code");
        }
        let mut method = None;
        if let [head @ .., last] = rest
            && let Some(name) = last.strip_prefix('(').and_then(|l| l.strip_suffix(')'))
        {
            method = Some(name.to_owned());
            rest = head;
        }
        let reason = (!rest.is_empty()).then(|| rest.join(" "));
        return Ok(Start::Response {
            code,
            reason,
            method,
            about,
        });
    }
    match (*first, rest) {
        ("again", [label]) if is_label(label) => Ok(Start::Again((*label).to_owned())),
        ("forwards", [label]) if is_label(label) => Ok(Start::Forwards {
            label: (*label).to_owned(),
            uri: None,
        }),
        ("forwards", [label, uri]) if is_label(label) => Ok(Start::Forwards {
            label: (*label).to_owned(),
            uri: Some((*uri).to_owned()),
        }),
        (method, uri @ ([] | [_])) if method.chars().all(|c| !c.is_ascii_lowercase()) => {
            Ok(Start::Request {
                method: method.to_owned(),
                uri: uri.first().map(|uri| (*uri).to_owned()),
                about,
            })
        }
        _ => wrong(
            "neither `METHOD [URI] [in LABEL]`, `CODE [REASON] [(METHOD)] [to LABEL]`, `again LABEL` nor `forwards LABEL [URI]`",
        ),
    }
}

fn detail(node: &Node) -> Result<Detail, Fault> {
    leaf(node)?;
    let text = node.text.as_str();
    let what = if let Some(name) = text.strip_prefix("no ") {
        DetailKind::No(name.trim().to_owned())
    } else if let Some(rest) = text.strip_prefix("as in ") {
        let (label, names) = rest
            .split_once(':')
            .filter(|(label, _)| is_label(label.trim()))
            .ok_or_else(|| Fault::new(node.line, "`as in LABEL: Name, Name`"))?;
        let names = names.split(',').map(|name| name.trim().to_owned());
        DetailKind::AsIn(label.trim().to_owned(), names.collect())
    } else if let Some(rest) = text.strip_prefix("credentials: ") {
        DetailKind::Credentials(credentials(node.line, rest)?)
    } else if text == "sdp" {
        DetailKind::Sdp
    } else if let Some(body) = text.strip_prefix("body ") {
        DetailKind::Body(body.replace("\\n", "\r\n"))
    } else {
        let (added, header) = match text.strip_prefix("+ ") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (name, value) = header
            .split_once(':')
            .filter(|(name, _)| !name.contains(' '))
            .ok_or_else(|| {
                Fault::new(
                    node.line,
                    "neither `Name: value`, `no Name`, `as in LABEL: Name`, `credentials:`, `sdp` nor `body`",
                )
            })?;
        let (name, value) = (name.to_owned(), value.trim().to_owned());
        if added {
            DetailKind::Add(name, value)
        } else {
            DetailKind::Header(name, value)
        }
    };
    Ok(Detail {
        line: node.line,
        what,
    })
}

fn credentials(line: usize, rest: &str) -> Result<Credentials, Fault> {
    let words: Vec<&str> = rest.split_whitespace().collect();
    let [user, password, more @ ..] = words.as_slice() else {
        return Err(Fault::new(
            line,
            "`credentials: USER PASSWORD [KEY VALUE]...`",
        ));
    };
    let mut credentials = Credentials {
        user: (*user).to_owned(),
        password: (*password).to_owned(),
        ..Credentials::default()
    };
    for pair in more.chunks(2) {
        match pair {
            ["realm", realm] => credentials.realm = Some((*realm).to_owned()),
            ["algorithm", name] => credentials.algorithm = Some((*name).to_owned()),
            ["qop", qop] => credentials.qop = Some((*qop).to_owned()),
            ["nc", nc] => {
                credentials.nc = Some(nc.parse().map_err(|_| Fault::new(line, "no count"))?);
            }
            _ => {
                return Err(Fault::new(
                    line,
                    "`realm R`, `algorithm A`, `qop Q` or `nc N`",
                ));
            }
        }
    }
    Ok(credentials)
}

/// `32s`, `500ms`, `3min`.
fn duration(line: usize, text: &str) -> Result<Duration, Fault> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let parsed = digits.parse::<u64>().ok().and_then(|n| match unit {
        "ms" => Some(Duration::from_millis(n)),
        "s" => Some(Duration::from_secs(n)),
        "min" => Some(Duration::from_secs(60 * n)),
        _ => None,
    });
    parsed.ok_or_else(|| Fault::new(line, format!("no time: {text} (`500ms`, `32s`, `3min`)")))
}

/// Every name is there once, and every label that is used was given before.
fn names(flow: &Flow) -> Result<(), Fault> {
    let mut known: Vec<&str> = Vec::new();
    let all = flow.proxies.iter().map(|p| (p.line, p.name.as_str()));
    for (line, name) in all.chain(flow.parties.iter().map(|p| (p.line, p.name.as_str()))) {
        if known.contains(&name) {
            return Err(Fault::new(line, format!("{name} is there twice")));
        }
        known.push(name);
    }
    if flow.proxies.is_empty() || flow.steps.is_empty() {
        return Err(Fault::new(1, "a flow has a proxy and steps"));
    }
    let is_proxy = |name: &str| flow.proxies.iter().any(|proxy| proxy.name == name);
    let mut labels: Vec<String> = Vec::new();
    check_steps(&flow.steps, &known, &is_proxy, &mut labels)
}

fn check_steps(
    steps: &[Step],
    known: &[&str],
    is_proxy: &dyn Fn(&str) -> bool,
    labels: &mut Vec<String>,
) -> Result<(), Fault> {
    for step in steps {
        let label = |labels: &Vec<String>, line: usize, label: &str| {
            if labels.iter().any(|known| known == label) {
                Ok(())
            } else {
                Err(Fault::new(line, format!("there is no {label} before this")))
            }
        };
        match &step.what {
            What::Arrow(arrow) => {
                for name in [&arrow.from, &arrow.to] {
                    if !known.contains(&name.as_str()) {
                        return Err(Fault::new(step.line, format!("who is {name}?")));
                    }
                }
                if let Some(of) = referred(&arrow.message) {
                    label(labels, step.line, of)?;
                }
                for detail in &arrow.details {
                    if let DetailKind::AsIn(of, _) = &detail.what {
                        label(labels, detail.line, of)?;
                    }
                }
                labels.extend(arrow.label.clone());
            }
            What::Came { label: of, .. } => label(labels, step.line, of)?,
            What::Kill { proxy, .. }
            | What::Forget { proxy }
            | What::Has { proxy, .. }
            | What::Run { proxy, .. } => {
                if !is_proxy(proxy) {
                    return Err(Fault::new(step.line, format!("{proxy} is no proxy")));
                }
            }
            What::Nothing {
                to: Some(party), ..
            } if !known.contains(&party.as_str()) => {
                return Err(Fault::new(step.line, format!("who is {party}?")));
            }
            What::AnyOrder(steps) => check_steps(steps, known, is_proxy, labels)?,
            What::Either(alternatives) => {
                for steps in alternatives {
                    check_steps(steps, known, is_proxy, labels)?;
                }
            }
            What::Wait(_) | What::Nothing { .. } => {}
        }
    }
    Ok(())
}

fn referred(start: &Start) -> Option<&str> {
    match start {
        Start::Request { about, .. } | Start::Response { about, .. } => about.as_deref(),
        Start::Again(label) | Start::Forwards { label, .. } => Some(label),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# A title\nproxy p\n    [a]\n    b = 1  # c\n    dies at worker.begun serving BYE\nparty a sip:a@x\n";

    fn fault(text: &str) -> (usize, String) {
        let fault = parse("f", text).expect_err("a fault");
        (fault.line, fault.what)
    }

    #[test]
    fn a_whole_flow() {
        let steps = "only real: it kills\nF1 a -> p INVITE sip:b@x  # first\n    Via: x\n    no Date\n\nany order\n    within 3s p -> a 200 OK to F1\n        sdp\neither\n    p -> a 180\nor\n    wait 2s\nF1 came 2 times\np has 0 transactions\nkill slot 1 of p\n";
        let flow = parse("f", &format!("{HEAD}{steps}")).expect("a flow");
        assert_eq!((flow.title.as_str(), flow.steps.len()), ("A title", 6));
        assert_eq!(flow.proxies[0].config, "[a]\nb = 1\n");
        assert_eq!(
            flow.proxies[0].failpoints,
            ["worker.begun=kill@once-if:BYE"]
        );
        assert_eq!(flow.only, Some((Stages::Real, "it kills".to_owned())));
        let What::Arrow(first) = &flow.steps[0].what else {
            panic!("{:?}", flow.steps[0])
        };
        assert_eq!(
            (first.label.as_deref(), first.details.len()),
            (Some("F1"), 2)
        );
        let What::AnyOrder(inner) = &flow.steps[1].what else {
            panic!("{:?}", flow.steps[1])
        };
        let What::Arrow(inner) = &inner[0].what else {
            panic!("{inner:?}")
        };
        assert_eq!(inner.within, Some(Duration::from_secs(3)));
        let about = Some("F1".to_owned());
        assert!(
            matches!(&inner.message, Start::Response { code: 200, about: of, .. } if *of == about)
        );
        let What::Either(alternatives) = &flow.steps[2].what else {
            panic!("{:?}", flow.steps[2])
        };
        assert_eq!(alternatives.len(), 2);
    }

    #[test]
    fn what_concerns_hiding() {
        let text = format!(
            "{HEAD}only plain, stateless: it can\nshown X-A, From\np forgets everything\na -> p OPTIONS x\n    body a\\nb\n"
        );
        let flow = parse("f", &text).expect("a flow");
        let passes = vec![Pass::Plain, Pass::Stateless];
        assert_eq!(flow.only_passes, Some((passes, "it can".to_owned())));
        assert_eq!(flow.shown, ["X-A", "From"]);
        assert!(matches!(&flow.steps[0].what, What::Forget { proxy } if proxy == "p"));
        let What::Arrow(arrow) = &flow.steps[1].what else {
            panic!("{:?}", flow.steps[1])
        };
        assert_eq!(arrow.details[0].what, DetailKind::Body("a\r\nb".to_owned()));
        assert!(flow.has(Pass::Plain));
        let hidden = flow.with_hiding(Pass::Dialog);
        assert!(!hidden.is_about_hiding);
        let about = HEAD.replace("b = 1", "topology_hiding = \"{hiding}\"");
        let about = parse("f", &format!("{about}wait 1s\n")).expect("a flow");
        assert!(!about.has(Pass::Plain));
        let about = about.with_hiding(Pass::Stateless);
        assert!(about.is_about_hiding);
        assert!(
            about.proxies[0]
                .config
                .contains("topology_hiding = \"stateless\"")
        );
    }

    #[test]
    fn faults_have_their_lines() {
        assert_eq!(fault("proxy p\n").0, 1);
        let nowhere = parse("f", "# T\nproxy p\n    dies at home\n").expect_err("a fault");
        assert_eq!(
            (nowhere.line, nowhere.what.as_str()),
            (3, "there is no point home")
        );
        for (steps, line, part) in [
            ("a -> b BYE\n", 7, "who is b?"),
            ("a -> p BYE for F2\n", 7, "no F2 before"),
            ("a -> p bye\n", 7, "neither"),
            ("a -> p 99\n", 7, "no status code"),
            ("a -> p BYE\n    Via\n", 8, "neither"),
            ("wait 3\n", 7, "no time"),
            ("either\n    wait 1s\n", 7, "without an `or`"),
            ("kill slot 0 of a\n", 7, "is no proxy"),
            ("a -> p BYE\n\tVia: x\n", 8, "a tab"),
            ("party a\nwait 1s\n", 7, "twice"),
            ("only real\nwait 1s\n", 7, "WHY"),
            ("only sometimes: so\nwait 1s\n", 7, "plain"),
            ("", 1, "steps"),
        ] {
            let (at, what) = fault(&format!("{HEAD}{steps}"));
            assert!(at == line && what.contains(part), "{steps:?}: {at}: {what}");
        }
    }
}
