//! What the hardware can do, and what follows from it.
//!
//! | `capabilities` | what it obliges or permits here |
//! |---|---|
//! | version | major version 1 is required; the register layout of another is not known |
//! | Sv39, Sv48, Sv57 | one is required; each permits sharing page tables of 3, 4, 5 levels |
//! | SvNx4 (any) | there is a second stage: what was cached of it is invalidated at probe |
//! | MSI_FLAT | device contexts have 64 bytes instead of 32 |
//! | AMO_HWAD | permits [`Config::update_accessed_dirty`] |
//! | ATS | permits device TLBs and page requests; there is a page-request queue |
//! | END | with 0, `fctl.BE` cannot be changed and must read 0 |
//! | IGS | interrupts are wires where there are any, else messages; none is enabled |
//! | DBG | permits [`Unit::translate`](crate::Unit::translate) |
//! | PAS | no table's root may lie beyond |
//! | PD8, PD17, PD20 | one is required; the widest is the width of a PASID |
//! | NL | address-specific invalidations may reach non-leaf entries |
//! | S | one invalidation may take an aligned block |
//!
//! Not read, as nothing here depends on it: Sv32, Svrsw60t59b, Svpbmt (the kernel's page table says
//! what the harts have, and the IOMMU supports what they do), AMO_MRIF, MSI_MRIF, T2GPA, HPM, QOSID.

use crate::spec::registers::fields::CAPABILITIES;
use crate::spec::registers::{self, FeaturesControl};
use crate::spec::tables::{DeviceContextFormat, ProcessDirectoryMode};
use iommu_core::error::ProbeError;
use iommu_core::iommu::Features;
use iommu_core::platform::{Mmio, WalkerCoherency};
use tock_registers::LocalRegisterCopy;
use tock_registers::fields::Field;

/// What the driver is told beside the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whether the IOMMU's accesses to tables and queues snoop the CPU's caches. No register says.
    pub coherency: WalkerCoherency,
    /// The width in bits of the widest device id behind the IOMMU, at most 24. The device directory
    /// has as many levels as it takes, or more if the hardware insists.
    pub device_id_bits: u8,
    /// Whether the IOMMU sets the accessed and dirty bits of shared page tables, as a hart with
    /// Svadu does. The kernel must then change valid entries by atomic operations only. Without,
    /// an access through an entry whose bits are clear faults.
    pub update_accessed_dirty: bool,
}

impl Default for Config {
    /// A coherent IOMMU behind one PCIe segment (16-bit device ids) that leaves accessed and dirty
    /// bits to the kernel.
    fn default() -> Self {
        Self {
            coherency: WalkerCoherency::Coherent,
            device_id_bits: 16,
            update_accessed_dirty: false,
        }
    }
}

/// The registers `capabilities` and `fctl` as they were read.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities {
    register: LocalRegisterCopy<u64, CAPABILITIES::Register>,
    control: FeaturesControl,
}

impl Capabilities {
    /// Reads both registers.
    ///
    /// # Errors
    ///
    /// [`ProbeError::NotPresent`] if they answer all ones.
    pub fn read(mmio: &impl Mmio) -> Result<Self, ProbeError> {
        let value = mmio.read64(registers::CAPABILITIES);
        if value == u64::MAX {
            return Err(ProbeError::NotPresent);
        }
        Ok(Self::new(value, mmio.read32(registers::FCTL)))
    }

    /// From the values of `capabilities` and `fctl`.
    pub const fn new(capabilities: u64, fctl: u32) -> Self {
        Self {
            register: LocalRegisterCopy::new(capabilities),
            control: FeaturesControl::from_bits_retain(fctl),
        }
    }

    /// Whether the driver can work with it.
    ///
    /// # Errors
    ///
    /// [`ProbeError::MissingCapability`] with the first capability that is missing.
    pub fn require(&self, config: &Config) -> Result<(), ProbeError> {
        let needed = [
            (self.version() >> 4 == 1, "version 1.x"),
            (self.virtual_address_bits() > 0, "Sv39, Sv48 or Sv57"),
            (self.process_id_bits() > 0, "PD8, PD17 or PD20"),
            (
                self.has(CAPABILITIES::AMO_HWAD) || !config.update_accessed_dirty,
                "AMO_HWAD",
            ),
        ];
        if let Some((_, capability)) = needed.iter().find(|(present, _)| !present) {
            return Err(ProbeError::MissingCapability {
                capability,
                register: "capabilities",
                value: self.register.get(),
            });
        }
        if self.control.contains(FeaturesControl::BE) && !self.has(CAPABILITIES::END) {
            return Err(not_little_endian(self.control));
        }
        Ok(())
    }

