//! Invalidation descriptors (6.5.2), decoded from raw words.

use super::Configuration;
use super::caches::Block;
use crate::bus::ResponseCode;

/// Why a descriptor stops the queue: IQEI in IQERCD (11.4.9.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Illegal {
    /// The tail register does not name a slot.
    Tail = 1,
    /// The descriptor cannot be read.
    Fetch = 2,
    /// No descriptor has this type.
    Type = 3,
    /// A reserved field is not zero, or a field has a reserved value.
    Reserved = 4,
    /// The type needs descriptors of 256 bits.
    Width = 5,
}

/// A descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Those contexts whose source-id equals `source_id` outside `ignored`; all without one.
    ContextCache {
        source_id: Option<u16>,
        ignored: u16,
    },
    PasidCache {
        domain: Option<u16>,
        pasid: Option<u32>,
    },
    Iotlb {
        domain: Option<u16>,
        /// For the page-selective form: the block, and IH.
        pages: Option<(Block, bool)>,
        drain: bool,
    },
    PasidIotlb {
        domain: u16,
        pasid: u32,
        pages: Option<(Block, bool)>,
    },
    DeviceTlb {
        source_id: u16,
        pasid: Option<u32>,
        global: bool,
        block: Block,
    },
    InterruptEntryCache,
    Wait {
        status: Option<(u64, u32)>,
        interrupt: bool,
        fence: bool,
        drain_page_requests: bool,
    },
    PageGroupResponse {
        source_id: u16,
        pasid: Option<u32>,
        group: u16,
        code: ResponseCode,
    },
}

/// `bits` bits of `word` from bit `shift` upwards.
const fn field(word: u64, shift: u32, bits: u32) -> u64 {
    word >> shift & ((1 << bits) - 1)
}

impl Command {
    /// Reads a descriptor. `wide`: the queue holds descriptors of 256 bits.
    pub fn decode(
        words: [u64; 4],
        wide: bool,
        configuration: &Configuration,
    ) -> Result<Self, Illegal> {
        // The type is in two parts; none that is modelled has an upper one.
        let kind = field(words[0], 0, 4) | field(words[0], 9, 3) << 4;
        let command = match kind {
            1 => context_cache(words),
            2 => iotlb(words, configuration),
            3 if configuration.device_tlb => device_tlb(words, configuration),
            4 if configuration.interrupt_remapping => {
                let reserved = words[0] & 0xffff_0000_07ff_f1e0 | words[1];
                legal(reserved == 0, Self::InterruptEntryCache)
            }
            5 => wait(words, configuration),
            6..=8 if !wide => Err(Illegal::Width),
            6 => pasid_iotlb(words, configuration),
            7 => pasid_cache(words),
            8 if configuration.device_tlb => pasid_device_tlb(words, configuration),
            9 if configuration.page_requests => page_group_response(words),
            _ => Err(Illegal::Type),
        }?;
        legal(words[2] | words[3] == 0, command)
    }
}

fn legal(is_legal: bool, command: Command) -> Result<Command, Illegal> {
    if is_legal {
        Ok(command)
    } else {
        Err(Illegal::Reserved)
    }
}

/// 6.5.2.1: G in bits 5:4, DID in 31:16, SID in 47:32, FM in 49:48. In scalable mode a context has no
/// domain-id, and the form by domain names them all.
fn context_cache(words: [u64; 4]) -> Result<Command, Illegal> {
    let reserved = words[0] & 0xfffc_0000_0000_f1c0 | words[1];
    let (source_id, ignored) = match field(words[0], 4, 2) {
        1 | 2 => (None, 0),
        3 => {
            let ignored = [0b000, 0b100, 0b110, 0b111][field(words[0], 48, 2) as usize];
            (Some(field(words[0], 32, 16) as u16), ignored)
        }
        _ => return Err(Illegal::Reserved),
    };
    let command = Command::ContextCache { source_id, ignored };
    legal(reserved == 0, command)
}

/// 6.5.2.2: G in bits 5:4, DID in 31:16, PASID in 51:32.
fn pasid_cache(words: [u64; 4]) -> Result<Command, Illegal> {
    let reserved = words[0] & 0xfff0_0000_0000_f1c0 | words[1];
    let domain = Some(field(words[0], 16, 16) as u16);
    let (domain, pasid) = match field(words[0], 4, 2) {
        0 => (domain, None),
        1 => (domain, Some(field(words[0], 32, 20) as u32)),
        3 => (None, None),
        _ => return Err(Illegal::Reserved),
    };
    legal(reserved == 0, Command::PasidCache { domain, pasid })
}

/// AM in bits 5:0 of word 1, IH in 6, ADDR in 63:12. ADDR bits that AM masks are ignored.
fn pages(word: u64, configuration: &Configuration) -> Result<(Block, bool), Illegal> {
    let order = field(word, 0, 6) as u32;
    if word & 0xf80 != 0
        || order > configuration.largest_order
        || !configuration.page_selective_invalidation
    {
        return Err(Illegal::Reserved);
    }
    let block = Block {
        address: word & !0xfff,
        order: 12 + order,
    };
    Ok((block, field(word, 6, 1) != 0))
}

