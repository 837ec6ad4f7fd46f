//! What the modelled SMMU implements, and the identification registers that say so (6.3.1 to
//! 6.3.8).

/// Whether the SMMU sets access and dirty flags in page tables: SMMU_IDR0.HTTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FlagUpdate {
    /// It sets none.
    None,
    /// It sets access flags.
    Accessed,
    /// It sets access flags and dirty state.
    AccessedAndDirty,
}

/// What may happen to a transaction that faults: SMMU_IDR0.STALL_MODEL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StallModel {
    /// The tables say whether it stalls.
    Configurable,
    /// It is terminated.
    Never,
    /// It stalls.
    Always,
}

/// What the modelled SMMU implements. Coherent access (SMMU_IDR0.COHACC) follows from the machine's
/// memory. Not to be had: AArch32 tables, granules but 4 KiB, 52-bit addresses, big-endian tables,
/// split-stage ATS, address translation operations, VMID wildcards, MPAM, secure and realm
/// interfaces, enhanced command queues.
#[derive(Clone, Copy, Debug)]
pub struct Configuration {
    /// Stage 1 translation: S1P.
    pub stage_1: bool,
    /// Stage 2 translation: S2P.
    pub stage_2: bool,
    /// Updates of flags in page tables: HTTU.
    pub flag_update: FlagUpdate,
    /// Broadcast TLB maintenance is announced: BTM. No CPU sends any here.
    pub broadcast_maintenance: bool,
    /// EL2 translation regimes: Hyp.
    pub hypervisor: bool,
    /// Device TLBs: ATS.
    pub ats: bool,
    /// Page requests: PRI. They need `ats`.
    pub pri: bool,
    /// Automatic page responses have the request's PASID: PPS.
    pub responses_have_pasid: bool,
    /// 16-bit rather than 8-bit ASIDs: ASID16.
    pub asid_16: bool,
    /// 16-bit rather than 8-bit VMIDs: VMID16.
    pub vmid_16: bool,
    /// Message-signalled interrupts: MSI.
    pub msi: bool,
    /// Two-level tables of context descriptors: CD2L.
    pub two_level_contexts: bool,
    /// Two-level stream tables: ST_LEVEL.
    pub two_level_streams: bool,
    /// What happens to faulting transactions: STALL_MODEL.
    pub stall_model: StallModel,
    /// How many transactions may be stalled at once: STALL_MAX. One more is terminated.
    pub stall_max: u16,
    /// Width of a StreamID in bits, at most 32: SIDSIZE.
    pub stream_bits: u8,
    /// Width of a SubstreamID in bits, at most 20; 0 for none: SSIDSIZE.
    pub substream_bits: u8,
    /// log2 of the most slots of the command queue, at most 19: CMDQS.
    pub command_queue_log2: u8,
    /// log2 of the most slots of the event queue, at most 19: EVENTQS.
    pub event_queue_log2: u8,
    /// log2 of the most slots of the page-request queue, at most 19: PRIQS.
    pub page_request_queue_log2: u8,
    /// The stream table entry can override memory attributes: ATTR_TYPES_OVR.
    pub override_types: bool,
    /// The stream table entry can override privilege and instruction: ATTR_PERMS_OVR.
    pub override_permissions: bool,
    /// TLB invalidations by range and level: RIL.
    pub range_invalidation: bool,
    /// Hierarchical permissions can be disabled: HAD.
    pub hierarchical_disable: bool,
    /// Stage 2 tells privileged execution from unprivileged: XNX.
    pub stage_2_execute_by_level: bool,
    /// Small translation tables: STT.
    pub small_tables: bool,
    /// Width of a physical address in bits: 32, 36, 40, 42, 44 or 48. OAS.
    pub physical_bits: u8,
    /// Reserved fields of commands are checked; else they are ignored (4.1.5 permits both).
    pub check_reserved: bool,
}

