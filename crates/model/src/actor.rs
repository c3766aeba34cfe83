//! A participant: its program, where it is in it, and what only it knows.
//!
//! An operation is a sequence of *frames* (one loop body, one phase), each a function that reads like the code it stands for. A frame runs until it wants its second access of
//! shared memory; then it is put aside with what it has seen so far, and started again from there when it is scheduled next. So an interleaving
//! happens at every access, and two histories that lead to the same frame with the same knowledge are one state.

use crate::broken::Broken;
use crate::memory::{
    ACTORS, BLOCKS, Content, Ctl, Id, Index, Intent, Memory, Meta, Names, PLACES, ROWS, RowRef,
    Seen,
};
use crate::properties::Violation;

/// What a participant is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Operation {
    Insert {
        names: Names,
        child: bool,
        counted: bool,
    },
    /// A new body for the record with this key; its child stays, or another takes its place.
    Replace {
        key: u8,
        keep_child: bool,
    },
    Remove {
        key: u8,
    },
    /// Finds a record and remembers its row, over turns.
    Keep {
        key: u8,
    },
    /// Removes that record.
    RemoveKept,
    Find {
        key: u8,
    },
    FindAlias {
        alias: u8,
    },
    Quiescent,
    Scrub,
}

/// Who brings a dead participant's affairs in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// An heir under its number.
    Heir,
    /// The last participant, which has no other program.
    Other,
}

/// What is searched.
#[derive(Clone, Debug)]
pub struct Config {
    /// For each participant what it does.
    pub programs: Vec<Vec<Operation>>,
    /// What an heir does after recovery.
    pub heir: Vec<Operation>,
    /// Rows of each participant.
    pub rows: u8,
    /// Blocks of each participant.
    pub blocks: u8,
    /// Places of each index.
    pub places: u8,
    /// Deaths at most, those of recoveries included.
    pub deaths: u8,
    /// Who recovers.
    pub recovery: Recovery,
    /// Counted records at most.
    pub limit: i8,
    /// What has been left out.
    pub broken: Option<Broken>,
}

impl Config {
    /// As most tests want it.
    pub fn new(programs: Vec<Vec<Operation>>) -> Self {
        Self {
            programs,
            heir: Vec::new(),
            rows: 1,
            blocks: 2,
            places: 2,
            deaths: 0,
            recovery: Recovery::Heir,
            limit: i8::MAX,
            broken: None,
        }
    }

    /// With so many deaths.
    pub fn deaths(self, deaths: u8) -> Self {
        Self { deaths, ..self }
    }

    /// With this left out.
    pub fn broken(self, broken: Broken) -> Self {
        Self {
            broken: Some(broken),
            ..self
        }
    }

    /// Recovered by a party of its own.
    pub fn recovered_by_other(self) -> Self {
        Self {
            recovery: Recovery::Other,
            ..self
        }
    }

    /// All numbers in use.
    pub fn actors(&self) -> usize {
        let actors = self.programs.len() + usize::from(self.recovery == Recovery::Other);
        assert!(actors <= ACTORS, "at most {ACTORS} participants");
        assert!(usize::from(self.rows) * self.programs.len() <= ROWS);
        assert!(usize::from(self.blocks) * self.programs.len() <= BLOCKS);
        assert!(usize::from(self.places) <= PLACES);
        actors
    }

    pub(crate) fn rows_of(&self, id: Id) -> std::ops::Range<u8> {
        if usize::from(id) < self.programs.len() {
            id * self.rows..(id + 1) * self.rows
        } else {
            0..0
        }
    }

    pub(crate) fn blocks_of(&self, id: Id) -> std::ops::Range<u8> {
        if usize::from(id) < self.programs.len() {
            id * self.blocks..(id + 1) * self.blocks
        } else {
            0..0
        }
    }
}

