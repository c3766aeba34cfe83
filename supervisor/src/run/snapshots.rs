//! Snapshots: what outlives the server, in the file `snapshot` of the state directory.
//!
//! A helper writes to `snapshot.new` and has it on the disk; only then it gets its name, here, and the helper syncs the directory. So the file is always whole: the last
//! one, or the one before. At a clean stop one more is taken, after the last worker has left. At the start the file is read before any worker is: a helper checks all of
//! it and then loads it. One that is torn, or not ours, or of a newer release is told of and set aside as `snapshot.bad-N`; the server starts without.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::Config;
use control::{FromHelper, HelperTask, Restored, SnapshotStatus, TableRequest, ToHelper, Written};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use os::Executable;
use stdx::Instant;
use tables::Counter;

use super::claim::outlast;
use super::helpers::{Ended, Helpers, Start};
use super::memory::Memory;
use super::supervisor::Supervisor;
use super::trouble::Trouble;
use crate::size::size;

const FILE: &str = "snapshot";
const ASIDE: &str = "snapshot.new";
/// Files that were set aside, at most.
const BAD_MAX: u32 = 9;
/// A file that could not be read, for a reason that is not its own, is tried so often.
const ATTEMPTS: u32 = 2;
/// How long a helper may take: a full arena on a slow disk.
const PATIENCE: Duration = Duration::from_secs(300);
/// The same at a stop, which is to end before a service manager loses patience.
const LAST_PATIENCE: Duration = Duration::from_secs(75);
/// A command may change tables; for so long after it something may have changed, whatever the counts say.
const COMMAND_TAKES: Duration = Duration::from_secs(60);

/// The state directory, if it is ours alone. The lock goes with the process that has it, whatever its end.
pub(crate) fn claim(directory: &Path) -> Option<Flock<File>> {
    let lock = outlast(|| {
        let locked = File::open(directory).map(|file| {
            Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)
        });
        match locked {
            // Another server's, or for a moment longer a dead one's.
            Ok(Err(Errno::EAGAIN)) => None,
            Ok(lock) => Some(lock.map_err(io::Error::from)),
            Err(error) => Some(Err(error)),
        }
    });
    match lock {
        Some(Ok(lock)) => Some(lock),
        Some(Err(error)) => {
            tracing::error!(%error, "the state directory can't be opened: no snapshots are taken or read");
            None
        }
        None => {
            tracing::error!(
                directory = %directory.display(),
                "another server has this state directory: no snapshots are taken or read; name another with --state DIR"
            );
            None
        }
    }
}

#[derive(Debug)]
pub(crate) struct Snapshots {
    directory: PathBuf,
    /// `None`: the directory is another server's.
    ours: Option<Flock<File>>,
    next: Instant,
    /// Messages that all slots had served when the last one was begun.
    messages: u64,
    doubtful_until: Instant,
    begun: Option<Begun>,
    last: Option<Written>,
    /// All that was changed before is in the file.
    as_of: Option<Instant>,
    failures: u64,
    ending: Ending,
    /// Why the last one of a clean stop could not be taken.
    last_failed: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Begun {
    messages: u64,
    exact: bool,
    /// The file has got its name.
    named: Option<Written>,
}

/// Where a clean stop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Nobody asks for one, or workers are still there.
    NotYet,
    /// The workers have left; the last snapshot is next, or under way.
    Last,
    Done,
}

impl Snapshots {
    /// `restored`: the file was read, so that it holds everything.
    pub(crate) fn new(
        directory: PathBuf,
        ours: Option<Flock<File>>,
        period: Option<Duration>,
        restored: bool,
    ) -> Self {
        let now = os::now();
        Self {
            directory,
            ours,
            next: now.saturating_add(period.unwrap_or_default()),
            messages: 0,
            doubtful_until: Instant::ZERO,
            begun: None,
            last: None,
            as_of: restored.then_some(now),
            failures: 0,
            ending: Ending::NotYet,
            last_failed: None,
        }
    }

    /// After an adoption: the file is as old as it is, so that supervisors that die again and again put nothing off.
    pub(crate) fn go_on_from_file(&mut self, period: Option<Duration>) {
        let modified = fs::metadata(self.directory.join(FILE)).and_then(|about| about.modified());
        // Of a time to come, or not there: as after a start.
        let age = modified.ok().and_then(|modified| modified.elapsed().ok());
        if let (Some(age), Some(period)) = (age, period) {
            self.next = os::now().saturating_add(period.saturating_sub(age));
        }
    }

