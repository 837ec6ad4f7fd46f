//! A RISC-V IOMMU small enough to read: registers with their write rules, a command queue that it
//! reads by physical address and decodes by its own reading of the specification, and a walk of the
//! directories. What it does not know, it panics on.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use iommu_core::error::OutOfMemory;
use iommu_core::ids::PhysicalAddress;
use iommu_core::platform::{DmaBlock, DmaMemory, Parts, Platform};
use iommu_core::testing::{FakeMmio, FakeRegisters, HeapMemory, Recorder, SteppingClock};
use iommu_riscv::{Config, Unit};
use std::sync::{Mutex, MutexGuard};

/// Version 1.0, Sv39 and Sv48, a second stage, MSI_FLAT, ATS, IGS = both, DBG, PAS = 56, PD8.
pub const CAPABILITIES: u64 =
    0x10 | 3 << 9 | 2 << 16 | 1 << 22 | 1 << 25 | 2 << 28 | 1 << 31 | 56 << 32 | 1 << 38;

pub const NO_SECOND_STAGE: u64 = CAPABILITIES & !(0xf << 16);
pub const NL: u64 = 1 << 42;
pub const S: u64 = 1 << 43;
pub const MSI_FLAT: u64 = 1 << 22;
pub const ATS: u64 = 1 << 25;
pub const PD17: u64 = 1 << 39;
pub const PD20: u64 = 1 << 40;

const ON: u64 = 1 << 16;
const BUSY: u64 = 1 << 17;
const DDTP_BUSY: u64 = 1 << 4;
const PPN: u64 = ((1 << 44) - 1) << 10;

/// What the fake does, and what it is asked to do wrong.
#[derive(Clone, Debug)]
pub struct State {
    pub capabilities: u64,
    pub fctl: u32,
    /// The bits of fctl that can be written.
    pub fctl_writable: u32,
    /// Bit n: `ddtp.iommu_mode` n is supported.
    pub modes: u32,
    /// The largest LOG2SZ of cqb and fqb.
    pub log2_queue: u64,
    pub ddtp: u64,
    pub cqb: u64,
    pub cqh: u32,
    pub cqt: u32,
    pub cqcsr: u64,
    pub fqb: u64,
    pub fqh: u32,
    pub fqt: u32,
    pub fqcsr: u64,
    pub pqb: u64,
    pub pqh: u32,
    pub pqt: u32,
    pub pqcsr: u64,
    /// Page requests on their way, which the next `ATS.INVAL` pushes into the queue.
    pub in_flight: Vec<[u64; 2]>,
    /// Page requests that the hardware answered, as it could not record them.
    pub auto_responses: usize,
    pub ipsr: u32,
    pub tr_req_iova: u64,
    pub tr_req_ctl: u64,
    pub tr_response: u64,
    /// How many reads a change takes to finish.
    pub slow: u32,
    /// Which registers are busy, and for how many reads.
    pending: BTreeMap<usize, u32>,
    /// The register at this offset stays busy for ever once it is written.
    pub stuck: Option<usize>,
    /// This register never turns on.
    pub dead: Option<usize>,
    /// The queue stops in front of the commands with these numbers, counted from now on.
    pub illegal_at: Vec<usize>,
    /// The device TLB of this device never answers.
    pub silent_device: Option<u32>,
    /// An ATS.INVAL went to it since the last IOFENCE.C.
    pub lost: bool,
    /// Commands wait until somebody looks at the queue's status.
    pub late: bool,
    /// Commands are fetched and nothing becomes of them.
    pub silent: bool,
    /// Sets this bit of cqcsr at the first command with this opcode and function.
    pub fail: Option<(u64, u64)>,
    pub writes: Vec<(usize, u64)>,
    /// What the directories said of a context when the command that names it came.
    pub seen: Vec<Option<Vec<u64>>>,
}

pub struct Fake {
    pub memory: Arc<Watched>,
    state: Mutex<State>,
}

impl Fake {
    pub fn state(&self) -> MutexGuard<'_, State> {
        match self.state.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    pub fn is_off(&self) -> bool {
        let state = self.state();
        let queues = [state.cqcsr, state.fqcsr, state.pqcsr];
        state.ddtp & 0xf == 0 && queues.iter().all(|csr| csr & (ON | 1) == 0)
    }

