//! Bind, unbind, exit, and everything that is used again afterwards.

use super::Case;
use crate::kernel::{PAGE, Rights};
use crate::outcome::{Outcome, ensure, failed};
use crate::rig::Layout;
use crate::scene::{Bench, USER};
use iommu_core::error::AttachError;
use iommu_core::ids::DeviceId;
use iommu_core::iommu::DeviceConfig;
use iommu_core::page_table::Format;
use iommu_core::sva::{BindError, Requests, UnbindError};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "unbind",
        about: "after unbind nothing of the address space is reachable; bound again, it is",
        run: unbind,
    },
    Case {
        name: "unbind-running",
        about: "a device that is unbound while it works is cut off at once",
        run: unbind_running,
    },
    Case {
        name: "exit",
        about: "the process ends while devices work: they are cut off before its frames are free",
        run: exit,
    },
    Case {
        name: "exit-and-tables",
        about: "exit, unbind, and page tables that are reused as traps",
        run: exit_and_tables,
    },
    Case {
        name: "pasid-reuse",
        about: "a new process gets the PASID and the tag of one that ended: nothing old is left",
        run: pasid_reuse,
    },
    Case {
        name: "device-reuse",
        about: "a device is disabled and enabled again: nothing old is left",
        run: device_reuse,
    },
    Case {
        name: "mistakes",
        about: "mistakes of the kernel are typed errors and change nothing",
        run: mistakes,
    },
    Case {
        name: "compatibility",
        about: "a page table that the IOMMU cannot walk is refused with the reason",
        run: compatibility,
    },
    Case {
        name: "reset-handshake",
        about: "a device is cut off, reset and brought back: nothing old is left, what changed is seen",
        run: reset_handshake,
    },
];

fn unbind(bench: &Bench<'_>) -> Outcome {
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let scene = bench.scene(layout)?;
        let process = scene.with_pages(3)?;
        for requests in [Requests::Tagged, Requests::Untagged, Requests::Tagged] {
            let pasid = match requests {
                Requests::Tagged => process.pasid(),
                Requests::Untagged => None,
            };
            let _ = process.bind(0, requests);
            for page in 0..3 {
                scene.reaches_by(0, &process, pasid, USER + page * PAGE)?;
            }
            process.unbind(0, requests)?;
            for page in 0..3 {
                scene.is_refused(0, pasid, USER + page * PAGE)?;
            }
            // What changes meanwhile is what the device finds when it is bound again.
            process.replace(USER)?;
            process.bind(0, requests)?;
            scene.reaches_by(0, &process, pasid, USER)?;
            process.unbind(0, requests)?;
        }
        process.destroy()?;
        scene.kernel.check()?;
    }
    Ok(())
}

fn unbind_running(bench: &Bench<'_>) -> Outcome {
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let scene = bench.scene(layout)?;
        let process = scene.with_pages(4)?;
        let pages: Vec<u64> = (0..4).map(|page| USER + page * PAGE).collect();
        for _ in 0..5 {
            scene.reaches(0, &process, USER)?;
            scene.traffic(0, process.pasid(), &pages, 20);
            scene.kernel.breathe();
            process.unbind_running(0, Requests::Tagged)?;
            scene.traffic(0, process.pasid(), &pages, 5);
            scene.kernel.settle();
            scene.kernel.judge()?;
            process.bind(0, Requests::Tagged)?;
        }
        process.destroy()?;
        scene.kernel.check()?;
    }
    Ok(())
}

fn exit(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::WIDE)?;
    for requests in [Requests::Tagged, Requests::Untagged] {
        let process = scene.kernel.process()?;
        let pasid = match requests {
            Requests::Tagged => process.pasid(),
            Requests::Untagged => None,
        };
        let pages: Vec<u64> = (0..8).map(|page| USER + page * PAGE).collect();
        for &page in &pages {
            process.map(page, Rights::WRITABLE)?;
        }
        for seat in 0..4 {
            process.bind(seat, requests)?;
            for &page in &pages {
                scene.reaches_by(seat, &process, pasid, page)?;
            }
            scene.traffic(seat, pasid, &pages, 20);
        }
        scene.kernel.breathe();
        process.exit()?;
        // Somebody else has the frames now.
        let other = scene.kernel.process()?;
        for &page in &pages {
            other.map(page, Rights::WRITABLE)?;
        }
        for seat in 0..4 {
            scene.traffic(seat, pasid, &pages, 10);
        }
        scene.kernel.settle();
        scene.kernel.judge()?;
        for seat in 0..4 {
            scene.is_refused(seat, pasid, USER)?;
            let late = process.bind(seat, Requests::Tagged);
            ensure(late.is_err(), "a device was bound after exit")?;
            process.unbind(seat, requests)?;
            scene.is_refused(seat, pasid, USER)?;
        }
        process.destroy()?;
        other.destroy()?;
    }
    scene.kernel.check()
}

