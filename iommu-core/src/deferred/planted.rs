//! Mistakes that a test can make a domain commit, to see that they are noticed. Elsewhere every
//! question is answered no at compile time.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Items are given back before the flush.
    ReclaimedBeforeFlush,
    /// A flush gives back what was unmapped after it began.
    LaterUnmapsReclaimed,
    /// Items are given back although the flush failed.
    FailureReclaimed,
}

/// The mistake of one domain.
#[derive(Default)]
pub(super) struct Plant {
    #[cfg(test)]
    pub fault: Option<Fault>,
}

impl Plant {
    #[cfg(test)]
    pub fn is(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    #[cfg(not(test))]
    pub const fn is(&self, _: Fault) -> bool {
        false
    }
}
