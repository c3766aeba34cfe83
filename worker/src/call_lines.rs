//! `tandem calls`: the dialogs on record as lines for operators, and the end of calls.

use std::io::Write;

use control::{CallEventLine, CallFilter, CallLine, ClientReply};
use shm::{Cursor, Participant, RowRef};
use stdx::{Instant, Moment};
use tables::{
    DIALOG, Dialogs, Seats,
    balancer::ResourceKind,
    dialog::{ChangeError, Dialog, DialogState, View, flag},
};

use crate::queries::{Answered, CHUNK, failed, say};

/// Calls on record.
pub(crate) fn list(
    participant: &mut Participant,
    filter: &CallFilter,
    out: &mut impl Write,
) -> Answered {
    walk(participant, filter, true, |_, _, line| {
        say(out, &ClientReply::Call(line))
    })
}

/// Calls on record, as what happened last.
pub(crate) fn on_record(participant: &mut Participant, out: &mut impl Write) -> Answered {
    let unix_ms = u64::try_from(os::unix_now().as_millis()).unwrap_or(u64::MAX);
    walk(participant, &CallFilter::default(), false, |_, _, line| {
        let line = CallEventLine {
            event: "on record".to_owned(),
            unix_ms,
            id: Some(line.id),
            ..CallEventLine::default()
        };
        say(out, &ClientReply::CallEvent(Some(line)))
    })
}

/// Ends calls.
pub(crate) fn end(
    participant: &mut Participant,
    filter: &CallFilter,
    out: &mut impl Write,
) -> Answered {
    let (mut ending, mut left) = (0_u64, 0_u64);
    walk(participant, filter, true, |participant, row, line| {
        let now = os::now();
        match Dialogs(participant).ask_to_end(row, now) {
            Ok(true) => {
                ending += 1;
                say(out, &ClientReply::Call(line))
            }
            Err(ChangeError::Full | ChangeError::Busy) => {
                left += 1;
                Ok(())
            }
            // It is ending, or has ended meanwhile.
            Ok(false) | Err(ChangeError::Gone) => Ok(()),
        }
    })?;
    if left > 0 {
        return Err(failed(
            format!(
                "of {} calls only {ending} are ended: there is no memory to note more",
                ending + left
            ),
            "give the command again: calls that end give back theirs; and raise `memory.limit`",
        ));
    }
    Ok(())
}

/// `seats`: whether it is told where a call rings, for which its seats are looked up.
fn walk(
    participant: &mut Participant,
    filter: &CallFilter,
    seats: bool,
    mut work: impl FnMut(&mut Participant, RowRef, CallLine) -> Answered,
) -> Answered {
    let now = os::now();
    let mut left = filter.limit.map_or(u64::MAX, u64::from);
    let mut next = Some(Cursor::default());
    while let Some(cursor) = next
        && left > 0
    {
        let mut found = Vec::new();
        next = participant.scan(DIALOG, cursor, CHUNK, |record| {
            let Some(view) = View::new(&record) else {
                return;
            };
            if view.state == DialogState::Ended {
                return;
            }
            let dialog = view.take();
            let line = line(&dialog, now);
            if passes(filter, &dialog, &line) {
                found.push((record.row, dialog.place, line));
            }
        });
        for (row, place, mut line) in found {
            if left == 0 {
                break;
            }
            if seats && line.destination.is_none() && line.answered_ms.is_none() {
                line.destination = rings_at(participant, place);
            }
            if !is_at(filter, &line) {
                continue;
            }
            left -= 1;
            work(participant, row, line)?;
        }
        participant.quiescent();
    }
    Ok(())
}

/// Where a call rings that nobody has answered: of several destinations the one that was tried last.
fn rings_at(participant: &mut Participant, place: u64) -> Option<String> {
    let seats = Seats(participant);
    let mut attempts = (0..=u8::MAX).take(shm::CHILDREN_MAX).rev();
    attempts.find_map(|attempt| seats.resource(place, attempt, name_of))
}

