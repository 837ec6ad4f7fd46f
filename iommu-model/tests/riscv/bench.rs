//! A machine with the IOMMU, and its registers, queues and tables by their raw values.

use alloc::sync::Arc;
use core::cell::Cell;
use iommu_model::riscv::{Configuration, RiscvIommu};
use iommu_model::{
    Access, Coherency, Hardware, InvalidationRequest, Machine, Memory, PageResponse, Policy, Port,
    Refusal, Request, Translation,
};
use std::sync::Mutex;

pub const FCTL: usize = 8;
pub const DDTP: usize = 16;
pub const CQB: usize = 24;
pub const CQH: usize = 32;
pub const CQT: usize = 36;
pub const FQB: usize = 40;
pub const FQH: usize = 48;
pub const FQT: usize = 52;
pub const PQB: usize = 56;
pub const PQH: usize = 64;
pub const PQT: usize = 68;
pub const CQCSR: usize = 72;
pub const FQCSR: usize = 76;
pub const PQCSR: usize = 80;
pub const IPSR: usize = 84;

/// Entries of the command queue, the fault queue and the page-request queue.
pub const COMMANDS: u64 = 128;
pub const FAULTS: u64 = 8;
pub const PAGE_REQUESTS: u64 = 4;

/// `tc`.
pub const V: u64 = 1;
pub const EN_ATS: u64 = 1 << 1;
pub const EN_PRI: u64 = 1 << 2;
pub const DTF: u64 = 1 << 4;
pub const PDTV: u64 = 1 << 5;
pub const PRPR: u64 = 1 << 6;
pub const GADE: u64 = 1 << 7;
pub const SADE: u64 = 1 << 8;
pub const DPE: u64 = 1 << 9;

/// The mode of Sv39 and Sv39x4.
pub const SV39: u64 = 8 << 60;

/// Page-table entries for the user: V, R, W, U, A, D.
pub const WRITABLE: u64 = 0xd7;
pub const READ_ONLY: u64 = 0xd3;
pub const EXECUTABLE: u64 = 0xdf;
pub const GLOBAL: u64 = 1 << 5;

/// A device that fits every directory.
pub const DEVICE: u32 = 5;

/// Commands.
pub const VMA: u64 = 1;
pub const GVMA: u64 = 0x81;
pub const AV: u64 = 1 << 10;
pub const PSCV: u64 = 1 << 32;
pub const GV: u64 = 1 << 33;
pub const NL: u64 = 1 << 34;
pub const S: u64 = 1 << 9;
pub const FENCE: u64 = 2;
pub const PR: u64 = 1 << 12;
pub const PW: u64 = 1 << 13;
pub const INVAL_DDT: u64 = 3;
pub const INVAL_PDT: u64 = 0x83;
pub const DV: u64 = 1 << 33;
pub const ATS_INVAL: u64 = 4;
pub const ATS_PRGR: u64 = 0x84;
pub const PV: u64 = 1 << 32;

/// The second doubleword of an IOTINVAL for the page at an address.
pub const fn page(address: u64) -> u64 {
    address >> 12 << 10
}

pub struct Bench {
    pub machine: Arc<Machine>,
    pub iommu: Arc<RiscvIommu>,
    pub ddt: u64,
    pub cq: u64,
    pub fq: u64,
    pub pq: u64,
    tail: Cell<u64>,
    levels: u64,
    extended: bool,
}

impl Bench {
    /// Everything on, a device directory of three levels without devices.
    pub fn new(configuration: Configuration) -> Self {
        let bench = Self::off(configuration, Policy::STRICT, 0, 3);
        bench.turn_on();
        bench
    }

    pub fn with_policy(policy: Policy, seed: u64) -> Self {
        let bench = Self::off(Configuration::default(), policy, seed, 3);
        bench.turn_on();
        bench
    }

