//! A message on its way to the other side.

use std::net::IpAddr;

use sip::{Header, HeaderName, Host, Message, Method, NameAddr, Via, message::unfold};

use crate::{
    body::Kind,
    inventory::{Treatment, treatment},
    marks::Marks,
    policy::{Policy, Side, Unknown},
    restore::copy,
    seal::Sealer,
    token::{CallId, Routes, Target, ViaToken},
};

/// The parameter of our Via that carries a [`ViaToken`].
pub const VIA_PARAM: &[u8] = b"th";
/// The parameter by which a Record-Route of ours is known.
const OWN_ROUTE_PARAM: &[u8] = b"td";

/// Why a message was not hidden. What was written of it is no whole message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HideError {
    #[error("the message has no readable {}", .0.as_str())]
    Unreadable(HeaderName),
    #[error("what is to be sealed is too long")]
    TooLong,
    #[error("it is no request, or no response")]
    Kind,
}

/// What is known of a call that a message names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    No,
    /// Both sides know it by the same Call-ID.
    Plain,
    /// It is hidden, and the one that is pointed to is this party of it.
    Hidden {
        pointed: Side,
        /// Of its [`Policy`].
        key: u8,
    },
}

/// Looks a call up by its Call-ID, the tag of the one that is pointed to, and the other's.
pub type LookUp<'l> = dyn Fn(&[u8], &[u8], &[u8]) -> Known + 'l;

/// How a message is hidden.
#[derive(Clone, Copy)]
pub struct Hide<'h> {
    pub sealer: &'h Sealer,
    pub policy: Policy,
    /// Whom the message goes to.
    pub towards: Side,
    /// What we call ourselves there: a host, with its port if it needs one.
    pub own: &'h [u8],
    /// What stands for the hosts of people.
    pub identity: &'h [u8],
    /// Hosts that are no secret.
    pub is_open: &'h dyn Fn(&Host<'_>) -> bool,
    /// The call with this Call-ID, and the tags of the one that is pointed to and of the other.
    pub known: &'h LookUp<'h>,
}

/// What takes the place of a contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contacts {
    /// A token that has it all.
    Tokens,
    /// The name of the call's record.
    Record(u64),
}

/// A request, besides its text.
#[derive(Clone, Copy)]
pub struct Sent<'s, 'm> {
    /// As it came from the sender.
    pub raw: &'s Message<'m>,
    /// It is not within a dialog.
    pub initial: bool,
    /// It is one of our own, made in the name of the other party as the call's record has it.
    pub own: bool,
    pub contacts: Contacts,
    /// Our Via says how a response goes on.
    pub via: bool,
    /// Where it came from.
    pub source: IpAddr,
}

