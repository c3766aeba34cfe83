//! Tables of numbers: their files are compiled by a process of their own, for which nobody waits, and travel to workers as memory files, once.
//!
//! ```text
//! reload: the configuration is good; a file of rules is another than before
//!      | a helper compiles it (half a second for a million rules); calls go on by what there is
//!      | wrong: answer with file, line and column; everything stays as it is
//!      v
//! PrefixTable to all processes, then the rest of the reload, which puts the new rules in effect together with the new configuration
//! ```
//!
//! A configuration names images by number, and what their files were by a stamp; so a later supervisor, who has both from the workers, compiles nothing that
//! has not changed.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use config::Config;
use control::{FromHelper, ToHelper};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use os::Executable;
use stdx::Instant;

use super::clients::ClientId;
use super::supervisor::{Supervisor, Token};
use super::trouble::Trouble;
use crate::commands;

/// How long all files of rules may take to be read and compiled.
const PATIENCE: Duration = Duration::from_secs(120);

/// Compiled images by number, as the configuration names them.
pub(crate) type Files = BTreeMap<u64, OwnedFd>;

/// Puts the images that there are into a new configuration, where they are still what its files say; which tables are left.
pub(crate) fn carry_over(old: &Config, new: &mut Config, has: impl Fn(u64) -> bool) -> Vec<u16> {
    let names = |config: &Config| {
        let groups = config.groups.iter().map(|group| &group.name);
        let callers = config.callers.iter().map(|caller| &caller.name);
        let periods = config.periods.iter().map(|period| &period.name);
        groups
            .chain(callers)
            .chain(periods)
            .cloned()
            .collect::<Vec<_>>()
    };
    let same_names = names(old) == names(new);
    let mut left = Vec::new();
    for (number, table) in (0..).zip(&mut new.prefix_tables) {
        let before = old.prefix_tables.iter().find(|before| {
            (&before.name, &before.file, &before.remove)
                == (&table.name, &table.file, &table.remove)
        });
        let stamp = worker::compile::stamp(Path::new(&table.file));
        match before {
            Some(before) if same_names && stamp == Some(before.stamp) && has(before.image) => {
                (table.image, table.stamp) = (before.image, before.stamp);
            }
            _ => left.push(number),
        }
    }
    left
}

/// The process that compiles. It ends with this.
#[derive(Debug)]
struct Process {
    child: os::Child,
    channel: OwnedFd,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has answered, or is not going to.
        let _ = os::pidfd_signal(self.child.pidfd.as_fd(), libc::SIGKILL);
        let _ = nix::sys::wait::waitid(
            nix::sys::wait::Id::PIDFd(self.child.pidfd.as_fd()),
            nix::sys::wait::WaitPidFlag::WEXITED,
        );
    }
}

/// A configuration whose tables are being compiled.
#[derive(Debug)]
pub(crate) struct Compiler {
    process: Process,
    deadline: Instant,
    /// The number of the next image.
    next: u64,
    made: Compiled,
}

/// A configuration, and what was compiled for it.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) config: Config,
    /// New images.
    pub(crate) files: Files,
    /// What is to be told.
    pub(crate) notes: Vec<String>,
}

impl Compiler {
    /// Starts it over these tables of a configuration. `next`: no image has this number or a higher one.
    fn start(
        program: &Executable,
        arguments: &[String],
        config: Config,
        tables: Vec<u16>,
        next: u64,
    ) -> Result<Self, Trouble> {
        let user = config.workers.user.clone();
        let begin = |file: OwnedFd| -> io::Result<Process> {
            let (ours, theirs) = os::seqpacket_pair()?;
            fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            let task = ToHelper::Compile {
                supervisor: std::process::id(),
                user,
                tables,
            };
            let task = control::encode(&task).map_err(io::Error::other)?;
            // Before the process is there: what can't be sent costs no process.
            os::send_with_fds(ours.as_fd(), &task, &[file.as_fd()])?;
            Ok(Process {
                child: os::spawn_worker(program, arguments, theirs)?,
                channel: ours,
            })
        };
        let file = super::reload::config_file(&config, &[])?;
        let process = begin(file).map_err(|error| {
            let cause = format!("no process can be started to compile tables of numbers: {error}");
            Trouble::new(cause, "")
        })?;
        Ok(Self {
            process,
            deadline: os::now().saturating_add(PATIENCE),
            next,
            made: Compiled {
                config,
                files: Files::new(),
                notes: Vec::new(),
            },
        })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.process.channel.as_fd()
    }

    /// Takes what has come; `None`: more is to come.
    fn on_readable(&mut self) -> Option<Result<(), Trouble>> {
        let early = |why: String| {
            let cause = format!("the tables of numbers could not be compiled: {why}");
            Some(Err(Trouble::new(cause, "see the log, and reload")))
        };
        loop {
            let (mut bytes, mut fds) = (Vec::new(), Vec::new());
            match os::recv_with_fds(self.fd(), &mut bytes, &mut fds) {
                Ok(0) => return early("the process that does it ended early".to_owned()),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::EAGAIN as i32) => return None,
                Err(error) => return early(error.to_string()),
            }
            match (control::decode(&bytes), fds.pop()) {
                (Ok(FromHelper::Done), _) => return Some(Ok(())),
                (Ok(FromHelper::Failed { message }), _) => {
                    return Some(Err(Trouble::new(message, "")));
                }
                (
                    Ok(FromHelper::Compiled {
                        table,
                        lines,
                        stamp,
                        warnings,
                    }),
                    Some(file),
                ) => {
                    let made = &mut self.made;
                    let Some(table) = made.config.prefix_tables.get_mut(usize::from(table)) else {
                        return early("its answer names no table".to_owned());
                    };
                    (table.image, table.stamp) = (self.next, stamp);
                    made.files.insert(self.next, file);
                    self.next += 1;
                    let rules = commands::count(lines, "rule", "rules");
                    made.notes.extend(warnings);
                    made.notes
                        .push(format!("prefix table {} has {rules}", table.name));
                }
                (Ok(_), _) => return early("its answer is none".to_owned()),
                (Err(error), _) => return early(error.to_string()),
            }
        }
    }

    fn late() -> Trouble {
        let seconds = PATIENCE.as_secs();
        Trouble::new(
            format!("the tables of numbers were not compiled within {seconds} s"),
            "see whether the disk with their files answers, and try again",
        )
    }
}

