//! Devices that ask as no honest device does, beside one that works.

use super::{NOBODYS, bound, destroy, writes};
use crate::kernel::{PAGE, Process, SHARE};
use crate::outcome::{Outcome, ensure};
use crate::scene::{Scene, USER};
use iommu_model::PageRequest;
use iommu_model::device::{Ended, Message, Mischief};

/// The hostile device's seat, and the honest one's.
const HOSTILE: usize = 0;
const HONEST: usize = 1;
/// Group indices that the honest device does not come to in a case.
const FAR: u16 = 400;

/// A request of the hostile device for one page, with nothing wrong.
fn request(scene: &Scene, pasid: Option<u32>, group: u16, last: bool) -> PageRequest {
    PageRequest {
        device: scene.rig.seats()[HOSTILE].device.0,
        pasid,
        privileged: false,
        address: USER,
        read: true,
        write: true,
        execute: false,
        last,
        group,
    }
}

/// The hostile device sends `requests`, in this order.
fn send(scene: &Scene, requests: &[PageRequest]) -> Outcome {
    let device = &scene.rig.model()?.devices[HOSTILE];
    for &request in requests.iter().rev() {
        device.mischief(Mischief::PageRequest(request));
    }
    Ok(())
}

/// The honest device's faults are resolved, the hostile one has no more than its share, and each
/// group is answered.
fn holds(scene: &Scene, process: &Process) -> Outcome {
    let ended = scene.serve_until(&writes(scene, HONEST, process, 6))?;
    ensure(
        ended.iter().all(Ended::is_done),
        format_args!("the honest device's writes: {ended:?}"),
    )?;
    process.unmap(USER, USER + 64 * PAGE)?;
    bounded(scene)?;
    scene.kernel.check()
}

fn bounded(scene: &Scene) -> Outcome {
    for seat in [HOSTILE, HONEST] {
        let device = scene.rig.seats()[seat].device;
        let kept = scene.kernel.page_requests(seat).kept(device);
        ensure(
            kept <= usize::from(SHARE.0),
            format_args!("{kept} requests of device {device} are kept"),
        )?;
    }
    Ok(())
}

pub(super) fn flood(scene: &Scene) -> Outcome {
    let (process, pager) = bound(scene, &[HOSTILE, HONEST])?;
    let model = scene.rig.model()?;
    let memory = model.machine.memory.in_use();
    for pasid in [process.pasid(), Some(77), None] {
        model.devices[HOSTILE].mischief(Mischief::Flood {
            pasid,
            requests: 600,
        });
        for _ in 0..12 {
            for _ in 0..50 {
                scene.rig.step();
            }
            scene.kernel.serve()?;
            bounded(scene)?;
        }
        let before = pager.counts();
        holds(scene, &process)?;
        ensure(pager.counts().1 == before.1, "an honest group was refused")?;
    }
    ensure(
        model.machine.memory.in_use() == memory,
        "the flood made the driver take memory",
    )?;
    // A group of the flood that ends at last was given up, or is resolved; it is answered.
    let last = request(scene, process.pasid(), 3, true);
    send(scene, &[last])?;
    holds(scene, &process)?;
    destroy(process)?;
    scene.kernel.check()
}

pub(super) fn overflow(scene: &Scene) -> Outcome {
    let (process, _) = bound(scene, &[HOSTILE, HONEST])?;
    let mut overflowed = false;
    for round in 0..4 {
        // Nobody serves while more comes than any queue of ours holds.
        let jobs = writes(scene, HONEST, &process, 12);
        let many: Vec<PageRequest> = (0..1400)
            .map(|number| {
                let last = (number + round) % 3 == 0;
                request(scene, process.pasid(), (number / 3 % 512) as u16, last)
            })
            .collect();
        send(scene, &many)?;
        scene.kernel.settle();
        for page_requests in [HOSTILE, HONEST].map(|seat| scene.kernel.page_requests(seat)) {
            overflowed |= page_requests.serve()?.overflowed;
            bounded(scene)?;
        }
        // Whom the full queue told to try again did so; after a few times in vain it gives up.
        let ended = scene.serve_until(&jobs)?;
        ensure(
            !ended.contains(&Ended::Stuck),
            format_args!("after the overflow: {ended:?}"),
        )?;
        holds(scene, &process)?;
    }
    ensure(overflowed, "no queue has overflowed")?;
    destroy(process)?;
    scene.kernel.check()
}

