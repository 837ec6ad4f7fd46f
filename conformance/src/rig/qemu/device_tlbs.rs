//! A seat's device with a TLB: `qemu/device-tlb` below a root port.

use super::clock::Clock;
use super::masters::{Access, Master};
use super::trace::Trace;
use crate::outcome::{Outcome, failed};
use iommu_core::ids::DeviceId;
use iommu_model::Refusal;
use iommu_model::device::{Direction, Via};
use shootdown_device_tlb::{Device, Refused, function};
use shootdown_qemu_host::pcie::Bus;
use shootdown_qemu_host::{Machine, Options};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What QEMU is given to tell a device that it was started.
const START: Duration = Duration::from_secs(20);

/// The device of one seat.
struct TlbMaster {
    device: Device,
    id: DeviceId,
}

/// As many devices, of a machine that is yet to be started.
pub fn listen(count: usize, clock: &Arc<Clock>) -> Outcome<Vec<Device>> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let listen = |_| {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("shootdown-device-{}-{number}", std::process::id());
        let clock = clock.clone();
        Ok(Device::listen(
            &std::env::temp_dir().join(name),
            move || clock.now(),
        )?)
    };
    (0..count).map(listen).collect()
}

/// Adds the device of a seat to a machine, below a root port at `slot` of `root`.
pub fn add(mut options: Options, device: &Device, seat: usize, root: &str, slot: usize) -> Options {
    let chassis = seat + 1;
    options = options.device(&format!(
        "pcie-root-port,id=seat{seat},bus={root},addr={slot:x}.0,chassis={chassis}"
    ));
    let arguments = device.qemu_arguments(&format!("device{seat}"), &format!("seat{seat}"));
    options.arguments.extend(arguments);
    options
}

/// Enables ATS in the devices and starts them, before any driver knows their IOMMUs: QEMU asks for the
/// translation of each one's queue at once, which would be a fault. The TLBs are empty afterwards.
pub fn start(
    machine: &Arc<Machine>,
    bus: &Bus,
    devices: Vec<Device>,
) -> Outcome<Vec<Box<dyn Master>>> {
    let functions = bus.all(function::IDENTITY);
    let mut masters: Vec<Box<dyn Master>> = Vec::new();
    for (device, function) in devices.into_iter().zip(functions) {
        function::start(machine, bus, &function, true)?;
        if !device.wait_for_start(START) {
            return failed(machine.trouble("a device with a TLB was not started".to_owned()));
        }
        device.forget_all();
        masters.push(Box::new(TlbMaster {
            device,
            id: DeviceId(function.address.requester_id().into()),
        }));
    }
    Ok(masters)
}

impl Master for TlbMaster {
    fn device(&self) -> DeviceId {
        self.id
    }

    fn tlb(&self) -> Option<&Device> {
        Some(&self.device)
    }

    fn access(
        &self,
        _: &Trace,
        address: u64,
        piece: &Direction,
        read: &mut Vec<u8>,
    ) -> Outcome<Access> {
        let done = match piece {
            Direction::Read(length) => {
                let begin = read.len();
                read.resize(begin + *length as usize, 0);
                self.device.read_page(address, &mut read[begin..])
            }
            Direction::Write(bytes) => self.device.write_page(address, bytes),
        };
        match done {
            Ok(done) => Ok(Access::Done {
                physical: done.physical,
                via: if done.cached {
                    Via::DeviceTlb
                } else {
                    Via::Iommu
                },
                at: Some(done.at),
            }),
            Err(Refused::Untranslated { .. }) => Ok(Access::Refused(Refusal::NotPresent)),
            Err(Refused::NoMemory { .. }) => Ok(Access::Refused(Refusal::UnsupportedRequest)),
            Err(error) => failed(error),
        }
    }
}
