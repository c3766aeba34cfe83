//! A `location` table of any size, for `cargo xtask bench --bindings`: fills an arena, then looks bindings up and refreshes them in random order.
//!
//! Orders come on stdin, `lookup N` or `refresh N`; each is answered with a line of the nanoseconds that it took, so that whoever counts
//! instructions can count those of one order alone. The first line says what the table weighs.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant as Clock};

use registrar::{Binding, BindingSet};
use shm::{Arena, Layout, Participant, ParticipantId};
use stdx::{Instant, Rng};
use tables::Location;

const NOW: Instant = Instant::from_nanos(1_000_000_000_000);
/// What an operator is asked to plan with, and what is checked here: a contact of 120 bytes, a UUID as Call-ID.
const CONTACT_BYTES: usize = 120;
/// Room for each binding: what one needs, with the index and the fixed regions.
const LIMIT_PER_BINDING: u64 = 440;

fn main() {
    let mut args = std::env::args().skip(1);
    let users: u32 = args
        .next()
        .and_then(|text| text.parse().ok())
        .expect("how many bindings");
    let mut layout = Layout::new(
        (u64::from(users) * LIMIT_PER_BINDING).clamp(64 << 20, 8 << 30),
        1,
        1,
        tables::TABLES,
    );
    layout.rx_buffers = 4;
    layout.rx_buffer_bytes = 1024;
    let arena = Arena::heap(&layout, [7; 16]).expect("an arena");
    let mut participant = arena.participant(ParticipantId(0));
    participant.online();
    let began = Clock::now();
    let mut text = Text::default();
    let mut filled = 0;
    for user in 0..users {
        if !text.refresh(&mut participant, user, 1) {
            break;
        }
        filled = user + 1;
        if user % 64 == 0 {
            participant.quiescent();
        }
    }
    participant.quiescent();
    let (took, usage) = (began.elapsed(), arena.usage());
    let binding = |bytes: u64| bytes / u64::from(filled.max(1));
    let blocks: Vec<String> = usage
        .blocks
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(size, n)| format!("{n} of {size}"))
        .collect();
    println!(
        "{filled} {} {} {} limit {} MiB, fixed {} MiB, blocks {}",
        binding(usage.bytes_mapped),
        binding(usage.bytes_fixed),
        took.as_nanos() / u128::from(filled.max(1)),
        usage.limit >> 20,
        usage.bytes_fixed >> 20,
        blocks.join(", "),
    );
    let mut rng = Rng::new(1);
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("an order");
        let (order, times) = line.split_once(' ').expect("an order and a number");
        let times: u32 = times.parse().expect("a number");
        let began = Clock::now();
        let mut done = true;
        for nth in 0..times {
            let user = (rng.next_u64() % u64::from(filled)) as u32;
            done &= match order {
                "lookup" => text.lookup(&mut participant, user),
                _ => text.refresh(&mut participant, user, 2 + nth),
            };
            if nth % 8 == 0 {
                participant.quiescent();
            }
        }
        assert!(done, "every binding is there");
        println!("{}", began.elapsed().as_nanos());
        std::io::stdout().flush().expect("somebody reads");
    }
}

/// Where texts are written, so that the table is measured and not the allocator.
#[derive(Default)]
struct Text {
    aor: Vec<u8>,
    contact: Vec<u8>,
    call_id: Vec<u8>,
    body: Vec<u8>,
}

impl Text {
    fn name(&mut self, user: u32) {
        self.aor.clear();
        write!(self.aor, "sip:user{user:08}@example.com").expect("memory");
    }

    fn lookup(&mut self, participant: &mut Participant, user: u32) -> bool {
        self.name(user);
        let found = Location(participant).lookup(&self.aor, |bindings| {
            bindings.targets(NOW).map(|b| b.contact.len()).sum()
        });
        found == Some(CONTACT_BYTES)
    }

    /// What a REGISTER does once it has been read: looks at the set, writes the next one, swaps.
    fn refresh(&mut self, participant: &mut Participant, user: u32, cseq: u32) -> bool {
        self.name(user);
        self.contact.clear();
        write!(
            self.contact,
            "sip:user{user:08}@192.0.2.17:5060;transport=udp;ob;line="
        )
        .expect("memory");
        self.contact.resize(CONTACT_BYTES, b'x');
        self.call_id.clear();
        write!(self.call_id, "f81d4fae-7dec-11d0-a765-{user:012}").expect("memory");
        let mut set = BindingSet::new();
        set.push(Binding {
            contact: std::mem::take(&mut self.contact),
            q: 1000,
            expires_at: NOW + Duration::from_secs(3600 + u64::from(cseq)),
            call_id: std::mem::take(&mut self.call_id),
            cseq,
            path: Vec::new(),
            instance: None,
            reg_id: None,
            received: Some(([192, 0, 2, 17], 5060).into()),
            listener: 1,
            user_agent: b"Example Phone 4.2".to_vec(),
            updated_at: NOW,
            flow: registrar::Flow::default(),
        });
        let done = Location(participant).update(&self.aor, &mut self.body, |_, next| {
            set.encode(next);
            (true, ())
        });
        done.is_ok()
    }
}
