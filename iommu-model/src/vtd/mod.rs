//! Intel VT-d: one remapping unit in scalable mode.
//!
//! Architecture specification revision 4.1 (D51397-015), with what revision 5.0 leaves as it was.
//! The text was not at hand; the reading rests on memory of it and, for encodings and fault reasons,
//! on facts from public sources: Linux (drivers/iommu/intel: iommu.h, pasid.h, dmar.c), QEMU
//! (hw/i386/intel_iommu_internal.h) and QEMU 11.1's measured behaviour. Section numbers are those of
//! revision 4.1.
//!
//! Modelled: queued and register-based invalidation, scalable-mode tables, first stage with four and
//! five levels, second stage, nesting, pass-through, accessed and dirty bits, device TLBs, page
//! requests, primary fault recording. Not modelled: legacy mode, interrupt remapping, protected
//! memory, performance counters, enhanced commands, memory types, extended accessed flags.
//!
//! Where the specification leaves hardware a choice, the strict policy has the choice that keeps
//! most: commands run in their order, caches forget only what a command names. The free policy makes
//! each choice anew.

mod caches;
mod commands;
mod configuration;
mod events;
mod queues;
mod registers;
mod requests;
mod tables;
mod walk;

pub use configuration::Configuration;

use crate::bus::{PageRequest, Port, Refusal, Request, Translation};
use crate::hardware::Hardware;
use crate::machine::{Machine, Policy, lock};
use crate::memory::Memory;
use caches::Caches;
use queues::Queue;
use registers::Registers;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// How many complaints are kept.
const COMPLAINTS: usize = 64;

/// A modelled remapping unit.
pub struct Vtd(Mutex<State>);

struct State {
    machine: Weak<Machine>,
    memory: Arc<Memory>,
    policy: Policy,
    configuration: Configuration,
    registers: Registers,
    caches: Caches,
    queue: Queue,
    /// Page requests that arrived and are not queued yet.
    page_requests: VecDeque<PageRequest>,
    ports: BTreeMap<u16, Arc<dyn Port>>,
    interrupts: Vec<&'static str>,
    recent: VecDeque<Request>,
    complaints: Vec<&'static str>,
    removed: bool,
}

impl Vtd {
    /// A unit of `machine`, which must outlive it, as it comes out of reset. The caller adds it to
    /// the machine.
    pub fn new(machine: &Arc<Machine>, configuration: Configuration) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            machine: Arc::downgrade(machine),
            memory: machine.memory.clone(),
            policy: machine.policy,
            configuration,
            registers: Registers::new(configuration.fault_records),
            caches: Caches::default(),
            queue: Queue::default(),
            page_requests: VecDeque::new(),
            ports: BTreeMap::new(),
            interrupts: Vec::new(),
            recent: VecDeque::new(),
            complaints: Vec::new(),
            removed: false,
        })))
    }

    /// From now on no descriptor is fetched or executed, without an error.
    pub fn freeze(&self) {
        self.state().queue.frozen = true;
    }

    /// What software did, since the last call, that the specification forbids and hardware does not
    /// report.
    pub fn take_complaints(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.state().complaints)
    }

    /// How many translations the IOTLB holds.
    pub fn cached_translations(&self) -> usize {
        self.state().caches.translation_count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

impl Hardware for Vtd {
    fn read(&self, offset: usize, width: usize) -> u64 {
        let state = self.state();
        if state.removed {
            return u64::MAX;
        }
        state.read_register(offset, width)
    }

    fn write(&self, offset: usize, width: usize, value: u64) {
        let mut state = self.state();
        if !state.removed {
            state.write_register(offset, width, value);
        }
    }

    fn step(&self) -> bool {
        self.state().work()
    }

    fn speculate(&self) {
        self.state().speculate();
    }

    fn translate(&self, request: &Request) -> Result<Translation, Refusal> {
        self.state().translate(request, false)
    }

    fn translate_for_device(&self, request: &Request) -> Result<Translation, Refusal> {
        self.state().translate(request, true)
    }

    fn admits_translated(&self, device: u32) -> bool {
        self.state().admits_translated(device)
    }

    fn connect(&self, device: u32, port: Arc<dyn Port>) {
        self.state().ports.insert(device as u16, port);
    }

    fn invalidation_completed(&self, device: u32, itags: u32) {
        let mut state = self.state();
        state.completed(device as u16, itags);
        state.work_now();
    }

    fn page_request(&self, request: PageRequest) {
        let mut state = self.state();
        if !state.removed {
            state.accept_page_request(request);
            state.work_now();
        }
    }

    fn take_interrupts(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.state().interrupts)
    }

    /// The device that is waited for longest times out.
    fn time_out_devices(&self) {
        self.state().time_out();
    }

    fn reject_next(&self) {
        self.state().queue.reject_next = true;
    }

    fn remove(&self) {
        self.state().removed = true;
    }
}

impl State {
    fn machine(&self) -> Arc<Machine> {
        let machine = self.machine.upgrade();
        machine.expect("the machine outlives its parts")
    }

    fn chance(&self, times: u64) -> bool {
        self.machine().random.once_in(times)
    }

    fn complain(&mut self, complaint: &'static str) {
        if self.complaints.len() < COMPLAINTS {
            self.complaints.push(complaint);
        }
    }

    /// Does one piece of work; false if there was none.
    fn work(&mut self) -> bool {
        !self.removed
            && (self.work_on_registers() || self.deliver_page_request() || self.work_on_queue())
    }

    /// Does all the work that there is, unless it is to be done later.
    fn work_now(&mut self) {
        if !self.policy.later {
            while self.work() {}
        }
    }

    /// What the hardware reads at `at`, a multiple of 8.
    fn load(&self, at: u64, snoops: bool) -> Option<u64> {
        if snoops {
            self.memory.evict(at);
        }
        self.memory.load(at).ok()
    }

    fn compare_exchange(&self, at: u64, old: u64, new: u64, snoops: bool) -> Option<bool> {
        if snoops {
            self.memory.evict(at);
        }
        let exchanged = self.memory.exchange(at, old, new).ok();
        if snoops {
            self.memory.evict(at);
        }
        exchanged
    }

    fn store_snooped(&self, at: u64, value: u64) -> bool {
        self.memory.evict(at);
        let stored = self.memory.store(at, value).is_ok();
        self.memory.evict(at);
        stored
    }

    fn store32_snooped(&self, at: u64, value: u32) -> bool {
        self.memory.evict(at & !7);
        let stored = self.memory.store32(at, value).is_ok();
        self.memory.evict(at & !7);
        stored
    }
}
