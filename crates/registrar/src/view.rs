//! Looking into an encoded set without allocation.

use std::net::SocketAddr;

use stdx::Instant;

use crate::binding::{BINDINGS_MAX, Flow};
use crate::encoding::{self, DecodeError, Form};

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
    pub flow: Flow,
    /// What a later release has added; it stays with the binding.
    pub(crate) more: &'a [u8],
}

impl BindingView<'_> {
    pub fn is_current(&self, now: Instant) -> bool {
        self.expires_at > now
    }
}

/// An encoded set.
#[derive(Clone, Copy, Debug)]
pub struct BindingsView<'a> {
    form: Form,
    count: usize,
    /// The bindings, without the head.
    bytes: &'a [u8],
}

impl<'a> BindingsView<'a> {
    /// No binding.
    pub const EMPTY: Self = Self {
        form: Form::Fixed,
        count: 0,
        bytes: b"",
    };

    /// Checks the bytes from end to end; they come from an arena in which a writer may have died.
    pub fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (form, count, bytes) = encoding::read_head(bytes)?;
        let mut rest = bytes;
        for _ in 0..count {
            rest = encoding::check_binding(form, rest)?;
        }
        if rest.is_empty() {
            Ok(Self { form, count, bytes })
        } else {
            Err(DecodeError::Trailing)
        }
    }

    /// A set that has just been written by this very code, which need not be checked; what is not one looks empty or cut off.
    pub fn just_written(bytes: &'a [u8]) -> Self {
        encoding::read_head(bytes).map_or(Self::EMPTY, |(form, count, bytes)| Self {
            form,
            count,
            bytes,
        })
    }

    /// How many bindings there are, expired ones included.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// When the last binding expires, and with it the whole set; `None` for an empty one.
    pub fn expires_at(&self) -> Option<Instant> {
        self.all().map(|binding| binding.expires_at).max()
    }

    /// Every binding, expired or not, in the order in which they came.
    pub fn all(&self) -> impl Iterator<Item = BindingView<'a>> + use<'a> {
        let Self {
            form,
            count,
            bytes: mut rest,
        } = *self;
        (0..count).map_while(move |_| {
            let (binding, after) = encoding::read_binding(form, rest).ok()?;
            rest = after;
            Some(binding)
        })
    }

    /// The bindings that have not expired: the preferred first, of equal ones the newest (§16.6, §20.10).
    pub fn current(&self, now: Instant) -> Current<'a> {
        let mut current = Current {
            set: *self,
            places: [0; BINDINGS_MAX],
            len: 0,
            next: 0,
        };
        let mut rest = self.bytes;
        while let (true, Some(place)) = (
            current.len < BINDINGS_MAX,
            // A body of the arena is not longer.
            u16::try_from(self.bytes.len().saturating_sub(rest.len())).ok(),
        ) {
            let Ok((binding, after)) = encoding::read_binding(self.form, rest) else {
                break;
            };
            if binding.is_current(now) {
                current.add(place, &binding);
            }
            rest = after;
        }
        current
    }

    /// The bindings to fork a request to: of several flows to one device only the preferred, newest one, since it must
    /// not ring twice (RFC 5626 §5.3), and no URI twice (§16.5).
    pub fn targets(&self, now: Instant) -> impl Iterator<Item = BindingView<'a>> + use<'a> {
        let all = self.current(now);
        (0..all.len).filter_map(move |nth| {
            let binding = all.get(nth)?;
            let is_first = !(0..nth)
                .filter_map(|before| all.get(before))
                .any(|other| is_same_target(&other, &binding));
            is_first.then_some(binding)
        })
    }

    /// The binding at this place among the bytes.
    fn at(&self, place: u16) -> Option<BindingView<'a>> {
        let bytes = self.bytes.get(usize::from(place)..)?;
        let (binding, _) = encoding::read_binding(self.form, bytes).ok()?;
        Some(binding)
    }
}

/// Whether two bindings lead to the same device: by instance if both have one (RFC 5626 §5.3), or by URI.
fn is_same_target(a: &BindingView<'_>, b: &BindingView<'_>) -> bool {
    a.contact == b.contact
        || a.instance
            .is_some_and(|instance| b.instance == Some(instance))
}

fn rank(binding: &BindingView<'_>) -> (u16, Instant) {
    (binding.q, binding.updated_at)
}

/// Iterator over current bindings in the order of preference.
#[derive(Clone, Debug)]
pub struct Current<'a> {
    set: BindingsView<'a>,
    /// Where the bindings lie, in order; the first `len` are in use.
    places: [u16; BINDINGS_MAX],
    len: usize,
    next: usize,
}

impl<'a> Current<'a> {
    /// Puts a binding behind those that are not less preferred.
    fn add(&mut self, place: u16, binding: &BindingView<'_>) {
        let mut at = self.len;
        while at > 0 && self.get(at - 1).map(|before| rank(&before)) < Some(rank(binding)) {
            self.places[at] = self.places[at - 1];
            at -= 1;
        }
        self.places[at] = place;
        self.len += 1;
    }

    fn get(&self, nth: usize) -> Option<BindingView<'a>> {
        let place = self.places.get(..self.len)?.get(nth)?;
        self.set.at(*place)
    }
}

impl<'a> Iterator for Current<'a> {
    type Item = BindingView<'a>;

    fn next(&mut self) -> Option<BindingView<'a>> {
        let binding = self.get(self.next);
        self.next += 1;
        binding
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
            flow: Flow::default(),
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
