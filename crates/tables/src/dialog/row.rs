//! A dialog's row: what lies in the arena, read in place ([`View`]) or taken out to be changed ([`Dialog`]).

use std::net::SocketAddr;

use shm::{Record, RowRef, Version};
use stdx::Instant;
use zerocopy::little_endian::{I32, U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use super::key;
use crate::row::{Address, Fields, Header, instant, is_whole, put, row, word};

/// Resources that a dialog can be counted by.
pub const DIALOG_COUNTS_MAX: usize = shm::COUNTS_MAX;
const _: () = assert!(DIALOG_COUNTS_MAX == 4);

row! {
    /// The header of a dialog; `kind` is its state.
    pub struct DialogRow: version 1, 200 bytes {
        /// See [`flag`](super::flag).
        pub flags: U32,
        /// The dialog's id, which is its alias as well.
        pub id: [u8; 16],
        /// The INVITE came.
        pub created_at: U64,
        /// The first 2xx came.
        pub confirmed_at: U64,
        /// Somebody began to end it.
        pub ended_at: U64,
        /// An early dialog goes, if it is not answered.
        pub answer_until: U64,
        /// A confirmed one ends: maximum duration.
        pub duration_until: U64,
        /// A confirmed one ends, if it is not refreshed: RFC 4028.
        pub session_until: U64,
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
        /// Probes in a row without an answer.
        pub probes_failed: U16,
        /// Why it ended: the code of the final response, 0 for a BYE.
        pub end_code: U16,
        /// Zero.
        pub reserved: U32,
        /// Where the caller is.
        pub caller_address: Address,
        /// Where the callee is.
        pub callee_address: Address,
        /// Rows of `balancer` that count it, packed; their keys are fields.
        pub counted: [U64; DIALOG_COUNTS_MAX],
    }
}

/// Tags of the fields after the header.
mod tag {
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
}

/// What the field `kind` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DialogState {
    /// Rings, or only tries to.
    Early = 1,
    /// Answered.
    Confirmed = 2,
    /// Being ended: nothing new begins in it. It counts until its row goes.
    Ending = 3,
}

impl DialogState {
    fn read(kind: u8) -> Option<Self> {
        match kind {
            1 => Some(Self::Early),
            2 => Some(Self::Confirmed),
            3 => Some(Self::Ending),
            _ => None,
        }
    }
}

/// The name of a dialog in our Record-Route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct DialogId(pub [u8; 16]);

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
    pub created_at: Instant,
    pub confirmed_at: Option<Instant>,
    pub ended_at: Option<Instant>,
    /// An early dialog goes then.
    pub answer_until: Option<Instant>,
    /// A confirmed one ends then, whatever happens.
    pub duration_until: Option<Instant>,
    /// A confirmed one ends then, if it is not refreshed.
    pub session_until: Option<Instant>,
    pub probe_at: Option<Instant>,
    /// Seconds; 0: no session timer.
    pub session_interval: u32,
    /// Seconds.
    pub session_min: u32,
    pub probes_failed: u16,
    pub end_code: u16,
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
            created_at: now,
            confirmed_at: None,
            ended_at: None,
            answer_until: None,
            duration_until: None,
            session_until: None,
            probe_at: None,
            session_interval: 0,
            session_min: 0,
            probes_failed: 0,
            end_code: 0,
            counted: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// When the row goes by itself; `None`: never.
    pub fn expires_at(&self) -> Option<Instant> {
        match self.state {
            DialogState::Early => self.answer_until,
            DialogState::Confirmed => earlier(self.duration_until, self.session_until),
            DialogState::Ending => self.ended_at.map(|at| at + super::ENDING),
        }
    }

    /// Appends the payload of the row.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut row = DialogRow::new_zeroed();
        row.begin(self.state as u8);
        row.flags = U32::new(self.flags);
        row.id = self.id.0;
        row.created_at = word(Some(self.created_at));
        row.confirmed_at = word(self.confirmed_at);
        row.ended_at = word(self.ended_at);
        row.answer_until = word(self.answer_until);
        row.duration_until = word(self.duration_until);
        row.session_until = word(self.session_until);
        row.probe_at = word(self.probe_at);
        row.session_interval = U32::new(self.session_interval);
        row.session_min = U32::new(self.session_min);
        row.caller_cseq = U32::new(self.caller.cseq);
        row.callee_cseq = U32::new(self.callee.cseq);
        row.caller_shift = I32::new(self.caller.cseq_shift);
        row.callee_shift = I32::new(self.callee.cseq_shift);
        row.caller_listener = U32::new(self.caller.listener);
        row.callee_listener = U32::new(self.callee.listener);
        row.probes_failed = U16::new(self.probes_failed);
        row.end_code = U16::new(self.end_code);
        row.caller_address = Address::new(self.caller.address);
        row.callee_address = Address::new(self.callee.address);
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
        ];
        for (tag, value) in fields {
            put(tag, Some(value.as_slice()).filter(|v| !v.is_empty()), out);
        }
        for by in self.counted.iter().take(DIALOG_COUNTS_MAX) {
            put(tag::COUNTED, Some(&by.key), out);
        }
        out.extend_from_slice(&self.unknown);
    }
}

/// A payload for another arena, whose clock is `nanos` ahead: it counts nowhere there.
pub(crate) fn shift(payload: &[u8], nanos: i64) -> Option<Vec<u8>> {
    let mut shifted = crate::row::shift::<DialogRow>(payload, nanos)?;
    let (_, rest) = DialogRow::read(payload)?;
    let header_bytes = payload.len() - rest.len();
    // Of a header that an earlier release wrote there are fewer.
    let counted =
        std::mem::offset_of!(DialogRow, counted)..size_of::<DialogRow>().min(header_bytes);
    if let Some(rows) = shifted.get_mut(counted) {
        rows.fill(0);
    }
    Some(shifted)
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
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
        key::call_id(self.key)
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

    /// Takes it out.
    pub fn take(&self) -> Dialog {
        let h = &self.header;
        let mut caller = Side {
            address: h.caller_address.get(),
            listener: h.caller_listener.get(),
            cseq: h.caller_cseq.get(),
            cseq_shift: h.caller_shift.get(),
            ..Side::default()
        };
        let mut callee = Side {
            address: h.callee_address.get(),
            listener: h.callee_listener.get(),
            cseq: h.callee_cseq.get(),
            cseq_shift: h.callee_shift.get(),
            ..Side::default()
        };
        let (mut counted, mut unknown) = (Vec::new(), Vec::new());
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
            created_at: Instant::from_nanos(h.created_at.get()),
            confirmed_at: instant(h.confirmed_at),
            ended_at: instant(h.ended_at),
            answer_until: instant(h.answer_until),
            duration_until: instant(h.duration_until),
            session_until: instant(h.session_until),
            probe_at: instant(h.probe_at),
            session_interval: h.session_interval.get(),
            session_min: h.session_min.get(),
            probes_failed: h.probes_failed.get(),
            end_code: h.end_code.get(),
            counted,
            unknown,
        }
    }
}
