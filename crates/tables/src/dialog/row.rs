//! A dialog's row: what lies in the arena, read in place ([`View`]) or taken out to be changed ([`Dialog`]).

use std::{net::SocketAddr, time::Duration};

use shm::{Record, RowRef, Version};
use stdx::{Instant, Moment};
use zerocopy::little_endian::{I32, I64, U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use super::key;
use crate::row::{Address, Fields, Header, instant, is_whole, moment, moment_word, put, row, word};

/// What an early dialog takes beyond its need: as much as a 2xx adds to it (tag, Contact, Record-Route). So the answer to a call finds room in a full
/// arena, because the block that the change frees is as large as the one that it takes.
const EARLY_ROOM: usize = 192;

/// Resources that a dialog can be counted by.
pub const DIALOG_COUNTS_MAX: usize = shm::COUNTS_MAX;
const _: () = assert!(DIALOG_COUNTS_MAX == 4);

row! {
    /// The header of a dialog; `kind` is its state.
    pub struct DialogRow: version 1, 240 bytes {
        /// See [`flag`](super::flag).
        pub flags: U32,
        /// The dialog's id, which is its alias as well.
        pub id: [u8; 16],
        /// The INVITE came.
        pub created_at: I64,
        /// The first 2xx came.
        pub confirmed_at: I64,
        /// Somebody began to end it.
        pub ended_at: U64,
        /// An early dialog goes, if it is not answered; of one that is to be ended, when BYEs were sent first.
        pub answer_until: I64,
        /// A confirmed one ends: maximum duration.
        pub duration_until: U64,
        /// A confirmed one ends, if it is not refreshed: RFC 4028.
        pub session_until: I64,
        /// The next probe within the dialog.
        pub probe_at: U64,
        /// Session-Expires in force, in seconds.
        pub session_interval: U32,
        /// Min-SE in force, in seconds.
        pub session_min: U32,
        /// The caller's last CSeq, as it came.
        pub caller_cseq: U32,
        /// The callee's.
        pub callee_cseq: U32,
        /// Added to the caller's CSeq on its way to the callee: requests of our own have used up numbers.
        pub caller_shift: I32,
        /// The same the other way.
        pub callee_shift: I32,
        /// The listener that the caller's messages came in by.
        pub caller_listener: U32,
        /// The callee's.
        pub callee_listener: U32,
        /// Probes in a row without an answer: of the caller in the low byte, of the callee in the high one. Of one that is to be ended: tries so far.
        pub probes_failed: U16,
        /// Why it ended: the code of the final response, 0 for a BYE.
        pub end_code: U16,
        /// Time between two probes within the dialog, in ms; 0: it is not probed.
        pub probe_ms: U32,
        /// Where the caller is.
        pub caller_address: Address,
        /// Where the callee is.
        pub callee_address: Address,
        /// Rows of `balancer` that count it, packed; their keys are fields.
        pub counted: [U64; DIALOG_COUNTS_MAX],
        /// What our URIs call it: the packed row that it was created in, which it keeps over a restart.
        pub place: U64,
        /// Hash of the server transaction that created it.
        pub origin: U64,
        /// The packed row of that transaction: while it is there, an early dialog goes on.
        pub transaction: U64,
        /// Session-Expires that we ask for, in seconds; 0: what the parties want.
        pub session_wanted: U32,
        /// What was added to the CSeq of the caller's last INVITE.
        pub caller_invite_shift: I32,
        /// The same for the callee's.
        pub callee_invite_shift: I32,
        /// See [`EndCause`].
        pub end_cause: u8,
        /// The attempt whose seat at a destination is the call's, and one; 0: none is.
        pub seat: u8,
        /// Probes in a row that may stay without an answer.
        pub probes_max: U16,
    }
}

/// Tags of the fields after the header.
pub(super) mod tag {
    pub(super) const CALLER_TAG: u8 = 1;
    pub(super) const CALLEE_TAG: u8 = 2;
    pub(super) const CALLER_URI: u8 = 3;
    pub(super) const CALLEE_URI: u8 = 4;
    pub(super) const CALLER_TARGET: u8 = 5;
    pub(super) const CALLEE_TARGET: u8 = 6;
    pub(super) const CALLER_ROUTES: u8 = 7;
    pub(super) const CALLEE_ROUTES: u8 = 8;
    /// The keys of what counts it, in the order of `counted`.
    pub(super) const COUNTED: u8 = 9;
    pub(super) const REQUEST_URI: u8 = 10;
    pub(super) const DOMAIN: u8 = 11;
    pub(super) const DESTINATION: u8 = 12;
    /// Only where the key does not say it.
    pub(in crate::dialog) const CALL_ID: u8 = 13;
    /// Bytes that say nothing, see [`EARLY_ROOM`](super::EARLY_ROOM).
    pub(super) const ROOM: u8 = 255;
}

/// What the field `kind` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DialogState {
    /// Rings, or only tries to.
    Early = 1,
    /// Answered.
    Confirmed = 2,
    /// To be ended by us, as the operator or time wants it: nothing new begins in it. It counts until its row goes.
    Ending = 3,
    /// What is left of it, for messages that are still under way.
    Ended = 4,
}

