//! What a command says, and what it does at once (section "Command-Queue").

use super::State;
use super::caches::{Space, Span, Table};
use super::configuration::Configuration;
use super::registers::WSI;
use crate::bus::{InvalidationRequest, PageResponse, ResponseCode};

/// A command that is legal and supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// `IOTINVAL.VMA`.
    InvalidateFirstStage {
        /// GSCID, if GV.
        guest: Option<u16>,
        /// PSCID, if PSCV.
        process: Option<u32>,
        /// ADDR, if AV.
        span: Option<Span>,
        /// NL.
        non_leaf: bool,
    },
    /// `IOTINVAL.GVMA`.
    InvalidateSecondStage {
        /// GSCID, if GV.
        guest: Option<u16>,
        /// ADDR, if GV and AV.
        span: Option<Span>,
        /// NL.
        non_leaf: bool,
    },
    /// `IOFENCE.C`.
    Fence(Fence),
    /// `IODIR.INVAL_DDT`.
    InvalidateDevice {
        /// DID, if DV.
        device: Option<u32>,
    },
    /// `IODIR.INVAL_PDT`.
    InvalidateProcess {
        /// DID.
        device: u32,
        /// PID.
        process: u32,
    },
    /// `ATS.INVAL`.
    InvalidateDeviceTlb(DeviceTlbInvalidation),
    /// `ATS.PRGR`.
    Respond {
        /// DSEG and RID.
        device: u32,
        /// The message.
        response: PageResponse,
    },
    /// Legal, and without effect.
    Nothing,
}

/// `IOFENCE.C`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fence {
    /// ADDR and DATA, if AV.
    pub store: Option<(u64, u32)>,
    /// WSI.
    pub interrupt: bool,
    /// PR.
    pub reads: bool,
    /// PW.
    pub writes: bool,
}

/// `ATS.INVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeviceTlbInvalidation {
    pub device: u32,
    pasid: Option<u32>,
    global: bool,
    address: u64,
    size: u64,
}

impl DeviceTlbInvalidation {
    /// The message with a tag.
    pub fn request(&self, itag: u8) -> InvalidationRequest {
        InvalidationRequest {
            itag,
            pasid: self.pasid,
            global: self.global,
            address: self.address,
            size: self.size,
        }
    }
}

const fn flag(word: u64, bit: u32) -> bool {
    word >> bit & 1 == 1
}

const fn field(word: u64, low: u32, bits: u32) -> u64 {
    word >> low & ((1 << bits) - 1)
}

/// The pages of a naturally aligned power-of-two block: below the lowest zero, ones. None if there
/// is no zero.
fn aligned_block(page: u64) -> Option<(u64, u64)> {
    let ones = page.trailing_ones();
    (ones < 52).then(|| {
        let last = page | 1 << ones;
        (last & !((2 << ones) - 1), last)
    })
}

/// What a command's words mean; none if it is illegal or unsupported. `device_bits` is the width of
/// the device ids of `ddtp.iommu_mode`.
pub(super) fn decode(
    words: [u64; 2],
    configuration: &Configuration,
    fctl: u32,
    device_bits: u32,
) -> Option<Command> {
    let [first, second] = words;
    let legal_device = |device: u32| device >> device_bits == 0;
    match (first & 0x7f, field(first, 7, 3)) {
        (1, function @ 0..=1) => decode_iotinval(words, configuration, function == 1),
        (2, 0) => {
            let reserved = field(first, 14, 18) != 0 || second >> 62 != 0;
            let fence = Fence {
                store: flag(first, 10).then_some((second << 2, (first >> 32) as u32)),
                interrupt: flag(first, 11),
                reads: flag(first, 12),
                writes: flag(first, 13),
            };
            let wired = fctl & WSI != 0;
            (!reserved && (wired || !fence.interrupt)).then_some(Command::Fence(fence))
        }
        (3, function @ 0..=1) => {
            let (device, process) = ((first >> 40) as u32, field(first, 12, 20) as u32);
            let has_device = flag(first, 33);
            let reserved = field(first, 10, 2) != 0
                || flag(first, 32)
                || field(first, 34, 6) != 0
                || second != 0;
            let legal = !reserved
                && (!has_device || legal_device(device))
                && if function == 0 {
                    process == 0
                } else {
                    has_device && process >> configuration.process_id_bits() == 0
                };
            legal.then_some(if function == 0 {
                Command::InvalidateDevice {
                    device: has_device.then_some(device),
                }
            } else {
                Command::InvalidateProcess { device, process }
            })
        }
        (4, function @ 0..=1) if configuration.ats => {
            let reserved = field(first, 10, 2) != 0 || field(first, 34, 6) != 0;
            let segment = if flag(first, 33) { first >> 56 } else { 0 };
            let device = (segment << 16 | field(first, 40, 16)) as u32;
            let pasid = flag(first, 32).then(|| field(first, 12, 20) as u32);
            if reserved {
                None
            } else if function == 0 {
                decode_ats_inval(device, pasid, second)
            } else {
                decode_ats_prgr(device, pasid, second)
            }
        }
        _ => None,
    }
}

