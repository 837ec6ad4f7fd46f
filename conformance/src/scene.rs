//! What a case works with.

use crate::kernel::{Kernel, PAGE, PASID_BITS, Pager, Process, Region, Rights};
use crate::outcome::{Outcome, ensure, failed, skip};
use crate::rig::{Absence, Freedom, Layout, Maker, Rig, Shortcoming, Troubles};
use iommu_core::iommu::{DeviceConfig, PageFaults};
use iommu_core::sva::Requests;
use iommu_model::device::{Ended, Job, Transfer};
use std::sync::Arc;

/// Where the cases' pages begin: in the lower half of every format, 2 MiB aligned.
pub const USER: u64 = 0x10_0000_0000;

/// A rig that a case may build, as often as it likes.
#[derive(Clone)]
pub struct Bench<'a> {
    /// Builds it.
    pub maker: &'a dyn Maker,
    /// How freely it behaves.
    pub freedom: Freedom,
    /// What is wrong with the rigs that were built.
    pub troubles: Arc<Troubles>,
}

impl<'a> Bench<'a> {
    /// One on which nothing was built yet.
    pub fn new(maker: &'a dyn Maker, freedom: Freedom) -> Self {
        Self {
            maker,
            freedom,
            troubles: Arc::default(),
        }
    }

    /// A kernel on a new rig.
    pub fn scene(&self, layout: Layout) -> Outcome<Scene> {
        let page_faults = if layout.page_requests {
            PageFaults::PageRequests {
                response_pasid: true,
            }
        } else {
            PageFaults::Fatal
        };
        self.scene_with(layout, page_faults)
    }

    /// As [`scene`](Self::scene) without device TLBs and page requests, on IOMMUs that hold faulting
    /// transactions back.
    pub fn stalling(&self, layout: Layout) -> Outcome<Scene> {
        let layout = Layout {
            device_tlb: false,
            page_requests: false,
            ..layout
        };
        self.scene_with(layout, PageFaults::Stall)
    }

    fn scene_with(&self, layout: Layout, page_faults: PageFaults) -> Outcome<Scene> {
        let rig = self.maker.make(&layout, self.freedom, &self.troubles)?;
        self.boot(rig, layout, page_faults)
    }

    /// A kernel whose drivers find the IOMMUs as another kernel, which is no more, has left them.
    pub fn take_over(&self, scene: Scene, layout: Layout) -> Outcome<Scene> {
        let rig = self.maker.take_over(&scene.rig, &layout)?;
        // Nothing of it runs any more, not even to clean up.
        std::mem::forget(scene);
        self.boot(rig, layout, PageFaults::Fatal)
    }

    /// A kernel on a rig that has none.
    pub fn boot(
        &self,
        rig: Arc<dyn Rig>,
        layout: Layout,
        page_faults: PageFaults,
    ) -> Outcome<Scene> {
        for can in rig.iommus().iter().map(|iommu| iommu.features()) {
            match page_faults {
                PageFaults::PageRequests { .. } if !can.page_requests => {
                    return skip(Absence::PageRequests);
                }
                PageFaults::Stall if !can.stall => {
                    return skip(Absence::Stalls);
                }
                _ => {}
            }
        }
        let features = || rig.iommus().iter().map(|iommu| iommu.features());
        let widest = features().map(|can| can.pasid_bits).min();
        let config = DeviceConfig {
            pasid_bits: PASID_BITS.min(widest.unwrap_or(0)),
            device_tlb: layout.device_tlb && features().all(|can| can.device_tlb),
            page_faults,
        };
        let kernel = Kernel::new(rig.clone(), config, self.freedom.seed)?;
        Ok(Scene { rig, kernel })
    }
}

/// A kernel on a rig.
pub struct Scene {
    /// The rig.
    pub rig: Arc<dyn Rig>,
    /// The kernel.
    pub kernel: Arc<Kernel>,
}

impl Scene {
    /// A process with the first device bound to it by PASID.
    pub fn bound(&self) -> Outcome<Process> {
        self.bound_to(0)
    }

    /// A process with the device on a seat bound to it by PASID.
    pub fn bound_to(&self, seat: usize) -> Outcome<Process> {
        let process = self.kernel.process()?;
        process.bind(seat, Requests::Tagged)?;
        Ok(process)
    }

    /// As [`bound`](Self::bound), with so many writable pages from [`USER`] on.
    pub fn with_pages(&self, pages: u64) -> Outcome<Process> {
        let process = self.bound()?;
        for page in 0..pages {
            process.map(USER + page * PAGE, Rights::WRITABLE)?;
        }
        Ok(process)
    }

    /// A process without pages, and what resolves its page faults in `regions`.
    pub fn paged(&self, regions: &[Region]) -> Outcome<(Arc<Process>, Arc<Pager>)> {
        let process = Arc::new(self.kernel.process()?);
        let pager = Pager::new(&process, regions);
        Ok((process, pager))
    }

