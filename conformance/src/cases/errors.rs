//! Queues that refuse commands, drop lists or are full: whose error it is, and what stays true.

use super::Case;
use crate::kernel::{DmaDomain, PAGE, Rights};
use crate::outcome::{Outcome, ensure, failed};
use crate::rig::Layout;
use crate::scene::{Bench, Scene, USER};
use core_notifier::Range;
use iommu_core::deferred::Bounds;
use iommu_core::error::QueueError;
use iommu_core::ids::Pasid;
use iommu_core::iommu::Ticket;
use iommu_core::operation::{Invalidation, Levels, Target};
use iommu_core::sva::Requests;
use iommu_model::Hardware;
use iommu_model::device::Answers;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "illegal-command",
        about: "a command of an invalidation is refused: it is reported, made up for, and hurts nobody else",
        run: illegal_command,
    },
    Case {
        name: "error-of-another",
        about: "a command of the list in front is refused: that list has failed, the one behind is done",
        run: error_of_another,
    },
    Case {
        name: "time-out-of-another",
        about: "a device does not answer the list in front: the one behind is done all the same",
        run: time_out_of_another,
    },
    Case {
        name: "unbind-refused",
        about: "a command of an unbind is refused: the binding stays, and its PASID is nobody else's",
        run: unbind_refused,
    },
    Case {
        name: "quarantine-refused",
        about: "a command of a quarantine is refused: the device counts as before until it is cut off",
        run: quarantine_refused,
    },
    Case {
        name: "full-queue",
        about: "more lists are posted than the queue holds: each is done when it is waited for",
        run: full_queue,
    },
];

/// Lets the first command refuse that the first IOMMU is given from now on.
fn refuse_next(scene: &Scene) -> Outcome {
    scene.kernel.settle();
    scene.rig.model()?.hardware[0].reject_next();
    Ok(())
}

fn illegal_command(bench: &Bench<'_>) -> Outcome {
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let scene = bench.scene(layout)?;
        scene.rig.model()?;
        let process = scene.with_pages(4)?;
        let bystander = scene.with_pages(2)?;
        for page in [USER, USER + PAGE] {
            scene.reaches(0, &process, page)?;
            scene.reaches(0, &bystander, page)?;
        }
        for round in 0..2 {
            let page = USER + round * PAGE;
            refuse_next(&scene)?;
            process.unmap(page, page + PAGE)?;
            ensure(
                !scene.kernel.failures().is_empty(),
                "an invalidation whose command was refused was taken for done",
            )?;
            bystander.unmap(page, page + PAGE)?;
            scene.is_refused(0, bystander.pasid(), page)?;
            let others = scene.kernel.failures();
            ensure(
                others.is_empty(),
                format_args!("an invalidation of somebody else's failed: {others:?}"),
            )?;
            process.settle()?;
            scene.is_refused(0, process.pasid(), page)?;
            scene.reaches(0, &process, USER + (2 + round) * PAGE)?;
        }
        process.destroy()?;
        bystander.destroy()?;
        scene.kernel.check()?;
    }
    Ok(())
}

/// Posts an invalidation of everything in the TLB of the device on the first seat.
fn post(scene: &Scene, pasid: Option<u32>) -> Outcome<Ticket> {
    let (iommu, seat) = scene.kernel.seat(0);
    let Some(pasid) = pasid.and_then(Pasid::new) else {
        return failed("a process has no PASID");
    };
    let targets = [Target::DeviceTlb {
        device: seat.device,
        pasid,
    }];
    Ok(iommu.submit(&Invalidation {
        targets: &targets,
        range: Range::ALL,
        levels: Levels::All,
    })?)
}

fn error_of_another(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::DEVICE_TLB)?;
    let process = scene.with_pages(4)?;
    for page in (0..4).map(|page| USER + page * PAGE) {
        scene.reaches(0, &process, page)?;
        refuse_next(&scene)?;
        let ticket = post(&scene, process.pasid())?;
        process.unmap(page, page + PAGE)?;
        let failures = scene.kernel.failures();
        ensure(
            failures.is_empty(),
            format_args!("an error was told to the list behind: {failures:?}"),
        )?;
        let (iommu, _) = scene.kernel.seat(0);
        match iommu.wait(ticket) {
            Err(QueueError::IllegalCommand { .. }) => {}
            other => return failed(format_args!("a list with a refused command is {other:?}")),
        }
        scene.is_refused(0, process.pasid(), page)?;
    }
    scene.kernel.check()
}

