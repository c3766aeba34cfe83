//! The layout in words, for the golden file that shows in a review what a change does to arenas that two releases share.

use core::fmt::Write;

use crate::body::{CHILDREN_MAX, HEADER_BYTES, KEY_MAX};
use crate::ctl::ROW_BITS;
use crate::directory::LINE_BYTES;
use crate::events::{EVENTS_AUX, EVENTS_SLOT};
use crate::layout::{
    ABI_MAJOR, ABI_MINOR, BLOCKS_PER_SLAB, CELLS, CLASSES, EXTENT_SLABS, Geometry, Layout,
    LayoutError, PARTICIPANT_BYTES, RING_BYTES, RING_MAILS, ROW_BYTES, ROWS_PER_SLAB, SLAB_BYTES,
    SLOTS_MAX, STASH_BUCKETS, TABLES_MAX,
};
use crate::ops::BODY_MAX;
use crate::slot::SLOT_BYTES;

impl Layout {
    /// Constants, offsets of every region in bytes, and the hash: a line each.
    pub fn describe(&self) -> Result<String, LayoutError> {
        let geometry = Geometry::new(self)?;
        let mut text = format!("abi: {ABI_MAJOR}.{ABI_MINOR}\nclasses: {CLASSES:?}\n");
        let constants: [(&str, u64); 21] = [
            ("SLAB_BYTES", SLAB_BYTES),
            ("ROW_BYTES", ROW_BYTES),
            ("ROWS_PER_SLAB", ROWS_PER_SLAB.into()),
            ("ROW_BITS", ROW_BITS.into()),
            ("BLOCKS_PER_SLAB", BLOCKS_PER_SLAB.into()),
            ("EXTENT_SLABS", EXTENT_SLABS.into()),
            ("HEADER_BYTES", HEADER_BYTES as u64),
            ("BODY_MAX", BODY_MAX as u64),
            ("KEY_MAX", KEY_MAX as u64),
            ("CHILDREN_MAX", CHILDREN_MAX as u64),
            ("TABLES_MAX", TABLES_MAX.into()),
            ("SLOTS_MAX", SLOTS_MAX.into()),
            ("SLOT_BYTES", SLOT_BYTES),
            ("PARTICIPANT_BYTES", PARTICIPANT_BYTES),
            ("CELLS", CELLS as u64),
            ("LINE_BYTES", LINE_BYTES),
            ("STASH_BUCKETS", STASH_BUCKETS.into()),
            ("RING_MAILS", RING_MAILS),
            ("RING_BYTES", RING_BYTES),
            ("EVENTS_SLOT", EVENTS_SLOT),
            ("EVENTS_AUX", EVENTS_AUX),
        ];
        for (name, value) in constants {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{name}: {value}");
        }
        let _ = writeln!(text, "{geometry:#?}\nhash: {:#018x}", geometry.hash());
        Ok(text)
    }
}
