//! Requests to translations: which tables a request uses, and what the caches know of it.

use super::State;
use super::caches::{Stage, Tag};
use super::tables::{ContextEntry, PasidEntry, Translates};
use super::walk::{Leaf, Stopped};
use crate::bus::{Access, Permissions, Refusal, Request, Translation};

/// How many requests are remembered, for speculation.
const REMEMBERED: usize = 64;

/// How often a walk begins anew because software changed an entry under it.
const ATTEMPTS: usize = 8;

/// Why a request is refused (table of fault reasons in 7.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub code: u8,
    /// What the device is told.
    pub refusal: Refusal,
    /// Whether a fault record is written.
    pub recorded: bool,
}

impl Fault {
    /// A fault that is recorded whatever FPD says.
    pub const fn always(code: u8, refusal: Refusal) -> Self {
        Self {
            code,
            refusal,
            recorded: true,
        }
    }

    /// A fault that is recorded unless FPD says no.
    pub const fn unless(masked: bool, code: u8, refusal: Refusal) -> Self {
        Self {
            code,
            refusal,
            recorded: !masked,
        }
    }

    /// A fault that a page request may make good.
    pub const fn of_page(entry: &PasidEntry, code: u8) -> Self {
        Self::unless(entry.faults_masked, code, Refusal::NotPresent)
    }

    /// A paging entry that the hardware cannot use.
    pub const fn of_table(entry: &PasidEntry, code: u8) -> Self {
        Self::unless(entry.faults_masked, code, Refusal::CompleterAbort)
    }
}

/// Whose address space a request is in.
pub(super) struct Space {
    pub entry: PasidEntry,
    pub tag: Tag,
    pub privileged: bool,
}

impl State {
    pub(super) fn translate(
        &mut self,
        request: &Request,
        for_device: bool,
    ) -> Result<Translation, Refusal> {
        if self.removed {
            return Err(Refusal::UnsupportedRequest);
        }
        if self.policy.forgetful && self.chance(8) {
            let machine = self.machine();
            self.caches.lose_one(&machine.random);
        }
        if !self.registers.translates() {
            return untranslated(request, for_device);
        }
        if request.pasid.is_none() && is_interrupt(request.address) {
            return self.refuse_interrupt(request, for_device);
        }
        let translated = self.translation(request, for_device);
        if translated.is_ok() {
            self.remember(*request);
        }
        match translated {
            Ok(translation) if translation.permissions.permit(request.access) => Ok(translation),
            Ok(_) => Err(Refusal::NotPresent),
            Err(fault) => {
                // A device that may ask for the page is told so, and software is not (7.1.3).
                if !(for_device && fault.refusal == Refusal::NotPresent) {
                    self.report(request, fault, for_device);
                }
                Err(fault.refusal)
            }
        }
    }

    /// Requests without a PASID to the interrupt range are interrupts if they are writes (3.14);
    /// they reach no memory.
    fn refuse_interrupt(
        &mut self,
        request: &Request,
        for_device: bool,
    ) -> Result<Translation, Refusal> {
        let refusal = Refusal::UnsupportedRequest;
        if for_device || request.access != Access::Write {
            self.report(request, Fault::always(0x87, refusal), for_device);
        }
        Err(refusal)
    }

    pub(super) fn admits_translated(&mut self, device: u32) -> bool {
        if self.removed {
            return false;
        }
        if !self.registers.translates() {
            return true;
        }
        let Ok(source_id) = u16::try_from(device) else {
            return false;
        };
        let fault = match self.context(source_id) {
            Ok(context) if context.device_tlb => return true,
            Ok(context) => context.fault(0x44),
            Err(fault) => fault,
        };
        let request = Request {
            device,
            pasid: None,
            privileged: false,
            address: 0,
            access: Access::Read,
        };
        self.report(&request, fault, false);
        false
    }

    fn remember(&mut self, request: Request) {
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(request);
    }

    /// Walks for a request that came before, or for a neighbour of its page. Nobody is told of
    /// faults.
    pub(super) fn speculate(&mut self) {
        if self.removed || !self.registers.translates() || self.recent.is_empty() {
            return;
        }
        let random = &self.machine().random;
        let any = random.below(self.recent.len() as u64) as usize;
        let mut request = self.recent[any];
        request.access = Access::Read;
        request.address = match random.below(3) {
            0 => request.address,
            1 => request.address.wrapping_add(0x1000),
            _ => request.address.wrapping_sub(0x1000),
        };
        let _ = self.translation(&request, false);
    }

    /// Translates a request, or an ATS translation request if `for_device`.
    fn translation(&mut self, request: &Request, for_device: bool) -> Result<Translation, Fault> {
        let space = self.space(request, for_device)?;
        let PasidEntry { translates, .. } = space.entry;
        if translates == Translates::PassThrough {
            return self.pass_through(request, &space);
        }
        let leaf = self.leaf(request, &space)?;
        let mut permissions = leaf.permissions(&space.entry, space.privileged);
        if for_device {
            // A translation without the dirty bit is given out for reading only.
            permissions.write &= leaf.dirty;
            permissions.execute &= request.access == Access::Execute;
        }
        let translation = Translation {
            address: leaf.page + (request.address & ((1 << leaf.order) - 1)),
            size: 1 << leaf.order,
            permissions,
        };
        self.outside_interrupts(&space, translation)
    }

