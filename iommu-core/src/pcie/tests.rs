use super::*;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use proptest::prelude::*;

/// A function's configuration space, with the write rules of the registers that matter.
#[derive(Debug)]
pub(crate) struct Fake {
    words: RefCell<Vec<u32>>,
    /// What is written where, in order.
    writes: RefCell<Vec<(u16, u32)>>,
    /// Bits that software can change, by register; all others are read-only.
    writable: BTreeMap<u16, u32>,
    /// Requests that a reset does not get rid of.
    busy: bool,
}

/// Where the capabilities of [`Fake::endpoint`] lie.
const ATS: u16 = 0x100;
const PRI: u16 = 0x120;
const PASID: u16 = 0x140;
const ACS: u16 = 0x160;

impl Fake {
    fn empty() -> Self {
        Self {
            words: RefCell::new(vec![0; 1024]),
            writes: RefCell::default(),
            writable: BTreeMap::new(),
            busy: false,
        }
    }

    fn set(&self, offset: u16, value: u32) {
        self.words.borrow_mut()[usize::from(offset / 4)] = value;
    }

    /// An endpoint with everything: 20 PASID bits, 64 page requests, a queue of 8 invalidations.
    pub(crate) fn endpoint() -> Self {
        let mut fake = Self::empty();
        fake.set(0x00, 0x1234_8086);
        fake.set(0x04, 1 << 20);
        fake.set(0x34, 0x40);
        fake.set(0x40, 0x0002_0010);
        fake.set(0x64, 1 << 21);
        fake.set(ATS, u32::from(PRI) << 20 | 1 << 16 | 0x000f);
        fake.set(ATS + 4, 0x28);
        fake.set(PRI, u32::from(PASID) << 20 | 1 << 16 | 0x0013);
        fake.set(PRI + 4, 0x8100_0000);
        fake.set(PRI + 8, 64);
        fake.set(PASID, u32::from(ACS) << 20 | 1 << 16 | 0x001b);
        fake.set(PASID + 4, 0x1406);
        fake.set(ACS, 1 << 16 | 0x000d);
        fake.set(ACS + 4, 0x5f);
        fake.writable = BTreeMap::from([
            (ATS + 4, 0x801f_0000),
            (PRI + 4, 0x0000_0001),
            (PRI + 12, 0xffff_ffff),
            (PASID + 4, 0x0007_0000),
            (ACS + 4, 0x007f_0000),
        ]);
        fake
    }

    /// As after a reset: everything disabled.
    pub(crate) fn reset(&self) {
        for (&offset, &writable) in &self.writable {
            self.set(offset, self.read(offset) & !writable);
        }
        self.set(PRI + 4, 0x8100_0000);
    }

    /// As after a surprise removal.
    pub(crate) fn remove(&self) {
        self.words.borrow_mut().fill(u32::MAX);
    }

    /// Whether PASID, ATS and page requests are enabled: all, or none.
    pub(crate) fn is_enabled(&self) -> bool {
        let enabled = [(PASID, 1 << 16), (ATS, 1 << 31), (PRI, 1)]
            .map(|(capability, bit)| self.read(capability + 4) & bit != 0);
        assert!(enabled.iter().all(|one| *one == enabled[0]), "{enabled:?}");
        enabled[0]
    }

    fn port(kind: u32) -> Self {
        let fake = Self::endpoint();
        fake.set(0x40, 0x0002_0010 | kind << 20);
        fake
    }
}

impl ConfigSpace for Fake {
    fn read(&self, offset: u16) -> u32 {
        self.words.borrow()[usize::from(offset / 4)]
    }
    fn write(&self, offset: u16, value: u32) {
        self.writes.borrow_mut().push((offset, value));
        let old = self.read(offset);
        let writable = self.writable.get(&offset).copied().unwrap_or(0);
        let mut new = old & !writable | value & writable;
        if offset == PRI + 4 {
            // Write-1-to-clear.
            new &= !(value & 0x0003_0000);
            if value & 2 != 0 && !self.busy {
                new |= 1 << 24;
            }
            if value & 1 != 0 {
                new &= !(1 << 24);
            }
        }
        self.set(offset, new);
    }
}

pub(crate) const EVERYTHING: Wanted = Wanted {
    pasid_bits: 20,
    execute: true,
    device_tlb: true,
    page_requests: 32,
    trusted: true,
};

pub(crate) fn no_ports<'a>() -> Path<'a, &'a Fake> {
    Path(&[])
}

