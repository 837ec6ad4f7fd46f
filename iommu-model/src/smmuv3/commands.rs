//! Commands: their encodings, which of them are illegal, and what each does (chapter 4).

use super::State;
use super::caches::{Addresses, Regime, Stage1, TlbInvalidation};
use super::configuration::{Configuration, StallModel};
use super::entries::{bit, bits};
use super::registers::{cr0, cr2};
use crate::bus::{Access, InvalidationRequest, PageResponse, Request, ResponseCode};

/// A legal command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// CMD_PREFETCH_CONFIG and CMD_PREFETCH_ADDR.
    Prefetch {
        stream: u32,
        substream: Option<u32>,
        address: Option<u64>,
    },
    /// CMD_CFGI_STE, CMD_CFGI_STE_RANGE and CMD_CFGI_ALL.
    Streams { first: u32, last: u32, leaf: bool },
    /// CMD_CFGI_CD.
    Context {
        stream: u32,
        substream: u32,
        leaf: bool,
    },
    /// CMD_CFGI_CD_ALL.
    Contexts { stream: u32 },
    /// CMD_TLBI_*; `None` where the encoding leaves the scope empty or unpredictable.
    Tlb(Option<TlbInvalidation>),
    /// CMD_TLBI_EL2_ALL, of both EL2 regimes.
    TlbHypervisor,
    /// CMD_ATC_INV.
    DeviceTlb {
        stream: u32,
        substream: Option<u32>,
        global: bool,
        address: u64,
        log2_pages: u8,
    },
    /// CMD_PRI_RESP.
    Respond {
        stream: u32,
        substream: Option<u32>,
        group: u16,
        code: ResponseCode,
    },
    /// CMD_RESUME.
    Resume { stream: u32, tag: u16, retry: bool },
    /// CMD_STALL_TERM.
    Terminate { stream: u32 },
    /// CMD_SYNC.
    Sync(Signal),
}

/// How a CMD_SYNC tells of its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    None,
    /// An interrupt, and a message if the address is not zero.
    Interrupt {
        address: u64,
        data: u32,
    },
    /// An event for the CPU.
    Event,
}

/// The command is illegal: CERROR_ILL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Illegal;

const STREAM: u64 = 0xffff_ffff << 32;
const SUBSTREAM: u64 = 0xf_ffff << 12;
const SSV: u64 = 1 << 11;
const SECURE: u64 = 1 << 10;
const GLOBAL: u64 = 1 << 9;
const ASID: u64 = 0xffff << 48;
const VMID: u64 = 0xffff << 32;
const RANGE: u64 = 0x1f << 20 | 0x1f << 12;
const VIRTUAL: u64 = !0xfff;
const INTERMEDIATE: u64 = 0x000f_ffff_ffff_f000;
/// TG, TTL and Leaf.
const SCOPE: u64 = 0b1111 << 8 | 1;

/// The fields of each command; everything else is RES0.
const fn fields(opcode: u64) -> Option<[u64; 2]> {
    Some(match opcode {
        0x01 => [STREAM | SUBSTREAM | SSV | SECURE, 0],
        0x02 => [STREAM | SUBSTREAM | SSV | SECURE, VIRTUAL | 0x3ff],
        0x03 => [STREAM | SECURE, 1],
        0x04 => [STREAM | SECURE, 0x1f],
        0x05 => [STREAM | SUBSTREAM | SECURE, 1],
        0x06 => [STREAM | SECURE, 0],
        0x10 | 0x28 => [VMID, 0],
        0x11 => [ASID | VMID, 0],
        0x12 => [ASID | VMID | RANGE, VIRTUAL | SCOPE],
        0x13 => [VMID | RANGE, VIRTUAL | SCOPE],
        0x20 | 0x30 => [0, 0],
        0x21 => [ASID, 0],
        0x22 => [ASID | RANGE, VIRTUAL | SCOPE],
        0x23 => [RANGE, VIRTUAL | SCOPE],
        0x2a => [VMID | RANGE, INTERMEDIATE | SCOPE],
        0x40 => [STREAM | SUBSTREAM | SSV | SECURE | GLOBAL, VIRTUAL | 0x3f],
        0x41 => [STREAM | SUBSTREAM | SSV | SECURE, 0b11 << 12 | 0x1ff],
        0x44 => [STREAM | SECURE | 0b11 << 12, 0xffff],
        0x45 => [STREAM | SECURE, 0],
        0x46 => [
            0xffff_ffff << 32 | 0b11_1111 << 22 | 0b11 << 12,
            0x000f_ffff_ffff_fffc,
        ],
        _ => return None,
    })
}

