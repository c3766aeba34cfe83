//! The order in which destinations are tried.
//!
//! Everywhere, destinations of a better tier come before those of a worse one, and those that are closed or full are left out. Within a tier:
//!
//! | policy | first is | by weight |
//! |---|---|---|
//! | `RoundRobin` | whose turn it is | no |
//! | `Weighted`, `Priority` | whose turn it is, heavier ones more often (smooth: 5, 1, 1 gives a a b a c a a) | exactly, over any run of calls |
//! | `LeastCalls` | who has the fewest calls for its weight, this one included | yes |
//! | `FreeCapacity` | who has the most free places | no |
//! | `Latency` | as `Weighted`, the weight divided by the response time | yes |
//! | `Hash` | who draws lowest for the key (`spread`) | yes |
//!
//! A share below 1 (slow start) counts as that part of the weight, or of the free places. Turns are each chooser's own: with several slots each has its shares
//! exactly, and so have all of them together.

use std::time::Duration;

use crate::spread;

/// Destinations that one request is sent to at most, one after another.
pub const ORDER_MAX: usize = 8;
/// Response times below this are equal: it is the network's noise.
const LATENCY_MIN: Duration = Duration::from_millis(1);

/// Parts of a call that make a difference in what is owed.
const CREDIT_UNITS: f64 = 1e6;

/// How the first is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Policy {
    #[default]
    RoundRobin,
    Weighted,
    LeastCalls,
    FreeCapacity,
    Latency,
    Priority,
    Hash,
}

/// A destination at this moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// It takes calls: it is not down, disabled, draining.
    pub open: bool,
    /// Lower ones first.
    pub tier: u64,
    /// Above 0.
    pub weight: f64,
    /// Above 0, at most 1.
    pub share: f64,
    /// Calls that it has.
    pub live: u64,
    /// Calls at most.
    pub capacity: Option<u64>,
    /// Its response time.
    pub latency: Option<Duration>,
    /// See [`crate::identity`].
    pub identity: u64,
}

impl Candidate {
    fn is_full(&self) -> bool {
        self.capacity.is_some_and(|capacity| self.live >= capacity)
    }

    fn free(&self) -> f64 {
        self.capacity.map_or(f64::MAX, |capacity| {
            capacity.saturating_sub(self.live) as f64
        })
    }
}

/// Places of candidates, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    places: [u16; ORDER_MAX],
    len: usize,
}

impl Order {
    pub fn places(&self) -> impl Iterator<Item = usize> + '_ {
        self.places
            .iter()
            .take(self.len)
            .map(|&place| usize::from(place))
    }
}

/// Why there is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nobody {
    /// None is open.
    Down,
    /// Those that are open are full.
    Full,
}

/// What is worth the trouble of a candidate.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    place: u16,
    tier: u64,
    /// Lower ones first.
    cost: f64,
    /// Among equals.
    turn: u16,
}

/// A group's turns.
#[derive(Clone, Debug, Default)]
pub struct Chooser {
    policy: Policy,
    /// What each place is owed; those that take turns only. Unit: calls, so that what is owed means the same when weights change.
    credits: Vec<f64>,
    turn: usize,
    /// Reused.
    ranked: Vec<Ranked>,
}

impl Chooser {
    /// `start`: who is first among equals; slots differ in it, so that not all of them begin with the same destination.
    pub fn new(policy: Policy, start: usize) -> Self {
        Self {
            policy,
            turn: start,
            ..Self::default()
        }
    }

    /// Which of these to try, in what order. They are to have the same places every time; `key` is what is hashed.
    pub fn choose(&mut self, candidates: &[Candidate], key: u64) -> Result<Order, Nobody> {
        self.rank(candidates);
        if self.ranked.is_empty() {
            let any = candidates.iter().any(|candidate| candidate.open);
            return Err(if any { Nobody::Full } else { Nobody::Down });
        }
        match self.policy {
            Policy::Hash => self.price(candidates, |c| {
                spread::draw(key, c.identity, c.weight * c.share)
            }),
            Policy::LeastCalls => self.price(candidates, |c| {
                (c.live.saturating_add(1)) as f64 / (c.weight * c.share)
            }),
            Policy::FreeCapacity => self.price(candidates, |c| -c.free() * c.share),
            Policy::RoundRobin | Policy::Weighted | Policy::Latency | Policy::Priority => {
                self.take_turns(candidates);
            }
        }
        let better = |a: &Ranked, b: &Ranked| {
            (a.tier.cmp(&b.tier))
                .then(a.cost.total_cmp(&b.cost))
                .then(a.turn.cmp(&b.turn))
        };
        // Only the first few have to be in order.
        if self.ranked.len() > ORDER_MAX {
            self.ranked.select_nth_unstable_by(ORDER_MAX, better);
            self.ranked.truncate(ORDER_MAX);
        }
        self.ranked.sort_unstable_by(better);
        let mut order = Order {
            places: [0; ORDER_MAX],
            len: 0,
        };
        for (to, ranked) in order.places.iter_mut().zip(&self.ranked) {
            *to = ranked.place;
            order.len += 1;
        }
        if self.takes_turns() {
            self.pay();
        }
        Ok(order)
    }