#[test]
fn a_function_says_what_it_can_do() {
    let fake = Fake::endpoint();
    let function = Function::read(&fake).unwrap();
    assert_eq!(function.port_type, PortType::Endpoint);
    assert!(function.passes_prefixes);
    let translation = function.translation.unwrap();
    assert_eq!(translation.queue_depth, 8);
    assert!(translation.page_aligned && !translation.global_invalidate);
    let requests = function.page_requests.unwrap();
    assert_eq!(requests.capacity, 64);
    assert!(requests.pasid_in_responses);
    let pasid = function.pasid.unwrap();
    assert_eq!(
        (pasid.bits, pasid.execute, pasid.privileged),
        (20, true, true)
    );
    assert!(fake.writes.borrow().is_empty());
}

#[test]
fn a_queue_depth_of_zero_means_32() {
    let fake = Fake::endpoint();
    fake.set(ATS + 4, 0x20);
    let function = Function::read(&fake).unwrap();
    assert_eq!(function.translation.unwrap().queue_depth, 32);
}

#[test]
fn services_are_enabled_in_order_and_disabled_in_reverse() {
    let fake = Fake::endpoint();
    let services =
        Services::enable(Function::read(&fake).unwrap(), &no_ports(), EVERYTHING).unwrap();
    assert_eq!(services.page_request_allocation(), 32);
    // PASID with execute, ATS, the reset of PRI, its allocation, PRI; literal values from the
    // register diagrams of PCIe 6.0.
    assert_eq!(
        fake.writes.take(),
        [
            (PASID + 4, 0x0003_1406),
            (ATS + 4, 0x8000_0028),
            (PRI + 4, 0x8100_0002),
            (PRI + 12, 32),
            (PRI + 4, 0x0003_0001),
        ]
    );
    let _function = services.disable();
    assert_eq!(
        fake.writes.take(),
        [
            (PRI + 4, 0x8000_0000),
            (ATS + 4, 0x0000_0028),
            (PASID + 4, 0x0000_1406),
        ]
    );
}

#[test]
fn the_allocation_is_at_most_the_capacity() {
    let fake = Fake::endpoint();
    let wanted = Wanted {
        page_requests: 1000,
        ..EVERYTHING
    };
    let services = Services::enable(Function::read(&fake).unwrap(), &no_ports(), wanted).unwrap();
    assert_eq!(services.page_request_allocation(), 64);
    assert_eq!(fake.read(PRI + 12), 64);
}

