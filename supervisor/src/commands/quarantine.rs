//! `tandem quarantine`: messages that workers died of. A worker answers, since the supervisor reads no table.

use std::path::Path;
use std::process::ExitCode;

use control::{ClientReply, ClientRequest, QuarantineLine, TableRequest};

use super::client::{Failure, ask_worker};
use super::{FAILED, show};
use crate::cli::Quarantine;

pub(crate) fn quarantine(control: &Path, command: &Quarantine) -> ExitCode {
    super::finish(match command {
        Quarantine::List { json } => ask(control, TableRequest::QuarantineList)
            .map(|lines| print(&lines, json.json, || list(&lines))),
        Quarantine::Show { id, json } => {
            let request = TableRequest::QuarantineShow { id: id.clone() };
            ask(control, request)
                .and_then(|lines| some(id, lines))
                .map(|lines| print(&lines.first(), json.json, || one(&lines)))
        }
        Quarantine::Clear { id, json } => {
            let request = TableRequest::QuarantineClear { id: id.clone() };
            ask(control, request)
                .and_then(|lines| match id {
                    Some(id) => some(id, lines),
                    None => Ok(lines),
                })
                .map(|lines| {
                    let cleared = serde_json::json!({ "cleared": lines.len() });
                    let count = show::count(lines.len(), "message", "messages");
                    print(&cleared, json.json, || {
                        show::out(&format!("{count} will be served again"));
                    });
                })
        }
    })
}

fn print(value: &impl serde::Serialize, json: bool, plain: impl FnOnce()) {
    if json { show::json(value) } else { plain() }
}

fn ask(control: &Path, request: TableRequest) -> Result<Vec<QuarantineLine>, Failure> {
    let replies = ask_worker(control, &ClientRequest::Table(request))?;
    Ok(replies
        .into_iter()
        .filter_map(|reply| match reply {
            ClientReply::Quarantine(line) => Some(line),
            _ => None,
        })
        .collect())
}

fn some(id: &str, lines: Vec<QuarantineLine>) -> Result<Vec<QuarantineLine>, Failure> {
    if lines.is_empty() {
        return Err(Failure {
            code: FAILED,
            message: format!("no worker died of a message {id}, or it is forgotten"),
            remedy: "`tandem quarantine list` shows them".into(),
        });
    }
    Ok(lines)
}

fn list(lines: &[QuarantineLine]) {
    let rows = lines.iter().map(|line| {
        vec![
            line.id.clone(),
            state(line).to_owned(),
            show::or_dash(line.source.as_ref()),
            line.deaths.to_string(),
            line.dropped.to_string(),
            ago(line.last_unix_ms),
            show::span(line.expires_s.saturating_mul(1000)),
            printable(line.message.lines().next().unwrap_or_default()),
        ]
    });
    show::table(
        &[
            "ID",
            "STATE",
            "FROM",
            "DEATHS>",
            "DROPPED>",
            "LAST",
            "FORGOTTEN IN",
            "FIRST LINE",
        ],
        rows.collect(),
    );
    show::out(&format!(
        "\n{}",
        show::count(lines.len(), "message", "messages")
    ));
}

fn one(lines: &[QuarantineLine]) {
    for line in lines {
        show::out(&format!(
            "{}: {}\nfrom {}, received on {}\n{} died of it, first {}, last seen {}; dropped {} times; forgotten in {}\n\n{}",
            line.id,
            state(line),
            show::or_dash(line.source.as_ref()),
            show::or_dash(line.received_on.as_ref()),
            show::count(line.deaths as usize, "worker", "workers"),
            ago(line.first_unix_ms),
            ago(line.last_unix_ms),
            line.dropped,
            show::span(line.expires_s.saturating_mul(1000)),
            printable(&line.message),
        ));
    }
}

/// A stranger wrote it: a terminal must not act on it.
fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control() || *c == '\n')
        .collect()
}

fn state(line: &QuarantineLine) -> &'static str {
    if line.dropping { "dropped" } else { "suspect" }
}

fn ago(unix_ms: u64) -> String {
    let now = u64::try_from(os::unix_now().as_millis()).unwrap_or(u64::MAX);
    format!("{} ago", show::span(now.saturating_sub(unix_ms)))
}
