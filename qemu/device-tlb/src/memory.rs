//! The machine's memory, as QEMU hands it to the device.

use std::fs::File;
use std::io;
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{MmapRegion, VolatileMemory};

/// One mapped part of it.
struct Region {
    /// Where the machine has its first byte.
    physical: u64,
    /// Where QEMU has its first byte in its own address space.
    user: u64,
    size: u64,
    bytes: MmapRegion,
}

/// All of it.
#[derive(Default)]
pub struct Memory(Vec<Region>);

impl Memory {
    /// Maps what QEMU describes.
    pub fn map(regions: Vec<(VhostUserMemoryRegion, File)>) -> io::Result<Self> {
        let map = |(region, file): (VhostUserMemoryRegion, File)| {
            let bytes = region.mmap_region(file).map_err(io::Error::other)?;
            Ok(Region {
                physical: region.guest_phys_addr,
                user: region.user_addr,
                size: region.memory_size,
                bytes,
            })
        };
        Ok(Self(
            regions.into_iter().map(map).collect::<io::Result<_>>()?,
        ))
    }

    /// Copies `bytes.len()` bytes from where QEMU has them at `user`; their physical address, or
    /// `None` if they are not memory.
    pub fn read(&self, user: u64, bytes: &mut [u8]) -> Option<u64> {
        let (region, offset) = self.find(user, bytes.len())?;
        let slice = region.bytes.get_slice(offset as usize, bytes.len()).ok()?;
        slice.copy_to(bytes);
        Some(region.physical + offset)
    }

    /// Copies `bytes` to where QEMU has them at `user`; their physical address, or `None` if there is
    /// no memory.
    pub fn write(&self, user: u64, bytes: &[u8]) -> Option<u64> {
        let (region, offset) = self.find(user, bytes.len())?;
        let slice = region.bytes.get_slice(offset as usize, bytes.len()).ok()?;
        slice.copy_from(bytes);
        Some(region.physical + offset)
    }

    fn find(&self, user: u64, length: usize) -> Option<(&Region, u64)> {
        self.0.iter().find_map(|region| {
            let offset = user.checked_sub(region.user)?;
            let end = offset.checked_add(length as u64)?;
            (end <= region.size).then_some((region, offset))
        })
    }
}