#[test]
fn what_is_not_wanted_is_not_touched() {
    let fake = Fake::endpoint();
    let wanted = Wanted {
        device_tlb: true,
        trusted: true,
        ..Wanted::default()
    };
    let services = Services::enable(Function::read(&fake).unwrap(), &no_ports(), wanted).unwrap();
    services.stop();
    assert_eq!(
        fake.writes.take(),
        [(ATS + 4, 0x8000_0028), (ATS + 4, 0x0000_0028)]
    );
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_left_enabled() {
    let refused = |prepare: fn(&mut Fake), wanted: Wanted| {
        let mut fake = Fake::endpoint();
        prepare(&mut fake);
        let error =
            Services::enable(Function::read(&fake).unwrap(), &no_ports(), wanted).unwrap_err();
        for (register, enable) in [(PASID + 4, 1 << 16), (ATS + 4, 1 << 31), (PRI + 4, 1)] {
            assert_eq!(
                fake.read(register) & enable,
                0,
                "{error} left {register:#x}"
            );
        }
        error
    };
    let missing = |capability| PcieError::MissingCapability { capability };
    let hide = |fake: &mut Fake| fake.set(ATS, u32::from(PASID) << 20 | 0x0001);
    assert_eq!(refused(hide, EVERYTHING), missing("ATS"));
    let cut = |fake: &mut Fake| fake.set(PRI, 0x0013);
    assert_eq!(refused(cut, EVERYTHING), missing("PASID"));
    let narrow = |fake: &mut Fake| fake.set(PASID + 4, 0x0806);
    assert_eq!(
        refused(narrow, EVERYTHING),
        PcieError::PasidWidth { wanted: 20, has: 8 }
    );
    let unaligned = |fake: &mut Fake| fake.set(ATS + 4, 0x08);
    assert_eq!(refused(unaligned, EVERYTHING), PcieError::UnalignedRequests);
    let stranger = Wanted {
        trusted: false,
        ..EVERYTHING
    };
    assert_eq!(refused(|_| (), stranger), PcieError::NotTrusted);
    let busy = |fake: &mut Fake| {
        fake.busy = true;
        fake.set(PRI + 4, 0x8000_0000);
    };
    assert_eq!(
        refused(busy, EVERYTHING),
        PcieError::PageRequestsOutstanding
    );
    let no_tlb = Wanted {
        device_tlb: false,
        ..EVERYTHING
    };
    assert_eq!(refused(|_| (), no_tlb), missing("PRI beside ATS"));
}

#[test]
fn enabled_twice_is_refused() {
    let fake = Fake::endpoint();
    let mut services =
        Services::enable(Function::read(&fake).unwrap(), &no_ports(), EVERYTHING).unwrap();
    assert_eq!(services.start(), Err(PcieError::AlreadyEnabled));
    services.stop();
    assert_eq!(services.start(), Ok(()));
}

#[test]
fn a_removed_function_is_left_alone() {
    let fake = Fake::endpoint();
    let mut services =
        Services::enable(Function::read(&fake).unwrap(), &no_ports(), EVERYTHING).unwrap();
    fake.remove();
    fake.writes.take();
    assert!(!services.function().is_present());
    services.stop();
    assert_eq!(services.start(), Err(PcieError::NotPresent));
    assert!(fake.writes.borrow().is_empty());
    assert_eq!(Function::read(&fake).unwrap_err(), PcieError::NotPresent);
}

#[test]
fn a_virtual_function_shares_pasids_and_page_requests() {
    let (physical, virtual_function) = (Fake::endpoint(), Fake::endpoint());
    virtual_function.set(ATS, 1 << 16 | 0x000f);
    let read = |fake| Function::read(fake).unwrap();
    let enable = || {
        Services::enable_virtual(
            read(&virtual_function),
            &read(&physical),
            &no_ports(),
            EVERYTHING,
        )
    };
    assert_eq!(enable().unwrap_err(), PcieError::PhysicalFunctionDisabled);
    let parent = Services::enable(read(&physical), &no_ports(), EVERYTHING).unwrap();
    let services = enable().unwrap();
    assert_eq!(virtual_function.writes.take(), [(ATS + 4, 0x8000_0028)]);
    services.stop();
    assert_eq!(virtual_function.writes.take(), [(ATS + 4, 0x0000_0028)]);
    physical.set(ATS + 4, 0x8001_0028);
    assert_eq!(
        enable().unwrap_err(),
        PcieError::TranslationUnit { wanted: 0, has: 1 }
    );
    let _function = parent.disable();
}

#[test]
fn pasids_need_ports_that_pass_them_upwards() {
    let fakes = [Fake::port(6), Fake::port(5), Fake::port(4)];
    let read = || -> Vec<_> {
        fakes
            .iter()
            .map(|fake| Function::read(fake).unwrap())
            .collect()
    };
    let ports = read();
    let path = Path(&ports);
    let missing = AccessControlBits::REQUEST_REDIRECT | AccessControlBits::UPSTREAM_FORWARDING;
    assert_eq!(
        path.check_pasid(),
        Err(PcieError::PeersNotShut { port: 0, missing })
    );
    path.isolate(true);
    assert_eq!(path.check_pasid(), Ok(()));
    for fake in &fakes {
        assert_eq!(fake.read(ACS + 4) >> 16, 0x1d);
    }
    fakes[2].set(0x64, 0);
    assert_eq!(
        Path(&read()).check_pasid(),
        Err(PcieError::PrefixNotPassed { port: 2 })
    );
}

#[test]
fn ports_above_a_stranger_block_translated_addresses() {
    let fake = Fake::port(4);
    let ports = [Function::read(&fake).unwrap()];
    Path(&ports).isolate(false);
    assert_eq!(fake.read(ACS + 4) >> 16, 0x1f);
    Path(&ports).isolate(true);
    assert_eq!(fake.read(ACS + 4) >> 16, 0x1d);
}

#[test]
fn chains_that_loop_end() {
    let fake = Fake::endpoint();
    fake.set(ACS, u32::from(ATS) << 20 | 1 << 16 | 0x7777);
    fake.set(0x40, 0x4099);
    let function = Function::read(&fake).unwrap();
    assert!(function.access_control.is_none());
    assert_eq!(function.port_type, PortType::Other(u8::MAX));
}

#[test]
fn a_capability_that_does_not_fit_is_none() {
    let fake = Fake::endpoint();
    fake.set(ACS, 0xffc << 20 | 1 << 16 | 0x7777);
    fake.set(0xffc, 0x000d);
    assert!(Function::read(&fake).unwrap().access_control.is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever a device says of itself, reading it ends, and stays inside its registers.
    #[test]
    fn any_configuration_space_can_be_read(words in proptest::collection::vec(any::<u32>(), 1024)) {
        let fake = Fake::empty();
        *fake.words.borrow_mut() = words;
        if let Ok(function) = Function::read(&fake)
            && let Ok(services) = Services::enable(function, &no_ports(), EVERYTHING)
        {
            services.stop();
        }
    }
}
