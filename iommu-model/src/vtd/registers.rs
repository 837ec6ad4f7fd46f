//! The register file (11.4) and its write rules.

use super::State;
use super::commands::Command;
use super::queues;
use std::collections::VecDeque;

const VER: usize = 0x000;
const CAP: usize = 0x008;
const ECAP: usize = 0x010;
const GCMD: usize = 0x018;
const GSTS: usize = 0x01c;
const RTADDR: usize = 0x020;
const CCMD: usize = 0x028;
const FSTS: usize = 0x034;
const FECTL: usize = 0x038;
const PMEN: usize = 0x064;
const IQH: usize = 0x080;
const IQT: usize = 0x088;
const IQA: usize = 0x090;
const ICS: usize = 0x09c;
const IECTL: usize = 0x0a0;
const IQERCD: usize = 0x0b0;
const PQH: usize = 0x0c0;
const PQT: usize = 0x0c8;
const PQA: usize = 0x0d0;
const PRS: usize = 0x0dc;
const PECTL: usize = 0x0e0;
/// Where ECAP.IRO says that the IOTLB registers are.
pub(super) const IVA: usize = 0x0f0;
const IOTLB: usize = 0x0f8;
/// Where CAP.FRO says that the fault records are.
pub(super) const FRCD: usize = 0x220;

/// 32-bit registers that hold what is written and do nothing here: message addresses and data, and
/// the limits of protected memory.
const PLAIN: [usize; 14] = [
    0x03c, 0x040, 0x044, 0x068, 0x06c, 0x070, 0x074, 0x078, 0x07c, 0x0a4, 0x0a8, 0x0ac, 0x0e4,
    0x0e8,
];
/// The last of them, PEUADDR, and both halves of IRTA.
const PLAIN_TOO: [usize; 3] = [0x0ec, 0x0b8, 0x0bc];

/// Registers of 64 bits.
const WIDE: [usize; 12] = [
    CAP, ECAP, RTADDR, CCMD, IQH, IQT, IQA, IQERCD, PQH, PQT, PQA, IVA,
];

const TRANSLATION: u32 = 1 << 31;
const ROOT: u32 = 1 << 30;
const WRITE_BUFFER: u32 = 1 << 27;
pub(super) const GSTS_QUEUE: u32 = 1 << 26;
const INTERRUPT_REMAPPING: u32 = 1 << 25;
const INTERRUPT_TABLE: u32 = 1 << 24;

const FSTS_PFO: u32 = 1 << 0;
const FSTS_PPF: u32 = 1 << 1;
pub(super) const FSTS_IQE: u32 = 1 << 4;
pub(super) const FSTS_ICE: u32 = 1 << 5;
pub(super) const FSTS_ITE: u32 = 1 << 6;

const MASK: u32 = 1 << 31;
const PENDING: u32 = 1 << 30;

/// What raises interrupts, each with its control register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Fault,
    Invalidation,
    PageRequest,
}

impl Event {
    const fn name(self) -> &'static str {
        match self {
            Self::Fault => "fault event",
            Self::Invalidation => "invalidation event",
            Self::PageRequest => "page request event",
        }
    }
}

/// A change that GSTS, or another register, shows when it is done.
#[derive(Clone, Copy)]
enum Handshake {
    /// These bits of GCMD, and the value of GCMD.
    Global(u32, u32),
    ProtectedMemory(u32),
    Context,
    Iotlb,
}

