//! What the tests share.
#![allow(dead_code, reason = "every test uses another part")]

use model::{Config, Names, Operation};

/// A record with one name.
pub const fn plain(key: u8) -> Operation {
    insert(key, None, false, false)
}

/// A record with two.
pub const fn aliased(key: u8, alias: u8) -> Operation {
    insert(key, Some(alias), false, false)
}

/// One that its inserter's cell counts.
pub const fn counted(key: u8) -> Operation {
    insert(key, None, false, true)
}

/// One with a further block.
pub const fn with_child(key: u8) -> Operation {
    insert(key, None, true, false)
}

/// All at once.
pub const fn insert(key: u8, alias: Option<u8>, child: bool, counted: bool) -> Operation {
    Operation::Insert {
        names: Names { key, alias },
        child,
        counted,
    }
}

pub const REMOVE: Operation = Operation::Remove { key: 0 };
/// With another child.
pub const REPLACE: Operation = Operation::Replace {
    key: 0,
    keep_child: false,
};
/// With the same child.
pub const KEEP: Operation = Operation::Replace {
    key: 0,
    keep_child: true,
};
pub const FIND: Operation = Operation::Find { key: 0 };
pub const FIND_ALIAS: Operation = Operation::FindAlias { alias: 0 };

/// Two participants.
pub fn two(a: &[Operation], b: &[Operation]) -> Config {
    Config::new(vec![a.to_vec(), b.to_vec()])
}

/// Three participants.
pub fn three(a: &[Operation], b: &[Operation], c: &[Operation]) -> Config {
    Config::new(vec![a.to_vec(), b.to_vec(), c.to_vec()])
}
