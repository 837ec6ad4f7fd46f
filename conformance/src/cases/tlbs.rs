//! Who shares a TLB with whom: PASIDs, devices, IOMMUs, and devices that answer late or never.

use super::Case;
use crate::kernel::{PAGE, Rights};
use crate::outcome::{Outcome, ensure};
use crate::rig::{Layout, Shortcoming};
use crate::scene::{Bench, Scene, USER};
use iommu_core::sva::Requests;
use iommu_model::device::{Answers, Mischief, Transfer};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "many-pasids",
        about: "twenty address spaces on one device: what goes in one stays in the others",
        run: many_pasids,
    },
    Case {
        name: "many-devices",
        about: "one address space on four devices of two IOMMUs: what goes is gone on all",
        run: many_devices,
    },
    Case {
        name: "mixed-devices",
        about: "of two devices of one address space one is unbound: the other is served as before",
        run: mixed_devices,
    },
    Case {
        name: "late-answers",
        about: "devices answer invalidations late: nothing is taken for done before",
        run: late_answers,
    },
    Case {
        name: "silent-device",
        about: "a device never answers: its invalidation is reported as failed, everybody else's is done",
        run: silent_device,
    },
    Case {
        name: "silent-for-long",
        about: "a device that does not answer is told of once, asked once, cut off, and brought back",
        run: silent_for_long,
    },
    Case {
        name: "many-iommus",
        about: "one address space on ten IOMMUs: what goes is gone on all",
        run: many_iommus,
    },
    Case {
        name: "foreign-answers",
        about: "a device answers for others: nobody's invalidation is done by that",
        run: foreign_answers,
    },
    Case {
        name: "forged-addresses",
        about: "a device without ATS sends translated requests: none reaches memory",
        run: forged_addresses,
    },
];

fn many_pasids(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::DEVICE_TLB)?;
    scene.unless(Shortcoming::NoPasids)?;
    let mut processes = Vec::new();
    for _ in 0..20 {
        processes.push(scene.with_pages(2)?);
    }
    for process in &processes {
        scene.reaches(0, process, USER)?;
        scene.reaches(0, process, USER + PAGE)?;
    }
    for gone in (0..20).step_by(3) {
        processes[gone].unmap(USER, USER + PAGE)?;
        for (index, process) in processes.iter().enumerate() {
            if index % 3 == 0 && index <= gone {
                scene.is_refused(0, process.pasid(), USER)?;
            } else {
                scene.reaches(0, process, USER)?;
            }
            scene.reaches(0, process, USER + PAGE)?;
        }
    }
    for process in processes {
        process.unbind(0, Requests::Tagged)?;
        process.destroy()?;
    }
    scene.kernel.check()
}

fn many_devices(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::WIDE)?;
    let process = scene.kernel.process()?;
    let seats = 0..scene.rig.seats().len();
    let pages: Vec<u64> = (0..6).map(|page| USER + page * PAGE).collect();
    for &page in &pages {
        process.map(page, Rights::WRITABLE)?;
    }
    for seat in seats.clone() {
        process.bind(seat, Requests::Tagged)?;
        for &page in &pages {
            scene.reaches(seat, &process, page)?;
        }
    }
    for seat in seats.clone() {
        scene.traffic(seat, process.pasid(), &pages, 10);
    }
    process.unmap(USER + PAGE, USER + 3 * PAGE)?;
    process.protect(USER + 3 * PAGE, USER + 4 * PAGE)?;
    process.replace(USER + 5 * PAGE)?;
    for seat in seats.clone() {
        scene.reaches(seat, &process, USER)?;
        for page in 1..4 {
            scene.is_refused(seat, process.pasid(), USER + page * PAGE)?;
        }
        scene.reaches(seat, &process, USER + 5 * PAGE)?;
    }
    for seat in seats {
        process.unbind(seat, Requests::Tagged)?;
        scene.is_refused(seat, process.pasid(), USER)?;
    }
    process.destroy()?;
    scene.kernel.check()
}

