//! What std lacks: the shared monotonic instant, bounded lists, a seeded generator, keyed hashes.
