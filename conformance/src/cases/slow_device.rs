//! A device that answers an invalidation when it pleases, on hardware that waits for the answer.

use super::Case;
use crate::kernel::PAGE;
use crate::outcome::{Outcome, Stop, ensure, failed};
use crate::rig::Layout;
use crate::scene::{Bench, Scene, USER};
use shootdown_device_tlb::{Device, What};
use std::time::Duration;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "slow-device",
        about: "a device takes half a second to answer: the translation works until then, no frame is free before",
        run: slow_device,
    },
    Case {
        name: "endless-device",
        about: "a device answers only when it is told to: the invalidation is not done before",
        run: endless_device,
    },
];

/// How late the slow device is.
const DELAY: Duration = Duration::from_millis(500);
/// What an invalidation is given to reach the device.
const LONG: Duration = Duration::from_secs(20);
/// How often the endless device looks whether its answer was waited for.
const LOOKS: usize = 20;

fn slow_device(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::DEVICE_TLB)?;
    let device = scene.rig.device_tlb(0)?;
    unmap_while_waiting(&scene, device, || device.set_answer_delay(DELAY), || true)?;
    let history = device.take_history();
    let first = |is: fn(&What) -> bool| {
        let event = history.iter().find(|event| is(&event.what));
        event.map_or(0, |event| event.at)
    };
    let late = first(|what| matches!(what, What::InvalidationAnswered(_)))
        - first(|what| matches!(what, What::InvalidationReceived(_)));
    ensure(
        u128::from(late) >= DELAY.as_nanos(),
        format_args!("the device answered after {late} ns"),
    )
}

fn endless_device(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::DEVICE_TLB)?;
    let device = scene.rig.device_tlb(0)?;
    let looks = std::cell::Cell::new(0);
    let going_on = || {
        looks.set(looks.get() + 1);
        if looks.get() == LOOKS {
            device.set_answer_delay(Duration::ZERO);
        }
        looks.get() <= LOOKS
    };
    unmap_while_waiting(&scene, device, || device.never_answer(), going_on)
}

/// Unmaps a page that the device has cached, after `delay`, and looks at the kernel while the device
/// owes the answer and `going_on`: the frame is not free, and the device may use it. Afterwards it is,
/// and may not.
fn unmap_while_waiting(
    scene: &Scene,
    device: &Device,
    delay: impl FnOnce(),
    going_on: impl Fn() -> bool,
) -> Outcome {
    let process = scene.with_pages(2)?;
    scene.reaches(0, &process, USER)?;
    scene.reaches(0, &process, USER + PAGE)?;
    let _ = device.take_history();
    let (free, _) = scene.kernel.free_frames();
    delay();
    let rig = &scene.rig;
    std::thread::scope(|scope| {
        let unmapping = scope.spawn(|| {
            let outcome = process.unmap(USER, USER + PAGE);
            (outcome, rig.now())
        });
        let mut waited = device.wait_for_invalidation(LONG);
        let mut looked = Ok(());
        while waited && looked.is_ok() && going_on() {
            let ended = scene.write(0, process.pasid(), USER, 0x0dd_ba11);
            let now_free = scene.kernel.free_frames().0;
            // If the answer is still owed here, it was owed before too.
            if !device.owes_answer() {
                break;
            }
            looked = ensure(
                now_free == free && ended.is_done() && !unmapping.is_finished(),
                format_args!(
                    "before the device answered, {} frames were given back, the write was {ended:?}",
                    now_free.abs_diff(free)
                ),
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        // The other thread must not wait for ever.
        if looked.is_err() || !waited {
            device.set_answer_delay(Duration::ZERO);
        }
        let (outcome, returned) = unmapping
            .join()
            .map_err(|_| Stop::Failed("unmapping panicked".to_owned()))?;
        waited &= looked.is_ok();
        looked.and(outcome)?;
        ensure(waited, "no invalidation came to the device")?;
        let answered = device.history().into_iter().rev().find_map(|event| {
            let answer =
                matches!(event.what, What::InvalidationAnswered(block) if block.contains(USER));
            answer.then_some(event.at)
        });
        match answered {
            Some(answered) => ensure(
                answered < returned,
                format_args!("done at {returned} ns, answered at {answered} ns"),
            ),
            None => failed("the device did not answer"),
        }
    })?;
    ensure(
        scene.kernel.free_frames().0 > free,
        "no frame was given back",
    )?;
    device.set_answer_delay(Duration::ZERO);
    scene.is_refused(0, process.pasid(), USER)?;
    scene.reaches(0, &process, USER + PAGE)?;
    scene.kernel.check()
}
