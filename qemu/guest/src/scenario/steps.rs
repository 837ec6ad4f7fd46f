//! The story, a step at a time.

use super::process::Process;
use super::{ScenarioError, Stage};
use crate::devices::test_device::{PATTERN, WriteResult};
use crate::memory;
use crate::page_table::PAGE_SIZE;
use alloc::sync::Arc;
use core::fmt::Display;
use core_notifier::Notifier;
use iommu_core::fault::{Access, Fault, Reason};
use iommu_core::ids::{DeviceId, Pasid};
use iommu_core::sva::Requests;

const FIRST: u64 = 0x0123_4567_89ab_cdef;
const SECOND: u64 = 0xfedc_ba98_7654_3210;
/// Bytes in each transfer of `edu`.
const LENGTH: usize = 16;

/// Tells all of it.
pub(super) fn tell(stage: &Stage) -> Result<(), ScenarioError> {
    let features = stage.iommu.features();
    stage.step(
        "probe",
        format_args!(
            "IOMMU enabled, every device blocked; PASIDs of {} bits, device TLBs {}",
            features.pasid_bits,
            if features.device_tlb {
                "supported"
            } else {
                "not supported"
            }
        ),
    );
    let mut process = Process::new(&stage.sva, &stage.srcu)?;
    let pages = [0, 5, 9].map(|number| process.page(number));
    let [first, second, third] = pages;
    let frames = [
        process.map(first)?,
        process.map(second)?,
        process.map(third)?,
    ];
    let pasid = process.shared().pasid();
    stage.step(
        "create",
        format_args!("address space with three pages, PASID {pasid}"),
    );

    enable(stage, first)?;
    bind(stage, &process, first, frames[0])?;
    share(stage, &process, pages, frames)?;
    protect(stage, &mut process, first)?;
    unmap(stage, &mut process, second)?;
    mistakes(stage, &process)?;
    exit(stage, process, [first, third], frames[2])?;
    reuse(stage, pasid)
}

/// Devices get an entry, and until they are bound nothing gets through.
fn enable(stage: &Stage, page: u64) -> Result<(), ScenarioError> {
    for device in [stage.edu_id, stage.test_device_id] {
        stage.iommu.enable_device(device, stage.device_config())?;
    }
    stage.edu.write_to(page, LENGTH)?;
    let fault = stage.refused("a write before bind", stage.edu_id, page, Access::Write)?;
    stage.step(
        "enable",
        format_args!("two devices have an entry; unbound: {fault}"),
    );
    Ok(())
}

/// Both devices share the address space; one of them also under its PASID.
fn bind(stage: &Stage, process: &Process, page: u64, frame: u64) -> Result<(), ScenarioError> {
    let shared = process.shared();
    for device in [stage.edu_id, stage.test_device_id] {
        shared.bind(&stage.iommu, device, Requests::Untagged)?;
    }
    stage.step(
        "bind",
        "untagged requests of both devices walk the CPU's page table",
    );
    let pasid = shared.pasid();
    if stage.device_config().pasid_bits == 0 {
        stage.step("bind-pasid", "left out: this IOMMU has no PASIDs");
        return Ok(());
    }
    shared.bind(&stage.iommu, stage.edu_id, Requests::Tagged)?;
    match &stage.walk {
        Some(walk) => {
            let found = walk(stage.edu_id, pasid, page);
            stage.expect("the frame behind the PASID", frame, found.unwrap_or(0))?;
            stage.step(
                "bind-pasid",
                format_args!("the IOMMU confirms PASID {pasid}: {page:#x} is {frame:#x}"),
            );
        }
        None => {
            stage.step(
                "bind-pasid",
                format_args!("PASID {pasid} bound; QEMU has no device that sends it"),
            );
        }
    }
    Ok(())
}

/// CPU and device meet in memory by virtual address, both ways.
fn share(
    stage: &Stage,
    process: &Process,
    [first, second, third]: [u64; 3],
    frames: [u64; 3],
) -> Result<(), ScenarioError> {
    process.store(first, FIRST);
    process.store(first + 8, SECOND);
    stage.edu.read_from(first, LENGTH)?;
    stage.step(
        "cpu-to-device",
        format_args!("the CPU wrote at {first:#x}, edu read it there"),
    );

    // Every page is written once, so that the IOTLB holds a writable translation of each.
    for page in [second, first, third] {
        stage.edu.write_to(page + 256, LENGTH)?;
        stage.expect("the word that edu wrote", FIRST, process.load(page + 256))?;
        stage.expect("the next word", SECOND, process.load(page + 264))?;
    }
    stage.step(
        "device-to-cpu",
        format_args!("edu wrote at {second:#x}, the CPU read it there"),
    );

    let written = stage.test_device.write(third + 512, frames[2] + 512);
    stage.expect(
        "the test device's write",
        1,
        u64::from(written == WriteResult::Arrived),
    )?;
    let word = process.load(third + 512);
    stage.expect("the test device's word", u64::from(PATTERN), word)?;
    stage.step(
        "second-device",
        "the test device wrote by the same virtual addresses",
    );
    match stage.first_fault() {
        None => Ok(()),
        Some(_) => Err(stage.unexpected("faults while sharing", 0, 1)),
    }
}

