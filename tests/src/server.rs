//! A running `tandem`: the real binary, on an address of its own, with its own control socket and
//! state directory. It is stopped, and every process it left is killed, when the value is dropped.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;

use crate::binary::{tandem, tandem_with_failpoints};
use crate::machine::{Process, eventually, free_port, fresh_address, group_members, process};
use crate::manager::Manager;
use crate::ua::Ua;

/// How long a start, a stop or a reload may take before the test fails. Generous: CI has two cores.
pub const LIMIT: Duration = Duration::from_secs(20);

/// The domain that [`DEFAULT`] serves.
pub const DOMAIN: &str = "example.test";

/// The configuration of tests about overload, and of those on a machine that is known to have time. `{ip}`, `{port}` and `{dir}` are filled in by
/// [`Server`].
pub const GATED: &str = r#"
[[listen]]
address = "{ip}:{port}"
transports = ["udp"]

[workers]
count = 2
reactors = 1
pin = "none"

[memory]
limit = "64MiB"

[[domain]]
name = "example.test"
auth = "none"
record_route = true
"#;

/// The configuration most tests run on: [`GATED`] without the gate. A debug build on a core that many others want too is busy for seconds on end, and rightly
/// refuses calls then; what most tests are about would be lost in that.
pub const DEFAULT: &str = r#"
[[listen]]
address = "{ip}:{port}"
transports = ["udp"]

[workers]
count = 2
reactors = 1
pin = "none"

[memory]
limit = "64MiB"

[overload]
occupancy = 100

[[domain]]
name = "example.test"
auth = "none"
record_route = true
"#;

pub struct Server {
    child: Child,
    program: PathBuf,
    /// One for each supervisor that there was: a worker stays in the group of the one that started it.
    groups: Vec<i32>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    dir: tempfile::TempDir,
    pub ip: Ipv4Addr,
    pub port: u16,
}

/// One row of `workers` in `tandem status --json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    pub pid: i32,
    pub role: String,
    pub slots: Vec<u64>,
    pub incarnation: u64,
    pub restarts: u64,
}

