//! The life cycle of every worker process as one machine: no process, descriptor or clock in it.
//!
//! A *seat* is what a worker stands for (its slots, for the life of the supervisor); a *process* sits in it until it dies.
//!
//! ```text
//!   Spawn -> Starting --Ready--> Spare --(a seat is vacant)--> Assigned --Serving--> Serving
//!                                                                 |                    |  Restart / Stop
//!            any state --Exited--> gone: the seat is vacant       |                    v
//!            and the next spare is assigned in the same step <----+---Exited-------- Leaving (HandOver sent)
//! ```
//!
//! A supervisor that takes over another's processes begins with them as they are ([`Fleet::adopt`]): who serves goes on, a seat without a living
//! owner is a vacancy with a heritage, and who lives but does not answer is killed first, because only its death makes its seat vacant.
//!
//! Rules: a take-over is never delayed; back-off holds back only the start of new processes after some that
//! died before they served. Recovery is idempotent, so an heir that dies is replaced like any other worker.

mod hold;
mod upgrade;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use stdx::Instant;

use super::cause::Cause;
use hold::Hold;
pub(crate) use upgrade::Setback;
use upgrade::Upgrade;

/// One process of this supervisor's life; never reused, unlike a pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ProcessId(pub(crate) u32);

/// A program that processes are started from; its file is with the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Image(pub(crate) u32);

/// One `restart` or `upgrade` command that waits for its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u32);

/// How long the fleet waits for what; all far above what a healthy process needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// `workers.drain`: from HandOver to the kill of a worker that did not leave.
    pub(crate) drain: Duration,
    /// From the start of a process to its Ready.
    pub(crate) start: Duration,
    /// From Assign to Serving; recovery of a full arena lies in here.
    pub(crate) serve: Duration,
    /// For a process that hangs to tell where.
    pub(crate) stack: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(2),
            start: Duration::from_secs(15),
            serve: Duration::from_secs(30),
            stack: Duration::from_secs(1),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// The process attached to the arena and waits for a seat.
    Ready(ProcessId),
    /// All slots of the process's seat are served.
    Serving(ProcessId),
    /// The process reports that it can't go on (the reason is with the caller); it will exit or be killed.
    Failed(ProcessId),
    /// The process is gone: its pidfd says so and it was reaped, or it could not be started.
    Exited {
        process: ProcessId,
        cause: Cause,
    },
    /// The process has stopped answering, and nothing is to be learnt from it any more.
    Hung(ProcessId),
    /// The process does not answer because somebody has stopped it (SIGSTOP, a debugger).
    Stopped(ProcessId),
    /// The process has stopped answering and was asked for its stack: it ends by itself, or is killed after a moment.
    Hangs(ProcessId),
    /// The process's control thread takes no orders and was asked for its stack, as with [`Input::Hangs`].
    Deaf(ProcessId),
    /// Planned restart of these seats, one after the other.
    Restart {
        ticket: Ticket,
        seats: Seats,
    },
    /// Every process to this program, the spare first, then seat by seat; any failure leads back.
    Upgrade {
        ticket: Ticket,
        image: Image,
    },
    /// Back to this program, from one that all processes have been moved to.
    Downgrade {
        ticket: Ticket,
        image: Image,
    },
    /// The process has answered all its doorbells since [`Output::Ring`].
    Answered(ProcessId),
    /// Every worker stops its slots and keeps its seat.
    StandBy,
    /// The process has stopped its slots.
    StoodBy(ProcessId),
    /// Those who stand by serve again.
    Resume,
    /// A fleet that has gathered takes its seats, which are not served since then.
    Go {
        since: Instant,
    },
    /// Clean stop; a second one ends everything at once.
    Stop,
    Tick,
}

