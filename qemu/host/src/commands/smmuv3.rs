//! Arm SMMUv3 commands (Arm IHI 0070, chapter 4).
//!
//! QEMU 11.1.3 traces no raw words. For each command it prints `smmuv3_cmdq_opcode <--- <name>`, and after it, for some:
//! - `smmuv3_cmdq_cfgi_ste streamid= 0x8`, only for a stream that has a device;
//! - `smmuv3_cmdq_cfgi_ste_range start=0x0 - end=0xffffffff`;
//! - `smmuv3_cmdq_cfgi_cd sid=0x8` (CFGI_CD and CFGI_CD_ALL), only for a stream that has a device;
//! - `smmuv3_cmdq_tlbi_nh_asid asid=5`;
//! - `smmuv3_range_inval vmid=-1 asid=5 addr=0x7f0000003000 tg=1 num_pages=0x4 ttl=3 leaf=1 stage=1`, several for a range
//!   that is no aligned power of two; `vmid` and `asid` are -1 where they do not apply;
//! - `smmuv3_cmdq_consume_error Error on <name> command execution: <code>` for a command it refuses.
//!
//! Not printed, so not compared: the SubstreamID of CFGI_CD, the fields of SYNC, ATC_INV and PRI_RESP, and, where the SMMU has first
//! stages only, the VMID.

use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};

use super::{Reader, bits, event, hexadecimal};

/// Its commands.
pub const READER: Reader = Reader {
    events: &[
        "smmuv3_cmdq_opcode",
        "smmuv3_cmdq_cfgi_*",
        "smmuv3_cmdq_tlbi_*",
        "smmuv3_cmdq_consume_error",
        "smmuv3_range_inval",
    ],
    received,
    expected,
};

/// Its commands where it has both stages.
pub const NESTED: Reader = Reader {
    expected: |words| sent(words, true),
    ..READER
};

/// Opcodes and their names, as QEMU prints them after `SMMU_CMD_`.
const NAMES: [(u64, &str); 24] = [
    (0x01, "PREFETCH_CONFIG"),
    (0x02, "PREFETCH_ADDR"),
    (0x03, "CFGI_STE"),
    (0x04, "CFGI_STE_RANGE"),
    (0x05, "CFGI_CD"),
    (0x06, "CFGI_CD_ALL"),
    (0x10, "TLBI_NH_ALL"),
    (0x11, "TLBI_NH_ASID"),
    (0x12, "TLBI_NH_VA"),
    (0x13, "TLBI_NH_VAA"),
    (0x18, "TLBI_EL3_ALL"),
    (0x1a, "TLBI_EL3_VA"),
    (0x20, "TLBI_EL2_ALL"),
    (0x21, "TLBI_EL2_ASID"),
    (0x22, "TLBI_EL2_VA"),
    (0x23, "TLBI_EL2_VAA"),
    (0x28, "TLBI_S12_VMALL"),
    (0x2a, "TLBI_S2_IPA"),
    (0x30, "TLBI_NSNH_ALL"),
    (0x40, "ATC_INV"),
    (0x41, "PRI_RESP"),
    (0x44, "RESUME"),
    (0x45, "STALL_TERM"),
    (0x46, "SYNC"),
];

/// Addresses that one command invalidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    vmid: Option<u64>,
    asid: Option<u64>,
    address: u64,
    /// Granule code: 0 none, 1 4 KiB, 2 16 KiB, 3 64 KiB.
    granule: u64,
    pages: u64,
    level: u64,
    leaf: bool,
}

impl Range {
    /// The range that begins where this one ends, joined with it.
    fn join(self, next: Self) -> Option<Self> {
        let shift = match self.granule {
            1 => 12,
            2 => 14,
            3 => 16,
            _ => return None,
        };
        let end = self.address.checked_add(self.pages << shift)?;
        let expected = Self {
            address: end,
            pages: next.pages,
            ..self
        };
        (next == expected).then_some(Self {
            pages: self.pages + next.pages,
            ..self
        })
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for (name, value) in [("vmid", self.vmid), ("asid", self.asid)] {
            if let Some(value) = value {
                let _ = write!(text, "{name}={value} ");
            }
        }
        let _ = write!(
            text,
            "address={:#x} granule={} pages={} level={} leaf={}",
            self.address,
            self.granule,
            self.pages,
            self.level,
            u8::from(self.leaf)
        );
        text
    }
}

/// A command that QEMU is telling about.
struct Received {
    name: String,
    fields: String,
    range: Option<Range>,
}

impl Received {
    fn describe(&self) -> String {
        match &self.range {
            Some(range) => describe(&self.name, &range.describe()),
            None => describe(&self.name, &self.fields),
        }
    }
}

