//! Descriptors that a guest wrote to the invalidation queue of its own remapping unit.
//!
//! A guest in scalable mode has a first stage of its own behind a second stage of the host, in nested
//! PASID table entries that the host keeps:
//!
//! | Guest | Host |
//! |---|---|
//! | IOTLB, global or of a domain | IOTLB of the guest's domain-id |
//! | IOTLB, pages | the same under the guest's domain-id |
//! | PASID-based IOTLB | the same under the guest's domain-id; the PASID is the same in guest and host |
//! | device TLB, with and without PASID | the same for the host's source-id, with PFSID and MIP as the host uses them |
//! | context cache, PASID cache, interrupt entry cache | refused: the host keeps those tables |
//! | wait | refused: its completion goes to the guest |
//! | page group response | refused: the host keeps account of what was asked |
//!
//! DR and DW are passed on where CAP.DRD and CAP.DWD offer them.

use crate::caps::Capabilities;
use crate::invalidate;
use crate::planted::{self, Fault};
use crate::queue::WORDS;
use crate::spec::commands::{self, Command, Drain, kind};
use crate::unit::Unit;
use iommu_core::cover::{Block, PAGE_SHIFT};
use iommu_core::error::QueueError;
use iommu_core::guest::{self, Batch, Executed, Guest, GuestDevice, Refusal};
use iommu_core::ids::DeviceId;
use iommu_core::iommu::Iommu;
use iommu_core::platform::Platform;

/// A descriptor as a guest wrote it: 16 or 32 bytes, as wide as those of its queue.
pub type GuestCommand = guest::GuestCommand<WORDS>;

/// What the host sends instead.
pub type HostCommand = guest::HostCommand<WORDS>;

/// Both parts of the type; the upper one is 0 in all that are known.
const TYPE: u64 = 0xf | 0b111 << 9;
const GRANULARITY: u64 = 0b11 << 4;
const DRAIN_WRITES: u64 = 1 << 6;
const DRAIN_READS: u64 = 1 << 7;
const DOMAIN: u64 = 0xffff << 16;
const PASID: u64 = 0xf_ffff << 32;
const PFSID: u64 = 0xfff << 52 | 0xf << 12;
/// ADDR, IH and AM.
const PAGES: u64 = ADDRESS | IH | AM;
const ADDRESS: u64 = !0xfff;
const IH: u64 = 1 << 6;
const AM: u64 = 0x3f;

impl<P: Platform> Unit<P> {
    /// Executes what a guest wrote to its own invalidation queue: posts the descriptors that are legal,
    /// up to the first that is not, with one doorbell, and waits for them.
    ///
    /// At most [`MOST_COMMANDS`](guest::MOST_COMMANDS) are taken; [`Executed`] says how many were. A
    /// device that a descriptor names is enabled on this unit with a device TLB. Allocates nothing; may
    /// wait for the tables' lock and for the queue.
    ///
    /// # Errors
    ///
    /// An error of the queue that is no device's.
    pub fn invalidate_for_guest(
        &self,
        guest: &Guest<'_>,
        commands: &[GuestCommand],
    ) -> Result<Executed, QueueError> {
        let device_tlb = |device| self.device_config(device).map(|config| config.device_tlb);
        let batch = Batch::new(commands, |command| {
            validate(command, guest, self.capabilities())?.admitted(device_tlb, &self.quarantine)
        });
        batch.execute(self.queue(), &self.quarantine)
    }
}

/// The descriptor that does for `guest` what `command` asks for, and nothing to anybody else.
///
/// # Errors
///
/// [`Refusal`]: the descriptor is not one that a guest may have executed.
pub fn validate(
    command: GuestCommand,
    guest: &Guest<'_>,
    capabilities: &Capabilities,
) -> Result<HostCommand, Refusal> {
    let words = command.words();
    let kind = kind_of(words);
    let fields = fields(kind, capabilities)?;
    if matches!(kind, kind::PASID_IOTLB | kind::PASID_DEVICE_TLB) && command.bytes() < 32 {
        return Err(Refusal::Unsupported {
            capability: "descriptors of 256 bits",
        });
    }
    guest::check_reserved(words, fields)?;
    match kind {
        kind::IOTLB => iotlb(words, guest, capabilities),
        kind::PASID_IOTLB => pasid_iotlb(words, guest, capabilities),
        kind::DEVICE_TLB => device_tlb(words, guest, capabilities),
        _ => pasid_device_tlb(words, guest, capabilities),
    }
}

