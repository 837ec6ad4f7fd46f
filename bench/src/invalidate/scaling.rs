//! 8 to 128 CPUs that think for a while and then invalidate, in one address space on one IOMMU: the
//! engine as it is and two peers, in virtual time. A simulation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::facts::fact;
use super::hardware::Vtd;
use super::random::Random;
use super::submission::{Shared, engine};
use super::virtual_time::{self, Costs, Virtual};
use crate::peers::linux_queue::{Queue, SmmuQueue, SpinLock, VtdQueue};

/// How many CPUs there are.
pub const CPUS: [u64; 5] = [8, 16, 32, 64, 128];

/// Nanoseconds between two invalidations of a CPU, on average.
const THINK: u64 = 2_000;
/// Simulated nanoseconds.
const TIME: u64 = 400_000;

/// The hardware's time for a sync, during which it does nothing else: fast, and as slow as a
/// SMMU's CMD_SYNC may be.
const SYNCS: [u64; 2] = [50, 300];

fn costs(sync: u64) -> Costs {
    Costs {
        command: 50,
        sync,
        // Coarser than with two CPUs: most of what runs is waiting.
        turn: 20,
        ..super::submission::COSTS
    }
}

/// Prints, for each number of CPUs, operations in a second and syncs for each operation.
pub fn print() {
    for sync in SYNCS {
        for cpus in CPUS {
            let ours = engine::<Vtd, Virtual>(Vtd::default);
            simulate("ours", sync, cpus, &ours);
            let vtd: Shared = Arc::new(OneLock::new(VtdQueue::new()));
            simulate("Linux VT-d model", sync, cpus, &vtd);
            let smmu: Shared = Arc::new(SmmuQueue::<Virtual>::new());
            simulate("Linux SMMUv3 model", sync, cpus, &smmu);
        }
    }
}

/// VT-d's `cache_lock`: one invalidation of an address space at a time.
struct OneLock {
    queue: &'static VtdQueue<Virtual>,
    lock: SpinLock,
}

impl OneLock {
    fn new(queue: &'static VtdQueue<Virtual>) -> Self {
        let lock = SpinLock::new();
        Self { queue, lock }
    }
}

impl Queue for OneLock {
    fn invalidate(&self, commands: usize) {
        self.lock.lock::<Virtual>();
        self.queue.invalidate(commands);
        self.lock.unlock();
    }
}

fn simulate(name: &str, sync: u64, cpus: u64, queue: &Shared) {
    let done = Arc::new(AtomicU64::new(0));
    let body = |cpu: u64| -> Box<dyn FnOnce() + Send> {
        let (queue, done) = (queue.clone(), done.clone());
        Box::new(move || {
            let mut random = Random::new(0x9e37_79b9 * (cpu + 1));
            virtual_time::pass(random.below(THINK));
            while virtual_time::now() < TIME {
                queue.invalidate(1);
                done.fetch_add(1, Ordering::Relaxed);
                // As long as between two events that do not know of each other.
                let think = -(1.0 - random.fraction()).ln() * THINK as f64;
                virtual_time::pass(think as u64);
            }
        })
    };
    let run = virtual_time::run(costs(sync), (0..cpus).map(body).collect());
    let operations = done.load(Ordering::Relaxed) as f64;
    let key = |what| format!("scale/{sync}/{cpus}/{name}/{what}");
    fact(
        &key("operations a second"),
        operations / run.time as f64 * 1e9,
    );
    fact(&key("waits"), run.syncs as f64 / operations);
}
