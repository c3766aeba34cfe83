//! A seed's story: phones that register and call, the odds against them, and then none, and whether everything ends as it has to.
//!
//! 1. Registrations and calls, while datagrams are lost, workers die, slots stand still, answers come late, the clock jumps, strangers attack.
//! 2. No fault any more, and time enough for every timer: every call has its end, and nothing is left of it.
//! 3. New calls between everybody: each has to be answered at once.
//! 4. Everybody unregisters: the arena is as it was at the beginning, to the last block.

use std::{net::SocketAddr, time::Duration};

use stdx::{Instant, Rng};
use tables::{
    Balancer, Counter, DIALOG, Dialogs, LOCATION, Location, QUARANTINE, Quarantine, TRANSACTION,
    dialog::DialogState,
};

use crate::{
    death::{Aim, POISON, POISONED},
    hostile::Hostile,
    ladder::Ladder,
    monitor::{EVIL, Monitor},
    odds::{self, Fault, VICTIM},
    phone::{Habit, Phone, Plan, Todo},
    world::{Config, Happening, Note, PeerId, World},
};

/// What came of a seed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub seed: u64,
    /// What should not be.
    pub wrong: Vec<String>,
    /// The ladder of what `wrong` names, if it was asked for.
    pub ladder: String,
    /// How long the world lasted.
    pub simulated: Duration,
    /// How long its calls lasted, all together.
    pub call_time: Duration,
    pub calls: u64,
    /// Of these, answered with a 2xx.
    pub answered: u64,
    pub messages: u64,
    pub deaths: u64,
}

/// What a story is to be about; anything that a seed does not decide.
#[derive(Clone, Copy, Debug, Default)]
pub struct Telling {
    /// Loss in a thousand, instead of the seed's choice.
    pub loss: Option<u32>,
    /// Write the ladder.
    pub ladder: bool,
}

const FAULT: u64 = 1 << 32;
const ATTACK: u64 = 2 << 32;
/// Faults happen in the first part.
const FAULTS: u32 = 40_000;
/// Time for every timer that there is: patience of a caller, Timer C, Timer B and those of the answered.
const LONGEST: Duration = Duration::from_secs(420);
/// Datagrams that one story may send; more is a storm.
const MESSAGES_MAX: u64 = 60_000;

struct Story {
    world: World,
    /// What the seed decides beside the world's own chances.
    rng: Rng,
    phones: Vec<(PeerId, Phone)>,
    alarms: Vec<Instant>,
    hostile: Option<(PeerId, Hostile)>,
    monitor: Monitor,
    faults: Vec<Fault>,
    ladder: Option<Ladder>,
    /// The clock has jumped, or somebody was cut off: what depends on real time can't be demanded.
    jumped: bool,
    cut: bool,
    heirs_die: bool,
    /// Who sends poison, and how often he did.
    poisoner: PeerId,
    poisoned: u32,
    users: u32,
    outcome: Outcome,
}

/// Tells the story of a seed.
pub fn tell(seed: u64, telling: Telling) -> Outcome {
    let mut story = Story::new(seed, telling);
    story.play();
    story.outcome
}

impl Story {
    fn new(seed: u64, telling: Telling) -> Self {
        // Not the world's own generator: the two would say the same.
        let mut rng = Rng::new(seed ^ 0x5eed_0f57_0712_e500);
        let users = 3 + rng.below(4);
        let (config, facts) = odds::config(&mut rng, telling, users);
        let settings = config.settings.clone();
        let notes = Config {
            notes: true,
            ..config
        };
        let mut world = World::new(seed, notes);
        let poisoner = world.peer("10.67.0.1:5060".parse().expect("an address"));
        let mut story = Self {
            monitor: Monitor::new(&settings, facts),
            world,
            phones: Vec::new(),
            alarms: Vec::new(),
            hostile: None,
            faults: Vec::new(),
            ladder: telling.ladder.then(Ladder::default),
            jumped: false,
            cut: false,
            heirs_die: rng.below(2) == 0,
            poisoner,
            poisoned: 0,
            users,
            outcome: Outcome {
                seed,
                ..Outcome::default()
            },
            rng,
        };
        story.people(&settings);
        story
    }

