//! What has to be done about destinations without a request: probes, names, rows that nobody needs any more.
//!
//! Every destination, and every name, has one slot that looks after it, found by its URI: nothing has to be agreed on, and whoever takes the slot over goes on
//! where the row says that things stand. A probe is noted in the row before it is sent; its answer is taken by whichever slot reads it.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use balance::identity;
use proxy::Probe;
use shm::{Cursor, Participant, RowRef};
use stdx::Instant;
use tables::{
    Counter, Seats,
    balancer::{Balancer, Glance, Member, Mode, Resource, ResourceKey, ResourceKind},
};

use super::{Groups, Reports};

/// How often a name is asked for again. The resolver keeps answers for as long as they are good, so that this is how soon a change is seen after that.
const NAMES: Duration = Duration::from_secs(2);
/// Addresses of a name. An answer has a few (`dns::HOPS_MAX`); where a server never tells all of them, those that it told before are kept up to here.
pub(super) const MEMBERS_MAX: usize = 64;
/// How often a destination that is disabled is looked at.
const DISABLED: Duration = Duration::from_secs(1);
/// Timers T1 and T2 of a probe (§17.1.2.2).
const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
/// How often rows that nobody needs are looked for.
const CLEAN: Duration = Duration::from_secs(1);
/// Rows looked at, each time, for those that nobody needs.
const ROWS: usize = 1024;
/// Dialogs looked at, each time, for calls of a snapshot.
const DIALOGS: usize = 4096;
/// The same, until all have been looked at once: nothing counts before that.
const RESTORE: Duration = Duration::from_millis(50);
const RESTORED: usize = 512;
/// A row that is younger may be one that this slot has not heard of yet.
const YOUNG: Duration = Duration::from_secs(5);

/// A slot's share of the work.
#[derive(Debug)]
pub(crate) struct Keeper {
    slot: u64,
    slots: u64,
    /// Of [`Groups`].
    version: u64,
    watched: Vec<Watched>,
    names: Vec<Named>,
    /// Every row that is needed.
    keys: HashSet<Vec<u8>>,
    cursor: Cursor,
    /// As `cursor`, in the dialogs.
    dialogs: Cursor,
    /// Every dialog was looked at since this worker began.
    restored: bool,
    clean_at: Instant,
    next: Option<Instant>,
}

/// A destination that is probed.
#[derive(Debug)]
struct Watched {
    row: RowRef,
    /// Of the name that it is an address of.
    name: Option<RowRef>,
    uri: Vec<u8>,
    to: SocketAddr,
    interval: Duration,
    timeout: Duration,
    /// Of the probe that waits for an answer: when to send it again, and how long to wait then.
    again: Option<(Instant, Duration)>,
    due: Instant,
}

/// A name that leads to destinations.
#[derive(Debug)]
struct Named {
    group: String,
    uri: Vec<u8>,
    row: RowRef,
    due: Instant,
    /// Its look-up failed, and it was said so.
    said: bool,
}

/// What is to be done outside.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) probes: Vec<Due>,
    /// Names to be looked up; the row comes back with the answer.
    pub(crate) names: Vec<(RowRef, Vec<u8>)>,
}

/// A probe to be sent.
#[derive(Debug)]
pub(crate) struct Due {
    row: RowRef,
    uri: Vec<u8>,
    to: SocketAddr,
    sent_at: Instant,
}

impl Due {
    pub(crate) fn request(&self) -> Probe<'_> {
        Probe {
            resource: self.row,
            uri: &self.uri,
            to: self.to,
            sent_at: self.sent_at,
        }
    }
}

impl Keeper {
    pub(crate) fn new(slot: u16, slots: u16) -> Self {
        Self {
            slot: slot.into(),
            slots: slots.max(1).into(),
            version: 0,
            watched: Vec::new(),
            names: Vec::new(),
            keys: HashSet::new(),
            cursor: Cursor::default(),
            dialogs: Cursor::default(),
            restored: false,
            clean_at: Instant::ZERO,
            next: None,
        }
    }

