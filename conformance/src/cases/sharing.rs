//! One page table, two walkers: data both ways, and every kind of change.

use super::Case;
use crate::kernel::{Announce, PAGE, Rights};
use crate::outcome::{Outcome, ensure};
use crate::rig::{Layout, Shortcoming};
use crate::scene::{Bench, USER};
use core_notifier::Range;
use iommu_core::sva::Requests;
use iommu_model::Coherency;
use iommu_model::device::{Ended, Transfer};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "dma-both-ways",
        about: "what the CPU writes the device reads, and the reverse, of any length over page borders",
        run: dma_both_ways,
    },
    Case {
        name: "untagged",
        about: "requests without a PASID, beside tagged ones of another process",
        run: untagged,
    },
    Case {
        name: "partial-unmap",
        about: "of eight pages three go: those are refused, the others stay",
        run: partial_unmap,
    },
    Case {
        name: "protect",
        about: "a page becomes read-only: writes are refused, reads go on",
        run: protect,
    },
    Case {
        name: "raise-permissions",
        about: "a read-only page becomes writable for a device that has it cached",
        run: raise_permissions,
    },
    Case {
        name: "copy-on-write",
        about: "the page gets another frame: old, gap, new, and never old again (B-08, N13, N14)",
        run: copy_on_write,
    },
    Case {
        name: "announcements",
        about: "range, section and batch promise the same",
        run: announcements,
    },
    Case {
        name: "clear-young",
        about: "clearing the accessed state takes no translation away from anybody",
        run: clear_young,
    },
    Case {
        name: "non-coherent",
        about: "walkers and devices that do not snoop see every change of tables and pages",
        run: non_coherent,
    },
];

fn dma_both_ways(bench: &Bench<'_>) -> Outcome {
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let scene = bench.scene(layout)?;
        let process = scene.with_pages(4)?;
        let pasid = process.pasid();
        for (offset, length) in [(0, 8), (PAGE - 3, 7), (5, 2 * PAGE), (1, 1), (PAGE, 0)] {
            let bytes: Vec<u8> = (0..length)
                .map(|_| scene.kernel.random.bits() as u8)
                .collect();
            let write = Transfer::write(pasid, USER + offset, bytes.clone());
            ensure(scene.rig.run(0, write).is_done(), "a write was refused")?;
            let read = scene
                .rig
                .run(0, Transfer::read(pasid, USER + offset, length));
            ensure(
                read == Ended::Done(bytes),
                "the device reads other bytes than it wrote",
            )?;
        }
        process.store(USER + 16, 0x1234_5678)?;
        let found = scene.read(0, pasid, USER + 16)?;
        ensure(
            found == 0x1234_5678,
            "the device does not read what the CPU wrote",
        )?;
        scene.reaches(0, &process, USER + 3 * PAGE + 8)?;
        scene.is_refused(0, pasid, USER + 4 * PAGE)?;
        process.destroy()?;
        scene.kernel.check()?;
    }
    Ok(())
}

fn untagged(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::DEVICE_TLB)?;
    scene.unless(Shortcoming::NoPasids)?;
    let tagged = scene.with_pages(1)?;
    let plain = scene.kernel.process()?;
    plain.map(USER, Rights::WRITABLE)?;
    scene.is_refused(0, None, USER)?;
    plain.bind(0, Requests::Untagged)?;
    scene.reaches_by(0, &plain, None, USER)?;
    scene.reaches(0, &tagged, USER)?;
    plain.unmap(USER, USER + PAGE)?;
    scene.is_refused(0, None, USER)?;
    scene.reaches(0, &tagged, USER)?;
    plain.unbind(0, Requests::Untagged)?;
    plain.destroy()?;
    tagged.destroy()?;
    scene.kernel.check()
}

fn partial_unmap(bench: &Bench<'_>) -> Outcome {
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let scene = bench.scene(layout)?;
        let process = scene.with_pages(8)?;
        for page in 0..8 {
            scene.reaches(0, &process, USER + page * PAGE)?;
        }
        process.unmap(USER + 2 * PAGE, USER + 5 * PAGE)?;
        for page in 0..8 {
            let address = USER + page * PAGE;
            if (2..5).contains(&page) {
                scene.is_refused(0, process.pasid(), address)?;
            } else {
                scene.reaches(0, &process, address)?;
            }
        }
        // The freed frames are somebody else's now, and the pages can come back.
        let other = scene.kernel.process()?;
        for page in 0..3 {
            other.map(USER + page * PAGE, Rights::WRITABLE)?;
        }
        process.map(USER + 3 * PAGE, Rights::WRITABLE)?;
        scene.reaches(0, &process, USER + 3 * PAGE)?;
        scene.kernel.check()?;
    }
    Ok(())
}

