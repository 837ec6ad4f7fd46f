//! The rigs whose hardware is QEMU's, driven from outside: the drivers run in this process.
//!
//! Each seat is a PCIe-to-PCI bridge with two devices behind it, which so have one requester id: one
//! that writes by DMA and one that reads; or, where device TLBs are asked for and the IOMMU tells them
//! what to forget, a root port with the device of `qemu/device-tlb`. No device of QEMU's sends PASIDs.

mod clock;
mod device_tlbs;
mod masters;
mod revoked;
mod rig;
mod tail;
mod trace;
mod translations;

use super::{AARCH64, Freedom, Layout, Maker, Rig, Seat};
use crate::outcome::{Outcome, Stop, failed, skip};
use crate::rig::{Shortcoming, Troubles};
use clock::Clock;
use iommu_core::ids::DeviceId;
use iommu_core::iommu::Iommu;
use iommu_core::page_table::Format;
use iommu_core::testing::Recorder;
use iommu_model::Coherency;
use rig::QemuRig;
use shootdown_device_tlb::Device;
use shootdown_qemu_host::commands;
use shootdown_qemu_host::pcie::Bus;
use shootdown_qemu_host::{Architecture, Machine, Options, Parts, Program, ProgramError};
use std::sync::{Arc, OnceLock};
use tail::TailRegister;
use translations::Reader;

/// Every rig with QEMU.
pub const RIGS: &[&dyn Maker] = &[
    &QemuMaker {
        name: "qemu-riscv",
        machine: "virt,iommu-sys=on",
        iommus: &[Place::At(0x0301_0000)],
        ..RISCV
    },
    &QemuMaker {
        name: "qemu-riscv-pci",
        devices: &["riscv-iommu-pci,addr=1.0"],
        iommus: &[Place::Pci(0x1b36, 0x0014)],
        // Two levels of device directory.
        probe: |parts| riscv(parts, 15),
        ..RISCV
    },
    &QemuMaker {
        name: "qemu-riscv-flat",
        machine: "virt,iommu-sys=on",
        iommus: &[Place::At(0x0301_0000)],
        bridge: Bridge::Conventional,
        queue: None,
        // One level.
        probe: |parts| riscv(parts, 6),
        ..RISCV
    },
    &QemuMaker {
        name: "qemu-vtd",
        devices: &[VTD],
        ..X86
    },
    &QemuMaker {
        name: "qemu-vtd-caching",
        devices: &[VTD_CACHING],
        ..X86
    },
    &QemuMaker {
        name: "qemu-smmuv3",
        devices: &["arm-smmuv3,primary-bus=pcie.0"],
        iommus: &[Place::At(0x0c00_0000)],
        ..ARM
    },
    &QemuMaker {
        name: "qemu-smmuv3-nested",
        machine: "virt,gic-version=3,iommu=smmuv3",
        iommus: &[Place::At(0x0905_0000)],
        commands: commands::SMMUV3_NESTED,
        ..ARM
    },
    &QemuMaker {
        name: "qemu-smmuv3-two",
        devices: &[
            "pxb-pcie,id=pcie.1,bus_nr=64,bus=pcie.0,addr=2.0",
            "arm-smmuv3,primary-bus=pcie.0",
            "arm-smmuv3,primary-bus=pcie.1",
        ],
        iommus: &[Place::At(0x0c00_0000), Place::At(0x0c02_0000)],
        ..ARM
    },
];

const VTD: &str = "intel-iommu,scalable-mode=on,fsts=on,device-iotlb=on,pasid-bits=20,svm=on,\
                   intremap=on,eim=on";
const VTD_CACHING: &str = "intel-iommu,scalable-mode=on,fsts=on,device-iotlb=on,pasid-bits=20,\
                           svm=on,intremap=on,eim=on,caching-mode=on";

const X86: QemuMaker = QemuMaker {
    name: "",
    architecture: Architecture::X86_64,
    machine: "q35",
    devices: &[],
    iommus: &[Place::At(0xfed9_0000)],
    format: Format::X86_64 { levels: 4 },
    shortcomings: &[
        Shortcoming::NoPasids,
        Shortcoming::FaultsCollapse,
        Shortcoming::AccessedUnlessDirty,
        Shortcoming::AbsentIsInvalid,
        Shortcoming::AbsentIsWalked,
    ],
    translations: translations::VTD,
    commands: commands::VTD,
    queue: Some(&tail::VTD),
    bypass: None,
    bridge: Bridge::Express,
    probe: |parts| Ok(Arc::new(iommu_vtd::Unit::probe(parts)?)),
};

