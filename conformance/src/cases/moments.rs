//! What happens in the middle of something else: before the kernel is there, between two stores of a
//! driver, while it waits.

use super::Case;
use crate::kernel::{PAGE, Process, Rights};
use crate::outcome::{Outcome, ensure, failed};
use crate::rig::Layout;
use crate::scene::{Bench, Scene, USER};
use iommu_core::fault::Reason;
use iommu_core::iommu::PageFaults;
use iommu_core::sva::Requests;
use iommu_model::device::Transfer;
use iommu_model::{Access, Coherency, Hardware, Request};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "early-requests",
        about: "a device sends before it is enabled: when it is, it is served",
        run: early_requests,
    },
    Case {
        name: "taken-over",
        about: "another kernel has left the IOMMU at work: nothing of its translations is left",
        run: taken_over,
    },
    Case {
        name: "half-made",
        about: "a look after every store of a driver: an entry is whole, or it is not there",
        run: half_made,
    },
    Case {
        name: "unmap-during-bind",
        about: "a page goes while its device is being bound: the device does not have it after",
        run: unmap_during_bind,
    },
    Case {
        name: "bind-during-unmap",
        about: "one thread binds and unbinds a device while another unmaps what others use",
        run: bind_during_unmap,
    },
    Case {
        name: "exit-in-turn",
        about: "exit cuts four working devices off one after the other: each stays cut off",
        run: exit_in_turn,
    },
];

fn early_requests(bench: &Bench<'_>) -> Outcome {
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let rig = bench.maker.make(&layout, bench.freedom, &bench.troubles)?;
        for pasid in [None, Some(1), Some(200)] {
            let ended = rig.run(0, Transfer::write(pasid, USER, vec![1; 8]));
            ensure(
                !ended.is_done(),
                "a device that nobody enabled reached memory",
            )?;
        }
        let scene = bench.boot(rig, layout, PageFaults::Fatal)?;
        scene.is_refused(0, Some(200), USER)?;
        let process = scene.with_pages(2)?;
        scene.reaches(0, &process, USER)?;
        if scene.rig.sends_pasids() {
            process.bind(0, Requests::Untagged)?;
        }
        scene.reaches_by(0, &process, None, USER + PAGE)?;
        process.destroy()?;
        scene.kernel.check()?;
    }
    Ok(())
}

fn taken_over(bench: &Bench<'_>) -> Outcome {
    let before = bench.scene(Layout::PLAIN)?;
    before.rig.model()?;
    let process = before.with_pages(4)?;
    process.bind(0, Requests::Untagged)?;
    for page in (0..4).map(|page| USER + page * PAGE) {
        before.reaches(0, &process, page)?;
        before.reaches_by(0, &process, None, page)?;
    }
    before.kernel.check()?;
    // The kernel has crashed.
    std::mem::forget(process);
    let scene = bench.take_over(before, Layout::PLAIN)?;
    for pasid in [None, Some(1)] {
        scene.is_refused(0, pasid, USER)?;
    }
    let process = scene.with_pages(2)?;
    process.bind(0, Requests::Untagged)?;
    for pasid in [process.pasid(), None] {
        for page in [USER, USER + PAGE] {
            scene.reaches_by(0, &process, pasid, page)?;
        }
        for page in [USER + 2 * PAGE, USER + 3 * PAGE] {
            scene.is_refused(0, pasid, page)?;
        }
    }
    process.destroy()?;
    scene.kernel.check()
}

/// The first thing that was wrong at some look.
#[derive(Default)]
struct Wrong(Mutex<Option<String>>);

impl Wrong {
    fn note(&self, what: String) {
        let mut first = self.0.lock().unwrap_or_else(|broken| broken.into_inner());
        first.get_or_insert(what);
    }

    fn outcome(&self) -> Outcome {
        let mut first = self.0.lock().unwrap_or_else(|broken| broken.into_inner());
        first.take().map_or(Ok(()), failed)
    }
}

/// Faults that tell of an entry that is half there.
const OF_HALVES: [Reason; 3] = [
    Reason::MalformedEntry,
    Reason::TableAccess,
    Reason::AddressSize,
];

fn half_made(bench: &Bench<'_>) -> Outcome {
    let layout = Layout {
        coherency: Coherency::NonCoherent,
        ..Layout::PLAIN
    };
    let scene = bench.scene(layout)?;
    let model = scene.rig.model()?;
    let process = scene.kernel.process()?;
    process.map(USER, Rights::WRITABLE)?;
    let (device, pasid) = (scene.rig.seats()[0].device.0, process.pasid());
    let frame = process.physical(USER);
    let (wrong, looks) = (Arc::new(Wrong::default()), Arc::new(AtomicU64::new(0)));
    let (noted, counted) = (wrong.clone(), looks.clone());
    let hardware = Arc::downgrade(&model.hardware[0]);
    model.machine.memory.watch(move || {
        let Some(hardware) = hardware.upgrade() else {
            return;
        };
        counted.fetch_add(1, Ordering::Relaxed);
        let request = Request {
            device,
            pasid,
            privileged: false,
            address: USER,
            access: Access::Read,
        };
        if let Ok(found) = hardware.translate(&request)
            && Some(found.address) != frame
        {
            noted.note(format!("a half-made entry leads to {:#x}", found.address));
        }
    });
    for round in 0..4 {
        bind_and_look(&scene, &process, round)?;
        wrong.outcome()?;
    }
    ensure(looks.load(Ordering::Relaxed) > 0, "nobody has looked")?;
    process.destroy()?;
    scene.kernel.check()
}

