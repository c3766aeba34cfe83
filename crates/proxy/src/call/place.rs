//! What our Record-Route URIs say of a dialog.
//!
//! ```text
//! td = <seal: 13>                a dialog that is not on record
//! td = <place: 13> <seal: 13>    the record's row and generation
//! ```
//!
//! A request within a dialog is passed on to wherever its Route set says, with no policy asked: the dialog was let in when it began.
//! Anybody can write a To tag and a Route with our address, and would have a relay to everywhere. So our URIs carry a
//! keyed hash of the Call-ID, which both sides of the dialog give back in their Route sets (§12.1); a request without it is treated
//! like one that begins a dialog. The *place* leads to the dialog's record with no look-up; it is part of what is sealed.

use std::io::{self, Write};

use sip::uri::Uri;
use stdx::{
    hash::{Key, hash64},
    text::{BASE32_U64, decode_base32_u64, encode_base32_u64},
};

/// The URI parameter that carries it.
pub const PARAM: &[u8] = b"td";
/// The place of a dialog that is not on record.
pub const NOWHERE: u64 = 0;

/// Writes the parameter's value for a dialog, the same for both of its directions.
pub fn write(key: &Key, call_id: &[u8], place: u64, out: &mut impl Write) -> io::Result<()> {
    if place != NOWHERE {
        out.write_all(&encode_base32_u64(place))?;
    }
    out.write_all(&seal(key, call_id, place))
}

/// The place that a URI names, if it carries a seal of ours for this Call-ID. The case of a URI parameter does not count (§19.1.4).
pub fn read(key: &Key, call_id: &[u8], uri: &Uri<'_>) -> Option<u64> {
    let value = uri.param(PARAM).flatten()?;
    let (place, sealed) = match value.len() {
        BASE32_U64 => (NOWHERE, value),
        _ => {
            let (place, sealed) = value.split_at_checked(BASE32_U64)?;
            let mut lower = [0; BASE32_U64];
            lower.copy_from_slice(place);
            lower.make_ascii_lowercase();
            (decode_base32_u64(&lower)?, sealed)
        }
    };
    sealed
        .eq_ignore_ascii_case(&seal(key, call_id, place))
        .then_some(place)
}

fn seal(key: &Key, call_id: &[u8], place: u64) -> [u8; BASE32_U64] {
    encode_base32_u64(match place {
        NOWHERE => hash64(key, &[b"dialog", call_id]),
        place => hash64(key, &[b"place", &place.to_be_bytes(), call_id]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_good_for_its_call_place_and_key_only() {
        for place in [NOWHERE, 1, 0x000a_bcde_0123_4567] {
            let mut text = b"sip:10.0.0.1:5060;lr;td=".to_vec();
            write(&Key([1; 16]), b"call@a", place, &mut text).unwrap();
            let uri = Uri::parse(&text).unwrap();
            assert_eq!(read(&Key([1; 16]), b"call@a", &uri), Some(place));
            assert_eq!(read(&Key([1; 16]), b"call@b", &uri), None);
            assert_eq!(read(&Key([2; 16]), b"call@a", &uri), None);
            let upper = text.to_ascii_uppercase();
            let text_of_upper = [b"sip:10.0.0.1:5060;lr;td=", &upper[24..]].concat();
            let uri = Uri::parse(&text_of_upper).unwrap();
            assert_eq!(read(&Key([1; 16]), b"call@a", &uri), Some(place));
            for at in 24..text.len() {
                let mut bad = text.clone();
                bad[at] = if bad[at] == b'a' { b'b' } else { b'a' };
                let found = Uri::parse(&bad)
                    .ok()
                    .and_then(|uri| read(&Key([1; 16]), b"call@a", &uri));
                assert_eq!(found, None, "byte {at}");
            }
        }
        let bare = Uri::parse(b"sip:10.0.0.1:5060;lr;td").unwrap();
        assert_eq!(read(&Key([1; 16]), b"call@a", &bare), None);
    }
}
