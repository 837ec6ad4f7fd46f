//! Intel VT-d invalidation descriptors (Intel VT-d specification 6.5.2).
//!
//! QEMU 11.1.3 traces every descriptor as
//! `vtd_inv_desc invalidate desc type <name> high 0x<bits 127:64> low 0x<bits 63:0>`
//! before acting on it. The upper half of a 256-bit descriptor is not printed; it is checked here to be zero, which the
//! specification wants of every type but the page group response.

use anyhow::{Context, Result, ensure};

use super::{Reader, bits, hexadecimal, lines_of};

/// Its commands.
pub const READER: Reader = Reader {
    events: &["vtd_inv_desc"],
    received,
    expected,
};

const PAGE_GROUP_RESPONSE: u64 = 9;

/// QEMU's names of the descriptor types, in the order of their numbers, 1 first.
const TYPES: [&str; 9] = [
    "context-cache",
    "iotlb",
    "device",
    "iec",
    "wait",
    "p-iotlb",
    "pasid-cache",
    "device-piotlb",
    "page group response",
];

fn received(trace: &str) -> Result<Vec<String>> {
    lines_of(trace, "vtd_inv_desc")
        .map(|text| {
            let parsed = || {
                let rest = text.strip_prefix("invalidate desc type ")?;
                let (name, words) = rest.split_once(" high ")?;
                let (high, low) = words.split_once(" low ")?;
                Some(describe(name, hexadecimal(low)?, hexadecimal(high)?))
            };
            parsed()
                .with_context(|| format!("vtd_inv_desc in a form not known of QEMU 11.1: `{text}`"))
        })
        .collect()
}

fn expected(words: &[u64]) -> Result<String> {
    let &[low, high, ref upper @ ..] = words else {
        anyhow::bail!("a descriptor has 128 or 256 bits");
    };
    // The type is in bits 3:0, its upper part in bits 11:9.
    let number = bits(low, 3, 0) | bits(low, 11, 9) << 4;
    let name = usize::try_from(number)
        .ok()
        .and_then(|number| TYPES.get(number.checked_sub(1)?))
        .with_context(|| format!("no descriptor has type {number}"))?;
    ensure!(
        number == PAGE_GROUP_RESPONSE || upper.iter().all(|&word| word == 0),
        "bits 255:128 of a {name} descriptor are reserved"
    );
    Ok(describe(name, low, high))
}

fn describe(name: &str, low: u64, high: u64) -> String {
    format!("{name:<19} {low:016x} {high:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From a run of QEMU 11.1.3.
    const TRACE: &str = "\
vtd_inv_qi_tail write tail 2
vtd_inv_desc invalidate desc type p-iotlb high 0x7f0000004041 low 0x700340036
vtd_inv_qi_head read head 1
vtd_inv_desc invalidate desc type wait high 0x200000 low 0xabcd00000025
vtd_inv_desc_wait_sw wait invalidate status write addr 0x200000 data 0xabcd
";

    #[test]
    fn reads_only_the_descriptors() {
        let lines = received(TRACE).expect("known form");
        assert_eq!(
            lines,
            [
                "p-iotlb             0000000700340036 00007f0000004041",
                "wait                0000abcd00000025 0000000000200000"
            ]
        );
        assert_eq!(
            expected(&[0x7_0034_0036, 0x7f00_0000_4041, 0, 0]).expect("known type"),
            lines[0]
        );
    }

    #[test]
    fn reserved_upper_words_and_unknown_types_are_errors() {
        assert!(expected(&[0x25, 0, 1, 0]).is_err());
        assert!(expected(&[0x25, 0, 0, 1]).is_err());
        assert!(expected(&[0x19, 0, 0, 1]).is_ok());
        assert!(expected(&[0x0, 0]).is_err());
        assert!(expected(&[0xa, 0]).is_err());
        assert!(expected(&[0x205, 0]).is_err());
    }

    #[test]
    fn another_form_of_the_event_is_an_error() {
        assert!(received("vtd_inv_desc type wait hi=0 lo=0\n").is_err());
    }
}