/// A phase of an operation; see the methods of the same names in [`crate::records`] and [`crate::upkeep`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Frame {
    // records
    Find {
        index: Index,
        name: u8,
        place: u8,
    },
    Meet {
        names: Names,
        me: Option<RowRef>,
        index: Index,
        place: u8,
    },
    MeetRow {
        names: Names,
        me: Option<RowRef>,
        index: Index,
        place: u8,
        entry: RowRef,
    },
    Reserve(Making),
    TakeRow(Making),
    Link {
        making: Making,
        index: Index,
        place: u8,
    },
    Rescan(Making),
    TakeBlocks(Making),
    Attach(Making),
    Admit(Making),
    Publish {
        making: Making,
        cell: Option<i8>,
    },
    LinkLate {
        making: Making,
        place: u8,
    },
    Unpublish {
        making: Making,
        cell: Option<i8>,
        why: Answer,
    },
    Abort {
        making: Making,
        why: Answer,
    },
    Again {
        making: Making,
        why: Answer,
    },
    Replace {
        keep_child: bool,
    },
    ReplaceFill {
        row: RowRef,
        live: Ctl,
        old: Content,
        child: Option<u8>,
        body: u8,
    },
    ReplaceSwap {
        row: RowRef,
        live: Ctl,
        old: Content,
        child: Option<u8>,
        body: u8,
    },
    ReplaceUndo {
        new_child: Option<u8>,
        body: u8,
    },
    Keep,
    RemoveKept,
    Remove,
    RemoveRow {
        row: RowRef,
        counted: bool,
    },
    Removed {
        row: RowRef,
        dying: Ctl,
        cell: Option<i8>,
    },
    ClearIntent(Answer),
    Finish {
        row: RowRef,
        dying: Ctl,
    },
    FinishRelease {
        row: RowRef,
        dying: Ctl,
    },
    Retire {
        row: RowRef,
        dying: Ctl,
    },
    Unlink {
        row: RowRef,
        names: Names,
        index: Index,
        place: u8,
    },
    Release {
        row: RowRef,
        ctl: Ctl,
        kept: Option<u8>,
    },
    // upkeep
    Announce,
    Oldest,
    Reclaim,
    Offline,
    SweepRows {
        of: Id,
        dead: bool,
        row: u8,
    },
    SweepBlocks {
        of: Id,
        dead: bool,
        block: u8,
    },
    ScrubEntries {
        index: Index,
        place: u8,
    },
    Recover {
        dead: Id,
    },
    RecoverIntent {
        dead: Id,
    },
    RecoverOld {
        dead: Id,
        row: RowRef,
        old: Ctl,
    },
    RecoverOldBody {
        dead: Id,
        row: RowRef,
        block: u8,
    },
    RecoverDying {
        dead: Id,
        row: RowRef,
    },
    RecoverSlabs {
        dead: Id,
    },
    RecoverEnd {
        dead: Id,
    },
    Unheld {
        row: RowRef,
        block: u8,
    },
}

/// An insert under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Making {
    pub names: Names,
    pub wants_child: bool,
    pub counted: bool,
    pub row: RowRef,
    pub child: Option<u8>,
    pub body: u8,
    pub round: u8,
}

/// What a frame answers to its caller, and an operation in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Answer {
    Nothing,
    Found(RowRef, Ctl, Content),
    Done,
    Exists,
    Full,
    Stale,
    OverLimit,
}

/// What a frame wants next.
pub enum Flow {
    /// This frame instead.
    Next(Frame),
    /// The second one; the first goes on after it.
    Call(Frame, Frame),
    /// Back to the caller.
    Return(Answer),
}

/// It has made its access and wants another.
pub struct Suspended;

/// Either a value or the end of this step.
pub type Step<T> = Result<T, Suspended>;

/// Something retired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Item {
    Row(u8, Ctl),
    Block(u8, Meta),
}

const LIMBO: usize = 10;
const LOG: usize = 12;
const DEPTH: usize = 4;

/// A short list of `Copy` things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Few<T, const N: usize>([Option<T>; N]);

impl<T: core::hash::Hash, const N: usize> core::hash::Hash for Few<T, N> {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        for value in self.0.iter().flatten() {
            value.hash(state);
        }
        state.write_u8(u8::MAX);
    }
}

impl<T: Copy, const N: usize> Default for Few<T, N> {
    fn default() -> Self {
        Self([None; N])
    }
}

