//! What the hardware of a rig is known not to do as it should.

use std::fmt;

/// A shortcoming, as docs/src/qemu.md lists them. A case that would meet one leaves that part out or is
/// skipped, naming it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortcoming {
    /// Q1: no device sends PASIDs.
    NoPasids,
    /// Q2: no device asks for pages.
    NoPageRequests,
    /// Q3: walkers and devices always snoop.
    AlwaysCoherent,
    /// Q4: there is one fault record, and further faults of its device are dropped in silence.
    FaultsCollapse,
    /// Q5: the kernel's pages are open to unprivileged requests.
    PrivilegeIgnored,
    /// Q6: a write does not mark a page as used that is marked as written.
    AccessedUnlessDirty,
    /// Q7: a PASID entry that is not present is reported as invalid.
    AbsentIsInvalid,
}

impl fmt::Display for Shortcoming {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NoPasids => "Q1: no device of QEMU's sends PASIDs",
            Self::NoPageRequests => "Q2: no device of QEMU's asks for pages",
            Self::AlwaysCoherent => "Q3: QEMU has no caches that a walker could miss",
            Self::FaultsCollapse => "Q4: QEMU's VT-d keeps one fault and drops the rest in silence",
            Self::PrivilegeIgnored => "Q5: QEMU's SMMUv3 lets anybody use the kernel's pages",
            Self::AccessedUnlessDirty => "Q6: QEMU's VT-d sets no accessed bit beside a dirty bit",
            Self::AbsentIsInvalid => "Q7: QEMU's VT-d calls an absent PASID entry invalid",
        })
    }
}
