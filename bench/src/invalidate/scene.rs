//! IOMMUs with devices that share one address space.

use std::sync::Arc;

use core_notifier::{Range, Srcu};
use iommu_core::cover::PAGE_SHIFT;
use iommu_core::error::QueueError;
use iommu_core::flush::flush;
use iommu_core::ids::{DeviceId, Pasid};
use iommu_core::invalidation_set::{Attachment, InvalidationSet};
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::operation::Levels;

use super::effect::Pages;
use super::hardware::{Machine, Model};
use super::linux::Spread;
use super::world::World;

/// The width of PASIDs that every model has.
const PASID_BITS: u8 = 8;

/// The PASID of the address space.
pub fn pasid() -> Pasid {
    Pasid::new(9).expect("it has 20 bits")
}

/// An address space in use.
pub struct Scene {
    set: InvalidationSet,
}

impl Scene {
    /// In use on so many IOMMUs, each made by `model`, by so many devices with a TLB on each; by one
    /// without if there are none.
    pub fn new<M: Model, W: World>(model: impl Fn() -> M, spread: Spread) -> Self {
        let set = InvalidationSet::new(Arc::new(Srcu::new()));
        for number in 0..spread.iommus {
            let iommu = Machine::<M, W>::new(model()).drive();
            let first = 16 * (number as u32 + 1);
            let devices = first..first + spread.devices.max(1) as u32;
            let devices = devices.map(DeviceId);
            attach::<M>(&set, &iommu, devices, spread.devices > 0);
        }
        Self { set }
    }

    /// Takes `pages` out of every cache, as after their unmapping.
    pub fn unmap(&self, pages: Pages) -> Result<(), QueueError> {
        flush(&self.set, range(pages), Levels::LeafOnly)
    }
}

fn attach<M: Model>(
    set: &InvalidationSet,
    iommu: &Arc<dyn Iommu>,
    devices: impl Iterator<Item = DeviceId>,
    device_tlb: bool,
) {
    let tag = iommu.allocate_tag().expect("there are tags");
    let config = DeviceConfig {
        pasid_bits: PASID_BITS,
        page_faults: PageFaults::Fatal,
        device_tlb,
    };
    for device in devices {
        let attachment = Attachment {
            device,
            pasid: pasid(),
            tag,
            device_tlb,
        };
        iommu.enable_device(device, config).expect("it is new");
        drop(set.add(iommu, attachment));
        iommu
            .attach(device, pasid(), tag, &M::page_table())
            .expect("the PASID is free");
    }
}

/// The addresses of `pages`.
pub fn range(pages: Pages) -> Range {
    let Pages { first, count } = pages;
    Range::new(first << PAGE_SHIFT, (first + count) << PAGE_SHIFT).expect("it is not inverted")
}
