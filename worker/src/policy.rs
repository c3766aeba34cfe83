//! The script-free router: answers the machine's questions from the configuration, within the same turn.

use std::{cell::RefCell, sync::Arc};

use config::{Auth, Config, Matched, Router, Target as ConfigTarget};
use proxy::{Admission, Answer, AskKind, Backup, CallPlan, Decision, Question, Target};
use sip::{
    HeaderName, Method, NameAddr, RequestLine,
    uri::{Scheme, Uri},
};
use tables::Counter;

use crate::{
    accounts::Accounts,
    calls::Calls,
    destinations::{Chosen, Groups},
    hiding::Hides,
    numbers::{Lead, Numbers, Tables},
};

/// The configuration's rules, made ready for one thread.
#[derive(Debug)]
pub struct Policy {
    router: Router,
    accounts: Arc<Accounts>,
    /// Whose turn it is changes with each answer.
    groups: RefCell<Groups>,
    calls: Calls,
    numbers: Numbers,
    hides: Hides,
}

impl Policy {
    /// `slot` says where turns begin.
    pub fn new(config: &Config, accounts: Arc<Accounts>, tables: &Tables, slot: u16) -> Self {
        Self {
            router: Router::new(config),
            accounts,
            groups: RefCell::new(Groups::new(config, slot)),
            calls: Calls::new(config),
            numbers: Numbers::new(config, tables, None),
            hides: Hides::new(config),
        }
    }

    /// The groups, for whoever looks after destinations.
    pub(crate) fn groups(&mut self) -> &mut Groups {
        self.groups.get_mut()
    }

    /// Answers one question.
    pub fn answer(&self, kind: AskKind, question: &Question<'_>) -> Answer {
        match kind {
            AskKind::Admit => Answer::Admitted(self.admit(question)),
            AskKind::Credentials => Answer::Credentials(
                question
                    .credentials()
                    .and_then(|(user, realm)| self.accounts.find(&user, realm))
                    .cloned(),
            ),
            AskKind::Route => self.routed(question),
            // The resolver's business, not asked here.
            AskKind::Resolve { .. } => Answer::Resolved(Vec::new()),
        }
    }

    /// Credentials are wanted of whoever registers here, whoever claims to be one of ours, and whoever would use a rule that leads out
    /// (a trunk costs money), unless what he calls is in a domain of ours that asks nobody. A rule that names the network it is for trusts that network.
    fn admit(&self, question: &Question<'_>) -> Admission {
        let message = &question.message;
        let Some(line) = message.request() else {
            return Admission::Allow;
        };
        let Ok(uri) = Uri::parse(line.uri) else {
            return Admission::Allow;
        };
        let domain_of = |address: Option<sip::NameAddr<'_>>| self.router.domain(address?.uri.host?);
        let for_server = || question.settings().is_for_server(&uri);
        let wants = |domain: &&config::Domain| domain.auth == Auth::Digest;
        // Whatever its Request-URI and the rules say: our registrar serves it by its To.
        let registers = match line.method {
            Method::Register => domain_of(message.to().ok()).filter(wants),
            _ => None,
        };
        let wanted = match line.method {
            _ if registers.is_some() => registers,
            // Asking the server itself what it can do is free.
            Method::Options | Method::Register if for_server() => None,
            _ => {
                let matched = self.matched(&self.asked(&uri, line.method_text, question));
                if matched.is_some_and(|rule| rule.names_source) {
                    return Admission::Allow;
                }
                // What is addressed goes where we have said that it may, by no rule.
                let leads_out = !question.is_addressed()
                    && matched.is_some_and(|rule| {
                        !matches!(rule.to, ConfigTarget::Location | ConfigTarget::Reject(_))
                    });
                domain_of(message.from().ok()).filter(wants).or_else(|| {
                    if !leads_out {
                        return None;
                    }
                    // A number is nobody's, and neither is what is called by an address of ours or by a domain elsewhere.
                    let called = uri.host.and_then(|called| self.router.domain(called));
                    called.or_else(|| self.router.first_realm())
                })
            }
        };
        match wanted {
            Some(domain) if domain.auth == Auth::Digest => Admission::Authenticate {
                also: self.accounts.also(domain.name.as_bytes()),
                realm: domain.name.clone().into_bytes(),
            },
            _ => Admission::Allow,
        }
    }

    /// Where a request goes, and what becomes of the call that it may begin.
    fn routed(&self, question: &Question<'_>) -> Answer {
        let line = question.message.request();
        let uri = line.and_then(|line| Uri::parse(line.uri).ok());
        let (Some(line), Some(uri)) = (line, uri) else {
            return Answer::Routed(Decision::Reject { code: 400 }, CallPlan::default());
        };
        let asked = self.asked(&uri, line.method_text, question);
        let matched = self.matched(&asked);
        let decision = self.route(&line, &uri, &asked, matched.as_ref(), question);
        let plan = match decision {
            Decision::Reject { .. } => CallPlan::default(),
            _ => self.plan(&line, &uri, matched.as_ref(), &asked, question),
        };
        Answer::Routed(decision, plan)
    }