fn is_at(filter: &CallFilter, line: &CallLine) -> bool {
    filter.destination.as_deref().is_none_or(|text| {
        let destination = line.destination.as_deref();
        destination.is_some_and(|destination| destination.contains(text))
    })
}

fn passes(filter: &CallFilter, dialog: &Dialog, line: &CallLine) -> bool {
    let is = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|w| w == value);
    let party = filter.party.as_deref().is_none_or(|text| {
        [&line.caller, &line.callee, &line.request_uri]
            .iter()
            .any(|uri| uri.contains(text))
    });
    let address = filter.address.is_none_or(|ip| {
        let sides = [dialog.caller.address, dialog.callee.address];
        sides
            .into_iter()
            .flatten()
            .any(|address| address.ip() == ip)
    });
    let long = filter
        .longer_than_s
        .is_none_or(|least| line.age_ms / 1000 >= least);
    is(&filter.id, &line.id)
        && is(&filter.call_id, &line.call_id)
        && is(&filter.state, &line.state)
        && filter
            .domain
            .as_deref()
            .is_none_or(|d| d.eq_ignore_ascii_case(&line.domain))
        && party
        && address
        && long
}

fn line(dialog: &Dialog, now: Instant) -> CallLine {
    let since = |at: Moment| {
        let ms = Moment::from(now).saturating_duration_since(at).as_millis();
        u64::try_from(ms).unwrap_or(u64::MAX)
    };
    let left =
        |until: Option<Instant>| until.map(|until| until.saturating_duration_since(now).as_secs());
    let some = |bytes: &[u8]| (!bytes.is_empty()).then(|| text(bytes));
    let confirmed = dialog.state != DialogState::Early;
    CallLine {
        id: dialog.id.to_string(),
        call_id: text(&dialog.call_id),
        state: match dialog.state {
            DialogState::Early => "early",
            DialogState::Confirmed => "confirmed",
            DialogState::Ending | DialogState::Ended => "ending",
        }
        .to_owned(),
        forked: dialog.flags & flag::FORK != 0,
        domain: text(&dialog.domain),
        caller: text(&dialog.caller.uri),
        callee: text(&dialog.callee.uri),
        request_uri: text(&dialog.request_uri),
        caller_tag: text(&dialog.caller.tag),
        callee_tag: some(&dialog.callee.tag),
        caller_contact: some(&dialog.caller.target),
        callee_contact: some(&dialog.callee.target),
        caller_address: dialog.caller.address.map(|address| address.to_string()),
        callee_address: dialog.callee.address.map(|address| address.to_string()),
        destination: some(&dialog.destination).map(|_| name_of(&dialog.destination)),
        age_ms: since(dialog.created_at),
        answered_ms: dialog.confirmed_at.map(since),
        session_s: (dialog.session_interval > 0).then_some(dialog.session_interval),
        session_left_s: left(dialog.session_until.map(Moment::instant)),
        duration_left_s: left(dialog.duration_until.filter(|_| confirmed)),
        caller_missed: dialog.probes_failed & 0xff,
        callee_missed: dialog.probes_failed >> 8,
        counted: dialog
            .counted
            .iter()
            .filter(|by| by.row.is_some())
            .map(|by| counted(&by.key))
            .collect(),
    }
}

/// A resource as people name it: its kind, then its name.
fn counted(key: &[u8]) -> String {
    let kind = match key.first() {
        Some(&kind) if kind == ResourceKind::Domain as u8 => "domain",
        Some(&kind) if kind == ResourceKind::User as u8 => "user",
        Some(&kind) if kind == ResourceKind::Profile as u8 => "profile",
        _ => "destination",
    };
    format!("{kind} {}", name_of(key))
}

fn name_of(key: &[u8]) -> String {
    text(key.get(1..).unwrap_or_default()).replace('\0', " ")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
