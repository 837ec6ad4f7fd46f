//! Invalidation descriptors of 256 bits (section 6.5.2).
//!
//! Words 2 and 3 are zero in all of them. Bits 3:0 of word 0 are the type; its upper part, bits
//! 11:9, is zero for all types here. Bits that a diagram leaves out are reserved and zero.

use super::{PAGE_ADDRESS, field};
use iommu_core::ids::{Pasid, PhysicalAddress};

use kind::{
    CONTEXT_CACHE, DEVICE_TLB, IOTLB, PAGE_GROUP_RESPONSE, PASID_CACHE, PASID_DEVICE_TLB,
    PASID_IOTLB, WAIT,
};

/// One descriptor: four little-endian 64-bit words.
pub type Command = iommu_core::ring::Command<4>;

/// The types of descriptors (6.5.2).
pub mod kind {
    /// Context-cache Invalidate Descriptor.
    pub const CONTEXT_CACHE: u64 = 1;
    /// IOTLB Invalidate Descriptor.
    pub const IOTLB: u64 = 2;
    /// Device-TLB Invalidate Descriptor.
    pub const DEVICE_TLB: u64 = 3;
    /// Interrupt Entry Cache Invalidate Descriptor.
    pub const INTERRUPT_ENTRY_CACHE: u64 = 4;
    /// Invalidation Wait Descriptor.
    pub const WAIT: u64 = 5;
    /// PASID-based-IOTLB Invalidate Descriptor.
    pub const PASID_IOTLB: u64 = 6;
    /// PASID-cache Invalidate Descriptor.
    pub const PASID_CACHE: u64 = 7;
    /// PASID-based-Device-TLB Invalidate Descriptor.
    pub const PASID_DEVICE_TLB: u64 = 8;
    /// Page Group Response Descriptor.
    pub const PAGE_GROUP_RESPONSE: u64 = 9;
}

/// Which DMA requests an IOTLB invalidation waits for: those that CAP.DRD and CAP.DWD offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Reads that are under way.
    pub reads: bool,
    /// Writes that are under way.
    pub writes: bool,
}

/// Context-cache Invalidate Descriptor, global (6.5.2.1).
///
/// ```text
///         63    50 49 48 47     32 31     16      5 4 3  0
/// word 0 +--------+-----+---------+---------+----+---+----+
///        |        | FM  |   SID   |   DID   |    | G | 1  |
///        +--------+-----+---------+---------+----+---+----+
/// ```
///
/// G: 1 global, 2 domain, 3 device. FM masks low bits of the function number.
pub const fn context_cache_global() -> Command {
    [CONTEXT_CACHE | field(1, 4, 2), 0, 0, 0]
}

/// Context-cache Invalidate Descriptor for one device (6.5.2.1), in the layout of
/// [`context_cache_global`].
///
/// In scalable mode a context entry has no domain-id; DID is 0, under which entries that are not
/// present are cached (6.1).
pub const fn context_cache_device(source_id: u16) -> Command {
    let low = CONTEXT_CACHE | field(3, 4, 2) | field(source_id as u64, 32, 16);
    [low, 0, 0, 0]
}

/// IOTLB Invalidate Descriptor, global (6.5.2.3).
///
/// ```text
///         63        32 31     16      7  6  5 4 3  0
/// word 0 +------------+---------+----+--+--+---+----+
///        |            |   DID   |    |DR|DW| G | 2  |
///        +------------+---------+----+--+--+---+----+
/// ```
///
/// G: 1 global, 2 domain, 3 page.
pub const fn iotlb_global(drain: Drain) -> Command {
    [IOTLB | field(1, 4, 2) | drain_bits(drain), 0, 0, 0]
}

/// IOTLB Invalidate Descriptor for everything under `domain_id` (6.5.2.3), in the layout of
/// [`iotlb_global`].
pub const fn iotlb_domain(domain_id: u16, drain: Drain) -> Command {
    let low = IOTLB | field(2, 4, 2) | drain_bits(drain) | field(domain_id as u64, 16, 16);
    [low, 0, 0, 0]
}

/// IOTLB Invalidate Descriptor for 2^`order` pages from `address` under `domain_id` (6.5.2.3), in the
/// layout of [`iotlb_global`], only if CAP.PSI.
///
/// ```text
///         63                       12 11 7  6 5  0
/// word 1 +---------------------------+----+--+----+
///        |        ADDR[63:12]        |    |IH| AM |
///        +---------------------------+----+--+----+
/// ```
///
/// `leaf_only` (IH) says that no entry above the leaves changed. `order` is at most CAP.MAMV.
pub const fn iotlb_page(
    domain_id: u16,
    drain: Drain,
    address: u64,
    order: u32,
    leaf_only: bool,
) -> Command {
    let low = IOTLB | field(3, 4, 2) | drain_bits(drain) | field(domain_id as u64, 16, 16);
    let high = address & PAGE_ADDRESS | field(leaf_only as u64, 6, 1) | field(order as u64, 0, 6);
    [low, high, 0, 0]
}

