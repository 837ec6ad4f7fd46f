//! Random schedules of everything that a kernel does, against the oracle.

use crate::kernel::{Announce, HUGE, PAGE, Process, Rights};
use crate::outcome::Outcome;
use crate::rig::Layout;
use crate::scene::{Bench, Scene, USER};
use core_notifier::Range;
use iommu_core::iommu::PageFaults;
use iommu_core::page_request::{PageGroup, Resolve, Response};
use iommu_core::page_table::Format;
use iommu_core::sva::{BindError, Requests};
use iommu_model::Coherency;
use iommu_model::device::Answers;
use std::sync::Arc;

/// Processes at a time.
const PROCESSES: usize = 4;
/// Regions of a process, each in a table of its own at every level below the root's children.
const REGIONS: u64 = 3;
/// Pages of a region that are used.
const PAGES: u64 = 12;
/// Operations after which everything is looked at.
const CHECK: u64 = 64;

/// A random schedule on one rig. What happens follows from the rig's seed alone.
pub struct Soak {
    scene: Scene,
    processes: Vec<Process>,
    steps: u64,
}

impl Soak {
    /// A rig whose layout, too, follows from the seed.
    ///
    /// # Errors
    ///
    /// If the rig cannot be built.
    pub fn new(bench: &Bench<'_>) -> Outcome<Self> {
        let seed = bench.freedom.seed;
        let layout = Layout {
            iommus: 1 + (seed % 2) as usize,
            devices: 2,
            device_tlb: seed % 4 != 3,
            coherency: if seed % 5 == 4 {
                Coherency::NonCoherent
            } else {
                Coherency::Coherent
            },
            page_requests: seed % 4 != 3 && seed.is_multiple_of(3),
        };
        Ok(Self {
            scene: bench.scene(layout)?,
            processes: Vec::new(),
            steps: 0,
        })
    }

    fn below(&self, bound: u64) -> u64 {
        self.scene.kernel.random.below(bound)
    }

    /// One operation.
    ///
    /// # Errors
    ///
    /// What the oracle or the framework has found.
    pub fn step(&mut self) -> Outcome {
        self.steps += 1;
        if self.processes.is_empty() {
            return self.new_process();
        }
        self.traffic();
        self.page_operation()?;
        if self.below(4) == 0 {
            self.scene.kernel.attend()?;
        }
        match self.below(24) {
            0 if self.processes.len() < PROCESSES => self.new_process()?,
            1 => self.end_process()?,
            2 | 3 => self.rebind()?,
            4 => self.late_answers(),
            5 => self.reenable()?,
            _ => {}
        }
        self.scene.kernel.judge()?;
        if self.steps.is_multiple_of(CHECK) {
            self.scene.kernel.check()?;
            let now = self.scene.rig.now();
            self.scene.kernel.oracle.forget_before(now);
        }
        Ok(())
    }

    /// Operations that `tape` chooses, until it is at its end.
    ///
    /// # Errors
    ///
    /// As [`step`](Self::step).
    pub fn play(&mut self, tape: Vec<u8>) -> Outcome {
        self.scene.kernel.random.follow(tape);
        while self.scene.kernel.random.follows() {
            self.step()?;
        }
        Ok(())
    }

    /// Ends every process and looks at everything.
    ///
    /// # Errors
    ///
    /// As [`step`](Self::step).
    pub fn end(mut self) -> Outcome {
        for process in std::mem::take(&mut self.processes) {
            process.destroy()?;
        }
        self.scene.kernel.check()
    }

    fn page_operation(&self) -> Outcome {
        let process = &self.processes[self.below(self.processes.len() as u64) as usize];
        let page = self.page();
        let end = page + (1 + self.below(PAGES)) * PAGE;
        process.announce_by(match self.below(3) {
            0 => Announce::Section,
            1 => Announce::Batch,
            _ => Announce::Range,
        });
        let region = page / HUGE * HUGE;
        let huge = process
            .pages()
            .iter()
            .any(|&(at, huge, _)| at == region && huge);
        let arm = matches!(self.scene.rig.format(), Format::Aarch64 { .. });
        match self.below(12) {
            0 | 1 if huge => process.unmap(region, region + HUGE),
            2 if huge && !arm => process.split_in_place(region),
            3 if huge => process.split(region),
            4 if huge => process.protect(region, region + HUGE),
            _ if huge => process.raise(region, region + HUGE),
            0 => process.unmap(page, end),
            1 => process.unmap_and_prune(page, end),
            2 => process.unmap_and_prune(region, region + HUGE),
            3 => process.protect(page, end),
            4 => process.raise(page, end),
            5 if process.physical(page).is_some() => process.replace(page).map(drop),
            6 if self.is_empty(process, region) && self.scene.kernel.free_frames().1 > 0 => {
                // The table of small pages goes before the huge page comes.
                process.unmap_and_prune(region, region + HUGE)?;
                if self.has_no_table(process, region) {
                    process.map_huge(region, Rights::WRITABLE)?;
                }
                Ok(())
            }
            7 => {
                let range = Range::new(page, end)?;
                let _ = process.notifiers.clear_flush_young(range);
                Ok(())
            }
            _ => self.fill(process, page),
        }
    }

