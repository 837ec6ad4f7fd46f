//! One RISC-V IOMMU: brought up, driven and turned off.

use crate::caps::{Capabilities, Config};
use crate::control;
use crate::invalidate;
use crate::memory::{Context, Device, MOST_LEVELS, Memory, Tables};
use crate::page_requests;
use crate::planted::{self, Fault as Planted};
use crate::quarantine::LockedEntry;
use crate::queue::Queue;
use crate::spec::tables::{
    DeviceContext, FirstStageMode, ProcessAttributes, ProcessContext, ProcessDirectoryMode,
    TranslationControl,
};
use crate::tables::{DeviceDirectory, ProcessDirectory};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::fmt;
use core::mem;
use iommu_core::cover::Costs;
use iommu_core::error::{AttachError, Incompatible, ProbeError, QueueError, TagsExhausted};
use iommu_core::fault::{Fault, FaultSummary};
use iommu_core::ids::{DeviceId, Pasid, Tag};
use iommu_core::iommu::{Completed, DeviceConfig, Features, Iommu, PageFaults, Ticket};
use iommu_core::operation::{Invalidation, Target};
use iommu_core::page_request::{PageResponse, Taken};
use iommu_core::page_table::{Format, PageTable};
use iommu_core::platform::{Parts, Platform, WalkerCoherency};
use iommu_core::quarantine::Quarantine;
use iommu_core::ring::Item;
use iommu_core::tag::TagAllocator;
use spin::Mutex;

/// PSCIDs have 20 bits; 0 stays unused.
const TAGS: (u32, u32) = (1, (1 << 20) - 1);

/// One IOMMU. Dropping it turns the IOMMU off: then every request of every device is refused.
pub struct Unit<P: Platform> {
    pub(crate) parts: Arc<Parts<P>>,
    pub(crate) capabilities: Capabilities,
    config: Config,
    costs: Costs,
    pub(crate) quarantine: Quarantine,
    tags: TagAllocator,
    memory: Arc<Memory<P>>,
    /// Held for one use of the debug translation interface.
    pub(crate) debug: Mutex<()>,
}

impl<P: Platform> Unit<P> {
    /// Brings up an IOMMU with the default [`Config`].
    ///
    /// # Errors
    ///
    /// As [`probe_with`](Self::probe_with).
    pub fn probe(parts: Parts<P>) -> Result<Self, ProbeError> {
        Self::probe_with(parts, Config::default())
    }

