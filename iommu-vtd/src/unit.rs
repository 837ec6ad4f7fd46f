//! One remapping unit: bring-up, the neutral operations, and the way out.

use crate::caps::Capabilities;
use crate::control::{GlobalCommand, HANDSHAKE_LIMIT};
use crate::faults::{self, Records};
use crate::invalidate::{self, Emit, Item};
use crate::page_requests::{self, PageRequestQueue};
use crate::planted::{self, Fault as Planted};
use crate::quarantine::LockedEntry;
use crate::queue::{self, Queue};
use crate::spec::registers::{
    FECTL, FECTL_INTERRUPT_MASK, FSTS, Global, PMEN, PMEN_ENABLE, PMEN_STATUS, RTADDR,
    fault_status_clear, root_table_address,
};
use crate::spec::tables::FirstStageEntry;
use crate::tables::Tables;
use alloc::sync::Arc;
use core::{fmt, mem};
use iommu_core::cover::Costs;
use iommu_core::error::{
    AttachError, Incompatible, ProbeError, QueueError, TagsExhausted, Timeout,
};
use iommu_core::fault::{Fault, FaultSummary};
use iommu_core::ids::{DeviceId, Pasid, Tag};
use iommu_core::iommu::{Completed, DeviceConfig, Features, Iommu, PageFaults, Ticket};
use iommu_core::operation::Invalidation;
use iommu_core::page_request::{PageResponse, Taken};
use iommu_core::page_table::{Format, PageTable};
use iommu_core::platform::{Mmio, Parts, Platform, wait_until};
use iommu_core::quarantine::Quarantine;
use iommu_core::ring::Ring;
use iommu_core::tag::TagAllocator;
use spin::Mutex;

/// One VT-d remapping unit in scalable mode with first-stage translation.
///
/// Table changes serialise on one spin lock, held while their invalidations complete;
/// [`submit`](Iommu::submit) and [`wait`](Iommu::wait) do not take it. Dropping a unit is
/// [`disable`](Self::disable) without its answer.
pub struct Unit<P: Platform> {
    parts: Arc<Parts<P>>,
    pub(crate) capabilities: Capabilities,
    costs: Costs,
    pub(crate) quarantine: Quarantine,
    global: GlobalCommand<P>,
    memory: Arc<Memory<P>>,
    tags: TagAllocator,
    records: Records,
}

/// What the hardware accesses. It is leaked rather than freed if the hardware cannot be stopped.
struct Memory<P: Platform> {
    queue: Queue<P>,
    tables: Mutex<Tables<P>>,
    /// `None` if the hardware takes no page requests.
    page_requests: Option<PageRequestQueue<P>>,
}

impl<P: Platform> Unit<P> {
    /// Brings up the unit whose registers `parts.mmio` accesses. When it returns, translation is on
    /// and every device is blocked.
    ///
    /// Whatever firmware left on is turned off first: translation, then interrupt remapping, then
    /// the queue. From there until translation is on again, and for good if probing fails, DMA
    /// reaches memory untranslated, except where protected memory regions or the bridges stop it; a
    /// kernel that minds keeps bus mastering off meanwhile. Fault interrupts are masked:
    /// [`take_faults`](Iommu::take_faults) is how faults are seen.
    ///
    /// The window must be [`Capabilities::register_bytes`] long; the DMAR table says how long it
    /// is.
    ///
    /// # Errors
    ///
    /// [`ProbeError`] says what is missing or what failed. The unit is off then, unless it is the
    /// turning off that failed.
    pub fn probe(parts: Parts<P>) -> Result<Self, ProbeError> {
        let parts = Arc::new(parts);
        let capabilities = Capabilities::read(&parts.mmio)?;
        let global = GlobalCommand::new(&parts);
        parts.mmio.write32(FECTL, FECTL_INTERRUPT_MASK);
        turn_off(&parts, &global)?;
        capabilities.require()?;

        let tables = Tables::new(&parts, capabilities.table_coherency())?;
        let queue = Ring::new(&parts, queue::Registers, queue::config())?;
        let page_requests = match capabilities.page_requests() {
            true => Some(PageRequestQueue::new(&parts)?),
            false => None,
        };
        let unit = Self {
            memory: Arc::new(Memory {
                queue,
                tables: Mutex::new(tables),
                page_requests,
            }),
            tags: TagAllocator::new(1, capabilities.last_tag().into()),
            records: Records::new(()),
            parts,
            capabilities,
            costs: Costs::DEFAULT,
            quarantine: Quarantine::default(),
            global,
        };
        unit.turn_on()?;
        Ok(unit)
    }

