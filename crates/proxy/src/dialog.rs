//! The seal in our Record-Route URIs.
//!
//! A request within a dialog is passed on to wherever its Route set says, with no policy asked: the dialog was let in when it began.
//! Anybody can write a To tag and a Route with our address, and would have a relay to everywhere. So our Record-Route URIs carry a
//! keyed hash of the Call-ID, which both sides of the dialog give back in their Route sets (§12.1); a request without it is treated
//! like one that begins a dialog.

use sip::uri::Uri;
use stdx::{
    hash::{Key, hash64},
    text::{BASE32_U64, encode_base32_u64},
};

/// The URI parameter that carries the seal.
pub const PARAM: &[u8] = b"td";

/// The value of the parameter.
pub type Seal = [u8; BASE32_U64];

/// The seal of a dialog, the same for both of its directions.
pub fn seal(key: &Key, call_id: &[u8]) -> Seal {
    encode_base32_u64(hash64(key, &[b"dialog", call_id]))
}

/// Whether a URI carries this seal. The case of a URI parameter does not count (§19.1.4).
pub fn is_sealed(uri: &Uri<'_>, seal: &Seal) -> bool {
    uri.param(PARAM)
        .flatten()
        .is_some_and(|value| value.eq_ignore_ascii_case(seal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_good_for_its_call_and_key_only() {
        let one = seal(&Key([1; 16]), b"call@a");
        let text = [&b"sip:10.0.0.1:5060;lr;td="[..], &one].concat();
        let uri = Uri::parse(&text).unwrap();
        assert!(is_sealed(&uri, &one));
        assert!(!is_sealed(&uri, &seal(&Key([1; 16]), b"call@b")));
        assert!(!is_sealed(&uri, &seal(&Key([2; 16]), b"call@a")));
        let bare = Uri::parse(b"sip:10.0.0.1:5060;lr").unwrap();
        assert!(!is_sealed(&bare, &one));
    }
}
