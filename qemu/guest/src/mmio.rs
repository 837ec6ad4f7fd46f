//! Access to one block of device registers, one bus access a call.

use crate::region::Region;

/// The registers of one device, by byte offset from their start.
///
/// Offsets come from drivers, never from a device; one that is unaligned or outside the block is a
/// driver bug and panics.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    region: Region,
}

macro_rules! accessors {
    ($($type:ty, $read:ident, $write:ident, $load:literal, $store:literal, $register:literal;)*) => {
        $(
            #[doc = concat!("Reads the `", stringify!($type), "` at `offset` bytes.")]
            pub fn $read(&self, offset: usize) -> $type {
                let address = self.address(offset, size_of::<$type>());
                // SAFETY: `new` promises that the block is mapped device memory; the offset was
                // checked to lie inside it, aligned.
                unsafe {
                    #[cfg(target_arch = "aarch64")]
                    {
                        let value: $type;
                        core::arch::asm!(
                            concat!($load, " {value", $register, "}, [{address}]"),
                            value = out(reg) value,
                            address = in(reg) address,
                            options(nostack, preserves_flags),
                        );
                        value
                    }
                    #[cfg(not(target_arch = "aarch64"))]
                    core::ptr::read_volatile(address as *const $type)
                }
            }

            #[doc = concat!("Writes the `", stringify!($type), "` at `offset` bytes.")]
            pub fn $write(&self, offset: usize, value: $type) {
                let address = self.address(offset, size_of::<$type>());
                // SAFETY: as for the read; what the write makes the device do is the driver's
                // responsibility.
                unsafe {
                    #[cfg(target_arch = "aarch64")]
                    core::arch::asm!(
                        concat!($store, " {value", $register, "}, [{address}]"),
                        value = in(reg) value,
                        address = in(reg) address,
                        options(nostack, preserves_flags),
                    );
                    #[cfg(not(target_arch = "aarch64"))]
                    core::ptr::write_volatile(address as *mut $type, value);
                }
            }
        )*
    };
}

impl Registers {
    /// The registers in `region` of the physical address space, which is mapped one to one.
    ///
    /// # Safety
    ///
    /// `region` is mapped, holds device registers (or, on the host, memory that only volatile
    /// accesses touch), and stays so for as long as the value or a copy of it is used.
    pub const unsafe fn new(region: Region) -> Self {
        Self { region }
    }

    /// Where the registers lie.
    pub const fn region(&self) -> Region {
        self.region
    }

    // A compiled volatile access may use an addressing form that leaves no syndrome for a
    // hypervisor to emulate, so AArch64 gets the instruction itself.
    accessors! {
        u8, read8, write8, "ldrb", "strb", ":w";
        u16, read16, write16, "ldrh", "strh", ":w";
        u32, read32, write32, "ldr", "str", ":w";
        u64, read64, write64, "ldr", "str", ":x";
    }

    fn address(&self, offset: usize, width: usize) -> u64 {
        let end = (offset as u64).checked_add(width as u64);
        assert!(
            end.is_some_and(|end| end <= self.region.size) && offset.is_multiple_of(width),
            "register offset {offset:#x} lies outside the block at {}",
            self.region
        );
        self.region.base + offset as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_width_reads_what_it_wrote() {
        let mut words = [0u64; 2];
        let region = Region {
            base: words.as_mut_ptr() as u64,
            size: 16,
        };
        // SAFETY: the array outlives `registers` and is not touched otherwise until the last use.
        let registers = unsafe { Registers::new(region) };
        registers.write64(8, 0x0102_0304_0506_0708);
        registers.write32(0, 0xa0a1_a2a3);
        registers.write16(4, 0xb0b1);
        registers.write8(6, 0xc0);
        assert_eq!(registers.read64(0), 0x00c0_b0b1_a0a1_a2a3);
        assert_eq!(registers.read32(12), 0x0102_0304);
        assert_eq!((registers.read16(10), registers.read8(15)), (0x0506, 0x01));
    }

    #[test]
    #[should_panic(expected = "outside the block")]
    fn an_offset_outside_the_block_panics() {
        let words = [0u64; 1];
        // SAFETY: the access is refused before memory is touched.
        let registers = unsafe {
            Registers::new(Region {
                base: words.as_ptr() as u64,
                size: 8,
            })
        };
        registers.read64(8);
    }
}