/// Decodes a command of the non-secure queue.
pub fn decode(
    words: [u64; 2],
    configuration: &Configuration,
    hosts: bool,
) -> Result<Command, Illegal> {
    let opcode = words[0] & 0xff;
    let fields = fields(opcode).ok_or(Illegal)?;
    let reserved = [words[0] & !fields[0] & !0xff, words[1] & !fields[1]];
    if configuration.check_reserved && reserved != [0, 0] {
        return Err(Illegal);
    }
    if fields[0] & SECURE != 0 && words[0] & SECURE != 0 {
        return Err(Illegal);
    }
    let stream = (words[0] >> 32) as u32;
    let substream = words[0] & SSV != 0;
    let substream = substream.then_some(bits(words[0], 31, 12) as u32);
    let only_if = |there: bool| if there { Ok(()) } else { Err(Illegal) };
    let tlb = || decode_tlb(words, configuration, hosts);
    match opcode {
        0x01 | 0x02 => Ok(Command::Prefetch {
            stream,
            substream,
            address: (opcode == 0x02).then_some(words[1] & VIRTUAL),
        }),
        0x03 => Ok(Command::Streams {
            first: stream,
            last: stream,
            leaf: bit(words[1], 0),
        }),
        0x04 => {
            let low = (2u64 << bits(words[1], 4, 0)) - 1;
            Ok(Command::Streams {
                first: stream & !(low as u32),
                last: stream | low as u32,
                leaf: false,
            })
        }
        0x05 => only_if(configuration.stage_1).map(|()| Command::Context {
            stream,
            substream: bits(words[0], 31, 12) as u32,
            leaf: bit(words[1], 0),
        }),
        0x06 => only_if(configuration.stage_1).map(|()| Command::Contexts { stream }),
        0x10..=0x13 => only_if(configuration.stage_1).and_then(|()| tlb()),
        0x20 => only_if(configuration.stage_1 && configuration.hypervisor)
            .map(|()| Command::TlbHypervisor),
        0x21..=0x23 => {
            only_if(configuration.stage_1 && configuration.hypervisor).and_then(|()| tlb())
        }
        0x28 | 0x2a => only_if(configuration.stage_2).and_then(|()| tlb()),
        0x30 => tlb(),
        0x40 => {
            let log2_pages = bits(words[1], 5, 0) as u8;
            only_if(configuration.ats && log2_pages <= 52).map(|()| Command::DeviceTlb {
                stream,
                substream,
                global: words[0] & GLOBAL != 0,
                address: words[1] & VIRTUAL,
                log2_pages,
            })
        }
        0x41 => {
            only_if(configuration.pri)?;
            Ok(Command::Respond {
                stream,
                substream,
                group: bits(words[1], 8, 0) as u16,
                code: match bits(words[1], 13, 12) {
                    0b00 => ResponseCode::Failure,
                    0b01 => ResponseCode::InvalidRequest,
                    0b10 => ResponseCode::Success,
                    _ => return Err(Illegal),
                },
            })
        }
        0x44 => only_if(configuration.stall_model != StallModel::Never).map(|()| Command::Resume {
            stream,
            tag: words[1] as u16,
            retry: bit(words[0], 12),
        }),
        0x45 => only_if(configuration.stall_model != StallModel::Never)
            .map(|()| Command::Terminate { stream }),
        _ => Ok(Command::Sync(match bits(words[0], 13, 12) {
            0b00 => Signal::None,
            0b01 => Signal::Interrupt {
                address: words[1] & 0x00ff_ffff_ffff_fffc,
                data: (words[0] >> 32) as u32,
            },
            0b10 => Signal::Event,
            _ => return Err(Illegal),
        })),
    }
}

