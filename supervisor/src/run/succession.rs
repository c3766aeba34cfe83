//! The supervisor's own upgrade: it runs the new program in its own place, and that adopts the workers.
//!
//! ```text
//! old image: table of descriptors into a sealed memory file, exec --fails--> as before, and the workers go back
//! new image: workers see the end of their channels and are orphans --> adoption, as after a death (`adopt`)
//!    |  all are ours: `Done` to the asker                              they have stayed our children all the time
//!    +-- can't: exec of the old program, with the reason --> it adopts them, and moves those on the new program back
//! ```
//!
//! What is kept over the exec: the control listener (commands wait in its queue), the asker's connection, and the other program's file. All else comes
//! from the workers. Signals stay blocked and wait.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use control::ClientReply;
use os::{Executable, Seals};
use serde::{Deserialize, Serialize};

use super::Places;
use super::clients::ClientId;
use super::fleet::{Image, Input, Ticket};
use super::images::Program;
use super::supervisor::{Supervisor, Token};
use super::trouble::Trouble;
use crate::about::VERSION;
use crate::cli::SUCCESSION;

/// Roles of descriptors by number; fields are added, never changed, since the other image is of another release.
#[derive(Debug, Serialize, Deserialize)]
struct Table {
    control: i32,
    asker: Option<i32>,
    /// The other program: what to go back to, or what has failed.
    other: i32,
    other_version: String,
    /// Why the other program has given up; `None` on the way forward.
    failure: Option<String>,
}

/// What the image before us left.
#[derive(Debug)]
pub(crate) struct Succession {
    pub(crate) control: OwnedFd,
    asker: Option<OwnedFd>,
    other: Executable,
    other_version: String,
    failure: Option<String>,
}

impl Succession {
    /// Takes over the descriptors that the table in descriptor `table` names.
    pub(crate) fn take(table: i32) -> Result<Self, Trouble> {
        let wrong = |error: std::io::Error| {
            Trouble::new(
                format!("what the program before this one left can't be read: {error}"),
                "start the server without --succession",
            )
        };
        let mut file = File::from(os::take_descriptor(table).map_err(wrong)?);
        let mut text = String::new();
        file.rewind()
            .and_then(|()| file.read_to_string(&mut text))
            .map_err(wrong)?;
        let table: Table = serde_json::from_str(&text).map_err(|error| wrong(error.into()))?;
        let take = |fd: i32| os::take_descriptor(fd).map_err(wrong);
        Ok(Self {
            control: take(table.control)?,
            asker: table.asker.map(take).transpose()?,
            other: Executable::from_fd(&take(table.other)?).map_err(wrong)?,
            other_version: table.other_version,
            failure: table.failure,
        })
    }

    /// We can't go on: back to the program before us. Comes back only if that can't be run either.
    pub(crate) fn give_back(self, places: &Places<'_>, why: &Trouble) -> Trouble {
        if self.failure.is_some() {
            // We are what was gone back to; a third way there is not.
            return why.clone();
        }
        tracing::error!("the new program can't go on, back to the old one: {why}");
        let ourselves = match Executable::ourselves() {
            Ok(ourselves) => ourselves,
            Err(error) => return Trouble::new(error.to_string(), ""),
        };
        let table = Table {
            control: self.control.as_raw_fd(),
            asker: self.asker.as_ref().map(|fd| fd.as_raw_fd()),
            other: ourselves.as_fd().as_raw_fd(),
            other_version: VERSION.to_owned(),
            failure: Some(why.cause.clone()),
        };
        let mut keep = vec![self.control.as_fd(), ourselves.as_fd()];
        keep.extend(self.asker.as_ref().map(|fd| fd.as_fd()));
        let error = run_in_our_place(&self.other, &places.arguments.own, &table, &keep);
        Trouble::new(format!("{}; and {error}", why.cause), why.remedy.clone())
    }
}

fn run_in_our_place(
    program: &Executable,
    arguments: &[OsString],
    table: &Table,
    keep: &[BorrowedFd<'_>],
) -> std::io::Error {
    let written = serde_json::to_vec(table)
        .map_err(std::io::Error::from)
        .and_then(|text| {
            let mut file = File::from(os::memfd("tandem-succession", 0, Seals::NONE)?);
            file.write_all(&text)?;
            let seals = Seals::SHRINK.and(Seals::GROW).and(Seals::FUTURE_WRITE);
            os::seal(file.as_fd(), seals.and(Seals::SEAL))?;
            Ok(file)
        });
    let file = match written {
        Ok(file) => file,
        Err(error) => return error,
    };
    let mut arguments = arguments.to_vec();
    arguments.push(format!("{SUCCESSION}={}", file.as_raw_fd()).into());
    worker::last_lines();
    program.exec(&arguments, &[keep, &[file.as_fd()]].concat())
}

impl Supervisor {
    /// Every worker runs `image`: so do we from now on, unless it fails.
    pub(super) fn succeed(&mut self, image: Image, asker: Option<ClientId>) -> Trouble {
        self.end_helper();
        let (Some(program), Some(ours)) = (self.images.get(image), self.images.get(Image(0)))
        else {
            return Trouble::new("the new program is not there any more", "");
        };
        let control = self.control_fd();
        let asker = asker.and_then(|asker| self.clients.fd(asker));
        let table = Table {
            control: control.as_raw_fd(),
            asker: asker.map(|fd| fd.as_raw_fd()),
            other: ours.executable.as_fd().as_raw_fd(),
            other_version: ours.version.clone(),
            failure: None,
        };
        let mut keep = vec![control, ours.executable.as_fd()];
        keep.extend(asker);
        tracing::info!(
            version = program.version,
            "the supervisor becomes the new program"
        );
        failpoint::failpoint!("succession.leaving");
        let error = run_in_our_place(&program.executable, &self.arguments.own, &table, &keep);
        Trouble::new(format!("the supervisor can't become it: {error}"), "")
    }

    /// We are the program that another one became.
    pub(super) fn succeeded(&mut self, succession: Succession) {
        let asker = succession.asker.and_then(|fd| {
            let id = self.clients.add_asker(fd, os::now())?;
            let watched = self
                .clients
                .fd(id)
                .map(|fd| self.watch(fd, Token::Client(id)));
            matches!(watched, Some(Ok(()))).then_some(id)
        });
        let Some(why) = succession.failure else {
            tracing::info!(version = VERSION, "the supervisor runs the new program");
            if let Some(asker) = asker {
                let note = format!("supervisor {}: runs version {VERSION}", std::process::id());
                self.reply(asker, &ClientReply::Note(note));
                self.reply(asker, &ClientReply::Done);
            }
            return;
        };
        let ticket = self.new_ticket();
        if let Some(asker) = asker {
            self.restarting.insert(ticket, asker);
        }
        self.take_back(ticket, succession.other, succession.other_version, why);
    }

    /// Moves those workers back that run the program which has failed.
    fn take_back(&mut self, ticket: Ticket, program: Executable, version: String, why: String) {
        let ours = Executable::ourselves().and_then(|ourselves| ourselves.identity());
        let image = self.images.add(Program {
            executable: program,
            version,
        });
        for id in self.links.ids() {
            let pid = self.links.get(id).map_or(0, |link| link.pid);
            let same = os::program_of(pid).ok() == ours.as_ref().ok().copied();
            if !same {
                self.fleet.is_of(id, image);
            }
        }
        self.failure = Some(why);
        self.begin_going_back(ticket, image);
        self.feed(Input::Downgrade {
            ticket,
            image: Image(0),
        });
    }
}
