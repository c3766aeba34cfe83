//! A worker whose supervisor is dead: its reactors serve on, its control thread waits for the next supervisor.
//!
//! All orphans wait on one listening socket, the one that the dead supervisor had given to each of them, and a connection goes to one of them.
//!
//! ```text
//! connect <-- Hail
//!         --> Orphan { who, which slots, which configuration } + its pidfd
//!             <-- Surrender (of one orphan): Estate, Doorbells, Sockets ... Surrendered, with duplicates of all that is shared
//!             <-- Adopt: the connection is the control channel from here on
//! ```
//!
//! Whatever else comes before `Adopt`, or nothing for some seconds (for the `Hail`, which is sent with the connection: a moment), or the end: the connection is
//! dropped and the next one awaited. So a
//! supervisor that dies while it adopts leaves orphans behind as it found them. Nobody but the account that we were started by, and root, is
//! listened to.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::Context as _;
use control::{FDS_PER_MESSAGE_MAX, FromWorker, ToWorker};
use failpoint::failpoint;

use crate::inbox::send;
use crate::process::Process;

/// How long whoever connected may take for each step.
const PATIENCE: Duration = Duration::from_secs(5);
/// For the first word, which is there before we are: who connects and says nothing keeps a supervisor waiting.
const FIRST_WORD: Duration = Duration::from_millis(100);

/// Returns with a new supervisor.
pub(crate) fn wait_for_adoption(process: &mut Process) -> anyhow::Result<()> {
    process.forget_halves();
    tracing::warn!(
        worker = process
            .place
            .map_or("spare".to_owned(), |place| place.to_string()),
        "the supervisor is gone: serving on, for the next `tandem run` to take over"
    );
    loop {
        let connection = next_connection(process)?;
        match present(process, connection.as_fd()) {
            Ok(()) => {
                os::block_for(connection.as_fd(), None).context("a channel can't be prepared")?;
                tracing::info!("adopted by a new supervisor");
                process.channel.replace(connection);
                return Ok(());
            }
            Err(error) => tracing::warn!("not adopted: {error:#}"),
        }
    }
}

/// Waits for a connection, without end.
fn next_connection(process: &mut Process) -> anyhow::Result<OwnedFd> {
    loop {
        let accepted = os::seqpacket_accept(process.adopt.as_fd());
        if let Some(connection) = accepted.context("the adopt socket can't be read")? {
            return Ok(connection);
        }
        // Another orphan may be faster, and that is all right.
        process.has_said_something(process.adopt.as_fd())?;
        process.record_calls(os::now());
    }
}

/// Until `Adopt`.
fn present(process: &Process, connection: BorrowedFd<'_>) -> anyhow::Result<()> {
    let uid = os::peer_uid(connection)?;
    anyhow::ensure!(
        uid == 0 || uid == process.owner,
        "the account {uid} has no right to"
    );
    os::block_for(connection, Some(FIRST_WORD))?;
    let (mut bytes, mut fds) = (Vec::new(), Vec::new());
    let length = os::recv_with_fds(connection, &mut bytes, &mut fds)?;
    anyhow::ensure!(
        length > 0 && control::decode::<ToWorker>(&bytes)? == ToWorker::Hail,
        "whoever connected wants something else"
    );
    os::block_for(connection, Some(PATIENCE))?;
    let pidfd = os::pidfd_open(std::process::id())?;
    let orphan = FromWorker::Orphan {
        incarnation: process.incarnation,
        aux: process.participant_id(),
        worker: process.place,
        serving: process.channel.serving(),
        config_version: process.version,
        listeners: process.listeners.keys().copied().collect(),
    };
    send(connection, &orphan, &[pidfd.as_fd()])?;
    failpoint!("orphan.presented");
    loop {
        fds.clear();
        let length = os::recv_with_fds(connection, &mut bytes, &mut fds)?;
        anyhow::ensure!(length > 0, "whoever asked went away");
        match control::decode(&bytes)? {
            ToWorker::Surrender => surrender(process, connection)?,
            ToWorker::Adopt => {
                failpoint!("orphan.adopted");
                return Ok(());
            }
            _ => anyhow::bail!("whoever asked says what does not belong here"),
        }
    }
}

fn surrender(process: &Process, connection: BorrowedFd<'_>) -> anyhow::Result<()> {
    let (control, data) = process.arena.fds().context("an arena without files")?;
    let mut first = vec![
        control,
        data,
        process.config_file.as_fd(),
        process.adopt.as_fd(),
    ];
    let beside = process
        .doorbells
        .len()
        .min(FDS_PER_MESSAGE_MAX - first.len());
    let (fitting, rest) = process.doorbells.split_at(beside);
    first.extend(fitting.iter().map(AsFd::as_fd));
    let estate = FromWorker::Estate {
        slots_total: process.arena.layout().slots,
        config_version: process.version,
        secret: process.secret,
    };
    send(connection, &estate, &first)?;
    in_chunks(connection, rest, beside, |from_slot| {
        FromWorker::Doorbells { from_slot }
    })?;
    for (&listener, found) in &process.listeners {
        in_chunks(connection, &found.sockets, 0, |from_slot| {
            FromWorker::Sockets {
                listener,
                asked: found.asked,
                address: found.address,
                from_slot,
            }
        })?;
    }
    for (&image, file) in process.images.files() {
        send(
            connection,
            &FromWorker::PrefixTable { image },
            &[file.as_fd()],
        )?;
    }
    failpoint!("orphan.surrendering");
    Ok(send(connection, &FromWorker::Surrendered, &[])?)
}

fn in_chunks(
    connection: BorrowedFd<'_>,
    all: &[OwnedFd],
    mut from_slot: usize,
    message: impl Fn(u16) -> FromWorker,
) -> anyhow::Result<()> {
    for chunk in all.chunks(FDS_PER_MESSAGE_MAX) {
        let fds: Vec<BorrowedFd<'_>> = chunk.iter().map(AsFd::as_fd).collect();
        send(connection, &message(u16::try_from(from_slot)?), &fds)?;
        from_slot += chunk.len();
    }
    Ok(())
}
