//! Look-ups in a compiled table.
//!
//! A number walks down the trie and notes each place that has rules, at most one for each of its first digits. Then rules come out from the longest prefix
//! to the shortest; of one prefix those of the caller's own group and those for everybody together by priority, the own first among equals, else as in
//! the file. What is taken is the asker's decision: the first whose period holds, and the next ones if it wants more.

use crate::image::{
    ACTION_BYTES, Action, Counts, Entry, NODE_BYTES, Node, OUTSIDE, REJECT, RULE_BYTES, Sections,
    TARGET_BYTES, TEXT_BYTES, u32_at,
};
use crate::number::{Number, PREFIX_SYMBOLS_MAX};

/// Beginnings that a table removes from numbers.
pub const REMOVES_MAX: usize = 8;
/// Periods of one table.
pub const PERIODS_MAX: usize = 256;

/// The bytes are no table of this release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a compiled table of this release")]
pub struct ImageError;

/// A compiled table over bytes that somebody else holds.
#[derive(Clone, Debug)]
pub struct Table<B> {
    bytes: B,
    counts: Counts,
    sections: Sections,
    /// Beginnings that numbers are looked up without.
    heads: Box<[Number]>,
}

/// A period of a table that holds now, for each by its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Active([u64; PERIODS_MAX / 64]);

impl Active {
    pub fn set(&mut self, period: usize) {
        if let Some(word) = self.0.get_mut(period / 64) {
            *word |= 1 << (period % 64);
        }
    }

    pub fn has(&self, period: usize) -> bool {
        self.0
            .get(period / 64)
            .is_some_and(|word| word >> (period % 64) & 1 == 1)
    }
}

/// Where a rule leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Number of a name in [`Table::groups`].
    Group(u32),
    /// Answered with this status code.
    Reject(u16),
}

/// When a rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Always,
    /// Number of a name in [`Table::periods`].
    In(u16),
    /// As [`When::In`], and the rest of the time.
    Outside(u16),
}

impl When {
    pub fn holds(self, active: &Active) -> bool {
        match self {
            Self::Always => true,
            Self::In(period) => active.has(period.into()),
            Self::Outside(period) => !active.has(period.into()),
        }
    }
}

/// One rule that a number meets.
#[derive(Clone, Copy, Debug)]
pub struct Rule<'t> {
    /// Digits of its prefix.
    pub prefix: usize,
    /// Number of a name in [`Table::callers`]; `None`: everybody.
    pub caller: Option<u32>,
    pub when: When,
    pub priority: i16,
    /// Digits that are taken from the front of the number.
    pub strip: usize,
    /// What is put in front of it then.
    pub add: &'t str,
    /// Line of the file.
    pub line: u32,
    targets: &'t [u8],
}

impl<'t> Rule<'t> {
    /// Where it leads, in order.
    pub fn targets(&self) -> impl Iterator<Item = Target> + use<'t> {
        let (words, _) = self.targets.as_chunks::<TARGET_BYTES>();
        words.iter().map(|word| match u32::from_le_bytes(*word) {
            word if word & REJECT != 0 => Target::Reject((word & 0xffff) as u16),
            word => Target::Group(word),
        })
    }

    /// The number as this rule sends it on; `None`: as it came, as does what is no number.
    pub fn rewritten(&self, number: &Number) -> Option<Vec<u8>> {
        let rewrites = self.strip > 0 || !self.add.is_empty();
        (rewrites && !number.is_empty()).then(|| {
            self.add
                .bytes()
                .chain(number.text_from(self.strip))
                .collect()
        })
    }
}

impl<B: AsRef<[u8]>> Table<B> {
    pub fn open(bytes: B) -> Result<Self, ImageError> {
        let counts = Counts::read(bytes.as_ref()).ok_or(ImageError)?;
        let sections = counts.sections().ok_or(ImageError)?;
        if sections.end != bytes.as_ref().len() {
            return Err(ImageError);
        }
        let mut table = Self {
            bytes,
            counts,
            sections,
            heads: Box::default(),
        };
        let before = counts.texts().unwrap_or(0).saturating_sub(counts.removes);
        table.heads = table
            .names(before, counts.removes)
            .take(REMOVES_MAX)
            .filter_map(|head| Number::parse(head.as_bytes()).ok())
            .collect();
        Ok(table)
    }

