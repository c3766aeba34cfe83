//! Every counter of the server, with the words that `tandem stats` shows.
//!
//! A counter is a cell per slot in the arena, written only by that slot's owner, so it costs one plain store and survives
//! its worker. Readers add the cells up.

macro_rules! counters {
    ($($variant:ident $name:literal $description:literal,)*) => {
        /// A counter. The discriminant is its cell; new ones go to the end, so that workers of two releases agree.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Counter { $(#[doc = $description] $variant,)* }

        impl Counter {
            /// Every counter, by cell.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in `tandem stats`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What is counted.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $description,)* }
            }

            /// The index of its cell.
            pub const fn cell(self) -> u8 {
                self as u8
            }
        }
    };
}

counters! {
    Received "messages.received" "datagrams taken from sockets",
    Sent "messages.sent" "datagrams given to the kernel",
    Requests "messages.requests" "well-formed requests",
    Responses "messages.responses" "well-formed responses",
    KeepAlives "messages.keep_alives" "datagrams of CR, LF and NUL only, or empty (RFC 5626 section 3.5.1)",
    Malformed "messages.malformed" "datagrams that are no SIP message; no answer was possible",
    BadRequest "rejected.bad_request" "requests answered 400: broken syntax or missing headers",
    BadVersion "rejected.bad_version" "requests answered 505: not SIP/2.0",
    TooLarge "rejected.too_large" "requests answered 513: larger than a receive buffer",
    TooManyHops "rejected.too_many_hops" "requests answered 483: Max-Forwards used up (RFC 3261 section 16.3)",
    BadExtension "rejected.bad_extension" "requests answered 420: Proxy-Require or Require names an extension that we lack",
    Loop "rejected.loop" "requests answered 482: the request has been here before, unchanged (RFC 5393)",
    Unauthorized "rejected.unauthorized" "requests answered 401 or 407: credentials wanted",
    Forbidden "rejected.forbidden" "requests answered 403 by policy or with wrong credentials",
    NotFound "rejected.not_found" "requests answered 404: no such domain or user here",
    Unavailable "rejected.unavailable" "requests answered 480: no current binding",
    Full "rejected.full" "requests answered 503 because a table is full",
    RejectedByRoute "rejected.by_route" "requests answered with the code of a reject rule",
    Unroutable "rejected.unroutable" "requests answered because no next hop could be found",
    Forwarded "proxy.forwarded" "requests forwarded by a transaction, one for each branch",
    ForwardedStateless "proxy.forwarded_stateless" "requests forwarded without a transaction: ACK to a 2xx, and within a dialog when memory is full",
    RequestRetransmitted "proxy.request_retransmitted" "requests sent again by Timer A or E",
    ResponseRetransmitted "proxy.response_retransmitted" "responses sent again: request retransmitted, or Timer G",
    RequestAbsorbed "proxy.request_absorbed" "retransmitted requests and ACKs that ended at a transaction",
    ResponseForwarded "proxy.response_forwarded" "responses passed upstream by a transaction",
    ResponseStateless "proxy.response_stateless" "responses passed upstream by Via alone: their transaction is gone",
    ResponseForeign "proxy.response_foreign" "responses dropped: the top Via is not ours",
    ResponseAbsorbed "proxy.response_absorbed" "retransmitted responses that ended at a transaction",
    AckUnmatched "proxy.ack_unmatched" "ACKs dropped: no transaction and no route",
    CancelUnmatched "proxy.cancel_unmatched" "CANCELs answered 481: no such transaction",
    Cancelled "proxy.cancelled" "branches that we cancelled",
    BranchTimeout "proxy.branch_timeout" "branches ended by Timer B, F or C",
    NoAck "proxy.no_ack" "final responses to INVITE that nobody acknowledged (Timer H)",
    TransactionsCreated "transactions.created" "transaction records published",
    TransactionsEnded "transactions.ended" "transaction records removed",
    TransactionsAdopted "transactions.adopted" "transaction records taken over from a dead worker",
    TransactionsBroken "transactions.broken" "transaction records that could not be read and were dropped",
    CommitFailed "transactions.commit_failed" "changes to a transaction that found no memory; kept on the heap only",
    Registered "registrar.updated" "REGISTERs that changed bindings",
    RegisterQueried "registrar.queried" "REGISTERs that changed nothing: queries and retransmissions",
    RegisterRefused "registrar.refused" "REGISTERs answered with an error",
    BindingsExpired "registrar.expired" "address-of-record rows removed because their last binding expired",
    MailSent "slots.mail_sent" "messages handed to the slot that owns their transaction",
    MailReceived "slots.mail_received" "messages taken from other slots",
    Replayed "slots.replayed" "messages served again or for the first time after a worker's death",
    Poisoned "slots.poisoned" "messages dropped because workers died of them twice",
    Starved "transport.starved" "times that every receive buffer of a slot was in use",
    ReceiveFailed "transport.receive_failed" "errors of a socket while reading",
    SendFailed "transport.send_failed" "datagrams that the kernel refused",
    AnswerStale "questions.stale" "answers that came after their request had ended",
    AnsweredHere "messages.answered_here" "requests for the server itself answered 200 (OPTIONS)",
    ReplySuppressed "messages.reply_suppressed" "replies not sent because no address could be derived",
    TooBroad "rejected.too_broad" "requests answered 440: more branches at the same moment than Max-Breadth allows (RFC 5393)",
    DialogsExpired "dialogs.expired" "dialogs removed because nobody answered, refreshed or ended them in time",
    KvExpired "kv.expired" "key-value pairs removed because they expired",
    ConnectionsExpired "connections.expired" "connections removed because nothing happened on them",
    QuarantineExpired "quarantine.expired" "quarantined messages that are let through again",
    SnapshotsTaken "snapshot.taken" "snapshots that are on the disk",
    SnapshotsSkipped "snapshot.skipped" "snapshots not taken, since nothing had happened",
    SnapshotsFailed "snapshot.failed" "snapshots that could not be taken",
    SnapshotsRefused "snapshot.refused" "snapshots that were torn or not ours at the start, and were set aside",
    RecordsRestored "snapshot.restored" "records that came back from the snapshot at the start",
    RecordsExpired "snapshot.expired" "records of the snapshot that had expired by the start",
    RecordsNotRestored "snapshot.not_restored" "records of the snapshot that could not be read, or had no room",
    HopFailed "proxy.hop_failed" "hops given up for the next one of the same target: silent, unreachable, or by their own answer",
    NextTargets "proxy.next_targets" "groups of less preferred targets tried after those before them had failed",
    Redirected "proxy.redirected" "redirections followed by the proxy itself, one for each response",
    AuthSucceeded "auth.succeeded" "requests whose credentials were right",
    AuthFailed "auth.failed" "requests whose credentials were wrong: no such user, or not this password",
    AuthStale "auth.stale" "requests challenged anew because their nonce was too old",
    AuthReplayed "auth.replayed" "requests challenged anew because their nonce count had been used by another request",
    AuthForgotten "auth.forgotten" "requests challenged anew because newer nonces have taken the memory for theirs",
    AuthMalformed "auth.malformed" "requests answered 400 because of their credentials: broken, or made for another Request-URI",
    AuthBanned "auth.banned" "addresses, and users at an address, that failed so often that they are refused for a while",
    AuthRefused "auth.refused" "requests refused because of earlier failures of their address, or of their user there",
    DroppedByKernel "messages.dropped_by_kernel" "datagrams that the kernel dropped: the socket's buffer was full, or the filter of overload said so",
    OverloadRefused "overload.refused" "requests answered 503 with Retry-After because the slot could take no more, or their source too many",
    OverloadDropped "overload.dropped" "requests dropped unanswered because not even refusing them was possible",
    CopiesWithheld "overload.copies_withheld" "retransmissions of requests left out while the slot could take no more",
    DnsResolutions "dns.resolutions" "names of next hops that were looked up (RFC 3263)",
    DnsCached "dns.cached" "names of next hops known without asking a name server: hosts file or cache",
    DnsQueries "dns.queries" "questions sent to name servers, repetitions included",
    DnsStreams "dns.tcp" "questions sent to name servers by TCP: the answer by UDP was cut, or its letters were changed",
    DnsAnswers "dns.answers" "answers of name servers that fit a question",
    DnsMismatched "dns.mismatched" "datagrams of name servers, or in their name, that fit no question",
    DnsTimeouts "dns.timeouts" "questions that a name server left unanswered for `dns.timeout`",
    DnsStale "dns.stale" "answers used beyond their time because no name server answered (RFC 8767)",
    DnsNotFound "dns.not_found" "next hops without an address that a listener could reach",
    DnsFailed "dns.failed" "next hops not found because no name server could tell in time",
    DnsTransport "dns.transport" "next hops that only other transports than UDP lead to",
    DnsRefused "dns.refused" "next hops not looked up because `dns.pending_max` look-ups were under way",
    DnsBlacklisted "dns.blacklisted" "addresses of next hops that did not answer and are tried last for `dns.blacklist`",
    DnsOverShare "dns.over_share" "those of `dns.refused` whose source had as many look-ups under way as were free",
    HopTooLarge "proxy.too_large" "requests not sent to a hop because they were longer than `proxy.udp_request_max`, or than the way there takes",
    MediaQuestions "media.questions" "questions to media engines: offers, answers and deletes",
    MediaRepeated "media.repeated" "questions to media engines sent again for the lack of an answer",
    MediaRefused "media.refused" "questions that a media engine answered with an error, or with its load limit",
    MediaSilent "media.silent" "questions that no media engine answered within `media.timeout`",
    MediaNoEngine "media.no_engine" "questions not asked because no media engine that may have them is up",
    MediaBusy "media.busy" "questions not asked because too many waited for an answer",
    MediaMoved "media.moved" "offers that another media engine got for the lack of an answer",
    MediaMismatched "media.mismatched" "datagrams of media engines, or in their name, that fit no question",
    MediaDown "media.down" "media engines that a slot found down",
    MediaRejected "media.rejected" "messages refused, or robbed of their SDP, because no media engine could be had for it",
    MediaPassed "media.passed" "messages passed on with their SDP as it came because no media engine could be had for it",
    MediaFreed "media.freed" "calls whose media engine has said that it freed what it had for them",
    MediaAbandoned "media.abandoned" "calls whose media engine could not be told that they are over; its own time-outs end them there",
    DialogsCreated "dialogs.created" "calls begun: dialogs recorded with their INVITE",
    DialogsConfirmed "dialogs.confirmed" "dialogs confirmed by a 2xx, those of forks included",
    DialogsEnded "dialogs.ended" "dialogs ended, for whatever reason",
    DialogsRefused "dialogs.refused" "calls refused because a domain, user or profile was at its limit",
    ForksRefused "dialogs.forks_refused" "2xx not passed on because their INVITE had made as many further dialogs as it may",
    DialogsUntracked "dialogs.untracked" "requests within a dialog of ours whose record is gone; passed on by their Route set",
    DialogsAstray "dialogs.astray" "BYE, re-INVITE, UPDATE and ACK whose Request-URI or Route set did not lead to the other party, and that were sent there by the call's record",
    DialogsProbed "dialogs.probed" "OPTIONS sent within dialogs, to see whether the party is still there",
    DialogsByes "dialogs.byes" "BYEs of our own, to end calls by the operator or by time",
    DestinationsFull "balancer.full" "destinations passed over because they were at their limit",
    SeatsLost "balancer.seats_lost" "seats found without their call and given back",
    SessionsTooSmall "sessions.too_small" "requests answered 422: Session-Expires below the minimum (RFC 4028)",
    CdrsMade "cdr.made" "records of calls made",
    CdrsWritten "cdr.written" "records of calls written and on the disk",
    CdrsLost "cdr.lost" "records of calls that found no room in memory, and are lost",
    CdrsFailed "cdr.failed" "attempts to write records of calls that failed; they are repeated",
    ProbesSent "destinations.probes" "probes of destinations of groups, repetitions not included",
    ProbesFailed "destinations.probes_failed" "probes that were not answered in time, or not as `probe.codes` wants it",
    DestinationsDown "destinations.down" "times that a destination went down",
    DestinationsUp "destinations.up" "times that a destination came up again",
    GroupFull "destinations.group_full" "requests answered 503 because all destinations of their group that were up were full",
    GroupDown "destinations.group_down" "requests answered 503 because no destination of their group was up and enabled",
    HiddenLost "topology.lost" "requests within hidden calls answered 481: the record that they name is gone, or they are forged",
    HiddenSpoilt "topology.spoilt" "messages of hidden calls not passed on: they could not be hidden, mostly for their length",
    KeepAlivesSent "nat.keepalives" "datagrams sent to keep the way to a phone open",
    KeepAlivesAnswered "nat.keepalives_answered" "answers to those that were requests",
    KeepAlivesGivenUp "nat.keepalives_given_up" "bindings removed because `nat.keepalive_failures` of those in a row had no answer",
}

#[cfg(test)]
mod tests {
    use super::Counter;

    #[test]
    fn names_are_unique_and_cells_dense() {
        for (cell, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(usize::from(counter.cell()), cell);
            assert!(!counter.description().is_empty());
            assert_eq!(
                Counter::ALL
                    .iter()
                    .filter(|other| other.name() == counter.name())
                    .count(),
                1,
                "{}",
                counter.name()
            );
        }
    }
}