/// Compiles all tables of a configuration, for a start: nobody is served yet.
pub(crate) fn compile_all(
    program: &Executable,
    arguments: &[String],
    config: Config,
) -> Result<Compiled, Trouble> {
    if config.prefix_tables.is_empty() {
        return Ok(Compiled {
            config,
            files: Files::new(),
            notes: Vec::new(),
        });
    }
    let tables = (0..).take(config.prefix_tables.len()).collect();
    let mut compiler = Compiler::start(program, arguments, config, tables, 1)?;
    loop {
        if let Some(done) = compiler.on_readable() {
            return done.map(|()| compiler.made);
        }
        let left = compiler.deadline.saturating_duration_since(os::now());
        if left.is_zero() {
            return Err(Compiler::late());
        }
        let ms = left.as_millis().clamp(1, 60_000) as u16;
        let mut ready = [PollFd::new(compiler.fd(), PollFlags::POLLIN)];
        // An error shows itself at the next look.
        let _ = poll(&mut ready, PollTimeout::from(ms));
    }
}

/// A reload that waits for its tables.
#[derive(Debug)]
pub(crate) struct Compiling {
    compiler: Compiler,
    pub(super) asker: Option<ClientId>,
    warnings: Vec<String>,
}

impl Supervisor {
    /// Whether a configuration is on its way.
    pub(super) fn is_reloading(&self) -> bool {
        self.reload.is_some() || self.compiling.is_some()
    }

    /// Compiles these tables of a configuration, which is taken when that is done.
    pub(super) fn compile(
        &mut self,
        config: Config,
        tables: Vec<u16>,
        warnings: Vec<String>,
        asker: Option<ClientId>,
    ) -> Result<(), Trouble> {
        let program = self.images.get(self.fleet.image());
        let program = program.ok_or_else(|| Trouble::new("our own program is gone", ""))?;
        let used = self.config.prefix_tables.iter().map(|table| table.image);
        let next = used.max().unwrap_or(0).max(self.last_table) + 1;
        self.last_table = next + tables.len() as u64;
        let compiler = Compiler::start(
            &program.executable,
            &self.arguments.helper,
            config,
            tables,
            next,
        )?;
        self.watch(compiler.fd(), Token::Compiler)
            .map_err(|error| Trouble::new(format!("a process can't be watched: {error}"), ""))?;
        self.compiling = Some(Compiling {
            compiler,
            asker,
            warnings,
        });
        Ok(())
    }

    pub(super) fn compile_deadline(&self) -> Option<Instant> {
        self.compiling
            .as_ref()
            .map(|compiling| compiling.compiler.deadline)
    }

    pub(super) fn on_compiler(&mut self) {
        let done = self
            .compiling
            .as_mut()
            .and_then(|compiling| compiling.compiler.on_readable());
        if let Some(done) = done {
            self.compiled(done);
        }
    }

    pub(super) fn compile_on_time(&mut self, now: Instant) {
        if self
            .compile_deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.compiled(Err(Compiler::late()));
        }
    }

    fn compiled(&mut self, done: Result<(), Trouble>) {
        let Some(compiling) = self.compiling.take() else {
            return;
        };
        let Compiling {
            compiler,
            asker,
            warnings,
        } = compiling;
        self.unwatch(compiler.fd());
        let taken = done.and_then(|()| self.take_config(compiler.made, warnings, asker));
        if let Err(trouble) = taken {
            self.reload_refused(&trouble);
            if let Some(asker) = asker {
                self.refuse(asker, &trouble);
            }
            if std::mem::take(&mut self.reload_again) {
                self.reload_by_signal();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        config::load(text, "test.toml")
            .expect("a good configuration")
            .0
    }

    #[test]
    fn what_has_not_changed_is_not_compiled_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rules.csv");
        std::fs::write(&path, "prefix,to\n").unwrap();
        let text = |more: &str| format!("[[prefix_table]]\nname = \"a\"\nfile = {path:?}\n{more}");
        let mut old = config(&text(""));
        old.prefix_tables[0].image = 7;
        old.prefix_tables[0].stamp = worker::compile::stamp(&path).unwrap();
        let carried = |text: String, has: bool| {
            let mut new = config(&text);
            let left = carry_over(&old, &mut new, |image| has && image == 7);
            (left, new.prefix_tables[0].image)
        };
        assert_eq!(carried(text("fallback = true"), true), (vec![], 7));
        assert_eq!(carried(text(""), false), (vec![0], 0));
        assert_eq!(carried(text("remove = [\"00\"]"), true), (vec![0], 0));
        assert_eq!(
            carried(text("[[caller]]\nname = \"x\""), true),
            (vec![0], 0)
        );
        std::fs::write(&path, "prefix,to\n\n").unwrap();
        assert_eq!(carried(text(""), true), (vec![0], 0));
    }
}
