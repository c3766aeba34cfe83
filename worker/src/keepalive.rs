//! Keeps the way to phones behind address translation open: a slot goes through its share of the bindings again and again, in small steps that are spread over
//! `nat.keepalive`, and sends each an OPTIONS or a CRLF by the socket that it was registered by. Nothing of it is kept: whoever takes the slot over begins
//! a round of its own. Only how many had no answer is counted, on the arena's board, if the configuration asks for that.

use std::net::SocketAddr;
use std::time::Duration;

use config::Nat;
use proxy::{Interface, KeepAlive};
use registrar::{BindingSet, BindingView, BindingsView};
use shm::{Cursor, Participant};
use stdx::Instant;
use tables::{Counter, LOCATION, Location};

/// How often a step is made.
const STEP: Duration = Duration::from_millis(50);
/// Rows that are looked at in one go.
const ROWS: usize = 64;
/// Rows that are looked at in one step at most: less than a millisecond's work.
const ROWS_STEP: usize = 8192;
/// Rows of a round that nobody has counted yet.
const ROWS_AT_FIRST: u64 = 4096;

#[derive(Debug)]
pub(crate) struct Keeper {
    settings: Nat,
    /// This slot's share of the allowed rate, in datagrams a step.
    budget: u64,
    cursor: Cursor,
    next: Option<Instant>,
    /// When this round began, and how many rows it has looked at.
    began: Instant,
    looked: u64,
    /// Rows of the round before.
    rows: u64,
}

/// One datagram.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Due {
    contact: Vec<u8>,
    to: SocketAddr,
    from: Interface,
    since: Instant,
    /// What it is called in the table, where it may be removed: address-of-record and Contact.
    name: Option<Box<(Vec<u8>, Vec<u8>)>>,
}

impl Due {
    /// Removes the binding, unless it has been refreshed meanwhile.
    pub(crate) fn remove(&self, participant: &mut Participant) {
        let Some(name) = &self.name else { return };
        let (aor, contact) = &**name;
        let gone = Location(participant).change(aor, |mut set: BindingSet| {
            let gone = set
                .remove(|binding| binding.contact == *contact && binding.updated_at == self.since);
            ((gone > 0).then_some(set), gone > 0)
        });
        // One that is being changed all the time is in use.
        if gone == Ok(true) {
            participant.count(Counter::KeepAlivesGivenUp.cell(), 1);
        }
    }
}

impl Keeper {
    pub(crate) fn new(settings: &Nat, slots: u16, now: Instant) -> Self {
        let steps = 1_000 / STEP.as_millis().max(1) as u64 * u64::from(slots.max(1));
        Self {
            settings: settings.clone(),
            budget: u64::from(settings.keepalive_rate).div_ceil(steps),
            cursor: Cursor::default(),
            next: settings.keepalive.map(|_| now.saturating_add(STEP)),
            began: now,
            looked: 0,
            rows: ROWS_AT_FIRST,
        }
    }

    /// Takes other settings; the same ones leave the round as it is.
    pub(crate) fn configure(&mut self, settings: &Nat, slots: u16, now: Instant) {
        if self.settings != *settings {
            *self = Self::new(settings, slots, now);
        }
    }

    pub(crate) fn request<'d>(&self, due: &'d Due) -> KeepAlive<'d> {
        KeepAlive {
            uri: self.settings.keepalive_options.then_some(&due.contact),
            to: due.to,
            from: due.from,
            since: due.since,
            failures_max: self.settings.keepalive_failures,
        }
    }

    /// When there is something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// The next step of the round: whom to send to.
    pub(crate) fn step(&mut self, now: Instant, participant: &mut Participant, due: &mut Vec<Due>) {
        let (Some(interval), Some(next)) = (self.settings.keepalive, self.next) else {
            return;
        };
        if next > now {
            return;
        }
        self.next = Some(now.saturating_add(STEP));
        // Where the round should be by now, if it has as many rows as the one before.
        let gone = now.saturating_duration_since(self.began).min(interval);
        let wanted = u128::from(self.rows) * gone.as_millis() / interval.as_millis().max(1);
        let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
        let (mut rows, before) = (0, due.len());
        while rows < ROWS_STEP {
            let left = self.budget.saturating_sub((due.len() - before) as u64);
            if left == 0 {
                break;
            }
            let over = gone >= interval;
            if !over && self.looked >= wanted {
                break;
            }
            let chunk = ROWS.min(usize::try_from(left).unwrap_or(ROWS));
            let settings = &self.settings;
            let next = participant.scan_share(LOCATION, self.cursor, chunk, |record| {
                let Ok(bindings) = BindingsView::new(record.payload) else {
                    return;
                };
                due.extend(
                    bindings
                        .current(now)
                        .filter_map(|binding| of(record.key, &binding, settings)),
                );
            });
            self.looked += chunk as u64;
            rows += chunk;
            match next {
                Some(cursor) => self.cursor = cursor,
                None => {
                    self.cursor = Cursor::default();
                    self.rows = self.looked.max(ROWS as u64);
                    self.looked = 0;
                    // Where the rate is too low for all, the next round begins at once.
                    let end = self.began.saturating_add(interval);
                    self.began = end.max(now);
                    self.next = Some(self.began.saturating_add(STEP));
                    break;
                }
            }
        }
        // Some of the addresses-of-record have several bindings: what was too much is made up for.
        let sent = (due.len() - before) as u64;
        let pause = u32::try_from(sent / self.budget.max(1)).unwrap_or(u32::MAX);
        if pause > 1 {
            let rest = now.saturating_add(STEP.saturating_mul(pause));
            self.next = self.next.map(|next| next.max(rest));
        }
    }
}