    /// A fault record from the hardware.
    pub fn fault(&self, record: [u64; 4]) {
        let mut state = self.state();
        let size = 1 << ((state.fqb & 0x1f) + 1);
        if (state.fqt + 1) % size == state.fqh {
            state.fqcsr |= 1 << 9;
        }
        if state.fqcsr & (ON | 0x300) != ON {
            return;
        }
        let base = (state.fqb & PPN) << 2;
        for (word, value) in record.into_iter().enumerate() {
            let address = base + u64::from(state.fqt) * 32 + word as u64 * 8;
            self.memory.heap.store(PhysicalAddress(address), value);
        }
        state.fqt = (state.fqt + 1) % size;
    }

    /// A page-request message from a device.
    pub fn page_request(&self, record: [u64; 2]) {
        self.record_page_request(&mut self.state(), record);
    }

    fn record_page_request(&self, state: &mut State, record: [u64; 2]) {
        let size = 1 << ((state.pqb & 0x1f) + 1);
        if (state.pqt + 1) % size == state.pqh {
            state.pqcsr |= 1 << 9;
        }
        if state.pqcsr & (ON | 0x300) != ON {
            // LRW = 0b100 is a stop marker, which nobody answers.
            let (last, access) = (record[1] >> 2 & 1, record[1] & 3);
            state.auto_responses +=
                usize::from(last == 1 && (access != 0 || record[0] >> 32 & 1 == 0));
            return;
        }
        let address = ((state.pqb & PPN) << 2) + u64::from(state.pqt) * 16;
        self.memory.heap.store(PhysicalAddress(address), record[0]);
        self.memory
            .heap
            .store(PhysicalAddress(address + 8), record[1]);
        state.pqt = (state.pqt + 1) % size;
    }

    /// The words of a device's context, if the directory leads to one.
    pub fn device_context(&self, device: u32) -> Option<Vec<u64>> {
        self.find_device_context(&self.state(), device)
    }

    /// The words of a process context, if the directories lead to one.
    pub fn process_context(&self, device: u32, pasid: u32) -> Option<Vec<u64>> {
        self.find_process_context(&self.state(), device, pasid)
    }

    fn word(&self, address: u64) -> u64 {
        self.memory.heap.load(PhysicalAddress(address))
    }

    fn words(&self, address: u64, count: u64) -> Vec<u64> {
        (0..count)
            .map(|word| self.word(address + 8 * word))
            .collect()
    }

    /// Follows non-leaf entries: V in bit 0, PPN in 53:10, everything else zero.
    fn follow(&self, mut table: u64, indices: &[u32]) -> Option<u64> {
        for index in indices {
            let entry = self.word(table + 8 * u64::from(*index));
            if entry & 1 == 0 {
                return None;
            }
            assert_eq!(entry & !(PPN | 1), 0, "reserved bits of a non-leaf entry");
            table = (entry & PPN) << 2;
        }
        Some(table)
    }

    fn find_device_context(&self, state: &State, device: u32) -> Option<Vec<u64>> {
        let (leaf, words) = match state.capabilities & MSI_FLAT {
            0 => (7, 4),
            _ => (6, 8),
        };
        let middle = device >> leaf & 0x1ff;
        let top = device >> (leaf + 9);
        let indices = match state.ddtp & 0xf {
            2 => vec![],
            3 => vec![middle],
            4 => vec![top, middle],
            _ => return None,
        };
        let page = self.follow((state.ddtp & PPN) << 2, &indices)?;
        let index = u64::from(device & ((1 << leaf) - 1));
        Some(self.words(page + index * words * 8, words))
    }

    fn find_process_context(&self, state: &State, device: u32, pasid: u32) -> Option<Vec<u64>> {
        let context = self.find_device_context(state, device)?;
        if context[0] & 1 == 0 {
            return None;
        }
        let indices = match context[3] >> 60 {
            1 => vec![],
            2 => vec![pasid >> 8 & 0x1ff],
            3 => vec![pasid >> 17, pasid >> 8 & 0x1ff],
            mode => panic!("pdtp.MODE {mode}"),
        };
        let page = self.follow((context[3] & ((1 << 44) - 1)) << 12, &indices)?;
        Some(self.words(page + u64::from(pasid & 0xff) * 16, 2))
    }

    fn run_commands(&self, state: &mut State) {
        let size = 1u32 << ((state.cqb & 0x1f) + 1);
        while !state.late
            && state.cqcsr & ON != 0
            && state.cqcsr & 0x700 == 0
            && state.cqh != state.cqt
        {
            let address = ((state.cqb & PPN) << 2) + u64::from(state.cqh) * 16;
            let command = [self.word(address), self.word(address + 8)];
            if state.illegal_at.first() == Some(&0) {
                state.illegal_at.remove(0);
                state.cqcsr |= 1 << 10;
                return;
            }
            if let Err(bit) = self.run_command(state, command) {
                state.cqcsr |= bit;
                return;
            }
            state.illegal_at.iter_mut().for_each(|left| *left -= 1);
            state.cqh = (state.cqh + 1) % size;
        }
    }

