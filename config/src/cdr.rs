//! `[cdr]`: records of calls.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    keys::{Effect::Reload, Key, Section},
    parse::Draft,
    reader::{Table, nearest},
    value::{self, Wrong, wrong},
};

/// Names of the fields that a record can have. The crate `cdr` writes them.
pub const CDR_FIELDS: [&str; 17] = [
    "id",
    "call_id",
    "caller_tag",
    "callee_tag",
    "from",
    "to",
    "request_uri",
    "domain",
    "source",
    "target",
    "destination",
    "start",
    "answer",
    "end",
    "duration",
    "cause",
    "code",
];

/// `[cdr]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    /// `None`: no records are made.
    pub path: Option<String>,
    pub format: RecordFormat,
    /// Of [`CDR_FIELDS`], in this order; empty: all.
    pub fields: Vec<String>,
    /// Calls that nobody answered have records too.
    pub failed_calls: bool,
    pub rotate_size: Option<u64>,
    pub rotate_every: Option<Duration>,
    /// Records that wait in memory, at most.
    pub waiting_max: u32,
}

/// How records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordFormat {
    Csv,
    Json,
}

impl Default for Records {
    fn default() -> Self {
        Self {
            path: None,
            format: RecordFormat::Csv,
            fields: Vec::new(),
            failed_calls: true,
            rotate_size: None,
            rotate_every: None,
            waiting_max: WAITING_MAX,
        }
    }
}

const WAITING_MAX: u32 = 50_000;
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

pub(crate) const CDR: Section = Section {
    name: "cdr",
    header: "[cdr]",
    doc: "Records of calls (call detail records): a line of a file for each call that is over, written once whatever dies. docs/cdr.md tells how.",
    keys: &[
        Key {
            name: "path",
            value: "absolute path, or `\"none\"`",
            default: r#""none""#,
            effect: Reload,
            doc: "The file that records are appended to. The account of `workers.user` has to be able to write it and to make files beside it: `PATH.lock`, and those that are put aside. Without a path no records are made.",
            example: r#"path = "/var/log/tandem/calls.csv""#,
        },
        Key {
            name: "format",
            value: "`\"csv\"` or `\"json\"`",
            default: r#""csv""#,
            effect: Reload,
            doc: "`csv`: RFC 4180, with the names of the fields in the first line. `json`: an object in each line. A file in another format, or with other fields, is put aside.",
            example: r#"format = "csv""#,
        },
        Key {
            name: "fields",
            value: "list of names of fields",
            default: "all, in the order of docs/cdr.md",
            effect: Reload,
            doc: "Which fields a record has, in this order. `id` comes first in any case.",
            example: r#"fields = ["from", "to", "start", "duration", "cause"]"#,
        },
        Key {
            name: "failed_calls",
            value: "`true` or `false`",
            default: "true",
            effect: Reload,
            doc: "Whether calls that nobody answered have records too: busy, cancelled, unreachable.",
            example: "failed_calls = true",
        },
        Key {
            name: "rotate_size",
            value: "size, 64KiB to 1024GiB, or `\"none\"`",
            default: r#""none""#,
            effect: Reload,
            doc: "The file is put aside once it is as large as this, as `PATH.20261123T021500Z`, and a new one is begun. It may be a few hundred kilobytes larger then.",
            example: r#"rotate_size = "256MiB""#,
        },
        Key {
            name: "rotate_every",
            value: "duration, 1s to 7d, or `\"none\"`",
            default: r#""none""#,
            effect: Reload,
            doc: "The file is put aside whenever a stretch of time as long as this is over, counted from 1970 in UTC: `1h` is at each full hour, `1d` at midnight. A file that somebody else moves away is followed by a new one at once, so that logrotate needs no signal.",
            example: r#"rotate_every = "1d""#,
        },
        Key {
            name: "waiting_max",
            value: "integer, 1000 to 10000000",
            default: "50000",
            effect: Reload,
            doc: "Records that may wait in memory, of some 700 bytes each, while the file can't be written. Calls that end beyond that go unrecorded, are counted in `cdr.lost` and reported.",
            example: "waiting_max = 50000",
        },
    ],
    absent: &["table", "url", "events", "early_media", "extra"],
};

pub(crate) fn read(table: &Table<'_>) -> Records {
    let default = Records::default();
    let formats = [("csv", RecordFormat::Csv), ("json", RecordFormat::Json)];
    let path = table.text("path", value::path_or_none).flatten();
    if path.as_deref().is_some_and(|path| path.ends_with('/')) {
        table.error("path", "names a folder", "add the name of a file");
    }
    let records = Records {
        path,
        format: table
            .choice("format", &formats, &[])
            .unwrap_or(default.format),
        fields: table.texts("fields", field).unwrap_or_default(),
        failed_calls: table
            .boolean("failed_calls")
            .unwrap_or(default.failed_calls),
        rotate_size: table
            .text("rotate_size", |text| {
                or_none(text, |text| value::size(text, 64 << 10..=1 << 40))
            })
            .flatten(),
        rotate_every: table
            .text("rotate_every", |text| {
                or_none(text, |text| value::duration(text, SECOND..=7 * DAY))
            })
            .flatten(),
        waiting_max: table
            .integer("waiting_max", 1000u32, 10_000_000)
            .unwrap_or(default.waiting_max),
    };
    if records.path.is_none() && !table.has("path") {
        for key in CDR.keys.iter().filter(|key| key.name != "path") {
            if table.has(key.name) {
                table.warning(
                    key.name,
                    "has no effect: no records are made without a path",
                    "write for example: path = \"/var/log/tandem/calls.csv\"",
                );
            }
        }
    }
    records
}

/// Calls that would have no record although records are wanted.
pub(crate) fn check(draft: &Draft<'_>) {
    let config = &draft.config;
    if config.records.path.is_none() {
        return;
    }
    if !config.calls.record {
        draft.records.warning(
            "path",
            "has no effect: `calls.record` is false, so no call is known when it ends",
            "set calls.record = true, or remove the path",
        );
        return;
    }
    for (table, domain) in draft.domains.iter().zip(&config.domains) {
        if !domain.record_route {
            table.warning(
                "record_route",
                "leaves the calls of this domain out of `cdr.path`: their ends do not pass here",
                "set record_route = true, or mind that they are missing",
            );
        }
    }
}

fn or_none<T>(
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, Wrong>,
) -> Result<Option<T>, Wrong> {
    match text {
        "none" => Ok(None),
        text => parse(text).map(Some),
    }
}

fn field(text: &str) -> Result<String, Wrong> {
    if CDR_FIELDS.contains(&text) {
        return Ok(text.to_owned());
    }
    wrong(
        "is no field of a record",
        match nearest(text, CDR_FIELDS.into_iter()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("the fields are {}", CDR_FIELDS.join(", ")),
        },
    )
}
