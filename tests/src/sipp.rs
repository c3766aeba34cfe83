//! SIPp with our scenarios: started in a directory of its own, bounded in time, its statistics read
//! from its own files.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::machine::{eventually, free_port, need, test_file};

pub struct Sipp {
    child: Child,
    dir: tempfile::TempDir,
    scenario: String,
    pub address: SocketAddr,
}

/// What SIPp counted, from the last line of its statistics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    pub created: u64,
    pub successful: u64,
    pub failed: u64,
    pub unexpected: u64,
    pub retransmissions: u64,
    pub dead_call_messages: u64,
    pub out_of_call_messages: u64,
    pub warnings: u64,
}

/// How a SIPp ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub statistics: Statistics,
    pub errors: String,
}

impl Ended {
    /// Every call of `calls` succeeded and nothing unexpected came.
    #[track_caller]
    pub fn assert_clean(&self, who: &str, calls: u64) {
        let s = &self.statistics;
        assert!(
            self.code == Some(0) && s.failed == 0 && s.unexpected == 0 && s.successful == calls,
            "{who}: exit {:?}, {s:?}\n{}",
            self.code,
            tail(&self.errors)
        );
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// A file of `tests/sipp/`, without `.xml`.
    pub scenario: &'a str,
    pub ip: Ipv4Addr,
    /// Where requests go; `None` for a callee.
    pub remote: Option<SocketAddr>,
    pub calls: Option<u64>,
    /// Calls per second.
    pub rate: u32,
    /// Calls at the same time.
    pub limit: u32,
    /// The user in the Request-URI (`[service]`).
    pub service: &'a str,
    pub timeout: Duration,
    pub extra: &'a [&'a str],
}

impl<'a> Run<'a> {
    pub fn caller(scenario: &'a str, ip: Ipv4Addr, remote: SocketAddr) -> Self {
        Self {
            scenario,
            ip,
            remote: Some(remote),
            calls: Some(1),
            rate: 10,
            limit: 10_000,
            service: "callee",
            timeout: Duration::from_secs(60),
            extra: &[],
        }
    }

    pub fn callee(scenario: &'a str, ip: Ipv4Addr) -> Self {
        Self {
            remote: None,
            calls: None,
            ..Self::caller(scenario, ip, (ip, 1).into())
        }
    }
}

impl Sipp {
    #[track_caller]
    pub fn start(run: &Run<'_>) -> Self {
        need("sipp");
        let file = test_file("sipp").join(format!("{}.xml", run.scenario));
        assert!(file.is_file(), "no scenario {}", file.display());
        let dir = tempfile::Builder::new()
            .prefix("tandem-sipp-")
            .tempdir_in(folder())
            .expect("a temporary directory");
        let address = SocketAddr::from((run.ip, free_port(run.ip)));
        let screen = std::fs::File::create(dir.path().join("screen")).expect("a file");
        let errors = screen.try_clone().expect("a second descriptor");
        let mut command = Command::new("sipp");
        if let Some(remote) = run.remote {
            command.arg(remote.to_string());
        }
        command
            .arg("-sf")
            .arg(&file)
            .args([
                "-i",
                &run.ip.to_string(),
                "-p",
                &address.port().to_string(),
                "-bind_local",
            ])
            .args([
                "-ci",
                &run.ip.to_string(),
                "-cp",
                &free_port(run.ip).to_string(),
            ])
            .args(["-s", run.service, "-nostdin", "-skip_rlimit"])
            .args(["-r", &run.rate.to_string(), "-l", &run.limit.to_string()])
            .args([
                "-timeout",
                &format!("{}s", run.timeout.as_secs().max(1)),
                "-timeout_error",
            ])
            .args(["-trace_stat", "-stf", "statistics.csv", "-fd", "1"])
            .args(["-trace_err", "-error_file", "errors.log"])
            // It would give up on a machine that stands still now and then.
            .args(["-watchdog_interval", "0"])
            .args(run.extra);
        if let Some(calls) = run.calls {
            command.args(["-m", &calls.to_string()]);
        }
        let child = command
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(screen)
            .stderr(errors)
            .spawn()
            .expect("sipp can be started");
        let mut sipp = Self {
            child,
            dir,
            scenario: run.scenario.to_owned(),
            address,
        };
        // Its first statistics line is written once its socket is bound.
        eventually("sipp at work", Duration::from_secs(10), || {
            let ended = sipp.child.try_wait().expect("our own child");
            (sipp.file("statistics.csv").exists() || ended.is_some()).then_some(())
        });
        sipp
    }

