//! Header names: every field of IANA's SIP registry that is in common use, with its compact form.

/// Declares the names once: variant, canonical spelling, compact form.
macro_rules! names {
    ($($variant:ident = $text:literal $(| $compact:literal)?,)+) => {
        /// The name of a header field (§7.3.1): compared without regard to case, compact forms included.
        ///
        /// `as usize` is dense and below [`HeaderName::COUNT`], so a table may be indexed by it. A name without
        /// a variant is [`HeaderName::Other`], and its text stays in the message.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum HeaderName {
            $(#[doc = $text] $variant,)+
            /// Any other name.
            Other,
        }

        impl HeaderName {
            /// Every name with a variant of its own, in the order of `as usize`.
            pub const KNOWN: [Self; Self::COUNT - 1] = [$(Self::$variant,)+];

            /// How many variants there are, `Other` included.
            pub const COUNT: usize = Self::Other as usize + 1;

            /// The canonical spelling; empty for `Other`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Other => "",
                }
            }

            /// The compact form (§7.3.3) in lower case, if the name has one.
            pub const fn compact(self) -> Option<u8> {
                match self {
                    $($(Self::$variant => Some($compact),)?)+
                    _ => None,
                }
            }

            fn of_compact(letter: u8) -> Self {
                match letter.to_ascii_lowercase() {
                    $($($compact => Self::$variant,)?)+
                    _ => Self::Other,
                }
            }
        }
    };
}

