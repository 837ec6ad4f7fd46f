//! What a device is asked to do, and the pieces it is done in.

use super::history::{Record, Via};
use crate::bus::{Access, Refusal, Request};
use crate::machine::lock;
use crate::memory::Memory;
use std::sync::{Arc, Mutex};

/// A request never crosses a border of this many bytes (PCIe 2.2.7.1).
const BORDER: u64 = 4096;

/// Which way the bytes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Direction {
    /// So many bytes from memory to the device.
    Read(u64),
    /// These bytes from the device to memory.
    Write(Vec<u8>),
}

/// One piece of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The PASID on its requests.
    pub pasid: Option<u32>,
    /// Whether they ask for privileged mode.
    pub privileged: bool,
    /// The first byte: virtual, or physical if `translated`.
    pub address: u64,
    /// Whether the requests claim to carry translated addresses, which no honest device does
    /// without having asked.
    pub translated: bool,
    /// The bytes.
    pub direction: Direction,
}

impl Transfer {
    /// Reads `length` bytes.
    pub const fn read(pasid: Option<u32>, address: u64, length: u64) -> Self {
        Self {
            pasid,
            privileged: false,
            address,
            translated: false,
            direction: Direction::Read(length),
        }
    }

    /// Writes `bytes`.
    pub const fn write(pasid: Option<u32>, address: u64, bytes: Vec<u8>) -> Self {
        Self {
            pasid,
            privileged: false,
            address,
            translated: false,
            direction: Direction::Write(bytes),
        }
    }

    /// How many bytes it moves.
    pub fn length(&self) -> u64 {
        match &self.direction {
            Direction::Read(length) => *length,
            Direction::Write(bytes) => bytes.len() as u64,
        }
    }

    /// What its requests do.
    pub fn access(&self) -> Access {
        match self.direction {
            Direction::Read(_) => Access::Read,
            Direction::Write(_) => Access::Write,
        }
    }
}

/// How a transfer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every byte arrived; the bytes that were read.
    Done(Vec<u8>),
    /// Some request was refused; others may have been performed.
    Refused(Refusal),
    /// It waits for something that does not come.
    Stuck,
}

impl Ended {
    /// Whether all of it was done.
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }
}

/// A transfer in progress.
#[derive(Debug)]
pub struct Job {
    transfer: Transfer,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    /// Bytes for which a piece was cut off.
    cut: u64,
    /// Bytes that arrived.
    arrived: u64,
    /// Pieces to be tried again: offset and length.
    again: Vec<(u64, u64, u8)>,
    /// What was read.
    bytes: Vec<u8>,
    refusal: Option<Refusal>,
    /// How it ended, of a device that is no model.
    ended: Option<Ended>,
}

/// One request of a transfer.
pub(super) struct Piece {
    pub job: Arc<Job>,
    pub address: u64,
    pub length: u64,
    pub issued: u64,
    pub via: Via,
    /// How often its page was asked for.
    pub attempts: u8,
    offset: u64,
}

impl Job {
    /// One that has not begun. Who makes it ends it by [`end`](Self::end), unless that is a
    /// [`Device`](super::Device).
    pub fn new(transfer: Transfer) -> Self {
        let read = match transfer.direction {
            Direction::Read(length) => vec![0; length as usize],
            Direction::Write(_) => Vec::new(),
        };
        let progress = Progress {
            bytes: read,
            ..Progress::default()
        };
        Self {
            transfer,
            progress: Mutex::new(progress),
        }
    }

    /// What was asked for.
    pub fn transfer(&self) -> &Transfer {
        &self.transfer
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<Ended> {
        let progress = lock(&self.progress);
        if progress.ended.is_some() {
            return progress.ended.clone();
        }
        if let Some(refusal) = progress.refusal {
            return Some(Ended::Refused(refusal));
        }
        (progress.arrived == self.transfer.length()).then(|| Ended::Done(progress.bytes.clone()))
    }

    /// Ends it, on behalf of a device that is no model.
    pub fn end(&self, ended: Ended) {
        lock(&self.progress).ended.get_or_insert(ended);
    }

    pub(super) fn refuse(&self, refusal: Refusal) {
        lock(&self.progress).refusal.get_or_insert(refusal);
    }

    /// The next piece to be issued, if there is one.
    pub(super) fn next(job: &Arc<Self>) -> Option<Piece> {
        let mut progress = lock(&job.progress);
        if progress.refusal.is_some() {
            return None;
        }
        let again = progress.again.pop();
        let (offset, length, attempts) = match again {
            Some(again) => again,
            None => {
                let offset = progress.cut;
                let address = job.transfer.address + offset;
                let border = BORDER - address % BORDER;
                let length = border.min(job.transfer.length() - offset);
                if length == 0 {
                    return None;
                }
                progress.cut += length;
                (offset, length, 0)
            }
        };
        Some(Piece {
            job: job.clone(),
            address: job.transfer.address + offset,
            length,
            issued: 0,
            via: Via::Iommu,
            attempts,
            offset,
        })
    }
}

impl Piece {
    /// The addresses of the pages that come behind this piece in its transfer.
    pub fn pages_behind(&self) -> impl Iterator<Item = u64> {
        let transfer = self.job.transfer();
        let end = transfer.address + transfer.length();
        let next = (self.address / BORDER + 1) * BORDER;
        (next..end).step_by(BORDER as usize)
    }

    pub fn request(&self, device: u32) -> Request {
        let transfer = self.job.transfer();
        Request {
            device,
            pasid: transfer.pasid,
            privileged: transfer.privileged,
            address: self.address,
            access: transfer.access(),
        }
    }

    /// Puts it back into its job.
    pub fn again(self) {
        let again = (self.offset, self.length, self.attempts);
        lock(&self.job.progress).again.push(again);
    }

    pub fn refuse(&self, refusal: Refusal) {
        self.job.refuse(refusal);
    }

    /// Moves its bytes. Where there is no memory, the root complex refuses.
    pub fn perform(&self, memory: &Memory, physical: u64) -> Result<(), Refusal> {
        let transfer = self.job.transfer();
        let (from, length) = (self.offset as usize, self.length as usize);
        let moved = match &transfer.direction {
            Direction::Read(_) => {
                let mut bytes = vec![0; length];
                memory.load_bytes(physical, &mut bytes).map(|()| {
                    lock(&self.job.progress).bytes[from..][..length].copy_from_slice(&bytes);
                })
            }
            Direction::Write(bytes) => memory.store_bytes(physical, &bytes[from..][..length]),
        };
        match moved {
            Ok(()) => {
                lock(&self.job.progress).arrived += self.length;
                Ok(())
            }
            Err(_) => {
                self.refuse(Refusal::UnsupportedRequest);
                Err(Refusal::UnsupportedRequest)
            }
        }
    }

    pub fn record(
        &self,
        device: u32,
        ended: u64,
        physical: Option<u64>,
        refusal: Option<Refusal>,
    ) -> Record {
        let transfer = self.job.transfer();
        Record {
            issued: self.issued,
            ended,
            device,
            pasid: transfer.pasid,
            address: self.address,
            physical,
            length: self.length,
            access: transfer.access(),
            via: self.via,
            refusal,
        }
    }
}
