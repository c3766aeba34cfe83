//! What a worker process runs: reactors and everything wired together; decides nothing itself.
