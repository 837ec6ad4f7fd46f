//! The register file (chapter "Memory-mapped register interface").
//!
//! A 64-bit access is made of two 32-bit ones, the high half first, as the text permits. What the
//! text leaves UNSPECIFIED is ignored and complained of
//! ([`take_complaints`](super::RiscvIommu::take_complaints)).

use super::State;
use super::configuration::{Configuration, InterruptGeneration};
use super::tables::table_in_entry;
use super::walk::Purpose;
use crate::bus::{Access, Request};
use crate::random::Random;

/// `cqen`, `fqen`, `pqen`, and `cie`, `fie`, `pie`.
pub(super) const ENABLE: u32 = 1 << 0;
pub(super) const INTERRUPT_ENABLE: u32 = 1 << 1;
/// `cqmf`, `fqmf`, `pqmf`.
pub(super) const MEMORY_FAULT: u32 = 1 << 8;
/// `cqcsr`.
pub(super) const CMD_TO: u32 = 1 << 9;
pub(super) const CMD_ILL: u32 = 1 << 10;
pub(super) const FENCE_W_IP: u32 = 1 << 11;
/// `fqof`, `pqof`.
pub(super) const OVERFLOW: u32 = 1 << 9;
/// `cqon`, `fqon`, `pqon`.
pub(super) const ON: u32 = 1 << 16;
/// Bit 17 of the three, and bit 4 of `ddtp`.
const BUSY: u32 = 1 << 17;
const DDTP_BUSY: u64 = 1 << 4;
/// `fctl.WSI`.
pub(super) const WSI: u32 = 1 << 1;
/// How many steps a write takes to take effect, on average, where nobody says how long it may.
const MOMENTS: u64 = 16;
/// Bits 53:10 of `ddtp` and the queue bases.
const PPN: u64 = ((1 << 44) - 1) << 10;

/// Offsets of `ipsr` bits, and the names of their interrupts.
pub(super) const CIP: (u32, &str) = (1 << 0, "cip");
pub(super) const FIP: (u32, &str) = (1 << 1, "fip");
pub(super) const PIP: (u32, &str) = (1 << 3, "pip");

/// The three queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    Command,
    Fault,
    PageRequest,
}

const QUEUES: [Queue; 3] = [Queue::Command, Queue::Fault, Queue::PageRequest];

/// The registers of one queue.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct QueueRegisters {
    pub base: u64,
    pub head: u32,
    pub tail: u32,
    pub csr: u32,
}

impl QueueRegisters {
    /// Index bits.
    pub fn mask(&self) -> u32 {
        ((1u64 << ((self.base & 0x1f) + 1)) - 1) as u32
    }

    pub fn is_full(&self) -> bool {
        self.tail.wrapping_add(1) & self.mask() == self.head
    }

    /// Where the entry at an index lies; none if the base is not aligned as required.
    pub fn entry(&self, index: u32, entry_size: u64) -> Option<u64> {
        let base = table_in_entry(self.base);
        let size = (u64::from(self.mask()) + 1) * entry_size;
        (size <= 4096 || base.is_multiple_of(size)).then(|| base + u64::from(index) * entry_size)
    }

    /// Whether the queue is on: from when it was turned on to when it is turned off, not to when
    /// software asks for that.
    pub fn is_on(&self) -> bool {
        self.csr & ON != 0
    }
}

/// The register file.
#[derive(Debug)]
pub(super) struct Registers {
    pub fctl: u32,
    pub ddtp: u64,
    queues: [QueueRegisters; 3],
    pub ipsr: u32,
    iova: u64,
    request: u64,
    response: u64,
    icvec: u64,
    msi_table: [u32; 64],
}

