//! Reads typed values out of TOML tables. A value that is wrong becomes a [`Problem`] and reading
//! goes on, so that an operator sees everything at once.

use std::{cell::RefCell, fmt::Display, ops::Range};

use toml_edit::{Item, TableLike, Value};

use crate::{
    keys::{SECTIONS, SECTIONS_ABSENT, Section, section},
    problem::{Problem, Severity, Source},
    value::Wrong,
};

/// Problems that are kept of one configuration; a file with more is not read by anybody.
const PROBLEMS_MAX: usize = 100;

pub(crate) struct Reader<'a> {
    source: Source<'a>,
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
    /// Stands in for a table that is not there.
    nothing: toml_edit::Table,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(file: &str, text: &'a str) -> Self {
        Self {
            source: Source::new(file, text),
            text,
            problems: RefCell::default(),
            nothing: toml_edit::Table::new(),
        }
    }

    pub(crate) fn error(
        &self,
        at: Option<Range<usize>>,
        message: impl Display,
        remedy: impl Display,
    ) {
        self.push(Severity::Error, at, message, remedy);
    }

    pub(crate) fn warning(
        &self,
        at: Option<Range<usize>>,
        message: impl Display,
        remedy: impl Display,
    ) {
        self.push(Severity::Warning, at, message, remedy);
    }

    fn push(
        &self,
        severity: Severity,
        at: Option<Range<usize>>,
        message: impl Display,
        remedy: impl Display,
    ) {
        let mut problems = self.problems.borrow_mut();
        // A further error replaces a warning, so that no number of warnings hides that the file is refused.
        if problems.len() >= PROBLEMS_MAX {
            let spare = problems.iter().rposition(|problem| !problem.is_error());
            match (severity, spare) {
                (Severity::Error, Some(warning)) => drop(problems.remove(warning)),
                _ => return,
            }
        }
        problems.push(Problem {
            severity,
            place: at.map(|range| self.source.place(range)),
            message: message.to_string(),
            remedy: remedy.to_string(),
        });
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.problems.borrow().iter().any(Problem::is_error)
    }

    /// In the order of the file; what has no place first.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| {
            problem
                .place
                .as_ref()
                .map(|place| (place.line, place.column))
        });
        problems
    }

    /// The table `[name]`, or an empty one.
    pub(crate) fn table<'r>(&'r self, root: &'r toml_edit::Table, name: &str) -> Table<'r> {
        let section = section(name);
        let nothing = || Table {
            reader: self,
            section,
            items: &self.nothing,
            range: 0..0,
        };
        let Some(item) = root.get(name) else {
            return nothing();
        };
        let range = item_range(item);
        if let Some(items) = item.as_table_like() {
            return Table::new(self, section, items, range);
        }
        let found = item.type_name();
        let header = section.header;
        if item.is_array_of_tables() {
            self.error(
                Some(range),
                format!("`{name}` can be there only once"),
                format!("write {header}"),
            );
        } else {
            self.error(
                Some(range),
                format!("`{name}` is a table, not {}", with_article(found)),
                format!("write {header}"),
            );
        }
        nothing()
    }

    /// The tables `[[name]]`.
    pub(crate) fn tables<'r>(&'r self, root: &'r toml_edit::Table, name: &str) -> Vec<Table<'r>> {
        let Some(item) = root.get(name) else {
            return Vec::new();
        };
        self.list(item, section(name), name)
    }

    fn list<'r>(
        &'r self,
        item: &'r Item,
        section: &'static Section,
        label: &str,
    ) -> Vec<Table<'r>> {
        if let Some(tables) = item.as_array_of_tables() {
            return tables
                .iter()
                .map(|table| Table::new(self, section, table, table.span().unwrap_or(0..0)))
                .collect();
        }
        let remedy = if label.contains('.') {
            "write a list of tables: [{ … }]".to_owned()
        } else {
            format!("write {}", section.header)
        };
        let refuse = |range, found| {
            self.error(
                Some(range),
                format!("`{label}` is a list of tables, not {}", with_article(found)),
                &remedy,
            );
        };
        let Some(array) = item.as_array() else {
            refuse(item_range(item), item.type_name());
            return Vec::new();
        };
        let mut tables = Vec::new();
        for value in array {
            let range = value.span().unwrap_or(0..0);
            match value.as_inline_table() {
                Some(items) => tables.push(Table::new(self, section, items, range)),
                None => refuse(range, value.type_name()),
            }
        }
        tables
    }

    /// Refuses tables that nobody reads.
    pub(crate) fn check_top(&self, root: &toml_edit::Table) {
        for (name, item) in root.iter() {
            let known = SECTIONS
                .iter()
                .map(|section| section.name)
                .filter(|name| !name.contains('.'));
            if known.clone().any(|known| known == name) {
                continue;
            }
            let range = root
                .key(name)
                .and_then(|key| key.span())
                .unwrap_or_else(|| item_range(item));
            if SECTIONS_ABSENT.contains(&name) {
                self.absent(range, &format!("`{name}`"));
                continue;
            }
            let remedy = nearest(name, known.clone()).map_or_else(
                || format!("the tables are {}", known.collect::<Vec<_>>().join(", ")),
                |near| format!("did you mean `{near}`?"),
            );
            self.error(Some(range), format!("unknown table `{name}`"), remedy);
        }
    }

    fn absent(&self, range: Range<usize>, label: &str) {
        self.error(
            Some(range),
            format!("{label} does not exist in this version"),
            "remove it; docs/settings.md lists every key that exists",
        );
    }
}

