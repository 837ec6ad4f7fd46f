//! Fault recording registers (section 11.4.7), decoded into neutral faults.

use crate::caps::Capabilities;
use crate::planted::{self, Fault as Planted};
use crate::spec::events::{FaultRecord, RECORD_CLEAR, RECORD_CLEAR_OFFSET, RequestType};
use crate::spec::registers::{FSTS, FaultStatus, fault_status, fault_status_clear};
use iommu_core::fault::{Access, Fault, FaultSummary, Reason};
use iommu_core::ids::{DeviceId, Pasid};
use iommu_core::platform::Mmio;
use spin::Mutex;

/// The neutral meaning of a fault reason of the specification.
///
/// | Codes | Neutral |
/// |---|---|
/// | 0x02, 0x41 context entry; 0x01, 0x39 root entry not present | `DeviceNotConfigured` |
/// | 0x44, 0x45 device TLB or PASIDs not enabled for the device | `DeviceNotConfigured` |
/// | 0x51 directory entry, 0x59 PASID entry not present; 0x46 PASID too wide | `PasidNotConfigured` |
/// | 0x71 paging entry not present | `NotPresent` |
/// | 0x05, 0x06, 0x81, 0x82, 0x85, 0x86 write, read, user, execute permission; 0x5c, 0x5d execute and supervisor requests not enabled; 0x0d request type blocked | `Permission` |
/// | 0x04, 0x80, 0x83, 0x84 beyond the width, not canonical; 0x87 the interrupt range | `AddressSize` |
/// | 0x03, 0x0a to 0x0c, 0x3a, 0x42, 0x43, 0x48, 0x52, 0x5a, 0x5b, 0x72, 0x7a reserved or invalid fields | `MalformedEntry` |
/// | 0x07 to 0x09, 0x30, 0x38, 0x40, 0x50, 0x58, 0x70, 0x73, 0x78, 0x7b, 0x90, 0x91 a table was not accessible | `TableAccess` |
/// | 0x20 to 0x2f interrupt remapping | `Interrupt` |
/// | every other code | `Other` |
pub const fn reason(code: u8) -> Reason {
    match code {
        0x01 | 0x02 | 0x39 | 0x41 | 0x44 | 0x45 => Reason::DeviceNotConfigured,
        0x46 | 0x51 | 0x59 => Reason::PasidNotConfigured,
        0x71 => Reason::NotPresent,
        0x05 | 0x06 | 0x0d | 0x5c | 0x5d | 0x81 | 0x82 | 0x85 | 0x86 => Reason::Permission,
        0x04 | 0x80 | 0x83 | 0x84 | 0x87 => Reason::AddressSize,
        0x03 | 0x0a..=0x0c | 0x3a | 0x42 | 0x43 | 0x48 | 0x52 | 0x5a | 0x5b | 0x72 | 0x7a => {
            Reason::MalformedEntry
        }
        0x07..=0x09
        | 0x30
        | 0x38
        | 0x40
        | 0x50
        | 0x58
        | 0x70
        | 0x73
        | 0x78
        | 0x7b
        | 0x90
        | 0x91 => Reason::TableAccess,
        0x20..=0x2f => Reason::Interrupt,
        _ => Reason::Other,
    }
}

/// The neutral fault that a record stands for. The address is that of the page.
pub fn decode(record: FaultRecord) -> Fault {
    let reason = reason(record.reason());
    Fault {
        device: DeviceId(record.source_id().into()),
        pasid: record
            .pasid()
            .and_then(Pasid::new)
            .unwrap_or(Pasid::UNTAGGED),
        // For interrupt requests, FI holds the index of the interrupt.
        address: (reason != Reason::Interrupt).then_some(record.page()),
        access: match record.request_type() {
            RequestType::Write | RequestType::AtomicOp => Access::Write,
            RequestType::Read if record.execute() => Access::Execute,
            RequestType::Read => Access::Read,
            RequestType::Page => Access::Unknown,
        },
        reason,
        code: record.reason().into(),
    }
}

/// The right to take records, one at a time: two threads may take faults side by side, and each
/// fault is reported once.
pub(crate) type Records = Mutex<()>;

/// Hands every recorded fault to `report`, at most as many as there are records.
///
/// The hardware fills the records in a circle; the first that is pending is named by FSTS. After an
/// overflow it records nothing more until that is acknowledged, which is done last.
pub(crate) fn take(
    mmio: &impl Mmio,
    capabilities: &Capabilities,
    records: &Records,
    report: &mut dyn FnMut(Fault),
) -> FaultSummary {
    let status = FaultStatus::new(mmio.read32(FSTS));
    let count = capabilities.fault_records();
    let first = status.read(fault_status::FRI) as usize;
    let mut summary = FaultSummary::default();
    if status.is_set(fault_status::PPF) {
        for index in (first..first + count).map(|index| index % count) {
            let Some(record) = take_record(mmio, capabilities.fault_record(index), records) else {
                break;
            };
            report(decode(record));
            summary.reported += 1;
        }
    }
    if status.is_set(fault_status::PFO) {
        if !planted::is(Planted::VtdOverflowKept) {
            mmio.write32(FSTS, fault_status_clear::OVERFLOW);
        }
        summary.lost = true;
    }
    summary
}

/// Reads the record at `offset` and frees it; `None` if it holds nothing.
fn take_record(mmio: &impl Mmio, offset: usize, records: &Records) -> Option<FaultRecord> {
    let _taking = records.lock();
    let high = mmio.read64(offset + 8);
    let record = FaultRecord {
        low: mmio.read64(offset),
        high,
    };
    if !record.is_pending() {
        return None;
    }
    if !planted::is(Planted::VtdRecordKept) {
        mmio.write32(offset + RECORD_CLEAR_OFFSET, RECORD_CLEAR);
    }
    Some(record)
}