impl Registers {
    /// As after a reset. Where the reset value is UNSPECIFIED, anything with `chance`, else 0.
    pub fn new(configuration: &Configuration, chance: Option<&Random>) -> Self {
        let any = || chance.map_or(0, Random::bits);
        let wires = match configuration.interrupts {
            InterruptGeneration::Messages => false,
            InterruptGeneration::Wires => true,
            InterruptGeneration::Both => any() & 1 == 1,
        };
        let mut registers = Self {
            fctl: if wires { WSI } else { 0 },
            // Off or Bare.
            ddtp: any() & (PPN | 1),
            queues: [QueueRegisters::default(); 3],
            ipsr: 0,
            iova: any() & !0xfff,
            request: 0,
            response: 0,
            icvec: 0,
            msi_table: [0; 64],
        };
        for queue in &mut registers.queues {
            queue.base = any() & PPN;
            queue.head = any() as u32 & queue.mask();
            queue.tail = any() as u32 & queue.mask();
            queue.csr = any() as u32 & (MEMORY_FAULT | OVERFLOW);
        }
        registers
    }

    pub fn queue(&self, queue: Queue) -> &QueueRegisters {
        &self.queues[queue as usize]
    }

    pub fn queue_mut(&mut self, queue: Queue) -> &mut QueueRegisters {
        &mut self.queues[queue as usize]
    }
}

/// Whether the text defines an access of `width` bytes there.
///
/// # Panics
///
/// If not.
pub(super) fn expect_defined(offset: usize, width: usize) {
    let defined = match width {
        4 => matches!(offset, 0..628 | 688..1024) && offset.is_multiple_of(4),
        8 => match offset {
            0 | 16 | 24 | 40 | 56 | 600..624 | 760 => offset.is_multiple_of(8),
            96..600 => offset.is_multiple_of(8),
            768..1024 => offset.is_multiple_of(16),
            _ => false,
        },
        _ => false,
    };
    assert!(
        defined,
        "the RISC-V IOMMU specification defines no access of {width} bytes at offset {offset:#x}"
    );
}

const fn half(value: u64, offset: usize) -> u32 {
    (value >> (8 * (offset & 4))) as u32
}

fn set_half(value: &mut u64, offset: usize, to: u32) {
    let shift = 8 * (offset & 4);
    *value = *value & !(0xffff_ffff << shift) | u64::from(to) << shift;
}

impl State {
    /// The levels of the device directory; 0 while the mode is Off or Bare.
    pub(super) fn directory_levels(&self) -> u32 {
        (self.directory_mode() as u32).saturating_sub(1)
    }

    /// `ddtp.iommu_mode`, as it is in effect.
    pub(super) fn directory_mode(&self) -> u64 {
        self.directory & 0xf
    }

    pub(super) fn read_register(&self, offset: usize) -> u32 {
        let registers = &self.registers;
        let [commands, faults, page_requests] = &registers.queues;
        let ats = |value: u32| if self.configuration.ats { value } else { 0 };
        let dbg = |value: u32| if self.configuration.dbg { value } else { 0 };
        match offset {
            0..8 => half(self.configuration.capabilities(), offset),
            8 => registers.fctl,
            16..24 => half(registers.ddtp, offset),
            24..32 => half(commands.base, offset),
            32 => commands.head,
            36 => commands.tail,
            40..48 => half(faults.base, offset),
            48 => faults.head,
            52 => faults.tail,
            56..64 => ats(half(page_requests.base, offset)),
            64 => ats(page_requests.head),
            68 => ats(page_requests.tail),
            72 => commands.csr,
            76 => faults.csr,
            80 => ats(page_requests.csr),
            84 => registers.ipsr,
            600..608 => dbg(half(registers.iova, offset)),
            608..616 => dbg(half(registers.request, offset)),
            616..624 => dbg(half(registers.response, offset)),
            760..768 => half(registers.icvec, offset),
            768..1024 if self.has_messages() => registers.msi_table[(offset - 768) / 4],
            // Not implemented or for custom use.
            _ => 0,
        }
    }

