//! Keepers and reports over one arena, with time given by hand.

use std::time::Duration;

use config::Config;
use dns::Rank;
use proxy::{Outcome, OutcomeKind};
use shm::{Arena, Layout, Participant, ParticipantId, RowRef};
use stdx::Instant;
use tables::{
    Counter, TABLES,
    balancer::{Balancer, Health, Member, Mode, Resource, ResourceKey},
};

use super::{Groups, Keeper, Reports};

const MS: Duration = Duration::from_millis(1);

fn at(ms: u32) -> Instant {
    Instant::from_nanos(1_000_000_000) + MS * ms
}

fn config(group: &str) -> Config {
    let text = format!("[[group]]\nname = \"g\"\n{group}\n[[route]]\nto = \"group:g\"\n");
    config::load(&text, "test").expect("good").0
}

/// A slot's part, without its sockets.
struct Slot {
    groups: Groups,
    keeper: Keeper,
    reports: Reports,
    participant: Participant,
}

fn arena() -> Arena {
    let mut layout = Layout::new(16 << 20, 2, 1, TABLES);
    layout.rx_buffers = 4;
    layout.rx_buffer_bytes = 1024;
    layout.limit = layout.limit.max(layout.least_limit());
    Arena::heap(&layout, [7; 16]).expect("an arena")
}

impl Slot {
    fn new(arena: &Arena, number: u16, config: &Config, now: Instant) -> Self {
        let mut participant = arena.participant(ParticipantId(number));
        participant.online();
        let mut slot = Self {
            groups: Groups::new(config, number),
            keeper: Keeper::new(number, 2),
            reports: Reports::default(),
            participant,
        };
        slot.look(now);
        slot
    }

    /// As its worker does it four times a second.
    fn look(&mut self, now: Instant) {
        self.participant.quiescent();
        self.groups.refresh(&mut self.participant, now);
        if self.keeper.learn(&self.groups, now) {
            self.reports.learn(&self.groups);
        }
        self.reports.flush(now, &mut self.participant);
        self.keeper.clean(now, &mut self.participant);
    }

    /// The times of the probes that it sends now.
    fn probes(&mut self, now: Instant) -> Vec<Instant> {
        let work = self.keeper.work(now, &mut self.participant, &self.reports);
        work.probes
            .iter()
            .map(|due| due.request().sent_at)
            .collect()
    }

    fn hear(&mut self, now: Instant, resource: RowRef, kind: OutcomeKind) {
        let outcome = Outcome { resource, kind };
        self.reports.hear(now, &outcome, &mut self.participant);
    }

    fn row(&mut self, uri: &str) -> Option<RowRef> {
        let key = ResourceKey::destination(b"g", uri.as_bytes());
        Balancer(&mut self.participant)
            .find(&key)
            .map(|found| found.row)
    }

    fn resource(&mut self, row: RowRef) -> Resource {
        Balancer(&mut self.participant)
            .get(row)
            .expect("a row")
            .resource
    }

    fn places(&self) -> Vec<String> {
        let places = self.groups.list()[0].places.iter();
        places
            .map(|place| String::from_utf8_lossy(&place.uri).into_owned())
            .collect()
    }
}

const ONE: &str = "sip:192.0.2.1:5060";
const PROBED: &str = "destinations = [{ uri = \"sip:192.0.2.1:5060\" }]\nprobe = { interval = \"5s\", timeout = \"1200ms\", down_after = 2, up_after = 2 }";

/// The one of two slots that looks after a URI, and the other.
fn both(arena: &Arena, config: &Config, uri: &str) -> (Slot, Slot) {
    let keeps = u16::try_from(balance::identity(uri.as_bytes()) % 2).unwrap();
    let one = |number| Slot::new(arena, number, config, at(0));
    (one(keeps), one(1 - keeps))
}

#[test]
fn one_slot_probes_again_and_gives_up() {
    let arena = arena();
    let (mut keeper, mut other) = both(&arena, &config(PROBED), ONE);
    assert_eq!(other.keeper.deadline(), None, "it is one slot's business");
    let row = keeper.row(ONE).expect("a row");
    assert_eq!(other.row(ONE), Some(row));
    let mut log = Vec::new();
    let mut now = at(0);
    while now < at(11_000) {
        let next = keeper.keeper.deadline().expect("something to do");
        now = next.max(now);
        for sent_at in keeper.probes(now) {
            let ms = |at: Instant| at.saturating_duration_since(self::at(0)).as_millis();
            log.push((ms(now), ms(sent_at)));
        }
        assert!(keeper.keeper.deadline() > Some(now), "it does not spin");
    }
    // Timer E: after 500 ms, then 1 s later, which is too late here.
    assert_eq!(
        log,
        [
            (0, 0),
            (500, 0),
            (5000, 5000),
            (5500, 5000),
            (10_000, 10_000),
            (10_500, 10_000)
        ]
    );
    let resource = keeper.resource(row);
    assert_eq!(resource.condition.health, Health::Down);
    assert_eq!(
        (resource.probe.code, resource.condition.probes_failed),
        (0, 3)
    );
    let count = |counter: Counter| arena.counters().total(counter.cell());
    assert_eq!(count(Counter::DestinationsDown), 1);
    assert_eq!(count(Counter::ProbesFailed), 3);
}

