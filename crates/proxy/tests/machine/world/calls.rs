//! Dialogs on record, as time and the operator look after them, and as the world's books have to be.

use std::time::Duration;

use proxy::Input;
use shm::Cursor;
use stdx::Instant;
use tables::{Balancer, DIALOG, Dialogs, balancer::ResourceKind, dialog::DialogState};

use super::{World, policy};

impl World {
    /// When something is to be done about a dialog next.
    pub fn next_dialog(&self) -> Option<Instant> {
        let mut next = None;
        self.slots[0].participant.rows(DIALOG, |record| {
            next = [next, record.expires_at].into_iter().flatten().min();
        });
        next
    }

    /// Every slot looks after the dialogs in its rows.
    pub(super) fn attend_dialogs(&mut self) {
        for slot in 0..self.slots.len() {
            let mut due = Vec::new();
            let participant = &mut self.slots[slot].participant;
            Dialogs(participant).due(self.now, Cursor::default(), usize::MAX, |row| due.push(row));
            for row in due {
                self.turn(slot, |world| {
                    world.point()?;
                    world.step(slot, Input::Due(row));
                    world.answer_asks(slot, None)?;
                    world.point()?;
                    world.settle(slot, None);
                    world.point()?;
                    world.dispatch(slot);
                    Ok(())
                });
            }
        }
    }

    /// Calls that count in the profile of every call, and dialogs on record that have not ended.
    pub fn calls(&mut self) -> (u64, u64) {
        let participant = &mut self.slots[0].participant;
        let key = policy::every_call();
        let counted = Balancer(participant)
            .find(&key)
            .map_or(0, |found| found.live);
        let mut dialogs = 0;
        participant.rows(DIALOG, |record| {
            let view = tables::dialog::View::new(&record).expect("a dialog");
            dialogs += u64::from(view.state != DialogState::Ended);
        });
        (counted, dialogs)
    }

    /// Every destination has as many calls as are answered there, and no seat is left over.
    pub(super) fn check_seats(&mut self) {
        let mut at = std::collections::BTreeMap::<Vec<u8>, u64>::new();
        let participant = &mut self.slots[0].participant;
        participant.rows(DIALOG, |record| {
            let dialog = tables::dialog::View::new(&record).expect("a dialog").take();
            if dialog.state != DialogState::Ended && !dialog.destination.is_empty() {
                *at.entry(dialog.destination).or_default() += 1;
            }
        });
        let mut live = std::collections::BTreeMap::new();
        let all = usize::MAX;
        Balancer(participant).scan(Cursor::default(), all, |found| {
            if found.key.kind() == Some(ResourceKind::Destination) && found.live > 0 {
                live.insert(found.key.as_bytes().to_vec(), found.live);
            }
        });
        assert_eq!(live, at, "seats");
    }

    /// The dialogs on record, as the operator sees them.
    pub(super) fn show_calls(&mut self) {
        let mut lines = Vec::new();
        self.slots[0].participant.rows(DIALOG, |record| {
            let dialog = tables::dialog::View::new(&record).expect("a dialog").take();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let mut line = format!(
                "{:?} {} {} {} -> {} {}",
                dialog.state,
                text(&dialog.call_id),
                text(&dialog.caller.target),
                dialog.caller.cseq,
                text(&dialog.callee.target),
                dialog.callee.cseq,
            );
            if !dialog.destination.is_empty() {
                line.push_str(&format!(
                    " at {}",
                    text(&dialog.destination[1..]).replace('\0', " ")
                ));
            }
            if let Some(until) = dialog.session_until {
                let left = until
                    .instant()
                    .saturating_duration_since(self.now)
                    .as_secs();
                line.push_str(&format!(
                    " session {} s left {left} s",
                    dialog.session_interval
                ));
            }
            if dialog.probes_failed != 0 {
                line.push_str(&format!(" missed {:#x}", dialog.probes_failed));
            }
            lines.push(line);
        });
        lines.sort();
        for line in lines {
            let line = self.symbolic(&line);
            self.note(&line);
        }
    }

    /// The operator ends every call.
    pub(super) fn end_calls(&mut self) {
        let mut rows = Vec::new();
        let participant = &mut self.slots[0].participant;
        participant.rows(DIALOG, |record| rows.push(record.row));
        for row in rows {
            // One that has ended has nothing to end.
            let _ = Dialogs(participant).ask_to_end(row, self.now);
        }
        self.pass(Duration::ZERO);
    }

    /// The whole dialog table is lost.
    pub fn forget_dialogs(&mut self) {
        let participant = &mut self.slots[0].participant;
        let mut rows = Vec::new();
        participant.rows(DIALOG, |record| rows.push(record.row));
        for row in rows {
            Dialogs(participant).end(row);
        }
    }
}
