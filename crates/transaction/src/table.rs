//! The notation of the state-table tests.
