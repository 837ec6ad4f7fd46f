//! What the hardware reads and writes, and what the driver knows of it.

use crate::caps::{Capabilities, Config};
use crate::faults::FaultQueue;
use crate::page_requests::PageRequestQueue;
use crate::queue::{self, Queue, Registers};
use crate::spec::registers;
use crate::tables::{DeviceDirectory, ProcessDirectory};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use iommu_core::error::{AttachError, ProbeError};
use iommu_core::ids::{DeviceId, Pasid, Tag};
use iommu_core::iommu::DeviceConfig;
use iommu_core::platform::{Mmio, Parts, Platform};
use iommu_core::ring::{self, Completion};
use spin::Mutex;

/// The command queue: one page of 256 commands, or 128 if the hardware has no more. A target's
/// commands must fit.
const LOG2_COMMANDS: u32 = 8;
const LOG2_COMMANDS_LEAST: u32 = 7;

/// The fault queue: one page of 128 records.
const LOG2_FAULTS: u32 = 7;
/// Page requests in the queue, as a binary logarithm: 16 KiB. Those that a kernel allows its devices
/// should not be more.
const LOG2_PAGE_REQUESTS: u32 = 10;

/// The levels that a device directory can have, at most.
pub(crate) const MOST_LEVELS: u8 = 3;

/// Everything that the hardware reads and writes.
pub(crate) struct Memory<P: Platform> {
    pub(crate) queue: Queue<P>,
    pub(crate) slots: usize,
    pub(crate) faults: FaultQueue<P>,
    /// `None` without ATS.
    pub(crate) page_requests: Option<PageRequestQueue<P>>,
    pub(crate) tables: Mutex<Tables<P>>,
}

/// Everything the IOMMU finds its way by, and what the driver knows of it.
pub(crate) struct Tables<P: Platform> {
    pub(crate) directory: DeviceDirectory<P>,
    pub(crate) devices: BTreeMap<DeviceId, Device<P>>,
}

/// A device with a context.
pub(crate) struct Device<P: Platform> {
    pub(crate) config: DeviceConfig,
    pub(crate) directory: ProcessDirectory<P>,
    pub(crate) contexts: BTreeMap<Pasid, Context>,
}

/// A PASID in use.
#[derive(Clone, Copy)]
pub(crate) struct Context {
    pub(crate) tag: Tag,
    pub(crate) blocked: bool,
}

impl<P: Platform> Memory<P> {
    pub(crate) fn new(
        parts: &Arc<Parts<P>>,
        capabilities: &Capabilities,
        config: &Config,
    ) -> Result<Self, ProbeError> {
        let log2_slots = queue::probe_size(&parts.mmio, registers::CQB, LOG2_COMMANDS);
        if log2_slots < LOG2_COMMANDS_LEAST {
            return Err(ProbeError::MissingCapability {
                capability: "a command queue of 128 entries",
                register: "cqb",
                value: parts.mmio.read64(registers::CQB),
            });
        }
        let slots = 1 << log2_slots;
        let log2_faults = queue::probe_size(&parts.mmio, registers::FQB, LOG2_FAULTS);
        let coherency = config.coherency;
        let log2_page_requests = capabilities
            .has_ats()
            .then(|| queue::probe_size(&parts.mmio, registers::PQB, LOG2_PAGE_REQUESTS));
        let ring = ring::Config::new(slots, Completion::Memory, coherency);
        let directory = DeviceDirectory::new(
            parts,
            capabilities.device_context_format(),
            config.least_levels(capabilities),
            coherency,
        )?;
        Ok(Self {
            queue: Queue::new(parts, Registers::new(log2_slots), ring)?,
            slots,
            faults: FaultQueue::new(parts, log2_faults, coherency)?,
            page_requests: match log2_page_requests {
                Some(log2) => Some(PageRequestQueue::new(parts, log2, coherency)?),
                None => None,
            },
            tables: Mutex::new(Tables {
                directory,
                devices: BTreeMap::new(),
            }),
        })
    }
}

impl<P: Platform> Tables<P> {
    pub(crate) fn device(&mut self, device: DeviceId) -> Result<&mut Device<P>, AttachError> {
        self.devices
            .get_mut(&device)
            .ok_or(AttachError::UnknownDevice(device))
    }
}

impl Config {
    /// The levels that a device directory needs.
    pub(crate) fn least_levels(&self, capabilities: &Capabilities) -> u8 {
        let format = capabilities.device_context_format();
        let holds = |levels: &u8| format.device_id_bits(*levels) >= self.device_id_bits.into();
        (1..MOST_LEVELS).find(holds).unwrap_or(MOST_LEVELS)
    }
}