    /// This unit with other costs than [`Costs::DEFAULT`]; they decide how precisely a range is
    /// invalidated.
    #[must_use]
    pub fn with_costs(mut self, costs: Costs) -> Self {
        self.costs = costs;
        self
    }

    /// The unit's capabilities.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Turns translation off, then the queue.
    ///
    /// From then on DMA reaches memory untranslated: the caller has stopped every device.
    ///
    /// # Errors
    ///
    /// The hardware does not stop. Tables and queue are leaked, as it may go on using them.
    pub fn disable(self) -> Result<(), Timeout> {
        turn_off(&self.parts, &self.global)
    }

    /// Turns the queue on, then translation over the empty root table.
    fn turn_on(&self) -> Result<(), ProbeError> {
        let mmio = &self.parts.mmio;
        let forget = &mut |_| ();
        faults::take(mmio, &self.capabilities, &self.records, forget);
        mmio.write32(FSTS, fault_status_clear::ALL);
        queue::enable(&self.parts, &self.global, &self.memory.queue)?;

        let root = self.memory.tables.lock().root();
        mmio.write64(RTADDR, root_table_address(root.0));
        self.flush_write_buffer()?;
        self.global.set_root_table()?;
        if let Some(page_requests) = &self.memory.page_requests {
            page_requests.set_up(mmio);
        }
        if !self.capabilities.root_table_invalidates() {
            self.run(|emit| invalidate::everything(&self.capabilities, emit))?;
        }

        self.global
            .enable(Global::TRANSLATION, "turning on translation")?;
        self.open_protected_memory()?;
        Ok(())
    }

    /// Takes the protected memory regions away, which stop even translated DMA.
    fn open_protected_memory(&self) -> Result<(), Timeout> {
        let mmio = &self.parts.mmio;
        if !self.capabilities.protected_memory() || mmio.read32(PMEN) & PMEN_ENABLE == 0 {
            return Ok(());
        }
        mmio.write32(PMEN, 0);
        let operation = "turning off the protected memory regions";
        wait_until(&self.parts.clock, HANDSHAKE_LIMIT, operation, || {
            mmio.read32(PMEN) & PMEN_STATUS == 0
        })
    }

