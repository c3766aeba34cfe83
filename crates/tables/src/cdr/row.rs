//! A record's row: what lies in the arena, and what is taken out of it.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use stdx::{
    Moment,
    hash::{Key, hash64},
};
use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use crate::balancer::ResourceKey;
use crate::calls::End;
use crate::dialog::{Dialog, DialogId, EndCause, flag};
use crate::row::{Address, Fields, Header, is_whole, moment, moment_word, put, row};

/// Bytes of a text field at most: what is longer is cut.
pub const CDR_FIELD_MAX: usize = 2048;

row! {
    /// The header of a record; `kind` is its [`EndCause`].
    pub struct CdrRow: version 1, 108 bytes {
        /// Of the final response, 0 for a call that was answered.
        pub code: U16,
        /// Zero.
        pub reserved: U16,
        /// Of its dialog.
        pub flags: U32,
        /// Of its dialog.
        pub id: [u8; 16],
        /// Which of the callees of a forked call; 0: the first that answered.
        pub fork: U64,
        /// The INVITE came.
        pub start_at: I64,
        /// The first 2xx came; 0: none did.
        pub answer_at: I64,
        /// It was over.
        pub end_at: I64,
        /// Where the INVITE came from.
        pub source: Address,
        /// Where it was answered, or sent last.
        pub target: Address,
    }
}

/// Tags of the fields after the header.
mod tag {
    pub(super) const CALL_ID: u8 = 1;
    pub(super) const CALLER_TAG: u8 = 2;
    pub(super) const CALLEE_TAG: u8 = 3;
    pub(super) const CALLER_URI: u8 = 4;
    pub(super) const CALLEE_URI: u8 = 5;
    pub(super) const REQUEST_URI: u8 = 6;
    pub(super) const DOMAIN: u8 = 7;
    pub(super) const DESTINATION: u8 = 8;
}

/// A destination's key in `balancer`, as people read it.
fn destination(key: &[u8]) -> Vec<u8> {
    let name = key.get(1..).unwrap_or_default();
    name.iter()
        .map(|&byte| if byte == 0 { b' ' } else { byte })
        .collect()
}

/// The name of a record: its dialog's id, and which callee's it is if several answered one INVITE. In text: 32 hexadecimal digits, and `-` with 16 more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CdrId {
    pub dialog: [u8; 16],
    /// 0: the first that answered.
    pub fork: u64,
}

impl CdrId {
    /// Of a dialog.
    pub fn of(dialog: &Dialog) -> Self {
        let fork = match dialog.flags & flag::FORK {
            0 => 0,
            // By a key that no callee knows: two that want one record have to have the same tag.
            _ => hash64(&Key(dialog.id.0), &[&dialog.callee.tag]) | 1,
        };
        Self {
            dialog: dialog.id.0,
            fork,
        }
    }

    /// Its key in the table: 16 bytes, or 24.
    pub fn key(&self) -> Vec<u8> {
        let mut key = self.dialog.to_vec();
        if self.fork != 0 {
            key.extend_from_slice(&self.fork.to_le_bytes());
        }
        key
    }
}

impl fmt::Display for CdrId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.dialog))?;
        if self.fork != 0 {
            write!(f, "-{:016x}", self.fork)?;
        }
        Ok(())
    }
}

/// The text is no name of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("32 hexadecimal digits, and perhaps `-` and 16 more, name a record of a call")]
pub struct NoCdrId;

impl FromStr for CdrId {
    type Err = NoCdrId;
    fn from_str(text: &str) -> Result<Self, NoCdrId> {
        let (dialog, fork) = match text.split_once('-') {
            Some((dialog, fork)) => (dialog, Some(fork)),
            None => (text, None),
        };
        let digits = |text: &str, len: usize| {
            text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        if !digits(dialog, 32) || fork.is_some_and(|fork| !digits(fork, 16)) {
            return Err(NoCdrId);
        }
        let dialog = u128::from_str_radix(dialog, 16).map_err(|_| NoCdrId)?;
        let fork = fork.map_or(Ok(0), |fork| u64::from_str_radix(fork, 16));
        Ok(Self {
            dialog: dialog.to_be_bytes(),
            fork: fork.map_err(|_| NoCdrId)?,
        })
    }
}

/// The record of a call, taken out of the arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cdr {
    pub id: CdrId,
    pub call_id: Vec<u8>,
    pub caller_tag: Vec<u8>,
    /// Empty: nobody answered.
    pub callee_tag: Vec<u8>,
    /// The URI in From.
    pub caller_uri: Vec<u8>,
    /// The URI in To.
    pub callee_uri: Vec<u8>,
    /// As the INVITE came.
    pub request_uri: Vec<u8>,
    /// Ours, that the call was routed by.
    pub domain: Vec<u8>,
    /// Of a group: its name, a space, the destination's URI. Empty: the call went to no group.
    pub destination: Vec<u8>,
    /// Where the INVITE came from.
    pub source: Option<SocketAddr>,
    /// Where it was answered; if it was not, where it was sent last.
    pub target: Option<SocketAddr>,
    /// The INVITE came.
    pub start_at: Moment,
    /// The first 2xx came.
    pub answer_at: Option<Moment>,
    /// It was over.
    pub end_at: Moment,
    pub cause: EndCause,
    /// Of the final response, 0 for a call that was answered.
    pub code: u16,
    /// Of its dialog: see [`flag`].
    pub flags: u32,
}

