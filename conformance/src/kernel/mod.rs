//! A small kernel: frames, page tables in the CPU's format, processes whose address spaces devices
//! share, and nothing else. It embeds the framework as a real one would.

mod dma;
mod format;
mod frames;
mod kernel_half;
mod page_table;
mod pager;
mod process;

pub use dma::DmaDomain;
pub use format::{MEMORY_ATTRIBUTES, Rights, shares_root_with_kernel};
pub use frames::{HUGE, PAGE};
pub use pager::{Pager, Region, SHARE, Worker};
pub use process::{Announce, Process};

use crate::answers::Answers;
use crate::oracle::Oracle;
use crate::outcome::{Outcome, ensure, failed};
use crate::rig::{Rig, Seat};
use core_notifier::Srcu;
use frames::Frames;
use iommu_core::ids::Pasid;
use iommu_core::iommu::{DeviceConfig, Iommu};
use iommu_core::page_request::PageRequests;
use iommu_core::sva::{Failure, FailureHandler, Sva};
use iommu_model::Random;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// PASIDs that the suite's devices can send.
pub const PASID_BITS: u8 = 8;

/// The kernel of one rig.
pub struct Kernel {
    /// The rig.
    pub rig: Arc<dyn Rig>,
    /// What it allowed.
    pub oracle: Oracle,
    /// Which page faults wait for an answer.
    pub answers: Answers,
    /// Where its choices come from.
    pub random: Random,
    sva: Arc<Sva>,
    srcu: Arc<Srcu>,
    frames: Mutex<Frames>,
    failures: Arc<Failures>,
    /// The control run: page tables change and nobody is told.
    silent: AtomicBool,
    /// How the devices are enabled.
    config: DeviceConfig,
    /// By IOMMU.
    page_requests: Vec<Arc<PageRequests>>,
    workers: Mutex<Vec<Worker>>,
}

/// Invalidations that the hardware did not confirm.
#[derive(Default)]
struct Failures(Mutex<Vec<Failure>>);

impl FailureHandler for Failures {
    fn invalidation_failed(&self, failure: Failure) {
        lock(&self.0).push(failure);
    }
}

impl Kernel {
    /// A kernel on `rig`, with every device enabled by `config`.
    pub fn new(rig: Arc<dyn Rig>, config: DeviceConfig, seed: u64) -> Outcome<Arc<Self>> {
        let failures = Arc::new(Failures::default());
        let iommus = rig.iommus().iter();
        let page_requests = iommus.map(|iommu| PageRequests::new(iommu.clone()));
        let last = Pasid::new((1 << PASID_BITS) - 1).unwrap_or(Pasid::MAX);
        let kernel = Arc::new(Self {
            oracle: Oracle::default(),
            answers: Answers::default(),
            page_requests: page_requests.collect(),
            workers: Mutex::default(),
            random: Random::new(seed ^ 0x6b65_726e),
            sva: Sva::new(last, failures.clone()),
            srcu: Arc::new(Srcu::new()),
            frames: Mutex::new(Frames::new(rig.ram(), rig.format())),
            failures,
            silent: AtomicBool::new(false),
            config,
            rig,
        });
        for seat in 0..kernel.rig.seats().len() {
            kernel.enable(seat)?;
        }
        Ok(kernel)
    }

    /// How the device on a seat is enabled.
    pub fn device_config(&self) -> DeviceConfig {
        self.config
    }

    /// Enables the device on a seat.
    pub fn enable(&self, seat: usize) -> Outcome {
        let (iommu, Seat { device, .. }) = self.seat(seat);
        iommu.enable_device(device, self.device_config())?;
        self.expect_page_requests(seat)
    }

    /// The IOMMU of a seat, and the seat.
    pub fn seat(&self, seat: usize) -> (&Arc<dyn Iommu>, Seat) {
        let seat = self.rig.seats()[seat];
        (&self.rig.iommus()[seat.iommu], seat)
    }

    /// From now on page tables change and nobody is told.
    pub fn be_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// Whether an IOMMU may cache that a page is not mapped, so that new mappings are announced too.
    fn caches_not_present(&self) -> bool {
        let iommus = self.rig.iommus().iter();
        iommus
            .map(|iommu| iommu.features())
            .any(|can| can.caches_not_present)
    }

    /// Lets some things happen, as they do between two instructions of a kernel.
    pub fn breathe(&self) {
        for _ in 0..self.random.below(6) {
            if !self.rig.step() {
                break;
            }
        }
    }

    /// Lets things happen until nothing is left.
    pub fn settle(&self) {
        for _ in 0..200_000 {
            if !self.rig.step() {
                break;
            }
        }
    }

    /// Lets things happen, and serves page requests, until nothing is left of either.
    ///
    /// # Errors
    ///
    /// Responses could not be posted, or there is no end of it.
    pub fn come_to_rest(&self) -> Outcome {
        for _ in 0..10_000 {
            self.settle();
            if self.attend()? == 0 {
                return Ok(());
            }
        }
        failed("devices ask for pages without end")
    }

    /// Judges everything that the devices did since the last time.
    pub fn judge(&self) -> Outcome {
        if let Ok(model) = self.rig.model() {
            self.answers.note(&model.history.take_messages())?;
        }
        self.oracle.judge(&self.rig.take_history())
    }

    /// Lets everything end, judges it, and looks at every free frame.
    pub fn check(&self) -> Outcome {
        self.come_to_rest()?;
        self.judge()?;
        self.answers.nobody_waits()?;
        self.frames().check_all(self.rig.ram())?;
        let failures = self.failures();
        ensure(
            failures.is_empty(),
            format_args!("invalidations failed: {failures:?}"),
        )
    }

    /// The invalidations that failed since the last call.
    pub fn failures(&self) -> Vec<Failure> {
        std::mem::take(&mut *lock(&self.failures.0))
    }

    /// How many small and huge frames are free.
    pub fn free_frames(&self) -> (usize, usize) {
        self.frames().free()
    }

    fn frames(&self) -> MutexGuard<'_, Frames> {
        lock(&self.frames)
    }

    /// A word, as the CPU loads it from physical memory.
    pub fn load(&self, physical: u64) -> u64 {
        self.rig.ram().clean(physical, 8);
        self.rig.ram().load(physical)
    }

    /// Stores a word to physical memory as the CPU does.
    pub fn store(&self, physical: u64, value: u64) {
        self.rig.ram().store(physical, value);
        self.rig.ram().clean(physical, 8);
    }

    /// Takes a frame.
    pub fn take_frame(&self) -> Outcome<u64> {
        self.frames().take(self.rig.ram())
    }

    /// Gives a frame back.
    pub fn give_back_frame(&self, frame: u64) {
        self.frames().give_back(self.rig.ram(), frame);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
