//! VT-d's queued invalidation in scalable mode (Intel VT-d specification 4.1, sections 6.5 and 11.4).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use iommu_core::ids::PhysicalAddress;
use iommu_core::iommu::Iommu;
use iommu_core::page_table::{Format, PageTable};
use iommu_core::platform::Parts;
use iommu_vtd::Unit;

use super::registers::Registers;
use super::{Model, Modelled, Words};
use crate::invalidate::effect::{Effect, Pages};
use crate::invalidate::world::World;

/// CAP: 64 K domains, page-selective invalidation up to 2^18 pages, ESRTPS, fault record at 0x220.
const CAP_VALUE: u64 = 0x81d2_008c_222f_0606;
/// ECAP: QI, device TLBs, PASIDs of 20 bits, scalable mode, first stage, all of it coherent.
const ECAP_VALUE: u64 = 0x0001_8d9a_20f0_0f4f;

const CAP: usize = 0x08;
const ECAP: usize = 0x10;
const GCMD: usize = 0x18;
const GSTS: usize = 0x1c;
const FSTS: usize = 0x34;
const IQT: usize = 0x88;
const IQA: usize = 0x90;

/// GSTS.RTPS, which shows that GCMD.SRTP was done and stays.
const ROOT_TABLE: u64 = 1 << 30;
/// A remapping unit.
#[derive(Default)]
pub struct Vtd {
    registers: Registers,
    queue: AtomicU64,
}

impl Model for Vtd {
    const WORDS: usize = 4;
    const TAIL: usize = IQT;

    fn read(&self, offset: usize) -> u64 {
        match offset {
            CAP => CAP_VALUE,
            ECAP => ECAP_VALUE,
            _ => self.registers.get(offset),
        }
    }

    fn write(&self, offset: usize, value: u64) {
        match offset {
            GCMD => {
                let root_table = self.registers.get(GSTS) & ROOT_TABLE;
                self.registers.set(GSTS, value | root_table);
            }
            // Writing ones clears errors, of which there are none.
            FSTS => {}
            IQA => self.queue.store(value, Ordering::Relaxed),
            _ => self.registers.set(offset, value),
        }
    }

    fn tail(&self, value: u64) -> usize {
        (value >> 5) as usize
    }

    fn queue(&self) -> (u64, usize) {
        let address = self.queue.load(Ordering::Relaxed);
        (address & !0xfff, 128 << (address & 7))
    }

    fn effect(&[low, high, ..]: &Words) -> Effect {
        let source_id = (low >> 16) as u32 & 0xffff;
        let device_tlb = |is_block: bool| {
            let page = high >> 12;
            let one = Some(Pages {
                first: page,
                count: 1,
            });
            let pages = if is_block { Pages::napot(page) } else { one };
            pages.map_or(Effect::DeviceTlbWide(source_id), |pages| {
                Effect::DeviceTlb(source_id, pages)
            })
        };
        match low & 0xf {
            3 => device_tlb(high & 1 != 0),
            5 => Effect::Sync,
            6 if low >> 4 & 3 == 3 => Effect::Iotlb(Pages {
                first: high >> 12,
                count: 1 << (high & 0x3f),
            }),
            2 | 6 => Effect::IotlbWide,
            8 => device_tlb(high >> 11 & 1 != 0),
            _ => Effect::Other,
        }
    }

    #[inline]
    fn completion(&[low, high, ..]: &Words) -> Option<(u64, u32)> {
        let writes_status = low & 0xf == 5 && low >> 5 & 1 != 0;
        writes_status.then_some((high, (low >> 32) as u32))
    }

    fn page_table() -> PageTable {
        PageTable {
            root: PhysicalAddress(0x1000),
            format: Format::X86_64 { levels: 4 },
            written_back: false,
        }
    }

    fn drive<W: World>(parts: Parts<Modelled<Self, W>>) -> Arc<dyn Iommu> {
        Arc::new(Unit::probe(parts).expect("the unit comes up"))
    }
}
