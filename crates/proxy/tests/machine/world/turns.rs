//! Turns of a slot, as a worker's loop makes them, with a point at which it may die between any two steps.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use proxy::{Ask, ContextId, Datagram, Disposition, Env, Input, Outputs, Proxy};
use shm::ParticipantId;

use super::{Died, Packet, TRIES_MAX, Wire, World, engine, policy};

impl World {
    /// One machine input.
    pub fn step(&mut self, slot: usize, input: Input<'_>) -> Disposition {
        let now = self.now;
        let slot = &mut self.slots[slot];
        let mut env = Env {
            now,
            turn: slot.turn,
            arena: &mut slot.participant,
        };
        slot.proxy.step(&mut env, input, &mut slot.out)
    }

    pub fn settle(&mut self, slot: usize, at_hand: Option<Datagram<'_>>) -> Disposition {
        let now = self.now;
        let slot = &mut self.slots[slot];
        let mut env = Env {
            now,
            turn: slot.turn,
            arena: &mut slot.participant,
        };
        slot.proxy.settle(&mut env, at_hand, &mut slot.out)
    }

    /// Answers one question as the policy says. False if there is no such question any more.
    pub fn answer(&mut self, slot: usize, ask: Ask, at_hand: Option<Datagram<'_>>) -> bool {
        let now = self.now;
        let place = slot;
        let slot = &mut self.slots[slot];
        let env = Env {
            now,
            turn: slot.turn,
            arena: &mut slot.participant,
        };
        let (policy, settings) = (&self.policy, &self.settings);
        let answer = slot.proxy.question(&env, ask.id, at_hand, |question| {
            policy.answer(ask.kind, &question, settings)
        });
        let Some(answer) = answer else {
            return false;
        };
        self.step(
            place,
            Input::Answer {
                id: ask.id,
                answer,
                at_hand,
            },
        );
        true
    }

    /// Answers what is asked until nothing is, except what is held back.
    pub fn answer_asks(&mut self, slot: usize, at_hand: Option<Datagram<'_>>) -> Result<(), Died> {
        while let Some(ask) = self.slots[slot].out.asks.pop() {
            if self.policy.holds(ask.kind) {
                self.slots[slot].held.push(ask);
                let count = self.slots[slot].held.len();
                self.note(&format!("? {count} {}", policy::kind_name(ask.kind)));
                continue;
            }
            self.answer(slot, ask, at_hand);
            self.point()?;
        }
        Ok(())
    }

    /// Gives what was settled to the driver and the wheel.
    pub fn dispatch(&mut self, slot: usize) {
        let slot = &mut self.slots[slot];
        for send in &slot.out.sends {
            slot.unsent.push(Wire {
                listener: send.listener.id,
                to: send.to,
                text: String::from_utf8_lossy(slot.out.text(send)).into_owned(),
            });
        }
        for &(deadline, id) in &slot.out.arms {
            slot.wheel.insert((deadline, id.pack()));
        }
        let place = usize::from(slot.number);
        self.media
            .extend(slot.out.media.drain(..).map(|ask| (place, ask)));
        for id in slot.out.media_ended.drain(..) {
            engine::free(&mut slot.participant, id);
        }
        let hops = std::mem::take(&mut slot.out.hops);
        assert!(slot.out.asks.is_empty(), "every question was taken");
        slot.out.clear();
        for (to, state) in hops {
            if self.hops {
                self.note(&format!("hop {to} {state:?}"));
            }
        }
    }

    /// Goes on with a take-over to its end.
    pub fn adopt_all(&mut self, slot: usize) {
        while self.slots[slot].proxy.is_adopting() {
            self.turn(slot, |_| Ok(()));
        }
    }

    /// Datagrams come to a slot, all in one turn.
    pub fn deliver(&mut self, slot: usize, packets: Vec<Packet>) {
        self.slots[slot].journal.extend(packets.iter().cloned());
        let mut mail = Vec::new();
        self.turn(slot, |world| {
            for packet in &packets {
                world.serve(slot, packet, &mut mail)?;
            }
            Ok(())
        });
        self.post(mail);
    }

