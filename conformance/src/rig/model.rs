//! The rigs whose hardware is `iommu-model`.

use super::garbled::Garbled;
use super::{Freedom, Layout, Maker, Ram, Rig, Seat, Troubles};
use crate::kernel::MEMORY_ATTRIBUTES;
use crate::outcome::{Outcome, Stop, failed};
use iommu_core::ids::DeviceId;
use iommu_core::iommu::Iommu;
use iommu_core::page_table::Format;
use iommu_core::platform::{Parts, WalkerCoherency};
use iommu_core::testing::Recorder;
use iommu_model::device::{Configuration, Device, History, Job, Record, Transfer};
use iommu_model::smmuv3::{self, Smmu};
use iommu_model::{Coherency, Hardware, Machine, Memory, ModelPlatform, riscv, vtd};
use std::sync::Arc;

const BASE: u64 = 0x8000_0000;
const SIZE: u64 = 64 << 20;
const POOL: u64 = 8 << 20;

/// Every rig with models.
pub const RIGS: &[&dyn Maker] = &[
    &ModelMaker {
        name: "vtd",
        format: Format::X86_64 { levels: 4 },
        hardware: |machine, layout| vtd(machine, layout, vtd::Configuration::default()),
        probe: probe_vtd,
    },
    &ModelMaker {
        name: "vtd-least",
        format: Format::X86_64 { levels: 4 },
        hardware: |machine, layout| {
            let least = vtd::Configuration {
                levels: 4,
                caching_mode: true,
                write_buffer_flush: true,
                root_table_invalidates: false,
                largest_order: 9,
                fault_records: 1,
                ..vtd::Configuration::default()
            };
            vtd(machine, layout, least)
        },
        probe: probe_vtd,
    },
    &ModelMaker {
        name: "smmuv3",
        format: AARCH64,
        hardware: |machine, _| Ok(Smmu::new(machine, smmuv3::Configuration::default())),
        probe: probe_smmuv3,
    },
    &ModelMaker {
        name: "smmuv3-least",
        format: AARCH64,
        hardware: |machine, _| {
            let least = smmuv3::Configuration {
                asid_16: false,
                msi: false,
                range_invalidation: false,
                two_level_contexts: false,
                two_level_streams: false,
                stream_bits: 12,
                substream_bits: 8,
                command_queue_log2: 7,
                stall_model: smmuv3::StallModel::Never,
                ..smmuv3::Configuration::default()
            };
            Ok(Smmu::new(machine, least))
        },
        probe: probe_smmuv3,
    },
    &ModelMaker {
        name: "riscv",
        format: Format::Riscv64 { levels: 4 },
        hardware: |machine, layout| riscv(machine, layout, riscv::Configuration::default()),
        probe: probe_riscv,
    },
    &ModelMaker {
        name: "riscv-least",
        format: Format::Riscv64 { levels: 3 },
        hardware: |machine, layout| {
            let least = riscv::Configuration {
                first_stage_modes: 1,
                msi_flat: false,
                pd17: false,
                pd20: false,
                nl: false,
                s: false,
                log2_commands: 7,
                ..riscv::Configuration::default()
            };
            riscv(machine, layout, least)
        },
        probe: probe_riscv,
    },
];

/// How a rig with a model is built.
struct ModelMaker {
    name: &'static str,
    format: Format,
    hardware: MakeHardware,
    probe: Probe,
}

/// Makes a model.
type MakeHardware = fn(&Arc<Machine>, &Layout) -> Outcome<Arc<dyn Hardware>>;
/// Brings a model up by its driver.
type Probe = fn(Parts<ModelPlatform>, &Layout) -> Outcome<Arc<dyn Iommu>>;

fn vtd(
    machine: &Arc<Machine>,
    layout: &Layout,
    configuration: vtd::Configuration,
) -> Outcome<Arc<dyn Hardware>> {
    let snoop = layout.coherency == Coherency::Coherent;
    let configuration = vtd::Configuration {
        table_snoop: snoop,
        page_walk_snoop: snoop,
        ..configuration
    };
    Ok(vtd::Vtd::new(machine, configuration))
}

