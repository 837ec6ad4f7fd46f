//! Operations of a kernel and accesses of devices, chosen by the input, on a driver and the model of
//! its hardware: an access that the kernel did not allow, one that is refused though it was allowed,
//! a wait that does not end or a frame that changes while it is free is a finding of the conformance
//! suite's oracle.

use iommu_model::Policy;
use shootdown_conformance::outcome::Stop;
use shootdown_conformance::rig::{self, Freedom, Maker};
use shootdown_conformance::scene::Bench;
use shootdown_conformance::soak::Soak;

/// The longest tape: some dozens of operations.
const LONGEST: usize = 2048;

/// VT-d.
pub fn vtd(data: &[u8]) {
    run("vtd", data);
}

/// SMMUv3.
pub fn smmuv3(data: &[u8]) {
    run("smmuv3", data);
}

/// RISC-V.
pub fn riscv(data: &[u8]) {
    run("riscv", data);
}

/// The first byte chooses the layout and the hardware's own choices, the second the hardware; the
/// rest is the tape.
fn run(family: &str, data: &[u8]) {
    let [seed, hardware, tape @ ..] = data else {
        return;
    };
    let rigs: Vec<&dyn Maker> = rig::MODEL_RIGS
        .iter()
        .copied()
        .filter(|maker| maker.name().starts_with(family))
        .collect();
    let freedom = Freedom {
        policy: if hardware & 1 == 0 {
            Policy::FREE
        } else {
            Policy::STRICT
        },
        seed: u64::from(*seed),
    };
    let maker = rigs[usize::from(hardware >> 1) % rigs.len()];
    let bench = Bench::new(maker, freedom);
    let outcome = Soak::new(&bench).and_then(|mut soak| {
        soak.play(tape[..tape.len().min(LONGEST)].to_vec())?;
        soak.end()
    });
    if let Err(Stop::Failed(failure)) = outcome {
        panic!("{failure}");
    }
}