pub(super) fn reused_groups(scene: &Scene) -> Outcome {
    let (process, _) = bound(scene, &[HOSTILE, HONEST])?;
    let (other, _) = bound(scene, &[HOSTILE])?;
    let of = |pasid, last| request(scene, pasid, FAR, last);
    let (one, two) = (process.pasid(), other.pasid());
    for order in [
        // The second group begins before the first has ended.
        [of(one, false), of(two, false), of(one, true), of(two, true)],
        [of(one, false), of(two, true), of(two, true), of(one, true)],
        // It ends twice, before the first answer can have come.
        [of(one, true), of(one, true), of(one, true), of(one, true)],
        [of(one, false), of(one, false), of(one, true), of(one, true)],
    ] {
        send(scene, &order)?;
        holds(scene, &process)?;
    }
    destroy(process)?;
    destroy(other)?;
    scene.kernel.check()
}

pub(super) fn strangers(scene: &Scene) -> Outcome {
    let (process, pager) = bound(scene, &[HONEST])?;
    let dead = {
        let (dying, _) = bound(scene, &[HOSTILE])?;
        let pasid = dying.pasid();
        destroy(dying)?;
        pasid
    };
    let honest = scene.rig.seats()[HONEST].device.0;
    for pasid in [dead, Some(99), None, process.pasid(), Some(0xff)] {
        let [begin, end] = [false, true].map(|last| request(scene, pasid, FAR, last));
        let before = pager.counts();
        send(scene, &[begin, end, end])?;
        scene.kernel.come_to_rest()?;
        scene.kernel.judge()?;
        ensure(
            pager.counts() == before,
            format_args!("a request with PASID {pasid:?}, which is not bound, was handled"),
        )?;
        holds(scene, &process)?;
    }
    // With another's name, which access control services keep from happening: the other gets the
    // answers, at indices that it does not use.
    let forged = PageRequest {
        device: honest,
        ..request(scene, process.pasid(), FAR, true)
    };
    let begun = PageRequest {
        last: false,
        ..forged
    };
    send(scene, &[forged, begun, forged, begun])?;
    holds(scene, &process)?;
    let nobody = PageRequest {
        device: 0x7f8,
        ..forged
    };
    send(
        scene,
        &[
            PageRequest {
                last: false,
                ..nobody
            },
            nobody,
        ],
    )?;
    unanswerable(scene, nobody.device)?;
    // A PASID that is wider than the IOMMU's own need not fit into a response either.
    let wide = request(scene, Some(0xf_ffff), FAR, true);
    send(scene, &[wide])?;
    unanswerable(scene, wide.device)?;
    holds(scene, &process)?;
    destroy(process)?;
    scene.kernel.check()
}

/// Nothing is asked of the answers to what a device has sent.
fn unanswerable(scene: &Scene, device: u32) -> Outcome {
    scene.kernel.come_to_rest()?;
    scene.kernel.judge()?;
    scene.kernel.answers.note(&[Message::Forgot(device)])
}

