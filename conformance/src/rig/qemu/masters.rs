//! What a device on a seat is; without a TLB, `iommu-testdev` for writes and `edu` for reads.
//!
//! Both do real DMA through QEMU's IOMMU, but neither moves bytes that this process could choose or
//! see. So QEMU's trace tells where the access went, and the bytes are put or taken there.

use super::Bridge;
use super::trace::Trace;
use crate::outcome::{Outcome, failed};
use iommu_core::ids::DeviceId;
use iommu_model::Refusal;
use iommu_model::device::{Direction, Via};
use shootdown_device_tlb::Device;
use shootdown_qemu_host::Machine;
use shootdown_qemu_host::devices::{Edu, TestDevice, Written};
use shootdown_qemu_host::pcie::Bus;
use std::sync::Arc;

/// What accesses memory for a seat.
pub trait Master: Send + Sync {
    /// Its id.
    fn device(&self) -> DeviceId;

    /// The device, if it has a TLB.
    fn tlb(&self) -> Option<&Device> {
        None
    }

    /// Accesses bytes within one page; what is read is appended to `read`.
    fn access(
        &self,
        trace: &Trace,
        address: u64,
        piece: &Direction,
        read: &mut Vec<u8>,
    ) -> Outcome<Access>;
}

/// The devices of one seat.
struct Pair {
    machine: Arc<Machine>,
    writer: TestDevice,
    reader: Edu,
    device: DeviceId,
}

/// What an access came to.
pub enum Access {
    /// It was performed.
    Done {
        /// The physical address.
        physical: u64,
        /// How it was translated.
        via: Via,
        /// When, if the device knows.
        at: Option<u64>,
    },
    /// It was refused.
    Refused(Refusal),
}

impl Access {
    /// It went to this physical address, and the IOMMU translated it.
    const fn done(physical: u64) -> Self {
        Self::Done {
            physical,
            via: Via::Iommu,
            at: None,
        }
    }
}

/// The masters on a bus, by bus number.
pub fn all(machine: &Arc<Machine>, bus: &Bus, bridge: Bridge) -> Outcome<Vec<Box<dyn Master>>> {
    let pairs = bus
        .all(TestDevice::IDENTITY)
        .into_iter()
        .zip(bus.all(Edu::IDENTITY));
    pairs
        .enumerate()
        .map(|(seat, (writer, reader))| {
            if writer.address.bus() != reader.address.bus() {
                return failed(machine.trouble("a seat lacks a device".to_owned()));
            }
            let pair = Pair {
                machine: machine.clone(),
                writer: TestDevice::new(machine, &writer)?,
                reader: Edu::new(machine, &reader)?,
                device: bridge.device(seat, writer.address.bus()),
            };
            Ok(Box::new(pair) as Box<dyn Master>)
        })
        .collect()
}

impl Master for Pair {
    fn device(&self) -> DeviceId {
        self.device
    }

    fn access(
        &self,
        trace: &Trace,
        address: u64,
        piece: &Direction,
        read: &mut Vec<u8>,
    ) -> Outcome<Access> {
        // What was traced before is of other accesses.
        trace.take()?;
        match piece {
            Direction::Write(bytes) => self.write(trace, address, bytes),
            Direction::Read(length) => self.read(trace, address, *length, read),
        }
    }
}

impl Pair {
    fn write(&self, trace: &Trace, address: u64, bytes: &[u8]) -> Outcome<Access> {
        // Where it looks afterwards does not matter, but it must be memory.
        let anywhere = self.machine.ram().base();
        let written = self.writer.write(address, bytes.len() as u32, anywhere)?;
        let lines = trace.take()?;
        let physical = trace.translations.find(&lines, self.device.0, address);
        match (written, physical) {
            (Written::Refused, _) => Ok(Access::Refused(Refusal::NotPresent)),
            (Written::There | Written::Elsewhere, Some(physical)) => {
                self.put(physical, bytes)?;
                Ok(Access::done(physical))
            }
            (_, None) => failed(self.machine.trouble(format!(
                "QEMU wrote at {address:#x} and traced no translation: {lines:?}"
            ))),
        }
    }

    fn put(&self, physical: u64, bytes: &[u8]) -> Outcome {
        let ram = self.machine.ram();
        if !ram.contains(physical, bytes.len() as u64) {
            return Ok(());
        }
        let mut found = vec![0; bytes.len()];
        ram.load_bytes(physical, &mut found);
        let pattern = TestDevice::PATTERN.to_le_bytes();
        let expected = (0..bytes.len()).map(|index| pattern[index % 4]);
        if !expected.eq(found.iter().copied()) {
            return failed(format_args!(
                "QEMU traced a write at physical {physical:#x}, where {found:x?} is"
            ));
        }
        ram.store_bytes(physical, bytes);
        Ok(())
    }

    fn read(
        &self,
        trace: &Trace,
        address: u64,
        length: u64,
        read: &mut Vec<u8>,
    ) -> Outcome<Access> {
        self.reader.read_from(address, 0, length)?;
        let lines = trace.take()?;
        let Some(physical) = trace.translations.find(&lines, self.device.0, address) else {
            return Ok(Access::Refused(Refusal::NotPresent));
        };
        let mut bytes = vec![0; length as usize];
        let ram = self.machine.ram();
        if ram.contains(physical, length) {
            ram.load_bytes(physical, &mut bytes);
        }
        read.extend(bytes);
        Ok(Access::done(physical))
    }
}
