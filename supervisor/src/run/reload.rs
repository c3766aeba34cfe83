//! A new configuration while calls run: read and checked as a whole, or not taken at all.
//!
//! ```text
//! load + check --error--> answer with every error and its place; the running configuration stays
//!      | sockets of new listeners --error--> as above
//!      v
//! Sockets to all processes, then Config to all, wait for Applied from all, then RemoveListener to all
//! ```
//!
//! A process that does not apply in time is hung: it is killed, and its heir starts with the new configuration, so
//! that no two configurations serve side by side for long.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use config::{Config, Diff};
use control::worker::SlotAssign;
use control::{ClientReply, ConfiguredUser, ToWorker, UsersLine};
use os::Seals;
use stdx::Instant;

use super::clients::ClientId;
use super::fleet::{Input, ProcessId, Ticket};
use super::numbers::{self, Compiled, Files};
use super::sockets::Listener;
use super::supervisor::Supervisor;
use super::switch::Purpose;
use super::trouble::Trouble;
use super::{limits, notify, pins};
use crate::about::ArenaNumbers;
use crate::commands;
use crate::size::size;

/// What is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Everything,
    /// The file of `tandem user`, and nothing else.
    Users,
}

/// Users of both places, and domains that are not served, that are named.
const NAMED_MAX: usize = 10;
/// From Config to the last Applied.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Reload {
    version: u64,
    /// Who has still to apply.
    waiting: BTreeSet<ProcessId>,
    pub(super) deadline: Instant,
    pub(super) asker: Option<ClientId>,
    notes: Vec<String>,
    warnings: Vec<String>,
    removed: Vec<Listener>,
    /// Listeners that only some workers have, and that are not of this configuration.
    strays: BTreeSet<u32>,
    /// The arena moves into a larger one when all else is done.
    limit_raised: Option<u64>,
}

impl Supervisor {
    pub(super) fn reload_by_signal(&mut self) {
        self.reload_unasked("SIGHUP");
    }

    /// A reload that nobody waits for the result of.
    fn reload_unasked(&mut self, why: &str) {
        let busy = self.is_reloading() || self.upgrade.is_some() || self.switch.is_some();
        if busy || !self.fleet.everybody_serves() {
            self.reload_again = true;
            return;
        }
        tracing::info!("reloading: {why}");
        if let Err(trouble) = self.begin_reload(What::Everything, None) {
            self.reload_refused(&trouble);
        }
    }

    pub(super) fn reload_by_client(&mut self, what: What, id: ClientId) {
        if self.is_reloading() {
            return self.refuse(
                id,
                &Trouble::new("another reload is under way", "ask again in a moment"),
            );
        }
        if self.upgrade.is_some() || self.switch.is_some() {
            let busy = match self.upgrade {
                Some(_) => "an upgrade is under way",
                None => "the server is moving to another arena",
            };
            return self.refuse(id, &Trouble::new(busy, "ask again when it is done"));
        }
        match what {
            What::Everything => tracing::info!("reloading: a command asks for it"),
            What::Users => tracing::debug!("taking changed users"),
        }
        if let Err(trouble) = self.begin_reload(what, Some(id)) {
            self.reload_refused(&trouble);
            self.refuse(id, &trouble);
        }
    }

    pub(super) fn reload_refused(&self, trouble: &Trouble) {
        tracing::error!("reload refused, the running configuration stays: {trouble}");
        notify::ready("reload refused: see the log");
    }

    fn begin_reload(&mut self, what: What, asker: Option<ClientId>) -> Result<(), Trouble> {
        notify::reloading();
        let (mut asked, warnings) = match what {
            What::Everything => self.source.load()?,
            What::Users => {
                let stored = self.source.load_users()?;
                let asked = Config {
                    stored,
                    ..self.config.clone()
                };
                (asked, Vec::new())
            }
        };
        if asked.stored.is_empty() && !self.config.stored.is_empty() && self.source.lacks_users() {
            return Err(self.users_lost());
        }
        let warnings = warnings.iter().map(ToString::to_string).collect();
        let has = |image| self.tables.contains_key(&image);
        let left = match what {
            What::Everything => numbers::carry_over(&self.config, &mut asked, has),
            What::Users => Vec::new(),
        };
        if !left.is_empty() {
            return self.compile(asked, left, warnings, asker);
        }
        let asked = Compiled {
            config: asked,
            files: Files::new(),
            notes: Vec::new(),
        };
        self.take_config(asked, warnings, asker)
    }

