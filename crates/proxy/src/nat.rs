//! Requests within a call to a party behind address translation: its Contact, and so their Request-URI, names an address that means nothing here. They
//! go to where its own messages came from, as the call's record has it.

use registrar::{NatRule, is_private};
use sip::uri::Uri;
use tables::{Dialogs, dialog::Sender};

use crate::{
    ask::Target,
    call::place,
    registration::uri_of_address,
    route::{NextHop, next_hop},
    step::{Hand, Step},
};

impl Step<'_, '_> {
    /// Leads a request to the party itself, and not to where it says that it is, if that is private and what it sends is not from a private network.
    pub(crate) fn through_nat(&mut self, hand: &Hand<'_>, mut target: Target) -> Target {
        if self.settings.registrar.nat == NatRule::Off {
            return target;
        }
        if let Some(to) = self.party_behind_nat(hand, &target) {
            target.next_hop = Some(to);
        }
        target
    }

    fn party_behind_nat(&mut self, hand: &Hand<'_>, target: &Target) -> Option<Vec<u8>> {
        let message = &hand.message;
        let place = hand
            .intake
            .route
            .place
            .filter(|&place| place != place::NOWHERE)?;
        // Whoever is behind another proxy is that one's business: then the next hop is not what the Request-URI names.
        let NextHop::Address(named) = next_hop(message, &hand.intake.route, target) else {
            return None;
        };
        let text = target.uri.as_deref().unwrap_or(message.request()?.uri);
        let host = Uri::parse(text).ok()?.host?;
        let is_named = match host {
            sip::uri::Host::V4(ip) => named.ip() == ip,
            sip::uri::Host::V6(ip) => named.ip() == ip,
            sip::uri::Host::Name(_) => false,
        };
        if !is_named || !is_private(named.ip()) {
            return None;
        }
        let (from, to) = (message.from().ok()?, message.to().ok()?);
        let tags = (from.tag().unwrap_or_default(), to.tag().unwrap_or_default());
        let call_id = message.call_id().ok()?;
        let dialogs = Dialogs(self.env.arena);
        let found = dialogs.at_place(
            place,
            call_id,
            tags.0,
            tags.1,
            |view, sender| match sender {
                Sender::Caller => view.header.callee_address.get(),
                Sender::Callee => view.header.caller_address.get(),
            },
        );
        let address = found
            .flatten()
            .filter(|address| !is_private(address.ip()))?;
        Some(uri_of_address(address))
    }
}
