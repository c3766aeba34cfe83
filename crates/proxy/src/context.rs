//! One request on its way: the server transaction, the branches and the response context of RFC 3261 §16.
//!
//! A context on the heap is a working copy. Its record in the arena is written by [`crate::persist`] before anything that
//! follows from a change is sent, so that an heir finds what it needs.

use std::{net::SocketAddr, sync::Arc};

use shm::{Block, InsertError, Reserved, RowRef, Version};
use sip::Method;
use stdx::Instant;
use transaction::{InviteClient, InviteServer, NonInviteClient, NonInviteServer};

use crate::{
    addresses::Interface,
    ask::{CallPlan, Destination, Target},
    call::CallRef,
    hidden::Hidden,
    media::Waits,
    settings::Settings,
};

/// Names a context on this slot's heap. The generation keeps a late tick or answer from meeting a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContextId {
    pub index: u32,
    pub generation: u32,
}

impl ContextId {
    /// As one word, for a timing wheel.
    pub fn pack(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub fn unpack(word: u64) -> Self {
        Self {
            index: word as u32,
            generation: (word >> 32) as u32,
        }
    }
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    Admission = 1,
    Credentials = 2,
    Routing = 3,
    /// Branches exist; some may wait for addresses.
    Forwarding = 4,
    /// The final answer is with the server transaction.
    Answered = 5,
}

impl Stage {
    pub fn decode(byte: u8) -> Option<Self> {
        [
            Self::Admission,
            Self::Credentials,
            Self::Routing,
            Self::Forwarding,
            Self::Answered,
        ]
        .into_iter()
        .find(|&stage| stage as u8 == byte)
    }
}

/// The server transaction.
#[derive(Clone, Copy, Debug)]
pub enum Server {
    Invite(InviteServer),
    NonInvite(NonInviteServer),
}

/// A client transaction.
#[derive(Clone, Copy, Debug)]
pub enum Client {
    Invite(InviteClient),
    NonInvite(NonInviteClient),
}

/// What has become of cancelling a branch (§9.1).
#[derive(Clone, Copy, Debug)]
pub enum Cancel {
    No,
    /// To be sent as soon as the branch has shown a sign of life.
    Wanted,
    /// Sent; this is its own client transaction.
    Sent(NonInviteClient),
    /// Sent, and its transaction has ended.
    Done,
}

/// One client transaction of a request (§16.6 step 10) and its part in the response context.
#[derive(Clone, Debug)]
pub struct Branch {
    /// Number within the request; part of the branch parameter.
    pub number: u8,
    /// `None` before the request is sent, and once the transaction has terminated.
    pub client: Option<Client>,
    pub to: SocketAddr,
    /// What it is sent by.
    pub listener: Interface,
    /// The request as sent: for its retransmissions, its ACK and its CANCEL, and for answers of our own, so that it is kept
    /// until the request has been answered and the client transaction has terminated.
    pub sent: Option<Block>,
    /// The final response; 0 is none yet.
    pub code: u16,
    /// Whether a provisional response has come.
    pub rang: bool,
    pub cancel: Cancel,
    /// Timer C (§16.6 step 11), or how long to wait for a final response after a CANCEL (§9.1).
    pub timer_c: Option<Instant>,
    /// Where it goes, while the address is being asked for.
    pub waiting: Option<Box<Target>>,
    /// Where else it may go, should this hop fail.
    pub rest: Option<Box<Rest>>,
    /// When a hop that has shown no sign of life is given up for the next one.
    pub hop_at: Option<Instant>,
    /// An INVITE that was given up without an answer: until when what it says after all is listened to, as long as it could say a
    /// failure again (Timer H). Without that it would repeat a late failure for the lack of an ACK.
    pub late_until: Option<Instant>,
    /// The destination of a group that it goes to, and when it was first sent there.
    pub destination: Option<Destination>,
    pub sent_at: Option<Instant>,
}

/// What is left of a target when it has been sent to its first hop.
#[derive(Clone, Debug)]
pub struct Rest {
    pub target: Target,
    /// Further addresses, best first.
    pub hops: Vec<SocketAddr>,
}

impl Branch {
    /// Whether a final response may still come.
    pub fn is_pending(&self) -> bool {
        self.code == 0
    }

