//! Instruction counts of the way a message takes through this crate.
//!
//! `cargo bench -p sip` needs valgrind and the `gungraun-runner` of the same version as the library.

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group, main};
use sip::{HeaderName, Layout, Patch, PatchSpace};

const OPTIONS: &[u8] = include_bytes!("../../../tests/torture/typical/options.sip");
const INVITE: &[u8] = include_bytes!("../../../tests/torture/typical/invite.sip");
const REGISTER: &[u8] = include_bytes!("../../../tests/torture/typical/register.sip");

fn with_layout(bytes: &'static [u8]) -> (&'static [u8], Box<Layout>) {
    let mut layout = Box::new(Layout::new());
    // Not the first message: the tables are in the cache and memchr knows its machine.
    let _ = layout.read(bytes);
    (bytes, layout)
}

// Bytes to a table of spans.
#[library_benchmark(setup = with_layout)]
#[bench::options(OPTIONS)]
#[bench::invite(INVITE)]
#[bench::register(REGISTER)]
fn parse((bytes, mut layout): (&'static [u8], Box<Layout>)) -> (bool, Box<Layout>) {
    let parsed = black_box(sip::parse(black_box(bytes), &mut layout)).is_ok();
    (parsed, layout)
}

// The typed views that every message is asked for.
#[library_benchmark(setup = with_layout)]
#[bench::invite(INVITE)]
fn essentials((bytes, layout): (&'static [u8], Box<Layout>)) -> (bool, Box<Layout>) {
    let read = layout
        .message(bytes)
        .is_some_and(|m| black_box(m.essentials()).is_ok());
    (read, layout)
}

type Forward = (&'static [u8], Box<Layout>, PatchSpace, Vec<u8>);

fn to_forward(bytes: &'static [u8]) -> Forward {
    let (bytes, layout) = with_layout(bytes);
    let (space, out) = (PatchSpace::default(), Vec::with_capacity(2048));
    let (space, mut out) = forward_once(bytes, &layout, space, out);
    out.clear();
    (bytes, layout, space, out)
}

fn forward_once(
    bytes: &[u8],
    layout: &Layout,
    space: PatchSpace,
    mut out: Vec<u8>,
) -> (PatchSpace, Vec<u8>) {
    let Some(message) = layout.message(bytes) else {
        return (space, out);
    };
    let mut patch = Patch::reusing(message, space);
    let edited = patch
        .set_request_uri(b"sip:bob@198.51.100.4:5060")
        .and_then(|()| patch.remove_first_value(HeaderName::Route).map(drop))
        .and_then(|()| patch.set(HeaderName::MaxForwards, b"69"))
        .and_then(|()| patch.push_top(HeaderName::RecordRoute, b"<sip:192.0.2.1;lr>"))
        .and_then(|()| {
            patch.push_top(
                HeaderName::Via,
                b"SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK77ef4c2312983.1",
            )
        });
    if black_box(edited).is_ok() {
        patch.write(&mut out);
    }
    (patch.into_space(), out)
}

// Five edits of a forwarded INVITE (§16.6) and writing it out.
#[library_benchmark(setup = to_forward)]
#[bench::invite(INVITE)]
fn forward((bytes, layout, space, out): Forward) -> (PatchSpace, Vec<u8>, Box<Layout>) {
    let (space, out) = forward_once(black_box(bytes), &layout, space, out);
    (space, out, layout)
}

// A response to it (§8.2.6).
#[library_benchmark(setup = to_forward)]
#[bench::trying(INVITE)]
fn respond((bytes, layout, space, mut out): Forward) -> (PatchSpace, Vec<u8>, Box<Layout>) {
    if let Some(message) = layout.message(bytes) {
        let _ = black_box(
            sip::build::response(message, 486, "", Some(b"8321234356"), &mut out).finish(),
        );
    }
    (space, out, layout)
}

library_benchmark_group!(
    name = message,
    benchmarks = [parse, essentials, forward, respond]
);
main!(library_benchmark_groups = message);
