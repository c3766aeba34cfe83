//! Lays bindings, transactions and counters onto the arena.