/// The request that a response answers.
#[derive(Clone, Copy)]
pub enum Origin<'o, 'm> {
    /// As it came, with its top Via filled in.
    Request {
        message: &'o Message<'m>,
        top_via: Option<&'o [u8]>,
    },
    /// What our Via says of it.
    Token(&'o ViaToken),
}

/// A response, besides its text.
#[derive(Clone, Copy)]
pub struct Answer<'o, 'm> {
    pub origin: Origin<'o, 'm>,
    pub contacts: Contacts,
    /// Our own Record-Route values, where the request had them hidden in no token.
    pub own_routes: &'o [u8],
    /// Where it came from.
    pub source: IpAddr,
}

impl Hide<'_> {
    /// Writes the copy of a request that is to be sent: our Via on top, and, if the policy of the proxy puts them there, our Record-Route values.
    pub fn request(
        &self,
        copy_of: &Message<'_>,
        sent: &Sent<'_, '_>,
        out: &mut Vec<u8>,
    ) -> Result<(), HideError> {
        let line = copy_of.request().ok_or(HideError::Kind)?;
        let unreadable = HideError::Unreadable;
        let call_id = copy_of
            .call_id()
            .map_err(|_| unreadable(HeaderName::CallId))?;
        let call_id = match self.towards {
            Side::Callee => {
                CallId::hidden(self.sealer, self.policy.key, call_id).ok_or(HideError::TooLong)?
            }
            Side::Caller if sent.initial => {
                CallId::hidden(self.sealer, self.policy.key, call_id).ok_or(HideError::TooLong)?
            }
            Side::Caller => call_id.to_vec(),
        };
        let mut marks = Marks::with_open(self.is_open);
        self.learn(sent.raw, &call_id, sent.source, &mut marks);
        let body = self.body_of(copy_of, &marks);

        out.extend_from_slice(line.method_text);
        out.push(b' ');
        out.extend_from_slice(line.uri);
        out.extend_from_slice(b" SIP/2.0\r\n");
        self.request_via(copy_of, sent, &marks, out)?;
        let forms_dialog = copy_of.has(HeaderName::RecordRoute);
        if sent.initial && forms_dialog && sent.contacts == Contacts::Tokens {
            let (own, peer) = self.hidden_parties(copy_of, &marks);
            let routes = joined(copy_of, HeaderName::RecordRoute);
            let count = |message: &Message<'_>| message.values(HeaderName::RecordRoute).count();
            let ours = count(copy_of).saturating_sub(count(sent.raw));
            self.record_route(own, peer, ours, routes, out)?;
        }
        for header in copy_of.headers() {
            let is_first = copy_of
                .first(header.name)
                .is_some_and(|first| first.line == header.line);
            match header.name {
                HeaderName::Via | HeaderName::RecordRoute | HeaderName::ContentLength => {}
                HeaderName::Route => copy(&header, copy_of, out),
                HeaderName::CallId => write_line(&header, &call_id, out),
                HeaderName::From | HeaderName::To if sent.initial || sent.own => {
                    let mut value = Vec::new();
                    self.identity(header.value, &marks, &mut value);
                    write_line(&header, &value, out);
                }
                HeaderName::From | HeaderName::To => copy(&header, copy_of, out),
                HeaderName::Contact if is_first => {
                    let path = Some(joined(copy_of, HeaderName::Path))
                        .filter(|_| line.method == Method::Register)
                        .unwrap_or_default();
                    for value in copy_of.values(HeaderName::Contact) {
                        self.contact_line(value.value, &path, sent.contacts, false, &marks, out)?;
                    }
                }
                HeaderName::Contact => {}
                _ => self.header(&header, copy_of, is_first, &marks, out)?,
            }
        }
        end(&body, out);
        Ok(())
    }

    /// Writes a response, our Via still on top of it, as the sender of the request gets it.
    pub fn response(
        &self,
        raw: &Message<'_>,
        answer: &Answer<'_, '_>,
        out: &mut Vec<u8>,
    ) -> Result<(), HideError> {
        let status = raw.status().ok_or(HideError::Kind)?;
        let call_id = self.origin_call_id(raw, answer)?;
        let mut marks = Marks::with_open(self.is_open);
        self.learn(raw, &call_id, answer.source, &mut marks);
        let body = self.body_of(raw, &marks);

        out.extend_from_slice(b"SIP/2.0 ");
        stdx::text::write_decimal(status.code.into(), out);
        out.push(b' ');
        self.scan(status.reason, &marks, out);
        out.extend_from_slice(b"\r\n");
        write_vias(&answer.origin, out);
        if matches!(status.code, 101..=299) {
            self.response_routes(raw, answer, out)?;
        }
        for header in raw.headers() {
            let is_first = raw
                .first(header.name)
                .is_some_and(|first| first.line == header.line);
            match header.name {
                HeaderName::Via
                | HeaderName::RecordRoute
                | HeaderName::Route
                | HeaderName::ContentLength => {}
                HeaderName::CallId => write_line(&header, &call_id, out),
                HeaderName::From => {
                    let value = origin_party(&header, &answer.origin, HeaderName::From);
                    write_line(&header, &value, out);
                }
                HeaderName::To => {
                    let value = origin_party(&header, &answer.origin, HeaderName::To);
                    write_line(&header, &value, out);
                }
                HeaderName::CSeq => match &answer.origin {
                    Origin::Request { message, .. } => {
                        let value = message.first(HeaderName::CSeq).map(|cseq| cseq.value);
                        write_line(&header, value.unwrap_or(header.value), out);
                    }
                    Origin::Token(_) => copy(&header, raw, out),
                },
                HeaderName::Contact if is_first => {
                    self.response_contacts(raw, answer.contacts, &marks, out)?;
                }
                HeaderName::Contact => {}
                _ => self.header(&header, raw, is_first, &marks, out)?,
            }
        }
        end(&body, out);
        Ok(())
    }

