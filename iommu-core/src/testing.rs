//! A platform for tests on the host: heap memory that a fake IOMMU can read by physical address,
//! registers answered by a fake, a clock that steps, and an observer that records.

use crate::error::OutOfMemory;
use crate::ids::PhysicalAddress;
use crate::platform::{Clock, DmaBlock, DmaMemory, Mmio, Observer, Parts, Platform};
use alloc::alloc::{alloc_zeroed, dealloc};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use spin::Mutex;

/// What a fake IOMMU does when its registers are accessed. `width` is 4 or 8 bytes.
pub trait FakeRegisters: Send + Sync + 'static {
    /// A read.
    fn read(&self, offset: usize, width: usize) -> u64;
    /// A write.
    fn write(&self, offset: usize, width: usize, value: u64);
}

/// [`Mmio`] that is answered by a fake.
#[derive(Debug)]
pub struct FakeMmio<F>(pub Arc<F>);

// SAFETY: no hardware is behind it; each call is one call of the fake, in program order.
unsafe impl<F: FakeRegisters> Mmio for FakeMmio<F> {
    fn read32(&self, offset: usize) -> u32 {
        assert!(
            offset.is_multiple_of(4),
            "unaligned register read at {offset:#x}"
        );
        self.0.read(offset, 4) as u32
    }
    fn write32(&self, offset: usize, value: u32) {
        assert!(
            offset.is_multiple_of(4),
            "unaligned register write at {offset:#x}"
        );
        self.0.write(offset, 4, value.into());
    }
    fn read64(&self, offset: usize) -> u64 {
        assert!(
            offset.is_multiple_of(8),
            "unaligned register read at {offset:#x}"
        );
        self.0.read(offset, 8)
    }
    fn write64(&self, offset: usize, value: u64) {
        assert!(
            offset.is_multiple_of(8),
            "unaligned register write at {offset:#x}"
        );
        self.0.write(offset, 8, value);
    }
}

/// [`DmaMemory`] on the heap. Physical addresses are made up, so that a driver which confuses them
/// with pointers fails. A fake IOMMU reads and writes by physical address; an access outside an
/// allocation panics, as it is a driver's mistake that the test is there to find.
pub struct HeapMemory {
    blocks: Mutex<BTreeMap<u64, Heap>>,
    allocations: AtomicUsize,
    cleaned: Mutex<Vec<(u64, usize)>>,
    limit: AtomicUsize,
}

impl Default for HeapMemory {
    fn default() -> Self {
        Self::new()
    }
}

struct Heap {
    pointer: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the pointer is to plain heap memory that any thread may use; access is atomic.
unsafe impl Send for Heap {}

impl HeapMemory {
    /// Memory without a limit.
    pub const fn new() -> Self {
        Self {
            blocks: Mutex::new(BTreeMap::new()),
            allocations: AtomicUsize::new(0),
            cleaned: Mutex::new(Vec::new()),
            limit: AtomicUsize::new(usize::MAX),
        }
    }

    /// Lets `count` more allocations succeed.
    pub fn fail_after(&self, count: usize) {
        self.limit.store(count, Ordering::Relaxed);
    }

    /// Blocks that are allocated and not freed.
    pub fn live_blocks(&self) -> usize {
        self.blocks.lock().len()
    }

    /// Whether the 64-bit word at `address` was cleaned since [`Self::forget_cleaned`].
    pub fn was_cleaned(&self, address: PhysicalAddress) -> bool {
        self.cleaned
            .lock()
            .iter()
            .any(|&(start, length)| start <= address.0 && address.0 + 8 <= start + length as u64)
    }

    /// Forgets what was cleaned so far.
    pub fn forget_cleaned(&self) {
        self.cleaned.lock().clear();
    }

    /// The 64-bit word that an IOMMU would read at `address`.
    pub fn load(&self, address: PhysicalAddress) -> u64 {
        u64::from_le(self.with(address, 8, |word: &AtomicU64| word.load(Ordering::SeqCst)))
    }

    /// Writes a 64-bit word as an IOMMU would.
    pub fn store(&self, address: PhysicalAddress, value: u64) {
        self.with(address, 8, |word: &AtomicU64| {
            word.store(value.to_le(), Ordering::SeqCst)
        });
    }

    /// Writes a 32-bit word as an IOMMU would.
    pub fn store32(&self, address: PhysicalAddress, value: u32) {
        use core::sync::atomic::AtomicU32;
        self.with(address, 4, |word: &AtomicU32| {
            word.store(value.to_le(), Ordering::SeqCst)
        });
    }

