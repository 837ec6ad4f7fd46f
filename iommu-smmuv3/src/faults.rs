//! The event queue: records of refused requests, decoded into neutral faults.

use crate::caps::Capabilities;
use crate::control::GlobalErrors;
use crate::page_requests::decode_stall;
use crate::planted::{self, Fault as Planted};
use crate::spec::events::{Event, Number, WORDS};
use crate::spec::registers::{EVENTQ_PROD, GERROR, Value, offset, queue_base};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use iommu_core::error::OutOfMemory;
use iommu_core::fault::{Access, Fault, FaultSummary, Reason};
use iommu_core::ids::{DeviceId, Pasid};
use iommu_core::page_request::{PageRequest, Taken};
use iommu_core::platform::{DmaBuffer, Mmio, Parts, Platform};

/// The event queue of one SMMU.
#[derive(Debug)]
pub struct EventQueue<P: Platform> {
    records: DmaBuffer<P>,
    errors: Arc<GlobalErrors>,
    log2_slots: u32,
    /// The index of the next record, with the wrap flag above it.
    consumer: u32,
    /// The overflow flag that was acknowledged last.
    overflow: u32,
    /// Stalled transactions that were found by who takes faults, and faults that were found by who
    /// takes page requests; each at most as many as the queue has slots.
    stalls: VecDeque<PageRequest>,
    faults: VecDeque<Fault>,
    /// Whether faults were lost since they were last taken.
    lost: bool,
}

impl<P: Platform> EventQueue<P> {
    /// An empty queue; the hardware does not know of it yet.
    pub fn new(
        parts: &Arc<Parts<P>>,
        capabilities: &Capabilities,
        errors: &Arc<GlobalErrors>,
    ) -> Result<Self, OutOfMemory> {
        let log2_slots = capabilities.event_queue_log2();
        let bytes = (WORDS * 8) << log2_slots;
        let records = DmaBuffer::new(parts, bytes, bytes, capabilities.coherency())?;
        Ok(Self {
            records,
            errors: errors.clone(),
            log2_slots,
            consumer: 0,
            overflow: 0,
            stalls: VecDeque::with_capacity(1 << log2_slots),
            faults: VecDeque::with_capacity(1 << log2_slots),
            lost: false,
        })
    }

    /// Tells the SMMU where the empty queue lies. CR0.EVENTQEN is 0.
    pub fn set_up(&self, mmio: &impl Mmio) {
        let base = queue_base(self.records.physical().0, self.log2_slots);
        mmio.write64(offset::EVENTQ_BASE, base);
        mmio.write32(offset::EVENTQ_PROD, 0);
        mmio.write32(offset::EVENTQ_CONS, 0);
    }

    /// Hands over every fault that is in the queue now, at most as many as it has slots, and gives
    /// the slots back. Stalled transactions are kept for [`take_stalls`](Self::take_stalls); should
    /// there be too many, what is behind them stays in the queue until they were taken.
    pub fn take(&mut self, mmio: &impl Mmio, report: &mut dyn FnMut(Fault)) -> FaultSummary {
        let mut reported = self.faults.len();
        self.faults.drain(..).for_each(&mut *report);
        let mut stalls = core::mem::take(&mut self.stalls);
        self.consume(mmio, |event| match decode_stall(event) {
            Some(_) if stalls.len() == stalls.capacity() => false,
            Some(stall) => {
                stalls.push_back(stall);
                true
            }
            None => {
                report(decode(event));
                reported += 1;
                true
            }
        });
        self.stalls = stalls;
        let lost = core::mem::take(&mut self.lost);
        FaultSummary { reported, lost }
    }

    /// Hands over stalled transactions, `most` at most; returns how many records are left. Faults are
    /// kept for [`take`](Self::take), the newest of them if there are too many.
    pub fn take_stalls(
        &mut self,
        mmio: &impl Mmio,
        most: usize,
        take: &mut dyn FnMut(Taken),
    ) -> usize {
        let known = self.stalls.len().min(most);
        let known_stalls = self.stalls.drain(..known);
        known_stalls.map(Taken::Request).for_each(&mut *take);
        let mut room = most - known;
        let mut faults = core::mem::take(&mut self.faults);
        let mut lost = false;
        let left = self.consume(mmio, |event| {
            match decode_stall(event) {
                Some(_) if room == 0 => return false,
                Some(stall) => {
                    take(Taken::Request(stall));
                    room -= 1;
                }
                None => {
                    if faults.len() == faults.capacity() {
                        faults.pop_front();
                        lost = true;
                    }
                    faults.push_back(decode(event));
                }
            }
            true
        });
        self.faults = faults;
        self.lost |= lost;
        self.stalls.len() + left
    }

