//! A context as bytes in the arena, for the heir (DESIGN §3, table `transaction`).
//!
//! The body is self-versioned. Blocks (stored requests and responses) are children of the row; the body names them by their
//! place in the list of children. Everything is read with distrust: a record that does not decode is dropped and counted.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use shm::{Block, Record};
use sip::Method;
use stdx::Instant;
use transaction::{
    IMAGE_BYTES, Image, InviteClient, InviteServer, NonInviteClient, NonInviteServer,
};

use crate::{
    ask::Target,
    context::{Branch, Cancel, Client, Context, ContextId, Kept, Row, Server, Stage},
    settings::Settings,
};

/// Version of the body's format.
const FORMAT: u8 = 1;
/// "No block" where the place of a child is expected.
const NO_CHILD: u8 = u8::MAX;
/// Bits of the byte of flags.
const CANCELLED: u8 = 1;
const SHA256: u8 = 2;

/// Appends the body to `out` and its blocks to `children`.
pub fn encode(context: &Context, out: &mut Vec<u8>, children: &mut Vec<Block>) {
    let mut to = Writer { out, children };
    to.byte(FORMAT);
    to.byte(context.stage as u8);
    to.byte(method_byte(context.method));
    let cancelled = if context.cancelled { CANCELLED } else { 0 };
    let sha256 = if context.sha256 { SHA256 } else { 0 };
    to.byte(cancelled | sha256);
    to.word(context.turn);
    to.word(context.fold);
    to.word(context.trying_at.map_or(0, Instant::as_nanos));
    to.short(context.asked);
    to.half(context.listener);
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
        encode_branch(branch, &mut to);
    }
}

fn encode_branch(branch: &Branch, to: &mut Writer<'_>) {
    to.byte(branch.number);
    to.byte(u8::from(branch.rang));
    to.short(branch.code);
    to.half(branch.listener);
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
            to.half(target.listener.map_or(0, |id| id.wrapping_add(1)));
        }
    }
}

/// Whether an heir must take this record over before it serves anything: it is under way, or a turn after `done` changed it.
pub fn is_urgent(record: &Record<'_>, done: u64) -> bool {
    let mut from = Reader {
        rest: record.payload,
        children: record.children,
    };
    let mut read = || {
        let (format, stage) = (from.byte()?, from.byte()?);
        let (_method, _flags, turn) = (from.byte()?, from.byte()?, from.word()?);
        Some(format != FORMAT || stage != Stage::Answered as u8 || turn > done)
    };
    // What can't be read is looked at, and dropped, at once.
    read().unwrap_or(true)
}

/// Reads a record back.
pub fn decode(
    record: &Record<'_>,
    id: ContextId,
    settings: &Arc<Settings>,
) -> Option<Box<Context>> {
    let mut from = Reader {
        rest: record.payload,
        children: record.children,
    };
    if from.byte()? != FORMAT {
        return None;
    }
    let stage = Stage::decode(from.byte()?)?;
    let method = METHODS.get(usize::from(from.byte()?)).copied()?;
    let flags = from.byte()?;
    let turn = from.word()?;
    let fold = from.word()?;
    let trying_at = from.instant()?;
    let asked = from.short()?;
    let listener = from.half()?;
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
        .map(|_| decode_branch(&mut from))
        .collect::<Option<Vec<_>>>()?;
    Some(Box::new(Context {
        id,
        settings: Arc::clone(settings),
        key: record.key.to_vec(),
        row: Row::Live(record.row, record.version),
        fold,
        stage,
        method,
        listener,
        source,
        reply_to,
        server,
        request,
        branches,
        best,
        challenges,
        last,
        realm,
        sha256: flags & SHA256 != 0,
        trying_at,
        cancelled: flags & CANCELLED != 0,
        asked,
        dirty: false,
        turn,
        armed: None,
    }))
}

fn decode_branch(from: &mut Reader<'_>) -> Option<Branch> {
    Some(Branch {
        number: from.byte()?,
        rang: from.byte()? != 0,
        code: from.short()?,
        listener: from.half()?,
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
                listener: from.half()?.checked_sub(1),
            })),
            _ => return None,
        },
    })
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
        match address.ip() {
            IpAddr::V4(ip) => {
                self.byte(4);
                self.out.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                self.byte(6);
                self.out.extend_from_slice(&ip.octets());
            }
        }
        self.short(address.port());
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

struct Reader<'r> {
    rest: &'r [u8],
    children: &'r [Block],
}

impl Reader<'_> {
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
        let ip = match self.byte()? {
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)),
            _ => return None,
        };
        Some(SocketAddr::new(ip, self.short()?))
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