    /// Carries out one command, or says which error bit it sets.
    fn run_command(&self, state: &mut State, [first, second]: [u64; 2]) -> Result<(), u64> {
        let illegal = 1 << 10;
        let code = first & 0x3ff;
        if let Some((failing, bit)) = state.fail
            && failing == code
        {
            return Err(bit);
        }
        if state.silent {
            return Ok(());
        }
        let bit = |number: u32| first >> number & 1 == 1;
        let pscv_or_pv = bit(32);
        let (device, process) = ((first >> 40) as u32, (first >> 12 & 0xf_ffff) as u32);
        let nl_or_reserved = if state.capabilities & NL != 0 {
            0
        } else {
            1 << 34
        };
        let s_or_reserved = if state.capabilities & S != 0 {
            0
        } else {
            1 << 9
        };
        let reserved = match code & 0x7f {
            1 => {
                first & (1 << 11 | 0x1ff << 35 | 0xf << 60 | nl_or_reserved)
                    | second & (0x1ff | 3 << 62 | s_or_reserved)
            }
            2 => first & 0x3_ffff << 14 | second & 3 << 62,
            3 => first & (3 << 10 | 1 << 32 | 0x3f << 34) | second,
            4 if code >> 7 == 0 => first & (3 << 10 | 0x3f << 34) | second & 0x7fe,
            4 => first & (3 << 10 | 0x3f << 34),
            _ => return Err(illegal),
        };
        if reserved != 0 {
            return Err(illegal);
        }
        match (code & 0x7f, code >> 7) {
            (1, 0) => {}
            (1, 1) if !pscv_or_pv && state.capabilities & 0xf << 16 != 0 => {}
            (2, 0) if core::mem::take(&mut state.lost) => return Err(1 << 9),
            (2, 0) if bit(10) => {
                let word = (first >> 32) as u32;
                self.memory.heap.store32(PhysicalAddress(second << 2), word);
            }
            (2, 0) => {}
            (3, 0) if bit(33) => {
                assert_eq!(process, 0, "PID is reserved");
                let context = self.find_device_context(state, device);
                state.seen.push(context);
            }
            (3, 0) => {}
            (3, 1) if bit(33) => {
                let context = self.find_process_context(state, device, process);
                state.seen.push(context);
            }
            (4, 0) if state.capabilities & ATS != 0 => {
                for record in core::mem::take(&mut state.in_flight) {
                    self.record_page_request(state, record);
                }
                state.lost |= state.silent_device == Some(device & 0xffff);
            }
            // Of the payload, the group index and the response code.
            (4, 1) if state.capabilities & ATS != 0 && second & !0xf1ff_0000_0000 == 0 => {}
            _ => return Err(illegal),
        }
        Ok(())
    }

    /// A queue's control and status register is written: bits 11:8 are cleared by ones.
    fn write_csr(state: &mut State, register: usize, old: u64, value: u64) -> u64 {
        assert_eq!(old & BUSY, 0, "a write while busy at {register}");
        assert_eq!(
            value & !0xf01,
            0,
            "reserved bits, or an interrupt, at {register}"
        );
        let kept = old & 0xf00 & !value;
        let turned_on = old & 1 == 0 && value & 1 == 1;
        let errors = if turned_on { 0 } else { kept };
        let active = value & 1 == 1 && state.dead != Some(register);
        let busy = state.make_busy(register);
        errors | value & 1 | if active { ON } else { 0 } | if busy { BUSY } else { 0 }
    }
}

impl State {
    fn make_busy(&mut self, register: usize) -> bool {
        self.pending.insert(register, self.slow);
        self.stuck == Some(register) || self.slow > 0
    }

    /// A read of a busy register lets time pass.
    fn settle(&mut self, register: usize) {
        let Some(left) = self.pending.get_mut(&register) else {
            return;
        };
        if self.stuck == Some(register) {
            return;
        }
        if *left > 0 {
            *left -= 1;
            return;
        }
        self.pending.remove(&register);
        match register {
            16 => self.ddtp &= !DDTP_BUSY,
            72 => self.cqcsr &= !BUSY,
            76 => self.fqcsr &= !BUSY,
            80 => self.pqcsr &= !BUSY,
            608 => self.tr_req_ctl &= !1,
            _ => {}
        }
    }

