//! Session timers, the proxy's part (RFC 4028 §8): Session-Expires and Min-SE on their way, 422, and what the parties have agreed on.

use sip::{HeaderName, Message, Patch, PatchError};
use stdx::text::write_decimal;

/// What an INVITE or UPDATE asks for when it leaves us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SessionAsk {
    /// Session-Expires; 0: none. Unit: seconds.
    pub(crate) expires: u32,
    /// Min-SE; 0: none. Unit: seconds.
    pub(crate) min: u32,
    /// Its sender knows session timers.
    pub(crate) supported: bool,
}

/// The least that Min-SE may say (§5). Unit: seconds.
pub(crate) const MIN_SE_LEAST: u32 = 90;

/// Session-Expires below the minimum: 422 with this Min-SE (§6). Unit: seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooSmall(pub(crate) u32);

impl SessionAsk {
    /// What becomes of a request (§8.1). `wanted` and `least`: what we ask for, in seconds; 0: what the parties want.
    pub(crate) fn of(message: &Message<'_>, wanted: u32, least: u32) -> Result<Self, TooSmall> {
        let supported = names_timer(message, HeaderName::Supported)
            || names_timer(message, HeaderName::Require);
        let expires = seconds(message, HeaderName::SessionExpires);
        let min = seconds(message, HeaderName::MinSe).unwrap_or(0);
        let least = least.max(if wanted > 0 { MIN_SE_LEAST } else { 0 });
        if expires.is_some_and(|expires| expires < least) && supported {
            return Err(TooSmall(least));
        }
        // Who does not know session timers can't be told of a minimum: it is raised for him.
        let min = if min < least && least > MIN_SE_LEAST {
            least
        } else {
            min
        };
        let expires = match (expires, wanted) {
            (None, wanted) => wanted,
            (Some(expires), 0) => expires,
            (Some(expires), wanted) => expires.min(wanted),
        };
        // One of 0 s too.
        let floor = if expires > 0 || wanted > 0 {
            min.max(least)
        } else {
            0
        };
        Ok(Self {
            expires: expires.max(floor),
            min,
            supported,
        })
    }

    /// Writes it into the request.
    pub(crate) fn patch_request(&self, patch: &mut Patch<'_>) -> Result<(), PatchError> {
        let message = patch.message();
        if self.expires > 0 {
            set_seconds(patch, &message, HeaderName::SessionExpires, self.expires)?;
        }
        if self.min > 0 {
            set_seconds(patch, &message, HeaderName::MinSe, self.min)?;
        }
        Ok(())
    }

    /// A 2xx by who does not know session timers gets Session-Expires from us, if its receiver does: it refreshes then (§8.2).
    pub(crate) fn patch_success(&self, patch: &mut Patch<'_>) -> Result<(), PatchError> {
        if !self.is_ours_to_answer(&patch.message()) {
            return Ok(());
        }
        let mut value = Vec::with_capacity(24);
        write_decimal(self.expires.into(), &mut value);
        value.extend_from_slice(b";refresher=uac");
        patch.append(HeaderName::SessionExpires, &value)?;
        patch.append(HeaderName::Require, b"timer")
    }

    fn is_ours_to_answer(&self, success: &Message<'_>) -> bool {
        self.supported && self.expires > 0 && !success.has(HeaderName::SessionExpires)
    }

    /// The interval that a 2xx makes hold; `None`: the session has no timer. Nobody may ask for less than the least (§5): a call whose phones do would be over in our books
    /// and go on.
    pub(crate) fn agreed(&self, success: &Message<'_>) -> Option<u32> {
        let said = seconds(success, HeaderName::SessionExpires);
        let ours = self.is_ours_to_answer(success).then_some(self.expires);
        said.or(ours)
            .filter(|&interval| interval > 0)
            .map(|interval| interval.max(MIN_SE_LEAST))
    }
}

/// Sets the number at the beginning of a header, and leaves its parameters.
fn set_seconds(
    patch: &mut Patch<'_>,
    message: &Message<'_>,
    name: HeaderName,
    value: u32,
) -> Result<(), PatchError> {
    if seconds(message, name) == Some(value) {
        return Ok(());
    }
    let mut text = Vec::with_capacity(32);
    write_decimal(value.into(), &mut text);
    if let Some(header) = message.first(name) {
        let params = header.value.iter().position(|&byte| byte == b';');
        let params = params.and_then(|at| header.value.get(at..));
        sip::message::unfold(params.unwrap_or_default(), &mut text);
    }
    patch.set(name, &text)
}

/// The delta-seconds of a header; `None`: there is none, or it is no number.
fn seconds(message: &Message<'_>, name: HeaderName) -> Option<u32> {
    let value = message.first(name)?.value;
    let number = value.split(|&byte| byte == b';').next()?;
    std::str::from_utf8(number.trim_ascii()).ok()?.parse().ok()
}

fn names_timer(message: &Message<'_>, name: HeaderName) -> bool {
    let mut options = message.values(name);
    options.any(|option| option.value.eq_ignore_ascii_case(b"timer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &str) -> Vec<u8> {
        format!("INVITE sip:b SIP/2.0\r\nCSeq: 1 INVITE\r\n{headers}Content-Length: 0\r\n\r\n")
            .into_bytes()
    }

    fn ask(headers: &str, wanted: u32, least: u32) -> Result<(u32, u32), u32> {
        let text = request(headers);
        let mut layout = Box::<sip::Layout>::default();
        layout.read(&text).unwrap();
        SessionAsk::of(&layout.message(&text).unwrap(), wanted, least)
            .map(|ask| (ask.expires, ask.min))
            .map_err(|TooSmall(least)| least)
    }

    #[test]
    fn the_table_of_rfc_4028() {
        // Nobody asks for anything.
        assert_eq!(ask("", 0, 0), Ok((0, 0)));
        // Inserted, lowered, left.
        assert_eq!(ask("", 1800, 90), Ok((1800, 0)));
        assert_eq!(
            ask("Session-Expires: 3600;refresher=uac\r\n", 1800, 90),
            Ok((1800, 0))
        );
        assert_eq!(ask("x: 600\r\n", 1800, 90), Ok((600, 0)));
        assert_eq!(ask("Session-Expires: 600\r\n", 0, 0), Ok((600, 0)));
        // Not lowered below what the request insists on.
        assert_eq!(
            ask("Session-Expires: 3600\r\nMin-SE: 2000\r\n", 1800, 90),
            Ok((2000, 2000))
        );
        // Too small.
        assert_eq!(
            ask("Supported: timer\r\nSession-Expires: 100\r\n", 1800, 300),
            Err(300)
        );
        assert_eq!(ask("Session-Expires: 100\r\n", 1800, 300), Ok((300, 300)));
        assert_eq!(ask("Session-Expires: 0\r\n", 1800, 300), Ok((300, 300)));
        assert_eq!(ask("Session-Expires: 0\r\n", 0, 0), Ok((0, 0)));
        assert_eq!(
            ask(
                "Session-Expires: 60\r\nSupported: 100rel, timer\r\n",
                1800,
                0
            ),
            Err(90)
        );
        // What is no number is not there.
        assert_eq!(ask("Session-Expires: soon\r\n", 0, 0), Ok((0, 0)));
    }
}
