//! Commands of the command queue (chapter 4). Each has 128 bits, as two little-endian words.
//!
//! Reserved bits are zero, and no field is wider than the specification says.

use super::{address_field, field};

/// One command.
pub type Command = iommu_core::ring::Command<2>;

/// The opcodes (4.1.1), but for those of the secure and realm states.
pub mod opcode {
    /// CMD_PREFETCH_CONFIG.
    pub const PREFETCH_CONFIG: u8 = 0x01;
    /// CMD_PREFETCH_ADDR.
    pub const PREFETCH_ADDR: u8 = 0x02;
    /// CMD_CFGI_STE.
    pub const CFGI_STE: u8 = 0x03;
    /// CMD_CFGI_STE_RANGE, and CMD_CFGI_ALL with a range of 31.
    pub const CFGI_STE_RANGE: u8 = 0x04;
    /// CMD_CFGI_CD.
    pub const CFGI_CD: u8 = 0x05;
    /// CMD_CFGI_CD_ALL.
    pub const CFGI_CD_ALL: u8 = 0x06;
    /// CMD_CFGI_VMS_PIDM.
    pub const CFGI_VMS_PIDM: u8 = 0x07;
    /// CMD_TLBI_NH_ALL.
    pub const TLBI_NH_ALL: u8 = 0x10;
    /// CMD_TLBI_NH_ASID.
    pub const TLBI_NH_ASID: u8 = 0x11;
    /// CMD_TLBI_NH_VA.
    pub const TLBI_NH_VA: u8 = 0x12;
    /// CMD_TLBI_NH_VAA.
    pub const TLBI_NH_VAA: u8 = 0x13;
    /// CMD_TLBI_EL2_ALL.
    pub const TLBI_EL2_ALL: u8 = 0x20;
    /// CMD_TLBI_EL2_ASID.
    pub const TLBI_EL2_ASID: u8 = 0x21;
    /// CMD_TLBI_EL2_VA.
    pub const TLBI_EL2_VA: u8 = 0x22;
    /// CMD_TLBI_EL2_VAA.
    pub const TLBI_EL2_VAA: u8 = 0x23;
    /// CMD_TLBI_S12_VMALL.
    pub const TLBI_S12_VMALL: u8 = 0x28;
    /// CMD_TLBI_S2_IPA.
    pub const TLBI_S2_IPA: u8 = 0x2a;
    /// CMD_TLBI_NSNH_ALL.
    pub const TLBI_NSNH_ALL: u8 = 0x30;
    /// CMD_ATC_INV.
    pub const ATC_INV: u8 = 0x40;
    /// CMD_PRI_RESP.
    pub const PRI_RESP: u8 = 0x41;
    /// CMD_RESUME.
    pub const RESUME: u8 = 0x44;
    /// CMD_STALL_TERM.
    pub const STALL_TERM: u8 = 0x45;
    /// CMD_SYNC.
    pub const SYNC: u8 = 0x46;
    /// CMD_DPTI_ALL.
    pub const DPTI_ALL: u8 = 0x70;
    /// CMD_DPTI_PA.
    pub const DPTI_PA: u8 = 0x73;
}

/// CMD_CFGI_STE: forget the stream table entry of `stream`, and every context descriptor cached
/// for it (4.3.1). Without `leaf`, also the level 1 descriptor that leads to the entry.
///
/// ```text
///  word 0  63        32 31                  8 7      0
///         | StreamID   | reserved, SSec = 0  |  0x03  |
///  word 1  63                               1     0
///         | reserved                         |  Leaf  |
/// ```
pub const fn cfgi_ste(stream: u32, leaf: bool) -> Command {
    [
        opcode::CFGI_STE as u64 | field(stream as u64, 63, 32),
        leaf as u64,
    ]
}

/// CMD_CFGI_ALL: forget every cached configuration structure (4.3.6).
///
/// ```text
///  word 0  63                                8 7      0
///         | reserved                          |  0x04  |
///  word 1  63                          5 4            0
///         | reserved                    |  Range = 31  |
/// ```
pub const fn cfgi_all() -> Command {
    [opcode::CFGI_STE_RANGE as u64, 31]
}