/// The page becomes read-only: the device's next write is refused.
fn protect(stage: &Stage, process: &mut Process, page: u64) -> Result<(), ScenarioError> {
    process.store(page + 256, 0);
    process.store(page + 264, 0);
    process.protect(page)?;
    let cost = stage.tally.take();
    stage.edu.write_to(page + 256, LENGTH)?;
    let word = process.load(page + 256);
    if stage.control {
        stage.expect("the word that a stale write leaves", FIRST, word)?;
        stage.told(
            cost,
            "stale-protect",
            "CONTROL: write-protected without invalidation: the stale write went through",
        );
        return Ok(());
    }
    stage.expect("the protected word", 0, word)?;
    let fault = stage.refused(
        "a write to a protected page",
        stage.edu_id,
        page,
        Access::Write,
    )?;
    stage.expect(
        "a fault for want of permission",
        1,
        u64::from(matches!(
            fault.reason,
            Reason::Permission | Reason::PageFault
        )),
    )?;
    stage.one_doorbell_one_wait(cost)?;
    stage.told(
        cost,
        "protect",
        format_args!("write-protected {page:#x}: {fault}"),
    );
    Ok(())
}

/// The page goes and its frame is free: no device writes to it any more.
fn unmap(stage: &Stage, process: &mut Process, page: u64) -> Result<(), ScenarioError> {
    let frame = process.unmap(page)?;
    let cost = stage.tally.take();
    stage.expect(
        "the freed frame's poison",
        1,
        u64::from(memory::is_poisoned(frame)),
    )?;
    stage.edu.write_to(page + 256, LENGTH)?;
    let untouched = memory::is_poisoned(frame);
    if stage.control {
        stage.expect("poison after a stale write", 0, u64::from(untouched))?;
        stage.told(
            cost,
            "stale-unmap",
            "CONTROL: unmapped without invalidation: the stale write reached the freed frame",
        );
        return Ok(());
    }
    stage.expect(
        "the freed frame's poison after the write",
        1,
        u64::from(untouched),
    )?;
    let fault = stage.refused(
        "a write to an unmapped page",
        stage.edu_id,
        page,
        Access::Write,
    )?;
    stage.expect(
        "a fault for want of a translation",
        1,
        u64::from(matches!(
            fault.reason,
            Reason::NotPresent | Reason::PageFault
        )),
    )?;
    stage.one_doorbell_one_wait(cost)?;
    if let Some(walk) = &stage.walk {
        let gone = walk(stage.edu_id, process.shared().pasid(), page);
        stage.expect("a translation of the PASID", 0, gone.unwrap_or(0))?;
        stage.first_fault();
    }
    stage.told(
        cost,
        "unmap",
        format_args!("unmapped {page:#x}, frame {frame:#x} is free: {fault}"),
    );
    Ok(())
}

/// Mistakes of the kernel are typed errors and change nothing.
fn mistakes(stage: &Stage, process: &Process) -> Result<(), ScenarioError> {
    struct Listener;
    impl Notifier for Listener {}

    let shared = process.shared();
    let unknown = DeviceId(0xfff8);
    let listener: Arc<dyn Notifier> = Arc::new(Listener);
    let notifiers = process.notifiers();
    stage.wrong(
        "bind twice",
        shared.bind(&stage.iommu, stage.edu_id, Requests::Untagged),
    )?;
    stage.wrong(
        "bind an unknown device",
        shared.bind(&stage.iommu, unknown, Requests::Untagged),
    )?;
    stage.wrong(
        "unbind an unknown device",
        shared.unbind(&stage.iommu, unknown, Requests::Tagged),
    )?;
    stage.wrong(
        "enable twice",
        stage
            .iommu
            .enable_device(stage.edu_id, stage.device_config()),
    )?;
    stage.wrong(
        "disable while bound",
        stage.iommu.disable_device(stage.edu_id),
    )?;
    stage.wrong("unregister too early", notifiers.unregister(&listener))?;
    stage.right("register", notifiers.register_locked(listener.clone()))?;
    stage.wrong(
        "register twice",
        notifiers.register_locked(listener.clone()),
    )?;
    stage.right("unregister", notifiers.unregister(&listener))?;
    stage.wrong("unregister twice", notifiers.unregister(&listener))?;
    let cost = stage.step(
        "mistakes",
        "eight mistakes were refused with a reason, nothing was sent",
    );
    stage.expect("commands that mistakes cost", 0, cost.commands)
}

