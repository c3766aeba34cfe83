//! Typed views of the headers that routing needs, parsed when asked for.

use super::error::Verdict;
use super::view::Message;
use crate::header::{
    CSeq, CSeqError, HeaderName, Method, NameAddr, NameAddrError, NumberError, Via, ViaError,
};
use crate::header::{name_addr, numbers};

/// Why a header cannot be read. Places inside count from the start of the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    #[error("the message has no {}", .0.as_str())]
    Missing(HeaderName),
    #[error("{} is empty", .0.as_str())]
    Empty(HeaderName),
    #[error("Via: {0}")]
    Via(#[from] ViaError),
    #[error("{}: {}", .0.as_str(), .1)]
    Address(HeaderName, NameAddrError),
    #[error("CSeq: {0}")]
    CSeq(#[from] CSeqError),
    /// The method in CSeq is not the request's (§8.1.1.5).
    #[error("CSeq has another method than the request")]
    CSeqMethod,
    #[error("{}: {}", .0.as_str(), .1)]
    Number(HeaderName, NumberError),
}

impl HeaderError {
    /// Which header it is.
    pub fn name(self) -> HeaderName {
        match self {
            HeaderError::Missing(name)
            | HeaderError::Empty(name)
            | HeaderError::Address(name, _)
            | HeaderError::Number(name, _) => name,
            HeaderError::Via(_) => HeaderName::Via,
            HeaderError::CSeq(_) | HeaderError::CSeqMethod => HeaderName::CSeq,
        }
    }

    /// What to send if this was in a request; as for [`ParseError`](super::ParseError), a response is dropped.
    pub fn verdict(self) -> Verdict {
        let reason = match (self, self.name()) {
            (HeaderError::Missing(_), _) => "Missing Header",
            (HeaderError::CSeqMethod, _) => "CSeq Method Mismatch",
            (_, HeaderName::Via) => "Bad Via",
            (_, HeaderName::From) => "Bad From",
            (_, HeaderName::To) => "Bad To",
            (_, HeaderName::CallId) => "Bad Call-ID",
            (_, HeaderName::CSeq) => "Bad CSeq",
            (_, HeaderName::MaxForwards) => "Bad Max-Forwards",
            (_, HeaderName::Contact) => "Bad Contact",
            (_, HeaderName::Route) => "Bad Route",
            (_, HeaderName::Expires) => "Bad Expires",
            _ => "Bad Header",
        };
        Verdict::Reply(400, reason)
    }
}

/// The headers every message has (§8.1.1), all well formed.
#[derive(Clone, Copy, Debug)]
pub struct Essentials<'a> {
    pub via: Via<'a>,
    pub from: NameAddr<'a>,
    pub to: NameAddr<'a>,
    pub call_id: &'a [u8],
    pub cseq: CSeq<'a>,
    /// `None` when absent, which RFC 2543 allowed: §16.6 step 3 then adds one.
    pub max_forwards: Option<u8>,
}

