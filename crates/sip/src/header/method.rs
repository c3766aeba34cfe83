//! Methods (§7.1). Tokens are case-sensitive: `invite` is some other method.

/// A method this proxy has rules for, or [`Method::Other`]; the token itself stays in the message's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Method {
    /// RFC 3261 §13.
    Invite,
    /// RFC 3261 §13, §17.1.1.3.
    Ack,
    /// RFC 3261 §15.
    Bye,
    /// RFC 3261 §9.
    Cancel,
    /// RFC 3261 §10.
    Register,
    /// RFC 3261 §11.
    Options,
    /// RFC 6086.
    Info,
    /// RFC 3262.
    Prack,
    /// RFC 3311.
    Update,
    /// RFC 6665.
    Subscribe,
    /// RFC 6665.
    Notify,
    /// RFC 3428.
    Message,
    /// RFC 3515.
    Refer,
    /// RFC 3903.
    Publish,
    /// Any other token.
    Other,
}

impl Method {
    /// Every method with a name of its own.
    pub const KNOWN: [Self; 14] = [
        Self::Invite,
        Self::Ack,
        Self::Bye,
        Self::Cancel,
        Self::Register,
        Self::Options,
        Self::Info,
        Self::Prack,
        Self::Update,
        Self::Subscribe,
        Self::Notify,
        Self::Message,
        Self::Refer,
        Self::Publish,
    ];

    /// The method that `token` names.
    pub fn of(token: &[u8]) -> Self {
        match token {
            b"INVITE" => Self::Invite,
            b"ACK" => Self::Ack,
            b"BYE" => Self::Bye,
            b"CANCEL" => Self::Cancel,
            b"REGISTER" => Self::Register,
            b"OPTIONS" => Self::Options,
            b"INFO" => Self::Info,
            b"PRACK" => Self::Prack,
            b"UPDATE" => Self::Update,
            b"SUBSCRIBE" => Self::Subscribe,
            b"NOTIFY" => Self::Notify,
            b"MESSAGE" => Self::Message,
            b"REFER" => Self::Refer,
            b"PUBLISH" => Self::Publish,
            _ => Self::Other,
        }
    }

    /// The token; empty for [`Method::Other`], whose token is in the message.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invite => "INVITE",
            Self::Ack => "ACK",
            Self::Bye => "BYE",
            Self::Cancel => "CANCEL",
            Self::Register => "REGISTER",
            Self::Options => "OPTIONS",
            Self::Info => "INFO",
            Self::Prack => "PRACK",
            Self::Update => "UPDATE",
            Self::Subscribe => "SUBSCRIBE",
            Self::Notify => "NOTIFY",
            Self::Message => "MESSAGE",
            Self::Refer => "REFER",
            Self::Publish => "PUBLISH",
            Self::Other => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Method;

    #[test]
    fn every_known_method_is_found_by_its_own_token() {
        for method in Method::KNOWN {
            assert_eq!(Method::of(method.as_str().as_bytes()), method);
        }
    }

    #[test]
    fn tokens_are_case_sensitive() {
        assert_eq!(Method::of(b"invite"), Method::Other);
        assert_eq!(Method::of(b"INVITE "), Method::Other);
        assert_eq!(Method::of(b""), Method::Other);
    }
}
