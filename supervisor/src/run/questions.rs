//! Questions about tables: a worker answers them, on the client's own connection.
//!
//! While the server moves to another arena there is nobody to ask: the workers of the one stand by, and those of the other may yet be let go. So a question
//! waits until that is over, and also for an heir when everybody has died.

use std::collections::VecDeque;
use std::time::Duration;

use control::TableRequest;
use stdx::Instant;

use super::clients::{ClientId, Clients};
use super::fleet::ProcessId;
use super::supervisor::Supervisor;
use super::switch::Switch;
use super::trouble::Trouble;

/// How long a question waits for somebody who can be asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// In the order in which they came; as many as there are clients at most.
pub(super) type Questions = VecDeque<Question>;

#[derive(Debug)]
pub(super) struct Question {
    client: ClientId,
    request: TableRequest,
    until: Instant,
}

impl Supervisor {
    pub(super) fn on_question(&mut self, client: ClientId, request: TableRequest) {
        let now = os::now();
        self.questions.push_back(Question {
            client,
            request,
            until: now.saturating_add(PATIENCE),
        });
        self.questions_on_time(now);
    }

    /// Gives to a worker what waits.
    pub(super) fn questions_on_time(&mut self, now: Instant) {
        for _ in 0..self.questions.len() {
            let Some(question) = self.questions.pop_front() else {
                return;
            };
            match self.who_answers() {
                // Its client has gone.
                _ if self.clients.fd(question.client).is_none() => {}
                Some(process) => self.pass_on(process, question),
                None if question.until <= now => self.refuse(
                    question.client,
                    &Trouble::new(
                        "no worker serves at the moment",
                        "ask again; `tandem status` tells more",
                    ),
                ),
                None => self.questions.push_back(question),
            }
        }
    }

    fn who_answers(&self) -> Option<ProcessId> {
        let moving = self.switch.as_ref().is_some_and(Switch::has_halted);
        self.fleet.anyone_serving().filter(|_| !moving)
    }

    /// Gives the connection to a worker, which answers on it.
    fn pass_on(&mut self, process: ProcessId, question: Question) {
        self.tables_may_change(&question.request);
        let link = self.links.get_mut(process);
        let Some((link, connection)) = link.zip(self.clients.fd(question.client)) else {
            return self.clients.forget(question.client);
        };
        let pid = link.pid;
        // One open file: what is set on ours holds for the worker's.
        let sent = Clients::lend(connection).and_then(|()| link.ask(question.request, connection));
        self.unwatch(connection);
        if let Err(error) = sent {
            tracing::warn!(pid, %error, "a worker takes no command");
        }
        // If it could not be sent the connection ends without an answer, and the command asks again.
        self.clients.forget(question.client);
    }
}
