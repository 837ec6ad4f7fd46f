//! A model with tables, brought up by hand.

use crate::page_table::PageTable;
use iommu_model::vtd::{Configuration, Vtd};
use iommu_model::{
    Access, Coherency, Hardware, InvalidationRequest, Machine, Memory, PageResponse, Policy, Port,
    Refusal, Request, Translation,
};
use std::sync::{Arc, Mutex};

pub const BASE: u64 = 0x4000_0000;
pub const VER: usize = 0x00;
pub const GCMD: usize = 0x18;
pub const GSTS: usize = 0x1c;
pub const RTADDR: usize = 0x20;
pub const FSTS: usize = 0x34;
pub const FECTL: usize = 0x38;
pub const IQH: usize = 0x80;
pub const IQT: usize = 0x88;
pub const IQA: usize = 0x90;
pub const IQERCD: usize = 0xb0;
pub const FRCD: usize = 0x220;

pub const IQE: u32 = 1 << 4;
pub const ICE: u32 = 1 << 5;
pub const ITE: u32 = 1 << 6;

/// 00:04.0.
pub const DEVICE: u32 = 0x20;
pub const PASID: u32 = 9;
pub const DOMAIN: u16 = 7;
/// An address that the tests map.
pub const VA: u64 = 0x7f00_1234_5000;

/// What the model sent to a device.
#[derive(Default)]
pub struct Sent {
    pub invalidations: Mutex<Vec<InvalidationRequest>>,
    pub responses: Mutex<Vec<PageResponse>>,
}

impl Port for Sent {
    fn invalidate(&self, request: InvalidationRequest) {
        self.invalidations.lock().unwrap().push(request);
    }
    fn respond(&self, response: PageResponse) {
        self.responses.lock().unwrap().push(response);
    }
    fn resume(&self, _: u32, _: bool) {
        unreachable!("nothing stalls in VT-d");
    }
    fn step(&self) -> bool {
        false
    }
}

impl Sent {
    pub fn take_invalidations(&self) -> Vec<InvalidationRequest> {
        std::mem::take(&mut self.invalidations.lock().unwrap())
    }
    pub fn take_responses(&self) -> Vec<PageResponse> {
        std::mem::take(&mut self.responses.lock().unwrap())
    }
}

pub struct Bench {
    pub machine: Arc<Machine>,
    pub memory: Arc<Memory>,
    pub model: Arc<Vtd>,
    pub device: Arc<Sent>,
    pub table: PageTable,
    /// Physical addresses of the tables.
    pub root: u64,
    pub contexts: u64,
    pub directory: u64,
    pub pasids: u64,
    pub queue: u64,
    pub status: u64,
}

/// Word 0 and word 1 of a scalable-mode context entry: P, DTE, PASIDE, PRE; 2^7 directory entries.
pub fn context(directory: u64) -> [u64; 4] {
    [directory | 0b11101, 0, 0, 0]
}

/// A first-stage PASID table entry: P, AW 48 bits, PGTT 1; DID, PWSNP; FSPTPTR.
pub fn first_stage(root: u64, domain: u16) -> [u64; 8] {
    [0x49, 1 << 23 | u64::from(domain), root, 0, 0, 0, 0, 0]
}

/// A second-stage one: PGTT 2.
pub fn second_stage(root: u64, domain: u16) -> [u64; 8] {
    [root | 0x89, 1 << 23 | u64::from(domain), 0, 0, 0, 0, 0, 0]
}

/// A nested one: PGTT 3.
pub fn nested(first: u64, second: u64, domain: u16) -> [u64; 8] {
    let low = second | 0xc9;
    [low, 1 << 23 | u64::from(domain), first, 0, 0, 0, 0, 0]
}

impl Bench {
    pub fn new() -> Self {
        Self::with(Configuration::default(), Policy::STRICT, 0)
    }

    /// A bench with translation and a queue of 256 descriptors of 256 bits on; [`PASID`] uses
    /// [`Self::table`] by its first stage.
    pub fn with(configuration: Configuration, policy: Policy, seed: u64) -> Self {
        let bench = Self::off(configuration, policy, seed);
        bench.write64(RTADDR, bench.root | 1 << 10);
        bench.command(1 << 30);
        bench.write64(IQA, bench.queue | 1 << 11 | 1);
        bench.command(1 << 26);
        bench.command(1 << 26 | 1 << 31);
        bench
    }

