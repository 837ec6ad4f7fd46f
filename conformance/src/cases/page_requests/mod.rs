//! Page faults of devices that the kernel resolves: page requests, and stalls on SMMUv3.

mod endings;
mod hostile;
mod resolved;

use super::Case;
use crate::kernel::{PAGE, Pager, Process, Region};
use crate::outcome::{Outcome, failed};
use crate::rig::Layout;
use crate::scene::{Bench, Scene, USER};
use iommu_model::device::{Job, Transfer};
use std::sync::Arc;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "page-request",
        about: "a page that is missing is asked for, mapped, and used; some in one group",
        run: |bench| resolved::a_missing_page(&asking(bench)?),
    },
    Case {
        name: "page-request-thread",
        about: "a kernel thread resolves groups out of a queue; what finds it full is tried again",
        run: |bench| resolved::by_a_thread(&asking(bench)?),
    },
    Case {
        name: "page-request-refused",
        about: "an address that is nobody's is refused, and everything else goes on",
        run: |bench| resolved::a_wrong_address(&asking(bench)?),
    },
    Case {
        name: "page-request-write",
        about: "a write to a page that is shared copies it; one to a read-only region is refused",
        run: |bench| resolved::a_write_to_a_read_only_page(&asking(bench)?),
    },
    Case {
        name: "page-request-unbind",
        about: "unbinding with requests on their way, in queues and in a thread's hands: each is answered",
        run: |bench| endings::unbinding(&asking(bench)?),
    },
    Case {
        name: "page-request-exit",
        about: "a process ends with requests outstanding: each is answered, and nothing is mapped any more",
        run: |bench| endings::exit(&asking(bench)?),
    },
    Case {
        name: "page-request-reset",
        about: "a device is reset with requests outstanding, and begins anew",
        run: |bench| endings::reset(&asking(bench)?),
    },
    Case {
        name: "page-request-removed",
        about: "a device is pulled out with requests outstanding: others are served as before",
        run: |bench| endings::removal(&asking(bench)?),
    },
    Case {
        name: "page-request-flood",
        about: "a device floods with groups that never end: it has its share and no more, others go on",
        run: |bench| hostile::flood(&asking(bench)?),
    },
    Case {
        name: "page-request-overflow",
        about: "the queue overflows: what was accepted is answered, and nobody waits for ever",
        run: |bench| hostile::overflow(&asking(bench)?),
    },
    Case {
        name: "page-request-reused",
        about: "group numbers in use are used again, by the same PASID and another",
        run: |bench| hostile::reused_groups(&asking(bench)?),
    },
    Case {
        name: "page-request-strangers",
        about: "requests of an unknown device, for another device, with a dead PASID and with none",
        run: |bench| hostile::strangers(&asking(bench)?),
    },
    Case {
        name: "page-request-malformed",
        about: "privileged, execute, and nothing at all: answered once, never handed to a handler",
        run: |bench| hostile::malformed(&asking(bench)?),
    },
    Case {
        name: "page-request-hostile",
        about: "a device does all of that by chance beside one that works",
        run: |bench| hostile::by_chance(&asking(bench)?),
    },
    Case {
        name: "stall",
        about: "a transaction is held back until its page is there",
        run: |bench| resolved::a_missing_page(&stalling(bench)?),
    },
    Case {
        name: "stall-thread",
        about: "a kernel thread resolves stalls out of a queue",
        run: |bench| resolved::by_a_thread(&stalling(bench)?),
    },
    Case {
        name: "stall-refused",
        about: "a stalled transaction at an address that is nobody's is aborted, and everything else goes on",
        run: |bench| resolved::a_wrong_address(&stalling(bench)?),
    },
    Case {
        name: "stall-write",
        about: "a stalled write copies a shared page; one to a read-only region is aborted",
        run: |bench| resolved::a_write_to_a_read_only_page(&stalling(bench)?),
    },
    Case {
        name: "stall-unbind",
        about: "unbinding with transactions held back: each is ended",
        run: |bench| endings::unbinding(&stalling(bench)?),
    },
    Case {
        name: "stall-exit",
        about: "a process ends with transactions held back: each is ended",
        run: |bench| endings::exit(&stalling(bench)?),
    },
    Case {
        name: "stall-flood",
        about: "more transactions fault than can be held back: nobody waits for ever",
        run: |bench| hostile::stall_flood(&stalling(bench)?),
    },
];

/// One IOMMU, with two devices.
const TWO: Layout = Layout {
    devices: 2,
    ..Layout::DEVICE_TLB
};

fn asking(bench: &Bench<'_>) -> Outcome<Scene> {
    bench.scene(Layout {
        page_requests: true,
        ..TWO
    })
}

fn stalling(bench: &Bench<'_>) -> Outcome<Scene> {
    bench.stalling(TWO)
}

/// 64 pages that may be written, and behind them as many that may not.
const PAGES: u64 = 64;
const READ_ONLY: u64 = USER + PAGES * PAGE;
const NOBODYS: u64 = USER + (1 << 30);

fn regions() -> [Region; 2] {
    let end = READ_ONLY + PAGES * PAGE;
    [(USER..READ_ONLY, true), (READ_ONLY..end, false)]
}

/// A process with the devices of `seats` bound to it, whose faults are resolved at once.
fn bound(scene: &Scene, seats: &[usize]) -> Outcome<(Arc<Process>, Arc<Pager>)> {
    let (process, pager) = scene.paged(&regions())?;
    for &seat in seats {
        process.bind_paged(seat, pager.clone())?;
    }
    Ok((process, pager))
}

/// Each of some pages is written by the device on a seat.
fn writes(scene: &Scene, seat: usize, process: &Process, pages: u64) -> Vec<Arc<Job>> {
    let write = |page| {
        let address = USER + page * PAGE + 8;
        let transfer = Transfer::write(process.pasid(), address, vec![0x5a; 8]);
        scene.rig.start(seat, transfer)
    };
    (0..pages).map(write).collect()
}

/// Lets the devices go so far that some of their requests are here, and some there.
fn some_steps(scene: &Scene) {
    for _ in 0..scene.kernel.random.below(120) {
        scene.rig.step();
    }
}

/// Ends a process whose pager is not at work.
fn destroy(process: Arc<Process>) -> Outcome {
    match Arc::into_inner(process) {
        Some(process) => process.destroy(),
        None => failed("somebody has the process still"),
    }
}