    fn people(&mut self, settings: &proxy::Settings) {
        let add = |story: &mut Self, name: String, user: String, address: String| {
            let address: SocketAddr = address.parse().expect("an address");
            let side = usize::from(story.rng.below(4) == 0);
            let proxy = settings.listeners[side].address;
            let peer = story.world.peer(address);
            if let Some(ladder) = &mut story.ladder {
                ladder.name(address, &name);
                ladder.name(proxy, if side == 0 { "proxy" } else { "proxy2" });
            }
            let rng = Rng::new(story.rng.next_u64());
            let mut phone = Phone::new(&name, &user, address, proxy, rng);
            if user.starts_with('u') {
                phone.q = [1000, 1000, 500][story.rng.below(3) as usize];
                story.monitor.facts.q.insert(address, phone.q);
            }
            let other = story.rng.below(story.users);
            phone.elsewhere = vec![
                "<sip:x@gw2.far.example>".to_owned(),
                format!("<sip:u{other}@example.org>"),
                format!("<sip:u{other}@example.org>;q=0.3, <sip:x@gw1.far.example>;q=0.7"),
                phone.contact(),
            ];
            story.phones.push((peer, phone));
            story.alarms.push(Instant::MAX);
        };
        for user in 0..self.users {
            for phone in 0..=self.rng.below(3) {
                let user = format!("u{user}");
                let name = format!("{user}p{phone}");
                let address = format!("10.0.{}.{}:5060", &user[1..], phone + 1);
                add(self, name, user, address);
            }
        }
        // Gateways, reached by name only; they never register.
        for n in 1..=2 {
            let (name, address) = (format!("gw{n}"), format!("10.2.0.{n}:5060"));
            add(self, name.clone(), name, address);
        }
        if self.rng.below(3) == 0 {
            let (address, victim) = ("10.66.0.9:5060", VICTIM);
            let (address, victim) = (address.parse().expect("one"), victim.parse().expect("one"));
            let peer = self.world.peer(address);
            let rng = Rng::new(self.rng.next_u64());
            self.hostile = Some((peer, Hostile::new(address, victim, self.users, rng)));
        }
        let victim = VICTIM.parse().expect("an address");
        self.monitor.victims.insert(victim);
    }

    fn play(&mut self) {
        let begun = self.world.now();
        self.first_part(begun);
        self.second_part();
        if self.outcome.wrong.is_empty() {
            self.third_part();
        }
        if self.outcome.wrong.is_empty() {
            self.fourth_part();
        }
        let outcome = &mut self.outcome;
        outcome.simulated = self.world.now().saturating_duration_since(begun);
        outcome.messages = self.monitor.messages_in + self.monitor.messages_out;
        outcome.deaths = self.world.deaths();
        for call in self.phones.iter().flat_map(|(_, phone)| &phone.calls) {
            outcome.calls += 1;
            if call.final_at.is_some_and(|(_, code)| code < 300) {
                outcome.answered += 1;
            }
            let end = call.ended.unwrap_or(self.world.now());
            outcome.call_time += end.saturating_duration_since(call.begun);
        }
        if let Some(ladder) = &self.ladder {
            outcome.ladder = ladder.about(&outcome.wrong);
        }
    }

