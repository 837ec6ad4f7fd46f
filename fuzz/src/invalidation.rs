//! From any range, targets, capabilities and costs to commands: every command is legal, every page
//! of the range is covered in every cache, in the right order, and not many more.

use crate::command::{self, Effect};
use arbitrary::Arbitrary;
use iommu_core::Range;
use iommu_core::cover::Costs;
use iommu_core::ids::{DeviceId, Pasid, Tag};
use iommu_core::operation::{Invalidation, Levels, Target};
use iommu_core::ring::Item;

/// The operation, and what decides its form.
#[derive(Arbitrary, Debug)]
struct Operation {
    start: u64,
    length: u64,
    /// Shortens the range, so that small ones are as frequent as large ones.
    shift: u8,
    leaf_only: bool,
    costs: [u16; 4],
    default_costs: bool,
    iotlbs: Vec<(u16, u32)>,
    device_tlbs: Vec<(u16, u32)>,
    capabilities: [u64; 2],
}

/// At most this many targets of each kind.
const TARGETS: usize = 4;

/// Encodes for all three IOMMUs.
pub fn run(data: &[u8]) {
    super::structured(data, |operation: Operation| {
        let Some(range) = operation.range() else {
            return;
        };
        let costs = operation.costs();
        vtd(&operation, range, &costs);
        smmuv3(&operation, range, &costs);
        riscv(&operation, range, &costs);
    });
}

impl Operation {
    fn range(&self) -> Option<Range> {
        let length = self.length >> (self.shift % 64);
        let end = self.start.saturating_add(length);
        let range = Range::new(self.start, end).expect("the end is not below the start");
        (!range.is_empty()).then_some(range)
    }

    fn costs(&self) -> Costs {
        if self.default_costs {
            return Costs::DEFAULT;
        }
        let [command, excess_page, tag_wide, most_commands] = self.costs;
        Costs {
            command: command.into(),
            excess_page: excess_page.into(),
            tag_wide: tag_wide.into(),
            most_commands: u32::from(most_commands) % 1024,
        }
    }

    fn levels(&self) -> Levels {
        if self.leaf_only {
            Levels::LeafOnly
        } else {
            Levels::All
        }
    }

    /// The targets as a set keeps them: sorted, each once, IOTLBs first. `keyed` says whether an
    /// IOTLB target has a PASID.
    fn targets(&self, keyed: bool) -> Vec<Target> {
        let pasid = |number: u32| Pasid::new(number & 0xf_ffff).expect("masked to 20 bits");
        let iotlbs = self.iotlbs.iter().take(TARGETS).map(|&(tag, number)| {
            let pasid = if keyed {
                pasid(number)
            } else {
                Pasid::UNTAGGED
            };
            Target::Iotlb {
                tag: Tag(tag.into()),
                pasid,
            }
        });
        let device_tlbs = self
            .device_tlbs
            .iter()
            .take(TARGETS)
            .map(|&(device, number)| Target::DeviceTlb {
                device: DeviceId(device.into()),
                pasid: pasid(number),
            });
        let mut targets: Vec<_> = iotlbs.chain(device_tlbs).collect();
        targets.sort_unstable();
        targets.dedup();
        targets
    }
}

fn vtd(operation: &Operation, range: Range, costs: &Costs) {
    let [cap, ecap] = operation.capabilities;
    let capabilities = iommu_vtd::caps::Capabilities::from_registers(cap, ecap);
    let targets = operation.targets(true);
    let mut effects = Vec::new();
    let invalidation = Invalidation {
        targets: &targets,
        range,
        levels: operation.levels(),
    };
    iommu_vtd::invalidate::encode(&invalidation, &capabilities, costs, &mut |item| {
        effects.push(effect(item, command::vtd));
    });
    check(&targets, range, operation.levels(), &effects);
}

fn smmuv3(operation: &Operation, range: Range, costs: &Costs) {
    let [low, high] = operation.capabilities;
    let capabilities = iommu_smmuv3::caps::Capabilities::from_registers(
        low as u32,
        (low >> 32) as u32,
        high as u32,
        (high >> 32) as u32,
    );
    let targets = operation.targets(false);
    let mut effects = Vec::new();
    let invalidation = Invalidation {
        targets: &targets,
        range,
        levels: operation.levels(),
    };
    iommu_smmuv3::invalidate::encode(&invalidation, &capabilities, costs, &mut |item| {
        effects.push(effect(item, command::smmuv3));
    });
    check(&targets, range, operation.levels(), &effects);
}