/// Everything that changes an entry, and no fault that tells of a half of one.
fn bind_and_look(scene: &Scene, process: &Process, round: u64) -> Outcome {
    let (iommu, seat) = scene.kernel.seat(0);
    let halves = Mutex::new(Vec::new());
    let look = || {
        scene.kernel.settle();
        iommu.take_faults(&mut |fault| {
            if OF_HALVES.contains(&fault.reason)
                && let Ok(mut halves) = halves.lock()
            {
                halves.push(fault.to_string());
            }
        });
    };
    process.bind(0, Requests::Tagged)?;
    look();
    scene.reaches(0, process, USER)?;
    iommu.quarantine(seat.device)?;
    look();
    iommu.restore(seat.device)?;
    look();
    scene.reaches(0, process, USER)?;
    process.unbind(0, Requests::Tagged)?;
    look();
    if round % 2 == 1 {
        iommu.disable_device(seat.device)?;
        look();
        scene.kernel.enable(0)?;
        look();
    }
    let halves = halves.into_inner().unwrap_or_default();
    ensure(
        halves.is_empty(),
        format_args!("an entry was seen half made: {halves:?}"),
    )
}

fn unmap_during_bind(bench: &Bench<'_>) -> Outcome {
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let scene = bench.scene(layout)?;
        let model = scene.rig.model()?;
        let process = Arc::new(scene.kernel.process()?);
        for page in (0..4).map(|page| USER + page * PAGE) {
            process.map(page, Rights::WRITABLE)?;
            let (rig, other) = (scene.rig.clone(), process.clone());
            model.machine.interrupt(move || {
                let write = Transfer::write(other.pasid(), page, vec![1; 8]);
                rig.run(0, write);
                // Its outcome is what the device can do after.
                let _ = other.unmap(page, page + PAGE);
            });
            process.bind(0, Requests::Tagged)?;
            // If the driver did not have to wait.
            model.machine.interrupt(|| ());
            if process.physical(page).is_some() {
                scene.reaches(0, &process, page)?;
            } else {
                scene.is_refused(0, process.pasid(), page)?;
            }
            process.unbind(0, Requests::Tagged)?;
        }
        scene.kernel.check()?;
    }
    Ok(())
}

fn bind_during_unmap(bench: &Bench<'_>) -> Outcome {
    const ROUNDS: u64 = 60;
    // As in `threads`, commands that are executed inside a doorbell write would not be one event.
    let scene = bench.scene(Layout {
        devices: 2,
        ..Layout::DEVICE_TLB
    })?;
    if !bench.freedom.policy.later && scene.rig.model().is_ok() {
        return Ok(());
    }
    let process = scene.bound()?;
    let pages: Vec<u64> = (0..4).map(|page| USER + page * PAGE).collect();
    let over = AtomicBool::new(false);
    let unmap = || -> Outcome {
        for round in 0..ROUNDS {
            for &page in &pages {
                if process.physical(page).is_none() {
                    process.map(page, Rights::WRITABLE)?;
                }
            }
            scene.traffic(0, process.pasid(), &pages, 8);
            scene.traffic(1, process.pasid(), &pages, 8);
            let page = pages[(round % 4) as usize];
            process.unmap(page, page + PAGE)?;
        }
        Ok(())
    };
    let bind = || -> Outcome {
        while !over.load(Ordering::Relaxed) {
            process.bind(1, Requests::Tagged)?;
            scene.kernel.breathe();
            process.unbind_running(1, Requests::Tagged)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let binder = scope.spawn(bind);
        let unmapped = unmap();
        over.store(true, Ordering::Relaxed);
        unmapped?;
        binder
            .join()
            .unwrap_or_else(|_| failed("a kernel thread panicked"))
    })?;
    process.destroy()?;
    scene.kernel.check()
}

fn exit_in_turn(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout {
        devices: 4,
        ..Layout::DEVICE_TLB
    })?;
    for _ in 0..4 {
        let process = scene.kernel.process()?;
        let pages: Vec<u64> = (0..12).map(|page| USER + page * PAGE).collect();
        for &page in &pages {
            process.map(page, Rights::WRITABLE)?;
        }
        for seat in 0..4 {
            process.bind(seat, Requests::Tagged)?;
        }
        for seat in 0..4 {
            scene.traffic(seat, process.pasid(), &pages, 60);
        }
        scene.kernel.breathe();
        process.exit()?;
        for seat in 0..4 {
            scene.traffic(seat, process.pasid(), &pages, 30);
        }
        scene.kernel.settle();
        scene.kernel.judge()?;
        process.destroy()?;
    }
    scene.kernel.check()
}
