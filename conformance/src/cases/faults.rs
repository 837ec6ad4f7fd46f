//! Faults of each kind, as the drivers report them.

use super::Case;
use crate::kernel::{PAGE, Rights};
use crate::outcome::{Outcome, ensure, failed};
use crate::rig::{Layout, Shortcoming};
use crate::scene::{Bench, Scene, USER};
use iommu_core::fault::{Access, Fault, Reason};
use iommu_core::ids::Pasid;
use iommu_core::page_table::Format;
use iommu_model::device::Transfer;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "fault-kinds",
        about: "no translation, no permission, no PASID, no device: each is told with device, address and reason",
        run: fault_kinds,
    },
    Case {
        name: "fault-flood",
        about: "a thousand faults: the queue overflows, that is told, and later ones are reported again",
        run: fault_flood,
    },
    Case {
        name: "fault-of-the-unbound",
        about: "what is unbound, at once or after exit, faults as what never was bound",
        run: fault_of_the_unbound,
    },
    Case {
        name: "accessed",
        about: "a page that is not marked as used: the hardware marks it, or the access faults",
        run: accessed,
    },
    Case {
        name: "privilege",
        about: "the kernel's pages are no device's, whatever privilege it claims",
        run: privilege,
    },
];

/// Takes what the first IOMMU has recorded.
fn faults(scene: &Scene) -> (Vec<Fault>, bool) {
    let mut faults = Vec::new();
    let mut lost = false;
    // A look is bounded by the queue's size.
    for _ in 0..100 {
        let summary = scene
            .kernel
            .seat(0)
            .0
            .take_faults(&mut |fault| faults.push(fault));
        lost |= summary.lost;
        if summary.reported == 0 {
            break;
        }
    }
    (faults, lost)
}

fn expect(
    scene: &Scene,
    pasid: Option<u32>,
    address: u64,
    access: Access,
    reasons: &[Reason],
) -> Outcome {
    faults(scene);
    let transfer = match access {
        Access::Read => Transfer::read(pasid, address, 8),
        _ => Transfer::write(pasid, address, vec![1; 8]),
    };
    let ended = scene.rig.run(0, transfer);
    ensure(
        !ended.is_done(),
        format_args!("an access at {address:#x} is {ended:?}"),
    )?;
    scene.kernel.settle();
    let (found, _) = faults(scene);
    let Some(fault) = found.first() else {
        return failed(format_args!(
            "no fault is reported where {reasons:?} was expected"
        ));
    };
    let device = scene.rig.seats()[0].device;
    ensure(
        fault.device == device,
        format_args!("{fault} is not of device {device}"),
    )?;
    // A record of a missing or malformed entry may name neither PASID nor address nor access.
    if reasons.contains(&Reason::PageFault) {
        let named = Pasid::new(pasid.unwrap_or(0));
        ensure(
            Some(fault.pasid) == named,
            format_args!("{fault} is not of PASID {pasid:?}"),
        )?;
        let page = fault.address.map(|at| at / PAGE * PAGE);
        ensure(
            page == Some(address / PAGE * PAGE),
            format_args!("{fault} is not at {address:#x}"),
        )?;
        ensure(
            fault.access == access || fault.access == Access::Unknown,
            format_args!("{fault} is not {access:?}"),
        )?;
    }
    ensure(
        reasons.contains(&fault.reason),
        format_args!("{fault}: none of {reasons:?}"),
    )
}

fn fault_kinds(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::PLAIN)?;
    let process = scene.with_pages(1)?;
    process.map(USER + PAGE, Rights::READ_ONLY)?;
    let pasid = process.pasid();
    let missing = [Reason::NotPresent, Reason::PageFault];
    let forbidden = [Reason::Permission, Reason::PageFault];
    expect(&scene, pasid, USER + 2 * PAGE + 8, Access::Write, &missing)?;
    expect(&scene, pasid, USER + 2 * PAGE, Access::Read, &missing)?;
    expect(&scene, pasid, USER + (1 << 30), Access::Write, &missing)?;
    expect(&scene, pasid, USER + PAGE, Access::Write, &forbidden)?;
    let no_pasid = [
        Reason::PasidNotConfigured,
        Reason::MalformedEntry,
        Reason::Other,
    ];
    if scene.rig.sends_pasids() {
        expect(&scene, Some(99), USER, Access::Write, &no_pasid)?;
        expect(&scene, None, USER, Access::Write, &no_pasid)?;
    }
    process.destroy()?;
    let (iommu, seat) = scene.kernel.seat(0);
    iommu.disable_device(seat.device)?;
    let no_device = [Reason::DeviceNotConfigured, Reason::MalformedEntry];
    expect(&scene, None, USER, Access::Write, &no_device)?;
    scene.kernel.check()
}

