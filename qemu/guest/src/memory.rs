//! The kernel's frames and its identity mapping: the only place that turns a physical address into
//! a pointer to RAM.

use crate::acpi::PhysicalBytes;
use crate::arch;
use crate::arch::native::{cpu, paging::Format};
use crate::frames::{FrameAllocator, FrameMemory, POISON};
use crate::page_table::{Access, MapError, PAGE_SIZE, PageTable, TableMemory};
use crate::region::{Region, gaps};
use alloc::vec::Vec;
use core::ptr;
use spin::{Mutex, Once};

/// Physical addresses below this are mapped one to one: RAM cached, all else uncached.
pub const IDENTITY_END: u64 = 4 << 30;
/// RAM beyond this much after the kernel is left alone, so that poisoning it stays cheap.
const POOL_SIZE: u64 = 32 << 20;
const WORDS: usize = (PAGE_SIZE / 8) as usize;

static FRAMES: Once<Mutex<FrameAllocator<Identity>>> = Once::new();
static POOL: Once<Region> = Once::new();
static KERNEL: Once<PageTable<Format>> = Once::new();

/// RAM through the identity mapping.
#[derive(Clone, Copy, Debug)]
pub struct Identity;

impl FrameMemory for Identity {
    fn fill(&mut self, frame: u64, word: u64) {
        for index in 0..WORDS {
            // SAFETY: the allocator hands out only frames of its pool, which is RAM that nothing
            // else uses; the index stays inside the frame.
            unsafe { ptr::write_volatile((frame as *mut u64).add(index), word) };
        }
    }

    fn is_poisoned(&self, frame: u64) -> bool {
        // SAFETY: as for `fill`.
        (0..WORDS)
            .all(|index| unsafe { ptr::read_volatile((frame as *const u64).add(index)) } == POISON)
    }
}

impl PhysicalBytes for Identity {
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
        let end = address.checked_add(length as u64)?;
        if address == 0 || end > IDENTITY_END {
            return None;
        }
        // SAFETY: everything below IDENTITY_END is mapped, firmware's tables are not written while
        // the kernel runs, and bytes have neither alignment nor invalid values.
        Some(unsafe { core::slice::from_raw_parts(address as *const u8, length) })
    }
}

/// Page tables in frames of the pool.
#[derive(Clone, Copy, Debug)]
pub struct Tables;

impl TableMemory for Tables {
    fn allocate_table(&mut self) -> Option<u64> {
        allocate_frames(1, PAGE_SIZE)
    }

    fn free_table(&mut self, table: u64) {
        free_frames(table, 1);
    }

    fn read(&self, table: u64, index: usize) -> u64 {
        read_word(table + index as u64 * 8)
    }

    fn write(&mut self, table: u64, index: usize, entry: u64) {
        let address = table + index as u64 * 8;
        write_word(address, entry);
        // For an IOMMU whose walks do not snoop the processor's caches.
        cpu::clean(address, 8);
    }
}

/// Sets up the pool of frames after the kernel's image, builds the identity mapping and turns
/// translation on. `uncached` are device windows above [`IDENTITY_END`].
///
/// Called once, by the start code, before any other function of this module.
pub fn initialize(
    ram: &[Region],
    reserved: &[Region],
    uncached: &[Region],
) -> Result<(), MapError> {
    let pool = choose_pool(ram, reserved).ok_or(MapError::OutOfFrames)?;
    let frames = FrameAllocator::new(pool, Identity);
    POOL.call_once(|| frames.region());
    FRAMES.call_once(|| Mutex::new(frames));
    for levels in cpu::LEVELS {
        let table = build_identity(*levels, ram, uncached)?;
        // SAFETY: the table maps the kernel, its stack and its devices where they are now.
        if unsafe { cpu::enable_translation(table.root(), *levels) } {
            KERNEL.call_once(|| table);
            return Ok(());
        }
    }
    panic!("the processor takes none of the page-table formats");
}

/// The kernel's own page table.
pub fn kernel_table() -> &'static PageTable<Format> {
    KERNEL.get().expect("the start code turns translation on")
}

/// `count` contiguous zeroed frames aligned to `alignment` bytes; see
/// [`FrameAllocator::allocate`].
pub fn allocate_frames(count: usize, alignment: u64) -> Option<u64> {
    frames().lock().allocate(count, alignment)
}

/// Takes frames back and poisons them; see [`FrameAllocator::free`].
pub fn free_frames(base: u64, count: usize) {
    frames().lock().free(base, count);
}

/// Whether the frame is free and nobody wrote to it since; see [`FrameAllocator::is_poisoned`].
pub fn is_poisoned(frame: u64) -> bool {
    frames().lock().is_poisoned(frame)
}

/// Reads the 64-bit word at physical address `address`, which lies in the pool and is a multiple
/// of 8.
pub fn read_word(address: u64) -> u64 {
    check_word(address);
    // SAFETY: the address lies in the pool, whose memory is only accessed by volatile words.
    unsafe { ptr::read_volatile(address as *const u64) }
}

/// Writes the 64-bit word at physical address `address`, as for [`read_word`].
pub fn write_word(address: u64, word: u64) {
    check_word(address);
    // SAFETY: as for `read_word`.
    unsafe { ptr::write_volatile(address as *mut u64, word) }
}

/// Where the pool's frames lie.
pub fn pool() -> Region {
    *POOL.get().expect("the start code sets up the pool")
}

/// Frames of the pool that are free.
pub fn free_frame_count() -> usize {
    frames().lock().free_count()
}

fn frames() -> &'static Mutex<FrameAllocator<Identity>> {
    FRAMES.get().expect("the start code sets up the pool")
}

fn check_word(address: u64) {
    assert!(
        address.is_multiple_of(8)
            && pool().contains(&Region {
                base: address,
                size: 8
            }),
        "{address:#x} is no word of the pool at {}",
        pool()
    );
}

/// The first stretch of RAM after the kernel's image that nothing else occupies.
fn choose_pool(ram: &[Region], reserved: &[Region]) -> Option<Region> {
    let image_end = arch::kernel_image().end();
    let bank = ram
        .iter()
        .find(|bank| bank.contains(&arch::kernel_image()))?;
    let occupied = |base: u64| reserved.iter().find(|part| part.end() > base).copied();
    let limit = occupied(image_end).map_or(bank.end(), |part| part.base.min(bank.end()));
    let limit = limit.min(IDENTITY_END).min(image_end + POOL_SIZE);
    let pool = Region::between(image_end, limit).shrink_to(PAGE_SIZE);
    (pool.size > 0).then_some(pool)
}

fn build_identity(
    levels: u8,
    ram: &[Region],
    uncached: &[Region],
) -> Result<PageTable<Format>, MapError> {
    let mut table = PageTable::new(&mut Tables, levels)?;
    let whole = Region::between(0, IDENTITY_END);
    let mut result = Ok(());
    let mut cached = Vec::new();
    for bank in ram {
        let bank = bank.shrink_to(PAGE_SIZE);
        cached.push(Region::between(bank.base, bank.end().min(IDENTITY_END)));
    }
    for bank in &cached {
        table.map_identity(&mut Tables, *bank, Access::KernelMemory)?;
    }
    gaps(whole, &cached, |gap| {
        result =
            result.and_then(|()| table.map_identity(&mut Tables, gap, Access::DeviceRegisters));
    });
    for window in uncached.iter().filter(|window| window.base >= IDENTITY_END) {
        table.map_identity(
            &mut Tables,
            window.grow_to(PAGE_SIZE),
            Access::DeviceRegisters,
        )?;
    }
    result.map(|()| table)
}
