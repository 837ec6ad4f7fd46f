//! A small SMMU for tests: registers with their write rules, and a command queue that it reads from
//! memory with its own decoding. It panics on whatever the specification does not allow.
#![allow(dead_code, reason = "each test binary uses another part")]

extern crate alloc;

pub mod memory;

use alloc::sync::Arc;
use iommu_core::ids::PhysicalAddress;
use iommu_core::platform::Parts;
use iommu_core::testing::{FakeMmio, FakePlatform, FakeRegisters, HeapMemory, Recorder};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// QEMU 11.1.3, `-M virt,iommu=smmuv3`: stage 1 and 2, 16-bit StreamIDs, RIL, no PASID, ATS or MSI.
pub const QEMU: Identity = Identity {
    idr0: 0x0d44_101b,
    idr1: 0x0273_0010,
    idr3: 0x1414,
    idr5: 0x74,
};
/// Everything this driver can use: stage 1, COHACC, BTM, Hyp, ATS, ASID16, MSI, configurable stall,
/// two levels; 16-bit StreamIDs, 20-bit SubstreamIDs, attribute override; RIL; 48-bit OAS.
pub const FULL: Identity = Identity {
    idr0: 0x0840_363a,
    idr1: 0x0a73_0510,
    idr3: 0x400,
    idr5: 0x15,
};
/// The same with stage 2 and 16-bit VMIDs.
pub const NESTING: Identity = Identity {
    idr0: FULL.idr0 | 1 << 18 | 1,
    ..FULL
};

/// The feature registers.
#[derive(Clone, Copy)]
pub struct Identity {
    pub idr0: u32,
    pub idr1: u32,
    pub idr3: u32,
    pub idr5: u32,
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    None,
    GbpaNeverUpdates,
    InterruptsNeverStop,
    /// CR0ACK never shows this value of CR0.
    Cr0Stuck(u32),
    /// No command is consumed.
    QueueHangs,
    /// Commands wait until somebody looks at the errors.
    Late,
    /// No CMD_SYNC sends its message.
    Silent,
    /// The next command with this opcode stops the queue with this CMDQ_CONS.ERR.
    CommandFails(u8, u32),
}

#[derive(Default)]
pub struct State {
    pub cr0: u32,
    pub cr0ack: u32,
    pub cr1: u32,
    pub cr2: u32,
    pub gbpa: u32,
    pub irq_ctrl: u32,
    pub gerror: u32,
    pub gerrorn: u32,
    pub strtab_base: u64,
    pub strtab_base_cfg: u32,
    pub cmdq_base: u64,
    pub cmdq_prod: u32,
    pub cmdq_cons: u32,
    pub eventq_base: u64,
    pub eventq_prod: u32,
    pub eventq_cons: u32,
    /// The queue stops in front of the commands with these numbers, counted from now on.
    pub illegal_at: Vec<usize>,
    /// The device TLB of this StreamID never answers.
    pub silent_device: Option<u32>,
    /// A CMD_ATC_INV went to it since the last CMD_SYNC.
    lost: bool,
    pub priq_base: u64,
    pub priq_prod: u32,
    pub priq_cons: u32,
    /// Page requests on their way, which the next CMD_ATC_INV pushes into the queue.
    pub in_flight: Vec<[u64; 2]>,
    /// Page requests that the SMMU answered, as it could not record them.
    pub auto_responses: usize,
    /// Every value written to CR0.
    pub cr0_history: Vec<u32>,
    /// Register reads since the test last looked.
    pub reads: usize,
}

pub struct Smmu {
    identity: Identity,
    trouble: Mutex<Trouble>,
    memory: Arc<HeapMemory>,
    state: Mutex<State>,
}

pub const SMMUEN: u32 = 1;
pub const PRIQEN: u32 = 1 << 1;
pub const EVENTQEN: u32 = 1 << 2;
pub const CMDQEN: u32 = 1 << 3;
pub const ATSCHK: u32 = 1 << 4;
pub const ABORT: u32 = 1 << 20;

pub type Platform = FakePlatform<Smmu>;

