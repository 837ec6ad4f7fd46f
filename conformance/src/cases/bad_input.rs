//! Hardware that answers nonsense, and memory that somebody else writes: typed errors and reported
//! faults, no panic, no endless loop.

use super::Case;
use crate::kernel::{PAGE, Rights};
use crate::outcome::{Outcome, ensure};
use crate::rig::{Layout, Model};
use crate::scene::{Bench, Scene, USER};
use iommu_core::sva::Requests;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "iommu-removed",
        about: "every register answers ones: calls end with errors, in time",
        run: iommu_removed,
    },
    Case {
        name: "registers-garbled",
        about: "one register read in three is nonsense",
        run: registers_garbled,
    },
    Case {
        name: "tables-scribbled",
        about: "somebody writes all over tables, queues and records of faults",
        run: tables_scribbled,
    },
    Case {
        name: "device-removed",
        about: "a device is pulled out while it works and owes answers",
        run: device_removed,
    },
];

/// Everything that a kernel does, whatever comes of it.
fn everything(scene: &Scene, rounds: u64) {
    for round in 0..rounds {
        let Ok(process) = scene.kernel.process() else {
            continue;
        };
        for page in 0..3 {
            let _ = process.map(USER + page * PAGE, Rights::WRITABLE);
        }
        for (iommu, seat) in (0..scene.rig.seats().len()).map(|seat| scene.kernel.seat(seat)) {
            let _ = iommu.disable_device(seat.device);
            let _ = iommu.enable_device(seat.device, scene.kernel.device_config());
        }
        let seats = 0..scene.rig.seats().len();
        for seat in seats.clone() {
            let _ = process.bind(seat, Requests::Tagged);
            let _ = process.bind(seat, Requests::Untagged);
            scene.traffic(seat, process.pasid(), &[USER, USER + PAGE], 4);
        }
        let _ = process.unmap(USER, USER + PAGE);
        let _ = process.protect(USER, USER + 3 * PAGE);
        for seat in seats {
            // No more than a few queues' worth, however much the hardware says there is.
            let mut reported = 0;
            scene
                .kernel
                .seat(seat)
                .0
                .take_faults(&mut |_| reported += 1);
            assert!(reported <= 1 << 16, "{reported} faults in one look");
            let _ = process.unbind_running(seat, Requests::Tagged);
        }
        if round % 2 == 0 {
            let _ = process.exit();
        }
        let _ = process.destroy();
    }
    let _ = scene.rig.take_history();
}

fn iommu_removed(bench: &Bench<'_>) -> Outcome {
    use iommu_model::Hardware;
    let scene = bench.scene(Layout::DEVICE_TLB)?;
    let model = scene.rig.model()?;
    let process = scene.with_pages(2)?;
    scene.reaches(0, &process, USER)?;
    model.hardware[0].remove();
    process.unmap(USER, USER + PAGE)?;
    ensure(
        !scene.kernel.failures().is_empty(),
        "an invalidation by an IOMMU that is gone was taken for done",
    )?;
    everything(&scene, 3);
    Ok(())
}

fn registers_garbled(bench: &Bench<'_>) -> Outcome {
    for one_in in [1, 3, 20] {
        let scene = bench.scene(Layout::DEVICE_TLB)?;
        let model = scene.rig.model()?;
        let process = scene.with_pages(2)?;
        scene.reaches(0, &process, USER)?;
        model.hardware[0].garble(one_in);
        everything(&scene, 4);
        model.hardware[0].garble(0);
    }
    Ok(())
}

fn scribble(scene: &Scene, model: &Model, words: u64) {
    let memory = &model.machine.memory;
    let random = &scene.kernel.random;
    let (pool, _) = scene.rig.ram().pool();
    let blocks: Vec<(u64, u64)> = memory
        .in_use()
        .into_iter()
        .filter(|&(start, _)| start != pool)
        .collect();
    for _ in 0..words {
        let (start, length) = blocks[random.below(blocks.len() as u64) as usize];
        // The beginnings are used most.
        let length = if random.once_in(2) {
            length.min(4096)
        } else {
            length
        };
        let value = if random.once_in(4) { !0 } else { random.bits() };
        // The blocks are the driver's, so the address is memory's.
        let _ = memory.store(start + random.below(length / 8) * 8, value);
    }
}

fn tables_scribbled(bench: &Bench<'_>) -> Outcome {
    for words in [20, 400] {
        let scene = bench.scene(Layout::DEVICE_TLB)?;
        let model = scene.rig.model()?;
        let process = scene.with_pages(2)?;
        scene.reaches(0, &process, USER)?;
        for _ in 0..4 {
            scribble(&scene, model, words);
            everything(&scene, 2);
        }
    }
    Ok(())
}

fn device_removed(bench: &Bench<'_>) -> Outcome {
    use iommu_model::device::Answers;
    let scene = bench.scene(Layout::WIDE)?;
    let model = scene.rig.model()?;
    let process = scene.kernel.process()?;
    let pages: Vec<u64> = (0..4).map(|page| USER + page * PAGE).collect();
    for &page in &pages {
        process.map(page, Rights::WRITABLE)?;
    }
    for seat in 0..4 {
        process.bind(seat, Requests::Tagged)?;
        scene.reaches(seat, &process, USER)?;
        scene.traffic(seat, process.pasid(), &pages, 20);
    }
    model.devices[0].set_answers(Answers::Late(1000));
    model.devices[0].remove();
    scene.kernel.oracle.excuse(scene.rig.seats()[0].device.0);
    process.unmap(USER, USER + PAGE)?;
    scene.kernel.failures();
    for seat in 1..4 {
        scene.is_refused(seat, process.pasid(), USER)?;
        scene.reaches(seat, &process, USER + PAGE)?;
    }
    let other = scene.kernel.process()?;
    other.map(USER, Rights::WRITABLE)?;
    for seat in 1..4 {
        other.bind(seat, Requests::Tagged)?;
        scene.reaches(seat, &other, USER)?;
    }
    other.unmap(USER, USER + PAGE)?;
    for seat in 1..4 {
        scene.is_refused(seat, other.pasid(), USER)?;
    }
    let failures = scene.kernel.failures();
    ensure(
        failures.is_empty(),
        format_args!("a device that is gone costs others: {failures:?}"),
    )?;
    other.destroy()?;
    scene.kernel.settle();
    scene.kernel.judge()
}
