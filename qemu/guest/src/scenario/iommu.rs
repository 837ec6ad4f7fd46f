//! Brings up the IOMMU that firmware describes, with the backend for this architecture.

use super::ScenarioError;
use super::platform::{Tally, parts};
use crate::machine::{IommuNode, Machine};
use crate::report::IommuKind;
use alloc::boxed::Box;
use alloc::sync::Arc;
use iommu_core::ids::{DeviceId, Pasid};
use iommu_core::iommu::Iommu;

/// Asks the hardware itself where a PASID's page table leads: device, PASID and virtual address to
/// physical address, or `None` if it refuses.
pub type Walk = Box<dyn Fn(DeviceId, Pasid, u64) -> Option<u64>>;

/// The IOMMU, enabled.
pub struct Found {
    /// Which one.
    pub kind: IommuKind,
    /// The driver.
    pub iommu: Arc<dyn Iommu>,
    /// Present if the hardware answers such questions.
    pub walk: Option<Walk>,
}

/// Finds and enables it.
#[cfg(target_arch = "x86_64")]
pub fn bring_up(machine: &Machine, tally: &Arc<Tally>) -> Result<Found, ScenarioError> {
    use crate::region::Region;
    use iommu_vtd::firmware::{Dmar, Structure};

    let IommuNode::Vtd { dmar } = machine.iommu()? else {
        return Err(ScenarioError::OtherIommu);
    };
    let dmar = Dmar::parse(dmar).map_err(ScenarioError::Dmar)?;
    let unit = dmar.structures().find_map(|structure| match structure {
        Ok(Structure::Unit(unit)) => Some(unit),
        _ => None,
    });
    let unit = unit.ok_or(ScenarioError::NoUnit)?;
    let registers = machine.registers(Region {
        base: unit.register_base,
        size: unit.register_bytes as u64,
    })?;
    let unit = iommu_vtd::Unit::probe(parts(registers, tally)).map_err(ScenarioError::Probe)?;
    Ok(Found {
        kind: IommuKind::Vtd,
        iommu: Arc::new(unit),
        walk: None,
    })
}

/// Finds and enables it.
#[cfg(target_arch = "aarch64")]
pub fn bring_up(machine: &Machine, tally: &Arc<Tally>) -> Result<Found, ScenarioError> {
    let IommuNode::SmmuV3 { registers } = machine.iommu()? else {
        return Err(ScenarioError::OtherIommu);
    };
    let registers = machine.registers(registers)?;
    let unit = iommu_smmuv3::Unit::probe(parts(registers, tally)).map_err(ScenarioError::Probe)?;
    Ok(Found {
        kind: IommuKind::SmmuV3,
        iommu: Arc::new(unit),
        walk: None,
    })
}

/// Finds and enables it.
#[cfg(target_arch = "riscv64")]
pub fn bring_up(machine: &Machine, tally: &Arc<Tally>) -> Result<Found, ScenarioError> {
    let (IommuNode::RiscvPlatform { registers } | IommuNode::RiscvPci { registers, .. }) =
        machine.iommu()?
    else {
        return Err(ScenarioError::OtherIommu);
    };
    let registers = machine.registers(registers)?;
    let unit = iommu_riscv::Unit::probe(parts(registers, tally)).map_err(ScenarioError::Probe)?;
    let unit = Arc::new(unit);
    let walker = unit.clone();
    Ok(Found {
        kind: IommuKind::Riscv,
        iommu: unit,
        walk: Some(Box::new(move |device, pasid, address| {
            let walked = walker.translate(device, pasid, address, false);
            walked.ok().map(|physical| physical.0)
        })),
    })
}
