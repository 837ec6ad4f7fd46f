//! What this SMMU can do, and what that obliges the driver to.
//!
//! Only registers and bits that change what the driver does are read.
//!
//! | Bit | Consequence |
//! |---|---|
//! | IDR0.S1P | required |
//! | IDR0.TTF bit 1 | required: AArch64 page tables |
//! | IDR0.COHACC | 0: tables, queues and page tables are accessed past the CPU's caches; every store is cleaned, and only page tables that the kernel writes back can be shared |
//! | IDR0.BTM | 1: CR2.PTM is set; the CPU's broadcasts are not relied on |
//! | IDR0.Hyp | 1: what an earlier system left in the EL2 regime is invalidated at probe |
//! | IDR0.ATS | permits device TLBs; obliges to CR0.ATSCHK |
//! | IDR0.PRI | with ATS, permits page requests |
//! | IDR0.ASID16 | 65,535 tags instead of 255 |
//! | IDR0.MSI | with COHACC, permits completion in memory |
//! | IDR0.TTENDIAN | must allow little-endian page tables |
//! | IDR0.STALL_MODEL | 0b00 permits stalls, and obliges to STE.S1STALLD for streams that do not stall; 0b10, where faults always stall, is refused |
//! | IDR0.ST_LEVEL | permits a two-level stream table |
//! | IDR0.S2P, VMID16 | how wide the tags of guests are; without S2P, no guest has one |
//! | IDR1.SIDSIZE | how many devices there can be |
//! | IDR1.SSIDSIZE | how many PASIDs a device can have; 0: only untagged requests |
//! | IDR1.CMDQS, EVENTQS, PRIQS | limit the queues; CMDQS is at least 7 |
//! | IDR1.ATTR_TYPES_OVR | obliges to STE.SHCFG = use incoming |
//! | IDR1.ATTR_PERMS_OVR | permits STE.PRIVCFG = unprivileged: no device uses the kernel's rights |
//! | IDR1.QUEUES_PRESET, TABLES_PRESET | refused: the driver places its own |
//! | IDR3.RIL | permits range invalidation |
//! | IDR5.OAS | limits physical addresses |
//! | IDR5.GRAN4K | required |

use crate::spec::registers::{IDR0, IDR1, IDR3, IDR5, Value, offset};
use crate::spec::tables::{Cacheability, PhysicalSize};
use iommu_core::error::ProbeError;
use iommu_core::iommu::Features;
use iommu_core::platform::{Mmio, WalkerCoherency};
use iommu_core::ring::Completion;

/// The widest PASID that this driver gives a table of context descriptors: 2^10 entries, 64 KiB a
/// device, contiguous because the table is linear.
pub const MAX_PASID_BITS: u8 = 10;
/// The widest StreamID in a linear stream table: 2^16 entries, 4 MiB.
const MAX_LINEAR_STREAM_BITS: u32 = 16;
/// The widest StreamID in a two-level stream table: 2^16 level 1 descriptors, 512 KiB.
const MAX_TWO_LEVEL_STREAM_BITS: u32 = 24;
/// Up to this width the stream table is linear even if two levels are possible: 16 KiB.
const LINEAR_STREAM_BITS: u32 = 8;
/// log2 of the command queue's slots: 16 KiB.
const COMMAND_QUEUE_LOG2: u32 = 10;
/// The smallest command queue that holds, at the default
/// [`Costs`](iommu_core::cover::Costs), the longest list for one device.
const COMMAND_QUEUE_LOG2_MIN: u32 = 7;
/// log2 of the event queue's slots: 4 KiB.
const EVENT_QUEUE_LOG2: u32 = 7;
/// log2 of the PRI queue's slots: 16 KiB. The page requests that a kernel allows its devices should
/// not be more.
const PRI_QUEUE_LOG2: u32 = 10;
/// The widest virtual and physical addresses of a 4 KiB granule with 64-bit descriptors.
const MAX_ADDRESS_BITS: u8 = 48;

/// The feature registers of one SMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    idr0: u32,
    idr1: u32,
    idr3: u32,
    idr5: u32,
}

