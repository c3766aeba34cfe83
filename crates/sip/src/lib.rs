//! Bytes to SIP messages and back: spans, typed headers, URIs, patches.