/// The type: bits 3:0, and 11:9 above them.
const fn kind_of(words: Command) -> u64 {
    words[0] & 0xf | (words[0] >> 9 & 0b111) << 4
}

/// The fields of a descriptor that a guest may have executed; every other bit is reserved.
fn fields(kind: u64, capabilities: &Capabilities) -> Result<Command, Refusal> {
    let pfsid = match capabilities.device_tlb_throttle() {
        true => PFSID,
        false => 0,
    };
    let opcode = kind as u16;
    let [low, high] = match kind {
        kind::IOTLB => [GRANULARITY | DRAIN_WRITES | DRAIN_READS | DOMAIN, PAGES],
        // MIP in bits 20:16, SID in 47:32; S.
        kind::DEVICE_TLB => [0x1f << 16 | 0xffff << 32 | pfsid, ADDRESS | 1],
        kind::PASID_IOTLB => [GRANULARITY | DOMAIN | PASID, PAGES],
        // MIP in bits 8:4, SID in 31:16; S and G.
        kind::PASID_DEVICE_TLB => [
            0x1f << 4 | 0xffff << 16 | PASID | pfsid,
            ADDRESS | 1 << 11 | 1,
        ],
        kind::CONTEXT_CACHE
        | kind::INTERRUPT_ENTRY_CACHE
        | kind::WAIT
        | kind::PASID_CACHE
        | kind::PAGE_GROUP_RESPONSE => return Err(Refusal::HostOnly { opcode }),
        _ => return Err(Refusal::UnknownOpcode { opcode }),
    };
    Ok([low | TYPE, high, 0, 0])
}

/// IOTLB Invalidate Descriptor (6.5.2.3). G: 1 global, 2 domain, 3 pages; without pages, word 1 says
/// nothing.
fn iotlb(
    words: Command,
    guest: &Guest<'_>,
    capabilities: &Capabilities,
) -> Result<HostCommand, Refusal> {
    let domain_id = domain_id(words, guest, capabilities)?;
    let offered = capabilities.drain();
    let drain = Drain {
        reads: offered.reads && words[0] & DRAIN_READS != 0,
        writes: offered.writes && words[0] & DRAIN_WRITES != 0,
    };
    let command = match granularity(words) {
        1 | 2 => commands::iotlb_domain(domain_id, drain),
        3 => {
            let Block { address, order } = pages(words, capabilities)?;
            commands::iotlb_page(domain_id, drain, address, order, words[1] & IH != 0)
        }
        value => return Err(Refusal::ReservedValue { field: "G", value }),
    };
    Ok(HostCommand::new(spoil(command, words)))
}

/// PASID-based-IOTLB Invalidate Descriptor (6.5.2.4). G: 2 all in the PASID, 3 pages, which are of the
/// first stage.
fn pasid_iotlb(
    words: Command,
    guest: &Guest<'_>,
    capabilities: &Capabilities,
) -> Result<HostCommand, Refusal> {
    let domain_id = domain_id(words, guest, capabilities)?;
    let pasid = guest.pasid(
        (words[0] >> 32) as u32 & 0xf_ffff,
        capabilities.pasid_bits(),
    )?;
    let command = match granularity(words) {
        2 => commands::pasid_iotlb_all(domain_id, pasid),
        3 => {
            let block = pages(words, capabilities)?;
            guest::check_sign_extended(block, 12 + 9 * capabilities.levels())?;
            let Block { address, order } = block;
            commands::pasid_iotlb_page(domain_id, pasid, address, order, words[1] & IH != 0)
        }
        value => return Err(Refusal::ReservedValue { field: "G", value }),
    };
    Ok(HostCommand::new(spoil(command, words)))
}

