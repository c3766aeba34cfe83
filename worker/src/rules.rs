//! What a worker makes of a configuration, with no process around it: for simulations.

use std::sync::Arc;

use config::Config;
use proxy::{Addresses, Answer, AskKind, Question, Settings};
use stdx::hash::Key;

pub use crate::active::Listeners;
use crate::{
    accounts::Accounts,
    active::{Active, Given},
    names::Names,
    policy::Policy,
};

/// The script-free router and the machine's settings, as every slot has them.
#[derive(Debug)]
pub struct Rules {
    active: Active,
    policy: Policy,
}

impl Rules {
    pub fn new(config: Arc<Config>, listeners: &Listeners, dialog_key: Key) -> Self {
        let accounts = Arc::new(Accounts::new(&config));
        let tables = Arc::default();
        let policy = Policy::new(&config, Arc::clone(&accounts), &tables, 0);
        Self {
            active: Active::new(
                1,
                Given {
                    config,
                    accounts,
                    tables,
                },
                listeners,
                &Names::none(),
                Addresses::default(),
                dialog_key,
            ),
            policy,
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.active.settings
    }

    /// Answers one question of the machine. No name has an address here.
    pub fn answer(&self, kind: AskKind, question: &Question<'_>) -> Answer {
        self.policy.answer(kind, question)
    }
}