    pub fn contact(&self, user: &str) -> String {
        format!("sip:{user}@{}", self.address)
    }

    /// Waits until it ends by itself (a caller with a number of calls).
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Ended {
        assert!(
            self.is_over_within(limit),
            "sipp {} runs on after {limit:?}: {:?}\n{}",
            self.scenario,
            self.statistics(),
            tail(&self.text("errors.log"))
        );
        let status = self.child.wait().expect("our own child");
        self.ended(status.code())
    }

    /// Lets its calls finish, then ends it (a callee that waits for ever).
    pub fn finish(mut self, limit: Duration) -> Ended {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid fits"));
        let _ = kill(pid, Signal::SIGUSR1);
        let status = match self.is_over_within(limit) {
            true => self.child.wait().ok(),
            false => None,
        };
        self.ended(status.and_then(|status| status.code()))
    }

    /// Has it ended by itself?
    pub fn is_over(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// As [`Sipp::is_over`], or does it end before the time is over?
    pub fn is_over_within(&mut self, limit: Duration) -> bool {
        if self.is_over() {
            return true;
        }
        let process = os::pidfd_open(self.child.id()).expect("our own child");
        let until = Instant::now() + limit;
        loop {
            // Rounded up, so that it is over when the loop is.
            let left = until.saturating_duration_since(Instant::now());
            let ms = u16::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
            let mut ended = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            // Interrupted: it is looked at again.
            let _ = poll(&mut ended, PollTimeout::from(ms));
            if self.is_over() || left.is_zero() {
                return self.is_over();
            }
        }
    }

    /// What it has counted up to its last report (once a second).
    pub fn statistics(&self) -> Statistics {
        Statistics::parse(&self.text("statistics.csv"))
    }

    fn ended(&self, code: Option<i32>) -> Ended {
        let mut errors = self.text("errors.log");
        if errors.is_empty() && code != Some(0) {
            errors = self.text("screen");
        }
        Ended {
            code,
            statistics: self.statistics(),
            errors,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.file(name)).unwrap_or_default()).into_owned()
    }
}

impl Drop for Sipp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Statistics {
    /// The last whole line of `-trace_stat`, by the names in its first.
    pub fn parse(csv: &str) -> Self {
        let mut lines = csv.lines().filter(|l| !l.is_empty());
        let names: Vec<&str> = lines.next().unwrap_or("").split(';').collect();
        let Some(last) = lines.rfind(|l| l.split(';').count() >= names.len()) else {
            return Self::default();
        };
        let values: HashMap<&str, u64> = names
            .iter()
            .zip(last.split(';'))
            .filter_map(|(n, v)| Some((*n, v.parse().ok()?)))
            .collect();
        let get = |name: &str| values.get(name).copied().unwrap_or(0);
        Self {
            created: get("TotalCallCreated"),
            successful: get("SuccessfulCall(C)"),
            failed: get("FailedCall(C)"),
            unexpected: get("FailedUnexpectedMessage(C)"),
            retransmissions: get("Retransmissions(C)"),
            dead_call_messages: get("DeadCallMsgs(C)"),
            out_of_call_messages: get("OutOfCallMsgs(C)"),
            warnings: get("Warnings(C)"),
        }
    }
}

/// Where SIPp writes: into memory, if it can. It writes between two messages, and a disk that is busy would hold up its calls.
fn folder() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if nix::unistd::access(&memory, nix::unistd::AccessFlags::W_OK).is_ok() {
        memory
    } else {
        std::env::temp_dir()
    }
}

/// The end of a long text: the last 40 lines.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .get(lines.len().saturating_sub(40)..)
        .unwrap_or_default()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_by_name() {
        let csv = "StartTime;TotalCallCreated;SuccessfulCall(C);FailedCall(C);Retransmissions(C);\n\
                   x;1;0;0;0;\nx;9;8;1;3;\nx;10";
        let s = Statistics::parse(csv);
        assert_eq!(
            (s.created, s.successful, s.failed, s.retransmissions),
            (9, 8, 1, 3)
        );
        assert_eq!(Statistics::parse(""), Statistics::default());
    }

    #[test]
    fn only_the_end_of_long_logs() {
        let long = (0..100).map(|i| format!("{i}\n")).collect::<String>();
        assert_eq!(tail(&long).lines().count(), 40);
        assert_eq!(tail("one"), "one");
    }
}
