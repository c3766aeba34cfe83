//! What names that wait cost. Alone in its process, since it looks at the process's memory.

mod world;

use dns::Settings;
use world::*;

/// Resident memory of this process. Unit: bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").expect("a process has a status");
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kib.expect("RssAnon is in it") * 1024
}

/// `docs/settings.md` tells operators what a place in `dns.pending_max` may cost.
#[test]
fn a_name_that_waits_costs_two_kilobytes() {
    const NAMES: u32 = 5_000;
    // What is given back would be counted once only.
    let mut worlds = Vec::new();
    // One question, and two at once.
    for (families, most) in [(V4, 2048), (BOTH, 3072)] {
        let settings = Settings {
            pending_max: NAMES as usize,
            ..settings(2)
        };
        let mut world = World::new(settings, families);
        let before = resident();
        for n in 0..NAMES {
            world.resolve(n, &format!("proxy-{n}.voice.customer.example:5060"));
            // The bytes of the question are the kernel's from here on.
            world.out.sends.clear();
        }
        assert_eq!(world.resolver.pending(), NAMES as usize);
        let each = (resident() - before) / NAMES as usize;
        worlds.push(world);
        println!("{each} bytes for each name that waits, {families:?}");
        assert!(each < most, "{each} bytes for each name, {families:?}");
    }
}
