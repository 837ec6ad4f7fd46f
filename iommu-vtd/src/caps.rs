//! What the IOMMU can do, and what each capability obliges the driver to.
//!
//! | Register, bit | Meaning | Consequence here |
//! |---|---|---|
//! | ECAP.QI | queued invalidation | required |
//! | ECAP.SMTS | scalable mode | required |
//! | ECAP.PASID | requests with PASID | required |
//! | ECAP.FSTS | first-stage translation | required |
//! | ECAP.PSS | PASID width | [`Features::pasid_bits`], at most 20 |
//! | ECAP.DT | device TLBs | [`Features::device_tlb`]; else a device with one is refused |
//! | ECAP.DIT | invalidation throttle per physical function | device-TLB descriptors carry PFSID; else it is reserved |
//! | ECAP.C | table accesses snoop | if clear, every table store is cleaned to memory |
//! | ECAP.SMPWCS | page walks can snoop | if set, PWSNP is set; if clear, only a page table that its kernel writes back is accepted |
//! | ECAP.PRS | page requests | with DT, [`Features::page_requests`]; else a device with them is refused |
//! | ECAP.PDS | draining of page requests | the wait descriptor of a drain has PD; else it is reserved, and the device TLB's answer pushes page requests ahead |
//! | CAP.ND | width of a domain-id | the tags: 1 to 2^(4 + 2 × ND) − 1, at most 16 bits; 0 stands for what is not present |
//! | CAP.PSI, CAP.MAMV | page-selective invalidation and its largest block | larger blocks, and all without PSI, become PASID-wide |
//! | CAP.FS5LP | 5-level first stage | if clear, a page table of 5 levels is refused |
//! | CAP.CM | what is not present is cached too | invalidations after an entry becomes present |
//! | CAP.RWBF | stores may linger in a write buffer | a flush through GCMD after each table change |
//! | CAP.DRD, CAP.DWD | draining of reads and writes | asked for in IOTLB descriptors; else the bits are reserved |
//! | CAP.ESRTPS | setting the root table invalidates everything | if clear, the driver does it |
//! | CAP.PLMR, CAP.PHMR | protected memory regions | turned off once translation is on |
//! | CAP.FRO, CAP.NFR | where the fault records are | [`Capabilities::fault_record`] |

use crate::spec::commands::Drain;
use crate::spec::events::RECORD_BYTES;
use crate::spec::registers::{
    self, Capability, ExtendedCapability, capability as cap, extended_capability as ecap,
};
use core::fmt;
use iommu_core::error::ProbeError;
use iommu_core::ids::Pasid;
use iommu_core::iommu::Features;
use iommu_core::platform::{Mmio, WalkerCoherency};

/// The two capability registers.
#[derive(Clone, Copy)]
pub struct Capabilities {
    cap: Capability,
    ecap: ExtendedCapability,
}

impl Capabilities {
    /// Reads both registers.
    ///
    /// # Errors
    ///
    /// [`ProbeError::NotPresent`] if one of them reads as all ones.
    pub fn read(mmio: &impl Mmio) -> Result<Self, ProbeError> {
        let (cap, ecap) = (mmio.read64(registers::CAP), mmio.read64(registers::ECAP));
        if cap == u64::MAX || ecap == u64::MAX {
            return Err(ProbeError::NotPresent);
        }
        Ok(Self::from_registers(cap, ecap))
    }

    /// The capabilities that two register values stand for.
    pub const fn from_registers(cap: u64, ecap: u64) -> Self {
        Self {
            cap: Capability::new(cap),
            ecap: ExtendedCapability::new(ecap),
        }
    }

    /// Whether shared virtual addressing is possible at all.
    ///
    /// # Errors
    ///
    /// [`ProbeError::MissingCapability`] with the first capability that is missing.
    pub fn require(&self) -> Result<(), ProbeError> {
        let required = [
            ("queued invalidation (QI)", ecap::QI),
            ("scalable mode (SMTS)", ecap::SMTS),
            ("PASIDs (PASID)", ecap::PASID),
            ("first-stage translation (FSTS)", ecap::FSTS),
        ];
        for (capability, field) in required {
            if !self.ecap.is_set(field) {
                return Err(ProbeError::MissingCapability {
                    capability,
                    register: "ECAP_REG",
                    value: self.ecap.get(),
                });
            }
        }
        Ok(())
    }

