//! Consistent hashing: weighted rendezvous. Every destination draws a number for a key, and the lowest number has it.
//!
//! A destination's draw depends on nothing but the key, itself and its weight. So if one goes, only its own keys move, each to where it would have gone without it; if
//! one comes, it takes its share and nothing else moves; and if a weight grows, keys move to that destination only. All workers, and those after a restart, draw alike.

use stdx::hash::{Key, hash64};

/// The values in here only have to differ; the key of a group's hash is the caller's.
const PLAIN: Key = Key(*b"tandem.balance.1");

/// What a destination is known by in draws; from its URI, so that its place in a list means nothing.
pub fn identity(uri: &[u8]) -> u64 {
    hash64(&PLAIN, &[uri])
}

/// The draw of a destination for a key. Unit: none; exponentially distributed with the weight as its rate, so that the least of several draws is each one's by weight.
pub(crate) fn draw(key: u64, identity: u64, weight: f64) -> f64 {
    let mixed = mix(key ^ mix(identity));
    // 53 bits, and never 0: its logarithm is finite.
    let unit = ((mixed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -unit.ln() / weight
}

/// The finalizer of SplitMix64: every bit of the result depends on every bit that goes in.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys outlive a release: a conference must not be split by an upgrade.
    #[test]
    fn draws_are_pinned() {
        let one = identity(b"sip:192.0.2.1:5060");
        let two = identity(b"sip:192.0.2.2:5060");
        assert_eq!(one, PINNED_IDENTITY);
        let winners: Vec<u8> = (0..16)
            .map(|key| u8::from(draw(key, two, 1.0) < draw(key, one, 1.0)))
            .collect();
        assert_eq!(winners, PINNED_WINNERS);
    }

    const PINNED_IDENTITY: u64 = 5_577_909_706_066_036_800;
    const PINNED_WINNERS: [u8; 16] = [0, 1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1];
}