/// Which seats a restart means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seats {
    All,
    One(u16),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// `recover_aux`: the participant was a dead process's; the new one recovers it before anything else.
    Spawn {
        process: ProcessId,
        image: Image,
        aux: u16,
        recover_aux: bool,
    },
    Assign {
        process: ProcessId,
        seat: u16,
        /// `None`: the seat has never been taken, there is nothing to recover.
        heritage: Option<Heritage>,
    },
    HandOver(ProcessId),
    /// Stop the slots, but stay.
    StandBy(ProcessId),
    /// Every worker stands by.
    AllStoodBy,
    /// A worker died that was to stand by.
    Broken,
    /// A successor's processes are ready.
    Gathered,
    Kill(ProcessId),
    /// A seat is served again. `waited` runs from the notice of the death to Serving.
    TookOver {
        seat: u16,
        process: ProcessId,
        cause: Cause,
        waited: Duration,
    },
    /// Every seat is served for the first time under this supervisor.
    AllServing,
    Restarted(Ticket),
    /// A restart or an upgrade is not done, and nothing has changed; or a stop has ended it.
    Refused(Ticket, &'static str),
    /// Ring the doorbells of this process's slots and say when all have [`Input::Answered`].
    Ring(ProcessId),
    /// The seat's process runs the new program and is healthy.
    Moved(Ticket, u16),
    /// Every process runs the new program.
    Upgraded(Ticket),
    /// The upgrade has failed; what has moved goes back.
    GoesBack(Ticket, Setback),
    /// Every process runs the old program again.
    WentBack(Ticket, Setback),
    /// The first start failed for good: nothing is served, so say why and leave.
    GiveUp,
    Stopped,
}

/// What an heir finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heritage {
    /// When the first death of this vacancy was seen.
    pub(crate) since: Instant,
    pub(crate) cause: Cause,
    /// Some process died in this vacancy by its own fault, so the message at hand is under suspicion.
    pub(crate) suspect: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Starting,
    Spare,
    Assigned(u16),
    Serving(u16),
    /// Stops its slots; the seat stays taken.
    Halting(u16),
    /// Has stopped its slots.
    Halted(u16),
    /// HandOver was sent; the seat stays taken until the exit.
    Leaving(Option<u16>),
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) aux: u16,
    pub(crate) image: Image,
    pub(crate) state: State,
    pub(crate) since: Instant,
    pub(crate) started_at: Instant,
    /// When the process is killed unless it has gone on to the next state.
    overdue: Option<Instant>,
    /// Its participant was a dead process's.
    recovers_aux: bool,
    /// Why it is being killed, if it is.
    lost: Option<Cause>,
    served: bool,
    /// It has passed the trial of an upgrade.
    proven: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Seat {
    pub(crate) incumbent: Option<ProcessId>,
    /// Deaths and planned restarts.
    pub(crate) restarts: u64,
    /// How the last process in it ended.
    pub(crate) last_exit: Option<Cause>,
    /// From a death until an heir serves.
    vacancy: Option<Heritage>,
}

/// What a supervisor finds that takes over another's processes.
#[derive(Debug, Default)]
pub(crate) struct Census {
    pub(crate) seats: Vec<SeatRecord>,
    /// Those that live; one that does not answer is `Leaving`.
    pub(crate) processes: Vec<Found>,
    /// Participants that nobody ever had.
    pub(crate) aux_fresh: BTreeSet<u16>,
    /// Participants of the dead.
    pub(crate) aux_dead: BTreeSet<u16>,
    /// Above every process id that was used.
    pub(crate) next: u32,
    pub(crate) all_served: bool,
}

/// What the arena keeps of a seat.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SeatRecord {
    /// Somebody had it.
    pub(crate) used: bool,
    pub(crate) restarts: u64,
    pub(crate) last_exit: Option<Cause>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) process: ProcessId,
    pub(crate) aux: u16,
    pub(crate) state: State,
    pub(crate) started_at: Instant,
}

#[derive(Debug)]
struct Restart {
    ticket: Ticket,
    left: VecDeque<u16>,
    /// The seat whose process was told to leave.
    under_way: Option<u16>,
}

/// Restarts that may wait behind the one under way.
const RESTARTS_MAX: usize = 16;
/// Processes in a row that may die before they serve, while nothing has been served yet.
const START_FAILURES_MAX: u32 = 3;
/// Failed starts in a row that cost no wait: while only the spare is missing, and while a seat waits for its heir. A
/// take-over is not delayed unless nothing starts at all.
const SPARE_FAILURES_FREE: u32 = 2;
const HEIR_FAILURES_FREE: u32 = 10;
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// The new spare starts once the heir serves, or after this: a process start beside a take-over costs it a core.
const SPARE_HOLD: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Fleet {
    patience: Patience,
    seats: Vec<Seat>,
    processes: BTreeMap<ProcessId, Process>,
    next: u32,
    /// Control-thread participants that nobody has had.
    aux_fresh: BTreeSet<u16>,
    /// Those of dead processes; the next ones to be used, so that none stays unrecovered for long.
    aux_dead: BTreeSet<u16>,
    restarts: VecDeque<Restart>,
    /// What processes are started from.
    image: Image,
    upgrade: Option<Upgrade>,
    held: Option<Hold>,
    /// Processes in a row that died before they served.
    failures: u32,
    /// When the last of them died.
    failed_at: Instant,
    /// See [`SPARE_HOLD`].
    hold: Option<Instant>,
    /// How the last process ended, whatever it was.
    last_exit: Option<Cause>,
    /// Every seat has been served, by processes of this supervisor or of an earlier one.
    all_served: bool,
    /// Whether this supervisor has said so.
    announced: bool,
    stopping: bool,
    stopped: bool,
}

