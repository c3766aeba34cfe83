//! The gate of a slot: judges each piece of new work while the slot is in distress.

use std::{net::IpAddr, time::Duration};

use stdx::{Instant, Rng};

use crate::{ALL, fair::Fair, part, sketch::Sketch, valve::Valve};

/// How often occupancy is looked at and shares are changed.
pub const WINDOW: Duration = Duration::from_millis(25);
/// Refusals may take this part of a window, a tenth, with all that belongs to them.
const REFUSING_MAX: u64 = WINDOW.as_nanos() as u64 / 10;
/// What a refusal costs, of what its making does: the request is read, the answer is sent, the ACK is read. Measured: 1.6 µs of some 7.
const REFUSAL_WHOLE: u32 = 4;
/// The kernel lets in at least this share of INVITEs.
const PASS_MIN: u32 = ALL / 64;
/// The filter is changed when it is off by more than an eighth.
const PASS_STEP: u32 = 8;
/// A window with fewer messages was not overload, however long they took: the machine was busy with others.
const MESSAGES_MIN: u32 = 16;
/// Windows in a second, for the limit of a source.
const SECOND: u32 = 40;

/// What an operator says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The occupancy that is aimed at, of [`ALL`]; `None`: everything is taken, whatever becomes of it.
    pub occupancy: Option<u32>,
    /// Pieces of new work that one source may begin in a second; `None`: no limit of its own.
    pub per_source: Option<u32>,
}

/// What becomes of a piece of new work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Take,
    /// Answer 503 with Retry-After, without a transaction.
    Refuse,
    /// Say nothing: there is no time left for answers.
    Drop,
}

/// What the kernel is to do with INVITEs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The share that passes, of [`ALL`].
    pub pass: u32,
    /// Whose INVITEs it is about; empty: everybody's.
    pub sources: Vec<IpAddr>,
}

/// The gate.
#[derive(Debug)]
pub struct Gate {
    policy: Policy,
    valve: Valve,
    fair: Fair,
    /// Counts sources over a second.
    sources: Sketch,
    sources_since: Instant,
    rng: Rng,
    since: Instant,
    windows: u32,
    idle: Duration,
    messages: u32,
    starved: bool,
    taken: u32,
    refused: u32,
    dropped: u32,
    refusing: Duration,
    /// Who was dropped in this window.
    loud: Loud,
    /// The share of INVITEs that the kernel lets in, as wanted and as told.
    pass: u32,
    told: Filter,
    told_at: u32,
}

impl Gate {
    pub fn new(policy: Policy, seed: u64, now: Instant) -> Self {
        let mut rng = Rng::new(!seed);
        Self {
            policy,
            valve: Valve::new(policy.occupancy.unwrap_or(ALL)),
            fair: Fair::new(seed),
            sources: Sketch::new(&mut rng),
            sources_since: now,
            rng,
            since: now,
            windows: 0,
            idle: Duration::ZERO,
            messages: 0,
            starved: false,
            taken: 0,
            refused: 0,
            dropped: 0,
            refusing: Duration::ZERO,
            loud: Loud::default(),
            pass: ALL,
            told: Filter {
                pass: ALL,
                sources: Vec::new(),
            },
            told_at: 0,
        }
    }

    /// Another policy; what was learnt stays where it can.
    pub fn configure(&mut self, policy: Policy) {
        if policy.occupancy != self.policy.occupancy {
            self.valve = Valve::new(policy.occupancy.unwrap_or(ALL));
        }
        self.policy = policy;
    }

    /// Whether pieces of new work have to be judged at all.
    pub fn judges(&self) -> bool {
        !self.is_open() || self.policy.per_source.is_some()
    }

    /// Whether all new work is taken.
    pub fn is_open(&self) -> bool {
        self.valve.is_open()
    }

    /// The share of new work that is taken, of [`ALL`].
    pub fn share(&self) -> u32 {
        self.valve.share()
    }

    /// The slot slept for so long.
    pub fn slept(&mut self, idle: Duration) {
        self.idle = self.idle.saturating_add(idle);
    }

    /// A message is served, of whatever kind.
    pub fn message(&mut self) {
        self.messages = self.messages.saturating_add(1);
    }

    /// Datagrams had to wait in a socket because all buffers were in use.
    pub fn starved(&mut self) {
        self.starved = true;
    }

