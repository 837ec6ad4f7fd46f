//! The RISC-V IOMMU.
//!
//! A reading of "RISC-V IOMMU Architecture Specification" 1.0.1 (github.com/riscv-non-isa/
//! riscv-iommu, the text with the extensions NL, S, QOSID and Svrsw60t59b) and, for the page
//! tables, of "The RISC-V Instruction Set Manual, Volume II: Privileged Architecture" 20240411.
//! Section titles are theirs.
//!
//! Where the text leaves hardware a choice, the model takes the one that a driver may rely on
//! least: entries are kept as long as they may be, an access that a stale entry forbids faults,
//! commands behind an incomplete fence may already be executed. Where the text leaves the behaviour
//! to nobody, nothing happens and [`RiscvIommu::take_complaints`] tells what software did.

mod caches;
mod commands;
mod configuration;
mod events;
mod faults;
mod msi;
mod queues;
mod registers;
mod tables;
mod walk;

pub use configuration::{Configuration, InterruptGeneration};

use crate::bus::{PageRequest, Port, Refusal, Request, Translation};
use crate::hardware::Hardware;
use crate::machine::{Machine, Policy, lock};
use crate::memory::Memory;
use crate::random::Random;
use caches::Caches;
use faults::Cause;
use queues::CommandQueue;
use registers::Registers;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use walk::{Found, Purpose};

/// How many requests are remembered to fetch for again.
const RECENT: usize = 32;

/// How many different complaints are kept.
const COMPLAINTS: usize = 64;

/// A modelled RISC-V IOMMU.
pub struct RiscvIommu(Mutex<State>);

struct State {
    configuration: Configuration,
    policy: Policy,
    machine: Weak<Machine>,
    memory: Arc<Memory>,
    random: Random,
    registers: Registers,
    /// `ddtp` as it is in effect.
    directory: u64,
    commands: CommandQueue,
    caches: Caches,
    /// Fault records that are not written yet.
    faults: VecDeque<[u64; 4]>,
    /// Page requests that are not handled yet.
    page_requests: VecDeque<PageRequest>,
    ports: BTreeMap<u32, Arc<dyn Port>>,
    recent: VecDeque<Request>,
    interrupts: Vec<&'static str>,
    /// Vectors of messages that wait.
    messages: Vec<usize>,
    complaints: Vec<&'static str>,
    removed: bool,
}

impl RiscvIommu {
    /// An IOMMU of `machine` after a reset. It works by itself once it is
    /// [added](Machine::add_iommu).
    pub fn new(machine: &Arc<Machine>, configuration: Configuration) -> Arc<Self> {
        let random = Random::new(machine.random.bits());
        let chance = machine.policy.unordered.then_some(&random);
        let registers = Registers::new(&configuration, chance);
        Arc::new(Self(Mutex::new(State {
            directory: registers.ddtp,
            registers,
            configuration,
            policy: machine.policy,
            machine: Arc::downgrade(machine),
            memory: machine.memory.clone(),
            random,
            commands: CommandQueue::default(),
            caches: Caches::default(),
            faults: VecDeque::new(),
            page_requests: VecDeque::new(),
            ports: BTreeMap::new(),
            recent: VecDeque::new(),
            interrupts: Vec::new(),
            messages: Vec::new(),
            complaints: Vec::new(),
            removed: false,
        })))
    }

    /// Takes what software did since the last call whose effect the specification leaves
    /// UNSPECIFIED. A driver must leave nothing here.
    pub fn take_complaints(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.state().complaints)
    }

    /// No command is executed any more, and no error says so.
    pub fn freeze(&self) {
        self.state().commands.frozen = true;
    }

    /// How many leaf entries of page tables the IOMMU holds.
    pub fn cached_translations(&self) -> usize {
        self.state().caches.leaves()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

impl State {
    /// Complains of something whose effect is UNSPECIFIED.
    fn unspecified(&mut self, what: &'static str) {
        if self.complaints.len() < COMPLAINTS && !self.complaints.contains(&what) {
            self.complaints.push(what);
        }
    }

    /// Accesses that were translated before now are done.
    fn drain(&self) {
        if let Some(machine) = self.machine.upgrade() {
            machine.drain();
        }
    }

    fn remember(&mut self, request: &Request) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(*request);
    }

    /// Translates a request and reports why not.
    fn answer(&mut self, request: &Request, purpose: Purpose) -> Result<Found, Refusal> {
        if self.removed {
            return Err(Refusal::UnsupportedRequest);
        }
        if self.policy.forgetful && self.random.once_in(8) {
            self.caches.forget_one(&self.random);
        }
        self.remember(request);
        self.translate(request, purpose).map_err(|fault| {
            self.report_request(fault, request, purpose);
            fault.cause.refusal()
        })
    }

    /// Whether a device's context lets it use the address translation service.
    fn check_ats(&mut self, device: u32) -> Result<(), faults::Fault> {
        match self.directory_mode() {
            0 => return Err(Cause::ALL_INBOUND_TRANSACTIONS_DISALLOWED.into()),
            1 => return Err(Cause::TRANSACTION_TYPE_DISALLOWED.into()),
            _ => self.check_device_id(device)?,
        }
        let context = self.locate_device(device)?;
        if context.enables_ats() {
            return Ok(());
        }
        let fault = faults::Fault::from(Cause::TRANSACTION_TYPE_DISALLOWED);
        Err(fault.of_device(context.disables_faults()))
    }
}

