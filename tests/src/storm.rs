//! Killing workers under load, and how long the heir takes to serve.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::machine::wait_dead;
use crate::server::{LIMIT, Server};
use crate::ua::{Ua, answers};

/// For every slot one UDP flow that ends in it, found by watching which slot's message count moves.
pub struct Flows {
    flows: Vec<(u64, Ua)>,
}

impl Flows {
    /// Opens sockets until each slot has a flow. No other traffic may run meanwhile.
    #[track_caller]
    pub fn find(server: &Server) -> Self {
        let slots = slot_messages(server);
        let mut flows: Vec<(u64, Ua)> = Vec::new();
        let mut tried = Vec::new();
        for _ in 0..400 {
            if flows.len() == slots.len() {
                return Self { flows };
            }
            let ua = server.ua("probe");
            let before = slot_messages(server);
            for _ in 0..5 {
                let answer = ua.ask(&ua.request("OPTIONS", &format!("sip:{}", server.address())));
                assert!(answer.status() < 500, "OPTIONS: {}", answer.start);
            }
            let after = slot_messages(server);
            let moved = after
                .iter()
                .zip(&before)
                .max_by_key(|(a, b)| a.1.saturating_sub(b.1));
            match moved {
                Some((after, before))
                    if after.1 >= before.1 + 5 && flows.iter().all(|f| f.0 != after.0) =>
                {
                    flows.push((after.0, ua));
                }
                // Kept open, so that the next socket gets another port.
                _ => tried.push(ua),
            }
        }
        panic!("only {} of {} slots get messages", flows.len(), slots.len());
    }

    pub fn of_slot(&self, slot: u64) -> &Ua {
        &self
            .flows
            .iter()
            .find(|f| f.0 == slot)
            .expect("every slot has a flow")
            .1
    }
}

/// Messages by slot, in the order of the status. Counts are of what each slot has served.
fn slot_messages(server: &Server) -> Vec<(u64, u64)> {
    let status = server.status();
    let rows = status["slots"].as_array().cloned().unwrap_or_default();
    rows.iter()
        .filter_map(|s| Some((s["id"].as_u64()?, s["messages"].as_u64()?)))
        .collect()
}

/// Kills the worker that holds `slot` and gives the time from the `kill` to the first answer on the
/// slot's flow. The question is asked only once the process is dead, so the answer is the heir's; it is
/// asked again only if none comes for a second, which [`Deaths::lost`] then counts.
#[track_caller]
pub fn kill_and_time(server: &Server, flows: &Flows, pid: i32, slot: u64, deaths: &mut Deaths) {
    let ua = flows.of_slot(slot);
    ua.peer.drain();
    let start = Instant::now();
    server.kill_worker(pid);
    wait_dead(pid, LIMIT);
    loop {
        let request = ua.request("OPTIONS", &format!("sip:{}", server.address()));
        ua.send(&request);
        let end = Instant::now() + Duration::from_secs(1);
        while let Some((m, _)) = ua
            .peer
            .receive(end.saturating_duration_since(Instant::now()))
        {
            if answers(&m, &request) {
                deaths.times.push(start.elapsed());
                return;
            }
        }
        deaths.lost += 1;
        assert!(
            start.elapsed() < LIMIT,
            "slot {slot} is not served again\n{}",
            server.log()
        );
    }
}

/// Death to first message served, over a storm.
#[derive(Clone, Debug, Default)]
pub struct Deaths {
    pub times: Vec<Duration>,
    /// Questions that were never answered.
    pub lost: u64,
}

impl Deaths {
    fn sorted(&self) -> Vec<Duration> {
        let mut sorted = self.times.clone();
        sorted.sort_unstable();
        sorted
    }

    pub fn median(&self) -> Duration {
        let sorted = self.sorted();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    /// The time that so many of a hundred deaths took at most.
    pub fn percentile(&self, of_hundred: usize) -> Duration {
        let sorted = self.sorted();
        let nth = (sorted.len() * of_hundred).div_ceil(100).max(1) - 1;
        sorted.get(nth).copied().unwrap_or_default()
    }

    pub fn worst(&self) -> Duration {
        self.times.iter().max().copied().unwrap_or_default()
    }
}

impl fmt::Display for Deaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} deaths; kill to first message served: best {:?}, median {:?}, worst {:?}; {} questions unanswered",
            self.times.len(),
            self.times.iter().min().copied().unwrap_or_default(),
            self.median(),
            self.worst(),
            self.lost
        )
    }
}

/// A small seeded generator (xorshift64*), so that a storm's choices can be repeated: `TANDEM_SEED`.
pub struct Dice(u64);

impl Dice {
    /// Seeded from `TANDEM_SEED`, else from the clock; prints the seed.
    pub fn from_environment(what: &str) -> Self {
        let given = std::env::var("TANDEM_SEED")
            .ok()
            .and_then(|s| s.parse().ok());
        let clock = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let seed = given.unwrap_or_else(|| u64::from(clock.subsec_nanos()) | 1);
        println!("{what}: replay with TANDEM_SEED={seed}");
        Self(seed.max(1))
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap_or(0) % n.max(1)
    }
}

/// The address that load comes from, beside the server's own.
pub const LOAD: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_in_figures() {
        let d = Deaths {
            times: [5, 1, 9].map(Duration::from_millis).to_vec(),
            lost: 0,
        };
        assert_eq!(
            (d.median(), d.worst()),
            (Duration::from_millis(5), Duration::from_millis(9))
        );
        assert_eq!(d.percentile(34), Duration::from_millis(5));
        assert_eq!(d.percentile(99), Duration::from_millis(9));
        assert!(d.to_string().starts_with("3 deaths"));
        assert_eq!(Deaths::default().worst(), Duration::ZERO);
    }

    #[test]
    fn dice_stay_below() {
        let mut dice = Dice(7);
        assert!((0..1000).all(|_| dice.below(3) < 3));
        assert!((0..100).map(|_| dice.below(3)).any(|n| n == 2));
    }
}
