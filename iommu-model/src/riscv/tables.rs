//! The device directory and the process directories (chapter "Data Structures").

use super::State;
use super::configuration::Configuration;
use super::faults::{Cause, Fault};
use super::walk::Stages;
use crate::bus::Access;

/// The physical page number of directory entries and of `ddtp`: bits 53:10.
pub(super) const fn table_in_entry(entry: u64) -> u64 {
    (entry >> 10 & ((1 << 44) - 1)) << 12
}

/// The physical page number of `iohgatp`, `iosatp`, `pdtp`, `msiptp`: bits 43:0.
const fn table_in_pointer(pointer: u64) -> u64 {
    (pointer & ((1 << 44) - 1)) << 12
}

/// Bits 59:44 of `iosatp`, `pdtp` and `msiptp` are reserved.
const POINTER_RESERVED: u64 = 0xffff << 44;
/// Bits 9:1 and 63:54 of a non-leaf entry are reserved.
const NON_LEAF_RESERVED: u64 = 0x1ff << 1 | 0x3ff << 54;
/// Bits 23:12 and 63:32 of `tc` are reserved; 31:24 are for custom use.
const TC_RESERVED: u64 = 0xfff << 12 | 0xffff_ffff << 32;
/// Bits 11:0 and 63:32 of a device context's `ta`: reserved, and without QOSID so are RCID and MCID.
const DEVICE_TA_RESERVED: u64 = 0xfff | 0xffff_ffff << 32;
/// Bits 11:3 and 63:32 of a process context's `ta`.
const PROCESS_TA_RESERVED: u64 = 0x1ff << 3 | 0xffff_ffff << 32;

/// A device context, as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeviceContext(pub [u64; 8]);

/// A first-stage table with its tag.
#[derive(Clone, Copy, Debug)]
pub(super) struct FirstStage {
    pub levels: u32,
    pub root: u64,
    pub pscid: u32,
}

/// A second-stage table with its tag.
#[derive(Clone, Copy, Debug)]
pub(super) struct SecondStage {
    pub levels: u32,
    pub root: u64,
    pub gscid: u16,
}

impl DeviceContext {
    const fn control(&self, bit: u32) -> bool {
        self.0[0] >> bit & 1 == 1
    }
    pub const fn valid(&self) -> bool {
        self.control(0)
    }
    pub const fn enables_ats(&self) -> bool {
        self.control(1)
    }
    pub const fn enables_page_requests(&self) -> bool {
        self.control(2)
    }
    /// DTF.
    pub const fn disables_faults(&self) -> bool {
        self.control(4)
    }
    /// PDTV.
    pub const fn has_process_directory(&self) -> bool {
        self.control(5)
    }
    /// PRPR.
    pub const fn responses_need_pasid(&self) -> bool {
        self.control(6)
    }
    /// GADE.
    pub const fn updates_second_stage(&self) -> bool {
        self.control(7)
    }
    /// SADE.
    pub const fn updates_first_stage(&self) -> bool {
        self.control(8)
    }
    /// DPE.
    pub const fn has_default_process(&self) -> bool {
        self.control(9)
    }
    /// `pdtp.MODE`, with PDTV.
    pub const fn process_directory_mode(&self) -> u64 {
        self.0[3] >> 60
    }

    pub fn second_stage(&self, configuration: &Configuration) -> Option<SecondStage> {
        Some(SecondStage {
            levels: configuration.second_stage_levels(self.0[1] >> 60)?,
            root: table_in_pointer(self.0[1]),
            gscid: (self.0[1] >> 44) as u16,
        })
    }

    /// The first stage without PDTV.
    pub fn first_stage(&self, configuration: &Configuration) -> Option<FirstStage> {
        first_stage(configuration, self.0[3], self.0[2])
    }

    /// The MSI page table, and the mask and the pattern of the pages that it maps.
    pub fn msi_table(&self) -> Option<(u64, u64, u64)> {
        (self.0[4] >> 60 != 0).then(|| (table_in_pointer(self.0[4]), self.0[5], self.0[6]))
    }

