//! Configuration space of a hostile device: whatever its capabilities say, and whatever its
//! registers do when they are written, reading them ends and nothing outside is touched.

use arbitrary::Arbitrary;
use iommu_core::pcie::{ConfigSpace, Function, Path, Services, Wanted};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Registers that answer what the input says, and remember some of what is written.
#[derive(Arbitrary, Debug)]
struct Hostile {
    /// By register number; the rest reads as `elsewhere`.
    registers: BTreeMap<u8, u32>,
    far: BTreeMap<u16, u32>,
    elsewhere: u32,
    /// Registers that keep what is written to them.
    obedient: bool,
    wanted: Wishes,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Wishes {
    pasid_bits: u8,
    execute: bool,
    device_tlb: bool,
    page_requests: u16,
    trusted: bool,
}

struct Space {
    registers: RefCell<BTreeMap<u16, u32>>,
    elsewhere: u32,
    obedient: bool,
    accesses: Cell<usize>,
}

/// More than any call needs: both chains, five capabilities, and every register of them.
const MOST_ACCESSES: usize = 20_000;

impl ConfigSpace for Space {
    fn read(&self, offset: u16) -> u32 {
        assert!(
            offset < 4096 && offset.is_multiple_of(4),
            "read of {offset:#x}"
        );
        self.count();
        let registers = self.registers.borrow();
        registers
            .get(&(offset / 4))
            .copied()
            .unwrap_or(self.elsewhere)
    }
    fn write(&self, offset: u16, value: u32) {
        assert!(
            offset < 4096 && offset.is_multiple_of(4),
            "write of {offset:#x}"
        );
        // The header, with its base address registers, is not this module's to write.
        assert!(offset >= 0x40, "write to the header");
        self.count();
        if self.obedient {
            self.registers.borrow_mut().insert(offset / 4, value);
        }
    }
}

impl Space {
    fn count(&self) {
        self.accesses.set(self.accesses.get() + 1);
        assert!(self.accesses.get() < MOST_ACCESSES, "an endless chain");
    }
}

/// Reads a function, and enables what it claims to have.
pub fn run(data: &[u8]) {
    super::structured(data, |hostile: Hostile| {
        let near = hostile
            .registers
            .iter()
            .map(|(&at, &value)| (u16::from(at), value));
        let far = hostile.far.iter().map(|(&at, &value)| (at % 1024, value));
        let space = Space {
            registers: RefCell::new(near.chain(far).collect()),
            elsewhere: hostile.elsewhere,
            obedient: hostile.obedient,
            accesses: Cell::new(0),
        };
        let Ok(function) = Function::read(&space) else {
            return;
        };
        let ports = [function];
        let path = Path(&ports);
        path.isolate(hostile.wanted.trusted);
        let _ = path.check_pasid();
        let Wishes {
            pasid_bits,
            execute,
            device_tlb,
            page_requests,
            trusted,
        } = hostile.wanted;
        let wanted = Wanted {
            pasid_bits,
            execute,
            device_tlb,
            page_requests: page_requests.into(),
            trusted,
        };
        for path in [Path(&[]), path] {
            if let Ok(mut services) = Services::enable(function, &path, wanted) {
                assert!(trusted || !device_tlb, "a stranger got a device TLB");
                assert!(services.page_request_allocation() <= wanted.page_requests);
                services.stop();
                let _ = services.start();
                let _function = services.disable();
            }
        }
    });
}