fn probe_vtd(parts: Parts<ModelPlatform>, _: &Layout) -> Outcome<Arc<dyn Iommu>> {
    Ok(Arc::new(iommu_vtd::Unit::probe(parts)?))
}

fn probe_smmuv3(parts: Parts<ModelPlatform>, _: &Layout) -> Outcome<Arc<dyn Iommu>> {
    Ok(Arc::new(iommu_smmuv3::Unit::probe(parts)?))
}

fn riscv(
    machine: &Arc<Machine>,
    _: &Layout,
    configuration: riscv::Configuration,
) -> Outcome<Arc<dyn Hardware>> {
    Ok(riscv::RiscvIommu::new(machine, configuration))
}

fn probe_riscv(parts: Parts<ModelPlatform>, layout: &Layout) -> Outcome<Arc<dyn Iommu>> {
    let config = iommu_riscv::Config {
        coherency: match layout.coherency {
            Coherency::Coherent => WalkerCoherency::Coherent,
            Coherency::NonCoherent => WalkerCoherency::NonCoherent,
        },
        ..iommu_riscv::Config::default()
    };
    Ok(Arc::new(iommu_riscv::Unit::probe_with(parts, config)?))
}

impl Maker for ModelMaker {
    fn name(&self) -> &'static str {
        self.name
    }

    fn make(
        &self,
        layout: &Layout,
        freedom: Freedom,
        _: &Arc<Troubles>,
    ) -> Result<Arc<dyn Rig>, Stop> {
        let memory = Memory::new(BASE, SIZE, layout.coherency);
        let machine = Machine::new(memory, freedom.policy, freedom.seed);
        let mut rig = ModelRig::new(self, machine, Arc::new(History::default()))?;
        for iommu in 0..layout.iommus {
            rig.add_iommu(self, layout, freedom.seed, iommu)?;
        }
        Ok(Arc::new(rig))
    }

    fn take_over(&self, old: &Arc<dyn Rig>, layout: &Layout) -> Result<Arc<dyn Rig>, Stop> {
        let (model, seats) = (old.model()?, old.seats());
        let mut rig = ModelRig::new(self, model.machine.clone(), model.history.clone())?;
        rig.model.devices.clone_from(&model.devices);
        rig.seats = seats.to_vec();
        for hardware in &model.hardware {
            rig.bring_up(self, layout, hardware.clone())?;
        }
        Ok(Arc::new(rig))
    }
}

/// What only a model can be asked.
pub struct Model {
    /// The machine.
    pub machine: Arc<Machine>,
    /// The IOMMUs, as their drivers see them.
    pub hardware: Vec<Arc<Garbled>>,
    /// The devices, by seat.
    pub devices: Vec<Arc<Device>>,
    /// What each driver sent.
    pub recorders: Vec<Arc<Recorder>>,
    /// What the devices did.
    pub history: Arc<History>,
}

/// IOMMUs and devices that are models.
struct ModelRig {
    // The drivers turn their IOMMUs off when they are dropped, so they go first.
    iommus: Vec<Arc<dyn Iommu>>,
    format: Format,
    pool: u64,
    seats: Vec<Seat>,
    model: Model,
}

impl ModelRig {
    /// A machine's memory and what its devices do; no IOMMU yet.
    fn new(maker: &ModelMaker, machine: Arc<Machine>, history: Arc<History>) -> Outcome<Self> {
        let Some(pool) = machine.memory.take(POOL, 2 << 20) else {
            return failed("the modelled machine has no memory for the pool");
        };
        Ok(Self {
            iommus: Vec::new(),
            format: maker.format,
            pool,
            seats: Vec::new(),
            model: Model {
                machine,
                hardware: Vec::new(),
                devices: Vec::new(),
                recorders: Vec::new(),
                history,
            },
        })
    }

