//! The groups of a configuration, as one slot sees them.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
};

use balance::{Candidate, Chooser, Nobody, Probing, Rules};
use config::{Config, HashOf};
use proxy::{Backup, Destination, Question, Target};
use shm::{Participant, RowRef};
use sip::{
    HeaderName, Method,
    uri::{Host, Uri},
};
use stdx::Instant;
use tables::balancer::{self, Balancer, Glance, Health, Member, Mode, Resource, ResourceKey};

/// Every group.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    list: Vec<Group>,
    by_name: HashMap<String, usize>,
    /// Counts changes of who belongs to a group.
    pub(crate) version: u64,
    now: Instant,
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) settings: config::Group,
    pub(crate) rules: Rules,
    /// As configured.
    pub(crate) sources: Vec<Source>,
    /// Those that are chosen from.
    pub(crate) places: Vec<Place>,
    chooser: Chooser,
    /// Reused.
    candidates: Vec<Candidate>,
}

/// A destination as configured.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) uri: Vec<u8>,
    pub(crate) key: ResourceKey,
    pub(crate) row: Option<RowRef>,
    /// It has a host name, which leads to others.
    pub(crate) is_name: bool,
    /// What it led to when it was looked at last.
    members: Vec<Member>,
}

/// A destination to choose: an address, or a name that leads nowhere yet.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) uri: Vec<u8>,
    /// `None`: a name.
    pub(crate) to: Option<SocketAddr>,
    pub(crate) row: Option<RowRef>,
    /// Which of the sources it comes from.
    pub(crate) source: usize,
    pub(crate) identity: u64,
    tier: u64,
    /// What its configured weight is multiplied with.
    factor: f64,
}

/// What a request is to do.
#[derive(Debug)]
pub(crate) enum Chosen {
    Target(Target),
    /// Nobody takes it. True: because all are full.
    Nobody {
        full: bool,
    },
}

impl Groups {
    /// `slot` says where to begin, so that not all slots begin with the same.
    pub(crate) fn new(config: &Config, slot: u16) -> Self {
        let list: Vec<Group> = config
            .groups
            .iter()
            .map(|group| Group::new(group, usize::from(slot)))
            .collect();
        let by_name = list.iter().enumerate();
        Self {
            by_name: by_name
                .map(|(at, group)| (group.settings.name.clone(), at))
                .collect(),
            list,
            version: 1,
            now: Instant::ZERO,
        }
    }

    pub(crate) fn list(&self) -> &[Group] {
        &self.list
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The time that the next choice is made at.
    pub(crate) fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    /// Makes the rows that are not there yet, and looks at what names lead to.
    pub(crate) fn refresh(&mut self, participant: &mut Participant, now: Instant) {
        let mut changed = false;
        for group in &mut self.list {
            changed |= group.refresh(participant, now);
        }
        self.version += u64::from(changed);
    }

    /// The names of all rows that are needed.
    pub(crate) fn keys(&self) -> HashSet<Vec<u8>> {
        let keys = |group: &Group| -> Vec<Vec<u8>> {
            let name = group.settings.name.as_bytes();
            let sources = group.sources.iter().map(|source| &source.uri);
            let places = group.places.iter().map(|place| &place.uri);
            sources
                .chain(places)
                .map(|uri| ResourceKey::destination(name, uri).as_bytes().to_vec())
                .collect()
        };
        self.list.iter().flat_map(keys).collect()
    }

    /// Where a request to this group goes. The Request-URI stays as it is.
    pub(crate) fn choose(&mut self, name: &str, question: &Question<'_>, recurse: bool) -> Chosen {
        let now = self.now;
        let group = self.by_name.get(name).and_then(|&at| self.list.get_mut(at));
        match group {
            Some(group) => group.choose(now, question, recurse),
            None => Chosen::Nobody { full: false },
        }
    }
}

impl Group {
    fn new(settings: &config::Group, slot: usize) -> Self {
        let source = |to: &config::Destination| {
            let uri = to.uri.clone().into_bytes();
            Source {
                key: ResourceKey::destination(settings.name.as_bytes(), &uri),
                is_name: address_of(&uri).is_none(),
                uri,
                row: None,
                members: Vec::new(),
            }
        };
        let policy = match settings.policy {
            config::Policy::RoundRobin => balance::Policy::RoundRobin,
            config::Policy::Weighted => balance::Policy::Weighted,
            config::Policy::LeastCalls => balance::Policy::LeastCalls,
            config::Policy::FreeCapacity => balance::Policy::FreeCapacity,
            config::Policy::Latency => balance::Policy::Latency,
            config::Policy::Priority => balance::Policy::Priority,
            config::Policy::Hash => balance::Policy::Hash,
        };
        let rules = Rules {
            probing: settings.probe.as_ref().map(|probe| Probing {
                down_after: probe.down_after,
                up_after: probe.up_after,
            }),
            failures: settings.passive.down_after,
            retry: settings.passive.retry,
            slow_start: settings.slow_start,
        };
        let mut group = Self {
            settings: settings.clone(),
            rules,
            sources: settings.destinations.iter().map(source).collect(),
            places: Vec::new(),
            chooser: Chooser::new(policy, slot),
            candidates: Vec::new(),
        };
        group.place();
        group
    }

