//! When two URIs are equivalent (§19.1.4, RFC 3966 §4).

use super::escape::{Case, is_visual_separator, same, unescape};
use super::params::{UriHeader, UriParam};
use super::{Scheme, URI_PARTS_MAX, Uri};
use crate::header::HeaderName;

/// Whether `a` and `b` are equivalent: sip and sips by §19.1.4, tel by RFC 3966 §4, others if their bytes are equal.
///
/// The relation is symmetric but, by §19.1.4's own rules for parameters, not transitive.
pub fn equivalent(a: &Uri<'_>, b: &Uri<'_>) -> bool {
    if a.scheme != b.scheme {
        return false;
    }
    match a.scheme {
        Scheme::Sip | Scheme::Sips => sip(a, b),
        Scheme::Tel => tel(a, b),
        Scheme::Other => a.text == b.text,
    }
}

fn sip(a: &Uri<'_>, b: &Uri<'_>) -> bool {
    let hosts = match (&a.host, &b.host) {
        (Some(a), Some(b)) => a.is_same(b),
        (a, b) => a.is_none() && b.is_none(),
    };
    hosts
        && a.port == b.port
        && same_option(a.user, b.user, Case::Exact)
        && same_option(a.password, b.password, Case::Exact)
        && params_agree(a, b)
        && headers_agree(a, b)
}

/// Every parameter of either that matters has its like in the other.
fn params_agree(a: &Uri<'_>, b: &Uri<'_>) -> bool {
    if a.params.is_empty() && b.params.is_empty() {
        return true;
    }
    let (a, b) = (Params::of(a), Params::of(b));
    a.agree_with(&b) && b.agree_with(&a)
}

/// The parameters of a URI with hashes of their names, so that lists are compared without comparing every name with every other: a stranger
/// makes them as long as [`URI_PARTS_MAX`] allows.
struct Params<'a> {
    /// The first `len` are in use.
    list: [(u32, UriParam<'a>); URI_PARTS_MAX],
    len: usize,
}

impl<'a> Params<'a> {
    fn of(uri: &Uri<'a>) -> Self {
        let none = UriParam {
            name: b"",
            value: None,
        };
        let mut params = Self {
            list: [(0, none); URI_PARTS_MAX],
            len: 0,
        };
        for param in uri.params() {
            let hash = hash_of_name(param.name);
            // A repeated name means its first occurrence.
            if params.find(hash, param.name).is_none()
                && let Some(free) = params.list.get_mut(params.len)
            {
                *free = (hash, param);
                params.len = params.len.saturating_add(1);
            }
        }
        params
    }

    fn iter(&self) -> std::slice::Iter<'_, (u32, UriParam<'a>)> {
        self.list.get(..self.len).unwrap_or_default().iter()
    }

    fn find(&self, hash: u32, name: &[u8]) -> Option<&UriParam<'a>> {
        self.iter()
            .find(|(other, param)| *other == hash && param.is(name))
            .map(|(_, param)| param)
    }

    /// Every parameter of ours that matters is among theirs.
    fn agree_with(&self, theirs: &Params<'_>) -> bool {
        self.iter()
            .all(|(hash, ours)| match theirs.find(*hash, ours.name) {
                Some(theirs) => {
                    let case = if ours.is("method") {
                        Case::Exact
                    } else {
                        Case::Ignored
                    };
                    same_option(ours.value, theirs.value, case)
                }
                None => !never_alone(ours),
            })
    }
}

/// Equal for names that are the same: without case, and an escape like the character that it stands for.
fn hash_of_name(name: &[u8]) -> u32 {
    unescape(name).fold(0, |hash: u32, character| {
        let byte = character.byte.to_ascii_lowercase();
        hash.wrapping_mul(31).wrapping_add(byte.into())
    })
}

/// Parameters that must be in both URIs or in neither, even with their default value (§19.1.4).
fn never_alone(param: &UriParam<'_>) -> bool {
    ["user", "ttl", "method", "maddr", "transport"]
        .iter()
        .any(|name| param.is(name))
}

