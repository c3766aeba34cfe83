//! Black-box tests: real processes, outside clients, kill -9.