impl<T: Copy, const N: usize> Few<T, N> {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.iter().flatten().count()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.first().is_none()
    }

    /// The oldest.
    pub fn first(&self) -> Option<T> {
        self.0[0]
    }

    /// At the end.
    pub fn push(&mut self, value: T) {
        let at = self.len();
        assert!(at < N, "a longer list than the model has room for");
        self.0[at] = Some(value);
    }

    /// From the end.
    pub fn pop(&mut self) -> Option<T> {
        let at = self.len().checked_sub(1)?;
        self.0[at].take()
    }

    /// From the beginning.
    pub fn shift(&mut self) -> Option<T> {
        let first = self.0[0].take();
        self.0.rotate_left(1);
        first
    }

    fn get(&self, nth: usize) -> Option<T> {
        self.0.get(nth).copied().flatten()
    }

    /// All of them, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().flatten()
    }
}

/// What only the participant knows; gone when it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Own {
    /// Item, and the epoch that it was tagged with.
    pub limbo: Few<(Item, Option<u8>), LIMBO>,
    /// The oldest announced epoch, as last seen.
    pub oldest: u8,
    /// The epoch announced last.
    pub now: u8,
    /// What the last callee answered.
    pub answer: Answer,
    /// A row that was found in an earlier turn.
    pub kept: Option<RowRef>,
}

/// What the checker knows about an operation and the protocol must not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Ghost {
    /// A record with the name was acknowledged before this look-up began, and no removal has begun since.
    pub must_find: bool,
    /// There was a LIVE record with one of the names at some moment since this operation began.
    pub was_live: bool,
}

/// A participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Actor {
    /// Next operation of its program, or of the heir's.
    pub next: u8,
    pub is_heir: bool,
    pub doing: Option<Operation>,
    pub frames: Few<Frame, DEPTH>,
    pub log: Few<Seen, LOG>,
    pub own: Own,
    pub ghost: Ghost,
    pub done: bool,
    /// Died, and nobody has recovered it yet (in the mode where others do).
    pub dead: bool,
}

impl Default for Actor {
    fn default() -> Self {
        Self {
            next: 0,
            is_heir: false,
            doing: None,
            frames: Few::default(),
            log: Few::default(),
            own: Own {
                limbo: Few::default(),
                oldest: 0,
                now: 0,
                answer: Answer::Nothing,
                kept: None,
            },
            ghost: Ghost::default(),
            done: false,
            dead: false,
        }
    }
}

/// One frame's view: shared memory through accesses that are counted, and its own things.
pub struct Turn<'a> {
    /// Who.
    pub id: Id,
    /// What is searched.
    pub config: &'a Config,
    /// Its own things; kept only if the frame ends.
    pub own: Own,
    /// What the checker saw.
    pub violation: Option<Violation>,
    memory: &'a mut Memory,
    log: Few<Seen, LOG>,
    at: usize,
    accessed: bool,
}

impl Turn<'_> {
    /// Whether this has been left out.
    pub fn lacks(&self, what: Broken) -> bool {
        self.config.broken == Some(what)
    }

    fn access(&mut self, f: impl FnOnce(&mut Memory) -> Seen) -> Step<Seen> {
        if let Some(seen) = self.log.get(self.at) {
            self.at += 1;
            return Ok(seen);
        }
        if self.accessed {
            return Err(Suspended);
        }
        self.accessed = true;
        let seen = f(self.memory);
        self.log.push(seen);
        self.at += 1;
        Ok(seen)
    }
}