impl Capabilities {
    /// Reads the feature registers, with 32-bit accesses.
    ///
    /// # Errors
    ///
    /// [`ProbeError::NotPresent`] if they read all ones.
    pub fn read(mmio: &impl Mmio) -> Result<Self, ProbeError> {
        let [idr0, idr1, idr3, idr5] =
            [offset::IDR0, offset::IDR1, offset::IDR3, offset::IDR5].map(|at| mmio.read32(at));
        if idr0 == u32::MAX && idr1 == u32::MAX {
            return Err(ProbeError::NotPresent);
        }
        Ok(Self {
            idr0,
            idr1,
            idr3,
            idr5,
        })
    }

    /// The capabilities that four register values stand for.
    pub const fn from_registers(idr0: u32, idr1: u32, idr3: u32, idr5: u32) -> Self {
        Self {
            idr0,
            idr1,
            idr3,
            idr5,
        }
    }

    /// Whether shared virtual addressing is possible.
    ///
    /// # Errors
    ///
    /// [`ProbeError::MissingCapability`] names the first thing that is missing.
    pub fn require(&self) -> Result<(), ProbeError> {
        let little = self.idr0().matches_all(IDR0::TTENDIAN::Mixed)
            || self.idr0().matches_all(IDR0::TTENDIAN::Little);
        let stalls_always = self.idr0().matches_all(IDR0::STALL_MODEL::Always);
        let idr1 = self.idr1();
        let needs = [
            (
                "S1P, stage 1 translation",
                "SMMU_IDR0",
                self.idr0().is_set(IDR0::S1P),
            ),
            (
                "TTF, AArch64 page tables",
                "SMMU_IDR0",
                self.idr0().read(IDR0::TTF) & 0b10 != 0,
            ),
            ("TTENDIAN, little-endian page tables", "SMMU_IDR0", little),
            (
                "STALL_MODEL, faults that end the transaction",
                "SMMU_IDR0",
                !stalls_always,
            ),
            (
                "CMDQS of at least 7",
                "SMMU_IDR1",
                idr1.read(IDR1::CMDQS) >= COMMAND_QUEUE_LOG2_MIN,
            ),
            (
                "QUEUES_PRESET = 0",
                "SMMU_IDR1",
                !idr1.is_set(IDR1::QUEUES_PRESET),
            ),
            (
                "TABLES_PRESET = 0",
                "SMMU_IDR1",
                !idr1.is_set(IDR1::TABLES_PRESET),
            ),
            (
                "GRAN4K, pages of 4 KiB",
                "SMMU_IDR5",
                self.idr5().is_set(IDR5::GRAN4K),
            ),
        ];
        match needs.into_iter().find(|&(_, _, there)| !there) {
            None => Ok(()),
            Some((capability, register, _)) => Err(ProbeError::MissingCapability {
                capability,
                register,
                value: self.raw(register).into(),
            }),
        }
    }

    /// The neutral view.
    pub fn features(&self) -> Features {
        Features {
            pasid_bits: self.pasid_bits(),
            device_tlb: self.device_tlb(),
            iotlb_keyed_by_pasid: false,
            // IHI 0070 4.7.3: commands behind a CMD_SYNC do not begin before it is complete.
            chained_sync: true,
            caches_not_present: false,
            page_requests: self.page_requests(),
            stall: self.stall(),
        }
    }

    /// Whether the SMMU's accesses snoop the CPU's caches.
    pub fn coherency(&self) -> WalkerCoherency {
        if self.idr0().is_set(IDR0::COHACC) {
            WalkerCoherency::Coherent
        } else {
            WalkerCoherency::NonCoherent
        }
    }

    /// How the SMMU is told to access tables, queues and page tables.
    pub fn cacheability(&self) -> Cacheability {
        match self.coherency() {
            WalkerCoherency::Coherent => Cacheability::WriteBack,
            WalkerCoherency::NonCoherent => Cacheability::NonCacheable,
        }
    }

    /// How a CMD_SYNC tells of its completion. A message to memory that the CPU caches needs a
    /// coherent SMMU.
    pub fn completion(&self) -> Completion {
        if self.idr0().is_set(IDR0::MSI) && self.coherency() == WalkerCoherency::Coherent {
            Completion::Memory
        } else {
            Completion::Head
        }
    }

    /// Whether devices may have TLBs.
    pub fn device_tlb(&self) -> bool {
        self.idr0().is_set(IDR0::ATS)
    }

    /// Whether TLB invalidations can name ranges.
    pub fn range_invalidation(&self) -> bool {
        Value::<IDR3::Register>::new(self.idr3).is_set(IDR3::RIL)
    }

    /// Whether there is an EL2 regime.
    pub fn hypervisor(&self) -> bool {
        self.idr0().is_set(IDR0::HYP)
    }