/// The registers, and what stands behind them.
pub(super) struct Registers {
    /// GSTS.
    pub status: u32,
    handshakes: VecDeque<Handshake>,
    /// RTADDR as written.
    root_address: u64,
    /// RTADDR as the last Set Root Table Pointer took it.
    pub root: u64,
    /// FSTS without PPF and FRI, which the records say.
    pub fault_status: u32,
    pub records: Vec<[u64; 2]>,
    /// The record that the next fault is written to, and the one that PPF stands for.
    pub next_record: usize,
    pub first_record: usize,
    control: [u32; 3],
    protected_memory: u32,
    pub iqa: u64,
    /// IQH and IQT as offsets in bytes.
    pub iqh: u64,
    pub iqt: u64,
    /// IQERCD.
    pub queue_error: u64,
    /// ICS.IWC.
    pub invalidation_complete: bool,
    pub pqa: u64,
    pub pqh: u64,
    pub pqt: u64,
    /// PRS.
    pub page_requests: u32,
    context_command: u64,
    iotlb_address: u64,
    iotlb_command: u64,
    plain: std::collections::BTreeMap<usize, u32>,
}

impl Registers {
    pub fn new(fault_records: usize) -> Self {
        Self {
            status: 0,
            handshakes: VecDeque::new(),
            root_address: 0,
            root: 0,
            fault_status: 0,
            records: vec![[0; 2]; fault_records],
            next_record: 0,
            first_record: 0,
            control: [MASK; 3],
            protected_memory: 0,
            iqa: 0,
            iqh: 0,
            iqt: 0,
            queue_error: 0,
            invalidation_complete: false,
            pqa: 0,
            pqh: 0,
            pqt: 0,
            page_requests: 0,
            context_command: 0,
            iotlb_address: 0,
            iotlb_command: 0,
            plain: PLAIN
                .into_iter()
                .chain(PLAIN_TOO)
                .map(|offset| (offset, 0))
                .collect(),
        }
    }

    /// IQA.DW.
    pub const fn wide_descriptors(&self) -> bool {
        self.iqa >> 11 & 1 != 0
    }

    /// GSTS.TES.
    pub const fn translates(&self) -> bool {
        self.status & TRANSLATION != 0
    }

    /// Whether the command that comes next turns the queue off.
    pub fn queue_goes_off(&self) -> bool {
        let next = self.handshakes.front();
        matches!(next, Some(&Handshake::Global(changes, value))
            if changes & !value & GSTS_QUEUE != 0)
    }

    fn fault_status(&self) -> u32 {
        let pending = self.records.iter().any(|record| record[1] >> 63 != 0);
        if pending {
            self.fault_status | FSTS_PPF | (self.first_record as u32) << 8
        } else {
            self.fault_status
        }
    }

    /// Whether software has not yet dealt with what the event stands for.
    fn is_raised(&self, event: Event) -> bool {
        match event {
            Event::Fault => {
                self.fault_status() & (FSTS_PFO | FSTS_PPF | FSTS_IQE | FSTS_ICE | FSTS_ITE) != 0
            }
            Event::Invalidation => self.invalidation_complete,
            Event::PageRequest => self.page_requests != 0,
        }
    }
}

impl State {
    pub(super) fn read_register(&self, offset: usize, width: usize) -> u64 {
        match width {
            4 => self.read32(offset).into(),
            8 => {
                let (low, high) = (self.read32(offset), self.read32(offset + 4));
                u64::from(low) | u64::from(high) << 32
            }
            _ => panic!("no register is read {width} bytes at a time"),
        }
    }

    fn read32(&self, offset: usize) -> u32 {
        let registers = &self.registers;
        let control = |event: Event| registers.control[event as usize];
        let (wide, shift) = (offset & !7, 8 * (offset & 4));
        let half = |value: u64| (value >> shift) as u32;
        match offset {
            VER => 0x60,
            0x004 | GCMD => 0,
            GSTS => registers.status,
            FSTS => registers.fault_status(),
            FECTL => control(Event::Fault),
            PMEN => registers.protected_memory,
            ICS => registers.invalidation_complete.into(),
            IECTL => control(Event::Invalidation),
            PRS => registers.page_requests,
            PECTL => control(Event::PageRequest),
            _ if registers.plain.contains_key(&offset) => registers.plain[&offset],
            _ => match wide {
                CAP => half(self.configuration.capability()),
                ECAP => half(self.configuration.extended_capability()),
                RTADDR => half(registers.root_address),
                CCMD => half(registers.context_command),
                IQH => half(registers.iqh),
                IQT => half(registers.iqt),
                IQA => half(registers.iqa),
                IQERCD => half(registers.queue_error),
                PQH => half(registers.pqh),
                PQT => half(registers.pqt),
                PQA => half(registers.pqa),
                IVA => half(registers.iotlb_address),
                IOTLB => half(registers.iotlb_command),
                _ => match self.record_word(wide) {
                    Some((record, word)) => half(registers.records[record][word]),
                    None => panic!("no register is defined at offset {offset:#x}"),
                },
            },
        }
    }

