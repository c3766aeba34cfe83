//! `tandem audit`: is the shared memory in order?

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use control::{AuditReport, ClientReply, ClientRequest, TableRequest};

use super::client::{Failure, ask_worker};
use super::{FAILED, show};

/// Only what every look finds is wrong: operations leave things in between for a moment, and what waits for its grace period goes
/// with the housekeeping of the slots, four times a second.
const LOOKS: u32 = 4;
const BETWEEN: Duration = Duration::from_millis(500);

pub(crate) fn audit(control: &Path, json: bool) -> ExitCode {
    match looks(control) {
        Ok(report) => {
            if json {
                show::json(&report);
            } else {
                print(&report);
            }
            if report.violations.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(FAILED)
            }
        }
        Err(failure) => super::finish(Err(failure)),
    }
}

fn looks(control: &Path) -> Result<AuditReport, Failure> {
    let mut report = look(control)?;
    for _ in 1..LOOKS {
        std::thread::sleep(BETWEEN);
        let next = look(control)?;
        report
            .violations
            .retain(|line| next.violations.contains(line));
        report
            .unsettled
            .retain(|line| next.unsettled.contains(line));
        report.records = next.records;
        report.bytes_used = next.bytes_used;
    }
    Ok(report)
}

fn look(control: &Path) -> Result<AuditReport, Failure> {
    let replies = ask_worker(control, &ClientRequest::Table(TableRequest::Audit))?;
    let found = replies.into_iter().find_map(|reply| match reply {
        ClientReply::Audit(report) => Some(report),
        _ => None,
    });
    Ok(found.unwrap_or_default())
}

fn print(report: &AuditReport) {
    let rows = report.records.iter();
    show::table(
        &["TABLE", "RECORDS>"],
        rows.map(|(name, records)| vec![name.clone(), records.to_string()])
            .collect(),
    );
    show::out("");
    for line in report.violations.iter().chain(&report.unsettled) {
        show::out(line);
    }
    show::out(&format!(
        "{}, {} in between",
        show::count(
            report.violations.len() as u64,
            "broken invariant",
            "broken invariants"
        ),
        report.unsettled.len()
    ));
}