impl Server {
    /// Starts on [`DEFAULT`] and waits until it answers.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(DEFAULT)
    }

    /// Starts on a configuration and waits until every signalling worker serves and a spare stands by.
    #[track_caller]
    pub fn start_with(config: &str) -> Self {
        let mut server = Self::spawn(config, &[]);
        let start = Instant::now();
        while !server.is_ready() {
            if let Ok(Some(status)) = server.child.try_wait() {
                panic!("tandem ended at its start ({status}):\n{}", server.log());
            }
            assert!(
                start.elapsed() < LIMIT,
                "not ready within {LIMIT:?}:\n{}",
                server.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    /// Starts without waiting. `{ip}`, `{port}`, `{dir}` in the configuration are replaced.
    #[track_caller]
    pub fn spawn(config: &str, arguments: &[&str]) -> Self {
        let ip = fresh_address();
        Self::spawn_at(ip, free_port(ip), config, arguments)
    }

    #[track_caller]
    pub fn spawn_at(ip: Ipv4Addr, port: u16, config: &str, arguments: &[&str]) -> Self {
        Self::launch(tandem(), ip, port, config, arguments, &[])
    }

    /// Starts without waiting, with more environment; with failpoints if it has a plan for them.
    #[track_caller]
    pub fn spawn_with_env(config: &str, environment: &[(&str, &str)]) -> Self {
        let ip = fresh_address();
        Self::launch(tandem(), ip, free_port(ip), config, &[], environment)
    }

    /// The same of the program with failpoints compiled in.
    pub fn spawn_planned_with_env(config: &str, environment: &[(&str, &str)]) -> Self {
        let ip = fresh_address();
        let program = tandem_with_failpoints();
        Self::launch(program, ip, free_port(ip), config, &[], environment)
    }

    /// Starts the program with failpoints, which do what `plan` says (see the crate `failpoint`), and waits until it serves.
    #[track_caller]
    pub fn start_with_failpoints(config: &str, plan: &str) -> Self {
        let (ip, environment) = (fresh_address(), [("TANDEM_FAILPOINTS", plan)]);
        let program = tandem_with_failpoints();
        let server = Self::launch(program, ip, free_port(ip), config, &[], &environment);
        server.wait_ready();
        server
    }

    /// Starts at this address without waiting, with failpoints if `plan` has any; `once` is the folder for those that act once.
    #[track_caller]
    pub fn spawn_planned(ip: Ipv4Addr, port: u16, config: &str, plan: &str, once: &Path) -> Self {
        if plan.is_empty() {
            return Self::spawn_at(ip, port, config, &[]);
        }
        let once = once.display().to_string();
        let environment = [
            ("TANDEM_FAILPOINTS", plan),
            ("TANDEM_FAILPOINTS_ONCE", &once),
        ];
        Self::launch(
            tandem_with_failpoints(),
            ip,
            port,
            config,
            &[],
            &environment,
        )
    }

    /// Starts and waits until it serves; its log goes there.
    #[track_caller]
    pub fn start_with_log_to(config: &str, log: Stdio) -> Self {
        let ip = fresh_address();
        let server = Self::launch_with(tandem(), ip, free_port(ip), config, &[], &[], Some(log));
        server.wait_ready();
        server
    }

    #[track_caller]
    fn launch(
        program: &Path,
        ip: Ipv4Addr,
        port: u16,
        config: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        Self::launch_with(program, ip, port, config, arguments, environment, None)
    }

    #[track_caller]
    fn launch_with(
        program: &Path,
        ip: Ipv4Addr,
        port: u16,
        config: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
        log: Option<Stdio>,
    ) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("tandem-test-")
            .tempdir()
            .expect("a temporary directory");
        let mut given = Vec::new();
        if !config.is_empty() {
            let text = fill(config, ip, port, dir.path());
            let file = dir.path().join("tandem.toml");
            std::fs::write(&file, text).expect("a configuration file");
            given = vec!["-c".to_owned(), file.display().to_string()];
        }
        given.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let environment: Vec<(String, String)> = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let full = [vec!["run".to_owned()], given.clone()].concat();
        let mut command = command(program, dir.path(), &full, &environment);
        if let Some(log) = log {
            command.stderr(log);
        }
        let child = command.spawn().expect("tandem can be started");
        let group = i32::try_from(child.id()).expect("a pid fits");
        Self {
            child,
            program: program.to_path_buf(),
            groups: vec![group],
            arguments: given,
            environment,
            dir,
            ip,
            port,
        }
    }

    /// `kill -9` of the supervisor alone.
    #[track_caller]
    pub fn kill_supervisor(&mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }

    /// `kill -9` of everything at once: what a power cut leaves, but for what the kernel has still to write.
    #[track_caller]
    pub fn power_cut(&mut self) {
        for group in &self.groups {
            // A group that is gone already is as good.
            let _ = killpg(Pid::from_raw(*group), Signal::SIGKILL);
        }
        let _ = self.child.wait();
        eventually("everybody is dead", LIMIT, || {
            self.processes()
                .iter()
                .all(|process| process.state == 'Z')
                .then_some(())
        });
    }

    /// Removes all that is in the state directory but the secret that keys are made of.
    pub fn forget_all_but_the_secret(&self) {
        for entry in std::fs::read_dir(self.state())
            .expect("a state directory")
            .flatten()
        {
            if entry.file_name() != "secret.key" && entry.path().is_file() {
                std::fs::remove_file(entry.path()).expect("a file of ours");
            }
        }
    }

    /// Starts `tandem run` again, as it was started; the former one has ended.
    pub fn run_again(&mut self) {
        let arguments = [vec!["run".to_owned()], self.arguments.clone()].concat();
        self.child = command(
            &self.program,
            self.dir.path(),
            &arguments,
            &self.environment,
        )
        .spawn()
        .expect("tandem can be started");
        self.groups
            .push(i32::try_from(self.child.id()).expect("a pid fits"));
    }

    /// As [`Server::run_again`], by a service manager that hands over what it keeps.
    #[track_caller]
    pub fn run_again_by(&mut self, manager: &Manager) {
        // The shell knows the number that the server will have.
        let wrapped = [
            vec![
                "-c".to_owned(),
                "LISTEN_PID=$$ exec \"$@\"".to_owned(),
                "sh".to_owned(),
                self.program.display().to_string(),
                "run".to_owned(),
            ],
            self.arguments.clone(),
        ]
        .concat();
        let mut command = command("sh".as_ref(), self.dir.path(), &wrapped, &self.environment);
        manager.hand_over(&mut command);
        self.child = command.spawn().expect("a shell can be started");
        self.groups
            .push(i32::try_from(self.child.id()).expect("a pid fits"));
    }

    /// From the next start on this program runs.
    pub fn set_program(&mut self, program: &Path) {
        self.program = program.to_path_buf();
    }

    /// From the next start on failpoints do what `plan` says, in the supervisor and whom it starts.
    pub fn set_failpoints(&mut self, plan: &str) {
        self.forget_failpoints();
        let plan = ("TANDEM_FAILPOINTS".to_owned(), plan.to_owned());
        self.environment.push(plan);
    }

    /// From the next start on no failpoint does anything.
    pub fn forget_failpoints(&mut self) {
        self.environment
            .retain(|(name, _)| name != "TANDEM_FAILPOINTS");
    }

    /// Another `tandem run` beside the present one, with its output; it is expected to end by itself.
    pub fn run_beside(&self) -> Output {
        let arguments = [vec!["run".to_owned()], self.arguments.clone()].concat();
        command(
            &self.program,
            self.dir.path(),
            &arguments,
            &self.environment,
        )
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .output()
        .expect("tandem can be started")
    }

    /// Starts `tandem run` twice at the same moment; how the one that lost has ended.
    #[track_caller]
    pub fn run_twice(&mut self) -> ExitStatus {
        self.run_again();
        let mut first = std::mem::replace(&mut self.child, {
            let arguments = [vec!["run".to_owned()], self.arguments.clone()].concat();
            command(
                &self.program,
                self.dir.path(),
                &arguments,
                &self.environment,
            )
            .spawn()
            .expect("tandem can be started")
        });
        self.groups
            .push(i32::try_from(self.child.id()).expect("a pid fits"));
        eventually("one of two gives up", LIMIT, || {
            if let Ok(Some(status)) = first.try_wait() {
                return Some(status);
            }
            let ended = self.child.try_wait().ok().flatten()?;
            std::mem::swap(&mut first, &mut self.child);
            Some(ended)
        })
    }

    /// `kill -9` of everything.
    #[track_caller]
    pub fn kill_all(&mut self) {
        self.kill_supervisor();
        for process in self.processes() {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        eventually("everybody is dead", LIMIT, || {
            self.processes()
                .iter()
                .all(|process| process.state == 'Z')
                .then_some(())
        });
    }

    /// Stops politely and gives the names of what is left in the server's directory.
    #[track_caller]
    pub fn stop_and_look(mut self) -> Vec<String> {
        self.signal(Signal::SIGTERM);
        assert!(self.wait_exit().success(), "{}", self.log());
        let left = self.processes();
        let left: Vec<_> = left.iter().filter(|p| p.state != 'Z').collect();
        assert!(left.is_empty(), "left running: {left:?}\n{}", self.log());
        let entries = std::fs::read_dir(self.dir.path()).expect("our directory");
        let mut names: Vec<String> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    pub fn address(&self) -> SocketAddr {
        (self.ip, self.port).into()
    }

    pub fn supervisor(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid fits")
    }

    pub fn control(&self) -> PathBuf {
        self.dir.path().join("control")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("tandem.toml")
    }

    /// Everything the server has printed so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.dir.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A user agent on this server's address.
    pub fn ua(&self, user: &str) -> Ua {
        Ua::new(self.ip, self.address(), user, DOMAIN)
    }

    /// Rewrites the configuration file; `reload` or SIGHUP makes it count.
    pub fn write_config(&self, config: &str) {
        let text = fill(config, self.ip, self.port, self.dir.path());
        std::fs::write(self.config_file(), text).expect("a configuration file");
    }

    /// Runs `tandem ARGUMENTS` against this server.
    pub fn command(&self, arguments: &[&str]) -> Output {
        Command::new(tandem())
            .args(arguments)
            .env("TANDEM_CONTROL", self.control())
            .env("TANDEM_STATE", self.state())
            .stdin(Stdio::null())
            .output()
            .expect("tandem can be run")
    }

    /// Starts a command and does not wait for it; how it ends does not matter.
    pub fn begin(&self, arguments: &[&str]) {
        let child = Command::new(tandem())
            .args(arguments)
            .env("TANDEM_CONTROL", self.control())
            .env("TANDEM_STATE", self.state())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("tandem can be run");
        // Somebody has to collect it.
        std::thread::spawn(move || {
            let mut child = child;
            child.wait()
        });
    }

    /// Runs a command that must succeed and gives its standard output.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> String {
        let out = self.command(arguments);
        assert!(
            out.status.success(),
            "tandem {arguments:?}: {}\n{}{}\nlog:\n{}",
            out.status,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr),
            self.log()
        );
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// `tandem reload`, after the one that an adoption has begun, and once more if the machine stood still in the midst of a move, so that it was taken back.
    #[track_caller]
    pub fn reload(&self) -> String {
        const PASSING: [&str; 3] = [
            "another reload is under way",
            "the pause would be longer than",
            "not every worker serves",
        ];
        eventually("a reload", LIMIT, || {
            let out = self.command(&["reload"]);
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            let passes = PASSING.iter().any(|why| said.contains(why));
            assert!(out.status.success() || passes, "{said}\n{}", self.log());
            let said = String::from_utf8_lossy(&out.stdout).into_owned();
            out.status.success().then_some(said)
        })
    }

    /// Runs a command with `--json` and parses what it prints.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.run(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("tandem {arguments:?} --json: {e}:\n{text}"))
    }

    #[track_caller]
    pub fn status(&self) -> Value {
        self.json(&["status"])
    }

    /// The status, or nothing while the server does not answer.
    pub fn try_status(&self) -> Option<Value> {
        if !self.control().exists() {
            return None;
        }
        let out = self.command(&["status", "--json"]);
        if !out.status.success() {
            return None;
        }
        serde_json::from_slice(&out.stdout).ok()
    }

    /// A number at the top of the status, such as `registrations`.
    #[track_caller]
    pub fn number(&self, name: &str) -> u64 {
        let status = self.status();
        status[name]
            .as_u64()
            .unwrap_or_else(|| panic!("status has no number {name}: {status}"))
    }

    #[track_caller]
    pub fn workers(&self) -> Vec<Worker> {
        workers_of(&self.status())
    }

    #[track_caller]
    pub fn signalling(&self) -> Vec<Worker> {
        self.workers()
            .into_iter()
            .filter(|w| w.role == "signalling")
            .collect()
    }

    /// Waits until every slot has a living worker and a spare stands by.
    #[track_caller]
    pub fn wait_ready(&self) {
        eventually("workers and a spare", LIMIT, || {
            let gone = process(self.supervisor()).is_none_or(|p| p.state == 'Z');
            assert!(!gone, "the supervisor has ended:\n{}", self.log());
            self.is_ready().then_some(())
        });
    }

    fn is_ready(&self) -> bool {
        let Some(status) = self.try_status() else {
            return false;
        };
        let workers = workers_of(&status);
        let slots = status["slots"].as_array().map_or(0, Vec::len);
        let served: usize = workers
            .iter()
            .filter(|w| w.role == "signalling")
            .map(|w| w.slots.len())
            .sum();
        slots > 0 && served == slots && workers.iter().any(|w| w.role == "spare")
    }

    /// Deaths and planned restarts that the slots have seen, as `status` counts them.
    #[track_caller]
    pub fn restarts(&self) -> u64 {
        self.signalling().iter().map(|w| w.restarts).sum()
    }

    /// The same, or nothing while the server does not answer.
    pub fn try_restarts(&self) -> Option<u64> {
        let workers = workers_of(&self.try_status()?);
        let signalling = workers.iter().filter(|w| w.role == "signalling");
        Some(signalling.map(|w| w.restarts).sum())
    }

    /// One counter of `tandem stats --json`.
    #[track_caller]
    pub fn counter(&self, name: &str) -> u64 {
        let stats = self.json(&["stats"]);
        counter_in(&stats, name).unwrap_or_else(|| panic!("no counter {name} in {stats}"))
    }

    /// All counters, by name.
    #[track_caller]
    pub fn counters(&self) -> Vec<(String, u64)> {
        counters_in(&self.json(&["stats"]))
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.supervisor()), signal).expect("the supervisor lives");
    }

    /// `kill -9` of one worker of this server.
    #[track_caller]
    pub fn kill_worker(&self, pid: i32) {
        // One that has died meanwhile is as dead as one that we kill.
        let ours =
            process(pid).is_none_or(|p| self.groups.contains(&p.group)) && pid != self.supervisor();
        assert!(ours, "{pid} is no worker of this server");
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }

    /// The processes of this server, the supervisor included.
    pub fn processes(&self) -> Vec<Process> {
        self.groups
            .iter()
            .flat_map(|group| group_members(*group))
            .collect()
    }

    /// Stops politely; the exit status, within [`LIMIT`].
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let status = self.wait_exit();
        let left: Vec<Process> = self
            .processes()
            .into_iter()
            .filter(|p| p.state != 'Z')
            .collect();
        assert!(
            left.is_empty(),
            "left running after a stop: {left:?}\n{}",
            self.log()
        );
        status
    }

    /// Waits for the supervisor to end by itself.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return status;
            }
            assert!(
                start.elapsed() < LIMIT,
                "no end within {LIMIT:?}:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- end of the server's log ---");
            tail.iter().rev().for_each(|l| eprintln!("{l}"));
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.supervisor()), Signal::SIGTERM);
        }
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) && matches!(self.child.try_wait(), Ok(None))
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        // The groups are ours: supervisors were started as their leaders, and workers outlive them.
        for group in &self.groups {
            if group_members(*group).iter().any(|p| p.state != 'Z') {
                let _ = killpg(Pid::from_raw(*group), Signal::SIGKILL);
            }
        }
        let _ = self.child.wait();
    }
}

