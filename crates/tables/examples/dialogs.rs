//! What calls weigh: fills an arena with answered calls of the usual size, and prints bytes for each.
//!
//! `cargo run --release -p tables --example dialogs -- 100000`

use shm::{Arena, Layout, Participant, ParticipantId};
use stdx::Instant;
use tables::balancer::{Balancer, Resource, ResourceKey, ResourceKind};
use tables::dialog::{CountIn, Dialog, DialogId, Dialogs};

const NOW: Instant = Instant::from_nanos(1_000_000_000_000);

fn dialog(n: u32) -> Dialog {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&n.to_le_bytes());
    // A UUID as Call-ID, tags and Contacts as phones make them, a proxy before us and one behind.
    let call_id = format!("{n:08x}-8d2b-4b6e-9a43-5f0f5dbb7a11");
    let mut dialog = Dialog::new(DialogId(id), call_id.as_bytes(), b"9fxced76sl", NOW);
    dialog.origin = n.into();
    dialog.caller.uri = b"sip:alice@atlanta.example.com".to_vec();
    dialog.callee.uri = b"sip:+15551234567@biloxi.example.com".to_vec();
    dialog.request_uri = b"sip:+15551234567@biloxi.example.com;user=phone".to_vec();
    dialog.domain = b"biloxi.example.com".to_vec();
    dialog.caller.target = b"sip:alice@192.0.2.101:5060;transport=udp;ob".to_vec();
    dialog.caller.routes = b"<sip:192.0.2.20:5060;lr;ftag=9fxced76sl>".to_vec();
    dialog.answer_until = Some(NOW.into());
    dialog
}

fn answer(dialog: &mut Dialog) {
    dialog.callee.target = b"sip:15551234567@198.51.100.4:5060;transport=udp".to_vec();
    dialog.callee.routes = b"<sip:198.51.100.20:5060;lr;ftag=9fxced76sl>".to_vec();
    dialog.answer_until = None;
}

fn main() {
    let wanted: u32 = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(100_000);
    let mut layout = Layout::new(u64::from(wanted) * 2048 + (64 << 20), 1, 1, tables::TABLES);
    layout.rx_buffers = 4;
    layout.rx_buffer_bytes = 1024;
    let arena = Arena::heap(&layout, [7; 16]).expect("an arena");
    let mut participant: Participant = arena.participant(ParticipantId(0));
    participant.online();
    let before = arena.usage().bytes_used;
    let domain = ResourceKey::of(ResourceKind::Domain, b"biloxi.example.com");
    let resource = Balancer(&mut participant)
        .ensure(&domain, &Resource::default())
        .expect("room");
    let mut made = 0_u32;
    for n in 0..wanted {
        let count = CountIn {
            resource,
            limit: None,
        };
        let Ok(row) = Dialogs(&mut participant).create(dialog(n), &[count]) else {
            break;
        };
        Dialogs(&mut participant)
            .confirm(row, b"8321234356", NOW, answer)
            .expect("room");
        made += 1;
        participant.quiescent();
    }
    for _ in 0..8 {
        participant.quiescent();
    }
    let usage = arena.usage();
    let each = (usage.bytes_used - before) / u64::from(made.max(1));
    let table = usage
        .tables
        .get(usize::from(tables::DIALOG.0))
        .copied()
        .unwrap_or_default();
    println!(
        "{made} dialogs: {each} bytes of the arena each; in rows and bodies {}; counted {:?}",
        table.body_bytes / u64::from(made.max(1)),
        Balancer(&mut participant).live(resource),
    );
    let blocks: Vec<String> = usage
        .blocks
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(size, n)| format!("{n} of {size}"))
        .collect();
    println!("blocks: {}", blocks.join(", "));
}
