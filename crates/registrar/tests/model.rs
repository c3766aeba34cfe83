//! The registrar against a naive model: contacts that are the same only if their text is.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use registrar::{BINDINGS_MAX, BindingSet, BindingsView, Policy, register};
use sip::Layout;
use stdx::Instant;

#[derive(Clone, Debug)]
enum Contacts {
    Star,
    List(Vec<(u8, Option<u32>)>),
}

#[derive(Clone, Debug)]
struct Step {
    wait: u64,
    call_id: u8,
    cseq: u32,
    expires: Option<u32>,
    contacts: Contacts,
}

#[derive(Clone, Debug, PartialEq)]
struct Bound {
    expires_at: u64,
    call_id: u8,
    cseq: u32,
}

type Model = BTreeMap<u8, Bound>;

const MIN: u32 = 60;
const MAX: u32 = 1000;
const DEFAULT: u32 = 300;

/// §10.3, word by word.
fn model(before: &Model, now: u64, limit: usize, step: &Step) -> (u16, Model) {
    let mut before = before.clone();
    before.retain(|_, bound| bound.expires_at > now);
    let is_old = |bound: &Bound| bound.call_id == step.call_id && step.cseq < bound.cseq;
    let is_again = |bound: &Bound| bound.call_id == step.call_id && step.cseq == bound.cseq;
    let contacts = match &step.contacts {
        Contacts::Star if step.expires != Some(0) => return (400, before),
        Contacts::Star if before.values().any(is_old) => return (500, before),
        Contacts::Star if before.values().any(is_again) => return (200, before),
        Contacts::Star => return (200, Model::new()),
        Contacts::List(contacts) => contacts,
    };
    let mut after = before.clone();
    for (contact, expires) in contacts {
        let expires = expires.or(step.expires).unwrap_or(DEFAULT);
        if 0 < expires && expires < MIN {
            return (423, before);
        }
        match before.get(contact) {
            Some(bound) if is_old(bound) => return (500, before),
            Some(bound) if is_again(bound) => continue,
            _ => {}
        }
        after.remove(contact);
        if expires > 0 {
            let expires_at = now + u64::from(expires.min(MAX));
            after.insert(
                *contact,
                Bound {
                    expires_at,
                    call_id: step.call_id,
                    cseq: step.cseq,
                },
            );
        }
    }
    if after.len() > limit && after.len() > before.len() {
        (503, before)
    } else {
        (200, after)
    }
}

fn text(step: &Step) -> String {
    let mut text = format!(
        "REGISTER sip:a SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@a>;tag=1\r\nTo: <sip:a@a>\r\n\
         Call-ID: c{}\r\nCSeq: {} REGISTER\r\n",
        step.call_id, step.cseq
    );
    if let Some(expires) = step.expires {
        text += &format!("Expires: {expires}\r\n");
    }
    match &step.contacts {
        Contacts::Star => text += "Contact: *\r\n",
        Contacts::List(contacts) => {
            for (contact, expires) in contacts {
                let expires =
                    expires.map_or(String::new(), |seconds| format!(";expires={seconds}"));
                text += &format!("Contact: <sip:a@h{contact}>{expires}\r\n");
            }
        }
    }
    text + "Content-Length: 0\r\n\r\n"
}

fn step() -> impl Strategy<Value = Step> {
    let expires = || prop_oneof![4 => Just(None), 2 => Just(Some(0)), 1 => Just(Some(30)), 4 => (60..2000u32).prop_map(Some)];
    let contacts = prop_oneof![
        1 => Just(Contacts::Star),
        8 => prop::collection::vec((0..6u8, expires()), 0..4).prop_map(Contacts::List),
    ];
    (0..400u64, 0..2u8, 1..6u32, expires(), contacts).prop_map(
        |(wait, call_id, cseq, expires, contacts)| Step {
            wait,
            call_id,
            cseq,
            expires,
            contacts,
        },
    )
}

fn model_of(set: &BindingSet) -> Model {
    let bound = |binding: &registrar::Binding| {
        let contact: u8 = std::str::from_utf8(&binding.contact)
            .unwrap()
            .strip_prefix("sip:a@h")
            .unwrap()
            .parse()
            .unwrap();
        let call_id = std::str::from_utf8(&binding.call_id).unwrap()[1..]
            .parse()
            .unwrap();
        let expires_at = binding.expires_at.as_nanos() / 1_000_000_000;
        (
            contact,
            Bound {
                expires_at,
                call_id,
                cseq: binding.cseq,
            },
        )
    };
    set.bindings().iter().map(bound).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn agrees_with_the_model(limit in 1..6usize, steps in prop::collection::vec(step(), 1..25)) {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let policy = Policy {
            expires_default: seconds(DEFAULT),
            expires_min: seconds(MIN),
            expires_max: seconds(MAX),
            bindings_max: limit,
            ..Policy::default()
        };
        let mut now = 1000;
        let mut set = BindingSet::new();
        let mut expected = Model::new();
        for step in steps {
            now += step.wait;
            let text = text(&step);
            let mut layout = Layout::new();
            let message = sip::parse(text.as_bytes(), &mut layout).unwrap();
            let instant = Instant::from_nanos(now * 1_000_000_000);
            let mut before = Vec::new();
            set.encode(&mut before);
            let before = BindingsView::new(&before).unwrap();
            let mut next = Vec::new();
            let source = "192.0.2.1:5060".parse().unwrap();
            let outcome = register(&policy, instant, &before, &message, source, 0, &mut next);
            let (code, after) = model(&expected, now, limit, &step);
            prop_assert_eq!(outcome.reply.code(), code, "{}", text);
            let bindings = outcome.bindings(&before, &next);
            let mut now_set = BindingSet::of(&bindings);
            now_set.remove(|binding| !binding.is_current(instant));
            prop_assert_eq!(model_of(&now_set), after.clone(), "{}", text);
            prop_assert!(now_set.len() == after.len() && after.len() <= BINDINGS_MAX);
            // What is said to be unchanged is unchanged, but for expired bindings.
            let kept: Vec<_> = set.current(instant).cloned().collect();
            prop_assert_eq!(outcome.changed, kept != now_set.bindings());
            prop_assert_eq!(bindings.current(instant).count(), after.len());
            if outcome.changed {
                prop_assert_eq!(BindingSet::decode(&next), Ok(now_set.clone()));
            }
            set = now_set;
            expected = after;
        }
    }
}
