//! The scalable-mode root table, context tables, PASID directory and PASID tables (chapter 9).

use super::State;
use super::requests::Fault;
use super::walk::PAGE;
use crate::bus::Refusal;

/// A scalable-mode context entry (9.4), as far as it decides anything here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContextEntry {
    directory: u64,
    directory_order: u32,
    faults_masked: bool,
    pub device_tlb: bool,
    pub pasids: bool,
    pub page_requests: bool,
    pub rid_pasid: u32,
    pub rid_privileged: bool,
}

impl ContextEntry {
    /// A fault of a request of this device.
    pub const fn fault(&self, code: u8) -> Fault {
        Fault::unless(self.faults_masked, code, Refusal::UnsupportedRequest)
    }

    /// The width of the PASIDs that the directory has room for.
    pub const fn pasid_order(&self) -> u32 {
        self.directory_order + TABLE_ORDER
    }
}

/// PGTT of a PASID table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Translates {
    First,
    Second,
    Nested,
    PassThrough,
}

/// A scalable-mode PASID table entry (9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PasidEntry {
    pub domain: u16,
    pub translates: Translates,
    pub faults_masked: bool,
    pub snoops: bool,
    pub first_root: u64,
    pub first_levels: u32,
    pub supervisor: bool,
    pub execute: bool,
    /// WPE: supervisor writes need the R/W bit too.
    pub write_protect: bool,
    /// NXE: bit 63 of a first-stage entry is XD; else it is ignored.
    pub no_execute: bool,
    /// SMEP: no supervisor fetches from user pages.
    pub supervisor_fetch_protect: bool,
    pub second_root: u64,
    /// 3 to 5 levels by AW.
    pub second_levels: u32,
    /// SSADE.
    pub second_dirty: bool,
}

/// Entries in a PASID table, as a power of two.
const TABLE_ORDER: u32 = 6;

impl State {
    /// The context entry of a device: out of the cache, or read and cached.
    pub(super) fn context(&mut self, source_id: u16) -> Result<ContextEntry, Fault> {
        if let Some(cached) = self.caches.context(source_id) {
            return cached;
        }
        let entry = self.read_context(source_id);
        if entry.is_ok() || self.configuration.caching_mode {
            self.caches.keep_context(source_id, entry);
        }
        entry
    }

    fn read_context(&mut self, source_id: u16) -> Result<ContextEntry, Fault> {
        let root = self.registers.root;
        // TTM: 01b is scalable mode. The legacy mode is not modelled.
        if root >> 10 & 0b11 != 0b01 {
            return Err(Fault::always(0x30, Refusal::UnsupportedRequest));
        }
        let (bus, device_function) = (u64::from(source_id >> 8), u64::from(source_id & 0xff));
        let half = device_function >> 7;
        let word = self
            .table_word((root & PAGE) + 16 * bus + 8 * half)
            .ok_or(Fault::always(0x38, Refusal::CompleterAbort))?;
        if word & 1 == 0 {
            return Err(Fault::always(0x39, Refusal::UnsupportedRequest));
        }
        if word & (0xffe | self.beyond_width()) != 0 {
            return Err(Fault::always(0x3a, Refusal::UnsupportedRequest));
        }
        let at = (word & PAGE) + 32 * (device_function & 0x7f);
        let words = self
            .table_words::<4>(at)
            .ok_or(Fault::always(0x40, Refusal::CompleterAbort))?;
        self.decode_context(words)
    }

    fn decode_context(&self, words: [u64; 4]) -> Result<ContextEntry, Fault> {
        let faults_masked = words[0] >> 1 & 1 != 0;
        let fault = |code| {
            Err(Fault::unless(
                faults_masked,
                code,
                Refusal::UnsupportedRequest,
            ))
        };
        if words[0] & 1 == 0 {
            return fault(0x41);
        }
        let configuration = &self.configuration;
        let mut reserved = 0x1e0 | self.beyond_width();
        if !configuration.device_tlb {
            reserved |= 1 << 2;
        }
        if !configuration.page_requests {
            reserved |= 1 << 4;
        }
        if words[0] & reserved | words[1] >> 21 | words[2] | words[3] != 0 {
            return fault(0x42);
        }
        let entry = ContextEntry {
            directory: words[0] & PAGE,
            directory_order: (words[0] >> 9 & 0b111) as u32 + 7,
            faults_masked,
            device_tlb: words[0] >> 2 & 1 != 0,
            pasids: words[0] >> 3 & 1 != 0,
            page_requests: words[0] >> 4 & 1 != 0,
            // Without ECAP.RPS, RID_PASID is taken for 0.
            rid_pasid: if configuration.rid_pasid {
                (words[1] & 0xf_ffff) as u32
            } else {
                0
            },
            rid_privileged: words[1] >> 20 & 1 != 0,
        };
        if entry.rid_privileged && !configuration.supervisor_requests {
            return fault(0x43);
        }
        if entry.rid_pasid >> entry.pasid_order() != 0 {
            return fault(0x48);
        }
        Ok(entry)
    }

