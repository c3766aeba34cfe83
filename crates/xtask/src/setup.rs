//! The outside programs that the tests use.

use std::path::Path;
use std::process::Command;

use anyhow::bail;

use crate::shell::{self, have, output};

/// Program, and the Debian package that brings it.
const PROGRAMS: [(&str, &str); 9] = [
    ("cc", "gcc"),
    ("sipp", "sip-tester"),
    ("sipsak", "sipsak"),
    ("baresip", "baresip-core"),
    ("unbound", "unbound"),
    ("rtpengine", "rtpengine-daemon"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("valgrind", "valgrind"),
];

/// Installs what is missing.
pub(crate) fn run() -> anyhow::Result<()> {
    let missing: Vec<&str> = missing(have);
    if missing.is_empty() {
        return Ok(());
    }
    let command = format!(
        "apt-get install --no-install-recommends {}",
        missing.join(" ")
    );
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "the tests need programs that are missing here, and this is no Debian: install what \
             these Debian packages contain: {}",
            missing.join(" ")
        );
    }
    if output(Command::new("id").arg("-u"))?.trim() != "0" {
        bail!("the tests need programs that are missing here; run as root: {command}");
    }
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt.args(["-qq", "install", "--yes", "--no-install-recommends"])
            .args(&missing);
        shell::run(&mut apt)
    };
    // The lists may be missing or old on a fresh machine: then once more with new ones.
    if install().is_err() {
        shell::run(Command::new("apt-get").args(["-qq", "update"]))?;
        install()?;
    }
    Ok(())
}

fn missing(have: impl Fn(&str) -> bool) -> Vec<&'static str> {
    PROGRAMS
        .iter()
        .filter(|(program, _)| !have(program))
        .map(|(_, package)| *package)
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_what_is_missing() {
        assert_eq!(
            super::missing(|p| p != "sipp" && p != "cc"),
            ["gcc", "sip-tester"]
        );
        assert!(super::missing(|_| true).is_empty());
    }
}
