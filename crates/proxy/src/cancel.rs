//! CANCEL on its way downstream (§9.1, §16.7 step 10, §16.10).

use failpoint::failpoint;
use sip::build;
use tables::Counter;
use transaction::{Actions, ClientInput, NonInviteClient, Reliability};

use crate::{
    context::{Branch, Cancel, Context},
    step::Step,
};

impl Step<'_, '_> {
    /// Ends an INVITE that has no final answer: whoever sent it wants no more of it.
    pub(crate) fn cancel_context(&mut self, context: &mut Context) {
        context.cancelled = true;
        context.stop_here();
        self.touch(context);
        self.cancel_pending(context);
        if context.branches.is_empty() {
            self.answer_local(context, None, 487, None, b"");
        } else {
            // None of them may have been sent yet.
            self.conclude(context, None);
        }
    }

    /// Cancels every branch that has no final response (§16.7 step 10, §16.10).
    pub(crate) fn cancel_pending(&mut self, context: &mut Context) {
        if !context.is_invite() {
            return;
        }
        failpoint!("proxy.broken.unwanted", return);
        let pending: Vec<u8> = context
            .branches
            .iter()
            .filter(|branch| branch.is_pending())
            .map(|branch| branch.number)
            .collect();
        for number in pending {
            self.cancel_branch(context, number);
        }
    }

    /// Cancels one branch, at once if it has shown a sign of life (§9.1).
    pub(crate) fn cancel_branch(&mut self, context: &mut Context, number: u8) {
        let (now, timers) = (self.env.now, &self.settings.timers);
        let limit = now.saturating_add(timers.limit());
        let machine = NonInviteClient::new(now, timers, Reliability::Unreliable);
        let Some(branch) = context.branch(number) else {
            return;
        };
        if matches!(branch.cancel, Cancel::Sent(_) | Cancel::Done) {
            return;
        }
        branch.rest = None;
        branch.hop_at = None;
        if branch.sent.is_none() {
            // Its address is still being looked up: it was never sent.
            branch.waiting = None;
            branch.code = 487;
            self.consider_made_up(context, 487);
            return;
        }
        if !branch.rang {
            branch.cancel = Cancel::Wanted;
            return;
        }
        branch.cancel = Cancel::Sent(machine);
        branch.timer_c = Some(limit);
        self.env.count(Counter::Cancelled);
        self.send_cancel(context, number);
    }

    /// Writes the CANCEL of a branch; it is made from the INVITE each time.
    pub(crate) fn send_cancel(&mut self, context: &mut Context, number: u8) {
        failpoint!("proxy.broken.cancel_lost", return);
        let Some(branch) = context.branch(number) else {
            return;
        };
        let (listener, to, Some(sent)) = (branch.listener, branch.to, branch.sent) else {
            return;
        };
        let start = self.out.bytes.len();
        self.with_stored(sent, |step, stored| {
            // A failure leaves nothing behind, and then nothing is sent.
            let _ = build::cancel_for(*stored, &mut step.out.bytes);
            failpoint!("proxy.broken.cancel_cseq", {
                let end = step.out.bytes.windows(8).rposition(|at| at == b" CANCEL\r");
                if let Some(end) = end {
                    step.out.bytes.insert(end, b'1');
                }
            });
        });
        self.queue_from(start, listener, to);
    }

    /// The answer to a CANCEL of ours only ends the CANCEL's own transaction.
    pub(crate) fn on_cancel_response(&mut self, branch: &mut Branch, code: u16) {
        self.env.count(Counter::ResponseAbsorbed);
        if let Cancel::Sent(machine) = branch.cancel {
            let mut ignored = Actions::new();
            let next = machine.step(
                self.env.now,
                &self.settings.timers,
                ClientInput::Response(code),
                &mut ignored,
            );
            branch.cancel = next.map_or(Cancel::Done, Cancel::Sent);
        }
    }
}
