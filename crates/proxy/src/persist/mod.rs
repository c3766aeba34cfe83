//! A context as bytes in the arena, for the heir, table `transaction`.
//!
//! ```text
//! TransactionRow | source, reply_to | server's machine | request, best, challenges, last | realm | branches u8, (length u16 | branch, its plan) | plan
//! ```
//!
//! The header is `tables`'; a release may add to it, at the end of a branch and behind the last one, without a new version: what a reader does not know, it
//! skips. Blocks (stored requests and responses) are children of the row; the body names them by their
//! place in the list of children. Everything is read with distrust: a record that does not decode is dropped and counted.

mod bytes;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use shm::{Block, Record};
use sip::Method;
use stdx::Instant;
use tables::{
    row::{FromZeros, Header, IntoBytes},
    transaction::TransactionRow,
};
use transaction::{InviteClient, InviteServer, NonInviteClient, NonInviteServer};

use crate::{
    ask::Target,
    context::{Branch, Cancel, Client, Context, ContextId, Origin, Row, Server, Stage},
    settings::Settings,
};

use bytes::{Reader, Writer};
use plan::{decode_branch_plan, decode_plan, encode_branch_plan, encode_plan};

/// Bits of the byte of flags.
const CANCELLED: u8 = 1;
/// The lowest of three: algorithms offered besides the configured ones.
const OFFERS_SHIFT: u32 = 4;

/// Appends the body to `out` and its blocks to `children`.
pub fn encode(context: &Context, out: &mut Vec<u8>, children: &mut Vec<Block>) {
    let mut to = Writer { out, children };
    let mut row = TransactionRow::new_zeroed();
    row.begin(context.stage as u8);
    row.method = method_byte(context.method);
    let cancelled = if context.cancelled { CANCELLED } else { 0 };
    row.flags = cancelled | context.offers.bits() << OFFERS_SHIFT;
    row.asked = context.asked.into();
    row.listener = context.listener.id.into();
    row.turn = context.turn.into();
    row.fold = context.fold.into();
    row.trying_at = tables::row::word(context.trying_at);
    to.out.extend_from_slice(row.as_bytes());
    to.address(&context.source);
    to.address(&context.reply_to);
    match &context.server {
        None => to.byte(0),
        Some(Server::Invite(machine)) => to.image(1, &machine.encode()),
        Some(Server::NonInvite(machine)) => to.image(2, &machine.encode()),
    }
    to.child(context.request);
    to.kept(context.best);
    to.child(context.challenges);
    to.kept(context.last);
    to.text(
        Some(&context.realm)
            .filter(|realm| !realm.is_empty())
            .map(Vec::as_slice),
    );
    to.byte(u8::try_from(context.branches.len()).unwrap_or(u8::MAX));
    for branch in &context.branches {
        let start = to.out.len();
        to.short(0);
        encode_branch(branch, &mut to);
        let bytes = to.out.len().saturating_sub(start).saturating_sub(2);
        // A branch holds what came in one datagram, and little else.
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        if let Some(length) = to.out.get_mut(start..).and_then(|b| b.first_chunk_mut()) {
            *length = bytes.to_le_bytes();
        }
    }
    encode_plan(context, &mut to);
}

fn encode_branch(branch: &Branch, to: &mut Writer<'_>) {
    to.byte(branch.number);
    to.byte(u8::from(branch.rang));
    to.short(branch.code);
    to.half(branch.listener.id);
    to.address(&branch.to);
    match &branch.client {
        None => to.byte(0),
        Some(Client::Invite(machine)) => to.image(1, &machine.encode()),
        Some(Client::NonInvite(machine)) => to.image(2, &machine.encode()),
    }
    match &branch.cancel {
        Cancel::No => to.byte(0),
        Cancel::Wanted => to.byte(1),
        Cancel::Sent(machine) => to.image(2, &machine.encode()),
        Cancel::Done => to.byte(3),
    }
    to.word(branch.timer_c.map_or(0, Instant::as_nanos));
    to.child(branch.sent);
    match &branch.waiting {
        None => to.byte(0),
        Some(target) => {
            to.byte(1);
            to.text(target.uri.as_deref());
            to.text(target.next_hop.as_deref());
            to.text(target.path.as_deref());
            to.entrance(target);
        }
    }
    encode_branch_plan(branch, to);
}

