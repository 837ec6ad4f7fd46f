//! One SMMU: bring-up, table changes, invalidation.

use crate::caps::Capabilities;
use crate::control::{self, Steps};
use crate::faults::EventQueue;
use crate::invalidate::{self, Emit, Item};
use crate::page_requests::{self, PriQueue};
use crate::planted::{self, Fault as Planted};
use crate::quarantine::LockedEntry;
use crate::queue::{self, Queue};
use crate::spec::tables::{ContextDescriptor, StreamEntry, blocked};
use crate::tables::{self, Attachment, ContextTable, Device, Reserved, StreamTable, Tables};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::fmt;
use iommu_core::cover::Costs;
use iommu_core::error::{AttachError, Incompatible, ProbeError, QueueError, TagsExhausted};
use iommu_core::fault::{Fault, FaultSummary};
use iommu_core::ids::{DeviceId, Pasid, Tag};
use iommu_core::iommu::{Completed, DeviceConfig, Features, Iommu, PageFaults, Ticket};
use iommu_core::operation::Invalidation;
use iommu_core::page_request::{PageResponse, Taken};
use iommu_core::page_table::PageTable;
use iommu_core::platform::{Parts, Platform};
use iommu_core::quarantine::Quarantine;
use iommu_core::tag::TagAllocator;
use spin::Mutex;

/// An SMMUv3 that translates.
///
/// The register window is pages 0 and 1: 0x20000 bytes. Interrupts stay off; whoever wants to be
/// woken polls [`take_faults`](Iommu::take_faults).
///
/// Dropping it aborts all traffic and turns everything off.
pub struct Unit<P: Platform> {
    parts: Arc<Parts<P>>,
    capabilities: Capabilities,
    costs: Costs,
    pub(crate) quarantine: Quarantine,
    tags: TagAllocator,
    structures: Arc<Structures<P>>,
}

/// What the SMMU reads and writes in memory.
struct Structures<P: Platform> {
    queue: Queue<P>,
    events: Mutex<EventQueue<P>>,
    /// `None` if there are no page requests.
    page_requests: Option<Mutex<PriQueue<P>>>,
    tables: Mutex<Tables<P>>,
}

impl<P: Platform> Unit<P> {
    /// Brings an SMMU up, with every device blocked.
    ///
    /// Whatever firmware or an earlier system left on is turned off first, and what they left in
    /// the caches is invalidated before translation starts.
    ///
    /// # Errors
    ///
    /// [`ProbeError`]; translation and queues are off then and traffic is aborted, except if there
    /// is no SMMU at all ([`ProbeError::NotPresent`]) or it does not answer.
    pub fn probe(parts: Parts<P>) -> Result<Self, ProbeError> {
        let parts = Arc::new(parts);
        let capabilities = Capabilities::read(&parts.mmio)?;
        control::stop(&parts)?;
        capabilities.require()?;
        let errors = Arc::default();
        let structures = Structures {
            queue: queue::create(&parts, &capabilities, &errors)?,
            events: Mutex::new(EventQueue::new(&parts, &capabilities, &errors)?),
            page_requests: match capabilities.page_requests() {
                true => Some(Mutex::new(PriQueue::new(&parts, &capabilities, &errors)?)),
                false => None,
            },
            tables: Mutex::new(Tables {
                streams: StreamTable::new(&parts, &capabilities)?,
                devices: BTreeMap::new(),
            }),
        };
        let unit = Self {
            parts,
            capabilities,
            costs: Costs::DEFAULT,
            quarantine: Quarantine::default(),
            // 0 stays unused: it is what an entry that was never written holds.
            tags: TagAllocator::new(1, capabilities.last_asid()),
            structures: Arc::new(structures),
        };
        // If this fails, dropping the unit turns off what is on.
        unit.start()?;
        Ok(unit)
    }

    /// This unit with other costs than [`Costs::DEFAULT`]; they decide how precisely a range is
    /// invalidated.
    #[must_use]
    pub fn with_costs(mut self, costs: Costs) -> Self {
        self.costs = costs;
        self
    }