impl DialogState {
    fn read(kind: u8) -> Option<Self> {
        match kind {
            1 => Some(Self::Early),
            2 => Some(Self::Confirmed),
            3 => Some(Self::Ending),
            4 => Some(Self::Ended),
            _ => None,
        }
    }
}

/// Why a dialog ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EndCause {
    /// The caller said BYE.
    Caller = 1,
    /// The callee did.
    Callee = 2,
    /// The INVITE was answered with a failure: see `end_code`.
    Failed = 3,
    /// The caller gave up before it was answered.
    Cancelled = 4,
    /// The operator ended it.
    Operator = 5,
    /// Its maximum duration was over.
    Duration = 6,
    /// Nobody refreshed the session (RFC 4028 §8.3).
    Session = 7,
    /// A party did not answer probes any more.
    Silent = 8,
    /// Its INVITE was lost: the worker that had it died, and nobody could go on.
    Lost = 9,
    /// No media engine could be had for its answer.
    Media = 10,
}

impl EndCause {
    /// Every cause.
    pub const ALL: [Self; 10] = [
        Self::Caller,
        Self::Callee,
        Self::Failed,
        Self::Cancelled,
        Self::Operator,
        Self::Duration,
        Self::Session,
        Self::Silent,
        Self::Lost,
        Self::Media,
    ];

    pub(crate) fn read(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&cause| cause as u8 == byte)
    }

    /// As it stands in lists and call records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Callee => "callee",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Operator => "operator",
            Self::Duration => "duration",
            Self::Session => "session",
            Self::Silent => "silent",
            Self::Lost => "lost",
            Self::Media => "media",
        }
    }
}

/// The name of a dialog for operators and call records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct DialogId(pub [u8; 16]);

/// 32 hexadecimal digits.
impl std::fmt::Display for DialogId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// One of the two parties.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Side {
    /// Its tag; empty: not known yet.
    pub tag: Vec<u8>,
    /// The URI in its From or To.
    pub uri: Vec<u8>,
    /// Its Contact: the remote target (RFC 3261 §12.2.1.1), refreshed by re-INVITE and UPDATE.
    pub target: Vec<u8>,
    /// The route set towards it without ourselves, as the value of a Route header.
    pub routes: Vec<u8>,
    /// Where its messages come from.
    pub address: Option<SocketAddr>,
    /// The listener that they come in by.
    pub listener: u32,
    /// Its last CSeq, as it came.
    pub cseq: u32,
    /// Added to its CSeqs on their way to the other.
    pub cseq_shift: i32,
    /// What was added to that of its last INVITE: its ACK and PRACKs name the same.
    pub invite_shift: i32,
}

/// Something that counts a dialog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedBy {
    /// Its row, while the arena is the one it was counted in.
    pub row: Option<RowRef>,
    /// Its key in `balancer`.
    pub key: Vec<u8>,
}

