//! Stage 1, and stage 2 behind it.

use super::super::State;
use super::super::caches::{Asid, Hierarchical, Leaf, Regime, Rights, Table, Tag, level_shift};
use super::super::entries::{Context, SecondStage, bit};
use super::{
    ACCESSED, ATTEMPTS, Class, DIRTY_BIT_MODIFIER, Descriptor, Fault, FaultKind, Purpose, Want,
    decode, neighbours,
};
use crate::bus::{Access, Permissions};

const NON_GLOBAL: u64 = 1 << 11;
/// AP\[2\]: read-only.
const READ_ONLY: u64 = 1 << 7;

/// What stage 1 walks under, besides the address.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    pub tag: Tag,
    pub context: [u64; 8],
    /// Stage 2, if it translates too.
    pub second: Option<SecondStage>,
}

/// Where a table lies.
#[derive(Clone, Copy)]
enum Place {
    Physical(u64),
    Intermediate(u64),
}

/// The leaf that a stage 1 walk ended at.
struct Found {
    descriptor: u64,
    output: u64,
    level: u8,
    /// The descriptor's physical address.
    at: u64,
    /// Its intermediate one, where the walk knows it.
    intermediate: Option<u64>,
    above: Hierarchical,
}

/// What a try at a walk ended with, if neither with a translation nor with a fault.
enum Stop {
    Fault(Fault),
    /// Once more from the root: a descriptor changed, or must be found by its intermediate address.
    Again,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

const fn stage_1_fault(kind: FaultKind) -> Fault {
    let class = match kind {
        FaultKind::WalkAbort(_) => Class::Table,
        _ => Class::Input,
    };
    Fault {
        kind,
        stage_2: false,
        class,
        ipa: 0,
        table_read: false,
    }
}

impl Hierarchical {
    /// What a table descriptor adds. EL2 has no unprivileged requests, and its one execute-never
    /// bit is the unprivileged one's.
    fn below(self, descriptor: u64, regime: Regime) -> Self {
        let two = regime != Regime::El2;
        Self {
            no_write: self.no_write || bit(descriptor, 62),
            no_unprivileged: self.no_unprivileged || two && bit(descriptor, 61),
            no_privileged_execute: self.no_privileged_execute || two && bit(descriptor, 59),
            no_unprivileged_execute: self.no_unprivileged_execute || bit(descriptor, 60),
        }
    }
}

/// What a stage 1 leaf permits.
fn rights(leaf: u64, above: Hierarchical, context: &Context<'_>, regime: Regime) -> Rights {
    let write = leaf & READ_ONLY == 0 && !above.no_write;
    let unprivileged = bit(leaf, 6) && !above.no_unprivileged;
    let never = context.writable_is_not_executable();
    let no_unprivileged_execute = bit(leaf, 54) || above.no_unprivileged_execute;
    if regime == Regime::El2 {
        let only = Permissions {
            read: true,
            write,
            execute: !(no_unprivileged_execute || never && write),
        };
        return Rights {
            unprivileged: only,
            privileged: only,
        };
    }
    let unprivileged_write = unprivileged && write;
    let no_privileged_execute = bit(leaf, 53) || above.no_privileged_execute;
    let privileged = !(context.privileged_access_never() && unprivileged);
    Rights {
        unprivileged: Permissions {
            read: unprivileged,
            write: unprivileged_write,
            execute: !(no_unprivileged_execute || never && unprivileged_write),
        },
        privileged: Permissions {
            read: privileged,
            write: privileged && write,
            execute: !(no_privileged_execute || unprivileged_write || never && write),
        },
    }
}

/// The level at which a walk of `input_bits` starts.
fn start_level(input_bits: u8) -> u8 {
    4 - (input_bits - 12).div_ceil(9)
}

impl State {
    /// Translates `address` at stage 1, and at stage 2 if that is enabled too.
    pub fn stage_1(&mut self, space: &Space, address: u64, want: Want) -> Result<Leaf, Fault> {
        let context = Context(&space.context);
        let upper = bit(address, 55) && space.tag.regime != Regime::El2;
        let address = if context.ignores_top_byte(upper) {
            ((address << 8) as i64 >> 8) as u64
        } else {
            address
        };
        if let Some(&leaf) = self.caches.leaf(space.tag, context.aset(), address)
            && !(leaf.clean && want.access == Access::Write)
        {
            return check(leaf, address, want);
        }
        let mut fresh = false;
        for _ in 0..ATTEMPTS {
            match self.walk_1(space, address, want, fresh) {
                Ok(leaf) => return Ok(leaf),
                Err(Stop::Fault(fault)) => return Err(fault),
                Err(Stop::Again) => fresh = true,
            }
        }
        Err(stage_1_fault(FaultKind::WalkAbort(0)))
    }

