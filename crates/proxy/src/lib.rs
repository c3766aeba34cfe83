//! RFC 3261 section 16 as one machine: validate, route, fork, collect; the worker's brain.
