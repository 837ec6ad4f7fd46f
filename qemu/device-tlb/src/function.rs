//! The device's PCI function in the machine, a virtio device (Virtio 1.3, 4.1), and the little that a
//! driver must do before the device may access memory.

use shootdown_qemu_host::pcie::{Bus, ConfigurationSpace, Function, FunctionAddress};
use shootdown_qemu_host::{Error, Machine};
use std::sync::Arc;

/// Vendor id and device id: virtio's, and 0x1040 with the entropy source's number.
pub const IDENTITY: (u16, u16) = (0x1af4, 0x1040 + 4);

/// Pointer to the first capability, in its lowest byte (PCI Local Bus 3.0, 6.7).
const CAPABILITIES: usize = 0x34;
const VENDOR_SPECIFIC: u8 = 0x09;
/// `VIRTIO_PCI_CAP_COMMON_CFG`: where the capability says that the common configuration lies.
const COMMON_CONFIGURATION: u8 = 1;
/// Address Translation Services (PCI Express 6.0, 7.8.8): its control register, and Enable there.
const ATS: u16 = 0x0f;
const ATS_CONTROL: usize = 0x06;
const ATS_ENABLE: u16 = 1 << 15;

/// Registers of the common configuration (Virtio 1.3, 4.1.4.3).
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const DEVICE_STATUS: u64 = 0x14;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_ENABLE: u64 = 0x1c;
/// Descriptors, driver area and device area.
const QUEUE_AREAS: [u64; 3] = [0x20, 0x28, 0x30];

/// Bits of the device status (Virtio 1.3, 2.1).
const ACKNOWLEDGE: u8 = 1 << 0;
const DRIVER: u8 = 1 << 1;
const DRIVER_OK: u8 = 1 << 2;
const FEATURES_OK: u8 = 1 << 3;
/// The second word of the features: `VIRTIO_F_VERSION_1` and `VIRTIO_F_ACCESS_PLATFORM`.
const FEATURES: u32 = 0b11;

/// Bytes that a queue's areas are given, each.
const AREA: u64 = 4096;

/// Enables the function's ATS if `ats`, and starts the device. Its queue lies in memory of the
/// machine's and is never used.
///
/// QEMU looks at the ATS enable bit once, at the start: what the device's TLB hears of later is
/// decided by it.
///
/// # Errors
///
/// If QEMU has failed, or the function is not what it should be.
pub fn start(
    machine: &Arc<Machine>,
    bus: &Bus,
    function: &Function,
    ats: bool,
) -> Result<(), Error> {
    let trouble = |what: &str| machine.trouble(format!("{}: {what}", function.address));
    if ats {
        let ats = bus.ecam.extended_capability(function.address, ATS);
        let ats = ats.ok_or_else(|| trouble("no ATS, which needs a root port above"))?;
        // QEMU hears of it only by an access to the register alone.
        let control = bus.ecam.read16(function.address, ats + ATS_CONTROL);
        bus.ecam
            .write16(function.address, ats + ATS_CONTROL, control | ATS_ENABLE)?;
    }
    let (bar, offset) =
        common_configuration(bus, function.address).ok_or_else(|| trouble("no virtio device"))?;
    let bar = function
        .bar(bar)
        .ok_or_else(|| trouble("a BAR is missing"))?;
    let registers = bar.base + u64::from(offset);

    let status = |bits: u8| machine.write8(registers + DEVICE_STATUS, bits);
    status(0)?;
    status(ACKNOWLEDGE | DRIVER)?;
    machine.write32(registers + DRIVER_FEATURE_SELECT, 1)?;
    machine.write32(registers + DRIVER_FEATURE, FEATURES)?;
    status(ACKNOWLEDGE | DRIVER | FEATURES_OK)?;
    machine.write16(registers + QUEUE_SELECT, 0)?;
    for area in QUEUE_AREAS {
        let memory = machine.ram().take(AREA, AREA);
        let address = memory.ok_or_else(|| trouble("no memory for its queue"))?;
        machine.write32(registers + area, address as u32)?;
        machine.write32(registers + area + 4, (address >> 32) as u32)?;
    }
    machine.write16(registers + QUEUE_ENABLE, 1)?;
    let ready = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
    status(ready)?;
    let said = machine.read32(registers + DEVICE_STATUS)? as u8;
    if said != ready {
        return Err(trouble(&format!("its status is {said:#x}, not {ready:#x}")));
    }
    Ok(())
}

/// The BAR that holds the common configuration, and the offset there.
fn common_configuration(bus: &Bus, address: FunctionAddress) -> Option<(usize, u32)> {
    let read = |offset: usize| bus.ecam.read32(address, offset);
    let mut at = read(CAPABILITIES) as usize & 0xfc;
    // Each capability has at least four bytes, so the list has no more members than this.
    for _ in 0..(256 - 64) / 4 {
        if at < 64 {
            return None;
        }
        let [id, next, _, kind] = read(at).to_le_bytes();
        if id == VENDOR_SPECIFIC && kind == COMMON_CONFIGURATION {
            return Some((read(at + 4) as usize & 0xff, read(at + 8)));
        }
        at = usize::from(next) & 0xfc;
    }
    None
}