/// CMD_CFGI_CD: forget the context descriptor of `substream` of `stream` (4.3.3). Without `leaf`,
/// also the level 1 descriptor that leads to it in a two-level table.
///
/// ```text
///  word 0  63        32 31          12 11    8 7      0
///         | StreamID   | SubstreamID  | res.  |  0x05  |
///  word 1  63                               1      0
///         | reserved                         | Leaf     |
/// ```
pub const fn cfgi_cd(stream: u32, substream: u32, leaf: bool) -> Command {
    [
        opcode::CFGI_CD as u64 | field(substream as u64, 31, 12) | field(stream as u64, 63, 32),
        leaf as u64,
    ]
}

/// CMD_CFGI_CD_ALL: forget every context descriptor of `stream`, and the level 1 descriptors (4.3.4).
///
/// ```text
///  word 0  63        32 31                  8 7      0
///         | StreamID   | reserved, SSec = 0  |  0x06  |
///  word 1  reserved
/// ```
pub const fn cfgi_cd_all(stream: u32) -> Command {
    [opcode::CFGI_CD_ALL as u64 | field(stream as u64, 63, 32), 0]
}

/// CMD_TLBI_NH_ALL: forget every stage 1 translation tagged with VMID 0, global ones included
/// (4.4.2.1).
///
/// ```text
///  word 0  63   48 47   32 31                 8 7      0
///         | res.  | VMID  | reserved           |  0x10  |
///  word 1  reserved
/// ```
pub const fn tlbi_nh_all() -> Command {
    [opcode::TLBI_NH_ALL as u64, 0]
}

/// A CMD_TLBI_NH_* for the translations tagged with `vmid` instead of 0; only with stage 2 (4.4.2).
pub const fn with_vmid(command: Command, vmid: u16) -> Command {
    const VMID: u64 = 0xffff << 32;
    let [low, high] = command;
    [low & !VMID | field(vmid as u64, 47, 32), high]
}

/// CMD_TLBI_NH_ASID: forget every non-global translation tagged with `asid` and VMID 0 (4.4.2).
///
/// ```text
///  word 0  63   48 47   32 31                 8 7      0
///         | ASID  | VMID  | reserved           |  0x11  |
///  word 1  reserved
/// ```
pub const fn tlbi_nh_asid(asid: u16) -> Command {
    [opcode::TLBI_NH_ASID as u64 | field(asid as u64, 63, 48), 0]
}

/// CMD_TLBI_NH_VA for the entries, of whatever granule, that hold `address` (4.4.2). With `leaf`,
/// the caches of table descriptors are left alone.
///
/// ```text
///  word 0  63   48 47   32 31..25 24   20 19..17 16  12 11   8 7      0
///         | ASID  | VMID  | res. | SCALE | res.  | NUM | res. |  0x12  |
///  word 1  63              12 11  10 9   8 7                 1    0
///         | Address[63:12]   |  TG  | TTL | reserved          | Leaf |
/// ```
pub const fn tlbi_nh_va(asid: u16, address: u64, leaf: bool) -> Command {
    [
        opcode::TLBI_NH_VA as u64 | field(asid as u64, 63, 48),
        address_field(address, 63, 12) | leaf as u64,
    ]
}

/// CMD_TLBI_NH_VAA: as [`tlbi_nh_va`] without a range, under every ASID (4.4.2.3).
///
/// ```text
///  word 0  63   48 47   32 31..25 24   20 19..17 16  12 11   8 7      0
///         | res.  | VMID  | res. | SCALE | res.  | NUM | res. |  0x13  |
///  word 1  63              12 11  10 9   8 7                 1    0
///         | Address[63:12]   |  TG  | TTL | reserved          | Leaf |
/// ```
pub const fn tlbi_nh_vaa(address: u64, leaf: bool) -> Command {
    let [low, high] = tlbi_nh_va(0, address, leaf);
    [low & !0xff | opcode::TLBI_NH_VAA as u64, high]
}

