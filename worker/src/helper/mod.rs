//! A helper: a short-lived process of the supervisor's that does one task over the arena which takes long, or looks into bodies, and ends. It is nobody's heir,
//! serves nothing, and gives way to everybody.
//!
//! It dies with its supervisor: what it was to write is useless without somebody who gives it a name. What it leaves in the arena when it dies is an announced
//! epoch, which the next helper recovers; the supervisor starts that at once.

mod restore;
mod snapshot;
mod tables;

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use control::{FromHelper, HelperTask, ToHelper};
use shm::{Arena, Participant, ParticipantId};

/// How much a helper gives way.
const NICE: i32 = 10;

/// Does one task on its control channel.
pub fn run(channel: OwnedFd) -> ExitCode {
    match serve(&channel) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let message = format!("{error:#}");
            tell(&channel, &FromHelper::Failed { message });
            ExitCode::FAILURE
        }
    }
}

fn tell(channel: &OwnedFd, message: &FromHelper) {
    // Nobody is there to be told if this fails; then we are about to die with our parent.
    if let Ok(bytes) = control::encode(message) {
        let _ = os::send_with_fds(channel.as_fd(), &bytes, &[]);
    }
}

fn receive(channel: &OwnedFd, fds: &mut Vec<OwnedFd>) -> anyhow::Result<ToHelper> {
    let mut bytes = Vec::new();
    let length = os::recv_with_fds(channel.as_fd(), &mut bytes, fds)
        .context("the control channel can't be read")?;
    if length == 0 {
        bail!("the supervisor is gone");
    }
    control::decode(&bytes).context("a message of the supervisor can't be read")
}

fn serve(channel: &OwnedFd) -> anyhow::Result<()> {
    let mut fds = Vec::new();
    let (supervisor, aux, recover_aux, user, task) = match receive(channel, &mut fds)? {
        ToHelper::Begin {
            supervisor,
            aux,
            recover_aux,
            user,
            task,
        } => (supervisor, aux, recover_aux, user, task),
        ToHelper::Compile {
            supervisor,
            user,
            tables: wanted,
        } => {
            give_way();
            let config = fds
                .pop()
                .context("the task came without its configuration")?;
            tables::compile(channel, &config, (supervisor, user.as_deref()), &wanted)?;
            tell(channel, &FromHelper::Done);
            return Ok(());
        }
        ToHelper::Renamed => bail!("the supervisor did not say what to do"),
    };
    if let Some(user) = &user {
        os::drop_privileges(user).with_context(|| format!("can't become the user {user}"))?;
    }
    os::die_with_parent(supervisor)?;
    // At a start and at the end of a stop nobody else has work to do, and somebody waits.
    let awaited = matches!(
        task,
        HelperTask::Restore | HelperTask::Snapshot { exact: true }
    );
    if !awaited {
        give_way();
    }
    let mut fds = fds.into_iter();
    let (Some(control), Some(data)) = (fds.next(), fds.next()) else {
        bail!("the task came without the arena");
    };
    let mut file = || {
        let fd = fds.next().context("the task came without its files");
        fd.map(File::from)
    };
    let arena = Arena::attach(control, data).context("the arena can't be attached")?;
    let mut participant = arena.participant(ParticipantId(aux));
    if recover_aux {
        participant.recover(ParticipantId(aux));
        participant.offline();
    }
    let answer = match task {
        HelperTask::Recover => FromHelper::Done,
        HelperTask::Snapshot { exact } => {
            let (mut to, directory) = (file()?, file()?);
            let written = snapshot::write(&mut participant, &mut to, exact)
                .context("the snapshot can't be written")?;
            tell(channel, &FromHelper::Written(written));
            let ToHelper::Renamed = receive(channel, &mut Vec::new())? else {
                bail!("the supervisor has another task for a helper that is busy");
            };
            directory
                .sync_all()
                .context("the state directory can't be synced")?;
            FromHelper::Done
        }
        HelperTask::Restore => {
            // It acts as every slot; its own number it needs no more.
            drop::<Participant>(participant);
            restore::restore(&arena, &file()?)
        }
        HelperTask::Pages { back, gather } => {
            // What can't be backed now is asked for again by whoever needs it, and refused then.
            let refused = arena.back_ahead(back).err();
            if let Some(errno) = refused {
                tracing::debug!(%errno, "slabs can't be backed ahead");
            }
            // Before they are gathered: what others back meanwhile is the next helper's.
            let backed = arena.slabs_backed().0;
            let done = gather.map(|from| arena.collapse(from, || true));
            let done = done.unwrap_or_default();
            FromHelper::Paged {
                backed,
                huge: done.huge,
                refused: done.refused,
            }
        }
    };
    tell(channel, &answer);
    Ok(())
}

fn give_way() {
    if let Err(error) = os::give_way(NICE) {
        tracing::debug!(%error, "a helper runs at full priority");
    }
}

/// A call does not go by itself when its time comes: somebody ends it, tells both parties and leaves its record.
fn is_ended_by_others(image: &shm::Image<'_>) -> bool {
    image.table == ::tables::DIALOG && ::tables::dialog::is_call(image.payload)
}

fn clock() -> ::snapshot::Clock {
    ::snapshot::Clock {
        wall: os::unix_now(),
        monotonic: os::now(),
        boot: os::boot_id().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
