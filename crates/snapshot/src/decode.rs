//! Bytes to records, with the distrust that a disk deserves.

use std::io::{self, ErrorKind, Read};

use shm::{Image, RowRef, TableId};
use stdx::Instant;

use crate::{
    CELLS, CHUNK_BYTES_MAX, CHUNK_HEADER_BYTES, Clock, FLAG_EXACT, FORMAT, FORMAT_OLDEST,
    HAS_ALIAS, HEADER_BYTES, Head, KIND_END, KIND_RECORDS, MAGIC, NEVER, RECORD_HEADER_BYTES,
    RECORD_VERSION, crc32c,
};

/// Why a file is not taken. Offsets are bytes from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    #[error("it is no snapshot: its first bytes are another file's")]
    Magic,
    #[error(
        "it has format {found}, and this release reads format {FORMAT}: a newer release wrote it"
    )]
    Newer { found: u32 },
    #[error("it ends at byte {at}, in the middle")]
    Truncated { at: u64 },
    #[error(
        "it is damaged: the part that begins at byte {at} has not the checksum that it had when it was written"
    )]
    Checksum { at: u64 },
    #[error("it is damaged: the part that begins at byte {at} is longer than any can be")]
    TooLong { at: u64 },
    #[error(
        "it is damaged: what begins at byte {at} makes no sense, although its checksum is right"
    )]
    Malformed { at: u64 },
    #[error("it is damaged: its end tells of another number of records than it has")]
    Count,
    #[error("it has bytes behind its end, from {at} on")]
    Trailing { at: u64 },
    #[error("it can't be read: {0}")]
    Io(ErrorKind),
}

/// A part of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    Record(Image<'a>),
    /// So many records of a version that this release does not know.
    Unknown(u64),
}

/// Reads a file, chunk by chunk.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    head: Head,
    seed: u32,
    /// Bytes read.
    at: u64,
    number: u32,
    records: u64,
    payload: Vec<u8>,
}

/// What a whole file has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub records: u64,
    /// Of these, such as this release does not know.
    pub unknown: u64,
    pub bytes: u64,
}

