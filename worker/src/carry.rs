//! From one arena into another, while nobody serves: the giving half runs in a worker that stands by, the taking half in a spare of the other arena, which
//! may be of another program. Between them is a pipe.
//!
//! ```text
//! version u32 | runs u32, each: table u8, owner u16, first row u32, rows u32
//!             | bytes u32, what `shm::carry` wrote | records, as a snapshot (crate `snapshot`)
//! ```
//!
//! Little-endian. The runs say where the records lie, so that every row has its place before the first record goes anywhere else; then both halves work at the
//! same time, a chunk of records each. The arena that is given is only read. The one that is taken into is thrown away if anything fails.

use std::fs::File;
use std::io::{BufReader, Read, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};

use anyhow::Context as _;
use control::{ArenaPlan, FromWorker};
use failpoint::failpoint;
use nix::fcntl::{FcntlArg, fcntl};
use shm::{Arena, Cursor, HugePages, Importer, Layout, Participant, RowRef, Rows, TableId};
use snapshot::{Clock, Encoder, Entry, Head, Reader};
use tables::Nonces;

const VERSION: u32 = 2;
/// Bytes of a run.
const RUN_BYTES: usize = 11;
/// Bytes in the pipe, if the kernel allows.
const PIPE_BYTES: i32 = 1 << 20;
/// Rows between two points of quiescence.
const ROWS: usize = 4096;
/// Bytes that are written at once.
const WRITE_BYTES: usize = 256 << 10;
/// Bytes that are read at once.
const READ_BYTES: usize = 256 << 10;
/// Bytes of all that is not records; the largest arena's receive buffers are less.
const CARRIED_MAX: u32 = 1 << 30;

/// Writes everything out. Says how many records.
pub(crate) fn export(
    arena: &Arena,
    participant: &mut Participant,
    pipe: OwnedFd,
) -> anyhow::Result<u64> {
    let _ = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    let mut pipe = File::from(pipe);
    let runs: Vec<Rows> = arena.rows_in_use().collect();
    let count = u32::try_from(runs.len()).context("more slabs than there can be")?;
    let mut head = Vec::with_capacity(8 + runs.len() * RUN_BYTES);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&count.to_le_bytes());
    for run in runs {
        head.push(run.table.0);
        head.extend_from_slice(&run.owner.to_le_bytes());
        head.extend_from_slice(&run.first.to_le_bytes());
        head.extend_from_slice(&run.count.to_le_bytes());
    }
    pipe.write_all(&head)?;
    let carried = arena.carry();
    let bytes = u32::try_from(carried.len()).context("too much was read and not served")?;
    pipe.write_all(&bytes.to_le_bytes())?;
    pipe.write_all(&carried)?;
    failpoint!("carry.exporting");
    let mut encoder = Encoder::new(&Head {
        // One boot, one clock: nothing is moved in time.
        clock: Clock {
            wall: std::time::Duration::ZERO,
            monotonic: os::now(),
            boot: [0; 16],
        },
        exact: true,
    });
    participant.online();
    let written = write_records(arena, participant, &mut encoder, &mut pipe);
    participant.offline();
    written?;
    let totals = encoder.finish(&mut pipe)?;
    failpoint!("carry.exported");
    Ok(totals.records)
}

fn write_records(
    arena: &Arena,
    participant: &mut Participant,
    encoder: &mut Encoder,
    pipe: &mut File,
) -> std::io::Result<()> {
    for table in 0..arena.layout().tables {
        let mut cursor = Some(Cursor::default());
        while let Some(from) = cursor {
            cursor = participant.export(TableId(table), from, ROWS, |image| encoder.push(image));
            participant.quiescent();
            if encoder.waiting() >= WRITE_BYTES {
                encoder.write_to(pipe)?;
            }
        }
    }
    encoder.write_to(pipe)
}

/// Fills the arena from the pipe. Says how many records it has now.
pub(crate) fn import(arena: &Arena, pipe: OwnedFd) -> anyhow::Result<u64> {
    let mut pipe = BufReader::with_capacity(READ_BYTES, File::from(pipe));
    let version = word(&mut pipe).context("the other half wrote nothing")?;
    anyhow::ensure!(
        version == VERSION,
        "the other program gives its records in way {version}, this one takes them in way {VERSION}"
    );
    let mut importer = Importer::new(arena);
    for _ in 0..word(&mut pipe)? {
        claim(&mut importer, &mut pipe).context("the other half stopped early")?;
    }
    failpoint!("carry.claimed");
    let bytes = word(&mut pipe)?;
    anyhow::ensure!(bytes <= CARRIED_MAX, "the other half wrote noise");
    let mut carried = vec![0; bytes as usize];
    pipe.read_exact(&mut carried)
        .context("the other half stopped early")?;
    let mut reader = Reader::open(pipe)?;
    let (mut failed, mut unknown) = (None, 0);
    while failed.is_none()
        && reader.next(|entry| match entry {
            Entry::Record(image) if failed.is_none() => failed = importer.insert(&image).err(),
            Entry::Record(_) => {}
            Entry::Unknown(records) => unknown += records,
        })?
    {}
    if let Some(error) = failed {
        anyhow::bail!("the records do not fit into the other arena: {error}");
    }
    anyhow::ensure!(
        unknown == 0,
        "{unknown} records are of a kind that this program does not know"
    );
    let done = importer.finish();
    failpoint!("carry.imported");
    let carried = arena.take_carried(&carried)?;
    // Its key is that of the other one, whose notes of used nonces stay behind.
    Nonces::of(arena.board()).forget(os::now());
    tracing::debug!(
        records = done.records,
        moved = done.moved,
        cells = carried.cells,
        messages = carried.messages,
        left_out = carried.left_out,
        "taken over from the other arena"
    );
    Ok(done.records)
}

