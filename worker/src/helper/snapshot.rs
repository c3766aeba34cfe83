//! Records out of the arena, into a file.

use std::fs::File;
use std::io;

use control::Written;
use shm::{Cursor, Participant};
use snapshot::{Encoder, Head};
use tables::KEPT;

/// Rows that are looked at between two points of quiescence: some hundred microseconds.
const ROWS: usize = 512;
/// What waits before it is written out.
const WAITING_BYTES: usize = 1 << 20;

/// Writes what outlives the server, and has it on the disk afterwards. Nobody is held up by the disk: while it is waited for, no epoch is announced.
pub(super) fn write(
    participant: &mut Participant,
    to: &mut File,
    exact: bool,
) -> io::Result<Written> {
    let clock = super::clock();
    let begun = clock.monotonic;
    let mut encoder = Encoder::new(&Head { clock, exact });
    for table in KEPT {
        let mut next = Some(Cursor::default());
        while let Some(cursor) = next {
            participant.online();
            next = participant.export(table, cursor, ROWS, |image| {
                let there = image.expires_at.is_none_or(|at| at > begun);
                if there || super::is_ended_by_others(image) {
                    encoder.push(image);
                }
            });
            participant.offline();
            if encoder.waiting() >= WAITING_BYTES {
                encoder.write_to(to)?;
            }
        }
    }
    let totals = encoder.finish(to)?;
    to.sync_all()?;
    let took = os::now().saturating_duration_since(begun);
    Ok(Written {
        records: totals.records,
        bytes: totals.bytes,
        begun_ns: begun.as_nanos(),
        took_ns: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
    })
}
