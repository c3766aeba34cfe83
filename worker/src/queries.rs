//! Table commands of the command line, answered on the client's own connection.

use std::{
    fs::File,
    io::{BufWriter, Write},
    os::fd::OwnedFd,
};

use config::Config;
use control::{
    AuditReport, ClientReply, ContactLine, QuarantineLine, RegistrationLine, TableRequest,
    write_message,
};
use registrar::{BindingSet, BindingView, BindingsView};
use shm::Participant;
use sip::uri::{Aor, Uri};
use stdx::Instant;
use tables::quarantine::CaseId;

use tables::{LOCATION, Location, Quarantine, UpdateError};

use crate::{call_lines, destinations, explain, follow, numbers::Tables};

/// Rows looked at between two announcements of quiescence, so that a long list holds nothing up.
pub(crate) const CHUNK: usize = 1024;

/// Answers one request; a client that goes away ends it.
pub(crate) fn answer(
    participant: &mut Participant,
    (config, tables): (&Config, &Tables),
    request: &TableRequest,
    connection: OwnedFd,
) {
    if matches!(request, TableRequest::CallsFollow) {
        return follow_calls(participant, connection);
    }
    let mut out = BufWriter::new(File::from(connection));
    participant.online();
    let done = match request {
        TableRequest::RegistrationsList { domain, limit } => {
            list(participant, domain.as_deref(), *limit, &mut out)
        }
        TableRequest::RegistrationsShow { aor } => show(participant, aor, &mut out),
        TableRequest::RegistrationsRemove { aor, contact } => {
            remove(participant, aor, contact.as_deref(), &mut out)
        }
        TableRequest::Audit => audit(participant, &mut out),
        TableRequest::QuarantineList => cases(participant, None, false, &mut out),
        TableRequest::QuarantineShow { id } => cases(participant, Some(id), false, &mut out),
        TableRequest::QuarantineClear { id } => cases(participant, id.as_deref(), true, &mut out),
        TableRequest::Calls(filter) => call_lines::list(participant, filter, &mut out),
        // Of those that end, which this is not.
        TableRequest::CallsFollow => Ok(()),
        TableRequest::CallsEnd(filter) => call_lines::end(participant, filter, &mut out),
        TableRequest::Destinations { group } => {
            destinations::list(participant, config, group.as_deref(), &mut out)
        }
        TableRequest::DestinationChange { group, uri, change } => {
            destinations::change(participant, config, (group, uri), *change, &mut out)
        }
        TableRequest::RouteTest(test) => explain::explain(config, tables, test)
            .map_err(|message| failed(message, "write URIs like sip:+4930123@example.com"))
            .and_then(|report| say(&mut out, &ClientReply::RouteTest(report))),
    };
    participant.offline();
    let last = match done {
        Ok(()) => ClientReply::Done,
        Err(Failure { message, remedy }) => ClientReply::Error { message, remedy },
    };
    // A client that does not read its answer has gone.
    let _ = write_message(&mut out, &last);
    let _ = out.flush();
}

/// What is on record, and then whatever happens, by a thread of its own.
fn follow_calls(participant: &mut Participant, connection: OwnedFd) {
    let mut out = BufWriter::new(File::from(connection));
    // Before the look at the table, so that nothing falls between them.
    let follower = shm::Follower::new(participant.arena());
    let place = follow::Place::take().ok_or_else(|| {
        failed(
            "too many follow calls already",
            "end one of the other `tandem calls follow`",
        )
    });
    participant.online();
    let told = call_lines::on_record(participant, &mut out);
    participant.offline();
    let begun = told.and(place).and_then(|place| {
        let gone = |_| failed("the client is gone", "");
        let file = out.get_ref().try_clone().map_err(gone)?;
        out.flush().map_err(gone)?;
        follow::start(place, follower, file.into())
            .map_err(|error| failed(format!("no thread to follow calls: {error}"), ""))
    });
    if let Err(Failure { message, remedy }) = begun {
        let _ = write_message(&mut out, &ClientReply::Error { message, remedy });
        let _ = out.flush();
    }
}