    /// What becomes of the call that an INVITE begins, and which requests are hidden.
    fn plan(
        &self,
        line: &RequestLine<'_>,
        uri: &Uri<'_>,
        matched: Option<&Matched<'_>>,
        asked: &config::Question<'_>,
        question: &Question<'_>,
    ) -> CallPlan {
        let group = || self.first_group(matched?, asked);
        let plan = match line.method {
            Method::Invite => self.calls.plan(&self.router, matched, group, uri, question),
            _ => CallPlan::default(),
        };
        if self.hides.is_off() {
            return plan;
        }
        CallPlan {
            hide: self.hides.mode(&self.router, matched, group, uri, question),
            ..plan
        }
    }

    /// The group that a rule leads to; of a table the one that is tried first.
    fn first_group<'p>(
        &'p self,
        matched: &Matched<'p>,
        asked: &config::Question<'_>,
    ) -> Option<&'p str> {
        match matched.to {
            ConfigTarget::Group(name) => Some(name),
            ConfigTarget::Prefix(table) => {
                let user = config::unescaped(asked.user);
                match self.numbers.lead(table, &user, asked.caller)? {
                    Lead::Groups { names, .. } => names.first().copied(),
                    Lead::Reject(_) => None,
                }
            }
            _ => None,
        }
    }

    fn route(
        &self,
        line: &RequestLine<'_>,
        uri: &Uri<'_>,
        asked: &config::Question<'_>,
        matched: Option<&Matched<'_>>,
        question: &Question<'_>,
    ) -> Decision {
        let settings = question.settings();
        let served = settings.domain_of(uri).is_some();
        // REGISTER, and OPTIONS for the server itself, are no traffic to be routed, where they are for us.
        if matches!(line.method, Method::Register | Method::Options) && settings.is_for_server(uri)
        {
            return Decision::Location { known: false };
        }
        let (rule, recurse) = (
            matched.map(|matched| matched.to),
            matched.is_some_and(|matched| matched.recurse),
        );
        // It leads where we have said that it does; only a rule that refuses it is asked.
        if question.is_addressed() && !matches!(rule, Some(ConfigTarget::Reject(_))) {
            return Decision::Dns;
        }
        if leads_past_us(question)
            && !matches!(rule, Some(ConfigTarget::Dns | ConfigTarget::Reject(_)))
        {
            return Decision::Reject { code: 403 };
        }
        match rule {
            Some(ConfigTarget::Location) if uri.scheme == Scheme::Tel => {
                self.location_of_number(uri, question)
            }
            Some(ConfigTarget::Location) => self.location(uri),
            Some(ConfigTarget::Group(name)) => self.group(name, recurse, question),
            Some(ConfigTarget::Prefix(name)) => {
                self.by_number(name, line.uri, (uri, asked), recurse, question)
            }
            Some(ConfigTarget::Uri(to)) => Decision::Targets(vec![Target {
                recurse,
                ..Target::uri(with_user_of(to, uri))
            }]),
            Some(ConfigTarget::Dns) => Decision::Dns,
            Some(ConfigTarget::Reject(code)) => Decision::Reject { code: *code },
            None if served => self.location(uri),
            // A scheme that no rule knows what to do with (§16.3 step 2).
            None if uri.scheme == Scheme::Tel => Decision::Reject { code: 416 },
            None => Decision::Reject { code: 403 },
        }
    }

    /// What the rules are asked.
    fn asked<'q>(
        &self,
        uri: &Uri<'q>,
        method: &'q [u8],
        question: &Question<'_>,
    ) -> config::Question<'q> {
        let source = question.source().ip();
        // Whoever does not ask who calls need not look at From.
        let caller = if self.router.asks_for_callers() {
            let from = question.message.from().ok();
            let from =
                from.and_then(|from| Some((from.uri.user.unwrap_or_default(), from.uri.host?)));
            self.router.caller(source, from)
        } else {
            None
        };
        config::Question {
            domain: uri.host,
            method,
            user: uri.user.unwrap_or_default(),
            source,
            caller,
        }
    }

    /// The first rule that matches and leads somewhere: a table may have nothing for a number.
    fn matched(&self, asked: &config::Question<'_>) -> Option<Matched<'_>> {
        self.router.each(asked, |rule, mismatch| {
            mismatch.is_none()
                && match rule.to {
                    ConfigTarget::Prefix(table) => {
                        let user = config::unescaped(asked.user);
                        self.numbers.leads(table, &user, asked.caller)
                    }
                    _ => true,
                }
        })
    }

    /// To the groups that a table has for a number: the destinations of the first, then those of the next.
    fn by_number(
        &self,
        table: &str,
        request: &[u8],
        (uri, asked): (&Uri<'_>, &config::Question<'_>),
        recurse: bool,
        question: &Question<'_>,
    ) -> Decision {
        let user = config::unescaped(asked.user);
        let (names, number) = match self.numbers.lead(table, &user, asked.caller) {
            Some(Lead::Groups { names, number }) => (names, number),
            Some(Lead::Reject(code)) => return Decision::Reject { code },
            None => return Decision::Reject { code: 404 },
        };
        let mut refused = Decision::Reject { code: 503 };
        let mut whole: Option<Target> = None;
        for name in names {
            match self.group(name, recurse, question) {
                Decision::Targets(targets) => {
                    targets.into_iter().for_each(|target| match &mut whole {
                        Some(whole) => whole.backups.extend(as_backups(target)),
                        None => whole = Some(target),
                    })
                }
                other => refused = other,
            }
        }
        let Some(mut target) = whole else {
            return refused;
        };
        target.backups.truncate(TRIED_IN_ALL_MAX - 1);
        if let Some(number) = number {
            target.uri = with_number(request, uri, &number);
        }
        Decision::Targets(vec![target])
    }

    fn location(&self, uri: &Uri<'_>) -> Decision {
        let mut realm = Vec::new();
        if let Some(host) = uri.host {
            host.write_canonical(&mut realm);
        }
        Decision::Location {
            known: uri
                .user
                .is_some_and(|user| self.accounts.find(user, &realm).is_some()),
        }
    }

    /// Whoever has registered a number as a user: of the caller's domain, or of the only one there is.
    fn location_of_number(&self, uri: &Uri<'_>, question: &Question<'_>) -> Decision {
        let from = question.message.from().ok();
        let domain = from
            .and_then(|from| self.router.domain(from.uri.host?))
            .or_else(|| self.router.only_domain());
        let Some(domain) = domain else {
            return Decision::Reject { code: 404 };
        };
        let number = plain_number(uri);
        let realm = domain.name.as_bytes();
        Decision::LocationOf {
            known: self.accounts.find(&number, realm).is_some(),
            uri: [b"sip:", number.as_slice(), b"@", realm].concat(),
        }
    }

    /// A destination of a group, and others behind it, should that one fail.
    fn group(&self, name: &str, recurse: bool, question: &Question<'_>) -> Decision {
        match self.groups.borrow_mut().choose(name, question, recurse) {
            Chosen::Target(target) => Decision::Targets(vec![target]),
            Chosen::Nobody { full } => {
                let why = if full {
                    Counter::GroupFull
                } else {
                    Counter::GroupDown
                };
                question.arena().count(why.cell(), 1);
                Decision::Reject { code: 503 }
            }
        }
    }
}