    /// Writes the Contact lines of a response.
    pub fn response_contacts(
        &self,
        raw: &Message<'_>,
        contacts: Contacts,
        marks: &Marks<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), HideError> {
        let elsewhere = raw.status().is_some_and(|status| status.code >= 300);
        let contacts = if elsewhere {
            Contacts::Tokens
        } else {
            contacts
        };
        for value in raw.values(HeaderName::Contact) {
            self.contact_line(value.value, b"", contacts, elsewhere, marks, out)?;
        }
        Ok(())
    }

    /// Our Via, and in it how a response goes on.
    fn request_via(
        &self,
        copy_of: &Message<'_>,
        sent: &Sent<'_, '_>,
        marks: &Marks<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), HideError> {
        let mut vias = copy_of.values(HeaderName::Via);
        let ours = vias.next().ok_or(HideError::Unreadable(HeaderName::Via))?;
        out.extend_from_slice(b"Via: ");
        unfold(ours.value, out);
        if sent.via {
            let (from, to) = if sent.initial {
                self.hidden_parties(copy_of, marks)
            } else {
                let party = |name| {
                    let raw = sent.raw.address(name).ok()?.uri.text;
                    let copied = copy_of.address(name).ok()?.uri.text;
                    (raw != copied).then(|| raw.to_vec())
                };
                (
                    party(HeaderName::From).unwrap_or_default(),
                    party(HeaderName::To).unwrap_or_default(),
                )
            };
            let mut below = Vec::new();
            for via in vias {
                if !below.is_empty() {
                    below.extend_from_slice(b", ");
                }
                unfold(via.value, &mut below);
            }
            let token = ViaToken {
                towards: self.towards,
                policy: self.policy,
                initial: sent.initial,
                from,
                to,
                vias: below,
            };
            out.push(b';');
            out.extend_from_slice(VIA_PARAM);
            out.push(b'=');
            if !token.seal(self.sealer, out) {
                return Err(HideError::TooLong);
            }
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// The URIs of From and To, where they are changed for the other side.
    fn hidden_parties(&self, message: &Message<'_>, marks: &Marks<'_>) -> (Vec<u8>, Vec<u8>) {
        let party = |name| {
            let address = message.address(name).ok()?;
            self.identity_uri(&address.uri, marks)
                .map(|_| address.uri.text.to_vec())
        };
        (
            party(HeaderName::From).unwrap_or_default(),
            party(HeaderName::To).unwrap_or_default(),
        )
    }

    /// A Record-Route that stands for the sender's part of the Route set.
    fn record_route(
        &self,
        own: Vec<u8>,
        peer: Vec<u8>,
        ours: usize,
        routes: Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), HideError> {
        let target = Target::Routes(Routes {
            side: self.towards.other(),
            policy: self.policy,
            own,
            peer,
            ours: u8::try_from(ours).map_err(|_| HideError::TooLong)?,
            routes,
        });
        out.extend_from_slice(b"Record-Route: <");
        if !self.own_uri(&target, out) {
            return Err(HideError::TooLong);
        }
        // Known for one of ours by its last parameter.
        out.extend_from_slice(b";lr;");
        out.extend_from_slice(OWN_ROUTE_PARAM);
        out.extend_from_slice(b">\r\n");
        Ok(())
    }

    /// The Record-Route values of a response that makes a dialog: a token for the responder's part, and the sender's own.
    fn response_routes(
        &self,
        raw: &Message<'_>,
        answer: &Answer<'_, '_>,
        out: &mut Vec<u8>,
    ) -> Result<(), HideError> {
        let mut theirs: Vec<&[u8]> = Vec::new();
        let mut hidden = None;
        for value in raw.values(HeaderName::RecordRoute) {
            match Target::of_value(self.sealer, value.value) {
                Some(Target::Routes(routes)) if routes.side == self.towards => {
                    hidden = Some(routes);
                }
                _ if hidden.is_none() => theirs.push(value.value),
                _ => {}
            }
        }
        let initial = match &answer.origin {
            Origin::Request { message, .. } => message.to().is_ok_and(|to| to.tag().is_none()),
            Origin::Token(token) => token.initial,
        };
        // Those of the sender are only in a token.
        let (list, ours) = match &hidden {
            Some(routes) => (routes.routes.as_slice(), usize::from(routes.ours)),
            None => (answer.own_routes, usize::MAX),
        };
        let list: Vec<&[u8]> = split_list(list).collect();
        let (ours, senders) = list
            .split_at_checked(ours.min(list.len()))
            .unwrap_or((&list, &[]));
        if initial && answer.contacts == Contacts::Tokens && !ours.is_empty() {
            // From the sender's side the nearest comes first.
            let routes: Vec<&[u8]> = ours
                .iter()
                .rev()
                .chain(theirs.iter().rev())
                .copied()
                .collect();
            let mut text = Vec::new();
            unfold(&routes.join(&b", "[..]), &mut text);
            let seen = |name| {
                let address = raw.address(name).ok()?;
                let was = match &answer.origin {
                    Origin::Request { message, .. } => {
                        message.address(name).ok()?.uri.text.to_vec()
                    }
                    Origin::Token(token) => match name {
                        HeaderName::From => token.from.clone(),
                        _ => token.to.clone(),
                    },
                };
                (was != address.uri.text).then(|| address.uri.text.to_vec())
            };
            self.record_route(
                seen(HeaderName::To).unwrap_or_default(),
                seen(HeaderName::From).unwrap_or_default(),
                ours.len(),
                text,
                out,
            )?;
        }
        match &answer.origin {
            Origin::Request { message, .. } => {
                for header in message.all(HeaderName::RecordRoute) {
                    write_line(&header, header.value, out);
                }
            }
            Origin::Token(_) => {
                for value in senders {
                    out.extend_from_slice(b"Record-Route: ");
                    unfold(value, out);
                    out.extend_from_slice(b"\r\n");
                }
            }
        }
        Ok(())
    }

    fn origin_call_id(
        &self,
        raw: &Message<'_>,
        answer: &Answer<'_, '_>,
    ) -> Result<Vec<u8>, HideError> {
        let unreadable = HideError::Unreadable(HeaderName::CallId);
        match &answer.origin {
            Origin::Request { message, .. } => message
                .call_id()
                .map(<[u8]>::to_vec)
                .map_err(|_| unreadable),
            Origin::Token(token) => {
                let call_id = raw.call_id().map_err(|_| unreadable)?;
                if token.towards == Side::Caller && !token.initial {
                    return CallId::hidden(self.sealer, self.policy.key, call_id)
                        .ok_or(HideError::TooLong);
                }
                match CallId::open(self.sealer, call_id) {
                    Some(CallId::Hidden(call_id)) => Ok(call_id),
                    _ => Err(unreadable),
                }
            }
        }
    }

    /// One Contact value, as a line.
    fn contact_line(
        &self,
        value: &[u8],
        path: &[u8],
        contacts: Contacts,
        elsewhere: bool,
        marks: &Marks<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), HideError> {
        if value.trim_ascii() == b"*" {
            out.extend_from_slice(b"Contact: *\r\n");
            return Ok(());
        }
        let Ok(address) = NameAddr::parse(value) else {
            return Ok(());
        };
        let given = Target::of(self.sealer, &address.uri);
        let mut uri = Vec::new();
        match given {
            // What this side gave us once, and what it will know again.
            Some(Target::Contact { side, uri: of, .. }) if side == self.towards => uri = of,
            // One that we gave leads here from everywhere.
            Some(_) if elsewhere => {
                uri.extend_from_slice(b"sip:");
                uri.extend_from_slice(address.uri.user.unwrap_or_default());
                uri.push(b'@');
                uri.extend_from_slice(self.own);
            }
            _ if !address.uri.is_sip() || elsewhere && self.is_open(&address.uri) => {
                uri.extend_from_slice(address.uri.text);
            }
            _ => {
                let side = self.towards.other();
                let target = match contacts {
                    Contacts::Tokens => self.contact(side, address.uri.text, path),
                    Contacts::Record(place) => Target::Record {
                        side,
                        policy: self.policy,
                        place,
                    },
                };
                if !self.own_uri(&target, &mut uri) {
                    return Err(HideError::TooLong);
                }
            }
        }
        out.extend_from_slice(b"Contact: ");
        self.name_addr(&address, &uri, marks, out);
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Every header that is the same in requests and responses.
    fn header(
        &self,
        header: &Header<'_>,
        message: &Message<'_>,
        is_first: bool,
        marks: &Marks<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), HideError> {
        let values = || message.values(header.name).filter(|_| is_first);
        let mut value = Vec::new();
        match treatment(header.name) {
            Treatment::Safe | Treatment::Signed => copy(header, message, out),
            Treatment::Own | Treatment::Strip => {}
            Treatment::Scan => {
                self.scan(header.value, marks, &mut value);
                write_line(header, &value, out);
            }
            Treatment::Unknown => {
                if self.unknown(header.value, marks, &mut value) {
                    write_line(header, &value, out);
                }
            }
            Treatment::Agent if self.policy.agents => {
                self.scan(header.value, marks, &mut value);
                write_line(header, &value, out);
            }
            Treatment::Agent => {}
            Treatment::Identity => {
                for each in values() {
                    value.clear();
                    self.identity(each.value, marks, &mut value);
                    write_line(header, &value, out);
                }
            }
            Treatment::Refer => {
                if self.refer_to(header.value, marks, &mut value) {
                    write_line(header, &value, out);
                }
            }
            Treatment::Dialog => {
                if self.dialog(header.value, &mut value) {
                    write_line(header, &value, out);
                }
            }
            Treatment::Calls => {
                self.calls(header.value, &mut value);
                if !value.is_empty() {
                    write_line(header, &value, out);
                }
            }
            Treatment::Fetch => {
                for each in values() {
                    value.clear();
                    self.fetch(each.value, marks, &mut value);
                    if !value.is_empty() {
                        write_line(header, &value, out);
                    }
                }
            }
            Treatment::Warning => {
                for each in values() {
                    value.clear();
                    self.warning(each.value, marks, &mut value);
                    if !value.is_empty() {
                        write_line(header, &value, out);
                    }
                }
            }
            Treatment::ServiceRoute if is_first => {
                let target = Target::Routes(Routes {
                    side: self.towards.other(),
                    policy: self.policy,
                    own: Vec::new(),
                    peer: Vec::new(),
                    ours: 0,
                    routes: joined(message, HeaderName::ServiceRoute),
                });
                value.push(b'<');
                if !self.own_uri(&target, &mut value) {
                    return Err(HideError::TooLong);
                }
                value.extend_from_slice(b";lr>");
                write_line(header, &value, out);
            }
            Treatment::ServiceRoute => {}
        }
        Ok(())
    }

    /// A header that nobody knows; false: it goes.
    pub(crate) fn unknown(&self, text: &[u8], marks: &Marks<'_>, out: &mut Vec<u8>) -> bool {
        match self.policy.unknown {
            Unknown::Pass => unfold(text, out),
            Unknown::Rewrite => self.scan(text, marks, out),
            Unknown::Strip => {
                unfold(text, out);
                let plain = crate::names::unescaped(out);
                return !marks.is_in(out) && !marks.is_in(&plain);
            }
        }
        true
    }

    /// The URI of a party as the other side knows it.
    pub fn party(&self, uri: &[u8]) -> Vec<u8> {
        sip::Uri::parse(uri)
            .ok()
            .and_then(|uri| self.identity_uri(&uri, &Marks::default()))
            .unwrap_or_else(|| uri.to_vec())
    }

    fn body_of(&self, message: &Message<'_>, marks: &Marks<'_>) -> Vec<u8> {
        let mut body = Vec::new();
        let value = |name| message.first(name).map_or(&b""[..], |header| header.value);
        let kind = Kind {
            content_type: value(HeaderName::ContentType),
            encoding: value(HeaderName::ContentEncoding),
        };
        self.body(kind, message.body(), marks, &mut body);
        body
    }
}

/// The Vias of the request.
fn write_vias(origin: &Origin<'_, '_>, out: &mut Vec<u8>) {
    match origin {
        Origin::Request { message, top_via } => {
            for (at, via) in message.values(HeaderName::Via).enumerate() {
                let value = top_via.filter(|_| at == 0).unwrap_or(via.value);
                out.extend_from_slice(b"Via: ");
                unfold(value, out);
                out.extend_from_slice(b"\r\n");
            }
        }
        Origin::Token(token) => {
            out.extend_from_slice(b"Via: ");
            unfold(&token.vias, out);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// From or To as the sender of the request wrote it, with the tag of the response.
fn origin_party(header: &Header<'_>, origin: &Origin<'_, '_>, name: HeaderName) -> Vec<u8> {
    let tag = NameAddr::parse(header.value)
        .ok()
        .and_then(|party| party.tag());
    let mut out = Vec::new();
    match origin {
        Origin::Request { message, .. } => {
            let value = message.first(name).map(|header| header.value);
            unfold(value.unwrap_or_default(), &mut out);
            let has_tag = message
                .address(name)
                .is_ok_and(|party| party.tag().is_some());
            if let Some(tag) = tag.filter(|_| !has_tag) {
                out.extend_from_slice(b";tag=");
                out.extend_from_slice(tag);
            }
        }
        Origin::Token(token) => {
            let uri = match name {
                HeaderName::From => &token.from,
                _ => &token.to,
            };
            match NameAddr::parse(header.value)
                .ok()
                .filter(|_| !uri.is_empty())
            {
                None => unfold(header.value, &mut out),
                Some(party) => {
                    if let Some(display) = party.display {
                        out.extend_from_slice(display);
                        out.push(b' ');
                    }
                    out.push(b'<');
                    out.extend_from_slice(uri);
                    out.push(b'>');
                    unfold(party.params.text(), &mut out);
                }
            }
        }
    }
    out
}

/// The values of a header, one after another.
fn joined(message: &Message<'_>, name: HeaderName) -> Vec<u8> {
    let mut out = Vec::new();
    for value in message.values(name) {
        if !out.is_empty() {
            out.extend_from_slice(b", ");
        }
        unfold(value.value, &mut out);
    }
    out
}

/// The values of a list of addresses.
pub(crate) fn split_list(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = list.trim_ascii();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (mut inside, mut quoted, mut escaped) = (false, false, false);
        let end = rest.iter().position(|byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' if !inside => quoted = !quoted,
                _ if quoted => {}
                b'<' => inside = true,
                b'>' => inside = false,
                b',' if !inside => return true,
                _ => {}
            }
            false
        });
        let end = end.unwrap_or(rest.len());
        let value = rest.get(..end).unwrap_or_default().trim_ascii();
        rest = rest
            .get(end.saturating_add(1)..)
            .unwrap_or_default()
            .trim_ascii_start();
        Some(value)
    })
}

fn write_line(header: &Header<'_>, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(header.name_text);
    out.extend_from_slice(b": ");
    unfold(value, out);
    out.extend_from_slice(b"\r\n");
}

fn end(body: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"Content-Length: ");
    stdx::text::write_decimal(u64::try_from(body.len()).unwrap_or(u64::MAX), out);
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(body);
}

/// What our Via says of a request, if this is it.
pub fn via_token(sealer: &Sealer, via: &Via<'_>) -> Option<ViaToken> {
    let token = via.params.value(VIA_PARAM)??;
    ViaToken::open(sealer, token)
}
