//! What the operator chooses. It is known when a call begins, and travels in the tokens from then on.

/// One of the two parties of a call: that which began it, or the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Side {
    Caller = 1,
    Callee = 2,
}

impl Side {
    pub fn other(self) -> Self {
        match self {
            Self::Caller => Self::Callee,
            Self::Callee => Self::Caller,
        }
    }

    pub(crate) fn decode(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Caller),
            2 => Some(Self::Callee),
            _ => None,
        }
    }
}

/// Where it is kept what was taken out of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// In the call's record: messages stay short.
    #[default]
    Dialog = 0,
    /// In tokens within the messages: calls go on after the loss of every state.
    Stateless = 1,
}

/// What is done with the hosts of From, To and other identities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Identities {
    /// A host that is none of our domains becomes ours.
    #[default]
    Own = 0,
    /// They stay.
    Keep = 1,
}

/// What is done with a header that nobody here knows, and that tells an address of its sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Unknown {
    /// The address becomes ours.
    #[default]
    Rewrite = 0,
    /// The header goes.
    Strip = 1,
    /// It stays as it is.
    Pass = 2,
}

/// How a call is hidden.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub mode: Mode,
    pub identities: Identities,
    pub unknown: Unknown,
    /// Server and User-Agent stay.
    pub agents: bool,
    /// Bodies stay as they are: SDP, and all others.
    pub bodies: bool,
    /// Id of the key that the call's Call-ID is sealed with (see [`Sealer::id`](crate::Sealer::id)): the same from its beginning to its end. Of a key that is not there:
    /// the newest.
    pub key: u8,
}

impl Policy {
    /// As a number, for tokens and records.
    pub fn encode(self) -> u16 {
        self.mode as u16
            | (self.identities as u16) << 1
            | (self.unknown as u16) << 2
            | u16::from(self.agents) << 4
            | u16::from(self.bodies) << 5
            | u16::from(self.key) << 8
    }

    /// What [`Policy::encode`] made; what is not understood hides more.
    pub fn decode(bits: u16) -> Self {
        Self {
            mode: if bits & 1 == 0 {
                Mode::Dialog
            } else {
                Mode::Stateless
            },
            identities: if bits & 2 == 0 {
                Identities::Own
            } else {
                Identities::Keep
            },
            unknown: match bits >> 2 & 3 {
                1 => Unknown::Strip,
                2 => Unknown::Pass,
                _ => Unknown::Rewrite,
            },
            agents: bits & 1 << 4 != 0,
            bodies: bits & 1 << 5 != 0,
            key: (bits >> 8) as u8,
        }
    }
}
