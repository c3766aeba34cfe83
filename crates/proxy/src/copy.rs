//! The request as it goes to one target (§16.6 steps 1 to 8).

use std::{io::Write, net::SocketAddr};

use sip::{HeaderName, Patch, PatchError};

use crate::{
    addresses::Interface,
    alias,
    ask::Target,
    branch::Branch,
    call::{CallRef, place},
    digest,
    hidden::Hidden,
    intake,
    route::{self, StrictRoutes},
    step::{Hand, Step},
};

/// Max-Forwards of a request that has none (§16.6 step 3).
const MAX_FORWARDS: &[u8] = b"70";
/// Longest Via or Record-Route value of ours. The configuration's check excludes a host that does not fit.
pub(crate) const VALUE_BYTES_MAX: usize = 400;

/// Where one copy of a request goes.
#[derive(Clone, Copy)]
pub(crate) struct Copy<'c> {
    pub(crate) target: &'c Target,
    /// What to send by, and what the request came in by.
    pub(crate) listener: Interface,
    pub(crate) came_in_by: Interface,
    pub(crate) branch: Branch,
    /// Max-Breadth, where it changes (RFC 5393 §5.3.3).
    pub(crate) breadth: Option<usize>,
    /// The call on record that it belongs to.
    pub(crate) call: Option<CallRef>,
    pub(crate) hidden: Option<Hidden>,
    /// The request is kept until it is answered.
    pub(crate) kept: bool,
    /// Where it came from.
    pub(crate) source: SocketAddr,
}

/// Why there is no copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CopyError {
    #[error(transparent)]
    Patch(#[from] PatchError),
    #[error(transparent)]
    Hide(#[from] topology::HideError),
}

impl Step<'_, '_> {
    /// Appends the copy to the outputs; after an error a part of it may be there.
    pub(crate) fn write_copy(&mut self, hand: &Hand<'_>, copy: &Copy<'_>) -> Result<(), CopyError> {
        let start = self.out.bytes.len();
        let mut patch = Patch::reusing(hand.message, std::mem::take(&mut self.room.patch));
        let result = self.patch_copy(&mut patch, hand, copy);
        if result.is_ok() {
            patch.write(&mut self.out.bytes);
        }
        self.room.patch = patch.into_space();
        result?;
        self.hide_copy(start, hand, copy)?;
        Ok(())
    }

    fn patch_copy(
        &self,
        patch: &mut Patch<'_>,
        hand: &Hand<'_>,
        copy: &Copy<'_>,
    ) -> Result<(), PatchError> {
        let (message, target, info) = (&hand.message, copy.target, &hand.intake.route);
        let request_uri = message.request().map_or(&b""[..], |line| line.uri);
        // Steps 2 and 6.
        if info.strict_before || route::is_strict(message, info, target) {
            let routes = StrictRoutes::of(message, info, target, request_uri);
            patch.remove_all(HeaderName::Route)?;
            if !routes.rest.is_empty() {
                patch.push_top(HeaderName::Route, &routes.rest)?;
            }
            patch.set_request_uri(&routes.uri)?;
        } else {
            if target.whole {
                patch.remove_all(HeaderName::Route)?;
            } else {
                for _ in 0..info.ours {
                    patch.remove_first_value(HeaderName::Route)?;
                }
            }
            // RFC 3327 §5.3: the Path of a binding is its Route set.
            if let Some(path) = target.path.as_ref().filter(|path| !path.is_empty()) {
                patch.push_top(HeaderName::Route, path)?;
            }
            if let Some(uri) = &target.uri {
                patch.set_request_uri(uri)?;
            }
        }
        // Step 3.
        match (
            message.first(HeaderName::MaxForwards),
            hand.intake.max_forwards,
        ) {
            (Some(header), Some(hops)) => {
                let mut text = [0; 3];
                let text = gathered(&mut text, |out| write!(out, "{}", hops.saturating_sub(1)));
                patch.replace_value(header.value_span, text)?;
            }
            _ => patch.append(HeaderName::MaxForwards, MAX_FORWARDS)?,
        }
        if let Some(breadth) = copy.breadth {
            let mut text = [0; 20];
            let text = gathered(&mut text, |out| write!(out, "{breadth}"));
            patch.set(HeaderName::MaxBreadth, text)?;
        }
        if message.has(HeaderName::ProxyAuthorization) {
            digest::take_credentials(patch, &self.settings)?;
        }
        // Step 4.
        let hides = copy.hidden.is_some_and(|hidden| hidden.initial);
        if hand.intake.record_route || hides && intake::may_begin_dialog(message) {
            self.push_record_route(patch, message, copy)?;
        }
        if let Some(call) = &copy.call {
            Self::patch_request(call, patch, message)?;
            if call.role.is_own() {
                // It has come from nowhere.
                patch.remove_all(HeaderName::Via)?;
            }
        }
        let behind_nat = Some(copy.source)
            .filter(|&source| alias::is_needed(self.settings.registrar.nat, message, source));
        if let (Some(source), Some(contact)) =
            (behind_nat, message.first_value(HeaderName::Contact))
            && let Some(aliased) = alias::with_alias(contact.value, source)
        {
            patch.replace_value(contact.span, &aliased)?;
        }
        // §18.2.1 for the Via that came, then step 8.
        let own = copy.call.is_some_and(|call| call.role.is_own());
        if let (Some(via), Some(value), false) =
            (&hand.way.via, message.first_value(HeaderName::Via), own)
        {
            patch.replace_value(value.span, via)?;
        }
        let mut via = [0; VALUE_BYTES_MAX];
        let via = gathered(&mut via, |out| {
            out.write_all(b"SIP/2.0/UDP ")?;
            self.write_sent_by(copy.listener, out)?;
            out.write_all(b";branch=")?;
            out.write_all(&copy.branch.encode(self.key))
        });
        patch.push_top(HeaderName::Via, via)
    }

    /// Two values where the sides differ, so that each side sees the address that it can reach.
    fn push_record_route(
        &self,
        patch: &mut Patch<'_>,
        message: &sip::Message<'_>,
        copy: &Copy<'_>,
    ) -> Result<(), PatchError> {
        let call_id = message.call_id().unwrap_or_default();
        let place = copy.call.map_or(place::NOWHERE, |call| call.place);
        let upstream =
            Some(copy.came_in_by).filter(|&other| self.settings.differ(other, copy.listener));
        for listener in upstream.into_iter().chain([copy.listener]) {
            let mut value = [0; VALUE_BYTES_MAX];
            let value = gathered(&mut value, |out| {
                out.write_all(b"<sip:")?;
                self.write_sent_by(listener, out)?;
                out.write_all(b";lr;")?;
                out.write_all(place::PARAM)?;
                out.write_all(b"=")?;
                place::write(&self.settings.dialog_key, call_id, place, out)?;
                out.write_all(b">")
            });
            patch.push_top(HeaderName::RecordRoute, value)?;
        }
        Ok(())
    }

    pub(crate) fn write_sent_by(&self, by: Interface, out: &mut &mut [u8]) -> std::io::Result<()> {
        self.settings.write_sent_by(by, out)
    }
}

/// What `write` writes into the room given; cut where that ends.
pub(crate) fn gathered(
    room: &mut [u8],
    write: impl FnOnce(&mut &mut [u8]) -> std::io::Result<()>,
) -> &[u8] {
    let whole = room.len();
    let mut rest = &mut *room;
    // Only a lack of room can fail.
    let _ = write(&mut rest);
    let left = rest.len();
    room.get(..whole.saturating_sub(left)).unwrap_or_default()
}