    /// The fault record, and the word in it, at an offset.
    fn record_word(&self, offset: usize) -> Option<(usize, usize)> {
        let word = offset.checked_sub(FRCD)? / 8;
        (word / 2 < self.registers.records.len()).then_some((word / 2, word % 2))
    }

    pub(super) fn write_register(&mut self, offset: usize, width: usize, value: u64) {
        let is_wide = WIDE.contains(&(offset & !7)) || offset & !7 == IOTLB;
        match width {
            4 if is_wide => {
                // The other half keeps what it holds.
                let shift = 8 * (offset & 4);
                let old = self.read_register(offset & !7, 8) & !(0xffff_ffff << shift);
                self.write64(offset & !7, old | (value & 0xffff_ffff) << shift);
            }
            4 => self.write32(offset, value as u32),
            8 if is_wide => self.write64(offset, value),
            8 => {
                self.write32(offset, value as u32);
                self.write32(offset + 4, (value >> 32) as u32);
            }
            _ => panic!("no register is written {width} bytes at a time"),
        }
        if !self.policy.later {
            while self.work() {}
        }
    }

    fn write32(&mut self, offset: usize, value: u32) {
        match offset {
            VER | 0x004 | GSTS => {}
            GCMD => self.write_global(value),
            FSTS => {
                let cleared = value & (FSTS_PFO | FSTS_IQE | FSTS_ICE | FSTS_ITE);
                let was = self.registers.fault_status;
                self.registers.fault_status &= !cleared;
                if was & cleared & (FSTS_IQE | FSTS_ITE) != 0 {
                    self.queue_acknowledged();
                }
                self.settle_event(Event::Fault);
            }
            FECTL => self.write_control(Event::Fault, value),
            PMEN => {
                let offered = self.configuration.protected_memory;
                if offered {
                    let handshake = Handshake::ProtectedMemory(value & MASK);
                    self.registers.handshakes.push_back(handshake);
                }
            }
            ICS => {
                self.registers.invalidation_complete &= value & 1 == 0;
                self.settle_event(Event::Invalidation);
            }
            IECTL => self.write_control(Event::Invalidation, value),
            PRS => {
                self.registers.page_requests &= !(value & 0b11);
                self.settle_event(Event::PageRequest);
            }
            PECTL => self.write_control(Event::PageRequest, value),
            _ => {
                if let Some(plain) = self.registers.plain.get_mut(&offset) {
                    *plain = value;
                    return;
                }
                match self.record_word(offset & !7) {
                    // F is the only bit of a record that can be written.
                    Some((record, 1)) if offset & 4 != 0 && value >> 31 != 0 => {
                        self.free_record(record);
                    }
                    Some(_) => {}
                    None => panic!("no register is defined at offset {offset:#x}"),
                }
            }
        }
    }

