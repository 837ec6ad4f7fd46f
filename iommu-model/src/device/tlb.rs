//! The device's TLB (address translation cache).

use crate::bus::{InvalidationRequest, Request, Translation};

/// Translations as they came, oldest first. Nothing leaves but by an invalidation request.
#[derive(Default)]
pub(super) struct DeviceTlb {
    entries: Vec<Entry>,
    numbers: u64,
}

struct Entry {
    number: u64,
    pasid: Option<u32>,
    privileged: bool,
    /// The block's first byte, virtual and physical.
    from: u64,
    to: u64,
    translation: Translation,
}

impl Entry {
    fn holds(&self, request: &Request) -> bool {
        self.pasid == request.pasid
            && self.privileged == request.privileged
            && request.address.wrapping_sub(self.from) < self.translation.size
            && self.translation.permissions.permit(request.access)
    }

    fn is_named_by(&self, request: &InvalidationRequest) -> bool {
        let pasid = self.pasid == request.pasid || request.global && request.pasid.is_some();
        // Both are aligned powers of two, so they meet where one holds the other.
        let meets = request.size == 0
            || self.from.wrapping_sub(request.address) < request.size
            || request.address.wrapping_sub(self.from) < self.translation.size;
        pasid && meets
    }
}

impl DeviceTlb {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The oldest entry that permits the request: its number, and the translation of the request's
    /// first byte.
    pub fn find(&self, request: &Request) -> Option<(u64, Translation)> {
        let entry = self.entries.iter().find(|entry| entry.holds(request))?;
        let translation = Translation {
            address: entry.to + (request.address - entry.from),
            ..entry.translation
        };
        Some((entry.number, translation))
    }

    /// Keeps the answer to a translation request; returns the entry's number.
    pub fn insert(&mut self, request: &Request, translation: Translation) -> u64 {
        let offset = request.address & (translation.size - 1);
        self.numbers += 1;
        self.entries.push(Entry {
            number: self.numbers,
            pasid: request.pasid,
            privileged: request.privileged,
            from: request.address - offset,
            to: translation.address - offset,
            translation,
        });
        self.numbers
    }

    /// Takes away what the request names; the numbers of the entries.
    pub fn invalidate(&mut self, request: &InvalidationRequest) -> Vec<u64> {
        let gone = self
            .entries
            .extract_if(.., |entry| entry.is_named_by(request));
        gone.map(|entry| entry.number).collect()
    }
}
