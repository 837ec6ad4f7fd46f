//! A rig with QEMU: its drivers, its devices, and what the devices are asked to do.

use super::clock::Clock;
use super::masters::{Access, Master};
use super::revoked::Entries;
use super::tail::{Queue, TailRegister};
use super::trace::Trace;
use super::{QemuMaker, Seat};
use crate::outcome::{Outcome, Stop, skip};
use crate::rig::{Model, Ram, Rig, Shortcoming, Troubles};
use iommu_core::iommu::Iommu;
use iommu_core::page_table::Format;
use iommu_core::testing::Recorder;
use iommu_model::Refusal;
use iommu_model::device::{Direction, Ended, History, Job, Record, Transfer, Via};
use shootdown_device_tlb::Device;
use shootdown_qemu_host::{Machine, Platform, Steps};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of memory for the suite's kernel.
const POOL: u64 = 8 << 20;
const PAGE: u64 = 4096;

/// QEMU with drivers.
pub struct QemuRig {
    // The drivers turn their IOMMUs off when they are dropped, so they go first.
    iommus: Vec<Arc<dyn Iommu>>,
    devices: Arc<Devices>,
    format: Format,
    shortcomings: &'static [Shortcoming],
    pool: u64,
    seats: Vec<Seat>,
}

/// The devices and their work.
struct Devices {
    machine: Arc<Machine>,
    masters: Vec<Box<dyn Master>>,
    trace: Trace,
    work: Mutex<VecDeque<(usize, Arc<Job>)>>,
    /// Entries with which QEMU's IOMMU walks though it must not, if it does.
    entries: Option<Entries>,
    /// Held while a device works, so that its lines are found in the trace, and no driver's access
    /// lies between what it did and when it is said to have done it.
    working: Arc<Mutex<()>>,
    history: History,
    clock: Arc<Clock>,
    troubles: Arc<Troubles>,
}

impl QemuRig {
    pub fn new(
        maker: &QemuMaker,
        machine: Arc<Machine>,
        masters: Vec<Box<dyn Master>>,
        seats: Vec<Seat>,
        registers: &[u64],
        clock: Arc<Clock>,
        troubles: &Arc<Troubles>,
    ) -> Outcome<Self> {
        let Some(pool) = machine.ram().take(POOL, 2 << 20) else {
            return crate::outcome::failed("QEMU's machine has no memory for the pool");
        };
        let recorder = Arc::new(Recorder::default());
        let devices = Arc::new(Devices {
            machine: machine.clone(),
            masters,
            trace: Trace::new(&machine, maker.translations, maker.commands, &recorder),
            work: Mutex::default(),
            entries: maker
                .shortcomings
                .contains(&Shortcoming::AbsentIsWalked)
                .then(|| Entries::new(machine.ram())),
            working: Arc::default(),
            history: History::default(),
            clock,
            troubles: troubles.clone(),
        });
        let mut rig = Self {
            iommus: Vec::new(),
            devices: devices.clone(),
            format: maker.format,
            shortcomings: maker.shortcomings,
            pool,
            seats,
        };
        for &base in registers {
            let devices = devices.clone();
            let mut parts = Platform::parts(&machine, base, recorder.clone());
            // Devices work between any two accesses of a driver's.
            let turn = devices.working.clone();
            let work = move || {
                devices.step_within_rights();
            };
            parts.mmio = parts.mmio.taking_turns(Arc::new(work), turn);
            if let Some(register) = maker.queue {
                parts.mmio = parts.mmio.stepping(rig.devices.between_commands(register));
            }
            rig.iommus.push((maker.probe)(parts)?);
        }
        Ok(rig)
    }
}

impl Devices {
    /// Where the tail of a command queue goes before it is where the driver wants it, so that what
    /// waits to be done is done between its commands.
    fn between_commands(self: &Arc<Self>, register: &'static TailRegister) -> Steps {
        let (devices, queue) = (self.clone(), Queue::new(register));
        Arc::new(move |offset, value| {
            if let Some(entries) = &devices.entries {
                entries.note(offset, value);
            }
            let mut steps = queue.steps(offset, value);
            if lock(&devices.work).is_empty() {
                steps.clear();
            }
            steps
        })
    }

    /// Does the oldest piece of work whole; false if there is none.
    fn step(&self) -> bool {
        self.step_of(|_| true)
    }

    /// The same of a device whose requests QEMU treats as it should at this moment.
    fn step_within_rights(&self) -> bool {
        self.step_of(|seat| {
            let device = self.masters[seat].device();
            let revoked = |entries: &Entries| entries.is_revoked(device);
            !self.entries.as_ref().is_some_and(revoked)
        })
    }

