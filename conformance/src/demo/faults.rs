//! The demo's second half: page faults of devices, and a device that is out to do harm.

use super::Teller;
use crate::kernel::{PAGE, Pager, Process, SHARE};
use crate::outcome::{Outcome, Stop, ensure};
use crate::rig::Layout;
use crate::scene::{Bench, Scene, USER};
use iommu_model::PageRequest;
use iommu_model::device::{Ended, Mischief, Transfer};
use std::sync::Arc;

const LAYOUT: Layout = Layout {
    devices: 2,
    page_requests: true,
    ..Layout::DEVICE_TLB
};
/// What the process may use.
const END: u64 = USER + 64 * PAGE;

/// Faults taken, resolved and resumed, by page requests and by stalls, and a hostile device contained.
pub(super) fn story(bench: &Bench<'_>) -> Outcome {
    println!("  page faults: two devices that ask for pages");
    let scene = bench.scene(LAYOUT)?;
    let tell = Teller { scene: &scene };
    let (process, pager) = bound(&scene)?;
    tell.step("a process without a single page, bound to both devices")?;
    resolved(&scene, &tell, &process, &pager, "asked for it")?;
    scene.is_refused_paged(0, process.pasid(), END)?;
    tell.step("an address that is not the process's: asked for, refused")?;
    hostile(&scene, &tell, &process)?;
    scene.kernel.check()?;
    match bench.stalling(LAYOUT) {
        Ok(scene) => {
            println!("  page faults: the IOMMU holds the transaction back instead");
            let tell = Teller { scene: &scene };
            let (process, pager) = bound(&scene)?;
            tell.step("a process without a single page, bound to both devices")?;
            resolved(&scene, &tell, &process, &pager, "was held back")?;
            scene.kernel.check()
        }
        Err(Stop::Skip(_)) => Ok(()),
        Err(failed) => Err(failed),
    }
}

fn bound(scene: &Scene) -> Outcome<(Arc<Process>, Arc<Pager>)> {
    let (process, pager) = scene.paged(&[(USER..END, true)])?;
    for seat in 0..2 {
        process.bind_paged(seat, pager.clone())?;
    }
    Ok((process, pager))
}

fn resolved(
    scene: &Scene,
    tell: &Teller<'_>,
    process: &Process,
    pager: &Pager,
    waited: &str,
) -> Outcome {
    scene.reaches_paged(0, process, USER)?;
    tell.step(format_args!(
        "a fault taken, resolved and resumed: the page was not there, the device {waited}, the handler mapped it, the write went on"
    ))?;
    let bytes: Vec<u8> = (0..16 * PAGE).map(|at| (at / 7) as u8).collect();
    let from = USER + 8 * PAGE;
    let before = pager.counts().0;
    let write = Transfer::write(process.pasid(), from, bytes.clone());
    let read = Transfer::read(process.pasid(), from, bytes.len() as u64);
    let written = scene.serve_until(&[scene.rig.start(0, write)])?;
    scene.kernel.come_to_rest()?;
    let back = scene.serve_until(&[scene.rig.start(1, read)])?;
    ensure(
        written[0].is_done() && back == [Ended::Done(bytes)],
        "64 KiB did not come back as they were written",
    )?;
    let groups = pager.counts().0 - before;
    tell.step(format_args!(
        "64 KiB written to pages that were not there, {groups} faults; the other device reads them back"
    ))
}

fn hostile(scene: &Scene, tell: &Teller<'_>, process: &Process) -> Outcome {
    let model = scene.rig.model()?;
    let hostile = &model.devices[0];
    let id = scene.rig.seats()[0].device;
    let memory = model.machine.memory.in_use();
    for group in 0..200 {
        hostile.mischief(Mischief::PageRequest(PageRequest {
            device: id.0,
            pasid: [process.pasid(), Some(99)][usize::from(group % 2)],
            privileged: group % 3 == 0,
            address: u64::from(group) << 30,
            read: true,
            write: true,
            execute: group % 5 == 0,
            last: true,
            group,
        }));
    }
    // The last that it was told comes first.
    hostile.mischief(Mischief::Flood {
        pasid: process.pasid(),
        requests: 1500,
    });
    let mut most = 0;
    for page in 0..24 {
        scene.reaches_paged(1, process, USER + (32 + page) * PAGE)?;
        most = most.max(scene.kernel.page_requests(0).kept(id));
    }
    // The kernel attends to the rest as it comes, so that no queue overflows.
    while (0..50).any(|_| scene.rig.step()) {
        scene.kernel.attend()?;
    }
    scene.kernel.come_to_rest()?;
    scene.kernel.judge()?;
    scene.kernel.answers.nobody_waits()?;
    ensure(
        most <= usize::from(SHARE.0) && model.machine.memory.in_use() == memory,
        "the hostile device was given more than its share",
    )?;
    tell.step(format_args!(
        "a hostile device contained: of 1700 requests without an end, malformed or with a foreign PASID at most {most} are kept, its share being {}; each group is answered once; 24 faults of the other device are resolved meanwhile",
        SHARE.0
    ))
}