/// A dialog taken out of the arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialog {
    pub id: DialogId,
    pub call_id: Vec<u8>,
    pub state: DialogState,
    /// See [`flag`](super::flag).
    pub flags: u32,
    pub caller: Side,
    pub callee: Side,
    pub created_at: Moment,
    pub confirmed_at: Option<Moment>,
    /// Of one that is to be ended: since when, or when it is tried again. Of what is left of one: until when.
    pub ended_at: Option<Instant>,
    /// An early dialog goes then: it was known to be there until then at most. Of one that is to be ended: when BYEs were sent first.
    pub answer_until: Option<Moment>,
    /// A confirmed one ends then, whatever happens.
    pub duration_until: Option<Instant>,
    /// A confirmed one ends then, if it is not refreshed.
    pub session_until: Option<Moment>,
    pub probe_at: Option<Instant>,
    /// Seconds; 0: no session timer.
    pub session_interval: u32,
    /// Seconds.
    pub session_min: u32,
    /// Time between two probes, in ms; 0: it is not probed.
    pub probe_ms: u32,
    pub probes_max: u16,
    /// Of the caller in the low byte, of the callee in the high one; of one that is to be ended: tries so far.
    pub probes_failed: u16,
    pub end_code: u16,
    /// Why it ended, or is to end.
    pub end_cause: Option<EndCause>,
    /// Session-Expires that we ask for, in seconds; 0: what the parties want.
    pub session_wanted: u32,
    /// The packed row of the server transaction that created it; 0: not said.
    pub transaction: u64,
    /// What our URIs call it; set by [`Dialogs::create`](super::Dialogs::create).
    pub place: u64,
    /// Hash of the server transaction that created it: a copy of its INVITE is known by that.
    pub origin: u64,
    /// The Request-URI of the INVITE, as it came.
    pub request_uri: Vec<u8>,
    /// The domain that the call belongs to.
    pub domain: Vec<u8>,
    /// The attempt whose seat is the call's, and one; 0: none.
    pub seat: u8,
    /// The destination that took it, as its key in `balancer`; empty: none.
    pub destination: Vec<u8>,
    /// Set by [`Dialogs::create`](super::Dialogs::create).
    pub counted: Vec<CountedBy>,
    /// Fields that a later release wrote.
    pub unknown: Vec<u8>,
}

