//! The `location` table: an AOR's whole binding set is one immutable body, so that a REGISTER is all or nothing (RFC 3261 §10.3).

use failpoint::failpoint;
use registrar::{BindingSet, BindingsView};
use shm::{InsertError, Participant, ReplaceError, RowMeta};

use crate::LOCATION;

/// Attempts before an update gives up: each failure means that somebody else's update of the same AOR went through.
const ATTEMPTS_MAX: usize = 64;

/// Why a binding set could not be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    #[error("no memory for a new address-of-record")]
    Full,
    #[error("the address-of-record is being changed too often")]
    Busy,
}

/// The `location` table through one participant.
pub struct Location<'p>(pub &'p mut Participant);

impl Location<'_> {
    /// Looks at an AOR's bindings, expired ones included; `None` if it has no row.
    pub fn lookup<R>(&self, aor: &[u8], look: impl FnOnce(BindingsView<'_>) -> R) -> Option<R> {
        // A body that does not decode was not written by us: it counts as no row.
        self.0
            .find(LOCATION, aor, |record| {
                BindingsView::new(record.payload).ok().map(look)
            })
            .flatten()
    }

    /// Changes an AOR's bindings: `change` looks at the encoded set (empty without a row) and says whether the set that it has written
    /// into `body` takes its place. It is called again if somebody else was quicker.
    pub fn update<R>(
        &mut self,
        aor: &[u8],
        body: &mut Vec<u8>,
        mut change: impl FnMut(&BindingsView<'_>, &mut Vec<u8>) -> (bool, R),
    ) -> Result<R, UpdateError> {
        for _ in 0..ATTEMPTS_MAX {
            body.clear();
            let found = self.0.find(LOCATION, aor, |record| {
                // A body that does not decode was not written by us: it is replaced as if it were empty.
                let current = BindingsView::new(record.payload).unwrap_or(BindingsView::EMPTY);
                let (store, result) = change(&current, body);
                (Some((record.row, record.version)), store, result)
            });
            let (place, store, result) = match found {
                Some(found) => found,
                None => {
                    let (store, result) = change(&BindingsView::EMPTY, body);
                    (None, store, result)
                }
            };
            if !store {
                return Ok(result);
            }
            failpoint!("tables.broken.update", Ok(result));
            let next = BindingsView::just_written(body);
            let meta = RowMeta {
                expires_at: next.expires_at(),
                flags: u8::try_from(next.len()).unwrap_or(u8::MAX),
            };
            let done = match place {
                Some((row, version)) if next.is_empty() => self.0.remove(row, Some(version)),
                None if next.is_empty() => true,
                Some((row, version)) => match self.0.replace(row, version, &[body], &[], meta) {
                    Ok(_) => true,
                    Err(ReplaceError::Changed | ReplaceError::Gone) => false,
                    Err(_) => return Err(UpdateError::Full),
                },
                None => match self.0.insert(LOCATION, aor, &[body], &[], meta) {
                    Ok(_) => true,
                    Err(InsertError::Exists { .. } | InsertError::Stale) => false,
                    Err(_) => return Err(UpdateError::Full),
                },
            };
            if done {
                return Ok(result);
            }
        }
        Err(UpdateError::Busy)
    }

    /// [`Location::update`] for operators: the set as a list; `None` leaves it.
    pub fn change<R>(
        &mut self,
        aor: &[u8],
        mut change: impl FnMut(BindingSet) -> (Option<BindingSet>, R),
    ) -> Result<R, UpdateError> {
        self.update(aor, &mut Vec::new(), |current, body| {
            let (next, result) = change(BindingSet::of(current));
            if let Some(next) = &next {
                next.encode(body);
            }
            (next.is_some(), result)
        })
    }
}
