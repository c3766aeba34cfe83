//! Records out of a file, into an arena that nobody uses yet. The file is read three times: whole, before anything of it counts; for the rows that it needs; for
//! the records themselves.

use std::fs::File;
use std::io::{BufReader, Seek as _, SeekFrom};

use control::{FromHelper, Restored};
use shm::{Arena, Image, Importer, InsertError, RowRef, TableId};
use snapshot::{Entry, ReadError, Reader};
use stdx::Instant;
use tables::{DIALOG, KEPT};

const READ_BYTES: usize = 256 << 10;

/// Rows of one slab lie together: of so many neighbours, one claims for all.
const NEIGHBOURS: u32 = 256;

pub(super) fn restore(arena: &Arena, file: &File) -> FromHelper {
    let mut claims: Vec<(TableId, RowRef, u16)> = Vec::new();
    let checked = from_start(file).and_then(|source| {
        snapshot::check(source, |image| {
            let last = claims
                .last()
                .map(|(table, row, _)| (*table, row.index / NEIGHBOURS));
            if KEPT.contains(&image.table)
                && last != Some((image.table, image.row.index / NEIGHBOURS))
            {
                claims.push((image.table, image.row, image.owner));
            }
        })
    });
    if let Err(error) = checked {
        return FromHelper::Refused {
            message: error.to_string(),
        };
    }
    match load(arena, file, &claims) {
        Ok(restored) => FromHelper::Restored(restored),
        Err(error) => FromHelper::Failed {
            message: format!("the file changed while it was read: {error}"),
        },
    }
}

/// Every reader of a descriptor shares its position: one at a time.
fn from_start(mut file: &File) -> Result<BufReader<&File>, ReadError> {
    file.seek(SeekFrom::Start(0))
        .map_err(|error| ReadError::Io(error.kind()))?;
    Ok(BufReader::with_capacity(READ_BYTES, file))
}

fn load(
    arena: &Arena,
    file: &File,
    claims: &[(TableId, RowRef, u16)],
) -> Result<Restored, ReadError> {
    let mut reader = Reader::open(from_start(file)?)?;
    let (taken, now) = (reader.head().clock, super::clock());
    let nanos = taken.shift_to(&now);
    let mut importer = Importer::new(arena);
    for (table, row, owner) in claims {
        importer.claim(*table, *row, *owner);
    }
    let mut done = Restored {
        age_ms: u64::try_from(now.wall.saturating_sub(taken.wall).as_millis()).unwrap_or(u64::MAX),
        exact: reader.head().exact,
        ..Restored::default()
    };
    let mut take = |entry: Entry<'_>| match entry {
        Entry::Unknown(records) => done.unknown += records,
        Entry::Record(image) => {
            let (seen, now) = (taken.monotonic, now.monotonic);
            put(&mut importer, &image, (seen, nanos), now, &mut done);
        }
    };
    while reader.next(&mut take)? {}
    let imported = importer.finish();
    done.records = imported.records;
    done.moved = imported.moved;
    let took = os::now().saturating_duration_since(now.monotonic);
    done.took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    Ok(done)
}

/// `seen`: when the file was begun, by its clock, which is `nanos` behind ours.
fn put(
    importer: &mut Importer,
    image: &Image<'_>,
    (seen, nanos): (Instant, i64),
    now: Instant,
    done: &mut Restored,
) {
    let expires_at = match image.table == DIALOG && tables::dialog::rings(image.payload) {
        // Its INVITE is gone: it ends as soon as somebody looks, and leaves its record.
        true => Some(now),
        false => image.expires_at.map(|at| at.shifted(nanos)),
    };
    if expires_at.is_some_and(|at| at <= now) && !super::is_ended_by_others(image) {
        done.expired += 1;
        return;
    }
    let payload = KEPT
        .contains(&image.table)
        .then(|| tables::shift(image.table, image.payload, seen, nanos))
        .flatten();
    let Some(payload) = payload else {
        done.unknown += 1;
        return;
    };
    let moved = Image {
        expires_at,
        payload: &payload,
        ..*image
    };
    match importer.insert(&moved) {
        Ok(_) => {}
        Err(InsertError::Full) => done.no_room += 1,
        // What no arena could have held.
        Err(_) => done.unknown += 1,
    }
}