names! {
    Accept = "Accept",
    AcceptContact = "Accept-Contact" | b'a',
    AcceptEncoding = "Accept-Encoding",
    AcceptLanguage = "Accept-Language",
    AcceptResourcePriority = "Accept-Resource-Priority",
    AdditionalIdentity = "Additional-Identity",
    AlertInfo = "Alert-Info",
    Allow = "Allow",
    AllowEvents = "Allow-Events" | b'u',
    AnswerMode = "Answer-Mode",
    AttestationInfo = "Attestation-Info",
    AuthenticationInfo = "Authentication-Info",
    Authorization = "Authorization",
    CallId = "Call-ID" | b'i',
    CallInfo = "Call-Info",
    CellularNetworkInfo = "Cellular-Network-Info",
    Contact = "Contact" | b'm',
    ContentDisposition = "Content-Disposition",
    ContentEncoding = "Content-Encoding" | b'e',
    ContentId = "Content-ID",
    ContentLanguage = "Content-Language",
    ContentLength = "Content-Length" | b'l',
    ContentType = "Content-Type" | b'c',
    CSeq = "CSeq",
    Date = "Date",
    DcInfo = "DC-Info",
    Diversion = "Diversion",
    Encryption = "Encryption",
    ErrorInfo = "Error-Info",
    Event = "Event" | b'o',
    Expires = "Expires",
    FeatureCaps = "Feature-Caps",
    FlowTimer = "Flow-Timer",
    From = "From" | b'f',
    Geolocation = "Geolocation",
    GeolocationError = "Geolocation-Error",
    GeolocationRouting = "Geolocation-Routing",
    Hide = "Hide",
    HistoryInfo = "History-Info",
    Identity = "Identity" | b'y',
    IdentityInfo = "Identity-Info" | b'n',
    InReplyTo = "In-Reply-To",
    InfoPackage = "Info-Package",
    Join = "Join",
    MaxBreadth = "Max-Breadth",
    MaxForwards = "Max-Forwards",
    MimeVersion = "MIME-Version",
    MinExpires = "Min-Expires",
    MinSe = "Min-SE",
    Organization = "Organization",
    OriginationId = "Origination-Id",
    PAccessNetworkInfo = "P-Access-Network-Info",
    PAnswerState = "P-Answer-State",
    PAssertedIdentity = "P-Asserted-Identity",
    PAssertedService = "P-Asserted-Service",
    PAssociatedUri = "P-Associated-URI",
    PCalledPartyId = "P-Called-Party-ID",
    PChargeInfo = "P-Charge-Info",
    PChargingFunctionAddresses = "P-Charging-Function-Addresses",
    PChargingVector = "P-Charging-Vector",
    PDcsBillingInfo = "P-DCS-Billing-Info",
    PDcsLaes = "P-DCS-LAES",
    PDcsOsps = "P-DCS-OSPS",
    PDcsRedirect = "P-DCS-Redirect",
    PDcsTracePartyId = "P-DCS-Trace-Party-ID",
    PEarlyMedia = "P-Early-Media",
    PMediaAuthorization = "P-Media-Authorization",
    PPreferredIdentity = "P-Preferred-Identity",
    PPreferredService = "P-Preferred-Service",
    PPrivateNetworkIndication = "P-Private-Network-Indication",
    PProfileKey = "P-Profile-Key",
    PRefusedUriList = "P-Refused-URI-List",
    PServedUser = "P-Served-User",
    PUserDatabase = "P-User-Database",
    PVisitedNetworkId = "P-Visited-Network-ID",
    Path = "Path",
    PermissionMissing = "Permission-Missing",
    PolicyContact = "Policy-Contact",
    PolicyId = "Policy-ID",
    Priority = "Priority",
    PriorityShare = "Priority-Share",
    PriorityVerstat = "Priority-Verstat",
    PrivAnswerMode = "Priv-Answer-Mode",
    Privacy = "Privacy",
    ProxyAuthenticate = "Proxy-Authenticate",
    ProxyAuthenticationInfo = "Proxy-Authentication-Info",
    ProxyAuthorization = "Proxy-Authorization",
    ProxyRequire = "Proxy-Require",
    RAck = "RAck",
    Reason = "Reason",
    ReasonPhrase = "Reason-Phrase",
    RecordRoute = "Record-Route",
    RecvInfo = "Recv-Info",
    ReferEventsAt = "Refer-Events-At",
    ReferSub = "Refer-Sub",
    ReferTo = "Refer-To" | b'r',
    ReferredBy = "Referred-By" | b'b',
    RejectContact = "Reject-Contact" | b'j',
    RelayedCharge = "Relayed-Charge",
    RemotePartyId = "Remote-Party-ID",
    Replaces = "Replaces",
    ReplyTo = "Reply-To",
    RequestDisposition = "Request-Disposition" | b'd',
    Require = "Require",
    ResourcePriority = "Resource-Priority",
    ResourceShare = "Resource-Share",
    ResponseKey = "Response-Key",
    ResponseSource = "Response-Source",
    RestorationInfo = "Restoration-Info",
    RetryAfter = "Retry-After",
    Route = "Route",
    RSeq = "RSeq",
    SecurityClient = "Security-Client",
    SecurityServer = "Security-Server",
    SecurityVerify = "Security-Verify",
    Server = "Server",
    ServiceInteractInfo = "Service-Interact-Info",
    ServiceRoute = "Service-Route",
    SessionExpires = "Session-Expires" | b'x',
    SessionId = "Session-ID",
    SipEtag = "SIP-ETag",
    SipIfMatch = "SIP-If-Match",
    Subject = "Subject" | b's',
    SubscriptionState = "Subscription-State",
    Supported = "Supported" | b'k',
    SuppressIfMatch = "Suppress-If-Match",
    TargetDialog = "Target-Dialog",
    Timestamp = "Timestamp",
    To = "To" | b't',
    TriggerConsent = "Trigger-Consent",
    Unsupported = "Unsupported",
    UserAgent = "User-Agent",
    UserToUser = "User-to-User",
    Via = "Via" | b'v',
    Warning = "Warning",
    WwwAuthenticate = "WWW-Authenticate",
}

