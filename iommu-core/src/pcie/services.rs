//! Enabling and disabling, in the order that the specification allows.

use super::config_space::{ConfigSpace, is_present};
use super::error::PcieError;
use super::function::{Function, PageRequests, PasidService, TranslationService};
use super::path::Path;
use super::spec;
use crate::iommu::{DeviceConfig, PageFaults};

/// What a kernel wants of a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Width in bits of the PASIDs that the function is to send; 0 for none.
    pub pasid_bits: u8,
    /// Whether it may ask for execute permission, if it can.
    pub execute: bool,
    /// Whether it may keep translations (ATS). A device that is not trusted must not: requests with
    /// translated addresses pass the IOMMU unchecked.
    pub device_tlb: bool,
    /// How many page requests it may have outstanding; 0 for no page requests. They need
    /// `device_tlb`. The sum over all devices of an IOMMU is to fit its page-request queue.
    pub page_requests: u32,
    /// Whether the device is inside the machine's own trust: false for one behind a port that
    /// anybody can plug something into.
    pub trusted: bool,
}

/// The smallest translation unit of every function: pages of 4096 bytes (2^(12 + 0)).
const UNIT: u8 = 0;

/// What is enabled on a function.
///
/// It does not touch the function when it is dropped: a kernel that forgets
/// [`disable`](Services::disable) leaves the device as it is.
#[derive(Debug)]
#[must_use = "the services stay enabled until `disable`"]
pub struct Services<C> {
    function: Function<C>,
    wanted: Wanted,
    /// Whether PASIDs and page requests are those of a physical function.
    is_virtual: bool,
    /// Page requests that the function may have outstanding.
    allocation: u32,
}

impl<C: ConfigSpace> Services<C> {
    /// Enables PASID, then ATS, then page requests: the PASID bits may not change while ATS is
    /// enabled (section 7.8.9.3), and page requests are of use only with it.
    ///
    /// The IOMMU has the device's entry already, with the [`DeviceConfig`] of the same wishes.
    ///
    /// # Errors
    ///
    /// Whatever the function or the `path` cannot do, with everything disabled as it was before.
    pub fn enable(
        function: Function<C>,
        path: &Path<'_, impl ConfigSpace>,
        wanted: Wanted,
    ) -> Result<Self, PcieError> {
        let mut services = Self {
            function,
            wanted,
            is_virtual: false,
            allocation: 0,
        };
        services.check(path)?;
        services.start().map(|()| services)
    }

    /// Enables ATS of a virtual function (section 10.5.1: it has a capability of its own, with the
    /// smallest translation unit of its `physical` function). Its PASIDs and page requests are the
    /// physical function's (sections 7.8.9 and 10.5.2), which has to have them enabled.
    ///
    /// # Errors
    ///
    /// As [`enable`](Self::enable), and [`PcieError::PhysicalFunctionDisabled`] or
    /// [`PcieError::TranslationUnit`]; nothing has changed then.
    pub fn enable_virtual(
        function: Function<C>,
        physical: &Function<C>,
        path: &Path<'_, impl ConfigSpace>,
        wanted: Wanted,
    ) -> Result<Self, PcieError> {
        let mut services = Self {
            function: Function {
                pasid: physical.pasid,
                page_requests: physical.page_requests,
                ..function
            },
            wanted,
            is_virtual: true,
            allocation: 0,
        };
        services.check(path)?;
        services.check_physical(physical)?;
        services.start().map(|()| services)
    }

    /// What the IOMMU is to be told of the device.
    pub fn device_config(&self) -> DeviceConfig {
        let page_faults = match self.function.page_requests {
            Some(service) if self.wanted.page_requests > 0 => PageFaults::PageRequests {
                response_pasid: service.pasid_in_responses,
            },
            _ => PageFaults::Fatal,
        };
        DeviceConfig {
            pasid_bits: self.wanted.pasid_bits,
            device_tlb: self.wanted.device_tlb,
            page_faults,
        }
    }

