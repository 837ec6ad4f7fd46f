//! The commands of the command queue (section "Command-Queue"): two doublewords each.
//!
//! ```text
//! IOTINVAL  63 60 59    44 43  35 34 33  32   31     12 11 10 9     7 6       0
//!          +-----+--------+------+--+--+----+----------+--+--+-------+---------+
//!       0  | rsvd| GSCID  | rsvd |NL|GV|PSCV|  PSCID   |0 |AV| func3 | opcode 1|   VMA 0, GVMA 1
//!          +-----+--------+------+--+--+----+----------+--+--+-------+---------+
//!       1  | 63:62 rsvd |  61:10 ADDR[63:12]  | 9 S | 8:0 rsvd                 |
//!          +-------------------------------------------------------------------+
//! IOFENCE   63              32 31       14 13  12   11  10  9     7 6       0
//!          +------------------+-----------+---+---+----+---+-------+---------+
//!       0  |      DATA        |    rsvd   | PW| PR| WSI| AV| func3 | opcode 2|     C 0
//!          +------------------+-----------+---+---+----+---+-------+---------+
//!       1  | 63:62 rsvd |  61:0 ADDR[63:2]                                   |
//!          +-----------------------------------------------------------------+
//! IODIR     63      40 39  34 33  32  31      12 11 10 9     7 6       0
//!          +----------+------+---+---+----------+-----+-------+---------+
//!       0  |   DID    | rsvd | DV| 0 |   PID    | rsvd| func3 | opcode 3|    INVAL_DDT 0, INVAL_PDT 1
//!          +----------+------+---+---+----------+-----+-------+---------+
//!       1  | rsvd                                                      |
//!          +-----------------------------------------------------------+
//! ATS       63  56 55   40 39  34 33  32  31      12 11 10 9     7 6       0
//!          +------+-------+------+---+---+----------+-----+-------+---------+
//!       0  | DSEG |  RID  | rsvd |DSV| PV|   PID    | rsvd| func3 | opcode 4|   INVAL 0, PRGR 1
//!          +------+-------+------+---+---+----------+-----+-------+---------+
//!       1  | PAYLOAD; of INVAL: 63:12 address, 11 S, 10:1 zero, 0 G        |
//!          |          of PRGR: 47:44 response code, 40:32 PRGI             |
//!          +---------------------------------------------------------------+
//! ```
//!
//! A reserved bit that is set makes a command illegal and stops the queue, so every operand is
//! masked to its field.

use iommu_core::cover::Block;
use iommu_core::ids::{DeviceId, Pasid, Tag};
use iommu_core::ring::{Command as Words, CompletionWord};
use opcode::{
    ATS_INVAL, ATS_PRGR, IODIR_INVAL_DDT, IODIR_INVAL_PDT, IOFENCE_C, IOTINVAL_GVMA, IOTINVAL_VMA,
};

/// A command.
pub type Command = Words<2>;

/// Opcode and func3 of each command: bits 9:0 of the first doubleword.
pub mod opcode {
    /// IOTINVAL.VMA.
    pub const IOTINVAL_VMA: u64 = 1;
    /// IOTINVAL.GVMA.
    pub const IOTINVAL_GVMA: u64 = 1 | 1 << 7;
    /// IOFENCE.C.
    pub const IOFENCE_C: u64 = 2;
    /// IODIR.INVAL_DDT.
    pub const IODIR_INVAL_DDT: u64 = 3;
    /// IODIR.INVAL_PDT.
    pub const IODIR_INVAL_PDT: u64 = 3 | 1 << 7;
    /// ATS.INVAL.
    pub const ATS_INVAL: u64 = 4;
    /// ATS.PRGR.
    pub const ATS_PRGR: u64 = 4 | 1 << 7;
}

/// IOTINVAL, IOFENCE: the address operand is valid.
const AV: u64 = 1 << 10;
const PSCV: u64 = 1 << 32;
const GV: u64 = 1 << 33;
const NL: u64 = 1 << 34;
/// IOTINVAL: the address operand is a range.
const IOTINVAL_S: u64 = 1 << 9;
const PR: u64 = 1 << 12;
const PW: u64 = 1 << 13;
const DV: u64 = 1 << 33;
const PV: u64 = 1 << 32;
const DSV: u64 = 1 << 33;
/// ATS.INVAL: the address of the payload is a range.
const PAYLOAD_S: u64 = 1 << 11;
/// ATS.INVAL: under every PASID.
const PAYLOAD_G: u64 = 1;

const PAGE_MASK: u64 = !0xfff;

/// The 20-bit operand in bits 31:12.
const fn operand_20(value: u32) -> u64 {
    (value as u64 & 0xf_ffff) << 12
}

/// The DID operand of IODIR.
const fn did(device: DeviceId) -> u64 {
    (device.0 as u64 & 0xff_ffff) << 40 | DV
}

/// The ADDR operand of IOTINVAL for a page.
const fn iotinval_address(address: u64) -> u64 {
    (address & PAGE_MASK) >> 2
}

/// An aligned block as PCIe ATS and the address-range extension write it: below the block's size,
/// ones with a zero on top. A page has no bits to spare and is written without the S bit.
const fn napot(block: Block) -> u64 {
    if block.order >= Block::ALL_ORDER {
        return u64::MAX >> 1 & PAGE_MASK;
    }
    let size = 1u64 << (block.order + 12);
    (block.address & !(size - 1) | (size / 2 - 1)) & PAGE_MASK
}

/// Which page-table levels an address-specific invalidation reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Leaf entries.
    Leaf,
    /// Every level; only if `capabilities.NL`.
    NonLeaf,
}