    fn write_ddtp(&mut self, value: u64) {
        assert_eq!(self.ddtp & DDTP_BUSY, 0, "ddtp is written while busy");
        assert_eq!(value & !(PPN | 0xf), 0, "reserved bits of ddtp");
        let (old, new) = (self.ddtp & 0xf, value & 0xf);
        if new == 0 {
            assert_eq!(
                self.ddtp & PPN,
                value & PPN,
                "the PPN changes on the way to Off"
            );
        } else {
            assert_eq!(old, 0, "a mode is changed without Off between");
        }
        if self.modes >> new & 1 == 1 {
            self.ddtp = value;
        }
        if self.make_busy(16) {
            self.ddtp |= DDTP_BUSY;
        }
    }

    fn queue_base(&self, value: u64) -> u64 {
        assert_eq!(value & !(PPN | 0x1f), 0, "reserved bits of a queue base");
        value & PPN | (value & 0x1f).min(self.log2_queue - 1)
    }

    fn are_queues_off(&self) -> bool {
        (self.cqcsr | self.fqcsr | self.pqcsr) & (ON | 1) == 0
    }
}

impl FakeRegisters for Fake {
    fn read(&self, offset: usize, width: usize) -> u64 {
        let mut state = self.state();
        if offset == 72 && core::mem::take(&mut state.late) {
            self.run_commands(&mut state);
        }
        let (value, expected_width) = match offset {
            0 => (state.capabilities, 8),
            8 => (state.fctl.into(), 4),
            16 => (state.ddtp, 8),
            24 => (state.cqb, 8),
            32 => (state.cqh.into(), 4),
            40 => (state.fqb, 8),
            52 => (state.fqt.into(), 4),
            56 if state.capabilities & ATS != 0 => (state.pqb, 8),
            68 if state.capabilities & ATS != 0 => (state.pqt.into(), 4),
            72 => (state.cqcsr, 4),
            76 => (state.fqcsr, 4),
            80 if state.capabilities & ATS != 0 => (state.pqcsr, 4),
            608 => (state.tr_req_ctl, 8),
            616 => (state.tr_response, 8),
            _ => panic!("read of {offset}"),
        };
        assert_eq!(width, expected_width, "width of a read of {offset}");
        state.settle(offset);
        value
    }

    fn write(&self, offset: usize, width: usize, value: u64) {
        let mut state = self.state();
        let wide = matches!(offset, 16 | 24 | 40 | 56 | 600 | 608);
        assert_eq!(
            width,
            if wide { 8 } else { 4 },
            "width of a write to {offset}"
        );
        state.writes.push((offset, value));
        match offset {
            8 => {
                assert!(
                    state.ddtp & 0xf == 0 && state.are_queues_off(),
                    "fctl while on"
                );
                let mask = state.fctl_writable;
                state.fctl = state.fctl & !mask | value as u32 & mask;
            }
            16 => state.write_ddtp(value),
            24 => {
                assert_eq!(state.cqcsr & (ON | BUSY), 0, "cqb while on");
                state.cqb = state.queue_base(value);
                state.cqt = 3;
            }
            36 => {
                assert!(
                    value < 2 << (state.cqb & 0x1f),
                    "cqt {value} of a smaller queue"
                );
                state.cqt = value as u32;
                self.run_commands(&mut state);
            }
            40 => {
                assert_eq!(state.fqcsr & (ON | BUSY), 0, "fqb while on");
                state.fqb = state.queue_base(value);
                state.fqh = 5;
            }
            48 => {
                assert!(
                    value < 2 << (state.fqb & 0x1f),
                    "fqh {value} of a smaller queue"
                );
                state.fqh = value as u32;
            }
            72 => {
                let old = state.cqcsr;
                if old & 1 == 0 && value & 1 == 1 {
                    state.cqh = 0;
                }
                state.cqcsr = Self::write_csr(&mut state, 72, old, value);
            }
            76 => {
                let old = state.fqcsr;
                if old & 1 == 0 && value & 1 == 1 {
                    state.fqt = 0;
                }
                state.fqcsr = Self::write_csr(&mut state, 76, old, value);
            }
            56 if state.capabilities & ATS != 0 => {
                assert_eq!(state.pqcsr & (ON | BUSY), 0, "pqb while on");
                state.pqb = state.queue_base(value);
                state.pqh = 5;
            }
            64 if state.capabilities & ATS != 0 => {
                assert!(
                    value < 2 << (state.pqb & 0x1f),
                    "pqh {value} of a smaller queue"
                );
                state.pqh = value as u32;
            }
            80 if state.capabilities & ATS != 0 => {
                let old = state.pqcsr;
                if old & 1 == 0 && value & 1 == 1 {
                    state.pqt = 0;
                }
                state.pqcsr = Self::write_csr(&mut state, 80, old, value);
            }
            84 => state.ipsr &= !(value as u32),
            600 => state.tr_req_iova = value,
            608 => {
                assert_eq!(state.tr_req_ctl & 1, 0, "a request while one is under way");
                state.make_busy(608);
                state.tr_req_ctl = value;
            }
            _ => panic!("write of {value:#x} to {offset}"),
        }
    }
}

