//! The hardware: registers with their write rules, and a queue that is read by physical address.

use alloc::sync::Arc;
use iommu_core::ids::PhysicalAddress;
use iommu_core::testing::{FakeRegisters, HeapMemory};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub const TE: u32 = 1 << 31;
pub const SRTP: u32 = 1 << 30;
pub const WBF: u32 = 1 << 27;
pub const QIE: u32 = 1 << 26;
pub const IRE: u32 = 1 << 25;
const SIRTP: u32 = 1 << 24;
const ONE_SHOT: u32 = SRTP | 1 << 29 | WBF | SIRTP;

pub const PFO: u32 = 1;
pub const PPF: u32 = 1 << 1;
pub const IQE: u32 = 1 << 4;
pub const ICE: u32 = 1 << 5;
pub const ITE: u32 = 1 << 6;

pub const PPR: u32 = 1;
pub const PRO: u32 = 1 << 1;

/// What the hardware remembers.
#[derive(Default)]
pub struct State {
    pub cap: u64,
    pub ecap: u64,
    pub gsts: u32,
    pub root: u64,
    pub fsts: u32,
    pub fectl: u32,
    pub pmen: u32,
    pub iqercd: u64,
    pub records: Vec<[u64; 2]>,
    /// GCMD bits whose status never changes.
    pub stuck: u32,
    /// The queue takes commands and completes no wait.
    pub silent: bool,
    /// Commands wait until somebody looks at the fault status.
    pub late: bool,
    /// The queue stops at the next descriptor.
    pub reject_next: bool,
    /// The queue stops at the descriptors with these numbers, counted from now on, in front of each.
    pub reject_at: Vec<usize>,
    /// The next device TLB that is to be invalidated does not answer: the waits behind it that were
    /// read are dropped, and the queue stops (6.5.2.10).
    pub lose_answer: bool,
    /// The device TLB of this source-id never answers; and whether IQERCD says so.
    pub silent_device: Option<(u64, bool)>,
    /// How often the write buffer was flushed.
    pub write_buffer_flushes: usize,
    /// The order in which global commands came: the bit, and whether it was set.
    pub commands: Vec<(u32, bool)>,
    /// The page-request queue: status, head, tail and address.
    pub prs: u32,
    pub pqh: u64,
    pub pqt: u64,
    pub pqa: u64,
    pub pectl: u32,
    /// Page requests on their way, which a draining wait brings into the queue.
    pub in_flight: Vec<[u64; 2]>,
    /// The page requests that were answered by the hardware, as the queue was full.
    pub auto_responses: usize,
    rtaddr: u64,
    iqa: u64,
    iqh: u64,
    iqt: u64,
    last_was_wait: bool,
}

pub struct Vtd {
    memory: Arc<HeapMemory>,
    state: Mutex<State>,
}

impl Vtd {
    pub fn new(memory: &Arc<HeapMemory>, cap: u64, ecap: u64) -> Self {
        let records = (cap >> 40 & 0xff) as usize + 1;
        let state = State {
            cap,
            ecap,
            records: vec![[0; 2]; records],
            last_was_wait: true,
            ..State::default()
        };
        Self {
            memory: memory.clone(),
            state: Mutex::new(state),
        }
    }

    /// A failed assertion elsewhere leaves the registers as they are.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn with<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        look(&mut self.lock())
    }
}

impl State {
    /// Firmware's queue, with one descriptor left in it.
    pub fn leave_firmware_on(&mut self) {
        self.gsts = TE | QIE | IRE | SRTP;
        self.fsts = IQE | PFO;
        (self.iqh, self.iqt) = (0x40, 0x40);
        self.pmen = 1 << 31 | 1;
    }

    fn fault_record(&mut self, offset: usize) -> Option<(usize, usize)> {
        let base = (self.cap >> 24 & 0x3ff) as usize * 16;
        let at = offset.checked_sub(base)?;
        (at / 16 < self.records.len()).then_some((at / 16, at % 16))
    }