    /// Brings up an IOMMU, whatever state firmware left it in (section "Guidelines for
    /// initialization"). When the call returns, it refuses the requests of every device.
    ///
    /// # Errors
    ///
    /// If a capability is missing, nothing was written. After any other error the IOMMU is off; only
    /// if it does not even turn off in time, the memory that it may still use is never freed.
    pub fn probe_with(parts: Parts<P>, config: Config) -> Result<Self, ProbeError> {
        let parts = Arc::new(parts);
        let capabilities = Capabilities::read(&parts.mmio)?;
        capabilities.require(&config)?;
        control::turn_off(&parts, &capabilities)?;
        control::set_control(&parts, &capabilities)?;
        let unit = Self {
            memory: Arc::new(Memory::new(&parts, &capabilities, &config)?),
            parts,
            capabilities,
            config,
            costs: Costs::DEFAULT,
            quarantine: Quarantine::default(),
            tags: TagAllocator::new(TAGS.0, TAGS.1),
            debug: Mutex::new(()),
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

    /// What the hardware can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Queues, then what was inherited in the caches, then the empty device directory. An error
    /// drops the unit, which turns everything off.
    fn turn_on(&self) -> Result<(), ProbeError> {
        let Memory {
            queue,
            faults,
            page_requests,
            ..
        } = &*self.memory;
        queue.registers().enable(&self.parts, queue.physical())?;
        faults.enable()?;
        if let Some(page_requests) = page_requests {
            page_requests.enable()?;
        }
        self.run(|emit| invalidate::inherited(&self.capabilities, emit))?;
        self.use_directory()
    }

    /// Puts the smallest device directory to use that holds the device ids and that the hardware
    /// takes: `ddtp.iommu_mode` keeps only modes it supports.
    fn use_directory(&self) -> Result<(), ProbeError> {
        let mut tables = self.memory.tables.lock();
        let format = self.capabilities.device_context_format();
        let least = self.config.least_levels(&self.capabilities);
        let mut found = 0;
        for levels in least..=MOST_LEVELS {
            if levels > least {
                let coherency = self.config.coherency;
                tables.directory = DeviceDirectory::new(&self.parts, format, levels, coherency)?;
            }
            let pointer = tables.directory.pointer();
            found = control::write_ddtp(&self.parts, pointer)?;
            if found == pointer {
                return Ok(());
            }
            control::turn_directory_off(&self.parts)?;
        }
        Err(ProbeError::MissingCapability {
            capability: "a device directory for these device ids",
            register: "ddtp",
            value: found,
        })
    }

    /// Posts a list and waits for it.
    pub(crate) fn run(&self, emit: impl Fn(&mut dyn FnMut(Item<2>))) -> Result<(), QueueError> {
        let ticket = self.memory.queue.submit(emit)?;
        self.memory.queue.wait(ticket).map(drop)
    }

    /// Takes a changed device context out of the caches, then what was translated through it.
    pub(crate) fn device_entry_changed(&self, device: DeviceId) -> Result<(), QueueError> {
        self.run_in_turn(
            |emit| invalidate::device_entry_changed(device, emit),
            |emit| invalidate::below_device(emit),
        )
    }

    /// Takes a changed process context out of the caches, then what was translated through it.
    fn pasid_entry_changed(
        &self,
        device: DeviceId,
        pasid: Pasid,
        tag: Tag,
    ) -> Result<(), QueueError> {
        self.run_in_turn(
            |emit| invalidate::pasid_entry_changed(device, pasid, emit),
            |emit| invalidate::below_pasid(tag, emit),
        )
    }

    /// Two lists, the second posted when the first is done. Commands may be executed out of order
    /// (section "IOMMU Command-queue Fence commands"): in one list, the IOATC could be emptied first
    /// and filled again through the entry that is still cached.
    fn run_in_turn(
        &self,
        entry: impl Fn(&mut dyn FnMut(Item<2>)),
        below: impl Fn(&mut dyn FnMut(Item<2>)),
    ) -> Result<(), QueueError> {
        if planted::is(Planted::RiscvBelowNotDelayed) {
            return self.run(|emit| {
                entry(emit);
                below(emit);
            });
        }
        self.run(entry)?;
        self.run(below)
    }

    /// Posts the commands for targets of one kind, in more than one list only if the queue is too
    /// small for two commands each. The ticket of the last list stands for all: an `IOFENCE.C` waits
    /// for every command before.
    fn post(&self, invalidation: &Invalidation<'_>) -> Result<Ticket, QueueError> {
        let Memory { queue, slots, .. } = &*self.memory;
        let room = slots - 2;
        let mut rest = invalidation.targets;
        let costs = self.costs.shared(room, rest.len());
        loop {
            let (targets, later) = rest.split_at(rest.len().min(room / 2));
            let part = Invalidation {
                targets,
                ..*invalidation
            };
            let ticket = queue.submit(|emit| {
                let (quarantine, capabilities) = (&self.quarantine, &self.capabilities);
                invalidate::encode_without(quarantine, &part, capabilities, &costs, emit);
            })?;
            if later.is_empty() {
                return Ok(ticket);
            }
            rest = later;
        }
    }

    /// Makes an attached process context invalid and invalidates what was cached through it: the
    /// context, the IOTLB, and when those are done, the device TLB.
    fn block_context(
        &self,
        device: DeviceId,
        entry: &mut Device<P>,
        pasid: Pasid,
    ) -> Result<(), AttachError> {
        let unknown = AttachError::UnknownPasid(device, pasid);
        let context = entry.contexts.get_mut(&pasid).ok_or(unknown)?;
        if context.blocked {
            return Ok(());
        }
        if planted::is(Planted::RiscvRestClearedFirst) {
            entry.directory.clear(pasid);
        }
        if !planted::is(Planted::RiscvBlockLeavesValid) {
            entry.directory.invalidate(pasid);
        }
        context.blocked = planted::is(Planted::RiscvBlockKeepsCaches);
        if context.blocked {
            return Ok(());
        }
        let tag = context.tag;
        self.pasid_entry_changed(device, pasid, tag)?;
        if self.asks_device(entry.config, device) {
            self.run(|emit| invalidate::whole_device_tlb(device, pasid, emit))?;
        }
        context.blocked = true;
        Ok(())
    }

    pub(crate) fn queue(&self) -> &Queue<P> {
        &self.memory.queue
    }

    pub(crate) fn tables(&self) -> &Mutex<Tables<P>> {
        &self.memory.tables
    }

    /// Whether a device has a TLB to be invalidated: in quarantine it is left alone.
    fn asks_device(&self, config: DeviceConfig, device: DeviceId) -> bool {
        let is_left_out =
            self.quarantine.has(device) && !planted::is(Planted::RiscvQuarantinedAsked);
        config.device_tlb && !is_left_out
    }

    /// The context of a device that uses `directory`.
    pub(crate) fn device_context(
        &self,
        config: DeviceConfig,
        directory: &ProcessDirectory<P>,
    ) -> DeviceContext {
        let mut options = TranslationControl::empty();
        options.set(TranslationControl::EN_ATS, config.device_tlb);
        if let PageFaults::PageRequests { response_pasid } = config.page_faults {
            options.insert(TranslationControl::EN_PRI);
            options.set(TranslationControl::PRPR, response_pasid);
        }
        let update =
            self.config.update_accessed_dirty || planted::is(Planted::RiscvAccessedDirtyUpdated);
        options.set(TranslationControl::SADE, update);
        DeviceContext::process_directory(directory.mode(), directory.root(), options)
    }

    /// Why a PASID cannot be attached to a device, if so.
    fn check_free(device: DeviceId, entry: &Device<P>, pasid: Pasid) -> Result<(), AttachError> {
        let bits = entry.directory.mode().process_id_bits();
        if pasid.get() >> bits != 0 {
            return Err(AttachError::PasidTooWide { pasid, bits });
        }
        if entry.contexts.contains_key(&pasid) {
            return Err(AttachError::PasidInUse(device, pasid));
        }
        Ok(())
    }
}

impl ProcessContext {
    /// The context, or what a planted fault makes of it.
    fn spoil(mut self) -> Self {
        if planted::is(Planted::RiscvContextWithoutTag) {
            self.attributes &= !(0xf_ffff << 12);
        }
        if planted::is(Planted::RiscvSupervisorAllowed) {
            self.attributes |= ProcessAttributes::ENS.bits();
        }
        self
    }
}

impl<P: Platform> Iommu for Unit<P> {
    fn features(&self) -> Features {
        self.capabilities.features()
    }

    fn check(&self, table: &PageTable) -> Result<(), Incompatible> {
        let Format::Riscv64 { levels } = table.format else {
            return Err(Incompatible::Architecture);
        };
        if !self.capabilities.walks_levels(levels) {
            return Err(Incompatible::VirtualAddressBits {
                cpu: table.format.virtual_bits(),
                iommu: self.capabilities.virtual_address_bits(),
            });
        }
        let root = table.root.0;
        if root & 0xfff != 0 || root >> self.capabilities.physical_address_bits() != 0 {
            return Err(Incompatible::Root);
        }
        if self.config.coherency == WalkerCoherency::NonCoherent && !table.written_back {
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

    fn enable_device(&self, device: DeviceId, config: DeviceConfig) -> Result<(), AttachError> {
        let mut tables = self.memory.tables.lock();
        if !tables.directory.holds(device) {
            return Err(AttachError::DeviceIdTooWide(device));
        }
        if tables.devices.contains_key(&device) {
            return Err(AttachError::DeviceInUse(device));
        }
        if config.device_tlb && !self.capabilities.has_ats() {
            return Err(AttachError::NoDeviceTlb);
        }
        let faults_can_be_resolved = match config.page_faults {
            PageFaults::Fatal => true,
            PageFaults::PageRequests { .. } => config.device_tlb,
            PageFaults::Stall => false,
        };
        if !faults_can_be_resolved {
            return Err(AttachError::NoPageRequests);
        }
        let mode = self
            .capabilities
            .process_directory_for(config.pasid_bits)
            .unwrap_or(ProcessDirectoryMode::PD8);
        let directory = ProcessDirectory::new(&self.parts, mode, self.config.coherency)?;
        let context = self.device_context(config, &directory);
        tables.directory.set(device, &context)?;
        if let Err(error) = self.run(|emit| invalidate::device_entry_set(device, emit)) {
            tables.directory.invalidate(device);
            // The hardware may have read the context, and nothing more can be asked of it.
            mem::forget(directory);
            return Err(error.into());
        }
        let entry = Device {
            config,
            directory,
            contexts: BTreeMap::new(),
        };
        tables.devices.insert(device, entry);
        self.quarantine.admit(device);
        Ok(())
    }

    /// Nothing is sent to the device TLB: each detach has emptied it of its PASID, and once EN_ATS
    /// is 0 the IOMMU no longer accepts the device's completion (section "Translation control").
    fn disable_device(&self, device: DeviceId) -> Result<(), AttachError> {
        let mut tables = self.memory.tables.lock();
        if let Some((&pasid, _)) = tables.device(device)?.contexts.first_key_value() {
            return Err(AttachError::PasidInUse(device, pasid));
        }
        tables.directory.invalidate(device);
        self.device_entry_changed(device)?;
        tables.directory.clear(device);
        tables.devices.remove(&device);
        self.quarantine.dismiss(device);
        Ok(())
    }

    fn device_config(&self, device: DeviceId) -> Option<DeviceConfig> {
        let tables = self.memory.tables.lock();
        tables.devices.get(&device).map(|entry| entry.config)
    }

    fn attach(
        &self,
        device: DeviceId,
        pasid: Pasid,
        tag: Tag,
        table: &PageTable,
    ) -> Result<(), AttachError> {
        let mut tables = self.memory.tables.lock();
        let entry = tables.device(device)?;
        Self::check_free(device, entry, pasid)?;
        self.check(table)?;
        let Format::Riscv64 { levels } = table.format else {
            return Err(Incompatible::Architecture.into());
        };
        let mode = FirstStageMode::with_levels(levels);
        let context = ProcessContext::first_stage(mode, table.root, tag).spoil();
        entry.directory.set(pasid, &context)?;
        if let Err(error) = self.run(|emit| {
            invalidate::pasid_entry_changed(device, pasid, emit);
            invalidate::below_pasid(tag, emit);
        }) {
            entry.directory.invalidate(pasid);
            return Err(error.into());
        }
        let blocked = false;
        entry.contexts.insert(pasid, Context { tag, blocked });
        Ok(())
    }

    /// Untranslated requests are then refused with a fault record (cause 266), as only a whole
    /// device can be silenced (`DC.tc.DTF`); translation requests of a device TLB are answered
    /// without one (section "PCIe ATS translation request handling").
    fn block(&self, device: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        let mut tables = self.memory.tables.lock();
        let entry = tables.device(device)?;
        self.block_context(device, entry, pasid)
    }

    fn detach(&self, device: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        let mut tables = self.memory.tables.lock();
        let entry = tables.device(device)?;
        self.block_context(device, entry, pasid)?;
        entry.directory.clear(pasid);
        entry.contexts.remove(&pasid);
        Ok(())
    }

    /// A list of both kinds becomes two, with a wait between: a device TLB refills itself from the
    /// IOTLB, and no command orders the two ([`Features::chained_sync`]).
    fn submit(&self, invalidation: &Invalidation<'_>) -> Result<Ticket, QueueError> {
        let targets = invalidation.targets;
        self.quarantine.check(targets)?;
        let iotlbs = targets.partition_point(|target| !target.is_device_tlb());
        let part = |targets| Invalidation {
            targets,
            ..*invalidation
        };
        let (iotlbs, device_tlbs): (&[Target], _) = targets.split_at(iotlbs);
        if device_tlbs.is_empty() {
            return self.post(invalidation);
        }
        if !iotlbs.is_empty() {
            let ticket = self.post(&part(iotlbs))?;
            if !planted::is(Planted::RiscvDeviceTlbNotDelayed) {
                self.wait(ticket)?;
            }
        }
        self.post(&part(device_tlbs))
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
        self.memory.faults.take(report)
    }

    fn take_page_requests(&self, most: usize, take: &mut dyn FnMut(Taken)) -> usize {
        match &self.memory.page_requests {
            Some(page_requests) => page_requests.take(most, take),
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

    /// Behind an `IOFENCE.C` that completes the responses, `ATS.INVAL` pushes every page request of
    /// the device ahead of its completion, which the second `IOFENCE.C` waits for.
    fn drain_page_requests(&self, device: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        let has_device_tlb = {
            let mut tables = self.memory.tables.lock();
            let entry = tables.device(device)?;
            if !entry.contexts.contains_key(&pasid) {
                return Err(AttachError::UnknownPasid(device, pasid));
            }
            let config = entry.config;
            self.asks_device(config, device)
        };
        if has_device_tlb {
            if !planted::is(Planted::RiscvDrainUnordered) {
                self.run(|_| ())?;
            }
            self.run(|emit| invalidate::page_requests_drained(device, pasid, emit))?;
        }
        Ok(())
    }
}

impl<P: Platform> Drop for Unit<P> {
    fn drop(&mut self) {
        if control::turn_off(&self.parts, &self.capabilities).is_err() {
            // The hardware may still use its queues and tables; nobody else may ever get them.
            mem::forget(self.memory.clone());
        }
    }
}

impl<P: Platform> fmt::Debug for Unit<P> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Unit")
            .field("capabilities", &self.capabilities)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
