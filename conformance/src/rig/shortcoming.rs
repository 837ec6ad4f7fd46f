//! Why a rig cannot show all that a case asks.

use std::fmt;

/// A reason to skip a case or a part of it, which docs/src/qemu.md lists by the number it is told with.
pub trait Documented: fmt::Display {}

/// A shortcoming of a rig's hardware: what it is known not to do as it should. A case that would meet one
/// leaves that part out or is skipped, naming it.
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
    /// Q8: devices have no TLB that the IOMMU tells what to forget.
    NoDeviceTlbs,
    /// Q9: a PASID entry that is not present is walked until it is empty.
    AbsentIsWalked,
    /// Q10: hardware and devices cannot be made to go wrong.
    NeverWrong,
    /// Q11: there are fewer seats than the case has devices.
    FewSeats,
    /// Q12: the machine ends with its drivers.
    EndsWithDrivers,
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
            Self::NoDeviceTlbs => "Q8: QEMU gives this rig's devices no TLBs",
            Self::AbsentIsWalked => "Q9: QEMU's VT-d walks a PASID entry that is not present",
            Self::NeverWrong => "Q10: only a model can be made to go wrong",
            Self::FewSeats => "Q11: this machine has no room for as many devices",
            Self::EndsWithDrivers => "Q12: the machine ends with its drivers",
        })
    }
}

impl Documented for Shortcoming {}

/// What a rig's hardware rightly does not have or do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// A1: faulting transactions are not held back.
    Stalls,
    /// A2: page requests are not taken.
    PageRequests,
    /// A3: a mapping is not changed in place.
    ChangeInPlace,
    /// A4: user and kernel do not share a root.
    SharedRoot,
    /// A5: what is not present is cached, so nothing can be deferred.
    Deferral,
    /// A6: the devices are models.
    RealDevices,
}

impl fmt::Display for Absence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Stalls => "A1: the IOMMU holds no transactions back",
            Self::PageRequests => "A2: the IOMMU takes no page requests",
            Self::ChangeInPlace => "A3: AArch64 demands break-before-make",
            Self::SharedRoot => "A4: the kernel's half has a root of its own",
            Self::Deferral => "A5: an IOMMU that caches what is not present cannot defer",
            Self::RealDevices => "A6: its devices are models: late-answers shows it on them",
        })
    }
}

impl Documented for Absence {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_in_the_book_s_tables() {
        let book = include_str!("../../../docs/src/qemu.md");
        let rows = |letter: char| {
            let row = |line: &&str| line.starts_with(&format!("| {letter}"));
            book.lines().filter(row).count()
        };
        let shortcomings = [
            Shortcoming::NoPasids,
            Shortcoming::NoPageRequests,
            Shortcoming::AlwaysCoherent,
            Shortcoming::FaultsCollapse,
            Shortcoming::PrivilegeIgnored,
            Shortcoming::AccessedUnlessDirty,
            Shortcoming::AbsentIsInvalid,
            Shortcoming::NoDeviceTlbs,
            Shortcoming::AbsentIsWalked,
            Shortcoming::NeverWrong,
            Shortcoming::FewSeats,
            Shortcoming::EndsWithDrivers,
        ];
        let absences = [
            Absence::Stalls,
            Absence::PageRequests,
            Absence::ChangeInPlace,
            Absence::SharedRoot,
            Absence::Deferral,
            Absence::RealDevices,
        ];
        let reasons: Vec<&dyn Documented> = shortcomings
            .iter()
            .map(|reason| reason as &dyn Documented)
            .chain(absences.iter().map(|reason| reason as &dyn Documented))
            .collect();
        for reason in reasons {
            let text = reason.to_string();
            let number = text.split(':').next().unwrap_or_default();
            assert!(book.contains(&format!("\n| {number} |")), "{text}");
        }
        assert_eq!(rows('Q'), shortcomings.len());
        assert_eq!(rows('A'), absences.len());
    }
}
