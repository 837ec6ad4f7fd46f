//! Commands that a guest wrote to the command queue of its own IOMMU.
//!
//! A guest has a first stage of its own, with process directories in its memory, behind a second stage
//! of the host; device contexts are the host's:
//!
//! | Guest | Host |
//! |---|---|
//! | IOTINVAL.VMA, with any GSCID or none | the same with GV = 1 and the guest's GSCID |
//! | IODIR.INVAL_PDT | the same for the host's device id; the process id is the same in guest and host |
//! | ATS.INVAL | the same for the host's device id |
//! | IOFENCE.C without AV and WSI | the same |
//! | IOFENCE.C with AV or WSI | refused: its completion goes to the guest |
//! | IOTINVAL.GVMA | refused: the second stage is the host's |
//! | IODIR.INVAL_DDT | refused: the host keeps the device directory |
//! | ATS.PRGR | refused: the host keeps account of what was asked |
//!
//! Operands that the specification ignores in a form of a command are left out.

use crate::caps::Capabilities;
use crate::planted::{self, Fault};
use crate::spec::commands::{self, Command, Reach, opcode};
use crate::unit::Unit;
use iommu_core::error::QueueError;
use iommu_core::guest::{self, Batch, Executed, Guest, GuestDevice, Refusal};
use iommu_core::ids::{DeviceId, Pasid, Tag};
use iommu_core::iommu::Iommu;
use iommu_core::platform::Platform;

/// A command as a guest wrote it: 16 bytes.
pub type GuestCommand = guest::GuestCommand<2>;

/// What the host sends instead.
pub type HostCommand = guest::HostCommand<2>;

const OPCODE: u64 = 0x3ff;
const AV: u64 = 1 << 10;
/// PSCID of IOTINVAL, PID of IODIR and ATS.
const PROCESS: u64 = 0xf_ffff << 12;
/// PSCV of IOTINVAL, PV of ATS.
const PROCESS_VALID: u64 = 1 << 32;
const GV: u64 = 1 << 33;
const NL: u64 = 1 << 34;
const GSCID: u64 = 0xffff << 44;
const IOTINVAL_S: u64 = 1 << 9;
const IOTINVAL_ADDRESS: u64 = (1 << 62) - (1 << 10);
const WSI: u64 = 1 << 11;
const PR: u64 = 1 << 12;
const PW: u64 = 1 << 13;
const DATA: u64 = 0xffff_ffff << 32;
const IOFENCE_ADDRESS: u64 = (1 << 62) - 1;
const DV: u64 = 1 << 33;
const DID: u64 = 0xff_ffff << 40;
const DSV: u64 = 1 << 33;
/// RID and DSEG.
const DESTINATION: u64 = 0xff_ffff << 40;
const PAYLOAD_G: u64 = 1;
const PAYLOAD_S: u64 = 1 << 11;
const PAYLOAD_ADDRESS: u64 = !0xfff;

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
    match words[0] & OPCODE {
        opcode::IOTINVAL_VMA => iotinval(words, guest, capabilities),
        opcode::IODIR_INVAL_PDT => iodir(words, guest, capabilities),
        opcode::ATS_INVAL => ats(words, guest, capabilities),
        _ => iofence(words),
    }
}

/// The operands of a command that a guest may have executed; every other bit is reserved.
fn fields(words: Command, capabilities: &Capabilities) -> Result<Command, Refusal> {
    let code = words[0] & OPCODE;
    let opcode = code as u16;
    let [first, second] = match code {
        opcode::IOTINVAL_VMA => {
            let nl = if_there(capabilities.has_non_leaf_invalidation(), NL);
            let s = if_there(capabilities.has_range_invalidation(), IOTINVAL_S);
            let ids = PROCESS | PROCESS_VALID | GV | GSCID;
            [AV | ids | nl, IOTINVAL_ADDRESS | s]
        }
        opcode::IOFENCE_C => [AV | WSI | PR | PW | DATA, IOFENCE_ADDRESS],
        opcode::IODIR_INVAL_PDT => [PROCESS | DV | DID, 0],
        opcode::ATS_INVAL => [
            PROCESS | PROCESS_VALID | DSV | DESTINATION,
            PAYLOAD_ADDRESS | PAYLOAD_S | PAYLOAD_G,
        ],
        opcode::IOTINVAL_GVMA | opcode::IODIR_INVAL_DDT | opcode::ATS_PRGR => {
            return Err(Refusal::HostOnly { opcode });
        }
        _ => return Err(Refusal::UnknownOpcode { opcode }),
    };
    Ok([first | OPCODE, second])
}

const fn if_there(there: bool, bit: u64) -> u64 {
    if there { bit } else { 0 }
}