    fn with<T, R>(&self, address: PhysicalAddress, size: u64, access: impl FnOnce(&T) -> R) -> R {
        let blocks = self.blocks.lock();
        let (start, heap) = blocks
            .range(..=address.0)
            .next_back()
            .filter(|(start, heap)| address.0 + size <= **start + heap.layout.size() as u64)
            .unwrap_or_else(|| panic!("the IOMMU accesses {:#x}, which is not its", address.0));
        assert!(
            address.0.is_multiple_of(size),
            "unaligned access to {:#x}",
            address.0
        );
        // SAFETY: the word lies inside a live block, is aligned, and is accessed by atomics only;
        // the lock keeps the block alive meanwhile.
        access(unsafe {
            heap.pointer
                .add((address.0 - start) as usize)
                .cast::<T>()
                .as_ref()
        })
    }
}

// SAFETY: blocks come zeroed and aligned from the heap, and live until `free` takes them off the
// list; the made-up physical address names the same bytes in `HeapMemory`'s own accessors, and is
// aligned as the pointer is.
unsafe impl DmaMemory for HeapMemory {
    fn allocate(&self, size: usize, align: usize) -> Result<DmaBlock, OutOfMemory> {
        let refused = OutOfMemory { bytes: size };
        let take = |left: usize| {
            if left == usize::MAX {
                Some(left)
            } else {
                left.checked_sub(1)
            }
        };
        self.limit
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .map_err(|_| refused)?;
        let layout = Layout::from_size_align(size.max(8), align).map_err(|_| refused)?;
        // SAFETY: the size is not zero.
        let pointer = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(refused)?;
        let number = self.allocations.fetch_add(1, Ordering::Relaxed) as u64 + 1;
        let physical = number << 32;
        self.blocks
            .lock()
            .insert(physical, Heap { pointer, layout });
        Ok(DmaBlock {
            pointer,
            physical: PhysicalAddress(physical),
            size,
        })
    }

    unsafe fn free(&self, block: DmaBlock) {
        let heap = self
            .blocks
            .lock()
            .remove(&block.physical.0)
            .expect("freed once");
        // SAFETY: it was allocated with this layout and nobody uses it, by the caller's promise.
        unsafe { dealloc(heap.pointer.as_ptr(), heap.layout) };
    }

    fn clean(&self, block: &DmaBlock, offset: usize, length: usize) {
        self.cleaned
            .lock()
            .push((block.physical.0 + offset as u64, length));
    }
}

impl Drop for HeapMemory {
    fn drop(&mut self) {
        for heap in self.blocks.get_mut().values() {
            // SAFETY: allocated with this layout; the memory's owner is gone, so are its users.
            unsafe { dealloc(heap.pointer.as_ptr(), heap.layout) };
        }
    }
}

impl fmt::Debug for HeapMemory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HeapMemory")
            .field("blocks", &self.live_blocks())
            .finish()
    }
}

/// A clock on which a microsecond passes at each look.
#[derive(Debug, Default)]
pub struct SteppingClock(AtomicU64);

impl Clock for SteppingClock {
    fn now(&self) -> u64 {
        self.0.fetch_add(1000, Ordering::Relaxed)
    }
}

/// Something that an [`Observer`] was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A command's words.
    Command(Vec<u64>),
    /// A doorbell.
    Doorbell,
    /// A wait.
    Wait,
}

/// An [`Observer`] that keeps what it was told.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Vec<Event>>);

impl Recorder {
    /// Everything since the last call.
    pub fn take(&self) -> Vec<Event> {
        core::mem::take(&mut *self.0.lock())
    }

    /// The commands since the last call, without doorbells and waits.
    pub fn take_commands(&self) -> Vec<Vec<u64>> {
        let command = |event| match event {
            Event::Command(words) => Some(words),
            Event::Doorbell | Event::Wait => None,
        };
        self.take().into_iter().filter_map(command).collect()
    }
}

impl Observer for Recorder {
    fn command(&self, words: &[u64]) {
        self.0.lock().push(Event::Command(words.into()));
    }
    fn doorbell(&self) {
        self.0.lock().push(Event::Doorbell);
    }
    fn wait(&self) {
        self.0.lock().push(Event::Wait);
    }
}

/// The platform of a fake IOMMU `F`.
#[derive(Debug)]
pub struct FakePlatform<F>(PhantomData<F>);

impl<F: FakeRegisters> Platform for FakePlatform<F> {
    type Mmio = FakeMmio<F>;
    type Memory = Arc<HeapMemory>;
    type Clock = SteppingClock;
    type Observer = Arc<Recorder>;
}

impl<F: FakeRegisters> FakePlatform<F> {
    /// The parts for a fake, its memory and a recorder.
    pub fn parts(fake: &Arc<F>, memory: &Arc<HeapMemory>, recorder: &Arc<Recorder>) -> Parts<Self> {
        Parts {
            mmio: FakeMmio(fake.clone()),
            memory: memory.clone(),
            clock: SteppingClock::default(),
            observer: recorder.clone(),
        }
    }
}