/// One table of the file and what may stand in it.
#[derive(Clone)]
pub(crate) struct Table<'r> {
    reader: &'r Reader<'r>,
    section: &'static Section,
    items: &'r dyn TableLike,
    range: Range<usize>,
}

impl<'r> Table<'r> {
    /// Keys that do not exist are refused here.
    fn new(
        reader: &'r Reader<'r>,
        section: &'static Section,
        items: &'r dyn TableLike,
        range: Range<usize>,
    ) -> Self {
        let table = Self {
            reader,
            section,
            items,
            range,
        };
        for (name, _) in items.iter() {
            if section.key(name).is_some() {
                continue;
            }
            let label = format!("`{}.{name}`", section.name);
            let range = table.key_range(name);
            if section.absent.contains(&name) {
                reader.absent(range, &label);
                continue;
            }
            let known = section.keys.iter().map(|key| key.name);
            let remedy = nearest(name, known.clone()).map_or_else(
                || format!("the keys here are {}", known.collect::<Vec<_>>().join(", ")),
                |near| format!("did you mean `{near}`?"),
            );
            reader.error(Some(range), format!("unknown key {label}"), remedy);
        }
        table
    }

    /// Where the whole table is.
    pub(crate) fn range(&self) -> Option<Range<usize>> {
        (!self.range.is_empty()).then(|| self.range.clone())
    }

    fn key_range(&self, name: &str) -> Range<usize> {
        self.items
            .key(name)
            .and_then(|key| key.span())
            .unwrap_or_else(|| self.range.clone())
    }

    /// Where the value of a key is; the table, if the key is not there.
    pub(crate) fn value_range(&self, name: &str) -> Option<Range<usize>> {
        match self.items.get(name) {
            Some(item) => Some(item_range(item)),
            None => self.range(),
        }
    }

