//! The suite must be able to fail.

use super::Case;
use crate::kernel::PAGE;
use crate::outcome::{Outcome, Stop, failed};
use crate::rig::Layout;
use crate::scene::{Bench, USER};

pub(super) const CASES: &[Case] = &[Case {
    name: "control",
    about: "with the invalidation left out, the stale access goes through and the oracle sees it",
    run: control,
}];

fn control(bench: &Bench<'_>) -> Outcome {
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let scene = bench.scene(layout)?;
        let process = scene.with_pages(2)?;
        scene.reaches(0, &process, USER)?;
        scene.kernel.be_silent(true);
        process.unmap(USER, USER + PAGE)?;
        let ended = scene.write(0, process.pasid(), USER, 1);
        if !ended.is_done() {
            return failed(format_args!(
                "without invalidation a stale write is {ended:?}"
            ));
        }
        match scene.kernel.judge() {
            Err(Stop::Failed(_)) => {}
            other => return failed(format_args!("the oracle says {other:?} to a stale write")),
        }
        match scene.kernel.check() {
            Err(Stop::Failed(_)) => {}
            other => return failed(format_args!("a poisoned frame was written: {other:?}")),
        }
    }
    Ok(())
}