    fn key(&self, uri: &[u8]) -> ResourceKey {
        ResourceKey::destination(self.settings.name.as_bytes(), uri)
    }

    /// True if its destinations are others now.
    fn refresh(&mut self, participant: &mut Participant, now: Instant) -> bool {
        let mut changed = false;
        for source in &mut self.sources {
            let is_there = source
                .row
                .is_some_and(|row| balancer::glance(participant, row).is_some_and(is_kept));
            if !is_there {
                source.row = ensure(participant, &source.key, now);
                changed = true;
            }
            if !source.is_name {
                continue;
            }
            let found = source.row.and_then(|row| Balancer(participant).get(row));
            let members = found.map(|found| found.resource.members);
            if let Some(members) = members.filter(|members| *members != source.members) {
                source.members = members;
                changed = true;
            }
        }
        if changed {
            self.place();
        }
        for at in 0..self.places.len() {
            let Some(place) = self.places.get(at) else {
                break;
            };
            let is_there = place
                .row
                .is_some_and(|row| balancer::glance(participant, row).is_some_and(is_kept));
            if !is_there {
                let key = self.key(&place.uri);
                let row = ensure(participant, &key, now);
                if let Some(place) = self.places.get_mut(at) {
                    place.row = row;
                }
                changed = true;
            }
        }
        changed
    }

    /// Who is chosen from. Whoever was there before keeps its row.
    fn place(&mut self) {
        let before: HashMap<Vec<u8>, Option<RowRef>> = std::mem::take(&mut self.places)
            .into_iter()
            .map(|place| (place.uri, place.row))
            .collect();
        let mut seen = HashSet::new();
        let destinations = self.settings.destinations.iter();
        for (nth, (source, to)) in self.sources.iter().zip(destinations).enumerate() {
            let own = [Member {
                uri: source.uri.clone(),
                priority: 0,
                share: 1000,
            }];
            let members = if source.members.is_empty() {
                &own[..]
            } else {
                &source.members
            };
            for member in members {
                if !seen.insert(member.uri.clone()) {
                    continue;
                }
                let alike = members
                    .iter()
                    .filter(|other| other.priority == member.priority);
                let (sum, many) = alike.fold((0_u64, 0_u64), |(sum, many), other| {
                    (sum + u64::from(other.share), many + 1)
                });
                // On average 1, whatever unit the records count in; a share of 0 is a small one (RFC 2782).
                let factor = if sum == 0 {
                    1.0
                } else {
                    (f64::from(member.share) * many as f64 / sum as f64).max(SHARE_MIN)
                };
                self.places.push(Place {
                    uri: member.uri.clone(),
                    to: address_of(&member.uri),
                    row: before
                        .get(&member.uri)
                        .copied()
                        .flatten()
                        .or_else(|| source.row.filter(|_| member.uri == source.uri)),
                    source: nth,
                    identity: balance::identity(&member.uri),
                    tier: u64::from(to.priority) << 16 | u64::from(member.priority),
                    factor,
                });
            }
        }
    }

    fn choose(&mut self, now: Instant, question: &Question<'_>, recurse: bool) -> Chosen {
        let line = question.message.request();
        let counts = line.is_some_and(|line| line.method == Method::Invite);
        self.look(now, question.arena(), counts);
        let key = match self.settings.policy {
            config::Policy::Hash => self.hash(question),
            _ => 0,
        };
        let order = match self.chooser.choose(&self.candidates, key) {
            Ok(order) => order,
            Err(nobody) => {
                return Chosen::Nobody {
                    full: nobody == Nobody::Full,
                };
            }
        };
        let mut tried = order.places().filter_map(|at| {
            let place = self.places.get(at)?;
            let limit = self.capacity(place).map(u64::from);
            let destination = place.row.map(|resource| Destination { resource, limit });
            Some(Backup {
                uri: place.uri.clone(),
                destination,
            })
        });
        match tried.next() {
            None => Chosen::Nobody { full: false },
            Some(first) => Chosen::Target(Target {
                destination: first.destination,
                backups: tried.collect(),
                recurse,
                ..Target::next_hop(first.uri)
            }),
        }
    }