    /// Calls against all odds.
    fn first_part(&mut self, begun: Instant) {
        let expires = [60, 120, 600][self.rng.below(3) as usize];
        for at in 0..self.phones.len() {
            if !self.phones[at].1.user.starts_with('u') {
                continue;
            }
            let when = begun + Duration::from_millis(self.rng.below(2000).into());
            self.phones[at].1.plan(when, Todo::Register { expires });
        }
        let calls = 3 + self.rng.below(10);
        for _ in 0..calls {
            self.plan_call(begun);
        }
        self.plan_faults(begun);
        self.live(begun + Duration::from_millis(FAULTS.into()));
        self.world.network.heal();
        self.world.policy.late = 0;
        self.world.policy.never = 0;
        self.world.policy.twice = 0;
        self.world.policy.names.heal();
        self.heirs_die = false;
        for slot in 0..self.world.slots() {
            self.world.kill_at(slot, Aim::Nth(u32::MAX));
        }
        if let Some(ladder) = &mut self.ladder {
            ladder.say(self.world.now(), "no more faults");
        }
    }

    fn plan_call(&mut self, begun: Instant) {
        let at = begun + Duration::from_millis((2500 + self.rng.below(32_000)).into());
        let caller = self.rng.below(self.phones.len() as u32) as usize;
        let uri = match self.rng.below(16) {
            0 | 1 => "sip:team@example.org".to_owned(),
            2 => "sip:gate@example.org".to_owned(),
            3 => "sip:nobody@example.org".to_owned(),
            4 | 5 => "sip:trunk@example.org".to_owned(),
            6 => "sip:pair@example.org".to_owned(),
            _ => format!("sip:u{}@example.org", self.rng.below(self.users)),
        };
        let todo = if self.rng.below(6) == 0 {
            let method = ["MESSAGE", "OPTIONS"][self.rng.below(2) as usize];
            Todo::Send { method, uri }
        } else {
            let cancel = (self.rng.below(4) == 0).then(|| self.rng.below(6000) + 5);
            let plan = Plan {
                cancel_after: cancel.map(|ms| Duration::from_millis(ms.into())),
                talk: Duration::from_millis((200 + self.rng.below(20_000)).into()),
                reinvite: self.rng.below(4) == 0,
                info: self.rng.below(4) == 0,
            };
            Todo::Call { uri, plan }
        };
        self.phones[caller].1.plan(at, todo);
    }

    fn plan_faults(&mut self, begun: Instant) {
        let span = Duration::from_millis(FAULTS.into());
        let many = (self.world.slots(), self.world.workers(), self.phones.len());
        for (when, fault) in odds::faults(&mut self.rng, span, begun, many) {
            self.cut |= matches!(fault, Fault::Cut { .. } | Fault::Part { .. });
            self.world.alarm(when, FAULT | self.faults.len() as u64);
            self.faults.push(fault);
        }
        if self.hostile.is_some() {
            for n in 0..self.rng.below(12).into() {
                let when = begun + Duration::from_millis(self.rng.below(FAULTS).into());
                self.world.alarm(when, ATTACK | n);
            }
        }
    }

    fn strike(&mut self, fault: Fault) {
        let now = self.world.now();
        match fault {
            Fault::Kill { worker } => {
                self.world.kill(worker);
            }
            Fault::Die { slot, within } => self.world.kill_at(slot, Aim::Nth(within)),
            Fault::DieAt { slot, point, nth } => self.world.kill_at(slot, Aim::At(point, nth)),
            Fault::Part { listener, off } => {
                let address = self.world.settings().listeners[listener].address;
                self.world.network.cut_off(address, off);
                self.world.remark(format!("{address} cut off: {off}"));
            }
            Fault::Poison { number } => self.poison(number),
            Fault::Stall { slot, time } => {
                self.world.stall(slot, time);
                self.monitor.disturb(now, now + time);
            }
            Fault::Cut { phone, off } => {
                let address = self.phones[phone].1.address;
                self.world.network.cut_off(address, off);
                self.world
                    .remark(format!("{} cut off: {off}", self.phones[phone].1.name));
            }
            Fault::Jump { by } => {
                // Whatever is under way ends earlier than it should.
                self.world.jump(by);
                self.monitor.disturb(Instant::ZERO, now + LONGEST);
                self.jumped = true;
            }
        }
    }

