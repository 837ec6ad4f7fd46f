//! A RISC-V IOMMU's command queue (RISC-V IOMMU specification 1.0, chapters "In-memory queue
//! interface" and "Memory-mapped register interface").

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use iommu_core::ids::PhysicalAddress;
use iommu_core::iommu::Iommu;
use iommu_core::page_table::{Format, PageTable};
use iommu_core::platform::Parts;
use iommu_riscv::Unit;

use super::registers::Registers;
use super::{Model, Modelled, Words};
use crate::invalidate::effect::{Effect, Pages};
use crate::invalidate::world::World;

/// Version 1.0, Sv39 and Sv48, a second stage, MSI_FLAT, ATS, IGS = both, DBG, PAS = 56, PD8.
const CAPABILITIES_VALUE: u64 =
    0x10 | 3 << 9 | 2 << 16 | 1 << 22 | 1 << 25 | 2 << 28 | 1 << 31 | 56 << 32 | 1 << 38;
/// NL and S: blocks, and addresses that reach every level.
const RANGES: u64 = 1 << 42 | 1 << 43;

const CAPABILITIES: usize = 0;
const CQB: usize = 24;
const CQT: usize = 36;
const CQCSR: usize = 72;
const PQCSR: usize = 80;

/// cqcsr.cqen, in the same place for the other queues.
const ENABLE: u64 = 1;
/// cqcsr.cqon, likewise.
const ON: u64 = 1 << 16;

/// An IOMMU.
pub struct Riscv {
    ranges: bool,
    registers: Registers,
    queue: AtomicU64,
}

impl Riscv {
    /// An IOMMU with the extensions S and NL, or with neither.
    pub fn new(ranges: bool) -> Self {
        Self {
            ranges,
            registers: Registers::default(),
            queue: AtomicU64::new(0),
        }
    }
}

impl Model for Riscv {
    const WORDS: usize = 2;
    const TAIL: usize = CQT;

    fn read(&self, offset: usize) -> u64 {
        match offset {
            CAPABILITIES if self.ranges => CAPABILITIES_VALUE | RANGES,
            CAPABILITIES => CAPABILITIES_VALUE,
            _ => self.registers.get(offset),
        }
    }

    fn write(&self, offset: usize, value: u64) {
        let value = match offset {
            CQCSR..=PQCSR => {
                let on = if value & ENABLE != 0 { ON } else { 0 };
                value & ENABLE | on
            }
            _ => value,
        };
        self.registers.set(offset, value);
        if offset == CQB {
            self.queue.store(value, Ordering::Relaxed);
        }
    }

    fn tail(&self, value: u64) -> usize {
        value as usize
    }

    fn queue(&self) -> (u64, usize) {
        let base = self.queue.load(Ordering::Relaxed);
        (base >> 10 << 12, 2 << (base & 0x1f))
    }

    fn effect(&[low, high, ..]: &Words) -> Effect {
        match low & 0x3ff {
            // IOTINVAL.VMA; AV in bit 10, S in bit 9 of the second word.
            1 if low >> 10 & 1 == 0 => Effect::IotlbWide,
            1 => {
                let page = high >> 10;
                let one = Some(Pages {
                    first: page,
                    count: 1,
                });
                let is_block = high >> 9 & 1 != 0;
                let pages = if is_block { Pages::napot(page) } else { one };
                pages.map_or(Effect::IotlbWide, Effect::Iotlb)
            }
            0x81 => Effect::IotlbWide,
            2 => Effect::Sync,
            // ATS.INVAL; its payload is PCIe's.
            4 => {
                let device = (low >> 40) as u32 & 0xffff;
                let page = high >> 12;
                let one = Some(Pages {
                    first: page,
                    count: 1,
                });
                let is_block = high >> 11 & 1 != 0;
                let pages = if is_block { Pages::napot(page) } else { one };
                pages.map_or(Effect::DeviceTlbWide(device), |pages| {
                    Effect::DeviceTlb(device, pages)
                })
            }
            _ => Effect::Other,
        }
    }

    /// IOFENCE.C with AV.
    #[inline]
    fn completion(&[low, high, ..]: &Words) -> Option<(u64, u32)> {
        let writes = low & 0x3ff == 2 && low >> 10 & 1 != 0;
        writes.then_some((high << 2, (low >> 32) as u32))
    }

    fn page_table() -> PageTable {
        PageTable {
            root: PhysicalAddress(0x1000),
            format: Format::Riscv64 { levels: 4 },
            written_back: false,
        }
    }

    fn drive<W: World>(parts: Parts<Modelled<Self, W>>) -> Arc<dyn Iommu> {
        Arc::new(Unit::probe(parts).expect("the IOMMU comes up"))
    }
}
