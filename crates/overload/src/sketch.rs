//! Counts by source in a fixed number of places.
//!
//! Two rows of counters, of which the smaller counts: who shares one of its counters with another is counted rightly still.

use stdx::{
    Rng,
    hash::{Key, hash64},
};

/// Counters of a row.
const PLACES: usize = 2048;

#[derive(Debug)]
pub(crate) struct Sketch {
    rows: [Box<[u32]>; 2],
    key: Key,
}

impl Sketch {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        Self {
            rows: [vec![0; PLACES].into(), vec![0; PLACES].into()],
            key: key(rng),
        }
    }

    /// Counts one more of this source; returns how many there are, or a little more.
    pub(crate) fn count(&mut self, source: &[u8]) -> u32 {
        let mut least = u32::MAX;
        for place in self.places(source) {
            *place = place.saturating_add(1);
            least = least.min(*place);
        }
        least
    }

    /// Takes back what was counted last for this source.
    pub(crate) fn uncount(&mut self, source: &[u8]) {
        for place in self.places(source) {
            *place = place.saturating_sub(1);
        }
    }

    /// The counts of all, without their names; those that share a place are one.
    pub(crate) fn counts(&self) -> &[u32] {
        self.rows.first().map_or(&[], |row| row)
    }

    pub(crate) fn clear(&mut self) {
        for row in &mut self.rows {
            row.fill(0);
        }
    }

    /// Begins anew with other places: who shared one with another does so no more.
    pub(crate) fn redraw(&mut self, rng: &mut Rng) {
        self.clear();
        self.key = key(rng);
    }

    fn places(&mut self, source: &[u8]) -> impl Iterator<Item = &mut u32> {
        let hash = hash64(&self.key, &[source]);
        let rows = self.rows.iter_mut().zip([hash, hash >> 32]);
        rows.filter_map(|(row, hash)| row.get_mut(hash as usize % PLACES))
    }
}

fn key(rng: &mut Rng) -> Key {
    let mut bytes = [0; 16];
    for (half, word) in bytes
        .chunks_exact_mut(8)
        .zip([rng.next_u64(), rng.next_u64()])
    {
        half.copy_from_slice(&word.to_be_bytes());
    }
    Key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_takes_back() {
        let mut rng = Rng::new(1);
        let mut sketch = Sketch::new(&mut rng);
        assert_eq!([1, 2, 3].map(|_| sketch.count(b"one")), [1, 2, 3]);
        sketch.uncount(b"one");
        assert_eq!((sketch.count(b"one"), sketch.count(b"two")), (3, 1));
        assert_eq!(sketch.counts().iter().sum::<u32>(), 4);
        let places = |sketch: &Sketch| sketch.counts().iter().position(|&count| count > 0);
        sketch.redraw(&mut rng);
        assert_eq!(sketch.count(b"one"), 1);
        let before = places(&sketch);
        sketch.redraw(&mut rng);
        assert_eq!(sketch.count(b"one"), 1);
        assert_ne!(places(&sketch), before);
        sketch.clear();
        assert_eq!(sketch.counts().iter().sum::<u32>(), 0);
    }

    /// Whoever shares a counter of one row with a flood has one of his own in the other.
    #[test]
    fn hardly_anybody_is_taken_for_a_flood() {
        let mut sketch = Sketch::new(&mut Rng::new(5));
        for flood in 0..20_u32 {
            for _ in 0..100 {
                sketch.count(&flood.to_be_bytes());
            }
        }
        let taken = |source: &u32| sketch.count(&source.to_be_bytes()) > 20;
        let wrong = (1000..2000_u32).filter(taken).count();
        assert!(wrong <= 3, "{wrong} of 1000");
    }
}
