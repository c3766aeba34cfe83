//! What one resolution knows and what it waits for: a few questions, so that a list is the smallest and fastest map.

use crate::{cache::Known, wire::Question};

/// The questions of a resolution; `None`: asked, and not answered yet.
#[derive(Debug, Default)]
pub(crate) struct Facts(Vec<(Question, Option<Known>)>);

impl Facts {
    pub(crate) fn get(&self, question: &Question) -> Option<&Known> {
        let mut all = self.0.iter();
        all.find(|(of, _)| of == question)?.1.as_ref()
    }

    /// Asked, and not answered yet.
    pub(crate) fn awaits(&self, question: &Question) -> bool {
        self.0
            .iter()
            .any(|(of, known)| known.is_none() && of == question)
    }

    pub(crate) fn wait(&mut self, question: &Question) {
        self.put(question, None);
    }

    pub(crate) fn learn(&mut self, question: &Question, known: Known) {
        self.put(question, Some(known));
    }

    fn put(&mut self, question: &Question, known: Option<Known>) {
        match self.0.iter_mut().find(|(of, _)| of == question) {
            Some((_, old)) => *old = known,
            None => {
                // Most ask one or two: no room for four.
                self.0.reserve_exact(1);
                self.0.push((question.clone(), known));
            }
        }
    }

    /// All that is known.
    pub(crate) fn known(&self) -> impl Iterator<Item = &Known> {
        self.0.iter().filter_map(|(_, known)| known.as_ref())
    }
}