    /// What this SMMU can do, in its own terms.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Turns a stopped SMMU on: registers, command queue, caches, event queue, translation.
    fn start(&self) -> Result<(), ProbeError> {
        let mmio = &self.parts.mmio;
        let steps = Steps::new(&self.capabilities);
        control::configure(mmio, &self.capabilities);
        self.structures.tables.lock().streams.set_up(mmio);
        queue::set_up(mmio, &self.structures.queue);
        self.structures.events.lock().set_up(mmio);
        if let Some(page_requests) = &self.structures.page_requests {
            page_requests.lock().set_up(mmio);
        }
        control::acknowledge_errors(mmio);

        control::enable(&self.parts, steps.commands, "enabling the command queue")?;
        self.run(|emit| invalidate::everything(&self.capabilities, emit))?;
        control::enable(&self.parts, steps.events, "enabling the event queue")?;
        if self.structures.page_requests.is_some() {
            control::enable(&self.parts, steps.requests, "enabling the PRI queue")?;
        }
        control::enable(&self.parts, steps.translation, "enabling the SMMU")?;
        Ok(())
    }

    /// Posts a list and waits for it.
    pub(crate) fn run(&self, emit: impl Fn(Emit<'_>)) -> Result<(), QueueError> {
        let ticket = self.structures.queue.submit(emit)?;
        self.structures.queue.wait(ticket)?;
        Ok(())
    }

    pub(crate) fn queue(&self) -> &Queue<P> {
        &self.structures.queue
    }

    pub(crate) fn tables(&self) -> &Mutex<Tables<P>> {
        &self.structures.tables
    }

    /// Whether a device has a TLB to be invalidated: in quarantine it is left alone.
    fn asks_device(&self, config: DeviceConfig, device: DeviceId) -> bool {
        let is_left_out =
            self.quarantine.has(device) && !planted::is(Planted::SmmuQuarantinedAsked);
        config.device_tlb && !is_left_out
    }

    pub(crate) fn stream_entry(
        &self,
        config: DeviceConfig,
        contexts: &ContextTable<P>,
    ) -> StreamEntry {
        StreamEntry {
            contexts: contexts.physical().0,
            log2_contexts: contexts.log2_entries(),
            cacheability: self.capabilities.cacheability(),
            device_tlb: config.device_tlb,
            forbid_stall: self.capabilities.stall() && config.page_faults != PageFaults::Stall,
            response_pasid: matches!(
                config.page_faults,
                PageFaults::PageRequests {
                    response_pasid: true
                }
            ),
            use_incoming_shareability: self.capabilities.overrides_attributes(),
            unprivileged: self.capabilities.overrides_permissions(),
        }
    }

    /// Blocks an attachment unless it is blocked already.
    fn block_attached(
        &self,
        device: &mut Device<P>,
        id: DeviceId,
        pasid: Pasid,
    ) -> Result<(), AttachError> {
        let attachment = device.attachment(id, pasid)?;
        if attachment.blocked {
            return Ok(());
        }
        let entry = device.contexts.entry(pasid);
        if !planted::is(Planted::SmmuBlockKeepsWalking) {
            let mut word_0 = blocked(attachment.word_0);
            if planted::is(Planted::SmmuBlockKeepsAsid) {
                word_0 |= attachment.word_0 & 0xffff << 48;
            }
            if planted::is(Planted::SmmuBlockStalls) {
                word_0 |= attachment.word_0 & 0b11 << 44;
            }
            entry.replace_first(word_0);
        }
        let device_tlb = self.asks_device(device.config, id);
        self.run(|emit| {
            invalidate::pasid_entry_blocked(id, pasid, attachment.tag, device_tlb, emit);
        })?;
        let done = Attachment {
            blocked: true,
            ..attachment
        };
        device.attached.insert(pasid, done);
        Ok(())
    }
}

impl<P: Platform> Iommu for Unit<P> {
    fn features(&self) -> Features {
        self.capabilities.features()
    }

    fn check(&self, table: &PageTable) -> Result<(), Incompatible> {
        tables::describe(table, Tag(0), &self.capabilities).map(drop)
    }

    fn allocate_tag(&self) -> Result<Tag, TagsExhausted> {
        self.tags.allocate()
    }