/// The granule whose pages a range counts: TG (4.4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granule {
    /// 4 KiB.
    Size4K = 0b01,
    /// 16 KiB.
    Size16K = 0b10,
    /// 64 KiB.
    Size64K = 0b11,
}

/// What a range invalidation covers: (NUM + 1) × 2^SCALE pages (4.4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCount {
    num: u8,
    scale: u8,
}

impl PageCount {
    /// `multiplier` × 2^`scale` pages; `None` unless `multiplier` is 1 to 32, `scale` at most 31,
    /// and there are at least two pages: a single page without a level hint is a reserved
    /// encoding, for which the SMMU stops its queue.
    pub const fn new(multiplier: u64, scale: u32) -> Option<Self> {
        if multiplier == 0 || multiplier > 32 || scale > 31 || (multiplier == 1 && scale == 0) {
            return None;
        }
        Some(Self {
            num: (multiplier - 1) as u8,
            scale: scale as u8,
        })
    }

    /// The number of pages.
    pub const fn pages(self) -> u64 {
        (self.num as u64 + 1) << self.scale
    }
}

/// CMD_TLBI_NH_VA for `count` pages of 4 KiB from `address`; only with SMMU_IDR3.RIL.
pub const fn tlbi_nh_va_range(asid: u16, address: u64, count: PageCount, leaf: bool) -> Command {
    with_range(tlbi_nh_va(asid, address, leaf), Granule::Size4K, count)
}

/// A [`tlbi_nh_va`] or [`tlbi_nh_vaa`] for `count` pages of `granule` from its address, which is
/// rounded down to the granule; only with SMMU_IDR3.RIL.
///
/// TTL stays 0, "at any level": a range may hold blocks as well as pages, and a hint for one level
/// keeps entries of the others.
pub const fn with_range(command: Command, granule: Granule, count: PageCount) -> Command {
    let [low, high] = command;
    let offset = match granule {
        Granule::Size4K => 0,
        Granule::Size16K => 0x3fff & !0xfff,
        Granule::Size64K => 0xffff & !0xfff,
    };
    [
        low | field(count.num as u64, 16, 12) | field(count.scale as u64, 24, 20),
        high & !offset | field(granule as u64, 11, 10),
    ]
}

/// CMD_TLBI_EL2_ALL: forget every translation of the non-secure EL2 regime (4.4.2); only with
/// SMMU_IDR0.Hyp.
pub const fn tlbi_el2_all() -> Command {
    [opcode::TLBI_EL2_ALL as u64, 0]
}

/// CMD_TLBI_NSNH_ALL: forget every non-secure translation outside EL2 (4.4.4).
pub const fn tlbi_nsnh_all() -> Command {
    [opcode::TLBI_NSNH_ALL as u64, 0]
}

/// CMD_ATC_INV: have the device TLB of `stream` forget 2^`order` pages of 4 KiB from `address`
/// (4.5.1); only with SMMU_IDR0.ATS.
///
/// With a substream, those tagged with that PASID; without, the request has no PASID and takes
/// every entry in the span. An order of 52 covers everything.
///
/// ```text
///  word 0  63        32 31          12  11   10   9   8 7      0
///         | StreamID   | SubstreamID  | SSV | 0 | G | 0 |  0x40  |
///  word 1  63              12 11              6 5             0
///         | Address[63:12]   | reserved        | Size          |
/// ```
pub const fn atc_inv(stream: u32, substream: Option<u32>, address: u64, order: u32) -> Command {
    let substream = match substream {
        Some(substream) => 1 << 11 | field(substream as u64, 31, 12),
        None => 0,
    };
    [
        opcode::ATC_INV as u64 | substream | field(stream as u64, 63, 32),
        address_field(address, 63, 12) | field(order as u64, 5, 0),
    ]
}