/// A fake with its memory and the recorder of what is sent to it.
pub struct Machine {
    pub smmu: Arc<Smmu>,
    pub memory: Arc<HeapMemory>,
    pub recorder: Arc<Recorder>,
}

impl Machine {
    pub fn new(identity: Identity) -> Self {
        let memory = Arc::new(HeapMemory::new());
        let smmu = Arc::new(Smmu {
            identity,
            trouble: Mutex::new(Trouble::None),
            memory: memory.clone(),
            state: Mutex::new(State {
                gbpa: 0x1000,
                ..State::default()
            }),
        });
        Self {
            smmu,
            memory,
            recorder: Arc::new(Recorder::default()),
        }
    }

    pub fn parts(&self) -> Parts<Platform> {
        Platform::parts(&self.smmu, &self.memory, &self.recorder)
    }

    pub fn mmio(&self) -> FakeMmio<Smmu> {
        FakeMmio(self.smmu.clone())
    }

    pub fn trouble(&self, trouble: Trouble) {
        *self.smmu.trouble.lock().unwrap() = trouble;
    }

    /// Whether nothing is enabled and traffic is aborted.
    pub fn is_off(&self) -> bool {
        let state = self.smmu.state();
        state.cr0 == 0 && state.irq_ctrl == 0 && state.gbpa & ABORT != 0
    }

    /// The address of the stream table entry of `stream`, by a walk of the fake's own.
    pub fn ste(&self, stream: u32) -> Option<u64> {
        let state = self.smmu.state();
        let base = state.strtab_base & 0x00ff_ffff_ffff_ffc0;
        let log2_size = state.strtab_base_cfg & 0x3f;
        if u64::from(stream) >> log2_size != 0 {
            return None;
        }
        if state.strtab_base_cfg >> 16 == 0 {
            return Some(base + u64::from(stream) * 64);
        }
        let split = state.strtab_base_cfg >> 6 & 0x1f;
        let level_1 = self
            .memory
            .load(PhysicalAddress(base + u64::from(stream >> split) * 8));
        let span = level_1 & 0x1f;
        let index = u64::from(stream) & ((1 << split) - 1);
        assert_eq!(
            level_1 & 0xff00_0000_0000_0020,
            0,
            "reserved bits of an L1STD"
        );
        assert!(span <= u64::from(split) + 1, "a leaf larger than the split");
        (span > 0 && index < 1 << (span - 1))
            .then(|| (level_1 & 0x00ff_ffff_ffff_ffc0) + index * 64)
    }

    /// The address of the context descriptor of `substream`.
    pub fn cd(&self, stream: u32, substream: u32) -> u64 {
        let ste = self.words(self.ste(stream).expect("an entry"));
        assert_eq!(ste[0] & 0xf, 0b1011, "a valid stage 1 entry");
        assert!(
            u64::from(substream) < 1 << (ste[0] >> 59),
            "substream {substream} has no descriptor"
        );
        (ste[0] & 0x00ff_ffff_ffff_ffc0) + u64::from(substream) * 64
    }

    /// The eight words of an entry.
    pub fn words(&self, address: u64) -> [u64; 8] {
        core::array::from_fn(|word| self.memory.load(PhysicalAddress(address + word as u64 * 8)))
    }

    /// Takes a page request as the hardware does.
    pub fn page_request(&self, record: [u64; 2]) {
        self.smmu.page_request(&mut self.smmu.state(), record);
    }

    /// Records an event as the hardware does.
    pub fn record(&self, event: [u64; 4]) {
        let mut state = self.smmu.state();
        let log2 = state.eventq_base & 0x1f;
        let slot = u64::from(state.eventq_prod) & ((1 << log2) - 1);
        let base = state.eventq_base & 0x00ff_ffff_ffff_ffe0;
        for (word, value) in event.into_iter().enumerate() {
            self.memory
                .store(PhysicalAddress(base + slot * 32 + word as u64 * 8), value);
        }
        let flag = state.eventq_prod & 1 << 31;
        state.eventq_prod = (state.eventq_prod + 1) & ((2 << log2) - 1) | flag;
    }
}

