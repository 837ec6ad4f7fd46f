//! The machine as firmware describes it.

use crate::acpi::{self, AcpiError};
use crate::arch::native;
use crate::arch::x86_64::start_info::StartInfoError;
use crate::device_tree::{DeviceTree, DeviceTreeError};
use crate::devices::DeviceError;
use crate::memory::{self, IDENTITY_END, Identity};
use crate::mmio::Registers;
use crate::page_table::MapError;
use crate::pcie::{Ecam, EnumerateError, Function, FunctionAddress, Placement, enumerate};
use crate::println;
use crate::region::Region;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use iommu_core::ids::DeviceId;

/// Who described the machine.
#[derive(Clone, Copy, Debug)]
pub enum Firmware {
    /// ACPI, from the root pointer at this physical address.
    Acpi {
        /// Physical address of the RSDP.
        root_pointer: u64,
    },
    /// A flattened device tree.
    DeviceTree(DeviceTree<'static>),
}

/// What the start code reads from firmware before translation is on.
#[derive(Debug)]
pub struct Description {
    /// Who says so.
    pub firmware: Firmware,
    /// The kernel's command line.
    pub command_line: String,
    /// RAM, sorted by base.
    pub memory: Vec<Region>,
    /// Parts of RAM that firmware occupies, sorted by base; those below the kernel may be left out.
    pub reserved: Vec<Region>,
    /// PCIe configuration space.
    pub configuration_space: Region,
    /// First and last bus of it.
    pub buses: (u8, u8),
    /// Whether firmware placed BARs.
    pub placement: Placement,
}

/// The machine, with translation on and PCIe enumerated.
#[derive(Debug)]
pub struct Machine {
    firmware: Firmware,
    command_line: String,
    memory: Vec<Region>,
    ecam: Ecam,
    functions: Vec<Function>,
}

/// How the machine's IOMMU is reached.
#[derive(Clone, Copy, Debug)]
pub enum IommuNode {
    /// Intel VT-d: the DMAR table, header included, its length and checksum checked.
    Vtd {
        /// The table.
        dmar: &'static [u8],
    },
    /// Arm SMMUv3: a device tree node.
    SmmuV3 {
        /// Both register pages.
        registers: Region,
    },
    /// A RISC-V IOMMU at a fixed place: a device tree node.
    RiscvPlatform {
        /// Its registers.
        registers: Region,
    },
    /// A RISC-V IOMMU that is a PCI function: a device tree node below the host bridge.
    RiscvPci {
        /// The function, which is enabled.
        function: FunctionAddress,
        /// Its BAR 0.
        registers: Region,
    },
}

/// Why the machine cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MachineError {
    /// The PVH loader's data.
    StartInfo(StartInfoError),
    /// An ACPI table.
    Acpi(AcpiError),
    /// The device tree.
    DeviceTree(DeviceTreeError),
    /// The kernel's own page table.
    Map(MapError),
    /// PCIe.
    Enumerate(EnumerateError),
    /// A device.
    Device(DeviceError),
    /// The IOMMU's PCI function does not answer or has no BAR 0.
    NoIommuFunction {
        /// Where firmware says it is.
        function: FunctionAddress,
    },
    /// No IOMMU translates this function's accesses.
    NotTranslated {
        /// The function.
        function: FunctionAddress,
    },
    /// The region is not mapped as device registers.
    NotDeviceMemory {
        /// The region.
        region: Region,
    },
}

impl fmt::Display for MachineError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StartInfo(error) => error.fmt(formatter),
            Self::Acpi(error) => error.fmt(formatter),
            Self::DeviceTree(error) => error.fmt(formatter),
            Self::Map(error) => error.fmt(formatter),
            Self::Enumerate(error) => error.fmt(formatter),
            Self::Device(error) => error.fmt(formatter),
            Self::NoIommuFunction { function } => {
                write!(
                    formatter,
                    "the IOMMU at {function} does not answer or has no BAR 0"
                )
            }
            Self::NotTranslated { function } => {
                write!(formatter, "no IOMMU translates the accesses of {function}")
            }
            Self::NotDeviceMemory { region } => {
                write!(formatter, "{region} is not mapped as device registers")
            }
        }
    }
}

impl core::error::Error for MachineError {}

macro_rules! from {
    ($($variant:ident: $error:ty,)*) => {
        $(impl From<$error> for MachineError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })*
    };
}

from! {
    StartInfo: StartInfoError,
    Acpi: AcpiError,
    DeviceTree: DeviceTreeError,
    Map: MapError,
    Enumerate: EnumerateError,
    Device: DeviceError,
}

impl Description {
    /// Reads a device tree, as both machines that have one do.
    pub fn from_device_tree(tree: DeviceTree<'static>, blob: Region) -> Result<Self, MachineError> {
        let bridge = tree.host_bridge()?;
        Ok(Self {
            firmware: Firmware::DeviceTree(tree),
            command_line: tree.command_line()?.into(),
            memory: tree.memory()?,
            reserved: Vec::from([blob]),
            configuration_space: bridge.configuration_space,
            buses: (bridge.first_bus, bridge.last_bus),
            placement: Placement::Within(bridge.memory_window),
        })
    }
}

impl Machine {
    /// Turns translation on and enumerates PCIe. Called once, by the start code.
    pub fn start(description: Description) -> Result<Self, MachineError> {
        let Description {
            firmware,
            command_line,
            memory,
            reserved,
            ..
        } = description;
        let configuration_space = description.configuration_space;
        memory::initialize(&memory, &reserved, &[configuration_space])?;
        let (first_bus, last_bus) = description.buses;
        // SAFETY: firmware says that this is the ECAM window, and it was just mapped uncached.
        let ecam = unsafe { Ecam::new(configuration_space, first_bus, last_bus) };
        let functions = enumerate(&ecam, first_bus, last_bus, description.placement)?;
        Ok(Self {
            firmware,
            command_line,
            memory,
            ecam,
            functions,
        })
    }