    fn walk_1(
        &mut self,
        space: &Space,
        address: u64,
        want: Want,
        fresh: bool,
    ) -> Result<Leaf, Stop> {
        let context = Context(&space.context);
        let regime = space.tag.regime;
        let first = context
            .first_stage(address, regime, &self.configuration)
            .ok_or(stage_1_fault(FaultKind::Translation))?;
        let output_bits = context.output_bits(&self.configuration);
        let offset = address & (u64::MAX >> (64 - first.input_bits));
        let start = start_level(first.input_bits);
        let root_bytes = 8 << (first.input_bits - level_shift(start));
        let mut level = start;
        let mut place = Place::Intermediate(first.root & !(root_bytes - 1));
        let mut above = Hierarchical::default();
        if let Some((known, table)) = self.caches.table(space.tag, address, start)
            && !fresh
        {
            (level, place, above) = (known, Place::Physical(table.address), table.hierarchical);
        }
        loop {
            let index = 8 * (offset >> level_shift(level) & 0x1ff);
            let (at, intermediate) = match place {
                Place::Physical(table) => (table + index, None),
                Place::Intermediate(table) => {
                    let reading = Want {
                        access: Access::Read,
                        ..want
                    };
                    let at = self.table_access(space, table + index, reading)?;
                    if level > start {
                        let table = Table {
                            address: at - index,
                            hierarchical: above,
                        };
                        self.caches.keep_table(space.tag, address, level, table);
                    }
                    (at, Some(table + index))
                }
            };
            let descriptor = self
                .memory
                .load(at)
                .map_err(|_| stage_1_fault(FaultKind::WalkAbort(at)))?;
            let (Descriptor::Table(output) | Descriptor::Leaf(output)) = decode(descriptor, level)
            else {
                return Err(stage_1_fault(FaultKind::Translation).into());
            };
            if output >> output_bits != 0 {
                return Err(stage_1_fault(FaultKind::AddressSize).into());
            }
            if let Descriptor::Table(table) = decode(descriptor, level) {
                if first.hierarchical {
                    above = above.below(descriptor, regime);
                }
                (level, place) = (level + 1, Place::Intermediate(table));
                continue;
            }
            let found = Found {
                descriptor,
                output,
                level,
                at,
                intermediate,
                above,
            };
            return self.leaf_1(space, address, want, found);
        }
    }

    /// The physical address behind the intermediate address of a descriptor.
    fn table_access(&mut self, space: &Space, ipa: u64, want: Want) -> Result<u64, Fault> {
        match &space.second {
            None => Ok(ipa),
            Some(second) => {
                let want = Want {
                    purpose: match want.purpose {
                        Purpose::Speculation => Purpose::Speculation,
                        _ => Purpose::Transaction,
                    },
                    privileged: true,
                    ..want
                };
                self.stage_2(second, ipa, want, Class::Table)
                    .map(|leaf| leaf.output)
            }
        }
    }

