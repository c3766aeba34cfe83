//! The bytes of a compiled table. They lie in a sealed memory file that every process of the machine reads in place: one copy, whatever the number of
//! slots. All numbers are little-endian; a section begins where the one before it ends.
//!
//! | section | what |
//! |---|---|
//! | header | magic with the layout's version, then [`Counts`] |
//! | nodes | a trie over symbols, level by level, the children of a node side by side |
//! | rules | of each node, by caller, then by priority, then in the order of the file |
//! | actions | what rules say; few, since many rules say the same |
//! | targets | where actions lead: groups in order, or a refusal |
//! | texts | places of names: groups, callers, periods, digits to add, beginnings to remove |
//! | characters | those names |
//!
//! Its writer is of this release and its seal is checked by whoever maps it; still nothing here trusts a number: what points outside is a miss.

/// The last byte is the layout's version: workers of two releases share a table during an upgrade, or refuse it.
pub(crate) const MAGIC: [u8; 8] = *b"TNDMPFX\x01";
pub(crate) const HEADER_BYTES: usize = 56;
pub(crate) const NODE_BYTES: usize = 24;
pub(crate) const RULE_BYTES: usize = 12;
pub(crate) const ACTION_BYTES: usize = 16;
pub(crate) const TARGET_BYTES: usize = 4;
pub(crate) const TEXT_BYTES: usize = 8;

/// Symbols that one node may skip because all its prefixes have them.
pub(crate) const SKIP_MAX: usize = 12;
const _: () = assert!(5 * SKIP_MAX <= 60 && SKIP_MAX < 16);
/// Set in the word of a target that is a refusal; the rest is its code.
pub(crate) const REJECT: u32 = 1 << 31;
/// Set in the period of an action that holds outside of it.
pub(crate) const OUTSIDE: u16 = 1 << 15;

/// How much there is of everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) nodes: u32,
    pub(crate) rules: u32,
    pub(crate) actions: u32,
    pub(crate) targets: u32,
    pub(crate) groups: u32,
    pub(crate) callers: u32,
    pub(crate) periods: u32,
    pub(crate) adds: u32,
    pub(crate) removes: u32,
    pub(crate) characters: u32,
    /// Lines of the file that are rules; one for several callers is several rules.
    pub(crate) lines: u32,
}

impl Counts {
    fn words(&self) -> [u32; 11] {
        [
            self.nodes,
            self.rules,
            self.actions,
            self.targets,
            self.groups,
            self.callers,
            self.periods,
            self.adds,
            self.removes,
            self.characters,
            self.lines,
        ]
    }

    pub(crate) fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        let words = self.words();
        let bytes = MAGIC
            .into_iter()
            .chain(words.into_iter().flat_map(u32::to_le_bytes));
        header
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, byte)| *to = byte);
        header
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        if !header.starts_with(&MAGIC) {
            return None;
        }
        let word = |at: usize| u32_at(header, MAGIC.len() + 4 * at);
        Some(Self {
            nodes: word(0)?,
            rules: word(1)?,
            actions: word(2)?,
            targets: word(3)?,
            groups: word(4)?,
            callers: word(5)?,
            periods: word(6)?,
            adds: word(7)?,
            removes: word(8)?,
            characters: word(9)?,
            lines: word(10)?,
        })
    }

    pub(crate) fn texts(&self) -> Option<u32> {
        let counts = [
            self.groups,
            self.callers,
            self.periods,
            self.adds,
            self.removes,
        ];
        counts
            .into_iter()
            .try_fold(0_u32, |sum, count| sum.checked_add(count))
    }

    /// Where each section begins, and where the last one ends.
    pub(crate) fn sections(&self) -> Option<Sections> {
        let mut end = HEADER_BYTES;
        let mut section = |count: u32, size: usize| {
            let begin = end;
            end = usize::try_from(count)
                .ok()?
                .checked_mul(size)?
                .checked_add(begin)?;
            Some(begin)
        };
        Some(Sections {
            nodes: section(self.nodes, NODE_BYTES)?,
            rules: section(self.rules, RULE_BYTES)?,
            actions: section(self.actions, ACTION_BYTES)?,
            targets: section(self.targets, TARGET_BYTES)?,
            texts: section(self.texts()?, TEXT_BYTES)?,
            characters: section(self.characters, 1)?,
            end,
        })
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Sections {
    pub(crate) nodes: usize,
    pub(crate) rules: usize,
    pub(crate) actions: usize,
    pub(crate) targets: usize,
    pub(crate) texts: usize,
    pub(crate) characters: usize,
    pub(crate) end: usize,
}

/// A place of the trie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// Bit n: there is a child for symbol n.
    pub(crate) children: u32,
    /// The first child; the others follow in the order of their symbols.
    pub(crate) first: u32,
    pub(crate) rules: u32,
    pub(crate) rules_count: u32,
    /// Symbols behind that of the branch to here that a number must have to be here at all, five bits each, the first lowest;
    /// how many in the highest four bits.
    pub(crate) skip: u64,
}

