//! What no honest device does.

use super::{Device, State};
use crate::bus::PageRequest;
use crate::hardware::Hardware;
use crate::machine::lock;

/// A message that the device has no right to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mischief {
    /// Invalidation completions, for whatever requester and tags.
    Completion {
        /// Who is said to answer.
        device: u32,
        /// The tags.
        itags: u32,
    },
    /// A page request message, from whomever it says.
    PageRequest(PageRequest),
    /// So many page requests that are never the last of their group, each for another page and
    /// group.
    Flood {
        /// The PASID.
        pasid: Option<u32>,
        /// How many.
        requests: u32,
    },
}

impl Device {
    /// The device will do this, a message a step. A request with a physical address of its own
    /// choice is a [`Transfer`](super::Transfer) that claims to be translated.
    pub fn mischief(&self, mischief: Mischief) {
        lock(&self.state).mischief.push(mischief);
    }

    pub(super) fn misbehave(&self, state: &mut State, iommu: &dyn Hardware) -> bool {
        match state.mischief.pop() {
            None => return false,
            Some(Mischief::Completion { device, itags }) => {
                iommu.invalidation_completed(device, itags);
            }
            Some(Mischief::PageRequest(request)) => self.ask(iommu, request),
            Some(Mischief::Flood { pasid, requests }) => {
                let number = requests.wrapping_sub(1);
                let request = PageRequest {
                    device: self.id(),
                    pasid,
                    privileged: false,
                    address: u64::from(number) << 12,
                    read: true,
                    write: true,
                    execute: false,
                    last: false,
                    group: (number % 512) as u16,
                };
                self.ask(iommu, request);
                if number != 0 {
                    state.mischief.push(Mischief::Flood {
                        pasid,
                        requests: number,
                    });
                }
            }
        }
        true
    }
}
