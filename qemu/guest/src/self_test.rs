//! Shows that the kernel's own parts work, before any IOMMU is involved: processor and devices meet
//! in memory by physical address.

use crate::address_space::AddressSpace;
use crate::arch::native::clock;
use crate::devices::DeviceError;
use crate::devices::edu::Edu;
use crate::devices::test_device::{PATTERN, TestDevice, WriteResult};
use crate::machine::Machine;
use crate::memory;
use crate::page_table::{MapError, PAGE_SIZE};
use crate::println;
use core::fmt;

const FIRST_WORD: u64 = 0x0123_4567_89ab_cdef;

/// What did not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SelfTestError {
    /// A device.
    Device(DeviceError),
    /// The page table.
    Map(MapError),
    /// No frame is left.
    OutOfFrames,
    /// A word is not what it should be.
    Mismatch {
        /// What was looked at.
        what: &'static str,
        /// What it should be.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// The test device's write did not arrive.
    Write(WriteResult),
}

impl fmt::Display for SelfTestError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(error) => error.fmt(formatter),
            Self::Map(error) => error.fmt(formatter),
            Self::OutOfFrames => formatter.write_str("no frame left"),
            Self::Mismatch {
                what,
                expected,
                found,
            } => {
                write!(formatter, "{what}: {found:#x} instead of {expected:#x}")
            }
            Self::Write(result) => write!(formatter, "the test device's write {result}"),
        }
    }
}

impl core::error::Error for SelfTestError {}

impl From<DeviceError> for SelfTestError {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}

impl From<MapError> for SelfTestError {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

/// Runs all of it.
pub fn run(machine: &Machine) -> Result<(), SelfTestError> {
    let free = memory::free_frame_count();
    let mut space = AddressSpace::new()?;
    let base = space.user_region().base;
    let (first, second) = (base, base + 5 * PAGE_SIZE);
    let frame = || memory::allocate_frames(1, PAGE_SIZE).ok_or(SelfTestError::OutOfFrames);
    let (first_frame, second_frame) = (frame()?, frame()?);
    space.map(first, first_frame, true)?;
    space.map(second, second_frame, true)?;
    space.activate();

    processor_shares_memory(&mut space, first, first_frame)?;
    devices_copy_by_physical_address(
        machine,
        &space,
        [first, second],
        [first_frame, second_frame],
    )?;

    let freed = space.unmap(first)?;
    expect("frame of the unmapped page", first_frame, freed)?;
    memory::free_frames(freed, 1);
    expect(
        "poison of the freed frame",
        1,
        u64::from(memory::is_poisoned(freed)),
    )?;
    space.destroy(|_, frame| memory::free_frames(frame, 1));
    expect(
        "free frames at the end",
        free as u64,
        memory::free_frame_count() as u64,
    )?;
    println!("self-test passed");
    Ok(())
}

fn processor_shares_memory(
    space: &mut AddressSpace,
    page: u64,
    frame: u64,
) -> Result<(), SelfTestError> {
    space.store(page, FIRST_WORD);
    expect(
        "stored virtually, read physically",
        FIRST_WORD,
        memory::read_word(frame),
    )?;
    memory::write_word(frame + 8, !FIRST_WORD);
    expect(
        "stored physically, read virtually",
        !FIRST_WORD,
        space.load(page + 8),
    )?;
    space.protect(page)?;
    expect(
        "read through a read-only page",
        FIRST_WORD,
        space.load(page),
    )?;
    println!("processor: virtual {page:#x} is physical {frame:#x}");
    Ok(())
}

fn devices_copy_by_physical_address(
    machine: &Machine,
    space: &AddressSpace,
    pages: [u64; 2],
    frames: [u64; 2],
) -> Result<(), SelfTestError> {
    // SAFETY: they are this machine's functions; their BARs lie in the 32-bit window, which is
    // mapped uncached for ever.
    let edu = unsafe { Edu::find(machine.functions(), machine.ecam(), clock::nanoseconds)? };
    edu.read_from(frames[0], PAGE_SIZE as usize)?;
    edu.write_to(frames[1], PAGE_SIZE as usize)?;
    expect(
        "first word that edu copied",
        FIRST_WORD,
        space.load(pages[1]),
    )?;
    expect(
        "second word that edu copied",
        !FIRST_WORD,
        space.load(pages[1] + 8),
    )?;
    println!(
        "edu {}: copied {:#x} to {:#x}",
        edu.address(),
        frames[0],
        frames[1]
    );

    // SAFETY: as for `edu`.
    let test_device = unsafe { TestDevice::find(machine.functions(), machine.ecam())? };
    match test_device.write(frames[1] + 16, frames[1] + 16) {
        WriteResult::Arrived => {}
        result => return Err(SelfTestError::Write(result)),
    }
    expect(
        "word of the test device",
        u64::from(PATTERN),
        space.load(pages[1] + 16),
    )?;
    println!(
        "iommu-testdev {}: wrote {:#x}",
        test_device.address(),
        frames[1] + 16
    );
    Ok(())
}

fn expect(what: &'static str, expected: u64, found: u64) -> Result<(), SelfTestError> {
    if expected == found {
        Ok(())
    } else {
        Err(SelfTestError::Mismatch {
            what,
            expected,
            found,
        })
    }
}