    /// Who takes calls, with nothing said of the order but who is first among equals.
    fn rank(&mut self, candidates: &[Candidate]) {
        // Those that take turns keep an order of their own.
        let first = self.turn % candidates.len().max(1);
        if !self.takes_turns() {
            self.turn = self.turn.wrapping_add(1);
        }
        self.ranked.clear();
        for (place, candidate) in candidates.iter().enumerate() {
            if !candidate.open || candidate.is_full() {
                continue;
            }
            let turn = (place + candidates.len() - first) % candidates.len();
            let (Ok(place), Ok(turn)) = (u16::try_from(place), u16::try_from(turn)) else {
                break;
            };
            self.ranked.push(Ranked {
                place,
                tier: candidate.tier,
                cost: 0.0,
                turn,
            });
        }
    }

    fn takes_turns(&self) -> bool {
        matches!(
            self.policy,
            Policy::RoundRobin | Policy::Weighted | Policy::Latency | Policy::Priority
        )
    }

    fn price(&mut self, candidates: &[Candidate], cost: impl Fn(&Candidate) -> f64) {
        for ranked in &mut self.ranked {
            if let Some(candidate) = candidates.get(usize::from(ranked.place)) {
                ranked.cost = cost(candidate);
            }
        }
    }

    /// Everybody of the best tier is owed its part of this call; whoever is owed most is first.
    fn take_turns(&mut self, candidates: &[Candidate]) {
        let best = self.ranked.iter().map(|ranked| ranked.tier).min();
        let fastest = self.fastest(candidates);
        let mut total = 0.0;
        for ranked in &mut self.ranked {
            ranked.cost = 0.0;
            let candidate = candidates.get(usize::from(ranked.place));
            if let Some(candidate) = candidate.filter(|_| Some(ranked.tier) == best) {
                ranked.cost = match self.policy {
                    Policy::RoundRobin => candidate.share,
                    Policy::Latency => {
                        let latency = candidate.latency.unwrap_or(fastest).max(LATENCY_MIN);
                        candidate.weight * candidate.share / latency.as_secs_f64()
                    }
                    _ => candidate.weight * candidate.share,
                };
                total += ranked.cost;
            }
        }
        self.credits.resize(candidates.len(), 0.0);
        let mut ranked = self.ranked.iter_mut().peekable();
        for (place, credit) in self.credits.iter_mut().enumerate() {
            match ranked.next_if(|ranked| usize::from(ranked.place) == place) {
                Some(ranked) => {
                    *credit += ranked.cost / total;
                    // Rounded, so that equals are equal whatever sums they come from.
                    ranked.cost = -(*credit * CREDIT_UNITS).round();
                }
                // Whoever takes no calls saves up nothing, nor does it owe anything when it comes back.
                None => *credit = 0.0,
            }
        }
    }

    /// The best response time of those that take calls: one that is not measured yet counts as that good, so that it will be measured.
    fn fastest(&self, candidates: &[Candidate]) -> Duration {
        self.ranked
            .iter()
            .filter_map(|ranked| candidates.get(usize::from(ranked.place))?.latency)
            .min()
            .unwrap_or(LATENCY_MIN)
    }

