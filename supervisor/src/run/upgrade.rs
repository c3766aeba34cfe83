//! `tandem upgrade BINARY`: examine it, move the workers to it, then become it.
//!
//! ```text
//! probe (`tandem about`) --no tandem, other protocol, no permission--> refused, nothing has happened
//!   | same arena layout
//!   v
//! the fleet moves the workers, one after the other (`fleet::upgrade`) --any failure--> the fleet moves them back
//!   | all moved
//!   v
//! this process runs the new program in its own place (`succeed`)
//! ```

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Duration;

use control::PROTOCOL_VERSION;
use failpoint::failpoint;
use stdx::Instant;

use super::clients::ClientId;
use super::fleet::{Image, Input, ProcessId, Setback, Ticket};
use super::images::Program;
use super::probe::Probe;
use super::supervisor::{Supervisor, Token};
use super::switch::Purpose;
use super::trouble::Trouble;
use crate::about::{About, ArenaNumbers};

/// How often slots whose doorbells were rung are looked at.
const LOOK: Duration = Duration::from_millis(5);

/// An upgrade from its request to its end.
#[derive(Debug)]
pub(super) struct Upgrade {
    path: PathBuf,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Probing {
        asker: ClientId,
        probe: Probe,
    },
    /// The fleet has it.
    Moving {
        ticket: Ticket,
        image: Image,
        /// Rung, and not yet answered.
        rung: Option<(ProcessId, Instant)>,
    },
}

impl Supervisor {
    pub(super) fn upgrade(&mut self, asker: ClientId, path: PathBuf) {
        let busy = if self.upgrade.is_some() || self.fleet.upgrading() {
            Some("another upgrade is under way")
        } else if self.switch.is_some() {
            Some("the server is moving to another arena")
        } else if self.is_reloading() {
            Some("a reload is under way")
        } else {
            None
        };
        if let Some(busy) = busy {
            return self.refuse(asker, &Trouble::new(busy, "ask again in a moment"));
        }
        let started = Probe::start(&path, self.arena_numbers(), os::now()).and_then(|probe| {
            self.watch(probe.fd(), Token::Probe)
                .map_err(|error| Trouble::new(format!("the kernel gives no watch: {error}"), ""))?;
            Ok(probe)
        });
        match started {
            Ok(probe) => {
                tracing::info!(binary = %path.display(), "upgrading");
                self.upgrade = Some(Upgrade {
                    path,
                    stage: Stage::Probing { asker, probe },
                });
            }
            Err(trouble) => self.refuse_upgrade(asker, &trouble),
        }
    }

    fn refuse_upgrade(&mut self, asker: ClientId, trouble: &Trouble) {
        tracing::error!("upgrade refused: {trouble}");
        self.refuse(asker, trouble);
    }

    fn arena_numbers(&self) -> ArenaNumbers {
        self.memory.numbers()
    }

    /// The examined program has said something.
    pub(super) fn on_probe(&mut self) {
        let Some(Upgrade {
            stage: Stage::Probing { probe, .. },
            ..
        }) = &mut self.upgrade
        else {
            return;
        };
        if let Some(answer) = probe.on_readable() {
            self.on_about(answer);
        }
    }

    fn on_about(&mut self, answer: Option<About>) {
        let Some(Upgrade {
            path,
            stage: Stage::Probing { asker, probe },
        }) = self.upgrade.take()
        else {
            return;
        };
        self.unwatch(probe.fd());
        let about = match judge(&path, answer) {
            Ok(about) => about,
            Err(trouble) => return self.refuse_upgrade(asker, &trouble),
        };
        let shared = (about.abi, about.layout) == (shm::ABI_MAJOR, Some(self.memory.layout_hash()));
        let executable = match os::Executable::from_fd(&probe.executable) {
            Ok(executable) => executable,
            Err(error) => {
                let cause = format!("the kernel gives no descriptor: {error}");
                return self.refuse_upgrade(asker, &Trouble::new(cause, ""));
            }
        };
        failpoint!("supervisor.upgrade.probed");
        let image = self.images.add(Program {
            executable,
            version: about.version,
        });
        let ticket = self.new_ticket();
        self.restarting.insert(ticket, asker);
        self.upgrade = Some(Upgrade {
            path,
            stage: Stage::Moving {
                ticket,
                image,
                rung: None,
            },
        });
        if about.snapshot != snapshot::FORMAT {
            let text = format!(
                "its snapshots are of format {}: this program, which writes format {}, can't read them after a way back",
                about.snapshot,
                snapshot::FORMAT
            );
            self.note(ticket, text);
        }
        if shared {
            self.feed(Input::Upgrade { ticket, image });
        } else {
            self.note(
                ticket,
                "it lays out the arena in another way: moving to an arena of its own".to_owned(),
            );
            self.begin_switch(Purpose::Upgrade, ticket, image, self.arena_numbers());
        }
    }

