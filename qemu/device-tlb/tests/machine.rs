//! The device in a machine of QEMU's whose IOMMU is off. Needs a QEMU 11.1 and says so if there is none.

#![allow(
    missing_docs,
    clippy::std_instead_of_alloc,
    clippy::std_instead_of_core
)]

use shootdown_device_tlb::{Device, What, function};
use shootdown_qemu_host::pcie::Bus;
use shootdown_qemu_host::{Architecture, Machine, Options, Program};
use std::time::Duration;

#[test]
fn the_device_reaches_the_machine_s_memory_by_translations_of_qemu_s() {
    let path = std::env::temp_dir().join(format!("shootdown-machine-{}", std::process::id()));
    let device = Device::listen(&path, || 0).expect("a socket");
    let mut options = Options::new(Architecture::X86_64, "q35")
        .device("intel-iommu,device-iotlb=on")
        .device("pcie-root-port,id=port0,addr=8.0,chassis=1");
    options
        .arguments
        .extend(device.qemu_arguments("device", "port0"));
    let program = Program::find().unwrap_or_else(|error| panic!("{error}"));
    let machine = Machine::start(&program, &options).unwrap_or_else(|error| panic!("{error}"));
    let bus = Bus::set_up(&machine, &[0]).expect("placed");
    let place = bus.all(function::IDENTITY)[0];
    assert_eq!(place.address.bus(), 1, "behind the root port");
    function::start(&machine, &bus, &place, true).unwrap_or_else(|error| panic!("{error}"));
    assert!(device.wait_for_start(Duration::from_secs(20)));
    device.forget_all();

    let page = machine.ram().take(4096, 4096).expect("memory");
    device
        .write(page + 4, b"by the device")
        .expect("translated");
    let mut bytes = [0; 13];
    machine.ram().load_bytes(page + 4, &mut bytes);
    assert_eq!(&bytes, b"by the device");
    assert_eq!(device.read(page + 7, 3).expect("cached"), b"the");
    let what: Vec<What> = device.history().iter().map(|event| event.what).collect();
    let &[
        ..,
        What::Accessed {
            physical,
            cached: true,
            ..
        },
    ] = what.as_slice()
    else {
        panic!("{what:?}");
    };
    assert_eq!(physical, page + 7);
}