fn mixed_devices(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout {
        devices: 3,
        ..Layout::DEVICE_TLB
    })?;
    let process = scene.with_pages(4)?;
    process.bind(1, Requests::Tagged)?;
    process.bind(2, Requests::Untagged)?;
    let uses = |page: u64| -> Outcome {
        scene.reaches(1, &process, USER + page * PAGE)?;
        scene.reaches_by(2, &process, None, USER + page * PAGE)
    };
    scene.reaches(0, &process, USER)?;
    for page in 0..4 {
        uses(page)?;
    }
    process.unbind(0, Requests::Tagged)?;
    scene.is_refused(0, process.pasid(), USER)?;
    uses(0)?;
    process.unmap(USER, USER + PAGE)?;
    scene.is_refused(1, process.pasid(), USER)?;
    scene.is_refused(2, None, USER)?;
    process.unbind(1, Requests::Tagged)?;
    scene.reaches_by(2, &process, None, USER + PAGE)?;
    process.unmap(USER + PAGE, USER + 2 * PAGE)?;
    scene.is_refused(2, None, USER + PAGE)?;
    process.bind(0, Requests::Tagged)?;
    scene.reaches(0, &process, USER + 2 * PAGE)?;
    process.unmap(USER + 2 * PAGE, USER + 3 * PAGE)?;
    scene.is_refused(0, process.pasid(), USER + 2 * PAGE)?;
    scene.kernel.check()
}

fn late_answers(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::WIDE)?;
    let model = scene.rig.model()?;
    let process = scene.kernel.process()?;
    let pages: Vec<u64> = (0..4).map(|page| USER + page * PAGE).collect();
    for seat in 0..4 {
        process.bind(seat, Requests::Tagged)?;
    }
    for (steps, seat) in [(3, 1), (50, 0), (400, 2), (20, 3)] {
        for &page in &pages {
            if process.physical(page).is_none() {
                process.map(page, Rights::WRITABLE)?;
            }
            for user in 0..4 {
                scene.reaches(user, &process, page)?;
            }
        }
        model.devices[seat].set_answers(Answers::Late(steps));
        scene.traffic(seat, process.pasid(), &pages, 10);
        // The frames go to somebody else as soon as the kernel is told that they are free.
        process.unmap(USER, USER + 2 * PAGE)?;
        let other = scene.kernel.process()?;
        other.map(USER, Rights::WRITABLE)?;
        other.map(USER + PAGE, Rights::WRITABLE)?;
        scene.traffic(seat, process.pasid(), &pages, 10);
        scene.kernel.settle();
        scene.kernel.judge()?;
        for user in 0..4 {
            scene.is_refused(user, process.pasid(), USER)?;
        }
        other.destroy()?;
    }
    scene.kernel.check()
}

fn silent_device(bench: &Bench<'_>) -> Outcome {
    for answers in [Answers::Never, Answers::Lost, Answers::Refuses] {
        let scene = bench.scene(Layout::WIDE)?;
        let model = scene.rig.model()?;
        let process = scene.kernel.process()?;
        let bystander = scene.kernel.process()?;
        for page in 0..4 {
            process.map(USER + page * PAGE, Rights::WRITABLE)?;
            bystander.map(USER + page * PAGE, Rights::WRITABLE)?;
        }
        for seat in 0..4 {
            process.bind(seat, Requests::Tagged)?;
            scene.reaches(seat, &process, USER)?;
        }
        bystander.bind(1, Requests::Tagged)?;
        scene.reaches(1, &bystander, USER)?;
        let silent = scene.rig.seats()[0].device;
        model.devices[0].set_answers(answers);
        scene.kernel.oracle.excuse(silent.0);

        process.unmap(USER, USER + PAGE)?;
        let failures = scene.kernel.failures();
        ensure(
            !failures.is_empty(),
            "an invalidation that a device did not confirm was taken for done",
        )?;
        // Everybody else's is done, now and later.
        for seat in 1..4 {
            scene.is_refused(seat, process.pasid(), USER)?;
        }
        scene.reaches(1, &bystander, USER)?;
        bystander.unmap(USER, USER + PAGE)?;
        scene.is_refused(1, bystander.pasid(), USER)?;
        scene.reaches(1, &bystander, USER + PAGE)?;
        let others = scene.kernel.failures();
        ensure(
            others.is_empty(),
            format_args!("an invalidation of somebody else's failed: {others:?}"),
        )?;
        // It is answered again, and its own are done again.
        model.devices[0].set_answers(Answers::Promptly);
        scene.kernel.settle();
        scene.kernel.judge()?;
    }
    Ok(())
}

/// Nanoseconds after which the models give up waiting for a device, roughly.
const TIME_OUT: u64 = 100_000_000;

/// What `work` comes to, if nobody waits for a device meanwhile.
fn without_wait<T>(scene: &Scene, what: &str, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let started = scene.rig.now();
    let result = work()?;
    let took = scene.rig.now() - started;
    let failures = scene.kernel.failures();
    ensure(
        failures.is_empty(),
        format_args!("{what}: it is told again: {failures:?}"),
    )?;
    ensure(
        took < TIME_OUT / 2,
        format_args!("{what}: the device was waited for again, {took} ns"),
    )?;
    Ok(result)
}

