//! How commands print: tables for people, colours on a terminal only, JSON for programs.

use std::io::IsTerminal as _;
use std::io::Write as _;

use anstyle::{AnsiColor, Style};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde::Serialize;

/// Writes to standard output; a reader that closed it (`| head`) ends the program quietly.
pub(crate) fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    if writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .is_err()
    {
        std::process::exit(0);
    }
}

pub(crate) fn json(value: &impl Serialize) {
    out(&serde_json::to_string_pretty(value).expect("our own plain data has a JSON form"));
}

pub(crate) fn heading(text: &str) {
    let style = on_terminal(Style::new().bold());
    out(&format!("{style}{text}{style:#}"));
}

/// Rows under headers; a header that ends in `>` is aligned to the right, without the `>`.
pub(crate) fn table(headers: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(NOTHING);
    if std::io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table.set_header(headers.iter().map(|header| header.trim_end_matches('>')));
    table.add_rows(rows);
    for (index, header) in headers.iter().enumerate() {
        if header.ends_with('>')
            && let Some(column) = table.column_mut(index)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    out(&table.trim_fmt());
}

pub(crate) fn error(message: &str, remedy: &str) {
    let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
    let style = if std::io::stderr().is_terminal() {
        red
    } else {
        Style::new()
    };
    eprintln!("{style}error{style:#}: {message}");
    if !remedy.is_empty() {
        eprintln!("  = help: {remedy}");
    }
}

fn on_terminal(style: Style) -> Style {
    if std::io::stdout().is_terminal() {
        style
    } else {
        Style::new()
    }
}

/// `3d 4h`, `5m 10s`, `12s`: the two largest units.
pub(crate) fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let first = units
        .iter()
        .position(|(unit, _)| seconds >= *unit)
        .unwrap_or(units.len() - 1);
    let mut rest = seconds;
    let mut words = Vec::new();
    for (unit, name) in units.iter().skip(first).take(2) {
        if rest / unit > 0 || words.is_empty() {
            words.push(format!("{}{name}", rest / unit));
        }
        rest %= unit;
    }
    words.join(" ")
}

/// `1 worker`, `2 workers`: the word in its two forms.
pub(crate) fn count(number: impl TryInto<u64>, one: &str, many: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Milliseconds with two decimals.
pub(crate) fn millis(ns: u64) -> String {
    format!("{}.{:02}", ns / 1_000_000, ns % 1_000_000 / 10_000)
}

pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// `[1, 2]` as `1,2`.
pub(crate) fn list(values: &[u16]) -> String {
    if values.is_empty() {
        return "-".to_owned();
    }
    values
        .iter()
        .map(u16::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        for (ms, text) in [
            (0, "0s"),
            (59_999, "59s"),
            (60_000, "1m"),
            (3_725_000, "1h 2m"),
            (90_000_000, "1d 1h"),
            (86_400_000, "1d"),
        ] {
            assert_eq!(span(ms), text);
        }
        assert_eq!(
            (millis(1_234_567), millis(999)),
            ("1.23".to_owned(), "0.00".to_owned())
        );
        assert_eq!(
            (
                count(1_u64, "call", "calls"),
                count(0_usize, "call", "calls")
            ),
            ("1 call".to_owned(), "0 calls".to_owned())
        );
        assert_eq!(
            (list(&[]), list(&[1, 2])),
            ("-".to_owned(), "1,2".to_owned())
        );
    }
}
