//! Those who keep to nothing: strays, forgeries, torn copies, floods. Everything that they begin has a Call-ID of its own kind.

use std::net::SocketAddr;

use stdx::Rng;

use crate::{
    monitor::EVIL,
    text::{self, Text},
};

/// What they send, made of what they have seen others send.
pub(crate) struct Hostile {
    pub(crate) address: SocketAddr,
    rng: Rng,
    number: u32,
    /// Datagrams of others.
    seen: Vec<std::rc::Rc<[u8]>>,
    victim: SocketAddr,
    users: u32,
}

impl Hostile {
    pub(crate) fn new(address: SocketAddr, victim: SocketAddr, users: u32, rng: Rng) -> Self {
        Self {
            address,
            rng,
            number: 0,
            seen: Vec::new(),
            victim,
            users,
        }
    }

    /// Remembers some of what goes by.
    pub(crate) fn overhear(&mut self, bytes: &std::rc::Rc<[u8]>) {
        if self.rng.below(6) == 0 {
            let place = self.rng.below(24) as usize;
            match self.seen.get_mut(place) {
                Some(old) => *old = std::rc::Rc::clone(bytes),
                None => self.seen.push(std::rc::Rc::clone(bytes)),
            }
        }
    }

    /// The datagrams of one attack.
    pub(crate) fn attack(&mut self) -> Vec<Vec<u8>> {
        match self.rng.below(8) {
            0 => vec![self.noise()],
            1..3 => self.torn().into_iter().collect(),
            3 => self.forged_branch().into_iter().collect(),
            4 => (0..self.rng.below(40))
                .map(|_| self.request("OPTIONS", ""))
                .collect(),
            5 => vec![self.abuse()],
            6 => {
                let method = ["INVITE", "MESSAGE", "BYE", "CANCEL", "ACK", "PRACK"];
                let method = method[self.rng.below(6) as usize];
                vec![self.request(method, "")]
            }
            _ => {
                // A call that is never acknowledged, and rung off by nobody.
                let invite = self.request("INVITE", "");
                vec![invite.clone(), invite]
            }
        }
    }

    /// Has been asked something: answers anything, now and then.
    pub(crate) fn answer(&mut self, request: &[u8]) -> Option<Vec<u8>> {
        let request = Text::read(request).filter(|text| text.code().is_none())?;
        if request.method() == "ACK" || self.rng.below(2) == 0 {
            return None;
        }
        let code = [200, 200, 180, 404, 603, 999][self.rng.below(6) as usize];
        Some(text::response(&request, code, "evil", &[]).into_bytes())
    }

    fn name(&mut self) -> String {
        self.number += 1;
        format!("{EVIL}-{}", self.number)
    }

    fn user(&mut self) -> String {
        format!("sip:u{}@example.org", self.rng.below(self.users))
    }

    fn request(&mut self, method: &str, more: &str) -> Vec<u8> {
        let (name, uri) = (self.name(), self.user());
        self.written(method, &uri, &name, more)
    }

    fn written(&self, method: &str, uri: &str, name: &str, more: &str) -> Vec<u8> {
        let at = self.address;
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {at};branch=z9hG4bK{name}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:mallory@elsewhere.invalid>;tag={name}\r\nTo: <{uri}>\r\n\
             Call-ID: {name}\r\nCSeq: 1 {method}\r\nContact: <sip:mallory@{at}>\r\n{more}Content-Length: 0\r\n\r\n"
        )
        .into_bytes()
    }

    fn noise(&mut self) -> Vec<u8> {
        let bytes = self.rng.below(200);
        (0..bytes).map(|_| self.rng.below(256) as u8).collect()
    }

    /// Somebody's request with a Call-ID of ours, and then torn.
    fn torn(&mut self) -> Option<Vec<u8>> {
        let bytes = self.any(false)?;
        let text = Text::read(&bytes)?;
        // What others have registered is not for us to change: that is `abuse`.
        if text.method() == "REGISTER" {
            return None;
        }
        let name = self.name();
        let whole = text.whole;
        let whole = whole
            .replacen("Call-ID: ", &format!("Call-ID: {name}-"), 1)
            .replacen("branch=z9hG4bK", &format!("branch=z9hG4bK{name}"), 1);
        let from = text.values("Via").first()?.split([' ', ';']).nth(1)?;
        let mut bytes = whole.replace(from, &self.address.to_string()).into_bytes();
        let safe = whole.find("Call-ID: ")? + "Call-ID: ".len() + name.len();
        for _ in 0..self.rng.below(4) {
            // The Call-ID stays, so that everybody knows whose this is.
            let low = safe + 1;
            let span = bytes.len().checked_sub(low + 1)?;
            let at = low + self.rng.below(span as u32) as usize;
            match self.rng.below(4) {
                0 => bytes[at] = self.rng.below(256) as u8,
                1 => bytes.truncate(at),
                2 => bytes[at] = b"\r\n;,<>\"=: @%\0"[self.rng.below(13) as usize],
                _ => drop(bytes.drain(at..(at + 9).min(bytes.len() - 1))),
            }
        }
        Some(bytes)
    }

    /// A response to a branch of the server's that is almost right.
    fn forged_branch(&mut self) -> Option<Vec<u8>> {
        let bytes = self.any(true)?;
        let text = Text::read(&bytes)?;
        let branch = text.branch().strip_prefix("z9hG4bK")?;
        let at = self.rng.below(branch.len() as u32) as usize;
        let mut forged = branch.to_owned().into_bytes();
        forged[at] = if forged[at] == b'a' { b'b' } else { b'a' };
        let forged = String::from_utf8(forged).ok()?;
        if forged.eq_ignore_ascii_case(branch) {
            return None;
        }
        Some(text.whole.replacen(branch, &forged, 1).into_bytes())
    }

    fn any(&mut self, response: bool) -> Option<std::rc::Rc<[u8]>> {
        let fits: Vec<usize> = (0..self.seen.len())
            .filter(|&at| {
                Text::read(&self.seen[at]).is_some_and(|text| text.code().is_some() == response)
            })
            .collect();
        let at = *fits.get(self.rng.below(fits.len() as u32) as usize)?;
        Some(std::rc::Rc::clone(&self.seen[at]))
    }

    /// Tries to have somebody else be sent something.
    fn abuse(&mut self) -> Vec<u8> {
        let (victim, name, user) = (self.victim, self.name(), self.user());
        match self.rng.below(6) {
            0 => self.written("INVITE", &format!("sip:x@{victim}"), &name, ""),
            1 => self.written("MESSAGE", &user, &name, &format!("Route: <sip:{victim};lr>\r\n")),
            2 => {
                let to = format!("{user};maddr={}", victim.ip());
                self.written("OPTIONS", &to, &name, "")
            }
            3 => {
                // As if within a dialog.
                let text = self.written("BYE", &format!("sip:x@{victim}"), &name, "");
                let text = String::from_utf8_lossy(&text).replacen(">\r\nCall-ID", ">;tag=1\r\nCall-ID", 1);
                text.into_bytes()
            }
            4 => {
                let text = self.written("OPTIONS", &user, &name, "");
                let (from, to) = (self.address.to_string(), format!("{victim};received={}", victim.ip()));
                String::from_utf8_lossy(&text).replacen(&from, &to, 1).into_bytes()
            }
            _ => format!(
                "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 10.9.9.9:5060;branch=z9hG4bKt{name}\r\n\
                 Via: SIP/2.0/UDP {victim};branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\n\
                 Call-ID: {name}\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
            )
            .into_bytes(),
        }
    }
}
