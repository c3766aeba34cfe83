//! The rules of `[[route]]` ready for use: nothing here fails once it is built, and only a user part with escapes allocates.

use std::{borrow::Cow, collections::HashMap, io::Write, net::IpAddr};

use regex::bytes::Regex;
use sip::uri::Host;

use crate::{
    caller::Callers,
    model::{Auth, Config, Domain, Hiding, Match, Network, Target},
    value,
};

/// Longest domain name as text (RFC 1035 §2.3.4); an IPv6 address in brackets is shorter.
pub(crate) const HOST_BYTES_MAX: usize = 253;

/// Domains and routes of one configuration. Build one for each thread: a regular expression that
/// several threads share makes them wait for its scratch memory.
#[derive(Clone, Debug)]
pub struct Router {
    domains: HashMap<Box<[u8]>, Domain>,
    first_realm: Option<Domain>,
    rules: Vec<Rule>,
    callers: Callers,
}

#[derive(Clone, Debug)]
struct Rule {
    matches: Match,
    user: Option<Regex>,
    /// Place of the group of callers, and whether that names networks.
    caller: Option<(usize, bool)>,
    /// Place among the routes of the file.
    number: usize,
    to: Target,
    recurse: bool,
    media: Option<String>,
    profile: Option<String>,
    topology_hiding: Option<Hiding>,
}

/// What a rule asks about a request.
#[derive(Clone, Copy, Debug)]
pub struct Question<'q> {
    /// Host of the Request-URI; `None` for a URI that has none, such as tel.
    pub domain: Option<Host<'q>>,
    pub method: &'q [u8],
    /// User part of the Request-URI as it came, empty if there is none.
    pub user: &'q [u8],
    pub source: IpAddr,
    /// The group of callers, as [`Router::caller`] finds it.
    pub caller: Option<usize>,
}

/// A rule that a request has met.
#[derive(Clone, Copy, Debug)]
pub struct Matched<'r> {
    pub to: &'r Target,
    /// Place among the routes of the file.
    pub number: usize,
    /// It names the network that the request comes from, and so trusts it.
    pub names_source: bool,
    /// Redirections of what it leads to are followed.
    pub recurse: bool,
    /// The `[[media]]` that it chooses for calls.
    pub media: Option<&'r str>,
    /// The `[[profile]]` that they count in.
    pub profile: Option<&'r str>,
    /// Whether it hides calls.
    pub topology_hiding: Option<Hiding>,
}

impl Router {
    /// A rule whose pattern cannot be compiled matches nothing; a checked configuration has none.
    pub fn new(config: &Config) -> Self {
        let rules = config
            .routes
            .iter()
            .enumerate()
            .filter_map(|(number, route)| {
                let caller = match &route.matches.caller {
                    Some(name) => {
                        let mut callers = config.callers.iter();
                        let at = callers.position(|caller| caller.name == *name)?;
                        let has_source = |caller: &crate::Caller| !caller.source.is_empty();
                        Some((at, config.callers.get(at).is_some_and(has_source)))
                    }
                    None => None,
                };
                let user = match &route.matches.user {
                    Some(pattern) => Some(value::compile(pattern)?),
                    None => None,
                };
                Some(Rule {
                    matches: route.matches.clone(),
                    user,
                    caller,
                    number,
                    to: route.to.clone(),
                    recurse: route.recurse,
                    media: route.media.clone(),
                    profile: route.profile.clone(),
                    topology_hiding: route.topology_hiding,
                })
            });
        let domains = config
            .domains
            .iter()
            .map(|domain| (domain.name.as_bytes().into(), domain.clone()));
        Self {
            rules: rules.collect(),
            domains: domains.collect(),
            first_realm: config
                .domains
                .iter()
                .find(|domain| domain.auth == Auth::Digest)
                .cloned(),
            callers: Callers::new(config),
        }
    }

    /// The domain that answers for what names none, such as a tel: URI: the only one there is.
    pub fn only_domain(&self) -> Option<&Domain> {
        let mut domains = self.domains.values();
        domains.next().filter(|_| domains.next().is_none())
    }

    /// The domain whose passwords are asked for where nothing says which: the first of the file that has any.
    pub fn first_realm(&self) -> Option<&Domain> {
        self.first_realm.as_ref()
    }

    /// The served domain that this host names.
    pub fn domain(&self, host: Host<'_>) -> Option<&Domain> {
        self.domains.get(canonical(host, &mut [0; HOST_BYTES_MAX])?)
    }

    /// The first rule that matches; `None` leaves the request to [`Config::fallback`].
    pub fn rule(&self, question: &Question<'_>) -> Option<&Target> {
        self.matched(question).map(|matched| matched.to)
    }

    /// Whether it matters who calls.
    pub fn asks_for_callers(&self) -> bool {
        !self.callers.is_empty()
    }

    /// The group of callers that a request is of, by its place in the file. `from`: user part and host of From.
    pub fn caller(&self, source: IpAddr, from: Option<(&[u8], Host<'_>)>) -> Option<usize> {
        self.callers.find(source, from)
    }

    /// The first rule that matches, and what it says of who may use it.
    pub fn matched(&self, question: &Question<'_>) -> Option<Matched<'_>> {
        self.each(question, |_, mismatch| mismatch.is_none())
    }

    /// Goes through the rules until one is taken; of each is told which key does not fit, if any.
    pub fn each<'r>(
        &'r self,
        question: &Question<'_>,
        mut take: impl FnMut(&Matched<'r>, Option<&'static str>) -> bool,
    ) -> Option<Matched<'r>> {
        let mut buffer = [0; HOST_BYTES_MAX];
        let domain = question
            .domain
            .and_then(|host| canonical(host, &mut buffer));
        let user = unescaped(question.user);
        self.rules.iter().find_map(|rule| {
            let matched = Matched {
                to: &rule.to,
                number: rule.number,
                names_source: rule.matches.source.is_some()
                    || rule.caller.is_some_and(|(_, has_source)| has_source),
                recurse: rule.recurse,
                media: rule.media.as_deref(),
                profile: rule.profile.as_deref(),
                topology_hiding: rule.topology_hiding,
            };
            take(&matched, rule.mismatch(domain, &user, question)).then_some(matched)
        })
    }