    /// Who described the machine.
    pub fn firmware(&self) -> Firmware {
        self.firmware
    }

    /// The kernel's command line.
    pub fn command_line(&self) -> &str {
        &self.command_line
    }

    /// RAM, sorted by base.
    pub fn memory(&self) -> &[Region] {
        &self.memory
    }

    /// PCIe configuration space.
    pub fn ecam(&self) -> &Ecam {
        &self.ecam
    }

    /// Every PCI function.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// Finds the IOMMU that firmware describes for this architecture.
    pub fn iommu(&self) -> Result<IommuNode, MachineError> {
        match self.firmware {
            Firmware::Acpi { root_pointer } => {
                let dmar = acpi::find_table(&Identity, root_pointer, *b"DMAR")?;
                Ok(IommuNode::Vtd { dmar })
            }
            Firmware::DeviceTree(tree) if cfg!(target_arch = "aarch64") => {
                let iommu = tree.platform_iommu("arm,smmu-v3")?;
                Ok(IommuNode::SmmuV3 {
                    registers: iommu.registers,
                })
            }
            Firmware::DeviceTree(tree) => match tree.pci_iommu("riscv,pci-iommu") {
                Ok(iommu) => self.riscv_pci_iommu(iommu.requester),
                Err(_) => {
                    let iommu = tree.platform_iommu("riscv,iommu")?;
                    Ok(IommuNode::RiscvPlatform {
                        registers: iommu.registers,
                    })
                }
            },
        }
    }

    /// The device id by which the IOMMU knows a function's accesses: the requester id itself, or what
    /// the device tree's `iommu-map` makes of it.
    pub fn device_id(&self, function: FunctionAddress) -> Result<DeviceId, MachineError> {
        let requester = function.requester_id();
        match self.firmware {
            Firmware::Acpi { .. } => Ok(DeviceId(u32::from(requester))),
            Firmware::DeviceTree(tree) => match tree.host_bridge()?.device_id(requester) {
                Ok(specifier) => Ok(specifier.device),
                Err(_) => Err(MachineError::NotTranslated { function }),
            },
        }
    }

    /// The registers in `region`, if it is mapped as device registers.
    pub fn registers(&self, region: Region) -> Result<Registers, MachineError> {
        let overlaps_ram = self
            .memory
            .iter()
            .any(|bank| region.base < bank.end() && bank.base < region.end());
        if region.size == 0 || region.end() > IDENTITY_END || overlaps_ram {
            return Err(MachineError::NotDeviceMemory { region });
        }
        // SAFETY: outside RAM everything below IDENTITY_END is mapped uncached for ever.
        Ok(unsafe { Registers::new(region) })
    }

    /// Enables the first function with `identity` (vendor id and device id), which QEMU calls
    /// `device`, and returns its address and the registers of its BAR 0.
    pub fn claim(
        &self,
        identity: (u16, u16),
        device: &'static str,
    ) -> Result<(FunctionAddress, Registers), MachineError> {
        let function = self
            .functions
            .iter()
            .find(|function| (function.vendor, function.device) == identity)
            .ok_or(DeviceError::Missing { device })?;
        let bar = function.bar(0).ok_or(DeviceError::NoBar { device })?;
        let registers = self.registers(bar)?;
        function.enable(&self.ecam);
        Ok((function.address, registers))
    }

    /// Tells people what was found.
    pub fn describe(&self) {
        println!("command line: {:?}", self.command_line);
        self.memory
            .iter()
            .for_each(|bank| println!("RAM at {bank}"));
        println!(
            "frames at {}, {} free",
            memory::pool(),
            memory::free_frame_count()
        );
        let kernel = memory::kernel_table();
        println!(
            "page table at {:#x}: {:?}",
            kernel.root(),
            native::cpu::translation_control(kernel.levels())
        );
        println!("PCIe configuration space at {}", self.ecam.region());
        for function in &self.functions {
            let Function {
                address,
                vendor,
                device,
                class,
                ..
            } = function;
            println!("{address} {vendor:04x}:{device:04x} class {class:06x}");
            for bar in function.bars.iter().flatten() {
                println!("  BAR {} at {}", bar.index, bar.region);
            }
        }
        match self.iommu() {
            Ok(IommuNode::Vtd { dmar }) => println!("IOMMU: VT-d, DMAR of {} bytes", dmar.len()),
            Ok(IommuNode::SmmuV3 { registers }) => println!("IOMMU: SMMUv3 at {registers}"),
            Ok(IommuNode::RiscvPlatform { registers }) => {
                println!("IOMMU: RISC-V at {registers}");
            }
            Ok(IommuNode::RiscvPci {
                function,
                registers,
            }) => {
                println!("IOMMU: RISC-V, function {function}, at {registers}");
            }
            Err(error) => println!("IOMMU: none: {error}"),
        }
    }

    fn riscv_pci_iommu(&self, requester: u16) -> Result<IommuNode, MachineError> {
        let address = FunctionAddress::from_requester_id(requester);
        let function = self
            .functions
            .iter()
            .find(|function| function.address == address);
        let (function, registers) = function
            .and_then(|function| Some((function, function.bar(0)?)))
            .ok_or(MachineError::NoIommuFunction { function: address })?;
        function.enable(&self.ecam);
        Ok(IommuNode::RiscvPci {
            function: address,
            registers,
        })
    }
}