    fn add_iommu(
        &mut self,
        maker: &ModelMaker,
        layout: &Layout,
        seed: u64,
        number: usize,
    ) -> Outcome {
        let machine = &self.model.machine;
        let hardware = (maker.hardware)(machine, layout)?;
        machine.add_iommu(hardware.clone());
        for device in 0..layout.devices {
            let id = (number as u32 + 1) << 8 | (device as u32 + 1) << 3;
            let configuration = Configuration {
                device_tlb: layout.device_tlb,
                page_requests: layout.page_requests,
                ..Configuration::new(id)
            };
            let device = Device::new(machine, &hardware, &self.model.history, configuration);
            self.model.devices.push(device);
            self.seats.push(Seat {
                iommu: number,
                device: DeviceId(id),
            });
        }
        self.bring_up(maker, layout, Arc::new(Garbled::new(hardware, seed)))
    }

    /// Lets a driver find an IOMMU.
    fn bring_up(&mut self, maker: &ModelMaker, layout: &Layout, garbled: Arc<Garbled>) -> Outcome {
        let recorder = Arc::new(Recorder::default());
        let registers: Arc<dyn Hardware> = garbled.clone();
        let parts = ModelPlatform::parts(&self.model.machine, &registers, &recorder);
        self.iommus.push((maker.probe)(parts, layout)?);
        self.model.hardware.push(garbled);
        self.model.recorders.push(recorder);
        Ok(())
    }
}

impl Rig for ModelRig {
    fn iommus(&self) -> &[Arc<dyn Iommu>] {
        &self.iommus
    }
    fn seats(&self) -> &[Seat] {
        &self.seats
    }
    fn format(&self) -> Format {
        self.format
    }
    fn ram(&self) -> &dyn Ram {
        self
    }
    fn now(&self) -> u64 {
        self.model.machine.now()
    }
    fn step(&self) -> bool {
        self.model.machine.step()
    }
    fn start(&self, seat: usize, transfer: Transfer) -> Arc<Job> {
        self.model.devices[seat].start(transfer)
    }
    fn stop(&self, seat: usize, pasid: Option<u32>) {
        self.model.devices[seat].stop(pasid);
    }
    fn take_history(&self) -> Vec<Record> {
        self.model.history.take()
    }
    fn model(&self) -> Result<&Model, Stop> {
        Ok(&self.model)
    }
}

impl Ram for ModelRig {
    fn pool(&self) -> (u64, u64) {
        (self.pool, POOL)
    }
    // Where there is no memory, reads give zero and writes are lost: a page table that a device has
    // written all over may lead the kernel anywhere.
    fn load(&self, address: u64) -> u64 {
        if is_memory(address) {
            self.model.machine.memory.cpu_load(address)
        } else {
            0
        }
    }
    fn store(&self, address: u64, value: u64) {
        if is_memory(address) {
            self.model.machine.memory.cpu_store(address, value);
        }
    }
    fn clean(&self, address: u64, length: u64) {
        self.model.machine.memory.clean_range(address, length);
    }
    fn fill(&self, address: u64, length: u64, value: u64) {
        if is_memory(address) && is_memory(address + length - 1) {
            self.model.machine.memory.fill(address, length, value);
        }
    }
    fn first_other(&self, address: u64, length: u64, value: u64) -> Option<(u64, u64)> {
        let memory = &self.model.machine.memory;
        (is_memory(address) && is_memory(address + length - 1))
            .then(|| memory.first_other(address, length, value))?
    }
}

fn is_memory(address: u64) -> bool {
    (BASE..BASE + SIZE).contains(&address)
}

/// The format of an AArch64 CPU's page tables.
pub const AARCH64: Format = Format::Aarch64 {
    virtual_bits: 48,
    physical_bits: 48,
    memory_attributes: MEMORY_ATTRIBUTES,
};