    /// The function.
    pub const fn function(&self) -> &Function<C> {
        &self.function
    }

    /// How many page requests the function may have outstanding.
    pub const fn page_request_allocation(&self) -> u32 {
        self.allocation
    }

    /// Disables page requests, ATS and PASID, the reverse of [`enable`](Self::enable).
    ///
    /// The device was stopped by its driver: it sends nothing that needs them. The device TLB is
    /// invalidated by [`Iommu::disable_device`](crate::iommu::Iommu::disable_device), which follows.
    pub fn disable(self) -> Function<C> {
        self.stop();
        self.function
    }

    /// Disables the services before a reset of the function; [`start`](Self::start) enables them
    /// again after it. A device that is gone is left alone.
    ///
    /// Before it, [`Iommu`](crate::iommu::Iommu) parks the device: an invalidation request during a
    /// reset is never answered (section 10.3.1).
    pub fn stop(&self) {
        let config = &self.function.config;
        if !is_present(config) {
            return;
        }
        if let Some(PageRequests { offset, .. }) = self.page_requests() {
            update_page_requests(config, offset, spec::PAGE_REQUESTS_ENABLE, 0);
        }
        if let Some(TranslationService { offset, .. }) = self.translation() {
            update(config, offset + 4, spec::TRANSLATION_ENABLE, 0);
        }
        if let Some(PasidService { offset, .. }) = self.pasid() {
            update(config, offset + 4, PASID_ENABLES, 0);
        }
    }

    /// Enables the services in a function that has them all disabled: after a reset.
    ///
    /// # Errors
    ///
    /// [`PcieError::AlreadyEnabled`] and [`PcieError::PageRequestsOutstanding`] if the function was
    /// not reset; [`PcieError::NotPresent`]. Everything is disabled then.
    pub fn start(&mut self) -> Result<(), PcieError> {
        if !is_present(&self.function.config) {
            return Err(PcieError::NotPresent);
        }
        self.check_disabled()?;
        if let Some(service) = self.pasid() {
            self.start_pasid(service);
        }
        if let Some(TranslationService { offset, .. }) = self.translation() {
            let unit = u32::from(UNIT) << spec::TRANSLATION_UNIT_SHIFT;
            update(
                &self.function.config,
                offset + 4,
                spec::TRANSLATION_UNIT_MASK | spec::TRANSLATION_ENABLE,
                unit | spec::TRANSLATION_ENABLE,
            );
        }
        match self.page_requests() {
            Some(service) => self
                .start_page_requests(service)
                .inspect_err(|_| self.stop()),
            None => Ok(()),
        }
    }

    fn start_pasid(&self, service: PasidService) {
        let mut enables = spec::PASID_ENABLE;
        if self.wanted.execute && service.execute {
            enables |= spec::PASID_ENABLE_EXECUTE;
        }
        // Never privileged: devices work for user processes here.
        update(
            &self.function.config,
            service.offset + 4,
            PASID_ENABLES,
            enables,
        );
    }

    /// Resets the interface, then enables it with its allocation (section 10.5.2.3): the
    /// allocation may change only while it is disabled.
    fn start_page_requests(&mut self, service: PageRequests) -> Result<(), PcieError> {
        let PageRequests {
            offset, capacity, ..
        } = service;
        let config = &self.function.config;
        let reset = spec::PAGE_REQUESTS_RESET;
        update_page_requests(config, offset, reset, reset);
        if config.read(offset + 4) & spec::PAGE_REQUESTS_STOPPED == 0 {
            return Err(PcieError::PageRequestsOutstanding);
        }
        self.allocation = capacity.min(self.wanted.page_requests);
        config.write(offset + 12, self.allocation);
        config.write(
            offset + 4,
            spec::PAGE_REQUESTS_ENABLE | spec::PAGE_REQUESTS_FAILURES,
        );
        Ok(())
    }