/// The same headers, in any order; a header is never ignored.
fn headers_agree(a: &Uri<'_>, b: &Uri<'_>) -> bool {
    // Bit n: the n-th header of `b` has found its like. `URI_PARTS_MAX` headers fit.
    const _: () = assert!(super::URI_PARTS_MAX <= u64::BITS as usize);
    let mut matched = 0_u64;
    let all_found = a.headers.iter().all(|ours| {
        let like = b
            .headers
            .iter()
            .enumerate()
            .find(|(at, theirs)| matched & bit(*at) == 0 && same_header(&ours, theirs));
        matched |= like.map_or(0, |(at, _)| bit(at));
        like.is_some()
    });
    all_found && a.headers.iter().count() == b.headers.iter().count()
}

fn bit(at: usize) -> u64 {
    u32::try_from(at)
        .ok()
        .and_then(|at| 1_u64.checked_shl(at))
        .unwrap_or(0)
}

/// Names may be compact (§7.3.3). Values are compared exactly: the rules of each header (§20) would make some more
/// values equal, and taking equal values for unequal ones does no harm here.
fn same_header(a: &UriHeader<'_>, b: &UriHeader<'_>) -> bool {
    let known = HeaderName::of(a.name);
    let names = if known == HeaderName::Other {
        same(a.name, b.name, Case::Ignored)
    } else {
        known == HeaderName::of(b.name)
    };
    names && same(a.value, b.value, Case::Exact)
}

fn same_option(a: Option<&[u8]>, b: Option<&[u8]>, case: Case) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => same(a, b, case),
        (None, None) => true,
        _ => false,
    }
}

fn tel(a: &Uri<'_>, b: &Uri<'_>) -> bool {
    let (Some(ours), Some(theirs)) = (a.user, b.user) else {
        return false;
    };
    same_digits(ours, theirs) && tel_params_agree(a, b)
}

/// Equal numbers but for visual separators and the case of hexadecimal digits. `+` is part of the number.
fn same_digits(a: &[u8], b: &[u8]) -> bool {
    fn digits(text: &[u8]) -> impl Iterator<Item = u8> + '_ {
        unescape(text)
            .map(|c| c.byte.to_ascii_lowercase())
            .filter(|b| !is_visual_separator(*b))
    }
    digits(a).eq(digits(b))
}

