//! Commands that a guest wrote to the command queue of its own SMMU.
//!
//! What becomes of each command follows 4.3.7 and 4.4.2 for a guest that has stage 1 of its own, with
//! its tables of context descriptors in its memory, behind a stage 2 of the host:
//!
//! | Guest | Host |
//! |---|---|
//! | CMD_TLBI_NH_ALL, CMD_TLBI_NSNH_ALL | CMD_TLBI_NH_ALL with the guest's VMID |
//! | CMD_TLBI_NH_ASID, _NH_VA, _NH_VAA | the same with the guest's VMID, level hints left out |
//! | CMD_CFGI_CD, CMD_CFGI_CD_ALL | the same for the host's StreamID |
//! | CMD_ATC_INV | the same for the host's StreamID |
//! | CMD_CFGI_STE, _STE_RANGE, _ALL, _VMS_PIDM | refused: the host keeps the stream table |
//! | CMD_TLBI_EL2_*, _S12_VMALL, _S2_IPA, CMD_DPTI_* | refused: no guest has EL2 or a stage 2 here |
//! | CMD_PRI_RESP, CMD_RESUME, CMD_STALL_TERM | refused: the host keeps account of what was asked |
//! | CMD_SYNC | refused: its completion goes to the guest |
//! | CMD_PREFETCH_* | refused: a hint, which the hypervisor may drop |
//!
//! A guest is shown an SMMU without SMMU_IDR5.DS, SMMU_IDR0.Hyp and stage 2, and with range
//! invalidation only if the hardware has it.

use crate::caps::Capabilities;
use crate::planted::{self, Fault};
use crate::queue::WORDS;
use crate::spec::commands::{self, Command, Granule, PageCount, opcode};
use crate::spec::extract;
use crate::unit::Unit;
use iommu_core::error::QueueError;
use iommu_core::guest::{self, Batch, Executed, Guest, GuestDevice, Refusal};
use iommu_core::ids::DeviceId;
use iommu_core::iommu::Iommu;
use iommu_core::platform::Platform;

/// A command as a guest wrote it: 16 bytes.
pub type GuestCommand = guest::GuestCommand<WORDS>;

/// What the host sends instead.
pub type HostCommand = guest::HostCommand<WORDS>;

const STREAM: u64 = 0xffff_ffff << 32;
const SUBSTREAM: u64 = 0xf_ffff << 12;
const SSV: u64 = 1 << 11;
const GLOBAL: u64 = 1 << 9;
const ASID_16: u64 = 0xffff << 48;
const ASID_8: u64 = 0xff << 48;
const VMID: u64 = 0xffff << 32;
/// SCALE and NUM.
const RANGE: u64 = 0x1f << 20 | 0x1f << 12;
/// TG and TTL.
const HINTS: u64 = 0b1111 << 8;
const ADDRESS: u64 = !0xfff;
const LEAF: u64 = 1;
const SIZE: u64 = 0x3f;