impl Fleet {
    /// `aux`: how many control-thread participants the arena has; see [`Fleet::aux_wanted`].
    pub(crate) fn new(seats: u16, aux: u16, patience: Patience) -> Self {
        Self {
            patience,
            seats: (0..seats).map(|_| Seat::default()).collect(),
            processes: BTreeMap::new(),
            next: 0,
            aux_fresh: (0..aux).collect(),
            aux_dead: BTreeSet::new(),
            restarts: VecDeque::new(),
            image: Image(0),
            upgrade: None,
            held: None,
            failures: 0,
            failed_at: Instant::ZERO,
            hold: None,
            last_exit: None,
            all_served: false,
            announced: false,
            stopping: false,
            stopped: false,
        }
    }

    /// The fleet of a supervisor that died, as its survivors and the arena's process directory tell.
    pub(crate) fn adopt(now: Instant, census: Census, patience: Patience) -> Self {
        let mut fleet = Self::new(0, 0, patience);
        fleet.next = census.next;
        fleet.all_served = census.all_served;
        fleet.aux_fresh = census.aux_fresh;
        fleet.aux_dead = census.aux_dead;
        for found in census.processes {
            let (state, wait) = match found.state {
                // It has had its time already: the first tick kills it. That is no suspicion, see `on_tick`.
                State::Leaving(seat) => (State::Leaving(seat), Some(Duration::ZERO)),
                State::Assigned(seat) => (State::Assigned(seat), Some(patience.serve)),
                State::Starting => (State::Starting, Some(patience.start)),
                State::Spare | State::Halting(_) | State::Halted(_) => (State::Spare, None),
                State::Serving(seat) => (State::Serving(seat), None),
            };
            let process = Process {
                aux: found.aux,
                // Programs of one layout are as good as each other; an upgrade would have said so otherwise.
                image: fleet.image,
                state,
                since: now,
                started_at: found.started_at,
                overdue: wait.map(|wait| now.saturating_add(wait)),
                recovers_aux: true,
                lost: None,
                served: matches!(state, State::Serving(_)),
                proven: false,
            };
            fleet.processes.insert(found.process, process);
        }
        for (number, record) in (0u16..).zip(census.seats) {
            let incumbent = fleet
                .processes
                .iter()
                .find(|(_, process)| process.seat() == Some(number))
                .map(|(id, _)| *id);
            // Its owner died while nobody watched, or had died before and has no heir yet.
            let orphaned = incumbent.is_none() && record.used;
            fleet.seats.push(Seat {
                incumbent,
                restarts: record.restarts + u64::from(orphaned),
                last_exit: if orphaned {
                    Some(Cause::Unwatched)
                } else {
                    record.last_exit
                },
                vacancy: orphaned.then_some(Heritage {
                    since: now,
                    cause: Cause::Unwatched,
                    suspect: false,
                }),
            });
        }
        fleet
    }

    /// One for each process that can be alive, a process is started only while fewer than that are: the seats', the spare, and
    /// the spare of an upgrade.
    pub(crate) fn aux_wanted(seats: u16) -> u16 {
        seats + 2
    }

    pub(crate) fn seats(&self) -> &[Seat] {
        &self.seats
    }

    pub(crate) fn processes(&self) -> impl Iterator<Item = (ProcessId, &Process)> {
        self.processes.iter().map(|(id, process)| (*id, process))
    }

    /// Whether every seat was served at some time.
    pub(crate) fn all_served(&self) -> bool {
        self.all_served
    }

    /// Participants whose processes are dead.
    pub(crate) fn aux_dead(&self) -> impl Iterator<Item = u16> {
        self.aux_dead.iter().copied()
    }

    pub(crate) fn process(&self, id: ProcessId) -> Option<&Process> {
        self.processes.get(&id)
    }

    /// Some process that serves, for questions that any worker can answer.
    pub(crate) fn anyone_serving(&self) -> Option<ProcessId> {
        self.processes()
            .find(|(_, process)| matches!(process.state, State::Serving(_)))
            .map(|(id, _)| id)
    }