    /// Whether something of it is still to come or to be sent.
    pub fn is_alive(&self) -> bool {
        self.client.is_some() || self.late_until.is_some() || matches!(self.cancel, Cancel::Sent(_))
    }

    /// Whether it was answered with a redirection.
    pub fn is_redirected(&self) -> bool {
        matches!(self.code, 300..=399)
    }

    /// Whether others have to wait for it: a branch that we cancelled may still answer, but nobody waits for that.
    pub fn is_active(&self) -> bool {
        self.is_pending() && matches!(self.cancel, Cancel::No)
    }
}

/// A response that was kept.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    pub code: u16,
    /// `None`: made by ourselves of the request and the code alone, and made again when it is needed.
    pub block: Option<Block>,
}

/// One request on its way.
#[derive(Debug)]
pub struct Context {
    pub id: ContextId,
    /// The configuration that the request is judged by from its beginning to its end; an heir takes the current one.
    pub settings: Arc<Settings>,
    /// The key of the server transaction.
    pub key: Vec<u8>,
    pub row: Row,
    /// `Intake::fold`: part of the branches, so that one from before, whose row has come to name another request, is known.
    pub fold: u64,
    pub stage: Stage,
    pub method: Method,
    /// The listener that the request came in by, and that its responses leave by.
    pub listener: Interface,
    pub source: SocketAddr,
    /// Where responses go (§18.2.2, RFC 3581 §4).
    pub reply_to: SocketAddr,
    /// `None` once the server transaction has terminated, and for an ACK, which has none.
    pub server: Option<Server>,
    /// The request as it came, while it is needed and no longer at hand.
    pub request: Option<Block>,
    pub branches: Vec<Branch>,
    /// The best final response so far (§16.7 step 6).
    pub best: Option<Kept>,
    /// Challenges of other branches' 401 and 407, as header lines (§16.7 step 7).
    pub challenges: Option<Block>,
    /// Contacts of other branches' 3xx, as header lines.
    pub contacts: Option<Block>,
    /// Targets whose turn has not come: those of one group are tried at once, when all before them have failed (§16.6).
    pub groups: Vec<Vec<Target>>,
    /// When the group at hand has had its time.
    pub group_at: Option<Instant>,
    /// Whether redirections are followed here (§16.7 step 4), and hashes of the URIs that have been targets, each of which is one only once.
    pub recurses: bool,
    pub tried: Vec<u64>,
    /// The last response sent upstream, for retransmission.
    pub last: Option<Kept>,
    /// The realm that credentials are wanted for; empty before and without.
    pub realm: Vec<u8>,
    /// Algorithms offered for that realm besides the configured ones.
    pub offers: auth::Algorithms,
    /// When a request other than INVITE gets a 100 unless it has been answered (RFC 4320 §4.1).
    pub trying_at: Option<Instant>,
    /// A CANCEL has come.
    pub cancelled: bool,
    /// Number of the open question, 0 if none; resolve questions are numbered by their branch.
    pub asked: u16,
    /// The call on record that it belongs to.
    pub(crate) call: Option<CallRef>,
    /// How many further dialogs it has made.
    pub(crate) forks: u8,
    /// The other side is not to see what came.
    pub(crate) hidden: Option<Hidden>,
    /// What becomes of the call that it may begin; until that is on record.
    pub(crate) plan: Option<CallPlan>,
    /// Differs from the record in the arena.
    pub dirty: bool,
    /// Turn of the last change (see `Env::turn`).
    pub turn: u64,
    /// The tick that is armed.
    pub armed: Option<Instant>,
    /// What waits for media engines; lost with the worker.
    pub(crate) media: Option<Box<Waits>>,
}