    fn free_tag(&self, tag: Tag) {
        self.tags.free(tag);
    }

    fn enable_device(&self, id: DeviceId, config: DeviceConfig) -> Result<(), AttachError> {
        let mut tables = self.structures.tables.lock();
        if !tables.streams.contains(id) {
            return Err(AttachError::DeviceIdTooWide(id));
        }
        if tables.devices.contains_key(&id) {
            return Err(AttachError::DeviceInUse(id));
        }
        if config.device_tlb && !self.capabilities.device_tlb() {
            return Err(AttachError::NoDeviceTlb);
        }
        let faults_can_be_resolved = match config.page_faults {
            PageFaults::Fatal => true,
            PageFaults::PageRequests { .. } => {
                config.device_tlb && self.capabilities.page_requests()
            }
            PageFaults::Stall => self.capabilities.stall(),
        };
        if !faults_can_be_resolved {
            return Err(AttachError::NoPageRequests);
        }
        let log2_contexts = config.pasid_bits.min(self.capabilities.pasid_bits());
        let coherency = self.capabilities.coherency();
        let contexts = ContextTable::new(&self.parts, log2_contexts, coherency)?;
        let leaf_added = tables.streams.reserve(id)? == Reserved::LeafAdded;
        let words = self.stream_entry(config, &contexts).words();
        let entry = tables.streams.entry(id);
        let entry = entry.ok_or(AttachError::DeviceIdTooWide(id))?;
        entry.set_up(&words);
        let changed = self.run(|emit| {
            invalidate::device_entry_changed(id, leaf_added, config.device_tlb, emit);
        });
        if let Err(error) = changed {
            entry.replace_first(0);
            // The SMMU may have seen the entry and still read the table behind it.
            core::mem::forget(contexts);
            return Err(error.into());
        }
        let device = Device {
            config,
            contexts,
            attached: BTreeMap::new(),
        };
        tables.devices.insert(id, device);
        self.quarantine.admit(id);
        Ok(())
    }

    fn device_config(&self, id: DeviceId) -> Option<DeviceConfig> {
        let tables = self.structures.tables.lock();
        tables.devices.get(&id).map(|device| device.config)
    }

    fn disable_device(&self, id: DeviceId) -> Result<(), AttachError> {
        let mut tables = self.structures.tables.lock();
        let device = tables.device(id)?;
        if let Some(&pasid) = device.attached.keys().next() {
            return Err(AttachError::PasidInUse(id, pasid));
        }
        let page_faults = device.config.page_faults;
        let device_tlb = self.asks_device(device.config, id);
        let entry = tables.streams.entry(id);
        let entry = entry.ok_or(AttachError::UnknownDevice(id))?;
        entry.replace_first(0);
        self.run(|emit| invalidate::device_entry_changed(id, false, device_tlb, emit))?;
        if page_faults == PageFaults::Stall {
            self.run(|emit| invalidate::stalls_ended(id, emit))?;
        }
        entry.clear_rest();
        tables.devices.remove(&id);
        self.quarantine.dismiss(id);
        Ok(())
    }

    /// If the queue fails meanwhile, the SMMU may have seen the entry: the page table must not be
    /// freed before the unit is dropped.
    fn attach(
        &self,
        id: DeviceId,
        pasid: Pasid,
        tag: Tag,
        table: &PageTable,
    ) -> Result<(), AttachError> {
        let mut tables = self.structures.tables.lock();
        let device = tables.device(id)?;
        device.check_free(id, pasid)?;
        let descriptor = ContextDescriptor {
            stall: device.config.page_faults == PageFaults::Stall,
            ..tables::describe(table, tag, &self.capabilities)?
        };
        let mut words = descriptor.words();
        if planted::is(Planted::SmmuDescriptorWithoutAsid) {
            words[0] &= u64::MAX >> 16;
        }
        words[0] |= u64::from(planted::is(Planted::SmmuAccessFlagIgnored)) << 35;
        words[0] |= u64::from(planted::is(Planted::SmmuAccessFlagUpdated)) << 43;
        let entry = device.contexts.entry(pasid);
        entry.set_up(&words);
        if let Err(error) = self.run(|emit| invalidate::pasid_entry_changed(id, pasid, emit)) {
            entry.replace_first(0);
            return Err(error.into());
        }
        let attachment = Attachment {
            tag,
            word_0: words[0],
            blocked: false,
        };
        device.attached.insert(pasid, attachment);
        Ok(())
    }

