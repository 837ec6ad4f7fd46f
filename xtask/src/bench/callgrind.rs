//! Counting what an operation executes: valgrind's callgrind counts every instruction by its
//! address, objdump says which of them are locked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::program::{Count, Figures, Key};
use crate::process;
use crate::workspace;

/// The function at whose calls callgrind ends a part of its profile.
const MARK: &str = "shootdown_bench_mark";

/// Counts every case of the program's plan.
///
/// # Errors
/// When valgrind or objdump is missing or this is no x86-64; the message says what to install.
pub fn count(program: &Path, plan: Option<&str>, figures: &mut Figures) -> Result<()> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "instructions are counted on x86-64 only"
    );
    let folder = workspace::root().join("target/bench/callgrind");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let plan = Plan::parse(&profile(program, plan, &folder)?)?;
    let mut locked = LockedInstructions::default();
    for (index, key) in plan.cases.iter().enumerate() {
        // Three marks a case: the part before the first, few operations, many operations.
        let mut part = |number: usize| -> Result<Part> {
            let path = folder.join(format!("out.{}", 3 * index + number));
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            Part::parse(&text, &mut locked)
        };
        let (few, many) = (part(2)?, part(3)?);
        let per_operation =
            |count: fn(&Part) -> u64| (count(&many) as f64 - count(&few) as f64) / plan.operations;
        let count = Count {
            instructions: per_operation(|part| part.instructions),
            loads: per_operation(|part| part.loads),
            stores: per_operation(|part| part.stores),
            locked: per_operation(|part| part.locked),
        };
        figures.add_count(key.clone(), count);
    }
    Ok(())
}

fn profile(program: &Path, plan: Option<&str>, folder: &Path) -> Result<String> {
    eprintln!("counting instructions");
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args([
            "-q",
            "--tool=callgrind",
            "--dump-instr=yes",
            "--cache-sim=yes",
        ])
        .args(["--compress-pos=no", "--compress-strings=no"])
        .arg(format!("--dump-before={MARK}"))
        .arg(format!("--callgrind-out-file={}/out", folder.display()))
        .arg(program)
        .arg("counts")
        .args(plan);
    process::output(valgrind).context("to count instructions: apt-get install valgrind")
}

/// Addresses of the locked read-modify-writes and full fences in each file that was executed.
#[derive(Default)]
struct LockedInstructions(BTreeMap<String, BTreeSet<u64>>);

impl LockedInstructions {
    /// Those in `file`, which is disassembled the first time.
    fn of(&mut self, file: &str) -> Result<&BTreeSet<u64>> {
        if !self.0.contains_key(file) {
            let mut objdump = Command::new("objdump");
            objdump.args(["--disassemble", "--no-show-raw-insn", file]);
            let listing = process::output(objdump)
                .context("to find locked instructions: apt-get install binutils")?;
            let locked = listing.lines().filter_map(locked_instruction).collect();
            self.0.insert(file.to_owned(), locked);
        }
        Ok(&self.0[file])
    }
}

/// The address in a line of a listing, if the instruction is locked or a full fence.
fn locked_instruction(line: &str) -> Option<u64> {
    let (address, instruction) = line.trim_start().split_once(":\t")?;
    let exchanges_memory = instruction.starts_with("xchg") && instruction.contains('(');
    let is_locked =
        instruction.starts_with("lock ") || instruction.starts_with("mfence") || exchanges_memory;
    is_locked
        .then(|| u64::from_str_radix(address, 16).ok())
        .flatten()
}

/// What the program says about the order of its parts.
struct Plan {
    /// Operations between few and many.
    operations: f64,
    cases: Vec<Key>,
}

impl Plan {
    fn parse(output: &str) -> Result<Self> {
        let (mut operations, mut cases) = (None, Vec::new());
        for line in output.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            match fields[..] {
                ["operations", number] => operations = Some(number.parse()?),
                ["counted", group, case] => cases.push((group.to_owned(), case.to_owned())),
                _ => bail!("the measuring program said: {line}"),
            }
        }
        Ok(Self {
            operations: operations.context("no number of operations")?,
            cases,
        })
    }
}

/// One part of a profile, summed.
#[derive(Debug, Default, PartialEq)]
struct Part {
    instructions: u64,
    loads: u64,
    stores: u64,
    locked: u64,
}

impl Part {
    /// Sums the lines `address line instructions loads stores ...`, where zeros at the end are left
    /// out. The line after `calls=` repeats what the called function's own lines say.
    fn parse(text: &str, locked: &mut LockedInstructions) -> Result<Self> {
        let (mut part, mut file, mut repeated) = (Part::default(), None, false);
        for line in text.lines() {
            file = line.strip_prefix("ob=").or(file);
            if line.starts_with("calls=") {
                repeated = true;
                continue;
            }
            let Some(numbers) = line.strip_prefix("0x") else {
                continue;
            };
            if std::mem::take(&mut repeated) {
                continue;
            }
            let mut numbers = numbers.split(' ');
            let address = u64::from_str_radix(numbers.next().unwrap_or_default(), 16)
                .with_context(|| format!("no address: {line}"))?;
            let _line = numbers.next();
            let mut event = || numbers.next().map_or(Ok(0), str::parse::<u64>);
            let instructions = event()?;
            part.instructions += instructions;
            part.loads += event()?;
            part.stores += event()?;
            if locked
                .of(file.context("code of no file")?)?
                .contains(&address)
            {
                part.locked += instructions;
            }
        }
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_instructions_are_told_from_others() {
        let line = |instruction: &str| locked_instruction(&format!("   4ce2a:\t{instruction}"));
        assert_eq!(line("lock cmpxchg %rcx,0x880(%rbx)"), Some(0x4ce2a));
        assert_eq!(line("xchg   %rax,(%rdi)"), Some(0x4ce2a));
        assert_eq!(line("mfence"), Some(0x4ce2a));
        assert_eq!(line("xchg   %ax,%ax"), None);
        assert_eq!(line("incq   0x8(%rdi)"), None);
        assert_eq!(locked_instruction("0000000000004cd0 <lock>:"), None);
    }

    #[test]
    fn a_part_counts_each_instruction_once_and_by_its_file() {
        let text = "\
summary: 99 9 9
ob=/program
fn=work
0x10 1 5 2
0x14 1 5 1 1 0 3
cob=/library
cfn=other
calls=1 0x90 7
0x18 1 40 4 4
0x1c 2 1
ob=/library
fn=other
0x14 7 40 4 4
";
        let files = [("/program", 0x14), ("/library", 0x90)];
        let locked = files.map(|(file, address)| (file.to_owned(), BTreeSet::from([address])));
        let part = Part::parse(text, &mut LockedInstructions(BTreeMap::from(locked))).unwrap();
        let expected = Part {
            instructions: 51,
            loads: 7,
            stores: 5,
            locked: 5,
        };
        assert_eq!(part, expected);
    }
}