fn of(aor: &[u8], binding: &BindingView<'_>, settings: &Nat) -> Option<Due> {
    // Behind a proxy it is that one's business.
    let direct = binding.path.is_empty();
    if !direct || !(settings.keepalive_all || binding.flow.nat) {
        return None;
    }
    Some(Due {
        contact: proxy::request_uri(binding.contact),
        to: binding.received?,
        from: Interface {
            id: binding.listener,
            ip: binding.flow.local,
        },
        since: binding.updated_at,
        name: (settings.keepalive_failures > 0)
            .then(|| Box::new((aor.to_vec(), binding.contact.to_vec()))),
    })
}

#[cfg(test)]
mod tests {
    use registrar::{Binding, Flow};
    use shm::{Arena, Layout, ParticipantId};

    use super::*;

    const NOW: Instant = Instant::from_nanos(1_000_000_000_000);
    const INTERVAL: Duration = Duration::from_secs(30);

    fn settings() -> Nat {
        Nat {
            detect: config::NatDetection::Auto,
            keepalive: Some(INTERVAL),
            keepalive_options: true,
            keepalive_all: false,
            keepalive_rate: 20_000,
            keepalive_failures: 0,
        }
    }

    fn register(participant: &mut Participant, user: u32, nat: bool, path: &[u8]) {
        let binding = Binding {
            contact: format!("sip:{user}@10.0.0.5").into_bytes(),
            q: 1000,
            expires_at: NOW.saturating_add(Duration::from_secs(3600)),
            call_id: b"c".to_vec(),
            cseq: 1,
            path: path.to_vec(),
            instance: None,
            reg_id: None,
            received: Some(SocketAddr::from(([203, 0, 113, 9], user as u16))),
            listener: 3,
            user_agent: Vec::new(),
            updated_at: NOW,
            flow: Flow { nat, local: None },
        };
        let aor = format!("sip:{user}@example.test");
        let changed = Location(participant).change(aor.as_bytes(), |mut set: BindingSet| {
            set.push(binding.clone());
            (Some(set), ())
        });
        assert!(changed.is_ok());
    }

    /// Runs for a time; how many datagrams each step had, and to whom they went.
    fn run(
        keeper: &mut Keeper,
        participant: &mut Participant,
        from: Instant,
        time: Duration,
    ) -> (Vec<usize>, Vec<u16>) {
        let (mut counts, mut ports) = (Vec::new(), Vec::new());
        let mut now = from;
        loop {
            now = keeper.deadline().expect("it is on").max(now);
            if now >= from.saturating_add(time) {
                return (counts, ports);
            }
            let mut due = Vec::new();
            keeper.step(now, participant, &mut due);
            counts.push(due.len());
            ports.extend(due.iter().map(|due| due.to.port()));
        }
    }

    #[test]
    fn each_binding_is_reached_once_in_a_round_and_not_all_at_once() {
        let mut layout = Layout::new(64 << 20, 1, 1, tables::TABLES);
        layout.rx_buffers = 4;
        layout.rx_buffer_bytes = 1024;
        let arena = Arena::heap(&layout, [7; 16]).expect("an arena");
        let mut participant = arena.participant(ParticipantId(0));
        participant.online();
        for user in 1..=2000 {
            register(
                &mut participant,
                user,
                user % 2 == 0,
                if user % 10 == 0 { b"<sip:p;lr>" } else { b"" },
            );
        }
        let mut keeper = Keeper::new(&settings(), 1, NOW);
        // The first round has to find out how many there are.
        let (_, ports) = run(&mut keeper, &mut participant, NOW, INTERVAL);
        let reached = |mut ports: Vec<u16>| {
            let all = ports.len();
            ports.sort_unstable();
            ports.dedup();
            assert_eq!(ports.len(), all, "nobody twice");
            all
        };
        assert_eq!(reached(ports), 800);
        let second = keeper.began;
        let (counts, ports) = run(&mut keeper, &mut participant, second, INTERVAL);
        assert_eq!(reached(ports), 800);
        let most = counts.iter().max().copied().unwrap_or(0);
        assert!(most <= ROWS, "{most} in one step");

        // A low rate is kept, and everybody's turn comes all the same.
        let slow = Nat {
            keepalive_rate: 100,
            ..settings()
        };
        let mut keeper = Keeper::new(&slow, 1, NOW);
        let (counts, ports) = run(&mut keeper, &mut participant, NOW, INTERVAL);
        assert!(
            counts.iter().all(|count| *count <= 5),
            "100 a second are 5 a step"
        );
        assert_eq!(reached(ports), 800);
        assert!(
            Keeper::new(
                &Nat {
                    keepalive: None,
                    ..settings()
                },
                1,
                NOW
            )
            .deadline()
            .is_none()
        );
    }
}