    /// GCMD: exactly one bit may differ from the state, and no one-shot bit may linger.
    fn global_command(&mut self, value: u32) {
        let held = self.gsts & !ONE_SHOT;
        let changed = value ^ held;
        assert_eq!(changed.count_ones(), 1, "GCMD {value:#x}, GSTS {held:#x}");
        let on = value & changed != 0;
        self.commands.push((changed, on));
        if changed & self.stuck != 0 {
            if changed == WBF {
                self.gsts |= WBF;
            }
            return;
        }
        match (changed, on) {
            (TE, true) => {
                assert!(
                    self.gsts & SRTP != 0 && self.gsts & QIE != 0,
                    "TE too early"
                );
            }
            (QIE, true) => {
                assert_eq!(self.iqt, 0, "the queue starts with a tail");
                assert_eq!(self.iqa >> 11 & 1, 1, "the queue is not 256 bits wide");
                self.iqh = 0;
            }
            (QIE, false) => {
                assert_eq!(self.gsts & TE, 0, "the queue goes before translation");
                if self.iqh != self.iqt || !self.last_was_wait {
                    return;
                }
            }
            (SRTP, true) => {
                assert_eq!(self.rtaddr >> 10 & 3, 1, "the root table is not scalable");
                self.root = self.rtaddr & !0xfff;
            }
            (WBF, true) => {
                self.write_buffer_flushes += 1;
                return;
            }
            (TE | IRE, false) => {}
            _ => panic!("GCMD bit {changed:#x} to {on}"),
        }
        self.gsts = if on {
            self.gsts | changed
        } else {
            self.gsts & !changed
        };
    }

    /// A device's page request comes in, and is recorded unless the queue is full.
    pub fn page_request(&mut self, memory: &HeapMemory, words: [u64; 2]) {
        let bytes = 0x1000 << (self.pqa & 7);
        let next = (self.pqt + 32) % bytes;
        if self.prs & PRO != 0 || next == self.pqh {
            self.prs |= PRO;
            self.auto_responses += (words[1] >> 2 & 1) as usize;
            return;
        }
        let record = (self.pqa & !0xfff) + self.pqt;
        memory.store(PhysicalAddress(record), words[0]);
        memory.store(PhysicalAddress(record + 8), words[1]);
        self.pqt = next;
        self.prs |= PPR;
    }

    fn run_queue(&mut self, memory: &HeapMemory) {
        let (base, slots) = (self.iqa & !0xfff, 128u64 << (self.iqa & 7));
        assert!(
            self.iqt >> 5 < slots && self.iqt & 0x1f == 0,
            "IQT {:#x}",
            self.iqt
        );
        if self.late {
            return;
        }
        let mut lost = false;
        while self.gsts & QIE != 0 && self.fsts & (IQE | ITE) == 0 && self.iqh != self.iqt {
            let word = |index: u64| memory.load(PhysicalAddress(base + self.iqh + 8 * index));
            let words = [word(0), word(1), word(2), word(3)];
            let rejected = self.reject_at.first() == Some(&0);
            if rejected {
                self.reject_at.remove(0);
            }
            if core::mem::take(&mut self.reject_next) || rejected || !is_legal(words) {
                self.fsts |= IQE;
                return;
            }
            let asked = match words[0] & 0xf {
                3 => Some(words[0] >> 32 & 0xffff),
                8 => Some(words[0] >> 16 & 0xffff),
                _ => None,
            };
            if asked.is_some() && core::mem::take(&mut self.lose_answer) {
                lost = true;
            }
            if let Some((silent, named)) = self.silent_device
                && asked == Some(silent)
            {
                lost = true;
                self.iqercd = if named { silent << 32 } else { 0 };
            }
            self.reject_at.iter_mut().for_each(|left| *left -= 1);
            self.last_was_wait = words[0] & 0xf == 5;
            if words[0] & 0x8f == 0x85 {
                assert!(self.ecap >> 42 & 1 != 0, "PD without PDS");
                for request in core::mem::take(&mut self.in_flight) {
                    self.page_request(memory, request);
                }
            }
            if words[0] & 0xf == 5 && words[0] >> 5 & 1 != 0 && !self.silent && !lost {
                memory.store32(PhysicalAddress(words[1]), (words[0] >> 32) as u32);
            }
            self.iqh = (self.iqh + 32) % (slots * 32);
        }
        if lost {
            self.fsts |= ITE;
        }
    }
}

