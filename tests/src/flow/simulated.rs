//! The stage of simulated time: each server a world of its own (`sim`) over an arena on the heap, with the router and the settings that a
//! worker makes of the same configuration. Between servers and parties a datagram takes a millisecond; nothing waits for real.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sim::{Aim, Policy, Spread, World};
use stdx::hash::Key;
use worker::rules::Rules;

use super::engine::{Datagram, Stage};
use super::place::{complete, placed};
use super::syntax::{Flow, Pass, Proxy};

/// What the worlds go on by, one after another.
const TICK: Duration = Duration::from_millis(1);

/// How long what comes at once may take: shorter than T1, so that a retransmission is not taken for an answer.
const PATIENCE: Duration = Duration::from_millis(400);

const LISTENER: u32 = 1;

/// A server.
struct Place {
    proxy: Proxy,
    address: SocketAddr,
    world: World,
    /// Where it will die, while it serves what.
    deaths: Vec<(&'static str, String)>,
}

pub struct Simulated {
    places: Vec<Place>,
    addresses: HashMap<String, SocketAddr>,
    ready: VecDeque<Datagram>,
    now: Duration,
}

impl Simulated {
    /// Sets up all servers of a flow.
    pub fn start(flow: &Flow, pass: Pass) -> Self {
        let next = Cell::new(0);
        let address = |_: &str| -> SocketAddr {
            let n = next.get() + 1;
            next.set(n);
            // Of a network that anybody may know: an address that means nothing elsewhere would be mended, or hidden for that alone.
            let port = match pass {
                Pass::Plain => 5060,
                _ => 50_600 + u16::from(n),
            };
            ([198, 51, 100, n], port).into()
        };
        let parties = flow.parties.iter().map(|party| &party.name);
        let names = parties.chain(flow.proxies.iter().map(|proxy| &proxy.name));
        let addresses: HashMap<String, SocketAddr> =
            names.map(|name| (name.clone(), address(name))).collect();
        let places = flow
            .proxies
            .iter()
            .map(|proxy| Place::new(proxy, &addresses));
        Self {
            places: places.collect(),
            addresses,
            ready: VecDeque::new(),
            now: Duration::ZERO,
        }
    }

    fn place(&mut self, name: &str) -> &mut Place {
        let found = self
            .places
            .iter_mut()
            .find(|place| place.proxy.name == name);
        found.expect("the parser knows every name")
    }

    /// One datagram on its way: to a server, or to a party, who has it at once.
    fn carry(&mut self, datagram: Datagram) {
        let place = self
            .places
            .iter_mut()
            .find(|place| place.address == datagram.to);
        if let Some(place) = place {
            place.take(&datagram);
        }
        // Between servers it is seen as well.
        self.ready.push_back(datagram);
    }

    fn tick(&mut self) {
        self.now += TICK;
        let all: Vec<SocketAddr> = self.addresses.values().copied().collect();
        let mut came = Vec::new();
        for place in &mut self.places {
            place.world.pass(TICK);
            for &to in &all {
                let peer = place.world.peer(to);
                while let Some((_, packet)) = place.world.receive(peer) {
                    came.push(Datagram {
                        from: packet.from,
                        to,
                        bytes: packet.bytes.to_vec(),
                    });
                }
            }
        }
        came.into_iter().for_each(|datagram| self.carry(datagram));
    }
}

impl Place {
    fn new(proxy: &Proxy, addresses: &HashMap<String, SocketAddr>) -> Self {
        let address = addresses[&proxy.name];
        let text = complete(&placed(&proxy.config, addresses), 1)
            .replace("{ip}", &address.ip().to_string())
            .replace("{port}", &address.port().to_string());
        let (config, _) = config::load(&text, &proxy.name).unwrap_or_else(|problems| {
            panic!("the configuration of {}: {problems:#?}\n{text}", proxy.name)
        });
        let rules = Rules::new(
            Arc::new(config),
            &HashMap::from([(LISTENER, address)]),
            Key([9; 16]),
        );
        let settings = rules.settings().clone();
        let deaths: Vec<(&'static str, String)> =
            proxy.failpoints.iter().map(|plan| aim(plan)).collect();
        let mut world = World::new(
            1,
            sim::Config {
                // Who is to die at a point is known if there is only one.
                workers: if deaths.is_empty() { 2 } else { 1 },
                settings,
                policy: Policy::by(move |kind, question| rules.answer(kind, question)),
                spread: Spread::Datagram,
                ..sim::Config::default()
            },
        );
        for &other in addresses.values() {
            world.peer(other);
        }
        Self {
            proxy: proxy.clone(),
            address,
            world,
            deaths,
        }
    }

    fn take(&mut self, datagram: &Datagram) {
        let text = String::from_utf8_lossy(&datagram.bytes);
        if let Some(n) = self
            .deaths
            .iter()
            .position(|(_, part)| text.contains(part.as_str()))
        {
            let (point, _) = self.deaths.remove(n);
            self.world.kill_at(0, Aim::At(point, 1));
        }
        let from = self.world.peer(datagram.from);
        self.world.send(from, datagram.to, &datagram.bytes);
    }
}

/// The point and the text of a failpoint's plan.
fn aim(plan: &str) -> (&'static str, String) {
    let (point, condition) = plan.split_once('=').unwrap_or((plan, ""));
    let text = condition.split_once("-if:").map_or("", |(_, text)| text);
    let point = failpoint::NAMES.iter().find(|name| **name == point);
    (
        point.copied().expect("the parser knows every point"),
        text.to_owned(),
    )
}

impl Stage for Simulated {
    fn address(&self, name: &str) -> SocketAddr {
        self.addresses[name]
    }

    fn now(&self) -> Duration {
        self.now
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    fn send(&mut self, party: &str, to: SocketAddr, bytes: &[u8]) {
        let from = self.addresses[party];
        self.carry(Datagram {
            from,
            to,
            bytes: bytes.to_vec(),
        });
    }

    fn receive(&mut self, limit: Duration) -> Option<Datagram> {
        let end = self.now + limit;
        loop {
            if let Some(datagram) = self.ready.pop_front() {
                return Some(datagram);
            }
            if self.now >= end {
                return None;
            }
            self.tick();
        }
    }

    fn kill(&mut self, proxy: &str, slot: Option<u64>) -> Result<(), String> {
        let place = self.place(proxy);
        for worker in 0..place.world.workers() {
            // A slot each.
            if slot.is_none_or(|slot| slot == u64::from(worker)) {
                place.world.kill(worker);
            }
        }
        Ok(())
    }

    fn forget(&mut self, proxy: &str) -> Result<(), String> {
        let addresses = self.addresses.clone();
        let place = self.place(proxy);
        *place = Place::new(&place.proxy, &addresses);
        Ok(())
    }

    fn number(&mut self, proxy: &str, of: &str) -> Result<u64, String> {
        let world = &mut self.place(proxy).world;
        let table = match of {
            "registrations" => tables::LOCATION,
            "dialogs" => tables::DIALOG,
            "transactions" => tables::TRANSACTION,
            _ => {
                let counters = tables::Counter::ALL.iter();
                let found = counters.copied().find(|counter| counter.name() == of);
                return found
                    .map(|counter| world.counter(counter))
                    .ok_or_else(|| format!("neither a table nor a counter: {of}"));
            }
        };
        Ok(world.arena().live_rows(table))
    }

    fn exact(&self) -> bool {
        true
    }

    fn run(&mut self, _: &str, _: &[String]) -> Result<(), String> {
        Err("there is no command line in simulated time".to_owned())
    }
}