    /// What a clean stop could not save, and why.
    pub(crate) fn last_failed(&self) -> Option<&str> {
        self.last_failed.as_deref()
    }

    /// The state directory.
    pub(crate) fn directory(&self) -> &std::path::Path {
        &self.directory
    }

    fn open_aside(&self) -> io::Result<(File, File)> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let path = self.directory.join(ASIDE);
        // Whatever lies there: the rest of one that was never done, whose writer may be dying just now, or no file at all.
        let _ = fs::remove_file(&path);
        let file = options.open(path)?;
        Ok((file, File::open(&self.directory)?))
    }

    fn status(&self, period: Option<Duration>, now: Instant) -> SnapshotStatus {
        let ms = |ns: u64| ns / 1_000_000;
        let last = self.last.unwrap_or_default();
        let age = |as_of| {
            let age = now.saturating_duration_since(as_of).as_millis();
            u64::try_from(age).unwrap_or(u64::MAX)
        };
        SnapshotStatus {
            period_ms: period.map(|p| u64::try_from(p.as_millis()).unwrap_or(u64::MAX)),
            age_ms: self.as_of.map(age),
            records: last.records,
            bytes: last.bytes,
            took_ms: ms(last.took_ns),
            failures: self.failures,
        }
    }
}

impl Supervisor {
    /// `None`: none are taken.
    fn snapshot_period(&self) -> Option<Duration> {
        self.snapshots.ours.as_ref()?;
        self.config.memory.snapshot
    }

    pub(super) fn snapshot_status(&self, now: Instant) -> SnapshotStatus {
        self.snapshots.status(self.snapshot_period(), now)
    }

    /// A command goes to a worker, which may change tables without a message.
    pub(super) fn tables_may_change(&mut self, request: &TableRequest) {
        let reads = matches!(
            request,
            TableRequest::RegistrationsList { .. }
                | TableRequest::RegistrationsShow { .. }
                | TableRequest::Audit
                | TableRequest::Calls(_)
                // Not in a snapshot.
                | TableRequest::Destinations { .. }
                | TableRequest::DestinationChange { .. }
                | TableRequest::RouteTest(_)
        );
        if !reads {
            self.snapshots.doubtful_until = os::now().saturating_add(COMMAND_TAKES);
        }
    }

    fn messages_served(&self) -> u64 {
        (0..self.config.slots())
            .map(|slot| self.memory.figures(slot).messages)
            .sum()
    }

    /// When the next one is due, unless it has to wait for something else.
    pub(super) fn snapshots_deadline(&self) -> Option<Instant> {
        let ready = self.snapshot_period().is_some()
            && self.fleet.all_served()
            && self.snapshots.ending == Ending::NotYet
            && self.helpers_free();
        ready.then_some(self.snapshots.next)
    }

    pub(super) fn snapshots_on_time(&mut self, now: Instant) {
        let Some(period) = self.snapshot_period() else {
            return;
        };
        // A reload may have shortened it.
        self.snapshots.next = self.snapshots.next.min(now.saturating_add(period));
        if self.snapshots_deadline().is_none_or(|due| due > now) {
            return;
        }
        self.snapshots.next = now.saturating_add(period);
        let served = self.messages_served();
        if served == self.snapshots.messages && now >= self.snapshots.doubtful_until {
            // What slots count comes after what they change. So the file has everything but what has expired since.
            self.snapshots.as_of = self.snapshots.as_of.map(|_| now);
            self.memory.count_for_helpers(Counter::SnapshotsSkipped, 1);
            return;
        }
        self.begin_snapshot(false);
    }

    fn begin_snapshot(&mut self, exact: bool) {
        let messages = self.messages_served();
        self.snapshots.begun = Some(Begun {
            messages,
            exact,
            named: None,
        });
        let patience = if exact { LAST_PATIENCE } else { PATIENCE };
        let begun = self.snapshots.open_aside().and_then(|(file, directory)| {
            let task = HelperTask::Snapshot { exact };
            self.help(task, &[file.as_fd(), directory.as_fd()], patience)
        });
        if let Err(error) = begun
            && self.helpers.running().is_none()
        {
            self.snapshots.begun = None;
            self.snapshot_failed(exact, &error.to_string());
        }
    }