/// Both have the same parameters with the same values; none is ignored (RFC 3966 §4).
fn tel_params_agree(a: &Uri<'_>, b: &Uri<'_>) -> bool {
    let (a, b) = (Params::of(a), Params::of(b));
    a.len == b.len
        && a.iter().all(|(hash, ours)| {
            b.find(*hash, ours.name)
                .is_some_and(|theirs| match (ours.value, theirs.value) {
                    (Some(a), Some(b)) if ours.is("ext") => same_digits(a, b),
                    (Some([b'+', a @ ..]), Some([b'+', b @ ..])) if ours.is("phone-context") => {
                        same_digits(a, b)
                    }
                    (a, b) => same_option(a, b, Case::Ignored),
                })
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Uri, equivalent};

    fn check(a: &str, b: &str, expected: bool) {
        let parse = |text: &'static str| {
            Uri::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}"))
        };
        let (a, b) = (String::leak(a.to_owned()), String::leak(b.to_owned()));
        assert_eq!(equivalent(&parse(a), &parse(b)), expected, "{a} {b}");
        assert_eq!(equivalent(&parse(b), &parse(a)), expected, "{b} {a}");
    }

    #[test]
    fn the_equivalent_uris_of_section_19_1_4() {
        for (a, b) in [
            (
                "sip:%61lice@atlanta.com;transport=TCP",
                "sip:alice@AtLanTa.CoM;Transport=tcp",
            ),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"),
            (
                "sip:carol@chicago.com;newparam=5",
                "sip:carol@chicago.com;security=on",
            ),
            (
                "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
                "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
            ),
            (
                "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
                "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
            ),
        ] {
            check(a, b, true);
        }
    }

    #[test]
    fn the_different_uris_of_section_19_1_4() {
        for (a, b) in [
            (
                "SIP:ALICE@AtLanTa.CoM;Transport=udp",
                "sip:alice@AtLanTa.CoM;Transport=UDP",
            ),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
            (
                "sip:bob@biloxi.com",
                "sip:bob@biloxi.com:6000;transport=tcp",
            ),
            (
                "sip:carol@chicago.com",
                "sip:carol@chicago.com?Subject=next%20meeting",
            ),
            ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
            // Equivalence is not transitive: both equal the URI without a parameter.
            (
                "sip:carol@chicago.com;security=on",
                "sip:carol@chicago.com;security=off",
            ),
        ] {
            check(a, b, false);
        }
    }

    #[test]
    fn the_rules_of_section_19_1_4() {
        for (a, b, expected) in [
            ("sip:a@b", "sips:a@b", false),
            ("sip:a@b", "SIP:a@B", true),
            ("sip:a@b", "sip:A@b", false),
            ("sip:a@b", "sip:a:@b", false),
            ("sip:a:x@b", "sip:a:X@b", false),
            ("sip:a@b", "sip:b", false),
            ("sip:a%3Bb@c", "sip:a;b@c", false),
            ("sip:a%2ab@c", "sip:a*b@c", true),
            ("sip:a@b", "sip:a@b;user=ip", false),
            ("sip:a@b", "sip:a@b;ttl=1", false),
            ("sip:a@b", "sip:a@b;method=INVITE", false),
            ("sip:a@b", "sip:a@b;maddr=192.0.2.1", false),
            ("sip:a@b;method=INVITE", "sip:a@b;method=invite", false),
            ("sip:a@b", "sip:a@b;%74ransport=udp", false),
            ("sip:a@b;lr", "sip:a@b;lr=on", false),
            ("sip:a@b;lr", "sip:a@b;%6C%72", true),
            ("sip:a@b;x=%41", "sip:a@b;X=a", true),
            ("sip:a@[2001:db8::1]", "sip:a@[2001:DB8:0:0:0:0:0:1]", true),
            ("sip:a@b.", "sip:a@B", true),
            ("sip:b?a=1&a=2", "sip:b?a=2&a=1", true),
            ("sip:b?a=1&a=1", "sip:b?a=1&a=2", false),
            ("sip:b?a=1&a=1", "sip:b?a=1", false),
            ("sip:b?subject=x", "sip:b?S=x", true),
            ("sip:b?subject=x", "sip:b?Subject=X", false),
            ("urn:a", "urn:A", false),
            ("urn:a", "urn:a", true),
        ] {
            check(a, b, expected);
        }
    }

    #[test]
    fn telephone_numbers_compare_by_rfc_3966_section_4() {
        for (a, b, expected) in [
            ("tel:+1-201-555-0123", "tel:+1(201)555.0123", true),
            ("tel:+12015550123", "tel:12015550123", false),
            (
                "tel:7042;phone-context=Example.com",
                "tel:70-42;phone-context=example.COM",
                true,
            ),
            (
                "tel:7042;phone-context=+1-201",
                "tel:7042;phone-context=+1201",
                true,
            ),
            (
                "tel:7042;phone-context=+1201",
                "tel:7042;phone-context=+1202",
                false,
            ),
            ("tel:+1201;ext=1-2;isub=x", "TEL:+1201;ISUB=X;ext=12", true),
            ("tel:+1201;ext=12", "tel:+1201", false),
            ("tel:+1201;x", "tel:+1201", false),
            ("tel:*7a#", "tel:*7A#", true),
            ("tel:+1201", "sip:+1201@b;user=phone", false),
        ] {
            check(a, b, expected);
        }
    }

    proptest! {
        #[test]
        fn every_uri_equals_itself_and_order_does_not_matter(
            user in "[a-z;=]{1,4}(%[0-9a-f]{2})?",
            params in proptest::collection::btree_map("[a-z]{1,4}", "[a-zA-Z0-9:]{1,4}", 0..5),
            headers in proptest::collection::vec("[a-z]{1,3}=[a-z?]{0,3}", 0..4),
        ) {
            let params: Vec<String> = params.iter().map(|(n, v)| format!(";{n}={v}")).collect();
            let uri = |params: Vec<String>, headers: Vec<String>| {
                let mark = if headers.is_empty() { "" } else { "?" };
                format!("sip:{user}@h{}{mark}{}", params.concat(), headers.join("&"))
            };
            let a = uri(params.clone(), headers.clone());
            let b = uri(params.into_iter().rev().collect(), headers.into_iter().rev().collect());
            let (a, b) = (Uri::parse(a.as_bytes()).unwrap(), Uri::parse(b.as_bytes()).unwrap());
            prop_assert!(equivalent(&a, &a) && equivalent(&a, &b) && equivalent(&b, &a));
        }
    }
}