    /// Mail to other slots is read in a turn of theirs.
    pub(super) fn post(&mut self, mail: Vec<(usize, Packet)>) {
        for (to, packet) in mail {
            self.note(&format!("to slot {to}"));
            let mut more = Vec::new();
            // It is in the journal of the slot that has to serve it already.
            self.turn(to, |world| world.serve(to, &packet, &mut more));
            self.post(more);
        }
    }

    pub(super) fn turn(&mut self, slot: usize, work: impl FnOnce(&mut Self) -> Result<(), Died>) {
        let it = &mut self.slots[slot];
        it.turn += 1;
        it.participant.quiescent();
        let mut env = Env {
            now: self.now,
            turn: it.turn,
            arena: &mut it.participant,
        };
        // Two rows a turn, so that messages meet records which are not taken over yet.
        it.proxy.adopt_more(&mut env, 2, &mut it.out);
        let adopted = self.answer_asks(slot, None).map(|()| {
            self.settle(slot, None);
            self.dispatch(slot);
        });
        let done = adopted
            .and_then(|()| work(self))
            .and_then(|()| self.submit(slot));
        let died = done.is_err();
        if died {
            self.die(slot);
        }
        for (slot, listener, to, too_long) in std::mem::take(&mut self.failed) {
            self.fail(slot, listener, to, too_long);
        }
        let looped = std::mem::take(&mut self.looped);
        if !looped.is_empty() {
            self.deliver(slot, looped);
        }
        if died {
            // An heir waits a little for signs that requests went out, before it sends them again; so does the script.
            self.pass(Duration::from_millis(150));
        }
        self.run_engine();
    }

    /// The kernel says that a datagram did not leave.
    pub(super) fn fail(
        &mut self,
        slot: usize,
        listener: u32,
        to: SocketAddr,
        too_long: Option<usize>,
    ) {
        self.turn(slot, |world| {
            world.point()?;
            world.step(
                slot,
                Input::Unreachable {
                    listener,
                    to,
                    too_long,
                },
            );
            world.answer_asks(slot, None)?;
            world.settle(slot, None);
            world.point()?;
            world.dispatch(slot);
            Ok(())
        });
    }

    pub(super) fn serve(
        &mut self,
        slot: usize,
        packet: &Packet,
        mail: &mut Vec<(usize, Packet)>,
    ) -> Result<(), Died> {
        let datagram = packet.datagram();
        let mut disposition = Disposition::Again;
        for _ in 0..TRIES_MAX {
            self.point()?;
            disposition = self.step(slot, Input::Datagram(datagram));
            if disposition == Disposition::Served {
                self.answer_asks(slot, Some(datagram))?;
                self.point()?;
                disposition = self.settle(slot, Some(datagram));
            }
            if disposition != Disposition::Again {
                break;
            }
        }
        self.point()?;
        match disposition {
            Disposition::Owner(owner) if usize::from(owner) != slot => {
                // One word in the arena: from one journal to the other.
                let at = self.slots[slot]
                    .journal
                    .iter()
                    .position(|other| Rc::ptr_eq(&other.bytes, &packet.bytes));
                if let Some(at) = at {
                    let packet = self.slots[slot].journal.remove(at);
                    self.slots[usize::from(owner)].journal.push(packet.clone());
                    mail.push((usize::from(owner), packet));
                }
            }
            Disposition::Unserved => self.note("unserved"),
            Disposition::Again => self.note("still again"),
            _ => {}
        }
        self.dispatch(slot);
        Ok(())
    }

    /// The turn's sends go out one by one, then the turn is done.
    pub(super) fn submit(&mut self, slot: usize) -> Result<(), Died> {
        while !self.slots[slot].unsent.is_empty() {
            self.point()?;
            let wire = self.slots[slot].unsent.remove(0);
            let len = wire.text.len();
            let narrow = self.policy.narrow.get(&wire.to);
            let too_long = narrow.is_some_and(|&most| len > most).then_some(len);
            if self.policy.unreachable.contains(&wire.to) || too_long.is_some() {
                self.failed.push((slot, wire.listener, wire.to, too_long));
                continue;
            }
            self.arrive(wire);
        }
        self.point()?;
        let slot = &mut self.slots[slot];
        slot.turn_done = slot.turn;
        slot.journal.clear();
        self.point()
    }

