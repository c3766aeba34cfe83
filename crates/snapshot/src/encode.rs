//! Records to bytes.

use std::io::{self, Write};

use shm::Image;

use crate::{
    CELLS, CHUNK_BYTES, CHUNK_HEADER_BYTES, FLAG_EXACT, FORMAT, HAS_ALIAS, HEADER_BYTES, Head,
    KIND_END, KIND_RECORDS, MAGIC, NEVER, RECORD_HEADER_BYTES, RECORD_VERSION, crc32c,
};

/// What has been written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub records: u64,
    /// Of the whole file.
    pub bytes: u64,
}

/// Makes a file's bytes, a chunk at a time.
#[derive(Debug)]
pub struct Encoder {
    /// Where every chunk's checksum starts.
    seed: u32,
    /// Records of the chunk that is being filled, behind room for its header.
    chunk: Vec<u8>,
    in_chunk: u32,
    number: u32,
    /// Finished, not yet given out.
    out: Vec<u8>,
    totals: Totals,
}

impl Encoder {
    pub fn new(head: &Head) -> Self {
        let mut out = Vec::with_capacity(2 * CHUNK_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        let wall = u64::try_from(head.clock.wall.as_nanos()).unwrap_or(u64::MAX);
        out.extend_from_slice(&wall.to_le_bytes());
        out.extend_from_slice(&head.clock.monotonic.as_nanos().to_le_bytes());
        out.extend_from_slice(&head.clock.boot);
        let flags = if head.exact { FLAG_EXACT } else { 0 };
        out.extend_from_slice(&flags.to_le_bytes());
        out.resize(HEADER_BYTES - 4, 0);
        let seed = crc32c(0, &out);
        out.extend_from_slice(&seed.to_le_bytes());
        Self {
            seed,
            chunk: vec![0; CHUNK_HEADER_BYTES],
            in_chunk: 0,
            number: 0,
            out,
            totals: Totals::default(),
        }
    }

    /// Adds a record. It must be one that an arena can hold.
    pub fn push(&mut self, image: &Image<'_>) {
        let chunk = &mut self.chunk;
        let alias = image.alias.unwrap_or_default();
        let parts = [image.key.len(), alias.len(), image.payload.len()];
        let children: usize = image.children.iter().map(|child| 4 + child.len()).sum();
        let bytes = RECORD_HEADER_BYTES + parts.iter().sum::<usize>() + children;
        assert!(
            image.key.len().max(alias.len()) <= shm::KEY_MAX
                && image.children.len() <= shm::CHILDREN_MAX,
            "a record of an arena"
        );
        chunk.extend_from_slice(&(bytes as u32).to_le_bytes());
        let children = image.children.len() as u8;
        chunk.extend_from_slice(&[image.table.0, RECORD_VERSION, image.flags, children]);
        chunk.extend_from_slice(&image.row.index.to_le_bytes());
        chunk.extend_from_slice(&image.row.generation.to_le_bytes());
        let expires_at = image.expires_at.map_or(NEVER, |at| at.as_nanos());
        chunk.extend_from_slice(&expires_at.to_le_bytes());
        chunk.extend_from_slice(&image.owner.to_le_bytes());
        chunk.extend_from_slice(&(image.key.len() as u16).to_le_bytes());
        chunk.extend_from_slice(&(alias.len() as u16).to_le_bytes());
        let has = if image.alias.is_some() { HAS_ALIAS } else { 0 };
        chunk.extend_from_slice(&has.to_le_bytes());
        chunk.extend_from_slice(&(image.payload.len() as u32).to_le_bytes());
        for (nth, child) in image.children.iter().enumerate() {
            let cells = if image.cells & (1 << nth) != 0 {
                CELLS
            } else {
                0
            };
            chunk.extend_from_slice(&(child.len() as u32 | cells).to_le_bytes());
        }
        chunk.extend_from_slice(image.key);
        chunk.extend_from_slice(alias);
        chunk.extend_from_slice(image.payload);
        for child in image.children {
            chunk.extend_from_slice(child);
        }
        self.in_chunk += 1;
        self.totals.records += 1;
        if chunk.len() >= CHUNK_BYTES {
            self.close(KIND_RECORDS);
        }
    }

    fn close(&mut self, kind: u32) {
        let (head, payload) = self.chunk.split_at_mut(CHUNK_HEADER_BYTES);
        let words = [kind, payload.len() as u32, self.number, self.in_chunk];
        for (at, word) in head.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *at = word.to_le_bytes();
        }
        let (covered, check) = head.split_at_mut(CHUNK_HEADER_BYTES - 4);
        let crc = crc32c(crc32c(self.seed, covered), payload);
        check.copy_from_slice(&crc.to_le_bytes());
        self.out.extend_from_slice(&self.chunk);
        self.chunk.truncate(CHUNK_HEADER_BYTES);
        self.in_chunk = 0;
        self.number += 1;
    }

    /// How many bytes wait to be written out.
    pub fn waiting(&self) -> usize {
        self.out.len()
    }

    /// Writes out what is finished.
    pub fn write_to(&mut self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&self.out)?;
        self.totals.bytes += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }

    /// Writes out the rest, and the end.
    pub fn finish(mut self, to: &mut impl Write) -> io::Result<Totals> {
        if self.in_chunk > 0 {
            self.close(KIND_RECORDS);
        }
        let chunks = u64::from(self.number);
        self.chunk
            .extend_from_slice(&self.totals.records.to_le_bytes());
        self.chunk.extend_from_slice(&chunks.to_le_bytes());
        self.close(KIND_END);
        self.write_to(to)?;
        Ok(self.totals)
    }
}
