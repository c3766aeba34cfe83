//! From a CSV file to the bytes of a table, or to what is wrong with it.

use std::collections::{HashMap, HashSet};

use crate::csv::{self, Field};
use crate::image::{Action, Counts, Entry, Node, OUTSIDE, REJECT, SKIP_MAX};
use crate::number::{self, Number, PREFIX_SYMBOLS_MAX};
use crate::problem::{PROBLEMS_MAX, Problem};
use crate::table::PERIODS_MAX;

/// Rules of one table; a line for several callers is several rules.
pub const RULES_MAX: usize = 8_000_000;
/// Rules of one prefix for the same caller: a look-up goes through them one after another.
pub const ALIKE_MAX: usize = 64;
/// Groups of one rule.
pub const TARGETS_MAX: usize = 16;
/// Different names of one kind: groups, callers, additions.
const NAMES_MAX: usize = 100_000;
/// Digits that are put in front of a number.
const ADD_MAX: usize = 24;
/// Rules that are never reached and are named.
const NAMED_MAX: usize = 10;

/// What rules may name.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub groups: Vec<String>,
    pub callers: Vec<String>,
    pub periods: Vec<String>,
}

/// A table that can be used.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// For [`crate::Table::open`].
    pub image: Vec<u8>,
    /// Lines that are rules.
    pub lines: u32,
    pub warnings: Vec<Problem>,
}

/// Columns by name.
#[derive(Clone, Copy, Debug)]
struct Columns {
    prefix: usize,
    to: usize,
    caller: Option<usize>,
    time: Option<usize>,
    priority: Option<usize>,
    strip: Option<usize>,
    add: Option<usize>,
    /// How many there are.
    count: usize,
}

/// Every column that there is; `note` is for the operator alone.
const COLUMNS: [&str; 8] = [
    "prefix", "to", "caller", "time", "priority", "strip", "add", "note",
];

/// One rule before it has its place.
#[derive(Clone, Copy, Debug)]
struct Row {
    prefix: u128,
    caller: u32,
    action: u32,
    line: u32,
    priority: i16,
    always: bool,
}

/// Names with their numbers, in the order of their first use.
#[derive(Debug, Default)]
struct Names {
    by_name: HashMap<String, u32>,
    list: Vec<String>,
}

impl Names {
    fn number(&mut self, name: &str) -> Option<u32> {
        if let Some(number) = self.by_name.get(name) {
            return Some(*number);
        }
        if self.list.len() >= NAMES_MAX {
            return None;
        }
        let number = u32::try_from(self.list.len()).ok()?;
        self.by_name.insert(name.to_owned(), number);
        self.list.push(name.to_owned());
        Some(number)
    }
}

/// Compiles the text of a CSV file. `remove`: beginnings that numbers and prefixes are looked up without, such as `+` and `00`.
///
/// # Errors
/// What is wrong with the file, at most [`PROBLEMS_MAX`] errors.
pub fn compile(text: &[u8], known: &Known, remove: &[String]) -> Result<Compiled, Vec<Problem>> {
    let mut compiler = Compiler::new(known, remove);
    compiler.read(text);
    if compiler.problems.is_empty() && compiler.rows.len() > RULES_MAX {
        let message = format!(
            "{} rules, for each caller one; there can be {RULES_MAX}",
            compiler.rows.len()
        );
        let problem = Problem::new(1, "", 0..0, message, "spread them over several tables");
        compiler.problems.push(problem);
    }
    if !compiler.problems.is_empty() {
        return Err(compiler.problems);
    }
    compiler.finish(text, remove)
}

/// What is wrong with a piece of a line.
struct Fault {
    at: std::ops::Range<usize>,
    message: String,
    remedy: String,
}

fn fault<T>(
    field: &Field<'_>,
    message: impl Into<String>,
    remedy: impl Into<String>,
) -> Result<T, Fault> {
    Err(Fault {
        at: field.at..field.at + field.text.len().max(1),
        message: message.into(),
        remedy: remedy.into(),
    })
}