impl FakeRegisters for Smmu {
    fn read(&self, offset: usize, width: usize) -> u64 {
        assert_eq!(width, 4, "{offset:#x} is read with 32 bits only");
        let mut state = self.state();
        state.reads += 1;
        u64::from(match offset {
            0x00 => self.identity.idr0,
            0x04 => self.identity.idr1,
            0x0c => self.identity.idr3,
            0x14 => self.identity.idr5,
            0x20 => state.cr0,
            0x24 => state.cr0ack,
            0x44 => state.gbpa,
            0x54 if *self.trouble.lock().unwrap() == Trouble::InterruptsNeverStop => 1,
            0x54 => state.irq_ctrl,
            0x60 => {
                let mut trouble = self.trouble.lock().unwrap();
                if *trouble == Trouble::Late {
                    *trouble = Trouble::None;
                    drop(trouble);
                    self.consume(&mut state);
                }
                state.gerror
            }
            0x64 => state.gerrorn,
            0x9c => state.cmdq_cons,
            0x1_00a8 => state.eventq_prod,
            0x1_00ac => state.eventq_cons,
            0x1_00c8 => state.priq_prod,
            _ => panic!("read of {offset:#x}"),
        })
    }

    fn write(&self, offset: usize, width: usize, value: u64) {
        let wide = [0x80, 0x90, 0xa0, 0xc0].contains(&offset);
        assert_eq!(
            width,
            if wide { 8 } else { 4 },
            "width of a write to {offset:#x}"
        );
        let state = &mut *self.state();
        let word = value as u32;
        let only_while = |off: u32| {
            assert_eq!(
                (state.cr0 | state.cr0ack) & off,
                0,
                "{offset:#x} is read-only now"
            )
        };
        match offset {
            0x20 => self.write_cr0(state, word),
            0x28 => {
                only_while(SMMUEN | EVENTQEN | CMDQEN);
                state.cr1 = word;
            }
            0x2c => {
                only_while(SMMUEN);
                state.cr2 = word;
            }
            0x44 => self.write_gbpa(state, word),
            0x50 => state.irq_ctrl = word,
            // Acknowledging an error of the queue restarts it.
            0x64 => {
                state.gerrorn = word;
                if state.cr0 & CMDQEN != 0 {
                    self.consume(state);
                }
            }
            0x80 => {
                only_while(SMMUEN);
                state.strtab_base = value;
            }
            0x88 => {
                only_while(SMMUEN);
                state.strtab_base_cfg = word;
            }
            0x90 => {
                only_while(CMDQEN);
                assert!(
                    value & 0x1f <= u64::from(self.identity.idr1 >> 21 & 0x1f),
                    "CMDQS"
                );
                state.cmdq_base = value;
            }
            0x98 => {
                state.cmdq_prod = word;
                if state.cr0 & CMDQEN != 0 {
                    self.consume(state);
                }
            }
            0x9c => {
                only_while(CMDQEN);
                state.cmdq_cons = word;
            }
            0xa0 => {
                only_while(EVENTQEN);
                assert!(
                    value & 0x1f <= u64::from(self.identity.idr1 >> 16 & 0x1f),
                    "EVENTQS"
                );
                state.eventq_base = value;
            }
            0x1_00a8 => {
                only_while(EVENTQEN);
                state.eventq_prod = word;
            }
            0x1_00ac => state.eventq_cons = word,
            0xc0 => {
                only_while(PRIQEN);
                assert!(
                    value & 0x1f <= u64::from(self.identity.idr1 >> 11 & 0x1f),
                    "PRIQS"
                );
                state.priq_base = value;
            }
            0x1_00c8 => {
                only_while(PRIQEN);
                state.priq_prod = word;
            }
            0x1_00cc => state.priq_cons = word,
            _ => panic!("write of {value:#x} to {offset:#x}"),
        }
    }
}