impl Node {
    pub(crate) fn bytes(&self) -> [u8; NODE_BYTES] {
        let mut bytes = [0; NODE_BYTES];
        let fields = self.children.to_le_bytes().into_iter();
        let fields = fields
            .chain(self.first.to_le_bytes())
            .chain(self.rules.to_le_bytes())
            .chain(self.rules_count.to_le_bytes())
            .chain(self.skip.to_le_bytes());
        bytes
            .iter_mut()
            .zip(fields)
            .for_each(|(to, byte)| *to = byte);
        bytes
    }

    pub(crate) fn read(bytes: &[u8; NODE_BYTES]) -> Self {
        let [
            c0,
            c1,
            c2,
            c3,
            f0,
            f1,
            f2,
            f3,
            r0,
            r1,
            r2,
            r3,
            n0,
            n1,
            n2,
            n3,
            skip @ ..,
        ] = *bytes;
        Self {
            children: u32::from_le_bytes([c0, c1, c2, c3]),
            first: u32::from_le_bytes([f0, f1, f2, f3]),
            rules: u32::from_le_bytes([r0, r1, r2, r3]),
            rules_count: u32::from_le_bytes([n0, n1, n2, n3]),
            skip: u64::from_le_bytes(skip),
        }
    }

    /// Notes what is to be skipped, at most [`SKIP_MAX`] symbols.
    pub(crate) fn set_skip(&mut self, symbols: impl Iterator<Item = u8>) {
        self.skip = 0;
        for (at, symbol) in symbols.take(SKIP_MAX).enumerate() {
            self.skip |= u64::from(symbol & 31) << (5 * at);
            self.skip = self.skip & (u64::MAX >> 4) | (at as u64 + 1) << 60;
        }
    }

    pub(crate) fn skip_count(&self) -> u8 {
        (self.skip >> 60) as u8
    }

    /// The child for a symbol.
    pub(crate) fn child(&self, symbol: u8) -> Option<u32> {
        let bit = 1_u32.checked_shl(symbol.into())?;
        if self.children & bit == 0 {
            return None;
        }
        self.first
            .checked_add((self.children & (bit - 1)).count_ones())
    }
}

/// Who may use an action, and which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// 0: everybody; else the number of a caller and one.
    pub(crate) caller: u32,
    pub(crate) action: u32,
    /// Line of the file.
    pub(crate) line: u32,
}

impl Entry {
    pub(crate) fn bytes(&self) -> [u8; RULE_BYTES] {
        let [a, b, c, d] = self.caller.to_le_bytes();
        let [e, f, g, h] = self.action.to_le_bytes();
        let [i, j, k, l] = self.line.to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    pub(crate) fn read(bytes: &[u8; RULE_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
        Self {
            caller: u32::from_le_bytes([a, b, c, d]),
            action: u32::from_le_bytes([e, f, g, h]),
            line: u32::from_le_bytes([i, j, k, l]),
        }
    }
}

/// What a rule says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Action {
    pub(crate) targets: u32,
    pub(crate) targets_count: u16,
    /// 0: always; else the number of a period and one, perhaps with [`OUTSIDE`].
    pub(crate) period: u16,
    /// 0: nothing; else the number of a text and one.
    pub(crate) add: u32,
    pub(crate) strip: u16,
    pub(crate) priority: i16,
}

impl Action {
    pub(crate) fn bytes(&self) -> [u8; ACTION_BYTES] {
        let [a, b, c, d] = self.targets.to_le_bytes();
        let [e, f] = self.targets_count.to_le_bytes();
        let [g, h] = self.period.to_le_bytes();
        let [i, j, k, l] = self.add.to_le_bytes();
        let [m, n] = self.strip.to_le_bytes();
        let [o, p] = self.priority.to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    pub(crate) fn read(bytes: &[u8; ACTION_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *bytes;
        Self {
            targets: u32::from_le_bytes([a, b, c, d]),
            targets_count: u16::from_le_bytes([e, f]),
            period: u16::from_le_bytes([g, h]),
            add: u32::from_le_bytes([i, j, k, l]),
            strip: u16::from_le_bytes([m, n]),
            priority: i16::from_le_bytes([o, p]),
        }
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let node = Node {
            children: 0x0102_0304,
            first: 5,
            rules: 6,
            rules_count: 7,
            skip: 9 << 40,
        };
        assert_eq!(Node::read(&node.bytes()), node);
        let entry = Entry {
            caller: 1,
            action: 2,
            line: 0xdead_beef,
        };
        assert_eq!(Entry::read(&entry.bytes()), entry);
        let action = Action {
            targets: 1,
            targets_count: 2,
            period: 3 | OUTSIDE,
            add: 4,
            strip: 5,
            priority: -6,
        };
        assert_eq!(Action::read(&action.bytes()), action);
        let counts = Counts {
            nodes: 1,
            rules: 2,
            actions: 3,
            targets: 4,
            groups: 5,
            callers: 6,
            periods: 7,
            adds: 8,
            removes: 9,
            characters: 10,
            lines: 11,
        };
        assert_eq!(Counts::read(&counts.header()), Some(counts));
    }

    #[test]
    fn children_are_counted_by_their_bits() {
        let node = Node {
            children: 0b1011,
            first: 10,
            ..Node::default()
        };
        let children: Vec<_> = (0..5).map(|symbol| node.child(symbol)).collect();
        assert_eq!(children, [Some(10), Some(11), None, Some(12), None]);
    }
}
