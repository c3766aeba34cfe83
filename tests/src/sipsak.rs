//! sipsak: one request a run, its verdict in the exit code.

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

use crate::machine::need;

/// Sends OPTIONS to `uri` by way of `server`; exit code 0 means a 2xx came.
#[track_caller]
pub fn options(server: SocketAddr, uri: &str) -> Output {
    run(&["-vv", "-s", uri, "-p", &server.to_string()])
}

/// Runs sipsak with these arguments.
#[track_caller]
pub fn run(arguments: &[&str]) -> Output {
    need("sipsak");
    Command::new("sipsak")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("sipsak can be run")
}
