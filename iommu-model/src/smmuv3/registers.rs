//! The register file: what each write may change, and when (6.2, 6.3).
//!
//! A field of CR0 and IRQ_CTRL takes effect when its acknowledge register follows, which
//! [`Registers::update`] lets happen; everything in the model reads the acknowledged value.

use super::configuration::Configuration;

/// Bits of SMMU_CR0 and SMMU_CR0ACK (6.3.9).
pub mod cr0 {
    pub const SMMUEN: u32 = 1 << 0;
    pub const PRIQEN: u32 = 1 << 1;
    pub const EVENTQEN: u32 = 1 << 2;
    pub const CMDQEN: u32 = 1 << 3;
    pub const ATSCHK: u32 = 1 << 4;
}

/// Bits of SMMU_CR2 (6.3.12).
pub mod cr2 {
    pub const E2H: u32 = 1 << 0;
    pub const RECINVSID: u32 = 1 << 1;
    pub const PTM: u32 = 1 << 2;
}

/// Bits of SMMU_GBPA (6.3.14).
pub mod gbpa {
    pub const ABORT: u32 = 1 << 20;
    pub const UPDATE: u32 = 1 << 31;
    /// All fields: memory attributes, ALLOCCFG, SHCFG, PRIVCFG, INSTCFG, ABORT.
    pub const FIELDS: u32 = 0x001f_3f1f;
}

/// Bits of SMMU_IRQ_CTRL and SMMU_IRQ_CTRLACK (6.3.16).
pub mod irq {
    pub const GERROR: u32 = 1 << 0;
    pub const PRIQ: u32 = 1 << 1;
    pub const EVENTQ: u32 = 1 << 2;
}

/// Bits of SMMU_GERROR and SMMU_GERRORN (6.3.19).
pub mod gerror {
    pub const CMDQ: u32 = 1 << 0;
    pub const EVENTQ_ABT: u32 = 1 << 2;
    pub const PRIQ_ABT: u32 = 1 << 3;
    pub const MSI_CMDQ_ABT: u32 = 1 << 4;
    pub const MSI_EVENTQ_ABT: u32 = 1 << 5;
    pub const MSI_PRIQ_ABT: u32 = 1 << 6;
    pub const MSI_GERROR_ABT: u32 = 1 << 7;
    pub const ALL: u32 = 0xfd;
}

/// Bit 31 of the event and page-request queues' registers: OVFLG and OVACKFLG.
pub const OVERFLOW: u32 = 1 << 31;

/// Where and what a message-signalled interrupt writes: the IRQ_CFG registers of one source.
#[derive(Clone, Copy, Debug, Default)]
pub struct Message {
    pub address: u64,
    pub data: u32,
    pub attributes: u32,
}

/// The base, producer and consumer of one queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueueRegisters {
    pub base: u64,
    pub producer: u32,
    pub consumer: u32,
}

/// Every register that is not fixed.
#[derive(Clone, Debug, Default)]
pub struct Registers {
    identification: [u32; 6],
    architecture: u32,
    writable_cr0: u32,
    writable_cr2: u32,
    writable_irq_ctrl: u32,
    cr0: u32,
    /// SMMU_CR0ACK: the values in effect.
    pub cr0ack: u32,
    cr1: u32,
    pub cr2: u32,
    /// The attributes in effect.
    pub gbpa: u32,
    /// Attributes that were written and are not in effect yet: UPDATE reads as 1.
    gbpa_written: Option<u32>,
    irq_ctrl: u32,
    /// SMMU_IRQ_CTRLACK: the values in effect.
    pub irq_ctrlack: u32,
    pub gerror: u32,
    pub gerrorn: u32,
    pub gerror_message: Message,
    pub stream_table: u64,
    pub stream_table_config: u32,
    pub commands: QueueRegisters,
    pub events: QueueRegisters,
    pub events_message: Message,
    pub page_requests: QueueRegisters,
    pub page_requests_message: Message,
}

/// A field that changed its value in effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updated {
    /// Bits of CR0 that are 1 now.
    Enabled(u32),
    /// Bits of CR0 that are 0 now.
    Disabled(u32),
    /// Something whose change has no side effect in the model.
    Other,
}

