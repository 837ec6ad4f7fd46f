//! What a function says that it can do.

use super::config_space::{ConfigSpace, find_compatible, find_extended, is_present};
use super::error::PcieError;
use super::spec::{self, AccessControlBits};

/// What a function is in the hierarchy (section 7.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PortType {
    /// An endpoint below a port.
    Endpoint,
    /// An endpoint that is part of the root complex: nothing lies above it.
    RootComplexEndpoint,
    /// A root port.
    RootPort,
    /// The upper port of a switch.
    SwitchUpstream,
    /// A lower port of a switch.
    SwitchDownstream,
    /// Anything else, by the number that the register has.
    Other(u8),
}

/// The Address Translation Services of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslationService {
    pub(super) offset: u16,
    /// Invalidation requests that it takes at a time: 1 to 32. A virtual function says 32, and
    /// shares its physical function's queue.
    pub queue_depth: u8,
    /// Whether it asks for whole pages only.
    pub page_aligned: bool,
    /// Whether it understands the Global Invalidate bit.
    pub global_invalidate: bool,
}

/// The Page Request Interface of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequests {
    pub(super) offset: u16,
    /// How many page requests it can have outstanding.
    pub capacity: u32,
    /// Whether a response carries the PASID of its request.
    pub pasid_in_responses: bool,
}

/// The PASIDs of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasidService {
    pub(super) offset: u16,
    /// Width of a PASID in bits, 0 to 20.
    pub bits: u8,
    /// Whether it can ask for execute permission.
    pub execute: bool,
    /// Whether it can ask in privileged mode.
    pub privileged: bool,
}

/// The Access Control Services of a function or port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessControl {
    pub(super) offset: u16,
    /// What it can do.
    pub supported: AccessControlBits,
}

/// One function and what it can do, as it said when it was [read](Function::read).
#[derive(Clone, Copy, Debug)]
pub struct Function<C> {
    pub(super) config: C,
    /// What it is.
    pub port_type: PortType,
    /// Whether it passes TLPs with an end-to-end prefix, as a PASID is.
    pub passes_prefixes: bool,
    /// Its device TLB.
    pub translation: Option<TranslationService>,
    /// Its page requests.
    pub page_requests: Option<PageRequests>,
    /// Its PASIDs.
    pub pasid: Option<PasidService>,
    /// Its access control.
    pub access_control: Option<AccessControl>,
}

impl<C: ConfigSpace> Function<C> {
    /// Reads what a function can do. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`PcieError::NotPresent`].
    pub fn read(config: C) -> Result<Self, PcieError> {
        if !is_present(&config) {
            return Err(PcieError::NotPresent);
        }
        let (port_type, passes_prefixes) = read_express(&config);
        Ok(Self {
            port_type,
            passes_prefixes,
            translation: read_translation(&config),
            page_requests: read_page_requests(&config),
            pasid: read_pasid(&config),
            access_control: read_access_control(&config),
            config,
        })
    }

    /// Whether the function still answers. After a surprise removal it does not.
    pub fn is_present(&self) -> bool {
        is_present(&self.config)
    }
}

fn read_express(config: &impl ConfigSpace) -> (PortType, bool) {
    let Some(offset) = find_compatible(config, spec::EXPRESS, 0x28) else {
        return (PortType::Other(u8::MAX), false);
    };
    let port_type = match (config.read(offset) >> 20) as u8 & 0xf {
        0 | 1 => PortType::Endpoint,
        4 => PortType::RootPort,
        5 => PortType::SwitchUpstream,
        6 => PortType::SwitchDownstream,
        9 => PortType::RootComplexEndpoint,
        other => PortType::Other(other),
    };
    let capabilities = config.read(offset + spec::EXPRESS_DEVICE_CAPABILITIES_2);
    (
        port_type,
        capabilities & spec::EXPRESS_END_TO_END_PREFIX != 0,
    )
}

fn read_translation(config: &impl ConfigSpace) -> Option<TranslationService> {
    let offset = find_extended(config, spec::TRANSLATION, 8)?;
    let register = config.read(offset + 4);
    let depth = (register & spec::TRANSLATION_QUEUE_DEPTH) as u8;
    Some(TranslationService {
        offset,
        queue_depth: if depth == 0 { 32 } else { depth },
        page_aligned: register & spec::TRANSLATION_PAGE_ALIGNED != 0,
        global_invalidate: register & spec::TRANSLATION_GLOBAL != 0,
    })
}

fn read_page_requests(config: &impl ConfigSpace) -> Option<PageRequests> {
    let offset = find_extended(config, spec::PAGE_REQUESTS, 16)?;
    let status = config.read(offset + 4);
    Some(PageRequests {
        offset,
        capacity: config.read(offset + 8),
        pasid_in_responses: status & spec::PAGE_REQUESTS_PASID_IN_RESPONSES != 0,
    })
}

fn read_pasid(config: &impl ConfigSpace) -> Option<PasidService> {
    let offset = find_extended(config, spec::PASID, 8)?;
    let register = config.read(offset + 4);
    let bits = (register >> spec::PASID_WIDTH_SHIFT & spec::PASID_WIDTH_MASK) as u8;
    Some(PasidService {
        offset,
        bits: bits.min(20),
        execute: register & spec::PASID_EXECUTE != 0,
        privileged: register & spec::PASID_PRIVILEGED != 0,
    })
}

fn read_access_control(config: &impl ConfigSpace) -> Option<AccessControl> {
    let offset = find_extended(config, spec::ACCESS_CONTROL, 8)?;
    Some(AccessControl {
        offset,
        supported: AccessControlBits::from_bits_truncate(config.read(offset + 4) as u16),
    })
}
