//! Buffers on their way between slots.

use shm::{BufferRef, Doorbell, Mail, RxState, SlotId};
use tables::Counter;

use crate::{slot::Slot, world::World};

impl Slot {
    pub(crate) fn post<W: World>(&mut self, world: &mut W, to: SlotId, mail: Mail) {
        match self.place.participant.send(to, mail) {
            Ok(Doorbell::Ring) => world.ring(to),
            Ok(Doorbell::Awake) => {}
            Err(_) => self.outbox.push_back((to, mail)),
        }
    }

    pub(crate) fn take_mail<W: World>(&mut self, world: &mut W) {
        for _ in 0..self.outbox.len() {
            if let Some((to, mail)) = self.outbox.pop_front() {
                self.post(world, to, mail);
            }
        }
        let mut inbox = std::mem::take(&mut self.inbox);
        self.place.participant.receive(|_, mail| inbox.push(mail));
        for mail in inbox.drain(..) {
            match mail {
                Mail::Serve(buffer) if self.has_to_serve(buffer) => {
                    self.count(Counter::MailReceived);
                    self.serve(world, buffer);
                }
                Mail::Release(buffer) if self.is_released(buffer) => {
                    world.give_back(buffer.index);
                }
                Mail::Serve(_) | Mail::Release(_) | Mail::Wake => {}
            }
        }
        self.inbox = inbox;
    }

    /// A ring is a hint: who has to serve a buffer is in its meta word.
    fn has_to_serve(&self, buffer: BufferRef) -> bool {
        let meta = self
            .pools
            .get(usize::from(buffer.slot))
            .filter(|pool| buffer.index < pool.count())
            .map(|pool| pool.meta(buffer.index));
        meta.is_some_and(|meta| meta.state == RxState::Held && meta.holder == self.number)
            && !self.served.contains(&buffer)
    }

    fn is_released(&self, buffer: BufferRef) -> bool {
        self.pools
            .get(usize::from(self.number))
            .filter(|pool| buffer.slot == self.number && buffer.index < pool.count())
            .is_some_and(|pool| pool.meta(buffer.index).state == RxState::Done)
    }

    /// Mails once more what the predecessor passed to other slots: it may have died between the two steps. Whoever has served a
    /// buffer already finds it so.
    pub(crate) fn remind_others<W: World>(&mut self, world: &mut W) {
        let Some(pool) = self.pools.get(usize::from(self.number)).cloned() else {
            return;
        };
        for (index, holder) in pool.passed() {
            let buffer = BufferRef {
                slot: self.number,
                index,
            };
            self.post(world, holder, Mail::Serve(buffer));
        }
    }
}