    pub(super) fn write_register(&mut self, offset: usize, value: u32) {
        let (ats, dbg) = (self.configuration.ats, self.configuration.dbg);
        match offset {
            8 => self.write_fctl(value),
            16..24 => self.write_ddtp(offset, value),
            24..32 => self.write_base(Queue::Command, offset, value),
            36 => self.write_index(Queue::Command, value),
            40..48 => self.write_base(Queue::Fault, offset, value),
            48 => self.write_index(Queue::Fault, value),
            56..64 if ats => self.write_base(Queue::PageRequest, offset, value),
            64 if ats => self.write_index(Queue::PageRequest, value),
            72 => self.write_status(Queue::Command, value),
            76 => self.write_status(Queue::Fault, value),
            80 if ats => self.write_status(Queue::PageRequest, value),
            84 => {
                self.registers.ipsr &= !value;
                self.update_interrupts();
            }
            600..624 if dbg => self.write_debug(offset, value),
            760..768 => {
                set_half(&mut self.registers.icvec, offset, value);
                self.registers.icvec &= 0xffff;
            }
            768..1024 if self.has_messages() => self.write_message_table(offset, value),
            _ => {}
        }
    }

    fn has_messages(&self) -> bool {
        self.configuration.interrupts != InterruptGeneration::Wires
    }

    fn write_fctl(&mut self, value: u32) {
        let writable = if self.configuration.interrupts == InterruptGeneration::Both {
            WSI
        } else {
            0
        };
        let new = self.registers.fctl & !writable | value & writable;
        if new == self.registers.fctl {
            return;
        }
        let off = self.directory_mode() == 0 && self.registers.ddtp & 0xf == 0;
        let idle = |queue: &QueueRegisters| queue.csr & (ENABLE | ON) == 0;
        if !off || !self.registers.queues.iter().all(idle) {
            return self.unspecified("fctl was changed while something was on");
        }
        self.registers.fctl = new;
    }

    fn write_ddtp(&mut self, offset: usize, value: u32) {
        if self.registers.ddtp & DDTP_BUSY != 0 {
            return self.unspecified("ddtp was written while busy");
        }
        let old = self.registers.ddtp;
        let mut new = old;
        set_half(&mut new, offset, value);
        new &= PPN | 0xf;
        if offset == 20 {
            self.registers.ddtp = new;
            return;
        }
        let legal = match new & 0xf {
            0 | 1 => true,
            mode @ 2..=4 => self.configuration.directory_levels[mode as usize - 2],
            _ => false,
        };
        if !legal {
            new = new & PPN | old & 0xf;
        }
        match (old & 0xf, new & 0xf) {
            (from, to) if from >= 2 && to >= 2 => {
                return self.unspecified("ddtp.iommu_mode went from one directory to another");
            }
            (from, 1) if from >= 2 => {
                return self.unspecified("ddtp.iommu_mode went from a directory to Bare");
            }
            (from, 0) if from >= 2 && new & PPN != self.directory & PPN => {
                self.unspecified("ddtp.PPN was changed on the way to Off");
            }
            _ => {}
        }
        self.registers.ddtp = new | DDTP_BUSY;
        if !self.policy.later {
            self.finish_directory_switch();
        }
    }

    /// The new mode takes effect; on the way to Off, what was processed before is done.
    fn finish_directory_switch(&mut self) -> bool {
        if self.registers.ddtp & DDTP_BUSY == 0 {
            return false;
        }
        self.registers.ddtp &= !DDTP_BUSY;
        self.directory = self.registers.ddtp;
        if self.directory_mode() == 0 {
            self.drain();
        }
        true
    }