const ARM: QemuMaker = QemuMaker {
    name: "",
    architecture: Architecture::Aarch64,
    machine: "virt,gic-version=3",
    devices: &[],
    iommus: &[],
    // As many as QEMU's SMMU emits.
    format: match AARCH64 {
        Format::Aarch64 {
            virtual_bits,
            memory_attributes,
            ..
        } => Format::Aarch64 {
            virtual_bits,
            physical_bits: 44,
            memory_attributes,
        },
        other => other,
    },
    shortcomings: &[Shortcoming::NoPasids, Shortcoming::PrivilegeIgnored],
    translations: translations::SMMUV3,
    commands: commands::SMMUV3,
    queue: None,
    bypass: None,
    bridge: Bridge::Express,
    probe: |parts| Ok(Arc::new(iommu_smmuv3::Unit::probe(parts)?)),
};

const RISCV: QemuMaker = QemuMaker {
    name: "",
    architecture: Architecture::Riscv64,
    machine: "virt",
    devices: &[],
    iommus: &[],
    format: Format::Riscv64 { levels: 4 },
    shortcomings: &[Shortcoming::NoPasids],
    translations: translations::RISCV,
    commands: commands::RISCV,
    queue: Some(&tail::RISCV),
    // ddtp in mode Bare (6.5 of the specification).
    bypass: Some((0x10, 1)),
    bridge: Bridge::Express,
    // Three levels of device directory, which has entries of 64 bytes here.
    probe: |parts| riscv(parts, 16),
};

/// Brings a RISC-V IOMMU up with a device directory for ids of so many bits.
fn riscv(parts: Parts<Arc<Recorder>>, device_id_bits: u8) -> Outcome<Arc<dyn Iommu>> {
    let config = iommu_riscv::Config {
        device_id_bits,
        ..iommu_riscv::Config::default()
    };
    Ok(Arc::new(iommu_riscv::Unit::probe_with(parts, config)?))
}

/// How a rig with QEMU is built.
struct QemuMaker {
    name: &'static str,
    architecture: Architecture,
    /// The machine type, as after `-M`.
    machine: &'static str,
    /// Options after `-device`, before those of the DMA masters.
    devices: &'static [&'static str],
    /// Where the IOMMUs' registers are. The first is that of bus 0, the second that of `pcie.1`.
    iommus: &'static [Place],
    format: Format,
    shortcomings: &'static [Shortcoming],
    translations: Reader,
    commands: commands::Reader,
    /// The command queue, if its IOMMU tells device TLBs what to forget.
    queue: Option<&'static TailRegister>,
    /// The register and the value by which an IOMMU that blocks at reset lets everything pass. QEMU
    /// starts a device with a TLB only if its queue can be translated.
    bypass: Option<(u64, u64)>,
    bridge: Bridge,
    probe: Probe,
}

/// Brings an IOMMU up by its driver.
type Probe = fn(Parts<Arc<Recorder>>) -> Outcome<Arc<dyn Iommu>>;

/// What a seat's devices are behind, and so which id they have.
#[derive(Clone, Copy)]
enum Bridge {
    /// A PCIe-to-PCI bridge: the id is device 0, function 0 of its secondary bus (PCI Express to PCI
    /// Bridge 1.0, 2.3).
    Express,
    /// A PCI-to-PCI bridge on the root bus: QEMU takes the bridge's own id, which is below 64.
    Conventional,
}

impl Bridge {
    /// The slot of a seat's bridge: one that no machine has something of its own in.
    const fn slot(self, seat: usize) -> usize {
        match self {
            Self::Express => 8 + seat,
            Self::Conventional => 2 + seat,
        }
    }

    /// How many seats there can be.
    const fn seats(self) -> usize {
        match self {
            Self::Express => 24,
            Self::Conventional => 6,
        }
    }

    /// The id of a seat's devices, which are on bus `secondary`.
    fn device(self, seat: usize, secondary: u8) -> DeviceId {
        DeviceId(match self {
            Self::Express => u32::from(secondary) << 8,
            Self::Conventional => (self.slot(seat) as u32) << 3,
        })
    }
}

/// Where an IOMMU's registers are.
#[derive(Clone, Copy)]
enum Place {
    /// At this physical address.
    At(u64),
    /// In BAR 0 of the function with this vendor id and device id.
    Pci(u16, u16),
}

/// The first bus number below `pcie.1`.
const SECOND_ROOT: u8 = 64;
/// The name of each root bus.
const ROOTS: [(&str, u8); 2] = [("pcie.0", 0), ("pcie.1", SECOND_ROOT)];