fn received(trace: &str) -> Result<Vec<String>> {
    let mut commands: Vec<Received> = Vec::new();
    for line in trace.lines() {
        let Some((name, text)) = event(line) else {
            continue;
        };
        if name == "smmuv3_cmdq_opcode" {
            let full = text.strip_prefix("<--- ");
            let full = full.with_context(|| unknown_form(line))?;
            commands.push(Received {
                name: full.strip_prefix("SMMU_CMD_").unwrap_or(full).to_owned(),
                fields: String::new(),
                range: None,
            });
        } else if let Some(command) = commands.last_mut() {
            detail(command, name, text).with_context(|| unknown_form(line))?;
        }
    }
    Ok(commands.iter().map(Received::describe).collect())
}

fn unknown_form(line: &str) -> String {
    format!("an event in a form not known of QEMU 11.1: `{line}`")
}

/// Takes in a detail line that QEMU printed after the command's opcode.
fn detail(command: &mut Received, name: &str, text: &str) -> Option<()> {
    match name {
        "smmuv3_cmdq_cfgi_ste" => {
            let stream = hexadecimal(text.strip_prefix("streamid= ")?)?;
            command.fields = stream_field(stream);
        }
        "smmuv3_cmdq_cfgi_cd" => {
            command.fields = stream_field(hexadecimal(text.strip_prefix("sid=")?)?);
        }
        "smmuv3_cmdq_cfgi_ste_range" => {
            let (start, end) = text.strip_prefix("start=")?.split_once(" - end=")?;
            command.fields = streams_field(hexadecimal(start)?, hexadecimal(end)?);
        }
        "smmuv3_cmdq_tlbi_nh_asid" => {
            command.fields = asid_field(text.strip_prefix("asid=")?.parse().ok()?);
        }
        "smmuv3_cmdq_tlbi_nh" | "smmuv3_cmdq_tlbi_s12_vmid" => text.clone_into(&mut command.fields),
        "smmuv3_cmdq_consume_error" => {
            let (_, code) = text.rsplit_once(": ")?;
            command.name = format!("{} refused with error {code}", command.name);
        }
        "smmuv3_range_inval" => {
            let range = parse_range(text)?;
            command.range = Some(match command.range {
                Some(earlier) => earlier.join(range)?,
                None => range,
            });
        }
        _ => {}
    }
    Some(())
}

fn parse_range(text: &str) -> Option<Range> {
    let mut fields = text.split(' ').map(|field| field.split_once('='));
    let mut next = |name| {
        let (found, value) = fields.next()??;
        (found == name).then_some(value)
    };
    // -1 says that the tag does not apply.
    let tag = |value: &str| value.parse::<i64>().ok().map(|tag| u64::try_from(tag).ok());
    Some(Range {
        vmid: tag(next("vmid")?)?,
        asid: tag(next("asid")?)?,
        address: hexadecimal(next("addr")?)?,
        granule: next("tg")?.parse().ok()?,
        pages: hexadecimal(next("num_pages")?)?,
        level: next("ttl")?.parse().ok()?,
        leaf: next("leaf")? == "1",
    })
}

fn expected(words: &[u64]) -> Result<String> {
    sent(words, false)
}

fn sent(words: &[u64], both_stages: bool) -> Result<String> {
    let &[first, second] = words else {
        bail!("a command has two 64-bit words");
    };
    let opcode = bits(first, 7, 0);
    let name = NAMES.iter().find(|(number, _)| *number == opcode);
    let (_, name) = name.with_context(|| format!("no command has opcode {opcode:#04x}"))?;
    let stream = bits(first, 63, 32);
    let asid = bits(first, 63, 48);
    let vmid = both_stages.then(|| bits(first, 47, 32));
    let fields = match opcode {
        0x03 | 0x05 | 0x06 => stream_field(stream),
        0x04 => {
            let low_bits = (2 << bits(second, 4, 0)) - 1;
            let start = stream & !low_bits;
            streams_field(start, start + low_bits)
        }
        0x11 => asid_field(asid),
        0x12 => range_of(first, second, vmid, Some(asid))?.describe(),
        0x13 => range_of(first, second, vmid, None)?.describe(),
        _ => String::new(),
    };
    Ok(describe(name, &fields))
}

fn range_of(first: u64, second: u64, vmid: Option<u64>, asid: Option<u64>) -> Result<Range> {
    let granule = bits(second, 11, 10);
    let (number, scale) = (bits(first, 16, 12), bits(first, 24, 20));
    ensure!(
        granule != 0 || (number == 0 && scale == 0),
        "NUM and SCALE are reserved without TG"
    );
    Ok(Range {
        vmid,
        asid,
        address: second & !0xfff,
        granule,
        pages: (number + 1) << scale,
        level: bits(second, 9, 8),
        leaf: bits(second, 0, 0) == 1,
    })
}

fn stream_field(stream: u64) -> String {
    format!("stream={stream:#x}")
}

fn streams_field(first: u64, last: u64) -> String {
    format!("streams={first:#x}..={last:#x}")
}

