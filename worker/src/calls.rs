//! What becomes of a call: which class it is of, and what it counts in.

use std::{collections::HashMap, sync::Arc};

use config::{CallLimits, Config, Domain, Matched, Router};
use proxy::{CallClass, CallPlan, DialogProbe, Limit, MediaSet, Question, Recorded, SessionTimer};
use sip::uri::{Aor, Uri};
use tables::balancer::{ResourceKey, ResourceKind};

/// A domain at its limit: the caller may try elsewhere, or later.
const DOMAIN_FULL: u16 = 503;
/// A user at his limit.
const USER_FULL: u16 = 486;

/// The classes and limits of a configuration, made once.
#[derive(Debug)]
pub(crate) struct Calls {
    /// Calls have no record.
    off: bool,
    /// By domain, as its name is written canonically.
    domains: HashMap<String, OfDomain>,
    /// Of calls of no domain of ours.
    foreign: Arc<CallClass>,
    profiles: HashMap<String, Limit>,
    /// The `[[media]]` of groups that have one.
    media_of_groups: HashMap<String, String>,
}

#[derive(Debug)]
struct OfDomain {
    class: Arc<CallClass>,
    limit: Option<Limit>,
    user_calls_max: Option<u32>,
    /// Its `[[media]]`.
    media: Option<String>,
}

impl Calls {
    pub(crate) fn new(config: &Config) -> Self {
        let recorded = match &config.records {
            records if records.path.is_none() => Recorded::None,
            records if records.failed_calls => Recorded::All,
            _ => Recorded::Answered,
        };
        let class = |domain: &str, limits: &CallLimits| CallClass {
            recorded,
            ..class(domain, limits)
        };
        let domains = config.domains.iter().map(|domain| {
            let calls = &domain.calls;
            let of_domain = OfDomain {
                class: Arc::new(class(&domain.name, &calls.over(&config.calls))),
                limit: calls.calls_max.map(|most| Limit {
                    key: ResourceKey::of(ResourceKind::Domain, domain.name.as_bytes()),
                    calls_max: Some(most.into()),
                    code: DOMAIN_FULL,
                }),
                user_calls_max: calls.user_calls_max,
                media: domain.media.clone(),
            };
            (domain.name.clone(), of_domain)
        });
        let profiles = config.profiles.iter().map(|profile| {
            let limit = Limit {
                key: ResourceKey::of(ResourceKind::Profile, profile.name.as_bytes()),
                calls_max: Some(profile.calls_max.into()),
                code: profile.code,
            };
            (profile.name.clone(), limit)
        });
        Self {
            off: !config.calls.record,
            domains: domains.collect(),
            foreign: Arc::new(class("", &config.calls.limits)),
            profiles: profiles.collect(),
            media_of_groups: config
                .groups
                .iter()
                .filter_map(|group| Some((group.name.clone(), group.media.clone()?)))
                .collect(),
        }
    }

    /// The plan for a call to this URI by the rule that it has met. It is one of the domain that is called, else of the caller's; a call from one domain of ours to another
    /// counts in the domain that is called, and each of its users in his own.
    pub(crate) fn plan<'g>(
        &self,
        router: &Router,
        matched: Option<&Matched<'_>>,
        group: impl FnOnce() -> Option<&'g str>,
        uri: &Uri<'_>,
        question: &Question<'_>,
    ) -> CallPlan {
        if self.off {
            return CallPlan::default();
        }
        let from = question.message.from().ok();
        let of = |uri: &Uri<'_>| self.of(router.domain(uri.host?));
        let called = of(uri);
        let calling = from.as_ref().and_then(|from| of(&from.uri));
        let domain = called.or(calling);
        let profile = matched
            .and_then(|rule| rule.profile)
            .and_then(|name| self.profiles.get(name));
        let mut limits = Vec::new();
        limits.extend(domain.and_then(|domain| domain.limit.as_ref()).cloned());
        limits.extend(profile.cloned());
        let users = [
            (calling, from.as_ref().map(|from| &from.uri)),
            (called, Some(uri)),
        ];
        for (domain, uri) in users {
            let most = domain.and_then(|domain| domain.user_calls_max);
            if let (Some(most), Some(uri)) = (most, uri) {
                limits.extend(user_limit(uri, most));
            }
        }
        CallPlan {
            hide: None,
            class: Some(Arc::clone(
                domain.map_or(&self.foreign, |domain| &domain.class),
            )),
            limits,
            media: self.media(matched, group, domain, question),
        }
    }

    /// The engines of a call: what its rule says, else the group that it leads to, else its domain.
    fn media<'g>(
        &self,
        matched: Option<&Matched<'_>>,
        group: impl FnOnce() -> Option<&'g str>,
        domain: Option<&OfDomain>,
        question: &Question<'_>,
    ) -> Option<Arc<MediaSet>> {
        let sets = &question.settings().media;
        if sets.is_empty() {
            return None;
        }
        let of_rule = matched.and_then(|rule| rule.media);
        let of_group = || match self.media_of_groups.is_empty() {
            true => None,
            false => self.media_of_groups.get(group()?).map(String::as_str),
        };
        let name = of_rule
            .or_else(of_group)
            .or_else(|| domain?.media.as_deref())?;
        sets.iter().find(|set| set.name == name).cloned()
    }

    fn of(&self, domain: Option<&Domain>) -> Option<&OfDomain> {
        self.domains.get(&domain?.name)
    }
}

/// The limit of a user, by AOR.
fn user_limit(uri: &Uri<'_>, most: u32) -> Option<Limit> {
    let mut aor = Vec::with_capacity(64);
    uri.user?;
    Aor::of(uri, &mut aor).ok()?;
    Some(Limit {
        key: ResourceKey::of(ResourceKind::User, &aor),
        calls_max: Some(most.into()),
        code: USER_FULL,
    })
}

fn class(domain: &str, limits: &CallLimits) -> CallClass {
    let seconds = |time: std::time::Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    CallClass {
        domain: domain.as_bytes().to_vec(),
        duration_max: limits.duration_max,
        session: limits.session_expires.map(|expires| SessionTimer {
            expires_s: seconds(expires),
            min_s: seconds(limits.session_min),
        }),
        probe: limits.probe_interval.map(|interval| DialogProbe {
            interval,
            failures_max: limits.probe_failures,
        }),
        ..CallClass::default()
    }
}