fn silent_for_long(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::WIDE)?;
    let model = scene.rig.model()?;
    let process = scene.kernel.process()?;
    let pages: Vec<u64> = (0..6).map(|page| USER + page * PAGE).collect();
    for &page in &pages {
        process.map(page, Rights::WRITABLE)?;
    }
    for seat in 0..4 {
        process.bind(seat, Requests::Tagged)?;
        for &page in &pages {
            scene.reaches(seat, &process, page)?;
        }
    }
    let (iommu, seat) = scene.kernel.seat(0);
    scene.kernel.oracle.excuse(seat.device.0);
    model.devices[0].set_answers(Answers::Never);
    process.unmap(pages[0], pages[1])?;
    let told = scene.kernel.failures().len();
    ensure(
        told == 1,
        format_args!("one silent device is told of {told} times"),
    )?;
    without_wait(&scene, "the second unmap", || {
        process.unmap(pages[1], pages[2])
    })?;
    for seat in 1..4 {
        scene.is_refused(seat, process.pasid(), pages[0])?;
        scene.is_refused(seat, process.pasid(), pages[1])?;
        scene.reaches(seat, &process, pages[2])?;
    }
    without_wait(&scene, "settle", || Ok(process.settle()?))?;
    ensure(
        iommu.is_quarantined(seat.device),
        "the silent device is not cut off",
    )?;
    scene.is_refused(0, process.pasid(), pages[2])?;
    without_wait(&scene, "an unmap after that", || {
        process.unmap(pages[2], pages[3])
    })?;
    scene.is_refused(1, process.pasid(), pages[2])?;
    without_wait(
        &scene,
        "unbind",
        || Ok(process.unbind(0, Requests::Tagged)?),
    )?;
    without_wait(&scene, "disable", || Ok(iommu.disable_device(seat.device)?))?;
    // The device is reset, and works again.
    model.devices[0].reset();
    model.devices[0].enable_device_tlb(true);
    model.devices[0].set_answers(Answers::Promptly);
    scene.kernel.enable(0)?;
    scene.kernel.settle();
    scene.kernel.judge()?;
    scene.kernel.oracle.unexcuse(seat.device.0);
    process.bind(0, Requests::Tagged)?;
    scene.reaches(0, &process, pages[3])?;
    process.unmap(pages[3], pages[4])?;
    scene.is_refused(0, process.pasid(), pages[3])?;
    process.destroy()?;
    scene.kernel.check()
}

fn many_iommus(bench: &Bench<'_>) -> Outcome {
    const IOMMUS: usize = 10;
    let scene = bench.scene(Layout {
        iommus: IOMMUS,
        ..Layout::DEVICE_TLB
    })?;
    let process = scene.kernel.process()?;
    process.map(USER, Rights::WRITABLE)?;
    for seat in 0..IOMMUS {
        process.bind(seat, Requests::Tagged)?;
        scene.reaches(seat, &process, USER)?;
    }
    process.unmap(USER, USER + PAGE)?;
    for seat in 0..IOMMUS {
        scene.is_refused(seat, process.pasid(), USER)?;
    }
    process.destroy()?;
    scene.kernel.check()
}

fn foreign_answers(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::WIDE)?;
    let model = scene.rig.model()?;
    let process = scene.kernel.process()?;
    let (victims, liars) = ([0, 3], [1, 2]);
    for seat in victims {
        process.bind(seat, Requests::Tagged)?;
    }
    for round in 0..10 {
        let page = USER + round * PAGE;
        process.map(page, Rights::WRITABLE)?;
        for seat in victims {
            scene.reaches(seat, &process, page)?;
            model.devices[seat].set_answers(Answers::Late(60));
        }
        for liar in liars {
            let device = scene.rig.seats()[liar].device.0;
            for _ in 0..40 {
                model.devices[liar].mischief(Mischief::Completion { device, itags: !0 });
            }
        }
        for seat in victims {
            scene.traffic(seat, process.pasid(), &[page], 20);
        }
        process.unmap(page, page + PAGE)?;
        for seat in victims {
            scene.is_refused(seat, process.pasid(), page)?;
        }
    }
    scene.kernel.check()
}

fn forged_addresses(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::PLAIN)?;
    let process = scene.with_pages(1)?;
    let frame = process.physical(USER).unwrap_or_default();
    scene.reaches(0, &process, USER)?;
    for pasid in [None, process.pasid()] {
        for address in [frame, process.root(), scene.rig.ram().pool().0] {
            let forged = Transfer {
                translated: true,
                ..Transfer::write(pasid, address, vec![0xff; 16])
            };
            let ended = scene.rig.run(0, forged);
            ensure(!ended.is_done(), "a forged address reached memory")?;
        }
    }
    scene.kernel.judge()?;
    scene.reaches(0, &process, USER)?;
    scene.kernel.check()
}
