//! The outside that answers the machine's questions: a small script-free router, and what tests change about it.

use std::{cell::Cell, collections::BTreeMap, net::SocketAddr, sync::Arc};

use proxy::{
    Account, Admission, Answer, AskKind, CallClass, CallPlan, Decision, Destination, Limit,
    MediaSet, Question, Settings, Target,
};
use sip::{
    Method,
    uri::{Host, Uri},
};
use tables::balancer::{self, ResourceKey, ResourceKind};

/// The profile that every call counts in.
pub fn every_call() -> ResourceKey {
    ResourceKey::of(ResourceKind::Profile, b"every call")
}

/// What calls to this URI count in.
pub fn callee(uri: &str) -> ResourceKey {
    ResourceKey::of(ResourceKind::User, uri.as_bytes())
}

#[derive(Debug, Default)]
pub struct Policy {
    /// Calls at most to each Request-URI.
    pub user_calls_max: Option<u64>,
    /// Calls are not on record.
    pub untracked: bool,
    /// How calls are treated.
    pub class: CallClass,
    /// Calls at most.
    pub calls_max: Option<u64>,
    /// Calls are hidden.
    pub hide: Option<topology::Mode>,
    /// Users of example.org must prove themselves; each one's password is their name backwards.
    pub digest: bool,
    /// What is not ours goes where it says.
    pub open: bool,
    pub hosts: BTreeMap<&'static str, Vec<SocketAddr>>,
    /// Where requests for these users go, instead of to their bindings.
    pub targets: BTreeMap<&'static str, Vec<Target>>,
    /// Destinations that are full are left out, as groups do.
    pub by_room: bool,
    /// Every question about a route but the first one: the request is refused.
    pub changes_its_mind: bool,
    pub routes_asked: Cell<u32>,
    /// Numbers with a phone-context are this user's.
    pub numbers: bool,
    /// No datagram leaves for these.
    pub unreachable: Vec<SocketAddr>,
    /// No datagram of more bytes leaves for these.
    pub narrow: BTreeMap<SocketAddr, usize>,
    pub rejects: BTreeMap<&'static str, u16>,
    /// Kinds of questions that are answered only when the test says so.
    pub held: Vec<String>,
    /// The engines of every call.
    pub media: Option<Arc<MediaSet>>,
}

/// Users that exist, registered or not.
const KNOWN: [&str; 3] = ["alice", "bob", "carol"];

impl Policy {
    pub fn holds(&self, kind: AskKind) -> bool {
        self.held.iter().any(|held| held == kind_name(kind))
    }

    pub fn answer(&self, kind: AskKind, question: &Question<'_>, settings: &Settings) -> Answer {
        match kind {
            AskKind::Admit => Answer::Admitted(self.admit(question)),
            AskKind::Credentials => {
                Answer::Credentials(question.credentials().and_then(|(user, realm)| {
                    let name = std::str::from_utf8(proxy::local_name(&user, realm)?).ok()?;
                    let password: Vec<u8> = name.bytes().rev().collect();
                    KNOWN
                        .contains(&name)
                        .then(|| Account::of_password(name.as_bytes(), realm, &password))
                        .map(Arc::new)
                }))
            }
            AskKind::Route => Answer::Routed(self.route(question, settings), self.plan(question)),
            AskKind::Resolve { branch } => Answer::Resolved(
                question
                    .next_hop(branch)
                    .map_or(Vec::new(), |uri| self.resolve(uri)),
            ),
        }
    }

    /// Every call is on record, and counted.
    fn plan(&self, question: &Question<'_>) -> CallPlan {
        let limit = |key, calls_max| Limit {
            key,
            calls_max,
            code: 486,
        };
        let uri = question.message.request().map(|line| line.uri);
        let of_callee = self.user_calls_max.zip(uri).map(|(most, uri)| {
            let uri = String::from_utf8_lossy(uri);
            limit(callee(&uri), Some(most))
        });
        let limits = [limit(every_call(), self.calls_max)];
        CallPlan {
            hide: self.hide,
            class: (!self.untracked).then(|| Arc::new(self.class.clone())),
            media: self.media.clone(),
            limits: limits.into_iter().chain(of_callee).collect(),
        }
    }

