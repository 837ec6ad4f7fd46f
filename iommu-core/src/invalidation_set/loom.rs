//! A flush against attach and detach under every interleaving that loom explores. The hardware walks the
//! page table and keeps what it finds, as a device TLB does.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p iommu-core --release --lib`.

use super::{Attachment, InvalidationSet};
use crate::Range;
use crate::error::{AttachError, Incompatible, QueueError, TagsExhausted};
use crate::fault::{Fault, FaultSummary};
use crate::flush::flush;
use crate::ids::{DeviceId, Pasid, Tag};
use crate::iommu::{Completed, DeviceConfig, Features, Iommu, Ticket};
use crate::operation::{Invalidation, Levels, Target};
use crate::page_table::PageTable;
use alloc::sync::Arc;
use core_notifier::{Hooked, Hooks, Mode, Srcu};
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;

const STALE: u64 = 1;
const ATTACHMENT: Attachment = Attachment {
    device: DeviceId(1),
    pasid: Pasid::UNTAGGED,
    tag: Tag(1),
    device_tlb: true,
};

/// One device behind one IOMMU, and the entry of the page table that it uses.
struct Machine {
    entry: AtomicU64,
    hardware: Mutex<Hardware>,
}

/// What the hardware does is in one order, so it has a lock.
#[derive(Default)]
struct Hardware {
    /// Whether the device's entry is valid.
    attached: bool,
    /// What the device found when it last walked.
    device_tlb: Option<u64>,
    /// The tag belongs to somebody else.
    tag_is_free: bool,
}

impl Machine {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            entry: AtomicU64::new(STALE),
            hardware: Mutex::default(),
        })
    }

    /// The device uses the page.
    fn walk(&self) {
        let mut hardware = self.hardware.lock().unwrap();
        if hardware.attached {
            hardware.device_tlb = Some(self.entry.load(Ordering::Relaxed));
        }
    }

    fn unmap<M: Mode>(&self, set: &InvalidationSet<M>) {
        self.entry.store(0, Ordering::Relaxed);
        flush(set, Range::new(0x1000, 0x2000).unwrap(), Levels::All).unwrap();
    }
}

impl Iommu for Machine {
    fn features(&self) -> Features {
        Features {
            pasid_bits: 0,
            device_tlb: true,
            iotlb_keyed_by_pasid: false,
            chained_sync: true,
            caches_not_present: false,
            page_requests: false,
            stall: false,
        }
    }
    fn check(&self, _: &PageTable) -> Result<(), Incompatible> {
        Ok(())
    }
    fn allocate_tag(&self) -> Result<Tag, TagsExhausted> {
        Ok(ATTACHMENT.tag)
    }
    fn free_tag(&self, _: Tag) {
        self.hardware.lock().unwrap().tag_is_free = true;
    }
    fn enable_device(&self, _: DeviceId, _: DeviceConfig) -> Result<(), AttachError> {
        Ok(())
    }
    fn disable_device(&self, _: DeviceId) -> Result<(), AttachError> {
        Ok(())
    }
    fn device_config(&self, _: DeviceId) -> Option<DeviceConfig> {
        None
    }
    /// Stores are published by a full fence ([`DmaBuffer::publish`](crate::platform::DmaBuffer)).
    fn attach(&self, _: DeviceId, _: Pasid, _: Tag, _: &PageTable) -> Result<(), AttachError> {
        fence(Ordering::SeqCst);
        self.hardware.lock().unwrap().attached = true;
        Ok(())
    }
    fn block(&self, _: DeviceId, _: Pasid) -> Result<(), AttachError> {
        Ok(())
    }
    fn detach(&self, _: DeviceId, _: Pasid) -> Result<(), AttachError> {
        let mut hardware = self.hardware.lock().unwrap();
        (hardware.attached, hardware.device_tlb) = (false, None);
        Ok(())
    }
    fn submit(&self, invalidation: &Invalidation<'_>) -> Result<Ticket, QueueError> {
        let mut hardware = self.hardware.lock().unwrap();
        assert!(!hardware.tag_is_free, "an invalidation of another's tag");
        if invalidation.targets.iter().any(Target::is_device_tlb) {
            hardware.device_tlb = None;
        }
        Ok(Ticket {
            end: 0,
            has_sync: true,
        })
    }
    fn wait(&self, _: Ticket) -> Result<Completed, QueueError> {
        Ok(Completed { _proof: () })
    }
    fn take_faults(&self, _: &mut dyn FnMut(Fault)) -> FaultSummary {
        FaultSummary::default()
    }
}

const TABLE: PageTable = PageTable {
    root: crate::ids::PhysicalAddress(0),
    format: crate::page_table::Format::X86_64 { levels: 4 },
    written_back: false,
};

/// The flush runs on the only CPU; nobody waits for a grace period.
struct OneCpu;

// SAFETY: one thread enters sections, and it is the CPU; no grace period is asked for, so nobody relies
// on the barrier.
unsafe impl Hooks for OneCpu {
    fn cpus(&self) -> usize {
        1
    }
    fn with_cpu<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        work(0)
    }
    fn barrier(&self) {
        unreachable!("nobody waits");
    }
}

fn model(scene: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(scene);
}

/// Entering a hooked section orders nothing, so all rests on the flush's own fence.
#[test]
fn a_flush_against_attach_leaves_nothing_stale() {
    model(|| {
        let machine = Machine::new();
        let srcu = Srcu::with_mode(Hooked::new(OneCpu), || ());
        let set = Arc::new(InvalidationSet::new(Arc::new(srcu)));
        let attach = {
            let (machine, set) = (machine.clone(), set.clone());
            thread::spawn(move || {
                let iommu: Arc<dyn Iommu> = machine.clone();
                drop(set.add(&iommu, ATTACHMENT));
                let Attachment {
                    device, pasid, tag, ..
                } = ATTACHMENT;
                machine.attach(device, pasid, tag, &TABLE).unwrap();
                machine.walk();
            })
        };
        machine.unmap(&set);
        attach.join().unwrap();
        let found = machine.hardware.lock().unwrap().device_tlb;
        assert_ne!(found, Some(STALE), "a translation outlives its flush");
    });
}

#[test]
fn a_flush_against_detach_never_names_a_tag_that_was_given_back() {
    model(|| {
        let machine = Machine::new();
        let set = Arc::new(InvalidationSet::new(Arc::new(Srcu::new())));
        let iommu: Arc<dyn Iommu> = machine.clone();
        drop(set.add(&iommu, ATTACHMENT));
        let Attachment {
            device, pasid, tag, ..
        } = ATTACHMENT;
        machine.attach(device, pasid, tag, &TABLE).unwrap();
        machine.walk();
        let unmap = {
            let (machine, set) = (machine.clone(), set.clone());
            thread::spawn(move || {
                machine.unmap(&set);
                let found = machine.hardware.lock().unwrap().device_tlb;
                assert_ne!(found, Some(STALE), "a translation outlives its flush");
            })
        };
        machine.detach(device, pasid).unwrap();
        drop(set.remove(&iommu, ATTACHMENT));
        machine.free_tag(tag);
        unmap.join().unwrap();
    });
}