    fn block(&self, id: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        let mut tables = self.structures.tables.lock();
        self.block_attached(tables.device(id)?, id, pasid)
    }

    fn detach(&self, id: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        let mut tables = self.structures.tables.lock();
        let device = tables.device(id)?;
        self.block_attached(device, id, pasid)?;
        let entry = device.contexts.entry(pasid);
        if !planted::is(Planted::SmmuDetachLeavesValid) {
            entry.replace_first(0);
        }
        self.run(|emit| invalidate::pasid_entry_changed(id, pasid, emit))?;
        entry.clear_rest();
        device.attached.remove(&pasid);
        Ok(())
    }

    fn submit(&self, invalidation: &Invalidation<'_>) -> Result<Ticket, QueueError> {
        self.quarantine.check(invalidation.targets)?;
        let room = self.capabilities.command_list_room();
        let costs = self.costs.shared(room, invalidation.targets.len());
        let queue = &self.structures.queue;
        queue.submit(|emit| {
            let (quarantine, capabilities) = (&self.quarantine, &self.capabilities);
            invalidate::encode_without(quarantine, invalidation, capabilities, &costs, emit);
        })
    }

    fn wait(&self, ticket: Ticket) -> Result<Completed, QueueError> {
        self.structures.queue.wait(ticket)
    }

    fn suspect(&self, device: DeviceId) -> bool {
        self.quarantine.suspect(device)
    }

    fn quarantine(&self, device: DeviceId) -> Result<(), AttachError> {
        let entry = &mut LockedEntry {
            unit: self,
            tables: &mut self.tables().lock(),
            device,
        };
        self.quarantine.cut_off(device, entry)
    }

    fn is_quarantined(&self, device: DeviceId) -> bool {
        self.quarantine.has(device)
    }

    fn restore(&self, device: DeviceId) -> Result<(), AttachError> {
        let entry = &mut LockedEntry {
            unit: self,
            tables: &mut self.tables().lock(),
            device,
        };
        self.quarantine.bring_back(device, entry)
    }

    fn take_faults(&self, report: &mut dyn FnMut(Fault)) -> FaultSummary {
        let mut events = self.structures.events.lock();
        events.take(&self.parts.mmio, report)
    }

    /// Page requests come from the PRI queue, stalled transactions from the event queue.
    fn take_page_requests(&self, most: usize, take: &mut dyn FnMut(Taken)) -> usize {
        let mmio = &self.parts.mmio;
        let (mut room, mut left) = (most, 0);
        if let Some(page_requests) = &self.structures.page_requests {
            left += page_requests.lock().take(mmio, most, &mut |taken| {
                room -= usize::from(taken != Taken::Overflow);
                take(taken);
            });
        }
        if self.capabilities.stall() {
            let mut events = self.structures.events.lock();
            left += events.take_stalls(mmio, room, take);
        }
        left
    }

    fn respond(&self, responses: &[PageResponse]) -> Result<(), QueueError> {
        self.structures.queue.post(|emit| {
            for response in responses {
                emit(Item::Command(page_requests::encode(response)));
            }
        })
    }

    fn drain_page_requests(&self, id: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        let device_tlb = {
            let mut tables = self.structures.tables.lock();
            let device = tables.device(id)?;
            device.attachment(id, pasid)?;
            self.asks_device(device.config, id)
        };
        self.run(|emit| invalidate::page_requests_drained(id, pasid, device_tlb, emit))?;
        Ok(())
    }
}

impl<P: Platform> Drop for Unit<P> {
    fn drop(&mut self) {
        if control::stop(&self.parts).is_err() {
            // The SMMU does not answer and may still use its structures: they are never freed.
            core::mem::forget(self.structures.clone());
        }
    }
}

impl<P: Platform> fmt::Debug for Unit<P> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Unit")
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}