/// The scope of a CMD_TLBI_* (4.4).
fn decode_tlb(
    words: [u64; 2],
    configuration: &Configuration,
    hosts: bool,
) -> Result<Command, Illegal> {
    let opcode = words[0] & 0xff;
    let asid = (words[0] >> 48) as u16;
    let vmid = (words[0] >> 32) as u16;
    let by_address = matches!(opcode, 0x12 | 0x13 | 0x22 | 0x23 | 0x2a);
    let addresses = if by_address {
        match decode_addresses(words, configuration)? {
            None => return Ok(Command::Tlb(None)),
            addresses => addresses,
        }
    } else {
        None
    };
    let hypervisor = if hosts { Regime::El2Host } else { Regime::El2 };
    let (regime, stage_1) = match opcode {
        0x10 | 0x13 | 0x28 | 0x30 => (Regime::El1, Stage1::All),
        0x11 => (Regime::El1, Stage1::NonGlobal(asid)),
        0x12 => (Regime::El1, Stage1::Of(asid)),
        0x21 => (Regime::El2Host, Stage1::NonGlobal(asid)),
        0x22 if hosts => (hypervisor, Stage1::Of(asid)),
        0x22 | 0x23 => (hypervisor, Stage1::All),
        _ => (Regime::El1, Stage1::None),
    };
    let has_vmid = matches!(opcode, 0x10..=0x13 | 0x28 | 0x2a);
    let has_asid = matches!(opcode, 0x11 | 0x12 | 0x21 | 0x22);
    // Wider ASIDs and VMIDs than there are need not match anything.
    if has_vmid && !configuration.vmid_16 && vmid > 0xff
        || has_asid && !configuration.asid_16 && asid > 0xff
    {
        return Ok(Command::Tlb(None));
    }
    Ok(Command::Tlb(Some(TlbInvalidation {
        regime,
        vmid: has_vmid.then_some(vmid),
        stage_1,
        stage_2: matches!(opcode, 0x28 | 0x2a | 0x30),
        addresses,
    })))
}

/// The addresses of a TLB invalidation; `None` if the encoding names none that must go (4.4.1.1).
fn decode_addresses(
    words: [u64; 2],
    configuration: &Configuration,
) -> Result<Option<Addresses>, Illegal> {
    let first = words[1] & VIRTUAL;
    let leaf = bit(words[1], 0);
    let (num, scale) = (bits(words[0], 16, 12), bits(words[0], 24, 20));
    let (granule, level) = (bits(words[1], 11, 10), bits(words[1], 9, 8));
    let ranged = configuration.range_invalidation && granule != 0b00;
    if !ranged {
        let unused = [
            num,
            scale,
            level,
            if configuration.range_invalidation {
                0
            } else {
                granule
            },
        ];
        if configuration.check_reserved && unused != [0; 4] {
            return Err(Illegal);
        }
        return Ok(Some(Addresses {
            first,
            last: first | 0xfff,
            leaf,
            level: None,
        }));
    }
    if (num, scale, level) == (0, 0, 0) {
        return Err(Illegal);
    }
    let aligned = match level {
        0b01 => first & 0x3fff_ffff == 0,
        0b10 => first & 0x1f_ffff == 0,
        _ => true,
    };
    // No entry has another granule than 4 KiB; a misaligned range is unpredictable.
    if granule != 0b01 || !aligned {
        return Ok(None);
    }
    let bytes = u128::from(num + 1) << (scale + 12);
    let last = (u128::from(first) + bytes - 1).min(u64::MAX.into()) as u64;
    Ok(Some(Addresses {
        first,
        last,
        leaf,
        level: (level != 0).then_some(level as u8),
    }))
}

impl State {
    /// Decodes with the registers' state.
    pub fn decode_command(&self, words: [u64; 2]) -> Result<Command, Illegal> {
        decode(
            words,
            &self.configuration,
            self.registers.cr2 & cr2::E2H != 0,
        )
    }