/// 6.5.2.3: G in bits 5:4, DW in 6, DR in 7, DID in 31:16. Without the capability DR and DW are
/// ignored.
fn iotlb(words: [u64; 4], configuration: &Configuration) -> Result<Command, Illegal> {
    let domain = Some(field(words[0], 16, 16) as u16);
    let (domain, pages) = match field(words[0], 4, 2) {
        1 => (None, None),
        2 => (domain, None),
        3 => (domain, Some(pages(words[1], configuration)?)),
        _ => return Err(Illegal::Reserved),
    };
    let drain = field(words[0], 6, 2) == 0b11 && configuration.drain;
    let command = Command::Iotlb {
        domain,
        pages,
        drain,
    };
    legal(words[0] & 0xffff_ffff_0000_f100 == 0, command)
}

/// 6.5.2.4: G in bits 5:4, DID in 31:16, PASID in 51:32.
fn pasid_iotlb(words: [u64; 4], configuration: &Configuration) -> Result<Command, Illegal> {
    let pages = match field(words[0], 4, 2) {
        2 => None,
        3 => Some(pages(words[1], configuration)?),
        _ => return Err(Illegal::Reserved),
    };
    let command = Command::PasidIotlb {
        domain: field(words[0], 16, 16) as u16,
        pasid: field(words[0], 32, 20) as u32,
        pages,
    };
    legal(words[0] & 0xfff0_0000_0000_f1c0 == 0, command)
}

/// The range of a device-TLB invalidation (PCIe 10.3.1): with S, as many low bits of the page number
/// as are one, and the zero above them, are masked.
fn sized(word: u64, sized: bool) -> Block {
    let page = word >> 12;
    let masked = if sized { page.trailing_ones() + 1 } else { 0 };
    let order = 12 + masked;
    if order >= u64::BITS {
        let address = 0;
        return Block { address, order: 64 };
    }
    let address = word >> order << order;
    Block { address, order }
}

/// 6.5.2.5: PFSID in bits 15:12 and 63:52, MIP in 20:16, SID in 47:32; S in bit 0 of word 1.
fn device_tlb(words: [u64; 4], configuration: &Configuration) -> Result<Command, Illegal> {
    let reserved = words[0] & 0x000f_0000_ffe0_01f0 | words[1] & 0xffe;
    let command = Command::DeviceTlb {
        source_id: field(words[0], 32, 16) as u16,
        pasid: None,
        global: false,
        block: sized(words[1] & !0xfff, words[1] & 1 != 0),
    };
    let is_legal = reserved | pfsid(words[0], configuration) == 0;
    legal(is_legal, command)
}

/// 6.5.2.6: MIP in bits 8:4, PFSID in 15:12 and 63:52, SID in 31:16, PASID in 51:32; G in bit 0 and S
/// in bit 11 of word 1.
fn pasid_device_tlb(words: [u64; 4], configuration: &Configuration) -> Result<Command, Illegal> {
    let command = Command::DeviceTlb {
        source_id: field(words[0], 16, 16) as u16,
        pasid: Some(field(words[0], 32, 20) as u32),
        global: words[1] & 1 != 0,
        block: sized(words[1] & !0xfff, words[1] >> 11 & 1 != 0),
    };
    let is_legal = words[1] & 0x7fe | pfsid(words[0], configuration) == 0;
    legal(is_legal, command)
}

/// PFSID where it is reserved: without ECAP.DIT.
const fn pfsid(word: u64, configuration: &Configuration) -> u64 {
    if configuration.device_tlb_throttle {
        0
    } else {
        word & 0xfff0_0000_0000_f000
    }
}

/// 6.5.2.8: IF in bit 4, SW in 5, FN in 6, PD in 7, the data in 63:32; the address in word 1.
fn wait(words: [u64; 4], configuration: &Configuration) -> Result<Command, Illegal> {
    let flag = |bit: u32| words[0] >> bit & 1 != 0;
    let (status_write, drain_page_requests) = (flag(5), flag(7));
    let command = Command::Wait {
        status: status_write.then_some((words[1], (words[0] >> 32) as u32)),
        interrupt: flag(4),
        fence: flag(6),
        drain_page_requests,
    };
    let is_legal = words[0] & 0xffff_f100 == 0
        && words[1] & 0b11 == 0
        && (!drain_page_requests || configuration.page_request_drain);
    legal(is_legal, command)
}

/// 6.5.2.9: PASID present in bit 4, the code in 15:12, the requester in 31:16, PASID in 51:32; LPIG in
/// bit 2 and the group in bits 11:3 of word 1.
fn page_group_response(words: [u64; 4]) -> Result<Command, Illegal> {
    let pasid = field(words[0], 32, 20) as u32;
    let command = Command::PageGroupResponse {
        source_id: field(words[0], 16, 16) as u16,
        pasid: (words[0] >> 4 & 1 != 0).then_some(pasid),
        group: field(words[1], 3, 9) as u16,
        code: match field(words[0], 12, 4) {
            0 => ResponseCode::Success,
            1 => ResponseCode::InvalidRequest,
            // A device takes every other code for this one (PCIe 10.4.2.1).
            _ => ResponseCode::Failure,
        },
    };
    let reserved = words[0] & 0xfff0_0000_0000_01e0 | words[1] & 0xffff_ffff_ffff_f003;
    legal(reserved == 0, command)
}