impl Cdr {
    /// The record of a call that ends now.
    pub fn of(dialog: &Dialog, end: &End) -> Self {
        Self {
            id: CdrId::of(dialog),
            call_id: dialog.call_id.clone(),
            caller_tag: dialog.caller.tag.clone(),
            callee_tag: dialog.callee.tag.clone(),
            caller_uri: dialog.caller.uri.clone(),
            callee_uri: dialog.callee.uri.clone(),
            request_uri: dialog.request_uri.clone(),
            domain: dialog.domain.clone(),
            destination: destination(&dialog.destination),
            source: dialog.caller.address,
            target: dialog.callee.address,
            start_at: dialog.created_at,
            answer_at: dialog.confirmed_at,
            end_at: end.at,
            cause: dialog.end_cause.unwrap_or(end.cause),
            code: end.code,
            flags: dialog.flags,
        }
    }

    /// Nobody answered: this is where it was sent last.
    pub(crate) fn tried(&mut self, to: SocketAddr, key: Option<ResourceKey>) {
        self.target = Some(to);
        self.destination = key.map_or_else(Vec::new, |key| destination(key.as_bytes()));
    }

    /// From answer to end; zero without an answer.
    pub fn duration(&self) -> Duration {
        let since = |at| self.end_at.saturating_duration_since(at);
        self.answer_at.map(since).unwrap_or_default()
    }

    /// Its dialog's id.
    pub fn dialog(&self) -> DialogId {
        DialogId(self.id.dialog)
    }

    /// Appends the payload of the row.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut row = CdrRow::new_zeroed();
        row.begin(self.cause as u8);
        row.code = U16::new(self.code);
        row.flags = U32::new(self.flags);
        row.id = self.id.dialog;
        row.fork = U64::new(self.id.fork);
        row.start_at = I64::new(self.start_at.as_nanos());
        row.answer_at = moment_word(self.answer_at);
        row.end_at = I64::new(self.end_at.as_nanos());
        row.source = Address::new(self.source);
        row.target = Address::new(self.target);
        out.extend_from_slice(row.as_bytes());
        let fields = [
            (tag::CALL_ID, &self.call_id),
            (tag::CALLER_TAG, &self.caller_tag),
            (tag::CALLEE_TAG, &self.callee_tag),
            (tag::CALLER_URI, &self.caller_uri),
            (tag::CALLEE_URI, &self.callee_uri),
            (tag::REQUEST_URI, &self.request_uri),
            (tag::DOMAIN, &self.domain),
            (tag::DESTINATION, &self.destination),
        ];
        for (tag, value) in fields {
            let value = value.get(..CDR_FIELD_MAX).unwrap_or(value);
            put(tag, Some(value).filter(|v| !v.is_empty()), out);
        }
    }

    /// `None`: what lies there is no record that we can read.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (h, fields) = CdrRow::read(payload)?;
        let fields = is_whole(fields).then_some(fields)?;
        let mut cdr = Self {
            id: CdrId {
                dialog: h.id,
                fork: h.fork.get(),
            },
            call_id: Vec::new(),
            caller_tag: Vec::new(),
            callee_tag: Vec::new(),
            caller_uri: Vec::new(),
            callee_uri: Vec::new(),
            request_uri: Vec::new(),
            domain: Vec::new(),
            destination: Vec::new(),
            source: h.source.get(),
            target: h.target.get(),
            start_at: Moment::from_nanos(h.start_at.get()),
            answer_at: moment(h.answer_at),
            end_at: Moment::from_nanos(h.end_at.get()),
            cause: EndCause::read(h.kind)?,
            code: h.code.get(),
            flags: h.flags.get(),
        };
        for (tag, value) in Fields(fields) {
            let to = match tag {
                tag::CALL_ID => &mut cdr.call_id,
                tag::CALLER_TAG => &mut cdr.caller_tag,
                tag::CALLEE_TAG => &mut cdr.callee_tag,
                tag::CALLER_URI => &mut cdr.caller_uri,
                tag::CALLEE_URI => &mut cdr.callee_uri,
                tag::REQUEST_URI => &mut cdr.request_uri,
                tag::DOMAIN => &mut cdr.domain,
                tag::DESTINATION => &mut cdr.destination,
                _ => continue,
            };
            value.clone_into(to);
        }
        Some(cdr)
    }
}
