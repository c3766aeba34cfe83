//! HTTP Digest for SIP, sans-IO: challenges, credentials, stateless nonces.