    /// The same of the seats that `may`.
    fn step_of(&self, may: impl Fn(usize) -> bool) -> bool {
        let _working = lock(&self.working);
        let found = {
            let mut work = lock(&self.work);
            let first = work.iter().position(|&(seat, _)| may(seat));
            first.and_then(|first| work.remove(first))
        };
        let Some((seat, job)) = found else {
            return false;
        };
        let ended = self.perform(seat, job.transfer()).unwrap_or_else(|stop| {
            if let Stop::Failed(what) = stop {
                self.troubles.add(what);
            }
            Ended::Stuck
        });
        job.end(ended);
        true
    }

    fn perform(&self, seat: usize, transfer: &Transfer) -> Outcome<Ended> {
        if transfer.pasid.is_some() || transfer.translated || transfer.privileged {
            // Such requests are not sent by these devices, so none is performed.
            return Ok(Ended::Refused(Refusal::UnsupportedRequest));
        }
        let mut read = Vec::new();
        let mut offset = 0;
        while offset < transfer.length() {
            let address = transfer.address + offset;
            let length = (PAGE - address % PAGE).min(transfer.length() - offset);
            let piece = match &transfer.direction {
                Direction::Read(_) => Direction::Read(length),
                Direction::Write(bytes) => {
                    Direction::Write(bytes[offset as usize..][..length as usize].to_vec())
                }
            };
            let issued = self.now();
            let access = self.masters[seat].access(&self.trace, address, &piece, &mut read)?;
            let (physical, via, at, refusal) = match access {
                Access::Done { physical, via, at } => (Some(physical), via, at, None),
                Access::Refused(refusal) => (None, Via::Iommu, None, Some(refusal)),
            };
            self.history.record(Record {
                issued,
                ended: at.unwrap_or_else(|| self.now()),
                device: self.masters[seat].device().0,
                pasid: None,
                address,
                physical,
                length,
                access: transfer.access(),
                via,
                refusal,
            });
            if let Some(refusal) = refusal {
                return Ok(Ended::Refused(refusal));
            }
            offset += length;
        }
        Ok(Ended::Done(read))
    }

    fn now(&self) -> u64 {
        self.clock.now()
    }
}

impl Rig for QemuRig {
    fn iommus(&self) -> &[Arc<dyn Iommu>] {
        &self.iommus
    }
    fn seats(&self) -> &[Seat] {
        &self.seats
    }
    fn format(&self) -> Format {
        self.format
    }
    fn shortcomings(&self) -> &[Shortcoming] {
        self.shortcomings
    }
    fn ram(&self) -> &dyn Ram {
        self
    }
    fn now(&self) -> u64 {
        self.devices.now()
    }
    fn step(&self) -> bool {
        self.devices.step()
    }
    fn finish(&self, job: &Job) -> Ended {
        while job.ended().is_none() && self.devices.step() {}
        // Another thread may be at it.
        drop(lock(&self.devices.working));
        job.ended().unwrap_or(Ended::Stuck)
    }
    fn start(&self, seat: usize, transfer: Transfer) -> Arc<Job> {
        let job = Arc::new(Job::new(transfer));
        lock(&self.devices.work).push_back((seat, job.clone()));
        job
    }
    fn stop(&self, seat: usize, pasid: Option<u32>) {
        let stopped = |job: &Job| job.transfer().pasid == pasid;
        lock(&self.devices.work).retain(|(of, job)| *of != seat || !stopped(job));
        // What is under way ends before.
        drop(lock(&self.devices.working));
    }
    fn take_history(&self) -> Vec<Record> {
        self.devices.history.take()
    }
    fn device_tlb(&self, seat: usize) -> Result<&Device, Stop> {
        match self.devices.masters[seat].tlb() {
            Some(device) => Ok(device),
            None => skip(Shortcoming::NoDeviceTlbs),
        }
    }
    fn model(&self) -> Result<&Model, Stop> {
        skip(Shortcoming::NeverWrong)
    }
}

impl Drop for QemuRig {
    fn drop(&mut self) {
        if let Some(error) = self.devices.machine.failed() {
            self.devices.troubles.add(error.to_string());
        }
        // QEMU does not say which of two IOMMUs received a command.
        if self.iommus.len() == 1
            && let Err(difference) = self.devices.trace.compare()
        {
            self.devices.troubles.add(difference);
        }
    }
}

impl Ram for QemuRig {
    fn pool(&self) -> (u64, u64) {
        (self.pool, POOL)
    }
    // Where there is no memory, reads give zero and writes are lost, as on the models.
    fn load(&self, address: u64) -> u64 {
        let ram = self.devices.machine.ram();
        if ram.contains(address, 8) {
            ram.load(address)
        } else {
            0
        }
    }
    fn store(&self, address: u64, value: u64) {
        let ram = self.devices.machine.ram();
        if ram.contains(address, 8) {
            ram.store(address, value);
        }
    }
    fn clean(&self, _: u64, _: u64) {}
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
