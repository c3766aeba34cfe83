//! Looking into an encoded set without allocation.

use std::net::SocketAddr;

use stdx::Instant;

use crate::binding::BINDINGS_MAX;
use crate::encoding::{self, DecodeError};

/// One binding in its encoding; the fields are those of [`Binding`](crate::Binding).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindingView<'a> {
    pub contact: &'a [u8],
    pub q: u16,
    pub expires_at: Instant,
    pub call_id: &'a [u8],
    pub cseq: u32,
    pub path: &'a [u8],
    pub instance: Option<&'a [u8]>,
    pub reg_id: Option<u32>,
    pub received: Option<SocketAddr>,
    pub listener: u32,
    pub user_agent: &'a [u8],
    pub updated_at: Instant,
}

/// An encoded set that has been checked from end to end.
#[derive(Clone, Copy, Debug)]
pub struct BindingsView<'a> {
    count: usize,
    /// The bindings, without the head.
    bytes: &'a [u8],
}

impl<'a> BindingsView<'a> {
    /// Checks the bytes; they come from an arena in which a writer may have died.
    pub fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (count, bytes) = encoding::read_head(bytes)?;
        let mut rest = bytes;
        for _ in 0..count {
            (_, rest) = encoding::read_binding(rest)?;
        }
        if rest.is_empty() {
            Ok(Self { count, bytes })
        } else {
            Err(DecodeError::Trailing)
        }
    }

    /// Every binding, expired or not, in the order in which they came.
    pub fn all(&self) -> impl Iterator<Item = BindingView<'a>> + use<'a> {
        let mut rest = self.bytes;
        (0..self.count).map_while(move |_| {
            let (binding, after) = encoding::read_binding(rest).ok()?;
            rest = after;
            Some(binding)
        })
    }

    /// The bindings that have not expired: the preferred first, of equal ones the newest (§16.6, §20.10).
    pub fn current(&self, now: Instant) -> Current<'a> {
        let mut list = [None; BINDINGS_MAX];
        let mut len = 0;
        for (slot, binding) in list
            .iter_mut()
            .zip(self.all().filter(|binding| binding.expires_at > now))
        {
            *slot = Some(binding);
            len += 1;
        }
        // Insertion: stable, without allocation, and there are few.
        for end in 1..len {
            let mut at = end;
            while at > 0 && rank(&list[at - 1]) < rank(&list[at]) {
                list.swap(at - 1, at);
                at -= 1;
            }
        }
        Current {
            list: list.into_iter(),
        }
    }

    /// The bindings to fork a request to: of several flows to one device only the preferred, newest one, since it must
    /// not ring twice (RFC 5626 §5.3), and no URI twice (§16.5).
    pub fn targets(&self, now: Instant) -> impl Iterator<Item = BindingView<'a>> + use<'a> {
        let current = self.current(now);
        let all = current.clone();
        current.enumerate().filter_map(move |(place, binding)| {
            let is_first = !all
                .clone()
                .take(place)
                .any(|other| is_same_target(&other, &binding));
            is_first.then_some(binding)
        })
    }
}

/// Whether two bindings lead to the same device: by instance if both have one (RFC 5626 §5.3), or by URI.
fn is_same_target(a: &BindingView<'_>, b: &BindingView<'_>) -> bool {
    a.contact == b.contact
        || a.instance
            .is_some_and(|instance| b.instance == Some(instance))
}

fn rank(binding: &Option<BindingView<'_>>) -> Option<(u16, Instant)> {
    binding.map(|binding| (binding.q, binding.updated_at))
}

/// Iterator over current bindings in the order of preference.
#[derive(Clone, Debug)]
pub struct Current<'a> {
    list: std::array::IntoIter<Option<BindingView<'a>>, BINDINGS_MAX>,
}

impl<'a> Iterator for Current<'a> {
    type Item = BindingView<'a>;

    fn next(&mut self) -> Option<BindingView<'a>> {
        self.list.next()?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Binding, BindingSet};

    fn binding(contact: &str, q: u16, updated_at: u64, expires_at: u64) -> Binding {
        Binding {
            contact: contact.as_bytes().to_vec(),
            q,
            expires_at: Instant::from_nanos(expires_at),
            call_id: b"c".to_vec(),
            cseq: 1,
            path: Vec::new(),
            instance: None,
            reg_id: None,
            received: None,
            listener: 0,
            user_agent: Vec::new(),
            updated_at: Instant::from_nanos(updated_at),
        }
    }

    #[test]
    fn current_ones_by_preference_then_age() {
        let mut set = BindingSet::new();
        for (contact, q, updated_at, expires_at) in [
            ("sip:old", 500, 1, 100),
            ("sip:gone", 1000, 2, 50),
            ("sip:new", 500, 3, 100),
            ("sip:best", 1000, 0, 51),
            ("sip:never", 0, 9, 100),
        ] {
            assert!(set.push(binding(contact, q, updated_at, expires_at)));
        }
        let mut bytes = Vec::new();
        set.encode(&mut bytes);
        let view = BindingsView::new(&bytes).unwrap();
        let contacts = |now| -> Vec<&[u8]> {
            view.current(Instant::from_nanos(now))
                .map(|binding| binding.contact)
                .collect()
        };
        assert_eq!(
            contacts(50),
            [&b"sip:best"[..], b"sip:new", b"sip:old", b"sip:never"]
        );
        assert!(contacts(100).is_empty());
        assert_eq!(view.all().count(), 5);
        assert_eq!(set.expires_at(), Some(Instant::from_nanos(100)));
        assert_eq!(view.targets(Instant::from_nanos(50)).count(), 4);
    }

    #[test]
    fn a_device_is_one_target() {
        let mut set = BindingSet::new();
        for (contact, instance, updated_at) in [
            ("sip:a@h1", Some("<urn:uuid:1>"), 1),
            ("sip:a@h2", Some("<urn:uuid:1>"), 2),
            ("sip:a@h2", Some("<urn:uuid:2>"), 1),
            ("sip:a@h3", None, 1),
            ("sip:a@h4", None, 1),
        ] {
            assert!(set.push(Binding {
                instance: instance.map(|text| text.as_bytes().to_vec()),
                ..binding(contact, 1000, updated_at, 100)
            }));
        }
        let mut bytes = Vec::new();
        set.encode(&mut bytes);
        let view = BindingsView::new(&bytes).unwrap();
        let targets: Vec<_> = view
            .targets(Instant::ZERO)
            .map(|target| target.contact)
            .collect();
        assert_eq!(targets, [&b"sip:a@h2"[..], b"sip:a@h3", b"sip:a@h4"]);
    }
}
