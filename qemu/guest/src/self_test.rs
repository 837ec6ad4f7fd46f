//! Shows that the kernel's own parts work, before any IOMMU is involved: processor and devices meet
//! in memory by physical address.

use crate::address_space::AddressSpace;
use crate::arch::native::clock;
use crate::devices::DeviceError;
use crate::devices::edu::{self, Edu};
use crate::devices::test_device::{self, PATTERN, TestDevice, WriteResult};
use crate::machine::{IommuNode, Machine, MachineError};
use crate::memory;
use crate::page_table::{MapError, PAGE_SIZE};
use crate::println;
use core::fmt;

const FIRST_WORD: u64 = 0x0123_4567_89ab_cdef;

/// What did not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SelfTestError {
    /// A device is not there.
    Machine(MachineError),
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
            Self::Machine(error) => error.fmt(formatter),
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

impl From<MachineError> for SelfTestError {
    fn from(error: MachineError) -> Self {
        Self::Machine(error)
    }
}

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
    devices_use_physical_addresses(
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

/// Loads from an address that no table maps: ends in the exception handler.
pub fn fault() -> ! {
    let unmapped = memory::kernel_table().user_region().base;
    // SAFETY: the load faults before it has a value, and the handler does not return.
    unsafe { core::ptr::read_volatile(unmapped as *const u64) };
    panic!("the load from unmapped {unmapped:#x} succeeded")
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

fn devices_use_physical_addresses(
    machine: &Machine,
    space: &AddressSpace,
    pages: [u64; 2],
    frames: [u64; 2],
) -> Result<(), SelfTestError> {
    let blocked = iommu_blocks_after_reset(machine);
    let (address, registers) = machine.claim(edu::IDENTITY, edu::NAME)?;
    let edu = Edu::new(address, registers, clock::nanoseconds);
    edu.read_from(frames[0], PAGE_SIZE as usize)?;
    edu.write_to(frames[1], PAGE_SIZE as usize)?;
    let (first, second) = if blocked {
        (0, 0)
    } else {
        (FIRST_WORD, !FIRST_WORD)
    };
    expect("first word that edu copied", first, space.load(pages[1]))?;
    expect(
        "second word that edu copied",
        second,
        space.load(pages[1] + 8),
    )?;

    let (address, registers) = machine.claim(test_device::IDENTITY, test_device::NAME)?;
    let test_device = TestDevice::new(address, registers);
    let target = frames[1] + 16;
    let (result, word) = if blocked {
        (WriteResult::Refused, 0)
    } else {
        (WriteResult::Arrived, u64::from(PATTERN))
    };
    match test_device.write(target, target) {
        found if found == result => {}
        found => return Err(SelfTestError::Write(found)),
    }
    expect("word of the test device", word, space.load(pages[1] + 16))?;
    println!(
        "edu {} and iommu-testdev {}: {}",
        edu.address(),
        test_device.address(),
        if blocked {
            "refused by the IOMMU"
        } else {
            "reach memory by physical address"
        }
    );
    Ok(())
}

/// A RISC-V IOMMU starts with ddtp.iommu_mode = Off, which refuses every access (IOMMU
/// specification, section 2.2); the others let all through.
fn iommu_blocks_after_reset(machine: &Machine) -> bool {
    matches!(
        machine.iommu(),
        Ok(IommuNode::RiscvPlatform { .. } | IommuNode::RiscvPci { .. })
    )
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