    /// Goes through the records that are in the queue now, at most as many as it has slots, until
    /// `take` refuses one, and gives the slots back. Returns how many are left.
    fn consume(&mut self, mmio: &impl Mmio, mut take: impl FnMut(&Event) -> bool) -> usize {
        let producer = Value::<EVENTQ_PROD::Register>::new(mmio.read32(offset::EVENTQ_PROD));
        let overflow = producer.read(EVENTQ_PROD::OVFLG);
        let mut lost = core::mem::replace(&mut self.overflow, overflow) != overflow;

        let index_and_wrap = (2 << self.log2_slots) - 1;
        let written = producer.read(EVENTQ_PROD::WR).wrapping_sub(self.consumer) & index_and_wrap;
        let slots = 1 << self.log2_slots;
        // More than the queue holds: some were overwritten, or the register lies.
        lost |= written > slots;
        let mut left = written.min(slots);
        while left > 0 && take(&self.record(self.consumer)) {
            self.consumer = (self.consumer + 1) & index_and_wrap;
            left -= 1;
        }
        if left == 0 {
            self.consumer = producer.read(EVENTQ_PROD::WR) & index_and_wrap;
        }

        if (written > 0 || lost) && !planted::is(Planted::SmmuEventsKept) {
            let acknowledged = overflow & u32::from(!planted::is(Planted::SmmuOverflowKept));
            let acknowledge = EVENTQ_PROD::OVFLG.val(acknowledged).value;
            mmio.write32(offset::EVENTQ_CONS, self.consumer | acknowledge);
        }
        // After an aborted write nothing is recorded until that is acknowledged (7.2.1). QEMU reports
        // an overflow like this.
        let aborted = GERROR::EVENTQ_ABT_ERR::SET.value;
        self.lost |= lost;
        self.lost |= P::without_interrupts(|| self.errors.acknowledge(mmio, aborted));
        left as usize
    }

    fn record(&self, position: u32) -> Event {
        let slot = position as usize & ((1 << self.log2_slots) - 1);
        Event(core::array::from_fn(|word| {
            self.records.load(slot * WORDS + word)
        }))
    }
}

/// The neutral fault that a record stands for.
pub fn decode(event: &Event) -> Fault {
    let access = match event.is_read() {
        None => Access::Unknown,
        Some(_) if event.is_instruction() => Access::Execute,
        Some(true) => Access::Read,
        Some(false) => Access::Write,
    };
    Fault {
        device: DeviceId(event.stream()),
        pasid: event
            .substream()
            .and_then(Pasid::new)
            .unwrap_or(Pasid::UNTAGGED),
        address: event.address(),
        access,
        reason: reason(event.number()),
        code: event.raw_number().into(),
    }
}

/// C_BAD_STE and C_BAD_CD stand for an invalid entry and for a malformed one alike. This driver
/// stores no malformed entry, so they are read as "invalid".
const fn reason(number: Number) -> Reason {
    match number {
        Number::Translation | Number::AccessFlag => Reason::NotPresent,
        Number::Permission => Reason::Permission,
        Number::AddressSize => Reason::AddressSize,
        Number::BadStreamId | Number::BadSte => Reason::DeviceNotConfigured,
        Number::StreamDisabled | Number::BadSubstreamId | Number::BadCd => {
            Reason::PasidNotConfigured
        }
        Number::SteFetch | Number::CdFetch | Number::VmsFetch | Number::WalkAbort => {
            Reason::TableAccess
        }
        Number::UnsupportedTransaction
        | Number::BadAtsRequest
        | Number::TranslatedForbidden
        | Number::TlbConflict
        | Number::ConfigurationConflict
        | Number::PageRequest
        | Number::ImplementationDefined(_)
        | Number::Unknown(_) => Reason::Other,
    }
}
