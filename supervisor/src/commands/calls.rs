//! `tandem calls`: a worker answers, since the supervisor reads no table.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use control::{CallEventLine, CallFilter, CallLine, ClientReply, ClientRequest, TableRequest};

use super::client::{Answers, Failure, ask_worker};
use super::{FAILED, NO_SERVER, show};
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
        Calls::Follow { limit, json } => follow(control, *limit, json.json),
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

/// Until somebody ends it, or so many lines were written. The worker that tells may die: another one goes on, from what is on record then.
fn follow(control: &Path, limit: Option<u64>, json: bool) -> Result<(), Failure> {
    const PAUSE: Duration = Duration::from_millis(100);
    let mut left = limit.unwrap_or(u64::MAX);
    loop {
        let request = ClientRequest::Table(TableRequest::CallsFollow);
        let mut answers = Answers::ask(control, &request)?;
        loop {
            if left == 0 {
                return Ok(());
            }
            match answers.next() {
                Ok(Some(ClientReply::CallEvent(Some(line)))) => {
                    left -= 1;
                    event(&line, json);
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(failure) if failure.code == NO_SERVER => break,
                Err(failure) => return Err(failure),
            }
        }
        std::thread::sleep(PAUSE);
    }
}

fn event(line: &CallEventLine, json: bool) {
    if json {
        show::out(&serde_json::json!(line).to_string());
        return;
    }
    let of_day = line.unix_ms / 1000 % 86_400;
    let (h, m, s) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let mut text = format!(
        "{h:02}:{m:02}:{s:02}.{:03}Z {:<9} {}",
        line.unix_ms % 1000,
        line.event,
        line.id.as_deref().unwrap_or("-")
    );
    if let Some(cause) = &line.cause {
        text += &format!(" {cause}");
    }
    if let Some(code) = line.code.filter(|code| *code != 0) {
        text += &format!(" {code}");
    }
    show::out(&text);
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
