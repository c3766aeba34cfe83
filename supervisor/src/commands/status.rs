//! `tandem status`.

use std::path::Path;
use std::process::ExitCode;

use control::{CdrStatus, ClientReply, ClientRequest, SnapshotStatus, StatusReport};

use super::client::{Answers, Failure};
use super::show;
use crate::size::size;

pub(crate) fn status(control: &Path, json: bool) -> ExitCode {
    super::finish(fetch(control).map(|report| {
        if json {
            show::json(&report)
        } else {
            print(&report)
        }
    }))
}

fn fetch(control: &Path) -> Result<StatusReport, Failure> {
    let mut answers = Answers::ask(control, &ClientRequest::Status)?;
    let mut report = StatusReport::default();
    while let Some(reply) = answers.next()? {
        if let ClientReply::Status(status) = reply {
            report = status;
        }
    }
    Ok(report)
}

fn snapshot(status: &SnapshotStatus) -> String {
    let Some(period) = status.period_ms else {
        return "off".to_owned();
    };
    let mut text = match status.age_ms {
        Some(age) => format!("as of {} ago", show::span(age)),
        None => "none yet".to_owned(),
    };
    if status.bytes > 0 {
        text += &format!(
            ", {}, {} in {} ms",
            show::count(status.records, "record", "records"),
            size(status.bytes),
            status.took_ms
        );
    }
    if status.failures > 0 {
        text += &format!(
            "; the last {} failed, see the log",
            show::count(status.failures, "attempt", "attempts")
        );
    }
    text + &format!("; every {}", show::span(period))
}

fn records(status: &CdrStatus) -> String {
    let Some(path) = &status.path else {
        return "off".to_owned();
    };
    let mut text = format!(
        "{} written to {path}, {} waiting",
        status.written, status.waiting
    );
    if status.lost > 0 {
        text += &format!(", {} lost", status.lost);
    }
    if status.failures > 0 {
        text += &format!(
            "; {} failed, see the log",
            show::count(status.failures, "attempt", "attempts")
        );
    }
    text
}

fn print(report: &StatusReport) {
    show::heading(&format!(
        "Tandem {}, supervisor {}, up {}, {} sockets, configuration {}",
        report.version,
        report.supervisor.pid,
        show::span(report.uptime_ms),
        report.driver,
        report.config_version,
    ));
    show::out(&format!(
        "{}, {}, {:.0} messages/s",
        show::count(report.registrations, "registration", "registrations"),
        show::count(report.transactions, "transaction", "transactions"),
        report.rates.messages_per_s
    ));
    show::out(&format!(
        "arena: {} used, {} mapped, limit {}; pages: {}, {} in huge ones",
        size(report.arena.bytes_used),
        size(report.arena.bytes_mapped),
        size(report.arena.limit),
        report.arena.pages,
        size(report.arena.bytes_huge)
    ));
    show::out(&format!("snapshot: {}", snapshot(&report.snapshot)));
    show::out(&format!("records of calls: {}\n", records(&report.cdr)));
    let listeners = report.listeners.iter().map(|listener| {
        vec![
            listener.address.clone(),
            listener.transports.join(","),
            listener.spread.clone(),
        ]
    });
    show::table(&["LISTENER", "TRANSPORTS", "SPREAD"], listeners.collect());
    show::out("");
    let workers = report.workers.iter().map(|worker| {
        vec![
            show::or_dash(worker.id),
            worker.pid.to_string(),
            worker.role.name().to_owned(),
            show::list(&worker.slots),
            show::span(worker.uptime_ms),
            worker.restarts.to_string(),
            show::or_dash(worker.last_exit.as_ref()),
        ]
    });
    show::table(
        &[
            "WORKER",
            "PID",
            "ROLE",
            "SLOTS",
            "UP",
            "RESTARTS>",
            "LAST EXIT",
        ],
        workers.collect(),
    );
    show::out("");
    let slots = report.slots.iter().map(|slot| {
        let recovery = slot
            .recovered_ns
            .zip(slot.died_ns)
            .and_then(|(recovered, died)| recovered.checked_sub(died));
        vec![
            slot.id.to_string(),
            show::or_dash(slot.worker),
            show::or_dash(slot.core),
            slot.messages.to_string(),
            show::or_dash(recovery.map(show::millis)),
            show::or_dash(slot.takeover_ns().map(show::millis)),
            slot.latency.p50_us.to_string(),
            slot.latency.p99_us.to_string(),
        ]
    });
    show::table(
        &[
            "SLOT>",
            "WORKER>",
            "CORE>",
            "MESSAGES>",
            "RECOVERED ms>",
            "FIRST SERVED ms>",
            "P50 us>",
            "P99 us>",
        ],
        slots.collect(),
    );
    show::out("");
    let tables = report.arena.tables.iter().filter(|table| table.bytes > 0);
    let tables = tables.map(|table| {
        vec![
            table.name.clone(),
            table.records.to_string(),
            size(table.bytes),
        ]
    });
    show::table(&["TABLE", "RECORDS>", "MEMORY>"], tables.collect());
}