    /// Maps some pages of a region that are not there.
    fn fill(&self, process: &Process, page: u64) -> Outcome {
        for page in [page, page + PAGE, page + 3 * PAGE] {
            if process.physical(page).is_none() && self.scene.kernel.free_frames().0 > 200 {
                let rights = if self.below(4) == 0 {
                    Rights::READ_ONLY
                } else {
                    Rights::WRITABLE
                };
                process.map(page, rights)?;
            }
        }
        Ok(())
    }

    fn is_empty(&self, process: &Process, region: u64) -> bool {
        let inside = region..region + HUGE;
        !process
            .pages()
            .iter()
            .any(|(page, _, _)| inside.contains(page))
    }

    fn has_no_table(&self, process: &Process, region: u64) -> bool {
        let ram = self.scene.rig.ram();
        process.with_table(|table| table.slot(ram, region, 0).is_none())
    }

    fn page(&self) -> u64 {
        USER + self.below(REGIONS) * (1 << 30) + self.below(PAGES) * PAGE
    }

    fn new_process(&mut self) -> Outcome {
        let process = self.scene.kernel.process()?;
        for seat in 0..self.scene.rig.seats().len() {
            if self.below(3) != 0 {
                let bound = self.bind(&process, seat, Requests::Tagged);
                // Without PASIDs another process may have the device.
                if self.scene.rig.sends_pasids() {
                    bound?;
                }
            }
            if self.below(4) == 0 {
                let _ = process.bind(seat, Requests::Untagged);
            }
        }
        for _ in 0..3 {
            self.fill(&process, self.page())?;
        }
        self.processes.push(process);
        Ok(())
    }

    /// Binds a device; its page requests, if it makes any, are all answered alike.
    fn bind(&self, process: &Process, seat: usize, requests: Requests) -> Result<(), BindError> {
        let asks = self.scene.kernel.device_config().page_faults != PageFaults::Fatal;
        if !asks || requests == Requests::Untagged {
            return process.bind(seat, requests);
        }
        let answer = [Response::Success, Response::Invalid][self.below(2) as usize];
        process.bind_paged(seat, Arc::new(Resolve(move |_: &PageGroup| answer)))
    }

    fn end_process(&mut self) -> Outcome {
        let index = self.below(self.processes.len() as u64) as usize;
        let process = self.processes.swap_remove(index);
        if self.below(2) == 0 {
            process.exit()?;
            self.traffic();
        }
        process.destroy()
    }

    fn rebind(&self) -> Outcome {
        let process = &self.processes[self.below(self.processes.len() as u64) as usize];
        let seat = self.below(self.scene.rig.seats().len() as u64) as usize;
        let requests = if self.below(4) == 0 {
            Requests::Untagged
        } else {
            Requests::Tagged
        };
        if process.unbind_running(seat, requests).is_err() {
            // Another process may have the untagged requests.
            let _ = self.bind(process, seat, requests);
        }
        Ok(())
    }

    /// A device that nobody uses is disabled, or a disabled one enabled.
    fn reenable(&self) -> Outcome {
        let index = self.below(self.scene.rig.seats().len() as u64) as usize;
        let (iommu, seat) = self.scene.kernel.seat(index);
        if iommu.disable_device(seat.device).is_ok() {
            let page_requests = self.scene.kernel.page_requests(index);
            page_requests.remove_device(seat.device);
            self.scene.kernel.enable(index)?;
        }
        Ok(())
    }

    fn late_answers(&self) {
        if let Ok(model) = self.scene.rig.model() {
            let device = self.below(model.devices.len() as u64) as usize;
            let answers = match self.below(3) {
                0 => Answers::Promptly,
                _ => Answers::Late(self.below(40) as u32),
            };
            model.devices[device].set_answers(answers);
        }
    }

    /// Work for every device, under PASIDs of living and dead processes.
    fn traffic(&self) {
        for seat in 0..self.scene.rig.seats().len() {
            let pages: Vec<u64> = (0..4).map(|_| self.page()).collect();
            for process in &self.processes {
                self.scene.traffic(seat, process.pasid(), &pages, 2);
            }
            self.scene.traffic(seat, None, &pages, 1);
            self.scene
                .traffic(seat, Some(1 + self.below(6) as u32), &pages, 1);
        }
    }
}