impl Dialog {
    /// An early dialog: what is known when the INVITE comes.
    pub fn new(id: DialogId, call_id: &[u8], caller_tag: &[u8], now: Instant) -> Self {
        Self {
            id,
            call_id: call_id.to_vec(),
            state: DialogState::Early,
            flags: 0,
            caller: Side {
                tag: caller_tag.to_vec(),
                ..Side::default()
            },
            callee: Side::default(),
            created_at: now.into(),
            confirmed_at: None,
            ended_at: None,
            answer_until: None,
            duration_until: None,
            session_until: None,
            probe_at: None,
            session_interval: 0,
            session_min: 0,
            probe_ms: 0,
            probes_max: 0,
            seat: 0,
            probes_failed: 0,
            end_code: 0,
            end_cause: None,
            session_wanted: 0,
            transaction: 0,
            place: 0,
            origin: 0,
            request_uri: Vec::new(),
            domain: Vec::new(),
            destination: Vec::new(),
            counted: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// When something is to be done about it: it ends, or is probed; `None`: never.
    pub fn expires_at(&self) -> Option<Instant> {
        match self.state {
            DialogState::Early => self.answer_until.map(Moment::instant),
            DialogState::Confirmed => [
                self.duration_until,
                self.session_until.map(Moment::instant),
                self.probe_at,
            ]
            .into_iter()
            .flatten()
            .min(),
            DialogState::Ending | DialogState::Ended => self.ended_at,
        }
    }

    /// When it is probed next.
    pub fn probe_after(&self, now: Instant) -> Option<Instant> {
        let interval = Duration::from_millis(self.probe_ms.into());
        (self.probe_ms > 0).then(|| now.saturating_add(interval))
    }

    /// Appends the payload of the row.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut row = DialogRow::new_zeroed();
        row.begin(self.state as u8);
        row.flags = U32::new(self.flags);
        row.id = self.id.0;
        row.created_at = I64::new(self.created_at.as_nanos());
        row.confirmed_at = moment_word(self.confirmed_at);
        row.ended_at = word(self.ended_at);
        row.answer_until = moment_word(self.answer_until);
        row.duration_until = word(self.duration_until);
        row.session_until = moment_word(self.session_until);
        row.probe_at = word(self.probe_at);
        row.session_interval = U32::new(self.session_interval);
        row.session_min = U32::new(self.session_min);
        row.caller_cseq = U32::new(self.caller.cseq);
        row.callee_cseq = U32::new(self.callee.cseq);
        row.caller_shift = I32::new(self.caller.cseq_shift);
        row.callee_shift = I32::new(self.callee.cseq_shift);
        row.caller_listener = U32::new(self.caller.listener);
        row.callee_listener = U32::new(self.callee.listener);
        row.probe_ms = U32::new(self.probe_ms);
        row.probes_max = U16::new(self.probes_max);
        row.seat = self.seat;
        row.probes_failed = U16::new(self.probes_failed);
        row.end_code = U16::new(self.end_code);
        row.caller_address = Address::new(self.caller.address);
        row.callee_address = Address::new(self.callee.address);
        row.place = U64::new(self.place);
        row.origin = U64::new(self.origin);
        row.transaction = U64::new(self.transaction);
        row.session_wanted = U32::new(self.session_wanted);
        row.caller_invite_shift = I32::new(self.caller.invite_shift);
        row.callee_invite_shift = I32::new(self.callee.invite_shift);
        row.end_cause = self.end_cause.map_or(0, |cause| cause as u8);
        for (to, by) in row.counted.iter_mut().zip(&self.counted) {
            *to = U64::new(by.row.map_or(0, RowRef::pack));
        }
        out.extend_from_slice(row.as_bytes());
        let fields = [
            (tag::CALLER_TAG, &self.caller.tag),
            (tag::CALLEE_TAG, &self.callee.tag),
            (tag::CALLER_URI, &self.caller.uri),
            (tag::CALLEE_URI, &self.callee.uri),
            (tag::CALLER_TARGET, &self.caller.target),
            (tag::CALLEE_TARGET, &self.callee.target),
            (tag::CALLER_ROUTES, &self.caller.routes),
            (tag::CALLEE_ROUTES, &self.callee.routes),
            (tag::REQUEST_URI, &self.request_uri),
            (tag::DOMAIN, &self.domain),
            (tag::DESTINATION, &self.destination),
        ];
        for (tag, value) in fields {
            put(tag, Some(value.as_slice()).filter(|v| !v.is_empty()), out);
        }
        for by in self.counted.iter().take(DIALOG_COUNTS_MAX) {
            put(tag::COUNTED, Some(&by.key), out);
        }
        out.extend_from_slice(&self.unknown);
        if self.state == DialogState::Early {
            put(tag::ROOM, Some(&[0; EARLY_ROOM]), out);
        }
    }
}

/// Whether it is a call: one that rings, is up, or is to be ended. What is not is left of one, or can't be read.
pub fn is_call(payload: &[u8]) -> bool {
    let state = DialogRow::read(payload).and_then(|(row, _)| DialogState::read(row.kind));
    state.is_some_and(|state| state != DialogState::Ended)
}

/// Whether it is a call that rings.
pub fn rings(payload: &[u8]) -> bool {
    DialogRow::read(payload).is_some_and(|(row, _)| row.kind == DialogState::Early as u8)
}

/// A payload for another arena, whose clock is `nanos` ahead: it counts nowhere there until it has seats for that (`Seats::restore`), and the transaction that created it is
/// gone, and with it a call that rings, which is due since it was seen last, `seen` by the clock before. Everything else stays.
pub(crate) fn shift(payload: &[u8], seen: Instant, nanos: i64) -> Option<Vec<u8>> {
    let mut shifted = crate::row::shift::<DialogRow>(payload, nanos)?;
    let (row, rest) = DialogRow::read(payload)?;
    let header_bytes = payload.len() - rest.len();
    let rows = [
        (
            std::mem::offset_of!(DialogRow, counted),
            size_of::<[U64; DIALOG_COUNTS_MAX]>(),
        ),
        (
            std::mem::offset_of!(DialogRow, transaction),
            size_of::<U64>(),
        ),
    ];
    for (at, bytes) in rows {
        // Of a header that an earlier release wrote there are fewer.
        let end = (at + bytes).min(header_bytes);
        if let Some(rows) = shifted.get_mut(at..end) {
            rows.fill(0);
        }
    }
    let answer_until = std::mem::offset_of!(DialogRow, answer_until);
    if rings(payload)
        && let Some(due) = shifted.get_mut(answer_until..answer_until + size_of::<I64>())
    {
        let seen = Moment::from(seen);
        // It may have been given up before; and it may have begun while the snapshot was taken.
        let over = moment(row.answer_until).map_or(seen, |until| until.min(seen));
        let over = over.max(Moment::from_nanos(row.created_at.get()));
        due.copy_from_slice(moment_word(Some(over.shifted(nanos))).as_bytes());
    }
    Some(shifted)
}

/// A dialog as it lies in the arena.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub row: RowRef,
    pub version: Version,
    /// The fixed fields.
    pub header: DialogRow,
    pub state: DialogState,
    key: &'a [u8],
    fields: &'a [u8],
}

