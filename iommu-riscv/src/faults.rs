//! The fault queue (section "Fault/Event-Queue").

use crate::planted::{self, Fault as Planted};
use crate::queue::{accept_base, enable_event_queue};
use crate::spec::events::{Cause, FAULT_RECORD_WORDS, FaultRecord, TransactionType};
use crate::spec::registers::{self, EventQueueStatus};
use alloc::sync::Arc;
use iommu_core::error::{OutOfMemory, ProbeError};
use iommu_core::fault::{Access, Fault, FaultSummary, Reason};
use iommu_core::ids::{DeviceId, Pasid};
use iommu_core::platform::{DmaBuffer, Mmio, Parts, Platform, WalkerCoherency};
use spin::Mutex;

/// The fault queue of one IOMMU.
pub(crate) struct FaultQueue<P: Platform> {
    parts: Arc<Parts<P>>,
    records: DmaBuffer<P>,
    log2_records: u32,
    head: Mutex<u32>,
}

impl<P: Platform> FaultQueue<P> {
    /// A queue of 2^`log2_records` records.
    pub(crate) fn new(
        parts: &Arc<Parts<P>>,
        log2_records: u32,
        coherency: WalkerCoherency,
    ) -> Result<Self, OutOfMemory> {
        let bytes = (FAULT_RECORD_WORDS * 8) << log2_records;
        Ok(Self {
            parts: parts.clone(),
            records: DmaBuffer::new(parts, bytes, bytes.max(4096), coherency)?,
            log2_records,
            head: Mutex::new(0),
        })
    }

    /// Turns the queue on, empty. It is off.
    pub(crate) fn enable(&self) -> Result<(), ProbeError> {
        let mmio = &self.parts.mmio;
        let value = registers::queue_base(self.log2_records, self.records.physical());
        mmio.write64(registers::FQB, value);
        accept_base(mmio.read64(registers::FQB), value, "fqb")?;
        mmio.write32(registers::FQH, 0);
        let operation = "turning the fault queue on";
        enable_event_queue(&self.parts, registers::FQCSR, operation)?;
        Ok(())
    }

    /// Hands over the records that the queue holds at the time of the call, at most all but one of
    /// its slots. Room is made before the overflow bit is cleared, which lets the IOMMU go on.
    pub(crate) fn take(&self, report: &mut dyn FnMut(Fault)) -> FaultSummary {
        let mmio = &self.parts.mmio;
        let mask = (1u32 << self.log2_records) - 1;
        let mut head = self.head.lock();
        let tail = mmio.read32(registers::FQT) & mask;
        let mut reported = 0;
        while *head != tail {
            report(decode(self.record(*head)));
            *head = (*head + 1) & mask;
            reported += 1;
        }
        if reported > 0 && !planted::is(Planted::RiscvFaultsKept) {
            mmio.write32(registers::FQH, *head);
        }
        FaultSummary {
            reported,
            lost: self.clear_errors(),
        }
    }

    fn record(&self, index: u32) -> FaultRecord {
        let first = index as usize * FAULT_RECORD_WORDS;
        FaultRecord(core::array::from_fn(|word| self.records.load(first + word)))
    }

    /// Whether records were lost since the last call. While the register is busy with the last
    /// clearing it must not be written; the next call will see to it.
    fn clear_errors(&self) -> bool {
        let errors = EventQueueStatus::QMF.union(EventQueueStatus::QOF);
        let mmio = &self.parts.mmio;
        let status = EventQueueStatus::from_bits_retain(mmio.read32(registers::FQCSR));
        let found = status.intersection(errors);
        if found.is_empty() || status.contains(EventQueueStatus::BUSY) {
            return false;
        }
        if planted::is(Planted::RiscvOverflowKept) {
            return true;
        }
        let value = EventQueueStatus::QEN.union(found);
        mmio.write32(registers::FQCSR, value.bits());
        true
    }
}