    pub(crate) fn last_exit(&self) -> Option<Cause> {
        self.last_exit
    }

    /// Whether every seat has been served under this supervisor.
    pub(crate) fn everybody_serves(&self) -> bool {
        self.announced
    }

    /// The earliest moment at which `Tick` has work to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let overdue = self
            .processes
            .values()
            .filter_map(|process| process.overdue);
        let spawn = self
            .spawn_at()
            .filter(|_| !self.stopping && self.spawns_wanted() > 0);
        overdue.chain(spawn).chain(self.trial_deadline()).min()
    }

    pub(crate) fn step(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Ready(id) => self.on_ready(now, id),
            Input::Serving(id) => self.on_serving(now, id, out),
            Input::Failed(id) => self.on_failed(id, out),
            Input::Exited { process, cause } => self.on_exited(now, process, cause, out),
            Input::Hung(id) => self.on_lost(id, Cause::Hung, out),
            Input::Stopped(id) => self.on_lost(id, Cause::Stopped, out),
            Input::Hangs(id) => self.on_hangs(now, id, Cause::Hung),
            Input::Deaf(id) => self.on_hangs(now, id, Cause::Deaf),
            Input::Restart { ticket, seats } => self.on_restart(ticket, seats, out),
            Input::Upgrade { ticket, image } => self.on_upgrade(ticket, image, out),
            Input::Downgrade { ticket, image } => self.on_downgrade(now, ticket, image, out),
            Input::Answered(id) => self.on_answered(id),
            Input::StandBy => self.on_stand_by(now, out),
            Input::StoodBy(id) => self.on_stood_by(now, id, out),
            Input::Resume => self.on_resume(now, out),
            Input::Go { since } => self.on_go(since),
            Input::Stop => self.on_stop(now, out),
            Input::Tick => self.on_tick(now, out),
        }
        self.settle(now, out);
    }

    fn on_ready(&mut self, now: Instant, id: ProcessId) {
        if let Some(process) = self.processes.get_mut(&id)
            && process.state == State::Starting
        {
            process.go(State::Spare, now, None);
        }
    }

    fn on_serving(&mut self, now: Instant, id: ProcessId, out: &mut Vec<Output>) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        let State::Assigned(seat) = process.state else {
            return;
        };
        process.go(State::Serving(seat), now, None);
        process.served = true;
        self.failures = 0;
        self.hold = None;
        let place = &mut self.seats[usize::from(seat)];
        if let Some(vacancy) = place.vacancy.take() {
            let waited = now.saturating_duration_since(vacancy.since);
            out.push(Output::TookOver {
                seat,
                process: id,
                cause: vacancy.cause,
                waited,
            });
        }
    }

    fn on_failed(&mut self, id: ProcessId, out: &mut Vec<Output>) {
        if !self.processes.contains_key(&id) {
            return;
        }
        if !self.all_served && !self.stopping {
            out.push(Output::GiveUp);
        }
        out.push(Output::Kill(id));
    }

    fn on_lost(&mut self, id: ProcessId, cause: Cause, out: &mut Vec<Output>) {
        if let Some(process) = self.processes.get_mut(&id)
            && process.lost.is_none()
        {
            process.lost = Some(cause);
            out.push(Output::Kill(id));
        }
    }

    fn on_hangs(&mut self, now: Instant, id: ProcessId, cause: Cause) {
        if let Some(process) = self.processes.get_mut(&id)
            && process.lost.is_none()
        {
            process.lost = Some(cause);
            let latest = now.saturating_add(self.patience.stack);
            process.overdue = Some(process.overdue.map_or(latest, |due| due.min(latest)));
        }
    }

    fn on_exited(&mut self, now: Instant, id: ProcessId, cause: Cause, out: &mut Vec<Output>) {
        let Some(process) = self.processes.remove(&id) else {
            return;
        };
        let cause = match (process.lost, process.state, cause) {
            (Some(why), _, _) => why,
            (None, State::Leaving(_), Cause::Code(0)) => Cause::Planned,
            // A spare that was told to go, by whatever means.
            (None, State::Leaving(None), _) => Cause::Planned,
            (None, _, cause) => cause,
        };
        self.hold = None;
        self.last_exit = Some(cause);
        if !process.served {
            self.failed_at = now;
            self.failures = self.failures.saturating_add(1);
        }
        if cause.never_ran() && !process.recovers_aux {
            self.aux_fresh.insert(process.aux);
        } else {
            self.aux_dead.insert(process.aux);
        }
        if let Some(seat) = process.seat() {
            self.vacate(now, seat, cause);
        }
        self.lost_to_upgrade(now, process.image, process.seat(), cause, out);
    }

    fn vacate(&mut self, now: Instant, seat: u16, cause: Cause) {
        let seat = &mut self.seats[usize::from(seat)];
        seat.incumbent = None;
        seat.restarts += 1;
        seat.last_exit = Some(cause);
        let vacancy = seat.vacancy.get_or_insert(Heritage {
            since: now,
            cause,
            suspect: false,
        });
        vacancy.suspect |= cause.suspect();
    }

    fn on_restart(&mut self, ticket: Ticket, seats: Seats, out: &mut Vec<Output>) {
        let left: VecDeque<u16> = match seats {
            Seats::All => (0..self.seats.len() as u16).collect(),
            Seats::One(seat) if usize::from(seat) < self.seats.len() => VecDeque::from([seat]),
            Seats::One(_) => {
                return out.push(Output::Refused(ticket, "there is no worker of that number"));
            }
        };
        if self.stopping {
            return out.push(Output::Refused(ticket, "the server is stopping"));
        }
        if self.upgrading() {
            return out.push(Output::Refused(ticket, "an upgrade is under way"));
        }
        if self.held.is_some() {
            return out.push(Output::Refused(
                ticket,
                "the server is moving to another arena",
            ));
        }
        if self.restarts.len() >= RESTARTS_MAX {
            return out.push(Output::Refused(
                ticket,
                "too many restarts are waiting already",
            ));
        }
        self.restarts.push_back(Restart {
            ticket,
            left,
            under_way: None,
        });
    }

    fn on_stop(&mut self, now: Instant, out: &mut Vec<Output>) {
        let at_once = self.stopping;
        self.stopping = true;
        for restart in self.restarts.drain(..) {
            out.push(Output::Refused(restart.ticket, "the server is stopping"));
        }
        self.drop_upgrade(out);
        self.held = None;
        let overdue = now.saturating_add(self.patience.drain);
        for (id, process) in &mut self.processes {
            if at_once {
                out.push(Output::Kill(*id));
            } else if !matches!(process.state, State::Leaving(_)) {
                process.go(State::Leaving(process.seat()), now, Some(overdue));
                out.push(Output::HandOver(*id));
            }
        }
    }

    fn on_tick(&mut self, now: Instant, out: &mut Vec<Output>) {
        for (id, process) in &mut self.processes {
            if process.overdue.is_some_and(|overdue| overdue <= now) {
                process.overdue = None;
                // A worker that does not leave in time is no suspect: nothing says that a message holds it.
                if !matches!(process.state, State::Leaving(_)) {
                    process.lost.get_or_insert(Cause::Hung);
                }
                out.push(Output::Kill(*id));
            }
        }
        self.hold = self.hold.filter(|moment| *moment > now);
    }

    /// What follows from the state alone, whatever the input was.
    fn settle(&mut self, now: Instant, out: &mut Vec<Output>) {
        if !self.announced && self.seats.iter().all(|seat| self.serving(seat)) {
            self.announced = true;
            self.all_served = true;
            out.push(Output::AllServing);
        }
        if self.stopping {
            if self.processes.is_empty() && !self.stopped {
                self.stopped = true;
                out.push(Output::Stopped);
            }
            return;
        }
        if self.held.is_some() {
            self.settle_held(out);
        } else {
            self.assign(now, out);
            self.go_on_with_restart(now, out);
            self.go_on_with_upgrade(now, out);
        }
        if !self.all_served && self.failures >= START_FAILURES_MAX {
            self.failures = 0;
            return out.push(Output::GiveUp);
        }
        self.spawn(now, out);
    }

    /// Gives vacant seats to spares, the longest vacant first.
    fn assign(&mut self, now: Instant, out: &mut Vec<Output>) {
        loop {
            let vacant = (0u16..)
                .zip(&self.seats)
                .filter(|(_, seat)| seat.incumbent.is_none());
            let Some((number, _)) = vacant
                .min_by_key(|(number, seat)| (seat.vacancy.as_ref().map(|v| v.since), *number))
            else {
                return;
            };
            let image = self.image;
            let spares = self
                .processes
                .iter_mut()
                .filter(|(_, p)| p.state == State::Spare);
            // In the middle of an upgrade there may be two: the one of the program that is wanted.
            let Some((id, process)) = spares.min_by_key(|(_, p)| p.image != image) else {
                return;
            };
            process.go(
                State::Assigned(number),
                now,
                Some(now.saturating_add(self.patience.serve)),
            );
            let seat = &mut self.seats[usize::from(number)];
            seat.incumbent = Some(*id);
            out.push(Output::Assign {
                process: *id,
                seat: number,
                heritage: seat.vacancy.clone(),
            });
            if self.all_served {
                self.hold = Some(now.saturating_add(SPARE_HOLD));
            }
        }
    }

    /// One seat at a time, and only with every seat served and a spare ready to take over.
    fn go_on_with_restart(&mut self, now: Instant, out: &mut Vec<Output>) {
        while let Some(restart) = self.restarts.front() {
            if !self.seats.iter().all(|seat| self.serving(seat)) {
                return;
            }
            if restart.left.is_empty() {
                out.push(Output::Restarted(restart.ticket));
                self.restarts.pop_front();
                continue;
            }
            if !self
                .processes
                .values()
                .any(|process| process.state == State::Spare)
            {
                return;
            }
            let overdue = now.saturating_add(self.patience.drain);
            let Some(seat) = self.restarts.front_mut().and_then(|restart| {
                restart.under_way = restart.left.pop_front();
                restart.under_way
            }) else {
                return;
            };
            let Some(id) = self.seats[usize::from(seat)].incumbent else {
                return;
            };
            if let Some(process) = self.processes.get_mut(&id) {
                process.go(State::Leaving(Some(seat)), now, Some(overdue));
                out.push(Output::HandOver(id));
            }
        }
    }

    fn spawn(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.spawn_at().is_some_and(|moment| moment > now) {
            return;
        }
        for _ in 0..self.spawns_wanted() {
            let dead = self.aux_dead.pop_first();
            let Some(aux) = dead.or_else(|| self.aux_fresh.pop_first()) else {
                return;
            };
            let id = ProcessId(self.next);
            self.next += 1;
            let overdue = Some(now.saturating_add(self.patience.start));
            let process = Process {
                aux,
                image: self.image,
                state: State::Starting,
                since: now,
                started_at: now,
                overdue,
                recovers_aux: dead.is_some(),
                lost: None,
                served: false,
                proven: false,
            };
            self.processes.insert(id, process);
            out.push(Output::Spawn {
                process: id,
                image: self.image,
                aux,
                recover_aux: dead.is_some(),
            });
        }
    }

    fn vacant(&self) -> usize {
        self.seats
            .iter()
            .filter(|seat| seat.incumbent.is_none())
            .count()
    }

    /// Processes to start so that every seat and the spare's place can be filled.
    fn spawns_wanted(&self) -> usize {
        if matches!(self.held, Some(Hold::Standing { .. })) {
            return 0;
        }
        let coming = |process: &&Process| {
            matches!(process.state, State::Starting | State::Spare) && process.image == self.image
        };
        let coming = self.processes.values().filter(coming).count();
        (self.vacant() + 1).saturating_sub(coming)
    }

    /// The earliest moment for the next start; `None`: at once.
    fn spawn_at(&self) -> Option<Instant> {
        let free = if self.vacant() > 0 {
            HEIR_FAILURES_FREE
        } else {
            SPARE_FAILURES_FREE
        };
        let back_off = self.failures.checked_sub(free).map(|more| {
            let wait = BACK_OFF_MIN
                .saturating_mul(1 << more.min(16))
                .min(BACK_OFF_MAX);
            self.failed_at.saturating_add(wait)
        });
        back_off.max(self.hold)
    }

    fn serving(&self, seat: &Seat) -> bool {
        let process = seat.incumbent.and_then(|id| self.processes.get(&id));
        process.is_some_and(|process| matches!(process.state, State::Serving(_)))
    }
}

impl Process {
    fn go(&mut self, state: State, now: Instant, overdue: Option<Instant>) {
        self.state = state;
        self.since = now;
        self.overdue = overdue;
    }

    pub(crate) fn leaving(&self) -> bool {
        matches!(self.state, State::Leaving(_))
    }

    pub(crate) fn seat(&self) -> Option<u16> {
        match self.state {
            State::Assigned(seat)
            | State::Serving(seat)
            | State::Halting(seat)
            | State::Halted(seat) => Some(seat),
            State::Leaving(seat) => seat,
            State::Starting | State::Spare => None,
        }
    }
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