/// The command of a supervisor in `dir`; its output goes behind what is in the log.
fn command(
    program: &Path,
    dir: &Path,
    arguments: &[String],
    environment: &[(String, String)],
) -> Command {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .expect("a log file");
    let errors = log.try_clone().expect("a second descriptor");
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("TANDEM_CONTROL", dir.join("control"))
        .env("TANDEM_STATE", dir.join("state"))
        .env_remove("NOTIFY_SOCKET")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .process_group(0);
    command
}

fn fill(config: &str, ip: Ipv4Addr, port: u16, dir: &Path) -> String {
    config
        .replace("{ip}", &ip.to_string())
        .replace("{port}", &port.to_string())
        .replace("{dir}", &dir.display().to_string())
}

/// The workers in a status.
pub fn workers_of(status: &Value) -> Vec<Worker> {
    let rows = status["workers"].as_array().cloned().unwrap_or_default();
    rows.iter()
        .filter_map(|w| {
            Some(Worker {
                pid: i32::try_from(w["pid"].as_i64()?).ok()?,
                role: w["role"].as_str()?.to_owned(),
                slots: w["slots"]
                    .as_array()?
                    .iter()
                    .filter_map(Value::as_u64)
                    .collect(),
                incarnation: w["incarnation"].as_u64()?,
                restarts: w["restarts"].as_u64()?,
            })
        })
        .collect()
}

