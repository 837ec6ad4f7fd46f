//! RISC-V IOMMU commands (RISC-V IOMMU specification, chapter "In-memory queue interface", section "Command-Queue").
//!
//! QEMU 11.1.3 traces every command as `riscv_iommu_cmd <id>: command 0x<doubleword 0> 0x<doubleword 1>`.

use anyhow::{Context, Result, bail};

use super::{Reader, bits, hexadecimal, lines_of};

/// Its commands.
pub const READER: Reader = Reader {
    events: &["riscv_iommu_cmd"],
    received,
    expected,
};

fn received(trace: &str) -> Result<Vec<String>> {
    lines_of(trace, "riscv_iommu_cmd")
        .map(|text| {
            let parsed = || {
                let (_, words) = text.split_once(": command ")?;
                let (first, second) = words.split_once(' ')?;
                Some(describe(hexadecimal(first)?, hexadecimal(second)?))
            };
            parsed().with_context(|| {
                format!("riscv_iommu_cmd in a form not known of QEMU 11.1: `{text}`")
            })
        })
        .collect()
}

fn expected(words: &[u64]) -> Result<String> {
    let &[first, second] = words else {
        bail!("a command has two doublewords");
    };
    Ok(describe(first, second))
}

/// Opcode in bits 6:0, function in bits 9:7.
fn describe(first: u64, second: u64) -> String {
    let name = match (bits(first, 6, 0), bits(first, 9, 7)) {
        (1, 0) => "IOTINVAL.VMA",
        (1, 1) => "IOTINVAL.GVMA",
        (2, 0) => "IOFENCE.C",
        (3, 0) => "IODIR.INVAL_DDT",
        (3, 1) => "IODIR.INVAL_PDT",
        (4, 0) => "ATS.INVAL",
        (4, 1) => "ATS.PRGR",
        _ => "(unknown)",
    };
    format!("{name:<15} {first:016x} {second:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_words_of_a_recorded_line() {
        // From a run of QEMU 11.1.3: IOFENCE.C with AV, data 0xabcd to physical address 0x80200000.
        let trace = "riscv_iommu_sys_reset_hold reset type 0\nriscv_iommu_cmd (null): command 0xabcd00000402 0x20080000\n";
        let lines = received(trace).expect("known form");
        assert_eq!(lines, ["IOFENCE.C       0000abcd00000402 0000000020080000"]);
        assert_eq!(
            expected(&[0xabcd_0000_0402, 0x2008_0000]).expect("two words"),
            lines[0]
        );
    }

    #[test]
    fn another_form_or_length_is_an_error() {
        assert!(received("riscv_iommu_cmd id: 0x1, 0x2\n").is_err());
        assert!(expected(&[1, 2, 3, 4]).is_err());
    }
}