impl QemuMaker {
    /// The IOMMU of each seat. A rig with one IOMMU has all devices behind it.
    fn seats(&self, layout: &Layout) -> Vec<usize> {
        let count = layout.iommus * layout.devices;
        let share = count.div_ceil(layout.iommus.min(self.iommus.len()).max(1));
        (0..count).map(|seat| seat / share).collect()
    }

    /// The machine, with a device with a TLB for each seat or, if there are none, with pairs without.
    fn options(&self, seats: &[usize], tlbs: &[Device]) -> Options {
        let mut options = Options::new(self.architecture, self.machine);
        for device in self.devices {
            options = options.device(device);
        }
        for (seat, &iommu) in seats.iter().enumerate() {
            let (root, _) = ROOTS[iommu];
            let slot = self.bridge.slot(seat);
            if let Some(device) = tlbs.get(seat) {
                options = device_tlbs::add(options, device, seat, root, slot);
                continue;
            }
            let bridge = match self.bridge {
                Bridge::Express => "pcie-pci-bridge".to_owned(),
                Bridge::Conventional => format!("pci-bridge,shpc=off,chassis_nr={}", seat + 1),
            };
            options = options
                .device(&format!(
                    "{bridge},id=seat{seat},bus={root},addr={slot:x}.0"
                ))
                .device(&format!("iommu-testdev,bus=seat{seat},addr=1.0"))
                .device(&format!(
                    "edu,dma_mask=0xffffffffffffffff,bus=seat{seat},addr=2.0"
                ));
        }
        let events = self.translations.events.iter().chain(self.commands.events);
        options.trace = events.map(|&event| event.to_owned()).collect();
        options
    }

    fn registers(&self, place: Place, machine: &Arc<Machine>, bus: &Bus) -> Outcome<u64> {
        match place {
            Place::At(address) => Ok(address),
            Place::Pci(vendor, device) => {
                let functions = bus.all((vendor, device));
                let region = functions.first().and_then(|function| function.bar(0));
                match region {
                    Some(region) => Ok(region.base),
                    None => failed(machine.trouble("there is no IOMMU on the bus".to_owned())),
                }
            }
        }
    }
}

impl Maker for QemuMaker {
    fn name(&self) -> &'static str {
        self.name
    }

    fn ready(&self) -> Result<(), String> {
        program().map(drop).map_err(|error| error.to_string())
    }

    fn has_freedoms(&self) -> bool {
        false
    }

    fn make(
        &self,
        layout: &Layout,
        _: Freedom,
        troubles: &Arc<Troubles>,
    ) -> Result<Arc<dyn Rig>, Stop> {
        if layout.page_requests {
            return skip(Shortcoming::NoPageRequests);
        }
        if layout.coherency == Coherency::NonCoherent {
            return skip(Shortcoming::AlwaysCoherent);
        }
        let program = program()?;
        let seats = self.seats(layout);
        if seats.len() > self.bridge.seats() {
            return skip(Shortcoming::FewSeats);
        }
        let clock = Arc::new(Clock::default());
        let tlbs = if layout.device_tlb && self.queue.is_some() {
            device_tlbs::listen(seats.len(), &clock)?
        } else {
            Vec::new()
        };
        let machine = Machine::start(program, &self.options(&seats, &tlbs))?;
        let roots: Vec<u8> = ROOTS[..self.iommus.len()]
            .iter()
            .map(|root| root.1)
            .collect();
        let bus = Bus::set_up(&machine, &roots)?;
        let mut registers = Vec::new();
        for &place in &self.iommus[..=seats.iter().copied().max().unwrap_or(0)] {
            registers.push(self.registers(place, &machine, &bus)?);
        }
        let masters = if tlbs.is_empty() {
            masters::all(&machine, &bus, self.bridge)?
        } else {
            if let Some((register, value)) = self.bypass {
                for base in &registers {
                    machine.write64(base + register, value)?;
                }
            }
            device_tlbs::start(&machine, &bus, tlbs)?
        };
        if masters.len() != seats.len() {
            return failed(machine.trouble("a seat has no device".to_owned()));
        }
        let seats: Vec<Seat> = seats
            .into_iter()
            .zip(&masters)
            .map(|(iommu, master)| Seat {
                iommu,
                device: master.device(),
            })
            .collect();
        Ok(Arc::new(QemuRig::new(
            self, machine, masters, seats, &registers, clock, troubles,
        )?))
    }
}

/// The QEMU of this computer.
fn program() -> Result<&'static Program, ProgramError> {
    static PROGRAM: OnceLock<Result<Program, ProgramError>> = OnceLock::new();
    PROGRAM
        .get_or_init(Program::find)
        .as_ref()
        .map_err(Clone::clone)
}
