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
mod queues;
mod registers;
mod requests;
mod tables;
mod walk;

pub use configuration::{Configuration, FlagUpdate, StallModel};

use crate::bus::{PageRequest, Port, Refusal, Request, Translation};
use crate::hardware::Hardware;
use crate::machine::{Machine, Policy, lock};
use crate::memory::{Coherency, Memory};
use crate::random::Random;
use caches::Caches;
use queues::{CommandState, Device, Stalled};
use registers::Registers;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};

/// The offset of SMMU_CMDQ_PROD.
const CMDQ_PROD: usize = 0x98;

/// A modelled SMMU.
pub struct Smmu {
    core: Mutex<Core>,
}

/// Everything inside.
struct Core {
    configuration: Configuration,
    machine: Weak<Machine>,
    memory: Arc<Memory>,
    policy: Policy,
    random: Random,
    registers: Registers,
    caches: Caches,
    commands: CommandState,
    /// Event records that are to be written.
    outbox: VecDeque<events::Record>,
    stalled: Vec<Stalled>,
    devices: BTreeMap<u32, Device>,
    interrupts: Vec<&'static str>,
    /// Requests that speculation may repeat.
    recent: VecDeque<Request>,
    removed: bool,
}

impl Smmu {
    /// An SMMU after reset, which works when `machine` steps.
    pub fn new(machine: &Arc<Machine>, configuration: Configuration) -> Arc<Self> {
        let coherent = machine.memory.coherency() == Coherency::Coherent;
        let smmu = Arc::new(Self {
            core: Mutex::new(Core {
                registers: Registers::new(&configuration, coherent),
                configuration,
                machine: Arc::downgrade(machine),
                memory: machine.memory.clone(),
                policy: machine.policy,
                random: Random::new(machine.random.bits()),
                caches: Caches::default(),
                commands: CommandState::default(),
                outbox: VecDeque::new(),
                stalled: Vec::new(),
                devices: BTreeMap::new(),
                interrupts: Vec::new(),
                recent: VecDeque::new(),
                removed: false,
            }),
        });
        machine.add_iommu(smmu.clone());
        smmu
    }

    /// Lets the next command be treated as illegal, whatever it is.
    pub fn refuse_next_command(&self) {
        lock(&self.core).commands.refuse_next = true;
    }

    /// Stops the consumption of commands, for ever and without an error.
    pub fn stop_commands(&self) {
        lock(&self.core).commands.stopped = true;
    }
}

impl Core {
    /// Without `later`, whatever is to be done is done now.
    fn settle(&mut self) {
        if !self.policy.later {
            self.run();
        }
    }
}

impl Hardware for Smmu {
    fn read(&self, offset: usize, width: usize) -> u64 {
        let core = lock(&self.core);
        if core.removed {
            return u64::MAX >> (64 - 8 * width);
        }
        core.registers.read(offset, width)
    }

    fn write(&self, offset: usize, width: usize, value: u64) {
        let mut core = lock(&self.core);
        if core.removed {
            return;
        }
        // Between a driver's stores to its tables and its doorbell anything may be fetched.
        if offset == CMDQ_PROD && core.policy.speculative {
            core.speculate();
        }
        core.registers.write(offset, width, value);
        core.settle();
    }

    fn step(&self) -> bool {
        let mut core = lock(&self.core);
        !core.removed && core.work()
    }

    fn speculate(&self) {
        let mut core = lock(&self.core);
        if !core.removed {
            core.speculate();
        }
    }

    fn translate(&self, request: &Request) -> Result<Translation, Refusal> {
        let mut core = lock(&self.core);
        if core.removed {
            return Err(Refusal::UnsupportedRequest);
        }
        core.translate(request)
    }

    fn translate_for_device(&self, request: &Request) -> Result<Translation, Refusal> {
        let mut core = lock(&self.core);
        if core.removed {
            return Err(Refusal::UnsupportedRequest);
        }
        core.translate_for_device(request)
    }

    fn admits_translated(&self, device: u32) -> bool {
        let mut core = lock(&self.core);
        !core.removed && core.admits_translated(device)
    }

    fn connect(&self, device: u32, port: Arc<dyn Port>) {
        let mut core = lock(&self.core);
        core.devices.insert(device, Device::new(port));
        core.settle();
    }

    fn invalidation_completed(&self, device: u32, itags: u32) {
        let mut core = lock(&self.core);
        if core.removed {
            return;
        }
        if let Some(device) = core.devices.get_mut(&device) {
            device.completed(itags);
        }
        core.settle();
    }

    fn page_request(&self, request: PageRequest) {
        let mut core = lock(&self.core);
        if !core.removed {
            core.page_request(&request);
        }
    }

    fn take_interrupts(&self) -> Vec<&'static str> {
        std::mem::take(&mut lock(&self.core).interrupts)
    }

    fn time_out_devices(&self) {
        let mut core = lock(&self.core);
        core.time_out_devices();
        core.settle();
    }

    fn remove(&self) {
        lock(&self.core).removed = true;
    }
}