/// Whether an heir must take this record over before it serves anything: a turn after `done` changed it, and what that turn sent may not have gone out, or a
/// question about the request itself is open.
pub fn is_urgent(record: &Record<'_>, done: u64) -> bool {
    // What can't be read is looked at, and dropped, at once.
    TransactionRow::read(record.payload).is_none_or(|(row, _)| {
        let rests = [Stage::Forwarding, Stage::Answered].map(|stage| stage as u8);
        !rests.contains(&row.kind) || row.turn.get() > done
    })
}

/// Reads a record back.
pub fn decode(
    record: &Record<'_>,
    id: ContextId,
    settings: &Arc<Settings>,
) -> Option<Box<Context>> {
    let (row, rest) = TransactionRow::read(record.payload)?;
    let stage = Stage::decode(row.kind)?;
    let method = METHODS.get(usize::from(row.method)).copied()?;
    let mut from = Reader {
        rest,
        children: record.children,
    };
    let source = from.address()?;
    let reply_to = from.address()?;
    let server = match from.byte()? {
        0 => None,
        1 => Some(Server::Invite(InviteServer::decode(&from.image()?)?)),
        2 => Some(Server::NonInvite(NonInviteServer::decode(&from.image()?)?)),
        _ => return None,
    };
    let request = from.child()?;
    let best = from.kept()?;
    let challenges = from.child()?;
    let last = from.kept()?;
    let realm = from.text()?.unwrap_or_default();
    let count = from.byte()?;
    let branches = (0..count)
        .map(|_| {
            let bytes = usize::from(from.short()?);
            let mut branch = from.split(bytes)?;
            decode_branch(&mut branch)
        })
        .collect::<Option<Vec<_>>>()?;
    let origin = Origin {
        key: record.key,
        fold: row.fold.get(),
        method,
        listener: row.listener.get().into(),
        source,
        reply_to,
    };
    let mut context = Box::new(Context {
        row: Row::Live(record.row, record.version),
        stage,
        server,
        request,
        branches,
        best,
        challenges,
        last,
        realm,
        offers: auth::Algorithms::of_bits(row.flags >> OFFERS_SHIFT),
        trying_at: tables::row::instant(row.trying_at),
        cancelled: row.flags & CANCELLED != 0,
        asked: row.asked.get(),
        dirty: false,
        turn: row.turn.get(),
        ..Context::new(id, settings, &origin)
    });
    decode_plan(&mut from, &mut context)?;
    if context.request.is_none() {
        // There was no memory to keep it.
        context.stop_here();
    }
    Some(context)
}

fn decode_branch(from: &mut Reader<'_>) -> Option<Branch> {
    let mut branch = Branch {
        number: from.byte()?,
        rang: from.byte()? != 0,
        code: from.short()?,
        listener: from.half()?.into(),
        to: from.address()?,
        client: match from.byte()? {
            0 => None,
            1 => Some(Client::Invite(InviteClient::decode(&from.image()?)?)),
            2 => Some(Client::NonInvite(NonInviteClient::decode(&from.image()?)?)),
            _ => return None,
        },
        cancel: match from.byte()? {
            0 => Cancel::No,
            1 => Cancel::Wanted,
            2 => Cancel::Sent(NonInviteClient::decode(&from.image()?)?),
            3 => Cancel::Done,
            _ => return None,
        },
        timer_c: from.instant()?,
        sent: from.child()?,
        waiting: match from.byte()? {
            0 => None,
            1 => Some(Box::new(Target {
                uri: from.text()?,
                next_hop: from.text()?,
                path: from.text()?,
                ..from.entrance()?
            })),
            _ => return None,
        },
        rest: None,
        hop_at: None,
        late_until: None,
        destination: None,
        sent_at: None,
    };
    decode_branch_plan(from, &mut branch)?;
    Some(branch)
}

/// Only what the proxy tells apart matters; the request line itself is in the stored request.
const METHODS: [Method; 3] = [Method::Invite, Method::Ack, Method::Other];

fn method_byte(method: Method) -> u8 {
    match method {
        Method::Invite => 0,
        Method::Ack => 1,
        _ => 2,
    }
}