    /// The same in neutral terms. The sync within a list is a wait descriptor with FN (6.5.2.8).
    pub fn features(&self) -> Features {
        Features {
            pasid_bits: self.pasid_bits(),
            device_tlb: self.ecap.is_set(ecap::DT),
            iotlb_keyed_by_pasid: true,
            chained_sync: true,
            caches_not_present: self.caching_mode(),
            page_requests: self.page_requests(),
            // Only SMMUs hold transactions back.
            stall: false,
        }
    }

    /// Width of a PASID in bits.
    pub fn pasid_bits(&self) -> u8 {
        let widest = Pasid::MAX.get().trailing_ones() as u8;
        (self.ecap.read(ecap::PSS) as u8 + 1).min(widest)
    }

    /// The largest tag (domain-id).
    pub fn last_tag(&self) -> u16 {
        let bits = (4 + 2 * self.cap.read(cap::ND)).min(16);
        ((1u32 << bits) - 1) as u16
    }

    /// The largest order of a page-selective invalidation; `None` if there is no such.
    pub fn page_selective_order(&self) -> Option<u32> {
        let order = self.cap.read(cap::MAMV) as u32;
        self.cap.is_set(cap::PSI).then_some(order)
    }

    /// How many levels of a page table are walked at most.
    pub fn levels(&self) -> u8 {
        if self.cap.is_set(cap::FS5LP) { 5 } else { 4 }
    }

    /// Whether the IOMMU reads root, context and PASID tables through the CPU's caches. Its queue
    /// accesses always are (ECAP.C in 11.4.3).
    pub fn table_coherency(&self) -> WalkerCoherency {
        if self.ecap.is_set(ecap::C) {
            WalkerCoherency::Coherent
        } else {
            WalkerCoherency::NonCoherent
        }
    }

    /// Whether page walks can snoop the CPU's caches.
    pub fn page_walk_snoop(&self) -> bool {
        self.ecap.is_set(ecap::SMPWCS)
    }

    /// Whether entries that are not present may be cached.
    pub fn caching_mode(&self) -> bool {
        self.cap.is_set(cap::CM)
    }

    /// Whether table changes reach memory only by a write-buffer flush.
    pub fn write_buffer_flush(&self) -> bool {
        self.cap.is_set(cap::RWBF)
    }

    /// Whether setting the root table invalidates every cache.
    pub fn root_table_invalidates(&self) -> bool {
        self.cap.is_set(cap::ESRTPS)
    }

    /// Whether firmware may have protected memory regions against all DMA.
    pub fn protected_memory(&self) -> bool {
        self.cap.is_set(cap::PLMR) || self.cap.is_set(cap::PHMR)
    }

    /// Whether device-TLB invalidations name the physical function.
    pub fn device_tlb_throttle(&self) -> bool {
        self.ecap.is_set(ecap::DIT)
    }

    /// Whether page requests of devices with a device TLB are taken.
    pub fn page_requests(&self) -> bool {
        self.ecap.is_set(ecap::PRS) && self.ecap.is_set(ecap::DT)
    }

    /// Whether a wait descriptor can wait for page requests that were received.
    pub fn page_request_drain(&self) -> bool {
        self.ecap.is_set(ecap::PDS)
    }

    /// What an IOTLB invalidation can wait for.
    pub fn drain(&self) -> Drain {
        Drain {
            reads: self.cap.is_set(cap::DRD),
            writes: self.cap.is_set(cap::DWD),
        }
    }

    /// How many fault records there are.
    pub fn fault_records(&self) -> usize {
        self.cap.read(cap::NFR) as usize + 1
    }

    /// The offset of the fault record number `index` in the register window, in bytes.
    pub fn fault_record(&self, index: usize) -> usize {
        self.cap.read(cap::FRO) as usize * 16 + index * RECORD_BYTES
    }

    /// How long the register window must at least be, in bytes. The DMAR table says how long it is
    /// ([``Drhd::register_bytes`](crate::firmware::Drhd::register_bytes)).
    pub fn register_bytes(&self) -> usize {
        self.fault_record(self.fault_records())
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Capabilities")
            .field("cap", &format_args!("{:#018x}", self.cap.get()))
            .field("ecap", &format_args!("{:#018x}", self.ecap.get()))
            .finish()
    }
}