    /// Where the value of a key of an inner table is.
    pub(crate) fn inner_range(&self, name: &str, key: &str) -> Option<Range<usize>> {
        let inner = self.items.get(name).and_then(Item::as_table_like);
        match inner.and_then(|inner| inner.get(key)) {
            Some(item) => Some(item_range(item)),
            None => self.value_range(name),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.items.contains_key(name)
    }

    /// Says that a key of this table has a wrong value.
    pub(crate) fn error(&self, name: &str, what: impl Display, remedy: impl Display) {
        self.reader.error(
            self.value_range(name),
            format!("{} {what}", self.label(name)),
            remedy,
        );
    }

    pub(crate) fn warning(&self, name: &str, what: impl Display, remedy: impl Display) {
        self.reader.warning(
            self.value_range(name),
            format!("{} {what}", self.label(name)),
            remedy,
        );
    }

    fn label(&self, name: &str) -> String {
        format!("`{}.{name}`", self.section.name)
    }

    fn example(&self, name: &str) -> String {
        self.section.key(name).map_or_else(String::new, |key| {
            format!("write for example: {}", key.example)
        })
    }

    /// A key that must be there.
    pub(crate) fn require(&self, name: &str) {
        if !self.has(name) {
            let what = format!("{} is missing", self.label(name));
            self.reader.error(self.range(), what, self.example(name));
        }
    }

    fn value(&self, name: &str) -> Option<&'r Item> {
        debug_assert!(
            self.section.key(name).is_some(),
            "{name} is read but not in the table of keys"
        );
        self.items.get(name)
    }

    fn wrong_type(&self, name: &str, range: Range<usize>, found: &str, wanted: &str) {
        let message = format!(
            "{} must be {wanted}, not {}",
            self.label(name),
            with_article(found)
        );
        self.reader.error(Some(range), message, self.example(name));
    }

    pub(crate) fn boolean(&self, name: &str) -> Option<bool> {
        let item = self.value(name)?;
        let value = item.as_bool();
        if value.is_none() {
            self.wrong_type(name, item_range(item), item.type_name(), "true or false");
        }
        value
    }

    pub(crate) fn integer<T: TryFrom<i64> + Into<i64> + Copy>(
        &self,
        name: &str,
        from: T,
        to: T,
    ) -> Option<T> {
        let item = self.value(name)?;
        let Some(value) = item.as_integer() else {
            self.wrong_type(name, item_range(item), item.type_name(), "an integer");
            return None;
        };
        let (low, high) = (from.into(), to.into());
        if (low..=high).contains(&value) {
            return T::try_from(value).ok();
        }
        self.error(
            name,
            format!("must be {low} to {high}, not {value}"),
            format!("choose a number from {low} to {high}"),
        );
        None
    }

