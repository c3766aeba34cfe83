//! `tandem destinations`, answered by a worker's control thread.

use std::{collections::HashMap, io::Write, time::Duration};

use config::Config;
use control::{ClientReply, DestinationChange, DestinationLine};
use shm::{Cursor, Participant, RowRef};
use stdx::Instant;
use tables::balancer::{Balancer, Found, Health, Mode, ResourceKey, ResourceKind};

use super::groups::address_of;
use crate::queries::{Answered, failed, say};

/// Rows looked at between two announcements of quiescence.
const CHUNK: usize = 1024;

/// Every destination, or those of one group.
pub(crate) fn list(
    participant: &mut Participant,
    config: &Config,
    group: Option<&str>,
    out: &mut impl Write,
) -> Answered {
    if let Some(group) = group {
        known(config, group)?;
    }
    for line in lines(participant, config) {
        if group.is_none_or(|group| line.group == group) {
            say(out, &ClientReply::Destination(line))?;
        }
    }
    Ok(())
}

/// Changes a destination, or all addresses of a name; says what became of it.
pub(crate) fn change(
    participant: &mut Participant,
    config: &Config,
    (group, uri): (&str, &str),
    change: DestinationChange,
    out: &mut impl Write,
) -> Answered {
    known(config, group)?;
    let now = os::now();
    let spelled = [uri.to_owned(), format!("sip:{uri}")];
    let key = |uri: &String| ResourceKey::destination(group.as_bytes(), uri.as_bytes());
    let find = |participant: &mut Participant| -> Option<RowRef> {
        spelled.iter().find_map(|uri| {
            let found = Balancer(participant).find(&key(uri))?;
            (found.resource.mode != Mode::Removed).then_some(found.row)
        })
    };
    let remedy = "`tandem destinations list` shows them, as they are to be written";
    let Some(row) = find(participant) else {
        return Err(failed(
            format!("the group \"{group}\" has no destination {uri}"),
            remedy,
        ));
    };
    let done = Balancer(participant).update(row, |resource| {
        let mode = match change {
            DestinationChange::Enable => Mode::Enabled,
            DestinationChange::Disable => Mode::Disabled,
            DestinationChange::Drain => Mode::Draining,
            DestinationChange::Weight(weight) => {
                resource.weight = weight;
                return;
            }
        };
        if resource.mode == mode {
            return;
        }
        if mode == Mode::Enabled {
            resource.condition.recovered_at = Some(now);
        }
        resource.mode = mode;
        resource.changed_at = Some(now);
    });
    if let Err(error) = done {
        return Err(failed(
            format!("{uri} is not changed: {error}"),
            "try again",
        ));
    }
    participant.quiescent();
    for line in lines(participant, config) {
        let named = line.name.as_ref().unwrap_or(&line.uri);
        if line.group == group && (spelled.contains(&line.uri) || spelled.contains(named)) {
            say(out, &ClientReply::Destination(line))?;
        }
    }
    Ok(())
}

fn known(config: &Config, group: &str) -> Answered {
    if config.group(group).is_some() {
        return Ok(());
    }
    let names: Vec<&str> = config
        .groups
        .iter()
        .map(|group| group.name.as_str())
        .collect();
    let remedy = match names.as_slice() {
        [] => "add a [[group]] to the configuration file".to_owned(),
        names => format!("the groups are {}", names.join(", ")),
    };
    Err(failed(format!("there is no group \"{group}\""), remedy))
}

