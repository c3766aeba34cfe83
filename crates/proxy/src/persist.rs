//! A context as bytes in the arena, for the heir, table `transaction`.
//!
//! ```text
//! TransactionRow | source, reply_to | server's machine | request, best, challenges, last | realm | branches u8, (length u16 | branch, its plan) | plan
//! ```
//!
//! The header is `tables`'; a release may add to it, at the end of a branch and behind the last one, without a new version: what a reader does not know, it
//! skips. Blocks (stored requests and responses) are children of the row; the body names them by their
//! place in the list of children. Everything is read with distrust: a record that does not decode is dropped and counted.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use shm::{Block, Record, RowRef};
use sip::Method;
use stdx::Instant;
use tables::{
    row::{FromZeros, Header, IntoBytes},
    transaction::TransactionRow,
};
use transaction::{
    IMAGE_BYTES, Image, InviteClient, InviteServer, NonInviteClient, NonInviteServer,
};

use crate::{
    ask::{Backup, Destination, Target},
    call::{CallRef, Role, session::SessionAsk},
    context::{Branch, Cancel, Client, Context, ContextId, Kept, Origin, Rest, Row, Server, Stage},
    hidden::Hidden,
    settings::Settings,
};

/// "No block" where the place of a child is expected.
const NO_CHILD: u8 = u8::MAX;
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

/// Bits of the byte that begins the plan of a context: which parts of it follow.
const GROUPS: u8 = 1;
const RECURSES: u8 = 2;
const CONTACTS: u8 = 4;
const LOCAL: u8 = 8;
const GROUP_DESTINATIONS: u8 = 16;
const CALL: u8 = 32;
const HIDDEN: u8 = 64;
/// Those of a branch.
const REST: u8 = 1;
const HOP_AT: u8 = 2;
const BACKUPS: u8 = 4;
const FROM: u8 = 8;
const LATE: u8 = 16;
const DESTINATION: u8 = 32;
const DESTINATIONS: u8 = 64;

/// What is to come after the branches that there are; nothing at all for most requests.
fn encode_plan(context: &Context, to: &mut Writer<'_>) {
    let part = |bit: u8, is_there: bool| if is_there { bit } else { 0 };
    let in_groups = || context.groups.iter().flatten();
    let parts = part(GROUPS, !context.groups.is_empty())
        | part(RECURSES, context.recurses)
        | part(CONTACTS, context.contacts.is_some())
        | part(LOCAL, context.listener.ip.is_some())
        | part(GROUP_DESTINATIONS, in_groups().any(Target::has_destination))
        | part(CALL, context.call.is_some())
        | part(HIDDEN, context.hidden.is_some());
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
}

fn decode_plan(from: &mut Reader<'_>, context: &mut Context) -> Option<()> {
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
    Some(())
}

