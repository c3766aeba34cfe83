//! The programs that processes are started from, each held open.

use std::collections::BTreeMap;

use os::Executable;

use super::fleet::Image;
use super::trouble::Trouble;
use crate::about::VERSION;

#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) executable: Executable,
    pub(crate) version: String,
}

#[derive(Debug)]
pub(crate) struct Images {
    programs: BTreeMap<Image, Program>,
    next: u32,
}

impl Images {
    /// What this process runs is [`Image`] 0.
    pub(crate) fn of_ourselves() -> Result<Self, Trouble> {
        let executable = Executable::ourselves().map_err(|error| {
            Trouble::new(
                format!("this program's own file can't be opened: {error}"),
                "the server needs /proc mounted",
            )
        })?;
        let ours = Program {
            executable,
            version: VERSION.to_owned(),
        };
        Ok(Self {
            programs: BTreeMap::from([(Image(0), ours)]),
            next: 1,
        })
    }

    pub(crate) fn add(&mut self, program: Program) -> Image {
        let image = Image(self.next);
        self.next += 1;
        self.programs.insert(image, program);
        image
    }

    pub(crate) fn get(&self, image: Image) -> Option<&Program> {
        self.programs.get(&image)
    }

    /// Nothing is started from it any more.
    pub(crate) fn forget(&mut self, image: Image) {
        self.programs.remove(&image);
    }
}
