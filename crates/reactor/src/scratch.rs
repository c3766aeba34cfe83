//! What one submission sends: copies of the messages, and the structures the kernel reads them through.

use std::net::{IpAddr, SocketAddr};
use std::ptr;

use crate::datagram::{NAME_BYTES, SOURCE_BYTES, write_address, write_source};
use crate::driver::SocketIndex;

/// Messages that wait for the next submission. Filled by [`Scratch::put`] and emptied as a whole by [`Scratch::clear`]
/// once the kernel has taken them all: a `sendmsg` with MSG_DONTWAIT is carried out while it is submitted.
pub(crate) struct Scratch {
    bytes: Box<[u8]>,
    used: usize,
    slots: Box<[Slot]>,
    filled: usize,
}

/// One message. The slots never move, so that the pointers between their fields hold.
struct Slot {
    header: libc::msghdr,
    part: libc::iovec,
    name: [u8; NAME_BYTES],
    control: [u8; SOURCE_BYTES],
    socket: SocketIndex,
    to: SocketAddr,
}

/// The longest payload of a UDP datagram over IPv4; a jumbogram is none of our business.
const PAYLOAD_MAX: usize = 65_507;

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Submit, clear and try again.
    Full,
    /// It is no datagram of any network.
    TooLong,
}

impl Scratch {
    /// Room for `messages` messages of together `bytes` bytes, at least for one of the longest.
    pub(crate) fn new(messages: usize, bytes: usize) -> Self {
        let part = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        let slot = || Slot {
            header: empty_header(),
            part,
            name: [0; NAME_BYTES],
            control: [0; SOURCE_BYTES],
            socket: SocketIndex(0),
            to: SocketAddr::from(([0, 0, 0, 0], 0)),
        };
        let slots = (0..messages.max(1)).map(|_| slot()).collect();
        Self {
            bytes: vec![0; bytes.max(PAYLOAD_MAX)].into(),
            used: 0,
            slots,
            filled: 0,
        }
    }

    /// Copies a message; returns its slot and what the kernel reads, good until [`Scratch::clear`].
    pub(crate) fn put(
        &mut self,
        socket: SocketIndex,
        from: Option<IpAddr>,
        to: &SocketAddr,
        bytes: &[u8],
    ) -> Result<(u32, *const libc::msghdr), Unfit> {
        if bytes.len() > PAYLOAD_MAX {
            return Err(Unfit::TooLong);
        }
        let room = self
            .bytes
            .get_mut(self.used..)
            .and_then(|free| free.get_mut(..bytes.len()));
        let (Some(room), Some(slot)) = (room, self.slots.get_mut(self.filled)) else {
            return Err(Unfit::Full);
        };
        room.copy_from_slice(bytes);
        slot.part = libc::iovec {
            iov_base: room.as_mut_ptr().cast(),
            iov_len: room.len(),
        };
        let name_len = write_address(to, &mut slot.name);
        slot.header = empty_header();
        slot.header.msg_name = slot.name.as_mut_ptr().cast();
        slot.header.msg_namelen = name_len as u32;
        slot.header.msg_iov = &raw mut slot.part;
        slot.header.msg_iovlen = 1;
        if let Some(from) = from {
            slot.header.msg_controllen = write_source(from, &mut slot.control);
            slot.header.msg_control = slot.control.as_mut_ptr().cast();
        }
        slot.socket = socket;
        slot.to = *to;
        let index = self.filled as u32;
        self.filled += 1;
        self.used += bytes.len();
        Ok((index, &raw const slot.header))
    }

    /// Whom the message in `slot` was for, and its length.
    pub(crate) fn target(&self, slot: u32) -> Option<(SocketIndex, SocketAddr, usize)> {
        let slot = self.slots.get(slot as usize)?;
        Some((slot.socket, slot.to, slot.part.iov_len))
    }

    /// Forgets all messages. Only when the kernel has taken them all.
    pub(crate) fn clear(&mut self) {
        self.used = 0;
        self.filled = 0;
    }
}

/// A message header without name, parts and control data.
pub(crate) fn empty_header() -> libc::msghdr {
    // SAFETY: all-zero bytes are a valid msghdr: null pointers with zero lengths.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_by_messages_and_by_bytes() {
        let to = "192.0.2.1:5060".parse().unwrap();
        let mut scratch = Scratch::new(2, 1);
        let put = |scratch: &mut Scratch, len| {
            scratch
                .put(SocketIndex(1), None, &to, &vec![7; len])
                .map(|(slot, _)| slot)
        };
        assert_eq!(put(&mut scratch, PAYLOAD_MAX), Ok(0));
        assert_eq!(put(&mut scratch, 1), Err(Unfit::Full), "no bytes left");
        assert_eq!(put(&mut scratch, 0), Ok(1));
        assert_eq!(put(&mut scratch, 0), Err(Unfit::Full), "no slot left");
        assert_eq!(scratch.target(1), Some((SocketIndex(1), to, 0)));
        scratch.clear();
        assert_eq!(put(&mut scratch, PAYLOAD_MAX + 1), Err(Unfit::TooLong));
    }
}