macro_rules! accesses {
    ($($(#[$doc:meta])* $name:ident($memory:ident $(, $arg:ident: $type:ty)*) -> $seen:ident($out:ty) $body:block)*) => {
        impl Turn<'_> {
            $($(#[$doc])* pub fn $name(&mut self $(, $arg: $type)*) -> Step<$out> {
                match self.access(|$memory| Seen::$seen($body))? {
                    Seen::$seen(value) => Ok(value),
                    other => unreachable!("{other:?}: frames are functions of what they have seen"),
                }
            })*
        }
    };
}

accesses! {
    /// The control word.
    load(m, row: u8) -> Ctl(Ctl) { m.rows[usize::from(row)].ctl }
    /// One change of the truth.
    change(m, row: u8, from: Ctl, to: Ctl) -> Done(bool) { swap(&mut m.rows[usize::from(row)].ctl, from, to) }
    /// The row's names (its hashes).
    names(m, row: u8) -> Names(Names) { m.rows[usize::from(row)].names }
    /// Written before the row is in any index.
    set_names(m, row: u8, names: Names) -> Done(bool) { m.rows[usize::from(row)].names = names; true }
    /// A block's word.
    meta(m, block: u8) -> Meta(Meta) { m.metas[usize::from(block)] }
    /// A change of it.
    change_meta(m, block: u8, from: Meta, to: Meta) -> Done(bool) { swap(&mut m.metas[usize::from(block)], from, to) }
    /// A block's bytes.
    content(m, block: u8) -> Content(Content) { m.contents[usize::from(block)] }
    /// Fills a block.
    fill(m, block: u8, content: Content) -> Done(bool) { m.contents[usize::from(block)] = content; true }
    /// An entry.
    entry(m, index: Index, place: u8) -> Entry(Option<RowRef>) { m.entries[index as usize][usize::from(place)] }
    /// A change of it.
    change_entry(m, index: Index, place: u8, from: Option<RowRef>, to: Option<RowRef>) -> Done(bool) {
        swap(&mut m.entries[index as usize][usize::from(place)], from, to)
    }
    /// The global epoch.
    epoch(m) -> Number(i8) { m.epoch as i8 }
    /// Raises it.
    raise_epoch(m, from: u8) -> Done(bool) { swap(&mut m.epoch, from, from + 1) }
    /// What a participant announced; 0: offline.
    announced(m, id: Id) -> Number(i8) { m.announced[usize::from(id)] as i8 }
    /// Announces.
    announce(m, id: Id, epoch: u8) -> Done(bool) { m.announced[usize::from(id)] = epoch; true }
    /// All three words: by the one party that recovers, when nobody writes them.
    intent(m, id: Id) -> Intent(Intent) { m.intents[usize::from(id)] }
    /// The first two words: read by nobody while the third is empty.
    prepare_intent(m, id: Id, old: Ctl, cell: Option<i8>) -> Done(bool) {
        let intent = &mut m.intents[usize::from(id)];
        (intent.old, intent.cell) = (old, cell);
        true
    }
    /// The last word, which makes it one.
    set_intent(m, id: Id, row: Option<u8>) -> Done(bool) { m.intents[usize::from(id)].row = row; true }
    /// A cell.
    cell(m, id: Id) -> Number(i8) { m.cells[usize::from(id)] }
    /// Its single writer's store.
    set_cell(m, id: Id, value: i8) -> Done(bool) { m.cells[usize::from(id)] = value; true }
}

fn swap<T: PartialEq>(word: &mut T, from: T, to: T) -> bool {
    let same = *word == from;
    if same {
        *word = to;
    }
    same
}

impl Turn<'_> {
    /// A body read through a control word: it must be what that word named.
    pub fn body(&mut self, row: u8, ctl: Ctl) -> Step<Option<(u8, Content)>> {
        let Some(block) = ctl.body else {
            return Ok(None);
        };
        let content = self.content(block)?;
        let of = RowRef {
            row,
            generation: ctl.generation,
        };
        if content.of != (of, ctl.change) {
            self.violation = Some(Violation::ReusedBody {
                reader: self.id,
                block,
            });
        }
        Ok(Some((block, content)))
    }

    /// Says what is about to be done to a row, and to our cell.
    pub fn intend(&mut self, row: u8, old: Ctl, cell: Option<i8>) -> Step<()> {
        self.prepare_intent(self.id, old, cell)?;
        self.set_intent(self.id, Some(row))?;
        Ok(())
    }

    /// Retired by us: waits for its grace period.
    pub fn limbo(&mut self, item: Item) {
        let tag = self
            .lacks(Broken::TagBeforeUnlinking)
            .then_some(self.own.now);
        self.own.limbo.push((item, tag));
    }
}

