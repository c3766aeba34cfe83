//! Compiles tables of numbers.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, bail};
use config::Problem;
use control::FromHelper;

use crate::compile::{self, Compiled};

/// Problems of one table that are told.
const TOLD_MAX: usize = 20;

/// Compiles these tables of a configuration; what is right goes to `channel`, what is wrong is the error.
pub(super) fn compile(
    channel: &OwnedFd,
    config: &OwnedFd,
    (supervisor, user): (u32, Option<&str>),
    tables: &[u16],
) -> anyhow::Result<()> {
    let config = crate::process::read_config(config)?;
    let mut opened = Vec::new();
    for &number in tables {
        let table = config.prefix_tables.get(usize::from(number));
        let table = table.context("there is no such table")?;
        opened.push((number, table, compile::open(table)));
    }
    // What strangers may have written is read as somebody who may do little.
    if let Some(user) = user {
        os::drop_privileges(user).with_context(|| format!("can't become the user {user}"))?;
    }
    // The kernel forgets it when the account changes.
    os::die_with_parent(supervisor)?;
    let mut wrong = Vec::new();
    for (number, table, rules) in opened {
        let compiled = rules
            .map_err(|problem| vec![*problem])
            .and_then(|rules| compile::compile(rules, table, &config));
        match compiled {
            Ok(compiled) if wrong.is_empty() => send(channel, number, &compiled)?,
            Ok(_) => {}
            Err(problems) => wrong.push((table, problems)),
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{}", refused(&wrong))
}

fn refused(wrong: &[(&config::PrefixTable, Vec<Problem>)]) -> String {
    let mut text = String::new();
    for (table, problems) in wrong {
        if !text.is_empty() {
            text.push_str("\n\n");
        }
        text.push_str(&format!("`prefix_table` {:?} is refused", table.name));
        for problem in problems.iter().take(TOLD_MAX) {
            text.push_str(&format!("\n\n{problem}"));
        }
        let more = problems.len().saturating_sub(TOLD_MAX);
        if more > 0 {
            text.push_str(&format!("\n\nand {more} more; `tandem check` tells all"));
        }
    }
    text
}

fn send(channel: &OwnedFd, table: u16, compiled: &Compiled) -> anyhow::Result<()> {
    let file = compile::sealed(&compiled.image).context("there is no memory for a table")?;
    let message = FromHelper::Compiled {
        table,
        lines: compiled.lines,
        stamp: compiled.stamp,
        warnings: compiled.warnings.iter().map(ToString::to_string).collect(),
    };
    let bytes = control::encode(&message)?;
    os::send_with_fds(channel.as_fd(), &bytes, &[file.as_fd()]).context("the supervisor is gone")
}
