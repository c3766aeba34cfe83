//! What nix lacks in safe form: descriptor passing, pidfd, seals, pinning, notification.
