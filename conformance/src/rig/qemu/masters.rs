//! What a device on a seat is: `iommu-testdev` for writes and `edu` for reads.
//!
//! Both do real DMA through QEMU's IOMMU, but neither moves bytes that this process could choose or
//! see. So QEMU's trace tells where the access went, and the bytes are put or taken there.

use super::Bridge;
use super::trace::Trace;
use crate::outcome::{Outcome, failed};
use iommu_core::ids::DeviceId;
use iommu_model::Refusal;
use iommu_model::device::Direction;
use shootdown_qemu_host::Machine;
use shootdown_qemu_host::devices::{Edu, TestDevice, Written};
use shootdown_qemu_host::pcie::Bus;
use std::sync::Arc;

/// The devices of one seat.
pub struct Master {
    machine: Arc<Machine>,
    writer: TestDevice,
    reader: Edu,
    device: DeviceId,
}

/// What an access came to.
pub enum Access {
    /// It went to this physical address.
    Done(u64),
    /// It was refused.
    Refused(Refusal),
}

/// The masters on a bus, by bus number.
pub fn all(machine: &Arc<Machine>, bus: &Bus, bridge: Bridge) -> Outcome<Vec<Master>> {
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
            Ok(Master {
                machine: machine.clone(),
                writer: TestDevice::new(machine, &writer)?,
                reader: Edu::new(machine, &reader)?,
                device: bridge.device(seat, writer.address.bus()),
            })
        })
        .collect()
}

impl Master {
    /// Its id.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// Accesses bytes within one page; what is read is appended to `read`.
    pub fn access(
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
                Ok(Access::Done(physical))
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
        Ok(Access::Done(physical))
    }
}