/// The record of a context in the arena.
#[derive(Debug)]
pub enum Row {
    None,
    /// Its place is known, nobody else sees it.
    Reserved(Reserved),
    /// There is none to be had; the request is given up when it is settled.
    Refused(InsertError),
    Live(RowRef, Version),
}

/// What a context is made of.
pub(crate) struct Origin<'o> {
    pub(crate) key: &'o [u8],
    pub(crate) fold: u64,
    pub(crate) method: Method,
    pub(crate) listener: Interface,
    pub(crate) source: SocketAddr,
    pub(crate) reply_to: SocketAddr,
}

impl Context {
    /// A request that has just come, or one of our own.
    pub(crate) fn new(id: ContextId, settings: &Arc<Settings>, origin: &Origin<'_>) -> Self {
        Self {
            id,
            settings: Arc::clone(settings),
            key: origin.key.to_vec(),
            row: Row::None,
            fold: origin.fold,
            stage: Stage::Admission,
            method: origin.method,
            listener: origin.listener,
            source: origin.source,
            reply_to: origin.reply_to,
            server: None,
            request: None,
            branches: Vec::new(),
            best: None,
            challenges: None,
            contacts: None,
            groups: Vec::new(),
            group_at: None,
            recurses: false,
            tried: Vec::new(),
            last: None,
            realm: Vec::new(),
            offers: auth::Algorithms::NONE,
            trying_at: None,
            cancelled: false,
            asked: 0,
            call: None,
            hidden: None,
            plan: None,
            dirty: true,
            turn: 0,
            armed: None,
            forks: 0,
            media: None,
        }
    }

    /// Whether it is a request of ours: nobody waits for its response.
    pub(crate) fn is_own(&self) -> bool {
        self.call.is_some_and(|call| call.role.is_own())
    }

    /// The earliest deadline of any machine or timer.
    pub fn deadline(&self) -> Option<Instant> {
        let server = match &self.server {
            Some(Server::Invite(machine)) => machine.deadline(),
            Some(Server::NonInvite(machine)) => machine.deadline(),
            None => None,
        };
        let branches = self.branches.iter().flat_map(|branch| {
            let client = match &branch.client {
                Some(Client::Invite(machine)) => machine.deadline(),
                Some(Client::NonInvite(machine)) => machine.deadline(),
                None => None,
            };
            let cancel = match &branch.cancel {
                Cancel::Sent(machine) => machine.deadline(),
                Cancel::No | Cancel::Wanted | Cancel::Done => None,
            };
            [
                client,
                cancel,
                branch.timer_c,
                branch.hop_at,
                branch.late_until,
            ]
        });
        let trying = self.trying_at.filter(|_| self.stage != Stage::Answered);
        branches
            .chain([server, trying, self.group_at])
            .flatten()
            .min()
    }

    /// Whether an answer to a question is needed to go on.
    pub fn waits(&self) -> bool {
        match self.stage {
            Stage::Admission | Stage::Credentials | Stage::Routing => true,
            Stage::Forwarding => self.branches.iter().any(|branch| branch.waiting.is_some()),
            Stage::Answered => false,
        }
    }

    /// Whether the request itself may be needed for another copy of it.
    pub fn may_go_on(&self) -> bool {
        // A copy whose CSeq we changed is nothing to make an answer of.
        let changed = self.call.is_some_and(|call| call.shift != 0);
        self.stage == Stage::Forwarding
            && (changed
                || self.recurses
                || !self.groups.is_empty()
                || self.branches.iter().any(|branch| branch.rest.is_some()))
    }

    /// Leaves it at the branches that there are.
    pub fn stop_here(&mut self) {
        self.recurses = false;
        self.groups = Vec::new();
        self.group_at = None;
        for branch in &mut self.branches {
            branch.rest = None;
            branch.hop_at = None;
        }
    }