impl Smmu {
    /// The registers. A test that failed with them in hand does not hinder its clean-up.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_cr0(&self, state: &mut State, value: u32) {
        assert_eq!(value & !0x1f, 0, "reserved bits of CR0");
        let pri = self.identity.idr0 & 1 << 16 != 0;
        assert!(value & PRIQEN == 0 || pri, "PRIQEN without PRI");
        assert!(
            value & ATSCHK == 0 || self.identity.idr0 & 1 << 10 != 0,
            "ATSCHK without ATS"
        );
        if value & SMMUEN == 0 {
            assert!(state.gbpa & ABORT != 0, "traffic would bypass the SMMU");
        }
        state.cr0_history.push(value);
        state.cr0 = value;
        if *self.trouble.lock().unwrap() != Trouble::Cr0Stuck(value) {
            state.cr0ack = value;
        }
    }

    /// 8.1: an overflow discards, and answers the last request of a group.
    fn page_request(&self, state: &mut State, record: [u64; 2]) {
        let log2 = state.priq_base & 0x1f;
        let mask = (2u32 << log2) - 1;
        let full = (state.priq_prod.wrapping_sub(state.priq_cons)) & mask == 1 << log2;
        let overflowed = |state: &State| (state.priq_prod ^ state.priq_cons) >> 31 != 0;
        if full && !overflowed(state) {
            state.priq_prod ^= 1 << 31;
        }
        let aborted = (state.gerror ^ state.gerrorn) >> 3 & 1 != 0;
        if overflowed(state) || aborted || state.cr0 & PRIQEN == 0 {
            let is_stop_marker = record[0] >> 60 & 0b111 == 0b100 && record[0] >> 63 == 1;
            state.auto_responses += usize::from(record[0] >> 62 & 1 == 1 && !is_stop_marker);
            return;
        }
        let slot = u64::from(state.priq_prod) & ((1 << log2) - 1);
        let base = state.priq_base & 0x00ff_ffff_ffff_ffe0;
        for (word, value) in record.into_iter().enumerate() {
            let address = base + slot * 16 + word as u64 * 8;
            self.memory.store(PhysicalAddress(address), value);
        }
        state.priq_prod = (state.priq_prod + 1) & mask | state.priq_prod & 1 << 31;
    }

    fn write_gbpa(&self, state: &mut State, value: u32) {
        assert_eq!(value >> 31, 1, "GBPA is written with Update");
        assert_eq!(state.gbpa >> 31, 0, "an update is under way");
        state.gbpa = value;
        if *self.trouble.lock().unwrap() != Trouble::GbpaNeverUpdates {
            state.gbpa &= !(1 << 31);
        }
    }

    fn consume(&self, state: &mut State) {
        let trouble = *self.trouble.lock().unwrap();
        let log2 = state.cmdq_base & 0x1f;
        let base = state.cmdq_base & 0x00ff_ffff_ffff_ffe0;
        let index_and_wrap = (2u32 << log2) - 1;
        assert_eq!(
            state.cmdq_prod & !index_and_wrap,
            0,
            "bits above the wrap flag"
        );
        assert!(
            base.is_multiple_of(16 << log2),
            "the queue is not aligned to its size"
        );
        while state.cmdq_cons & 0xf_ffff != state.cmdq_prod {
            let waits = matches!(trouble, Trouble::QueueHangs | Trouble::Late);
            if waits || (state.gerror ^ state.gerrorn) & 1 != 0 {
                return;
            }
            let slot = u64::from(state.cmdq_cons) & ((1 << log2) - 1);
            let [low, high] =
                [0, 8].map(|at| self.memory.load(PhysicalAddress(base + slot * 16 + at)));
            let is_illegal = state.illegal_at.first() == Some(&0);
            if is_illegal {
                state.illegal_at.remove(0);
            }
            let error = match trouble {
                _ if is_illegal => 1,
                Trouble::CommandFails(opcode, code) if opcode == low as u8 => {
                    *self.trouble.lock().unwrap() = Trouble::None;
                    code
                }
                _ if low as u8 == 0x46 && core::mem::take(&mut state.lost) => 3,
                _ => u32::from(!self.execute(low, high)),
            };
            state.lost |= low as u8 == 0x40 && state.silent_device == Some((low >> 32) as u32);
            if low as u8 == 0x40 {
                for record in core::mem::take(&mut state.in_flight) {
                    self.page_request(state, record);
                }
            }
            if error != 0 {
                state.cmdq_cons = state.cmdq_cons & 0xf_ffff | error << 24;
                state.gerror ^= 1;
                return;
            }
            state.illegal_at.iter_mut().for_each(|left| *left -= 1);
            state.cmdq_cons = (state.cmdq_cons + 1) & index_and_wrap;
        }
    }

    /// STALL_MODEL is not 0b01.
    fn stalls(&self) -> bool {
        self.identity.idr0 >> 24 & 3 != 1
    }

    /// Whether the command is legal on this SMMU; does what a CMD_SYNC says.
    fn execute(&self, low: u64, high: u64) -> bool {
        let has = |bit: u32| self.identity.idr0 >> bit & 1 == 1;
        let ril = self.identity.idr3 >> 10 & 1 == 1;
        // With stage 2 only, and the upper half only with VMID16.
        let vmid: u64 = match (has(0), has(18)) {
            (false, _) => 0,
            (true, false) => 0xff << 32,
            (true, true) => 0xffff << 32,
        };
        let (low_bits, high_bits, legal) = match low as u8 {
            0x03 => (0xffff_ffff_0000_0000, 1, true),
            0x04 => (0, 0x1f, high == 31),
            0x05 => (0xffff_ffff_ffff_f000, 1, has(1)),
            0x06 => (0xffff_ffff_0000_0000, 0, has(1)),
            0x10 => (vmid, 0, has(1)),
            0x11 => (0xffff_0000_0000_0000 | vmid, 0, has(1)),
            opcode @ (0x12 | 0x13) => {
                let range = low & 0x01f1_f000 != 0;
                let (granule, level) = (high >> 10 & 3, high >> 8 & 3);
                let legal = match granule {
                    0 => !range && level == 0,
                    _ => ril && (range || level != 0),
                };
                let asid = if opcode == 0x12 { 0xffff << 48 } else { 0 };
                (
                    0x01f1_f000 | asid | vmid,
                    0xffff_ffff_ffff_ff01,
                    has(1) && legal,
                )
            }
            0x20 => (0, 0, has(9)),
            0x30 => (0, 0, true),
            0x40 => {
                let substream = low & 1 << 11 != 0 || low & 0xffff_f000 == 0;
                let aligned = high & 0x3f == 52
                    || (high >> 12).trailing_zeros() >= (high & 0x3f) as u32
                    || high >> 12 == 0;
                let global = if low & 1 << 11 != 0 { 1 << 9 } else { 0 };
                (
                    0xffff_ffff_ffff_f800 | global,
                    0xffff_ffff_ffff_f03f,
                    has(10) && substream && aligned && high & 0x3f <= 52,
                )
            }
            0x41 => {
                let substream = low & 1 << 11 != 0 || low & 0xffff_f000 == 0;
                let legal = has(16) && substream && high >> 12 != 3;
                (0xffff_ffff_ffff_f800, 0x31ff, legal)
            }
            0x44 => (0xffff_ffff_0000_3000, 0xffff, self.stalls()),
            0x45 => (0xffff_ffff_0000_0000, 0, self.stalls()),
            0x46 => match low >> 12 & 3 {
                0 => (0, 0, true),
                1 => {
                    assert!(has(13), "a message without MSI");
                    if *self.trouble.lock().unwrap() != Trouble::Silent {
                        self.memory
                            .store32(PhysicalAddress(high), (low >> 32) as u32);
                    }
                    (
                        0xffff_ffff_0fc0_3000,
                        0x00ff_ffff_ffff_fffc,
                        low >> 24 & 0xf == 0xf && low >> 22 & 3 == 3,
                    )
                }
                _ => return false,
            },
            _ => return false,
        };
        assert_eq!(
            low & !(low_bits | 0xff),
            0,
            "reserved bits of {low:#x}:{high:#x}"
        );
        assert_eq!(high & !high_bits, 0, "reserved bits of {low:#x}:{high:#x}");
        legal
    }
}