    /// The first has had its turn.
    fn pay(&mut self) {
        let first = self.ranked.first().map(|ranked| usize::from(ranked.place));
        if let Some(credit) = first.and_then(|place| self.credits.get_mut(place)) {
            *credit -= 1.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CALLS: u64 = 10_000;

    fn candidate(n: u64) -> Candidate {
        Candidate {
            open: true,
            tier: 0,
            weight: 1.0,
            share: 1.0,
            live: 0,
            capacity: None,
            latency: None,
            identity: crate::identity(format!("sip:192.0.2.{n}").as_bytes()),
        }
    }

    fn candidates(n: u64) -> Vec<Candidate> {
        (1..=n).map(candidate).collect()
    }

    fn weighing(weights: &[f64]) -> Vec<Candidate> {
        let mut list = candidates(weights.len() as u64);
        for (candidate, weight) in list.iter_mut().zip(weights) {
            candidate.weight = *weight;
        }
        list
    }

    fn first(chooser: &mut Chooser, list: &[Candidate], key: u64) -> usize {
        chooser
            .choose(list, key)
            .expect("somebody takes calls")
            .places()
            .next()
            .expect("an order is never empty")
    }

    /// How many of the calls each gets, if calls never end (`live` grows) or end at once.
    fn shares(policy: Policy, list: &mut [Candidate], calls: u64, end: bool) -> Vec<u64> {
        let mut chooser = Chooser::new(policy, 0);
        let mut got = vec![0; list.len()];
        for call in 0..calls {
            let place = first(&mut chooser, list, call);
            got[place] += 1;
            if !end {
                list[place].live += 1;
            }
        }
        got
    }

    #[test]
    fn round_robin_takes_turns_whatever_the_weights() {
        let mut list = weighing(&[1.0, 7.0, 2.0, 1.0]);
        let got = shares(Policy::RoundRobin, &mut list, CALLS, true);
        assert_eq!(got, [2500; 4]);
        let mut chooser = Chooser::new(Policy::RoundRobin, 2);
        let order: Vec<usize> = (0..6).map(|_| first(&mut chooser, &list, 0)).collect();
        assert_eq!(order, [2, 3, 0, 1, 2, 3], "it begins where it is told to");
    }

    #[test]
    fn a_closed_one_leaves_its_turns_to_all_others_alike() {
        let mut list = candidates(4);
        list[1].open = false;
        let got = shares(Policy::RoundRobin, &mut list, 9_999, true);
        assert_eq!(got, [3333, 0, 3333, 3333]);
    }

    #[test]
    fn weights_are_kept_exactly_and_smoothly() {
        let mut list = weighing(&[5.0, 1.0, 1.0]);
        let mut chooser = Chooser::new(Policy::Weighted, 0);
        let order: Vec<usize> = (0..7).map(|_| first(&mut chooser, &list, 0)).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
        let got = shares(Policy::Weighted, &mut list, 7 * 1428, true);
        assert_eq!(got, [5 * 1428, 1428, 1428]);
        // In slow start a quarter of the weight counts.
        list[0].share = 0.25;
        let got = shares(Policy::Weighted, &mut list, 13 * 700, true);
        assert_eq!(got, [5 * 700, 4 * 700, 4 * 700]);
    }

    #[test]
    fn slots_together_keep_weights_too() {
        let list = weighing(&[2.0, 1.0, 1.0]);
        let mut got = [0; 3];
        for slot in 0..4 {
            let mut chooser = Chooser::new(Policy::Weighted, slot);
            for _ in 0..CALLS / 4 {
                got[first(&mut chooser, &list, 0)] += 1;
            }
        }
        assert_eq!(got, [5000, 2500, 2500]);
    }

    #[test]
    fn least_calls_evens_out_by_weight() {
        let mut list = weighing(&[2.0, 1.0, 1.0]);
        list[2].live = 2_000;
        let got = shares(Policy::LeastCalls, &mut list, CALLS, false);
        // 12,000 calls in all, of which the last had 2,000 before.
        assert_eq!(got, [6000, 3000, 1000]);
    }

    #[test]
    fn least_calls_does_not_always_begin_with_the_first() {
        let got = shares(Policy::LeastCalls, &mut candidates(4), CALLS, true);
        assert_eq!(got, [2500; 4]);
    }

    #[test]
    fn free_capacity_evens_out_the_free_places() {
        let mut list = candidates(3);
        for (candidate, capacity) in list.iter_mut().zip([8_000, 4_000, 1_000]) {
            candidate.capacity = Some(capacity);
        }
        let got = shares(Policy::FreeCapacity, &mut list, CALLS, false);
        // 13,000 places less 10,000 calls leave 1,000 free each.
        assert_eq!(got, [7000, 3000, 0]);
        let got = shares(Policy::FreeCapacity, &mut list, 3_000, false);
        assert_eq!(got, [1000; 3]);
        let full = Chooser::new(Policy::FreeCapacity, 0).choose(&list, 0);
        assert_eq!(full, Err(Nobody::Full));
    }

    #[test]
    fn latency_shares_by_its_inverse() {
        let mut list = candidates(3);
        for (candidate, ms) in list.iter_mut().zip([10, 20, 40]) {
            candidate.latency = Some(Duration::from_millis(ms));
        }
        let got = shares(Policy::Latency, &mut list, 7_000, true);
        for (got, right) in got.iter().zip([4_000, 2_000, 1_000]) {
            assert!(got.abs_diff(right) <= 1, "{got} for {right}");
        }
        // What is not measured yet counts as the best.
        list[2].latency = None;
        let got = shares(Policy::Latency, &mut list, 10_000, true);
        for (got, right) in got.iter().zip([4_000, 2_000, 4_000]) {
            assert!(got.abs_diff(right) <= 1, "{got} for {right}");
        }
        // Nor does noise count.
        for candidate in &mut list {
            candidate.latency = Some(Duration::from_micros(candidate.identity % 900));
        }
        let got = shares(Policy::Latency, &mut list, 9_999, true);
        assert!(got.iter().all(|got| got.abs_diff(3_333) <= 1), "{got:?}");
    }

    #[test]
    fn what_was_owed_before_weights_changed_is_owed_no_longer_than_a_round() {
        let mut list = weighing(&[1000.0, 1000.0, 1000.0]);
        let mut chooser = Chooser::new(Policy::Weighted, 0);
        for _ in 0..3001 {
            first(&mut chooser, &list, 0);
        }
        for (candidate, weight) in list.iter_mut().zip([2.0, 1.0, 1.0]) {
            candidate.weight = weight;
        }
        let mut got = [0; 3];
        for _ in 0..40 {
            got[first(&mut chooser, &list, 0)] += 1;
        }
        for (got, right) in got.iter().zip([20_u64, 10, 10]) {
            assert!(right.abs_diff(*got) <= 1, "{got} for {right}");
        }
    }

    #[test]
    fn priority_overflows_when_it_is_full_or_down() {
        let mut list = candidates(4);
        for (candidate, tier) in list.iter_mut().zip([0, 0, 1, 2]) {
            candidate.tier = tier;
            candidate.capacity = Some(100);
        }
        list[3].capacity = None;
        let got = shares(Policy::Priority, &mut list, 150, false);
        assert_eq!(got, [75, 75, 0, 0]);
        let got = shares(Policy::Priority, &mut list, 150, false);
        assert_eq!(got, [25, 25, 100, 0]);
        let got = shares(Policy::Priority, &mut list, 150, false);
        assert_eq!(got, [0, 0, 0, 150]);
        list[0].live = 0;
        let got = shares(Policy::Priority, &mut list, 50, false);
        assert_eq!(got, [50, 0, 0, 0], "and comes back");
        let order = Chooser::new(Policy::Priority, 0).choose(&list, 0).unwrap();
        assert_eq!(order.places().collect::<Vec<_>>(), [0, 3]);
    }

    #[test]
    fn hash_keeps_to_weights_and_moves_only_what_it_must() {
        let mut list = weighing(&[1.0, 1.0, 2.0, 1.0]);
        let mut chooser = Chooser::new(Policy::Hash, 0);
        // Keys as a keyed hash gives them.
        let key = |call: u64| crate::identity(&call.to_le_bytes());
        let before: Vec<usize> = (0..CALLS)
            .map(|call| first(&mut chooser, &list, key(call)))
            .collect();
        let mut got = [0_u64; 4];
        for place in &before {
            got[*place] += 1;
        }
        for (got, right) in got.iter().zip([2000, 2000, 4000, 2000]) {
            // Five standard deviations are 200 (245 for the heavy one).
            assert!(got.abs_diff(right) <= 250, "{got} for {right}");
        }
        // One goes: only its own keys move, and they spread over the others.
        list[1].open = false;
        let mut went = [0_u64; 4];
        for (call, &was) in (0..CALLS).zip(&before) {
            let is = first(&mut chooser, &list, key(call));
            if was == 1 {
                went[is] += 1;
            } else {
                assert_eq!(was, is, "call {call} had no reason to move");
            }
        }
        assert_eq!(went[1], 0);
        for (went, right) in [(went[0], 500), (went[2], 1000), (went[3], 500)] {
            assert!(went.abs_diff(right) <= 150, "{went} for {right}");
        }
        // It comes back slowly: keys move to it only, and in the end all of its own are its own again.
        list[1].open = true;
        for share in [0.1, 0.5, 1.0] {
            list[1].share = share;
            for (call, &was) in (0..CALLS).zip(&before) {
                let is = first(&mut chooser, &list, key(call));
                assert!(is == was || (was == 1 && share < 1.0), "call {call}");
            }
        }
    }

    #[test]
    fn the_place_in_the_list_means_nothing_to_a_hash() {
        let list = candidates(5);
        let mut turned = list.clone();
        turned.rotate_left(2);
        let mut chooser = Chooser::new(Policy::Hash, 0);
        for key in 0..CALLS {
            let one = list[first(&mut chooser, &list, key)].identity;
            let other = turned[first(&mut chooser, &turned, key)].identity;
            assert_eq!(one, other);
        }
    }

    #[test]
    fn nobody_is_said_why() {
        let mut chooser = Chooser::new(Policy::Weighted, 0);
        assert_eq!(chooser.choose(&[], 0), Err(Nobody::Down));
        let mut list = candidates(2);
        list[0].open = false;
        list[1].capacity = Some(0);
        assert_eq!(chooser.choose(&list, 0), Err(Nobody::Full));
        list[1].open = false;
        assert_eq!(chooser.choose(&list, 0), Err(Nobody::Down));
    }

    fn any_candidate() -> impl Strategy<Value = Candidate> {
        (
            any::<bool>(),
            0_u64..3,
            1_u32..1000,
            1_u32..=16,
            0_u64..20,
            proptest::option::of(0_u64..20),
            proptest::option::of(0_u64..100_000),
            any::<u64>(),
        )
            .prop_map(
                |(open, tier, weight, share, live, capacity, latency, identity)| Candidate {
                    open,
                    tier,
                    weight: f64::from(weight),
                    share: f64::from(share) / 16.0,
                    live,
                    capacity,
                    latency: latency.map(Duration::from_micros),
                    identity,
                },
            )
    }

    fn any_policy() -> impl Strategy<Value = Policy> {
        prop_oneof![
            Just(Policy::RoundRobin),
            Just(Policy::Weighted),
            Just(Policy::LeastCalls),
            Just(Policy::FreeCapacity),
            Just(Policy::Latency),
            Just(Policy::Priority),
            Just(Policy::Hash),
        ]
    }

    proptest! {
        /// Whatever happened before: an order names open ones with room, each once, none of a worse tier before one of a better, and as many as there are.
        #[test]
        fn an_order_is_an_order(
            policy in any_policy(),
            rounds in proptest::collection::vec(proptest::collection::vec(any_candidate(), 0..12), 1..6),
            key: u64,
        ) {
            let mut chooser = Chooser::new(policy, 3);
            for list in &rounds {
                let able = |c: &Candidate| c.open && !c.is_full();
                let many = list.iter().filter(|c| able(c)).count();
                match chooser.choose(list, key) {
                    Err(_) => prop_assert_eq!(many, 0),
                    Ok(order) => {
                        let places: Vec<usize> = order.places().collect();
                        prop_assert_eq!(places.len(), many.min(ORDER_MAX));
                        let tiers: Vec<u64> = places.iter().map(|&place| list[place].tier).collect();
                        prop_assert!(tiers.is_sorted());
                        let best = list.iter().filter(|c| able(c)).map(|c| c.tier).min();
                        prop_assert_eq!(tiers.first().copied(), best);
                        let mut once = places.clone();
                        once.sort_unstable();
                        once.dedup();
                        prop_assert_eq!(once.len(), places.len());
                        prop_assert!(places.iter().all(|&place| able(&list[place])));
                    }
                }
            }
        }

        /// By turns nobody is ever far ahead of its share, or behind it, however long the run.
        #[test]
        fn turns_stay_close_to_the_share(weights in proptest::collection::vec(1_u32..50, 1..8), calls in 1_u64..500) {
            let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
            let total: f64 = weights.iter().sum();
            let mut list = weighing(&weights);
            let got = shares(Policy::Weighted, &mut list, calls, true);
            for (got, weight) in got.iter().zip(&weights) {
                let right = calls as f64 * weight / total;
                prop_assert!((*got as f64 - right).abs() <= weights.len() as f64, "{} for {}", got, right);
            }
        }
    }
}