impl HeaderName {
    /// The name that `text` spells, in full or in its compact form.
    pub fn of(text: &[u8]) -> Self {
        if let [letter] = text {
            return Self::of_compact(*letter);
        }
        let [first, .., last] = text else {
            return Self::Other;
        };
        let mut bucket = bucket_of(text.len(), *first, *last);
        // The table is never full, so the walk ends at an empty bucket; the bound is for the reader.
        for _ in 0..BUCKETS {
            let Some(name) = TABLE
                .get(bucket)
                .and_then(|at| Self::KNOWN.get(usize::from(*at)))
            else {
                return Self::Other;
            };
            if spells(name.as_str().as_bytes(), text) {
                return *name;
            }
            bucket = bucket.wrapping_add(1) & (BUCKETS - 1);
        }
        Self::Other
    }

    /// Whether the field's grammar is a comma separated list, so that its lines may be joined and split (§7.3.1).
    ///
    /// The four authentication fields have commas of another meaning and may not be joined. An unknown name is
    /// not a list: its commas are its own.
    pub fn is_list(self) -> bool {
        matches!(
            self,
            Self::Accept
                | Self::AcceptContact
                | Self::AcceptEncoding
                | Self::AcceptLanguage
                | Self::AcceptResourcePriority
                | Self::AlertInfo
                | Self::Allow
                | Self::AllowEvents
                | Self::CallInfo
                | Self::Contact
                | Self::ContentEncoding
                | Self::ContentLanguage
                | Self::Diversion
                | Self::ErrorInfo
                | Self::FeatureCaps
                | Self::Geolocation
                | Self::HistoryInfo
                | Self::InReplyTo
                | Self::PAccessNetworkInfo
                | Self::PAssertedIdentity
                | Self::PAssertedService
                | Self::PAssociatedUri
                | Self::PEarlyMedia
                | Self::PMediaAuthorization
                | Self::PPreferredIdentity
                | Self::PPreferredService
                | Self::PVisitedNetworkId
                | Self::Path
                | Self::PermissionMissing
                | Self::PolicyContact
                | Self::ProxyRequire
                | Self::Reason
                | Self::RecordRoute
                | Self::RecvInfo
                | Self::RejectContact
                | Self::RequestDisposition
                | Self::Require
                | Self::ResourcePriority
                | Self::Route
                | Self::SecurityClient
                | Self::SecurityServer
                | Self::SecurityVerify
                | Self::ServiceRoute
                | Self::Supported
                | Self::TriggerConsent
                | Self::Unsupported
                | Self::UserToUser
                | Self::Via
                | Self::Warning
        )
    }
}

/// `eq_ignore_ascii_case` eight bytes a step, since nothing in a message is compared as often as its header names.
fn spells(canonical: &[u8], text: &[u8]) -> bool {
    if canonical.len() != text.len() {
        return false;
    }
    // The last step overlaps the one before, so that none is shorter.
    match (
        canonical.last_chunk(),
        text.last_chunk(),
        canonical.first_chunk(),
        text.first_chunk(),
    ) {
        (Some(last), Some(text_last), _, _) => {
            let (steps, _) = canonical.as_chunks();
            let (text_steps, _) = text.as_chunks();
            same_letters(*last, *text_last)
                && steps
                    .iter()
                    .zip(text_steps)
                    .all(|(a, b)| same_letters(*a, *b))
        }
        (_, _, Some([a, b, c, d]), Some([e, f, g, h])) => {
            let ([.., i, j, k, l], [.., m, n, o, p]) = (canonical, text) else {
                return false;
            };
            same_letters(
                [*a, *b, *c, *d, *i, *j, *k, *l],
                [*e, *f, *g, *h, *m, *n, *o, *p],
            )
        }
        _ => canonical.eq_ignore_ascii_case(text),
    }
}

/// Whether the two differ in the case of letters only. What has bit 6 set in a canonical name is a letter, and bit 5
/// is a letter's case.
fn same_letters(canonical: [u8; 8], text: [u8; 8]) -> bool {
    let (canonical, text) = (u64::from_ne_bytes(canonical), u64::from_ne_bytes(text));
    let case = (canonical & 0x4040_4040_4040_4040) >> 1;
    (canonical ^ text) & !case == 0
}

