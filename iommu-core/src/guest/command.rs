//! A command on either side: what the guest wrote, and what the host sends.

use super::{GuestDevice, Refusal};
use crate::cover::{Block, PAGE_SHIFT};
use crate::ids::DeviceId;
use crate::planted::{self, Fault};
use crate::quarantine::{Quarantine, Standing};
use crate::ring::Command;

/// One command as a guest wrote it.
///
/// It is a copy: the hypervisor reads the guest's queue once, since the guest can change its memory
/// between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestCommand<const WORDS: usize> {
    words: Command<WORDS>,
    bytes: usize,
}

impl<const WORDS: usize> GuestCommand<WORDS> {
    /// The little-endian words; those that the guest's queue does not have are 0.
    pub const fn words(&self) -> Command<WORDS> {
        self.words
    }

    /// How many bytes an entry of the guest's queue has.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let (chunks, _) = bytes.as_chunks::<8>();
        let mut words = [0; WORDS];
        for (word, chunk) in words.iter_mut().zip(chunks) {
            *word = u64::from_le_bytes(*chunk);
        }
        Self {
            words,
            bytes: bytes.len(),
        }
    }
}

/// SMMUv3, RISC-V.
impl From<[u8; 16]> for GuestCommand<2> {
    fn from(bytes: [u8; 16]) -> Self {
        Self::from_bytes(&bytes)
    }
}

/// VT-d, from a queue of 128-bit descriptors.
impl From<[u8; 16]> for GuestCommand<4> {
    fn from(bytes: [u8; 16]) -> Self {
        Self::from_bytes(&bytes)
    }
}

/// VT-d, from a queue of 256-bit descriptors.
impl From<[u8; 32]> for GuestCommand<4> {
    fn from(bytes: [u8; 32]) -> Self {
        Self::from_bytes(&bytes)
    }
}

/// A legal command of the host that does for a guest what the guest asked for, and nothing to anybody
/// else. Backends make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostCommand<const WORDS: usize> {
    words: Command<WORDS>,
    device: Option<GuestDevice>,
    is_device_tlb: bool,
}

impl<const WORDS: usize> HostCommand<WORDS> {
    /// A command that names no device, but for instance the guest's tag.
    pub const fn new(words: Command<WORDS>) -> Self {
        Self {
            words,
            device: None,
            is_device_tlb: false,
        }
    }

    /// An invalidation of what the IOMMU caches of a structure of `device`.
    pub const fn about_device(words: Command<WORDS>, device: GuestDevice) -> Self {
        Self {
            words,
            device: Some(device),
            is_device_tlb: false,
        }
    }

    /// An invalidation of the TLB of `device`, which has to answer it.
    pub const fn to_device(words: Command<WORDS>, device: GuestDevice) -> Self {
        Self {
            words,
            device: Some(device),
            is_device_tlb: true,
        }
    }

    /// What the host posts.
    pub const fn words(&self) -> Command<WORDS> {
        self.words
    }

    /// The device that the command names, if it names one.
    pub const fn device(&self) -> Option<GuestDevice> {
        self.device
    }

    /// The device that has to answer.
    pub const fn asked_device(&self) -> Option<GuestDevice> {
        if self.is_device_tlb {
            self.device
        } else {
            None
        }
    }

    /// The command, if its device can be asked: `device_tlb` says of a device whether it has a device
    /// TLB, `None` if it is not enabled on the IOMMU.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownDevice`], [`Refusal::NoDeviceTlb`], [`Refusal::DeviceSilent`].
    pub fn admitted(
        self,
        device_tlb: impl Fn(DeviceId) -> Option<bool>,
        quarantine: &Quarantine,
    ) -> Result<Self, Refusal> {
        let Some(GuestDevice { guest, host }) = self.device else {
            return Ok(self);
        };
        let has_tlb = device_tlb(host).ok_or(Refusal::UnknownDevice(guest))?;
        if !self.is_device_tlb {
            return Ok(self);
        }
        if !has_tlb {
            return Err(Refusal::NoDeviceTlb(guest));
        }
        match quarantine.standing(host) {
            Standing::Suspect => Err(Refusal::DeviceSilent(guest)),
            Standing::Sound | Standing::Quarantined => Ok(self),
        }
    }
}

/// Refuses a command with a bit outside `fields`.
///
/// # Errors
///
/// [`Refusal::ReservedBits`] with those of the first such word.
pub fn check_reserved<const WORDS: usize>(
    words: Command<WORDS>,
    fields: Command<WORDS>,
) -> Result<(), Refusal> {
    let reserved = |index: &usize| words[*index] & !fields[*index];
    match (0..WORDS).find(|index| reserved(index) != 0) {
        Some(index) if !planted::is(Fault::GuestReservedBitsPassed) => Err(Refusal::ReservedBits {
            word: index as u8,
            bits: reserved(&index),
        }),
        _ => Ok(()),
    }
}

/// The block that an address stands for where PCIe's rule holds (ATS, section 10.3.1): one page, or if
/// `is_range`, as many as the lowest clear bit of the page number says.
///
/// # Errors
///
/// [`Refusal::ReservedValue`] of `field` for a range without a clear bit.
pub fn sized_block(address: u64, is_range: bool, field: &'static str) -> Result<Block, Refusal> {
    let page = address >> PAGE_SHIFT;
    let order = match is_range {
        true => page.trailing_ones() + 1,
        false => 0,
    };
    match order {
        ..Block::ALL_ORDER => Ok(Block {
            address: page >> order << order << PAGE_SHIFT,
            order,
        }),
        Block::ALL_ORDER => Ok(Block::ALL),
        _ => Err(Refusal::ReservedValue {
            field,
            value: address,
        }),
    }
}

/// Refuses a block outside the addresses of `bits` bits that are sign-extended, as in first stages of
/// x86 and RISC-V. A block of more than half of them has any address.
///
/// # Errors
///
/// [`Refusal::AddressOutside`].
pub fn check_sign_extended(block: Block, bits: u8) -> Result<(), Refusal> {
    let Block { address, order } = block;
    let sign = u32::from(bits.clamp(1, 64)) - 1;
    let upper = (address as i64) >> sign;
    if order + PAGE_SHIFT <= sign && upper != 0 && upper != -1 {
        return Err(Refusal::AddressOutside { address, bits });
    }
    Ok(())
}