    /// Judges a piece of new work from this source.
    pub fn judge(&mut self, source: IpAddr) -> Verdict {
        let name = &name_of(source);
        let over = self
            .policy
            .per_source
            .is_some_and(|limit| self.sources.count(name) > limit);
        if !over && (self.is_open() || self.fair.passes(name)) {
            self.taken = self.taken.saturating_add(1);
            return Verdict::Take;
        }
        if self.refusing.as_nanos() < u128::from(REFUSING_MAX) {
            self.refused = self.refused.saturating_add(1);
            Verdict::Refuse
        } else {
            self.dropped = self.dropped.saturating_add(1);
            self.loud.note(source);
            Verdict::Drop
        }
    }

    /// What was judged last, from this source, was a copy of something that is there: it does not count against the source's limit.
    pub fn was_copy(&mut self, source: IpAddr) {
        if self.policy.per_source.is_some() {
            self.sources.uncount(&name_of(source));
        }
    }

    /// To make a refusal took so long.
    pub fn refused(&mut self, took: Duration) {
        let whole = took.saturating_mul(REFUSAL_WHOLE);
        self.refusing = self.refusing.saturating_add(whole);
    }

    /// To be called each turn. Returns what the kernel is to do with INVITEs from now on, when that has changed.
    pub fn turn(&mut self, now: Instant) -> Option<&Filter> {
        let window = now.saturating_duration_since(self.since);
        if window < WINDOW {
            return None;
        }
        self.since = now;
        self.windows = self.windows.wrapping_add(1);
        // By the clock: a slot that idles has few windows, each much longer.
        if now.saturating_duration_since(self.sources_since) >= WINDOW * SECOND {
            self.sources_since = now;
            self.sources.redraw(&mut self.rng);
        }
        let mut times = 1;
        if self.policy.occupancy.is_some() {
            let busy = if self.messages < MESSAGES_MIN {
                0
            } else {
                busy(window, self.idle)
            };
            // A slot that idles looks in less often: a long window that was not full counts for all that it was.
            let windows = window.as_nanos() / WINDOW.as_nanos();
            let calm = busy < self.policy.occupancy.unwrap_or(ALL) && !self.starved;
            times = if calm { windows.clamp(1, 100) } else { 1 };
            for _ in 0..times {
                self.valve.measure(busy, self.starved);
            }
            if self.pass < ALL {
                // What the kernel holds back is demand as well.
                self.valve.stay_closed();
            }
            self.fair.next_window(self.valve.share());
        }
        self.filter(times);
        self.idle = Duration::ZERO;
        self.messages = 0;
        self.starved = false;
        (self.taken, self.refused, self.dropped) = (0, 0, 0);
        self.refusing = Duration::ZERO;
        self.tell().then_some(&self.told)
    }

    /// Whether the kernel is to be told something else than before.
    fn tell(&mut self) -> bool {
        let off = self.pass.abs_diff(self.told.pass) > self.told.pass / PASS_STEP
            || (self.pass == ALL) != (self.told.pass == ALL);
        // Who is loud is known only while something is dropped here. Nobody is let off at once: a filter that works hides them.
        let loud = self.loud.take();
        let others = loud.as_ref().is_some_and(|loud| {
            loud.is_empty() != self.told.sources.is_empty()
                || loud
                    .iter()
                    .any(|source| !self.told.sources.contains(source))
        });
        if self.pass == ALL {
            self.told.sources.clear();
        } else if let Some(loud) = loud.filter(|_| others) {
            let fresh = self.windows.wrapping_sub(self.told_at) > SECOND;
            if self.told.pass == ALL || fresh || loud.is_empty() {
                self.told.sources = loud;
            } else {
                self.told.sources.extend(loud);
                self.told.sources.sort_unstable();
                self.told.sources.dedup();
                if self.told.sources.len() > LOUD_MAX {
                    self.told.sources.clear();
                }
            }
        }
        if off || others {
            self.told.pass = self.pass;
            self.told_at = self.windows;
        }
        off || others
    }

    /// As many INVITEs as could be dealt with in the last window, or a few more, so many times.
    fn filter(&mut self, times: u128) {
        let dealt = u64::from(self.taken) + u64::from(self.refused);
        let came = dealt + u64::from(self.dropped);
        let pass = if self.dropped > 0 {
            part(self.pass.into(), dealt * u64::from(ALL) / came)
        } else {
            let more = |pass: u64, _| (pass + pass / 8 + 1).min(ALL.into());
            (0..times).fold(u64::from(self.pass), more)
        };
        self.pass = u32::try_from(pass).unwrap_or(ALL).clamp(PASS_MIN, ALL);
        if self.is_open() {
            self.pass = ALL;
        }
    }
}

