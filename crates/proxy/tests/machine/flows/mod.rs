//! Whole flows: what we send after each thing that we hear (RFC 3261 §16).

mod astray;
pub mod byes;
mod calls;
mod cancelling;
pub mod dialogs;
mod ending;
pub mod failover;
mod forking;
pub mod hidden;
mod late;
pub mod nat;
mod passes;
pub mod redirecting;
mod registering;
mod routing;
mod serial;

use expect_test::Expect;

use crate::world::World;

fn check(script: &str, expect: Expect) {
    check_in(&mut World::new(1), script, expect);
}

/// Afterwards nothing may be left of any transaction.
fn check_in(world: &mut World, script: &str, expect: Expect) {
    expect.assert_eq(&world.play(script));
    world.quiet();
}
