//! What a case works with.

use crate::kernel::{Kernel, PAGE, Process, Rights};
use crate::outcome::{Outcome, ensure, failed};
use crate::rig::{Freedom, Layout, Maker, Rig};
use iommu_core::sva::Requests;
use iommu_model::device::{Ended, Transfer};
use std::sync::Arc;

/// Where the cases' pages begin: in the lower half of every format, 2 MiB aligned.
pub const USER: u64 = 0x10_0000_0000;

/// A rig that a case may build, as often as it likes.
#[derive(Clone, Copy)]
pub struct Bench<'a> {
    /// Builds it.
    pub maker: &'a dyn Maker,
    /// How freely it behaves.
    pub freedom: Freedom,
}

impl Bench<'_> {
    /// A kernel on a new rig.
    pub fn scene(&self, layout: Layout) -> Outcome<Scene> {
        let rig = self.maker.make(&layout, self.freedom)?;
        let kernel = Kernel::new(rig.clone(), layout.device_tlb, self.freedom.seed)?;
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
        let process = self.kernel.process()?;
        process.bind(0, Requests::Tagged)?;
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
