//! Redirections that the proxy follows by itself (§16.7 step 4), where the domain or the rule wants that.
//!
//! The contacts of a 3xx become targets, in groups of equal q, whose turn is next. No URI becomes a target twice, and all targets together are no more than
//! `Settings::branches_max`, so that redirections in a circle end. What we cannot follow is left to the caller.

use failpoint::failpoint;
use sip::{
    HeaderName, Message, NameAddr, Patch,
    uri::{Aor, Scheme, Uri},
};
use stdx::hash::hash64;
use tables::Counter;

use crate::{
    ask::Target,
    context::Context,
    forward::BRANCHES_MAX,
    registration, serial,
    step::{Hand, Step},
};

/// Longest contact that becomes a target: it waits in the record.
const CONTACT_BYTES_MAX: usize = 1024;

impl Step<'_, '_> {
    /// Notes whether redirections of this request are followed, and who has been asked already.
    pub(crate) fn begin_recursion(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        targets: &[Target],
    ) {
        let Some(line) = hand.message.request() else {
            return;
        };
        let by_rule = targets.iter().any(|target| target.recurse);
        // Within a dialog a redirection is for the caller to think about.
        if hand.intake.within_dialog || !(by_rule || self.domain_recurses(line.uri)) {
            return;
        }
        context.recurses = true;
        let asked = targets
            .iter()
            .chain(context.groups.iter().flatten())
            .filter_map(|target| target.uri.as_deref());
        let mut tried: Vec<u64> = [line.uri]
            .into_iter()
            .chain(asked)
            .map(|uri| self.mark_of(uri))
            .collect();
        tried.dedup();
        context.tried = tried;
    }

    fn domain_recurses(&self, uri: &[u8]) -> bool {
        // The most of all configurations have no such domain, and this is read for every request.
        self.settings.domains.iter().any(|domain| domain.recurse)
            && Uri::parse(uri)
                .ok()
                .and_then(|uri| self.settings.domain_of(&uri))
                .is_some_and(|domain| domain.recurse)
    }

    /// Keeps a failure for the caller, or follows it, if it is a redirection that is to be followed.
    pub(crate) fn consider_or_follow(
        &mut self,
        context: &mut Context,
        message: &Message<'_>,
        code: u16,
    ) {
        let follows = context.recurses && !context.cancelled && matches!(code, 300..=302 | 305);
        let followed = if follows {
            self.follow(context, message, code)
        } else {
            Followed::default()
        };
        if followed.count == 0 {
            self.consider(context, message, code);
            return;
        }
        self.env.count(Counter::Redirected);
        self.touch(context);
        if followed.left.is_empty() {
            // "the proxy SHOULD NOT add the resulting contactless response"
            return;
        }
        // What was followed is removed from what the caller gets to see.
        let start = self.out.bytes.len();
        let mut patch = Patch::new(*message);
        let changed = patch.remove_all(HeaderName::Contact).is_ok()
            && followed
                .left
                .iter()
                .all(|contact| patch.append(HeaderName::Contact, contact).is_ok());
        let mut text = Vec::new();
        if changed {
            patch.write(&mut text);
        }
        let mut layout = sip::Layout::new();
        if let Ok(message) = sip::parse(&text, &mut layout) {
            self.consider(context, &message, code);
        }
        self.out.bytes.truncate(start);
    }

    /// Makes targets of the contacts of a redirection.
    fn follow(&mut self, context: &mut Context, message: &Message<'_>, code: u16) -> Followed {
        let mut followed = Followed::default();
        let mut targets = Vec::new();
        let waiting: usize = context.groups.iter().map(Vec::len).sum();
        let most = self.settings.branches_max.min(BRANCHES_MAX);
        let mut room = most.saturating_sub(context.branches.len().saturating_add(waiting));
        for value in message.values(HeaderName::Contact) {
            let contact = NameAddr::parse(value.value)
                .ok()
                .filter(|contact| contact.uri.text.len() <= CONTACT_BYTES_MAX && room > 0);
            // A sips: or tel: URI, a web page: nothing that we could send to.
            let Some(contact) = contact.filter(|contact| contact.uri.scheme == Scheme::Sip) else {
                followed.left.push(value.value.to_vec());
                continue;
            };
            followed.count = followed.count.saturating_add(1);
            let mark = self.mark_of(contact.uri.text);
            if context.tried.contains(&mark) {
                continue;
            }
            context.tried.push(mark);
            let q = contact.q().map_or(1000, sip::Q::thousandths);
            let before = targets.len();
            self.targets_of(&contact.uri, code, q, &mut targets);
            targets.truncate(before.saturating_add(room));
            // The bindings of a user of ours may have been asked already, or be named by a later redirection.
            for target in targets.split_off(before) {
                let binding = target.uri.as_deref().map(|uri| self.mark_of(uri));
                let binding = binding.filter(|&binding| binding != mark);
                if binding.is_some_and(|binding| context.tried.contains(&binding)) {
                    continue;
                }
                context.tried.extend(binding);
                targets.push(target);
            }
            room = room.saturating_sub(targets.len().saturating_sub(before));
        }
        let mut groups = serial::grouped(targets, BRANCHES_MAX);
        groups.append(&mut context.groups);
        context.groups = groups;
        followed
    }

    /// The targets that a contact stands for: itself, or the bindings of a user of ours.
    fn targets_of(&mut self, contact: &Uri<'_>, code: u16, q: u16, targets: &mut Vec<Target>) {
        let uri = registration::request_uri(contact.text);
        if code == 305 {
            // A proxy that the Request-URI is to be sent through (§21.3.4).
            targets.push(Target {
                q,
                ..Target::next_hop(uri)
            });
            return;
        }
        if self.settings.domain_of(contact).is_none() {
            targets.push(Target {
                q,
                ..Target::uri(uri)
            });
            return;
        }
        let first = targets.len();
        registration::targets(self.env, contact, targets);
        for target in targets.iter_mut().skip(first) {
            target.q = q;
        }
    }

    /// What stands for a URI in [`Context::tried`]: user, host and port, whatever its parameters say.
    fn mark_of(&self, uri: &[u8]) -> u64 {
        failpoint!("proxy.broken.circle", self.env.now.as_nanos());
        let mut aor = Vec::new();
        let parsed = Uri::parse(uri);
        let port = parsed
            .as_ref()
            .map_or(0, |uri| uri.port.unwrap_or_default());
        match parsed.map(|uri| Aor::of(&uri, &mut aor).map(|aor| aor.as_bytes())) {
            Ok(Ok(aor)) => hash64(self.key, &[b"tried", aor, &port.to_be_bytes()]),
            _ => hash64(self.key, &[b"tried", uri]),
        }
    }
}

/// What became of the contacts of a redirection.
#[derive(Default)]
struct Followed {
    /// How many are no business of the caller any more.
    count: usize,
    /// Those that are left to it, as they came.
    left: Vec<Vec<u8>>,
}
