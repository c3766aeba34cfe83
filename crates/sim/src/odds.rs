//! What a seed decides about its world, and what the monitor is told of it.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use proxy::{Backup, Forking, Target};
use stdx::{Instant, Rng};

use crate::{
    names::Names, network::Network, policy::Policy, server::Spread, story::Telling, world::Config,
};

/// Where nothing but the server's own faults leads.
pub(crate) const VICTIM: &str = "10.66.0.1:5060";

/// What went wrong on purpose.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Kill {
        worker: u16,
    },
    /// At the nth point from now.
    Die {
        slot: u16,
        within: u32,
    },
    /// At a point by name.
    DieAt {
        slot: u16,
        point: &'static str,
        nth: u32,
    },
    Stall {
        slot: u16,
        time: Duration,
    },
    Cut {
        phone: usize,
        off: bool,
    },
    /// One of the server's own addresses is cut off.
    Part {
        listener: usize,
        off: bool,
    },
    Jump {
        by: Duration,
    },
    /// A message comes that is the death of whoever serves it.
    Poison {
        number: usize,
    },
}

/// Points that a worker dies at by name; those of the arena's operations besides where they are compiled in.
const POINTS: [&str; 15] = [
    "takeover.recovered",
    "takeover.adopted",
    "takeover.settled",
    "takeover.replayed",
    "worker.begun",
    "sim.stepped",
    "sim.answered",
    "worker.settled",
    "sim.passed",
    "worker.served",
    "sim.sending",
    "worker.submitted",
    "worker.done",
    "worker.given_back",
    "sim.tick_settled",
];

/// A point, drawn.
pub(crate) fn any_point(rng: &mut Rng) -> &'static str {
    #[cfg(feature = "failpoints")]
    if rng.below(2) == 0 {
        let names = failpoint::NAMES.iter();
        let inner: Vec<&'static str> = names
            .copied()
            .filter(|name| name.starts_with("shm.") && !name.contains(".broken."))
            .collect();
        return inner[rng.below(inner.len() as u32) as usize];
    }
    POINTS[rng.below(POINTS.len() as u32) as usize]
}

/// What the monitor knows of who can be reached where, and how the server is to go about it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) forking: Forking,
    /// Redirections are followed.
    pub(crate) recurses: bool,
    /// Preferences of addresses that are targets of one and the same user.
    pub(crate) q: HashMap<SocketAddr, u16>,
    /// Users, and every address that has to be tried before a call to them may fail.
    pub(crate) ways: HashMap<String, Vec<SocketAddr>>,
    /// Addresses that are the last choice as long as they are known to be dead.
    pub(crate) dead: HashSet<SocketAddr>,
    /// Names are answered at once, and rightly.
    pub(crate) names_are_good: bool,
}

/// What the seed decides about the world.
pub(crate) fn config(rng: &mut Rng, telling: Telling, users: u32) -> (Config, Facts) {
    let mut config = Config {
        workers: 1 + rng.below(3) as u16,
        reactors: 1 + rng.below(2) as u16,
        spread: [Spread::Flow, Spread::Datagram][rng.below(2) as usize],
        ..Config::default()
    };
    config.settings.timer_c = Duration::from_secs([40, 70, 190][rng.below(3) as usize]);
    config.settings.forking = forking(rng);
    let recurses = rng.below(3) == 0;
    for domain in &mut config.settings.domains {
        domain.recurse = recurses;
    }
    let loss = [0, 20, 100, 100][rng.below(4) as usize];
    config.network = Network {
        delay_min: Duration::from_micros(200),
        delay_max: Duration::from_millis([2, 20, 60][rng.below(3) as usize]),
        loss: telling.loss.unwrap_or(loss),
        duplicates: [0, 30][rng.below(2) as usize],
        late: [0, 10][rng.below(2) as usize],
        late_by: Duration::from_millis(1500),
        ..Network::default()
    };
    if rng.below(3) == 0 {
        config.heir_after = Duration::from_millis(rng.below(1500).into());
    }
    let mut facts = Facts {
        forking: config.settings.forking.clone(),
        recurses,
        ..Facts::default()
    };
    let mut policy = Policy {
        digest: rng.below(4) == 0,
        known: (0..users)
            .map(|n| format!("u{n}"))
            .chain(["gw1".to_owned(), "gw2".to_owned()])
            .collect(),
        ..Policy::default()
    };
    if rng.below(3) == 0 {
        policy.late = rng.below(900);
        policy.late_by = Duration::from_millis([50, 3000][rng.below(2) as usize]);
        policy.never = rng.below(60);
        policy.deadline = Duration::from_secs(5);
        policy.twice = rng.below(200);
    }
    places(rng, &mut config.network, &mut policy, &mut facts);
    config.policy = policy;
    (config, facts)
}