fn asid_field(asid: u64) -> String {
    format!("asid={asid}")
}

fn describe(name: &str, fields: &str) -> String {
    format!("{name:<15} {fields}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From a run of QEMU 11.1.3: a range of eight pages at page 3 of 16, which QEMU splits into aligned powers of two.
    const RANGE: &str = "\
smmuv3_cmdq_opcode <--- SMMU_CMD_TLBI_NH_VA
smmuv3_range_inval vmid=-1 asid=5 addr=0x7f0000003000 tg=1 num_pages=0x1 ttl=3 leaf=1 stage=1
smmuv3_range_inval vmid=-1 asid=5 addr=0x7f0000004000 tg=1 num_pages=0x4 ttl=3 leaf=1 stage=1
smmuv3_range_inval vmid=-1 asid=5 addr=0x7f0000008000 tg=1 num_pages=0x2 ttl=3 leaf=1 stage=1
smmuv3_range_inval vmid=-1 asid=5 addr=0x7f000000a000 tg=1 num_pages=0x1 ttl=3 leaf=1 stage=1
";
    const RANGE_WORDS: [u64; 2] = [0x0005_0000_0010_3012, 0x0000_7f00_0000_3701];

    #[test]
    fn joins_the_pieces_of_a_range() {
        let lines = received(RANGE).expect("known form");
        let text = "TLBI_NH_VA      asid=5 address=0x7f0000003000 granule=1 pages=8 level=3 leaf=1";
        assert_eq!(lines, [text]);
        assert_eq!(expected(&RANGE_WORDS).expect("known command"), text);
    }

    #[test]
    fn with_both_stages_the_vmid_is_compared() {
        let trace = "smmuv3_cmdq_opcode <--- SMMU_CMD_TLBI_NH_VA\n\
                     smmuv3_range_inval vmid=7 asid=1 addr=0x1000 tg=0 num_pages=0x1 ttl=0 leaf=0 stage=1\n";
        let command = |vmid: u64| [vec![1 << 48 | vmid << 32 | 0x12, 0x1000]];
        assert_eq!(NESTED.compare(&command(7), trace).ok(), Some(1));
        assert!(NESTED.compare(&command(8), trace).is_err());
    }

    #[test]
    fn every_altered_field_of_a_range_shows() {
        let text = expected(&RANGE_WORDS).expect("known command");
        // Opcode, NUM, SCALE, ASID; Leaf, TTL, TG, address.
        let first = (0..8).chain(12..17).chain(20..25).chain(48..64);
        let second = (0..1).chain(8..64);
        let bits = first.map(|bit| (0, bit)).chain(second.map(|bit| (1, bit)));
        for (word, bit) in bits {
            let mut words = RANGE_WORDS;
            words[word] ^= 1_u64 << bit;
            assert!(
                expected(&words).map_or(true, |altered| altered != text),
                "word {word} bit {bit}"
            );
        }
    }

    #[test]
    fn a_gap_in_the_pieces_of_a_range_is_an_error() {
        let gap: Vec<&str> = RANGE.lines().collect();
        assert!(received(&[gap[0], gap[1], gap[3]].join("\n")).is_err());
    }

    #[test]
    fn every_altered_stream_or_tag_shows() {
        for (words, fields) in [
            ([0x0000_0008_0000_0003, 1], 32..64),
            ([0x0000_0008_0000_0005, 1], 32..64),
            ([0x0000_0008_0000_0006, 0], 32..64),
            ([0x0005_0000_0000_0011, 0], 48..64),
        ] {
            let text = expected(&words).expect("known command");
            for bit in fields {
                let altered = expected(&[words[0] ^ (1_u64 << bit), words[1]]);
                assert_ne!(altered.expect("known command"), text, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_stream_without_a_device_shows() {
        // QEMU 11.1.3 prints no second line then.
        let lines = received("smmuv3_cmdq_opcode <--- SMMU_CMD_CFGI_STE\n").expect("known form");
        assert_ne!(
            lines[0],
            expected(&[0x0000_0008_0000_0003, 1]).expect("known command")
        );
    }

    #[test]
    fn a_refused_command_shows() {
        // From a run of QEMU 11.1.3 with a first stage only.
        let trace = "smmuv3_cmdq_opcode <--- SMMU_CMD_TLBI_S12_VMALL\n\
            smmuv3_cmdq_consume_error Error on SMMU_CMD_TLBI_S12_VMALL command execution: 1\n";
        let lines = received(trace).expect("known form");
        assert_eq!(lines, ["TLBI_S12_VMALL refused with error 1"]);
    }

    #[test]
    fn unknown_commands_and_reserved_ranges_are_errors() {
        assert!(expected(&[0xff, 0]).is_err());
        assert!(expected(&[0x0005_0000_0000_1012, 1]).is_err());
        assert!(received("smmuv3_cmdq_opcode SYNC\n").is_err());
    }
}