    /// A switch is over; without success everything is as before.
    pub(super) fn upgrade_moved(&mut self, ticket: Ticket, result: Result<(), String>) {
        match result {
            Ok(()) => self.upgraded(ticket),
            Err(why) => self.not_taken(ticket, &why),
        }
    }

    /// The doorbells of a process that was moved; the answer is looked for by [`Supervisor::look_for_answers`].
    pub(super) fn ring(&mut self, id: ProcessId) {
        let Some(seat) = self.fleet.process(id).and_then(|process| process.seat()) else {
            return;
        };
        let now = os::now();
        for slot in self.slots_of(seat) {
            if let Some(bell) = self.doorbells.get(usize::from(slot)) {
                let _ = os::ring_eventfd(bell.as_fd());
            }
        }
        if let Some(Upgrade {
            stage: Stage::Moving { rung, .. },
            ..
        }) = &mut self.upgrade
        {
            *rung = Some((id, now));
        }
    }

    fn rung(&mut self) -> Option<&mut Option<(ProcessId, Instant)>> {
        match &mut self.upgrade.as_mut()?.stage {
            Stage::Moving { rung, .. } => Some(rung),
            Stage::Probing { .. } => None,
        }
    }

    fn look_for_answers(&mut self) {
        let Some((id, since)) = self.rung().and_then(|rung| *rung) else {
            return;
        };
        let seat = self.fleet.process(id).and_then(|process| process.seat());
        let answered = seat.is_some_and(|seat| {
            self.slots_of(seat)
                .all(|slot| self.memory.heartbeat(slot) >= since)
        });
        if seat.is_some() && !answered {
            return;
        }
        if let Some(rung) = self.rung() {
            *rung = None;
        }
        if answered {
            self.feed(Input::Answered(id));
        }
    }

    pub(super) fn upgrade_deadline(&self, now: Instant) -> Option<Instant> {
        match &self.upgrade.as_ref()?.stage {
            Stage::Probing { probe, .. } => Some(probe.deadline),
            Stage::Moving { rung, .. } => rung.map(|_| now.saturating_add(LOOK)),
        }
    }

    pub(super) fn expire_upgrade(&mut self, now: Instant) {
        if let Some(Upgrade {
            stage: Stage::Probing { probe, .. },
            ..
        }) = &self.upgrade
            && probe.deadline <= now
        {
            return self.on_about(None);
        }
        self.look_for_answers();
    }

    pub(super) fn moved(&mut self, ticket: Ticket, seat: u16) {
        let version = self.upgrade_version();
        tracing::info!(worker = seat, version, "upgraded and healthy");
        failpoint!("supervisor.upgrade.one_moved");
        self.note(
            ticket,
            format!("worker {seat}: runs version {version} and is healthy"),
        );
    }

    fn upgrade_version(&self) -> String {
        let image = self
            .upgrade
            .as_ref()
            .and_then(|upgrade| match upgrade.stage {
                Stage::Moving { image, .. } => Some(image),
                Stage::Probing { .. } => None,
            });
        image
            .and_then(|image| self.images.get(image))
            .map(|program| program.version.clone())
            .unwrap_or_default()
    }

    pub(super) fn goes_back(&mut self, ticket: Ticket, setback: Setback) {
        tracing::error!("the upgrade fails, the workers go back: {setback}");
        self.note(ticket, format!("{setback}: going back"));
    }

    pub(super) fn went_back(&mut self, ticket: Ticket, setback: Setback) {
        let said = self
            .failure
            .take()
            .map_or(String::new(), |said| format!(": {said}"));
        self.not_taken(ticket, &format!("{setback}{said}"));
    }

    fn not_taken(&mut self, ticket: Ticket, why: &str) {
        let Some(upgrade) = self.upgrade.take() else {
            return;
        };
        if let Stage::Moving { image, .. } = upgrade.stage {
            self.images.forget(image);
        }
        let trouble = Trouble::new(
            format!("{} was not taken: {why}", upgrade.path.display()),
            "everything runs on the old program, as before; the server's log tells more",
        );
        tracing::error!("upgrade failed: {trouble}");
        if let Some(client) = self.restarting.remove(&ticket) {
            self.refuse(client, &trouble);
        }
        self.after_upgrade();
    }