/// Heap memory that remembers what each cleaning made visible: the address and the words.
pub struct Watched {
    pub heap: HeapMemory,
    published: Mutex<Vec<(u64, Vec<u64>)>>,
}

impl Watched {
    fn new() -> Self {
        Self {
            heap: HeapMemory::new(),
            published: Mutex::default(),
        }
    }

    pub fn take_published(&self) -> Vec<(u64, Vec<u64>)> {
        core::mem::take(&mut *self.published.lock().unwrap())
    }
}

// SAFETY: every duty is passed on to `HeapMemory`.
unsafe impl DmaMemory for Watched {
    fn allocate(&self, size: usize, align: usize) -> Result<DmaBlock, OutOfMemory> {
        self.heap.allocate(size, align)
    }
    unsafe fn free(&self, block: DmaBlock) {
        // SAFETY: the caller's promise is this method's own.
        unsafe { self.heap.free(block) }
    }
    fn clean(&self, block: &DmaBlock, offset: usize, length: usize) {
        self.heap.clean(block, offset, length);
        let start = (block.physical.0 + offset as u64) & !7;
        let words = (0..length.div_ceil(8) as u64)
            .map(|word| self.heap.load(PhysicalAddress(start + 8 * word)))
            .collect();
        self.published.lock().unwrap().push((start, words));
    }
}

pub struct Rig;

impl Platform for Rig {
    type Mmio = FakeMmio<Fake>;
    type Memory = Arc<Watched>;
    type Clock = SteppingClock;
    type Observer = Arc<Recorder>;
}

/// The fake, its memory and what went to the queue.
pub struct Bench {
    pub fake: Arc<Fake>,
    pub memory: Arc<Watched>,
    pub recorder: Arc<Recorder>,
}

impl Bench {
    /// An IOMMU after reset.
    pub fn new(capabilities: u64) -> Self {
        let memory = Arc::new(Watched::new());
        let state = State {
            capabilities,
            fctl: 0,
            fctl_writable: 7,
            modes: 0b11111,
            log2_queue: 16,
            ddtp: 0,
            cqb: 0,
            cqh: 0,
            cqt: 0,
            cqcsr: 0,
            fqb: 0,
            fqh: 0,
            fqt: 0,
            fqcsr: 0,
            pqb: 0,
            pqh: 0,
            pqt: 0,
            pqcsr: 0,
            in_flight: Vec::new(),
            auto_responses: 0,
            ipsr: 0,
            tr_req_iova: 0,
            tr_req_ctl: 0,
            tr_response: 0,
            slow: 2,
            pending: BTreeMap::new(),
            stuck: None,
            dead: None,
            illegal_at: Vec::new(),
            silent_device: None,
            lost: false,
            late: false,
            silent: false,
            fail: None,
            writes: Vec::new(),
            seen: Vec::new(),
        };
        let fake = Arc::new(Fake {
            memory: memory.clone(),
            state: Mutex::new(state),
        });
        Self {
            fake,
            memory,
            recorder: Arc::default(),
        }
    }

    pub fn parts(&self) -> Parts<Rig> {
        Parts {
            mmio: FakeMmio(self.fake.clone()),
            memory: self.memory.clone(),
            clock: SteppingClock::default(),
            observer: self.recorder.clone(),
        }
    }

    pub fn probe(&self) -> Result<Unit<Rig>, iommu_core::error::ProbeError> {
        Unit::probe(self.parts())
    }

    pub fn probe_with(&self, config: Config) -> Result<Unit<Rig>, iommu_core::error::ProbeError> {
        Unit::probe_with(self.parts(), config)
    }

    /// A unit that is up, with the record of bringing it up thrown away.
    pub fn unit(&self) -> Unit<Rig> {
        let unit = self.probe().expect("everything is there");
        self.forget();
        unit
    }

    pub fn forget(&self) {
        self.recorder.take();
        self.memory.take_published();
        let mut state = self.fake.state();
        state.writes.clear();
        state.seen.clear();
    }
}