/// All destinations, in the order of the configuration.
fn lines(participant: &mut Participant, config: &Config) -> Vec<DestinationLine> {
    let now = os::now();
    let mut found = HashMap::new();
    let mut next = Some(Cursor::default());
    while let Some(cursor) = next {
        next = Balancer(participant).scan(cursor, CHUNK, |one| {
            if one.key.kind() == Some(ResourceKind::Destination) {
                found.insert(one.key.as_bytes().to_vec(), one);
            }
        });
        participant.quiescent();
    }
    let mut lines = Vec::new();
    for group in &config.groups {
        let mut take = |uri: &[u8]| {
            found.remove(ResourceKey::destination(group.name.as_bytes(), uri).as_bytes())
        };
        for to in &group.destinations {
            let Some(own) = take(to.uri.as_bytes()) else {
                continue;
            };
            let is_name = address_of(to.uri.as_bytes()).is_none();
            if !is_name || own.resource.members.is_empty() {
                lines.push(line(now, group, to, &own, None));
                continue;
            }
            for member in &own.resource.members {
                if let Some(one) = take(&member.uri) {
                    lines.push(line(now, group, to, &one, Some(&own)));
                }
            }
        }
    }
    // What is not configured any more, and has calls.
    let mut rest: Vec<Found> = found.into_values().filter(|one| one.live > 0).collect();
    rest.sort_by(|a, b| a.key.as_bytes().cmp(b.key.as_bytes()));
    lines.extend(rest.iter().map(|one| bare(now, one)));
    lines
}

fn line(
    now: Instant,
    group: &config::Group,
    to: &config::Destination,
    one: &Found,
    name: Option<&Found>,
) -> DestinationLine {
    let of_name = name.map(|name| &name.resource);
    let mode = match (one.resource.mode, of_name.map(|name| name.mode)) {
        (Mode::Enabled, Some(mode)) => mode,
        (mode, _) => mode,
    };
    let words = [Some(one.resource.weight), of_name.map(|name| name.weight)];
    let word = words.into_iter().flatten().find(|&weight| weight != 0);
    let ranked = of_name.and_then(|name| {
        let uri = uri_of(&one.key);
        name.members.iter().find(|member| member.uri == uri)
    });
    DestinationLine {
        name: name.map(|_| to.uri.clone()),
        mode: mode_name(mode).to_owned(),
        weight: word.unwrap_or(u32::from(to.weight)),
        weight_configured: u32::from(to.weight),
        priority: to.priority,
        srv_priority: ranked.map(|member| member.priority),
        capacity: to.capacity,
        group: group.name.clone(),
        ..bare(now, one)
    }
}

/// What the row alone tells.
fn bare(now: Instant, one: &Found) -> DestinationLine {
    let resource = &one.resource;
    let condition = &resource.condition;
    let ago = |at: Option<Instant>| {
        at.map(|at| {
            u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX)
        })
    };
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    DestinationLine {
        group: text(group_of(&one.key)),
        uri: text(uri_of(&one.key)),
        name: None,
        mode: mode_name(resource.mode).to_owned(),
        health: match condition.health {
            Health::Unknown => "unknown",
            Health::Up => "up",
            Health::Down => "down",
        }
        .to_owned(),
        weight: resource.weight,
        weight_configured: 0,
        priority: 0,
        srv_priority: None,
        capacity: None,
        calls: one.live,
        latency_us: condition.latency.map(micros),
        probe_code: resource.probe.judged_at.map(|_| resource.probe.code),
        probes_failed: condition.probes_failed,
        requests_failed: condition.failures,
        answered_ms_ago: ago(condition.answered_at),
        failed_ms_ago: ago(condition.failed_at),
        recovered_ms_ago: ago(condition.recovered_at),
        changed_ms_ago: ago(resource.changed_at),
        requests: resource.statistics.calls,
        answered: resource.statistics.answered,
        failed: resource.statistics.failed,
        full: resource.statistics.refused,
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Enabled => "enabled",
        Mode::Disabled => "disabled",
        Mode::Draining => "draining",
        Mode::Removed => "removed",
    }
}

fn group_of(key: &ResourceKey) -> &[u8] {
    let name = key.name();
    let end = name.iter().position(|&byte| byte == 0);
    name.get(..end.unwrap_or(name.len())).unwrap_or_default()
}

fn uri_of(key: &ResourceKey) -> &[u8] {
    let name = key.name();
    let end = name.iter().position(|&byte| byte == 0);
    end.and_then(|end| name.get(end + 1..)).unwrap_or_default()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
