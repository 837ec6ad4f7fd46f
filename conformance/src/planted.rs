//! Which case notices each fault that can be planted in the drivers and in what they share.

use crate::options::Options;
use shootdown_conformance::cases::{self, Case};
use shootdown_conformance::rig::Maker;
use shootdown_conformance::run::{self, Cell};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Faults that no behaviour of a correct kernel on these rigs can show, and who notices them.
const ELSEWHERE: &[(&str, &str)] = &[
    ("GuestReservedBitsPassed", GUESTS),
    ("GuestRefusalSkipped", GUESTS),
    ("GuestSilenceNotTold", GUESTS),
    ("VtdGuestTagForgotten", GUESTS),
    ("VtdGuestSourceKept", GUESTS),
    ("VtdGuestWordsPassedOn", GUESTS),
    ("SmmuGuestTagForgotten", GUESTS),
    ("SmmuGuestStreamKept", GUESTS),
    ("SmmuGuestWordsPassedOn", GUESTS),
    ("RiscvGuestTagForgotten", GUESTS),
    ("RiscvGuestDeviceKept", GUESTS),
    ("RiscvGuestWordsPassedOn", GUESTS),
];

/// The kernel of the suite has no guests.
const GUESTS: &str = "cargo xtask test --planted, by the tests of the backends' guest module";

/// The line by which a process that looks for one fault tells who noticed it.
const CAUGHT: &str = "caught by ";

struct Fault {
    name: &'static str,
    about: &'static str,
    build: &'static str,
}

#[cfg(planted)]
fn faults() -> Vec<Fault> {
    let all = [
        iommu_core::planted::FAULTS,
        iommu_vtd::planted::FAULTS,
        iommu_smmuv3::planted::FAULTS,
        iommu_riscv::planted::FAULTS,
    ];
    all.into_iter()
        .flatten()
        .map(|fault| Fault {
            name: fault.name,
            about: fault.about.trim(),
            build: fault.build,
        })
        .collect()
}

#[cfg(not(planted))]
fn faults() -> Vec<Fault> {
    Vec::new()
}

/// The rigs that a fault can show on.
fn rig_of(fault: &str) -> &'static str {
    let backends = [("Vtd", "vtd"), ("Smmu", "smmuv3"), ("Riscv", "riscv")];
    let named = backends
        .iter()
        .find(|(prefix, _)| fault.starts_with(prefix));
    named.map_or("model", |(_, rig)| rig)
}

/// Plants each fault in a process of its own and tells who noticed; whether none survives. With
/// `soak`, the directed cases are left out and random schedules run for so long.
pub fn try_all(soak: Option<Duration>) -> bool {
    let faults: Vec<Fault> = faults()
        .into_iter()
        .filter(|fault| fault.build == "real")
        .collect();
    if faults.is_empty() {
        println!("this build has no planted faults: cargo xtask conformance --planted");
        return false;
    }
    let results: Mutex<Vec<Option<Option<String>>>> = Mutex::new(vec![None; faults.len()]);
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(fault) = faults.get(index) else {
                return;
            };
            let caught = hunt_in_child(fault, soak);
            let by = caught.as_deref().unwrap_or("nobody so far");
            eprintln!("{:>3} of {} {}: {by}", index + 1, faults.len(), fault.name);
            if let Ok(mut results) = results.lock() {
                results[index] = Some(caught);
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(work);
        }
        work();
    });
    let results: Vec<Option<String>> = results
        .into_inner()
        .unwrap_or_default()
        .into_iter()
        .map(Option::flatten)
        .collect();
    summarize(&faults, &results, soak.is_some())
}

fn hunt_in_child(fault: &Fault, soak: Option<Duration>) -> Option<String> {
    let mut command = Command::new(std::env::current_exe().ok()?);
    command
        .args(["--quiet", "--hunt", "--rig", rig_of(fault.name)])
        .env("SHOOTDOWN_PLANT", fault.name);
    if let Some(time) = soak {
        command.args(["--soak", &time.as_secs().to_string()]);
    }
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let told = text.lines().find_map(|line| line.strip_prefix(CAUGHT));
    match told {
        Some(told) => Some(told.to_owned()),
        None if output.status.code().is_none() => Some("the end of the process".to_owned()),
        None => None,
    }
}

fn summarize(faults: &[Fault], results: &[Option<String>], soak: bool) -> bool {
    let width = faults
        .iter()
        .map(|fault| fault.name.len())
        .max()
        .unwrap_or(0);
    let (mut caught, mut elsewhere, mut survive) = (0, 0, 0);
    for (fault, result) in faults.iter().zip(results) {
        let declared = ELSEWHERE.iter().find(|(name, _)| *name == fault.name);
        match (result, declared) {
            (Some(by), _) => {
                caught += 1;
                println!("{:<width$}  {by}", fault.name);
            }
            (None, Some((_, why))) => {
                elsewhere += 1;
                println!("{:<width$}  not seen here: {why}", fault.name);
            }
            (None, None) => {
                survive += 1;
                println!("{:<width$}  NOT CAUGHT: {}", fault.name, fault.about);
            }
        }
    }
    let seen = caught + survive;
    println!(
        "{caught} of {} faults caught, {survive} not, {elsewhere} left to unit tests",
        seen + elsewhere
    );
    if soak {
        println!(
            "{} % of those that behaviour can show",
            100 * caught / seen.max(1)
        );
        return 10 * caught >= 9 * seen;
    }
    survive == 0
}

/// In the process with the fault: looks for it, and tells which case noticed.
pub fn hunt(options: &Options, makers: &[&'static dyn Maker], soak: Option<Duration>) -> bool {
    let caught = match soak {
        Some(time) => makers.iter().find_map(|maker| {
            let share = time / makers.len() as u32;
            let seed = options.seed.unwrap_or(1);
            let (seed, what) = run::soak(*maker, share, seed, |_, _| ()).err()?;
            Some(format!(
                "soak on {}, seed {seed}: {}",
                maker.name(),
                first_line(&what)
            ))
        }),
        None => cases::all().find_map(|case| notices(case, makers)),
    };
    if let Some(caught) = &caught {
        println!("{CAUGHT}{caught}");
    }
    caught.is_none()
}

fn notices(case: &'static Case, makers: &[&'static dyn Maker]) -> Option<String> {
    makers
        .iter()
        .find_map(|maker| match run::run(case, *maker, &run::freedoms(None)) {
            Cell::Red(what) => Some(format!(
                "{} on {}: {}",
                case.name,
                maker.name(),
                first_line(&what)
            )),
            Cell::Green | Cell::Skip(_) => None,
        })
}

fn first_line(text: &str) -> String {
    text.lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(110)
        .collect()
}