impl Default for Configuration {
    /// Everything that the model has, with stalls left to the tables.
    fn default() -> Self {
        Self {
            stage_1: true,
            stage_2: true,
            flag_update: FlagUpdate::AccessedAndDirty,
            broadcast_maintenance: true,
            hypervisor: true,
            ats: true,
            pri: true,
            responses_have_pasid: false,
            asid_16: true,
            vmid_16: true,
            msi: true,
            two_level_contexts: true,
            two_level_streams: true,
            stall_model: StallModel::Configurable,
            stall_max: 64,
            stream_bits: 16,
            substream_bits: 20,
            command_queue_log2: 10,
            event_queue_log2: 7,
            page_request_queue_log2: 7,
            override_types: true,
            override_permissions: true,
            range_invalidation: true,
            hierarchical_disable: true,
            stage_2_execute_by_level: true,
            small_tables: true,
            physical_bits: 48,
            check_reserved: true,
        }
    }
}

/// The widths that IPS, PS and OAS encode, from 0 (6.3.6). 52 bits and more are not modelled, so
/// every greater encoding stands for 48.
pub const ADDRESS_WIDTHS: [u8; 6] = [32, 36, 40, 42, 44, 48];

/// The width that an encoding of IPS or S2PS stands for.
pub fn address_width(encoding: u64) -> u8 {
    ADDRESS_WIDTHS[(encoding as usize).min(ADDRESS_WIDTHS.len() - 1)]
}

impl Configuration {
    /// SMMU_IDR0 to SMMU_IDR5.
    pub(super) fn identification(&self, coherent: bool) -> [u32; 6] {
        let bit = |set: bool, at: u32| u32::from(set) << at;
        let stall_model = match self.stall_model {
            StallModel::Configurable => 0b00,
            StallModel::Never => 0b01,
            StallModel::Always => 0b10,
        };
        let idr0 = bit(self.stage_2, 0)
            | bit(self.stage_1, 1)
            // TTF: AArch64 only.
            | 0b10 << 2
            | bit(coherent, 4)
            | bit(self.broadcast_maintenance, 5)
            | (self.flag_update as u32) << 6
            | bit(self.hypervisor, 9)
            | bit(self.ats, 10)
            // NS1ATS: no split-stage ATS.
            | 1 << 11
            | bit(self.asid_16, 12)
            | bit(self.msi, 13)
            | bit(self.pri, 16)
            | bit(self.vmid_16, 18)
            | bit(self.two_level_contexts, 19)
            // TTENDIAN: little-endian only.
            | 0b10 << 21
            | stall_model << 24
            // TERM_MODEL: terminated transactions are always aborted.
            | 1 << 26
            | bit(self.two_level_streams, 27);
        let idr1 = u32::from(self.stream_bits)
            | u32::from(self.substream_bits) << 6
            | u32::from(self.page_request_queue_log2) << 11
            | u32::from(self.event_queue_log2) << 16
            | u32::from(self.command_queue_log2) << 21
            | bit(self.override_permissions, 26)
            | bit(self.override_types, 27);
        let idr3 = bit(self.hierarchical_disable, 2)
            | bit(self.stage_2_execute_by_level, 4)
            | bit(self.responses_have_pasid, 5)
            | bit(self.small_tables, 9)
            | bit(self.range_invalidation, 10)
            // BBML: level 2.
            | 0b10 << 11;
        let width = ADDRESS_WIDTHS.iter().position(|&w| w == self.physical_bits);
        let width = width.expect("a width that OAS can encode") as u32;
        // GRAN4K.
        let idr5 = width | 1 << 4 | u32::from(self.stall_max) << 16;
        [idr0, idr1, 0, idr3, 0, idr5]
    }

    /// SMMU_AIDR: range invalidation is mandatory from SMMUv3.2 on (4.4.1.1).
    pub(super) fn architecture(&self) -> u32 {
        if self.range_invalidation { 2 } else { 1 }
    }

    /// The bits of a physical address.
    pub(super) fn physical_mask(&self) -> u64 {
        (1 << self.physical_bits) - 1
    }
}
