//! Our server and another proxy under the same load generator in one run. The generator, `sipload`, and
//! the scripts that start the other proxy lie outside this repository.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::Value;

use crate::shell::{self, cargo, output, root, target_dir};

/// Where the scripts expect the proxy, and where it sends calls.
const PROXY: &str = "127.0.0.1:25060";
const CALLEE: &str = "127.0.0.1:27060";

#[derive(Args)]
pub(crate) struct Options {
    /// Folder with `bench.sh` and `sipload/`
    #[arg(long, env = "TANDEM_RIG")]
    rig: Option<PathBuf>,
    /// The other proxy; `none` measures only ours
    #[arg(long, default_value = "kamailio")]
    beside: String,
    /// Scenarios to run
    #[arg(long, value_delimiter = ',', default_value = "stateful,registrar")]
    scenarios: Vec<String>,
    /// `fixed` rate, or `search` for the highest clean one, or both
    #[arg(long, value_delimiter = ',', default_value = "fixed,search")]
    kinds: Vec<String>,
    /// Registered users in the `registrar` scenario
    #[arg(long, default_value_t = 10_000)]
    users: u32,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let rig = options
        .rig
        .clone()
        .unwrap_or_else(|| root().join("../shared/rig"));
    if !rig.join("bench.sh").is_file() {
        bail!(
            "no load generator in {}; name its folder with --rig",
            rig.display()
        );
    }
    let tools = target_dir().join("rig");
    let manifest = rig.join("sipload/Cargo.toml");
    shell::run(
        cargo(&["build", "--release", "--manifest-path"])
            .arg(manifest)
            .arg("--target-dir")
            .arg(&tools),
    )?;
    shell::run(&mut cargo(&["build", "--release", "--package", "tandem"]))?;
    let results = tools.join("results.jsonl");
    let place = Place {
        rig,
        sipload: tools.join("release/sipload"),
        results: results.clone(),
    };
    for scenario in &options.scenarios {
        for kind in &options.kinds {
            if options.beside != "none" {
                place.measure(options, kind, scenario, &options.beside)?;
            }
            let server = Server::start(scenario, &tools)?;
            let name = format!("tandem={}@{PROXY}", server.pids()?);
            place.measure(options, kind, scenario, &name)?;
        }
    }
    println!("results: {}", results.display());
    Ok(())
}

struct Place {
    rig: PathBuf,
    sipload: PathBuf,
    results: PathBuf,
}

impl Place {
    fn measure(
        &self,
        options: &Options,
        kind: &str,
        scenario: &str,
        peer: &str,
    ) -> anyhow::Result<()> {
        let mut command = Command::new(self.rig.join("bench.sh"));
        command.args([kind, peer, scenario, "1"]);
        if scenario == "registrar" {
            command.args(["--mode", "register", "--users", &options.users.to_string()]);
        }
        command
            .env("SIPLOAD", &self.sipload)
            .env("OUT", &self.results);
        shell::run(&mut command)
    }
}

/// Our server as the scripts want it: one slot on core 0.
struct Server {
    child: Child,
    control: PathBuf,
}

impl Server {
    fn start(scenario: &str, dir: &Path) -> anyhow::Result<Self> {
        let target = if scenario == "registrar" {
            "location".to_owned()
        } else {
            format!("uri:sip:{CALLEE}")
        };
        let config = format!(
            "[[listen]]\naddress = \"{PROXY}\"\ntransports = [\"udp\"]\n\
             [workers]\ncount = 1\nreactors = 1\npin = [0]\n[memory]\nlimit = \"4GiB\"\n\
             [[domain]]\nname = \"127.0.0.1\"\nauth = \"none\"\nrecord_route = true\n\
             [[route]]\nto = \"{target}\"\n"
        );
        let (file, control) = (dir.join("tandem.toml"), dir.join("tandem.sock"));
        std::fs::write(&file, config)?;
        let binary = target_dir().join("release/tandem");
        // As the scripts start the other one.
        let child = Command::new("nice")
            .args(["-n", "-15"])
            .arg(&binary)
            .arg("run")
            .arg("-c")
            .arg(&file)
            .arg("--control")
            .arg(&control)
            .arg("--state")
            .arg(dir.join("state"))
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let server = Self { child, control };
        let start = Instant::now();
        while server.pids().is_err() {
            if start.elapsed() > Duration::from_secs(10) {
                bail!("tandem does not answer");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// Supervisor and workers, with commas: the load generator adds up their CPU time.
    fn pids(&self) -> anyhow::Result<String> {
        let mut command = Command::new(target_dir().join("release/tandem"));
        let text = output(
            command
                .args(["status", "--json", "--control"])
                .arg(&self.control),
        )?;
        let status: Value = serde_json::from_str(&text)?;
        status["workers"]
            .as_array()
            .filter(|w| !w.is_empty())
            .context("no worker yet")?;
        // Workers are children of the supervisor, which the generator counts too.
        Ok(status["supervisor"]["pid"]
            .as_u64()
            .context("no supervisor")?
            .to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let binary = target_dir().join("release/tandem");
        let _ = Command::new(binary)
            .args(["stop", "--control"])
            .arg(&self.control)
            .status();
        let _ = self.child.wait();
        // The kernel takes the ring's sockets down a moment after the process; the other proxy wants the port free.
        let until = Instant::now() + Duration::from_secs(5);
        while std::net::UdpSocket::bind(PROXY).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
