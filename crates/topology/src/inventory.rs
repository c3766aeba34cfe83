//! Every header, and what is done with it on its way to the other side.
//!
//! The match names every header that `sip` knows, so that a new one has to be decided upon here before anything compiles.

use sip::HeaderName;

/// What is done with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// Written anew, each in its own way: Via, Record-Route, Route, Contact, Call-ID, From, To, Content-Length.
    Own,
    /// Says nothing of a network by its grammar: byte for byte.
    Safe,
    /// Free text or parameters in which an address may stand: what was learnt is replaced.
    Scan,
    /// Says how the sender's network is built, and is of no use to the other side.
    Strip,
    /// Addresses of people: hosts as the policy says.
    Identity,
    /// Where the recipient is sent to: Refer-To.
    Refer,
    /// Names another dialog: Replaces, Join, Target-Dialog.
    Dialog,
    /// Names other calls: In-Reply-To.
    Calls,
    /// URIs of things to be fetched: those of hidden hosts go.
    Fetch,
    /// The agent that warns is us.
    Warning,
    /// The software of the other side.
    Agent,
    /// A way for requests to come: a token of ours takes its place.
    ServiceRoute,
    /// Part of a signature or a digest, which any change would break: byte for byte.
    Signed,
    /// Nobody here knows it: as the policy says.
    Unknown,
}

/// What is done with this header.
pub fn treatment(name: HeaderName) -> Treatment {
    use HeaderName as H;
    match name {
        H::CallId
        | H::Contact
        | H::ContentLength
        | H::From
        | H::RecordRoute
        | H::Route
        | H::To
        | H::Via => Treatment::Own,
        H::Accept
        | H::AcceptEncoding
        | H::AcceptLanguage
        | H::AcceptResourcePriority
        | H::Allow
        | H::AllowEvents
        | H::AnswerMode
        | H::ContentDisposition
        | H::ContentEncoding
        | H::ContentLanguage
        | H::ContentType
        | H::CSeq
        | H::Date
        | H::Encryption
        | H::Expires
        | H::FlowTimer
        | H::GeolocationRouting
        | H::InfoPackage
        | H::MaxBreadth
        | H::MaxForwards
        | H::MimeVersion
        | H::MinExpires
        | H::MinSe
        | H::PAnswerState
        | H::PAssertedService
        | H::PEarlyMedia
        | H::PMediaAuthorization
        | H::PPreferredService
        | H::Priority
        | H::PriorityShare
        | H::PriorityVerstat
        | H::PrivAnswerMode
        | H::Privacy
        | H::ProxyRequire
        | H::RAck
        | H::RecvInfo
        | H::ReferSub
        | H::RequestDisposition
        | H::Require
        | H::ResourcePriority
        | H::RetryAfter
        | H::RSeq
        | H::SessionExpires
        | H::SessionId
        | H::SipEtag
        | H::SipIfMatch
        | H::Supported
        | H::SuppressIfMatch
        | H::Timestamp
        | H::Unsupported
        | H::UserToUser => Treatment::Safe,
        H::AcceptContact
        | H::CellularNetworkInfo
        | H::ContentId
        | H::Event
        | H::FeatureCaps
        | H::Geolocation
        | H::GeolocationError
        | H::OriginationId
        | H::Organization
        | H::PAccessNetworkInfo
        | H::PVisitedNetworkId
        | H::Reason
        | H::ReasonPhrase
        | H::RejectContact
        | H::RelayedCharge
        | H::ResourceShare
        | H::ResponseSource
        | H::RestorationInfo
        | H::SecurityClient
        | H::SecurityServer
        | H::SecurityVerify
        | H::ServiceInteractInfo
        | H::Subject
        | H::SubscriptionState => Treatment::Scan,
        // RFC 3455 §4.5, §4.6, RFC 5503, RFC 4457: within one network.
        H::DcInfo
        | H::Hide
        | H::PChargingFunctionAddresses
        | H::PChargingVector
        | H::PDcsBillingInfo
        | H::PDcsLaes
        | H::PDcsOsps
        | H::PDcsRedirect
        | H::PProfileKey
        | H::PUserDatabase
        | H::Path
        | H::PolicyContact
        | H::PolicyId
        | H::ReferEventsAt => Treatment::Strip,
        H::AdditionalIdentity
        | H::Diversion
        | H::HistoryInfo
        | H::PAssertedIdentity
        | H::PAssociatedUri
        | H::PCalledPartyId
        | H::PChargeInfo
        | H::PDcsTracePartyId
        | H::PPreferredIdentity
        | H::PPrivateNetworkIndication
        | H::PRefusedUriList
        | H::PServedUser
        | H::PermissionMissing
        | H::ReferredBy
        | H::RemotePartyId
        | H::ReplyTo
        | H::TriggerConsent => Treatment::Identity,
        H::ReferTo => Treatment::Refer,
        H::Join | H::Replaces | H::TargetDialog => Treatment::Dialog,
        H::InReplyTo => Treatment::Calls,
        H::AlertInfo | H::CallInfo | H::ErrorInfo => Treatment::Fetch,
        H::Warning => Treatment::Warning,
        H::Server | H::UserAgent => Treatment::Agent,
        H::ServiceRoute => Treatment::ServiceRoute,
        H::AttestationInfo
        | H::AuthenticationInfo
        | H::Authorization
        | H::Identity
        | H::IdentityInfo
        | H::ProxyAuthenticate
        | H::ProxyAuthenticationInfo
        | H::ProxyAuthorization
        | H::ResponseKey
        | H::WwwAuthenticate => Treatment::Signed,
        H::Other => Treatment::Unknown,
    }
}