    /// Section "Device-context configuration checks".
    fn well_formed(&self, configuration: &Configuration) -> bool {
        let [_, iohgatp, ta, fsc, msiptp, msi_mask, msi_pattern, last] = self.0;
        let tc = self.0[0];
        let ats = |bit| !self.control(bit) || configuration.ats;
        let needs = |bit, other| !self.control(bit) || self.control(other);
        let updates = self.updates_second_stage() || self.updates_first_stage();
        let first_stage = if self.has_process_directory() {
            let mode = self.process_directory_mode();
            mode == 0 || configuration.process_directory_levels(mode).is_some()
        } else {
            first_stage_is_well_formed(configuration, fsc) && !self.has_default_process()
        };
        let second_stage = iohgatp >> 60 == 0
            || configuration.second_stage_levels(iohgatp >> 60).is_some() && iohgatp & 3 == 0;
        let guest_pages = configuration.guest_address_bits() - 12;
        let msi = msiptp >> 60 <= 1
            && (msiptp >> 60 == 0 || iohgatp >> 60 != 0)
            && msiptp & POINTER_RESERVED == 0
            && (msi_mask | msi_pattern) >> guest_pages == 0
            && last == 0;
        tc & TC_RESERVED == 0
            && [1, 2, 6].into_iter().all(ats)
            && needs(2, 1)
            && needs(6, 2)
            // T2GPA, SBE and SXL are not supported.
            && [3, 10, 11].into_iter().all(|bit| !self.control(bit))
            && (configuration.amo_hwad || !updates)
            && ta & DEVICE_TA_RESERVED == 0
            && fsc & POINTER_RESERVED == 0
            && first_stage
            && second_stage
            && msi
    }
}

/// A process context, as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProcessContext([u64; 2]);

impl ProcessContext {
    const fn valid(&self) -> bool {
        self.0[0] & 1 == 1
    }
    /// ENS.
    pub const fn allows_supervisor(&self) -> bool {
        self.0[0] >> 1 & 1 == 1
    }
    /// SUM.
    pub const fn supervisor_reaches_user_pages(&self) -> bool {
        self.0[0] >> 2 & 1 == 1
    }
    pub fn first_stage(&self, configuration: &Configuration) -> Option<FirstStage> {
        first_stage(configuration, self.0[1], self.0[0])
    }

    /// Section "Process-context configuration checks".
    fn well_formed(&self, configuration: &Configuration) -> bool {
        self.0[0] & PROCESS_TA_RESERVED == 0 && first_stage_is_well_formed(configuration, self.0[1])
    }
}

fn first_stage(configuration: &Configuration, fsc: u64, ta: u64) -> Option<FirstStage> {
    Some(FirstStage {
        levels: configuration.first_stage_levels(fsc >> 60)?,
        root: table_in_pointer(fsc),
        pscid: (ta >> 12 & 0xf_ffff) as u32,
    })
}

fn first_stage_is_well_formed(configuration: &Configuration, fsc: u64) -> bool {
    fsc & POINTER_RESERVED == 0
        && (fsc >> 60 == 0 || configuration.first_stage_levels(fsc >> 60).is_some())
}

impl State {
    /// Section "Process to locate the Device-context".
    pub(super) fn locate_device(&mut self, device: u32) -> Result<DeviceContext, Fault> {
        let context = match self.caches.device(device) {
            Some(context) => context,
            None => self.read_device(device)?,
        };
        if !context.well_formed(&self.configuration) {
            return Err(Cause::DDT_ENTRY_MISCONFIGURED.into());
        }
        Ok(context)
    }

