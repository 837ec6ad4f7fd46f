//! Faults that are resolved, or refused, while the device waits.

use super::{NOBODYS, PAGES, READ_ONLY, bound, destroy, regions, writes};
use crate::kernel::{PAGE, Rights};
use crate::outcome::{Outcome, ensure};
use crate::scene::{Scene, USER};
use iommu_model::device::{Ended, Transfer};

pub(super) fn a_missing_page(scene: &Scene) -> Outcome {
    let (process, pager) = bound(scene, &[0])?;
    scene.reaches_paged(0, &process, USER)?;
    let (groups, refused) = pager.counts();
    ensure(
        groups > 0 && refused == 0,
        format_args!("{groups} groups, {refused} refused"),
    )?;
    // More pages than a group has, and not from a page's first byte.
    let bytes: Vec<u8> = (0..10 * PAGE).map(|at| at as u8 ^ 0x77).collect();
    let from = USER + 5 * PAGE + 16;
    let write = Transfer::write(process.pasid(), from, bytes.clone());
    let read = Transfer::read(process.pasid(), from, bytes.len() as u64);
    let written = scene.serve_until(&[scene.rig.start(0, write)])?;
    ensure(
        written[0].is_done(),
        format_args!("the write is {:?}", written[0]),
    )?;
    scene.kernel.come_to_rest()?;
    let back = scene.serve_until(&[scene.rig.start(0, read)])?;
    ensure(
        back == [Ended::Done(bytes)],
        "the device reads something else than it wrote",
    )?;
    let pages = process.pages().len();
    ensure(pages == 12, format_args!("{pages} pages were made present"))?;
    // What was mapped for the device is taken away as anything else.
    process.unmap(USER, USER + PAGE)?;
    let groups = pager.counts().0;
    scene.reaches_paged(0, &process, USER)?;
    ensure(
        pager.counts().0 > groups,
        "the page that was unmapped was used without asking",
    )?;
    destroy(process)?;
    scene.kernel.check()
}

pub(super) fn by_a_thread(scene: &Scene) -> Outcome {
    let (process, pager) = scene.paged(&regions())?;
    let queue = scene.kernel.worker(&pager, 4);
    for seat in 0..2 {
        process.bind_paged(seat, queue.clone())?;
    }
    let mut jobs = writes(scene, 0, &process, 6);
    jobs.extend(writes(scene, 1, &process, 6));
    // The thread is slow at first: the queue has no room for all of them.
    for _ in 0..3 {
        some_turns(scene)?;
    }
    let ended = scene.serve_until(&jobs)?;
    let done = ended.iter().filter(|ended| ended.is_done()).count();
    // Who was told to try again did so, a few times at most.
    ensure(
        done >= 4 && !ended.contains(&Ended::Stuck),
        format_args!("{done} of 12 writes are done: {ended:?}"),
    )?;
    scene.reaches_paged(0, &process, USER)?;
    destroy(process)?;
    scene.kernel.check()
}

/// Devices and the serving of their requests, without the thread that resolves them.
fn some_turns(scene: &Scene) -> Outcome {
    for _ in 0..scene.kernel.random.below(60) {
        scene.rig.step();
    }
    scene.kernel.serve().map(drop)
}

pub(super) fn a_wrong_address(scene: &Scene) -> Outcome {
    let (process, pager) = bound(scene, &[0, 1])?;
    let (other, _) = bound(scene, &[0])?;
    let mut jobs = writes(scene, 0, &process, 5);
    jobs.extend(writes(scene, 1, &process, 5));
    jobs.extend(writes(scene, 0, &other, 5));
    let wrong = |pasid| Transfer::write(pasid, NOBODYS, vec![1; 8]);
    let refused = scene.rig.start(0, wrong(process.pasid()));
    let ended = scene.serve_until(&jobs)?;
    ensure(
        ended.iter().all(Ended::is_done),
        format_args!("who asks rightly ends so: {ended:?}"),
    )?;
    let refused = scene.serve_until(&[refused])?;
    ensure(
        matches!(refused[0], Ended::Refused(_)),
        format_args!("who asks for what is nobody's: {refused:?}"),
    )?;
    ensure(pager.counts().1 == 1, "one group was refused")?;
    scene.reaches_paged(0, &process, USER + 20 * PAGE)?;
    destroy(process)?;
    destroy(other)?;
    scene.kernel.check()
}

pub(super) fn a_write_to_a_read_only_page(scene: &Scene) -> Outcome {
    let (process, _) = bound(scene, &[0])?;
    // Shared with somebody, so not writable, but the region is.
    process.map(USER, Rights::READ_ONLY)?;
    process.store(USER + 64, 0x1234_5678)?;
    let before = process.physical(USER);
    ensure(
        scene.read(0, process.pasid(), USER + 64)? == 0x1234_5678,
        "a read-only page is read",
    )?;
    scene.reaches_paged(0, &process, USER)?;
    ensure(
        process.physical(USER) != before,
        "the page was written where others see it",
    )?;
    ensure(
        process.load(USER + 64)? == 0x1234_5678,
        "the copy has other bytes",
    )?;
    // A read makes it present, a write is refused.
    let read = Transfer::read(process.pasid(), READ_ONLY, 8);
    let ended = scene.serve_until(&[scene.rig.start(0, read)])?;
    ensure(ended[0].is_done(), format_args!("a read is {:?}", ended[0]))?;
    scene.is_refused_paged(0, process.pasid(), READ_ONLY)?;
    scene.is_refused_paged(0, process.pasid(), READ_ONLY + (PAGES - 1) * PAGE)?;
    scene.reaches_paged(0, &process, USER + PAGE)?;
    destroy(process)?;
    scene.kernel.check()
}
