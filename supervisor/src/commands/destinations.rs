//! `tandem destinations`: a worker answers, since the supervisor reads no table.

use std::path::Path;
use std::process::ExitCode;

use control::{ClientReply, ClientRequest, DestinationChange, DestinationLine, TableRequest};

use super::client::{Failure, ask_worker};
use super::show;
use crate::cli::{DestinationArgs, Destinations};

pub(crate) fn destinations(control: &Path, command: &Destinations) -> ExitCode {
    super::finish(match command {
        Destinations::List { group, json } => {
            let group = group.clone();
            ask(control, TableRequest::Destinations { group }).map(|lines| {
                if json.json {
                    show::json(&lines);
                } else {
                    list(&lines);
                }
            })
        }
        Destinations::Enable(to) => change(control, to, DestinationChange::Enable),
        Destinations::Disable(to) => change(control, to, DestinationChange::Disable),
        Destinations::Drain(to) => change(control, to, DestinationChange::Drain),
        Destinations::Weight { to, weight } => {
            change(control, to, DestinationChange::Weight(*weight))
        }
    })
}

fn change(control: &Path, to: &DestinationArgs, change: DestinationChange) -> Result<(), Failure> {
    let request = TableRequest::DestinationChange {
        group: to.group.clone(),
        uri: to.uri.clone(),
        change,
    };
    ask(control, request).map(|lines| {
        if to.json.json {
            show::json(&serde_json::json!({ "changed": lines.len() }));
        } else {
            list(&lines);
        }
    })
}

fn ask(control: &Path, request: TableRequest) -> Result<Vec<DestinationLine>, Failure> {
    let replies = ask_worker(control, &ClientRequest::Table(request))?;
    Ok(replies
        .into_iter()
        .filter_map(|reply| match reply {
            ClientReply::Destination(line) => Some(line),
            _ => None,
        })
        .collect())
}

fn list(lines: &[DestinationLine]) {
    let rows = lines.iter().map(row);
    show::table(
        &[
            "GROUP",
            "DESTINATION",
            "STATE",
            "CALLS>",
            "CAPACITY>",
            "WEIGHT>",
            "PRIORITY>",
            "LATENCY>",
            "REQUESTS>",
            "FAILED>",
            "NAME",
        ],
        rows.collect(),
    );
    show::out(&format!(
        "\n{}",
        show::count(lines.len(), "destination", "destinations")
    ));
}

fn row(line: &DestinationLine) -> Vec<String> {
    // What the operator wants goes before what probes say, unless that is what he has to know.
    let state = match (line.mode.as_str(), line.health.as_str()) {
        ("enabled", health) => health.to_owned(),
        (mode, "down") => format!("{mode}, down"),
        (mode, _) => mode.to_owned(),
    };
    let latency = |us: u64| format!("{}.{} ms", us / 1000, us % 1000 / 100);
    let priority = match line.srv_priority {
        Some(srv) => format!("{}/{srv}", line.priority),
        None => line.priority.to_string(),
    };
    vec![
        line.group.clone(),
        line.uri.clone(),
        state,
        line.calls.to_string(),
        show::or_dash(line.capacity.as_ref()),
        line.weight.to_string(),
        priority,
        line.latency_us.map_or_else(|| "-".to_owned(), latency),
        line.requests.to_string(),
        line.failed.to_string(),
        show::or_dash(line.name.as_ref()),
    ]
}
