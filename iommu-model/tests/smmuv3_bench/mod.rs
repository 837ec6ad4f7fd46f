//! What the SMMUv3 tests share: a machine, page tables of raw words, and a device that only keeps
//! what it is sent.

#![allow(clippy::std_instead_of_alloc, clippy::std_instead_of_core)]
#![allow(dead_code, reason = "each test crate uses a part of it")]

use iommu_model::smmuv3::{Configuration, Smmu};
use iommu_model::{
    Access, Coherency, Hardware, InvalidationRequest, Machine, Memory, PageResponse, Policy, Port,
    Refusal, Request, Translation,
};
use std::sync::{Arc, Mutex, Weak};

/// Where memory begins.
pub const BASE: u64 = 0x4000_0000;
const SIZE: u64 = 64 << 20;

/// A page descriptor: valid, accessed, non-global, readable and writable by anybody, not
/// executable.
pub const PAGE: u64 = 0x0060_0000_0000_0f43;
/// A block descriptor with the same attributes.
pub const BLOCK: u64 = PAGE & !0b10;
/// AP\[2\] of a descriptor: read-only.
pub const READ_ONLY: u64 = 1 << 7;
/// AF of a descriptor.
pub const ACCESSED: u64 = 1 << 10;

/// The device that the tests use.
pub const DEVICE: u32 = 0x0108;

/// A machine with one SMMU.
pub struct Bench {
    /// The machine.
    pub machine: Arc<Machine>,
    /// The SMMU.
    pub smmu: Arc<Smmu>,
}

impl Bench {
    /// With coherent memory.
    pub fn new(configuration: Configuration, policy: Policy, seed: u64) -> Self {
        Self::with_memory(configuration, policy, seed, Coherency::Coherent)
    }

    /// With the given memory.
    pub fn with_memory(
        configuration: Configuration,
        policy: Policy,
        seed: u64,
        coherency: Coherency,
    ) -> Self {
        let machine = Machine::new(Memory::new(BASE, SIZE, coherency), policy, seed);
        let smmu = Smmu::new(&machine, configuration);
        machine.add_iommu(smmu.clone());
        Self { machine, smmu }
    }

    /// The machine's memory.
    pub fn memory(&self) -> &Memory {
        &self.machine.memory
    }

    /// A zeroed page.
    pub fn page(&self) -> u64 {
        self.memory().take(4096, 4096).expect("memory is left")
    }

    /// Stores as a kernel does that writes its page tables back.
    pub fn store(&self, address: u64, value: u64) {
        self.memory().cpu_store(address, value);
        self.memory().clean_range(address, 8);
    }

    /// An untagged or tagged request of [`DEVICE`].
    pub fn request(pasid: Option<u32>, address: u64, access: Access) -> Request {
        Request {
            device: DEVICE,
            pasid,
            privileged: false,
            address,
            access,
        }
    }

    /// Translates for [`DEVICE`].
    pub fn translate(
        &self,
        pasid: Option<u32>,
        address: u64,
        access: Access,
    ) -> Result<Translation, Refusal> {
        self.smmu.translate(&Self::request(pasid, address, access))
    }

    /// Connects a device.
    pub fn connect(&self, device: u32) -> Arc<Endpoint> {
        let smmu: Arc<dyn Hardware> = self.smmu.clone();
        let endpoint = Arc::new(Endpoint {
            device,
            smmu: Arc::downgrade(&smmu),
            received: Mutex::default(),
        });
        self.smmu.connect(device, endpoint.clone());
        self.machine.add_device(endpoint.clone());
        endpoint
    }
}

/// A page table of four levels.
pub struct Table<'a> {
    bench: &'a Bench,
    /// Its root.
    pub root: u64,
}

impl<'a> Table<'a> {
    /// An empty one.
    pub fn new(bench: &'a Bench) -> Self {
        let root = bench.page();
        Self { bench, root }
    }

    /// The address of the descriptor of `address` at `level`, with tables made on the way.
    pub fn at(&self, address: u64, level: u32) -> u64 {
        let mut table = self.root;
        for above in 0..level {
            let at = table + 8 * (address >> (39 - 9 * above) & 0x1ff);
            let descriptor = self.bench.memory().cpu_load(at);
            table = if descriptor & 1 == 0 {
                let next = self.bench.page();
                self.bench.store(at, next | 0b11);
                next
            } else {
                descriptor & 0x0000_ffff_ffff_f000
            };
        }
        table + 8 * (address >> (39 - 9 * level) & 0x1ff)
    }

    /// Stores a descriptor at `level`.
    pub fn set(&self, address: u64, level: u32, descriptor: u64) {
        let at = self.at(address, level);
        self.bench.store(at, descriptor);
    }

    /// Maps a page.
    pub fn map(&self, address: u64, physical: u64) {
        self.set(address, 3, physical | PAGE);
    }

    /// The descriptor of a page.
    pub fn get(&self, address: u64) -> u64 {
        self.bench.memory().cpu_load(self.at(address, 3))
    }
}

/// What an [`Endpoint`] was sent.
#[derive(Debug, Default)]
pub struct Received {
    /// Invalidation requests that were not answered.
    pub invalidations: Vec<InvalidationRequest>,
    /// Page group responses.
    pub responses: Vec<PageResponse>,
    /// Stalled transactions that go on.
    pub resumed: Vec<(u32, bool)>,
    /// Answer by itself, in a step.
    pub answers: bool,
    /// Every invalidation request, in order.
    pub history: Vec<InvalidationRequest>,
}

/// A device that keeps what it is sent.
pub struct Endpoint {
    device: u32,
    smmu: Weak<dyn Hardware>,
    /// What it was sent.
    pub received: Mutex<Received>,
}

impl Endpoint {
    /// Answers every invalidation that waits; how many those were.
    pub fn answer(&self) -> usize {
        let waiting = std::mem::take(&mut self.received.lock().unwrap().invalidations);
        let tags = waiting.iter().fold(0, |tags, it| tags | 1 << it.itag);
        if let Some(smmu) = self.smmu.upgrade().filter(|_| tags != 0) {
            smmu.invalidation_completed(self.device, tags);
        }
        waiting.len()
    }

    /// Answers by itself from now on.
    pub fn answer_always(&self) {
        self.received.lock().unwrap().answers = true;
    }
}

impl Port for Endpoint {
    fn invalidate(&self, request: InvalidationRequest) {
        let mut received = self.received.lock().unwrap();
        received.invalidations.push(request);
        received.history.push(request);
    }

    fn respond(&self, response: PageResponse) {
        self.received.lock().unwrap().responses.push(response);
    }

    fn resume(&self, stalled: u32, retry: bool) {
        self.received.lock().unwrap().resumed.push((stalled, retry));
    }

    fn step(&self) -> bool {
        let answers = self.received.lock().unwrap().answers;
        answers && self.answer() > 0
    }
}
