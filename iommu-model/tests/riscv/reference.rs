//! Translations that the reference model of RISC-V International makes, made again.
//!
//! `golden/riscv-reference.txt` is printed by `golden/riscv-reference.c`, which says what its lines
//! mean.

use crate::bench::{DDTP, FQB, FQCSR, FQH, FQT};
use iommu_model::riscv::{Configuration, RiscvIommu};
use iommu_model::{Access, Coherency, Hardware, Machine, Memory, Policy, Request};

const CASES: &str = include_str!("../golden/riscv-reference.txt");
const BASE: u64 = 0x8000_0000;
const SIZE: u64 = 2 << 20;
/// The last page, where no case has a table.
const FAULT_QUEUE: u64 = BASE + SIZE - 4096;

#[derive(Default)]
struct Case<'a> {
    words: Vec<(u64, u64)>,
    request: Vec<&'a str>,
    outcome: Vec<&'a str>,
    updates: Vec<(u64, u64)>,
}

fn hex(word: &str) -> u64 {
    u64::from_str_radix(word, 16).unwrap()
}

fn cases() -> Vec<Case<'static>> {
    let mut cases: Vec<Case> = Vec::new();
    for line in CASES.lines() {
        let fields: Vec<&str> = line.split(' ').skip(1).collect();
        let kind = line.as_bytes()[0];
        let begins = cases.last().is_none_or(|case| !case.outcome.is_empty());
        if kind == b'w' && begins {
            cases.push(Case::default());
        }
        let case = cases.last_mut().unwrap();
        match kind {
            b'w' => case.words.push((hex(fields[0]), hex(fields[1]))),
            b'q' => case.request = fields,
            b'f' | b't' => case.outcome = line.split(' ').collect(),
            b'u' => case.updates.push((hex(fields[0]), hex(fields[1]))),
            _ => panic!("{line}"),
        }
    }
    cases
}

/// What came of a case.
#[derive(Debug, PartialEq, Eq)]
struct Made {
    /// `t` with the address and the size; `f` with cause and `iotval2`.
    outcome: (char, u64, u64),
    updates: Vec<(u64, u64)>,
}

fn expected(case: &Case) -> Made {
    let [kind, first, second] = [0, 1, 2].map(|field| case.outcome[field]);
    let first = match kind {
        "t" => hex(first),
        _ => first.parse().unwrap(),
    };
    Made {
        outcome: (kind.chars().next().unwrap(), first, hex(second)),
        updates: case.updates.clone(),
    }
}

fn made(case: &Case) -> Made {
    let memory = Memory::new(BASE, SIZE, Coherency::Coherent);
    let machine = Machine::new(memory, Policy::STRICT, 0);
    let iommu = RiscvIommu::new(&machine, Configuration::default());
    for &(at, value) in &case.words {
        machine.memory.cpu_store(at, value);
    }
    iommu.write(FQB, 8, FAULT_QUEUE >> 12 << 10);
    iommu.write(FQH, 4, 0);
    iommu.write(FQCSR, 4, 1);
    iommu.write(DDTP, 8, BASE >> 12 << 10 | 2);

    let request = Request {
        device: 5,
        pasid: (case.request[0] != "-").then(|| hex(case.request[0]) as u32),
        privileged: case.request[1] == "1",
        address: hex(case.request[4]),
        access: match case.request[2] {
            "r" => Access::Read,
            "w" => Access::Write,
            _ => Access::Execute,
        },
    };
    let found = if is_translation_request(case) {
        iommu.translate_for_device(&request)
    } else {
        iommu.translate(&request)
    };
    let record = |word: u64| machine.memory.cpu_load(FAULT_QUEUE + 8 * word);
    let outcome = match found {
        Ok(found) => ('t', found.address, found.size),
        Err(_) if iommu.read(FQT, 4) == 1 => ('f', record(0) & 0xfff, record(3)),
        Err(_) => ('f', 0, 0),
    };
    let now = |&(at, old): &(u64, u64)| (at, old, machine.memory.cpu_load(at));
    let changed = case
        .words
        .iter()
        .map(now)
        .filter(|(_, old, new)| old != new);
    Made {
        outcome,
        updates: changed.map(|(at, _, new)| (at, new)).collect(),
    }
}

fn is_translation_request(case: &Case) -> bool {
    case.request[3] == "1"
}

/// The outcome without what the specification leaves to the implementation.
fn essence(case: &Case, made: &Made) -> (char, u64, u64) {
    match made.outcome {
        // A physical address has 56 bits. Contiguous pages may be reported one by one.
        ('t', address, size) => {
            let size = if size == 0x10000 { 0x1000 } else { size };
            ('t', address & ((1 << 56) - 1), size)
        }
        // "An IOMMU may report the page offset of a GPA in iotval2 as 0." Of which kind a
        // translation request's access fault is, the text does not say.
        (kind, cause, iotval2) => {
            let cause = match cause {
                7 if is_translation_request(case) => 5,
                cause => cause,
            };
            (kind, cause, iotval2 & !0xffc)
        }
    }
}

/// Whether both came to the same. A translation request that has just set D is answered by the
/// reference model as if D were still clear, without the right to write.
fn outcomes_agree(case: &Case, made: &Made, expected: &Made) -> bool {
    let has_just_set_d = is_translation_request(case)
        && case.request[2] == "w"
        && expected.outcome == ('f', 0, 0)
        && !expected.updates.is_empty();
    essence(case, made) == essence(case, expected) || has_just_set_d && made.outcome.0 == 't'
}

/// Whether the IOMMU has set the bits that it had to set. It may set D in second-stage entries that
/// it reads first-stage tables through, if they permit writes; of a translation request that finds
/// no rights, nobody says what is set.
fn updates_agree(case: &Case, made: &Made, expected: &Made) -> bool {
    const D: u64 = 1 << 7;
    let clean = |updates: &[(u64, u64)]| -> Vec<(u64, u64)> {
        let old = |at| case.words.iter().find(|word| word.0 == at).unwrap().1;
        let words = updates.iter().map(|&(at, new)| (at, new & !D));
        words.filter(|&(at, new)| new != old(at) & !D).collect()
    };
    is_translation_request(case) && made.outcome == ('f', 0, 0)
        || clean(&made.updates) == clean(&expected.updates)
}

#[test]
fn the_reference_model_makes_the_same_of_random_tables() {
    let cases = cases();
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let (made, expected) = (made(case), expected(case));
        if !outcomes_agree(case, &made, &expected) || !updates_agree(case, &made, &expected) {
            wrong.push(format!(
                "case {number} {:?}: {made:x?}, not {expected:x?}",
                case.request
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}
