//! Huge pages, page-table pages, and the kernel's half.

use super::Case;
use crate::kernel::{HUGE, PAGE, Rights, shares_root_with_kernel};
use crate::outcome::{Outcome, skip};
use crate::rig::{Absence, Layout};
use crate::scene::{Bench, USER};
use core_notifier::Range;
use iommu_core::page_table::Format;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "huge-page",
        about: "a huge page goes whole, however much of it was used",
        run: huge_page,
    },
    Case {
        name: "huge-split",
        about: "a huge page is split by way of an absent entry, then a part of it goes",
        run: huge_split,
    },
    Case {
        name: "huge-split-in-place",
        about: "a huge page is split by one store, nobody is told, then a part of it goes",
        run: huge_split_in_place,
    },
    Case {
        name: "huge-collapse",
        about: "512 pages go with their table, and a huge page takes their place",
        run: huge_collapse,
    },
    Case {
        name: "table-pages",
        about: "page-table pages are reused, as traps, only after no walker can reach them (N31)",
        run: table_pages,
    },
    Case {
        name: "kernel-half",
        about: "a page-table page of the kernel's half is freed after every address space heard of it (B-01)",
        run: kernel_half,
    },
];

fn huge_page(bench: &Bench<'_>) -> Outcome {
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let scene = bench.scene(layout)?;
        let process = scene.bound()?;
        process.map_huge(USER, Rights::WRITABLE)?;
        let used = [0, 5 * PAGE + 8, HUGE - 8];
        for offset in used {
            scene.reaches(0, &process, USER + offset)?;
        }
        process.protect(USER, USER + HUGE)?;
        for offset in used {
            scene.is_refused(0, process.pasid(), USER + offset)?;
            scene.read(0, process.pasid(), USER + offset)?;
        }
        process.unmap(USER, USER + HUGE)?;
        for offset in used {
            scene.is_refused(0, process.pasid(), USER + offset)?;
        }
        scene.kernel.check()?;
    }
    Ok(())
}

fn split(bench: &Bench<'_>, in_place: bool) -> Outcome {
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let scene = bench.scene(layout)?;
        if in_place && matches!(scene.rig.format(), Format::Aarch64 { .. }) {
            return skip(Absence::ChangeInPlace);
        }
        let process = scene.bound()?;
        process.map_huge(USER, Rights::WRITABLE)?;
        scene.reaches(0, &process, USER + 7 * PAGE)?;
        let pages: Vec<u64> = (0..512).map(|page| USER + page * PAGE).collect();
        scene.traffic(0, process.pasid(), &pages, 20);
        if in_place {
            process.split_in_place(USER)?;
        } else {
            process.split(USER)?;
        }
        scene.reaches(0, &process, USER + 8 * PAGE)?;
        scene.traffic(0, process.pasid(), &pages, 20);
        for gone in [7, 300] {
            let page = USER + gone * PAGE;
            process.unmap(page, page + PAGE)?;
            scene.is_refused(0, process.pasid(), page)?;
        }
        scene.reaches(0, &process, USER + 6 * PAGE)?;
        scene.reaches(0, &process, USER + 8 * PAGE)?;
        process.protect(USER + 8 * PAGE, USER + 20 * PAGE)?;
        scene.is_refused(0, process.pasid(), USER + 9 * PAGE)?;
        process.unmap_and_prune(USER, USER + HUGE)?;
        scene.is_refused(0, process.pasid(), USER + 6 * PAGE)?;
        scene.kernel.check()?;
    }
    Ok(())
}

fn huge_split(bench: &Bench<'_>) -> Outcome {
    split(bench, false)
}

fn huge_split_in_place(bench: &Bench<'_>) -> Outcome {
    split(bench, true)
}

fn huge_collapse(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::DEVICE_TLB)?;
    let process = scene.bound()?;
    for page in [0, 1, 100, 511] {
        process.map(USER + page * PAGE, Rights::WRITABLE)?;
        scene.reaches(0, &process, USER + page * PAGE)?;
    }
    scene.traffic(0, process.pasid(), &[USER, USER + PAGE], 20);
    process.unmap_and_prune(USER, USER + HUGE)?;
    process.map_huge(USER, Rights::WRITABLE)?;
    for page in [0, 1, 2, 100, 511] {
        scene.reaches(0, &process, USER + page * PAGE)?;
    }
    scene.kernel.check()
}

fn table_pages(bench: &Bench<'_>) -> Outcome {
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let scene = bench.scene(layout)?;
        let process = scene.bound()?;
        // Far enough apart that no two share a table below the root's children.
        let regions: Vec<u64> = (0..4).map(|region| USER + region * (1 << 30)).collect();
        for round in 0..3 {
            for &region in &regions {
                for page in [0, 1, 3] {
                    process.map(region + page * PAGE, Rights::WRITABLE)?;
                    scene.reaches(0, &process, region + page * PAGE)?;
                }
            }
            let region = regions[round];
            scene.traffic(0, process.pasid(), &[region, region + PAGE], 10);
            // All at once, or the last page alone.
            if round == 1 {
                process.unmap(region, region + 3 * PAGE)?;
                process.unmap_and_prune(region + 3 * PAGE, region + 4 * PAGE)?;
            } else {
                process.unmap_and_prune(region, region + HUGE)?;
            }
            // The tables are free and hold entries that lead into the trap.
            for page in 0..5 {
                scene.is_refused(0, process.pasid(), region + page * PAGE)?;
            }
            for &other in regions.iter().filter(|&&other| other != region) {
                scene.reaches(0, &process, other + PAGE)?;
                process.unmap(other, other + HUGE)?;
            }
        }
        scene.kernel.check()?;
    }
    Ok(())
}

fn kernel_half(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout {
        devices: 2,
        ..Layout::DEVICE_TLB
    })?;
    let format = scene.rig.format();
    if !shares_root_with_kernel(format) {
        return skip(Absence::SharedRoot);
    }
    // Both on one device, if it can have two.
    let seats = if scene.rig.sends_pasids() {
        [0, 0]
    } else {
        [0, 1]
    };
    let processes = [scene.bound_to(seats[0])?, scene.bound_to(seats[1])?];
    let half = 1u64 << (format.virtual_bits() - 1);
    let address = half.wrapping_neg() + (1 << 30);
    let mapped = scene.kernel.map_kernel(address)?;
    for (&seat, process) in seats.iter().zip(&processes) {
        process.map(USER, Rights::WRITABLE)?;
        process.share_kernel(mapped);
        // The refusal leaves the way to the kernel's table in the caches.
        scene.is_refused(seat, process.pasid(), address)?;
        scene.reaches(seat, process, USER)?;
    }
    let table = scene.kernel.unmap_kernel(mapped);
    for process in &processes {
        let range = Range::with_length(address, PAGE)?;
        process.notifiers.invalidate_range(range);
    }
    scene.kernel.give_back_frame(table);
    for (&seat, process) in seats.iter().zip(&processes) {
        scene.is_refused(seat, process.pasid(), address)?;
        scene.reaches(seat, process, USER)?;
        process.forget_kernel(mapped);
    }
    scene.kernel.check()
}