fn exit_and_tables(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::DEVICE_TLB)?;
    for _ in 0..6 {
        let process = scene.with_pages(4)?;
        let pasid = process.pasid();
        for page in 0..4 {
            scene.reaches(0, &process, USER + page * PAGE)?;
        }
        process.exit()?;
        scene.is_refused(0, pasid, USER)?;
        // Frees the tables, which become traps, with the device still bound until then.
        process.destroy()?;
        for page in 0..6 {
            scene.is_refused(0, pasid, USER + page * PAGE)?;
        }
    }
    scene.kernel.check()
}

fn pasid_reuse(bench: &Bench<'_>) -> Outcome {
    for layout in [Layout::PLAIN, Layout::WIDE] {
        let scene = bench.scene(layout)?;
        let seats = scene.rig.seats().len();
        let mut last = None;
        for round in 0..8 {
            let process = scene.kernel.process()?;
            let pasid = process.pasid();
            ensure(
                last.is_none_or(|last| last == pasid),
                "the lowest free PASID was not given out",
            )?;
            last = Some(pasid);
            for page in 0..3 {
                process.map(USER + page * PAGE, Rights::WRITABLE)?;
            }
            for seat in 0..seats {
                process.bind(seat, Requests::Tagged)?;
                if round % 2 == 0 {
                    scene.reaches(seat, &process, USER)?;
                    scene.reaches(seat, &process, USER + PAGE)?;
                } else {
                    // What the process before had here is another frame, or nothing.
                    scene.reaches(seat, &process, USER + PAGE)?;
                    scene.is_refused(seat, pasid, USER + 5 * PAGE)?;
                }
            }
            if round == 5 {
                process.exit()?;
            }
            process.destroy()?;
            scene.is_refused(0, pasid, USER)?;
        }
        scene.kernel.check()?;
    }
    Ok(())
}

fn device_reuse(bench: &Bench<'_>) -> Outcome {
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let scene = bench.scene(layout)?;
        let (iommu, seat) = scene.kernel.seat(0);
        for round in 0..4 {
            let process = scene.with_pages(2)?;
            let both = scene.rig.sends_pasids();
            if both {
                process.bind(0, Requests::Untagged)?;
            }
            scene.reaches(0, &process, USER)?;
            scene.reaches_by(0, &process, None, USER + PAGE)?;
            process.unbind(0, Requests::Tagged)?;
            if both {
                process.unbind(0, Requests::Untagged)?;
            }
            if round % 2 == 0 {
                process.destroy()?;
                iommu.disable_device(seat.device)?;
                scene.is_refused(0, None, USER)?;
                scene.is_refused(0, Some(1), USER)?;
                scene.kernel.enable(0)?;
            } else {
                iommu.disable_device(seat.device)?;
                scene.is_refused(0, process.pasid(), USER)?;
                scene.kernel.enable(0)?;
                process.bind(0, Requests::Tagged)?;
                scene.reaches(0, &process, USER)?;
                process.destroy()?;
            }
        }
        scene.kernel.check()?;
    }
    Ok(())
}

