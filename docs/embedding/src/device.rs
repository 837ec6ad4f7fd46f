//! What the kernel's PCI code calls.

use alloc::sync::Arc;
use iommu_core::error::AttachError;
use iommu_core::ids::DeviceId;
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::page_request::{AddError, DeviceShare, PageRequests};
use iommu_core::pcie::{ConfigSpace, Function, Path, PcieError, Services, Wanted};
use iommu_core::sva::{ResetHandshake, RestoreError};

// ANCHOR: enable
/// Why a device was not enabled.
#[derive(Debug)]
pub enum EnableError {
    /// The function.
    Pcie(PcieError),
    /// The IOMMU.
    Attach(AttachError),
    /// Its share of page requests.
    Share(AddError),
}

/// Requests that the device may have outstanding; the sum over an IOMMU's devices fits its queue.
const OUTSTANDING: u16 = 32;

/// Before the driver starts: the IOMMU's entry first, then the share of page requests, then PASID, ATS
/// and page requests in the device.
///
/// # Errors
///
/// Nothing is enabled then.
pub fn enable<C: ConfigSpace>(
    page_requests: &Arc<PageRequests>,
    device: DeviceId,
    config: C,
    path: &Path<'_, impl ConfigSpace>,
    trusted: bool,
) -> Result<ResetHandshake<C>, EnableError> {
    let iommu: &Arc<dyn Iommu> = page_requests.iommu();
    let wanted = Wanted {
        pasid_bits: 16,
        device_tlb: true,
        page_requests: OUTSTANDING.into(),
        trusted,
        ..Wanted::default()
    };
    path.isolate(trusted);
    let function = Function::read(config).map_err(EnableError::Pcie)?;
    let response_pasid = function
        .page_requests
        .is_some_and(|service| service.pasid_in_responses);
    let entry = DeviceConfig {
        pasid_bits: wanted.pasid_bits,
        device_tlb: wanted.device_tlb,
        page_faults: PageFaults::PageRequests { response_pasid },
    };
    iommu
        .enable_device(device, entry)
        .map_err(EnableError::Attach)?;
    let enabled = page_requests
        .add_device(device, DeviceShare(OUTSTANDING))
        .map_err(EnableError::Share)
        .and_then(|()| Services::enable(function, path, wanted).map_err(EnableError::Pcie));
    match enabled {
        Ok(services) => {
            let page_requests = page_requests.clone();
            Ok(ResetHandshake::with_page_requests(
                page_requests,
                device,
                services,
            ))
        }
        Err(error) => {
            page_requests.remove_device(device);
            let _ = iommu.disable_device(device); // Nobody uses it: the first error counts.
            Err(error)
        }
    }
}
// ANCHOR_END: enable

// ANCHOR: reset
/// A reset of any kind: of the function, of its slot, by power.
///
/// # Errors
///
/// The device was not reset, or did not come back; it stays parked in that case.
pub fn reset<C: ConfigSpace>(
    handshake: &mut ResetHandshake<C>,
    by_hardware: impl FnOnce(),
) -> Result<(), RestoreError> {
    handshake.park().map_err(RestoreError::Attach)?; // No DMA, no invalidation requests.
    by_hardware();
    handshake.restore() // What it asked for before is forgotten; its TLB is empty; its bindings work.
}
// ANCHOR_END: reset

// ANCHOR: remove
/// The device is removed: its driver has ended and its processes have unbound it. After a surprise
/// removal the kernel parks it first, so that nobody waits for its answers.
///
/// # Errors
///
/// The hardware did not confirm; the device keeps its entry.
pub fn remove<C: ConfigSpace>(
    page_requests: &PageRequests,
    device: DeviceId,
    handshake: ResetHandshake<C>,
) -> Result<(), AttachError> {
    let _function = handshake.release().disable(); // Page requests, ATS, PASID.
    page_requests.remove_device(device); // What is left of its requests is answered.
    page_requests.iommu().disable_device(device) // Its TLB is invalidated, its entry cleared.
}
// ANCHOR_END: remove