    /// Lets time pass for everybody.
    fn live(&mut self, end: Instant) {
        for at in 0..self.phones.len() {
            self.after(at);
        }
        while let Some(happening) = self.world.step(end) {
            match happening {
                Happening::Delivered(peer, packet) => {
                    if let Some((it, hostile)) = &mut self.hostile
                        && *it == peer
                    {
                        if let Some(answer) = hostile.answer(&packet.bytes) {
                            self.world.send(peer, packet.from, &answer);
                        }
                        continue;
                    }
                    let now = self.world.now();
                    let at = self.phones.iter().position(|(it, _)| *it == peer);
                    let Some(at) = at else { continue };
                    self.phones[at].1.receive(now, packet.from, &packet.bytes);
                    self.after(at);
                }
                Happening::Alarm(token) if token >= ATTACK => self.attack(),
                Happening::Alarm(token) if token >= FAULT => {
                    if let Some(&fault) = self.faults.get((token - FAULT) as usize) {
                        self.strike(fault);
                    }
                }
                Happening::Alarm(token) => {
                    let (at, now) = (token as usize, self.world.now());
                    self.alarms[at] = Instant::MAX;
                    self.phones[at].1.tick(now);
                    self.after(at);
                }
            }
            self.look();
            if self.monitor.messages_out > MESSAGES_MAX {
                self.outcome.wrong.push("a storm of messages".to_owned());
                return;
            }
        }
        self.look();
    }

    /// A phone may have something to send, and another deadline.
    fn after(&mut self, at: usize) {
        let (peer, phone) = &mut self.phones[at];
        for (to, bytes) in phone.take_out() {
            if let Some((_, hostile)) = &mut self.hostile {
                hostile.overhear(&bytes);
            }
            self.world.send(*peer, to, &bytes);
        }
        if let Some(deadline) = phone.deadline() {
            let deadline = deadline.max(self.world.now());
            if deadline < self.alarms[at] {
                self.alarms[at] = deadline;
                self.world.alarm(deadline, at as u64);
            }
        }
    }

