//! What the suite runs on: IOMMUs with devices, and the memory that both sides see.
//!
//! The cases know this trait only. What a rig cannot do is a [`Stop::Skip`] that names the reason.

mod garbled;
mod model;
mod qemu;
mod shortcoming;

pub use model::{AARCH64, Model, RIGS as MODEL_RIGS};
pub use qemu::RIGS as QEMU_RIGS;
pub use shortcoming::{Absence, Documented, Shortcoming};

use crate::outcome::{Outcome, Stop, skip};
use iommu_core::ids::DeviceId;
use iommu_core::iommu::Iommu;
use iommu_core::page_table::Format;
use iommu_model::device::{Ended, Job, Record, Transfer};
use iommu_model::{Coherency, Policy};
use shootdown_device_tlb::Device;
use std::sync::{Arc, Mutex, PoisonError};

/// A rig that can be built.
pub trait Maker: Sync {
    /// Its name, one word.
    fn name(&self) -> &'static str;

    /// Whether it can be built at all on this computer.
    ///
    /// # Errors
    ///
    /// What is missing, for a person.
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    /// Whether its hardware behaves differently under different freedoms.
    fn has_freedoms(&self) -> bool {
        true
    }

    /// Builds one, with every IOMMU brought up by its driver and every device known to none. What
    /// goes wrong with the rig itself later, it adds to `troubles`.
    ///
    /// # Errors
    ///
    /// [`Stop::Skip`] if the rig cannot have this layout.
    fn make(
        &self,
        layout: &Layout,
        freedom: Freedom,
        troubles: &Arc<Troubles>,
    ) -> Result<Arc<dyn Rig>, Stop>;

    /// The hardware of `rig`, which is laid out so, with new drivers that know nothing of those
    /// before, and other memory for the kernel.
    ///
    /// # Errors
    ///
    /// [`Stop::Skip`] if the rig cannot do that.
    fn take_over(&self, rig: &Arc<dyn Rig>, layout: &Layout) -> Result<Arc<dyn Rig>, Stop> {
        let _ = (rig, layout);
        skip(Shortcoming::EndsWithDrivers)
    }
}

/// What went wrong with a rig itself, whatever the case made of it.
#[derive(Debug, Default)]
pub struct Troubles(Mutex<Vec<String>>);

impl Troubles {
    /// Adds something.
    pub fn add(&self, what: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains(&what) {
            all.push(what);
        }
    }

    /// What a case comes to on a rig with these troubles: with any, it has failed.
    ///
    /// # Errors
    ///
    /// The case's own, and the troubles.
    pub fn judge(&self, outcome: Outcome) -> Outcome {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return outcome;
        }
        let mut what = all.join("\n");
        if let Err(Stop::Failed(case)) = outcome {
            what = format!("{what}\nso {case}");
        }
        Err(Stop::Failed(what))
    }
}

/// What a case needs.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// How many IOMMUs. A rig that cannot have as many has one, with all devices behind it.
    pub iommus: usize,
    /// How many devices behind each.
    pub devices: usize,
    /// Whether the devices have a TLB.
    pub device_tlb: bool,
    /// Whether the devices ask for pages.
    pub page_requests: bool,
    /// Whether the IOMMUs snoop the CPU's caches.
    pub coherency: Coherency,
}

impl Layout {
    /// One IOMMU with one device that has no TLB.
    pub const PLAIN: Self = Self {
        iommus: 1,
        devices: 1,
        device_tlb: false,
        page_requests: false,
        coherency: Coherency::Coherent,
    };
    /// One IOMMU with one device that has a TLB.
    pub const DEVICE_TLB: Self = Self {
        device_tlb: true,
        ..Self::PLAIN
    };
    /// Two IOMMUs with two devices each, all with TLBs.
    pub const WIDE: Self = Self {
        iommus: 2,
        devices: 2,
        device_tlb: true,
        ..Self::PLAIN
    };
}

