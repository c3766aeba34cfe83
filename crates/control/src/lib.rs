//! Versioned messages between supervisor, workers and the command line.