fn encode_branch_plan(branch: &Branch, to: &mut Writer<'_>) {
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

fn decode_branch_plan(from: &mut Reader<'_>, branch: &mut Branch) -> Option<()> {
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

struct Writer<'w> {
    out: &'w mut Vec<u8>,
    children: &'w mut Vec<Block>,
}

impl Writer<'_> {
    fn byte(&mut self, value: u8) {
        self.out.push(value);
    }
    fn short(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }
    fn half(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }
    fn word(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }
    fn image(&mut self, kind: u8, image: &Image) {
        self.byte(kind);
        self.out.extend_from_slice(image);
    }
    fn address(&mut self, address: &SocketAddr) {
        self.ip(address.ip());
        self.short(address.port());
    }
    fn ip(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => {
                self.byte(4);
                self.out.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                self.byte(6);
                self.out.extend_from_slice(&ip.octets());
            }
        }
    }
    fn child(&mut self, block: Option<Block>) {
        let place = match block {
            None => NO_CHILD,
            Some(block) => {
                self.children.push(block);
                u8::try_from(self.children.len().saturating_sub(1)).unwrap_or(NO_CHILD)
            }
        };
        self.byte(place);
    }
    /// At most 255 things.
    fn list<T>(&mut self, list: &[T], each: impl Fn(&mut Self, &T)) {
        let count = u8::try_from(list.len()).unwrap_or(u8::MAX);
        self.byte(count);
        for one in list.iter().take(usize::from(count)) {
            each(self, one);
        }
    }
    /// The listener of a target, one up, and its address there, which the highest bit announces.
    fn entrance(&mut self, target: &Target) {
        let listener = target.listener.map_or(0, |id| id.wrapping_add(1));
        let local = target.local.filter(|_| listener & WITH_LOCAL == 0);
        self.half(listener | if local.is_some() { WITH_LOCAL } else { 0 });
        if let Some(ip) = local {
            self.ip(ip);
        }
    }
    fn target(&mut self, target: &Target) {
        self.text(target.uri.as_deref());
        self.text(target.next_hop.as_deref());
        self.text(target.path.as_deref());
        self.entrance(target);
        self.short(target.q);
        self.byte(u8::from(target.recurse));
        self.list(&target.backups, |to, backup| to.text(Some(&backup.uri)));
    }
    /// Of a target's next hop and of its backups: an earlier release had none, so that they stand behind what it reads.
    fn destinations(&mut self, target: &Target) {
        self.destination(target.destination);
        self.list(&target.backups, |to, backup| {
            to.destination(backup.destination)
        });
    }
    fn destination(&mut self, destination: Option<Destination>) {
        self.word(destination.map_or(0, |to| to.resource.pack()));
        if let Some(to) = destination {
            self.word(to.limit.unwrap_or(u64::MAX));
        }
    }
    fn call(&mut self, call: &CallRef) {
        self.word(call.row.pack());
        self.word(call.place);
        self.byte(call.role as u8);
        self.half(call.shift.cast_unsigned());
        self.half(call.rack_shift.cast_unsigned());
        self.half(call.session.expires);
        self.half(call.session.min);
        self.byte(u8::from(call.session.supported));
    }
    fn kept(&mut self, kept: Option<Kept>) {
        self.short(kept.map_or(0, |kept| kept.code));
        self.child(kept.and_then(|kept| kept.block));
    }
    fn text(&mut self, text: Option<&[u8]>) {
        // What does not fit is no text; a datagram has nothing so long.
        let length = text.and_then(|text| u16::try_from(text.len().saturating_add(1)).ok());
        self.short(length.unwrap_or(0));
        if length.is_some() {
            self.out.extend_from_slice(text.unwrap_or_default());
        }
    }
}

/// See [`Writer::entrance`].
const WITH_LOCAL: u32 = 1 << 31;

struct Reader<'r> {
    rest: &'r [u8],
    children: &'r [Block],
}