fn protect(bench: &Bench<'_>) -> Outcome {
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let scene = bench.scene(layout)?;
        let process = scene.with_pages(3)?;
        for page in 0..3 {
            scene.reaches(0, &process, USER + page * PAGE)?;
        }
        process.store(USER + PAGE, 77)?;
        process.protect(USER + PAGE, USER + 2 * PAGE)?;
        scene.is_refused(0, process.pasid(), USER + PAGE)?;
        let found = scene.read(0, process.pasid(), USER + PAGE)?;
        ensure(found == 77, "a read-only page is not read as it is")?;
        scene.reaches(0, &process, USER)?;
        scene.reaches(0, &process, USER + 2 * PAGE)?;
        scene.kernel.check()?;
    }
    Ok(())
}

fn raise_permissions(bench: &Bench<'_>) -> Outcome {
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let scene = bench.scene(layout)?;
        let process = scene.bound()?;
        process.map(USER, Rights::READ_ONLY)?;
        scene.read(0, process.pasid(), USER)?;
        scene.is_refused(0, process.pasid(), USER)?;
        process.raise(USER, USER + PAGE)?;
        scene.reaches(0, &process, USER)?;
        scene.kernel.check()?;
    }
    Ok(())
}

fn copy_on_write(bench: &Bench<'_>) -> Outcome {
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let scene = bench.scene(layout)?;
        let process = scene.with_pages(2)?;
        let pages = [USER, USER + PAGE];
        for round in 0..20 {
            scene.reaches(0, &process, USER + 8)?;
            process.store(USER + 16, round)?;
            scene.traffic(0, process.pasid(), &pages, 8);
            let old = process.physical(USER);
            process.replace(USER)?;
            scene.kernel.settle();
            ensure(process.physical(USER) != old, "the page kept its frame")?;
            scene.reaches(0, &process, USER + 8)?;
            // The frame that is free now is the next that somebody gets.
            let stranger = scene.kernel.take_frame()?;
            scene.traffic(0, process.pasid(), &pages, 8);
            scene.kernel.settle();
            scene.kernel.judge()?;
            scene.kernel.give_back_frame(stranger);
        }
        scene.kernel.check()?;
    }
    Ok(())
}

fn announcements(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::DEVICE_TLB)?;
    let process = scene.bound()?;
    let pages: Vec<u64> = (0..12).map(|page| USER + page * 3 * PAGE).collect();
    for announce in [Announce::Range, Announce::Section, Announce::Batch] {
        process.announce_by(announce);
        for &page in &pages {
            process.map(page, Rights::WRITABLE)?;
            scene.reaches(0, &process, page)?;
        }
        scene.traffic(0, process.pasid(), &pages, 30);
        process.protect(USER, USER + 20 * PAGE)?;
        scene.is_refused(0, process.pasid(), USER)?;
        process.unmap(USER, USER + 36 * PAGE)?;
        for &page in &pages {
            scene.is_refused(0, process.pasid(), page)?;
        }
        scene.kernel.check()?;
    }
    Ok(())
}

fn clear_young(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::DEVICE_TLB)?;
    let process = scene.with_pages(4)?;
    for page in 0..4 {
        scene.reaches(0, &process, USER + page * PAGE)?;
    }
    let _ = process
        .notifiers
        .clear_flush_young(Range::new(USER, USER + 4 * PAGE)?);
    for page in 0..4 {
        scene.reaches(0, &process, USER + page * PAGE)?;
    }
    scene.kernel.check()
}

fn non_coherent(bench: &Bench<'_>) -> Outcome {
    let layout = Layout {
        coherency: Coherency::NonCoherent,
        ..Layout::DEVICE_TLB
    };
    let scene = bench.scene(layout)?;
    let process = scene.with_pages(6)?;
    let pages: Vec<u64> = (0..6).map(|page| USER + page * PAGE).collect();
    for &page in &pages {
        scene.reaches(0, &process, page)?;
    }
    for round in 0..6 {
        scene.traffic(0, process.pasid(), &pages, 10);
        let page = pages[round];
        process.replace(page)?;
        scene.reaches(0, &process, page)?;
        process.unmap_and_prune(page, page + PAGE)?;
        scene.is_refused(0, process.pasid(), page)?;
        process.map(page, Rights::WRITABLE)?;
        scene.reaches(0, &process, page)?;
    }
    let second = scene.with_pages(1)?;
    scene.reaches(0, &second, USER)?;
    process.exit()?;
    scene.is_refused(0, process.pasid(), USER)?;
    process.destroy()?;
    scene.reaches(0, &second, USER)?;
    scene.kernel.check()
}
