//! VT-d's PASID entries that are not present but still there.
//!
//! A driver that ends a binding takes the present bit off the PASID entry first and clears the rest when
//! the caches have forgotten it (VT-d specification, 6.5.3.3). Once QEMU has cached the device's context
//! entry, it walks with such an entry as if it were present (Q9 in docs/src/qemu.md), and fills both TLBs
//! again after their last invalidation. So the work of a device with such an entry waits.

use iommu_core::ids::DeviceId;
use shootdown_qemu_host::Ram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Root Table Address Register (11.4.5): the table begins at bits 63..12.
const ROOT_TABLE: usize = 0x20;
const ADDRESS: u64 = !0xfff;
const PRESENT: u64 = 1 << 0;
/// Fault Processing Disable, which may stay in an entry that is cleared.
const FAULTS_SILENT: u64 = 1 << 1;

/// The entries of one unit.
pub struct Entries {
    ram: Arc<Ram>,
    root: AtomicU64,
}

impl Entries {
    /// Those of a unit that has no root table.
    pub fn new(ram: &Arc<Ram>) -> Self {
        Self {
            ram: ram.clone(),
            root: AtomicU64::new(0),
        }
    }

    /// Takes note of a write at `offset`.
    pub fn note(&self, offset: usize, value: u64) {
        if offset == ROOT_TABLE {
            self.root.store(value & ADDRESS, Ordering::SeqCst);
        }
    }

    /// Whether the entry of a device's requests without a PASID, which is that of PASID 0, is not present
    /// but not empty.
    pub fn is_revoked(&self, device: DeviceId) -> bool {
        let load = |address| {
            let there = self.ram.contains(address, 8);
            there.then(|| self.ram.load(address))
        };
        is_revoked(entry(self.root.load(Ordering::SeqCst), device, load))
    }
}

fn is_revoked(entry: Option<u64>) -> bool {
    entry.is_some_and(|word| word & PRESENT == 0 && word & !FAULTS_SILENT != 0)
}

/// The first word of the entry of PASID 0, by the tables of scalable mode (9.1 to 9.6).
fn entry(root: u64, device: DeviceId, load: impl Fn(u64) -> Option<u64>) -> Option<u64> {
    // The table that the entry at `address` names, if it is present.
    let table = |address| {
        let word = load(address)?;
        (word & PRESENT != 0).then_some(word & ADDRESS)
    };
    let bus = u64::from(device.0 >> 8);
    let function = u64::from(device.0 & 0xff);
    // The upper half of a root entry is that of the functions from 128 on.
    let contexts = table(root + bus * 16 + (function >> 7) * 8)?;
    let directory = table(contexts + (function & 0x7f) * 32)?;
    load(table(directory)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn an_entry_is_revoked_from_the_present_bit_s_loss_until_it_is_cleared() {
        let mut memory = BTreeMap::from([
            (0x1000 + 2 * 16 + 8, 0x2000 | PRESENT),
            (0x2000 + 0x10 * 32, 0x3000 | 9),
            (0x3000, 0x4000 | PRESENT),
        ]);
        let mut at = |word| {
            memory.insert(0x4000, word);
            [0x290, 0x210, 0x390].map(|device| {
                let load = |address| memory.get(&address).copied();
                is_revoked(entry(0x1000, DeviceId(device), load))
            })
        };
        assert_eq!(at(0x49), [false; 3]);
        assert_eq!(at(0x4a), [true, false, false]);
        assert_eq!(at(0x48), [true, false, false]);
        assert_eq!(at(2), [false; 3]);
        assert_eq!(at(0), [false; 3]);
    }
}