/// How freely the hardware behaves, where a rig can choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freedom {
    /// The hardware's policy.
    pub policy: Policy,
    /// Where its choices, and the kernel's, come from.
    pub seed: u64,
}

/// A device's place on a rig.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    /// The number of its IOMMU.
    pub iommu: usize,
    /// Its id there. No two devices of a rig have the same.
    pub device: DeviceId,
}

/// Physical memory, as the CPU uses it.
pub trait Ram: Send + Sync {
    /// The first byte and the length of what the suite's kernel may use, multiples of 2 MiB.
    fn pool(&self) -> (u64, u64);
    /// Loads the word at `address`, a multiple of 8.
    fn load(&self, address: u64) -> u64;
    /// Stores the word at `address`, a multiple of 8.
    fn store(&self, address: u64, value: u64);
    /// Makes the CPU's caches and what devices see agree.
    fn clean(&self, address: u64, length: u64);

    /// Fills whole words with `value`, so that devices see it.
    fn fill(&self, address: u64, length: u64, value: u64) {
        for at in (address..address + length).step_by(8) {
            self.store(at, value);
        }
        self.clean(address, length);
    }

    /// The first of these words that is not `value` as devices see it, and what it is.
    fn first_other(&self, address: u64, length: u64, value: u64) -> Option<(u64, u64)> {
        self.clean(address, length);
        let words = (address..address + length).step_by(8);
        words
            .map(|at| (at, self.load(at)))
            .find(|&(_, found)| found != value)
    }
}

/// IOMMUs with devices. All methods may be called from any thread.
pub trait Rig: Send + Sync {
    /// The IOMMUs, as their drivers offer them.
    fn iommus(&self) -> &[Arc<dyn Iommu>];
    /// The devices.
    fn seats(&self) -> &[Seat];
    /// The format of the CPU's page tables.
    fn format(&self) -> Format;
    /// What its hardware is known not to do as it should.
    fn shortcomings(&self) -> &[Shortcoming] {
        &[]
    }
    /// Whether its devices can send requests with PASIDs. If not, the suite's kernel binds them for
    /// requests without.
    fn sends_pasids(&self) -> bool {
        !self.shortcomings().contains(&Shortcoming::NoPasids)
    }
    /// The memory.
    fn ram(&self) -> &dyn Ram;
    /// Nanoseconds on the clock that the history is written by.
    fn now(&self) -> u64;
    /// Lets something happen; false if there is nothing left to happen.
    fn step(&self) -> bool;
    /// Gives the device on a seat work.
    fn start(&self, seat: usize, transfer: Transfer) -> Arc<Job>;
    /// Makes the device on a seat stop sending requests with the PASID.
    fn stop(&self, seat: usize, pasid: Option<u32>);
    /// What the devices did since the last call.
    fn take_history(&self) -> Vec<Record>;
    /// The device on a seat, with the TLB that it really has.
    ///
    /// # Errors
    ///
    /// [`Stop::Skip`] on a rig whose devices are models, or have none.
    fn device_tlb(&self, _seat: usize) -> Result<&Device, Stop> {
        skip(Absence::RealDevices)
    }
    /// What only a model can be asked.
    ///
    /// # Errors
    ///
    /// [`Stop::Skip`] on a rig that is none.
    fn model(&self) -> Result<&Model, Stop>;

    /// Does a transfer and lets things happen meanwhile.
    fn run(&self, seat: usize, transfer: Transfer) -> Ended {
        let job = self.start(seat, transfer);
        self.finish(&job)
    }

    /// Lets things happen until a transfer has ended, or nothing happens any more.
    fn finish(&self, job: &Job) -> Ended {
        for _ in 0..100_000 {
            if let Some(ended) = job.ended() {
                return ended;
            }
            if !self.step() {
                break;
            }
        }
        job.ended().unwrap_or(Ended::Stuck)
    }
}

/// Every rig.
pub fn all() -> impl Iterator<Item = &'static dyn Maker> {
    MODEL_RIGS.iter().chain(QEMU_RIGS).copied()
}
