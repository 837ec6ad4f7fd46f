//! An SMMUv3's command queue (Arm IHI 0070, chapters 4 and 6).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use iommu_core::ids::PhysicalAddress;
use iommu_core::iommu::Iommu;
use iommu_core::page_table::{Format, PageTable};
use iommu_core::platform::Parts;
use iommu_smmuv3::Unit;

use super::registers::Registers;
use super::{Model, Modelled, Words};
use crate::invalidate::effect::{Effect, Pages};
use crate::invalidate::world::World;

/// Stage 1, COHACC, BTM, Hyp, ATS, ASID16, MSI, two-level stream table.
const IDR0_VALUE: u64 = 0x0840_363a;
/// StreamIDs of 16 bits, SubstreamIDs of 20, queues of 2^19 and more entries.
const IDR1_VALUE: u64 = 0x0a73_0510;
/// RIL.
const RANGES: u64 = 1 << 10;
/// 4 KiB granule, 48-bit output addresses.
const IDR5_VALUE: u64 = 0x15;

const IDR0: usize = 0x00;
const IDR1: usize = 0x04;
const IDR3: usize = 0x0c;
const IDR5: usize = 0x14;
const CR0: usize = 0x20;
const CR0ACK: usize = 0x24;
const GBPA: usize = 0x44;
const IRQ_CTRL: usize = 0x50;
const IRQ_CTRLACK: usize = 0x54;
const CMDQ_BASE: usize = 0x90;
const CMDQ_PROD: usize = 0x98;

/// An SMMU.
pub struct Smmuv3 {
    ranges: bool,
    registers: Registers,
    queue: AtomicU64,
}

impl Smmuv3 {
    /// An SMMU with range commands, or without.
    pub fn new(ranges: bool) -> Self {
        Self {
            ranges,
            registers: Registers::default(),
            queue: AtomicU64::new(0),
        }
    }

    fn log2_slots(&self) -> u64 {
        self.queue.load(Ordering::Relaxed) & 0x1f
    }
}

impl Model for Smmuv3 {
    const WORDS: usize = 2;
    const TAIL: usize = CMDQ_PROD;

    fn read(&self, offset: usize) -> u64 {
        match offset {
            IDR0 => IDR0_VALUE,
            IDR1 => IDR1_VALUE,
            IDR3 if self.ranges => RANGES,
            IDR5 => IDR5_VALUE,
            CR0ACK => self.registers.get(CR0),
            IRQ_CTRLACK => self.registers.get(IRQ_CTRL),
            // The update is done at once.
            GBPA => self.registers.get(GBPA) & !(1 << 31),
            _ => self.registers.get(offset),
        }
    }

    fn write(&self, offset: usize, value: u64) {
        self.registers.set(offset, value);
        if offset == CMDQ_BASE {
            self.queue.store(value, Ordering::Relaxed);
        }
    }

    fn tail(&self, value: u64) -> usize {
        (value & ((1 << self.log2_slots()) - 1)) as usize
    }

    fn queue(&self) -> (u64, usize) {
        let base = self.queue.load(Ordering::Relaxed) & 0x00ff_ffff_ffff_ffe0;
        (base, 1 << self.log2_slots())
    }

    fn effect(&[low, high, ..]: &Words) -> Effect {
        let first = high >> 12;
        match low as u8 {
            0x10 | 0x11 | 0x30 => Effect::IotlbWide,
            // TG tells whether NUM and SCALE count.
            0x12 if high >> 10 & 3 == 0 => Effect::Iotlb(Pages { first, count: 1 }),
            0x12 => Effect::Iotlb(Pages {
                first,
                count: ((low >> 12 & 0x1f) + 1) << (low >> 20 & 0x1f),
            }),
            0x40 => {
                let device = (low >> 32) as u32;
                match high & 0x3f {
                    52.. => Effect::DeviceTlbWide(device),
                    order => Effect::DeviceTlb(
                        device,
                        Pages {
                            first: first >> order << order,
                            count: 1 << order,
                        },
                    ),
                }
            }
            0x46 => Effect::Sync,
            _ => Effect::Other,
        }
    }

    /// CS = 1: a message.
    #[inline]
    fn completion(&[low, high, ..]: &Words) -> Option<(u64, u32)> {
        let sends = low & 0xff == 0x46 && low >> 12 & 3 == 1;
        sends.then_some((high & 0x000f_ffff_ffff_fffc, (low >> 32) as u32))
    }

    fn page_table() -> PageTable {
        PageTable {
            root: PhysicalAddress(0x1000),
            format: Format::Aarch64 {
                virtual_bits: 48,
                physical_bits: 48,
                memory_attributes: 0xff,
            },
            written_back: false,
        }
    }

    fn drive<W: World>(parts: Parts<Modelled<Self, W>>) -> Arc<dyn Iommu> {
        Arc::new(Unit::probe(parts).expect("the SMMU comes up"))
    }
}
