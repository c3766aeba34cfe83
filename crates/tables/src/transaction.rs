//! The header of a `transaction` row. What follows it is `proxy`'s (`proxy::persist`): the context that an heir goes on with, with the stored messages as children.
//!
//! ```text
//! key = server transaction key (RFC 3261 §17.2.3) | payload = TransactionRow, then the context
//! ```
//!
//! Reserved before the first branch is made, because branches name the row; published before the first message is sent; changed by its owner slot once a turn; removed by
//! it when the last machine has ended. *Full*: a new request is refused with 503; changes go on, from what is kept back for them.

use zerocopy::little_endian::{U16, U32, U64};

use crate::row::row;

row! {
    /// The header of a transaction; `kind` is its stage.
    pub struct TransactionRow: version 2, 36 bytes {
        /// What the proxy tells apart: INVITE, ACK, others.
        pub method: u8,
        /// Bits of `proxy::persist`.
        pub flags: u8,
        /// The last number that a question got.
        pub asked: U16,
        /// The listener that the request came in by.
        pub listener: U32,
        /// The owner's turn that changed it last.
        pub turn: U64,
        /// Hash of what a retransmission repeats.
        pub fold: U64,
        /// When 100 Trying is due.
        pub trying_at: U64,
    }
}