/// IOTINVAL.VMA (section "IOMMU Page-Table cache invalidation commands").
fn iotinval(
    words: Command,
    guest: &Guest<'_>,
    capabilities: &Capabilities,
) -> Result<HostCommand, Refusal> {
    let bits = if_there(capabilities.has_second_stage(), 16) as u8;
    let gscid = guest.tag_of(bits)?;
    let tag = (words[0] & PROCESS_VALID != 0).then_some(Tag(process(words)));
    let command = if words[0] & AV == 0 {
        match tag {
            Some(tag) => commands::iotinval_vma_tag(tag),
            None => commands::iotinval_vma_all(),
        }
    } else {
        let address = (words[1] & IOTINVAL_ADDRESS) << 2;
        let block = guest::sized_block(address, words[1] & IOTINVAL_S != 0, "ADDR")?;
        guest::check_sign_extended(block, capabilities.virtual_address_bits())?;
        let reach = match words[0] & NL {
            0 => Reach::Leaf,
            _ => Reach::NonLeaf,
        };
        match tag {
            Some(tag) => commands::iotinval_vma_block(tag, block, reach),
            None => commands::iotinval_vma_block_all(block, reach),
        }
    };
    let command = if planted::is(Fault::RiscvGuestTagForgotten) {
        [command[0] | words[0] & (GV | GSCID), command[1]]
    } else {
        commands::for_guest(command, gscid)
    };
    Ok(HostCommand::new(spoil(command, words, GV | GSCID)))
}

/// IOFENCE.C (section "IOMMU Command-queue Fence commands"), if nobody is told of its completion.
fn iofence(words: Command) -> Result<HostCommand, Refusal> {
    if words[0] & (AV | WSI) != 0 {
        let opcode = (words[0] & OPCODE) as u16;
        return Err(Refusal::HostOnly { opcode });
    }
    let command = commands::iofence_after(words[0] & PR != 0, words[0] & PW != 0);
    Ok(HostCommand::new(spoil(command, words, 0)))
}

/// IODIR.INVAL_PDT (section "IOMMU directory cache invalidation commands"), which has to name a
/// device.
fn iodir(
    words: Command,
    guest: &Guest<'_>,
    capabilities: &Capabilities,
) -> Result<HostCommand, Refusal> {
    if words[0] & DV == 0 {
        return Err(Refusal::ReservedValue {
            field: "DV",
            value: 0,
        });
    }
    let pasid = match process(words) {
        0 => Pasid::UNTAGGED,
        pasid => guest.pasid(pasid, capabilities.process_id_bits())?,
    };
    let device = device(DeviceId((words[0] >> 40) as u32), guest)?;
    let command = commands::iodir_inval_pdt(device.host, pasid);
    Ok(HostCommand::about_device(
        spoil(command, words, DID),
        device,
    ))
}

/// ATS.INVAL (section "IOMMU PCIe ATS commands"). PCIe reserves G in a message without a PASID.
fn ats(
    words: Command,
    guest: &Guest<'_>,
    capabilities: &Capabilities,
) -> Result<HostCommand, Refusal> {
    if !capabilities.has_ats() {
        return Err(Refusal::Unsupported { capability: "ATS" });
    }
    let pasid = match words[0] & PROCESS_VALID {
        0 => None,
        _ => Some(guest.pasid(process(words), capabilities.process_id_bits())?),
    };
    let segment = match words[0] & DSV {
        0 => 0,
        _ => words[0] >> 56,
    };
    let requester = words[0] >> 40 & 0xffff;
    let device = device(DeviceId((segment << 16 | requester) as u32), guest)?;
    let payload = words[1];
    let block = guest::sized_block(payload, payload & PAYLOAD_S != 0, "PAYLOAD")?;
    let command = commands::ats_inval_as(device.host, pasid, block);
    let command = match pasid {
        Some(_) if payload & PAYLOAD_G != 0 => commands::ats_inval_global(command),
        _ => command,
    };
    let command = spoil(command, words, DSV | DESTINATION);
    Ok(HostCommand::to_device(command, device))
}

/// PSCID or PID.
const fn process(words: Command) -> u32 {
    ((words[0] & PROCESS) >> 12) as u32
}

fn device(guest_id: DeviceId, guest: &Guest<'_>) -> Result<GuestDevice, Refusal> {
    let device = guest.device(guest_id)?;
    let host = match planted::is(Fault::RiscvGuestDeviceKept) {
        true => device.guest,
        false => device.host,
    };
    Ok(GuestDevice { host, ..device })
}

/// `command`, or what a planted fault makes of it: the guest's own words with the operands `ids`
/// replaced.
fn spoil(command: Command, words: Command, ids: u64) -> Command {
    if planted::is(Fault::RiscvGuestWordsPassedOn) {
        return [words[0] & !ids | command[0] & ids, words[1]];
    }
    command
}