/// The process ends while both devices are bound.
fn exit(
    stage: &Stage,
    mut process: Process,
    pages: [u64; 2],
    frame: u64,
) -> Result<(), ScenarioError> {
    let page = pages[1];
    process.exit(&pages)?;
    let cost = stage.tally.take();
    stage.edu.write_to(page + 256, LENGTH)?;
    let written = stage.test_device.write(page + 512, frame + 512);
    stage.expect(
        "the test device's write after exit",
        0,
        u64::from(written == WriteResult::Arrived),
    )?;
    let untouched = u64::from(memory::is_poisoned(frame));
    stage.expect("the freed frame's poison after exit", 1, untouched)?;
    let late = process
        .shared()
        .bind(&stage.iommu, stage.edu_id, Requests::Tagged);
    stage.wrong("bind after exit", late)?;
    let told = if stage.first_fault().is_some() {
        "with a fault"
    } else {
        "quietly"
    };
    stage.told(
        cost,
        "exit",
        format_args!("the process ended while bound; both devices are refused, {told}"),
    );

    let shared = process.shared();
    for device in [stage.edu_id, stage.test_device_id] {
        shared.unbind(&stage.iommu, device, Requests::Untagged)?;
    }
    if stage.device_config().pasid_bits != 0 {
        shared.unbind(&stage.iommu, stage.edu_id, Requests::Tagged)?;
    }
    stage.wrong(
        "unbind twice",
        shared.unbind(&stage.iommu, stage.edu_id, Requests::Untagged),
    )?;
    process.destroy();
    stage.step("unbind", "both devices unbound, the page table is freed");
    Ok(())
}

/// A new process gets the PASID, and the devices' entries can be used again and taken away.
fn reuse(stage: &Stage, pasid: Pasid) -> Result<(), ScenarioError> {
    let mut process = Process::new(&stage.sva, &stage.srcu)?;
    let (reused, page) = (process.shared().pasid(), process.page(9));
    stage.expect(
        "the new process's PASID",
        pasid.get().into(),
        reused.get().into(),
    )?;
    let frame = process.map(page)?;
    process
        .shared()
        .bind(&stage.iommu, stage.edu_id, Requests::Untagged)?;
    stage.edu.write_to(page, LENGTH)?;
    stage.expect("the word in the new process", FIRST, process.load(page))?;
    process.unmap(page)?;
    stage.step(
        "reuse",
        format_args!("a new process has PASID {reused}; edu wrote to its frame {frame:#x}"),
    );

    process.destroy();
    for device in [stage.edu_id, stage.test_device_id] {
        stage.iommu.disable_device(device)?;
    }
    stage.edu.write_to(page, LENGTH)?;
    let fault = stage.refused("a write after disable", stage.edu_id, page, Access::Write)?;
    stage.step("disable", format_args!("entries taken away: {fault}"));
    Ok(())
}

impl Stage {
    /// The access was refused, and the fault names device, page and kind of access.
    fn refused(
        &self,
        what: &'static str,
        device: DeviceId,
        page: u64,
        access: Access,
    ) -> Result<Fault, ScenarioError> {
        let fault = self.first_fault().ok_or(ScenarioError::NoFault { what })?;
        self.expect("the fault's device", device.0.into(), fault.device.0.into())?;
        // A record of a missing or malformed entry may name neither address nor access.
        if let Some(address) = fault.address {
            self.expect("the fault's page", page, address & !(PAGE_SIZE - 1))?;
        }
        if fault.access != Access::Unknown {
            let (expected, found) = (access as u64, fault.access as u64);
            self.expect("the fault's kind of access", expected, found)?;
        }
        Ok(fault)
    }

    /// One range costs one doorbell and one wait.
    fn one_doorbell_one_wait(&self, cost: crate::report::Cost) -> Result<(), ScenarioError> {
        self.expect("doorbells of one notification", 1, cost.doorbells)?;
        self.expect("waits of one notification", 1, cost.waits)
    }

    /// Tells a step whose cost was taken before its check.
    fn told(&self, cost: crate::report::Cost, id: &str, sentence: impl Display) {
        crate::report::step(&mut crate::console::Console, id, &sentence, cost);
        self.tally.take();
    }

    fn expect(&self, what: &'static str, expected: u64, found: u64) -> Result<(), ScenarioError> {
        if expected == found {
            return Ok(());
        }
        Err(self.unexpected(what, expected, found))
    }

    fn unexpected(&self, what: &'static str, expected: u64, found: u64) -> ScenarioError {
        ScenarioError::Unexpected {
            what,
            expected,
            found,
        }
    }

    /// The call was refused, for a reason that people can read.
    fn wrong<E: Display>(
        &self,
        what: &'static str,
        result: Result<(), E>,
    ) -> Result<(), ScenarioError> {
        match result {
            Err(error) => {
                crate::println!("{what}: {error}");
                Ok(())
            }
            Ok(()) => Err(self.unexpected(what, 0, 1)),
        }
    }

    fn right<E: Display>(
        &self,
        what: &'static str,
        result: Result<(), E>,
    ) -> Result<(), ScenarioError> {
        result.map_err(|error| {
            crate::println!("{what}: {error}");
            self.unexpected(what, 1, 0)
        })
    }
}