fn fault_flood(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::PLAIN)?;
    let process = scene.with_pages(1)?;
    faults(&scene);
    for round in 0..1000 {
        scene.is_refused(0, process.pasid(), USER + (1 + round % 64) * PAGE)?;
    }
    let (found, lost) = faults(&scene);
    ensure(!found.is_empty(), "no fault is reported")?;
    ensure(
        lost || found.len() >= 1000 || scene.has(Shortcoming::FaultsCollapse),
        format_args!(
            "{} of 1000 faults are reported and none is said to be lost",
            found.len()
        ),
    )?;
    scene.kernel.settle();
    faults(&scene);
    scene.is_refused(0, process.pasid(), USER + 5 * PAGE)?;
    scene.kernel.settle();
    let (found, lost) = faults(&scene);
    ensure(!found.is_empty(), "no fault is reported after an overflow")?;
    ensure(!lost, "an overflow is told again")?;
    for round in 0..1000 {
        scene.is_refused(0, process.pasid(), USER + (1 + round % 64) * PAGE)?;
    }
    let (found, lost) = faults(&scene);
    ensure(
        lost || found.len() >= 1000 || scene.has(Shortcoming::FaultsCollapse),
        "the second time, lost faults are not told",
    )?;
    // Whoever faults costs nobody else anything.
    scene.reaches(0, &process, USER)?;
    process.unmap(USER, USER + PAGE)?;
    scene.is_refused(0, process.pasid(), USER)?;
    scene.kernel.check()
}

/// The reason of the first fault that a write with a PASID makes.
fn reason(scene: &Scene, pasid: Option<u32>) -> Outcome<Option<Reason>> {
    faults(scene);
    scene.is_refused(0, pasid, USER)?;
    scene.kernel.settle();
    let (found, _) = faults(scene);
    Ok(found.first().map(|fault| fault.reason))
}

fn fault_of_the_unbound(bench: &Bench<'_>) -> Outcome {
    let scene = bench.scene(Layout::PLAIN)?;
    let stranger = scene.rig.sends_pasids().then_some(99);
    let never = reason(&scene, stranger)?;
    let invalid = scene.has(Shortcoming::AbsentIsInvalid);
    for exits in [false, true, false] {
        let process = scene.with_pages(1)?;
        let pasid = process.pasid();
        scene.reaches(0, &process, USER)?;
        if exits {
            process.exit()?;
        }
        process.destroy()?;
        let unbound = reason(&scene, pasid)?;
        // Hardware that caches what is not there may still be silent, as it was asked to be at exit.
        ensure(
            unbound.is_none()
                || unbound == never
                || invalid && unbound == Some(Reason::MalformedEntry),
            format_args!("{unbound:?} after an unbind, {never:?} before any bind"),
        )?;
    }
    scene.kernel.check()
}

fn accessed(bench: &Bench<'_>) -> Outcome {
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let scene = bench.scene(layout)?;
        let process = scene.with_pages(2)?;
        let device = scene.rig.seats()[0].device;
        let pasid = process.pasid();
        // Where first-stage walks always mark what they use, and where the driver leaves that to the
        // kernel, as CPUs may not do it either.
        let marks = matches!(scene.rig.format(), Format::X86_64 { .. });
        for page in [USER, USER + PAGE] {
            scene.reaches(0, &process, page)?;
            process.note_use(page, false)?;
            scene.kernel.oracle.excuse(device.0);
            let ended = scene.write(0, pasid, page, 1);
            scene.kernel.settle();
            scene.kernel.judge()?;
            scene.kernel.oracle.unexcuse(device.0);
            ensure(
                ended.is_done() == marks,
                format_args!("a write to a page that was not used is {ended:?}"),
            )?;
            ensure(
                process.was_used(page)? == marks || scene.has(Shortcoming::AccessedUnlessDirty),
                "a page is marked as used where that is the kernel's task, or is not where it is not",
            )?;
            process.note_use(page, true)?;
            scene.reaches(0, &process, page)?;
        }
        process.destroy()?;
        scene.kernel.check()?;
    }
    Ok(())
}

fn privilege(bench: &Bench<'_>) -> Outcome {
    for layout in [Layout::PLAIN, Layout::DEVICE_TLB] {
        let scene = bench.scene(layout)?;
        scene.unless(Shortcoming::PrivilegeIgnored)?;
        let process = scene.with_pages(1)?;
        process.map(USER + PAGE, Rights::KERNEL)?;
        scene.is_refused(0, process.pasid(), USER + PAGE)?;
        for address in [USER, USER + PAGE] {
            let privileged = Transfer {
                privileged: true,
                ..Transfer::write(process.pasid(), address, vec![1; 8])
            };
            let device = scene.rig.seats()[0].device;
            // Whether a privileged request may use a user's page is the IOMMU's own affair.
            scene.kernel.oracle.excuse(device.0);
            scene.rig.run(0, privileged);
            scene.kernel.judge()?;
            scene.kernel.oracle.unexcuse(device.0);
        }
        scene.reaches(0, &process, USER)?;
        scene.kernel.check()?;
    }
    Ok(())
}