    /// Lets a command other than CMD_SYNC take effect. A parameter out of range has none (4.1.7).
    pub fn execute(&mut self, command: Command) {
        if self.is_out_of_range(command) {
            self.complain("a command has a StreamID or SubstreamID that is out of range");
            return;
        }
        match command {
            Command::Prefetch {
                stream,
                substream,
                address,
            } => self.prefetch(&Request {
                device: stream,
                pasid: substream,
                privileged: false,
                address: address.unwrap_or(0),
                access: Access::Read,
            }),
            Command::Streams { first, last, leaf } => {
                let split = (!leaf && self.two_level_streams()).then(|| self.split());
                self.caches.invalidate_streams(first, last, split);
            }
            Command::Context {
                stream,
                substream,
                leaf,
            } => {
                self.caches.contexts.remove(&(stream, substream));
                if !leaf {
                    self.forget_context_table(stream, substream);
                }
            }
            Command::Contexts { stream } => {
                self.caches.contexts.retain(|&(of, _), _| of != stream);
                self.caches
                    .context_tables
                    .retain(|&(of, _), _| of != stream);
            }
            Command::Sync(_) => {}
            Command::Tlb(None) => {
                self.complain("a TLB invalidation whose fields contradict each other");
            }
            Command::Tlb(Some(invalidation)) => self.caches.invalidate_tlb(&invalidation),
            Command::TlbHypervisor => {
                for regime in [Regime::El2, Regime::El2Host] {
                    self.caches.invalidate_tlb(&TlbInvalidation {
                        regime,
                        vmid: None,
                        stage_1: Stage1::All,
                        stage_2: false,
                        addresses: None,
                    });
                }
            }
            Command::DeviceTlb {
                stream,
                substream,
                global,
                address,
                log2_pages,
            } => {
                let size = 4096u64.checked_shl(log2_pages.into()).unwrap_or(0);
                let size = if log2_pages == 52 { 0 } else { size };
                self.invalidate_device(
                    stream,
                    InvalidationRequest {
                        itag: 0,
                        pasid: substream,
                        global: global && substream.is_some(),
                        address: if size == 0 { 0 } else { address & !(size - 1) },
                        size,
                    },
                );
            }
            Command::Respond {
                stream,
                substream,
                group,
                code,
            } => {
                if self.registers.enabled(cr0::SMMUEN) {
                    let pasid = substream;
                    self.respond(stream, PageResponse { pasid, group, code });
                }
            }
            Command::Resume { stream, tag, retry } => self.resume(stream, tag, retry),
            Command::Terminate { stream } => self.terminate(|stalled| stalled.device == stream),
        }
    }

    fn is_out_of_range(&self, command: Command) -> bool {
        let (stream, substream) = match command {
            Command::Context {
                stream, substream, ..
            } => (stream, substream),
            Command::Prefetch {
                stream, substream, ..
            }
            | Command::DeviceTlb {
                stream, substream, ..
            }
            | Command::Respond {
                stream, substream, ..
            } => (stream, substream.unwrap_or(0)),
            Command::Contexts { stream }
            | Command::Resume { stream, .. }
            | Command::Terminate { stream } => (stream, 0),
            // A range may reach beyond the last StreamID.
            Command::Streams { first, last, .. } if first == last => (first, 0),
            _ => return false,
        };
        u64::from(stream) >> self.configuration.stream_bits != 0
            || u64::from(substream) >> self.configuration.substream_bits != 0
    }

    /// A level 1 descriptor covers as many substreams as S1Fmt says: those of both formats go, one
    /// of which the stream has.
    fn forget_context_table(&mut self, stream: u32, substream: u32) {
        let format = self.caches.streams.get(&stream);
        let shift = match format.map(|entry| bits(entry.words[0], 5, 4)) {
            Some(0b10) => 10,
            _ => 6,
        };
        self.caches
            .context_tables
            .remove(&(stream, substream >> shift));
    }

    /// Sends an ATS invalidation request, or lets it wait for a tag. One to a device that is not
    /// there ends without an error, as an unsupported request does (3.9.1.5).
    fn invalidate_device(&mut self, stream: u32, request: InvalidationRequest) {
        let unsupported = request.pasid.is_some() && self.configuration.substream_bits == 0;
        if unsupported {
            self.complain("a CMD_ATC_INV has a SubstreamID, of which there are none");
        }
        if !self.registers.enabled(cr0::SMMUEN) || unsupported {
            return;
        }
        if let Some(device) = self.devices.get_mut(&stream) {
            device.waiting.push_back(request);
            device.send();
        }
    }
}
