//! Access to configuration space, and its two chains of capabilities.

use super::spec;

/// Bytes of configuration space that a function has.
const SIZE: u16 = 4096;
/// An extended capability is at least a header and one register; more than this do not fit.
const MOST_EXTENDED: usize = (SIZE - spec::FIRST_EXTENDED) as usize / 8;
/// PCI-compatible capabilities lie in the 192 bytes after the header.
const MOST_COMPATIBLE: usize = 48;

/// The 4 KiB of configuration registers of one function.
///
/// The implementer promises that each call is one access of 32 bits, that a function which is not
/// there reads as ones, and that nobody else changes the registers of the function while one of this
/// module's calls runs (the kernel's lock of the device).
pub trait ConfigSpace {
    /// Reads the register at `offset` bytes, a multiple of 4 below 4096.
    fn read(&self, offset: u16) -> u32;
    /// Writes the register at `offset` bytes, a multiple of 4 below 4096.
    fn write(&self, offset: u16, value: u32);
}

impl<C: ConfigSpace + ?Sized> ConfigSpace for &C {
    fn read(&self, offset: u16) -> u32 {
        (**self).read(offset)
    }
    fn write(&self, offset: u16, value: u32) {
        (**self).write(offset, value);
    }
}

/// Whether a function answers: its vendor id is not all ones (section 2.3.2).
pub(super) fn is_present(space: &impl ConfigSpace) -> bool {
    space.read(0) as u16 != u16::MAX
}

/// Where the extended capability `id` lies whose registers need `size` bytes.
pub(super) fn find_extended(space: &impl ConfigSpace, id: u16, size: u16) -> Option<u16> {
    let mut offset = spec::FIRST_EXTENDED;
    for _ in 0..MOST_EXTENDED {
        let header = space.read(offset);
        if header == 0 || header == u32::MAX {
            return None;
        }
        if header as u16 == id {
            return (offset <= SIZE - size).then_some(offset);
        }
        offset = (header >> 20) as u16 & !3;
        if offset < spec::FIRST_EXTENDED {
            return None;
        }
    }
    None
}

/// Where the PCI-compatible capability `id` lies whose registers need `size` bytes.
pub(super) fn find_compatible(space: &impl ConfigSpace, id: u8, size: u16) -> Option<u16> {
    const FIRST: u16 = 0x40;
    const END: u16 = 0x100;
    if space.read(4) & spec::STATUS_CAPABILITIES == 0 {
        return None;
    }
    let mut offset = space.read(spec::CAPABILITIES_POINTER) as u16 & 0xfc;
    for _ in 0..MOST_COMPATIBLE {
        if offset < FIRST {
            return None;
        }
        let header = space.read(offset);
        if header as u8 == id {
            return (offset <= END - size).then_some(offset);
        }
        offset = (header >> 8) as u16 & 0xfc;
    }
    None
}