impl Found {
    fn translation(self) -> Translation {
        Translation {
            address: self.address,
            size: 1 << self.order,
            permissions: self.permissions,
        }
    }
}

impl Hardware for RiscvIommu {
    /// # Panics
    ///
    /// If the specification defines no such access.
    fn read(&self, offset: usize, width: usize) -> u64 {
        registers::expect_defined(offset, width);
        let state = self.state();
        if state.removed {
            return u64::MAX >> (64 - 8 * width);
        }
        let low = state.read_register(offset).into();
        match width {
            4 => low,
            _ => u64::from(state.read_register(offset + 4)) << 32 | low,
        }
    }

    /// # Panics
    ///
    /// If the specification defines no such access.
    fn write(&self, offset: usize, width: usize, value: u64) {
        registers::expect_defined(offset, width);
        let mut state = self.state();
        if state.removed {
            return;
        }
        if width == 8 {
            state.write_register(offset + 4, (value >> 32) as u32);
        }
        state.write_register(offset, value as u32);
    }

    fn step(&self) -> bool {
        let mut state = self.state();
        if state.removed {
            return false;
        }
        let first = if state.policy.unordered {
            state.random.below(5)
        } else {
            0
        };
        (0..5).any(|turn| match (first + turn) % 5 {
            0 => state.finish_switch(),
            1 => state.run_commands(),
            2 => state.write_fault(),
            3 => state.handle_page_request(),
            _ => state.answer_debug_request(),
        })
    }

    fn speculate(&self) {
        let mut state = self.state();
        if state.removed || state.recent.is_empty() {
            return;
        }
        let any = state.random.below(state.recent.len() as u64) as usize;
        let mut request = state.recent[any];
        let page = state.random.below(3).wrapping_sub(1) << 12;
        request.address = request.address.wrapping_add(page);
        // Only what it leaves in the caches counts.
        let _ = state.translate(&request, Purpose::Speculation);
    }

    fn translate(&self, request: &Request) -> Result<Translation, Refusal> {
        let found = self.state().answer(request, Purpose::Access)?;
        Ok(found.translation())
    }

    /// Execution is permitted only where it was asked for and reads are permitted (section "PCIe
    /// ATS translation request handling").
    fn translate_for_device(&self, request: &Request) -> Result<Translation, Refusal> {
        let found = self.state().answer(request, Purpose::TranslationRequest)?;
        let mut translation = found.translation();
        let permissions = &mut translation.permissions;
        permissions.execute &= permissions.read && request.access == crate::Access::Execute;
        if permissions.permit(request.access) {
            Ok(translation)
        } else {
            Err(Refusal::NotPresent)
        }
    }

    /// The fault record of one that is not has no address: the trait does not tell it.
    fn admits_translated(&self, device: u32) -> bool {
        let mut state = self.state();
        if state.removed {
            return false;
        }
        match state.check_ats(device) {
            Ok(()) => true,
            Err(fault) => {
                state.report_translated(fault, device);
                false
            }
        }
    }

    fn connect(&self, device: u32, port: Arc<dyn Port>) {
        self.state().ports.insert(device, port);
    }

    /// While the device context's EN_ATS is 0, completions are unsupported requests.
    fn invalidation_completed(&self, device: u32, itags: u32) {
        let mut state = self.state();
        if state.removed {
            return;
        }
        match state.check_ats(device) {
            Ok(()) => state.complete_invalidations(device, itags),
            Err(fault) => state.report_completion(fault, device),
        }
    }

    fn page_request(&self, request: PageRequest) {
        let mut state = self.state();
        if !state.removed {
            state.take_page_request(request);
        }
    }

    fn take_interrupts(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.state().interrupts)
    }

    fn time_out_devices(&self) {
        self.state().time_out_devices();
    }

    fn reject_next(&self) {
        self.state().commands.reject_next = true;
    }

    fn remove(&self) {
        self.state().removed = true;
    }
}
