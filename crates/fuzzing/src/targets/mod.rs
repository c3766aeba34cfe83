//! One file for each target.

pub(crate) mod headers;
pub(crate) mod media;
pub(crate) mod parser;
pub(crate) mod patch;
pub(crate) mod proxy;
pub(crate) mod stream;
pub(crate) mod transactions;
pub(crate) mod uri;
