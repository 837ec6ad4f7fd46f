//! Stage 2.

use super::super::State;
use super::super::caches::{Leaf2, Rights, level_shift};
use super::super::configuration::Configuration;
use super::super::entries::{SecondStage, bit, bits};
use super::{
    ACCESSED, ATTEMPTS, Class, DIRTY_BIT_MODIFIER, Descriptor, Fault, FaultKind, Purpose, Want,
    decode, neighbours,
};
use crate::bus::{Access, Permissions};

/// S2AP\[1\]: writable.
const WRITABLE: u64 = 1 << 7;

/// What a try at a stage 2 walk ended with.
enum Stop {
    Fault(FaultKind),
    Again,
}

/// What a stage 2 leaf permits.
fn rights(leaf: u64, configuration: &Configuration) -> Rights {
    let (unprivileged, privileged) = if configuration.stage_2_execute_by_level {
        match bits(leaf, 54, 53) {
            0b00 => (true, true),
            0b01 => (true, false),
            0b10 => (false, false),
            _ => (false, true),
        }
    } else {
        (!bit(leaf, 54), !bit(leaf, 54))
    };
    let permissions = |execute| Permissions {
        read: bit(leaf, 6),
        write: leaf & WRITABLE != 0,
        execute,
    };
    Rights {
        unprivileged: permissions(unprivileged),
        privileged: permissions(privileged),
    }
}

impl State {
    /// Translates `ipa` at stage 2. `output` of what it returns belongs to `ipa` itself.
    pub fn stage_2(
        &mut self,
        second: &SecondStage,
        ipa: u64,
        want: Want,
        class: Class,
    ) -> Result<Leaf2, Fault> {
        let fault = |kind| Fault {
            kind,
            stage_2: true,
            class,
            ipa,
            table_read: want.access != Access::Write,
        };
        let known = self.caches.leaf_2(second.vmid, ipa).copied();
        let leaf = match known.filter(|leaf| !(leaf.clean && want.access == Access::Write)) {
            Some(leaf) => leaf,
            None => {
                let walked = (0..ATTEMPTS)
                    .map(|_| self.walk_2(second, ipa, want))
                    .find(|walked| !matches!(walked, Err(Stop::Again)));
                match walked {
                    Some(Ok(leaf)) => leaf,
                    Some(Err(Stop::Fault(kind))) => return Err(fault(kind)),
                    Some(Err(Stop::Again)) | None => return Err(fault(FaultKind::WalkAbort(0))),
                }
            }
        };
        let permitted = leaf.rights.of(want.privileged).permit(want.access);
        if want.purpose == Purpose::Transaction && !permitted {
            return Err(fault(FaultKind::Permission));
        }
        Ok(Leaf2 {
            output: leaf.output | ipa & ((1 << leaf.log2_size) - 1),
            ..leaf
        })
    }

    fn walk_2(&mut self, second: &SecondStage, ipa: u64, want: Want) -> Result<Leaf2, Stop> {
        if ipa >> second.input_bits != 0 {
            return Err(Stop::Fault(FaultKind::Translation));
        }
        let root_bytes = 8 << (second.input_bits - level_shift(second.start));
        let mut level = second.start;
        let mut table = second.root & !(root_bytes - 1);
        let known = self.caches.table_2(second.vmid, ipa, second.start);
        if let Some(deeper) = known {
            (level, table) = deeper;
        }
        loop {
            // The starting tables may be several in a row.
            let index = if level == second.start {
                ipa >> level_shift(level)
            } else {
                ipa >> level_shift(level) & 0x1ff
            };
            let at = table + 8 * index;
            let descriptor = self
                .memory
                .load(at)
                .map_err(|_| Stop::Fault(FaultKind::WalkAbort(at)))?;
            let (Descriptor::Table(output) | Descriptor::Leaf(output)) = decode(descriptor, level)
            else {
                return Err(Stop::Fault(FaultKind::Translation));
            };
            if output >> second.output_bits != 0 {
                return Err(Stop::Fault(FaultKind::AddressSize));
            }
            if let Descriptor::Table(next) = decode(descriptor, level) {
                level += 1;
                table = next;
                self.caches.keep_table_2(second.vmid, ipa, level, next);
                continue;
            }
            return self.leaf_2(second, ipa, want, (descriptor, output, level, at));
        }
    }

    fn leaf_2(
        &mut self,
        second: &SecondStage,
        ipa: u64,
        want: Want,
        (mut descriptor, output, level, at): (u64, u64, u8, u64),
    ) -> Result<Leaf2, Stop> {
        let speculative = want.purpose == Purpose::Speculation;
        if descriptor & ACCESSED == 0 && (second.updates_accessed || second.access_faults) {
            if !second.updates_accessed || speculative {
                return Err(Stop::Fault(FaultKind::AccessFlag));
            }
            self.exchange_2(at, descriptor, descriptor | ACCESSED)?;
            descriptor |= ACCESSED;
        }
        let mut clean = second.updates_dirty
            && descriptor & DIRTY_BIT_MODIFIER != 0
            && descriptor & WRITABLE == 0;
        if clean && want.access == Access::Write && !speculative {
            self.exchange_2(at, descriptor, descriptor | WRITABLE)?;
            descriptor |= WRITABLE;
            clean = false;
        }
        let leaf = Leaf2 {
            log2_size: level_shift(level),
            output,
            rights: rights(descriptor, &self.configuration),
            clean,
            level,
        };
        self.caches
            .keep_leaf_2(second.vmid, ipa, leaf, !speculative);
        if bit(descriptor, 52) {
            for (near, output) in neighbours(ipa, output, leaf.log2_size) {
                let leaf = Leaf2 { output, ..leaf };
                self.caches.keep_leaf_2(second.vmid, near, leaf, false);
            }
        }
        Ok(leaf)
    }

    fn exchange_2(&self, at: u64, old: u64, new: u64) -> Result<(), Stop> {
        match self.memory.exchange(at, old, new) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Stop::Again),
            Err(_) => Err(Stop::Fault(FaultKind::WalkAbort(at))),
        }
    }
}
