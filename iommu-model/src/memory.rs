//! The memory of the modelled machine, as the CPU sees it and as hardware sees it.

use crate::machine::lock;
use iommu_core::error::OutOfMemory;
use iommu_core::ids::PhysicalAddress;
use iommu_core::platform::{DmaBlock, DmaMemory};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex};

/// Whether hardware snoops the CPU's caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coherency {
    /// Both see one memory.
    Coherent,
    /// The CPU's stores reach hardware when their line is cleaned, or when chance evicts it.
    NonCoherent,
}

/// There is no memory at the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchMemory(
    /// The address.
    pub u64,
);

/// Bytes in a cache line.
const LINE: u64 = 64;
const WORDS_PER_LINE: u64 = LINE / 8;

/// Physical memory of the modelled machine, in little-endian 64-bit words.
pub struct Memory {
    base: u64,
    /// What the CPU reads and writes. Drivers hold pointers into it.
    cpu: Words,
    /// For a memory that is not coherent: what hardware reads and writes, and what both sides had
    /// when they last agreed.
    far: Option<Far>,
    blocks: Mutex<Blocks>,
    watcher: Mutex<Option<Watcher>>,
}

/// Who has what of the memory.
struct Blocks {
    /// Those in use: start and size in bytes.
    used: BTreeMap<u64, u64>,
    /// From here on nobody had anything, so that it still is zero.
    untouched: u64,
}

/// What looks at the memory after each of a driver's stores that hardware sees.
type Watcher = Arc<dyn Fn() + Send + Sync>;

struct Far {
    hardware: Words,
    agreed: Words,
}

/// Zeroed words whose first is aligned to [`Words::ALIGN`] bytes.
struct Words {
    storage: Box<[AtomicU64]>,
    first: usize,
    count: usize,
}

impl Words {
    const ALIGN: usize = 2 << 20;

    /// Room for `size` bytes. Pages that nobody touches cost nothing.
    fn new(size: u64) -> Self {
        let count = size as usize / 8;
        let zeroed = Box::into_raw(vec![0u64; count + Self::ALIGN / 8].into_boxed_slice());
        // SAFETY: the box was given up just now, and `AtomicU64` has the size, the alignment (on
        // the 64-bit hosts that tests run on) and the valid values of `u64`.
        let storage = unsafe { Box::from_raw(zeroed as *mut [AtomicU64]) };
        let first = storage.as_ptr().align_offset(Self::ALIGN);
        Self {
            storage,
            first,
            count,
        }
    }
}

impl Deref for Words {
    type Target = [AtomicU64];
    fn deref(&self) -> &[AtomicU64] {
        &self.storage[self.first..][..self.count]
    }
}

impl Memory {
    /// `size` bytes of zeroed memory from physical address `base`, both multiples of 2 MiB.
    pub fn new(base: u64, size: u64, coherency: Coherency) -> Self {
        assert!((base | size).is_multiple_of(2 << 20));
        Self {
            base,
            cpu: Words::new(size),
            far: (coherency == Coherency::NonCoherent).then(|| Far {
                hardware: Words::new(size),
                agreed: Words::new(size),
            }),
            blocks: Mutex::new(Blocks {
                used: BTreeMap::new(),
                untouched: base,
            }),
            watcher: Mutex::default(),
        }
    }

    /// Whether hardware snoops the CPU's caches.
    pub fn coherency(&self) -> Coherency {
        match self.far {
            None => Coherency::Coherent,
            Some(_) => Coherency::NonCoherent,
        }
    }

    /// What the CPU loads at `address`, a multiple of 8.
    pub fn cpu_load(&self, address: u64) -> u64 {
        u64::from_le(self.cpu_word(address).load(Ordering::SeqCst))
    }

    /// Stores as the CPU does, at `address`, a multiple of 8.
    pub fn cpu_store(&self, address: u64, value: u64) {
        self.cpu_word(address)
            .store(value.to_le(), Ordering::SeqCst);
    }

    fn cpu_word(&self, address: u64) -> &AtomicU64 {
        let index = self.index(address).expect("the CPU uses its memory only");
        &self.cpu[index]
    }

    /// What hardware reads at `address`, a multiple of 8.
    pub fn load(&self, address: u64) -> Result<u64, NoSuchMemory> {
        Ok(u64::from_le(
            self.hardware()[self.index(address)?].load(Ordering::SeqCst),
        ))
    }