/// Device-TLB Invalidate Descriptor (6.5.2.5).
fn device_tlb(
    words: Command,
    guest: &Guest<'_>,
    capabilities: &Capabilities,
) -> Result<HostCommand, Refusal> {
    let (device, source_id) = device((words[0] >> 32) as u16, guest, capabilities)?;
    let Block { address, order } = guest::sized_block(words[1], words[1] & 1 != 0, "ADDR")?;
    let pf_source_id = invalidate::pf_source_id(source_id, capabilities);
    let command = commands::device_tlb(source_id, pf_source_id, address, order);
    Ok(HostCommand::to_device(spoil(command, words), device))
}

/// PASID-based-Device-TLB Invalidate Descriptor (6.5.2.6).
fn pasid_device_tlb(
    words: Command,
    guest: &Guest<'_>,
    capabilities: &Capabilities,
) -> Result<HostCommand, Refusal> {
    let pasid = guest.pasid(
        (words[0] >> 32) as u32 & 0xf_ffff,
        capabilities.pasid_bits(),
    )?;
    let (device, source_id) = device((words[0] >> 16) as u16, guest, capabilities)?;
    let is_range = words[1] & 1 << 11 != 0;
    let Block { address, order } = guest::sized_block(words[1], is_range, "ADDR")?;
    let pf_source_id = invalidate::pf_source_id(source_id, capabilities);
    let command = commands::pasid_device_tlb(source_id, pf_source_id, pasid, address, order);
    let command = match words[1] & 1 {
        0 => command,
        _ => commands::pasid_device_tlb_global(command),
    };
    Ok(HostCommand::to_device(spoil(command, words), device))
}

const fn granularity(words: Command) -> u64 {
    (words[0] & GRANULARITY) >> 4
}

fn domain_id(
    words: Command,
    guest: &Guest<'_>,
    capabilities: &Capabilities,
) -> Result<u16, Refusal> {
    let bits = capabilities.last_tag().count_ones() as u8;
    let domain_id = guest.tag_of(bits)?;
    match planted::is(Fault::VtdGuestTagForgotten) {
        true => Ok((words[0] >> 16) as u16),
        false => Ok(domain_id),
    }
}

/// The block of a page-selective invalidation; address bits that AM masks are ignored.
fn pages(words: Command, capabilities: &Capabilities) -> Result<Block, Refusal> {
    let largest = capabilities.page_selective_order();
    let largest = largest.ok_or(Refusal::Unsupported { capability: "PSI" })?;
    let order = (words[1] & AM) as u32;
    if order > largest {
        return Err(Refusal::ReservedValue {
            field: "AM",
            value: order.into(),
        });
    }
    if order >= Block::ALL_ORDER {
        return Ok(Block { address: 0, order });
    }
    let size = order + PAGE_SHIFT;
    Ok(Block {
        address: words[1] >> size << size,
        order,
    })
}

/// The device that the guest calls `source_id`, and its source-id in the host.
fn device(
    source_id: u16,
    guest: &Guest<'_>,
    capabilities: &Capabilities,
) -> Result<(GuestDevice, u16), Refusal> {
    if !capabilities.features().device_tlb {
        return Err(Refusal::Unsupported { capability: "DT" });
    }
    let device = guest.device(DeviceId(source_id.into()))?;
    let host = u16::try_from(device.host.0);
    let host = host.map_err(|_| Refusal::UnknownDevice(device.guest))?;
    match planted::is(Fault::VtdGuestSourceKept) {
        true => Ok((device, source_id)),
        false => Ok((device, host)),
    }
}

/// `command`, or what a planted fault makes of it: the guest's own words with the ids replaced.
fn spoil(command: Command, words: Command) -> Command {
    if planted::is(Fault::VtdGuestWordsPassedOn) {
        let ids = match kind_of(words) {
            kind::DEVICE_TLB => 0xffff << 32,
            _ => 0xffff << 16,
        };
        return [
            words[0] & !ids | command[0] & ids,
            words[1],
            words[2],
            words[3],
        ];
    }
    command
}