pub(super) fn malformed(scene: &Scene) -> Outcome {
    let (process, pager) = bound(scene, &[HOSTILE, HONEST])?;
    let good = |last| request(scene, process.pasid(), FAR, last);
    let privileged = |last| PageRequest {
        privileged: true,
        ..good(last)
    };
    let execute = |last| PageRequest {
        execute: true,
        ..good(last)
    };
    let nothing = PageRequest {
        read: false,
        write: false,
        ..good(false)
    };
    for group in [
        vec![privileged(true)],
        vec![execute(true)],
        vec![privileged(false), good(false), good(true)],
        vec![good(false), execute(false), good(true)],
        vec![good(false), good(false), privileged(true)],
        vec![nothing, good(true)],
    ] {
        let before = pager.counts();
        let answered = scene.kernel.answers.answered();
        send(scene, &group)?;
        scene.kernel.come_to_rest()?;
        scene.kernel.judge()?;
        ensure(
            pager.counts() == before,
            format_args!("a malformed group was handled: {group:?}"),
        )?;
        let answers = scene.kernel.answers.answered() - answered;
        ensure(
            answers == 1,
            format_args!("{answers} answers to one group: {group:?}"),
        )?;
        // Its index is as good as new.
        send(scene, &[good(false), good(true)])?;
        scene.kernel.come_to_rest()?;
        ensure(
            pager.counts() == (before.0 + 1, before.1),
            format_args!("the group after {group:?} was not handled"),
        )?;
        holds(scene, &process)?;
    }
    // A stop marker has no answer.
    let marker = PageRequest {
        last: true,
        ..nothing
    };
    let answered = scene.kernel.answers.answered();
    send(scene, &[marker, marker])?;
    scene.kernel.come_to_rest()?;
    scene.kernel.judge()?;
    ensure(
        scene.kernel.answers.answered() == answered,
        "a stop marker was answered",
    )?;
    holds(scene, &process)?;
    destroy(process)?;
    scene.kernel.check()
}

pub(super) fn by_chance(scene: &Scene) -> Outcome {
    let (process, _) = bound(scene, &[HOSTILE, HONEST])?;
    let (other, _) = bound(scene, &[HONEST])?;
    let random = &scene.kernel.random;
    let device = &scene.rig.model()?.devices[HOSTILE];
    for _ in 0..30 {
        let requests: Vec<PageRequest> = (0..random.below(80))
            .map(|_| PageRequest {
                privileged: random.once_in(8),
                execute: random.once_in(8),
                read: !random.once_in(8),
                write: random.once_in(2),
                address: [USER, USER + PAGE, NOBODYS, !0xfff][random.below(4) as usize],
                last: random.once_in(3),
                ..request(
                    scene,
                    [process.pasid(), other.pasid(), Some(99), None][random.below(4) as usize],
                    random.below(8) as u16,
                    false,
                )
            })
            .collect();
        send(scene, &requests)?;
        device.mischief(Mischief::Completion {
            device: scene.rig.seats()[HOSTILE].device.0,
            itags: random.bits() as u32,
        });
        if random.once_in(4) {
            device.mischief(Mischief::Flood {
                pasid: process.pasid(),
                requests: 100,
            });
        }
        let jobs = writes(scene, HONEST, &other, 4);
        let ended = scene.serve_until(&jobs)?;
        ensure(
            ended.iter().all(Ended::is_done),
            format_args!("the honest device's writes: {ended:?}"),
        )?;
        bounded(scene)?;
        other.unmap(USER, USER + 64 * PAGE)?;
        process.unmap(USER, USER + 64 * PAGE)?;
    }
    holds(scene, &process)?;
    destroy(process)?;
    destroy(other)?;
    scene.kernel.check()
}

pub(super) fn stall_flood(scene: &Scene) -> Outcome {
    let (process, _) = bound(scene, &[HOSTILE, HONEST])?;
    // Each at a page of its own: more than the SMMU can hold back.
    let mut jobs = writes(scene, HOSTILE, &process, 60);
    jobs.extend(writes(scene, HOSTILE, &process, 60));
    jobs.extend(writes(scene, HOSTILE, &process, 60));
    let ended = scene.serve_until(&jobs)?;
    ensure(!ended.contains(&Ended::Stuck), format_args!("{ended:?}"))?;
    scene.kernel.come_to_rest()?;
    scene.reaches_paged(HONEST, &process, USER + 61 * PAGE)?;
    bounded(scene)?;
    destroy(process)?;
    scene.kernel.check()
}