    /// The PASID table entry of a device: out of the cache, or read and cached.
    pub(super) fn pasid(
        &mut self,
        source_id: u16,
        context: &ContextEntry,
        pasid: u32,
    ) -> Result<PasidEntry, Fault> {
        if let Some(cached) = self.caches.pasid(source_id, pasid) {
            return cached;
        }
        let entry = self.read_pasid(context, pasid);
        if entry.is_ok() || self.configuration.caching_mode {
            self.caches.keep_pasid(source_id, pasid, entry);
        }
        entry
    }

    fn read_pasid(&mut self, context: &ContextEntry, pasid: u32) -> Result<PasidEntry, Fault> {
        let refusal = Refusal::UnsupportedRequest;
        let masked = context.faults_masked;
        if pasid >> context.pasid_order() != 0 {
            return Err(Fault::unless(masked, 0x46, refusal));
        }
        let word = self
            .table_word(context.directory + 8 * u64::from(pasid >> TABLE_ORDER))
            .ok_or(Fault::always(0x50, Refusal::CompleterAbort))?;
        let masked = masked || word >> 1 & 1 != 0;
        if word & 1 == 0 {
            return Err(Fault::unless(masked, 0x51, refusal));
        }
        if word & (0xffc | self.beyond_width()) != 0 {
            return Err(Fault::unless(masked, 0x52, refusal));
        }
        let at = (word & PAGE) + 64 * u64::from(pasid & 0x3f);
        let words = self
            .table_words::<8>(at)
            .ok_or(Fault::always(0x58, Refusal::CompleterAbort))?;
        let masked = masked || words[0] >> 1 & 1 != 0;
        self.decode_pasid(words)
            .map(|entry| PasidEntry {
                faults_masked: masked,
                ..entry
            })
            .map_err(|code| Fault::unless(masked, code, refusal))
    }

    /// What the words of an entry say, or the fault reason that they deserve.
    fn decode_pasid(&self, words: [u64; 8]) -> Result<PasidEntry, u8> {
        let bit = |word: usize, bit: u32| words[word] >> bit & 1 != 0;
        if !bit(0, 0) {
            return Err(0x59);
        }
        let configuration = &self.configuration;
        // Memory types (MTS) are not modelled: bits 25 to 31 and PAT are reserved then.
        let second = 0xffff_ffff_0000_0000 | 0xfe00_0000 | 0x007f_0000;
        if words[0] & (0xc00 | self.beyond_width()) != 0
            || words[1] & second != 0
            || words[2] & (0xf00 | self.beyond_width()) != 0
            || words[3..].iter().any(|&word| word != 0)
        {
            return Err(0x5a);
        }
        let (translates, supported) = match words[0] >> 6 & 0b111 {
            1 => (Translates::First, configuration.first_stage),
            2 => (Translates::Second, configuration.second_stage),
            3 => (Translates::Nested, configuration.nested),
            4 => (Translates::PassThrough, configuration.pass_through),
            _ => return Err(0x5b),
        };
        let address_width = words[0] >> 2 & 0b111;
        let uses_second = matches!(translates, Translates::Second | Translates::Nested);
        let second_levels = match address_width {
            1..=3 => address_width as u32 + 2,
            _ if uses_second => return Err(0x5b),
            _ => 0,
        };
        if uses_second && second_levels > configuration.levels {
            return Err(0x5b);
        }
        let first_levels = match words[2] >> 2 & 0b11 {
            0 => 4,
            1 if configuration.levels >= 5 => 5,
            _ => return Err(0x5b),
        };
        let entry = PasidEntry {
            domain: words[1] as u16,
            translates,
            faults_masked: false,
            snoops: configuration.page_walk_snoop && bit(1, 23),
            first_root: words[2] & PAGE,
            first_levels,
            supervisor: bit(2, 0),
            execute: bit(2, 1),
            write_protect: bit(2, 4),
            no_execute: bit(2, 5),
            supervisor_fetch_protect: bit(2, 6),
            second_root: words[0] & PAGE,
            second_levels,
            second_dirty: bit(0, 9),
        };
        let legal = supported
            && (!entry.supervisor || configuration.supervisor_requests)
            && (!entry.execute || configuration.execute_requests)
            && (!entry.second_dirty || configuration.second_stage_dirty)
            && (!bit(1, 23) || configuration.page_walk_snoop)
            && u32::from(entry.domain) >> configuration.domain_bits() == 0;
        if legal { Ok(entry) } else { Err(0x5b) }
    }

    /// Bits of an address that are beyond what the hardware has.
    pub(super) fn beyond_width(&self) -> u64 {
        !((1u64 << self.configuration.physical_bits) - 1)
    }

    fn snoops_tables(&self) -> bool {
        let configuration = &self.configuration;
        configuration.table_snoop && !configuration.write_buffer_flush
    }

    fn table_word(&self, at: u64) -> Option<u64> {
        self.load(at, self.snoops_tables())
    }

    fn table_words<const WORDS: usize>(&self, at: u64) -> Option<[u64; WORDS]> {
        let mut words = [0; WORDS];
        for (word, at) in words.iter_mut().zip((at..).step_by(8)) {
            *word = self.table_word(at)?;
        }
        Some(words)
    }
}