fn decode_iotinval(
    [first, second]: [u64; 2],
    configuration: &Configuration,
    second_stage: bool,
) -> Option<Command> {
    let (has_address, has_process, has_guest) = (flag(first, 10), flag(first, 32), flag(first, 33));
    let (non_leaf, range) = (flag(first, 34), flag(second, 9));
    let reserved = flag(first, 11)
        || field(first, 35, 9) != 0
        || first >> 60 != 0
        || field(second, 0, 9) != 0
        || second >> 62 != 0
        || non_leaf && !configuration.nl
        || range && !configuration.s
        || second_stage && has_process;
    if reserved {
        return None;
    }
    let guest = has_guest.then(|| field(first, 44, 16) as u16);
    let page = field(second, 10, 52);
    let span = if !has_address || second_stage && !has_guest {
        None
    } else {
        // A range of all ones is UNSPECIFIED; an address that cannot be one may do nothing.
        let (low, high) = if range {
            match aligned_block(page) {
                Some(block) => block,
                None => return Some(Command::Nothing),
            }
        } else {
            (page, page)
        };
        let whole = low == 0 && high == (1 << 52) - 1;
        if !whole && !is_address(configuration, page << 12, second_stage) {
            return Some(Command::Nothing);
        }
        Some(Span {
            first: low << 12,
            last: high << 12 | 0xfff,
        })
    };
    Some(if second_stage {
        Command::InvalidateSecondStage {
            guest,
            span,
            non_leaf,
        }
    } else {
        Command::InvalidateFirstStage {
            guest,
            process: has_process.then(|| field(first, 12, 20) as u32),
            span,
            non_leaf,
        }
    })
}

/// Whether the widest mode has such an address.
fn is_address(configuration: &Configuration, address: u64, second_stage: bool) -> bool {
    if second_stage {
        return address >> configuration.guest_address_bits() == 0;
    }
    let unused = 64 - configuration.virtual_address_bits();
    (address << unused) as i64 >> unused == address as i64
}

/// Figure "PAYLOAD of an ATS.INVAL command".
fn decode_ats_inval(device: u32, pasid: Option<u32>, payload: u64) -> Option<Command> {
    if field(payload, 1, 10) != 0 {
        return None;
    }
    let page = payload >> 12;
    let (address, size) = if flag(payload, 11) {
        let (first, last) = aligned_block(page).unwrap_or((0, u64::MAX >> 12));
        (first << 12, (last - first + 1) << 12)
    } else {
        (page << 12, 4096)
    };
    Some(Command::InvalidateDeviceTlb(DeviceTlbInvalidation {
        device,
        pasid,
        global: flag(payload, 0) && pasid.is_some(),
        address,
        size,
    }))
}

/// Figure "PAYLOAD of an ATS.PRGR command".
fn decode_ats_prgr(device: u32, pasid: Option<u32>, payload: u64) -> Option<Command> {
    let zeros = field(payload, 0, 32) | field(payload, 41, 3) | payload >> 48;
    (zeros == 0).then(|| Command::Respond {
        device,
        response: PageResponse {
            pasid,
            group: field(payload, 32, 9) as u16,
            code: match field(payload, 44, 4) {
                0 => ResponseCode::Success,
                1 => ResponseCode::InvalidRequest,
                // PCIe: a device takes every other code for 1111b.
                _ => ResponseCode::Failure,
            },
        },
    })
}

impl State {
    /// What a legal command means now.
    pub(super) fn decode(&self, words: [u64; 2]) -> Option<Command> {
        let levels = match self.directory_levels() {
            // Off and Bare have no width of their own; the registers' is 24 bits.
            0 => 3,
            levels => levels,
        };
        let device_bits = self.configuration.device_id_bits(levels);
        decode(words, &self.configuration, self.registers.fctl, device_bits)
    }