/// The bits of each descriptor that are not reserved. The masks are those that QEMU 11.1 checks
/// (hw/i386/intel_iommu_internal.h, VTD_INV_DESC_*_RSVD*), with PFSID allowed.
fn is_legal(words: [u64; 4]) -> bool {
    let [low, high, third, fourth] = words;
    let granularity = low >> 4 & 3;
    let (reserved_low, reserved_high, sane) = match low & 0xf {
        1 => (0xfffc_0000_0000_ffc0, u64::MAX, granularity != 0),
        2 => (0xffff_ffff_0000_ff00, 0xf80, granularity != 0),
        3 => (0x000f_0000_ffe0_0ff0, 0xffe, true),
        5 => (0xffff_ff00, 3, low >> 4 & 7 != 0),
        6 => (0xfff0_0000_0000_ffc0, 0xf80, granularity >= 2),
        7 => (0xfff0_0000_0000_ffc0, u64::MAX, granularity != 2),
        8 => (0xe00, 0x7fe, true),
        9 => (0xfff0_0000_0000_01e0, 0xffff_ffff_ffff_f003, true),
        _ => return false,
    };
    sane && low & reserved_low == 0 && high & reserved_high == 0 && third == 0 && fourth == 0
}

impl FakeRegisters for Vtd {
    fn read(&self, offset: usize, width: usize) -> u64 {
        let mut state = self.lock();
        match (offset, width) {
            (0x08, 8) => state.cap,
            (0x10, 8) => state.ecap,
            (0x1c, 4) => state.gsts.into(),
            (0x34, 4) => {
                if core::mem::take(&mut state.late) {
                    state.run_queue(&self.memory);
                }
                state.fsts.into()
            }
            (0x64, 4) => state.pmen.into(),
            (0x80, 8) => state.iqh,
            (0x88, 8) => state.iqt,
            (0xb0, 8) => state.iqercd,
            (0xc0, 8) => state.pqh,
            (0xc8, 8) => state.pqt,
            (0xdc, 4) => state.prs.into(),
            (_, 8) => match state.fault_record(offset) {
                Some((index, half @ (0 | 8))) => state.records[index][half / 8],
                _ => panic!("read of {offset:#x}"),
            },
            _ => panic!("read of {width} bytes at {offset:#x}"),
        }
    }

    fn write(&self, offset: usize, width: usize, value: u64) {
        let mut state = self.lock();
        match (offset, width) {
            (0x18, 4) => state.global_command(value as u32),
            (0x20, 8) => state.rtaddr = value,
            (0x34, 4) => {
                state.fsts &= !(value as u32);
                // An error stops the queue only until it is acknowledged.
                if value as u32 & (ITE | IQE) != 0 && state.gsts & QIE != 0 {
                    state.run_queue(&self.memory);
                }
            }
            (0x38, 4) => state.fectl = value as u32,
            (0x64, 4) => state.pmen = value as u32 & 1 << 31 | (value >> 31) as u32,
            (0x88, 8) => {
                state.iqt = value;
                state.run_queue(&self.memory);
            }
            (0xc0, 8) => state.pqh = value,
            (0xc8, 8) => {
                assert_eq!(state.gsts & TE, 0, "PQT is the hardware's");
                state.pqt = value;
            }
            (0xd0, 8) => {
                assert_eq!(state.gsts & TE, 0, "PQA changes under the queue");
                state.pqa = value;
            }
            (0xdc, 4) => {
                let empty = state.pqh == state.pqt;
                assert!(empty || value as u32 & PRO == 0 || state.gsts & TE == 0);
                state.prs &= !(value as u32);
            }
            (0xe0, 4) => state.pectl = value as u32,
            (0x90, 8) => {
                assert_eq!(state.gsts & QIE, 0, "IQA changes under the queue");
                state.iqa = value;
            }
            (_, 4) => match state.fault_record(offset) {
                Some((index, 12)) => {
                    state.records[index][1] &= !(value << 32 & 1 << 63);
                    let pending = state.records.iter().any(|record| record[1] >> 63 != 0);
                    if !pending {
                        state.fsts &= !PPF;
                    }
                }
                _ => panic!("write of {offset:#x}"),
            },
            _ => panic!("write of {width} bytes at {offset:#x}"),
        }
    }
}
