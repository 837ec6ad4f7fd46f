//! DMA mappings whose invalidation is deferred.

use super::Case;
use crate::kernel::{DmaDomain, PAGE};
use crate::outcome::{Outcome, ensure};
use crate::rig::Layout;
use crate::scene::{Bench, USER};
use iommu_core::deferred::Bounds;
use iommu_model::Hardware;
use std::sync::Arc;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "deferred",
        about: "unmapped pages come back in batches, and none before the hardware has forgotten it",
        run: deferred,
    },
    Case {
        name: "deferred-meanwhile",
        about: "a page that is unmapped during a flush does not come back by it",
        run: deferred_meanwhile,
    },
    Case {
        name: "deferred-refused",
        about: "a flush fails: everything stays held until one succeeds",
        run: deferred_refused,
    },
];

const BOUNDS: Bounds = Bounds {
    ranges: 8,
    nanoseconds: u64::MAX,
};

fn deferred(bench: &Bench<'_>) -> Outcome {
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let scene = bench.scene(layout)?;
        let domain = DmaDomain::new(&scene.kernel, 0, BOUNDS)?;
        let pages: Vec<u64> = (0..12).map(|page| USER + page * PAGE).collect();
        for &page in &pages {
            domain.map(page)?;
            scene.write(0, None, page, page);
        }
        scene.traffic(0, None, &pages, 40);
        for &page in &pages {
            domain.unmap(page)?;
            scene.kernel.judge()?;
            ensure(
                domain.held() < BOUNDS.ranges,
                "more is held than was agreed",
            )?;
        }
        domain.flush()?;
        ensure(domain.held() == 0, "a flush leaves something held")?;
        for &page in &pages {
            scene.is_refused(0, None, page)?;
        }
        domain.destroy()?;
        scene.kernel.check()?;
    }
    Ok(())
}

fn deferred_meanwhile(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::DEVICE_TLB)?;
    let model = scene.rig.model()?;
    let domain = Arc::new(DmaDomain::new(&scene.kernel, 0, BOUNDS)?);
    for page in [USER, USER + 8 * PAGE] {
        domain.map(page)?;
        scene.write(0, None, page, page);
    }
    domain.unmap(USER)?;
    model.devices[0].set_answers(iommu_model::device::Answers::Late(20));
    let other = domain.clone();
    model.machine.interrupt(move || {
        let _ = other.unmap(USER + 8 * PAGE);
    });
    domain.flush()?;
    scene.kernel.judge()?;
    domain.flush()?;
    for page in [USER, USER + 8 * PAGE] {
        scene.is_refused(0, None, page)?;
    }
    if let Some(domain) = Arc::into_inner(domain) {
        domain.destroy()?;
    }
    scene.kernel.check()
}

fn deferred_refused(bench: &Bench<'_>) -> Outcome {
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let scene = bench.scene(layout)?;
        let model = scene.rig.model()?;
        let domain = DmaDomain::new(&scene.kernel, 0, BOUNDS)?;
        for page in [USER, USER + PAGE] {
            domain.map(page)?;
            scene.write(0, None, page, page);
            domain.unmap(page)?;
        }
        scene.kernel.settle();
        model.hardware[0].reject_next();
        ensure(
            domain.flush().is_err(),
            "a flush whose command was refused was taken for done",
        )?;
        ensure(
            domain.held() == 2,
            "a flush that failed gave something back",
        )?;
        for page in [USER, USER + PAGE] {
            scene.write(0, None, page, page);
            scene.kernel.judge()?;
        }
        domain.flush()?;
        for page in [USER, USER + PAGE] {
            scene.is_refused(0, None, page)?;
        }
        domain.destroy()?;
        scene.kernel.check()?;
    }
    Ok(())
}