    /// The file is whole and on the disk.
    pub(super) fn snapshot_written(&mut self, written: Written) {
        let directory = &self.snapshots.directory;
        if let Err(error) = fs::rename(directory.join(ASIDE), directory.join(FILE)) {
            tracing::error!(%error, "a snapshot can't get its name");
            return self.stop_helper();
        }
        if let Some(begun) = self.snapshots.begun.as_mut() {
            begun.named = Some(written);
        }
        if let Some(helper) = self.helpers.running()
            && let Err(error) = helper.tell(&ToHelper::Renamed)
        {
            // It is gone; its end says why.
            tracing::debug!(%error, "a helper takes no message");
        }
    }

    pub(super) fn snapshot_ended(&mut self, ended: Ended) {
        let Some(begun) = self.snapshots.begun.take() else {
            return;
        };
        let exact = begun.exact;
        let written = match (ended, begun.named) {
            (Ok(FromHelper::Done), Some(written)) => written,
            (Ok(_), _) => return self.snapshot_failed(exact, "its process said something else"),
            (Err(why), _) => return self.snapshot_failed(exact, &why),
        };
        let snapshots = &mut self.snapshots;
        snapshots.messages = begun.messages;
        snapshots.last = Some(written);
        snapshots.as_of = Some(Instant::from_nanos(written.begun_ns));
        if std::mem::take(&mut snapshots.failures) > 0 {
            tracing::info!("snapshots are taken again");
        }
        self.memory.count_for_helpers(Counter::SnapshotsTaken, 1);
        tracing::debug!(
            records = written.records,
            bytes = written.bytes,
            ms = written.took_ns / 1_000_000,
            "snapshot taken"
        );
        if exact {
            tracing::info!(
                records = written.records,
                bytes = %size(written.bytes),
                "the last snapshot is taken"
            );
            snapshots.ending = Ending::Done;
        }
    }

    fn snapshot_failed(&mut self, exact: bool, why: &str) {
        if !exact && self.snapshots.ending == Ending::Last {
            // We have ended it ourselves, for the last one.
            return;
        }
        self.snapshots.failures += 1;
        self.memory.count_for_helpers(Counter::SnapshotsFailed, 1);
        // What it has written only takes room.
        let _ = fs::remove_file(self.snapshots.directory.join(ASIDE));
        if exact {
            self.snapshots.ending = Ending::Done;
            self.snapshots.last_failed = Some(why.to_owned());
            return tracing::error!(
                why,
                "the last snapshot could not be taken: the next start has what the one before has"
            );
        }
        tracing::error!(
            why,
            failures = self.snapshots.failures,
            "a snapshot could not be taken; the one before stays"
        );
    }

    /// The last worker has left.
    pub(super) fn workers_left(&mut self) {
        let wanted =
            self.snapshot_period().is_some() && self.gave_up.is_none() && self.fleet.all_served();
        if !wanted {
            self.stopped = true;
            return;
        }
        self.snapshots.ending = Ending::Last;
        // One that is under way is not exact.
        self.stop_helper();
        self.go_on_with_stop();
    }

    /// Whoever has asked twice is not kept waiting.
    pub(super) fn stop_at_once(&mut self) {
        if self.snapshots.ending == Ending::Last {
            tracing::warn!("stopping without a last snapshot: asked twice");
            self.stopped = true;
        }
    }

    /// The workers have left, and the last snapshot is all that is still to be done.
    pub(super) fn ending(&self) -> bool {
        self.snapshots.ending != Ending::NotYet
    }

    pub(super) fn go_on_with_stop(&mut self) {
        // Its helper recovers what another may have left.
        if self.snapshots.ending == Ending::Last && self.helpers.running().is_none() {
            self.begin_snapshot(true);
        }
        if self.snapshots.ending == Ending::Done {
            self.stopped = true;
        }
    }
}

/// What the file is read with at the start.
pub(crate) struct Restoring<'a> {
    pub(crate) directory: &'a Path,
    /// The directory is nobody else's.
    pub(crate) ours: bool,
    pub(crate) config: &'a Config,
    pub(crate) program: Option<&'a Executable>,
    pub(crate) arguments: &'a [String],
}

