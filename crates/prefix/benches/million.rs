//! A table of a million rules: what it weighs, how long it takes to compile, and a look-up. The last has a limit, and the bench fails beyond it.
//!
//! Rules are as a carrier has them: countries and networks, number blocks of 6 to 9 digits, whole ported numbers; some for certain customers, some for certain
//! hours. Numbers are all over the table, so that nearly every look-up misses the processor's caches.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use prefix::{Active, Known, Table, Target, compile};

const RULES: u64 = 1_000_000;
const LOOK_UPS: u32 = 1_000_000;
const LIMIT: Duration = Duration::from_micros(1);

/// SplitMix64.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

fn number(seeded: &mut Seeded, digits: u64) -> String {
    (0..digits)
        .map(|_| char::from(b'0' + seeded.below(10) as u8))
        .collect()
}

fn main() {
    let names = |what: &str, count: u64| (0..count).map(|at| format!("{what}-{at}")).collect();
    let known = Known {
        groups: names("carrier", 50),
        callers: names("customer", 200),
        periods: names("period", 8),
    };
    let mut seeded = Seeded(1);
    let mut text = "prefix,to,caller,time\n,carrier-0,,\n".to_owned();
    let mut numbers = Vec::new();
    for line in 1..RULES {
        let digits = match line % 10 {
            0 => 4 + seeded.below(2),
            1..=5 => 6 + seeded.below(4),
            _ => 11,
        };
        let prefix = number(&mut seeded, digits);
        if line % 16 == 0 {
            numbers.push(format!(
                "+{prefix}{}",
                number(&mut seeded, 15_u64.saturating_sub(digits))
            ));
        }
        let caller = match line % 7 {
            0 => format!("customer-{}", seeded.below(200)),
            _ => String::new(),
        };
        let time = match line % 11 {
            0 => format!("period-{}", seeded.below(8)),
            _ => String::new(),
        };
        let (first, second) = (seeded.below(50), seeded.below(50));
        let _ = writeln!(
            text,
            "{prefix},carrier-{first}|carrier-{second},{caller},{time}"
        );
    }

    let began = Instant::now();
    let compiled = compile(text.as_bytes(), &known, &["+".to_owned()]);
    let took = began.elapsed();
    let table = compiled
        .ok()
        .and_then(|compiled| Table::open(compiled.image).ok());
    let table = table.expect("the file is a good one");
    println!(
        "{} rules: {} bytes, compiled in {took:?} from {} bytes",
        table.lines(),
        table.bytes(),
        text.len()
    );

    let active = Active::default();
    let mut best = Duration::MAX;
    for round in 0..5 {
        let began = Instant::now();
        let mut found = 0_u32;
        for at in 0..LOOK_UPS as usize {
            // A stride that is no divisor: each look-up is somewhere else.
            let user = &numbers[at * 7919 % numbers.len()];
            let number = table.number(black_box(user.as_bytes()));
            let caller = Some(at as u32 % 200);
            let mut rules = table.rules(&number, caller);
            let rule = rules.find(|rule| rule.when.holds(&active));
            found += u32::from(
                rule.is_some_and(|rule| matches!(rule.targets().next(), Some(Target::Group(_)))),
            );
        }
        let each = began.elapsed() / LOOK_UPS;
        assert_eq!(
            found, LOOK_UPS,
            "the rule for everything meets every number"
        );
        println!("round {round}: {each:?} a look-up");
        best = best.min(each);
    }
    assert!(
        best < LIMIT,
        "a look-up takes {best:?}, more than {LIMIT:?}"
    );
}
