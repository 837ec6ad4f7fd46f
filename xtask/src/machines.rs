//! The QEMU machines: one for each IOMMU, and the badly equipped ones that the guest must refuse.

use std::fmt;

use shootdown_qemu_host::commands::{self, Reader};

/// A device with DMA of its own, and one that reports what its access did; both send untagged requests.
const DMA_MASTERS: [&str; 4] = [
    "-device",
    "edu,dma_mask=0xffffffffffffffff",
    "-device",
    "iommu-testdev",
];

/// An IOMMU of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iommu {
    /// Intel VT-d on QEMU's q35.
    Vtd,
    /// Arm SMMUv3 on QEMU's virt.
    Smmuv3,
    /// RISC-V IOMMU on QEMU's virt.
    Riscv,
}

impl Iommu {
    /// How its commands are traced and read.
    pub fn commands(self) -> Reader {
        match self {
            Self::Vtd => commands::VTD,
            Self::Smmuv3 => commands::SMMUV3,
            Self::Riscv => commands::RISCV,
        }
    }
}

impl fmt::Display for Iommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Vtd => "vtd",
            Self::Smmuv3 => "smmuv3",
            Self::Riscv => "riscv",
        })
    }
}

/// A QEMU machine and the guest that runs on it.
#[derive(Debug)]
pub struct Machine {
    /// Which IOMMU it has.
    pub iommu: Iommu,
    /// What to call it.
    pub title: &'static str,
    /// QEMU's name of the architecture, the end of `qemu-system-`.
    pub architecture: &'static str,
    /// The guest's Rust target.
    pub target: &'static str,
    /// Machine and CPU, without the IOMMU if it is a device of its own.
    base: &'static [&'static str],
    /// What adds the IOMMU that the scenario runs on.
    equipped: &'static [&'static str],
    /// QEMU's exit status when the guest reports success. (x86: `isa-debug-exit` turns a written `v` into `2v+1`, never 0.)
    pub success: i32,
    /// QEMU's exit status when the guest reports failure.
    pub failure: i32,
}

/// One for each [`Iommu`], in its order.
pub static MACHINES: [Machine; 3] = [
    Machine {
        iommu: Iommu::Vtd,
        title: "Intel VT-d, QEMU q35",
        architecture: "x86_64",
        target: "x86_64-unknown-none",
        base: &[
            "-M",
            "q35",
            "-cpu",
            "max",
            "-device",
            "isa-debug-exit,iobase=0x501,iosize=4",
        ],
        equipped: &[
            "-device",
            "intel-iommu,scalable-mode=on,fsts=on,device-iotlb=on,pasid-bits=20,svm=on,intremap=on,eim=on",
        ],
        success: 33,
        failure: 35,
    },
    Machine {
        iommu: Iommu::Smmuv3,
        title: "Arm SMMUv3, QEMU virt",
        architecture: "aarch64",
        target: "aarch64-unknown-none",
        // Its physical addresses have 44 bits, as many as QEMU's SMMU emits; those of `max` have more.
        base: &[
            "-M",
            "virt,gic-version=3",
            "-cpu",
            "cortex-a72",
            "-semihosting",
        ],
        equipped: &["-device", "arm-smmuv3,primary-bus=pcie.0"],
        success: 0,
        failure: 1,
    },
    Machine {
        iommu: Iommu::Riscv,
        title: "RISC-V IOMMU, QEMU virt",
        architecture: "riscv64",
        target: "riscv64gc-unknown-none-elf",
        base: &[],
        equipped: &["-M", "virt,iommu-sys=on"],
        success: 0,
        failure: 1,
    },
];

/// What the guest is asked to do; its command line says `run=<this>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Shared virtual addressing from bind to exit: no stale access may succeed.
    Scenario,
    /// The same with the backend's invalidation left out: the stale access must succeed.
    Control,
}

impl Kind {
    /// The word on the guest's command line and in its `@begin`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Scenario => "scenario",
            Self::Control => "control",
        }
    }

    /// The steps without which the run shows nothing.
    pub fn must_show(self) -> &'static [&'static str] {
        match self {
            Self::Scenario => &["protect", "unmap", "exit", "reuse"],
            Self::Control => &["stale-protect", "stale-unmap"],
        }
    }
}

/// A machine on which the guest must stop with an error that says what is missing.
#[derive(Debug)]
pub struct BadMachine {
    /// Names the case in logs and file names.
    pub name: &'static str,
    /// The machine it is a variation of.
    pub iommu: Iommu,
    /// Used instead of the machine's IOMMU options.
    instead: &'static [&'static str],
    /// Must be part of one of the guest's `@error` lines.
    pub expected: &'static str,
}

/// Every bad-input boot. To add one: a name, the QEMU options in place of the good IOMMU, the words its `@error` must contain.
pub static BAD_MACHINES: [BadMachine; 6] = [
    BadMachine {
        name: "vtd-no-iommu",
        iommu: Iommu::Vtd,
        instead: &[],
        expected: "DMAR",
    },
    BadMachine {
        name: "smmuv3-no-iommu",
        iommu: Iommu::Smmuv3,
        instead: &[],
        expected: "arm,smmu-v3",
    },
    BadMachine {
        name: "riscv-no-iommu",
        iommu: Iommu::Riscv,
        instead: &["-M", "virt"],
        expected: "riscv,iommu",
    },
    BadMachine {
        name: "vtd-no-scalable-mode",
        iommu: Iommu::Vtd,
        instead: &["-device", "intel-iommu,scalable-mode=off,intremap=on"],
        expected: "scalable",
    },
    BadMachine {
        name: "vtd-second-stage-only",
        iommu: Iommu::Vtd,
        instead: &["-device", "intel-iommu,scalable-mode=on,pasid-bits=20"],
        expected: "first-stage translation",
    },
    BadMachine {
        name: "smmuv3-second-stage-only",
        iommu: Iommu::Smmuv3,
        instead: &["-device", "arm-smmuv3,primary-bus=pcie.0,stage=2"],
        expected: "stage 1 translation",
    },
];

impl Machine {
    /// The machine with `iommu`.
    pub fn of(iommu: Iommu) -> &'static Self {
        &MACHINES[iommu as usize]
    }

    /// QEMU's options for the good machine.
    pub fn options(&self) -> Vec<&'static str> {
        [self.base, self.equipped, &DMA_MASTERS].concat()
    }
}

impl BadMachine {
    /// QEMU's options for this variation.
    pub fn options(&self) -> Vec<&'static str> {
        [Machine::of(self.iommu).base, self.instead, &DMA_MASTERS].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_in_the_order_of_their_iommus() {
        for machine in &MACHINES {
            assert_eq!(Machine::of(machine.iommu).target, machine.target);
        }
    }

    #[test]
    fn success_and_failure_differ_and_a_bad_machine_differs_from_the_good_one() {
        for machine in &MACHINES {
            assert_ne!(machine.success, machine.failure);
            assert_ne!(machine.failure, 0);
        }
        for bad in &BAD_MACHINES {
            assert_ne!(bad.options(), Machine::of(bad.iommu).options());
            assert!(!bad.expected.is_empty());
        }
    }
}
