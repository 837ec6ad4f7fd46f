//! Ranges of every shape.

use super::Case;
use crate::kernel::{HUGE, PAGE, Process, Rights};
use crate::outcome::Outcome;
use crate::rig::Layout;
use crate::scene::{Bench, Scene, USER};
use core_notifier::Range;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "range-shapes",
        about: "one page to gigabytes, aligned and not, over every border: first and last page go, neighbours stay",
        run: shapes,
    },
    Case {
        name: "range-extremes",
        about: "everything, nothing, one byte, the end of the address space",
        run: extremes,
    },
    Case {
        name: "many-pages",
        about: "hundreds of pages in one range, and hundreds of ranges of one page",
        run: many_pages,
    },
];

/// First page and number of pages, in pages from [`USER`].
const SHAPES: &[(u64, u64)] = &[
    (0, 1),
    (1, 1),
    (511, 1),
    (511, 2),
    (1, 2),
    (3, 5),
    (0, 512),
    (1, 511),
    (1, 512),
    (5, 517),
    (127, 1026),
    (255, 2),
    (508, 9),
    (1, 0xffff),
    (0x3ffff, 2),
    (0x1234, 0x4_5678),
    (1, 0x10_0000),
];

fn shapes(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::DEVICE_TLB)?;
    for &(first, count) in SHAPES {
        let process = scene.bound()?;
        let (start, end) = (USER + first * PAGE, USER + (first + count) * PAGE);
        let inside = [start, start + count / 2 * PAGE, end - PAGE];
        let outside = [start - PAGE, end];
        for page in inside.into_iter().chain(outside) {
            if process.physical(page).is_none() {
                process.map(page, Rights::WRITABLE)?;
            }
            scene.reaches(0, &process, page + 8)?;
        }
        process.unmap(start, end)?;
        for page in inside {
            scene.is_refused(0, process.pasid(), page + 8)?;
        }
        for page in outside {
            scene.reaches(0, &process, page + 8)?;
        }
        process.destroy()?;
    }
    scene.kernel.check()
}

fn extremes(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::DEVICE_TLB)?;
    let process = scene.bound()?;
    let page = USER + HUGE - PAGE;
    let announced = |process: &Process, range: Range, scene: &Scene| -> Outcome {
        process.map(page, Rights::WRITABLE)?;
        scene.reaches(0, process, page)?;
        process.unmap_telling(page, range)?;
        scene.is_refused(0, process.pasid(), page)
    };
    announced(&process, Range::ALL, &scene)?;
    announced(&process, Range::new(0, page + 1)?, &scene)?;
    announced(&process, Range::new(page, u64::MAX)?, &scene)?;
    announced(&process, Range::new(page, page + 1)?, &scene)?;
    announced(&process, Range::new(page + PAGE - 1, page + PAGE)?, &scene)?;
    announced(&process, Range::new(page + 17, page + 19)?, &scene)?;
    // The last page of the lower half.
    let top = 1u64 << (scene.rig.format().virtual_bits() - 1);
    let last = top - PAGE;
    process.map(last, Rights::WRITABLE)?;
    scene.reaches(0, &process, last)?;
    process.unmap(last, top)?;
    scene.is_refused(0, process.pasid(), last)?;
    // An empty range concerns nobody.
    process.map(page, Rights::WRITABLE)?;
    scene.reaches(0, &process, page)?;
    process.notifiers.invalidate_range(Range::new(page, page)?);
    scene.reaches(0, &process, page)?;
    scene.kernel.check()
}

fn many_pages(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::DEVICE_TLB)?;
    let process = scene.with_pages(300)?;
    let pages: Vec<u64> = (0..300).map(|page| USER + page * PAGE).collect();
    for &page in &pages {
        scene.reaches(0, &process, page)?;
    }
    for &page in pages.iter().step_by(2) {
        process.unmap(page, page + PAGE)?;
    }
    for (index, &page) in pages.iter().enumerate() {
        if index % 2 == 0 {
            scene.is_refused(0, process.pasid(), page)?;
        } else {
            scene.reaches(0, &process, page)?;
        }
    }
    scene.traffic(0, process.pasid(), &pages, 50);
    process.unmap(USER, USER + 300 * PAGE)?;
    for &page in &pages {
        scene.is_refused(0, process.pasid(), page)?;
    }
    scene.kernel.check()
}
