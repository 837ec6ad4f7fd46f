//! The machine-readable half of the console: lines that begin with `@`, one record each.
//!
//! `cargo xtask` parses them; every other line is for people. Text is free but for line breaks and
//! `|`, which are replaced by blanks.

use crate::command_line::Run;
use core::fmt::{self, Display, Write};

/// Which IOMMU a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IommuKind {
    /// Intel VT-d.
    Vtd,
    /// Arm SMMUv3.
    SmmuV3,
    /// The RISC-V IOMMU.
    Riscv,
}

impl Display for IommuKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Vtd => "vtd",
            Self::SmmuV3 => "smmuv3",
            Self::Riscv => "riscv",
        })
    }
}

/// What a step cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Commands put into the queue.
    pub commands: u64,
    /// Writes of the queue's tail register.
    pub doorbells: u64,
    /// Completions waited for.
    pub waits: u64,
}

/// `@begin <iommu> <run>`: the first record.
pub fn begin(out: &mut impl Write, iommu: IommuKind, run: Run) {
    line(out, format_args!("@begin {iommu} {run}"));
}

/// `@step <id> | <sentence> | commands=N doorbells=N waits=N`: a step that succeeded.
pub fn step(out: &mut impl Write, id: &str, sentence: &dyn Display, cost: Cost) {
    let Cost {
        commands,
        doorbells,
        waits,
    } = cost;
    let (id, sentence) = (Text(&id), Text(sentence));
    line(
        out,
        format_args!(
            "@step {id} | {sentence} | commands={commands} doorbells={doorbells} waits={waits}"
        ),
    );
}

/// `@sent <word> ...`: one command as the driver put it into the queue, in 64-bit words of 16
/// hexadecimal digits.
pub fn sent(out: &mut impl Write, words: &[u64]) {
    struct Words<'w>(&'w [u64]);
    impl Display for Words<'_> {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0
                .iter()
                .try_for_each(|word| write!(formatter, " {word:016x}"))
        }
    }
    line(out, format_args!("@sent{}", Words(words)));
}

/// `@note <text>`: something worth telling.
pub fn note(out: &mut impl Write, text: &dyn Display) {
    line(out, format_args!("@note {}", Text(text)));
}

/// `@error <text>`: what went wrong. The run fails.
pub fn error(out: &mut impl Write, text: &dyn Display) {
    line(out, format_args!("@error {}", Text(text)));
}

/// `@end ok` or `@end failed`: the last record.
pub fn end(out: &mut impl Write, succeeded: bool) {
    line(
        out,
        format_args!("@end {}", if succeeded { "ok" } else { "failed" }),
    );
}

/// A console that cannot be written to leaves nobody to tell, so failures are dropped.
fn line(out: &mut impl Write, record: fmt::Arguments<'_>) {
    let _ = writeln!(out, "{record}");
}

/// Text within a record.
struct Text<'t>(&'t dyn Display);

impl Display for Text<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Filter<'f, 'g>(&'f mut fmt::Formatter<'g>);
        impl Write for Filter<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                let breaks = |character: char| matches!(character, '\n' | '\r' | '|');
                text.split_inclusive(breaks).try_for_each(|part| {
                    let kept = part.strip_suffix(breaks);
                    self.0.write_str(kept.unwrap_or(part))?;
                    if kept.is_some() {
                        self.0.write_str(" ")
                    } else {
                        Ok(())
                    }
                })
            }
        }
        write!(Filter(formatter), "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    #[test]
    fn records_are_one_line_each() {
        let mut out = String::new();
        begin(&mut out, IommuKind::SmmuV3, Run::Control);
        let cost = Cost {
            commands: 3,
            doorbells: 1,
            waits: 1,
        };
        step(&mut out, "unmap", &"gone\nfor | good", cost);
        sent(&mut out, &[0x11, u64::MAX]);
        note(&mut out, &"a\r\nb");
        error(&mut out, &"broken|");
        end(&mut out, true);
        end(&mut out, false);
        assert_eq!(
            out,
            "@begin smmuv3 control\n\
             @step unmap | gone for   good | commands=3 doorbells=1 waits=1\n\
             @sent 0000000000000011 ffffffffffffffff\n\
             @note a  b\n\
             @error broken \n\
             @end ok\n\
             @end failed\n"
        );
    }
}
