//! The host-testable part of the guest kernel.
