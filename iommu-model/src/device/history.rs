//! What devices did, in order.

use crate::bus::{Access, PageRequest, PageResponse, Refusal};
use crate::machine::lock;
use std::fmt;
use std::sync::Mutex;

/// How a request got its physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The IOMMU translated it.
    Iommu,
    /// The device's own TLB had the translation.
    DeviceTlb,
    /// The device made it up.
    Forged,
}

/// One request of a device, within one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When the device began with it, on the machine's clock.
    pub issued: u64,
    /// When it was performed or refused.
    pub ended: u64,
    /// Whose it was.
    pub device: u32,
    /// Its PASID.
    pub pasid: Option<u32>,
    /// The virtual address of its first byte; of a forged one, the physical.
    pub address: u64,
    /// The physical address, unless it was refused before it had one.
    pub physical: Option<u64>,
    /// Its length in bytes.
    pub length: u64,
    /// What it did.
    pub access: Access,
    /// How it was translated.
    pub via: Via,
    /// Why it was refused, if so.
    pub refusal: Option<Refusal>,
}

impl fmt::Display for Record {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            issued,
            ended,
            device,
            address,
            length,
            ..
        } = self;
        write!(
            formatter,
            "{:>9}..{:<9} device {device:#x}",
            issued / 1000,
            ended / 1000
        )?;
        if let Some(pasid) = self.pasid {
            write!(formatter, " PASID {pasid}")?;
        }
        let verb = match self.access {
            Access::Read => "reads",
            Access::Write => "writes",
            Access::Execute => "fetches",
        };
        write!(formatter, " {verb} {length} bytes at {address:#x}")?;
        match (self.refusal, self.physical) {
            (Some(refusal), _) => write!(formatter, ": {refusal:?}")?,
            (None, Some(physical)) => write!(formatter, ": physical {physical:#x}")?,
            (None, None) => write!(formatter, ": done")?,
        }
        let via = match self.via {
            Via::Iommu => "IOTLB",
            Via::DeviceTlb => "device TLB",
            Via::Forged => "forged",
        };
        write!(formatter, " ({via})")
    }
}

/// A step in the life of a page fault that waits for software.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A page request, or a stop marker, left for the IOMMU; the request names the device.
    Asked(PageRequest),
    /// A page group response arrived at the device.
    Answered(u32, PageResponse),
    /// The IOMMU holds back a request of the device, under this number.
    Stalled(u32, u32),
    /// That request goes on, or is aborted.
    Resumed(u32, u32),
    /// The device was reset or removed: it waits for nothing any more.
    Forgot(u32),
}

/// Every request of every device of a machine, in the order in which they ended.
#[derive(Debug, Default)]
pub struct History {
    records: Mutex<Vec<Record>>,
    messages: Mutex<Vec<Message>>,
}

impl History {
    /// Adds one.
    pub fn record(&self, record: Record) {
        lock(&self.records).push(record);
    }

    /// All since the last call.
    pub fn take(&self) -> Vec<Record> {
        std::mem::take(&mut *lock(&self.records))
    }

    /// Adds what was said about a page fault.
    pub fn say(&self, message: Message) {
        lock(&self.messages).push(message);
    }

    /// What was said since the last call.
    pub fn take_messages(&self) -> Vec<Message> {
        std::mem::take(&mut *lock(&self.messages))
    }
}
