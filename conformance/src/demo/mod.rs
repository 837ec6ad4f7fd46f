//! The demo on the models: shared virtual addressing told a line a step, with what it cost, on each
//! IOMMU, and a control run that shows what the invalidation is for.

mod faults;

use crate::kernel::{PAGE, Rights};
use crate::outcome::{Outcome, Stop, ensure};
use crate::rig::{Layout, Maker};
use crate::run;
use crate::scene::{Bench, Scene, USER};
use iommu_core::sva::Requests;
use iommu_core::testing::Event;
use iommu_model::Policy;
use iommu_model::device::{Answers, Transfer};
use std::fmt::Display;

/// The story on one rig; whether every promise held.
pub fn run(maker: &'static dyn Maker) -> bool {
    println!(
        "\n{}: the driver on the model, one IOMMU with two devices",
        maker.name()
    );
    println!("  commands doorbells waits");
    let freedom = run::free(7, Policy::FREE);
    let bench = Bench::new(maker, freedom);
    let told = story(&bench).and_then(|()| {
        faults::story(&bench)?;
        println!("  control: the same with the invalidation left out");
        control(&bench)
    });
    match told {
        Ok(()) => {
            println!("  every promise held");
            true
        }
        Err(Stop::Skip(why)) => {
            println!("  left out: {why}");
            true
        }
        Err(Stop::Failed(what)) => {
            println!("  BROKEN: {what}");
            false
        }
    }
}

struct Teller<'a> {
    scene: &'a Scene,
}

impl Teller<'_> {
    /// Tells a step and what the driver sent since the last.
    fn step(&self, sentence: impl Display) -> Outcome {
        let (mut commands, mut doorbells, mut waits) = (0, 0, 0);
        for event in self.scene.rig.model()?.recorders[0].take() {
            match event {
                Event::Command(_) => commands += 1,
                Event::Doorbell => doorbells += 1,
                Event::Wait => waits += 1,
            }
        }
        println!("  {commands:>8} {doorbells:>9} {waits:>5}  {sentence}");
        self.scene.kernel.judge()
    }
}

fn story(bench: &Bench<'_>) -> Outcome {
    let layout = Layout {
        devices: 2,
        ..Layout::DEVICE_TLB
    };
    let scene = bench.scene(layout)?;
    let model = scene.rig.model()?;
    let tell = Teller { scene: &scene };
    tell.step("probed, two devices enabled; every access of theirs is refused")?;
    scene.is_refused(0, Some(1), USER)?;

    let first = scene.kernel.process()?;
    let second = scene.kernel.process()?;
    let (one, two) = (first.shared().pasid(), second.shared().pasid());
    for page in 0..4 {
        first.map(USER + page * PAGE, Rights::WRITABLE)?;
        second.map(USER + page * PAGE, Rights::WRITABLE)?;
    }
    for seat in 0..2 {
        first.bind(seat, Requests::Tagged)?;
        second.bind(seat, Requests::Tagged)?;
    }
    tell.step(format_args!(
        "two processes, PASIDs {one} and {two}, bound to both devices"
    ))?;

    first.store(USER, 0x1111)?;
    second.store(USER, 0x2222)?;
    let read = (
        scene.read(0, first.pasid(), USER)?,
        scene.read(0, second.pasid(), USER)?,
    );
    ensure(
        read == (0x1111, 0x2222),
        "a device reads another process's memory",
    )?;
    for page in 0..4 {
        for seat in 0..2 {
            scene.reaches(seat, &first, USER + page * PAGE)?;
            scene.reaches(seat, &second, USER + page * PAGE)?;
        }
    }
    tell.step("the same virtual address is each process's own memory, read and written both ways")?;
    let held = model.devices[0].held();
    tell.step(format_args!(
        "the first device's TLB holds {held} translations and asks no more"
    ))?;

    first.protect(USER, USER + PAGE)?;
    tell.step("the page is write-protected in the first process ...")?;
    scene.is_refused(0, first.pasid(), USER)?;
    scene.read(0, first.pasid(), USER)?;
    scene.reaches(0, &second, USER)?;
    tell.step("... its write is refused, its read goes on, the second process is not touched")?;

    let pages = [USER + PAGE, USER + 2 * PAGE];
    for seat in 0..2 {
        scene.traffic(seat, first.pasid(), &pages, 30);
    }
    first.unmap(USER + PAGE, USER + 2 * PAGE)?;
    tell.step(
        "a page is unmapped while both devices write to it; its frame is free and poisoned ...",
    )?;
    for seat in 0..2 {
        scene.is_refused(seat, first.pasid(), USER + PAGE)?;
        scene.reaches(seat, &first, USER + 2 * PAGE)?;
    }
    tell.step("... nobody reaches it any more, not even from its own TLB")?;

    first.replace(USER + 2 * PAGE)?;
    scene.reaches(1, &first, USER + 2 * PAGE)?;
    tell.step("copy on write: the page has another frame, and the devices follow")?;

    model.devices[1].set_answers(Answers::Never);
    scene.kernel.oracle.excuse(scene.rig.seats()[1].device.0);
    second.unmap(USER + 3 * PAGE, USER + 4 * PAGE)?;
    let failures = scene.kernel.failures();
    let failure = failures.first().map(|failure| failure.error.to_string());
    let Some(failure) = failure else {
        return crate::outcome::failed("a device that does not answer was taken for done");
    };
    tell.step(format_args!(
        "the second device does not answer: {failure}; the frame is kept"
    ))?;
    scene.is_refused(0, second.pasid(), USER + 3 * PAGE)?;
    scene.reaches(0, &second, USER)?;
    second.unmap(USER, USER + PAGE)?;
    scene.is_refused(0, second.pasid(), USER)?;
    tell.step("the first device is served as before")?;

    scene.traffic(0, first.pasid(), &[USER + 2 * PAGE, USER + 3 * PAGE], 20);
    first.exit()?;
    tell.step("the first process ends while its device works ...")?;
    scene.is_refused(0, first.pasid(), USER + 2 * PAGE)?;
    tell.step("... which is cut off before a frame is free")?;
    let (judged, refused) = scene.kernel.oracle.judged();
    tell.step(format_args!(
        "the oracle judged {judged} accesses, {refused} of them refusals"
    ))
}

/// The page table changes and nobody is told: the stale access must go through, and be seen.
fn control(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::DEVICE_TLB)?;
    let process = scene.with_pages(1)?;
    scene.reaches(0, &process, USER)?;
    scene.kernel.be_silent(true);
    process.unmap(USER, USER + PAGE)?;
    let write = Transfer::write(process.pasid(), USER, vec![0xbd; 8]);
    ensure(
        scene.rig.run(0, write).is_done(),
        "a stale write was refused without invalidation",
    )?;
    ensure(
        scene.kernel.judge().is_err(),
        "the oracle did not see a stale write",
    )?;
    println!(
        "  {:>8} {:>9} {:>5}  the stale write reached the freed frame, and the oracle saw it",
        0, 0, 0
    );
    Ok(())
}