    /// What the leaf that a walk found makes of the request.
    fn leaf_1(
        &mut self,
        space: &Space,
        address: u64,
        want: Want,
        mut found: Found,
    ) -> Result<Leaf, Stop> {
        let context = Context(&space.context);
        let regime = space.tag.regime;
        if found.descriptor & ACCESSED == 0 && !self.accessed_1(space, want, &mut found)? {
            return Err(stage_1_fault(FaultKind::AccessFlag).into());
        }
        let rights = |descriptor| rights(descriptor, found.above, &context, regime);
        let mut clean = context.updates_dirty()
            && found.descriptor & DIRTY_BIT_MODIFIER != 0
            && found.descriptor & READ_ONLY != 0
            && !found.above.no_write;
        let dirty = found.descriptor & !READ_ONLY;
        if clean
            && want.access == Access::Write
            && want.purpose != Purpose::Speculation
            && rights(dirty).of(want.privileged).write
        {
            self.update_1(space, want, &found, dirty)?;
            found.descriptor = dirty;
            clean = false;
        }
        let shift = level_shift(found.level);
        let mut leaf = Leaf {
            log2_size: shift,
            output: found.output,
            ipa: found.output,
            stage_1: rights(found.descriptor),
            stage_2: Rights::ALL,
            clean,
            level: found.level,
            log2_block: shift,
        };
        let tag = match (found.descriptor & NON_GLOBAL, space.tag.asid) {
            (0, Asid::Of(_)) => Tag {
                asid: Asid::Global(context.aset()),
                ..space.tag
            },
            _ => space.tag,
        };
        if let Some(second) = &space.second {
            let permitted = leaf.stage_1.of(want.privileged);
            match want.purpose {
                Purpose::Transaction if !permitted.permit(want.access) => {
                    return Err(stage_1_fault(FaultKind::Permission).into());
                }
                // Stage 2 is not looked at for a request that stage 1 grants nothing.
                Purpose::Grant if permitted == Permissions::default() => return Ok(leaf),
                _ => {}
            }
            let access = match want.access {
                Access::Write if !permitted.write => Access::Read,
                access => access,
            };
            let ipa = found.output | address & ((1 << shift) - 1);
            let behind = self.stage_2(second, ipa, Want { access, ..want }, Class::Input)?;
            leaf.log2_size = leaf.log2_size.min(behind.log2_size);
            let within = (1 << leaf.log2_size) - 1;
            (leaf.output, leaf.ipa) = (behind.output & !within, ipa & !within);
            leaf.stage_2 = behind.rights;
            leaf.clean |= behind.clean;
        }
        self.keep_1(tag, address, leaf, found.descriptor, want);
        Ok(check(leaf, address, want)?)
    }

    /// Keeps a translation; with the Contiguous bit and without stage 2, also its 15 neighbours',
    /// each as an entry of its own: an invalidation need not take more than it names.
    fn keep_1(&mut self, tag: Tag, address: u64, leaf: Leaf, descriptor: u64, want: Want) {
        let replace = want.purpose != Purpose::Speculation;
        self.caches.keep_leaf(tag, address, leaf, replace);
        if bit(descriptor, 52) && leaf.ipa == leaf.output {
            for (near, output) in neighbours(address, leaf.output, leaf.log2_size) {
                let leaf = Leaf {
                    output,
                    ipa: output,
                    ..leaf
                };
                self.caches.keep_leaf(tag, near, leaf, false);
            }
        }
    }

    /// Whether a clear access flag at stage 1 does not stop the request: it was set, or does not
    /// count.
    fn accessed_1(&mut self, space: &Space, want: Want, found: &mut Found) -> Result<bool, Stop> {
        let context = Context(&space.context);
        if !context.updates_accessed() {
            return Ok(!context.access_faults());
        }
        if want.purpose == Purpose::Speculation {
            return Ok(false);
        }
        self.update_1(space, want, found, found.descriptor | ACCESSED)?;
        found.descriptor |= ACCESSED;
        Ok(true)
    }

    /// Replaces the descriptor that was found. Stage 2 must permit the write.
    fn update_1(&mut self, space: &Space, want: Want, found: &Found, new: u64) -> Result<(), Stop> {
        let at = match (space.second, found.intermediate) {
            (None, _) => found.at,
            // The walk began at a table that is known by its physical address only.
            (Some(_), None) => return Err(Stop::Again),
            (Some(_), Some(ipa)) => {
                let writing = Want {
                    access: Access::Write,
                    ..want
                };
                self.table_access(space, ipa, writing)?
            }
        };
        self.exchange(at, found.descriptor, new)
    }

    fn exchange(&self, at: u64, old: u64, new: u64) -> Result<(), Stop> {
        match self.memory.exchange(at, old, new) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Stop::Again),
            Err(_) => Err(stage_1_fault(FaultKind::WalkAbort(at)).into()),
        }
    }
}

/// Whether a transaction has the permissions of both stages.
fn check(leaf: Leaf, address: u64, want: Want) -> Result<Leaf, Fault> {
    if want.purpose != Purpose::Transaction {
        return Ok(leaf);
    }
    if !leaf.stage_1.of(want.privileged).permit(want.access) {
        return Err(stage_1_fault(FaultKind::Permission));
    }
    if !leaf.stage_2.of(want.privileged).permit(want.access) {
        return Err(Fault {
            kind: FaultKind::Permission,
            stage_2: true,
            class: Class::Input,
            ipa: leaf.ipa | address & ((1 << leaf.log2_size) - 1),
            table_read: false,
        });
    }
    Ok(leaf)
}
