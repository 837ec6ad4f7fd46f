//! The MSI page table (section "Process to translate addresses of MSIs").

use super::State;
use super::caches::{Leaf, Space, Table};
use super::faults::{Cause, Fault};
use super::walk::{A, D, Found, Purpose, R, Stages, U, V, W};
use crate::bus::Access;

/// Whose page an address is in.
pub(super) enum Page {
    /// A virtual interrupt file's, which is translated so.
    InterruptFile(Found),
    /// Not one's; nor is any of the aligned block of 2^`order` bytes around it.
    Other { order: u32 },
}

impl State {
    /// Whether the device context says that an address is a virtual interrupt file's, and its
    /// translation then.
    pub(super) fn msi_page(
        &mut self,
        stages: &Stages,
        address: u64,
        access: Access,
    ) -> Result<Page, Fault> {
        let (Some((table, pattern_mask, pattern)), Some(second)) =
            (stages.device.msi_table(), stages.second)
        else {
            return Ok(Page::Other { order: 64 });
        };
        let different = (address >> 12 ^ pattern) & !pattern_mask;
        if different != 0 {
            let order = 12 + different.ilog2();
            return Ok(Page::Other { order });
        }
        let space = Space {
            guest: Some(second.gscid),
            table: Table::Msi,
        };
        let leaf = match self.caches.leaf(space, address) {
            Some(leaf) => leaf,
            None => self.read_msi_entry(table | (extract(address >> 12, pattern_mask) << 4))?,
        };
        self.caches.keep_leaf(space, address, leaf);
        if access == Access::Execute && stages.purpose != Purpose::TranslationRequest {
            return Err(Cause::access_fault(access).into());
        }
        Ok(Page::InterruptFile(leaf.found(address)))
    }

    fn read_msi_entry(&self, place: u64) -> Result<Leaf, Fault> {
        let load = |place| {
            self.memory
                .load(place)
                .map_err(|_| Cause::MSI_PTE_LOAD_ACCESS_FAULT)
        };
        let entry = load(place)?;
        if entry & 1 == 0 {
            return Err(Cause::MSI_PTE_NOT_VALID.into());
        }
        // Bits 2:1 are the mode, 3 for an address; 9:3 and 63:54 are reserved, but for C.
        let reserved = 0x7f << 3 | 0x3ff << 54;
        if entry >> 1 & 3 != 3 || entry & reserved != 0 {
            return Err(Cause::MSI_PTE_MISCONFIGURED.into());
        }
        let entry = entry & !0x3ff | V | R | W | U | A | D;
        Ok(Leaf { order: 12, entry })
    }
}

/// The bits of `value` where `mask` has ones, packed (the function `extract` of section "Process to
/// translate addresses of MSIs").
fn extract(value: u64, mask: u64) -> u64 {
    (0..64)
        .filter(|bit| mask >> bit & 1 == 1)
        .enumerate()
        .fold(0, |packed, (to, from)| packed | (value >> from & 1) << to)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the text: x = abcdefgh, y = 10100110 gives 0000acfg.
    #[test]
    fn extract_packs_the_bits_under_the_mask() {
        assert_eq!(extract(0b1000_0000, 0b1010_0110), 0b1000);
        assert_eq!(extract(0b0010_0000, 0b1010_0110), 0b0100);
        assert_eq!(extract(0b0000_0100, 0b1010_0110), 0b0010);
        assert_eq!(extract(0b0000_0010, 0b1010_0110), 0b0001);
        assert_eq!(extract(0b0101_1001, 0b1010_0110), 0);
    }
}