    fn write64(&mut self, offset: usize, value: u64) {
        match offset {
            RTADDR => self.registers.root_address = value & !0x3ff,
            CCMD => {
                self.registers.context_command = value;
                self.register_command(value, Handshake::Context);
            }
            IQT => {
                self.registers.iqt = value & 0x7_fff0;
                self.ring_doorbell();
            }
            IQA if self.registers.status & GSTS_QUEUE != 0 => {
                self.complain("IQA is written while the queue is on");
            }
            IQA => self.registers.iqa = value & (PAGE_AND_SIZE | 1 << 11),
            PQH => self.registers.pqh = value & 0x7_ffe0,
            PQT => self.registers.pqt = value & 0x7_ffe0,
            PQA => self.registers.pqa = value & PAGE_AND_SIZE,
            IVA => self.registers.iotlb_address = value,
            IOTLB => {
                self.registers.iotlb_command = value;
                self.register_command(value, Handshake::Iotlb);
            }
            // CAP, ECAP, IQH and IQERCD are read-only.
            _ => {}
        }
    }

    /// An invalidation by registers, whose bit 63 starts it.
    fn register_command(&mut self, value: u64, handshake: Handshake) {
        if value >> 63 == 0 {
            return;
        }
        if self.registers.status & GSTS_QUEUE != 0 {
            return self.complain("an invalidation by registers while the queue is on");
        }
        self.registers.handshakes.push_back(handshake);
    }

    /// 11.4.4.1: one command at a time; status bits follow.
    fn write_global(&mut self, value: u32) {
        let states = TRANSLATION | GSTS_QUEUE | self.interrupt_remapping_states();
        let mut changes = (value ^ self.registers.status) & states;
        let one_shots = ROOT | WRITE_BUFFER | self.interrupt_table();
        changes |= value & one_shots;
        let is_pending = |handshake: &Handshake| matches!(handshake, Handshake::Global(..));
        if self.registers.handshakes.iter().any(is_pending) {
            self.complain("GCMD is written before GSTS shows the command before");
        }
        if changes.count_ones() > 1 {
            self.complain("GCMD changes several things at once");
        }
        if changes & ROOT != 0 {
            self.registers.status &= !ROOT;
        }
        if changes & WRITE_BUFFER != 0 {
            self.registers.status |= WRITE_BUFFER;
        }
        let handshake = Handshake::Global(changes, value);
        self.registers.handshakes.push_back(handshake);
    }

    const fn interrupt_remapping_states(&self) -> u32 {
        if self.configuration.interrupt_remapping {
            INTERRUPT_REMAPPING
        } else {
            0
        }
    }

    const fn interrupt_table(&self) -> u32 {
        if self.configuration.interrupt_remapping {
            INTERRUPT_TABLE
        } else {
            0
        }
    }

    /// Ends one handshake; false if there was none that can end now.
    pub(super) fn work_on_registers(&mut self) -> bool {
        let Some(handshake) = self.registers.handshakes.front().copied() else {
            return false;
        };
        match handshake {
            Handshake::Global(changes, value) => {
                // What was fetched is completed first; what was not is never looked at.
                if self.registers.queue_goes_off() && self.has_pending_descriptors() {
                    return false;
                }
                self.finish_global(changes, value);
            }
            Handshake::ProtectedMemory(enable) => {
                self.registers.protected_memory = enable | enable >> 31;
            }
            Handshake::Context => self.finish_context_command(),
            Handshake::Iotlb => self.finish_iotlb_command(),
        }
        self.registers.handshakes.pop_front();
        true
    }

    fn finish_global(&mut self, changes: u32, value: u32) {
        let registers = &mut self.registers;
        let states = changes & !(ROOT | WRITE_BUFFER | INTERRUPT_TABLE);
        registers.status = registers.status & !states | value & states;
        registers.status |= changes & (ROOT | INTERRUPT_TABLE);
        registers.status &= !(changes & WRITE_BUFFER);
        if changes & WRITE_BUFFER != 0 {
            self.memory.clean_blocks();
        }
        if changes & ROOT != 0 {
            registers.root = registers.root_address;
            if self.configuration.root_table_invalidates {
                self.caches.forget_everything();
            }
        }
        if states & GSTS_QUEUE != 0 {
            self.registers.iqh = 0;
            if value & GSTS_QUEUE == 0 {
                self.queue = queues::Queue::default();
            }
        }
    }

