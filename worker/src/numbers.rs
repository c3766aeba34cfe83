//! Tables of numbers in use: the compiled images of a process, and how one slot asks them.
//!
//! An image lies in a sealed memory file that the supervisor has from a process that compiled it; everybody maps the same pages. A configuration names
//! images by their numbers, so that a slot takes the new rules together with the new configuration, between two messages, and what it routes by is always of
//! one piece. An image goes when no configuration of this process names it any more.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use anyhow::Context as _;
use config::{Calendar, Config};
use os::SealedMap;
use prefix::{Active, Number, Rule};

/// A compiled table, read in place.
pub type Table = prefix::Table<SealedMap>;

/// Tables by the number of their image.
pub type Tables = BTreeMap<u64, Arc<Table>>;

/// The images of a process.
#[derive(Debug, Default)]
pub(crate) struct Images {
    /// Kept for a later supervisor.
    files: BTreeMap<u64, OwnedFd>,
    tables: Arc<Tables>,
}

impl Images {
    pub(crate) fn add(&mut self, image: u64, file: OwnedFd) -> anyhow::Result<()> {
        let map = SealedMap::new(file.as_fd()).context("a table of numbers can't be mapped")?;
        let table = Table::open(map)?;
        Arc::make_mut(&mut self.tables).insert(image, Arc::new(table));
        self.files.insert(image, file);
        Ok(())
    }

    /// Forgets those that a configuration does not name. Slots that still work by an older one keep theirs.
    pub(crate) fn keep(&mut self, config: &Config) {
        let named = |image: &u64| {
            config
                .prefix_tables
                .iter()
                .any(|table| table.image == *image)
        };
        self.files.retain(|image, _| named(image));
        Arc::make_mut(&mut self.tables).retain(|image, _| named(image));
    }

    pub(crate) fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    pub(crate) fn files(&self) -> &BTreeMap<u64, OwnedFd> {
        &self.files
    }
}

/// Tables as one slot asks them.
#[derive(Debug)]
pub(crate) struct Numbers {
    tables: HashMap<String, Known>,
    calendar: Calendar,
    /// The moment that is asked for, in seconds since 1970; `None`: now.
    moment: Option<u64>,
    /// The minute that the tables' periods were looked at for.
    minute: Cell<u64>,
}

/// A table, and how what it names is numbered here.
#[derive(Debug)]
struct Known {
    /// `None`: its image has not come.
    table: Option<Arc<Table>>,
    /// Number of a `[[caller]]` to that of the table, if rules are for it.
    callers: Vec<Option<u32>>,
    groups: Vec<String>,
    active: RefCell<Active>,
    fallback: bool,
}

/// Where a table leads a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lead<'n> {
    /// To these groups, one after another.
    Groups {
        names: Vec<&'n str>,
        /// The number as it is sent on; `None`: as it came.
        number: Option<Vec<u8>>,
    },
    Reject(u16),
}

impl Numbers {
    pub(crate) fn new(config: &Config, tables: &Tables, moment: Option<u64>) -> Self {
        let known = config.prefix_tables.iter().map(|one| {
            let table = tables.get(&one.image).cloned();
            let place = |name: &str| {
                let at = table
                    .as_ref()?
                    .callers()
                    .position(|caller| caller == name)?;
                u32::try_from(at).ok()
            };
            let groups = table.iter().flat_map(|table| table.groups());
            let known = Known {
                callers: config
                    .callers
                    .iter()
                    .map(|caller| place(&caller.name))
                    .collect(),
                groups: groups.map(str::to_owned).collect(),
                active: RefCell::default(),
                fallback: one.fallback,
                table,
            };
            (one.name.clone(), known)
        });
        Self {
            tables: known.collect(),
            calendar: Calendar::new(config),
            moment,
            minute: Cell::new(u64::MAX),
        }
    }

