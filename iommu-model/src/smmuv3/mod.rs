//! Arm SMMUv3: the non-secure interface of one SMMU.
//!
//! Read from the Arm System Memory Management Unit Architecture Specification, SMMUv3, IHI 0070
//! issue G.b, whose section numbers stand in the comments, and for page tables from the Arm
//! Architecture Reference Manual, DDI 0487. Where the public text shows a layout only as a drawing
//! (event records, page-request entries, commands), field positions are those that Linux's and
//! QEMU's headers agree on.
//!
//! A request goes `requests` → `tables` → `walk`, each looking into `caches` first, with what
//! `entries` reads in the words;
//! `queues` consumes commands, which `commands` decodes and executes, and writes what `events`
//! describes; `registers` says what software sees and may change.
//!
//! What the specification leaves open is decided for the one that a driver must be prepared for:
//! fields that hardware may check are checked, writes that a guard forbids are ignored, invalidations
//! take what they must and nothing else, parameters out of range do nothing.

mod caches;
mod commands;
mod configuration;
mod entries;
mod events;
#[cfg(test)]
mod golden;
mod page_requests;
mod queues;
mod registers;
mod requests;
mod stalls;
mod tables;
mod walk;

pub use configuration::{Configuration, FlagUpdate, StallModel};

use crate::bus::{PageRequest, Port, Refusal, Request, Translation};
use crate::hardware::Hardware;
use crate::machine::{Machine, Policy, lock};
use crate::memory::{Coherency, Memory};
use crate::random::Random;
use caches::Caches;
use queues::{CommandQueue, Device};
use registers::Registers;
use stalls::Stalled;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// The offset of SMMU_CMDQ_PROD.
const CMDQ_PROD: usize = 0x98;

/// How many different complaints are kept.
const COMPLAINTS: usize = 64;

/// A modelled SMMU.
pub struct Smmu(Mutex<State>);

struct State {
    configuration: Configuration,
    policy: Policy,
    machine: Weak<Machine>,
    memory: Arc<Memory>,
    random: Random,
    registers: Registers,
    caches: Caches,
    commands: CommandQueue,
    /// Event records that are to be written.
    outbox: VecDeque<events::Record>,
    stalled: Vec<Stalled>,
    devices: BTreeMap<u32, Device>,
    interrupts: Vec<&'static str>,
    /// Requests that speculation may repeat.
    recent: VecDeque<Request>,
    complaints: Vec<&'static str>,
    removed: bool,
}

impl Smmu {
    /// An SMMU of `machine` after a reset. It works by itself once it is
    /// [added](Machine::add_iommu).
    pub fn new(machine: &Arc<Machine>, configuration: Configuration) -> Arc<Self> {
        let coherent = machine.memory.coherency() == Coherency::Coherent;
        Arc::new(Self(Mutex::new(State {
            registers: Registers::new(&configuration, coherent),
            configuration,
            policy: machine.policy,
            machine: Arc::downgrade(machine),
            memory: machine.memory.clone(),
            random: Random::new(machine.random.bits()),
            caches: Caches::default(),
            commands: CommandQueue::default(),
            outbox: VecDeque::new(),
            stalled: Vec::new(),
            devices: BTreeMap::new(),
            interrupts: Vec::new(),
            recent: VecDeque::new(),
            complaints: Vec::new(),
            removed: false,
        })))
    }

    /// Takes what software did since the last call whose effect the specification calls
    /// UNPREDICTABLE or UNKNOWN. A driver must leave nothing here.
    pub fn take_complaints(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.state().complaints)
    }

    /// No command is consumed any more, and no error says so.
    pub fn freeze(&self) {
        self.state().commands.frozen = true;
    }

    /// How many translations the SMMU holds, of both stages.
    pub fn cached_translations(&self) -> usize {
        self.state().caches.translations()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

impl State {
    /// Without `later`, whatever is to be done is done now.
    fn settle(&mut self) {
        if !self.policy.later {
            self.run();
        }
    }

    /// Complains of something whose effect is UNPREDICTABLE.
    fn complain(&mut self, what: &'static str) {
        if self.complaints.len() < COMPLAINTS && !self.complaints.contains(&what) {
            self.complaints.push(what);
        }
    }
}

impl Hardware for Smmu {
    fn read(&self, offset: usize, width: usize) -> u64 {
        let state = self.state();
        if state.removed {
            return u64::MAX >> (64 - 8 * width);
        }
        state.registers.read(offset, width)
    }

    fn write(&self, offset: usize, width: usize, value: u64) {
        let mut state = self.state();
        if state.removed {
            return;
        }
        // Between a driver's stores to its tables and its doorbell anything may be fetched.
        if offset == CMDQ_PROD && state.policy.speculative {
            state.speculate();
        }
        state.write(offset, width, value);
        state.settle();
    }

    fn step(&self) -> bool {
        let mut state = self.state();
        !state.removed && state.work()
    }

    fn speculate(&self) {
        let mut state = self.state();
        if !state.removed {
            state.speculate();
        }
    }

    fn translate(&self, request: &Request) -> Result<Translation, Refusal> {
        let mut state = self.state();
        if state.removed {
            return Err(Refusal::UnsupportedRequest);
        }
        state.translate(request)
    }

    fn translate_for_device(&self, request: &Request) -> Result<Translation, Refusal> {
        let mut state = self.state();
        if state.removed {
            return Err(Refusal::UnsupportedRequest);
        }
        state.translate_for_device(request)
    }

    fn admits_translated(&self, device: u32) -> bool {
        let mut state = self.state();
        !state.removed && state.admits_translated(device)
    }

    fn connect(&self, device: u32, port: Arc<dyn Port>) {
        let mut state = self.state();
        state.devices.insert(device, Device::new(port));
        state.settle();
    }

    fn invalidation_completed(&self, device: u32, itags: u32) {
        let mut state = self.state();
        if state.removed {
            return;
        }
        if let Some(device) = state.devices.get_mut(&device) {
            device.completed(itags);
        }
        state.settle();
    }

    fn page_request(&self, request: PageRequest) {
        let mut state = self.state();
        if !state.removed {
            state.page_request(&request);
        }
    }

    fn take_interrupts(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.state().interrupts)
    }

    fn time_out_devices(&self) {
        let mut state = self.state();
        state.time_out_devices();
        state.settle();
    }

    fn reject_next(&self) {
        self.state().commands.reject_next = true;
    }

    fn remove(&self) {
        self.state().removed = true;
    }
}