    /// Everything that can be known before anything is changed.
    fn check(&self, path: &Path<'_, impl ConfigSpace>) -> Result<(), PcieError> {
        let Wanted {
            pasid_bits,
            device_tlb,
            page_requests,
            trusted,
            ..
        } = self.wanted;
        let missing = |capability| PcieError::MissingCapability { capability };
        if pasid_bits > 0 {
            let service = self.function.pasid.ok_or(missing("PASID"))?;
            if service.bits < pasid_bits {
                return Err(PcieError::PasidWidth {
                    wanted: pasid_bits,
                    has: service.bits,
                });
            }
            path.check_pasid()?;
        }
        if device_tlb {
            if !trusted {
                return Err(PcieError::NotTrusted);
            }
            let service = self.function.translation.ok_or(missing("ATS"))?;
            if !service.page_aligned {
                return Err(PcieError::UnalignedRequests);
            }
        }
        if page_requests > 0 {
            self.function
                .page_requests
                .filter(|_| device_tlb)
                .ok_or(missing("PRI beside ATS"))?;
        }
        Ok(())
    }

    /// Whether the physical function has what the virtual one shares.
    fn check_physical(&self, physical: &Function<C>) -> Result<(), PcieError> {
        let register = |offset: u16| physical.config.read(offset + 4);
        let Wanted {
            pasid_bits,
            device_tlb,
            page_requests,
            ..
        } = self.wanted;
        let pasid = physical
            .pasid
            .is_some_and(|service| register(service.offset) & spec::PASID_ENABLE != 0);
        let requests = physical
            .page_requests
            .is_some_and(|service| register(service.offset) & spec::PAGE_REQUESTS_ENABLE != 0);
        if pasid_bits > 0 && !pasid || page_requests > 0 && !requests {
            return Err(PcieError::PhysicalFunctionDisabled);
        }
        let has = physical.translation.map_or(UNIT, |service| {
            let unit = register(service.offset) & spec::TRANSLATION_UNIT_MASK;
            (unit >> spec::TRANSLATION_UNIT_SHIFT) as u8
        });
        if device_tlb && has != UNIT {
            return Err(PcieError::TranslationUnit { wanted: UNIT, has });
        }
        Ok(())
    }

    fn check_disabled(&self) -> Result<(), PcieError> {
        let config = &self.function.config;
        let enabled = |offset: Option<u16>, bit| {
            offset.is_some_and(|offset| config.read(offset + 4) & bit != 0)
        };
        let pasid = self.pasid().map(|service| service.offset);
        let translation = self.translation().map(|service| service.offset);
        let page_requests = self.page_requests().map(|service| service.offset);
        if enabled(pasid, spec::PASID_ENABLE)
            || enabled(translation, spec::TRANSLATION_ENABLE)
            || enabled(page_requests, spec::PAGE_REQUESTS_ENABLE)
        {
            return Err(PcieError::AlreadyEnabled);
        }
        Ok(())
    }

    fn pasid(&self) -> Option<PasidService> {
        let wanted = self.wanted.pasid_bits > 0 && !self.is_virtual;
        self.function.pasid.filter(|_| wanted)
    }

    fn translation(&self) -> Option<TranslationService> {
        self.function.translation.filter(|_| self.wanted.device_tlb)
    }

    fn page_requests(&self) -> Option<PageRequests> {
        let wanted = self.wanted.page_requests > 0 && !self.is_virtual;
        self.function.page_requests.filter(|_| wanted)
    }
}

const PASID_ENABLES: u32 =
    spec::PASID_ENABLE | spec::PASID_ENABLE_EXECUTE | spec::PASID_ENABLE_PRIVILEGED;

fn update(config: &impl ConfigSpace, register: u16, mask: u32, value: u32) {
    config.write(register, config.read(register) & !mask | value);
}

/// Replaces bits of the control register, and writes no one to a status bit that a one would clear.
fn update_page_requests(config: &impl ConfigSpace, offset: u16, mask: u32, value: u32) {
    update(
        config,
        offset + 4,
        mask | spec::PAGE_REQUESTS_FAILURES,
        value,
    );
}