    /// Where a request goes: [`Router::rule`], else [`Config::fallback`].
    pub fn route(&self, question: &Question<'_>) -> Target {
        self.rule(question).cloned().unwrap_or_else(|| {
            Config::fallback(
                question
                    .domain
                    .is_some_and(|host| self.domain(host).is_some()),
            )
        })
    }
}

/// A user part with its escapes read: `%39` is a 9 (RFC 3261 §19.1.4), and no way around a rule.
pub fn unescaped(user: &[u8]) -> Cow<'_, [u8]> {
    if !user.contains(&b'%') {
        return Cow::Borrowed(user);
    }
    let mut plain = Vec::with_capacity(user.len());
    let mut rest = user;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after
            .first_chunk::<2>()
            .filter(|digits| first == b'%' && digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
        plain.push(escaped.unwrap_or(first));
        rest = match escaped {
            Some(_) => after.get(2..).unwrap_or_default(),
            None => after,
        };
    }
    Cow::Owned(plain)
}

/// Lower case, no dot at the end; as `Host::write_canonical`, but into a buffer of the caller's.
pub(crate) fn canonical<'b>(
    host: Host<'_>,
    buffer: &'b mut [u8; HOST_BYTES_MAX],
) -> Option<&'b [u8]> {
    let room = buffer.len();
    let mut rest = buffer.as_mut_slice();
    match host {
        Host::Name(name) => rest.write_all(name.strip_suffix(b".").unwrap_or(name)),
        Host::V4(address) => write!(rest, "{address}"),
        Host::V6(address) => write!(rest, "[{address}]"),
    }
    .ok()?;
    let used = room - rest.len();
    let text = buffer.get_mut(..used)?;
    text.make_ascii_lowercase();
    Some(text)
}

impl Rule {
    /// The first key that does not fit.
    fn mismatch(
        &self,
        asked: Option<&[u8]>,
        name: &[u8],
        question: &Question<'_>,
    ) -> Option<&'static str> {
        let Match {
            domain,
            method,
            source,
            user: _,
            caller: _,
        } = &self.matches;
        let fits = |what: &Option<String>, is: Option<&[u8]>| {
            what.as_ref().is_none_or(|what| Some(what.as_bytes()) == is)
        };
        let in_network = |network: &Network| network.contains(question.source);
        if !fits(domain, asked) {
            Some("domain")
        } else if !fits(method, Some(question.method)) {
            Some("method")
        } else if !source.as_ref().is_none_or(in_network) {
            Some("source")
        } else if self
            .caller
            .is_some_and(|(caller, _)| question.caller != Some(caller))
        {
            Some("caller")
        } else if !self.user.as_ref().is_none_or(|user| user.is_match(name)) {
            Some("user")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read_once() {
        for (user, plain) in [
            ("bob", "bob"),
            ("%62o%42", "boB"),
            ("%2539", "%39"),
            ("%4", "%4"),
            ("%", "%"),
            ("%+4", "%+4"),
            ("%%39", "%9"),
            ("", ""),
        ] {
            assert_eq!(unescaped(user.as_bytes()), plain.as_bytes(), "{user}");
        }
    }

    fn router(text: &str) -> Router {
        let (config, _) = crate::load(text, "test.toml").expect("a good configuration");
        Router::new(&config)
    }

    fn ask(router: &Router, method: &str, user: &str, domain: &str, source: &str) -> Target {
        router.route(&Question {
            domain: Host::parse(domain.as_bytes()).ok(),
            method: method.as_bytes(),
            user: user.as_bytes(),
            source: source.parse().expect("an address"),
            caller: None,
        })
    }

    #[test]
    fn the_first_rule_that_matches_wins() {
        let router = router(
            r#"
            [[domain]]
            name = "Example.COM"
            auth = "none"
            [[group]]
            name = "trunk"
            destinations = [{ uri = "sip:192.0.2.10" }]
            [[route]]
            match = { source = "192.0.2.0/24" }
            to = "location"
            [[route]]
            match = { domain = "example.com", method = "INVITE", user = "^9[0-9]+$" }
            to = "group:trunk"
            [[route]]
            match = { user = "^void" }
            to = "reject:480"
            "#,
        );
        let far = "203.0.113.1";
        assert_eq!(
            ask(&router, "INVITE", "911", "EXAMPLE.com", far),
            Target::Group("trunk".into())
        );
        assert_eq!(
            ask(&router, "INVITE", "911", "example.com", "192.0.2.1"),
            Target::Location
        );
        assert_eq!(
            ask(&router, "MESSAGE", "911", "example.com", far),
            Target::Location
        );
        assert_eq!(
            ask(&router, "INVITE", "voids", "elsewhere.org", far),
            Target::Reject(480)
        );
        for escaped in ["%3911", "9%31%31", "%39%311"] {
            assert_eq!(
                ask(&router, "INVITE", escaped, "example.com", far),
                Target::Group("trunk".into()),
                "{escaped}"
            );
        }
        assert_eq!(
            ask(&router, "INVITE", "bob", "elsewhere.org", far),
            Target::Reject(403)
        );
        assert_eq!(
            ask(&router, "INVITE", "bob", &"a".repeat(999), far),
            Target::Reject(403)
        );
    }
}