    /// Lets the hardware know of a table change: posts what `list` says, if anything, and waits.
    pub(crate) fn commit(&self, list: impl Fn(Emit<'_>)) -> Result<(), QueueError> {
        self.flush_write_buffer().map_err(QueueError::Timeout)?;
        let mut is_empty = true;
        list(&mut |_| is_empty = false);
        if is_empty { Ok(()) } else { self.run(list) }
    }

    fn run(&self, list: impl Fn(Emit<'_>)) -> Result<(), QueueError> {
        let ticket = self.memory.queue.submit(list)?;
        self.memory.queue.wait(ticket).map(drop)
    }

    pub(crate) fn queue(&self) -> &Queue<P> {
        &self.memory.queue
    }

    pub(crate) fn tables(&self) -> &Mutex<Tables<P>> {
        &self.memory.tables
    }

    fn flush_write_buffer(&self) -> Result<(), Timeout> {
        if self.capabilities.write_buffer_flush() && !planted::is(Planted::VtdWriteBufferKept) {
            self.global.flush_write_buffer()?;
        }
        Ok(())
    }

    /// Makes the entry not present and everything cached from it forgotten, if that is not done.
    fn block_in(
        &self,
        tables: &mut Tables<P>,
        device: DeviceId,
        pasid: Pasid,
    ) -> Result<(), AttachError> {
        let source_id = source_id(device)?;
        let pasids = tables.pasids(source_id)?;
        let attached = pasids.get(device, pasid)?;
        if attached.blocked {
            return Ok(());
        }
        pasids.revoke(pasid);
        let device_tlb = self.asks_device(tables.config(source_id), device);
        let (tag, capabilities) = (attached.tag, &self.capabilities);
        self.commit(|emit| {
            invalidate::pasid_removed(source_id, tag, pasid, device_tlb, capabilities, emit);
        })?;
        tables.pasids(source_id)?.set_blocked(pasid);
        Ok(())
    }
}

impl<P: Platform> Iommu for Unit<P> {
    fn features(&self) -> Features {
        self.capabilities.features()
    }

    fn check(&self, table: &PageTable) -> Result<(), Incompatible> {
        let Format::X86_64 { levels } = table.format else {
            return Err(Incompatible::Architecture);
        };
        let most = self.capabilities.levels();
        if !(4..=most).contains(&levels) {
            let format = Format::X86_64 { levels: most };
            return Err(Incompatible::VirtualAddressBits {
                cpu: table.format.virtual_bits(),
                iommu: format.virtual_bits(),
            });
        }
        if table.root.0 & 0xfff != 0 || table.root.0 >> 52 != 0 {
            return Err(Incompatible::Root);
        }
        if !self.capabilities.page_walk_snoop() && !table.written_back {
            return Err(Incompatible::NonCoherentWalk);
        }
        Ok(())
    }

    fn allocate_tag(&self) -> Result<Tag, TagsExhausted> {
        self.tags.allocate()
    }

    fn free_tag(&self, tag: Tag) {
        self.tags.free(tag);
    }

    /// As [`Iommu::enable_device`]. PASIDs wider than the IOMMU's are not used.
    fn enable_device(&self, device: DeviceId, config: DeviceConfig) -> Result<(), AttachError> {
        let source_id = source_id(device)?;
        let features = self.features();
        if config.device_tlb && !features.device_tlb {
            return Err(AttachError::NoDeviceTlb);
        }
        let faults_can_be_resolved = match config.page_faults {
            PageFaults::Fatal => true,
            PageFaults::PageRequests { .. } => config.device_tlb && features.page_requests,
            PageFaults::Stall => false,
        };
        if !faults_can_be_resolved {
            return Err(AttachError::NoPageRequests);
        }
        let config = DeviceConfig {
            pasid_bits: config.pasid_bits.min(features.pasid_bits),
            ..config
        };
        let mut tables = self.memory.tables.lock();
        tables.add(source_id, config)?;
        self.quarantine.admit(device);
        let added = |emit: Emit<'_>| invalidate::device_added(source_id, &self.capabilities, emit);
        if let Err(error) = self.commit(added) {
            tables.revoke(source_id)?;
            // Unless this succeeds, the hardware may still look at the PASID structure.
            if self.forget_device(device, config).is_ok() {
                tables.remove(source_id);
                self.quarantine.dismiss(device);
            }
            return Err(error.into());
        }
        Ok(())
    }

    fn device_config(&self, device: DeviceId) -> Option<DeviceConfig> {
        let source_id = source_id(device).ok()?;
        self.memory.tables.lock().config(source_id)
    }

    fn disable_device(&self, device: DeviceId) -> Result<(), AttachError> {
        let source_id = source_id(device)?;
        let mut tables = self.memory.tables.lock();
        let config = tables.revoke(source_id)?;
        self.forget_device(device, config)?;
        tables.remove(source_id);
        self.quarantine.dismiss(device);
        Ok(())
    }

    fn attach(
        &self,
        device: DeviceId,
        pasid: Pasid,
        tag: Tag,
        table: &PageTable,
    ) -> Result<(), AttachError> {
        let source_id = source_id(device)?;
        self.check(table)?;
        let entry = FirstStageEntry {
            domain_id: tag.0 as u16 * u16::from(!planted::is(Planted::VtdEntryWithoutDomain)),
            root: table.root,
            five_levels: table.format == Format::X86_64 { levels: 5 },
            page_walk_snoop: self.capabilities.page_walk_snoop()
                && !planted::is(Planted::VtdWalkNotSnooped),
        };
        let mut tables = self.memory.tables.lock();
        tables
            .pasids(source_id)?
            .attach(device, pasid, tag, entry)?;
        let added = |emit: Emit<'_>| invalidate::pasid_added(tag, pasid, &self.capabilities, emit);
        if let Err(error) = self.commit(added) {
            // Unless this succeeds, the hardware may still use the page table, and the PASID stays
            // attached.
            if self.block_in(&mut tables, device, pasid).is_ok() {
                tables.pasids(source_id)?.remove(pasid);
            }
            return Err(error.into());
        }
        Ok(())
    }

    fn block(&self, device: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        self.block_in(&mut self.memory.tables.lock(), device, pasid)
    }

    fn detach(&self, device: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        let mut tables = self.memory.tables.lock();
        self.block_in(&mut tables, device, pasid)?;
        tables.pasids(source_id(device)?)?.remove(pasid);
        Ok(())
    }

    fn submit(&self, invalidation: &Invalidation<'_>) -> Result<Ticket, QueueError> {
        self.quarantine.check(invalidation.targets)?;
        let costs = self.costs.shared(queue::ROOM, invalidation.targets.len());
        self.memory.queue.submit(|emit| {
            let (quarantine, capabilities) = (&self.quarantine, &self.capabilities);
            invalidate::encode_without(quarantine, invalidation, capabilities, &costs, emit);
        })
    }

    fn wait(&self, ticket: Ticket) -> Result<Completed, QueueError> {
        self.memory.queue.wait(ticket)
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
        let mmio = &self.parts.mmio;
        faults::take(mmio, &self.capabilities, &self.records, report)
    }

    fn take_page_requests(&self, most: usize, take: &mut dyn FnMut(Taken)) -> usize {
        match &self.memory.page_requests {
            Some(page_requests) => page_requests.take(&self.parts.mmio, most, take),
            None => 0,
        }
    }

    fn respond(&self, responses: &[PageResponse]) -> Result<(), QueueError> {
        self.memory.queue.post(|emit| {
            for response in responses {
                emit(Item::Command(page_requests::encode(response)));
            }
        })
    }

    fn drain_page_requests(&self, device: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        let source_id = source_id(device)?;
        let (tag, device_tlb) = {
            let mut tables = self.memory.tables.lock();
            let tag = tables.pasids(source_id)?.get(device, pasid)?.tag;
            (tag, self.asks_device(tables.config(source_id), device))
        };
        let Some(page_requests) = &self.memory.page_requests else {
            return Ok(());
        };
        let (drained, capabilities) = (page_requests.drained(), &self.capabilities);
        self.run(|emit| {
            invalidate::page_requests_drained(
                source_id,
                tag,
                pasid,
                device_tlb,
                drained,
                capabilities,
                emit,
            );
        })?;
        Ok(())
    }
}

impl<P: Platform> Unit<P> {
    /// Takes everything of a device whose context entry is no longer present out of the caches.
    fn forget_device(&self, device: DeviceId, config: DeviceConfig) -> Result<(), AttachError> {
        let source_id = source_id(device)?;
        let device_tlb = self.asks_device(Some(config), device);
        let capabilities = &self.capabilities;
        self.commit(|emit| invalidate::device_removed(source_id, device_tlb, capabilities, emit))?;
        Ok(())
    }

    /// Whether a device has a TLB to be invalidated: in quarantine it is left alone.
    fn asks_device(&self, config: Option<DeviceConfig>, device: DeviceId) -> bool {
        let is_left_out = self.quarantine.has(device) && !planted::is(Planted::VtdQuarantinedAsked);
        config.is_some_and(|config| config.device_tlb) && !is_left_out
    }
}

impl<P: Platform> Drop for Unit<P> {
    fn drop(&mut self) {
        if turn_off(&self.parts, &self.global).is_err() {
            mem::forget(self.memory.clone());
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

/// Turns off whatever is on, translation first, so that nothing is translated by tables whose
/// changes could not be invalidated any more.
fn turn_off<P: Platform>(parts: &Parts<P>, global: &GlobalCommand<P>) -> Result<(), Timeout> {
    global.disable(Global::TRANSLATION, "turning off translation")?;
    global.disable(
        Global::INTERRUPT_REMAPPING,
        "turning off interrupt remapping",
    )?;
    queue::disable(parts, global)
}

/// A source-id has 16 bits.
pub(crate) fn source_id(device: DeviceId) -> Result<u16, AttachError> {
    u16::try_from(device.0).map_err(|_| AttachError::DeviceIdTooWide(device))
}
