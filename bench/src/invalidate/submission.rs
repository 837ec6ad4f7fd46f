//! One and two CPUs that invalidate without a pause on modelled hardware, ours beside the queues of
//! Linux's drivers and beside the least that it can cost.

use std::sync::Arc;

use super::deadlines::Deadlines;
use super::effect::Pages;
use super::facts::fact;
use super::hardware::{Model, Riscv, Smmuv3, Vtd};
use super::linux::Spread;
use super::plain_ring::PlainRing;
use super::scene::Scene;
use super::virtual_time::{self, Costs, Run, Virtual};
use super::world::{Instant, World};
use crate::case::{Case, forever, repeat as repeat_case};
use crate::peers::linux_queue::{Floor, Queue, RiscvQueue, SmmuQueue, VtdQueue};

/// The hardware that the peers were once measured with: a doorbell of 100 ns, a register read of 300,
/// completion 500 after the doorbell. Lines as between two cores of one chip.
pub const COSTS: Costs = Costs {
    doorbell: 100,
    register_read: 300,
    command: 0,
    sync: 0,
    completion: 500,
    own_line: 5,
    other_line: 20,
    write: 2,
    turn: 5,
};

/// A queue that several CPUs post to.
pub type Shared = Arc<dyn Queue + Send + Sync>;

const FLOOR: &str = "floor: no lock";

/// One page, which is one command in an IOTLB.
const PAGE: Pages = Pages {
    first: 0x7_1234,
    count: 1,
};

/// The engine, from the address space's set to the completion.
struct Ours(Scene);

impl Queue for Ours {
    fn invalidate(&self, commands: usize) {
        assert_eq!(commands, 1, "one page is one command");
        self.0.unmap(PAGE).expect("the hardware answers");
    }
}

/// The engine on one IOMMU.
pub fn engine<M: Model, W: World>(model: impl Fn() -> M) -> Shared {
    let spread = Spread {
        iommus: 1,
        devices: 0,
    };
    Arc::new(Ours(Scene::new::<M, W>(model, spread)))
}

/// Everybody who submits, in a world.
fn queues<W: World>() -> Vec<(&'static str, Shared)> {
    vec![
        ("ours, ring alone", Arc::new(PlainRing::<W>::new())),
        ("ours, VT-d", engine::<Vtd, W>(Vtd::default)),
        ("ours, SMMUv3", engine::<Smmuv3, W>(|| Smmuv3::new(true))),
        ("ours, RISC-V", engine::<Riscv, W>(|| Riscv::new(true))),
        ("Linux VT-d model", Arc::new(VtdQueue::<W>::new())),
        ("Linux SMMUv3 model", Arc::new(SmmuQueue::<W>::new())),
        ("Linux RISC-V model", Arc::new(RiscvQueue::<W>::new())),
    ]
}

/// Prints nanoseconds an operation, in virtual time, with one and two CPUs, and the longest time that
/// ours held its lock.
pub fn print() {
    const OPERATIONS: u64 = 20_000;
    let submit = |cpus: u64, name: &str, queue: &Shared| {
        let run = repeat(COSTS, cpus, OPERATIONS, queue);
        let nanoseconds = run.time as f64 / OPERATIONS as f64;
        fact(&format!("submit/{cpus}/{name}"), nanoseconds);
        run.longest_section
    };
    submit(1, FLOOR, &(Arc::new(Floor::<Virtual>::new()) as Shared));
    let mut longest = 0;
    for cpus in [1, 2] {
        for (name, queue) in queues::<Virtual>() {
            longest = longest.max(submit(cpus, name, &queue));
        }
    }
    fact("longest time under the lock, ns", longest as f64);
}

/// So many CPUs that each perform so many operations, the second a little after the first.
fn repeat(costs: Costs, cpus: u64, operations: u64, queue: &Shared) -> Run {
    let body = |cpu: u64| -> Box<dyn FnOnce() + Send> {
        let queue = queue.clone();
        Box::new(move || {
            virtual_time::pass(37 * cpu);
            for _ in 0..operations {
                queue.invalidate(1);
            }
        })
    };
    virtual_time::run(costs, (0..cpus).map(body).collect())
}

/// Software alone: the hardware is done at the doorbell, and nothing costs time.
pub fn software() -> Vec<Case> {
    all::<Instant>()
}

/// The same in real time. The floor has no lock, so each CPU has a queue of its own.
pub fn cases() -> Vec<Case> {
    all::<Deadlines>()
}

fn all<W: World>() -> Vec<Case> {
    let floor = Case::new(FLOOR, || {
        repeat_case(Floor::<W>::new(), |queue| queue.invalidate(1))
    });
    let case = |(name, queue): (&'static str, Shared)| {
        let queue = forever(queue);
        Case::shared(name, queue, |queue| queue.invalidate(1))
    };
    let queues = queues::<W>().into_iter().map(case);
    std::iter::once(floor).chain(queues).collect()
}
