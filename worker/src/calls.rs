//! What becomes of a call: which class it is of, and what it counts in.

use std::{collections::HashMap, sync::Arc};

use config::{Config, Router};
use proxy::{CallClass, CallPlan, Question, Recorded};
use sip::uri::Uri;

/// The classes of a configuration, made once.
#[derive(Debug)]
pub(crate) struct Calls {
    /// By domain, as its name is written canonically.
    classes: HashMap<String, Arc<CallClass>>,
    /// Of calls of no domain of ours.
    foreign: Arc<CallClass>,
}

impl Calls {
    pub(crate) fn new(config: &Config) -> Self {
        let recorded = match &config.records {
            records if records.path.is_none() => Recorded::None,
            records if records.failed_calls => Recorded::All,
            _ => Recorded::Answered,
        };
        let classes = config.domains.iter().map(|domain| {
            let class = CallClass {
                domain: domain.name.clone().into_bytes(),
                recorded,
                ..CallClass::default()
            };
            (domain.name.clone(), Arc::new(class))
        });
        Self {
            classes: classes.collect(),
            foreign: Arc::new(CallClass {
                recorded,
                ..CallClass::default()
            }),
        }
    }

    /// The plan for a call to this URI, of the domain that is called, else of the caller's.
    pub(crate) fn plan(&self, router: &Router, uri: &Uri<'_>, question: &Question<'_>) -> CallPlan {
        let called = uri.host.and_then(|host| router.domain(host));
        let domain = called.or_else(|| {
            let from = question.message.from().ok()?;
            router.domain(from.uri.host?)
        });
        let class = domain.and_then(|domain| self.classes.get(&domain.name));
        CallPlan {
            class: Some(Arc::clone(class.unwrap_or(&self.foreign))),
            limits: Vec::new(),
        }
    }
}