    /// Whether nothing is left to do or to wait for.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Answered
            && self.server.is_none()
            && !self.branches.iter().any(Branch::is_alive)
    }

    /// Whether it is only there to be refused again, see `Step::refuse_found`.
    pub fn is_refusal(&self) -> bool {
        self.stage == Stage::Answered
            && self.branches.is_empty()
            && self
                .last
                .is_some_and(|kept| kept.code >= 300 && kept.block.is_none())
    }

    pub fn is_invite(&self) -> bool {
        self.method == Method::Invite
    }

    pub fn branch(&mut self, number: u8) -> Option<&mut Branch> {
        self.branches
            .iter_mut()
            .find(|branch| branch.number == number)
    }
}

/// The contexts of a slot.
#[derive(Debug, Default)]
pub struct Contexts {
    list: Vec<(u32, Option<Box<Context>>)>,
    free: Vec<u32>,
    by_row: std::collections::HashMap<u32, ContextId, RowHasher>,
    refusals: usize,
}

/// Most refusals that a slot keeps: about 1.5 MB. Beyond them INVITEs are refused without state, so that nobody fills the memory with calls to nobody.
const REFUSALS_MAX: usize = 4096;

/// Row indices are spread well enough as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct RowHasher(u64);

impl std::hash::BuildHasher for RowHasher {
    type Hasher = Self;
    fn build_hasher(&self) -> Self {
        *self
    }
}

impl std::hash::Hasher for RowHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }
    fn write_u32(&mut self, index: u32) {
        self.0 = u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Contexts {
    /// Adds a context, made for the id that it gets.
    pub fn add(&mut self, make: impl FnOnce(ContextId) -> Box<Context>) -> ContextId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.list.push((0, None));
            u32::try_from(self.list.len().saturating_sub(1)).unwrap_or(u32::MAX)
        });
        let id = ContextId {
            index,
            generation: self.list.get(index as usize).map_or(0, |entry| entry.0),
        };
        let context = make(id);
        if context.is_refusal() {
            self.refusals = self.refusals.saturating_add(1);
        }
        if let Row::Live(row, _) = &context.row {
            self.by_row.insert(row.index, id);
        }
        if let Some(entry) = self.list.get_mut(index as usize) {
            entry.1 = Some(context);
        }
        id
    }

    /// Takes a context out to work on it; it is put back by [`Contexts::put`] or ended by [`Contexts::end`].
    pub fn take(&mut self, id: ContextId) -> Option<Box<Context>> {
        self.list
            .get_mut(id.index as usize)
            .filter(|entry| entry.0 == id.generation)?
            .1
            .take()
    }

    pub fn put(&mut self, context: Box<Context>) {
        if let Some(entry) = self.list.get_mut(context.id.index as usize) {
            entry.1 = Some(context);
        }
    }

    /// Ends a context that was taken.
    pub fn end(&mut self, context: Box<Context>) {
        if let Row::Live(row, _) = &context.row {
            self.by_row.remove(&row.index);
        }
        if context.is_refusal() {
            self.refusals = self.refusals.saturating_sub(1);
        }
        if let Some(entry) = self.list.get_mut(context.id.index as usize) {
            entry.0 = entry.0.wrapping_add(1);
            self.free.push(context.id.index);
        }
    }

    /// Counts a context that has become a refusal; false if there are too many of them already.
    pub fn may_keep_refusal(&mut self) -> bool {
        let may = self.refusals < REFUSALS_MAX;
        if may {
            self.refusals = self.refusals.saturating_add(1);
        }
        may
    }

    /// Notes which row a context has got.
    pub fn placed(&mut self, row: RowRef, id: ContextId) {
        self.by_row.insert(row.index, id);
    }

    pub fn of_row(&self, row: RowRef) -> Option<ContextId> {
        self.by_row.get(&row.index).copied()
    }

    pub fn len(&self) -> usize {
        self.list.len().saturating_sub(self.free.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
