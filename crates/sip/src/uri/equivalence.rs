//! When two URIs are equivalent (§19.1.4, RFC 3966 §4).

use super::escape::{is_reserved, is_visual_separator, unescape};
use super::params::{UriHeader, UriParam};
use super::{Scheme, Uri};
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
        && params_agree(b, a)
        && headers_agree(a, b)
}

/// Every parameter of `a` that matters has its like in `b`.
fn params_agree(a: &Uri<'_>, b: &Uri<'_>) -> bool {
    a.params().all(|ours| {
        // A repeated name means its first occurrence, which `find` yields on both sides.
        let ours = a.params().find(|param| same_name(param, &ours)).unwrap_or(ours);
        match b.params().find(|theirs| same_name(&ours, theirs)) {
            Some(theirs) => {
                let case = if ours.is("method") { Case::Exact } else { Case::Ignored };
                same_option(ours.value, theirs.value, case)
            }
            None => !never_alone(&ours),
        }
    })
}

/// Parameters that must be in both URIs or in neither, even with their default value (§19.1.4).
fn never_alone(param: &UriParam<'_>) -> bool {
    ["user", "ttl", "method", "maddr", "transport"].iter().any(|name| param.is(name))
}

fn same_name(a: &UriParam<'_>, b: &UriParam<'_>) -> bool {
    same(a.name, b.name, Case::Ignored)
}

/// The same headers, in any order; a header is never ignored.
fn headers_agree(a: &Uri<'_>, b: &Uri<'_>) -> bool {
    // Bit n: the n-th header of `b` has found its like. `URI_PARTS_MAX` headers fit.
    const _: () = assert!(super::URI_PARTS_MAX <= u64::BITS as usize);
    let mut matched = 0_u64;
    let all_found = a.headers.iter().all(|ours| {
        let like = b.headers.iter().enumerate().find(|(at, theirs)| matched & bit(*at) == 0 && same_header(&ours, theirs));
        matched |= like.map_or(0, |(at, _)| bit(at));
        like.is_some()
    });
    all_found && a.headers.iter().count() == b.headers.iter().count()
}

fn bit(at: usize) -> u64 {
    u32::try_from(at).ok().and_then(|at| 1_u64.checked_shl(at)).unwrap_or(0)
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Exact,
    Ignored,
}

fn same_option(a: Option<&[u8]>, b: Option<&[u8]>, case: Case) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => same(a, b, case),
        (None, None) => true,
        _ => false,
    }
}

/// Equal texts; a character outside of the reserved set equals its escape (§19.1.4).
fn same(a: &[u8], b: &[u8], case: Case) -> bool {
    let mut theirs = unescape(b);
    let all = unescape(a).all(|ours| {
        theirs.next().is_some_and(|theirs| {
            let bytes = match case {
                Case::Exact => ours.byte == theirs.byte,
                Case::Ignored => ours.byte.eq_ignore_ascii_case(&theirs.byte),
            };
            bytes && (ours.was_escaped == theirs.was_escaped || !is_reserved(ours.byte))
        })
    });
    all && theirs.next().is_none()
}

fn tel(a: &Uri<'_>, b: &Uri<'_>) -> bool {
    let (Some(ours), Some(theirs)) = (a.user, b.user) else { return false };
    same_digits(ours, theirs) && tel_params_agree(a, b) && tel_params_agree(b, a)
}

/// Equal numbers but for visual separators and the case of hexadecimal digits. `+` is part of the number.
fn same_digits(a: &[u8], b: &[u8]) -> bool {
    fn digits(text: &[u8]) -> impl Iterator<Item = u8> + '_ {
        unescape(text).map(|c| c.byte.to_ascii_lowercase()).filter(|b| !is_visual_separator(*b))
    }
    digits(a).eq(digits(b))
}

/// Every parameter of `a` is in `b` with the same value; none is ignored (RFC 3966 §4).
fn tel_params_agree(a: &Uri<'_>, b: &Uri<'_>) -> bool {
    a.params().all(|ours| {
        let ours = a.params().find(|param| same_name(param, &ours)).unwrap_or(ours);
        b.params().find(|theirs| same_name(&ours, theirs)).is_some_and(|theirs| match (ours.value, theirs.value) {
            (Some(a), Some(b)) if ours.is("ext") => same_digits(a, b),
            (Some([b'+', a @ ..]), Some([b'+', b @ ..])) if ours.is("phone-context") => same_digits(a, b),
            (a, b) => same_option(a, b, Case::Ignored),
        })
    })
}
