//! A fake bus with a bridge, and configuration registers that keep only the bits hardware keeps.

use super::*;
use alloc::collections::BTreeMap;
use core::cell::RefCell;

/// Registers by function and offset: the value, and which bits a write changes.
#[derive(Default)]
struct FakeSpace {
    registers: RefCell<BTreeMap<(u16, usize), (u32, u32)>>,
    behind: Option<(u16, u16)>,
}

impl FakeSpace {
    fn set(&mut self, function: u16, offset: usize, value: u32, writable: u32) {
        self.registers
            .get_mut()
            .insert((function, offset), (value, writable));
    }

    /// The function's own number on this bus: devices behind the bridge answer to whichever bus
    /// number the bridge was given.
    fn route(&self, function: FunctionAddress) -> Option<u16> {
        let id = function.requester_id();
        let Some((bridge, device)) = self.behind else {
            return Some(id);
        };
        if function.bus() == 0 {
            return (id != device).then_some(id);
        }
        let numbers = self.registers.borrow().get(&(bridge, BUS_NUMBERS))?.0;
        let answers = function.bus() == (numbers >> 8) as u8 && id & 0xff == device & 0xff;
        answers.then_some(device)
    }
}

impl ConfigurationSpace for FakeSpace {
    fn read32(&self, function: FunctionAddress, offset: usize) -> u32 {
        let known = |id| {
            self.registers
                .borrow()
                .get(&(id, offset))
                .map(|register| register.0)
        };
        let present = |id| self.registers.borrow().contains_key(&(id, 0));
        match self.route(function).filter(|id| present(*id)) {
            Some(id) => known(id).unwrap_or(0),
            None => u32::MAX,
        }
    }

    fn write32(&self, function: FunctionAddress, offset: usize, value: u32) {
        let Some(id) = self.route(function) else {
            return;
        };
        if let Some((old, writable)) = self.registers.borrow_mut().get_mut(&(id, offset)) {
            *old = *old & !*writable | value & *writable;
        }
    }
}

const EDU: u16 = 1 << 3;
const BRIDGE: u16 = 2 << 3;
const BEHIND: u16 = 0xff00;

fn machine() -> FakeSpace {
    let mut space = FakeSpace {
        behind: Some((BRIDGE, BEHIND)),
        ..FakeSpace::default()
    };
    space.set(EDU, VENDOR, 0x11e8_1234, 0);
    space.set(EDU, COMMAND, 0, 0xffff);
    space.set(EDU, CLASS, 0x00ff_0010, 0);
    space.set(EDU, 0x10, 0, 0xfff0_0000);
    space.set(BRIDGE, VENDOR, 0x000c_1b36, 0);
    space.set(BRIDGE, COMMAND, 0, 0xffff);
    space.set(BRIDGE, HEADER_TYPE, 1 << 16, 0);
    space.set(BRIDGE, BUS_NUMBERS, 0, 0xffff_ffff);
    space.set(BRIDGE, MEMORY_WINDOW, 0, 0xfff0_fff0);
    space.set(BRIDGE, PREFETCHABLE_WINDOW, 0, 0xfff0_fff0);
    space.set(BEHIND, VENDOR, 0x0014_1b36, 0);
    space.set(BEHIND, COMMAND, 0, 0xffff);
    space.set(BEHIND, 0x10, 4, 0xffff_f000);
    space.set(BEHIND, 0x14, 0, 0xffff_ffff);
    space
}

#[test]
fn places_bars_and_bridges() {
    let space = machine();
    let window = Region {
        base: 0x1000_0000,
        size: 0x1000_0000,
    };
    let found = enumerate(&space, 0, 255, Placement::Within(window)).unwrap();
    let [edu, bridge, behind] = found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(
        (edu.vendor, edu.device, edu.class),
        (0x1234, 0x11e8, 0xff00)
    );
    assert_eq!(
        edu.bar(0),
        Some(Region {
            base: 0x1000_0000,
            size: 0x10_0000
        })
    );
    assert_eq!(edu.bar(1), None);
    assert_eq!(bridge.address, FunctionAddress::new(0, 2, 0));
    assert_eq!(behind.address, FunctionAddress::new(1, 0, 0));
    assert!(behind.bars[0].unwrap().is_64_bit);
    assert_eq!(
        behind.bar(0),
        Some(Region {
            base: 0x1010_0000,
            size: 0x1000
        })
    );
    assert_eq!(space.read32(behind.address, 0x10), 0x1010_0004);
    assert_eq!(space.read32(bridge.address, BUS_NUMBERS), 0x0001_0100);
    assert_eq!(space.read32(bridge.address, MEMORY_WINDOW), 0x1010_1010);

    edu.enable(&space);
    assert_eq!(space.read16(edu.address, COMMAND), 6);
    edu.disable_bus_master(&space);
    assert_eq!(space.read16(edu.address, COMMAND), 2);
}

#[test]
fn leaves_what_firmware_placed() {
    let mut space = machine();
    space.set(EDU, 0x10, 0xfeb0_0000, 0xfff0_0000);
    space.set(BRIDGE, BUS_NUMBERS, 0x0005_0500, 0xffff_ffff);
    let found = enumerate(&space, 0, 255, Placement::ByFirmware).unwrap();
    assert_eq!(
        found[0].bar(0),
        Some(Region {
            base: 0xfeb0_0000,
            size: 0x10_0000
        })
    );
    assert_eq!(
        space.read32(FunctionAddress::new(0, 1, 0), 0x10),
        0xfeb0_0000
    );
    assert_eq!(found[2].address, FunctionAddress::new(5, 0, 0));
    assert_eq!(found[2].bar(0), None, "nobody placed it");
}

#[test]
fn a_bridge_that_points_back_ends_the_walk() {
    let mut space = machine();
    space.set(BRIDGE, BUS_NUMBERS, 0, 0xffff_ffff);
    let found = enumerate(&space, 0, 255, Placement::ByFirmware).unwrap();
    assert_eq!(found.len(), 2);
}

#[test]
fn what_does_not_fit_is_named() {
    let space = machine();
    let function = FunctionAddress::new(0, 1, 0);
    let window = Region {
        base: 0x1000_0000,
        size: 0x1000,
    };
    let error = enumerate(&space, 0, 255, Placement::Within(window)).unwrap_err();
    assert_eq!(
        error,
        EnumerateError::NoSpace {
            function,
            size: 0x10_0000
        }
    );
    let window = Region {
        base: 0x1000_0000,
        size: 0x1000_0000,
    };
    let error = enumerate(&space, 0, 0, Placement::Within(window)).unwrap_err();
    let function = FunctionAddress::new(0, 2, 0);
    assert_eq!(error, EnumerateError::NoBusNumber { function });
}