#[test]
fn an_answer_counts_once_whoever_hears_it_and_only_in_time() {
    let arena = arena();
    let (mut keeper, mut other) = both(&arena, &config(PROBED), ONE);
    let row = keeper.row(ONE).expect("a row");
    let probed = |code, sent_at| OutcomeKind::Probed { code, sent_at };
    assert_eq!(keeper.probes(at(0)), [at(0)]);
    other.hear(at(40), row, probed(200, at(0)));
    let condition = other.resource(row).condition;
    assert_eq!((condition.health, condition.probes_ok), (Health::Up, 1));
    assert_eq!(condition.latency, Some(40 * MS));
    // The answer to its copy.
    keeper.hear(at(90), row, probed(200, at(0)));
    assert_eq!(keeper.resource(row).condition, condition);
    // One that was never sent.
    keeper.hear(at(90), row, probed(200, at(17)));
    assert_eq!(keeper.resource(row).condition, condition);
    assert_eq!(keeper.probes(at(600)), [], "nothing is sent again");
    assert_eq!(keeper.probes(at(5000)), [at(5000)]);
    assert_eq!(keeper.probes(at(6200)), [], "too late");
    other.hear(at(6300), row, probed(200, at(5000)));
    let condition = keeper.resource(row).condition;
    assert_eq!((condition.probes_ok, condition.probes_failed), (0, 1));
}

#[test]
fn an_heir_goes_on_with_a_probe() {
    let arena = arena();
    let config = config(PROBED);
    let (mut keeper, other) = both(&arena, &config, ONE);
    let row = keeper.row(ONE).expect("a row");
    assert_eq!(keeper.probes(at(0)), [at(0)]);
    let number = keeper.participant.id().0;
    keeper.participant.offline();
    drop((keeper.participant, other));
    let mut heir = Slot::new(&arena, number, &config, at(300));
    // Who knows when the other one has sent it?
    assert_eq!(heir.probes(at(300)), [at(0)]);
    heir.hear(
        at(350),
        row,
        OutcomeKind::Probed {
            code: 404,
            sent_at: at(0),
        },
    );
    assert_eq!(heir.resource(row).condition.health, Health::Up);
    assert_eq!(heir.probes(at(900)), []);
    assert_eq!(heir.probes(at(5000)), [at(5000)]);
}

#[test]
fn who_is_disabled_is_not_probed() {
    let arena = arena();
    let (mut keeper, _other) = both(&arena, &config(PROBED), ONE);
    let row = keeper.row(ONE).expect("a row");
    let set = |keeper: &mut Slot, mode| {
        Balancer(&mut keeper.participant)
            .update(row, |resource| resource.mode = mode)
            .expect("a row");
    };
    set(&mut keeper, Mode::Disabled);
    assert_eq!(keeper.probes(at(0)), []);
    assert_eq!(keeper.probes(at(3000)), []);
    set(&mut keeper, Mode::Draining);
    assert_eq!(keeper.probes(at(4000)), [at(4000)]);
}

#[test]
fn failures_of_all_slots_add_up() {
    let arena = arena();
    let text = format!(
        "destinations = [{{ uri = \"{ONE}\" }}]\npassive = {{ down_after = 3, codes = [500, 503] }}"
    );
    let (mut one, mut two) = both(&arena, &config(&text), ONE);
    let row = one.row(ONE).expect("a row");
    let answered = |code| OutcomeKind::Answered {
        code,
        took: 20 * MS,
    };
    one.hear(at(1), row, OutcomeKind::Silent);
    two.hear(at(2), row, answered(503));
    // A 100 from somebody in between says nothing, its final answer does.
    one.hear(at(3), row, answered(100));
    assert_eq!(one.resource(row).condition.failures, 2);
    one.hear(at(3), row, OutcomeKind::Final { code: 486 });
    assert_eq!(two.resource(row).condition.failures, 0);
    one.hear(at(4), row, OutcomeKind::Unreachable);
    two.hear(at(5), row, answered(100));
    two.hear(at(5), row, OutcomeKind::Final { code: 500 });
    assert_eq!(one.resource(row).condition.health, Health::Up);
    one.hear(at(6), row, answered(503));
    assert_eq!(two.resource(row).condition.health, Health::Down);
    // What adds up comes with the next look.
    one.hear(at(7), row, OutcomeKind::Sent);
    two.hear(at(7), row, OutcomeKind::Full);
    two.hear(at(7), row, answered(200));
    one.look(at(250));
    two.look(at(250));
    let statistics = one.resource(row).statistics;
    assert_eq!((statistics.calls, statistics.refused), (1, 1));
    assert_eq!((statistics.failed, statistics.answered), (5, 1));
    assert_eq!(one.resource(row).condition.latency, Some(20 * MS));
}