/// A register, as its offset names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// 32 bits.
    Word,
    /// The low half of a 64-bit register.
    Low,
    /// The high half of one.
    High,
    /// Not implemented in this configuration, or an alias that reads as zero (6.2).
    Zero,
}

impl Registers {
    /// The registers after reset. GBPA lets transactions pass.
    pub fn new(configuration: &Configuration, coherent: bool) -> Self {
        let when = |set: bool, bits: u32| if set { bits } else { 0 };
        Self {
            identification: configuration.identification(coherent),
            architecture: configuration.architecture(),
            writable_cr0: cr0::SMMUEN
                | cr0::EVENTQEN
                | cr0::CMDQEN
                | when(configuration.pri, cr0::PRIQEN)
                | when(configuration.ats, cr0::ATSCHK),
            writable_cr2: cr2::RECINVSID
                | when(configuration.hypervisor, cr2::E2H)
                | when(configuration.broadcast_maintenance, cr2::PTM),
            writable_irq_ctrl: irq::GERROR | irq::EVENTQ | when(configuration.pri, irq::PRIQ),
            // SHCFG: use incoming.
            gbpa: 0b01 << 12,
            ..Self::default()
        }
    }

    /// Whether a bit of CR0 is in effect.
    pub fn enabled(&self, bits: u32) -> bool {
        self.cr0ack & bits == bits
    }

    /// Whether a bit of CR0 is 0 and stays so.
    fn off(&self, bit: u32) -> bool {
        (self.cr0 | self.cr0ack) & bit == 0
    }

    /// Whether the interrupt of a source is disabled and stays so, and its message may be changed.
    fn irq_off(&self, bit: u32) -> bool {
        (self.irq_ctrl | self.irq_ctrlack) & bit == 0
    }

    /// Whether the global error `bit` is active.
    pub fn error_active(&self, bit: u32) -> bool {
        (self.gerror ^ self.gerrorn) & bit != 0
    }

    /// What kind of register lies at `offset`.
    ///
    /// # Panics
    ///
    /// If the specification defines none there.
    fn place(&self, offset: usize) -> Place {
        let messages = self.identification[0] & 1 << 13 != 0;
        let requests = self.identification[0] & 1 << 16 != 0;
        let place = match offset {
            0x00..=0x2c | 0x40 | 0x44 | 0x48 | 0x50 | 0x54 | 0x60 | 0x64 => Place::Word,
            0x88 | 0x98 | 0x9c | 0x1_00a8 | 0x1_00ac => Place::Word,
            0x80 | 0x90 | 0xa0 => Place::Low,
            0x84 | 0x94 | 0xa4 => Place::High,
            0x68 | 0xb0 if messages => Place::Low,
            0x6c | 0xb4 if messages => Place::High,
            0x70 | 0x74 | 0xb8 | 0xbc if messages => Place::Word,
            0xc0 if requests => Place::Low,
            0xc4 if requests => Place::High,
            0x1_00c8 | 0x1_00cc if requests => Place::Word,
            0xd0 if requests && messages => Place::Low,
            0xd4 if requests && messages => Place::High,
            0xd8 | 0xdc if requests && messages => Place::Word,
            0x68..=0x74 | 0xa8..=0xdc | 0x1_00c8 | 0x1_00cc => Place::Zero,
            _ => panic!("SMMUv3 defines no register that this model has at offset {offset:#x}"),
        };
        assert!(
            offset.is_multiple_of(4),
            "unaligned register access at {offset:#x}"
        );
        place
    }

    /// A read of `width` bytes. 64 bits of two 32-bit registers read as zero, which 6.2 permits.
    pub fn read(&self, offset: usize, width: usize) -> u64 {
        match (width, self.place(offset)) {
            (4, Place::Zero) => 0,
            (4, _) => self.read_word(offset).into(),
            (8, Place::Low) => {
                u64::from(self.read_word(offset)) | u64::from(self.read_word(offset + 4)) << 32
            }
            (8, _) => 0,
            _ => panic!("a register access of {width} bytes at {offset:#x}"),
        }
    }