    /// Puts a configuration that is right in effect.
    pub(super) fn take_config(
        &mut self,
        asked: Compiled,
        warnings: Vec<String>,
        asker: Option<ClientId>,
    ) -> Result<(), Trouble> {
        let Compiled {
            config: asked,
            files,
            notes: told,
        } = asked;
        let diff = config::diff(&self.config, &asked);
        let live = config::merge_live(&self.config, &asked);
        if let Some(limit) = diff.limit_raised {
            limits::check_memory(&asked)?;
            self.check_limit(limit)?;
        }
        let added = self.open_added(&diff, &live)?;
        let gone = |listener: &Listener| {
            diff.listeners_removed
                .iter()
                .any(|listen| listen.address == listener.asked)
        };
        let (removed, kept) = std::mem::take(&mut self.listeners)
            .into_iter()
            .partition(gone);
        self.listeners = kept;
        for listen in &live.listen {
            if let Some(listener) = self
                .listeners
                .iter_mut()
                .find(|listener| listener.asked == listen.address)
            {
                listener.listen.advertise = listen.advertise.clone();
            }
        }
        self.listeners.extend(added);
        let file = match config_file(&live, &self.listeners) {
            Ok(file) => file,
            Err(trouble) => {
                // Nobody has been told anything: take the removed ones back, drop the added ones.
                self.listeners.retain(|listener| {
                    !diff
                        .listeners_added
                        .iter()
                        .any(|listen| listen.address == listener.asked)
                });
                self.listeners.extend::<Vec<Listener>>(removed);
                return Err(trouble);
            }
        };
        self.config_file = file;
        self.config = live;
        self.config_version += 1;
        let waiting = self.send_config(&diff, &files);
        self.tables.extend(files);
        let named = |image: &u64| {
            let mut tables = self.config.prefix_tables.iter();
            tables.any(|table| table.image == *image)
        };
        self.tables.retain(|image, _| named(image));
        self.reload = Some(Reload {
            version: self.config_version,
            waiting,
            deadline: os::now().saturating_add(PATIENCE),
            asker,
            notes: told
                .into_iter()
                .chain(notes(&diff))
                .chain(self.shadowed())
                .collect(),
            warnings: warnings.into_iter().chain(self.unserved()).collect(),
            removed,
            strays: BTreeSet::new(),
            limit_raised: diff.limit_raised,
        });
        self.note_numbers();
        self.store();
        self.finish_reload();
        Ok(())
    }

    /// The file of users is gone while there are users: a mount that is missing, rather than somebody's wish.
    fn users_lost(&self) -> Trouble {
        let state = self.source.state().unwrap_or_else(|| Path::new(""));
        let users = commands::count(self.config.stored.len(), "user", "users");
        Trouble::new(
            format!(
                "the file of users {} is gone; {users} of `tandem user` would be lost",
                state.join("users").display()
            ),
            "put it back, or mount its directory, and reload; `tandem user remove` takes users away",
        )
    }

    /// How many users of `tandem user` there are.
    pub(super) fn stored_users(&self) -> u64 {
        self.config.stored.len() as u64
    }

    /// Domains of users that are none of ours: who is of one can't prove himself anywhere.
    fn unserved(&self) -> Vec<String> {
        let served: BTreeSet<String> = self
            .config
            .domains
            .iter()
            .map(|domain| domain.name.to_ascii_lowercase())
            .collect();
        let mut users: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
        for user in &self.config.stored {
            if !served.contains(&user.domain) {
                users.entry(&user.domain).or_insert((0, &user.name)).0 += 1;
            }
        }
        let mut notes: Vec<String> = users
            .iter()
            .map(|(domain, &(count, first))| {
                let others = match count {
                    1 => String::new(),
                    _ => format!(" (and {} more users of it)", count - 1),
                };
                format!("there is no [[domain]] {domain}: {first}@{domain}{others} can't log in")
            })
            .collect();
        let more = notes.len().saturating_sub(NAMED_MAX);
        notes.truncate(NAMED_MAX);
        if more > 0 {
            notes.push(format!("{more} more domains of users are not served"));
        }
        notes
    }

