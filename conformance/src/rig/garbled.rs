//! Registers that answer nonsense: a device that is gone, a broken bus, a hypervisor that lies.

use iommu_model::{Hardware, PageRequest, Port, Random, Refusal, Request, Translation};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An IOMMU whose register reads can be falsified on their way to the driver.
pub struct Garbled {
    inner: Arc<dyn Hardware>,
    /// One in so many reads is nonsense; 0 for none.
    one_in: AtomicU64,
    random: Random,
}

impl Garbled {
    /// Honest, until told otherwise.
    pub fn new(inner: Arc<dyn Hardware>, seed: u64) -> Self {
        Self {
            inner,
            one_in: AtomicU64::new(0),
            random: Random::new(seed),
        }
    }

    /// From now on one in `one_in` reads is nonsense; 0 for none.
    pub fn garble(&self, one_in: u64) {
        self.one_in.store(one_in, Ordering::Relaxed);
    }
}

impl Hardware for Garbled {
    fn read(&self, offset: usize, width: usize) -> u64 {
        let value = self.inner.read(offset, width);
        let one_in = self.one_in.load(Ordering::Relaxed);
        if one_in == 0 || !self.random.once_in(one_in) {
            return value;
        }
        let nonsense = match self.random.below(4) {
            0 => !0,
            1 => 0,
            2 => value ^ 1 << self.random.below(8 * width as u64),
            _ => self.random.bits(),
        };
        if width == 4 {
            nonsense & 0xffff_ffff
        } else {
            nonsense
        }
    }
    fn write(&self, offset: usize, width: usize, value: u64) {
        self.inner.write(offset, width, value);
    }
    fn step(&self) -> bool {
        self.inner.step()
    }
    fn speculate(&self) {
        self.inner.speculate();
    }
    fn translate(&self, request: &Request) -> Result<Translation, Refusal> {
        self.inner.translate(request)
    }
    fn translate_for_device(&self, request: &Request) -> Result<Translation, Refusal> {
        self.inner.translate_for_device(request)
    }
    fn admits_translated(&self, device: u32) -> bool {
        self.inner.admits_translated(device)
    }
    fn connect(&self, device: u32, port: Arc<dyn Port>) {
        self.inner.connect(device, port);
    }
    fn invalidation_completed(&self, device: u32, itags: u32) {
        self.inner.invalidation_completed(device, itags);
    }
    fn page_request(&self, request: PageRequest) {
        self.inner.page_request(request);
    }
    fn take_interrupts(&self) -> Vec<&'static str> {
        self.inner.take_interrupts()
    }
    fn time_out_devices(&self) {
        self.inner.time_out_devices();
    }
    fn reject_next(&self) {
        self.inner.reject_next();
    }
    fn remove(&self) {
        self.inner.remove();
    }
}