/// An [`atc_inv`] with a substream whose G bit makes it reach the span under every PASID (4.5.1).
pub const fn atc_inv_global(command: Command) -> Command {
    let [low, high] = command;
    [low | 1 << 9, high]
}

/// What CMD_PRI_RESP says (4.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseCode {
    /// 0b00: nothing works any more; the device disables its page-request interface.
    ResponseFailure = 0b00,
    /// 0b01: a page is not there or must not be used so.
    InvalidRequest = 0b01,
    /// 0b10: every page is there.
    Success = 0b10,
}

/// CMD_PRI_RESP: answer page request group `index` of `stream` (4.5.2); only with SMMU_IDR0.PRI.
/// With a substream, the response carries it as PASID.
///
/// ```text
///  word 0  63        32 31          12  11   10   8 7      0
///         | StreamID   | SubstreamID  | SSV | res. |  0x41  |
///  word 1  63              14 13    12 11   9 8            0
///         | reserved         |  Resp  | res. | PRGIndex     |
/// ```
pub const fn pri_resp(
    stream: u32,
    substream: Option<u32>,
    index: u16,
    code: ResponseCode,
) -> Command {
    let substream = match substream {
        Some(substream) => 1 << 11 | field(substream as u64, 31, 12),
        None => 0,
    };
    [
        opcode::PRI_RESP as u64 | substream | field(stream as u64, 63, 32),
        field(index as u64, 8, 0) | field(code as u64, 13, 12),
    ]
}

/// What becomes of a stalled transaction: Ac in bit 0, Ab in bit 1 (4.7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// It is translated anew.
    Retry = 0b01,
    /// It ends with an abort.
    Abort = 0b10,
}

/// CMD_RESUME: go on with the transaction of `stream` that stalled under `tag` (4.7.1); only where
/// stalls are supported.
///
/// ```text
///  word 0  63        32 31..14  13   12   11   8 7      0
///         | StreamID   | res. | Ab | Ac | res. |  0x44  |
///  word 1  63                       16 15              0
///         | reserved                  | STAG            |
/// ```
pub const fn resume(stream: u32, tag: u16, action: Resume) -> Command {
    [
        opcode::RESUME as u64 | field(action as u64, 13, 12) | field(stream as u64, 63, 32),
        tag as u64,
    ]
}

/// CMD_STALL_TERM: end every stalled transaction of `stream`, whose entry lets none through any more
/// (4.7.2); only where stalls are supported.
///
/// ```text
///  word 0  63        32 31                  8 7      0
///         | StreamID   | reserved, SSec = 0  |  0x45  |
///  word 1  reserved
/// ```
pub const fn stall_term(stream: u32) -> Command {
    [opcode::STALL_TERM as u64 | field(stream as u64, 63, 32), 0]
}

/// CMD_SYNC without a completion signal (CS = SIG_NONE, 4.7.3): it is consumed when everything
/// before it is complete, and commands behind it do not begin before that.
pub const fn sync() -> Command {
    [opcode::SYNC as u64, 0]
}

/// CMD_SYNC that writes `data` to the 32-bit word at `address`, in inner-shareable write-back
/// memory, when it is complete; only with SMMU_IDR0.MSI.
///
/// ```text
///  word 0  63     32 31..28 27     24 23  22 21..14 13 12 11   8 7      0
///         | MSIData | res. | MSIAttr | MSH  | res. |  CS | res. |  0x46  |
///  word 1  63..56 55                                2 1  0
///         | res. | MSIAddress[55:2]                  | res |
/// ```
pub const fn sync_with_message(address: u64, data: u32) -> Command {
    const SIG_IRQ: u64 = 0b01;
    const INNER_SHAREABLE: u64 = 0b11;
    const WRITE_BACK: u64 = 0b1111;
    [
        opcode::SYNC as u64
            | field(SIG_IRQ, 13, 12)
            | field(INNER_SHAREABLE, 23, 22)
            | field(WRITE_BACK, 27, 24)
            | field(data as u64, 63, 32),
        address_field(address, 55, 2),
    ]
}