    /// Users whom `tandem user` and the configuration file both have.
    fn shadowed(&self) -> Vec<String> {
        let of_file: BTreeSet<(&str, &str)> = self
            .config
            .users
            .iter()
            .map(|user| (user.domain.as_str(), user.name.as_str()))
            .collect();
        let both = |user: &&config::StoredUser| {
            of_file.contains(&(user.domain.as_str(), user.name.as_str()))
        };
        let mut notes: Vec<String> = self
            .config
            .stored
            .iter()
            .filter(both)
            .map(|user| format!(
                "{}@{} is a [[user]] of the configuration file too: that one counts, not that of `tandem user`",
                user.name, user.domain
            ))
            .collect();
        let more = notes.len().saturating_sub(NAMED_MAX);
        notes.truncate(NAMED_MAX);
        if more > 0 {
            notes.push(format!("{more} more users are in both places"));
        }
        notes
    }

    pub(super) fn configured_users(&self) -> UsersLine {
        let state = self.source.state().map(|state| state.display().to_string());
        let users = self.config.users.iter();
        UsersLine {
            state: state.unwrap_or_default(),
            configured: users
                .map(|user| ConfiguredUser {
                    name: format!("{}@{}", user.name, user.domain),
                    identities: user.identities.clone(),
                    algorithms: match user.secret {
                        config::Secret::Password(_) => &["SHA-512-256", "SHA-256", "MD5"][..],
                        config::Secret::Ha1(_) => &["MD5"],
                        config::Secret::Ha1Sha256(_) => &["SHA-256"],
                        config::Secret::Ha1Sha512_256(_) => &["SHA-512-256"],
                    }
                    .iter()
                    .map(|name| (*name).to_owned())
                    .collect(),
                })
                .collect(),
        }
    }

    /// Adopted workers serve by the configuration they had. Now the file counts, by the rules of every reload.
    pub(super) fn reload_after_adoption(&mut self) {
        match self.source.load() {
            Ok((mut asked, _)) => {
                let has = |image| self.tables.contains_key(&image);
                let left = numbers::carry_over(&self.config, &mut asked, has);
                if left.is_empty() && config::diff(&self.config, &asked).is_empty() {
                    return;
                }
                self.reload_unasked("the file is not what the adopted workers serve by");
            }
            Err(trouble) => self.reload_refused(&trouble),
        }
    }

    /// Brings adopted workers to one configuration, which their last supervisor may not have had the time for: `waiting` were sent it.
    pub(super) fn finish_for_predecessor(
        &mut self,
        waiting: BTreeSet<ProcessId>,
        removed: Vec<Listener>,
        strays: BTreeSet<u32>,
    ) {
        if waiting.is_empty() && removed.is_empty() && strays.is_empty() {
            return;
        }
        self.reload = Some(Reload {
            version: self.config_version,
            waiting,
            deadline: os::now().saturating_add(PATIENCE),
            asker: None,
            notes: vec!["a reload that the last supervisor did not finish".to_owned()],
            warnings: Vec::new(),
            removed,
            strays,
            limit_raised: None,
        });
        self.finish_reload();
    }

    /// All of them or none.
    fn open_added(&mut self, diff: &Diff, live: &Config) -> Result<Vec<Listener>, Trouble> {
        let (slots, listeners) = (
            live.slots(),
            live.listen.len() + diff.listeners_removed.len(),
        );
        limits::raise_descriptors(slots, live.workers.count, listeners)?;
        let mut added = Vec::new();
        for listen in &diff.listeners_added {
            added.push(Listener::open(self.next_listener, listen, slots)?);
            self.next_listener += 1;
        }
        Ok(added)
    }