/// A record in neutral terms.
///
/// A page fault does not say whether the translation is missing or does not permit the access; both
/// are [`Reason::PageFault`].
pub fn decode(record: FaultRecord) -> Fault {
    let pasid = if record.has_process_id() {
        Pasid::new(record.process_id()).unwrap_or(Pasid::UNTAGGED)
    } else {
        Pasid::UNTAGGED
    };
    Fault {
        device: DeviceId(record.device_id()),
        pasid,
        address: carries_address(record.transaction_type()).then_some(record.iotval()),
        access: access(record.transaction_type(), record.cause()),
        reason: reason(record.cause()),
        code: record.cause().0.into(),
    }
}

/// Whether `iotval` is an I/O virtual address.
const fn carries_address(transaction: TransactionType) -> bool {
    matches!(transaction.0, 1..=3 | 5..=8)
}

/// A translation request is of no kind itself; there, and where the type is not known, the cause
/// may say.
const fn access(transaction: TransactionType, cause: Cause) -> Access {
    match transaction {
        TransactionType::UNTRANSLATED_READ_FOR_EXECUTE
        | TransactionType::TRANSLATED_READ_FOR_EXECUTE => Access::Execute,
        TransactionType::UNTRANSLATED_READ | TransactionType::TRANSLATED_READ => Access::Read,
        TransactionType::UNTRANSLATED_WRITE | TransactionType::TRANSLATED_WRITE => Access::Write,
        _ => match cause {
            Cause::INSTRUCTION_ACCESS_FAULT
            | Cause::INSTRUCTION_PAGE_FAULT
            | Cause::INSTRUCTION_GUEST_PAGE_FAULT => Access::Execute,
            Cause::READ_ADDRESS_MISALIGNED
            | Cause::READ_ACCESS_FAULT
            | Cause::READ_PAGE_FAULT
            | Cause::READ_GUEST_PAGE_FAULT => Access::Read,
            Cause::WRITE_ADDRESS_MISALIGNED
            | Cause::WRITE_ACCESS_FAULT
            | Cause::WRITE_PAGE_FAULT
            | Cause::WRITE_GUEST_PAGE_FAULT => Access::Write,
            _ => Access::Unknown,
        },
    }
}

/// Table "Fault record CAUSE field encodings". Access faults and data corruption both mean that
/// memory which the IOMMU had to read was not readable.
const fn reason(cause: Cause) -> Reason {
    match cause {
        Cause::INSTRUCTION_PAGE_FAULT
        | Cause::READ_PAGE_FAULT
        | Cause::WRITE_PAGE_FAULT
        | Cause::INSTRUCTION_GUEST_PAGE_FAULT
        | Cause::READ_GUEST_PAGE_FAULT
        | Cause::WRITE_GUEST_PAGE_FAULT => Reason::PageFault,
        Cause::ALL_INBOUND_TRANSACTIONS_DISALLOWED | Cause::DDT_ENTRY_NOT_VALID => {
            Reason::DeviceNotConfigured
        }
        Cause::PDT_ENTRY_NOT_VALID => Reason::PasidNotConfigured,
        Cause::DDT_ENTRY_MISCONFIGURED | Cause::PDT_ENTRY_MISCONFIGURED => Reason::MalformedEntry,
        Cause::INSTRUCTION_ACCESS_FAULT
        | Cause::READ_ACCESS_FAULT
        | Cause::WRITE_ACCESS_FAULT
        | Cause::DDT_ENTRY_LOAD_ACCESS_FAULT
        | Cause::PDT_ENTRY_LOAD_ACCESS_FAULT
        | Cause::DDT_DATA_CORRUPTION
        | Cause::PDT_DATA_CORRUPTION
        | Cause::PAGE_TABLE_DATA_CORRUPTION => Reason::TableAccess,
        Cause::MSI_PTE_LOAD_ACCESS_FAULT
        | Cause::MSI_PTE_NOT_VALID
        | Cause::MSI_PTE_MISCONFIGURED
        | Cause::MRIF_ACCESS_FAULT
        | Cause::MSI_PT_DATA_CORRUPTION
        | Cause::MSI_MRIF_DATA_CORRUPTION
        | Cause::MSI_WRITE_ACCESS_FAULT => Reason::Interrupt,
        _ => Reason::Other,
    }
}
