//! The ports between a function and the root complex.

use super::config_space::ConfigSpace;
use super::error::PcieError;
use super::function::{AccessControl, Function, PortType};
use super::spec::AccessControlBits;

/// The ports above a function, the nearest first, the root port last; none for an endpoint that is
/// part of the root complex.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a, C>(
    /// The ports.
    pub &'a [Function<C>],
);

/// What every port that could turn a request round has to do (Linux isolates by the same four).
const ISOLATION: AccessControlBits = AccessControlBits::SOURCE_VALIDATION
    .union(AccessControlBits::REQUEST_REDIRECT)
    .union(AccessControlBits::COMPLETION_REDIRECT)
    .union(AccessControlBits::UPSTREAM_FORWARDING);

/// Without these a request with a PASID may reach a peer.
const PASID: AccessControlBits =
    AccessControlBits::REQUEST_REDIRECT.union(AccessControlBits::UPSTREAM_FORWARDING);

impl<C: ConfigSpace> Path<'_, C> {
    /// Turns access control on in every port that has it, so that all requests go through the
    /// IOMMU. A port above a device that is not `trusted` blocks translated addresses too.
    ///
    /// Called at enumeration, before any device below is used.
    pub fn isolate(&self, trusted: bool) {
        for port in self.0 {
            let Some(AccessControl { offset, supported }) = port.access_control else {
                continue;
            };
            let mut wanted = ISOLATION;
            if !trusted {
                wanted |= AccessControlBits::TRANSLATION_BLOCKING;
            }
            let kept = port.config.read(offset + 4) >> 16;
            let mut control = AccessControlBits::from_bits_retain(kept as u16) | wanted & supported;
            if trusted {
                control -= AccessControlBits::TRANSLATION_BLOCKING;
            }
            port.config
                .write(offset + 4, u32::from(control.bits()) << 16);
        }
    }

    /// Whether requests with a PASID reach the IOMMU, all of them and unchanged: each port passes
    /// prefixes, and none that has peers below may turn a request round (section 6.20.1 and 6.12).
    ///
    /// # Errors
    ///
    /// [`PcieError::PrefixNotPassed`] or [`PcieError::PeersNotShut`] with the first such port.
    pub fn check_pasid(&self) -> Result<(), PcieError> {
        for (number, port) in self.0.iter().enumerate() {
            if !port.passes_prefixes {
                return Err(PcieError::PrefixNotPassed { port: number });
            }
            // The upper port of a switch sees only what the lower ports let through.
            if port.port_type == PortType::SwitchUpstream {
                continue;
            }
            let missing = PASID - port.enabled_access_control();
            if !missing.is_empty() {
                return Err(PcieError::PeersNotShut {
                    port: number,
                    missing,
                });
            }
        }
        Ok(())
    }
}

impl<C: ConfigSpace> Function<C> {
    fn enabled_access_control(&self) -> AccessControlBits {
        match self.access_control {
            None => AccessControlBits::empty(),
            Some(AccessControl { offset, .. }) => {
                AccessControlBits::from_bits_truncate((self.config.read(offset + 4) >> 16) as u16)
            }
        }
    }
}