    /// Tells every process; gives those that will answer.
    fn send_config(&mut self, diff: &Diff, tables: &Files) -> BTreeSet<ProcessId> {
        if diff.pin_changed {
            self.cores = pins::cores(
                &self.config.workers.pin,
                self.config.slots(),
                &pins::allowed(),
            );
        }
        let message = ToWorker::Config {
            version: self.config_version,
        };
        failpoint::failpoint!("supervisor.reload.taken");
        let is_new = |listener: &&Listener| {
            diff.listeners_added
                .iter()
                .any(|listen| listen.address == listener.asked)
        };
        let mut waiting = BTreeSet::new();
        for id in self.links.ids() {
            let Some(link) = self.links.get(id) else {
                continue;
            };
            let sent = self
                .listeners
                .iter()
                .filter(is_new)
                .try_for_each(|listener| link.send_listener(listener))
                .and_then(|()| link.send_tables(tables))
                .and_then(|()| link.send(&message, &[self.config_file.as_fd()]));
            match sent {
                Ok(()) => drop(waiting.insert(id)),
                Err(error) => self.unsent(id, &error),
            }
            failpoint::failpoint!("supervisor.reload.one_told");
            self.send_pins(id, diff);
        }
        self.feed(Input::Tick);
        waiting
    }

    fn send_pins(&mut self, id: ProcessId, diff: &Diff) {
        let seat = self.fleet.process(id).and_then(|process| process.seat());
        if let Some(seat) = seat.filter(|_| diff.pin_changed) {
            let slots = self
                .slots_of(seat)
                .map(|slot| SlotAssign {
                    slot,
                    core: self.core_of(slot),
                })
                .collect();
            self.send(id, &ToWorker::Pin { slots });
        }
    }

    pub(super) fn on_applied(&mut self, id: ProcessId, version: u64) {
        if let Some(reload) = self
            .reload
            .as_mut()
            .filter(|reload| reload.version == version)
        {
            reload.waiting.remove(&id);
            self.finish_reload();
        }
    }

    /// A process that died has nothing to apply; its heir starts with the new configuration.
    pub(super) fn gone_from_reload(&mut self, id: ProcessId) {
        if let Some(reload) = &mut self.reload {
            reload.waiting.remove(&id);
            self.finish_reload();
        }
    }

    pub(super) fn expire_reload(&mut self, now: Instant) {
        let Some(reload) = self.reload.as_mut().filter(|reload| reload.deadline <= now) else {
            return;
        };
        reload.deadline = Instant::MAX;
        for id in reload.waiting.clone() {
            let pid = self.links.get(id).map_or(0, |link| link.pid);
            tracing::error!(
                pid,
                "a worker does not take the new configuration and is replaced"
            );
            self.feed(Input::Hung(id));
        }
    }

    fn finish_reload(&mut self) {
        let Some(reload) = self.reload.take_if(|reload| reload.waiting.is_empty()) else {
            return;
        };
        failpoint::failpoint!("supervisor.reload.applied");
        let mut gone = reload.strays;
        gone.extend(reload.removed.iter().map(|listener| listener.id));
        for id in self.links.ids() {
            for &listener in &gone {
                self.send(id, &ToWorker::RemoveListener { listener });
            }
        }
        // Closed here; workers close theirs when they read the message.
        drop(reload.removed);
        tracing::info!(version = reload.version, "configuration taken");
        reload
            .warnings
            .iter()
            .for_each(|warning| tracing::warn!("{warning}"));
        reload
            .notes
            .iter()
            .for_each(|note| tracing::info!("{note}"));
        notify::ready(&format!("serving by configuration {}", reload.version));
        if let Some(client) = reload.asker {
            for note in reload.warnings.into_iter().chain(reload.notes) {
                self.reply(client, &ClientReply::Note(note));
            }
            if reload.limit_raised.is_none() {
                self.reply(client, &ClientReply::Done);
            }
        }
        if let Some(limit) = reload.limit_raised {
            return self.raise_limit(limit, reload.asker);
        }
        if std::mem::take(&mut self.reload_again) {
            self.reload_by_signal();
        }
    }
}

