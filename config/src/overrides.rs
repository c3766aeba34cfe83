//! What the command line says over the file: `--listen`, `--workers`, `--reactors`, `--pin`.

use std::net::SocketAddr;

use crate::{
    model::{Pin, SLOTS_MAX, WORKERS_MAX},
    parse::{self, Draft},
    reader::{Reader, Table},
    value::{self, Wrong},
};

/// Values of the command line; each replaces what the file says, lists as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--listen udp:HOST:PORT`, any number; none leaves the file's listeners.
    pub listen: Vec<SocketAddr>,
    pub workers: Option<u16>,
    pub reactors: Option<u16>,
    pub pin: Option<Pin>,
}

/// An argument that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{argument:?} {what}; {remedy}")]
pub struct ArgumentError {
    pub argument: String,
    pub what: String,
    pub remedy: String,
}

impl ArgumentError {
    pub(crate) fn new(argument: &str, wrong: Wrong) -> Self {
        Self {
            argument: argument.to_owned(),
            what: wrong.what,
            remedy: wrong.remedy,
        }
    }
}

/// Reads `udp:HOST:PORT`, as for `--listen`.
pub fn parse_listen(argument: &str) -> Result<SocketAddr, ArgumentError> {
    let read = match argument.split_once(':') {
        Some(("udp", address)) => value::socket_address(address),
        Some((transport @ ("tcp" | "tls" | "ws" | "wss"), _)) => value::wrong(
            format!("needs transport {transport}, which does not exist in this version"),
            "write udp:HOST:PORT",
        ),
        _ => value::wrong(
            "does not start with a transport",
            "write udp:HOST:PORT, like udp:127.0.0.1:5060",
        ),
    };
    read.map_err(|wrong| ArgumentError::new(argument, wrong))
}

/// Reads `auto`, `none` or a list of cores like `0,2-4`, as for `--pin`.
pub fn parse_pin(argument: &str) -> Result<Pin, ArgumentError> {
    value::pin(argument).map_err(|wrong| ArgumentError::new(argument, wrong))
}

impl Overrides {
    /// Replaces what `draft` has from the file, before it is checked.
    pub(crate) fn apply<'r>(&self, reader: &'r Reader<'r>, draft: &mut Draft<'r>, cores: u16) {
        for (option, value, most) in [
            ("--workers", self.workers, WORKERS_MAX),
            ("--reactors", self.reactors, SLOTS_MAX),
        ] {
            if value.is_some_and(|value| !(1..=most).contains(&value)) {
                let range = format!("1 to {most}");
                reader.error(
                    None,
                    format!("{option} must be {range}"),
                    format!("choose a number from {range}"),
                );
            }
        }
        if !self.listen.is_empty() {
            draft.config.listen = self.listen.iter().copied().map(parse::listener).collect();
            draft.listen.clear();
            for (index, address) in self.listen.iter().enumerate() {
                if address.port() != 0
                    && self
                        .listen
                        .iter()
                        .take(index)
                        .any(|earlier| earlier == address)
                {
                    reader.error(
                        None,
                        format!("--listen names {address} twice"),
                        "remove one of the two",
                    );
                }
            }
        }
        let workers = &mut draft.config.workers;
        if self.workers.is_some() || self.reactors.is_some() {
            let from_file = |table: &Table<'_>, key, value: u16| table.has(key).then_some(value);
            let count = self
                .workers
                .or(from_file(&draft.workers, "count", workers.count));
            let reactors =
                self.reactors
                    .or(from_file(&draft.workers, "reactors", workers.reactors));
            // Zero has been refused above; it must not divide here.
            (workers.count, workers.reactors) =
                parse::default_slots(cores, count.map(|n| n.max(1)), reactors.map(|n| n.max(1)));
        }
        if let Some(pin) = &self.pin {
            workers.pin = pin.clone();
            draft.pin_from_file = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check<T: std::fmt::Debug>(result: Result<T, ArgumentError>, expected: Expect) {
        expected.assert_eq(&match result {
            Ok(value) => format!("{value:?}"),
            Err(error) => error.to_string(),
        });
    }

    #[test]
    fn listen_arguments() {
        check(
            parse_listen("udp:127.0.0.1:5070"),
            expect!["127.0.0.1:5070"],
        );
        check(parse_listen("udp:[::1]:0"), expect!["[::1]:0"]);
        check(
            parse_listen("tcp:127.0.0.1:5060"),
            expect![[
                r#""tcp:127.0.0.1:5060" needs transport tcp, which does not exist in this version; write udp:HOST:PORT"#
            ]],
        );
        check(
            parse_listen("127.0.0.1:5060"),
            expect![[
                r#""127.0.0.1:5060" does not start with a transport; write udp:HOST:PORT, like udp:127.0.0.1:5060"#
            ]],
        );
        check(
            parse_listen("udp:127.0.0.1"),
            expect![[r#""udp:127.0.0.1" has no port; write 127.0.0.1:5060"#]],
        );
    }

    #[test]
    fn pin_arguments() {
        check(parse_pin("auto"), expect!["Auto"]);
        check(parse_pin("0,2-4"), expect!["List([0, 2, 3, 4])"]);
        check(
            parse_pin("4-2"),
            expect![[
                r#""4-2" is not a list of cores; write core numbers and ranges, like 0,2-4, or auto, or none"#
            ]],
        );
    }
}
