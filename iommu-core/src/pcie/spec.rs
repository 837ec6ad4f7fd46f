//! Offsets and bits of the capabilities (PCI Express Base Specification 6.0, chapters 7 and 10).

use bitflags::bitflags;

/// Where the chain of PCI-compatible capabilities begins (section 7.5.1.1.11).
pub(super) const CAPABILITIES_POINTER: u16 = 0x34;
/// Status register, bit 4: there is such a chain (section 7.5.1.1.4); here in the word at 4.
pub(super) const STATUS_CAPABILITIES: u32 = 1 << 20;
/// Where the chain of extended capabilities begins (section 7.6.3).
pub(super) const FIRST_EXTENDED: u16 = 0x100;

/// PCI-compatible capability: PCI Express (section 7.5.3).
///
/// ```text
/// +0x00 | 31:16 Express capabilities: 23:20 device/port type | 15:8 next | 7:0 id 0x10 |
/// +0x24 | Device capabilities 2: 23:22 most prefixes, 21 end-to-end TLP prefix supported |
/// ```
pub(super) const EXPRESS: u8 = 0x10;
pub(super) const EXPRESS_DEVICE_CAPABILITIES_2: u16 = 0x24;
pub(super) const EXPRESS_END_TO_END_PREFIX: u32 = 1 << 21;

/// Extended capability: Access Control Services (section 7.7.11).
///
/// ```text
/// +0x04 | 31:16 control | 15:0 capability |
/// ```
pub(super) const ACCESS_CONTROL: u16 = 0x000d;

/// Extended capability: Address Translation Services (section 10.5.1).
///
/// ```text
/// +0x04 | 31 enable, 20:16 smallest translation unit | 6 global invalidate, 5 page aligned request, 4:0 queue depth |
/// ```
pub(super) const TRANSLATION: u16 = 0x000f;
pub(super) const TRANSLATION_QUEUE_DEPTH: u32 = 0x1f;
pub(super) const TRANSLATION_PAGE_ALIGNED: u32 = 1 << 5;
pub(super) const TRANSLATION_GLOBAL: u32 = 1 << 6;
pub(super) const TRANSLATION_UNIT_SHIFT: u32 = 16;
pub(super) const TRANSLATION_UNIT_MASK: u32 = 0x1f << TRANSLATION_UNIT_SHIFT;
pub(super) const TRANSLATION_ENABLE: u32 = 1 << 31;

/// Extended capability: Page Request Interface (section 10.5.2).
///
/// ```text
/// +0x04 | 31 PASID required in responses, 24 stopped, 17 unexpected group index, 16 response failure | 1 reset, 0 enable |
/// +0x08 | capacity: outstanding page requests |
/// +0x0c | allocation: outstanding page requests |
/// ```
///
/// Bits 17 and 16 are write-1-to-clear.
pub(super) const PAGE_REQUESTS: u16 = 0x0013;
pub(super) const PAGE_REQUESTS_ENABLE: u32 = 1 << 0;
pub(super) const PAGE_REQUESTS_RESET: u32 = 1 << 1;
pub(super) const PAGE_REQUESTS_FAILURES: u32 = 1 << 16 | 1 << 17;
pub(super) const PAGE_REQUESTS_STOPPED: u32 = 1 << 24;
pub(super) const PAGE_REQUESTS_PASID_IN_RESPONSES: u32 = 1 << 31;

/// Extended capability: Process Address Space ID (section 7.8.9).
///
/// ```text
/// +0x04 | 18 privileged enable, 17 execute enable, 16 enable | 12:8 width, 2 privileged, 1 execute |
/// ```
pub(super) const PASID: u16 = 0x001b;
pub(super) const PASID_EXECUTE: u32 = 1 << 1;
pub(super) const PASID_PRIVILEGED: u32 = 1 << 2;
pub(super) const PASID_WIDTH_SHIFT: u32 = 8;
pub(super) const PASID_WIDTH_MASK: u32 = 0x1f;
pub(super) const PASID_ENABLE: u32 = 1 << 16;
pub(super) const PASID_ENABLE_EXECUTE: u32 = 1 << 17;
pub(super) const PASID_ENABLE_PRIVILEGED: u32 = 1 << 18;

bitflags! {
    /// What a port does with requests from below (section 7.7.11.2; the bits are the same in the
    /// capability and the control register).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct AccessControlBits: u16 {
        /// Checks the bus number of the requester.
        const SOURCE_VALIDATION = 1 << 0;
        /// Blocks requests with translated addresses.
        const TRANSLATION_BLOCKING = 1 << 1;
        /// Sends peer-to-peer requests up to the root complex.
        const REQUEST_REDIRECT = 1 << 2;
        /// Sends peer-to-peer completions up to the root complex.
        const COMPLETION_REDIRECT = 1 << 3;
        /// Sends everything upwards that is not for the bus below.
        const UPSTREAM_FORWARDING = 1 << 4;
        /// Controls the way of each request.
        const EGRESS_CONTROL = 1 << 5;
        /// Lets requests with translated addresses pass to peers.
        const DIRECT_TRANSLATED = 1 << 6;
    }
}
