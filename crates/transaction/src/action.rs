//! What goes into a machine and what comes out of it.

/// What can happen to a server transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerInput {
    /// A retransmission of the request that created the transaction (§17.2.3).
    Request,
    /// An ACK that matches the transaction.
    Ack,
    /// The TU responds with this status code. Codes outside 100..=699 are ignored.
    Respond(u16),
    /// Time has passed.
    Tick,
    /// The transport could not deliver a response (§17.2.4).
    TransportError,
}

/// What a server transaction wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerAction {
    /// Send the response just handed in, and keep it as the last one.
    Send,
    /// Send the last response again.
    Resend,
    /// Pass the ACK to the TU: it acknowledges a 2xx (RFC 6026 §7.1).
    DeliverAck,
    /// Tell the TU that no ACK came (Timer H).
    Timeout,
    /// Tell the TU that a response could not be sent (§17.2.4 as amended: the transaction stays).
    Failed,
    /// Nothing is to be done with this input.
    Absorb,
}

/// What can happen to a client transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientInput {
    /// A response that matches the transaction (§17.1.3). Codes outside 100..=699 are ignored.
    Response(u16),
    /// Time has passed.
    Tick,
    /// The transport could not deliver the request or the ACK (§17.1.4).
    TransportError,
}

/// What a client transaction wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAction {
    /// Send the request again.
    Resend,
    /// Pass the response to the TU.
    PassUp,
    /// Send the ACK for this response of 300..=699 (§17.1.1.3).
    Ack,
    /// Tell the TU that no response came (Timer B or F); it acts as if a 408 had come (§8.1.3.1).
    Timeout,
    /// Tell the TU that the transport failed; it acts as if a 503 had come (§16.9). After a final response was passed
    /// up this only says that the ACK was lost.
    Failed,
    /// Nothing is to be done with this input.
    Absorb,
}

/// The most actions that one step can ask for.
const ACTIONS_MAX: usize = 2;

/// The bounded list that a step writes to. It belongs to the caller, who clears it between steps.
#[derive(Clone, Copy, Debug)]
pub struct Actions<A> {
    list: [Option<A>; ACTIONS_MAX],
}

impl<A: Copy> Actions<A> {
    pub fn new() -> Self {
        Self {
            list: [None; ACTIONS_MAX],
        }
    }

    pub fn clear(&mut self) {
        self.list = [None; ACTIONS_MAX];
    }

    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    pub fn iter(&self) -> impl Iterator<Item = A> + '_ {
        self.list.iter().flatten().copied()
    }

    /// Appends. A list that its owner forgot to clear loses its oldest entries, never the new one.
    pub(crate) fn push(&mut self, action: A) {
        match self.list.iter_mut().find(|entry| entry.is_none()) {
            Some(entry) => *entry = Some(action),
            None => {
                self.list.rotate_left(1);
                if let Some(last) = self.list.last_mut() {
                    *last = Some(action);
                }
            }
        }
    }
}

impl<A: Copy> Default for Actions<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Copy> IntoIterator for Actions<A> {
    type Item = A;
    type IntoIter = core::iter::Flatten<core::array::IntoIter<Option<A>, ACTIONS_MAX>>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter().flatten()
    }
}

/// The classes of status codes that the machines tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// 100..=199
    Provisional,
    /// 200..=299
    Success,
    /// 300..=699
    Failure,
    /// Not a SIP status code.
    Invalid,
}

impl Class {
    pub(crate) fn of(code: u16) -> Self {
        match code {
            100..=199 => Self::Provisional,
            200..=299 => Self::Success,
            300..=699 => Self::Failure,
            0..=99 | 700..=u16::MAX => Self::Invalid,
        }
    }
}