    /// A bench with tables and nothing on.
    pub fn off(configuration: Configuration, policy: Policy, seed: u64) -> Self {
        let memory = Memory::new(BASE, 32 << 20, Coherency::Coherent);
        let machine = Machine::new(memory, policy, seed);
        let memory = machine.memory.clone();
        let model = Vtd::new(&machine, configuration);
        machine.add_iommu(model.clone());
        let device = Arc::new(Sent::default());
        model.connect(DEVICE, device.clone());
        let page = || memory.take(4096, 4096).unwrap();
        let bench = Self {
            table: PageTable::new(&memory, 4),
            root: page(),
            contexts: page(),
            directory: page(),
            pasids: page(),
            queue: memory.take(8192, 4096).unwrap(),
            status: page(),
            machine: machine.clone(),
            memory: memory.clone(),
            model,
            device,
        };
        // Bus 0, devices 0 to 15.
        bench.store(bench.root, &[bench.contexts | 1]);
        bench.set_context(context(bench.directory));
        bench.store(bench.directory, &[bench.pasids | 1]);
        bench.set_pasid(PASID, first_stage(bench.table.root, DOMAIN));
        bench
    }

    pub fn page(&self) -> u64 {
        self.memory.take(4096, 4096).unwrap()
    }

    pub fn store(&self, at: u64, words: &[u64]) {
        for (at, &word) in (at..).step_by(8).zip(words) {
            self.memory.cpu_store(at, word);
        }
    }

    pub fn set_context(&self, words: [u64; 4]) {
        self.store(self.contexts + 32 * u64::from(DEVICE), &words);
    }

    pub fn set_pasid(&self, pasid: u32, words: [u64; 8]) {
        self.store(self.pasids + 64 * u64::from(pasid), &words);
    }

    pub fn read32(&self, offset: usize) -> u32 {
        self.model.read(offset, 4) as u32
    }
    pub fn read64(&self, offset: usize) -> u64 {
        self.model.read(offset, 8)
    }
    pub fn write32(&self, offset: usize, value: u32) {
        self.model.write(offset, 4, value.into());
    }
    pub fn write64(&self, offset: usize, value: u64) {
        self.model.write(offset, 8, value);
    }

    /// Writes GCMD and lets the command end.
    pub fn command(&self, value: u32) {
        self.write32(GCMD, value);
        self.machine.settle();
    }

    /// Puts descriptors of 256 bits into the queue and rings the doorbell.
    pub fn post(&self, descriptors: &[[u64; 2]]) {
        let mut tail = self.read64(IQT);
        for &[low, high] in descriptors {
            self.store(self.queue + tail, &[low, high, 0, 0]);
            tail = (tail + 32) % 8192;
        }
        self.write64(IQT, tail);
    }

    /// Posts descriptors with a wait behind them, and lets it all be done.
    pub fn execute(&self, descriptors: &[[u64; 2]]) {
        self.memory.cpu_store(self.status, 0);
        self.post(&[descriptors, &[self.wait(1)]].concat());
        self.machine.settle();
        assert_eq!(self.read32(FSTS) & IQE, 0, "IQERCD {}", self.read64(IQERCD));
        assert_eq!(self.memory.cpu_load(self.status), 1);
    }

    /// A wait descriptor: 5, SW, the data.
    pub fn wait(&self, data: u32) -> [u64; 2] {
        [0x25 | u64::from(data) << 32, self.status]
    }

    pub fn request(&self, address: u64, access: Access) -> Request {
        Request {
            device: DEVICE,
            pasid: Some(PASID),
            privileged: false,
            address,
            access,
        }
    }

    pub fn read(&self, address: u64) -> Result<u64, Refusal> {
        let request = self.request(address, Access::Read);
        self.model.translate(&request).map(|done| done.address)
    }

    pub fn write(&self, address: u64) -> Result<u64, Refusal> {
        let request = self.request(address, Access::Write);
        self.model.translate(&request).map(|done| done.address)
    }

    pub fn ask(&self, address: u64, access: Access) -> Result<Translation, Refusal> {
        let request = self.request(address, access);
        self.model.translate_for_device(&request)
    }

    /// The reason in the oldest fault record, which is freed; `None` if there is none.
    pub fn take_fault(&self) -> Option<u8> {
        self.take_record().map(|[_, high]| (high >> 32) as u8)
    }

    pub fn take_record(&self) -> Option<[u64; 2]> {
        let status = self.read32(FSTS);
        if status & 2 == 0 {
            return None;
        }
        let first = (status >> 8 & 0xff) as usize;
        let at = (first..first + 4)
            .map(|index| FRCD + 16 * (index % 4))
            .find(|at| self.read64(at + 8) >> 63 != 0)?;
        let record = [self.read64(at), self.read64(at + 8)];
        self.write32(at + 12, 1 << 31);
        Some(record)
    }
}