    /// As after a reset.
    pub fn off(configuration: Configuration, policy: Policy, seed: u64, levels: u64) -> Self {
        let memory = Memory::new(0x8000_0000, 32 << 20, Coherency::Coherent);
        let machine = Machine::new(memory, policy, seed);
        let iommu = RiscvIommu::new(&machine, configuration);
        machine.add_iommu(iommu.clone());
        let take = || machine.memory.take(4096, 4096).unwrap();
        Self {
            ddt: take(),
            cq: take(),
            fq: take(),
            pq: take(),
            machine,
            iommu,
            tail: Cell::new(0),
            levels,
            extended: configuration.msi_flat,
        }
    }

    pub fn turn_on(&self) {
        let base = |at: u64, entries: u64| at >> 12 << 10 | u64::from(entries.ilog2() - 1);
        self.write64(CQB, base(self.cq, COMMANDS));
        self.write32(CQT, 0);
        self.write64(FQB, base(self.fq, FAULTS));
        self.write32(FQH, 0);
        self.write64(PQB, base(self.pq, PAGE_REQUESTS));
        self.write32(PQH, 0);
        for register in [CQCSR, FQCSR, PQCSR] {
            self.write32(register, 1);
        }
        self.write64(DDTP, self.ddt >> 12 << 10 | (1 + self.levels));
        self.machine.settle();
        assert_eq!(self.complaints(), Vec::<&str>::new());
    }

    pub fn read32(&self, offset: usize) -> u32 {
        self.iommu.read(offset, 4) as u32
    }

    pub fn write32(&self, offset: usize, value: u32) {
        self.iommu.write(offset, 4, value.into());
    }

    pub fn read64(&self, offset: usize) -> u64 {
        self.iommu.read(offset, 8)
    }

    pub fn write64(&self, offset: usize, value: u64) {
        self.iommu.write(offset, 8, value);
    }

