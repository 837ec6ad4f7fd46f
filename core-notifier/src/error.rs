//! The errors of the crate.

use core::error::Error;
use core::fmt;

/// [`Range::new`](crate::Range::new) was given an end below its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvertedRange {
    /// The start that was given, a virtual address in bytes.
    pub start: u64,
    /// The end that was given, a virtual address in bytes.
    pub end: u64,
}

impl fmt::Display for InvertedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "range ends at {:#x}, before its start {:#x}",
            self.end, self.start
        )
    }
}

impl Error for InvertedRange {}

/// Why a notifier was not registered. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegisterError {
    /// This notifier is registered with this address space, or its unregistration has not yet
    /// got to the point where it leaves the list.
    AlreadyRegistered,
    /// The address space has been released: its process has exited. Linux demands `mm_users > 0`.
    Released,
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RegisterError::AlreadyRegistered => {
                "the notifier is already registered with this address space"
            }
            RegisterError::Released => "the address space has been released",
        })
    }
}

impl Error for RegisterError {}

/// Why a notifier was not unregistered. Nothing has changed and nothing was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnregisterError {
    /// This notifier was never registered with this address space, or was already unregistered,
    /// or another thread is unregistering it now.
    NotRegistered,
}

impl fmt::Display for UnregisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the notifier is not registered with this address space")
    }
}

impl Error for UnregisterError {}