impl Reader<'_> {
    /// The next bytes, to be read by themselves.
    fn split(&mut self, bytes: usize) -> Option<Self> {
        let (head, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(Self {
            rest: head,
            children: self.children,
        })
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*head)
    }
    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }
    fn short(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    fn half(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    fn word(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    /// 0 is none.
    fn instant(&mut self) -> Option<Option<Instant>> {
        let at = self.word()?;
        Some((at != 0).then(|| Instant::from_nanos(at)))
    }
    fn image(&mut self) -> Option<Image> {
        self.array::<IMAGE_BYTES>()
    }
    fn address(&mut self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.ip()?, self.short()?))
    }
    fn ip(&mut self) -> Option<IpAddr> {
        Some(match self.byte()? {
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)),
            _ => return None,
        })
    }
    /// The outer `None` is a broken record.
    fn child(&mut self) -> Option<Option<Block>> {
        match self.byte()? {
            NO_CHILD => Some(None),
            place => self
                .children
                .get(usize::from(place))
                .map(|&block| Some(block)),
        }
    }
    fn list<T>(&mut self, mut each: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.byte()?;
        (0..count).map(|_| each(self)).collect()
    }
    /// What [`Writer::entrance`] wrote.
    fn entrance(&mut self) -> Option<Target> {
        let word = self.half()?;
        let local = match word & WITH_LOCAL {
            0 => None,
            _ => Some(self.ip()?),
        };
        Some(Target {
            listener: (word & !WITH_LOCAL).checked_sub(1),
            local,
            ..Target::default()
        })
    }
    fn target(&mut self) -> Option<Target> {
        let (uri, next_hop, path) = (self.text()?, self.text()?, self.text()?);
        let Target {
            listener, local, ..
        } = self.entrance()?;
        Some(Target {
            uri,
            next_hop,
            path,
            listener,
            local,
            q: self.short()?,
            recurse: self.byte()? != 0,
            destination: None,
            backups: self.backups()?,
        })
    }
    fn backups(&mut self) -> Option<Vec<Backup>> {
        let uris = self.list(Reader::text)?;
        Some(uris.into_iter().flatten().map(Backup::uri).collect())
    }
    /// What [`Writer::destinations`] wrote.
    fn destinations(&mut self, target: &mut Target) -> Option<()> {
        target.destination = self.destination()?;
        let of_backups = self.list(Reader::destination)?;
        for (backup, destination) in target.backups.iter_mut().zip(of_backups) {
            backup.destination = destination;
        }
        Some(())
    }
    /// The outer `None` is a broken record.
    fn destination(&mut self) -> Option<Option<Destination>> {
        let packed = self.word()?;
        if packed == 0 {
            return Some(None);
        }
        let limit = self.word()?;
        Some(Some(Destination {
            resource: RowRef::unpack(packed),
            limit: (limit != u64::MAX).then_some(limit),
        }))
    }
    fn call(&mut self) -> Option<CallRef> {
        Some(CallRef {
            row: RowRef::unpack(self.word()?),
            place: self.word()?,
            role: Role::decode(self.byte()?)?,
            shift: self.half()?.cast_signed(),
            rack_shift: self.half()?.cast_signed(),
            session: SessionAsk {
                expires: self.half()?,
                min: self.half()?,
                supported: self.byte()? != 0,
            },
        })
    }
    fn kept(&mut self) -> Option<Option<Kept>> {
        let code = self.short()?;
        let block = self.child()?;
        Some((code != 0).then_some(Kept { code, block }))
    }
    fn text(&mut self) -> Option<Option<Vec<u8>>> {
        let Some(bytes) = usize::from(self.short()?).checked_sub(1) else {
            return Some(None);
        };
        let (text, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(Some(text.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shm::{Arena, Layout, Participant, ParticipantId, RowMeta};
    use tables::TRANSACTION;
    use transaction::{Reliability, Timers};

    use super::*;
    use crate::{
        Domain, Forking, Listener,
        context::{Branch, Rest},
    };

    fn settings() -> Arc<Settings> {
        Arc::new(Settings {
            version: 1,
            listeners: vec![Listener::new(1, "10.9.9.9:5060".parse().unwrap(), None)],
            addresses: crate::Addresses::default(),
            domains: vec![Domain::new("example.org", true)],
            timers: Timers::default(),
            timer_c: Duration::from_secs(190),
            registrar: registrar::Policy::default(),
            dialog_key: stdx::hash::Key([9; 16]),
            hiding: crate::hidden::Hiding::of_key(&stdx::hash::Key([9; 16])),
            branches_max: 12,
            forking: Forking::default(),
            media: Vec::new(),
            auth: crate::AuthPolicy::default(),
        })
    }

    fn context(settings: &Arc<Settings>) -> Context {
        let address = "10.0.0.1:5060".parse().unwrap();
        let id = ContextId {
            index: 0,
            generation: 0,
        };
        let origin = Origin {
            key: b"key",
            fold: 7,
            method: Method::Invite,
            listener: 1.into(),
            source: address,
            reply_to: address,
        };
        let mut context = Context {
            stage: Stage::Forwarding,
            realm: b"realm".to_vec(),
            asked: 3,
            dirty: false,
            turn: 4,
            ..Context::new(id, settings, &origin)
        };
        let mut branch = Branch::new(0, &context);
        branch.client = Some(Client::Invite(InviteClient::new(
            Instant::from_nanos(5),
            &Timers::default(),
            Reliability::Unreliable,
        )));
        context.branches.push(branch);
        context
    }

    fn target(uri: &str) -> Target {
        Target {
            path: Some(b"<sip:10.0.0.9;lr>".to_vec()),
            q: 300,
            backups: vec![
                Backup::uri("sip:b"),
                Backup {
                    destination: Some(Destination {
                        resource: RowRef {
                            index: 3,
                            generation: 4,
                        },
                        limit: Some(7),
                    }),
                    ..Backup::uri("sip:c")
                },
            ],
            recurse: true,
            listener: Some(2),
            local: uri.ends_with('c').then(|| IpAddr::from([192, 0, 2, 9])),
            ..Target::uri(uri)
        }
    }

    fn body(context: &Context) -> Vec<u8> {
        let (mut body, mut children) = (Vec::new(), Vec::new());
        encode(context, &mut body, &mut children);
        body
    }

    /// A record, by way of an arena.
    fn read(
        participant: &mut Participant,
        body: &[u8],
        children: &[Block],
    ) -> Option<Box<Context>> {
        let row = {
            let reserved = participant.reserve(TRANSACTION, b"key").unwrap();
            participant
                .publish(reserved, b"key", &[body], children, RowMeta::default())
                .unwrap()
        };
        let nameless = ContextId {
            index: 0,
            generation: 0,
        };
        let settings = settings();
        let found = participant
            .with(row, |record| decode(&record, nameless, &settings))
            .flatten();
        participant.remove(row, None);
        participant.quiescent();
        found
    }

    #[test]
    fn what_is_to_come_is_behind_what_an_older_release_reads() {
        let arena = Arena::heap(&Layout::new(16 << 20, 1, 1, tables::TABLES), [7; 16]).unwrap();
        let mut participant = arena.participant(ParticipantId(0));
        participant.online();
        let settings = settings();
        let plain = context(&settings);
        let before = body(&plain);
        let read_back = read(&mut participant, &before, &[]).expect("a record of before");
        assert!(read_back.groups.is_empty() && !read_back.recurses);
        assert_eq!(body(&read_back), before);

        let mut planned = context(&settings);
        planned.groups = vec![
            vec![target("sip:one"), target("sip:two")],
            vec![target("sip:three")],
        ];
        planned.group_at = Some(Instant::from_nanos(99));
        planned.recurses = true;
        planned.tried = vec![1, u64::MAX];
        planned.call = Some(CallRef {
            row: RowRef {
                index: 5,
                generation: 6,
            },
            place: 7,
            role: Role::Callee,
            shift: 0,
            rack_shift: -3,
            session: SessionAsk {
                expires: 1800,
                min: 90,
                supported: true,
            },
        });
        let with_groups = body(&planned);
        assert_eq!(with_groups.get(..before.len()), Some(before.as_slice()));

        let mut later = plain.branches[0].clone();
        later.number = 1;
        later.hop_at = Some(Instant::from_nanos(77));
        later.rest = Some(Box::new(Rest {
            target: target("sip:four"),
            hops: vec!["[::1]:5062".parse().unwrap(), "10.0.0.5:9".parse().unwrap()],
        }));
        let mut waiting = Branch::new(2, &plain);
        waiting.waiting = Some(Box::new(Target {
            backups: vec![Backup::uri("sip:d")],
            ..Target::uri("sip:five")
        }));
        planned.branches.extend([later, waiting]);
        let whole = body(&planned);
        // Without its request it cannot go on.
        let read_back = read(&mut participant, &whole, &[]).expect("a record of now");
        assert!(!read_back.may_go_on());
        let request = participant
            .allocate(3, shm::AllocClass::New)
            .unwrap()
            .fill(&[b"abc"]);
        planned.request = Some(request);
        let with_request = body(&planned);
        let read_back = read(&mut participant, &with_request, &[request]).expect("a record of now");
        assert!(read_back.may_go_on());
        assert_eq!(body(&read_back), with_request);
        assert_eq!(read_back.groups, planned.groups);

        // Of a listener on all addresses.
        let mut everywhere = context(&settings);
        everywhere.listener.ip = Some("192.0.2.7".parse().unwrap());
        everywhere.branches[0].listener.ip = Some("2001:db8::7".parse().unwrap());
        let read_back = read(&mut participant, &body(&everywhere), &[]).expect("a record of now");
        assert_eq!(read_back.listener, everywhere.listener);
        assert_eq!(
            read_back.branches[0].listener,
            everywhere.branches[0].listener
        );

        // Torn or flipped anywhere: read as something or dropped, never a panic.
        for at in 0..whole.len() {
            read(&mut participant, &whole[..at], &[]);
            let mut flipped = whole.clone();
            flipped[at] ^= 0xa5;
            read(&mut participant, &flipped, &[]);
        }
    }
}