    fn admit(&self, question: &Question<'_>) -> Admission {
        let message = &question.message;
        let method = message.request().map(|line| line.method);
        let who = match method {
            Some(Method::Register) => message.to(),
            _ => message.from(),
        };
        let ours = who.is_ok_and(|who| matches!(who.uri.host, Some(Host::Name(b"example.org"))));
        if self.digest && ours && method != Some(Method::Options) {
            Admission::Authenticate {
                realm: b"example.org".to_vec(),
                also: auth::Algorithms::NONE,
            }
        } else {
            Admission::Allow
        }
    }

    fn route(&self, question: &Question<'_>, settings: &Settings) -> Decision {
        let Some(line) = question.message.request() else {
            return Decision::Reject { code: 400 };
        };
        let Ok(uri) = Uri::parse(line.uri) else {
            return Decision::Reject { code: 400 };
        };
        if question.is_addressed() {
            return Decision::Dns;
        }
        let served = settings.domain_of(&uri).is_some();
        let for_server = uri.user.is_none() && (served || settings.listener_named(&uri).is_some());
        if for_server && matches!(line.method, Method::Register | Method::Options) {
            return Decision::Location { known: false };
        }
        let user = std::str::from_utf8(uri.user.unwrap_or_default()).unwrap_or_default();
        if let Some(&code) = self.rejects.get(user) {
            return Decision::Reject { code };
        }
        let asked = self.routes_asked.replace(self.routes_asked.get() + 1);
        if self.changes_its_mind && asked > 0 {
            return Decision::Reject { code: 403 };
        }
        if let Some(targets) = self.targets.get(user) {
            let targets = match self.by_room {
                true => with_room(question.arena(), targets),
                false => targets.clone(),
            };
            return match targets.is_empty() {
                true => Decision::Reject { code: 503 },
                false => Decision::Targets(targets),
            };
        }
        if self.numbers
            && let Some(Some(context)) = uri.param("phone-context")
        {
            return Decision::LocationOf {
                uri: [b"sip:", context, b"@example.org"].concat(),
                known: true,
            };
        }
        match (served, self.open) {
            (true, _) => Decision::Location {
                known: KNOWN.contains(&user),
            },
            (false, true) => Decision::Dns,
            (false, false) => Decision::Reject { code: 403 },
        }
    }

    fn resolve(&self, uri: &[u8]) -> Vec<SocketAddr> {
        let Ok(uri) = Uri::parse(uri) else {
            return Vec::new();
        };
        match uri.host {
            Some(Host::Name(name)) => std::str::from_utf8(name)
                .ok()
                .and_then(|name| self.hosts.get(name))
                .cloned()
                .unwrap_or_default(),
            _ => proxy::literal_address(&uri).into_iter().collect(),
        }
    }
}

/// Those of the destinations of each target that have room for a call.
fn with_room(arena: &shm::Participant, targets: &[Target]) -> Vec<Target> {
    let has_room = |at: &Option<Destination>| {
        at.is_none_or(|to| {
            let live = balancer::glance(arena, to.resource).map_or(0, |found| found.live);
            to.limit.is_none_or(|limit| live < limit)
        })
    };
    let left = |target: &Target| {
        let mut target = target.clone();
        target
            .backups
            .retain(|backup| has_room(&backup.destination));
        if !has_room(&target.destination) {
            let next = (!target.backups.is_empty()).then(|| target.backups.remove(0))?;
            target.next_hop = Some(next.uri);
            target.destination = next.destination;
        }
        Some(target)
    };
    targets.iter().filter_map(left).collect()
}

pub fn kind_name(kind: AskKind) -> &'static str {
    match kind {
        AskKind::Admit => "Admit",
        AskKind::Credentials => "Credentials",
        AskKind::Route => "Route",
        AskKind::Resolve { .. } => "Resolve",
    }
}
