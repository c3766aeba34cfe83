//! A seeded world around the proxy: the same `proxy`, `transaction`, `registrar`, `tables` and `shm` code that workers run, over one real arena,
//! with a network, a clock, answers and deaths that a seed decides about.
//!
//! ```
//! use sim::{Aim, Config, World};
//!
//! let mut world = World::new(7, Config::default());
//! let alice = world.peer("10.0.0.1:5060".parse().unwrap());
//! let proxy = world.settings().listeners[0].address;
//! world.kill_at(0, Aim::At("worker.settled", 1));      // in the midst of it
//! world.send(alice, proxy, b"OPTIONS sip:example.org SIP/2.0\r\n\
//!     Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n\
//!     From: <sip:alice@example.org>;tag=1\r\nTo: <sip:example.org>\r\n\
//!     Call-ID: 1\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n");
//! world.pass(std::time::Duration::from_secs(1));
//! let (_at, answer) = world.receive(alice).unwrap();
//! assert!(answer.bytes.starts_with(b"SIP/2.0 200 "));
//! ```
//!
//! - [`World`]: the clock and the queue of what is to happen. Peers are addresses whose datagrams the caller sends and receives: a scenario
//!   by [`World::run_until`] and [`World::receive`], a program by [`World::step`].
//! - [`Config`], [`Network`], [`Policy`]: what the world is made of, and what can be changed on the way.
//! - `slot`: the crate `slot` over a kernel that the world plays; `server`: workers, their deaths and heirs; [`Aim`]: where one dies.
//!
//! One seed is one world to the last datagram, on every machine. With the feature `failpoints` workers also die in the midst of the arena's
//! operations. `docs/testing.md` says how to run many seeds, and one again.

#![forbid(unsafe_code)]

mod death;
mod hostile;
mod ladder;
mod monitor;
mod names;
mod network;
mod odds;
mod phone;
mod policy;
mod server;
mod slot;
mod story;
mod text;
mod world;

pub use death::Aim;
#[cfg(feature = "failpoints")]
pub use death::set_mutant;
pub use names::Names;
pub use network::{Network, Packet};
pub use policy::{Policy, password};
pub use server::Spread;
pub use story::{Outcome, Telling, tell};
pub use world::{Config, Happening, Note, PeerId, World};