    /// Does what a command says that waits for nothing.
    pub(super) fn execute(&mut self, command: Command) {
        match command {
            Command::InvalidateFirstStage {
                guest,
                process,
                span,
                non_leaf,
            } => {
                let concerned = |space: Space| {
                    space.guest == guest
                        && match space.table {
                            Table::Process(tag) => process.is_none_or(|process| process == tag),
                            Table::Global => process.is_none(),
                            Table::Second | Table::Msi => false,
                        }
                };
                self.caches
                    .invalidate_translations(concerned, span, non_leaf);
            }
            Command::InvalidateSecondStage {
                guest,
                span,
                non_leaf,
            } => {
                let concerned = |space: Space| {
                    matches!(space.table, Table::Second | Table::Msi)
                        && (guest.is_none() || space.guest == guest)
                };
                self.caches
                    .invalidate_translations(concerned, span, non_leaf);
            }
            Command::InvalidateDevice { device: None } => self.caches.invalidate_directories(),
            Command::InvalidateDevice {
                device: Some(device),
            } => self.caches.invalidate_device(device),
            Command::InvalidateProcess { device, process } => {
                self.caches.invalidate_process(device, process);
            }
            Command::Respond { device, response } => {
                if let Some(port) = self.ports.get(&device) {
                    port.respond(response);
                }
            }
            Command::Fence(_) | Command::InvalidateDeviceTlb(_) | Command::Nothing => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words that the bit fields of RISC-V International's reference model make, by name.
    const GOLDEN: &str = include_str!("../../../iommu-riscv/tests/golden/reference-model.txt");

    fn golden(name: &str) -> Command {
        let line = GOLDEN
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .unwrap();
        let mut words = line
            .split(' ')
            .map(|word| u64::from_str_radix(word, 16).unwrap());
        let words = [words.next().unwrap(), words.next().unwrap()];
        decode(words, &Configuration::default(), 0, 24).unwrap()
    }

    fn first_stage(process: Option<u32>, span: Option<Span>, non_leaf: bool) -> Command {
        Command::InvalidateFirstStage {
            guest: None,
            process,
            span,
            non_leaf,
        }
    }

    fn span(first: u64, size: u64) -> Option<Span> {
        Some(Span {
            first,
            last: first + (size - 1),
        })
    }

    #[test]
    fn invalidations_of_page_tables() {
        assert_eq!(golden("iotinval_vma_all"), first_stage(None, None, false));
        assert_eq!(
            golden("iotinval_gvma_all"),
            Command::InvalidateSecondStage {
                guest: None,
                span: None,
                non_leaf: false
            }
        );
        let tag = Some(0xabcde);
        assert_eq!(golden("iotinval_vma_tag"), first_stage(tag, None, false));
        // ADDR is 0xfedc_ba98_7654_3000, which no mode has.
        assert_eq!(golden("iotinval_vma_page"), Command::Nothing);
        let page = span(0x1234_5000, 0x1000);
        assert_eq!(golden("iotinval_vma_page_nl"), first_stage(tag, page, true));
        let block = span(0x1234_4000, 0x2000);
        assert_eq!(
            golden("iotinval_vma_8k"),
            first_stage(Some(1), block, false)
        );
        let block = span(0x1220_0000, 2 << 20);
        assert_eq!(
            golden("iotinval_vma_2m_nl"),
            first_stage(Some(1), block, true)
        );
    }

    #[test]
    fn fences() {
        let fence = |store, both| {
            Command::Fence(Fence {
                store,
                interrupt: false,
                reads: both,
                writes: both,
            })
        };
        assert_eq!(golden("iofence"), fence(None, false));
        let store = Some((0x80_1234_5678_9abc, 0x89ab_cdef));
        assert_eq!(golden("iofence_with_word"), fence(store, true));
    }

    #[test]
    fn invalidations_of_directories() {
        let device = |device| Command::InvalidateDevice { device };
        assert_eq!(golden("iodir_inval_ddt_all"), device(None));
        assert_eq!(golden("iodir_inval_ddt"), device(Some(0xed_cba9)));
        assert_eq!(
            golden("iodir_inval_pdt"),
            Command::InvalidateProcess {
                device: 0xed_cba9,
                process: 0x9_8765
            }
        );
    }

    #[test]
    fn invalidations_of_device_tlbs() {
        let sent = |device, pasid, address, size| {
            Command::InvalidateDeviceTlb(DeviceTlbInvalidation {
                device,
                pasid,
                global: false,
                address,
                size,
            })
        };
        let page = sent(0xba98, None, 0x1234_5678_9abc_d000, 4096);
        assert_eq!(golden("ats_inval_page"), page);
        let all = sent(0xba98, Some(0x9_8765), 0, 0);
        assert_eq!(golden("ats_inval_all_pasid"), all);
        let elsewhere = sent(0xfe_ba98, None, 0x1000, 4096);
        assert_eq!(golden("ats_inval_segment"), elsewhere);
    }
}
