//! What is to come of a request: parts that most requests have none of, each announced by a bit.

use stdx::Instant;

use super::bytes::{Reader, Writer};
use crate::{
    ask::Target,
    call::Bye,
    context::{Branch, Context, Rest},
    hidden::Hidden,
};

/// Bits of the byte that begins the plan of a context: which parts of it follow.
const GROUPS: u8 = 1;
const RECURSES: u8 = 2;
const CONTACTS: u8 = 4;
const LOCAL: u8 = 8;
const GROUP_DESTINATIONS: u8 = 16;
const CALL: u8 = 32;
const HIDDEN: u8 = 64;
const BYE: u8 = 128;
/// Those of a branch.
const REST: u8 = 1;
const HOP_AT: u8 = 2;
const BACKUPS: u8 = 4;
const FROM: u8 = 8;
const LATE: u8 = 16;
const DESTINATION: u8 = 32;
const DESTINATIONS: u8 = 64;

/// What is to come after the branches that there are; nothing at all for most requests.
pub(super) fn encode_plan(context: &Context, to: &mut Writer<'_>) {
    let part = |bit: u8, is_there: bool| if is_there { bit } else { 0 };
    let in_groups = || context.groups.iter().flatten();
    let bye = context.call.and_then(|call| call.bye);
    let parts = part(GROUPS, !context.groups.is_empty())
        | part(RECURSES, context.recurses)
        | part(CONTACTS, context.contacts.is_some())
        | part(LOCAL, context.listener.ip.is_some())
        | part(GROUP_DESTINATIONS, in_groups().any(Target::has_destination))
        | part(CALL, context.call.is_some())
        | part(HIDDEN, context.hidden.is_some())
        | part(BYE, bye.is_some());
    if parts == 0 {
        return;
    }
    to.byte(parts);
    if !context.groups.is_empty() {
        to.word(context.group_at.map_or(0, Instant::as_nanos));
        to.list(&context.groups, |to, group| {
            to.list(group, |to, target| to.target(target));
        });
    }
    if context.recurses {
        to.list(&context.tried, |to, &mark| to.word(mark));
    }
    if context.contacts.is_some() {
        to.child(context.contacts);
    }
    if let Some(ip) = context.listener.ip {
        to.ip(ip);
    }
    if parts & GROUP_DESTINATIONS != 0 {
        for target in in_groups() {
            to.destinations(target);
        }
    }
    if let Some(call) = &context.call {
        to.call(call);
    }
    if let Some(hidden) = context.hidden {
        to.out.extend_from_slice(&hidden.encode());
    }
    if let Some(bye) = bye {
        to.word(bye.at.as_nanos());
        to.byte(u8::from(bye.early));
    }
}

pub(super) fn decode_plan(from: &mut Reader<'_>, context: &mut Context) -> Option<()> {
    // A release that knew of no plan, or a request that has none.
    let Some(parts) = from.byte() else {
        return Some(());
    };
    if parts & GROUPS != 0 {
        context.group_at = from.instant()?;
        context.groups = from.list(|from| from.list(Reader::target))?;
    }
    if parts & RECURSES != 0 {
        context.recurses = true;
        context.tried = from.list(Reader::word)?;
    }
    if parts & CONTACTS != 0 {
        context.contacts = from.child()?;
    }
    if parts & LOCAL != 0 {
        context.listener.ip = Some(from.ip()?);
    }
    if parts & GROUP_DESTINATIONS != 0 {
        for target in context.groups.iter_mut().flatten() {
            from.destinations(target)?;
        }
    }
    if parts & CALL != 0 {
        context.call = Some(from.call()?);
    }
    if parts & HIDDEN != 0 {
        let bytes = [from.byte()?, from.byte()?, from.byte()?, from.byte()?];
        context.hidden = Some(Hidden::decode(bytes)?);
    }
    if parts & BYE != 0 {
        let bye = Some(Bye {
            at: Instant::from_nanos(from.word()?),
            early: from.byte()? != 0,
        });
        if let Some(call) = &mut context.call {
            call.bye = bye;
        }
    }
    Some(())
}

pub(super) fn encode_branch_plan(branch: &Branch, to: &mut Writer<'_>) {
    let part = |bit: u8, is_there: bool| if is_there { bit } else { 0 };
    let backups = branch
        .waiting
        .as_ref()
        .map(|target| &target.backups)
        .filter(|backups| !backups.is_empty());
    let rest = branch.rest.as_ref().map(|rest| &rest.target);
    let targets = || branch.waiting.as_deref().into_iter().chain(rest);
    let parts = part(REST, branch.rest.is_some())
        | part(HOP_AT, branch.hop_at.is_some())
        | part(BACKUPS, backups.is_some())
        | part(FROM, branch.listener.ip.is_some())
        | part(LATE, branch.late_until.is_some())
        | part(DESTINATION, branch.destination.is_some())
        | part(DESTINATIONS, targets().any(Target::has_destination));
    if parts == 0 {
        return;
    }
    to.byte(parts);
    if let Some(rest) = &branch.rest {
        to.target(&rest.target);
        to.list(&rest.hops, |to, hop| to.address(hop));
    }
    if branch.hop_at.is_some() {
        to.word(branch.hop_at.map_or(0, Instant::as_nanos));
    }
    if let Some(backups) = backups {
        to.list(backups, |to, backup| to.text(Some(&backup.uri)));
    }
    if let Some(ip) = branch.listener.ip {
        to.ip(ip);
    }
    if branch.late_until.is_some() {
        to.word(branch.late_until.map_or(0, Instant::as_nanos));
    }
    if branch.destination.is_some() {
        to.destination(branch.destination);
        to.word(branch.sent_at.map_or(0, Instant::as_nanos));
    }
    if parts & DESTINATIONS != 0 {
        for target in targets() {
            to.destinations(target);
        }
    }
}

pub(super) fn decode_branch_plan(from: &mut Reader<'_>, branch: &mut Branch) -> Option<()> {
    let Some(parts) = from.byte() else {
        return Some(());
    };
    if parts & REST != 0 {
        branch.rest = Some(Box::new(Rest {
            target: from.target()?,
            hops: from.list(Reader::address)?,
        }));
    }
    if parts & HOP_AT != 0 {
        branch.hop_at = from.instant()?;
    }
    if parts & BACKUPS != 0 {
        let backups = from.backups()?;
        if let Some(target) = &mut branch.waiting {
            target.backups = backups;
        }
    }
    if parts & FROM != 0 {
        branch.listener.ip = Some(from.ip()?);
    }
    if parts & LATE != 0 {
        branch.late_until = from.instant()?;
    }
    if parts & DESTINATION != 0 {
        branch.destination = from.destination()?;
        branch.sent_at = from.instant()?;
    }
    if parts & DESTINATIONS != 0 {
        let rest = branch.rest.as_mut().map(|rest| &mut rest.target);
        for target in branch.waiting.as_deref_mut().into_iter().chain(rest) {
            from.destinations(target)?;
        }
    }
    Some(())
}