/// Most destinations of several groups that one request is sent to, one after another.
const TRIED_IN_ALL_MAX: usize = 24;

/// A target's next hops as such of another one.
fn as_backups(target: Target) -> impl Iterator<Item = Backup> {
    let first = target.next_hop.map(|uri| Backup {
        destination: target.destination,
        ..Backup::uri(uri)
    });
    first.into_iter().chain(target.backups)
}

/// A Request-URI with another number in it; its parameters stay. `None`: it has no number.
pub(crate) fn with_number(request: &[u8], uri: &Uri<'_>, number: &[u8]) -> Option<Vec<u8>> {
    let user = uri.user?;
    let colon = request.iter().position(|byte| *byte == b':')?;
    let (scheme, rest) = request.split_at_checked(colon.checked_add(1)?)?;
    let behind = rest.strip_prefix(user)?;
    // What follows a semicolon in the user part are the number's own parameters (RFC 3966 §3).
    let own = user.iter().position(|byte| *byte == b';');
    let own = own.and_then(|at| user.get(at..)).unwrap_or_default();
    Some([scheme, number, own, behind].concat())
}

/// A telephone number without what is only there to be looked at (RFC 3966 §5.1.1).
fn plain_number(uri: &Uri<'_>) -> Vec<u8> {
    let number = uri.user.unwrap_or_default().iter().copied();
    number.filter(|byte| !b"-.()".contains(byte)).collect()
}

/// Whether its Route set goes on behind us. Outside of a dialog of ours the caller has made that up: we would be a relay to
/// wherever it says, for whom it is not even asked who it is. Only a rule that sends requests where they want to go allows it.
fn leads_past_us(question: &Question<'_>) -> bool {
    let is_ours = |route: &[u8]| {
        NameAddr::parse(route)
            .is_ok_and(|route| question.settings().listener_named(&route.uri).is_some())
    };
    question
        .message
        .values(HeaderName::Route)
        .any(|route| !is_ours(route.value))
}

/// The URI of a rule; one that names no user gets that of the Request-URI, as a trunk wants it.
pub(crate) fn with_user_of(to: &str, request: &Uri<'_>) -> Vec<u8> {
    let plain = to.as_bytes().to_vec();
    let (Ok(rule), Some(user)) = (Uri::parse(&plain), request.user) else {
        return plain;
    };
    if rule.user.is_some() || !matches!(rule.scheme, Scheme::Sip | Scheme::Sips) {
        return plain;
    }
    let Some((scheme, rest)) = to.split_once(':') else {
        return plain;
    };
    if request.scheme == Scheme::Tel {
        // RFC 3261 §19.1.6; a rule's URI has no headers.
        let number = plain_number(request);
        return [
            scheme.as_bytes(),
            b":",
            &number,
            b"@",
            rest.as_bytes(),
            b";user=phone",
        ]
        .concat();
    }
    [scheme.as_bytes(), b":", user, b"@", rest.as_bytes()].concat()
}