impl<P: Platform> Unit<P> {
    /// Executes what a guest wrote to its own command queue: posts the commands that are legal, up to
    /// the first that is not, with one doorbell, and waits for them.
    ///
    /// At most [`MOST_COMMANDS`](guest::MOST_COMMANDS) are taken; [`Executed`] says how many were. A
    /// device that a command names is enabled on this unit, with a device TLB if it is that which the
    /// command is for. Allocates nothing; may wait for the tables' lock and for the queue.
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

/// The command that does for `guest` what `command` asks for, and nothing to anybody else.
///
/// # Errors
///
/// [`Refusal`]: the command is not one that a guest may have executed.
pub fn validate(
    command: GuestCommand,
    guest: &Guest<'_>,
    capabilities: &Capabilities,
) -> Result<HostCommand, Refusal> {
    let words = command.words();
    guest::check_reserved(words, fields(words, capabilities)?)?;
    match words[0] as u8 {
        opcode::CFGI_CD | opcode::CFGI_CD_ALL => structure(words, guest, capabilities),
        opcode::ATC_INV => device_tlb(words, guest, capabilities),
        _ => tlb(words, guest, capabilities),
    }
}

/// The fields of a command that a guest may have executed; every other bit is reserved.
fn fields(words: Command, capabilities: &Capabilities) -> Result<Command, Refusal> {
    let asid = match capabilities.last_asid() {
        0xffff => ASID_16,
        _ => ASID_8,
    };
    let (range, hints) = match capabilities.range_invalidation() {
        true => (RANGE, HINTS),
        false => (0, 0),
    };
    let opcode = words[0] as u8;
    let [low, high] = match opcode {
        opcode::CFGI_CD => [STREAM | SUBSTREAM, LEAF],
        opcode::CFGI_CD_ALL => [STREAM, 0],
        opcode::TLBI_NSNH_ALL => [0, 0],
        opcode::TLBI_NH_ALL => [VMID, 0],
        opcode::TLBI_NH_ASID => [asid | VMID, 0],
        opcode::TLBI_NH_VA => [asid | VMID | range, ADDRESS | hints | LEAF],
        opcode::TLBI_NH_VAA => [VMID | range, ADDRESS | hints | LEAF],
        opcode::ATC_INV => [STREAM | SUBSTREAM | SSV | GLOBAL, ADDRESS | SIZE],
        _ if is_host_only(opcode) => {
            return Err(Refusal::HostOnly {
                opcode: opcode.into(),
            });
        }
        _ => {
            return Err(Refusal::UnknownOpcode {
                opcode: opcode.into(),
            });
        }
    };
    Ok([low | 0xff, high])
}

const fn is_host_only(opcode: u8) -> bool {
    use opcode::{
        CFGI_STE, CFGI_STE_RANGE, CFGI_VMS_PIDM, DPTI_ALL, DPTI_PA, PREFETCH_ADDR, PREFETCH_CONFIG,
        PRI_RESP, RESUME, STALL_TERM, SYNC, TLBI_EL2_ALL, TLBI_EL2_ASID, TLBI_EL2_VA, TLBI_EL2_VAA,
        TLBI_S2_IPA, TLBI_S12_VMALL,
    };
    matches!(
        opcode,
        PREFETCH_CONFIG
            | PREFETCH_ADDR
            | CFGI_STE
            | CFGI_STE_RANGE
            | CFGI_VMS_PIDM
            | TLBI_EL2_ALL
            | TLBI_EL2_ASID
            | TLBI_EL2_VA
            | TLBI_EL2_VAA
            | TLBI_S12_VMALL
            | TLBI_S2_IPA
            | PRI_RESP
            | RESUME
            | STALL_TERM
            | SYNC
            | DPTI_ALL
            | DPTI_PA
    )
}

/// CMD_TLBI_NH_* and CMD_TLBI_NSNH_ALL.
fn tlb(
    words: Command,
    guest: &Guest<'_>,
    capabilities: &Capabilities,
) -> Result<HostCommand, Refusal> {
    let vmid = guest.tag_of(capabilities.vmid_bits())?;
    let asid = extract(words[0], 63, 48) as u16;
    let (address, leaf) = (words[1] & ADDRESS, words[1] & LEAF != 0);
    let ranged = |command| {
        let range = range(words)?;
        Ok(match range {
            Some((granule, count)) => commands::with_range(command, granule, count),
            None => command,
        })
    };
    let command = match words[0] as u8 {
        opcode::TLBI_NH_ASID => commands::tlbi_nh_asid(asid),
        opcode::TLBI_NH_VA => ranged(commands::tlbi_nh_va(asid, address, leaf))?,
        opcode::TLBI_NH_VAA => ranged(commands::tlbi_nh_vaa(address, leaf))?,
        _ => commands::tlbi_nh_all(),
    };
    let vmid = match planted::is(Fault::SmmuGuestTagForgotten) {
        true => extract(words[0], 47, 32) as u16,
        false => vmid,
    };
    let command = commands::with_vmid(command, vmid);
    Ok(HostCommand::new(spoil(command, words)))
}

/// The range of a TLB invalidation; `None` for what one address says as well (4.4.1.1).
///
/// The level hint is left out. A single granule with one becomes an invalidation by address, at any
/// level and of any granule, which covers it.
fn range(words: Command) -> Result<Option<(Granule, PageCount)>, Refusal> {
    let (num, scale) = (extract(words[0], 16, 12), extract(words[0], 24, 20));
    let level = extract(words[1], 9, 8);
    let granule = match extract(words[1], 11, 10) {
        0b01 => Granule::Size4K,
        0b10 => Granule::Size16K,
        0b11 => Granule::Size64K,
        _ => {
            guest::check_reserved([words[0] & RANGE, words[1] & HINTS], [0, 0])?;
            return Ok(None);
        }
    };
    // 0b01 stands for "any level" with 16 KiB.
    let has_hint = level != 0 && (level, granule) != (0b01, Granule::Size16K);
    match PageCount::new(num + 1, scale as u32) {
        Some(count) => Ok(Some((granule, count))),
        None if has_hint => Ok(None),
        None => Err(Refusal::ReservedValue {
            field: "TTL",
            value: level,
        }),
    }
}

/// CMD_CFGI_CD and CMD_CFGI_CD_ALL.
fn structure(
    words: Command,
    guest: &Guest<'_>,
    capabilities: &Capabilities,
) -> Result<HostCommand, Refusal> {
    let device = device(words, guest)?;
    let stream = device.host.0;
    let substream = extract(words[0], 31, 12) as u32;
    let command = match words[0] as u8 {
        opcode::CFGI_CD_ALL => commands::cfgi_cd_all(stream),
        _ => {
            if substream != 0 {
                guest.pasid(substream, capabilities.substream_bits())?;
            }
            commands::cfgi_cd(stream, substream, words[1] & LEAF != 0)
        }
    };
    Ok(HostCommand::about_device(spoil(command, words), device))
}

/// CMD_ATC_INV. SubstreamID and G count only with SSV (4.5.1).
fn device_tlb(
    words: Command,
    guest: &Guest<'_>,
    capabilities: &Capabilities,
) -> Result<HostCommand, Refusal> {
    if !capabilities.device_tlb() {
        return Err(Refusal::Unsupported { capability: "ATS" });
    }
    let size = words[1] & SIZE;
    if size > 52 {
        return Err(Refusal::ReservedValue {
            field: "Size",
            value: size,
        });
    }
    let substream = match words[0] & SSV {
        0 => None,
        _ => {
            let substream = extract(words[0], 31, 12) as u32;
            let pasid = guest.pasid(substream, capabilities.substream_bits())?;
            Some(pasid.get())
        }
    };
    let device = device(words, guest)?;
    let address = match size {
        52 => 0,
        _ => words[1] >> (12 + size) << (12 + size),
    };
    let command = commands::atc_inv(device.host.0, substream, address, size as u32);
    let is_global = substream.is_some() && words[0] & GLOBAL != 0;
    let command = match is_global {
        true => commands::atc_inv_global(command),
        false => command,
    };
    Ok(HostCommand::to_device(spoil(command, words), device))
}

fn device(words: Command, guest: &Guest<'_>) -> Result<GuestDevice, Refusal> {
    let device = guest.device(DeviceId(extract(words[0], 63, 32) as u32))?;
    let host = match planted::is(Fault::SmmuGuestStreamKept) {
        true => device.guest,
        false => device.host,
    };
    Ok(GuestDevice { host, ..device })
}

/// `command`, or what a planted fault makes of it: the guest's own words with the ids replaced.
fn spoil(command: Command, words: Command) -> Command {
    if planted::is(Fault::SmmuGuestWordsPassedOn) {
        return [words[0] & 0xffff_ffff | command[0] & !0xffff_ffff, words[1]];
    }
    command
}