pub(crate) type Answered = Result<(), Failure>;

/// Why a request could not be carried out.
pub(crate) struct Failure {
    message: String,
    remedy: String,
}

pub(crate) fn failed(message: impl Into<String>, remedy: impl Into<String>) -> Failure {
    Failure {
        message: message.into(),
        remedy: remedy.into(),
    }
}

pub(crate) fn say(out: &mut impl Write, reply: &ClientReply) -> Answered {
    write_message(out, reply).map_err(|_| failed("the client is gone", ""))
}

fn list(
    participant: &mut Participant,
    domain: Option<&str>,
    limit: Option<u32>,
    out: &mut impl Write,
) -> Answered {
    let now = os::now();
    let mut left = limit.map_or(u64::MAX, u64::from);
    let mut next = Some(shm::Cursor::default());
    while let Some(cursor) = next
        && left > 0
    {
        let mut lines = Vec::new();
        next = participant.scan(LOCATION, cursor, CHUNK, |record| {
            let wanted = domain.is_none_or(|domain| {
                record
                    .key
                    .rsplit(|&byte| byte == b'@')
                    .next()
                    .is_some_and(|host| host.eq_ignore_ascii_case(domain.as_bytes()))
            });
            if wanted {
                lines.extend(line(record.key, record.payload, now));
            }
        });
        participant.quiescent();
        for line in lines {
            if left == 0 {
                break;
            }
            left -= 1;
            say(out, &ClientReply::Registration(line))?;
        }
    }
    Ok(())
}

fn line(aor: &[u8], payload: &[u8], now: Instant) -> Option<RegistrationLine> {
    let bindings = BindingsView::new(payload).ok()?;
    let contacts: Vec<ContactLine> = bindings
        .current(now)
        .map(|binding| contact(&binding, now))
        .collect();
    (!contacts.is_empty()).then(|| RegistrationLine {
        aor: text(aor),
        contacts,
    })
}