    /// Writes as hardware does, at `address`, a multiple of 8.
    pub fn store(&self, address: u64, value: u64) -> Result<(), NoSuchMemory> {
        self.hardware()[self.index(address)?].store(value.to_le(), Ordering::SeqCst);
        Ok(())
    }

    /// What hardware reads at `address`, a multiple of 4.
    pub fn load32(&self, address: u64) -> Result<u32, NoSuchMemory> {
        Ok((self.load(address & !7)? >> (8 * (address & 4))) as u32)
    }

    /// Writes 32 bits as hardware does, at `address`, a multiple of 4.
    pub fn store32(&self, address: u64, value: u32) -> Result<(), NoSuchMemory> {
        let shift = 8 * (address & 4);
        self.update(address & !7, |word| {
            word & !(0xffff_ffff << shift) | u64::from(value) << shift
        })
    }

    /// Replaces the word at `address`, a multiple of 8, in one indivisible step of the hardware.
    pub fn update(
        &self,
        address: u64,
        mut change: impl FnMut(u64) -> u64,
    ) -> Result<(), NoSuchMemory> {
        let word = &self.hardware()[self.index(address)?];
        word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| {
            Some(change(u64::from_le(old)).to_le())
        })
        .expect("the change never refuses");
        Ok(())
    }

    /// Replaces the word at `address` if it still is `old` (accessed and dirty bits); whether it
    /// was.
    pub fn exchange(&self, address: u64, old: u64, new: u64) -> Result<bool, NoSuchMemory> {
        let word = &self.hardware()[self.index(address)?];
        Ok(word
            .compare_exchange(old.to_le(), new.to_le(), Ordering::SeqCst, Ordering::SeqCst)
            .is_ok())
    }

    /// Reads any bytes as hardware does.
    pub fn load_bytes(&self, address: u64, bytes: &mut [u8]) -> Result<(), NoSuchMemory> {
        for (byte, at) in bytes.iter_mut().zip(address..) {
            *byte = (self.load(at & !7)? >> (8 * (at & 7))) as u8;
        }
        Ok(())
    }

    /// Writes any bytes as hardware does. Bytes in one word are written in one step.
    pub fn store_bytes(&self, address: u64, bytes: &[u8]) -> Result<(), NoSuchMemory> {
        let mut at = address;
        let mut rest = bytes;
        while !rest.is_empty() {
            let offset = at & 7;
            let (now, later) = rest.split_at(rest.len().min(8 - offset as usize));
            self.update(at & !7, |word| {
                let mut word = word.to_le_bytes();
                word[offset as usize..][..now.len()].copy_from_slice(now);
                u64::from_le_bytes(word)
            })?;
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    fn hardware(&self) -> &[AtomicU64] {
        self.far.as_ref().map_or(&self.cpu, |far| &far.hardware)
    }

    fn index(&self, address: u64) -> Result<usize, NoSuchMemory> {
        debug_assert!(address.is_multiple_of(8), "unaligned word {address:#x}");
        address
            .checked_sub(self.base)
            .map(|offset| (offset / 8) as usize)
            .filter(|&index| index < self.cpu.len())
            .ok_or(NoSuchMemory(address))
    }

    /// Writes the cache lines of `length` bytes from `address` back, and takes in what hardware
    /// wrote there. A kernel calls it for its page tables; drivers do through [`DmaMemory::clean`].
    pub fn clean_range(&self, address: u64, length: u64) {
        let Some(far) = &self.far else { return };
        let first = address / LINE * LINE;
        let end = (address + length).div_ceil(LINE) * LINE;
        for word in (first..end).step_by(8).filter_map(|at| self.index(at).ok()) {
            let (cpu, agreed, hardware) = (
                self.cpu[word].load(Ordering::SeqCst),
                far.agreed[word].load(Ordering::SeqCst),
                far.hardware[word].load(Ordering::SeqCst),
            );
            // Most lines are clean, and a store costs many times a load.
            if cpu == agreed && hardware == agreed {
                continue;
            }
            let value = if cpu == agreed { hardware } else { cpu };
            self.cpu[word].store(value, Ordering::SeqCst);
            far.hardware[word].store(value, Ordering::SeqCst);
            far.agreed[word].store(value, Ordering::SeqCst);
        }
    }

    /// Writes every line of every block in use back: the flush of a write buffer.
    pub fn clean_blocks(&self) {
        for (address, size) in self.in_use() {
            self.clean_range(address, size);
        }
    }

    /// Calls `look` from now on whenever a driver has made stores visible to hardware that does not
    /// snoop: the moments between which nothing changes for it. It must not change the memory.
    pub fn watch(&self, look: impl Fn() + Send + Sync + 'static) {
        *lock(&self.watcher) = Some(Arc::new(look));
    }

    /// Evicts the line that holds `address`, as a cache may at any moment.
    pub fn evict(&self, address: u64) {
        self.clean_range(address / LINE * LINE, 8 * WORDS_PER_LINE);
    }

    /// A block for the kernel's own use (frames, page tables), zeroed; `align` is a power of two.
    pub fn take(&self, size: u64, align: u64) -> Option<u64> {
        let align = align.max(LINE);
        let size = size.next_multiple_of(LINE);
        let mut blocks = lock(&self.blocks);
        let mut at = self.base.next_multiple_of(align);
        for (&start, &length) in &blocks.used {
            if at + size <= start {
                break;
            }
            at = at.max(start + length).next_multiple_of(align);
        }
        if at + size > self.base + 8 * self.cpu.len() as u64 {
            return None;
        }
        blocks.used.insert(at, size);
        let end = at + size;
        let used_before = blocks.untouched.clamp(at, end);
        blocks.untouched = blocks.untouched.max(end);
        drop(blocks);
        self.fill(at, used_before - at, 0);
        Some(at)
    }

    /// Gives back what [`take`](Self::take) gave. Its bytes become `poison`, on both sides.
    pub fn give_back(&self, address: u64, poison: u64) {
        let size = lock(&self.blocks)
            .used
            .remove(&address)
            .expect("a block is given back once");
        self.fill(address, size, poison);
    }

    /// Fills whole words with `value`, on both sides, for who owns them.
    pub fn fill(&self, address: u64, length: u64, value: u64) {
        let first = self.index(address).expect("whole words of memory");
        let words = first..first + length as usize / 8;
        let far = self.far.iter().flat_map(|far| [&far.hardware, &far.agreed]);
        for side in std::iter::once(&self.cpu).chain(far) {
            for word in &side[words.clone()] {
                word.store(value.to_le(), Ordering::Relaxed);
            }
        }
        fence(Ordering::SeqCst);
    }

    /// The first of these words that is not `value` where hardware sees it, and what it is.
    pub fn first_other(&self, address: u64, length: u64, value: u64) -> Option<(u64, u64)> {
        fence(Ordering::SeqCst);
        let first = self.index(address).expect("whole words of memory");
        let words = &self.hardware()[first..][..length as usize / 8];
        let found = |word: &AtomicU64| u64::from_le(word.load(Ordering::Relaxed));
        let index = words.iter().position(|word| found(word) != value)?;
        Some((address + 8 * index as u64, found(&words[index])))
    }

    /// Every block in use: its address and its size in bytes.
    pub fn in_use(&self) -> Vec<(u64, u64)> {
        let blocks = lock(&self.blocks);
        blocks
            .used
            .iter()
            .map(|(&start, &size)| (start, size))
            .collect()
    }

    /// How many blocks are in use.
    pub fn blocks(&self) -> usize {
        lock(&self.blocks).used.len()
    }
}

// SAFETY: a block is part of `cpu`, which lives as long as this value and is accessed by atomics
// only; `take` zeroes it, aligns it and gives no byte to two owners; the first word and the base are
// both aligned to 2 MiB, more than which `allocate` refuses. `clean` makes both sides agree.
unsafe impl DmaMemory for Memory {
    fn allocate(&self, size: usize, align: usize) -> Result<DmaBlock, OutOfMemory> {
        let physical = (align <= Words::ALIGN)
            .then(|| self.take(size as u64, align as u64))
            .flatten()
            .ok_or(OutOfMemory { bytes: size })?;
        let index = self.index(physical).expect("a block lies inside");
        Ok(DmaBlock {
            pointer: NonNull::from(&self.cpu[index..][..size.div_ceil(8)]).cast(),
            physical: PhysicalAddress(physical),
            size,
        })
    }

    unsafe fn free(&self, block: DmaBlock) {
        self.give_back(block.physical.0, 0xdead_dead_dead_dead);
    }

    fn clean(&self, block: &DmaBlock, offset: usize, length: usize) {
        self.clean_range(block.physical.0 + offset as u64, length as u64);
        let watcher = lock(&self.watcher).clone();
        if let Some(look) = watcher {
            look();
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Memory({:#x}..{:#x}, {:?})",
            self.base,
            self.base + 8 * self.cpu.len() as u64,
            self.coherency()
        )
    }
}