/// One source: an address of IPv4, a /64 of IPv6, which is the least that a site has.
fn name_of(source: IpAddr) -> [u8; 8] {
    match source {
        IpAddr::V4(ip) => u64::from(ip.to_bits()).to_be_bytes(),
        // No unicast address begins with four bytes of zeros but those that stand for IPv4.
        IpAddr::V6(ip) => ((ip.to_bits() >> 64) as u64).to_be_bytes(),
    }
}

/// So many sources may be filtered by name.
const LOUD_MAX: usize = 16;

/// Who is dropped most, in a table that can't grow ("space saving": the least one makes room for a new one and hands on its count).
#[derive(Debug, Default)]
struct Loud {
    counts: Vec<(IpAddr, u32)>,
    total: u32,
}

impl Loud {
    fn note(&mut self, source: IpAddr) {
        let source = match source {
            IpAddr::V4(_) => source,
            IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() >> 64 << 64).into()),
        };
        self.total = self.total.saturating_add(1);
        if let Some((_, count)) = self.counts.iter_mut().find(|(of, _)| *of == source) {
            *count = count.saturating_add(1);
        } else if self.counts.len() < 2 * LOUD_MAX {
            self.counts.push((source, 1));
        } else if let Some(least) = self.counts.iter_mut().min_by_key(|(_, count)| *count) {
            *least = (source, least.1.saturating_add(1));
        }
    }

    /// Those who make up most of what was dropped, and starts anew. `None`: nothing was dropped; empty: it is many.
    fn take(&mut self) -> Option<Vec<IpAddr>> {
        let (total, mut counts) = (
            std::mem::take(&mut self.total),
            std::mem::take(&mut self.counts),
        );
        if total == 0 {
            return None;
        }
        counts.sort_unstable_by_key(|&(_, count)| std::cmp::Reverse(count));
        let loud = counts
            .iter()
            .take(LOUD_MAX)
            .filter(|(_, count)| *count > total / 64);
        let (mut sources, sum) =
            loud.fold((Vec::new(), 0_u32), |(mut all, sum), &(source, count)| {
                all.push(source);
                (all, sum.saturating_add(count))
            });
        if sum < total / 4 * 3 {
            sources.clear();
        }
        sources.sort_unstable();
        Some(sources)
    }
}

