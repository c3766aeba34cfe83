//! The outside that answers the machine's questions: a small script-free router with a resolver, which may be slow or wrong.

use std::{collections::BTreeMap, fmt, rc::Rc, sync::Arc, time::Duration};

use proxy::{
    Account, Admission, Algorithms, Answer, AskKind, CallPlan, Decision, Limit, Question, Settings,
    Target,
};
use tables::balancer::{ResourceKey, ResourceKind};

use sip::{
    HeaderName, Method, NameAddr,
    uri::{Host, Uri},
};
use stdx::Rng;

use crate::names::Names;

/// What the outside says, and when. Chances are of a thousand.
/// What every call counts in.
pub(crate) fn every_call() -> ResourceKey {
    ResourceKey::of(ResourceKind::Profile, b"every call")
}

/// Every call is on record, and counted.
fn plan() -> CallPlan {
    let limit = Limit {
        key: every_call(),
        calls_max: None,
        code: 503,
    };
    CallPlan {
        class: Some(Arc::default()),
        limits: vec![limit],
        ..CallPlan::default()
    }
}

#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Users of the first domain must prove themselves; each one's password is [`password`].
    pub digest: bool,
    /// What is not ours goes where it says.
    pub open: bool,
    /// Users of the first domain that exist, registered or not.
    pub known: Vec<String>,
    /// What name servers say, unless somebody else is asked ([`Policy::by`]).
    pub names: Names,
    /// Where requests for these users go, instead of to their bindings.
    pub targets: BTreeMap<String, Vec<Target>>,
    pub rejects: BTreeMap<String, u16>,
    /// Answers that do not come within the turn, and how long they take at most.
    pub late: u32,
    pub late_by: Duration,
    /// Questions that nobody answers: after this time whoever asks for us gives up, as every outside call has a deadline.
    pub never: u32,
    pub deadline: Duration,
    /// Answers that come twice.
    pub twice: u32,
    /// Who says what is said, instead of all of the above that is about it.
    pub(crate) by: Option<By>,
}

/// Something that answers questions.
type Answers = dyn Fn(AskKind, &Question<'_>) -> Answer;

#[derive(Clone)]
pub(crate) struct By(Rc<Answers>);

impl fmt::Debug for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("By(..)")
    }
}

/// The password of a user.
pub fn password(user: &str) -> String {
    format!("{user}'s own")
}

/// When an answer comes.
pub(crate) enum When {
    Now,
    After(Duration),
    /// Not at all: given up after this.
    Never(Duration),
}

impl Policy {
    /// A policy that asks somebody else, such as the router of a worker.
    pub fn by(answers: impl Fn(AskKind, &Question<'_>) -> Answer + 'static) -> Self {
        Self {
            by: Some(By(Rc::new(answers))),
            ..Self::default()
        }
    }

    /// Whether names are looked up, rather than asked for by [`Policy::by`].
    pub(crate) fn has_names(&self) -> bool {
        self.by.is_none()
    }

    pub(crate) fn when(&self, rng: &mut Rng) -> When {
        if self.late == 0 && self.never == 0 {
            return When::Now;
        }
        let dice = rng.below(1000);
        if dice < self.never {
            When::Never(self.deadline)
        } else if dice < self.never + self.late {
            When::After(self.late_by * rng.below(1000) / 1000)
        } else {
            When::Now
        }
    }

    /// What is said when no answer came in time.
    pub(crate) fn given_up(kind: AskKind) -> Answer {
        match kind {
            AskKind::Admit => Answer::Admitted(Admission::Reject { code: 503 }),
            AskKind::Credentials => Answer::Credentials(None),
            AskKind::Route => Answer::Routed(Decision::Reject { code: 503 }, CallPlan::default()),
            AskKind::Resolve { .. } => Answer::Resolved(Vec::new()),
        }
    }

    pub(crate) fn answer(&self, kind: AskKind, question: &Question<'_>) -> Answer {
        if let Some(By(answers)) = &self.by {
            return answers(kind, question);
        }
        match kind {
            AskKind::Admit => Answer::Admitted(self.admit(question)),
            AskKind::Credentials => {
                Answer::Credentials(question.credentials().and_then(|(user, realm)| {
                    let user = std::str::from_utf8(&user).ok()?;
                    self.known
                        .iter()
                        .any(|known| known == user)
                        .then(|| {
                            let secret = password(user).into_bytes();
                            Account::of_password(user.as_bytes(), realm, &secret)
                        })
                        .map(Arc::new)
                }))
            }
            AskKind::Route => Answer::Routed(self.route(question), plan()),
            // The resolver's business.
            AskKind::Resolve { .. } => Answer::Resolved(Vec::new()),
        }
    }

    fn admit(&self, question: &Question<'_>) -> Admission {
        let message = &question.message;
        let method = message.request().map(|line| line.method);
        let who = match method {
            Some(Method::Register) => message.to(),
            _ => message.from(),
        };
        let domain = question.settings().domains.first();
        let ours = who.is_ok_and(|who| match (who.uri.host, domain) {
            (Some(Host::Name(name)), Some(domain)) => name.eq_ignore_ascii_case(&domain.name),
            _ => false,
        });
        match domain {
            Some(domain) if self.digest && ours && method != Some(Method::Options) => {
                Admission::Authenticate {
                    realm: domain.name.clone(),
                    also: Algorithms::NONE,
                }
            }
            _ => Admission::Allow,
        }
    }

    fn route(&self, question: &Question<'_>) -> Decision {
        let settings: &Settings = question.settings();
        let Some(line) = question.message.request() else {
            return Decision::Reject { code: 400 };
        };
        let Ok(uri) = Uri::parse(line.uri) else {
            return Decision::Reject { code: 400 };
        };
        let served = settings.domain_of(&uri).is_some();
        let for_server = uri.user.is_none() && (served || settings.listener_named(&uri).is_some());
        if for_server && matches!(line.method, Method::Register | Method::Options) {
            return Decision::Location { known: false };
        }
        // As the worker's router has it: a Route set that leads past us is nobody's to make up.
        if leads_past_us(question) && !self.open {
            return Decision::Reject { code: 403 };
        }
        let user = std::str::from_utf8(uri.user.unwrap_or_default()).unwrap_or_default();
        if let Some(&code) = self.rejects.get(user).filter(|_| served) {
            return Decision::Reject { code };
        }
        if let Some(targets) = self.targets.get(user).filter(|_| served) {
            return Decision::Targets(targets.clone());
        }
        match (served, self.open) {
            (true, _) => Decision::Location {
                known: self.known.iter().any(|known| known == user),
            },
            (false, true) => Decision::Dns,
            (false, false) => Decision::Reject { code: 403 },
        }
    }
}

fn leads_past_us(question: &Question<'_>) -> bool {
    question.message.values(HeaderName::Route).any(|route| {
        !NameAddr::parse(route.value)
            .is_ok_and(|route| question.settings().listener_named(&route.uri).is_some())
    })
}