impl Reach {
    const fn bit(self) -> u64 {
        match self {
            Self::Leaf => 0,
            Self::NonLeaf => NL,
        }
    }
}

/// Everything cached of every first-stage table, global mappings included.
pub const fn iotinval_vma_all() -> Command {
    [IOTINVAL_VMA, 0]
}

/// Everything cached under a tag, global mappings left out.
pub const fn iotinval_vma_tag(tag: Tag) -> Command {
    [IOTINVAL_VMA | PSCV | operand_20(tag.0), 0]
}

/// What is cached under a tag for the page at `address`, a virtual address in bytes.
pub const fn iotinval_vma_page(tag: Tag, address: u64, reach: Reach) -> Command {
    let [first, _] = iotinval_vma_tag(tag);
    [first | AV | reach.bit(), iotinval_address(address)]
}

/// What is cached under a tag for a block; a block of more than one page only if
/// `capabilities.S`.
pub const fn iotinval_vma_block(tag: Tag, block: Block, reach: Reach) -> Command {
    let [first, address] = iotinval_vma_page(tag, napot(block), reach);
    let range = if block.order == 0 { 0 } else { IOTINVAL_S };
    [first, address | range]
}

/// What is cached for a block under every tag, global mappings included; a block of more than one page
/// only if `capabilities.S`.
pub const fn iotinval_vma_block_all(block: Block, reach: Reach) -> Command {
    let [first, second] = iotinval_vma_block(Tag(0), block, reach);
    [first & !PSCV, second]
}

/// An IOTINVAL.VMA for the guest `gscid` instead of the host; only if there is a second stage.
pub const fn for_guest(command: Command, gscid: u16) -> Command {
    const GSCID: u64 = 0xffff << 44;
    let [first, second] = command;
    [first & !GSCID | GV | (gscid as u64) << 44, second]
}

/// Everything cached of every second-stage table; only if there is a second stage.
pub const fn iotinval_gvma_all() -> Command {
    [IOTINVAL_GVMA, 0]
}

/// Complete when every command before it is. It says so to nobody.
pub const fn iofence() -> Command {
    [IOFENCE_C, 0]
}

/// [`iofence`] that is complete when also the device reads (PR), or writes (PW), that the IOMMU has
/// already processed can be observed by all harts.
pub const fn iofence_after(reads: bool, writes: bool) -> Command {
    let reads = if reads { PR } else { 0 };
    let writes = if writes { PW } else { 0 };
    [IOFENCE_C | reads | writes, 0]
}

/// Complete when every command before it is, and when the device reads (PR) and writes (PW) that
/// the IOMMU has already processed can be observed by all harts. Writes `word` then.
pub const fn iofence_with_word(word: CompletionWord) -> Command {
    [
        IOFENCE_C | AV | PR | PW | (word.value as u64) << 32,
        word.address.0 >> 2,
    ]
}

/// Every cached device and process context.
pub const fn iodir_inval_ddt_all() -> Command {
    [IODIR_INVAL_DDT, 0]
}

/// The cached context of a device and all its process contexts.
pub const fn iodir_inval_ddt(device: DeviceId) -> Command {
    [IODIR_INVAL_DDT | did(device), 0]
}

/// One cached process context of a device.
pub const fn iodir_inval_pdt(device: DeviceId, pasid: Pasid) -> Command {
    [IODIR_INVAL_PDT | did(device) | operand_20(pasid.get()), 0]
}

/// An invalidation request to the device: its translations of a block, for a PASID or for requests
/// without one. Bits 23:16 of the device id are the segment number.
pub const fn ats_inval(device: DeviceId, pasid: Pasid, block: Block) -> Command {
    let pasid = if pasid.is_untagged() {
        None
    } else {
        Some(pasid)
    };
    ats_inval_as(device, pasid, block)
}

/// The same; the request carries `pasid`, if there is one, even if it is 0.
pub const fn ats_inval_as(device: DeviceId, pasid: Option<Pasid>, block: Block) -> Command {
    let process = match pasid {
        Some(pasid) => PV | operand_20(pasid.get()),
        None => 0,
    };
    let range = if block.order == 0 { 0 } else { PAYLOAD_S };
    let payload = napot(block) | range;
    [ATS_INVAL | destination(device) | process, payload]
}

/// An [`ats_inval_as`] with a PASID whose G bit makes it reach the block under every PASID.
pub const fn ats_inval_global(command: Command) -> Command {
    let [first, payload] = command;
    [first, payload | PAYLOAD_G]
}

/// What a page request group response says (PCIe 6.0 section 10.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseCode {
    /// 0000b.
    Success = 0,
    /// 0001b.
    InvalidRequest = 1,
    /// 1111b: the device disables its page-request interface.
    ResponseFailure = 0xf,
}

/// A page request group response to the device. With a PASID, the message carries it.
pub const fn ats_prgr(
    device: DeviceId,
    pasid: Option<Pasid>,
    group_index: u16,
    code: ResponseCode,
) -> Command {
    let process = match pasid {
        Some(pasid) => PV | operand_20(pasid.get()),
        None => 0,
    };
    let payload = (group_index as u64 & 0x1ff) << 32 | (code as u64) << 44;
    [ATS_PRGR | destination(device) | process, payload]
}

/// The DSV, DSEG and RID operands of ATS commands: bits 23:16 of the device id are the segment
/// number.
const fn destination(device: DeviceId) -> u64 {
    let segment = device.0 >> 16 & 0xff;
    let destination = (device.0 as u64 & 0xffff) << 40;
    if segment == 0 {
        destination
    } else {
        destination | DSV | (segment as u64) << 56
    }
}