    /// Whether a table has something to say about a number. A table whose image is not there has: nobody knows what.
    pub(crate) fn leads(&self, table: &str, user: &[u8], caller: Option<usize>) -> bool {
        let Some(known) = self.tables.get(table) else {
            return false;
        };
        let Some(rules) = &known.table else {
            return true;
        };
        let number = rules.number(user);
        self.look_at_clock();
        let active = known.active.borrow();
        let mut rules = rules.rules(&number, known.caller(caller));
        rules.any(|rule| rule.when.holds(&active))
    }

    /// Where a table leads a number; `None`: nowhere.
    pub(crate) fn lead(&self, table: &str, user: &[u8], caller: Option<usize>) -> Option<Lead<'_>> {
        let known = self.tables.get(table)?;
        let Some(rules) = &known.table else {
            return Some(Lead::Reject(503));
        };
        let number = rules.number(user);
        self.look_at_clock();
        let active = known.active.borrow();
        let mut holding = rules
            .rules(&number, known.caller(caller))
            .filter(|rule| rule.when.holds(&active));
        let first = holding.next()?;
        let rewritten = first.rewritten(&number);
        let further =
            holding.take_while(|rule| known.fallback && rule.rewritten(&number) == rewritten);
        let mut names: Vec<&str> = Vec::new();
        for target in std::iter::once(first)
            .chain(further)
            .flat_map(|rule| rule.targets())
        {
            match target {
                prefix::Target::Group(group) => {
                    let name = known.group(group)?;
                    if !names.contains(&name) {
                        names.push(name);
                    }
                }
                // Behind groups it is what is left when they fail: the last one's answer says more.
                prefix::Target::Reject(code) if names.is_empty() => {
                    return Some(Lead::Reject(code));
                }
                prefix::Target::Reject(_) => break,
            }
            if names.len() >= GROUPS_MAX {
                break;
            }
        }
        // More was taken off its front than there is: §21.4.22.
        let is_too_short = |number: &Vec<u8>| !number.iter().any(|&symbol| symbol != b'+');
        if rewritten.as_ref().is_some_and(is_too_short) {
            return Some(Lead::Reject(484));
        }
        Some(Lead::Groups {
            names,
            number: rewritten,
        })
    }

    /// Every rule that a number meets, with whether it holds now, for somebody who wants to know why; with the table, the number as it was looked up and
    /// what the table calls the caller.
    pub(crate) fn explain<T>(
        &self,
        table: &str,
        user: &[u8],
        caller: Option<usize>,
        look: impl FnOnce(&Table, &Number, Option<u32>, &mut dyn Iterator<Item = (Rule<'_>, bool)>) -> T,
    ) -> Option<T> {
        let known = self.tables.get(table)?;
        let rules = known.table.as_deref()?;
        let number = rules.number(user);
        self.look_at_clock();
        let active = known.active.borrow();
        let caller = known.caller(caller);
        let mut met = rules
            .rules(&number, caller)
            .map(|rule| (rule, rule.when.holds(&active)));
        Some(look(rules, &number, caller, &mut met))
    }

    /// Finds out which periods are now, once a minute.
    fn look_at_clock(&self) {
        if self.calendar.is_empty() {
            return;
        }
        let now = self.moment.unwrap_or_else(|| os::unix_now().as_secs());
        if self.minute.replace(now / 60) == now / 60 {
            return;
        }
        let held = self.calendar.at(now);
        for known in self.tables.values() {
            let mut active = Active::default();
            let names = known.table.iter().flat_map(|table| table.periods());
            for (at, name) in names.enumerate() {
                if held.iter().any(|(period, holds)| *holds && *period == name) {
                    active.set(at);
                }
            }
            *known.active.borrow_mut() = active;
        }
    }
}

/// Groups that one call is led to at most, those of further rules included.
const GROUPS_MAX: usize = 16;

impl Known {
    fn caller(&self, caller: Option<usize>) -> Option<u32> {
        self.callers.get(caller?).copied().flatten()
    }

    fn group(&self, number: u32) -> Option<&str> {
        let name = self.groups.get(usize::try_from(number).ok()?)?;
        Some(name)
    }
}