    /// A text that `parse` turns into a value.
    pub(crate) fn text<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let item = self.value(name)?;
        let Some(text) = item.as_str() else {
            self.wrong_type(name, item_range(item), item.type_name(), "a string");
            return None;
        };
        self.parsed(name, text, item_range(item), parse)
    }

    fn parsed<T>(
        &self,
        name: &str,
        text: &str,
        range: Range<usize>,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let wrong = match parse(text) {
            Ok(value) => return Some(value),
            Err(wrong) => wrong,
        };
        let range = wrong
            .at
            .and_then(|at| self.within(text, &range, at))
            .unwrap_or(range);
        self.reader.error(
            Some(range),
            format!("{} {}", self.label(name), wrong.what),
            wrong.remedy,
        );
        None
    }

    /// Where a part of a string is in the file, if the string stands there as it is, without escapes.
    fn within(&self, text: &str, range: &Range<usize>, at: Range<usize>) -> Option<Range<usize>> {
        let start = range.start + self.reader.text.get(range.clone())?.find(text)?;
        (!text.is_empty()).then(|| start + at.start..start + at.end)
    }

    /// One of several words.
    pub(crate) fn choice<T: Copy>(
        &self,
        name: &str,
        words: &[(&str, T)],
        absent: &[&str],
    ) -> Option<T> {
        self.text(name, |text| one_of(text, words, absent))
    }

    /// A list whose elements are words.
    pub(crate) fn choices<T: Copy>(
        &self,
        name: &str,
        words: &[(&str, T)],
        absent: &[&str],
    ) -> Option<Vec<T>> {
        let item = self.value(name)?;
        let Some(array) = item.as_array() else {
            self.wrong_type(name, item_range(item), item.type_name(), "a list");
            return None;
        };
        let mut list = Vec::new();
        for value in array {
            let range = value.span().unwrap_or(0..0);
            match value.as_str() {
                Some(text) => {
                    list.extend(self.parsed(name, text, range, |text| one_of(text, words, absent)))
                }
                None => self.wrong_type(name, range, value.type_name(), "a list of strings"),
            }
        }
        Some(list)
    }

    /// A list whose elements are strings, each read by `parse`.
    pub(crate) fn texts<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Vec<T>> {
        let item = self.value(name)?;
        let Some(array) = item.as_array() else {
            self.wrong_type(name, item_range(item), item.type_name(), "a list");
            return None;
        };
        let mut list = Vec::new();
        for value in array {
            let range = value.span().unwrap_or(0..0);
            match value.as_str() {
                Some(text) => list.extend(self.parsed(name, text, range, &parse)),
                None => self.wrong_type(name, range, value.type_name(), "a list of strings"),
            }
        }
        Some(list)
    }

    /// A list of integers, or what is not a list.
    pub(crate) fn integers(&self, name: &str, from: u16, to: u16) -> Option<Vec<u16>> {
        let array = self.value(name)?.as_array()?;
        let mut list = Vec::new();
        for value in array {
            let range = value.span().unwrap_or(0..0);
            match value {
                Value::Integer(number) => match u16::try_from(*number.value()) {
                    Ok(number) if (from..=to).contains(&number) => list.push(number),
                    _ => self.reader.error(
                        Some(range),
                        format!("{} must have numbers from {from} to {to}", self.label(name)),
                        self.example(name),
                    ),
                },
                _ => self.wrong_type(name, range, value.type_name(), "a list of integers"),
            }
        }
        Some(list)
    }

    pub(crate) fn is_list(&self, name: &str) -> bool {
        self.value(name).is_some_and(Item::is_array)
    }

    pub(crate) fn is_boolean(&self, name: &str) -> bool {
        self.value(name)
            .is_some_and(|item| item.as_bool().is_some())
    }

    pub(crate) fn is_empty_list(&self, name: &str) -> bool {
        self.value(name)
            .and_then(Item::as_array)
            .is_some_and(|array| array.is_empty())
    }

    /// A table inside this one; `section` is its name in the table of keys.
    pub(crate) fn inner(&self, name: &str, inner: &str) -> Option<Table<'r>> {
        let item = self.value(name)?;
        match item.as_table_like() {
            Some(items) => Some(Table::new(
                self.reader,
                section(inner),
                items,
                item_range(item),
            )),
            None => {
                self.wrong_type(name, item_range(item), item.type_name(), "a table");
                None
            }
        }
    }

    /// A list of tables inside this one.
    pub(crate) fn inner_list(&self, name: &str, inner: &str) -> Vec<Table<'r>> {
        let Some(item) = self.value(name) else {
            return Vec::new();
        };
        self.reader.list(
            item,
            section(inner),
            &format!("{}.{name}", self.section.name),
        )
    }
}

fn one_of<T: Copy>(text: &str, words: &[(&str, T)], absent: &[&str]) -> Result<T, Wrong> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let all = words
        .iter()
        .map(|(word, _)| format!("{word:?}"))
        .collect::<Vec<_>>()
        .join(" or ");
    if absent.contains(&text) {
        return crate::value::wrong(
            format!("has a value {text:?} that does not exist in this version"),
            format!("write {all}"),
        );
    }
    let remedy = match nearest(text, words.iter().map(|(word, _)| *word)) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("write {all}"),
    };
    crate::value::wrong(format!("has an unknown value {text:?}"), remedy)
}

/// The name that somebody may have meant.
pub(crate) fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let lower = name.to_lowercase().replace('-', "_");
    known
        .map(|known| {
            (
                strsim::damerau_levenshtein(&lower, &known.to_lowercase().replace('-', "_")),
                known,
            )
        })
        .filter(|(distance, known)| *distance <= 2.min(known.len() / 2))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

fn item_range(item: &Item) -> Range<usize> {
    item.span().unwrap_or(0..0)
}

fn with_article(type_name: &str) -> String {
    match type_name {
        "array" => "a list".to_owned(),
        "array of tables" => "a list of tables".to_owned(),
        "inline table" => "a table".to_owned(),
        "integer" => "an integer".to_owned(),
        other => format!("a {other}"),
    }
}