/// A name that may be meant.
fn unknown<T>(
    field: &Field<'_>,
    what: &str,
    name: &str,
    known: &[String],
    section: &str,
) -> Result<T, Fault> {
    let near = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, known)| *distance <= 2.min(known.len() / 2))
        .min_by_key(|(distance, _)| *distance);
    let remedy = match near {
        Some((_, near)) => format!("did you mean {near:?}?"),
        None => format!(
            "add a [[{section}]] with name = \"{name}\" to the configuration, or write another name"
        ),
    };
    fault(field, format!("there is no {what} {name:?}"), remedy)
}

struct Compiler<'k> {
    known: &'k Known,
    has: [HashSet<&'k str>; 3],
    remove: Vec<Number>,
    groups: Names,
    callers: Names,
    periods: Names,
    adds: Names,
    targets: Vec<u32>,
    /// Place and length in `targets`, by the text of the field.
    lists: HashMap<String, (u32, u16)>,
    actions: Vec<Action>,
    by_action: HashMap<Action, u32>,
    rows: Vec<Row>,
    lines: u32,
    problems: Vec<Problem>,
}

impl<'k> Compiler<'k> {
    fn new(known: &'k Known, remove: &[String]) -> Self {
        let heads = remove
            .iter()
            .filter_map(|head| Number::parse(head.as_bytes()).ok());
        Self {
            has: [&known.groups, &known.callers, &known.periods]
                .map(|names| names.iter().map(String::as_str).collect()),
            known,
            remove: heads.filter(|head| !head.is_empty()).collect(),
            groups: Names::default(),
            callers: Names::default(),
            periods: Names::default(),
            adds: Names::default(),
            targets: Vec::new(),
            lists: HashMap::new(),
            actions: Vec::new(),
            by_action: HashMap::new(),
            rows: Vec::new(),
            lines: 0,
            problems: Vec::new(),
        }
    }

    /// Reads every line; goes on behind what is wrong, so that an operator sees everything at once.
    fn read(&mut self, text: &[u8]) {
        let mut columns = None;
        let mut separator = b',';
        let mut fields = Vec::new();
        let mut callers = Vec::new();
        for (line, number) in lines(text) {
            if self.problems.len() >= PROBLEMS_MAX || self.rows.len() > RULES_MAX {
                return;
            }
            let Ok(line) = str::from_utf8(line) else {
                let shown = String::from_utf8_lossy(line);
                let good = shown.find('\u{fffd}').unwrap_or(0);
                self.problems.push(Problem::new(
                    number,
                    &shown,
                    good..good + 3,
                    "this is not UTF-8",
                    "save the file as UTF-8",
                ));
                continue;
            };
            // A prefix may begin with #, but not with a blank behind it.
            if line.trim().is_empty() || line == "#" || line.starts_with("# ") {
                continue;
            }
            let read = match columns {
                None => {
                    separator = csv::separator(line);
                    split(line, separator, &mut fields).and_then(|()| {
                        columns = Some(header(&fields)?);
                        Ok(())
                    })
                }
                Some(columns) => split(line, separator, &mut fields)
                    .and_then(|()| self.row(&columns, &fields, number, &mut callers)),
            };
            if let Err(fault) = read {
                let Fault {
                    at,
                    message,
                    remedy,
                } = fault;
                self.problems
                    .push(Problem::new(number, line, at, message, remedy));
                if columns.is_none() {
                    return;
                }
            }
        }
        if columns.is_none() {
            let remedy = "the first line names the columns, for example: prefix,to,caller,time,priority,strip,add";
            self.problems.push(Problem::new(
                1,
                "",
                0..0,
                "there is no line with the names of the columns",
                remedy,
            ));
        }
    }

