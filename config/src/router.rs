//! The rules of `[[route]]` ready for use: nothing here fails once it is built, and only a user part with escapes allocates.

use std::{borrow::Cow, collections::HashMap, io::Write, net::IpAddr};

use regex::bytes::Regex;
use sip::uri::Host;

use crate::{
    model::{Config, Domain, Match, Target},
    value,
};

/// Longest domain name as text (RFC 1035 §2.3.4); an IPv6 address in brackets is shorter.
const HOST_BYTES_MAX: usize = 253;

/// Domains and routes of one configuration. Build one for each thread: a regular expression that
/// several threads share makes them wait for its scratch memory.
#[derive(Clone, Debug)]
pub struct Router {
    domains: HashMap<Box<[u8]>, Domain>,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    matches: Match,
    user: Option<Regex>,
    to: Target,
    recurse: bool,
    media: Option<String>,
    profile: Option<String>,
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
}

/// A rule that a request has met.
#[derive(Clone, Copy, Debug)]
pub struct Matched<'r> {
    pub to: &'r Target,
    /// It names the network that the request comes from, and so trusts it.
    pub names_source: bool,
    /// Redirections of what it leads to are followed.
    pub recurse: bool,
    /// The `[[media]]` that it chooses for calls.
    pub media: Option<&'r str>,
    /// The `[[profile]]` that they count in.
    pub profile: Option<&'r str>,
}

impl Router {
    /// A rule whose pattern cannot be compiled matches nothing; a checked configuration has none.
    pub fn new(config: &Config) -> Self {
        let rules = config.routes.iter().filter_map(|route| {
            let user = match &route.matches.user {
                Some(pattern) => Some(value::compile(pattern)?),
                None => None,
            };
            Some(Rule {
                matches: route.matches.clone(),
                user,
                to: route.to.clone(),
                recurse: route.recurse,
                media: route.media.clone(),
                profile: route.profile.clone(),
            })
        });
        let domains = config
            .domains
            .iter()
            .map(|domain| (domain.name.as_bytes().into(), domain.clone()));
        Self {
            rules: rules.collect(),
            domains: domains.collect(),
        }
    }

    /// The domain that answers for what names none, such as a tel: URI: the only one there is.
    pub fn only_domain(&self) -> Option<&Domain> {
        let mut domains = self.domains.values();
        domains.next().filter(|_| domains.next().is_none())
    }

    /// A domain that knows whom to ask for credentials.
    pub fn any_realm(&self) -> Option<&Domain> {
        let realms = self.domains.values();
        realms
            .filter(|domain| domain.auth == crate::model::Auth::Digest)
            .min_by(|a, b| a.name.cmp(&b.name))
    }

    /// The served domain that this host names.
    pub fn domain(&self, host: Host<'_>) -> Option<&Domain> {
        self.domains.get(canonical(host, &mut [0; HOST_BYTES_MAX])?)
    }

    /// The first rule that matches; `None` leaves the request to [`Config::fallback`].
    pub fn rule(&self, question: &Question<'_>) -> Option<&Target> {
        self.matched(question).map(|matched| matched.to)
    }

    /// The first rule that matches, and what it says of who may use it.
    pub fn matched(&self, question: &Question<'_>) -> Option<Matched<'_>> {
        let mut buffer = [0; HOST_BYTES_MAX];
        let domain = question
            .domain
            .and_then(|host| canonical(host, &mut buffer));
        let user = unescaped(question.user);
        self.rules
            .iter()
            .find(|rule| rule.matches(domain, &user, question))
            .map(|rule| Matched {
                to: &rule.to,
                names_source: rule.matches.source.is_some(),
                recurse: rule.recurse,
                media: rule.media.as_deref(),
                profile: rule.profile.as_deref(),
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
fn unescaped(user: &[u8]) -> Cow<'_, [u8]> {
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
fn canonical<'b>(host: Host<'_>, buffer: &'b mut [u8; HOST_BYTES_MAX]) -> Option<&'b [u8]> {
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
    fn matches(&self, asked: Option<&[u8]>, name: &[u8], question: &Question<'_>) -> bool {
        let Match {
            domain,
            method,
            source,
            user: _,
        } = &self.matches;
        domain
            .as_ref()
            .is_none_or(|domain| asked == Some(domain.as_bytes()))
            && method
                .as_ref()
                .is_none_or(|method| method.as_bytes() == question.method)
            && source
                .as_ref()
                .is_none_or(|network| network.contains(question.source))
            && self.user.as_ref().is_none_or(|user| user.is_match(name))
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