/// Little-endian numbers at fixed places of a header; `None` past its end.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk::<N>().copied()
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    fn half(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn word(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn long(&self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    pub fn open(mut source: R) -> Result<Self, ReadError> {
        let mut bytes = [0; HEADER_BYTES];
        let mut at = 0;
        let (first, rest) = bytes.split_at_mut(12);
        fill(&mut source, first, &mut at)?;
        let fields = Fields(first);
        if fields.array::<8>(0) != Some(MAGIC) {
            return Err(ReadError::Magic);
        }
        match fields.word(8) {
            Some(FORMAT_OLDEST..=FORMAT) => {}
            // A newer format may have another header; that it is damaged is less likely.
            Some(found) if found > FORMAT => return Err(ReadError::Newer { found }),
            _ => return Err(ReadError::Malformed { at: 8 }),
        }
        fill(&mut source, rest, &mut at)?;
        let (head, seed) = read_head(&bytes)?;
        Ok(Self {
            source,
            head,
            seed,
            at,
            number: 0,
            records: 0,
            payload: Vec::new(),
        })
    }

    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Gives every record of the next chunk to `f`; false at the end of the file, which is only there if everything before it was whole.
    pub fn next(&mut self, mut f: impl FnMut(Entry<'_>)) -> Result<bool, ReadError> {
        let begin = self.at;
        let mut head = [0; CHUNK_HEADER_BYTES];
        fill(&mut self.source, &mut head, &mut self.at)?;
        let fields = Fields(&head);
        let [kind, bytes, number, records, crc] =
            [0, 4, 8, 12, 16].map(|at| fields.word(at).unwrap_or_default());
        if bytes as usize > CHUNK_BYTES_MAX {
            return Err(ReadError::TooLong { at: begin });
        }
        self.payload.resize(bytes as usize, 0);
        fill(&mut self.source, &mut self.payload, &mut self.at)?;
        let covered = head.get(..CHUNK_HEADER_BYTES - 4).unwrap_or_default();
        if crc32c(crc32c(self.seed, covered), &self.payload) != crc {
            return Err(ReadError::Checksum { at: begin });
        }
        let malformed = ReadError::Malformed { at: begin };
        if number != self.number {
            return Err(malformed);
        }
        match kind {
            KIND_RECORDS => read_records(&self.payload, records, &mut f).ok_or(malformed)?,
            KIND_END => {
                let fields = Fields(&self.payload);
                let told = fields.long(0).zip(fields.long(8)).ok_or(malformed)?;
                if told != (self.records, u64::from(self.number)) {
                    return Err(ReadError::Count);
                }
                let end = self.at;
                return match fill(&mut self.source, &mut [0], &mut self.at) {
                    Err(ReadError::Truncated { .. }) => Ok(false),
                    Err(error) => Err(error),
                    Ok(()) => Err(ReadError::Trailing { at: end }),
                };
            }
            _ => f(Entry::Unknown(records.into())),
        }
        self.number += 1;
        self.records += u64::from(records);
        Ok(true)
    }
}

/// Reads a whole file and gives nothing of it, so that what is torn at its end is never half loaded.
pub fn check(
    source: impl Read,
    mut f: impl FnMut(&Image<'_>),
) -> Result<(Head, Summary), ReadError> {
    let mut reader = Reader::open(source)?;
    let mut summary = Summary::default();
    let mut count = |entry: Entry<'_>| match entry {
        Entry::Record(image) => {
            summary.records += 1;
            f(&image);
        }
        Entry::Unknown(records) => {
            summary.records += records;
            summary.unknown += records;
        }
    };
    while reader.next(&mut count)? {}
    summary.bytes = reader.at;
    Ok((reader.head, summary))
}

/// As `read_exact`, with the place of the end.
fn fill(source: &mut impl Read, mut into: &mut [u8], at: &mut u64) -> Result<(), ReadError> {
    while !into.is_empty() {
        match source.read(into) {
            Ok(0) => return Err(ReadError::Truncated { at: *at }),
            Ok(read) => {
                *at += read as u64;
                into = into.get_mut(read..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ReadError::Io(error.kind())),
        }
    }
    Ok(())
}

fn read_head(bytes: &[u8; HEADER_BYTES]) -> Result<(Head, u32), ReadError> {
    let (covered, check) = bytes.split_at(HEADER_BYTES - 4);
    let seed = crc32c(0, covered);
    if Fields(check).word(0) != Some(seed) {
        return Err(ReadError::Checksum { at: 0 });
    }
    let fields = Fields(covered);
    let malformed = ReadError::Malformed { at: 0 };
    if fields.word(12) != Some(HEADER_BYTES as u32) {
        return Err(malformed);
    }
    let head = || {
        Some(Head {
            clock: Clock {
                wall: core::time::Duration::from_nanos(fields.long(16)?),
                monotonic: Instant::from_nanos(fields.long(24)?),
                boot: fields.array(32)?,
            },
            exact: fields.long(48)? & FLAG_EXACT != 0,
        })
    };
    Ok((head().ok_or(malformed)?, seed))
}

/// Exactly `records` records and nothing else; `None` if that is not so.
fn read_records(mut bytes: &[u8], records: u32, f: &mut impl FnMut(Entry<'_>)) -> Option<()> {
    for _ in 0..records {
        let length = Fields(bytes).word(0)? as usize;
        let (record, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        read_record(record, f)?;
    }
    bytes.is_empty().then_some(())
}

fn read_record(record: &[u8], f: &mut impl FnMut(Entry<'_>)) -> Option<()> {
    let (head, mut rest) = record.split_at_checked(RECORD_HEADER_BYTES)?;
    let head = Fields(head);
    if head.byte(5)? != RECORD_VERSION {
        f(Entry::Unknown(1));
        return Some(());
    }
    let mut take = |bytes: usize| {
        let (part, after) = rest.split_at_checked(bytes)?;
        rest = after;
        Some(part)
    };
    let children = usize::from(head.byte(7)?);
    let lengths = take(children * 4)?;
    let key = take(head.half(26)?.into())?;
    let alias = take(head.half(28)?.into())?;
    let payload = take(head.word(32)? as usize)?;
    let mut cells = 0;
    let lengths = lengths.as_chunks::<4>().0.iter();
    let children: Option<Vec<&[u8]>> = lengths
        .zip(0..u64::BITS)
        .map(|(length, nth)| {
            let length = u32::from_le_bytes(*length);
            cells |= u64::from(length & CELLS != 0) << nth;
            take((length & !CELLS) as usize)
        })
        .collect();
    let expires_at = head.long(16)?;
    let image = Image {
        table: TableId(head.byte(4)?),
        row: RowRef {
            index: head.word(8)?,
            generation: head.word(12)?,
        },
        owner: head.half(24)?,
        flags: head.byte(6)?,
        expires_at: (expires_at != NEVER).then(|| Instant::from_nanos(expires_at)),
        key,
        alias: (head.half(30)? & HAS_ALIAS != 0).then_some(alias),
        payload,
        children: &children?,
        cells,
    };
    if !rest.is_empty() {
        return None;
    }
    f(Entry::Record(image));
    Some(())
}
