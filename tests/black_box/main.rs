//! Black-box tests of the real server, one topic a file.
#![forbid(unsafe_code)]