    /// The entries that say how the request is translated, and whether it may be made at all.
    fn space(&mut self, request: &Request, for_device: bool) -> Result<Space, Fault> {
        let unsupported = Refusal::UnsupportedRequest;
        let Ok(source_id) = u16::try_from(request.device) else {
            return Err(Fault::unless(true, 0, unsupported));
        };
        let context: ContextEntry = self.context(source_id)?;
        let blocked = |code| Err(context.fault(code));
        if for_device && !context.device_tlb {
            return blocked(0x44);
        }
        if request.pasid.is_some() && !context.pasids {
            return blocked(0x45);
        }
        let privileged = match request.pasid {
            Some(_) => request.privileged,
            None => context.rid_privileged,
        };
        let pasid = request.pasid.unwrap_or(context.rid_pasid);
        let entry = self.pasid(source_id, &context, pasid)?;
        if request.access == Access::Execute && !entry.execute {
            return Err(Fault::unless(entry.faults_masked, 0x5c, unsupported));
        }
        if privileged && !entry.supervisor {
            return Err(Fault::unless(entry.faults_masked, 0x5d, unsupported));
        }
        let (stage, pasid) = match entry.translates {
            Translates::First => (Stage::First, pasid),
            Translates::Nested => (Stage::Nested, pasid),
            Translates::Second | Translates::PassThrough => (Stage::Second, 0),
        };
        let domain = entry.domain;
        Ok(Space {
            entry,
            tag: Tag {
                domain,
                pasid,
                stage,
            },
            privileged,
        })
    }

    fn pass_through(&self, request: &Request, space: &Space) -> Result<Translation, Fault> {
        if request.address & self.beyond_width() != 0 {
            let masked = space.entry.faults_masked;
            return Err(Fault::unless(masked, 0x83, Refusal::UnsupportedRequest));
        }
        let translation = Translation {
            address: request.address,
            size: 0x1000,
            permissions: Permissions {
                read: true,
                write: true,
                execute: space.entry.execute,
            },
        };
        self.outside_interrupts(space, translation)
    }

    /// No translation leads into the interrupt range (3.14).
    fn outside_interrupts(
        &self,
        space: &Space,
        translation: Translation,
    ) -> Result<Translation, Fault> {
        if is_interrupt(translation.address) {
            let masked = space.entry.faults_masked;
            return Err(Fault::unless(masked, 0x87, Refusal::UnsupportedRequest));
        }
        Ok(translation)
    }

    /// The page of a request: out of the IOTLB if what is there is enough, else by a walk.
    fn leaf(&mut self, request: &Request, space: &Space) -> Result<Leaf, Fault> {
        let enough = |leaf: &Leaf| {
            let permissions = leaf.permissions(&space.entry, space.privileged);
            permissions.permit(request.access) && (leaf.dirty || request.access != Access::Write)
        };
        let cached = self.caches.translations(space.tag, request.address);
        for translated in cached {
            match translated {
                Ok(leaf) if enough(&leaf) => return Ok(leaf),
                Ok(_) => {}
                Err(fault) => return Err(fault),
            }
        }
        let walked = self.walk(request, space);
        match walked {
            Ok(leaf) => {
                let (tag, address) = (space.tag, request.address);
                self.caches
                    .keep_translation(tag, address, leaf.order, walked);
            }
            // Caching mode is about all structures but the first stage's (6.1).
            Err(fault) if self.configuration.caching_mode && is_of_second_stage(fault) => {
                let (tag, address) = (space.tag, request.address);
                self.caches.keep_translation(tag, address, 12, walked);
            }
            Err(_) => {}
        }
        walked
    }

    fn walk(&mut self, request: &Request, space: &Space) -> Result<Leaf, Fault> {
        for _ in 0..ATTEMPTS {
            let walked = match space.entry.translates {
                Translates::First | Translates::Nested => self.walk_first(request, space),
                _ => {
                    let write = request.access == Access::Write;
                    self.walk_second(&space.entry, request.address, write)
                }
            };
            match walked {
                Ok(leaf) => return Ok(leaf),
                Err(Stopped::Fault(fault)) => return Err(fault),
                Err(Stopped::Changed) => {}
            }
        }
        Err(Fault::of_table(&space.entry, 0x70))
    }
}

/// Whether the fault came from an entry of the second stage.
const fn is_of_second_stage(fault: Fault) -> bool {
    matches!(fault.code, 0x78..=0x7c)
}

/// What happens while translation is off: requests without a PASID reach memory as they are.
fn untranslated(request: &Request, for_device: bool) -> Result<Translation, Refusal> {
    if request.pasid.is_some() || for_device {
        return Err(Refusal::UnsupportedRequest);
    }
    Ok(Translation {
        address: request.address,
        size: 0x1000,
        permissions: Permissions {
            read: true,
            write: true,
            execute: true,
        },
    })
}

/// Whether the address is in the range that interrupts are written to (3.14).
const fn is_interrupt(address: u64) -> bool {
    address >> 20 == 0xfee
}
