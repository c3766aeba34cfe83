//! (bindings, REGISTER, now) to (new bindings, response): RFC 3261 section 10.3.