    fn capacity(&self, place: &Place) -> Option<u32> {
        self.settings.destinations.get(place.source)?.capacity
    }

    /// Looks at all places. Only calls count against a capacity.
    fn look(&mut self, now: Instant, arena: &Participant, counts: bool) {
        self.candidates.clear();
        for place in &self.places {
            let Some(to) = self.settings.destinations.get(place.source) else {
                continue;
            };
            let glance = place.row.and_then(|row| balancer::glance(arena, row));
            // A name has a row beside those of its addresses.
            let name = self
                .sources
                .get(place.source)
                .and_then(|source| source.row)
                .filter(|row| Some(*row) != place.row)
                .and_then(|row| balancer::glance(arena, row));
            let capacity = to.capacity.filter(|_| counts).map(u64::from);
            let mut words = [glance, name].into_iter().flatten().map(|g| g.weight);
            let weight = words
                .find(|&weight| weight != 0)
                .unwrap_or(u32::from(to.weight));
            let enabled = |glance: &Glance| glance.mode == Mode::Enabled;
            let mut candidate = Candidate {
                // Who can't be counted can't be kept below a limit.
                open: capacity.is_none() && name.as_ref().is_none_or(enabled),
                tier: place.tier,
                weight: f64::from(weight) * place.factor,
                share: 1.0,
                live: 0,
                capacity,
                latency: None,
                identity: place.identity,
            };
            if let Some(glance) = glance {
                candidate.open = enabled(&glance)
                    && name.as_ref().is_none_or(enabled)
                    && glance.condition.is_open(now, &self.rules);
                candidate.share = glance.condition.share(now, &self.rules);
                candidate.live = glance.live;
                candidate.latency = glance.condition.latency;
            }
            self.candidates.push(candidate);
        }
    }

    /// What a request is known by to policy `hash`.
    fn hash(&self, question: &Question<'_>) -> u64 {
        let message = &question.message;
        let text = match &self.settings.hash {
            HashOf::CallId => message.call_id().unwrap_or_default(),
            HashOf::FromUser => message
                .from()
                .ok()
                .and_then(|from| from.uri.user)
                .unwrap_or_default(),
            HashOf::ToUser => message
                .to()
                .ok()
                .and_then(|to| to.uri.user)
                .unwrap_or_default(),
            HashOf::RequestUri => message.request().map_or(&b""[..], |line| line.uri),
            HashOf::Header(name) => header(message, name.as_bytes()),
        };
        balance::identity(text)
    }
}

/// The least that a share of 0 counts as, beside an average of 1.
const SHARE_MIN: f64 = 0.01;

/// The value of the first header field of this name; empty if there is none.
fn header<'m>(message: &sip::Message<'m>, name: &[u8]) -> &'m [u8] {
    let found = match HeaderName::of(name) {
        HeaderName::Other => message
            .all(HeaderName::Other)
            .find(|header| header.name_text.eq_ignore_ascii_case(name)),
        known => message.first(known),
    };
    found.map(|header| header.value).unwrap_or_default()
}

fn is_kept(glance: Glance) -> bool {
    glance.mode != Mode::Removed
}

/// The row of a destination that is configured, or has become one again.
fn ensure(participant: &mut Participant, key: &ResourceKey, now: Instant) -> Option<RowRef> {
    let new = Resource {
        created_at: Some(now),
        ..Resource::default()
    };
    let mut balancer = Balancer(participant);
    let row = balancer.ensure(key, &new).ok()?;
    let removed = balancer
        .glance(row)
        .is_some_and(|glance| glance.mode == Mode::Removed);
    if removed {
        let back = |resource: &mut Resource| {
            if resource.mode == Mode::Removed {
                resource.mode = Mode::Enabled;
                resource.changed_at = Some(now);
                resource.condition.health = Health::Unknown;
                resource.condition.recovered_at = Some(now);
            }
        };
        balancer.update(row, back).ok()?;
    }
    Some(row)
}

/// The address that a URI of a destination names, if it needs no look-up.
pub(super) fn address_of(uri: &[u8]) -> Option<SocketAddr> {
    let uri = Uri::parse(uri).ok()?;
    let is_name = uri.param("maddr").is_none() && matches!(uri.host, Some(Host::Name(_)));
    if is_name {
        return None;
    }
    proxy::literal_address(&uri)
}
