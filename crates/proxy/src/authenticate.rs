//! Who asks: challenges (§22), answers to them, and those who answered wrong too often.
//!
//! 1. Whose address or whose name at this address has failed too often is refused, before anything is computed for it (`tables::Attempts`).
//! 2. Without usable credentials of a nonce of ours there is a challenge.
//! 3. The outside is asked for the account, the digest verified: the same work whether or not there is such a user.
//! 4. The nonce's use is noted in the arena, for all slots (`tables::Nonces`). One that was used before gets a new challenge, with `stale`, since
//!    the password is right; the same request once more, as a retransmission or after its worker's death, goes on as before.

use std::net::IpAddr;

use auth::Algorithms;
use stdx::{Instant, hash::hash64, text::write_decimal};
use tables::{Attempts, Counter, Nonces, nonces::Used};

use crate::{
    account::Account,
    ask::AskKind,
    context::{Context, Stage},
    digest::{self, Checked, Presented},
    io::Note,
    settings::Throttle,
    step::{Hand, Step},
};

impl Step<'_, '_> {
    pub(crate) fn authenticate(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        realm: Vec<u8>,
        also: Algorithms,
    ) {
        let (key, now) = (self.key, self.env.now);
        if self.is_refused(context, hand, self.source_key(context)) {
            return;
        }
        match digest::present(hand.raw(), &realm, &self.settings, key, now) {
            Presented::Usable(found, _) => {
                let user = digest::plain(found.username);
                let user_key = self.user_key(context, &realm, &user);
                if self.is_refused(context, hand, user_key) {
                    return;
                }
                context.stage = Stage::Credentials;
                context.realm = realm;
                context.offers = also;
                self.touch(context);
                self.ask(context, AskKind::Credentials);
            }
            Presented::None => self.challenge(context, hand, &realm, also, false),
            Presented::Stale => {
                self.env.count(Counter::AuthStale);
                self.challenge(context, hand, &realm, also, true);
            }
            Presented::OtherUri | Presented::Malformed => {
                self.env.count(Counter::AuthMalformed);
                self.end_with(context, hand, 400, Counter::BadRequest, b"");
            }
        }
    }

    fn challenge(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        realm: &[u8],
        also: Algorithms,
        stale: bool,
    ) {
        let (code, headers) = digest::challenge(
            hand,
            realm,
            also,
            &self.settings,
            self.key,
            self.env.now,
            stale,
        );
        self.end_with(context, hand, code, Counter::Unauthorized, &headers);
    }

    pub(crate) fn on_credentials(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        account: Option<&Account>,
    ) {
        let (key, now, also) = (self.key, self.env.now, context.offers);
        let realm = std::mem::take(&mut context.realm);
        let presented = digest::present(hand.raw(), &realm, &self.settings, key, now);
        let Presented::Usable(found, made) = presented else {
            // The answer was so late that the nonce is not fresh any more.
            self.env.count(Counter::AuthStale);
            return self.challenge(context, hand, &realm, also, true);
        };
        let user = digest::plain(found.username);
        match digest::check(hand.raw(), &found, &realm, account) {
            Checked::Wrong => {
                self.on_wrong_password(context, &realm, &user);
                self.challenge(context, hand, &realm, also, false);
            }
            checked => {
                // Without `qop` there is no count: such a nonce is good for one request.
                let count = found.count().unwrap_or(1);
                let request = digest::fingerprint(key, context, hand.raw());
                let nonces = Nonces::of(self.env.arena.board());
                let used = nonces.take(now, made.millis, made.hash, count, request);
                let counter = match used {
                    Used::Now | Used::Again => Counter::AuthSucceeded,
                    Used::Before => Counter::AuthReplayed,
                    Used::Unknown => Counter::AuthForgotten,
                };
                self.env.count(counter);
                if self.settings.auth.throttle.is_some() {
                    let user_key = self.user_key(context, &realm, &user);
                    Attempts::of(self.env.arena.board()).succeeded(now, user_key);
                }
                match (used, checked) {
                    (Used::Before | Used::Unknown, _) => {
                        self.challenge(context, hand, &realm, also, true)
                    }
                    (_, Checked::Good) => self.ask_route(context, hand),
                    (_, Checked::Foreign | Checked::Wrong) => {
                        self.refuse_found(context, hand, 403, Counter::Forbidden)
                    }
                }
            }
        }
    }

    /// Counts a failure of this address, and of this user there: somebody else's failures elsewhere are never a user's own.
    fn on_wrong_password(&mut self, context: &Context, realm: &[u8], user: &[u8]) {
        self.env.count(Counter::AuthFailed);
        let Some(throttle) = self.settings.auth.throttle else {
            return;
        };
        let (now, source) = (self.env.now, context.source.ip());
        let keys = [
            (self.user_key(context, realm, user), throttle.of_user()),
            (self.source_key(context), throttle.of_address()),
        ];
        for (place, (key, limit)) in keys.into_iter().enumerate() {
            if limit.failures > 0 && Attempts::of(self.env.arena.board()).failed(now, key, &limit) {
                self.env.count(Counter::AuthBanned);
                self.out.notes.push(Note::Banned {
                    source,
                    user: (place == 0).then(|| [user, b"@", realm].concat()),
                    ban: throttle.ban,
                });
            }
        }
    }

    /// Whether this one is refused at the moment; then the request has ended.
    fn is_refused(&mut self, context: &mut Context, hand: &Hand<'_>, key: u64) -> bool {
        let Some(Throttle { silent, .. }) = self.settings.auth.throttle else {
            return false;
        };
        let now: Instant = self.env.now;
        let Some(left) = Attempts::of(self.env.arena.board()).refused(now, key) else {
            return false;
        };
        if silent {
            self.env.count(Counter::AuthRefused);
            self.end_silently(context);
        } else {
            let mut headers = b"Retry-After: ".to_vec();
            write_decimal(left.as_secs(), &mut headers);
            headers.extend_from_slice(b"\r\n");
            self.end_with(context, hand, 403, Counter::AuthRefused, &headers);
        }
        true
    }

    /// Who is behind an address: of IPv6 the network that a customer gets.
    fn source_key(&self, context: &Context) -> u64 {
        match context.source.ip() {
            IpAddr::V4(ip) => hash64(self.key, &[b"failed", &ip.octets()]),
            IpAddr::V6(ip) => {
                let network = ip.octets();
                let network = network.get(..8).unwrap_or_default();
                hash64(self.key, &[b"failed", network])
            }
        }
    }

    fn user_key(&self, context: &Context, realm: &[u8], user: &[u8]) -> u64 {
        let source = self.source_key(context).to_le_bytes();
        let name = digest::local_name(user, realm).unwrap_or(user);
        hash64(self.key, &[b"failed", &source, realm, name])
    }
}
