//! Command queues that are read a command at a time.
//!
//! QEMU executes every new command within the write of the queue's tail register, so a device could
//! do nothing between two commands of one list, as it can on hardware. With work waiting, the tail is
//! moved a command at a time instead, and the devices work in between. To the IOMMU it looks as if it
//! had been told of the commands one after the other.

use std::sync::{Mutex, PoisonError};

/// Where a command queue's registers are, by offset, and what they mean.
pub struct TailRegister {
    /// The tail.
    pub tail: usize,
    /// The base, which has the queue's size.
    pub base: usize,
    /// How many commands a queue with this base has.
    pub commands: fn(u64) -> u64,
    /// How the tail counts, in a queue with this base.
    pub unit: fn(u64) -> u64,
}

/// VT-d: IQT and IQA (5.1 of the specification, 11.4.9): QS in bits 2..0 counts pages of 4 KiB, DW in
/// bit 11 says that a descriptor has 256 bits and not 128. The tail counts bytes.
pub const VTD: TailRegister = TailRegister {
    tail: 0x88,
    base: 0x90,
    commands: |base| (4096 << (base & 7)) / descriptor(base),
    unit: descriptor,
};

/// RISC-V IOMMU 1.0: `cqt` and `cqb` (6.6): LOG2SZ-1 in bits 4..0. The tail counts commands.
pub const RISCV: TailRegister = TailRegister {
    tail: 0x24,
    base: 0x18,
    commands: |base| 2 << (base & 31),
    unit: |_| 1,
};

const fn descriptor(base: u64) -> u64 {
    if base >> 11 & 1 == 1 { 32 } else { 16 }
}

/// A queue, as its registers were written.
pub struct Queue {
    register: &'static TailRegister,
    /// The base register, and the number of the command at the tail.
    written: Mutex<(u64, u64)>,
}

impl Queue {
    /// One whose registers are 0.
    pub fn new(register: &'static TailRegister) -> Self {
        Self {
            register,
            written: Mutex::default(),
        }
    }

    /// Takes note of a write at `offset`. Of the tail: the values by which it comes to `value` a
    /// command at a time, without `value`.
    pub fn steps(&self, offset: usize, value: u64) -> Vec<u64> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let (base, tail) = &mut *written;
        if offset == self.register.base {
            (*base, *tail) = (value, 0);
        }
        if offset != self.register.tail {
            return Vec::new();
        }
        let commands = (self.register.commands)(*base);
        let unit = (self.register.unit)(*base);
        let from = std::mem::replace(tail, value / unit % commands);
        let mut steps = Vec::new();
        let mut at = (from + 1) % commands;
        while from != *tail && at != *tail {
            steps.push(at * unit);
            at = (at + 1) % commands;
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_moves_by_each_command_and_around_the_end() {
        let queue = Queue::new(&VTD);
        assert!(queue.steps(0x88, 0).is_empty());
        // One page of 128 descriptors with 256 bits.
        assert!(queue.steps(0x90, 0x1234_5000 | 1 << 11).is_empty());
        assert_eq!(queue.steps(0x88, 3 * 32), [32, 64]);
        assert!(queue.steps(0x88, 3 * 32).is_empty());
        assert!(queue.steps(0x80, 0).is_empty());
        assert_eq!(queue.steps(0x88, 126 * 32).len(), 122);
        assert_eq!(queue.steps(0x88, 32), [127 * 32, 0]);

        let queue = Queue::new(&RISCV);
        queue.steps(0x18, 2);
        assert_eq!(queue.steps(0x24, 2), [1]);
        assert_eq!(queue.steps(0x24, 1), [3, 4, 5, 6, 7, 0]);
    }
}