impl Actor {
    /// What it would do next, for a trace.
    pub fn at(&self) -> String {
        let top = {
            let mut frames = self.frames;
            frames.pop()
        };
        match top {
            Some(frame) => format!("{frame:?}, access {}", self.log.len() + 1),
            None => format!("operation {} begins", self.next),
        }
    }

    fn operation(&self, id: Id, config: &Config) -> Option<Operation> {
        let program = if self.is_heir {
            &config.heir
        } else {
            config.programs.get(usize::from(id))?
        };
        program.get(usize::from(self.next)).copied()
    }

    /// One access of shared memory, and everything up to the next one. `ended` gets each operation that ends, `began` each that begins.
    pub fn step(
        &mut self,
        id: Id,
        config: &Config,
        memory: &mut Memory,
        events: &mut Vec<Event>,
    ) -> Option<Violation> {
        let mut accessed = false;
        let mut violation = None;
        loop {
            let Some(frame) = self.frames.pop() else {
                if accessed {
                    return violation;
                }
                if !self.begin(id, config, events) {
                    return violation;
                }
                continue;
            };
            let mut turn = Turn {
                id,
                config,
                own: self.own,
                violation: None,
                memory,
                log: self.log,
                at: 0,
                accessed,
            };
            let flow = turn.run(frame);
            accessed = turn.accessed;
            violation = violation.or(turn.violation);
            let (own, log) = (turn.own, turn.log);
            match flow {
                Err(Suspended) => {
                    self.log = log;
                    self.frames.push(frame);
                    return violation;
                }
                Ok(flow) => {
                    (self.own, self.log) = (own, Few::default());
                    match flow {
                        Flow::Next(frame) => self.frames.push(frame),
                        Flow::Call(then, callee) => {
                            self.frames.push(then);
                            self.frames.push(callee);
                        }
                        Flow::Return(answer) => self.own.answer = answer,
                    }
                    if self.frames.is_empty() {
                        if let Some(operation) = self.doing.take() {
                            events.push(Event::Ended(id, operation, self.own.answer));
                        }
                        self.own.answer = Answer::Nothing;
                    }
                }
            }
        }
    }

    /// The next operation; `false`: there is none, and it has left.
    fn begin(&mut self, id: Id, config: &Config, events: &mut Vec<Event>) -> bool {
        if self.done {
            return false;
        }
        let Some(operation) = self.operation(id, config) else {
            self.done = true;
            self.frames.push(Frame::Offline);
            return true;
        };
        self.next += 1;
        self.start(id, config, operation);
        events.push(Event::Began(id, operation));
        true
    }

    /// Makes it do this next.
    pub fn start(&mut self, id: Id, config: &Config, operation: Operation) {
        self.doing = Some(operation);
        let first = match operation {
            Operation::Insert {
                names,
                child,
                counted,
            } => Frame::Reserve(Making {
                names,
                wants_child: child,
                counted,
                row: RowRef {
                    row: 0,
                    generation: 0,
                },
                child: None,
                body: 0,
                round: 0,
            }),
            Operation::Find { key } => Frame::Find {
                index: Index::Key,
                name: key,
                place: 0,
            },
            Operation::FindAlias { alias } => Frame::Find {
                index: Index::Alias,
                name: alias,
                place: 0,
            },
            Operation::Replace { key, keep_child } => {
                self.frames.push(Frame::Replace { keep_child });
                Frame::Find {
                    index: Index::Key,
                    name: key,
                    place: 0,
                }
            }
            Operation::Remove { key } => {
                self.frames.push(Frame::Remove);
                Frame::Find {
                    index: Index::Key,
                    name: key,
                    place: 0,
                }
            }
            Operation::Keep { key } => {
                self.frames.push(Frame::Keep);
                Frame::Find {
                    index: Index::Key,
                    name: key,
                    place: 0,
                }
            }
            Operation::RemoveKept => Frame::RemoveKept,
            Operation::Quiescent => Frame::Announce,
            Operation::Scrub => Frame::SweepRows {
                of: id,
                dead: false,
                row: config.rows_of(id).start,
            },
        };
        self.frames.push(first);
    }
}

/// For the properties that are about whole operations.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Event {
    Began(Id, Operation),
    Ended(Id, Operation, Answer),
}