    /// A write of `width` bytes; a complaint if its effect is UNPREDICTABLE. 64 bits to two 32-bit
    /// registers are ignored, which 6.2 permits.
    pub fn write(&mut self, offset: usize, width: usize, value: u64) -> Option<&'static str> {
        match (width, self.place(offset)) {
            (4, Place::Zero) => None,
            (4, _) => self.write_word(offset, value as u32),
            (8, Place::Low) => {
                let low = self.write_word(offset, value as u32);
                low.or(self.write_word(offset + 4, (value >> 32) as u32))
            }
            (8, _) => Some("two 32-bit registers are written at once"),
            _ => panic!("a register access of {width} bytes at {offset:#x}"),
        }
    }

    fn read_word(&self, offset: usize) -> u32 {
        let half = |value: u64| (value >> (8 * (offset & 4))) as u32;
        match offset {
            0x00..=0x14 => self.identification[offset / 4],
            0x1c => self.architecture,
            0x20 => self.cr0,
            0x24 => self.cr0ack,
            0x28 => self.cr1,
            0x2c => self.cr2,
            0x44 => match self.gbpa_written {
                Some(written) => written | gbpa::UPDATE,
                None => self.gbpa,
            },
            0x50 => self.irq_ctrl,
            0x54 => self.irq_ctrlack,
            0x60 => self.gerror,
            0x64 => self.gerrorn,
            0x68 | 0x6c => half(self.gerror_message.address),
            0x70 => self.gerror_message.data,
            0x74 => self.gerror_message.attributes,
            0x80 | 0x84 => half(self.stream_table),
            0x88 => self.stream_table_config,
            0x90 | 0x94 => half(self.commands.base),
            0x98 => self.commands.producer,
            0x9c => self.commands.consumer,
            0xa0 | 0xa4 => half(self.events.base),
            0x1_00a8 => self.events.producer,
            0x1_00ac => self.events.consumer,
            0xb0 | 0xb4 => half(self.events_message.address),
            0xb8 => self.events_message.data,
            0xbc => self.events_message.attributes,
            0xc0 | 0xc4 => half(self.page_requests.base),
            0x1_00c8 => self.page_requests.producer,
            0x1_00cc => self.page_requests.consumer,
            0xd0 | 0xd4 => half(self.page_requests_message.address),
            0xd8 => self.page_requests_message.data,
            0xdc => self.page_requests_message.attributes,
            // IIDR, STATUSR and AGBPA: nothing of what they tell is modelled.
            _ => 0,
        }
    }

    /// Writes that a guard forbids are ignored, as from SMMUv3.2 on.
    fn write_word(&mut self, offset: usize, value: u32) -> Option<&'static str> {
        const BASE: u64 = 0x40ff_ffff_ffff_ffff;
        const MESSAGE: u64 = 0x00ff_ffff_ffff_fffc;
        const INDEX: u32 = 0x000f_ffff;
        let set_half = |register: &mut u64, mask: u64| {
            let shift = 8 * (offset & 4);
            *register = (*register & !(0xffff_ffff << shift) | u64::from(value) << shift) & mask;
        };
        match offset {
            0x20 => {
                let moving = self.cr0 ^ self.cr0ack;
                if (value ^ self.cr0) & moving != 0 {
                    return Some("a field of CR0 is changed before CR0ACK follows");
                }
                self.cr0 = self.cr0 & moving | value & self.writable_cr0 & !moving;
            }
            0x28 => self.write_cr1(value),
            0x2c if self.off(cr0::SMMUEN) => self.cr2 = value & self.writable_cr2,
            0x44 if value & gbpa::UPDATE != 0 && self.gbpa_written.is_none() => {
                self.gbpa_written = Some(value & gbpa::FIELDS);
            }
            0x44 => return Some("GBPA is written without UPDATE, or during an update"),
            0x50 => {
                let moving = self.irq_ctrl ^ self.irq_ctrlack;
                self.irq_ctrl = self.irq_ctrl & moving | value & self.writable_irq_ctrl & !moving;
            }
            0x64 => {
                let inactive = !(self.gerror ^ self.gerrorn) & gerror::ALL;
                let toggled = self.gerrorn ^ value;
                self.gerrorn = value & gerror::ALL;
                if toggled & inactive != 0 {
                    return Some("a global error is acknowledged that is not active");
                }
            }
            0x68..=0x74 if self.irq_off(irq::GERROR) => match offset {
                0x70 => self.gerror_message.data = value,
                0x74 => self.gerror_message.attributes = value & 0x3f,
                _ => set_half(&mut self.gerror_message.address, MESSAGE),
            },
            0x80 | 0x84 if self.off(cr0::SMMUEN) => {
                set_half(&mut self.stream_table, BASE & !0x3f);
            }
            0x88 if self.off(cr0::SMMUEN) => self.stream_table_config = value & 0x0003_07ff,
            0x90 | 0x94 if self.off(cr0::CMDQEN) => set_half(&mut self.commands.base, BASE),
            0x98 => self.commands.producer = value & INDEX,
            0x9c if self.off(cr0::CMDQEN) => {
                let error = self.commands.consumer & 0x7f00_0000;
                self.commands.consumer = value & INDEX | error;
            }
            0xa0 | 0xa4 if self.off(cr0::EVENTQEN) => set_half(&mut self.events.base, BASE),
            0x1_00a8 if self.off(cr0::EVENTQEN) => {
                self.events.producer = value & (INDEX | OVERFLOW);
            }
            0x1_00ac => self.events.consumer = value & (INDEX | OVERFLOW),
            0xb0..=0xbc if self.irq_off(irq::EVENTQ) => match offset {
                0xb8 => self.events_message.data = value,
                0xbc => self.events_message.attributes = value & 0x3f,
                _ => set_half(&mut self.events_message.address, MESSAGE),
            },
            0xc0 | 0xc4 if self.off(cr0::PRIQEN) => set_half(&mut self.page_requests.base, BASE),
            0x1_00c8 if self.off(cr0::PRIQEN) => {
                self.page_requests.producer = value & (INDEX | OVERFLOW);
            }
            0x1_00cc => self.page_requests.consumer = value & (INDEX | OVERFLOW),
            0xd0..=0xdc if self.irq_off(irq::PRIQ) => match offset {
                0xd8 => self.page_requests_message.data = value,
                0xdc => self.page_requests_message.attributes = value & 0x8000_003f,
                _ => set_half(&mut self.page_requests_message.address, MESSAGE),
            },
            // IDR0 to IDR5, CR0ACK, STATUSR, IRQ_CTRLACK, GERROR: read-only.
            0x00..=0x1c | 0x24 | 0x40 | 0x48 | 0x54 | 0x60 => {}
            _ => return Some("a register is written while what it configures is on"),
        }
        None
    }

    fn write_cr1(&mut self, value: u32) {
        const TABLE: u32 = 0xfc0;
        const QUEUE: u32 = 0x03f;
        let mut writable = 0;
        if self.off(cr0::SMMUEN) {
            writable |= TABLE;
        }
        if self.off(cr0::EVENTQEN | cr0::CMDQEN | cr0::PRIQEN) {
            writable |= QUEUE;
        }
        self.cr1 = self.cr1 & !writable | value & writable;
    }

    /// Lets one written field take effect, picked by `choose` from their number; `None` if every
    /// field has.
    pub fn update(&mut self, choose: impl FnOnce(u64) -> u64) -> Option<Updated> {
        let cr0 = self.cr0 ^ self.cr0ack;
        let irq = self.irq_ctrl ^ self.irq_ctrlack;
        let gbpa = u32::from(self.gbpa_written.is_some());
        let count = cr0.count_ones() + irq.count_ones() + gbpa;
        if count == 0 {
            return None;
        }
        let chosen = choose(count.into()) as u32;
        if chosen < cr0.count_ones() {
            let bit = nth_bit(cr0, chosen);
            self.cr0ack ^= bit;
            return Some(if self.cr0ack & bit != 0 {
                Updated::Enabled(bit)
            } else {
                Updated::Disabled(bit)
            });
        }
        let chosen = chosen - cr0.count_ones();
        if chosen < irq.count_ones() {
            self.irq_ctrlack ^= nth_bit(irq, chosen);
        } else if let Some(written) = self.gbpa_written.take() {
            self.gbpa = written;
        }
        Some(Updated::Other)
    }
}

/// The bit of `set` with `index` lower ones.
fn nth_bit(mut set: u32, index: u32) -> u32 {
    for _ in 0..index {
        set &= set - 1;
    }
    set & set.wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_by_number() {
        assert_eq!(nth_bit(0b1011_0000, 0), 0b1_0000);
        assert_eq!(nth_bit(0b1011_0000, 1), 0b10_0000);
        assert_eq!(nth_bit(0b1011_0000, 2), 0b1000_0000);
    }
}
