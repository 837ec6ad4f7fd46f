//! A bounded number of domains for any number of users.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Fenced, Mode, Srcu};
use crate::planted::{self, Fault};

/// A fixed set of domains among which address spaces are spread.
///
/// With one domain for all, as in Linux, one callback that does not return holds up every
/// unregistration in the system. With one for each address space it holds up nobody else, at some
/// kilobytes each. Here it holds up one in [`len`](SrcuDomains::len), for memory that does not grow.
pub struct SrcuDomains<M: Mode = Fenced> {
    domains: Vec<Arc<Srcu<M>>>,
}

impl<M: Mode> SrcuDomains<M> {
    /// `count` domains, each made by `new`; one if `count` is zero.
    pub fn new(count: usize, new: impl FnMut() -> Srcu<M>) -> Self {
        let mut new = new;
        SrcuDomains {
            domains: (0..count.max(1)).map(|_| Arc::new(new())).collect(),
        }
    }

    /// The domain for `key`, the same for the same key. Any number will do that differs between
    /// users: an address-space identifier, the address of a control block.
    pub fn domain(&self, key: u64) -> &Arc<Srcu<M>> {
        // The high bits of the product depend on every bit of the key.
        const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
        let scattered = key.wrapping_mul(GOLDEN_RATIO) >> 32;
        if planted::is(Fault::DomainsAllOne) {
            return &self.domains[0];
        }
        &self.domains[scattered as usize % self.domains.len()]
    }

    /// How many domains there are.
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.domains.len()
    }

    /// All domains, for the kernel's worker that runs the callbacks of each, and to wait for all.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Srcu<M>>> {
        self.domains.iter()
    }
}
