//! What the modelled hardware can do, and how it says so (11.4.2, 11.4.3).

use super::registers::FRCD;

/// What the modelled hardware can do. The default is everything that the model has, with page
/// walks and table accesses that snoop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// ECAP.C: accesses to root, context and PASID tables snoop the CPU's caches.
    pub table_snoop: bool,
    /// ECAP.SMPWCS: page walks can snoop the CPU's caches.
    pub page_walk_snoop: bool,
    /// Accessed and dirty bits are also set by walks that do not snoop, as QEMU does; else such a
    /// walk faults (reasons 0x90 and 0x7c).
    pub updates_without_snoop: bool,
    /// ECAP.QI.
    pub queued_invalidation: bool,
    /// ECAP.SMTS.
    pub scalable_mode: bool,
    /// ECAP.PASID.
    pub pasids: bool,
    /// ECAP.PSS + 1: the width of a PASID in bits.
    pub pasid_bits: u8,
    /// ECAP.RPS: requests without a PASID use RID_PASID; else PASID 0.
    pub rid_pasid: bool,
    /// ECAP.DT.
    pub device_tlb: bool,
    /// ECAP.DIT.
    pub device_tlb_throttle: bool,
    /// A device-TLB invalidation is sent only after the IOTLB invalidations before it. The text of
    /// 6.5.2.11 was not at hand; what is certain is that software has to request them in this order
    /// (6.5.2.5). Without it, hardware with a free policy sends early what no fence holds back.
    pub orders_device_tlb: bool,
    /// ECAP.PRS.
    pub page_requests: bool,
    /// ECAP.PDS: wait descriptors drain page requests.
    pub page_request_drain: bool,
    /// ECAP.SRS.
    pub supervisor_requests: bool,
    /// ECAP.ERS, with ERE and NXE in PASID table entries. Revision 4.1 has withdrawn them.
    pub execute_requests: bool,
    /// ECAP.IR: as far as commands and status bits go; interrupts themselves are not modelled.
    pub interrupt_remapping: bool,
    /// ECAP.FSTS.
    pub first_stage: bool,
    /// ECAP.SSTS.
    pub second_stage: bool,
    /// ECAP.SSADS.
    pub second_stage_dirty: bool,
    /// ECAP.NEST.
    pub nested: bool,
    /// ECAP.PT.
    pub pass_through: bool,
    /// The most levels of a page table, 4 or 5 (CAP.FS5LP, CAP.SAGAW).
    pub levels: u32,
    /// CAP.FS1GP, and 1 GiB pages in the second stage.
    pub giant_pages: bool,
    /// Width of a physical address in bits.
    pub physical_bits: u32,
    /// CAP.ND.
    pub domains: u8,
    /// CAP.RWBF: in front of a memory that is not coherent, stores to tables reach the hardware only
    /// by a flush of the write buffer, snooped or not.
    pub write_buffer_flush: bool,
    /// CAP.PLMR and CAP.PHMR: the registers only, the regions protect nothing.
    pub protected_memory: bool,
    /// CAP.CM.
    pub caching_mode: bool,
    /// CAP.PSI.
    pub page_selective_invalidation: bool,
    /// CAP.MAMV: the largest order of a page-selective invalidation.
    pub largest_order: u32,
    /// CAP.DRD and CAP.DWD.
    pub drain: bool,
    /// CAP.ESRTPS.
    pub root_table_invalidates: bool,
    /// CAP.NFR + 1, at least 1.
    pub fault_records: usize,
}

impl Default for Configuration {
    fn default() -> Self {
        Self {
            table_snoop: true,
            page_walk_snoop: true,
            updates_without_snoop: false,
            queued_invalidation: true,
            scalable_mode: true,
            pasids: true,
            pasid_bits: 20,
            rid_pasid: false,
            device_tlb: true,
            device_tlb_throttle: false,
            orders_device_tlb: false,
            page_requests: true,
            page_request_drain: true,
            supervisor_requests: true,
            execute_requests: false,
            interrupt_remapping: true,
            first_stage: true,
            second_stage: true,
            second_stage_dirty: true,
            nested: true,
            pass_through: true,
            levels: 5,
            giant_pages: true,
            physical_bits: 46,
            domains: 6,
            write_buffer_flush: false,
            protected_memory: false,
            caching_mode: false,
            page_selective_invalidation: true,
            largest_order: 18,
            drain: true,
            root_table_invalidates: true,
            fault_records: 4,
        }
    }
}

impl Configuration {
    /// Hardware without snooping: table changes and page tables must be written back to memory.
    pub fn non_coherent() -> Self {
        Self {
            table_snoop: false,
            page_walk_snoop: false,
            ..Self::default()
        }
    }

    /// How many bytes the registers take.
    pub const fn register_bytes(&self) -> usize {
        FRCD + 16 * self.fault_records
    }

    /// The width of a domain-id.
    pub(super) const fn domain_bits(&self) -> u32 {
        4 + 2 * self.domains as u32
    }

    pub(super) fn capability(&self) -> u64 {
        let five = self.levels == 5;
        // SAGAW: 3, 4 and 5 levels. MGAW: the width of an input address, minus one.
        let second_stage_widths = if five { 0b1110 } else { 0b0110 };
        let widest = if five { 56 } else { 47 };
        let second_stage_pages = if self.giant_pages { 0b11 } else { 0b01 };
        fields([
            (0, self.domains.into()),
            (4, self.write_buffer_flush.into()),
            (5, self.protected_memory.into()),
            (6, self.protected_memory.into()),
            (7, self.caching_mode.into()),
            (8, second_stage_widths),
            (16, widest),
            (24, FRCD as u64 / 16),
            (34, second_stage_pages),
            (39, self.page_selective_invalidation.into()),
            (40, self.fault_records as u64 - 1),
            (48, self.largest_order.into()),
            (54, self.drain.into()),
            (55, self.drain.into()),
            (56, self.giant_pages.into()),
            (60, five.into()),
            (63, self.root_table_invalidates.into()),
        ])
    }

    pub(super) fn extended_capability(&self) -> u64 {
        fields([
            (0, self.table_snoop.into()),
            (1, self.queued_invalidation.into()),
            (2, self.device_tlb.into()),
            (3, self.interrupt_remapping.into()),
            (6, self.pass_through.into()),
            (8, super::registers::IVA as u64 / 16),
            (26, self.nested.into()),
            (29, self.page_requests.into()),
            (30, self.execute_requests.into()),
            (31, self.supervisor_requests.into()),
            (35, u64::from(self.pasid_bits) - 1),
            (40, self.pasids.into()),
            (41, self.device_tlb_throttle.into()),
            (42, self.page_request_drain.into()),
            (43, self.scalable_mode.into()),
            (45, self.second_stage_dirty.into()),
            (46, self.second_stage.into()),
            (47, self.first_stage.into()),
            (48, self.page_walk_snoop.into()),
            (49, self.rid_pasid.into()),
        ])
    }
}

fn fields<const COUNT: usize>(fields: [(u32, u64); COUNT]) -> u64 {
    fields
        .into_iter()
        .fold(0, |all, (shift, value)| all | value << shift)
}