    fn row(
        &mut self,
        columns: &Columns,
        fields: &[Field<'_>],
        line: u32,
        callers: &mut Vec<u32>,
    ) -> Result<(), Fault> {
        if fields.len() > columns.count {
            let extra = fields.get(columns.count).or(fields.last());
            let message = format!(
                "there are {} fields, and {} columns",
                fields.len(),
                columns.count
            );
            return match extra {
                Some(field) => fault(
                    field,
                    message,
                    "put a field that has a separator in it into quotes",
                ),
                None => Ok(()),
            };
        }
        let nothing = Field {
            text: "".into(),
            at: fields.last().map_or(0, |field| field.at + field.text.len()),
        };
        let field =
            |column: Option<usize>| column.and_then(|at| fields.get(at)).unwrap_or(&nothing);
        let prefix = self.prefix(field(Some(columns.prefix)))?;
        let (targets, targets_count) = self.list(field(Some(columns.to)))?;
        let period = self.period(field(columns.time))?;
        let priority: i16 = integer(field(columns.priority), i16::MIN, i16::MAX)?;
        let strip: u16 = integer(field(columns.strip), 0, 24)?;
        let add = self.add(field(columns.add))?;
        self.callers_of(field(columns.caller), callers)?;
        let action = Action {
            targets,
            targets_count,
            period,
            add,
            strip,
            priority,
        };
        let action = match self.by_action.get(&action) {
            Some(action) => *action,
            None => {
                let number = u32::try_from(self.actions.len()).unwrap_or(u32::MAX);
                self.actions.push(action);
                self.by_action.insert(action, number);
                number
            }
        };
        self.lines += 1;
        self.rows.extend(callers.iter().map(|caller| Row {
            prefix,
            caller: *caller,
            action,
            line,
            priority,
            always: period == 0,
        }));
        Ok(())
    }

    fn prefix(&self, field: &Field<'_>) -> Result<u128, Fault> {
        const REMEDY: &str =
            "write digits, A to F, * or #; an empty prefix is a rule for every number";
        let number = match Number::parse(field.text.as_bytes()) {
            Ok(number) if !field.text.contains(';') => number,
            _ => {
                return fault(
                    field,
                    format!("{:?} is no prefix of a number", field.text),
                    REMEDY,
                );
            }
        };
        let bare = self.remove.iter().find_map(|head| number.without(head));
        match bare.unwrap_or(number).packed() {
            Some(packed) => Ok(packed),
            None => {
                let message = format!("a prefix of more than {PREFIX_SYMBOLS_MAX} digits");
                fault(field, message, "shorten it")
            }
        }
    }

    fn list(&mut self, field: &Field<'_>) -> Result<(u32, u16), Fault> {
        if let Some(list) = self.lists.get(&*field.text) {
            return Ok(*list);
        }
        const REMEDY: &str = "write names of groups in the order in which they are tried, like carrier-a|carrier-b, or reject:CODE";
        let from = self.targets.len();
        for name in field.text.split('|').map(str::trim) {
            if self.targets.len() - from >= TARGETS_MAX {
                return fault(
                    field,
                    format!("more than {TARGETS_MAX} groups"),
                    "leave some away",
                );
            }
            if self.targets.len() > from
                && self.targets.last().is_some_and(|last| last & REJECT != 0)
            {
                return fault(
                    field,
                    "there is something behind a refusal",
                    "let reject:CODE be the last",
                );
            }
            let word = match name.strip_prefix("reject:") {
                Some(code) => match code.parse::<u16>() {
                    Ok(code @ 400..=699) => REJECT | u32::from(code),
                    _ => {
                        return fault(
                            field,
                            format!("{code:?} is no status code of a refusal"),
                            "write a code from 400 to 699, like reject:403",
                        );
                    }
                },
                None if name.is_empty() => return fault(field, "no group is named", REMEDY),
                None if !self.has_name(0, name) => {
                    return unknown(field, "group", name, &self.known.groups, "group");
                }
                None => match self.groups.number(name) {
                    Some(number) => number,
                    None => {
                        return fault(
                            field,
                            "too many different groups",
                            "spread the rules over several tables",
                        );
                    }
                },
            };
            self.targets.push(word);
        }
        let count = u16::try_from(self.targets.len() - from).unwrap_or(u16::MAX);
        let list = (u32::try_from(from).unwrap_or(u32::MAX), count);
        self.lists.insert(field.text.to_string(), list);
        Ok(list)
    }

    fn has_name(&self, kind: usize, name: &str) -> bool {
        self.has.get(kind).is_some_and(|names| names.contains(name))
    }

    fn period(&mut self, field: &Field<'_>) -> Result<u16, Fault> {
        let (name, outside) = match field.text.strip_prefix('!') {
            Some(name) => (name.trim(), OUTSIDE),
            None => (&*field.text, 0),
        };
        if name.is_empty() && outside == 0 {
            return Ok(0);
        }
        if !self.has_name(2, name) {
            return unknown(field, "period", name, &self.known.periods, "period");
        }
        match self
            .periods
            .number(name)
            .and_then(|number| u16::try_from(number).ok())
        {
            Some(number) if usize::from(number) < PERIODS_MAX => Ok((number + 1) | outside),
            _ => fault(
                field,
                format!("more than {PERIODS_MAX} different periods"),
                "spread the rules over several tables",
            ),
        }
    }

    fn add(&mut self, field: &Field<'_>) -> Result<u32, Fault> {
        if field.text.is_empty() {
            return Ok(0);
        }
        match Number::parse(field.text.as_bytes()) {
            Ok(number) if number.len() <= ADD_MAX => match self.adds.number(&number.to_string()) {
                Some(number) => Ok(number + 1),
                None => fault(
                    field,
                    "too many different additions",
                    "spread the rules over several tables",
                ),
            },
            _ => fault(
                field,
                format!("{:?} can't stand in front of a number", field.text),
                format!("write at most {ADD_MAX} digits, with a + if numbers are to begin with it"),
            ),
        }
    }

    /// Numbers of callers, one up; 0 for everybody.
    fn callers_of(&mut self, field: &Field<'_>, callers: &mut Vec<u32>) -> Result<(), Fault> {
        callers.clear();
        if field.text.is_empty() {
            callers.push(0);
            return Ok(());
        }
        for name in field.text.split('|').map(str::trim) {
            if !self.has_name(1, name) {
                return unknown(field, "caller group", name, &self.known.callers, "caller");
            }
            match self.callers.number(name) {
                Some(number) => callers.push(number + 1),
                None => {
                    return fault(
                        field,
                        "too many different callers",
                        "spread the rules over several tables",
                    );
                }
            }
        }
        callers.sort_unstable();
        callers.dedup();
        Ok(())
    }

    /// Puts the rules in order, and looks for those that nothing ever reaches.
    fn finish(mut self, text: &[u8], remove: &[String]) -> Result<Compiled, Vec<Problem>> {
        self.rows.sort_unstable_by_key(|row| {
            (
                row.prefix,
                row.caller,
                std::cmp::Reverse(row.priority),
                row.line,
            )
        });
        let alike = |a: &Row, b: &Row| a.prefix == b.prefix && a.caller == b.caller;
        let mut hidden: Vec<(u32, u32)> = Vec::new();
        for rows in self.rows.chunk_by(alike) {
            if let (Some(row), true) = (rows.get(ALIKE_MAX), self.problems.len() < PROBLEMS_MAX) {
                let message = format!(
                    "{} rules for {:?} and the same caller; there can be {ALIKE_MAX}",
                    rows.len(),
                    number::packed_text(row.prefix)
                );
                let line = line_text(text, row.line);
                self.problems.push(Problem::new(
                    row.line,
                    &line,
                    0..line.len(),
                    message,
                    "remove some of them",
                ));
            }
            let by = rows.iter().position(|row| row.always);
            if let Some((by, rest)) = by.and_then(|at| rows.get(at..)?.split_first())
                && hidden.len() < NAMED_MAX
            {
                hidden.extend(rest.iter().map(|row| (row.line, by.line)));
            }
        }
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        hidden.sort_unstable();
        hidden.dedup_by_key(|(line, _)| *line);
        hidden.truncate(NAMED_MAX);
        let warnings = hidden.into_iter().map(|(number, by)| {
            let line = line_text(text, number);
            let message = format!("comes after line {by}, which has the same prefix and caller, and always holds");
            let remedy = "remove one of the two, or give the other a `time`; if the table falls back, it is the next choice";
            Problem::new(number, &line, 0..line.len(), message, remedy).warning()
        });
        Ok(Compiled {
            warnings: warnings.collect(),
            lines: self.lines,
            image: self.image(remove),
        })
    }

    fn image(&self, remove: &[String]) -> Vec<u8> {
        let nodes = trie(&self.rows);
        let texts: Vec<&str> = [&self.groups, &self.callers, &self.periods, &self.adds]
            .into_iter()
            .flat_map(|names| &names.list)
            .chain(remove)
            .map(String::as_str)
            .collect();
        let characters: usize = texts.iter().map(|text| text.len()).sum();
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let counts = Counts {
            nodes: count(nodes.len()),
            rules: count(self.rows.len()),
            actions: count(self.actions.len()),
            targets: count(self.targets.len()),
            groups: count(self.groups.list.len()),
            callers: count(self.callers.list.len()),
            periods: count(self.periods.list.len()),
            adds: count(self.adds.list.len()),
            removes: count(remove.len()),
            characters: count(characters),
            lines: self.lines,
        };
        let mut image = Vec::with_capacity(counts.sections().map_or(0, |sections| sections.end));
        image.extend_from_slice(&counts.header());
        nodes
            .iter()
            .for_each(|node| image.extend_from_slice(&node.bytes()));
        for row in &self.rows {
            let entry = Entry {
                caller: row.caller,
                action: row.action,
                line: row.line,
            };
            image.extend_from_slice(&entry.bytes());
        }
        self.actions
            .iter()
            .for_each(|action| image.extend_from_slice(&action.bytes()));
        self.targets
            .iter()
            .for_each(|word| image.extend_from_slice(&word.to_le_bytes()));
        let mut at = 0;
        for text in &texts {
            image.extend_from_slice(&count(at).to_le_bytes());
            image.extend_from_slice(&count(text.len()).to_le_bytes());
            at += text.len();
        }
        texts
            .iter()
            .for_each(|text| image.extend_from_slice(text.as_bytes()));
        image
    }
}

/// The lines of a text with their numbers.
fn lines(text: &[u8]) -> impl Iterator<Item = (&[u8], u32)> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut from = 0;
    let ends = memchr::memchr_iter(b'\n', text).chain([text.len()]);
    ends.map(move |end| {
        let line = text.get(from..end).unwrap_or_default();
        from = end + 1;
        line.strip_suffix(b"\r").unwrap_or(line)
    })
    .zip(1..)
}

