//! The scenario: two devices share a process's address space, and lose what the kernel takes away.
//!
//! The control run goes through the same steps with an IOMMU that is never told what is stale, and
//! expects the stale accesses to succeed: that is what the framework is for, and it shows that the
//! checks can fail.

mod control;
mod error;
mod iommu;
mod platform;
mod process;
mod steps;

pub use error::ScenarioError;

use crate::arch::native::clock;
use crate::command_line::Run;
use crate::console::Console;
use crate::devices::edu::{self, Edu};
use crate::devices::test_device::{self, TestDevice};
use crate::machine::Machine;
use crate::println;
use crate::report;
use alloc::sync::Arc;
use control::WithoutInvalidation;
use core::fmt::Display;
use core_notifier::Srcu;
use iommu::{Found, Walk};
use iommu_core::fault::Fault;
use iommu_core::ids::{DeviceId, Pasid};
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::sva::{Failure, FailureHandler, Sva};
use platform::Tally;

/// Every PASID that the framework may give out.
const LAST_PASID: Pasid = match Pasid::new(255) {
    Some(pasid) => pasid,
    None => Pasid::UNTAGGED,
};

/// Runs it as `run` says and tells each step.
pub fn run(machine: &Machine, run: Run) -> Result<(), ScenarioError> {
    let tally = Arc::new(Tally::default());
    let Found { kind, iommu, walk } = iommu::bring_up(machine, &tally)?;
    report::begin(&mut Console, kind, run);
    let control = run == Run::Control;
    let iommu: Arc<dyn Iommu> = if control {
        Arc::new(WithoutInvalidation(iommu))
    } else {
        iommu
    };
    steps::tell(&Stage::set(machine, iommu, walk, tally, control)?)
}

/// Everything that the steps work with.
struct Stage {
    iommu: Arc<dyn Iommu>,
    walk: Option<Walk>,
    tally: Arc<Tally>,
    control: bool,
    sva: Arc<Sva>,
    srcu: Arc<Srcu>,
    edu: Edu,
    edu_id: DeviceId,
    test_device: TestDevice,
    test_device_id: DeviceId,
}

impl Stage {
    fn set(
        machine: &Machine,
        iommu: Arc<dyn Iommu>,
        walk: Option<Walk>,
        tally: Arc<Tally>,
        control: bool,
    ) -> Result<Self, ScenarioError> {
        let (edu_address, registers) = machine.claim(edu::IDENTITY, edu::NAME)?;
        let edu = Edu::new(edu_address, registers, clock::nanoseconds);
        let (test_address, registers) = machine.claim(test_device::IDENTITY, test_device::NAME)?;
        Ok(Self {
            iommu,
            walk,
            tally,
            control,
            sva: Sva::new(LAST_PASID, Arc::new(Unconfirmed)),
            srcu: Arc::new(Srcu::new()),
            edu,
            edu_id: machine.device_id(edu_address)?,
            test_device: TestDevice::new(test_address, registers),
            test_device_id: machine.device_id(test_address)?,
        })
    }

    /// Tells a step that succeeded, with what was sent since the one before.
    fn step(&self, id: &str, sentence: impl Display) -> report::Cost {
        let cost = self.tally.take();
        report::step(&mut Console, id, &sentence, cost);
        cost
    }

    /// How the devices are set up: with as many PASIDs as one page of a PASID table holds.
    fn device_config(&self) -> DeviceConfig {
        DeviceConfig {
            pasid_bits: self.iommu.features().pasid_bits.min(8),
            device_tlb: false,
            page_faults: PageFaults::Fatal,
        }
    }

    /// The first of the faults that the IOMMU recorded since the last look.
    fn first_fault(&self) -> Option<Fault> {
        let mut first = None;
        let summary = self.iommu.take_faults(&mut |fault| {
            println!("fault: {fault}");
            first.get_or_insert(fault);
        });
        if summary.lost {
            println!("the IOMMU lost further faults");
        }
        first
    }
}

/// An invalidation that is not confirmed ends the run: frames may be in use that are free.
struct Unconfirmed;

impl FailureHandler for Unconfirmed {
    fn invalidation_failed(&self, failure: Failure) {
        let Failure {
            pasid,
            range,
            error,
            ..
        } = failure;
        crate::console::fail(&format_args!(
            "PASID {pasid}, {range:?}: not invalidated: {error}"
        ));
    }
}
