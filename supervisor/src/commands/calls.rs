//! `tandem calls`: a worker answers, since the supervisor reads no table.

use std::path::Path;
use std::process::ExitCode;

use control::{CallFilter, CallLine, ClientReply, ClientRequest, TableRequest};

use super::client::{Failure, ask_worker};
use super::{FAILED, show};
use crate::cli::{CallFilterArgs, Calls};

pub(crate) fn calls(control: &Path, command: &Calls) -> ExitCode {
    super::finish(match command {
        Calls::List {
            filter,
            limit,
            json,
        } => {
            let filter = CallFilter {
                limit: *limit,
                ..of(filter)
            };
            ask(control, TableRequest::Calls(filter)).map(|lines| {
                if json.json {
                    show::json(&lines);
                } else {
                    list(&lines);
                    show::out(&format!("\n{}", show::count(lines.len(), "call", "calls")));
                }
            })
        }
        Calls::Show { id, json } => named(control, id).map(|lines| {
            if json.json {
                show::json(&lines);
            } else {
                lines.iter().for_each(one);
            }
        }),
        Calls::End {
            id,
            all: _,
            filter,
            json,
        } => end(control, id.as_deref(), filter).map(|lines| {
            if json.json {
                show::json(&serde_json::json!({ "ending": lines.len(), "calls": lines }));
            } else {
                list(&lines);
                let calls = show::count(lines.len(), "call", "calls");
                show::out(&format!("\n{calls} to be ended"));
            }
        }),
    })
}

fn of(args: &CallFilterArgs) -> CallFilter {
    CallFilter {
        domain: args.domain.clone(),
        party: args.party.clone(),
        state: args.phase.clone(),
        destination: args.destination.clone(),
        address: args.address,
        longer_than_s: args.longer_than.map(|time| time.as_secs()),
        ..CallFilter::default()
    }
}

/// The call of this id, or of this Call-ID, which several dialogs may have.
fn named(control: &Path, id: &str) -> Result<Vec<CallLine>, Failure> {
    for filter in by_name(id) {
        let lines = ask(control, TableRequest::Calls(filter))?;
        if !lines.is_empty() {
            return Ok(lines);
        }
    }
    Err(Failure {
        code: FAILED,
        message: format!("there is no call {id}"),
        remedy: "`tandem calls list` shows those that there are".into(),
    })
}

fn by_name(id: &str) -> [CallFilter; 2] {
    let id = Some(id.to_owned());
    [
        CallFilter {
            id: id.clone(),
            ..CallFilter::default()
        },
        CallFilter {
            call_id: id,
            ..CallFilter::default()
        },
    ]
}

fn end(
    control: &Path,
    id: Option<&str>,
    filter: &CallFilterArgs,
) -> Result<Vec<CallLine>, Failure> {
    let Some(id) = id else {
        return ask(control, TableRequest::CallsEnd(of(filter)));
    };
    named(control, id)?;
    let mut ended = Vec::new();
    for wanted in by_name(id) {
        let filter = CallFilter {
            id: wanted.id,
            call_id: wanted.call_id,
            ..of(filter)
        };
        ended.extend(ask(control, TableRequest::CallsEnd(filter))?);
    }
    Ok(ended)
}

fn ask(control: &Path, request: TableRequest) -> Result<Vec<CallLine>, Failure> {
    let replies = ask_worker(control, &ClientRequest::Table(request))?;
    let lines = replies.into_iter().filter_map(|reply| match reply {
        ClientReply::Call(line) => Some(line),
        _ => None,
    });
    let mut lines: Vec<CallLine> = lines.collect();
    lines.sort_by_key(|line| std::cmp::Reverse(line.age_ms));
    Ok(lines)
}

fn list(lines: &[CallLine]) {
    let rows = lines.iter().map(|line| {
        vec![
            line.id.clone(),
            line.state.clone(),
            line.caller.clone(),
            line.callee.clone(),
            show::span(line.age_ms),
            line.answered_ms.map_or_else(|| "-".to_owned(), show::span),
            show::or_dash(line.caller_address.as_ref()),
            show::or_dash(line.callee_address.as_ref()),
            show::or_dash(line.destination.as_ref()),
        ]
    });
    show::table(
        &[
            "CALL",
            "STATE",
            "CALLER",
            "CALLEE",
            "AGE>",
            "ANSWERED>",
            "FROM",
            "TO",
            "DESTINATION",
        ],
        rows.collect(),
    );
}

fn one(line: &CallLine) {
    show::heading(&format!("Call {}", line.id));
    let seconds = |value: Option<u64>| {
        value.map_or_else(|| "-".to_owned(), |s| show::span(s.saturating_mul(1000)))
    };
    let rows = [
        ("Call-ID", line.call_id.clone()),
        ("state", line.state.clone()),
        ("domain", line.domain.clone()),
        ("Request-URI", line.request_uri.clone()),
        ("caller", line.caller.clone()),
        ("  tag", line.caller_tag.clone()),
        ("  Contact", show::or_dash(line.caller_contact.as_ref())),
        ("  address", show::or_dash(line.caller_address.as_ref())),
        ("  probes missed", line.caller_missed.to_string()),
        ("callee", line.callee.clone()),
        ("  tag", show::or_dash(line.callee_tag.as_ref())),
        ("  Contact", show::or_dash(line.callee_contact.as_ref())),
        ("  address", show::or_dash(line.callee_address.as_ref())),
        ("  probes missed", line.callee_missed.to_string()),
        ("destination", show::or_dash(line.destination.as_ref())),
        ("age", show::span(line.age_ms)),
        ("answered", seconds(line.answered_ms.map(|ms| ms / 1000))),
        ("session timer", seconds(line.session_s.map(u64::from))),
        ("  left", seconds(line.session_left_s)),
        ("longest duration, left", seconds(line.duration_left_s)),
        ("counted by", line.counted.join(", ")),
    ];
    let rows = rows
        .into_iter()
        .map(|(name, value)| vec![name.to_owned(), value]);
    show::table(&["", ""], rows.collect());
}
