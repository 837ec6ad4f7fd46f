//! Counts of what the engine sends for each trace, beside what Linux's drivers send.

use super::facts::fact;
use super::hardware::{Model, Riscv, Smmuv3, Vtd};
use super::ledger::{self, Ledger};
use super::linux::{Counts, Driver, Spread};
use super::scene::Scene;
use super::traces::{OPERATIONS, TRACES, Trace};
use crate::heap;

/// One IOMMU without device TLBs.
const BARE: Spread = Spread {
    iommus: 1,
    devices: 0,
};
/// One IOMMU with a device that has a TLB.
const ONE: Spread = Spread {
    iommus: 1,
    devices: 1,
};
/// Four IOMMUs with four such devices each.
const MANY: Spread = Spread {
    iommus: 4,
    devices: 4,
};

/// Prints the counts of all traces on all kinds of IOMMUs.
pub fn print() {
    let vtd = || Vtd::default();
    let smmu = |ranges| move || Smmuv3::new(ranges);
    let riscv = |ranges| move || Riscv::new(ranges);
    let linux_smmu = |ranges| Some(Driver::Smmuv3 { ranges });
    let linux_riscv = |ranges| Some(Driver::Riscv { ranges });
    let mut sum = Sum::default();
    sum.run("VT-d", vtd, ONE, Some(Driver::Vtd));
    sum.run("SMMUv3, ranges", smmu(true), ONE, linux_smmu(true));
    sum.run("SMMUv3, no ranges", smmu(false), ONE, linux_smmu(false));
    sum.run("RISC-V, ranges", riscv(true), BARE, linux_riscv(true));
    sum.run("RISC-V, no ranges", riscv(false), BARE, linux_riscv(false));
    sum.run("VT-d, 4 x 4", vtd, MANY, Some(Driver::Vtd));
    sum.run("SMMUv3, 4 x 4", smmu(true), MANY, linux_smmu(true));
    fact("waits in series, VT-d and SMMUv3", sum.waits);
    sum.waits = 0.0;
    // Linux does not support device TLBs there.
    sum.run("RISC-V, device TLB", riscv(true), ONE, None);
    sum.run("RISC-V, 4 x 4", riscv(true), MANY, None);
    fact("waits in series, RISC-V with device TLBs", sum.waits);
    fact("doorbells an IOMMU and list, most", sum.doorbells);
    fact("register reads", sum.reads);
    fact("heap calls", sum.heap);
    fact("waits with something held", sum.inside);
    fact("excess of any operation, %", sum.excess * 100.0);
}

/// The worst of all traces.
#[derive(Default)]
struct Sum {
    doorbells: f64,
    waits: f64,
    reads: f64,
    heap: f64,
    inside: f64,
    excess: f64,
}

impl Sum {
    fn run<M: Model>(
        &mut self,
        kind: &str,
        model: impl Fn() -> M,
        spread: Spread,
        linux: Option<Driver>,
    ) {
        let scene = Scene::new::<M, Ledger>(model, spread);
        for trace in &TRACES {
            let ours = self.measure(&scene, trace, spread);
            report(kind, trace, "ours", &ours);
            if let Some(driver) = linux {
                let mut theirs = Counts::NONE;
                let counts = trace.ranges().map(|pages| driver.counts(pages, spread));
                counts.for_each(|counts| theirs.add(&counts));
                report(kind, trace, "Linux", &theirs);
            }
        }
    }

    fn measure(&mut self, scene: &Scene, trace: &Trace, spread: Spread) -> Counts {
        let mut total = Counts::NONE;
        let caches = (spread.iommus * (1 + spread.devices)) as f64;
        for pages in trace.ranges() {
            let mut heap_calls = 0;
            let counts = ledger::record(pages, || {
                heap_calls = heap::calls(|| scene.unmap(pages).expect("the hardware answers"));
            });
            assert_eq!(counts.caches, caches, "each cache is invalidated once");
            let lists = spread.iommus as f64 * counts.waits;
            self.doorbells = self.doorbells.max(counts.doorbells / lists);
            self.waits = self.waits.max(counts.waits);
            self.reads += counts.reads;
            self.heap += heap_calls as f64;
            self.inside += counts.waits_inside;
            self.excess = self.excess.max(counts.worst_excess);
            total.add(&counts);
        }
        total
    }
}

fn report(kind: &str, trace: &Trace, who: &str, counts: &Counts) {
    let operations = OPERATIONS as f64;
    let asked: f64 = trace.ranges().map(|pages| pages.count as f64).sum();
    let precise = 1.0 - counts.wide / counts.caches;
    let per_cache = counts.caches / operations;
    let values = [
        ("commands", counts.commands / operations),
        ("doorbells", counts.doorbells / operations),
        ("waits", counts.waits / operations),
        ("reads", counts.reads / operations),
        ("excess", counts.excess / (asked * per_cache)),
        ("wide", 1.0 - precise),
    ];
    for (what, value) in values {
        fact(&format!("{kind}/{}/{who}/{what}", trace.name), value);
    }
}
