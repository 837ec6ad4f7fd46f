//! QEMU's own word: the invalidation commands it traced as received, against those a driver
//! says it sent.
//!
//! Each reader turns both accounts into one line a command. The driver's raw words are decoded here by our own reading of the
//! specifications, never through the driver crates, so a driver that encodes wrongly and reports what it meant is found out.

mod riscv;
mod smmuv3;
mod vtd;

use std::fmt;

use anyhow::{Context, Result, bail};

/// Commands shown before and after the first difference.
const AROUND: usize = 3;

/// How the commands of one kind of IOMMU are traced and read.
#[derive(Clone, Copy)]
pub struct Reader {
    /// Trace events to turn on.
    pub events: &'static [&'static str],
    /// Reads a trace: one line for each command that QEMU received.
    received: fn(&str) -> Result<Vec<String>>,
    /// Reads the words of one sent command: what [`Self::received`] should give for it.
    expected: fn(&[u64]) -> Result<String>,
}

/// The reader for Intel VT-d.
pub const VTD: Reader = vtd::READER;
/// The reader for Arm SMMUv3.
pub const SMMUV3: Reader = smmuv3::READER;
/// The reader for an Arm SMMUv3 with both stages.
pub const SMMUV3_NESTED: Reader = smmuv3::NESTED;
/// The reader for the RISC-V IOMMU.
pub const RISCV: Reader = riscv::READER;

impl Reader {
    /// Compares what the driver `sent` with QEMU's `trace`, in order, and returns how many commands there were.
    ///
    /// # Errors
    /// When they differ (the message shows both around the first difference) or either cannot be read.
    pub fn compare(&self, sent: &[Vec<u64>], trace: &str) -> Result<usize> {
        let expected = sent
            .iter()
            .enumerate()
            .map(|(index, words)| {
                (self.expected)(words)
                    .with_context(|| format!("command {} of the driver: {words:x?}", index + 1))
            })
            .collect::<Result<Vec<_>>>()?;
        let received = (self.received)(trace).context("QEMU's trace cannot be read")?;
        if expected != received {
            bail!(Difference { expected, received });
        }
        Ok(expected.len())
    }
}

/// Two accounts of the same queue that differ.
#[derive(Debug)]
struct Difference {
    expected: Vec<String>,
    received: Vec<String>,
}

impl std::error::Error for Difference {}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sent, received) = (&self.expected, &self.received);
        let same = sent
            .iter()
            .zip(received)
            .take_while(|(sent, received)| sent == received)
            .count();
        write!(
            f,
            "the driver says it sent {} commands, QEMU received {}; the first difference is at command {}",
            sent.len(),
            received.len(),
            same + 1
        )?;
        let longest = sent.len().max(received.len());
        for index in same.saturating_sub(AROUND)..longest.min(same + 1 + AROUND) {
            let line = |account: &[String]| {
                account
                    .get(index)
                    .map_or_else(|| "(nothing)".to_owned(), Clone::clone)
            };
            let mark = if index == same { '>' } else { ' ' };
            write!(f, "\n{mark} {:4} sent     {}", index + 1, line(sent))?;
            write!(f, "\n{mark} {:4} received {}", index + 1, line(received))?;
        }
        Ok(())
    }
}

/// The text of each line of `trace` that event `name` wrote.
fn lines_of<'a>(trace: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    trace
        .lines()
        .filter_map(move |line| event(line).filter(|event| event.0 == name))
        .map(|event| event.1)
}

/// Parts a trace line into the event's name and its text.
fn event(line: &str) -> Option<(&str, &str)> {
    line.split_once(' ')
}

/// Reads `0x...`.
fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// Bits `high..=low` of `word`.
fn bits(word: u64, high: u32, low: u32) -> u64 {
    (word >> low) & (u64::MAX >> (63 - (high - low)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(recording: &str) -> Vec<Vec<u64>> {
        let word = |text: &str| u64::from_str_radix(text, 16).expect("hexadecimal");
        let command = |line: &str| line.split(' ').map(word).collect();
        recording.lines().map(command).collect()
    }

    fn recordings() -> [(Reader, Vec<Vec<u64>>, &'static str); 3] {
        [
            (
                VTD,
                sent(include_str!("recorded/vtd.sent")),
                include_str!("recorded/vtd.trace"),
            ),
            (
                SMMUV3,
                sent(include_str!("recorded/smmuv3.sent")),
                include_str!("recorded/smmuv3.trace"),
            ),
            (
                RISCV,
                sent(include_str!("recorded/riscv.sent")),
                include_str!("recorded/riscv.trace"),
            ),
        ]
    }

    #[test]
    fn recorded_runs_agree() {
        for (reader, sent, trace) in recordings() {
            let compared = reader.compare(&sent, trace);
            assert_eq!(compared.expect("both accounts agree"), sent.len());
            assert!(sent.len() >= 11);
        }
    }

    /// The text of a comparison that must fail.
    fn difference(reader: Reader, sent: &[Vec<u64>], trace: &str) -> String {
        let error = reader.compare(sent, trace);
        format!("{:#}", error.expect_err("the accounts differ"))
    }

    #[test]
    fn a_command_that_qemu_did_not_receive_is_reported() {
        for (reader, sent, trace) in recordings() {
            for index in 0..sent.len() {
                let mut more = sent.clone();
                more.insert(index, sent[sent.len() - 1].clone());
                // Among equal neighbours it cannot be said which one is missing, only that one is.
                let message = difference(reader, &more, trace);
                assert!(
                    message.contains(&format!(
                        "sent {} commands, QEMU received {}",
                        sent.len() + 1,
                        sent.len()
                    )),
                    "{message}"
                );
            }
        }
    }

    #[test]
    fn a_command_that_the_guest_did_not_report_is_reported() {
        for (reader, sent, trace) in recordings() {
            for index in 0..sent.len() {
                let mut less = sent.clone();
                less.remove(index);
                difference(reader, &less, trace);
            }
            let message = difference(reader, &sent[1..], trace);
            assert!(message.contains("at command 1\n>    1 sent"), "{message}");
            assert!(
                message.contains("(nothing)") == (sent.len() < 4),
                "{message}"
            );
        }
    }

    #[test]
    fn two_commands_in_the_wrong_order_are_reported() {
        for (reader, sent, trace) in recordings() {
            let mut swapped = sent.clone();
            swapped.swap(0, sent.len() - 1);
            let message = difference(reader, &swapped, trace);
            assert!(message.contains("at command 1\n"), "{message}");
        }
    }

    #[test]
    fn an_empty_trace_is_not_agreement() {
        for (reader, sent, _) in recordings() {
            assert!(difference(reader, &sent, "").contains("QEMU received 0"));
        }
    }

    #[test]
    fn every_altered_bit_that_qemu_prints_is_reported() {
        for (reader, sent, trace) in recordings() {
            if reader.events == SMMUV3.events {
                continue; // QEMU prints fields, not words; smmuv3.rs has its own test.
            }
            for (command, word, bit) in (0..sent.len())
                .flat_map(|command| (0..2).map(move |word| (command, word)))
                .flat_map(|(command, word)| (0..64).map(move |bit| (command, word, bit)))
            {
                let mut altered = sent.clone();
                altered[command][word] ^= 1 << bit;
                difference(reader, &altered, trace);
            }
        }
    }

    #[test]
    fn bits_are_counted_as_specifications_count_them() {
        assert_eq!(bits(0xabcd_0000_0000_0005, 63, 48), 0xabcd);
        assert_eq!(bits(0b101, 2, 2), 1);
        assert_eq!(bits(u64::MAX, 63, 0), u64::MAX);
    }
}