    fn read_device(&mut self, device: u32) -> Result<DeviceContext, Fault> {
        let levels = self.directory_levels();
        let leaf_bits = self.configuration.device_id_bits(1);
        let mut table = table_in_entry(self.directory);
        for level in (1..levels).rev() {
            let prefix = device >> (leaf_bits + 9 * (level - 1));
            if let Some(kept) = self.caches.device_table(level, prefix) {
                table = kept;
                continue;
            }
            let entry = self
                .memory
                .load(table + u64::from(prefix & 0x1ff) * 8)
                .map_err(|_| Cause::DDT_ENTRY_LOAD_ACCESS_FAULT)?;
            if entry & 1 == 0 {
                return Err(Cause::DDT_ENTRY_NOT_VALID.into());
            }
            if entry & NON_LEAF_RESERVED != 0 {
                return Err(Cause::DDT_ENTRY_MISCONFIGURED.into());
            }
            table = table_in_entry(entry);
            self.caches.keep_device_table(level, prefix, table);
        }
        let words = if self.configuration.msi_flat { 8 } else { 4 };
        let index = u64::from(device & ((1 << leaf_bits) - 1));
        let mut context = DeviceContext([0; 8]);
        for (word, value) in context.0.iter_mut().take(words).enumerate() {
            *value = self
                .memory
                .load(table + (index * words as u64 + word as u64) * 8)
                .map_err(|_| Cause::DDT_ENTRY_LOAD_ACCESS_FAULT)?;
        }
        if !context.valid() {
            return Err(Cause::DDT_ENTRY_NOT_VALID.into());
        }
        self.caches.keep_device(device, context);
        Ok(context)
    }

    /// Section "Process to locate the Process-context". The process id fits the directory, whose
    /// mode is not Bare. The directory lies in guest physical memory if there is a second stage.
    pub(super) fn locate_process(
        &mut self,
        device: u32,
        stages: &Stages,
        process: u32,
        access: Access,
    ) -> Result<ProcessContext, Fault> {
        let context = match self.caches.process(device, process) {
            Some(context) => context,
            None => self.read_process(device, stages, process, access)?,
        };
        if !context.well_formed(&self.configuration) {
            return Err(Cause::PDT_ENTRY_MISCONFIGURED.into());
        }
        Ok(context)
    }

    fn read_process(
        &mut self,
        device: u32,
        stages: &Stages,
        process: u32,
        access: Access,
    ) -> Result<ProcessContext, Fault> {
        let levels = stages.device.process_directory_mode() as u32;
        let mut table = table_in_pointer(stages.device.0[3]);
        for level in (1..levels).rev() {
            let prefix = process >> (8 + 9 * (level - 1));
            if let Some(kept) = self.caches.process_table(device, level, prefix) {
                table = kept;
                continue;
            }
            let address = table + u64::from(prefix & 0x1ff) * 8;
            let [entry] = self.read_process_directory(stages, address, access)?;
            if entry & 1 == 0 {
                return Err(Cause::PDT_ENTRY_NOT_VALID.into());
            }
            if entry & NON_LEAF_RESERVED != 0 {
                return Err(Cause::PDT_ENTRY_MISCONFIGURED.into());
            }
            table = table_in_entry(entry);
            self.caches.keep_process_table(device, level, prefix, table);
        }
        let address = table + u64::from(process & 0xff) * 16;
        let context = ProcessContext(self.read_process_directory(stages, address, access)?);
        if !context.valid() {
            return Err(Cause::PDT_ENTRY_NOT_VALID.into());
        }
        self.caches.keep_process(device, process, context);
        Ok(context)
    }

    fn read_process_directory<const WORDS: usize>(
        &mut self,
        stages: &Stages,
        address: u64,
        access: Access,
    ) -> Result<[u64; WORDS], Fault> {
        let address = self
            .second_stage_of_table(stages, address, access, false)
            .map_err(|fault| fault.of_process_directory())?;
        let mut words = [0; WORDS];
        for (word, value) in words.iter_mut().enumerate() {
            *value = self
                .memory
                .load(address + word as u64 * 8)
                .map_err(|_| Cause::PDT_ENTRY_LOAD_ACCESS_FAULT)?;
        }
        Ok(words)
    }
}