    fn write_base(&mut self, queue: Queue, offset: usize, value: u32) {
        let configuration = &self.configuration;
        let largest = match queue {
            Queue::Command => configuration.log2_commands,
            Queue::Fault => configuration.log2_faults,
            Queue::PageRequest => configuration.log2_page_requests,
        };
        let unspecified_bits = if self.policy.unordered {
            self.random.bits() as u32
        } else {
            0
        };
        let registers = self.registers.queue_mut(queue);
        if registers.csr & (ON | BUSY) != 0 {
            return self.unspecified("a queue base was written while the queue was on or busy");
        }
        set_half(&mut registers.base, offset, value);
        let size = (registers.base & 0x1f).min(u64::from(largest.clamp(1, 32)) - 1);
        registers.base = registers.base & PPN | size;
        let mask = registers.mask();
        let index = match queue {
            Queue::Command => &mut registers.tail,
            Queue::Fault | Queue::PageRequest => &mut registers.head,
        };
        *index = (*index ^ unspecified_bits) & mask;
    }

    fn write_index(&mut self, queue: Queue, value: u32) {
        let registers = self.registers.queue_mut(queue);
        let value = value & registers.mask();
        match queue {
            Queue::Command => {
                registers.tail = value;
                self.ring_doorbell();
            }
            Queue::Fault | Queue::PageRequest => registers.head = value,
        }
    }

    fn write_status(&mut self, queue: Queue, value: u32) {
        let wired = self.registers.fctl & WSI != 0;
        let errors = match queue {
            Queue::Command if wired => MEMORY_FAULT | CMD_TO | CMD_ILL | FENCE_W_IP,
            Queue::Command => MEMORY_FAULT | CMD_TO | CMD_ILL,
            Queue::Fault | Queue::PageRequest => MEMORY_FAULT | OVERFLOW,
        };
        let registers = self.registers.queue_mut(queue);
        if registers.csr & BUSY != 0 {
            return self.unspecified("a queue's status was written while it was busy");
        }
        let enables = registers.csr & ENABLE == 0 && value & ENABLE != 0;
        registers.csr &= !(value & errors | ENABLE | INTERRUPT_ENABLE);
        registers.csr |= value & (ENABLE | INTERRUPT_ENABLE);
        if enables {
            registers.csr &= !errors;
            match queue {
                Queue::Command => registers.head = 0,
                Queue::Fault | Queue::PageRequest => registers.tail = 0,
            }
        }
        registers.csr |= BUSY;
        if !self.policy.later {
            self.finish_queue_switch(queue);
        }
        self.update_interrupts();
    }

    fn finish_queue_switch(&mut self, queue: Queue) -> bool {
        if self.registers.queue(queue).csr & BUSY == 0 {
            return false;
        }
        let off = self.registers.queue(queue).csr & ENABLE == 0;
        match queue {
            Queue::Command if off => self.abort_commands(),
            Queue::Command => {}
            Queue::Fault => self.write_faults_out(),
            Queue::PageRequest => self.handle_page_requests(),
        }
        let registers = self.registers.queue_mut(queue);
        registers.csr &= !(BUSY | ON);
        if !off {
            registers.csr |= ON;
        }
        if queue == Queue::Command {
            self.ring_doorbell();
        }
        true
    }

    /// Lets a write that was accepted take effect, or some time pass before that.
    pub(super) fn finish_switch(&mut self) -> bool {
        let busy = |queue: &QueueRegisters| queue.csr & BUSY != 0;
        let any = self.registers.ddtp & DDTP_BUSY != 0 || self.registers.queues.iter().any(busy);
        if any && self.policy.unordered && !self.random.once_in(MOMENTS) {
            return true;
        }
        self.finish_directory_switch()
            || QUEUES
                .into_iter()
                .any(|queue| self.finish_queue_switch(queue))
    }

    fn write_debug(&mut self, offset: usize, value: u32) {
        let registers = &mut self.registers;
        if registers.request & 1 != 0 {
            return self.unspecified("a debug register was written while busy");
        }
        match offset {
            600 | 604 => {
                set_half(&mut registers.iova, offset, value);
                registers.iova &= !0xfff;
            }
            608 | 612 => {
                set_half(&mut registers.request, offset, value);
                registers.request &= 0xff_ffff << 40 | 1 << 32 | 0xf_ffff << 12 | 0xf;
                let (execute, no_write) = (
                    registers.request >> 2 & 1 == 1,
                    registers.request >> 3 & 1 == 1,
                );
                if registers.request & 1 != 0 && execute && !no_write {
                    self.unspecified("tr_req_ctl asks for execution without NW");
                }
                if !self.policy.later {
                    self.answer_debug_request();
                }
            }
            _ => {}
        }
    }