/// RISC-V gets IOTLBs and device TLBs in two lists, with a wait between them.
fn riscv(operation: &Operation, range: Range, costs: &Costs) {
    let [capabilities, _] = operation.capabilities;
    let capabilities = iommu_riscv::caps::Capabilities::new(capabilities, 0);
    let targets = operation.targets(false);
    let first = targets.partition_point(|target| !target.is_device_tlb());
    let mut effects = Vec::new();
    for targets in [&targets[..first], &targets[first..]] {
        let invalidation = Invalidation {
            targets,
            range,
            levels: operation.levels(),
        };
        iommu_riscv::invalidate::encode(&invalidation, &capabilities, costs, |item| {
            effects.push(effect(item, command::riscv));
        });
        effects.push(Effect::Fence);
    }
    check(&targets, range, operation.levels(), &effects);
}

fn effect<const WORDS: usize>(
    item: Item<WORDS>,
    decode: impl Fn([u64; WORDS]) -> Option<Effect>,
) -> Effect {
    match item {
        Item::Barrier => Effect::Fence,
        Item::Command(words) => {
            decode(words).unwrap_or_else(|| panic!("illegal command {words:#x?}"))
        }
    }
}

/// Every page of the range leaves every target; no cache that the operation does not name is
/// touched; device TLBs come behind a fence behind the IOTLBs; blocks stay under 100 % excess.
fn check(targets: &[Target], range: Range, levels: Levels, effects: &[Effect]) {
    let last = range.last().expect("never empty") >> 12;
    let pages = range.start() >> 12..last + 1;
    for &target in targets {
        covers(target, &pages, levels, effects);
    }
    let last_iotlb = effects
        .iter()
        .rposition(|effect| matches!(effect, Effect::Iotlb { .. }));
    let first_device = effects
        .iter()
        .position(|effect| matches!(effect, Effect::DeviceTlb { .. }));
    if let (Some(last), Some(first)) = (last_iotlb, first_device) {
        let between = effects.get(last..first).expect("device TLBs come behind");
        assert!(
            between.contains(&Effect::Fence),
            "nothing orders {effects:?}"
        );
    }
    for effect in effects {
        let known = match *effect {
            Effect::Iotlb { tag, pasid, .. } => targets.iter().any(|target| {
                matches!(*target, Target::Iotlb { tag: its, pasid: with }
                    if tag.is_none_or(|tag| its.0 == tag) && (with.get() == pasid || pasid == 0))
            }),
            Effect::DeviceTlb { device, pasid, .. } => targets.iter().any(|target| {
                matches!(*target, Target::DeviceTlb { device: its, pasid: with }
                    if its.0 == device && with.get() == pasid.unwrap_or(0))
            }),
            Effect::Fence => true,
        };
        assert!(known, "{effect:?} is for none of {targets:?}");
    }
}

fn covers(target: Target, range: &std::ops::Range<u64>, levels: Levels, effects: &[Effect]) {
    let mut blocks: Vec<(u64, u128)> = effects
        .iter()
        .filter_map(|effect| match (target, *effect) {
            (
                Target::Iotlb { tag, pasid },
                Effect::Iotlb {
                    tag: its,
                    pasid: with,
                    first,
                    pages,
                    leaf_only,
                },
            ) if its.is_none_or(|its| tag.0 == its)
                && (pasid.get() == with || pages == 1 << 52) =>
            {
                assert!(
                    !leaf_only || levels == Levels::LeafOnly,
                    "tables changed, and {effect:?} spares them"
                );
                Some((first, pages))
            }
            (
                Target::DeviceTlb { device, pasid },
                Effect::DeviceTlb {
                    device: its,
                    pasid: with,
                    first,
                    pages,
                },
            ) if device.0 == its && pasid.get() == with.unwrap_or(0) => Some((first, pages)),
            _ => None,
        })
        .collect();
    blocks.sort_unstable();
    let mut next = u128::from(range.start);
    let mut total = 0;
    for (first, pages) in blocks {
        assert!(
            u128::from(first) <= next,
            "a gap at page {next:#x} of {target:?}"
        );
        next = next.max(u128::from(first) + pages);
        total += pages;
    }
    let wanted = u128::from(range.end - range.start);
    assert!(
        next >= u128::from(range.end),
        "{target:?} keeps page {next:#x}"
    );
    // Tag-wide forms have no bound; anything narrower does.
    assert!(
        total >= 1 << 52 || total < 2 * wanted,
        "{total} pages for {wanted}"
    );
}