    /// CCMD (11.4.6.1): CIRG in bits 62:61, FM in 33:32, SID in 31:16, DID in 15:0.
    fn finish_context_command(&mut self) {
        let command = self.registers.context_command;
        let granularity = command >> 61 & 0b11;
        let source_id = command >> 16 & 0xffff;
        let descriptor = 1 | granularity << 4 | source_id << 32 | (command >> 32 & 0b11) << 48;
        let done = self.execute_descriptor([descriptor, 0, 0, 0]);
        let actual = if done { granularity << 59 } else { 0 };
        self.registers.context_command = command & !(1 << 63 | 0b11 << 59) | actual;
    }

    /// IOTLB_REG (11.4.6.2): IIRG in bits 61:60, DR in 49, DW in 48, DID in 47:32.
    fn finish_iotlb_command(&mut self) {
        let command = self.registers.iotlb_command;
        let granularity = command >> 60 & 0b11;
        let drain = (command >> 48 & 0b11) << 6;
        let descriptor = 2 | granularity << 4 | drain | (command >> 32 & 0xffff) << 16;
        let done = self.execute_descriptor([descriptor, self.registers.iotlb_address, 0, 0]);
        let actual = if done { granularity << 57 } else { 0 };
        self.registers.iotlb_command = command & !(1 << 63 | 0b11 << 57) | actual;
    }

    fn execute_descriptor(&mut self, words: [u64; 4]) -> bool {
        let command = Command::decode(words, true, &self.configuration);
        command.map(|command| self.invalidate(command)).is_ok()
    }

    /// Sets flags of FSTS. One interrupt stands for all that come before software has dealt with
    /// the first.
    pub(super) fn raise_fault_status(&mut self, flags: u32) {
        let was = self.registers.is_raised(Event::Fault);
        self.registers.fault_status |= flags;
        if !was {
            self.raise(Event::Fault);
        }
    }

    /// Lets an interrupt out, or notes it while it is masked.
    pub(super) fn raise(&mut self, event: Event) {
        let control = &mut self.registers.control[event as usize];
        if *control & MASK != 0 {
            *control |= PENDING;
        } else {
            self.interrupts.push(event.name());
        }
    }

    fn write_control(&mut self, event: Event, value: u32) {
        let control = &mut self.registers.control[event as usize];
        let pending = *control & PENDING != 0;
        *control = value & MASK | *control & PENDING;
        if pending && value & MASK == 0 {
            *control &= !PENDING;
            self.interrupts.push(event.name());
        }
    }

    /// An interrupt that waits behind its mask is gone when software has dealt with its cause.
    fn settle_event(&mut self, event: Event) {
        if !self.registers.is_raised(event) {
            self.registers.control[event as usize] &= !PENDING;
        }
    }

    /// Writes a fault record (7.2.1), or notes that it is lost.
    pub(super) fn record_fault(&mut self, record: [u64; 2]) {
        if self.registers.fault_status & FSTS_PFO != 0 {
            return;
        }
        let next = self.registers.next_record;
        if self.registers.records[next][1] >> 63 != 0 {
            return self.raise_fault_status(FSTS_PFO);
        }
        let was = self.registers.is_raised(Event::Fault);
        if self.registers.fault_status() & FSTS_PPF == 0 {
            self.registers.first_record = next;
        }
        self.registers.records[next] = [record[0], record[1] | 1 << 63];
        self.registers.next_record = (next + 1) % self.registers.records.len();
        if !was {
            self.raise(Event::Fault);
        }
    }

    fn free_record(&mut self, record: usize) {
        self.registers.records[record][1] &= !(1 << 63);
        self.settle_event(Event::Fault);
    }
}

/// Bits 63:12, and a size in bits 2:0.
const PAGE_AND_SIZE: u64 = !0xff8;
