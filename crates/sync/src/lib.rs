//! The only door to atomics and UnsafeCell; hands out the model checker's versions on request.