const NAME: &str = "sip:site.example";

fn answer(hops: &[(&str, u16, u32)], whole: bool) -> dns::Answer<()> {
    let ranks: Vec<Rank> = hops
        .iter()
        .map(|&(hop, priority, share)| Rank {
            hop: hop.parse().unwrap(),
            priority,
            share,
        })
        .collect();
    dns::Answer {
        token: (),
        hops: ranks.iter().map(|rank| rank.hop).collect(),
        ranks,
        whole,
        reason: dns::Reason::NotFound,
    }
}

#[test]
fn a_name_is_as_many_as_it_leads_to() {
    let arena = arena();
    let text = format!("destinations = [{{ uri = \"{NAME}\" }}, {{ uri = \"{ONE}\" }}]");
    let (mut keeper, mut other) = both(&arena, &config(&text), NAME);
    assert_eq!(keeper.places(), [NAME, ONE], "until it is known");
    let work = keeper
        .keeper
        .work(at(0), &mut keeper.participant, &keeper.reports);
    let [(row, uri)] = work.names.as_slice() else {
        panic!("a name to look up");
    };
    assert_eq!(uri, NAME.as_bytes());
    let mut told = |now, hops: &[(&str, u16, u32)], whole| {
        let news = keeper
            .keeper
            .resolved(now, *row, &answer(hops, whole), &mut keeper.participant);
        keeper.look(now);
        other.look(now);
        assert_eq!(keeper.places(), other.places(), "both know");
        (news, keeper.places(), keeper.resource(*row).members)
    };
    let (a, b, c) = (
        "198.51.100.1:5060",
        "198.51.100.2:5070",
        "[2001:db8::3]:5060",
    );
    let spelled = |hops: &[&str]| -> Vec<String> {
        let hops = hops.iter().map(|hop| format!("sip:{hop}"));
        hops.chain([ONE.to_owned()]).collect()
    };
    let (news, places, members) = told(at(1), &[(b, 1, 500), (a, 1, 1500)], true);
    assert_eq!((news, places), (true, spelled(&[a, b])));
    let member = |hop: &str, priority, share| Member {
        uri: format!("sip:{hop}").into_bytes(),
        priority,
        share,
    };
    assert_eq!(members, [member(a, 1, 1500), member(b, 1, 500)]);
    // Another order is no news.
    assert!(!told(at(2), &[(a, 1, 1500), (b, 1, 500)], true).0);
    // One that is missing is gone if the answer is whole.
    let (news, places, _) = told(at(3), &[(c, 0, 1000), (b, 1, 500)], false);
    assert_eq!((news, places), (true, spelled(&[c, a, b])));
    let (news, places, _) = told(at(4), &[(c, 0, 1000), (b, 1, 500)], true);
    assert_eq!((news, places), (true, spelled(&[c, b])));
    // A server that never tells everything does not fill the arena with what it told before.
    for n in 0..200 {
        let hop = format!("203.0.113.{n}:5060");
        let (_, places, members) = told(at(4), &[(&hop, 1, 1000)], false);
        assert!(places.contains(&format!("sip:{hop}")));
        assert!(
            members.len() <= super::keeper::MEMBERS_MAX,
            "{}",
            members.len()
        );
    }
    assert_eq!(
        told(at(4), &[(c, 0, 1000)], false).2.len(),
        super::keeper::MEMBERS_MAX
    );
    told(at(4), &[(c, 0, 1000), (b, 1, 500)], true);
    // Nowhere is no news either.
    let (news, places, _) = told(at(5), &[], true);
    assert_eq!((news, places), (false, spelled(&[c, b])));

    let fresh = keeper.row(&format!("sip:{c}")).expect("a row");
    assert_eq!(
        keeper.resource(fresh).condition.recovered_at,
        Some(at(3)),
        "it starts slowly"
    );
    let old = keeper.row(&format!("sip:{b}")).expect("a row");
    assert_eq!(keeper.resource(old).condition.recovered_at, None);
    assert!(keeper.row(&format!("sip:{a}")).is_some());
    // Nobody needs its row any more.
    for ms in [6000, 8000] {
        keeper.look(at(ms));
        other.look(at(ms));
    }
    assert_eq!(keeper.row(&format!("sip:{a}")), None);
    assert!(keeper.row(NAME).is_some() && keeper.row(ONE).is_some());
    assert!(keeper.row(&format!("sip:{c}")).is_some());
}