    /// The same bytes each time that it is the same number.
    fn poison(&mut self, number: usize) {
        let (point, method) = (
            POISONED[number % POISONED.len()],
            ["OPTIONS", "INVITE", "MESSAGE"][number % 3],
        );
        let (from, uri) = (self.world.address(self.poisoner), "sip:u0@example.org");
        let name = format!("{EVIL}-poison-{number}");
        let text = format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{name}\r\nMax-Forwards: 70\r\n\
             From: <sip:mallory@elsewhere.invalid>;tag=1\r\nTo: <{uri}>\r\nCall-ID: {name}\r\n\
             CSeq: 1 {method}\r\nContact: <sip:mallory@{from}>\r\n{POISON}{point}\r\nContent-Length: 0\r\n\r\n"
        );
        let to = self.world.settings().listeners[0].address;
        self.poisoned += 1;
        self.world.send(self.poisoner, to, text.as_bytes());
    }

    fn attack(&mut self) {
        let Some((peer, hostile)) = &mut self.hostile else {
            return;
        };
        let peer = *peer;
        let listeners = &self.world.settings().listeners;
        let to = listeners[self.rng.below(listeners.len() as u32) as usize].address;
        for bytes in hostile.attack() {
            self.world.send(peer, to, &bytes);
        }
    }

    /// Reads what the world has noted.
    fn look(&mut self) {
        self.outcome.wrong.append(&mut self.world.miscounted());
        for (now, note) in self.world.notes() {
            self.monitor.see(now, &note);
            if let Some(ladder) = &mut self.ladder {
                ladder.add(now, &note);
            }
            match &note {
                Note::Out(packet, _) => {
                    if let Some((_, hostile)) = &mut self.hostile {
                        hostile.overhear(&packet.bytes);
                    }
                }
                Note::Died { worker, .. } if self.heirs_die && self.rng.below(3) == 0 => {
                    let slot = worker * (self.world.slots() / self.world.workers());
                    let within = 1 + self.rng.below(60);
                    self.world.kill_at(slot, Aim::Nth(within));
                }
                Note::Heir { .. } => {
                    let wrong = self.world.audit(false);
                    self.fault_all("the arena after a death", &wrong);
                }
                _ => {}
            }
        }
    }

    fn fault_all<T: std::fmt::Debug>(&mut self, what: &str, wrong: &[T]) {
        if !wrong.is_empty() {
            self.outcome.wrong.push(format!("{what}: {wrong:?}"));
        }
    }

    /// Time enough for everything, without a fault.
    fn second_part(&mut self) {
        let end = self.world.now() + LONGEST;
        while self.world.now() < end && self.outcome.wrong.is_empty() {
            let next = self.world.now() + Duration::from_secs(15);
            self.live(next);
            let busy = self.phones.iter().any(|(_, phone)| !phone.idle());
            if !busy && self.world.contexts() == 0 {
                break;
            }
        }
        self.check_registrations();
        self.collect();
        if let Some((_, phone)) = self.phones.iter().find(|(_, phone)| !phone.idle()) {
            self.outcome
                .wrong
                .push(format!("{} is still at it", phone.name));
        }
        let rows = self.world.arena().live_rows(TRANSACTION);
        if rows != 0 || self.world.contexts() != 0 {
            let contexts = self.world.contexts();
            let what = format!("{rows} transactions and {contexts} contexts are left");
            self.outcome.wrong.push(what);
        }
        for counter in [Counter::TransactionsBroken, Counter::CommitFailed] {
            let count = self.world.counter(counter);
            if count != 0 {
                self.outcome.wrong.push(format!("{counter:?}: {count}"));
            }
        }
        if !self.world.all_alive() {
            self.outcome
                .wrong
                .push("a slot without a worker".to_owned());
        }
    }

    /// Gathers what everybody has to complain of.
    fn collect(&mut self) {
        self.monitor.judge();
        let wrong = std::mem::take(&mut self.monitor.wrong);
        self.outcome.wrong.extend(wrong);
        for (_, phone) in &mut self.phones {
            self.outcome.wrong.append(&mut phone.wrong);
        }
        self.monitor.turn_over();
    }

    /// Every REGISTER that was answered 200 is in the arena, and no other is.
    fn check_registrations(&mut self) {
        let now = self.world.now();
        for at in 0..self.phones.len() {
            let phone = &self.phones[at].1;
            let contact = format!("sip:{}@{}", phone.user, phone.address);
            let aor = format!("sip:{}@example.org", phone.user);
            let (registration, name) = (phone.registration.clone(), phone.name.clone());
            let Some(participant) = self.world.participant() else {
                return;
            };
            let found = Location(participant)
                .lookup(aor.as_bytes(), |bindings| {
                    let set = registrar::BindingSet::of(&bindings);
                    let of = |binding: &&registrar::Binding| binding.contact == contact.as_bytes();
                    set.bindings().iter().find(of).map(|binding| binding.cseq)
                })
                .flatten();
            let Some((cseq, _, until)) = registration.acknowledged else {
                continue;
            };
            let sure = registration.asked == cseq && !self.jumped;
            match (found, until) {
                (None, Some(until)) if sure && until > now + Duration::from_secs(1) => {
                    let what = format!("{name}: acknowledged until {until:?}, and lost");
                    self.outcome.wrong.push(what);
                }
                (Some(_), None) if sure => {
                    let what = format!("{name}: has unregistered, and is there");
                    self.outcome.wrong.push(what);
                }
                (Some(found), _) if found < cseq || found > registration.asked => {
                    let what =
                        format!("{name}: CSeq {found} is in the arena, {cseq} was acknowledged");
                    self.outcome.wrong.push(what);
                }
                _ => {}
            }
        }
    }

    /// Everybody calls somebody, and it has to work.
    fn third_part(&mut self) {
        let begun = self.world.now();
        let mut calls = Vec::new();
        for at in 0..self.phones.len() {
            self.phones[at].1.habit = Habit::Prompt;
            if self.phones[at].1.user.starts_with('u') {
                self.phones[at]
                    .1
                    .plan(begun, Todo::Register { expires: 600 });
            }
            let plan = Plan {
                cancel_after: None,
                talk: Duration::from_secs(3),
                reinvite: false,
                info: true,
            };
            let uri = format!("sip:u{}@example.org", (at as u32 + 1) % self.users);
            let when = begun + Duration::from_millis(1000 + 40 * at as u64);
            calls.push((at, self.phones[at].1.calls.len()));
            self.phones[at].1.plan(when, Todo::Call { uri, plan });
        }
        self.live(begun + Duration::from_secs(60));
        for (at, call) in calls {
            let phone = &self.phones[at].1;
            let good = phone.calls.get(call).is_some_and(|call| {
                let soon = call.begun + Duration::from_millis(1500);
                call.final_at
                    .is_some_and(|(when, code)| code == 200 && when < soon)
                    && call.ended.is_some()
            });
            if !good {
                let call = phone.calls.get(call);
                let what = format!("{}: after all faults it went {call:?}", phone.name);
                self.outcome.wrong.push(what);
            }
        }
        self.collect();
    }

    /// The books have every call that is counted, and no call that has ended. Clears them.
    fn check_books(&mut self, excused: bool) {
        let now = self.world.now();
        let Some(participant) = self.world.participant() else {
            return;
        };
        let mut rows = Vec::new();
        participant.rows(DIALOG, |record| {
            let view = tables::dialog::View::new(&record);
            let state = view.map(|view| (view.state, view.take().call_id));
            rows.push((record.row, state));
        });
        let resource = Balancer(participant).find(&crate::policy::every_call());
        let counted = resource.as_ref().map_or(0, |found| found.live);
        let mut wrong = Vec::new();
        if counted != rows.len() as u64 {
            wrong.push(format!(
                "{counted} calls are counted, {} are on record",
                rows.len()
            ));
        }
        for (row, state) in rows {
            match state {
                // Its BYE was cut off, or nobody was to send one.
                Some((DialogState::Confirmed, _)) if excused => {}
                other => wrong.push(format!("in the books still: {other:?}")),
            }
            Dialogs(participant).end(row);
        }
        if let Some(found) = resource {
            // Nothing counts in it any more.
            let _ = Balancer(participant).remove(found.row, now);
        }
        self.outcome.wrong.append(&mut wrong);
    }

    /// Everybody goes; nothing is left.
    fn fourth_part(&mut self) {
        let begun = self.world.now();
        for (_, phone) in &mut self.phones {
            phone.forget_plans();
            if phone.user.starts_with('u') {
                phone.plan(begun, Todo::Register { expires: 0 });
            }
        }
        self.live(begun + Duration::from_secs(150));
        self.check_registrations();
        self.collect();
        let talking: usize = self.phones.iter().map(|(_, phone)| phone.talking()).sum();
        // A call whose caller was cut off, or that strangers began, may hang.
        let excused = self.cut || self.hostile.is_some() || self.jumped;
        self.check_books(excused);
        // Suspects wait for their time, which is long.
        if let Some(participant) = self.world.participant() {
            Quarantine(participant).clear(None);
        }
        let wrong = self.world.audit(true);
        self.fault_all("the arena at the end", &wrong);
        let usage = self.world.arena().usage();
        for (table, name) in [
            (LOCATION, "bindings"),
            (TRANSACTION, "transactions"),
            (QUARANTINE, "cases"),
        ] {
            let used = usage.tables.get(usize::from(table.0)).copied();
            if let Some(used) = used.filter(|used| used.rows + used.body_bytes > 0) {
                self.outcome
                    .wrong
                    .push(format!("{name} are left: {used:?}"));
            }
        }
        let blocks: Vec<_> = usage
            .blocks
            .iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        self.fault_all("blocks are left", &blocks);
        if talking > 0 && !excused {
            self.outcome.wrong.push(format!("{talking} dialogs stand"));
        }
    }
}