/// The IOMMU's half of `sva::ResetHandshake`; the other half is the device's configuration space.
fn reset_handshake(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout {
        devices: 2,
        ..Layout::DEVICE_TLB
    })?;
    let model = scene.rig.model()?;
    let process = scene.with_pages(4)?;
    let pages: Vec<u64> = (0..4).map(|page| USER + page * PAGE).collect();
    process.bind(1, Requests::Tagged)?;
    let (iommu, seat) = scene.kernel.seat(0);
    for round in 0..4 {
        for &page in &pages {
            scene.reaches(0, &process, page)?;
            scene.reaches(1, &process, page)?;
        }
        scene.traffic(0, process.pasid(), &pages, 10);
        scene.kernel.oracle.excuse(seat.device.0);
        iommu.quarantine(seat.device)?;
        scene.is_refused(0, process.pasid(), USER)?;
        // In reset the device answers nothing, and nobody is to wait for it.
        model.devices[0].reset();
        process.unmap(USER, USER + PAGE)?;
        process.replace(USER + PAGE)?;
        let failures = scene.kernel.failures();
        ensure(
            failures.is_empty(),
            format_args!("a parked device costs others: {failures:?}"),
        )?;
        scene.is_refused(1, process.pasid(), USER)?;
        scene.reaches(1, &process, USER + PAGE)?;

        model.devices[0].enable_device_tlb(true);
        iommu.restore(seat.device)?;
        scene.kernel.settle();
        scene.kernel.judge()?;
        scene.kernel.oracle.unexcuse(seat.device.0);
        scene.is_refused(0, process.pasid(), USER)?;
        scene.reaches(0, &process, USER + PAGE)?;
        if round < 3 {
            process.map(USER, Rights::WRITABLE)?;
        }
    }
    scene.kernel.check()
}

fn mistakes(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::DEVICE_TLB)?;
    let process = scene.with_pages(1)?;
    let (iommu, seat) = scene.kernel.seat(0);
    let unknown = DeviceId(0x7e8);
    let shared = process.shared();
    let commands = |model: &crate::rig::Model| model.recorders[0].take_commands().len();
    let model = scene.rig.model();
    if let Ok(model) = &model {
        commands(model);
    }
    match process.bind(0, Requests::Tagged) {
        Err(BindError::AlreadyBound { .. }) => {}
        other => return failed(format_args!("bind twice is {other:?}")),
    }
    match shared.bind(iommu, unknown, Requests::Tagged) {
        Err(BindError::Attach(AttachError::UnknownDevice(device))) if device == unknown => {}
        other => return failed(format_args!("bind of an unknown device is {other:?}")),
    }
    let other = if scene.rig.sends_pasids() {
        Requests::Untagged
    } else {
        Requests::Tagged
    };
    match shared.unbind(iommu, seat.device, other) {
        Err(UnbindError::NotBound { .. }) => {}
        other => return failed(format_args!("unbind of nothing is {other:?}")),
    }
    match iommu.enable_device(seat.device, scene.kernel.device_config()) {
        Err(AttachError::DeviceInUse(_)) => {}
        other => return failed(format_args!("enable twice is {other:?}")),
    }
    match iommu.disable_device(seat.device) {
        Err(AttachError::PasidInUse(..)) => {}
        other => return failed(format_args!("disable while bound is {other:?}")),
    }
    match iommu.disable_device(unknown) {
        Err(AttachError::UnknownDevice(_)) => {}
        other => return failed(format_args!("disable of an unknown device is {other:?}")),
    }
    match iommu.enable_device(DeviceId(u32::MAX), DeviceConfig::default()) {
        Err(AttachError::DeviceIdTooWide(_)) => {}
        other => return failed(format_args!("a device id of 32 bits is {other:?}")),
    }
    if let Ok(model) = &model {
        ensure(commands(model) == 0, "a mistake sent commands")?;
    }
    scene.reaches(0, &process, USER)?;
    scene.kernel.check()
}

fn compatibility(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::PLAIN)?;
    let process = scene.kernel.process()?;
    let (iommu, _) = scene.kernel.seat(0);
    let own = scene.rig.format();
    let described = |format, root| iommu_core::page_table::PageTable {
        root: iommu_core::ids::PhysicalAddress(root),
        format,
        written_back: true,
    };
    let foreign = [
        Format::X86_64 { levels: 4 },
        Format::Riscv64 { levels: 4 },
        crate::rig::AARCH64,
    ];
    for format in foreign {
        let same = std::mem::discriminant(&format) == std::mem::discriminant(&own);
        let checked = iommu.check(&described(format, process.root()));
        if !same {
            ensure(
                checked.is_err(),
                format_args!("{format:?} was taken for {own:?}"),
            )?;
        }
    }
    ensure(
        iommu.check(&described(own, process.root())).is_ok(),
        "its own format is refused",
    )?;
    ensure(
        iommu.check(&described(own, 1 << 60)).is_err(),
        "a root beyond memory is taken",
    )?;
    ensure(
        iommu.check(&described(own, 0x8000_0008)).is_err(),
        "an unaligned root is taken",
    )
}