fn word(from: &mut impl Read) -> std::io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// Takes the rows of the next run for what will come to lie there; slabs may begin at other rows here.
fn claim(importer: &mut Importer, from: &mut impl Read) -> std::io::Result<()> {
    let mut bytes = [0; RUN_BYTES];
    from.read_exact(&mut bytes)?;
    let [table, o0, o1, f0, f1, f2, f3, c0, c1, c2, c3] = bytes;
    let owner = u16::from_le_bytes([o0, o1]);
    let first = u32::from_le_bytes([f0, f1, f2, f3]);
    let count = u32::from_le_bytes([c0, c1, c2, c3]);
    for index in first..first.saturating_add(count) {
        let row = RowRef {
            index,
            generation: 0,
        };
        importer.claim(TableId(table), row, owner);
    }
    Ok(())
}

/// Makes an arena as this program lays it out, for others to use, and gives it away.
pub(crate) fn make(
    plan: &ArenaPlan,
    tell: impl FnOnce(&FromWorker, &[BorrowedFd<'_>]),
) -> anyhow::Result<()> {
    let layout = Layout::new(plan.limit, plan.slots, plan.aux, tables::TABLES);
    let huge = match plan.huge_pages {
        0 => HugePages::Off,
        1 => HugePages::Auto,
        _ => HugePages::Required,
    };
    let arena = Arena::create_paged(&layout, plan.key.0, huge)?;
    // Whoever prepares the arena can't write down whom it expects, if this is another layout than its own.
    let now = os::now().as_nanos();
    for aux in 0..arena.directory().len() {
        let process = plan.first_process.saturating_add(u32::from(aux));
        arena.directory().expect(aux, process, now);
    }
    let (control, data) = arena.fds().context("an arena without files")?;
    failpoint!("carry.made");
    let answer = FromWorker::ArenaMade {
        layout: layout.hash()?,
    };
    tell(&answer, &[control, data]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm::{ParticipantId, RowMeta};

    #[test]
    fn an_arena_moves_into_a_larger_one() {
        let of = |limit| Layout::new(limit, 2, 1, tables::TABLES);
        let (a, b) = (
            Arena::heap(&of(24 << 20), [3; 16]).unwrap(),
            Arena::heap(&of(48 << 20), [3; 16]).unwrap(),
        );
        let mut slot = a.participant(ParticipantId(1));
        slot.online();
        let rows: Vec<_> = (0..3000u32)
            .map(|n| {
                let key = n.to_le_bytes();
                let meta = RowMeta::default();
                let row = slot.insert(tables::LOCATION, &key, &[b"body", &key], &[], meta);
                row.unwrap()
            })
            .collect();
        slot.count(7, 3000);
        slot.offline();
        let (read, write) = nix::unistd::pipe().unwrap();
        let giver = std::thread::spawn(move || {
            let mut control = a.participant(ParticipantId(2));
            export(&a, &mut control, write).unwrap()
        });
        assert_eq!(import(&b, read).unwrap(), 3000);
        assert_eq!(giver.join().unwrap(), 3000);
        let mut heir = b.participant(ParticipantId(1));
        heir.recover(ParticipantId(1));
        heir.online();
        for (n, row) in (0u32..).zip(rows) {
            let found = heir.find(tables::LOCATION, &n.to_le_bytes(), |record| record.row);
            assert_eq!(found, Some(row), "the same name");
        }
        assert_eq!(b.counters().total(7), 3000);
        heir.offline();
        assert_eq!(shm::audit(&b, false), []);
    }

    #[test]
    fn half_a_stream_is_refused() {
        let arena = Arena::heap(&Layout::new(24 << 20, 1, 1, tables::TABLES), [3; 16]).unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        let mut write = File::from(write);
        write.write_all(&4u32.to_le_bytes()).unwrap();
        write.write_all(b"noise and more").unwrap();
        drop(write);
        assert!(import(&arena, read).is_err());
    }
}