    /// Lines of its file that are rules.
    pub fn lines(&self) -> u32 {
        self.counts.lines
    }

    pub fn bytes(&self) -> usize {
        self.bytes.as_ref().len()
    }

    /// Names of the groups that its rules lead to.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.names(0, self.counts.groups)
    }

    /// Names of the caller groups that its rules are for.
    pub fn callers(&self) -> impl Iterator<Item = &str> {
        self.names(self.counts.groups, self.counts.callers)
    }

    /// Names of the periods that its rules hold in.
    pub fn periods(&self) -> impl Iterator<Item = &str> {
        let before = self.counts.groups.saturating_add(self.counts.callers);
        self.names(before, self.counts.periods)
    }

    fn names(&self, before: u32, count: u32) -> impl Iterator<Item = &str> {
        (before..before.saturating_add(count)).map(|at| self.text(at).unwrap_or_default())
    }

    fn text(&self, number: u32) -> Option<&str> {
        let entry = self.at(self.sections.texts, number, TEXT_BYTES)?;
        let bytes = self.bytes.as_ref();
        let from = self
            .sections
            .characters
            .checked_add(usize::try_from(u32_at(bytes, entry)?).ok()?)?;
        let count = usize::try_from(u32_at(bytes, entry + 4)?).ok()?;
        str::from_utf8(bytes.get(from..from.checked_add(count)?)?).ok()
    }

    fn at(&self, section: usize, number: u32, size: usize) -> Option<usize> {
        let number = usize::try_from(number).ok()?;
        number.checked_mul(size)?.checked_add(section)
    }

    fn chunk<const N: usize>(&self, section: usize, number: u32) -> Option<&[u8; N]> {
        let at = self.at(section, number, N)?;
        self.bytes.as_ref().get(at..)?.first_chunk()
    }

    fn node(&self, number: u32) -> Option<Node> {
        let chunk = self.chunk::<NODE_BYTES>(self.sections.nodes, number)?;
        Some(Node::read(chunk))
    }

    fn entry(&self, number: u32) -> Option<Entry> {
        let chunk = self.chunk::<RULE_BYTES>(self.sections.rules, number)?;
        Some(Entry::read(chunk))
    }

    fn action(&self, number: u32) -> Option<Action> {
        let chunk = self.chunk::<ACTION_BYTES>(self.sections.actions, number)?;
        Some(Action::read(chunk))
    }

    /// The number that a user part is looked up by: without the beginnings that the table is told to remove. A name is no number: only a rule
    /// for everything meets it.
    pub fn number(&self, user: &[u8]) -> Number {
        let number = Number::beginning(user).unwrap_or(Number::EMPTY);
        let mut heads = self.heads.iter();
        heads
            .find_map(|head| number.without(head))
            .unwrap_or(number)
    }

    /// The rules that a number meets, in the order in which they count. `caller` is a number of [`Table::callers`].
    pub fn rules<'t>(&'t self, number: &Number, caller: Option<u32>) -> Rules<'t, B> {
        let mut rules = Rules {
            table: self,
            caller,
            places: [(0, 0); PREFIX_SYMBOLS_MAX + 1],
            left: 0,
            prefix: 0,
            own: 0..0,
            all: 0..0,
        };
        rules.walk(number);
        rules
    }

    /// How many rules of this prefix of the number are for callers other than this one.
    pub fn rules_of_others(&self, number: &Number, prefix: usize, caller: Option<u32>) -> usize {
        let rules = self.rules(number, caller);
        let place = rules.places.iter().take(rules.left);
        let Some(&(node, _)) = place
            .into_iter()
            .find(|(_, length)| usize::from(*length) == prefix)
        else {
            return 0;
        };
        let Some(node) = self.node(node) else {
            return 0;
        };
        let range = node.rules..node.rules.saturating_add(node.rules_count);
        let others = |entry: &Entry| entry.caller != 0 && Some(entry.caller - 1) != caller;
        range.map_while(|at| self.entry(at)).filter(others).count()
    }
}

/// See [`Table::rules`].
#[derive(Clone, Debug)]
pub struct Rules<'t, B> {
    table: &'t Table<B>,
    caller: Option<u32>,
    /// Nodes with rules on the way, and how many digits lead there.
    places: [(u32, u8); PREFIX_SYMBOLS_MAX + 1],
    /// How many of them have not been looked at.
    left: usize,
    /// Digits of the place that is being looked at.
    prefix: usize,
    /// Of that place: rules of the caller, and of everybody.
    own: std::ops::Range<u32>,
    all: std::ops::Range<u32>,
}