    /// Translates for `tr_req_ctl` (chapter "Debug support").
    pub(super) fn answer_debug_request(&mut self) -> bool {
        let control = self.registers.request;
        if control & 1 == 0 {
            return false;
        }
        let access = match control >> 2 & 3 {
            0 => Access::Write,
            2 => Access::Read,
            _ => Access::Execute,
        };
        let has_process = control >> 32 & 1 == 1;
        let request = Request {
            device: (control >> 40) as u32,
            pasid: has_process.then_some((control >> 12 & 0xf_ffff) as u32),
            privileged: control >> 1 & 1 == 1,
            address: self.registers.iova,
            access,
        };
        self.registers.response = match self.translate(&request, Purpose::Access) {
            Ok(found) => {
                let base = found.address >> found.order << found.order;
                let (superpage, size) = match found.order {
                    12 => (0, 0),
                    order => (1 << 9, (1 << (order - 13)) - 1),
                };
                ((base >> 12 | size) & (PPN >> 10)) << 10 | superpage | found.pbmt << 7
            }
            Err(fault) => {
                self.report_request(fault, &request, Purpose::Access);
                1
            }
        };
        self.registers.request &= !1;
        true
    }

    fn write_message_table(&mut self, offset: usize, value: u32) {
        let legal = match (offset - 768) % 16 {
            // Addresses are 56 bits wide and a multiple of 4.
            0 => !3,
            4 => 0xff_ffff,
            8 => u32::MAX,
            _ => 1,
        };
        self.registers.msi_table[(offset - 768) / 4] = value & legal;
        self.send_messages();
    }

    /// Sets what the state of the queues demands in `ipsr`.
    pub(super) fn update_interrupts(&mut self) {
        let levels = [
            (
                Queue::Command,
                MEMORY_FAULT | CMD_TO | CMD_ILL | FENCE_W_IP,
                CIP,
            ),
            (Queue::Fault, MEMORY_FAULT | OVERFLOW, FIP),
            (Queue::PageRequest, MEMORY_FAULT | OVERFLOW, PIP),
        ];
        for (queue, causes, bit) in levels {
            if self.registers.queue(queue).csr & causes != 0 {
                self.raise(queue, bit);
            }
        }
    }

    /// Sets a bit of `ipsr`, if the queue's interrupts are enabled.
    pub(super) fn raise(&mut self, queue: Queue, (bit, name): (u32, &'static str)) {
        let enabled = self.registers.queue(queue).csr & INTERRUPT_ENABLE != 0;
        if !enabled || self.registers.ipsr & bit != 0 {
            return;
        }
        self.registers.ipsr |= bit;
        self.interrupts.push(name);
        if self.registers.fctl & WSI == 0 {
            let vector = self.registers.icvec >> (4 * bit.trailing_zeros()) & 0xf;
            self.messages.push(vector as usize);
            self.send_messages();
        }
    }

    /// Sends the messages that wait, but those whose vector is masked.
    fn send_messages(&mut self) {
        let waiting = std::mem::take(&mut self.messages);
        for vector in waiting {
            let entry = &self.registers.msi_table[4 * vector..][..4];
            let [low, high, data, control] = [entry[0], entry[1], entry[2], entry[3]];
            let address = u64::from(high) << 32 | u64::from(low);
            if control & 1 == 1 {
                self.messages.push(vector);
            } else if self.memory.store32(address, data).is_err() {
                self.report_message_failure(address);
            }
        }
    }
}
