//! Runs cases on rigs and tells how they went.

use crate::cases::Case;
use crate::outcome::{Outcome, Stop};
use crate::rig::{Freedom, Maker};
use crate::scene::Bench;
use crate::soak::Soak;
use iommu_model::Policy;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What a run that does not end is given.
const LIMIT: Duration = Duration::from_secs(40);
/// Operations of one schedule of a soak.
const SCHEDULE: u64 = 1000;

/// How a case went on a rig.
#[derive(Clone, Debug)]
pub enum Cell {
    /// It holds, with every freedom tried.
    Green,
    /// The rig cannot show it.
    Skip(String),
    /// It does not hold.
    Red(String),
}

/// The freedoms that every case is run with: none, and all with some seeds.
pub fn freedoms(seed: Option<u64>) -> Vec<Freedom> {
    let free = |seed| free(seed, Policy::FREE);
    match seed {
        Some(seed) => vec![strict(seed), free(seed)],
        None => vec![strict(1), free(1), free(2), free(3)],
    }
}

/// A policy with a seed.
pub const fn free(seed: u64, policy: Policy) -> Freedom {
    Freedom { policy, seed }
}

fn strict(seed: u64) -> Freedom {
    Freedom {
        policy: Policy::STRICT,
        seed,
    }
}

/// Runs one case on one rig.
pub fn run(case: &'static Case, maker: &'static dyn Maker, freedoms: &[Freedom]) -> Cell {
    let freedoms = if maker.has_freedoms() {
        freedoms
    } else {
        &freedoms[..1]
    };
    for &freedom in freedoms {
        let bench = Bench::new(maker, freedom);
        let troubles = bench.troubles.clone();
        let outcome = troubles.judge(bounded(move || (case.run)(&bench)));
        match outcome {
            Ok(()) => {}
            Err(Stop::Skip(why)) => return Cell::Skip(why),
            Err(Stop::Failed(what)) => {
                let name = if freedom.policy == Policy::STRICT {
                    "strict"
                } else {
                    "free"
                };
                return Cell::Red(format!("{name}, seed {}: {what}", freedom.seed));
            }
        }
    }
    Cell::Green
}

/// Lets `work` end, panic, or run out of time.
fn bounded(work: impl FnOnce() -> Outcome + Send + 'static) -> Outcome {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
            let what = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("something");
            Err(Stop::Failed(format!("panicked: {what}")))
        });
        let _ = send.send(outcome);
    });
    receive
        .recv_timeout(LIMIT)
        .unwrap_or_else(|_| Err(Stop::Failed(format!("not done after {LIMIT:?}"))))
}

/// Runs every case on every rig, `told` of each as it is done.
pub fn matrix(
    cases: &[&'static Case],
    makers: &[&'static dyn Maker],
    freedoms: &[Freedom],
    told: impl Fn(&Case, &dyn Maker, &Cell, Duration) + Sync,
) -> Vec<Vec<Cell>> {
    let count = cases.len() * makers.len();
    let cells: Mutex<Vec<Option<Cell>>> = Mutex::new(vec![None; count]);
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            let (case, maker) = (cases[index / makers.len()], makers[index % makers.len()]);
            let started = Instant::now();
            let cell = run(case, maker, freedoms);
            told(case, maker, &cell, started.elapsed());
            if let Ok(mut cells) = cells.lock() {
                cells[index] = Some(cell);
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
    let cells = cells.into_inner().unwrap_or_default();
    let cells: Vec<Cell> = cells.into_iter().flatten().collect();
    cells
        .chunks(makers.len().max(1))
        .map(<[Cell]>::to_vec)
        .collect()
}

/// Runs random schedules on a rig for some time, from `seed` on; how many operations that were.
///
/// # Errors
///
/// The first failure, with its seed.
pub fn soak(
    maker: &'static dyn Maker,
    time: Duration,
    first_seed: u64,
    told: impl Fn(u64, u64),
) -> Result<u64, (u64, String)> {
    let started = Instant::now();
    let mut operations = 0;
    for seed in first_seed.. {
        let left = time.saturating_sub(started.elapsed());
        if left.is_zero() {
            break;
        }
        let policy = if seed % 8 == 7 {
            Policy::STRICT
        } else {
            Policy {
                forgetful: seed % 8 == 6,
                ..Policy::FREE
            }
        };
        let freedom = Freedom { policy, seed };
        let outcome = bounded(move || {
            let mut soak = Soak::new(&Bench::new(maker, freedom))?;
            for _ in 0..SCHEDULE {
                soak.step()?;
            }
            soak.end()
        });
        match outcome {
            Ok(()) => operations += SCHEDULE,
            // A layout that the rig cannot have.
            Err(Stop::Skip(_)) => {}
            Err(Stop::Failed(what)) => return Err((seed, what)),
        }
        told(seed, operations);
    }
    Ok(operations)
}
