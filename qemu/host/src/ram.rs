//! The machine's memory: a file without a name that QEMU and this process map.

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Blocks are taken and given back in multiples of this many bytes.
const GRANULE: u64 = 4096;

/// A machine's memory. All access is atomic, because QEMU's devices access it too.
#[derive(Debug)]
pub struct Ram {
    file: OwnedFd,
    bytes: NonNull<u8>,
    base: u64,
    size: u64,
    /// What nobody has taken: first byte and length, by physical address.
    free: Mutex<BTreeMap<u64, u64>>,
}

// SAFETY: the mapping belongs to the value, lives as long as it, and is accessed by atomics only.
unsafe impl Send for Ram {}
// SAFETY: as for `Send`.
unsafe impl Sync for Ram {}

impl Ram {
    /// `size` zeroed bytes whose first has physical address `base`; both are multiples of 2 MiB.
    ///
    /// The lowest 2 MiB belong to nobody: a PC has ROMs there, and address 0 is never valid.
    pub(crate) fn new(base: u64, size: u64) -> io::Result<Self> {
        let file = memfd_create("shootdown-ram", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, size)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlays nothing; the file is as
        // long as the mapping.
        let bytes = unsafe {
            mmap(
                std::ptr::null_mut(),
                size as usize,
                access,
                MapFlags::SHARED,
                &file,
                0,
            )?
        };
        let bytes = NonNull::new(bytes.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let reserved = 2 << 20;
        Ok(Self {
            file,
            bytes,
            base,
            size,
            free: Mutex::new(BTreeMap::from([(base + reserved, size - reserved)])),
        })
    }

    /// The file.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// A path by which another process of the same user can open the file, while this one lives.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// The physical address of the first byte.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether `length` bytes at `address` are memory.
    pub fn contains(&self, address: u64, length: u64) -> bool {
        let offset = address.checked_sub(self.base);
        let end = offset.and_then(|offset| offset.checked_add(length));
        end.is_some_and(|end| end <= self.size)
    }

    /// Takes `size` bytes (rounded up to whole pages) aligned to `align`, a power of two; they are
    /// zeroed. `None` if there are no more.
    pub fn take(&self, size: u64, align: u64) -> Option<u64> {
        let size = size.max(1).next_multiple_of(GRANULE);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fit = free.iter().find_map(|(&start, &length)| {
            let at = start.checked_next_multiple_of(align.max(GRANULE))?;
            let end = at.checked_add(size)?;
            (end <= start + length).then_some((start, length, at))
        });
        let (start, length, at) = fit?;
        free.remove(&start);
        if at > start {
            free.insert(start, at - start);
        }
        if at + size < start + length {
            free.insert(at + size, start + length - (at + size));
        }
        drop(free);
        for word in (at..at + size).step_by(8) {
            self.store(word, 0);
        }
        Some(at)
    }

    /// Gives back what [`take`](Self::take) gave for the same size.
    pub fn give_back(&self, address: u64, size: u64) {
        let size = size.max(1).next_multiple_of(GRANULE);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut start, mut end) = (address, address + size);
        if let Some((&before, &length)) = free.range(..start).next_back()
            && before + length == start
        {
            free.remove(&before);
            start = before;
        }
        if let Some(length) = free.remove(&end) {
            end += length;
        }
        free.insert(start, end - start);
    }

    /// The 64-bit word at `address`, a multiple of 8.
    ///
    /// # Panics
    ///
    /// If that is not memory.
    pub fn load(&self, address: u64) -> u64 {
        u64::from_le(self.word(address).load(Ordering::SeqCst))
    }

    /// Stores the 64-bit word at `address`, a multiple of 8.
    ///
    /// # Panics
    ///
    /// If that is not memory.
    pub fn store(&self, address: u64, value: u64) {
        self.word(address).store(value.to_le(), Ordering::SeqCst);
    }

    /// Copies bytes out of memory; words within them may be torn.
    ///
    /// # Panics
    ///
    /// If that is not memory.
    pub fn load_bytes(&self, address: u64, bytes: &mut [u8]) {
        for (at, byte) in (address..).zip(bytes) {
            *byte = self.byte(at).load(Ordering::SeqCst);
        }
    }

    /// Copies bytes into memory; words within them may be torn.
    ///
    /// # Panics
    ///
    /// If that is not memory.
    pub fn store_bytes(&self, address: u64, bytes: &[u8]) {
        for (at, byte) in (address..).zip(bytes) {
            self.byte(at).store(*byte, Ordering::SeqCst);
        }
    }

    /// Where this process sees `length` bytes at `address`; valid as long as the memory.
    ///
    /// # Panics
    ///
    /// If that is not memory.
    pub(crate) fn pointer(&self, address: u64, length: u64) -> NonNull<u8> {
        assert!(
            self.contains(address, length),
            "{length} bytes at {address:#x} are not memory"
        );
        // SAFETY: the offset was checked to lie inside the mapping.
        unsafe { self.bytes.add((address - self.base) as usize) }
    }

    fn word(&self, address: u64) -> &AtomicU64 {
        assert!(address.is_multiple_of(8), "{address:#x} is not aligned");
        // SAFETY: the pointer leads to 8 mapped bytes, aligned because the mapping begins at a page;
        // the mapping lives as long as `self`, and all access of this process is atomic.
        unsafe { self.pointer(address, 8).cast().as_ref() }
    }

    fn byte(&self, address: u64) -> &AtomicU8 {
        // SAFETY: as in `word`; a byte is always aligned.
        unsafe { self.pointer(address, 1).cast().as_ref() }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: the value made this mapping, and whoever used it held a reference to the value.
        let _ = unsafe { munmap(self.bytes.as_ptr().cast(), self.size as usize) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x4000_0000;

    #[test]
    fn what_is_taken_is_aligned_zeroed_and_nobody_else_s() {
        let ram = Ram::new(BASE, 8 << 20).expect("memory");
        let first = ram.take(100, 8).expect("there is room");
        ram.store(first, 7);
        let second = ram.take(GRANULE, 1 << 20).expect("there is room");
        assert!(second.is_multiple_of(1 << 20) && second != first);
        ram.give_back(first, 100);
        assert_eq!(ram.take(100, 8), Some(first));
        assert_eq!(ram.load(first), 0);
    }

    #[test]
    fn what_is_given_back_grows_together() {
        let ram = Ram::new(BASE, 8 << 20).expect("memory");
        let blocks: Vec<u64> = (0..6)
            .map(|_| ram.take(1 << 20, 8).expect("room"))
            .collect();
        assert_eq!(ram.take(1, 8), None);
        for index in [1, 4, 0, 2, 5, 3] {
            ram.give_back(blocks[index], 1 << 20);
        }
        assert_eq!(ram.take(6 << 20, 8), Some(BASE + (2 << 20)));
    }

    #[test]
    fn bytes_and_words_are_the_same_memory() {
        let ram = Ram::new(BASE, 4 << 20).expect("memory");
        ram.store_bytes(BASE + 1, &[0x11, 0x22]);
        assert_eq!(ram.load(BASE), 0x22_1100);
        let mut bytes = [0; 3];
        ram.load_bytes(BASE, &mut bytes);
        assert_eq!(bytes, [0, 0x11, 0x22]);
        assert!(ram.contains(BASE + (4 << 20) - 1, 1));
        assert!(!ram.contains(BASE + (4 << 20) - 1, 2) && !ram.contains(BASE - 1, 1));
    }
}
