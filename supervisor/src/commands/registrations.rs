//! `tandem registrations`: a worker answers, since the supervisor reads no table.

use std::path::Path;
use std::process::ExitCode;

use control::{ClientReply, ClientRequest, ContactLine, RegistrationLine, TableRequest};

use super::client::{Failure, ask_worker};
use super::{FAILED, show};
use crate::cli::Registrations;

pub(crate) fn registrations(control: &Path, command: &Registrations) -> ExitCode {
    super::finish(match command {
        Registrations::List {
            domain,
            limit,
            json,
        } => {
            let request = TableRequest::RegistrationsList {
                domain: domain.clone(),
                limit: *limit,
            };
            ask(control, request).map(|lines| {
                if json.json {
                    show::json(&lines)
                } else {
                    list(&lines)
                }
            })
        }
        Registrations::Show { aor, json } => {
            let request = TableRequest::RegistrationsShow { aor: aor.clone() };
            ask(control, request)
                .and_then(|lines| one(aor, lines))
                .map(|line| {
                    if json.json {
                        show::json(&line)
                    } else {
                        list(&[line])
                    }
                })
        }
        Registrations::Remove { aor, contact, json } => {
            let request = TableRequest::RegistrationsRemove {
                aor: aor.clone(),
                contact: contact.clone(),
            };
            ask(control, request).map(|lines| removed(&lines, json.json))
        }
    })
}

fn ask(control: &Path, request: TableRequest) -> Result<Vec<RegistrationLine>, Failure> {
    let replies = ask_worker(control, &ClientRequest::Table(request))?;
    Ok(replies
        .into_iter()
        .filter_map(|reply| match reply {
            ClientReply::Registration(line) => Some(line),
            _ => None,
        })
        .collect())
}

fn one(aor: &str, lines: Vec<RegistrationLine>) -> Result<RegistrationLine, Failure> {
    lines.into_iter().next().ok_or_else(|| Failure {
        code: FAILED,
        message: format!("{aor} is not registered"),
        remedy: "`tandem registrations list` shows who is".into(),
    })
}

fn list(lines: &[RegistrationLine]) {
    let rows = lines
        .iter()
        .flat_map(|line| line.contacts.iter().map(|contact| row(&line.aor, contact)));
    show::table(
        &[
            "ADDRESS-OF-RECORD",
            "CONTACT",
            "Q>",
            "EXPIRES>",
            "FROM",
            "USER AGENT",
        ],
        rows.collect(),
    );
    let contacts: usize = lines.iter().map(|line| line.contacts.len()).sum();
    show::out(&format!(
        "\n{}, {}",
        show::count(lines.len(), "address-of-record", "addresses-of-record"),
        show::count(contacts, "contact", "contacts"),
    ));
}

fn row(aor: &str, contact: &ContactLine) -> Vec<String> {
    vec![
        aor.to_owned(),
        contact.uri.clone(),
        format!("{}.{:03}", contact.q / 1000, contact.q % 1000),
        show::span(contact.expires_s.saturating_mul(1000)),
        show::or_dash(contact.received.as_ref()),
        show::or_dash(contact.user_agent.as_ref()),
    ]
}

fn removed(lines: &[RegistrationLine], json: bool) {
    let contacts: usize = lines.iter().map(|line| line.contacts.len()).sum();
    if json {
        show::json(&serde_json::json!({ "removed": contacts, "registrations": lines }));
    } else {
        let contacts = show::count(contacts, "contact", "contacts");
        show::out(&format!("{contacts} removed"));
    }
}