    /// When there is something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    fn is_mine(&self, uri: &[u8]) -> bool {
        identity(uri) % self.slots == self.slot
    }

    /// There is nobody to look after.
    pub(crate) fn is_idle(&self) -> bool {
        self.keys.is_empty() && self.version != 0
    }

    /// The configuration has changed.
    pub(crate) fn forget(&mut self) {
        self.version = 0;
    }

    /// Takes over who is there. False: that has not changed.
    pub(crate) fn learn(&mut self, groups: &Groups, now: Instant) -> bool {
        if self.version == groups.version {
            return false;
        }
        self.version = groups.version;
        self.keys = groups.keys();
        let watched = std::mem::take(&mut self.watched);
        let names = std::mem::take(&mut self.names);
        for group in groups.list() {
            for source in group.sources.iter().filter(|source| source.is_name) {
                let Some(row) = source.row.filter(|_| self.is_mine(&source.uri)) else {
                    continue;
                };
                let before = names.iter().find(|name| name.row == row);
                self.names.push(Named {
                    group: group.settings.name.clone(),
                    uri: source.uri.clone(),
                    row,
                    due: before.map_or(now, |before| before.due),
                    said: before.is_some_and(|before| before.said),
                });
            }
            let Some(probe) = &group.settings.probe else {
                continue;
            };
            for place in &group.places {
                let (Some(row), Some(to)) = (place.row, place.to) else {
                    continue;
                };
                if !self.is_mine(&place.uri) {
                    continue;
                }
                let before = watched.iter().find(|watched| watched.row == row);
                let source = group.sources.get(place.source);
                self.watched.push(Watched {
                    row,
                    name: source
                        .and_then(|source| source.row)
                        .filter(|name| *name != row),
                    uri: place.uri.clone(),
                    to,
                    interval: probe.interval,
                    timeout: probe.timeout,
                    again: before.and_then(|before| before.again),
                    due: now,
                });
            }
        }
        let is_busy = !self.watched.is_empty() || !self.names.is_empty();
        self.next = is_busy.then_some(now);
        true
    }

    /// What is due. The probes that are to be sent are in the arena.
    pub(crate) fn work(
        &mut self,
        now: Instant,
        participant: &mut Participant,
        reports: &Reports,
    ) -> Work {
        let mut work = Work::default();
        for watched in self.watched.iter_mut().filter(|watched| watched.due <= now) {
            if let Some(sent_at) = watched.step(now, participant, reports) {
                work.probes.push(Due {
                    row: watched.row,
                    uri: watched.uri.clone(),
                    to: watched.to,
                    sent_at,
                });
            }
        }
        for name in self.names.iter_mut().filter(|name| name.due <= now) {
            name.due = now + NAMES;
            work.names.push((name.row, name.uri.clone()));
        }
        let due = self.watched.iter().map(|watched| watched.due);
        self.next = due.chain(self.names.iter().map(|name| name.due)).min();
        work
    }

    /// What a name leads to now. True: that is news.
    pub(crate) fn resolved(
        &mut self,
        now: Instant,
        row: RowRef,
        answer: &dns::Answer<impl Sized>,
        participant: &mut Participant,
    ) -> bool {
        let Some(name) = self.names.iter_mut().find(|name| name.row == row) else {
            return false;
        };
        let (group, destination) = (&name.group, String::from_utf8_lossy(&name.uri));
        if answer.ranks.is_empty() {
            if !std::mem::replace(&mut name.said, true) {
                let reason = answer.reason;
                tracing::warn!(group, %destination, ?reason, "a destination's name leads nowhere; what it led to is kept");
            }
            return false;
        }
        name.said = false;
        let Some(before) = Balancer(participant).get(row) else {
            return false;
        };
        let before = before.resource.members;
        let mut members: Vec<Member> = answer
            .ranks
            .iter()
            .map(|rank| Member {
                uri: format!("sip:{}", rank.hop).into_bytes(),
                priority: rank.priority,
                share: rank.share,
            })
            .collect();
        if !answer.whole {
            // Who is missing may only have been left out.
            let missing = |old: &&Member| members.iter().all(|new| new.uri != old.uri);
            let room = MEMBERS_MAX.saturating_sub(members.len());
            let missing: Vec<Member> = before.iter().filter(missing).take(room).cloned().collect();
            members.extend(missing);
        }
        members.sort_by(|a, b| (a.priority, &a.uri).cmp(&(b.priority, &b.uri)));
        if members == before {
            return false;
        }
        let group_name = group.as_bytes();
        for member in &members {
            let is_new = before.iter().all(|old| old.uri != member.uri);
            if !is_new || before.is_empty() {
                continue;
            }
            // It starts slowly; whoever was there in the first place need not.
            let new = Resource {
                created_at: Some(now),
                condition: tables::balancer::Condition {
                    recovered_at: Some(now),
                    ..Default::default()
                },
                ..Resource::default()
            };
            let key = ResourceKey::destination(group_name, &member.uri);
            // No memory: whoever chooses tries again.
            let _ = Balancer(participant).ensure(&key, &new);
        }
        let (is, was) = (members.len(), before.len());
        let written = Balancer(participant).update(row, |resource| {
            resource.members.clone_from(&members);
            resource.changed_at = Some(now);
        });
        if let Err(error) = written {
            tracing::debug!(group, %destination, %error, "what a name leads to is not noted");
            return false;
        }
        tracing::info!(group, %destination, addresses = is, before = was, "a destination's name leads elsewhere");
        true
    }

    /// Removes rows of destinations that are not in the configuration any more, and that no name leads to; those with calls go when the last has ended. Gives
    /// calls of a snapshot their places again. One slot does both, some rows at a time.
    pub(crate) fn clean(&mut self, now: Instant, participant: &mut Participant) {
        if self.slot != 0 || now < self.clean_at {
            return;
        }
        self.clean_at = now + if self.restored { CLEAN } else { RESTORE };
        if !self.restored || !self.keys.is_empty() {
            let rows = if self.restored { DIALOGS } else { RESTORED };
            let (next, restored) = Seats(participant).restore(now, self.dialogs, rows);
            self.restored |= next.is_none();
            self.dialogs = next.unwrap_or_default();
            if restored > 0 {
                tracing::debug!(restored, "calls of a snapshot count again");
            }
        }
        let mut gone = Vec::new();
        let keys = &self.keys;
        let next = Balancer(participant).scan(self.cursor, ROWS, |found| {
            let is_young = found
                .resource
                .created_at
                .is_some_and(|at| now.saturating_duration_since(at) < YOUNG);
            if found.key.kind() == Some(ResourceKind::Destination)
                && found.resource.mode != Mode::Removed
                && !is_young
                && !keys.contains(found.key.as_bytes())
            {
                gone.push(found.row);
            }
        });
        self.cursor = next.unwrap_or_default();
        for row in gone {
            // Busy: the next time.
            let _ = Balancer(participant).remove(row, now);
        }
    }
}