    pub fn complaints(&self) -> Vec<&'static str> {
        self.iommu.take_complaints()
    }

    pub fn memory(&self) -> &Memory {
        &self.machine.memory
    }

    pub fn take(&self) -> u64 {
        self.memory().take(4096, 4096).unwrap()
    }

    pub fn load(&self, at: u64) -> u64 {
        self.memory().cpu_load(at)
    }

    pub fn store(&self, at: u64, words: &[u64]) {
        for (at, &word) in (at..).step_by(8).zip(words) {
            self.memory().cpu_store(at, word);
        }
    }

    /// Follows a directory's non-leaf entry, which is made if it is not valid.
    fn below(&self, entry: u64) -> u64 {
        if self.load(entry) & 1 == 0 {
            let table = self.take();
            self.store(entry, &[table >> 12 << 10 | 1]);
        }
        self.load(entry) >> 10 << 12 & !(0x3ff << 54)
    }

    /// Where a device's context lies.
    pub fn device_place(&self, device: u32) -> u64 {
        let (leaf_bits, size) = if self.extended { (6, 64) } else { (7, 32) };
        let mut table = self.ddt;
        for level in (1..self.levels).rev() {
            let index = u64::from(device) >> (leaf_bits + 9 * (level - 1)) & 0x1ff;
            table = self.below(table + 8 * index);
        }
        table + (u64::from(device) & ((1 << leaf_bits) - 1)) * size
    }

    /// Stores a device's `tc`, `iohgatp`, `ta` and `fsc`.
    pub fn set_device(&self, device: u32, words: [u64; 4]) {
        self.store(self.device_place(device), &words);
    }

    /// Where a process context lies, in a directory of so many levels.
    pub fn process_place(&self, root: u64, levels: u32, process: u32) -> u64 {
        let mut table = root;
        for level in (1..levels).rev() {
            let index = u64::from(process) >> (8 + 9 * (level - 1)) & 0x1ff;
            table = self.below(table + 8 * index);
        }
        table + (u64::from(process) & 0xff) * 16
    }

    /// Where the entry for an address is in a page table of so many levels; `wide` for a second
    /// stage.
    pub fn entry_place(&self, root: u64, levels: u32, address: u64, level: u32) -> u64 {
        let mut table = root;
        for above in (level..levels).rev() {
            let bits = if above + 1 == levels { 11 } else { 9 };
            // First-stage addresses are at most in the lower half here, so their index fits 9 bits.
            let index = address >> (12 + 9 * above) & ((1 << bits) - 1);
            let place = table + 8 * index;
            if above == level {
                return place;
            }
            table = self.below(place);
        }
        unreachable!()
    }

    /// Maps a page.
    pub fn map(&self, root: u64, levels: u32, address: u64, to: u64, flags: u64) {
        let place = self.entry_place(root, levels, address, 0);
        self.store(place, &[to >> 12 << 10 | flags]);
    }

    /// A device whose requests without a process id walk an Sv39 table, under PSCID 7. Returns its
    /// root.
    pub fn with_first_stage(&self) -> u64 {
        let root = self.take();
        self.set_device(DEVICE, [V | EN_ATS, 0, 7 << 12, SV39 | root >> 12]);
        root
    }

    /// Queues commands and rings the doorbell.
    pub fn post(&self, commands: &[[u64; 2]]) {
        for command in commands {
            let tail = self.tail.get();
            self.store(self.cq + 16 * tail, command);
            self.tail.set((tail + 1) % COMMANDS);
        }
        self.write32(CQT, self.tail.get() as u32);
    }

    /// Queues commands and lets everything happen.
    pub fn run(&self, commands: &[[u64; 2]]) {
        self.post(commands);
        self.machine.settle();
        assert_eq!(self.read32(CQH), self.read32(CQT));
    }

    pub fn request(&self, address: u64, access: Access) -> Request {
        Request {
            device: DEVICE,
            pasid: None,
            privileged: false,
            address,
            access,
        }
    }

    pub fn translate(&self, address: u64, access: Access) -> Result<Translation, Refusal> {
        self.iommu.translate(&self.request(address, access))
    }

    pub fn ask(&self, address: u64, access: Access) -> Result<u64, Refusal> {
        self.translate(address, access)
            .map(|translation| translation.address)
    }

    pub fn read(&self, address: u64) -> Result<u64, Refusal> {
        self.ask(address, Access::Read)
    }

    pub fn read_as(&self, process: u32, address: u64) -> Result<u64, Refusal> {
        let request = Request {
            pasid: Some(process),
            ..self.request(address, Access::Read)
        };
        self.iommu
            .translate(&request)
            .map(|translation| translation.address)
    }

    /// The fault records since the last call.
    pub fn faults(&self) -> Vec<[u64; 4]> {
        self.machine.settle();
        let (mut head, tail) = (u64::from(self.read32(FQH)), u64::from(self.read32(FQT)));
        let mut records = Vec::new();
        while head != tail {
            records.push([0, 8, 16, 24].map(|word| self.load(self.fq + 32 * head + word)));
            head = (head + 1) % FAULTS;
        }
        self.write32(FQH, head as u32);
        records
    }

    /// The causes of the fault records since the last call.
    pub fn causes(&self) -> Vec<u64> {
        let cause = |record: [u64; 4]| record[0] & 0xfff;
        self.faults().into_iter().map(cause).collect()
    }

    pub fn connect(&self, device: u32) -> Arc<Mailbox> {
        let mailbox = Arc::new(Mailbox::default());
        self.iommu.connect(device, mailbox.clone());
        mailbox
    }
}

/// A device that only keeps what it is sent.
#[derive(Default)]
pub struct Mailbox {
    invalidations: Mutex<Vec<InvalidationRequest>>,
    responses: Mutex<Vec<PageResponse>>,
}

impl Mailbox {
    pub fn invalidations(&self) -> Vec<InvalidationRequest> {
        core::mem::take(&mut self.invalidations.lock().unwrap())
    }

    pub fn responses(&self) -> Vec<PageResponse> {
        core::mem::take(&mut self.responses.lock().unwrap())
    }
}

impl Port for Mailbox {
    fn invalidate(&self, request: InvalidationRequest) {
        self.invalidations.lock().unwrap().push(request);
    }
    fn respond(&self, response: PageResponse) {
        self.responses.lock().unwrap().push(response);
    }
    fn resume(&self, _: u32, _: bool) {}
    fn step(&self) -> bool {
        false
    }
}