fn time_out_of_another(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout {
        devices: 2,
        ..Layout::DEVICE_TLB
    })?;
    let model = scene.rig.model()?;
    let silent = scene.with_pages(1)?;
    let process = scene.kernel.process()?;
    process.bind(1, Requests::Tagged)?;
    scene.kernel.oracle.excuse(scene.rig.seats()[0].device.0);
    for page in (0..6).map(|page| USER + page * PAGE) {
        process.map(page, Rights::WRITABLE)?;
        scene.reaches(1, &process, page)?;
        model.devices[0].set_answers(Answers::Never);
        model.devices[1].set_answers(Answers::Late(400));
        let ticket = post(&scene, silent.pasid())?;
        scene.traffic(1, process.pasid(), &[page], 30);
        process.unmap(page, page + PAGE)?;
        let failures = scene.kernel.failures();
        ensure(
            failures.is_empty(),
            format_args!("somebody else's device was waited for in vain: {failures:?}"),
        )?;
        scene.is_refused(1, process.pasid(), page)?;
        let (iommu, _) = scene.kernel.seat(0);
        match iommu.wait(ticket) {
            Err(QueueError::DeviceTimeout { .. } | QueueError::Aborted) => {}
            other => return failed(format_args!("a list without an answer is {other:?}")),
        }
        model.devices[0].set_answers(Answers::Promptly);
        scene.kernel.settle();
    }
    scene.kernel.check()
}

fn unbind_refused(bench: &Bench<'_>) -> Outcome {
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let scene = bench.scene(layout)?;
        let process = scene.with_pages(3)?;
        scene.reaches(0, &process, USER)?;
        refuse_next(&scene)?;
        let unbound = process.unbind(0, Requests::Tagged);
        ensure(
            unbound.is_err(),
            "an unbind whose command was refused was taken for done",
        )?;
        scene.kernel.failures();
        process.unmap(USER, USER + PAGE)?;
        scene.is_refused(0, process.pasid(), USER)?;
        process.unbind(0, Requests::Tagged)?;
        scene.is_refused(0, process.pasid(), USER + PAGE)?;
        process.bind(0, Requests::Tagged)?;
        scene.reaches(0, &process, USER + PAGE)?;

        let pasid = process.pasid();
        refuse_next(&scene)?;
        process.destroy()?;
        ensure(
            !scene.kernel.failures().is_empty(),
            "nobody was told that a device may still use an address space",
        )?;
        let other = scene.with_pages(1)?;
        ensure(
            other.pasid() != pasid,
            "a PASID that hardware may still know was given out again",
        )?;
        scene.reaches(0, &other, USER)?;
        other.destroy()?;
        scene.kernel.settle();
        scene.kernel.judge()?;
    }
    Ok(())
}

fn quarantine_refused(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::DEVICE_TLB)?;
    let model = scene.rig.model()?;
    let process = scene.with_pages(2)?;
    scene.reaches(0, &process, USER)?;
    scene.reaches(0, &process, USER + PAGE)?;
    let (iommu, seat) = scene.kernel.seat(0);
    scene.kernel.oracle.excuse(seat.device.0);
    model.devices[0].set_answers(Answers::Never);
    process.unmap(USER, USER + PAGE)?;
    scene.kernel.failures();
    refuse_next(&scene)?;
    ensure(
        iommu.quarantine(seat.device).is_err(),
        "a quarantine whose command was refused was taken for done",
    )?;
    process.unmap(USER + PAGE, USER + 2 * PAGE)?;
    for page in [USER, USER + PAGE] {
        scene.write(0, process.pasid(), page, 1);
        scene.kernel.judge()?;
    }
    process.settle()?;
    for page in [USER, USER + PAGE] {
        scene.is_refused(0, process.pasid(), page)?;
    }
    scene.kernel.failures();
    scene.kernel.check()
}

fn full_queue(bench: &Bench<'_>) -> Outcome {
    const PAGES: u64 = 300;
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let scene = bench.scene(layout)?;
        let domain = DmaDomain::new(&scene.kernel, 0, Bounds::DEFAULT)?;
        for page in (0..PAGES).map(|page| USER + page * PAGE) {
            domain.map(page)?;
            scene.write(0, None, page, page);
        }
        scene.kernel.judge()?;
        domain.unmap_by_lists(USER, USER + PAGES * PAGE)?;
        for page in (0..PAGES).map(|page| USER + page * PAGE) {
            scene.is_refused(0, None, page)?;
        }
        domain.destroy()?;
        scene.kernel.check()?;
    }
    Ok(())
}