    /// In neutral terms.
    ///
    /// `chained_sync` is false: section "IOMMU Command-queue Fence commands" lets the IOMMU execute
    /// fetched commands out of order and promises of `IOFENCE.C` only that what comes before it is
    /// done when it completes. Nothing keeps an `ATS.INVAL` behind a fence from being executed
    /// before the fence is complete.
    pub fn features(&self) -> Features {
        Features {
            pasid_bits: self.process_id_bits(),
            device_tlb: self.has_ats(),
            iotlb_keyed_by_pasid: false,
            chained_sync: false,
            caches_not_present: false,
            page_requests: self.has_ats(),
            // Only SMMUs hold transactions back.
            stall: false,
        }
    }

    /// `version`: the major one in the upper four bits, the minor one in the lower.
    pub fn version(&self) -> u8 {
        self.register.read(CAPABILITIES::VERSION) as u8
    }

    /// The widest virtual address that the IOMMU walks, in bits; 0 for none.
    pub fn virtual_address_bits(&self) -> u8 {
        [5, 4, 3]
            .into_iter()
            .find(|&levels| self.walks_levels(levels))
            .map_or(0, |levels| 12 + 9 * levels)
    }

    /// Whether it walks page tables of 3, 4 or 5 levels.
    pub fn walks_levels(&self, levels: u8) -> bool {
        match levels {
            3 => self.has(CAPABILITIES::SV39),
            4 => self.has(CAPABILITIES::SV48),
            5 => self.has(CAPABILITIES::SV57),
            _ => false,
        }
    }

    /// The width of a physical address in bits.
    pub fn physical_address_bits(&self) -> u8 {
        self.register.read(CAPABILITIES::PAS) as u8
    }

    /// The widest process id in bits; 0 if there is no process directory.
    pub fn process_id_bits(&self) -> u8 {
        self.process_directory_for(20)
            .map_or(0, ProcessDirectoryMode::process_id_bits)
    }

    /// The smallest process directory for process ids of `bits`, or the largest there is.
    pub fn process_directory_for(&self, bits: u8) -> Option<ProcessDirectoryMode> {
        let modes = [
            (CAPABILITIES::PD8, ProcessDirectoryMode::PD8),
            (CAPABILITIES::PD17, ProcessDirectoryMode::PD17),
            (CAPABILITIES::PD20, ProcessDirectoryMode::PD20),
        ];
        let mut supported = modes
            .into_iter()
            .filter(|&(field, _)| self.has(field))
            .map(|(_, mode)| mode);
        let largest = supported.clone().next_back();
        supported
            .find(|mode| mode.process_id_bits() >= bits)
            .or(largest)
    }

    /// How a device context is laid out.
    pub fn device_context_format(&self) -> DeviceContextFormat {
        if self.has(CAPABILITIES::MSI_FLAT) {
            DeviceContextFormat::Extended
        } else {
            DeviceContextFormat::Base
        }
    }

    /// ATS, and with it the page-request queue.
    pub fn has_ats(&self) -> bool {
        self.has(CAPABILITIES::ATS)
    }

    /// Any second-stage scheme.
    pub fn has_second_stage(&self) -> bool {
        self.has(CAPABILITIES::SECOND_STAGE)
    }

    /// The debug translation interface.
    pub fn has_debug(&self) -> bool {
        self.has(CAPABILITIES::DBG)
    }

    /// NL: address-specific invalidations may reach non-leaf entries.
    pub fn has_non_leaf_invalidation(&self) -> bool {
        self.has(CAPABILITIES::NL)
    }

    /// S: an invalidation may take an aligned block.
    pub fn has_range_invalidation(&self) -> bool {
        self.has(CAPABILITIES::S)
    }

    /// What `fctl` is set to: little-endian, 64-bit schemes, wires where there are any.
    pub fn wanted_control(&self) -> FeaturesControl {
        if self.register.matches_all(CAPABILITIES::IGS::MessagesOnly) {
            FeaturesControl::empty()
        } else {
            FeaturesControl::WSI
        }
    }

    /// Whether `fctl`, read back after [`wanted_control`](Self::wanted_control) was written, will do.
    ///
    /// # Errors
    ///
    /// [`ProbeError::MissingCapability`] if it stays big-endian or with 32-bit schemes, which force
    /// Sv32 upon the first stage.
    pub fn accept_control(&self, control: FeaturesControl) -> Result<(), ProbeError> {
        if control.contains(FeaturesControl::BE) {
            return Err(not_little_endian(control));
        }
        if control.contains(FeaturesControl::GXL) {
            return Err(ProbeError::MissingCapability {
                capability: "GXL = 0",
                register: "fctl",
                value: control.bits().into(),
            });
        }
        Ok(())
    }

    fn has(&self, field: Field<u64, CAPABILITIES::Register>) -> bool {
        self.register.is_set(field)
    }
}

fn not_little_endian(control: FeaturesControl) -> ProbeError {
    ProbeError::MissingCapability {
        capability: "little-endian operation",
        register: "fctl",
        value: control.bits().into(),
    }
}