const fn drain_bits(drain: Drain) -> u64 {
    field(drain.writes as u64, 6, 1) | field(drain.reads as u64, 7, 1)
}

/// Device-TLB Invalidate Descriptor: translations requested without a PASID (6.5.2.5).
///
/// ```text
///         63        52 51  48 47     32 31  21 20   16 15       12     3  0
/// word 0 +------------+------+---------+------+-------+-----------+---+----+
///        |PFSID[15:4] |      |   SID   |      | MIP   |PFSID[3:0] |   | 3  |
///        +------------+------+---------+------+-------+-----------+---+----+
/// word 1 |                 ADDR[63:12]                |            |   | S |
///        +--------------------------------------------+------------+---+---+
/// ```
///
/// The range is encoded as in PCIe: with S = 1, the lowest clear bit of ADDR says the size. MIP = 0
/// names no limit of its own.
pub const fn device_tlb(source_id: u16, pf_source_id: u16, address: u64, order: u32) -> Command {
    let low = DEVICE_TLB | field(source_id as u64, 32, 16) | pfsid(pf_source_id);
    let (range, size) = sized_address(address, order);
    [low, range | size, 0, 0]
}

/// PASID-based-Device-TLB Invalidate Descriptor (6.5.2.6).
///
/// ```text
///         63        52 51    32 31     16 15       12    8  4 3  0
/// word 0 +------------+--------+---------+-----------+--+----+----+
///        |PFSID[15:4] | PASID  |   SID   |PFSID[3:0] |  |MIP | 8  |
///        +------------+--------+---------+-----------+--+----+----+
/// word 1 |            ADDR[63:12]        | S (bit 11)|       | G  |
///        +-------------------------------+-----------+-------+----+
/// ```
///
/// G = 0: only translations tagged with the PASID.
pub const fn pasid_device_tlb(
    source_id: u16,
    pf_source_id: u16,
    pasid: Pasid,
    address: u64,
    order: u32,
) -> Command {
    let low = PASID_DEVICE_TLB
        | field(source_id as u64, 16, 16)
        | field(pasid.get() as u64, 32, 20)
        | pfsid(pf_source_id);
    let (range, size) = sized_address(address, order);
    [low, range | size << 11, 0, 0]
}

/// A [`pasid_device_tlb`] with G = 1: the range under every PASID of the device (6.5.2.6).
pub const fn pasid_device_tlb_global(command: Command) -> Command {
    let [low, high, third, fourth] = command;
    [low, high | 1, third, fourth]
}

/// The source-id of the physical function, in its two parts.
const fn pfsid(pf_source_id: u16) -> u64 {
    field(pf_source_id as u64, 12, 4) | field(pf_source_id as u64 >> 4, 52, 12)
}

/// ADDR and S for 2^`order` pages from `address`: below the lowest clear bit of ADDR, all are set.
const fn sized_address(address: u64, order: u32) -> (u64, u64) {
    if order == 0 {
        return (address & PAGE_ADDRESS, 0);
    }
    let order = if order > 52 { 52 } else { order };
    let ones = (1u64 << (order - 1)) - 1;
    let lowest_clear = 1u64 << (order + 11);
    ((address & PAGE_ADDRESS | ones << 12) & !lowest_clear, 1)
}

/// Invalidation Wait Descriptor that writes `data` to `address` once everything before it is
/// complete (6.5.2.8).
///
/// ```text
///         63               32 31     8 7  6  5  4  3  0
/// word 0 +-------------------+--------+--+--+--+--+----+
///        |    Status Data    |        |PD|FN|SW|IF| 5  |
///        +-------------------+--------+--+--+--+--+----+
/// word 1 |          Status Address[63:2]            |  |
///        +------------------------------------------+--+
/// ```
pub const fn wait_status(address: PhysicalAddress, data: u32) -> Command {
    let low = WAIT | field(1, 5, 1) | field(data as u64, 32, 32);
    [low, address.0 & !0b11, 0, 0]
}

/// Invalidation Wait Descriptor that drains (6.5.2.8), in the layout of [`wait_status`]: nothing
/// behind it starts before everything in front of it is complete and `address` is written. With
/// `page_requests` (PD, only if ECAP.PDS), that includes every page request that was received.
pub const fn wait_drain(address: PhysicalAddress, page_requests: bool) -> Command {
    let [low, high, ..] = wait_status(address, 1);
    let low = low | field(1, 6, 1) | field(page_requests as u64, 7, 1);
    [low, high, 0, 0]
}