impl<'a> Message<'a> {
    /// Reads the headers without which nothing can be done with a message (§8.1.1, §16.3 step 1).
    pub fn essentials(&self) -> Result<Essentials<'a>, HeaderError> {
        let via = self.top_via()?;
        let from = self.from()?;
        let to = self.to()?;
        let call_id = self.call_id()?;
        let cseq = self.cseq()?;
        let max_forwards = self.max_forwards()?;
        if self
            .request()
            .is_some_and(|line| line.method_text != cseq.method_text)
        {
            return Err(HeaderError::CSeqMethod);
        }
        Ok(Essentials {
            via,
            from,
            to,
            call_id,
            cseq,
            max_forwards,
        })
    }

    /// The method: a request's own, a response's from its CSeq.
    pub fn method(&self) -> Result<Method, HeaderError> {
        match self.request() {
            Some(line) => Ok(line.method),
            None => Ok(self.cseq()?.method),
        }
    }

    /// The topmost Via value: in a request the previous hop, in a response ourselves.
    pub fn top_via(&self) -> Result<Via<'a>, HeaderError> {
        let top = self
            .first_value(HeaderName::Via)
            .ok_or(HeaderError::Missing(HeaderName::Via))?;
        Ok(Via::parse(top.value)?)
    }

    pub fn vias(&self) -> impl Iterator<Item = Result<Via<'a>, HeaderError>> + use<'a> {
        self.values(HeaderName::Via)
            .map(|value| Ok(Via::parse(value.value)?))
    }

    pub fn from(&self) -> Result<NameAddr<'a>, HeaderError> {
        self.address(HeaderName::From)
    }

    pub fn to(&self) -> Result<NameAddr<'a>, HeaderError> {
        self.address(HeaderName::To)
    }

    /// Compared byte for byte (§8.1.1.4).
    pub fn call_id(&self) -> Result<&'a [u8], HeaderError> {
        let header = self
            .first(HeaderName::CallId)
            .ok_or(HeaderError::Missing(HeaderName::CallId))?;
        if header.value.is_empty() {
            Err(HeaderError::Empty(HeaderName::CallId))
        } else {
            Ok(header.value)
        }
    }

    pub fn cseq(&self) -> Result<CSeq<'a>, HeaderError> {
        let header = self
            .first(HeaderName::CSeq)
            .ok_or(HeaderError::Missing(HeaderName::CSeq))?;
        Ok(CSeq::parse(header.value)?)
    }

    /// `None` when absent.
    pub fn max_forwards(&self) -> Result<Option<u8>, HeaderError> {
        self.number(HeaderName::MaxForwards, numbers::max_forwards)
    }

    /// Seconds; `None` when absent.
    pub fn expires(&self) -> Result<Option<u32>, HeaderError> {
        self.number(HeaderName::Expires, numbers::delta_seconds)
    }

    /// Bytes of body as the header says; [`body`](Message::body) has them. `None` when absent.
    pub fn content_length(&self) -> Result<Option<u32>, HeaderError> {
        self.number(HeaderName::ContentLength, numbers::content_length)
    }

    pub fn routes(&self) -> impl Iterator<Item = Result<NameAddr<'a>, HeaderError>> + use<'a> {
        self.addresses(HeaderName::Route)
    }

    pub fn record_routes(
        &self,
    ) -> impl Iterator<Item = Result<NameAddr<'a>, HeaderError>> + use<'a> {
        self.addresses(HeaderName::RecordRoute)
    }

    /// The contacts; see [`has_star_contact`](Message::has_star_contact) for the value that is no address.
    pub fn contacts(&self) -> impl Iterator<Item = Result<NameAddr<'a>, HeaderError>> + use<'a> {
        self.addresses(HeaderName::Contact)
    }

    /// Whether one of the Contact values is `*` (§10.2.2).
    pub fn has_star_contact(&self) -> bool {
        self.values(HeaderName::Contact)
            .any(|value| name_addr::is_star(value.value))
    }

    /// Path (RFC 3327).
    pub fn paths(&self) -> impl Iterator<Item = Result<NameAddr<'a>, HeaderError>> + use<'a> {
        self.addresses(HeaderName::Path)
    }

    /// The values of a header that lists addresses.
    pub fn addresses(
        &self,
        name: HeaderName,
    ) -> impl Iterator<Item = Result<NameAddr<'a>, HeaderError>> + use<'a> {
        self.values(name).map(move |v| {
            NameAddr::parse(v.value).map_err(|error| HeaderError::Address(name, error))
        })
    }

    /// The address in a header that has one.
    pub fn address(&self, name: HeaderName) -> Result<NameAddr<'a>, HeaderError> {
        let header = self.first(name).ok_or(HeaderError::Missing(name))?;
        NameAddr::parse(header.value).map_err(|error| HeaderError::Address(name, error))
    }

    fn number<N>(
        &self,
        name: HeaderName,
        parse: impl Fn(&[u8]) -> Result<N, NumberError>,
    ) -> Result<Option<N>, HeaderError> {
        let Some(header) = self.first(name) else {
            return Ok(None);
        };
        parse(header.value)
            .map(Some)
            .map_err(|error| HeaderError::Number(name, error))
    }
}
