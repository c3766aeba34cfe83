//! `[[prefix_table]]`: where numbers go by how they begin. The rules are in a file of their own; what is here is how it is used.

use serde::{Deserialize, Serialize};

use crate::{
    keys::{Effect::Reload, Key, Section},
    model::Target,
    parse::Draft,
    reader::Table,
    value::{self, Wrong, wrong},
};

/// Tables of one configuration.
const TABLES_MAX: usize = 64;
/// Beginnings that a table removes.
const REMOVE_MAX: usize = 8;

/// `[[prefix_table]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixTable {
    pub name: String,
    /// As it is written; from the directory of the configuration, if it is no whole path.
    pub file: String,
    /// Beginnings that numbers are looked up without.
    pub remove: Vec<String>,
    /// Where all groups of a rule fail, those of the next rule are tried.
    pub fallback: bool,
    /// Not of the file: which compiled image of its rules workers use; 0: none.
    pub image: u64,
    /// Not of the file: what the file of its rules was when that was compiled; by it is seen whether it has changed.
    pub stamp: [u64; 4],
}

pub(crate) const PREFIX_TABLE: Section = Section {
    name: "prefix_table",
    header: "[[prefix_table]]",
    doc: "A table that leads numbers to groups by their longest prefix. A route uses it with `to = \"prefix:NAME\"`; docs/prefix-routing.md tells how the file of its rules looks. A number that no rule is for goes on to the next `[[route]]`.",
    keys: &[
        Key {
            name: "name",
            value: "letters, digits, `-`, `_` and `.`",
            default: "required",
            effect: Reload,
            doc: "The name that routes use.",
            example: r#"name = "carriers""#,
        },
        Key {
            name: "file",
            value: "path",
            default: "required",
            effect: Reload,
            doc: "CSV file of the rules; a relative path is meant from the directory of the configuration file. A reload reads it again; while it is read calls go on by the old rules, and if anything is wrong with it, they stay.",
            example: r#"file = "carriers.csv""#,
        },
        Key {
            name: "remove",
            value: "list of digits",
            default: r#"["+"]"#,
            effect: Reload,
            doc: "Beginnings that numbers, and the prefixes of the rules, are looked up without; the first that fits is removed. With `[\"+\", \"00\"]` the numbers `+4930`, `004930` and `4930` are the same.",
            example: r#"remove = ["+", "00"]"#,
        },
        Key {
            name: "fallback",
            value: "`true` or `false`",
            default: "false",
            effect: Reload,
            doc: "Whether, where no destination of a rule can take the call, those of the next rule are tried: of less priority, or of a shorter prefix.",
            example: "fallback = false",
        },
    ],
    absent: &["database", "query", "default", "weight"],
};

pub(crate) fn one(table: &Table<'_>) -> PrefixTable {
    table.require("name");
    table.require("file");
    let remove = table.texts("remove", head);
    if remove
        .as_ref()
        .is_some_and(|remove| remove.len() > REMOVE_MAX)
    {
        let what = format!("has more than {REMOVE_MAX} beginnings");
        table.error("remove", what, "leave some away");
    }
    PrefixTable {
        name: table.text("name", value::identifier).unwrap_or_default(),
        file: table.text("file", file).unwrap_or_default(),
        remove: remove.unwrap_or_else(|| vec!["+".to_owned()]),
        fallback: table.boolean("fallback").unwrap_or(false),
        image: 0,
        stamp: [0; 4],
    }
}

pub(crate) fn check(draft: &Draft<'_>, clean: bool) {
    let config = &draft.config;
    let mut seen = std::collections::HashSet::new();
    for (at, (one, table)) in config
        .prefix_tables
        .iter()
        .zip(&draft.prefix_tables)
        .enumerate()
    {
        if at == TABLES_MAX {
            let what = format!("is one of more than {TABLES_MAX} tables");
            table.error("name", what, "put the rules of several into one file");
        }
        if one.name.is_empty() {
            continue;
        }
        let used = |route: &crate::model::Route| route.to == Target::Prefix(one.name.clone());
        if !seen.insert(&one.name) {
            let what = format!("\"{}\" is there already", one.name);
            table.error("name", what, "remove one of the two [[prefix_table]]");
        } else if clean && !config.routes.iter().any(used) {
            let remedy = format!(
                "add a [[route]] with to = \"prefix:{}\", or remove the table",
                one.name
            );
            table.warning(
                "name",
                format!("\"{}\" is used by no route", one.name),
                remedy,
            );
        }
    }
}

fn file(text: &str) -> Result<String, Wrong> {
    if text.is_empty() || text.contains('\0') {
        return wrong(
            "is no path",
            "write the path of a CSV file, like carriers.csv",
        );
    }
    Ok(text.to_owned())
}

fn head(text: &str) -> Result<String, Wrong> {
    let good = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'*' | b'#');
    if text.is_empty() || text.len() > 15 || !text.bytes().all(good) {
        return wrong(
            format!("has {text:?}, which is no beginning of a number"),
            "write digits, +, * or #, like 00",
        );
    }
    Ok(text.to_owned())
}