/// Invalidation Wait Descriptor that only fences (6.5.2.8): with FN = 1, nothing behind it starts
/// before everything in front of it is complete.
pub const fn wait_fence() -> Command {
    [WAIT | field(1, 6, 1), 0, 0, 0]
}

/// PASID-based-IOTLB Invalidate Descriptor: everything under (`domain_id`, `pasid`) (6.5.2.4).
///
/// ```text
///         63      52 51    32 31     16      5 4 3  0
/// word 0 +----------+--------+---------+----+---+----+
///        |          | PASID  |   DID   |    | G | 6  |
///        +----------+--------+---------+----+---+----+
/// word 1 |          ADDR[63:12]            |  |IH| AM |
///        +---------------------------------+--+--+----+
/// ```
///
/// G: 2 all in the PASID, 3 pages. IH is bit 6, AM bits 5:0.
pub const fn pasid_iotlb_all(domain_id: u16, pasid: Pasid) -> Command {
    [
        PASID_IOTLB | field(2, 4, 2) | tagged(domain_id, pasid),
        0,
        0,
        0,
    ]
}

/// PASID-based-IOTLB Invalidate Descriptor for 2^`order` pages from `address` (6.5.2.4), in the
/// layout of [`pasid_iotlb_all`].
///
/// `leaf_only` (IH) says that no entry above the leaves changed. `order` is at most CAP.MAMV.
pub const fn pasid_iotlb_page(
    domain_id: u16,
    pasid: Pasid,
    address: u64,
    order: u32,
    leaf_only: bool,
) -> Command {
    let low = PASID_IOTLB | field(3, 4, 2) | tagged(domain_id, pasid);
    let high = address & PAGE_ADDRESS | field(leaf_only as u64, 6, 1) | field(order as u64, 0, 6);
    [low, high, 0, 0]
}

/// PASID-cache Invalidate Descriptor: every PASID under `domain_id` (6.5.2.2).
///
/// ```text
///         63      52 51    32 31     16      5 4 3  0
/// word 0 +----------+--------+---------+----+---+----+
///        |          | PASID  |   DID   |    | G | 7  |
///        +----------+--------+---------+----+---+----+
/// ```
///
/// G: 0 domain, 1 PASID, 3 global.
pub const fn pasid_cache_domain(domain_id: u16) -> Command {
    [PASID_CACHE | field(domain_id as u64, 16, 16), 0, 0, 0]
}

/// PASID-cache Invalidate Descriptor for one PASID under `domain_id` (6.5.2.2), in the layout of
/// [`pasid_cache_domain`].
pub const fn pasid_cache_pasid(domain_id: u16, pasid: Pasid) -> Command {
    [
        PASID_CACHE | field(1, 4, 2) | tagged(domain_id, pasid),
        0,
        0,
        0,
    ]
}

/// PASID-cache Invalidate Descriptor, global (6.5.2.2), in the layout of [`pasid_cache_domain`].
pub const fn pasid_cache_global() -> Command {
    [PASID_CACHE | field(3, 4, 2), 0, 0, 0]
}

/// What a page group response says (PCIe 6.0 section 10.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseCode {
    /// 0000b.
    Success = 0,
    /// 0001b.
    InvalidRequest = 1,
    /// 1111b: the device disables its page-request interface.
    ResponseFailure = 0xf,
}

/// Page Group Response Descriptor (7.7.1).
///
/// ```text
///         63      52 51    32 31     16 15    12      4  3  0
/// word 0 +----------+--------+---------+--------+----+--+----+
///        |          | PASID  |   RID   |   RC   |    |PP| 9  |
///        +----------+--------+---------+--------+----+--+----+
/// word 1 |                        PRGI (11:3)                |
///        +---------------------------------------------------+
/// ```
///
/// With a PASID (PP), the response message carries it.
pub const fn page_group_response(
    source_id: u16,
    pasid: Option<Pasid>,
    group_index: u16,
    code: ResponseCode,
) -> Command {
    let pasid = match pasid {
        Some(pasid) => field(1, 4, 1) | field(pasid.get() as u64, 32, 20),
        None => 0,
    };
    let low =
        PAGE_GROUP_RESPONSE | field(code as u64, 12, 4) | field(source_id as u64, 16, 16) | pasid;
    [low, field(group_index as u64, 3, 9), 0, 0]
}

const fn tagged(domain_id: u16, pasid: Pasid) -> u64 {
    field(domain_id as u64, 16, 16) | field(pasid.get() as u64, 32, 20)
}