impl<'a> View<'a> {
    /// `None`: what lies there is no dialog that we can read.
    pub fn new(record: &Record<'a>) -> Option<Self> {
        let (header, fields) = DialogRow::read(record.payload)?;
        Some(Self {
            row: record.row,
            version: record.version,
            header,
            state: DialogState::read(header.kind)?,
            key: record.key,
            fields: is_whole(fields).then_some(fields)?,
        })
    }

    fn field(&self, tag: u8) -> &'a [u8] {
        let mut fields = Fields(self.fields);
        fields
            .find_map(|(t, value)| (t == tag).then_some(value))
            .unwrap_or_default()
    }

    pub fn id(&self) -> DialogId {
        DialogId(self.header.id)
    }

    pub fn call_id(&self) -> &'a [u8] {
        match self.field(tag::CALL_ID) {
            [] => key::call_id(self.key),
            call_id => call_id,
        }
    }

    /// The name of what created it, see [`Dialog::origin`].
    pub fn origin(&self) -> u64 {
        self.header.origin.get()
    }

    /// See [`Dialog::place`].
    pub fn place(&self) -> u64 {
        self.header.place.get()
    }

    /// One of the [flags](super::flag).
    pub fn has(&self, flag: u32) -> bool {
        self.header.flags.get() & flag != 0
    }

    pub fn caller_tag(&self) -> &'a [u8] {
        self.field(tag::CALLER_TAG)
    }

    /// Empty: not known yet.
    pub fn callee_tag(&self) -> &'a [u8] {
        self.field(tag::CALLEE_TAG)
    }

    /// The caller's Contact.
    pub fn caller_target(&self) -> &'a [u8] {
        self.field(tag::CALLER_TARGET)
    }

    /// The callee's Contact.
    pub fn callee_target(&self) -> &'a [u8] {
        self.field(tag::CALLEE_TARGET)
    }

    /// The way to the caller from us: his part of the Route set.
    pub fn caller_routes(&self) -> &'a [u8] {
        self.field(tag::CALLER_ROUTES)
    }

    /// The way to the callee from us.
    pub fn callee_routes(&self) -> &'a [u8] {
        self.field(tag::CALLEE_ROUTES)
    }

    /// The key of the destination that it is at; empty: at none.
    pub fn destination(&self) -> &'a [u8] {
        self.field(tag::DESTINATION)
    }

    /// What counts it: the row, while the arena is the one it was counted in, and the key.
    pub fn counted(&self) -> impl Iterator<Item = (RowRef, &'a [u8])> + use<'a> {
        let keys = Fields(self.fields).filter(|(tag, _)| *tag == tag::COUNTED);
        self.header
            .counted
            .into_iter()
            .zip(keys)
            .filter(|(packed, _)| packed.get() != 0)
            .map(|(packed, (_, key))| (RowRef::unpack(packed.get()), key))
    }

    /// What counted it in another arena, and does not in this one: the places in the list, and the keys.
    pub fn uncounted(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        let keys = Fields(self.fields).filter(|(tag, _)| *tag == tag::COUNTED);
        (0..)
            .zip(self.header.counted)
            .zip(keys)
            .filter(|((_, packed), _)| packed.get() == 0)
            .map(|((nth, _), (_, key))| (nth, key))
    }

    /// Takes it out.
    pub fn take(&self) -> Dialog {
        let h = &self.header;
        let mut caller = Side {
            address: h.caller_address.get(),
            listener: h.caller_listener.get(),
            cseq: h.caller_cseq.get(),
            cseq_shift: h.caller_shift.get(),
            invite_shift: h.caller_invite_shift.get(),
            ..Side::default()
        };
        let mut callee = Side {
            address: h.callee_address.get(),
            listener: h.callee_listener.get(),
            cseq: h.callee_cseq.get(),
            cseq_shift: h.callee_shift.get(),
            invite_shift: h.callee_invite_shift.get(),
            ..Side::default()
        };
        let (mut counted, mut unknown) = (Vec::new(), Vec::new());
        let (mut request_uri, mut domain, mut destination) = (Vec::new(), Vec::new(), Vec::new());
        for (tag, value) in Fields(self.fields) {
            let to = match tag {
                tag::CALLER_TAG => &mut caller.tag,
                tag::CALLEE_TAG => &mut callee.tag,
                tag::CALLER_URI => &mut caller.uri,
                tag::CALLEE_URI => &mut callee.uri,
                tag::CALLER_TARGET => &mut caller.target,
                tag::CALLEE_TARGET => &mut callee.target,
                tag::CALLER_ROUTES => &mut caller.routes,
                tag::CALLEE_ROUTES => &mut callee.routes,
                tag::REQUEST_URI => &mut request_uri,
                tag::DOMAIN => &mut domain,
                tag::DESTINATION => &mut destination,
                tag::CALL_ID | tag::ROOM => continue,
                tag::COUNTED => {
                    if let Some(packed) = h.counted.get(counted.len()) {
                        counted.push(CountedBy {
                            row: (packed.get() != 0).then(|| RowRef::unpack(packed.get())),
                            key: value.to_vec(),
                        });
                    }
                    continue;
                }
                _ => {
                    put(tag, Some(value), &mut unknown);
                    continue;
                }
            };
            value.clone_into(to);
        }
        Dialog {
            id: self.id(),
            call_id: self.call_id().to_vec(),
            state: self.state,
            flags: h.flags.get(),
            caller,
            callee,
            created_at: Moment::from_nanos(h.created_at.get()),
            confirmed_at: moment(h.confirmed_at),
            ended_at: instant(h.ended_at),
            answer_until: moment(h.answer_until),
            duration_until: instant(h.duration_until),
            session_until: moment(h.session_until),
            probe_at: instant(h.probe_at),
            session_interval: h.session_interval.get(),
            session_min: h.session_min.get(),
            probe_ms: h.probe_ms.get(),
            probes_max: h.probes_max.get(),
            seat: h.seat,
            probes_failed: h.probes_failed.get(),
            end_code: h.end_code.get(),
            end_cause: EndCause::read(h.end_cause),
            session_wanted: h.session_wanted.get(),
            transaction: h.transaction.get(),
            place: h.place.get(),
            origin: h.origin.get(),
            request_uri,
            domain,
            destination,
            counted,
            unknown,
        }
    }
}
