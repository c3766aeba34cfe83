//! `tandem about`: what a supervisor of another release has to know of this program before it runs workers from it.
//!
//! The answer is JSON, and stays readable by every release: fields are added, never changed. Nobody but a supervisor asks.

use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use shm::Layout;

use crate::commands::{FAILED, error, json};

/// This program's version; a test build says so.
pub(crate) const VERSION: &str = if cfg!(feature = "layout-probe") {
    concat!(env!("CARGO_PKG_VERSION"), "+layout-probe")
} else {
    env!("CARGO_PKG_VERSION")
};

/// What a program can work with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// Always "tandem".
    pub(crate) name: String,
    pub(crate) version: String,
    /// [`control::PROTOCOL_VERSION`].
    pub(crate) protocol: u16,
    /// Major version of the arena's layout.
    pub(crate) abi: u32,
    /// Hash of the arena's layout for the numbers that were given; `None` if none were, or if they make no arena.
    pub(crate) layout: Option<u64>,
    /// [`snapshot::FORMAT`]: what it writes, and the newest that it reads. The releases that do not say it know the first one.
    #[serde(default = "first_format")]
    pub(crate) snapshot: u32,
    /// [`snapshot::FORMAT_OLDEST`]: the oldest that it reads.
    #[serde(default = "first_format")]
    pub(crate) snapshot_oldest: u32,
}

fn first_format() -> u32 {
    1
}

impl About {
    pub(crate) fn of_us(numbers: Option<ArenaNumbers>) -> Self {
        Self {
            name: "tandem".to_owned(),
            version: VERSION.to_owned(),
            protocol: control::PROTOCOL_VERSION,
            abi: shm::ABI_MAJOR,
            layout: numbers.and_then(|numbers| numbers.layout().hash().ok()),
            snapshot: snapshot::FORMAT,
            snapshot_oldest: snapshot::FORMAT_OLDEST,
        }
    }
}

/// What decides an arena's layout beside the program: `LIMIT:SLOTS:AUX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ArenaNumbers {
    pub(crate) limit: u64,
    pub(crate) slots: u16,
    pub(crate) aux: u16,
}

impl ArenaNumbers {
    /// As this program lays it out.
    pub(crate) fn layout(self) -> Layout {
        Layout::new(self.limit, self.slots, self.aux, tables::TABLES)
    }
}

impl std::fmt::Display for ArenaNumbers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.limit, self.slots, self.aux)
    }
}

impl std::str::FromStr for ArenaNumbers {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split(':').collect();
        let &[limit, slots, aux] = parts.as_slice() else {
            return Err("write LIMIT:SLOTS:AUX");
        };
        match (limit.parse(), slots.parse(), aux.parse()) {
            (Ok(limit), Ok(slots), Ok(aux)) => Ok(Self { limit, slots, aux }),
            _ => Err("write LIMIT:SLOTS:AUX, all numbers"),
        }
    }
}

pub(crate) fn about(as_json: bool, numbers: Option<ArenaNumbers>) -> ExitCode {
    let about = About::of_us(numbers);
    if as_json {
        json(&about);
        return ExitCode::SUCCESS;
    }
    error(
        "`tandem about` is for programs",
        "add --json, or ask for `tandem --version`",
    );
    ExitCode::from(FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_written() {
        let numbers = ArenaNumbers {
            limit: 64 << 20,
            slots: 2,
            aux: 4,
        };
        assert_eq!(numbers.to_string().parse(), Ok(numbers));
        for wrong in ["", "1:2", "1:2:x", "1:2:3:4", "1:70000:3"] {
            assert!(wrong.parse::<ArenaNumbers>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn another_release_can_read_it() {
        let numbers = ArenaNumbers {
            limit: 64 << 20,
            slots: 2,
            aux: 4,
        };
        let ours = About::of_us(Some(numbers));
        assert!(ours.layout.is_some());
        let mut json = serde_json::to_value(&ours).unwrap();
        json["something_new"] = true.into();
        assert_eq!(serde_json::from_value::<About>(json.clone()).unwrap(), ours);
        let fields = json.as_object_mut().unwrap();
        fields.retain(|name, _| !name.starts_with("snapshot"));
        let before = serde_json::from_value::<About>(json).unwrap();
        assert_eq!((before.snapshot, before.snapshot_oldest), (1, 1));
        let too_small = ArenaNumbers {
            limit: 1,
            ..numbers
        };
        assert_eq!(About::of_us(Some(too_small)).layout, None);
    }
}