/// Counters as `{name: n}`, `{name: {value: n}}` or `[{name, value}]`, at the top or under `counters`.
pub fn counters_in(stats: &Value) -> Vec<(String, u64)> {
    let stats = if stats["counters"].is_null() {
        stats
    } else {
        &stats["counters"]
    };
    let value = |v: &Value| v.as_u64().or_else(|| v["value"].as_u64());
    if let Some(map) = stats.as_object() {
        return map
            .iter()
            .filter_map(|(k, v)| Some((k.clone(), value(v)?)))
            .collect();
    }
    let rows = stats.as_array().cloned().unwrap_or_default();
    rows.iter()
        .filter_map(|r| Some((r["name"].as_str()?.to_owned(), value(r)?)))
        .collect()
}

fn counter_in(stats: &Value, name: &str) -> Option<u64> {
    counters_in(stats)
        .into_iter()
        .find(|(n, _)| n == name)
        .map(|(_, v)| v)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counters_in_any_shape() {
        for stats in [
            json!({"a": 1, "b": 2}),
            json!([{"name": "a", "value": 1, "description": "x"}, {"name": "b", "value": 2}]),
            json!({"counters": [{"name": "a", "value": 1}, {"name": "b", "value": 2}]}),
        ] {
            assert_eq!(
                counters_in(&stats),
                [("a".to_owned(), 1), ("b".to_owned(), 2)]
            );
        }
    }

    #[test]
    fn workers_in_a_status() {
        let status = json!({"workers": [
            {"pid": 7, "role": "signalling", "slots": [0, 1], "incarnation": 1, "restarts": 0, "uptime_ms": 5},
            {"pid": "broken"}]});
        let workers = workers_of(&status);
        assert_eq!(workers.len(), 1);
        assert_eq!(
            workers.first().map(|w| (w.pid, w.slots.len())),
            Some((7, 2))
        );
    }

    #[test]
    fn placeholders() {
        let text = fill(DEFAULT, Ipv4Addr::LOCALHOST, 9, Path::new("d"));
        assert!(text.contains("127.0.0.1:9") && !text.contains('{'));
    }
}