impl Supervisor {
    /// Whether an arena of this size is possible.
    fn check_limit(&self, limit: u64) -> Result<(), Trouble> {
        let numbers = ArenaNumbers {
            limit,
            ..self.memory.numbers()
        };
        match numbers.layout().hash() {
            Ok(_) => Ok(()),
            Err(error) => Err(Trouble::new(error.to_string(), "see `memory.limit`")),
        }
    }

    fn raise_limit(&mut self, limit: u64, asker: Option<ClientId>) {
        let ticket = self.new_ticket();
        if let Some(asker) = asker {
            self.restarting.insert(ticket, asker);
        }
        let numbers = ArenaNumbers {
            limit,
            ..self.memory.numbers()
        };
        self.begin_switch(Purpose::Limit(limit), ticket, self.fleet.image(), numbers);
    }

    /// The switch is over.
    pub(super) fn limit_moved(&mut self, ticket: Ticket, limit: u64, result: Result<(), String>) {
        let asker = self.restarting.remove(&ticket);
        match result {
            Ok(()) => {
                let note = format!("`memory.limit` is {} now", size(limit));
                tracing::info!("{note}");
                if let Some(asker) = asker {
                    self.reply(asker, &ClientReply::Note(note));
                    self.reply(asker, &ClientReply::Done);
                }
            }
            Err(why) => {
                let trouble = Trouble::new(
                    format!(
                        "`memory.limit` stays {}: {why}",
                        size(self.config.memory.limit)
                    ),
                    "all else in the file is in effect; `tandem reload` tries again",
                );
                tracing::error!("{trouble}");
                if let Some(asker) = asker {
                    self.refuse(asker, &trouble);
                }
            }
        }
        if std::mem::take(&mut self.reload_again) {
            self.reload_by_signal();
        }
    }
}

fn notes(diff: &Diff) -> Vec<String> {
    let mut notes = diff.applied.clone();
    if !diff.needs_restart.is_empty() {
        let keys: Vec<String> = diff
            .needs_restart
            .iter()
            .map(|key| format!("`{key}`"))
            .collect();
        notes.push(format!(
            "{}: changed in the file, unchanged until `tandem stop` and a new start",
            keys.join(", ")
        ));
    }
    if diff.is_empty() {
        notes.push("nothing has changed".to_owned());
    }
    notes
}

/// The configuration for workers: a sealed memory file, with listener addresses as bound.
pub(crate) fn config_file(config: &Config, listeners: &[Listener]) -> Result<OwnedFd, Trouble> {
    let mut config = config.clone();
    let mut left: Vec<&Listener> = listeners.iter().collect();
    for listen in &mut config.listen {
        // Two listeners may both ask for any port of one address: each gets its own.
        if let Some(at) = left
            .iter()
            .position(|listener| listener.asked == listen.address)
        {
            listen.address = left.remove(at).listen.address;
        }
    }
    let trouble = |error: std::io::Error| {
        Trouble::new(
            format!("cannot hand the configuration to workers: {error}"),
            "",
        )
    };
    let frame = config
        .encode()
        .map_err(std::io::Error::other)
        .map_err(trouble)?;
    let file = os::memfd("tandem-config", 0, Seals::NONE).map_err(trouble)?;
    let mut file = File::from(file);
    file.write_all(&frame).map_err(trouble)?;
    let file = OwnedFd::from(file);
    os::seal(
        file.as_fd(),
        Seals::SHRINK
            .and(Seals::GROW)
            .and(Seals::FUTURE_WRITE)
            .and(Seals::SEAL),
    )
    .map_err(trouble)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use super::*;

    #[test]
    fn workers_get_the_ports_as_bound_and_cannot_change_the_file() {
        let (mut config, _) = config::load(config::DEFAULT, config::DEFAULT_NAME).unwrap();
        config.listen.truncate(1);
        config.listen[0].address = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::open(0, &config.listen[0], 1).unwrap();
        let bound = listener.listen.address;
        let mut file = File::from(config_file(&config, &[listener]).unwrap());
        let mut frame = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut frame).unwrap();
        assert_eq!(Config::decode(&frame).unwrap().listen[0].address, bound);
        assert!(file.write_all(b"x").is_err());
    }
}