impl Restoring<'_> {
    /// Fills a new arena from the file, if there is one and snapshots are on; says whether it did. It is another arena afterwards if a part of the file had come
    /// into the first already.
    pub(crate) fn run(
        &self,
        memory: Memory,
        helpers: &mut Helpers,
    ) -> Result<(Memory, bool), Trouble> {
        if !self.ours || self.config.memory.snapshot.is_none() {
            return Ok((memory, false));
        }
        let path = self.directory.join(FILE);
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path);
        let (memory, why) = match file {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((memory, false)),
            Err(error) => (memory, format!("it can't be opened: {error}")),
            Ok(file) => match self.fill(memory, &file, helpers)? {
                (memory, Ok(restored)) => {
                    tell(&memory, restored);
                    if restored.no_room > 0 {
                        keep(self.directory);
                    }
                    return Ok((memory, true));
                }
                (memory, Err(why)) => (memory, why),
            },
        };
        memory.count_for_helpers(Counter::SnapshotsRefused, 1);
        let path = path.display();
        match set_aside(self.directory) {
            Ok(bad) => tracing::error!(
                "the snapshot {path} is not taken: {why}; it is now {}, and the server starts without its registrations",
                bad.display()
            ),
            Err(error) => tracing::error!(
                "the snapshot {path} is not taken: {why}; nor can it be renamed ({error}); the server starts without its registrations"
            ),
        }
        Ok((memory, false))
    }

    fn fill(
        &self,
        mut memory: Memory,
        file: &File,
        helpers: &mut Helpers,
    ) -> Result<(Memory, Result<Restored, String>), Trouble> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let why = match self.ask(&memory, file, helpers) {
                Ok(FromHelper::Restored(restored)) => return Ok((memory, Ok(restored))),
                Ok(FromHelper::Refused { message }) => return Ok((memory, Err(message))),
                Ok(_) => "its helper said something else".to_owned(),
                Err(why) => why,
            };
            // Perhaps the half of it is in there; nobody has seen it.
            memory = Memory::create(self.config, memory.numbers().aux)?;
            helpers.arena_is_new();
            if attempts >= ATTEMPTS {
                return Ok((memory, Err(why)));
            }
            tracing::warn!(why, "the snapshot could not be read; once more");
        }
    }

    fn ask(&self, memory: &Memory, file: &File, helpers: &mut Helpers) -> Ended {
        let (Some((control, data)), Some(program)) = (memory.files(), self.program) else {
            return Err("there is nothing to start a helper from".to_owned());
        };
        let start = Start {
            program,
            arguments: self.arguments,
            arena: [control, data],
            user: self.config.workers.user.as_deref(),
        };
        helpers.run(start, HelperTask::Restore, &[file.as_fd()], PATIENCE)
    }
}

fn tell(memory: &Memory, restored: Restored) {
    let lost = restored.unknown + restored.no_room;
    memory.count_for_helpers(Counter::RecordsRestored, restored.records);
    memory.count_for_helpers(Counter::RecordsExpired, restored.expired);
    memory.count_for_helpers(Counter::RecordsNotRestored, lost);
    let age_s = restored.age_ms / 1000;
    tracing::info!(
        records = restored.records,
        expired = restored.expired,
        age_s,
        ms = restored.took_ns / 1_000_000,
        "restored from the snapshot"
    );
    if restored.unknown > 0 {
        tracing::warn!(
            records = restored.unknown,
            "the snapshot has records that this release can't read; they are left out"
        );
    }
    if restored.no_room > 0 {
        tracing::error!(
            records = restored.no_room,
            "`memory.limit` leaves no room for records of the snapshot; they are left out"
        );
    }
}