    /// Lets things happen, and the kernel serve page requests between them, until every one of `jobs`
    /// has ended or nothing happens any more.
    pub fn serve_until(&self, jobs: &[Arc<Job>]) -> Outcome<Vec<Ended>> {
        for _ in 0..100_000 {
            if jobs.iter().all(|job| job.ended().is_some()) {
                break;
            }
            let steps = 1 + self.kernel.random.below(40);
            let worked = (0..steps).any(|_| self.rig.step());
            if self.kernel.attend()? == 0 && !worked {
                break;
            }
        }
        self.kernel.judge()?;
        let ended = jobs.iter().map(|job| job.ended().unwrap_or(Ended::Stuck));
        Ok(ended.collect())
    }

    /// The device on a seat writes a word, and the kernel serves its page requests.
    pub fn write_paged(
        &self,
        seat: usize,
        pasid: Option<u32>,
        address: u64,
        word: u64,
    ) -> Outcome<Ended> {
        let transfer = Transfer::write(pasid, address, word.to_le_bytes().to_vec());
        let mut ended = self.serve_until(&[self.rig.start(seat, transfer)])?;
        Ok(ended.pop().unwrap_or(Ended::Stuck))
    }

    /// As [`reaches`](Self::reaches), while the kernel serves page requests.
    pub fn reaches_paged(&self, seat: usize, process: &Process, address: u64) -> Outcome {
        let word = self.kernel.random.bits();
        let ended = self.write_paged(seat, process.pasid(), address, word)?;
        ensure(
            ended.is_done(),
            format_args!("a write at {address:#x} of seat {seat} is {ended:?}"),
        )?;
        let found = process.load(address)?;
        ensure(
            found == word,
            format_args!("{found:#x} is at {address:#x}, the device wrote {word:#x}"),
        )
    }

    /// As [`is_refused`](Self::is_refused), while the kernel serves page requests.
    pub fn is_refused_paged(&self, seat: usize, pasid: Option<u32>, address: u64) -> Outcome {
        let ended = self.write_paged(seat, pasid, address, 0x5ca1_ab1e)?;
        ensure(
            matches!(ended, Ended::Refused(_)),
            format_args!("a write at {address:#x} of seat {seat} is {ended:?}, not refused"),
        )
    }

    /// Goes on unless the rig has this shortcoming.
    pub fn unless(&self, shortcoming: Shortcoming) -> Outcome {
        if self.has(shortcoming) {
            return skip(shortcoming);
        }
        Ok(())
    }

    /// Whether the rig has this shortcoming.
    pub fn has(&self, shortcoming: Shortcoming) -> bool {
        self.rig.shortcomings().contains(&shortcoming)
    }

    /// The device on a seat writes a word.
    pub fn write(&self, seat: usize, pasid: Option<u32>, address: u64, word: u64) -> Ended {
        let bytes = word.to_le_bytes().to_vec();
        self.rig.run(seat, Transfer::write(pasid, address, bytes))
    }

    /// The device on a seat reads a word.
    pub fn read(&self, seat: usize, pasid: Option<u32>, address: u64) -> Outcome<u64> {
        match self.rig.run(seat, Transfer::read(pasid, address, 8)) {
            Ended::Done(bytes) => Ok(u64::from_le_bytes(bytes.try_into().unwrap_or_default())),
            ended => failed(format_args!("a read at {address:#x} is {ended:?}")),
        }
    }

    /// It writes a word, which arrives in the process's memory.
    pub fn reaches(&self, seat: usize, process: &Process, address: u64) -> Outcome {
        self.reaches_by(seat, process, process.pasid(), address)
    }

    /// As [`reaches`](Self::reaches), with requests of another PASID, or none.
    pub fn reaches_by(
        &self,
        seat: usize,
        process: &Process,
        pasid: Option<u32>,
        address: u64,
    ) -> Outcome {
        let word = self.kernel.random.bits();
        let ended = self.write(seat, pasid, address, word);
        self.kernel.judge()?;
        ensure(
            ended.is_done(),
            format_args!("a write at {address:#x} of seat {seat} is {ended:?}"),
        )?;
        let found = process.load(address)?;
        ensure(
            found == word,
            format_args!("{found:#x} is at {address:#x}, the device wrote {word:#x}"),
        )
    }

    /// It writes a word and is refused.
    pub fn is_refused(&self, seat: usize, pasid: Option<u32>, address: u64) -> Outcome {
        let ended = self.write(seat, pasid, address, 0x5ca1_ab1e);
        self.kernel.judge()?;
        ensure(
            matches!(ended, Ended::Refused(_)),
            format_args!("a write at {address:#x} of seat {seat} is {ended:?}, not refused"),
        )
    }

    /// Gives the device on a seat work all over some pages: it is done while drivers wait.
    pub fn traffic(&self, seat: usize, pasid: Option<u32>, pages: &[u64], transfers: u64) {
        let random = &self.kernel.random;
        for _ in 0..transfers {
            let page = pages[random.below(pages.len() as u64) as usize];
            let address = page + random.below(PAGE);
            let length = 1 + random.below(64);
            let transfer = if random.once_in(2) {
                Transfer::read(pasid, address, length)
            } else {
                Transfer::write(pasid, address, vec![random.bits() as u8; length as usize])
            };
            self.rig.start(seat, transfer);
        }
    }
}