fn forking(rng: &mut Rng) -> Forking {
    Forking {
        by_q: rng.below(5) > 0,
        serial_timeout: Duration::from_secs([3, 8, 20][rng.below(3) as usize]),
        hop_timeout: Duration::from_secs([1, 2, 4][rng.below(3) as usize]),
        failover_codes: [vec![503], vec![503, 500], vec![]][rng.below(3) as usize].clone(),
        ..Forking::default()
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Gateways, the names that lead to them past hops that are dead, and who is sent there.
fn places(rng: &mut Rng, network: &mut Network, policy: &mut Policy, facts: &mut Facts) {
    let gateways = [address("10.2.0.1:5060"), address("10.2.0.2:5060")];
    let silent = [address("10.3.0.1:5060"), address("10.3.0.2:5070")];
    let nowhere = [address("10.4.0.1:5060"), address("10.4.0.2:5070")];
    network.nowhere = nowhere.to_vec();
    facts.dead.extend(silent.iter().chain(&nowhere));
    let mut names = Names {
        forger: Some(address(VICTIM)),
        ..Names::default()
    };
    facts.names_are_good = rng.below(2) == 0;
    if !facts.names_are_good {
        names.late = rng.below(600);
        names.late_by = Duration::from_millis([300, 4000][rng.below(2) as usize]);
        names.silent = rng.below(300);
        names.wrong = rng.below(300);
        names.forged = rng.below(700);
    }
    let mut hosts = vec![
        ("gw1.far.example", vec![gateways[0]]),
        ("gw2.far.example", vec![gateways[1]]),
        ("dead.far.example", vec![silent[0]]),
        ("away.far.example", vec![nowhere[0]]),
    ];
    let mut trunk: Vec<SocketAddr> = silent.iter().chain(&nowhere).copied().collect();
    for at in (1..trunk.len()).rev() {
        trunk.swap(at, rng.below(at as u32 + 1) as usize);
    }
    trunk.truncate(1 + rng.below(3) as usize);
    trunk.push(gateways[0]);
    hosts.push(("trunk.far.example", trunk.clone()));
    for (name, to) in hosts {
        names.hosts.insert(name.to_owned(), to);
    }
    policy.names = names;
    let uri = |name: &str| format!("sip:x@{name}").into_bytes();
    // Two gateways, of equal preference or not.
    let q = [1000, [1000, 500][rng.below(2) as usize]];
    let team = [("gw1.far.example", q[0]), ("gw2.far.example", q[1])];
    let of = |(name, q): (&str, u16)| Target {
        q,
        ..Target::uri(uri(name))
    };
    policy
        .targets
        .insert("team".to_owned(), team.map(of).to_vec());
    facts.q.extend([(gateways[0], q[0]), (gateways[1], q[1])]);
    facts.ways.insert("team".to_owned(), gateways.to_vec());
    let gate = Target::uri(uri("gw1.far.example"));
    policy.targets.insert("gate".to_owned(), vec![gate]);
    // One name, and hops before the last that nobody answers at.
    let target = Target::uri(uri("trunk.far.example"));
    policy.targets.insert("trunk".to_owned(), vec![target]);
    facts.ways.insert("trunk".to_owned(), trunk);
    // Destinations of a group, the first of them dead.
    let first = [
        ("dead.far.example", silent[0]),
        ("away.far.example", nowhere[0]),
    ];
    let (name, dead) = first[rng.below(2) as usize];
    let pair = Target {
        backups: vec![Backup::uri(uri("gw2.far.example"))],
        ..Target::next_hop(uri(name))
    };
    policy.targets.insert("pair".to_owned(), vec![pair]);
    facts
        .ways
        .insert("pair".to_owned(), vec![dead, gateways[1]]);
}

/// Deaths, standstills, partitions, jumps of the clock, poison: when, and what. `slots`, `workers`, `phones`: how many there are.
pub(crate) fn faults(
    rng: &mut Rng,
    span: Duration,
    begun: Instant,
    (slots, workers, phones): (u16, u16, usize),
) -> Vec<(Instant, Fault)> {
    let within = u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
    let at = |rng: &mut Rng| begun + Duration::from_millis(rng.below(within).into());
    let mut faults = Vec::new();
    let deaths = if rng.below(5) == 0 { 0 } else { rng.below(12) };
    for _ in 0..deaths {
        let slot = rng.below(slots.into()) as u16;
        let fault = match rng.below(6) {
            0 | 1 => Fault::Kill {
                worker: rng.below(workers.into()) as u16,
            },
            2 | 3 => Fault::DieAt {
                slot,
                point: any_point(rng),
                nth: 1 + rng.below(4),
            },
            dice => Fault::Die {
                slot,
                within: 1 + rng.below([20, 300][dice as usize % 2]),
            },
        };
        faults.push((at(rng), fault));
    }
    for _ in 0..rng.below(3) {
        let slot = rng.below(slots.into()) as u16;
        let time = Duration::from_millis(rng.below(2500).into());
        faults.push((at(rng), Fault::Stall { slot, time }));
    }
    if rng.below(8) == 0 {
        let by = Duration::from_millis(rng.below(40_000).into());
        faults.push((at(rng), Fault::Jump { by }));
    }
    if rng.below(4) == 0 {
        let phone = rng.below(phones as u32) as usize;
        let (from, to) = (at(rng), at(rng));
        faults.push((from.min(to), Fault::Cut { phone, off: true }));
        faults.push((from.max(to), Fault::Cut { phone, off: false }));
    }
    if rng.below(8) == 0 {
        let listener = rng.below(2) as usize;
        let from = at(rng);
        let to = from + Duration::from_millis(rng.below(12_000).into());
        let off = true;
        faults.push((from, Fault::Part { listener, off }));
        faults.push((
            to,
            Fault::Part {
                listener,
                off: !off,
            },
        ));
    }
    if rng.below(4) == 0 {
        let number = rng.below(1000) as usize;
        for _ in 0..3 + rng.below(4) {
            faults.push((at(rng), Fault::Poison { number }));
        }
    }
    faults
}