    /// Refused by the fleet, or ended by a stop; the asker is told by the caller.
    pub(super) fn upgrade_refused(&mut self, ticket: Ticket) {
        let ours = |upgrade: &mut Upgrade| matches!(upgrade.stage, Stage::Moving { ticket: moving, .. } if moving == ticket);
        if let Some(upgrade) = self.upgrade.take_if(ours)
            && let Stage::Moving { image, .. } = upgrade.stage
        {
            self.images.forget(image);
        }
    }

    /// Every worker runs the new program.
    pub(super) fn upgraded(&mut self, ticket: Ticket) {
        let version = self.upgrade_version();
        tracing::info!(version, "all workers are upgraded");
        failpoint!("supervisor.upgrade.all_moved");
        self.note(ticket, format!("all workers run version {version}"));
        let image = self.fleet.image();
        let trouble = self.succeed(image, self.restarting.get(&ticket).copied());
        tracing::error!("{trouble}");
        if self.memory.is_foreign() {
            // There is no way back into an arena that was let go; the workers serve, and any `tandem run` of the new program adopts them.
            return self.not_taken(ticket, &trouble.cause);
        }
        self.failure = Some(trouble.cause);
        self.feed(Input::Downgrade {
            ticket,
            image: Image(0),
        });
    }

    /// Another program became us again, since it could not go on.
    pub(super) fn begin_going_back(&mut self, ticket: Ticket, image: Image) {
        self.upgrade = Some(Upgrade {
            path: PathBuf::from("the new program"),
            stage: Stage::Moving {
                ticket,
                image,
                rung: None,
            },
        });
    }

    /// What waited for its end.
    fn after_upgrade(&mut self) {
        if std::mem::take(&mut self.reload_again) {
            self.reload_by_signal();
        }
    }
}

/// Whether the program can take over from us.
fn judge(path: &std::path::Path, answer: Option<About>) -> Result<About, Trouble> {
    let name = path.display();
    let Some(about) = answer.filter(|about| about.name == "tandem") else {
        return Err(Trouble::new(
            format!("{name} is no `tandem`, or one that knows no upgrade"),
            "name a `tandem` of this or a later release",
        ));
    };
    if about.protocol != PROTOCOL_VERSION {
        return Err(Trouble::new(
            format!(
                "{name} (version {}) speaks control protocol {}, the running server speaks {PROTOCOL_VERSION}",
                about.version, about.protocol
            ),
            "`tandem stop`, then start the new program: registrations and dialogs come back from the snapshot",
        ));
    }
    if !(about.snapshot_oldest..=about.snapshot).contains(&snapshot::FORMAT) {
        return Err(Trouble::new(
            format!(
                "{name} (version {}) reads snapshots of the formats {} to {}, and what the running server has written is of format {}",
                about.version,
                about.snapshot_oldest,
                about.snapshot,
                snapshot::FORMAT
            ),
            "take a release that reads them: with this one registrations and dialogs would be lost at the next start, too",
        ));
    }
    Ok(about)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_cannot_talk_to_us_is_refused() {
        let path = std::path::Path::new("/x");
        let ours = About::of_us(None);
        assert_eq!(judge(path, Some(ours.clone())), Ok(ours.clone()));
        let stranger = About {
            name: "kamailio".into(),
            ..ours.clone()
        };
        for answer in [None, Some(stranger)] {
            let trouble = judge(path, answer).unwrap_err();
            assert!(trouble.cause.contains("is no `tandem`"), "{trouble}");
        }
        let later = About {
            protocol: PROTOCOL_VERSION + 1,
            version: "9.9".into(),
            ..ours.clone()
        };
        let trouble = judge(path, Some(later)).unwrap_err();
        let said = format!(
            "/x (version 9.9) speaks control protocol {}",
            PROTOCOL_VERSION + 1
        );
        assert!(trouble.cause.starts_with(&said), "{trouble}");
        assert!(trouble.remedy.contains("`tandem stop`"), "{trouble}");
        let formats = |snapshot_oldest, snapshot| About {
            snapshot_oldest,
            snapshot,
            ..ours.clone()
        };
        let format = snapshot::FORMAT;
        assert!(judge(path, Some(formats(1, format + 1))).is_ok());
        for (oldest, newest) in [(format + 1, format + 3), (0, format - 1)] {
            let trouble = judge(path, Some(formats(oldest, newest))).unwrap_err();
            assert!(
                trouble.cause.contains("reads snapshots of the formats"),
                "{trouble}"
            );
        }
    }
}