/// What is not in memory is not in the next snapshot either: this one stays, under another name.
fn keep(directory: &Path) {
    let kept = place_aside(directory).and_then(|place| {
        match fs::remove_file(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::hard_link(directory.join(FILE), &place).map(|()| place)
    });
    match kept {
        Ok(place) => tracing::warn!("the whole snapshot is kept as {}", place.display()),
        Err(error) => {
            tracing::error!(%error, "the whole snapshot can't be kept: the next one takes its place")
        }
    }
}

/// Renames the file so that it is neither read nor overwritten.
fn set_aside(directory: &Path) -> io::Result<PathBuf> {
    let place = place_aside(directory)?;
    fs::rename(directory.join(FILE), &place)?;
    File::open(directory)?.sync_all()?;
    Ok(place)
}

/// Where to put a file aside; of those that are there the oldest goes if there are too many.
fn place_aside(directory: &Path) -> io::Result<PathBuf> {
    let places: Vec<PathBuf> = (1..=BAD_MAX)
        .map(|n| directory.join(format!("{FILE}.bad-{n}")))
        .collect();
    let modified = |path: &PathBuf| {
        fs::symlink_metadata(path)
            .and_then(|about| about.modified())
            .ok()
    };
    // A place that nobody has taken is older than any.
    let place = places.iter().min_by_key(|path| modified(path));
    place.cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_files_are_kept_but_not_for_ever() {
        let state = tempfile::tempdir().unwrap();
        let names = || {
            let mut names: Vec<String> = fs::read_dir(state.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        for n in 1..=BAD_MAX {
            fs::write(state.path().join(FILE), format!("{n}")).unwrap();
            let when = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(1000 - n));
            let file = File::options()
                .append(true)
                .open(state.path().join(FILE))
                .unwrap();
            file.set_modified(when).unwrap();
            let place = set_aside(state.path()).unwrap();
            assert!(place.ends_with(format!("snapshot.bad-{n}")), "{place:?}");
        }
        assert_eq!(names().len(), BAD_MAX as usize);
        // The oldest is the last one.
        fs::write(state.path().join(FILE), "ten").unwrap();
        let place = set_aside(state.path()).unwrap();
        assert!(place.ends_with("snapshot.bad-9"), "{place:?}");
        assert_eq!(fs::read_to_string(place).unwrap(), "ten");
        assert_eq!(names().len(), BAD_MAX as usize);
        assert!(set_aside(state.path()).is_err(), "there is no file now");
    }

    #[test]
    fn whatever_lies_in_the_way_is_replaced() {
        let state = tempfile::tempdir().unwrap();
        let victim = state.path().join("victim");
        let aside = state.path().join(ASIDE);
        let snapshots = Snapshots::new(state.path().to_path_buf(), None, None, false);
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &aside).unwrap();
        drop(snapshots.open_aside().unwrap());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        fs::remove_file(&aside).unwrap();
        // To open it would wait for a reader for ever.
        nix::unistd::mkfifo(&aside, nix::sys::stat::Mode::S_IRWXU).unwrap();
        drop(snapshots.open_aside().unwrap());
        assert!(fs::symlink_metadata(&aside).unwrap().is_file());
    }

    #[test]
    fn an_adoption_puts_no_snapshot_off() {
        let state = tempfile::tempdir().unwrap();
        let period = Some(Duration::from_secs(10));
        let wait = || {
            let mut snapshots = Snapshots::new(state.path().to_path_buf(), None, period, false);
            snapshots.go_on_from_file(period);
            snapshots.next.saturating_duration_since(os::now())
        };
        assert!(wait() > Duration::from_secs(9), "no file");
        let file = File::create(state.path().join(FILE)).unwrap();
        for (age, least) in [(4, 5), (60, 0)] {
            let when = std::time::SystemTime::now() - Duration::from_secs(age);
            file.set_modified(when).unwrap();
            let left = wait().as_secs_f64();
            assert!(
                (least as f64..=least as f64 + 1.0).contains(&left),
                "{left}"
            );
        }
    }

    #[test]
    fn what_had_no_room_is_kept() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join(FILE), "all").unwrap();
        keep(state.path());
        fs::rename(state.path().join(FILE), state.path().join("gone")).unwrap();
        let kept = state.path().join("snapshot.bad-1");
        assert_eq!(fs::read_to_string(kept).unwrap(), "all");
    }

    #[test]
    fn a_state_directory_has_one_server() {
        let state = tempfile::tempdir().unwrap();
        let ours = claim(state.path());
        assert!(ours.is_some() && claim(state.path()).is_none());
        drop(ours);
        assert!(claim(state.path()).is_some());
    }

    #[test]
    fn a_status_tells_how_much_a_power_cut_would_take() {
        let mut snapshots =
            Snapshots::new(PathBuf::new(), None, Some(Duration::from_secs(10)), false);
        let at = |s: u64| Instant::from_nanos(s * 1_000_000_000);
        let status = snapshots.status(Some(Duration::from_secs(10)), at(5));
        assert_eq!((status.period_ms, status.age_ms), (Some(10_000), None));
        snapshots.as_of = Some(at(3));
        snapshots.last = Some(Written {
            records: 7,
            bytes: 900,
            begun_ns: 3_000_000_000,
            took_ns: 12_000_000,
        });
        let status = snapshots.status(None, at(5));
        assert_eq!((status.period_ms, status.age_ms), (None, Some(2_000)));
        assert_eq!((status.records, status.bytes, status.took_ms), (7, 900, 12));
    }
}