fn line_text(text: &[u8], number: u32) -> String {
    let line = lines(text).find(|(_, at)| *at == number);
    line.map_or_else(String::new, |(line, _)| {
        String::from_utf8_lossy(line).into_owned()
    })
}

fn split<'l>(line: &'l str, separator: u8, fields: &mut Vec<Field<'l>>) -> Result<(), Fault> {
    csv::split(line, separator, fields).map_err(|error| Fault {
        at: error.at()..error.at() + 1,
        message: error.to_string(),
        remedy: "a field in quotes has a pair of them around it, and \"\" for a quote in it"
            .to_owned(),
    })
}

/// The columns by the first line.
fn header(fields: &[Field<'_>]) -> Result<Columns, Fault> {
    let mut places: [Option<usize>; COLUMNS.len()] = [None; COLUMNS.len()];
    for (at, field) in fields.iter().enumerate() {
        let name = field.text.to_ascii_lowercase();
        let Some(place) = COLUMNS
            .iter()
            .position(|known| *known == name)
            .and_then(|at| places.get_mut(at))
        else {
            let near = COLUMNS
                .iter()
                .map(|known| (strsim::damerau_levenshtein(&name, known), known))
                .filter(|(distance, _)| *distance <= 2)
                .min_by_key(|(distance, _)| *distance);
            let remedy = match near {
                Some((_, near)) => format!("did you mean {near:?}?"),
                None => format!(
                    "the columns are {}; the first line names those that there are",
                    COLUMNS.join(", ")
                ),
            };
            return fault(
                field,
                format!("there is no column {:?}", field.text),
                remedy,
            );
        };
        if place.replace(at).is_some() {
            return fault(
                field,
                format!("there are two columns {name:?}"),
                "remove one of them",
            );
        }
    }
    let [prefix, to, caller, time, priority, strip, add, _] = places;
    let (Some(prefix), Some(to)) = (prefix, to) else {
        let missing = if prefix.is_none() { "prefix" } else { "to" };
        let field = Field {
            text: "".into(),
            at: 0,
        };
        let remedy = "the first line names the columns, for example: prefix,to,caller,time,priority,strip,add";
        return fault(&field, format!("there is no column {missing:?}"), remedy);
    };
    Ok(Columns {
        prefix,
        to,
        caller,
        time,
        priority,
        strip,
        add,
        count: fields.len(),
    })
}

fn integer<T: TryFrom<i64> + Into<i64> + Copy>(
    field: &Field<'_>,
    from: T,
    to: T,
) -> Result<T, Fault> {
    if field.text.is_empty() {
        // 0 lies within every range that is asked for.
        return T::try_from(0).or_else(|_| fault(field, "is no number", ""));
    }
    let (low, high) = (from.into(), to.into());
    let number = field
        .text
        .parse::<i64>()
        .ok()
        .filter(|number| (low..=high).contains(number));
    match number.and_then(|number| T::try_from(number).ok()) {
        Some(number) => Ok(number),
        None => fault(
            field,
            format!("{:?} is no number from {low} to {high}", field.text),
            format!("write a number from {low} to {high}, or nothing for 0"),
        ),
    }
}

/// The trie over sorted rules, level by level.
fn trie(rows: &[Row]) -> Vec<Node> {
    let mut nodes = vec![Node::default()];
    // What each node is made of: rows from, to, and how many symbols lead to it. Those of the root are all of them.
    let mut queue = std::collections::VecDeque::from([(0_usize, 0, rows.len(), 0_usize)]);
    while let Some((at, from, to, depth)) = queue.pop_front() {
        let mine = rows.get(from..to).unwrap_or_default();
        let (Some(first), Some(last)) = (mine.first(), mine.last()) else {
            continue;
        };
        let shared = number::common(first.prefix, last.prefix);
        // The root is where every number begins, also one that has none of its symbols.
        let skip = match at {
            0 => 0,
            _ => shared.saturating_sub(depth).min(SKIP_MAX),
        };
        let depth_here = depth + skip;
        let mut node = Node {
            first: u32::try_from(nodes.len()).unwrap_or(u32::MAX),
            rules: u32::try_from(from).unwrap_or(u32::MAX),
            ..Node::default()
        };
        node.set_skip(
            (depth..depth_here).map_while(|depth| number::symbol_at(first.prefix, depth)),
        );
        let ends_here = |row: &Row| number::symbol_at(row.prefix, depth_here).is_none();
        let rules = mine.partition_point(ends_here);
        node.rules_count = u32::try_from(rules).unwrap_or(u32::MAX);
        let mut child = from + rules;
        while let Some(symbol) = rows
            .get(child..to)
            .and_then(|rest| rest.first())
            .and_then(|row| number::symbol_at(row.prefix, depth_here))
        {
            let rest = rows.get(child..to).unwrap_or_default();
            let alike = |row: &Row| number::symbol_at(row.prefix, depth_here) == Some(symbol);
            let end = child + rest.partition_point(alike);
            node.children |= 1 << symbol;
            queue.push_back((nodes.len(), child, end, depth_here + 1));
            nodes.push(Node::default());
            child = end;
        }
        if let Some(place) = nodes.get_mut(at) {
            *place = node;
        }
    }
    nodes
}
