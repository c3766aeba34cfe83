//! Targets by preference: one group of equal q after another (§16.6, §16.7).
//!
//! The next group has its turn when every branch of the one before has failed, but for a 6xx, or has had its time: then what still rings is cancelled first.

use failpoint::failpoint;
use tables::Counter;

use crate::{
    ask::Target,
    context::Context,
    hops,
    step::{Hand, Step},
};

impl Step<'_, '_> {
    /// Puts targets of different q in groups: returns the first, the others wait in the context. `None`: they are all to be tried at once.
    pub(crate) fn in_groups(
        &self,
        context: &mut Context,
        targets: &[Target],
        most: usize,
    ) -> Option<Vec<Target>> {
        failpoint!("proxy.broken.by_q", None);
        let q = targets.first()?.q;
        if !self.settings.forking.by_q || targets.iter().all(|target| target.q == q) {
            return None;
        }
        context.groups = grouped(targets.to_vec(), most);
        let first = (!context.groups.is_empty()).then(|| context.groups.remove(0));
        Some(first.unwrap_or_default())
    }

    /// Begins the next group of targets; false if there is none, or nobody wants it any more. `hand` is the request, if it is at hand.
    pub(crate) fn next_group(&mut self, context: &mut Context, hand: Option<&Hand<'_>>) -> bool {
        failpoint!("proxy.broken.next_group", false);
        let wanted = !context.cancelled && context.best.is_none_or(|best| best.code < 600);
        if context.groups.is_empty() || !wanted {
            return false;
        }
        let group = context.groups.remove(0);
        let begun = match hand {
            Some(hand) => {
                self.start_group(context, hand, &group);
                true
            }
            None => self
                .with_request(context, |step, context, hand| {
                    step.start_group(context, hand, &group)
                })
                .is_some(),
        };
        if begun {
            self.env.count(Counter::NextTargets);
            self.touch(context);
        } else {
            // There was no memory to keep the request.
            context.stop_here();
        }
        begun
    }

    /// A group has a limit as long as others wait for it.
    pub(crate) fn time_group(&self, context: &mut Context) {
        let limit = self.settings.forking.serial_timeout;
        context.group_at = (!context.groups.is_empty()).then(|| self.env.now.saturating_add(limit));
    }

    /// The group at hand has had its time: what still rings is cancelled, and the next one has its turn.
    pub(crate) fn on_group_timeout(&mut self, context: &mut Context) {
        context.group_at = None;
        if context.groups.is_empty() {
            return;
        }
        if context.is_invite() {
            self.cancel_pending(context);
            return;
        }
        for branch in &mut context.branches {
            branch.rest = None;
            if branch.is_pending() {
                hops::abandon(branch, None);
            }
        }
    }
}

/// The best `most` of the targets, in groups of equal q; the order within a group stays.
pub(crate) fn grouped(mut targets: Vec<Target>, most: usize) -> Vec<Vec<Target>> {
    targets.sort_by_key(|target| std::cmp::Reverse(target.q));
    targets.truncate(most);
    let mut groups: Vec<Vec<Target>> = Vec::new();
    for target in targets {
        match groups.last_mut() {
            Some(group) if group.first().is_some_and(|first| first.q == target.q) => {
                group.push(target)
            }
            _ => groups.push(vec![target]),
        }
    }
    groups
}