/// The part of a window that was not slept, of [`ALL`].
fn busy(window: Duration, idle: Duration) -> u32 {
    let (window, idle) = (window.as_nanos(), idle.as_nanos().min(window.as_nanos()));
    u32::try_from((window - idle) * u128::from(ALL) / window.max(1)).unwrap_or(ALL)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        occupancy: Some(ALL / 100 * 95),
        per_source: None,
    };
    /// What a call, a refusal and a message that is only read cost a slot. Unit: ns.
    const CALL: u64 = 20_000;
    const REFUSAL: u64 = 5_000;
    const READ: u64 = 1_500;

    fn caller(number: u64) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + number as u32).into())
    }

    /// One second of calls at this rate at a slot that can do 50,000 a second; returns the calls that were taken, refused, and dropped
    /// in the last half.
    fn second(gate: &mut Gate, from: Instant, rate: u64) -> [u64; 3] {
        let window = WINDOW.as_nanos() as u64;
        let mut sums = [0; 3];
        let mut pass = u64::from(gate.told.pass);
        for step in 1..=40 {
            let came = rate / 40 * pass / u64::from(ALL);
            let mut spent = 0;
            for source in 0..came {
                // What does not fit into the window waits in the socket and overflows it.
                if spent > window {
                    gate.starved();
                    break;
                }
                spent += READ;
                gate.message();
                let verdict = if gate.judges() {
                    gate.judge(caller(source % 100))
                } else {
                    Verdict::Take
                };
                let place = match verdict {
                    Verdict::Take => {
                        spent += CALL - READ;
                        0
                    }
                    Verdict::Refuse => {
                        gate.refused(Duration::from_nanos(REFUSAL - READ));
                        spent += REFUSAL - READ;
                        1
                    }
                    Verdict::Drop => 2,
                };
                if step > 20 {
                    sums[place] += 1;
                }
            }
            gate.slept(Duration::from_nanos(window.saturating_sub(spent)));
            let now = from.saturating_add(WINDOW * step);
            pass = gate.turn(now).map_or(pass, |filter| filter.pass.into());
        }
        sums
    }

    fn run(rate: u64, seconds: u64) -> [u64; 3] {
        let mut now = Instant::ZERO;
        let mut gate = Gate::new(POLICY, 1, now);
        let mut last = [0; 3];
        for _ in 0..seconds {
            last = second(&mut gate, now, rate);
            now = now.saturating_add(WINDOW * 40);
        }
        last
    }

    #[test]
    fn goodput_stays_near_the_peak() {
        assert_eq!(
            run(40_000, 3),
            [20_000, 0, 0],
            "below capacity all is taken"
        );
        for times in [2, 3, 10] {
            let [taken, refused, dropped] = run(50_000 * times, 6);
            // 47,500 a second would be the aim without the cost of refusing, which is at most a tenth.
            assert!(taken >= 19_000, "{taken} of 25,000 at {times} times");
            assert!(refused > 0);
            assert!(dropped < taken, "the kernel drops the most: {dropped}");
        }
    }

    #[test]
    fn opens_when_the_flood_is_over() {
        let mut now = Instant::ZERO;
        let mut gate = Gate::new(POLICY, 1, now);
        for _ in 0..4 {
            second(&mut gate, now, 500_000);
            now = now.saturating_add(WINDOW * 40);
        }
        assert!(!gate.is_open());
        for _ in 0..5 {
            second(&mut gate, now, 10_000);
            now = now.saturating_add(WINDOW * 40);
        }
        assert!(gate.is_open());
        assert_eq!(gate.told.pass, ALL, "no filter is left behind");
        assert!(gate.told.sources.is_empty());
    }

    #[test]
    fn a_source_has_a_limit_of_its_own() {
        let policy = Policy {
            occupancy: None,
            per_source: Some(100),
        };
        let mut gate = Gate::new(policy, 1, Instant::ZERO);
        let mut taken = [0; 2];
        for _ in 0..500 {
            taken[0] += u32::from(gate.judge(caller(1)) == Verdict::Take);
        }
        for _ in 0..50 {
            taken[1] += u32::from(gate.judge(caller(2)) == Verdict::Take);
        }
        assert_eq!(taken, [100, 50]);
    }

    #[test]
    fn copies_do_not_count_against_a_source() {
        let policy = Policy {
            occupancy: None,
            per_source: Some(5),
        };
        let mut gate = Gate::new(policy, 1, Instant::ZERO);
        for source in [caller(1), "2001:db8::7".parse().unwrap()] {
            // Five calls, each of which comes nine times; copies that are refused here are taken by who looks them up.
            for call in 0..5 {
                assert_eq!(gate.judge(source), Verdict::Take, "call {call}");
                for _ in 1..9 {
                    gate.judge(source);
                    gate.was_copy(source);
                }
            }
            assert_eq!(gate.judge(source), Verdict::Refuse);
        }
        assert_eq!(gate.judge("2001:db8::8".parse().unwrap()), Verdict::Refuse);
        assert_eq!(
            gate.judge("2001:db8:0:1::8".parse().unwrap()),
            Verdict::Take
        );
    }

    #[test]
    fn the_second_of_a_source_is_one_on_an_idle_slot_as_well() {
        let policy = Policy {
            occupancy: None,
            per_source: Some(100),
        };
        let mut gate = Gate::new(policy, 1, Instant::ZERO);
        let mut taken = 0;
        for quarter in 1..=40 {
            for _ in 0..20 {
                taken += u32::from(gate.judge(caller(1)) == Verdict::Take);
            }
            gate.turn(Instant::ZERO.saturating_add(Duration::from_millis(250) * quarter));
        }
        assert_eq!(taken, 800, "80 a second");
    }

    #[test]
    fn the_kernel_is_told_who_floods() {
        let mut gate = Gate::new(POLICY, 1, Instant::ZERO);
        let mut now = Instant::ZERO;
        let mut filter = None;
        for _ in 0..40 {
            for piece in 0..4000_u64 {
                // One call of each of 40 others among 3,960 of two.
                gate.message();
                let source = if piece % 100 == 0 {
                    100 + piece / 100
                } else {
                    piece % 2
                };
                if gate.judges() && gate.judge(caller(source)) == Verdict::Refuse {
                    gate.refused(Duration::from_micros(5));
                }
            }
            gate.starved();
            now = now.saturating_add(WINDOW);
            filter = gate.turn(now).cloned().or(filter);
        }
        let filter = filter.expect("a filter");
        assert!(filter.pass < ALL);
        assert_eq!(filter.sources, [caller(0), caller(1)]);
    }

    #[test]
    fn an_idle_slot_opens_as_soon_as_a_busy_one() {
        let mut now = Instant::ZERO;
        let mut gate = Gate::new(POLICY, 1, now);
        second(&mut gate, now, 500_000);
        now = now.saturating_add(WINDOW * 40);
        assert!(!gate.is_open());
        for _ in 0..12 {
            gate.slept(WINDOW * 10);
            now = now.saturating_add(WINDOW * 10);
            gate.turn(now);
        }
        assert!(gate.is_open(), "after 3 s with 4 turns a second");
    }
}
