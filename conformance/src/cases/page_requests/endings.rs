//! Bindings, processes and devices that end while requests are outstanding.

use super::{bound, destroy, regions, some_steps, writes};
use crate::kernel::PAGE;
use crate::outcome::{Outcome, ensure};
use crate::scene::{Scene, USER};
use iommu_core::sva::Requests;
use iommu_model::device::Ended;

/// Requests of both devices that nobody has resolved: on their way, in the hardware's queue, and in
/// the hands of a thread. `unserved` says that none was taken out of the hardware's queue.
fn outstanding(scene: &Scene, unserved: bool) -> Outcome {
    for _ in 0..1 + scene.kernel.random.below(3) {
        some_steps(scene);
        if !unserved {
            scene.kernel.serve()?;
        }
    }
    some_steps(scene);
    Ok(())
}

pub(super) fn unbinding(scene: &Scene) -> Outcome {
    let (process, pager) = scene.paged(&regions())?;
    let queue = scene.kernel.worker(&pager, 32);
    for round in 0..12 {
        for seat in 0..2 {
            process.bind_paged(seat, queue.clone())?;
        }
        let theirs = writes(scene, 0, &process, 6);
        let others = writes(scene, 1, &process, 6);
        outstanding(scene, round % 3 == 0)?;
        process.unbind(0, Requests::Tagged)?;
        scene.kernel.judge()?;
        let device = scene.rig.seats()[0].device.0;
        let owed = scene.kernel.answers.owed(device);
        // A page group response is posted at unbind and reaches the device soon.
        scene.kernel.settle();
        scene.kernel.judge()?;
        let left = scene.kernel.answers.owed(device);
        ensure(
            left == 0,
            format_args!("{owed} requests waited after unbind, {left} wait for ever"),
        )?;
        let ended = scene.serve_until(&others)?;
        ensure(
            ended.iter().all(Ended::is_done),
            format_args!("the other device's writes: {ended:?}"),
        )?;
        let ended = scene.serve_until(&theirs)?;
        ensure(
            !ended.contains(&Ended::Stuck),
            "a write waits for an answer that does not come",
        )?;
        process.unbind(1, Requests::Tagged)?;
        process.unmap(USER, USER + 64 * PAGE)?;
        scene.is_refused_paged(0, process.pasid(), USER)?;
        scene.kernel.check()?;
    }
    reused_pasid(scene, process)
}

/// The next process gets the PASID, and its device's requests reach it alone.
fn reused_pasid(scene: &Scene, process: std::sync::Arc<crate::kernel::Process>) -> Outcome {
    let pasid = process.pasid();
    destroy(process)?;
    let (next, pager) = bound(scene, &[0])?;
    ensure(next.pasid() == pasid, "the PASID is free after the drop")?;
    scene.reaches_paged(0, &next, USER + PAGE)?;
    ensure(
        pager.counts() == (1, 0),
        "one group came, and it was its own",
    )?;
    destroy(next)?;
    scene.kernel.check()
}

pub(super) fn exit(scene: &Scene) -> Outcome {
    for round in 0..8 {
        let (process, pager) = scene.paged(&regions())?;
        let queue = scene.kernel.worker(&pager, 32);
        process.bind_paged(0, queue.clone())?;
        let (other, _) = bound(scene, &[0, 1])?;
        let theirs = writes(scene, 0, &process, 6);
        let others = writes(scene, 1, &other, 6);
        outstanding(scene, round % 3 == 0)?;
        process.exit()?;
        ensure(process.pages().is_empty(), "a dead process has pages")?;
        // Its device does not know yet, and asks on.
        let late = writes(scene, 0, &process, 3);
        for jobs in [theirs, late] {
            let ended = scene.serve_until(&jobs)?;
            ensure(
                !ended.contains(&Ended::Stuck),
                "a write waits for an answer that does not come",
            )?;
        }
        ensure(
            process.pages().is_empty(),
            "a page was mapped into a dead process",
        )?;
        let ended = scene.serve_until(&others)?;
        ensure(
            ended.iter().all(Ended::is_done),
            format_args!("the other process's device: {ended:?}"),
        )?;
        scene.reaches_paged(0, &other, USER + 9 * PAGE)?;
        process.unbind(0, Requests::Tagged)?;
        destroy(process)?;
        destroy(other)?;
        scene.kernel.check()?;
    }
    Ok(())
}

pub(super) fn reset(scene: &Scene) -> Outcome {
    let model = scene.rig.model()?;
    let device = scene.rig.seats()[0].device;
    let (process, _) = bound(scene, &[0, 1])?;
    for round in 0..6 {
        scene.reaches_paged(0, &process, USER)?;
        let theirs = writes(scene, 0, &process, 12);
        let others = writes(scene, 1, &process, 12);
        outstanding(scene, round % 2 == 0)?;
        let iommu = scene.kernel.seat(0).0;
        scene.kernel.oracle.excuse(device.0);
        iommu.quarantine(device)?;
        model.devices[0].reset();
        some_steps(scene);
        scene.kernel.page_requests(0).device_reset(device);
        ensure(
            scene.kernel.page_requests(0).kept(device) == 0,
            "requests from before the reset are kept",
        )?;
        let ended = scene.serve_until(&theirs)?;
        ensure(
            !ended.contains(&Ended::Stuck),
            "a write waits though its device was reset",
        )?;
        scene.kernel.settle();
        model.devices[0].enable_device_tlb(true);
        model.devices[0].enable_page_requests(true);
        iommu.restore(device)?;
        scene.kernel.oracle.unexcuse(device.0);
        scene.reaches_paged(0, &process, USER + 30 * PAGE)?;
        let ended = scene.serve_until(&others)?;
        ensure(
            ended.iter().all(Ended::is_done),
            format_args!("the other device's writes: {ended:?}"),
        )?;
        process.unmap(USER, USER + 64 * PAGE)?;
        scene.kernel.check()?;
    }
    destroy(process)?;
    scene.kernel.check()
}

pub(super) fn removal(scene: &Scene) -> Outcome {
    let model = scene.rig.model()?;
    let device = scene.rig.seats()[0].device;
    let (process, _) = bound(scene, &[0, 1])?;
    let theirs = writes(scene, 0, &process, 12);
    let others = writes(scene, 1, &process, 12);
    outstanding(scene, scene.kernel.random.once_in(2))?;
    model.devices[0].remove();
    scene.kernel.oracle.excuse(device.0);
    let ended = scene.serve_until(&theirs)?;
    ensure(
        !ended.contains(&Ended::Stuck),
        "a write waits though its device is gone",
    )?;
    // The kernel hears of it: it parks the device, unbinds it and takes it away.
    let iommu = scene.kernel.seat(0).0;
    iommu.quarantine(device)?;
    process.unbind(0, Requests::Tagged)?;
    scene.kernel.page_requests(0).remove_device(device);
    iommu.disable_device(device)?;
    let ended = scene.serve_until(&others)?;
    ensure(
        ended.iter().all(Ended::is_done),
        format_args!("the other device's writes: {ended:?}"),
    )?;
    scene.reaches_paged(1, &process, USER + 40 * PAGE)?;
    destroy(process)?;
    scene.kernel.come_to_rest()?;
    scene.kernel.judge()?;
    scene.kernel.answers.nobody_waits()
}
