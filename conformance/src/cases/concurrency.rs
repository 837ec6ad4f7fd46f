//! Devices that work while everything changes.

use super::Case;
use crate::kernel::{HUGE, PAGE, Process, Rights};
use crate::outcome::{Outcome, ensure, failed};
use crate::rig::Layout;
use crate::scene::{Bench, Scene, USER};
use crate::soak::Soak;
use iommu_core::sva::Requests;
use iommu_model::device::Transfer;
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "dma-during-changes",
        about: "devices read and write through every unmap, protect and replacement",
        run: dma_during_changes,
    },
    Case {
        name: "dma-during-binding",
        about: "devices work while others are bound, unbound and enabled",
        run: dma_during_binding,
    },
    Case {
        name: "threads",
        about: "two kernel threads change two address spaces while two more drive the devices",
        run: threads,
    },
    Case {
        name: "short-soak",
        about: "300 random operations on processes, bindings and page tables",
        run: short_soak,
    },
];

fn dma_during_changes(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::WIDE)?;
    let process = scene.kernel.process()?;
    let pages: Vec<u64> = (0..16).map(|page| USER + page * PAGE).collect();
    for &page in &pages {
        process.map(page, Rights::WRITABLE)?;
    }
    for seat in 0..4 {
        process.bind(seat, Requests::Tagged)?;
        for &page in &pages {
            scene.reaches(seat, &process, page)?;
        }
    }
    for round in 0..40 {
        for seat in 0..4 {
            scene.traffic(seat, process.pasid(), &pages, 6);
        }
        let page = pages[scene.kernel.random.below(16) as usize];
        match round % 4 {
            0 => process.unmap(page, page + PAGE)?,
            1 if process.physical(page).is_some() => process.protect(page, page + PAGE)?,
            2 if process.physical(page).is_some() => drop(process.replace(page)?),
            _ => {
                for &page in &pages {
                    if process.physical(page).is_none() {
                        process.map(page, Rights::WRITABLE)?;
                    }
                }
            }
        }
        scene.kernel.judge()?;
    }
    process.destroy()?;
    scene.kernel.check()
}

fn dma_during_binding(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout {
        devices: 3,
        ..Layout::DEVICE_TLB
    })?;
    let worker = scene.with_pages(4)?;
    let pages: Vec<u64> = (0..4).map(|page| USER + page * PAGE).collect();
    for _ in 0..6 {
        scene.traffic(0, worker.pasid(), &pages, 20);
        let guest = scene.kernel.process()?;
        guest.map(USER, Rights::WRITABLE)?;
        // The worker has the first for itself if devices send no PASIDs.
        let seats = if scene.rig.sends_pasids() { 0 } else { 1 }..3;
        for seat in seats.rev() {
            guest.bind(seat, Requests::Tagged)?;
            scene.reaches(seat, &guest, USER)?;
        }
        scene.traffic(0, worker.pasid(), &pages, 20);
        guest.unbind(1, Requests::Tagged)?;
        let (iommu, seat) = scene.kernel.seat(1);
        iommu.disable_device(seat.device)?;
        scene.traffic(0, worker.pasid(), &pages, 20);
        scene.kernel.enable(1)?;
        guest.exit()?;
        guest.destroy()?;
        scene.reaches(0, &worker, USER)?;
    }
    scene.kernel.check()
}

/// Every thread's share of rounds.
const ROUNDS: u64 = 60;

fn threads(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::WIDE)?;
    // Commands that are executed inside a doorbell write would not be one event with what devices
    // do at the same time.
    if !bench.freedom.policy.later && scene.rig.model().is_ok() {
        return Ok(());
    }
    let processes = [scene.kernel.process()?, scene.kernel.process()?];
    let pages: Vec<u64> = (0..8).map(|page| USER + page * PAGE).collect();
    for process in &processes {
        for &page in &pages {
            process.map(page, Rights::WRITABLE)?;
        }
    }
    // Both processes on all, or each on its own if devices send no PASIDs.
    let shared = scene.rig.sends_pasids();
    let bound = |process: usize, seat: usize| shared || seat % 2 == process;
    for (index, process) in processes.iter().enumerate() {
        for seat in (0..4).filter(|&seat| bound(index, seat)) {
            process.bind(seat, Requests::Tagged)?;
        }
    }
    let over = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        for half in 0..2 {
            let (scene, processes, pages, over) = (&scene, &processes, &pages, &over);
            scope.spawn(move || drive(scene, processes, pages, half, over));
        }
        let changers: Vec<_> = processes
            .iter()
            .enumerate()
            .map(|(index, process)| {
                let (scene, pages) = (&scene, &pages);
                let seat = if shared { 2 } else { index + 2 };
                scope.spawn(move || change(scene, process, seat, pages))
            })
            .collect();
        let outcomes: Vec<_> = changers.into_iter().map(|thread| thread.join()).collect();
        over.store(true, Ordering::Relaxed);
        outcomes
            .into_iter()
            .try_for_each(|outcome| outcome.unwrap_or_else(|_| failed("a kernel thread panicked")))
    });
    outcome?;
    scene.kernel.check()
}

/// Keeps two devices at work.
fn drive(scene: &Scene, processes: &[Process; 2], pages: &[u64], half: usize, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        for seat in [half, half + 2] {
            for process in processes {
                let address = pages[scene.kernel.random.below(pages.len() as u64) as usize];
                let write =
                    Transfer::write(process.pasid(), address + 64 * half as u64, vec![1; 16]);
                let job = scene.rig.start(seat, write);
                scene.rig.finish(&job);
            }
        }
    }
}

fn change(scene: &Scene, process: &Process, seat: usize, pages: &[u64]) -> Outcome {
    for round in 0..ROUNDS {
        let page = pages[scene.kernel.random.below(pages.len() as u64) as usize];
        match round % 4 {
            0 => process.unmap(page, page + 2 * PAGE)?,
            1 if process.physical(page).is_some() => drop(process.replace(page)?),
            2 => process.protect(USER, USER + 8 * PAGE)?,
            _ => process.raise(USER, USER + 8 * PAGE)?,
        }
        for &page in pages {
            if process.physical(page).is_none() {
                process.map(page, Rights::WRITABLE)?;
            }
        }
        if round % 16 == 15 {
            process.unbind_running(seat, Requests::Tagged)?;
            process.bind(seat, Requests::Tagged)?;
        }
    }
    let mapped = process.pages().len();
    ensure(
        mapped == pages.len(),
        format_args!("{mapped} pages of 2 MiB at {HUGE}"),
    )
}

fn short_soak(bench: &Bench<'_>) -> Outcome {
    let mut soak = Soak::new(bench)?;
    for _ in 0..300 {
        soak.step()?;
    }
    soak.end()
}