fn contact(binding: &BindingView<'_>, now: Instant) -> ContactLine {
    ContactLine {
        uri: text(binding.contact),
        q: binding.q,
        expires_s: binding.expires_at.saturating_duration_since(now).as_secs(),
        call_id: text(binding.call_id),
        cseq: binding.cseq,
        path: text(binding.path),
        instance: binding.instance.map(text),
        reg_id: binding.reg_id,
        received: binding.received.map(|address| address.to_string()),
        user_agent: Some(text(binding.user_agent)).filter(|agent| !agent.is_empty()),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Lines of an audit at most: what is behind them is told by the first.
const AUDIT_LINES: usize = 10_000;

/// One look at everything. The participant is online, so nothing that the walk reaches is reused under it.
fn audit(participant: &mut Participant, out: &mut impl Write) -> Answered {
    use shm::Violation::{LeakedBlock, StaleEntry, Unsettled};
    let usage = participant.arena().usage();
    let mut report = AuditReport {
        bytes_used: usage.bytes_used,
        records: (0..)
            .zip(&usage.tables)
            .map(|(table, usage)| {
                (
                    tables::name(shm::TableId(table))
                        .unwrap_or("unknown")
                        .to_owned(),
                    usage.live,
                )
            })
            .collect(),
        ..AuditReport::default()
    };
    for violation in shm::audit(participant.arena(), true) {
        let lines = match violation {
            Unsettled(..) | LeakedBlock(_) | StaleEntry(_) => &mut report.unsettled,
            _ => &mut report.violations,
        };
        if lines.len() < AUDIT_LINES {
            lines.push(format!("{violation:?}"));
        }
    }
    say(out, &ClientReply::Audit(report))
}

/// An AOR as people write it, `alice@example.com` or a URI, in canonical form.
fn canonical(aor: &str) -> Result<Vec<u8>, Failure> {
    let spelled = if aor.starts_with("sip:") || aor.starts_with("sips:") || aor.starts_with("tel:")
    {
        aor.to_owned()
    } else {
        format!("sip:{aor}")
    };
    let mut buffer = Vec::new();
    let uri = Uri::parse(spelled.as_bytes()).map_err(|error| {
        failed(
            format!("{aor} is not an address-of-record: {error}"),
            "write it as sip:alice@example.com",
        )
    })?;
    Aor::of(&uri, &mut buffer).map_err(|error| {
        failed(
            format!("{aor} is not an address-of-record: {error}"),
            "write it as sip:alice@example.com",
        )
    })?;
    Ok(buffer)
}

fn show(participant: &mut Participant, aor: &str, out: &mut impl Write) -> Answered {
    let key = canonical(aor)?;
    let now = os::now();
    match participant
        .find(LOCATION, &key, |record| {
            line(record.key, record.payload, now)
        })
        .flatten()
    {
        Some(line) => say(out, &ClientReply::Registration(line)),
        None => Ok(()),
    }
}

fn remove(
    participant: &mut Participant,
    aor: &str,
    contact_uri: Option<&str>,
    out: &mut impl Write,
) -> Answered {
    let key = canonical(aor)?;
    let now = os::now();
    let removed = Location(participant).change(&key, |mut set: BindingSet| {
        let mut encoded = Vec::new();
        set.encode(&mut encoded);
        let before = line(&key, &encoded, now);
        let gone = set.remove(|binding| {
            contact_uri.is_none_or(|wanted| is_same_contact(&binding.contact, wanted))
        });
        let removed = before.map(|mut line| {
            line.contacts.retain(|contact| {
                contact_uri.is_none_or(|wanted| is_same_contact(contact.uri.as_bytes(), wanted))
            });
            line
        });
        ((gone > 0).then_some(set), removed)
    });
    match removed {
        Ok(Some(line)) if !line.contacts.is_empty() => say(out, &ClientReply::Registration(line)),
        Ok(_) => Ok(()),
        Err(UpdateError::Full) => Err(failed("no memory for the change", "raise memory.limit")),
        Err(UpdateError::Busy) => Err(failed(
            "the address-of-record is being changed too often",
            "try again",
        )),
    }
}

/// Messages that workers died of, or the one that is named; `forget`: they are served again.
fn cases(
    participant: &mut Participant,
    id: Option<&str>,
    forget: bool,
    out: &mut impl Write,
) -> Answered {
    let id: Option<CaseId> = id.map(str::parse).transpose().map_err(|error| {
        failed(
            format!("{}: {error}", id.unwrap_or_default()),
            "`tandem quarantine list` shows them",
        )
    })?;
    let now = os::now();
    let mut cases = Quarantine(participant).list(now);
    cases.retain(|case| id.is_none_or(|id| id == case.id));
    if forget {
        for case in &cases {
            Quarantine(participant).clear(Some(case.id));
        }
    }
    participant.quiescent();
    for case in cases {
        let expires = case.expires_at.map(|at| at.saturating_duration_since(now));
        let line = QuarantineLine {
            id: case.id.to_string(),
            dropping: case.is_dropped(),
            source: case.source.map(|address| address.to_string()),
            received_on: case.local.map(|address| address.to_string()),
            deaths: case.deaths,
            dropped: case.dropped,
            first_unix_ms: case.first_unix_ms,
            last_unix_ms: case.last_unix_ms,
            expires_s: expires.map_or(0, |left| left.as_secs()),
            message: text(&case.bytes),
        };
        say(out, &ClientReply::Quarantine(line))?;
    }
    Ok(())
}

fn is_same_contact(contact: &[u8], wanted: &str) -> bool {
    contact == wanted.as_bytes()
        || matches!((Uri::parse(contact), Uri::parse(wanted.as_bytes())), (Ok(a), Ok(b)) if sip::uri::equivalent(&a, &b))
}