    /// The slot's worker dies: its heap is gone. An heir takes over at once.
    pub fn die(&mut self, slot: usize) {
        loop {
            self.died += 1;
            if self.take_over(slot).is_ok() {
                return;
            }
        }
    }

    pub(super) fn take_over(&mut self, slot: usize) -> Result<(), Died> {
        let now = self.now;
        let number = self.slots[slot].number;
        let it = &mut self.slots[slot];
        // No destructor runs in a worker that was killed.
        self.ghosts.push(std::mem::replace(
            &mut it.participant,
            self.arena.participant(ParticipantId(number)),
        ));
        it.participant.recover(ParticipantId(number));
        it.participant.online();
        it.turn += 1;
        it.wheel.clear();
        it.unsent.clear();
        // What the kernel said to the dead worker.
        self.failed.retain(|failed| failed.0 != slot);
        it.held.clear();
        self.media.retain(|waiting| waiting.0 != slot);
        it.out = Outputs::default();
        it.proxy = Proxy::new(number, self.arena.key(), Arc::clone(&self.settings));
        let mut env = Env {
            now,
            turn: it.turn,
            arena: &mut it.participant,
        };
        it.proxy.adopt(&mut env, it.turn_done, &mut it.out);
        self.point()?;
        self.answer_asks(slot, None)?;
        // What was resumed is sent within this turn, before the turn counts as done.
        let now = self.now;
        let arms = std::mem::take(&mut self.slots[slot].out.arms);
        let (due, later) = arms
            .into_iter()
            .partition::<Vec<_>, _>(|&(at, _)| at <= now);
        self.slots[slot].out.arms = later;
        for (_, id) in due {
            self.step(slot, Input::Tick(id));
            self.point()?;
        }
        self.answer_asks(slot, None)?;
        self.settle(slot, None);
        self.point()?;
        self.dispatch(slot);
        let mut mail = Vec::new();
        for packet in self.slots[slot].journal.clone() {
            self.serve(slot, &packet, &mut mail)?;
        }
        self.submit(slot)?;
        self.post(mail);
        Ok(())
    }

    /// Serves what is due, one timer a turn, as late as it may be.
    pub fn tick(&mut self, slot: usize) {
        while let Some(&(at, id)) = self.slots[slot].wheel.first()
            && at <= self.now
        {
            self.slots[slot].wheel.pop_first();
            self.turn(slot, |world| {
                world.point()?;
                world.step(slot, Input::Tick(ContextId::unpack(id)));
                world.answer_asks(slot, None)?;
                world.point()?;
                world.settle(slot, None);
                world.point()?;
                world.dispatch(slot);
                Ok(())
            });
        }
    }

    /// Answers a question in a turn of its own.
    pub fn answer_late(&mut self, slot: usize, ask: Ask) {
        self.turn(slot, |world| {
            world.point()?;
            if !world.answer(slot, ask, None) {
                world.note("no such question");
            }
            world.point()?;
            world.answer_asks(slot, None)?;
            world.settle(slot, None);
            world.point()?;
            world.dispatch(slot);
            Ok(())
        });
    }

    /// Answers everything that is held back, in the order in which it was asked or the other way round.
    pub fn release(&mut self, slot: usize, backwards: bool) {
        while !self.slots[slot].held.is_empty() {
            let at = if backwards {
                self.slots[slot].held.len() - 1
            } else {
                0
            };
            let ask = self.slots[slot].held.remove(at);
            self.answer_late(slot, ask);
        }
    }

    /// Sends what was dispatched outside a turn.
    pub fn flush(&mut self) {
        for slot in 0..self.slots.len() {
            self.turn(slot, |_| Ok(()));
        }
    }
}