    /// Whether the SMMU listens to the CPU's TLB maintenance unless told not to.
    pub fn broadcast_maintenance(&self) -> bool {
        self.idr0().is_set(IDR0::BTM)
    }

    /// Whether page requests of devices with a TLB are taken.
    pub fn page_requests(&self) -> bool {
        self.idr0().is_set(IDR0::PRI) && self.device_tlb()
    }

    /// Whether stalls are configurable: permitted for a stream, or forbidden.
    pub fn stall(&self) -> bool {
        self.idr0().matches_all(IDR0::STALL_MODEL::Configurable)
    }

    /// Whether a stream must be told to use the incoming attributes.
    pub fn overrides_attributes(&self) -> bool {
        self.idr1().is_set(IDR1::ATTR_TYPES_OVR)
    }

    /// Whether a stream's requests can be made unprivileged.
    pub fn overrides_permissions(&self) -> bool {
        self.idr1().is_set(IDR1::ATTR_PERMS_OVR)
    }

    /// The largest ASID.
    pub fn last_asid(&self) -> u32 {
        if self.idr0().is_set(IDR0::ASID16) {
            0xffff
        } else {
            0xff
        }
    }

    /// Width of a PASID in bits.
    pub fn pasid_bits(&self) -> u8 {
        (self.idr1().read(IDR1::SSIDSIZE) as u8).min(MAX_PASID_BITS)
    }

    /// Width in bits of the SubstreamIDs that commands may name.
    pub fn substream_bits(&self) -> u8 {
        self.idr1().read(IDR1::SSIDSIZE) as u8
    }

    /// Width in bits of a VMID, the tag of a guest; 0 without stage 2.
    pub fn vmid_bits(&self) -> u8 {
        if !self.idr0().is_set(IDR0::S2P) {
            0
        } else if self.idr0().is_set(IDR0::VMID16) {
            16
        } else {
            8
        }
    }

    /// Whether the stream table has two levels.
    pub fn two_level_stream_table(&self) -> bool {
        self.idr0().matches_all(IDR0::ST_LEVEL::TwoLevel)
            && self.idr1().read(IDR1::SIDSIZE) > LINEAR_STREAM_BITS
    }

    /// Width in bits of the StreamIDs that the stream table covers.
    pub fn stream_bits(&self) -> u32 {
        let limit = if self.two_level_stream_table() {
            MAX_TWO_LEVEL_STREAM_BITS
        } else {
            MAX_LINEAR_STREAM_BITS
        };
        self.idr1().read(IDR1::SIDSIZE).min(limit)
    }

    /// log2 of the command queue's slots.
    pub fn command_queue_log2(&self) -> u32 {
        self.idr1().read(IDR1::CMDQS).min(COMMAND_QUEUE_LOG2)
    }

    /// The most commands of a list with a barrier: one slot stays free, two are CMD_SYNCs.
    pub fn command_list_room(&self) -> usize {
        (1 << self.command_queue_log2()) - 3
    }

    /// log2 of the event queue's slots.
    pub fn event_queue_log2(&self) -> u32 {
        self.idr1().read(IDR1::EVENTQS).min(EVENT_QUEUE_LOG2)
    }

    /// log2 of the PRI queue's slots.
    pub fn pri_queue_log2(&self) -> u32 {
        self.idr1().read(IDR1::PRIQS).min(PRI_QUEUE_LOG2)
    }

    /// The widest virtual address it walks, in bits.
    pub fn virtual_bits(&self) -> u8 {
        MAX_ADDRESS_BITS
    }

    /// The widest physical address it emits from a 4 KiB granule, in bits.
    pub fn physical_bits(&self) -> u8 {
        PhysicalSize::from_encoding(self.idr5().read(IDR5::OAS))
            .bits()
            .min(MAX_ADDRESS_BITS)
    }

    fn raw(&self, register: &str) -> u32 {
        match register {
            "SMMU_IDR0" => self.idr0,
            "SMMU_IDR1" => self.idr1,
            _ => self.idr5,
        }
    }

    fn idr0(&self) -> Value<IDR0::Register> {
        Value::new(self.idr0)
    }

    fn idr1(&self) -> Value<IDR1::Register> {
        Value::new(self.idr1)
    }

    fn idr5(&self) -> Value<IDR5::Register> {
        Value::new(self.idr5)
    }
}