impl<'t, B: AsRef<[u8]>> Rules<'t, B> {
    fn walk(&mut self, number: &Number) {
        let mut symbols = number.symbols().iter();
        let mut at = 0;
        let mut depth = 0_u8;
        while let Some(node) = self.table.node(at) {
            let mut skip = node.skip;
            for _ in 0..node.skip_count() {
                if symbols.next().copied() != Some((skip & 31) as u8) {
                    return;
                }
                skip >>= 5;
            }
            depth = depth.saturating_add(node.skip_count());
            if node.rules_count > 0 {
                let Some(place) = self.places.get_mut(self.left) else {
                    return;
                };
                *place = (at, depth);
                self.left += 1;
            }
            let Some(child) = symbols.next().and_then(|symbol| node.child(*symbol)) else {
                return;
            };
            // Children lie behind their parent, so that no bytes lead in a circle.
            if child <= at {
                return;
            }
            at = child;
            depth = depth.saturating_add(1);
        }
    }

    /// Goes to the next shorter prefix.
    fn shorten(&mut self) -> Option<()> {
        self.left = self.left.checked_sub(1)?;
        let &(node, prefix) = self.places.get(self.left)?;
        let node = self.table.node(node)?;
        self.prefix = prefix.into();
        let range = node.rules..node.rules.saturating_add(node.rules_count);
        // Those for everybody come first.
        let mine = self.first_of(&range, 1);
        self.all = range.start..mine;
        self.own = mine..mine;
        if let Some(caller) = self.caller.and_then(|caller| caller.checked_add(1)) {
            let rest = mine..range.end;
            self.own = self.first_of(&rest, caller)..self.first_of(&rest, caller.saturating_add(1));
        }
        Some(())
    }

    /// The first rule of a range whose caller is this one or one behind it.
    fn first_of(&self, range: &std::ops::Range<u32>, caller: u32) -> u32 {
        let (mut low, mut high) = (range.start, range.end);
        while low < high {
            let middle = low + (high - low) / 2;
            let before = self
                .table
                .entry(middle)
                .is_some_and(|entry| entry.caller < caller);
            match before {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }

    /// The rule at the front of a range.
    fn front(&self, range: &std::ops::Range<u32>) -> Option<(Entry, Action)> {
        if range.is_empty() {
            return None;
        }
        let entry = self.table.entry(range.start)?;
        Some((entry, self.table.action(entry.action)?))
    }
}

impl<'t, B: AsRef<[u8]>> Iterator for Rules<'t, B> {
    type Item = Rule<'t>;

    fn next(&mut self) -> Option<Rule<'t>> {
        let (entry, action) = loop {
            match (self.front(&self.own), self.front(&self.all)) {
                (Some(own), Some(all)) if all.1.priority > own.1.priority => {
                    self.all.start += 1;
                    break all;
                }
                (Some(own), _) => {
                    self.own.start += 1;
                    break own;
                }
                (None, Some(all)) => {
                    self.all.start += 1;
                    break all;
                }
                (None, None) => self.shorten()?,
            }
        };
        let table = self.table;
        let from = table.at(table.sections.targets, action.targets, TARGET_BYTES)?;
        let to = from.checked_add(usize::from(action.targets_count) * TARGET_BYTES)?;
        let before = table
            .counts
            .groups
            .saturating_add(table.counts.callers)
            .saturating_add(table.counts.periods);
        let add = action
            .add
            .checked_sub(1)
            .and_then(|add| table.text(before.checked_add(add)?));
        Some(Rule {
            prefix: self.prefix,
            caller: entry.caller.checked_sub(1),
            when: match action.period {
                0 => When::Always,
                period if period & OUTSIDE != 0 => {
                    When::Outside((period & !OUTSIDE).saturating_sub(1))
                }
                period => When::In(period - 1),
            },
            priority: action.priority,
            strip: action.strip.into(),
            add: add.unwrap_or_default(),
            line: entry.line,
            targets: table.bytes.as_ref().get(from..to).unwrap_or_default(),
        })
    }
}

const _: () = assert!(ACTION_BYTES == 16);