impl Watched {
    /// What is due. The time of a probe that is to be sent, for the first time or again.
    fn step(
        &mut self,
        now: Instant,
        participant: &mut Participant,
        reports: &Reports,
    ) -> Option<Instant> {
        let Some(glance) = Balancer(participant).glance(self.row) else {
            self.due = now + DISABLED;
            return None;
        };
        let is_off = |glance: &Glance| matches!(glance.mode, Mode::Disabled | Mode::Removed);
        let name = self.name.and_then(|row| Balancer(participant).glance(row));
        if let Some(sent_at) = glance.probe.waiting() {
            let until = sent_at + self.timeout;
            if now >= until {
                reports.unanswered(now, self.row, sent_at, participant);
                self.again = None;
                self.due = (sent_at + self.interval).max(now);
                return None;
            }
            // An heir, who does not know, sends it at once.
            let (at, wait) = self.again.unwrap_or((now, T1));
            if now < at {
                self.due = at.min(until);
                return None;
            }
            let wait = (wait + wait).min(T2);
            self.again = Some((now + wait, wait));
            self.due = (now + wait).min(until);
            return Some(sent_at);
        }
        self.again = None;
        if is_off(&glance) || name.as_ref().is_some_and(is_off) {
            self.due = now + DISABLED;
            return None;
        }
        let due = glance.probe.sent_at.map_or(now, |at| at + self.interval);
        if now < due {
            self.due = due;
            return None;
        }
        let begun = Balancer(participant).update(self.row, |resource| {
            resource.probe.sent_at = Some(now);
        });
        if begun.is_err() {
            self.due = now + DISABLED;
            return None;
        }
        participant.count(Counter::ProbesSent.cell(), 1);
        self.again = Some((now + T1, T1));
        self.due = (now + T1).min(now + self.timeout);
        Some(now)
    }
}