/// Size of the hash table; a power of two, several times the number of names so that walks are short.
const BUCKETS: usize = 512;
const EMPTY: u8 = u8::MAX;
const _: () = assert!(HeaderName::COUNT < EMPTY as usize && HeaderName::COUNT * 3 < BUCKETS);

/// Where a name of `len` bytes with these two letters is looked for. Letters differ from their other case in one bit.
const fn bucket_of(len: usize, first: u8, last: u8) -> usize {
    let first = (first | 0x20) as usize;
    let last = (last | 0x20) as usize;
    (len.wrapping_mul(37) ^ first.wrapping_mul(11) ^ last.wrapping_mul(5)) & (BUCKETS - 1)
}

/// From bucket to index in `KNOWN`, with linear probing; made by the compiler.
static TABLE: [u8; BUCKETS] = fill();

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "runs in the compiler only"
)]
const fn fill() -> [u8; BUCKETS] {
    let mut table = [EMPTY; BUCKETS];
    let mut index = 0;
    while index < HeaderName::KNOWN.len() {
        let text = HeaderName::KNOWN[index].as_str().as_bytes();
        let mut bucket = bucket_of(text.len(), text[0], text[text.len() - 1]);
        while table[bucket] != EMPTY {
            bucket = (bucket + 1) & (BUCKETS - 1);
        }
        table[bucket] = index as u8;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::HeaderName;

    #[test]
    fn every_name_is_found_in_any_case() {
        for (index, name) in HeaderName::KNOWN.into_iter().enumerate() {
            assert_eq!(name as usize, index);
            let text = name.as_str();
            assert_eq!(HeaderName::of(text.as_bytes()), name);
            assert_eq!(HeaderName::of(text.to_ascii_uppercase().as_bytes()), name);
            assert_eq!(HeaderName::of(text.to_ascii_lowercase().as_bytes()), name);
            assert_eq!(
                HeaderName::of(format!("{text}x").as_bytes()),
                HeaderName::Other
            );
        }
    }

    #[test]
    fn every_compact_form_names_one_header() {
        for name in HeaderName::KNOWN {
            let Some(letter) = name.compact() else {
                continue;
            };
            assert_eq!(HeaderName::of(&[letter]), name);
            assert_eq!(HeaderName::of(&[letter.to_ascii_uppercase()]), name);
        }
        assert_eq!(HeaderName::of(b"z"), HeaderName::Other);
    }

    #[test]
    fn what_is_no_name_is_other() {
        for text in [
            &b""[..],
            b"Vi",
            b"From ",
            b"Call_ID",
            b"\xff\xfe",
            b"X-Anything",
        ] {
            assert_eq!(HeaderName::of(text), HeaderName::Other);
        }
    }

    #[test]
    fn only_letters_have_a_case() {
        for name in HeaderName::KNOWN {
            let text = name.as_str().as_bytes();
            for at in 0..text.len() {
                for bit in 0..8 {
                    let mut changed = text.to_vec();
                    changed[at] ^= 1 << bit;
                    let same = changed.eq_ignore_ascii_case(text);
                    assert_eq!(
                        HeaderName::of(&changed) == name,
                        same,
                        "{}",
                        changed.escape_ascii()
                    );
                }
            }
        }
    }

    #[test]
    fn walks_in_the_table_are_short() {
        let mut worst = 0;
        for name in HeaderName::KNOWN {
            let text = name.as_str().as_bytes();
            let home = super::bucket_of(text.len(), text[0], text[text.len() - 1]);
            let place = super::TABLE
                .iter()
                .position(|at| usize::from(*at) == name as usize)
                .unwrap();
            worst = worst.max((place + super::BUCKETS - home) % super::BUCKETS);
        }
        assert!(worst <= 6, "{worst}");
    }
}
