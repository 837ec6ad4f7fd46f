//! Stream table entries and context descriptors: their fields and when they are ILLEGAL (5.2, 5.4).

use super::caches::Regime;
use super::configuration::{Configuration, FlagUpdate, StallModel, address_width};

/// Bits `high` to `low` of `word`.
pub const fn bits(word: u64, high: u32, low: u32) -> u64 {
    word >> low & (u64::MAX >> (63 - (high - low)))
}

/// Bit `at` of `word`.
pub const fn bit(word: u64, at: u32) -> bool {
    word >> at & 1 == 1
}

/// A stream table entry.
#[derive(Clone, Copy, Debug)]
pub struct Stream<'a>(pub &'a [u64; 8]);

/// What EATS and Config together say about device TLBs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ats {
    /// Requests are refused and recorded.
    Refused,
    /// Requests are translated at every enabled stage.
    Full,
}

impl Stream<'_> {
    fn valid(&self) -> bool {
        bit(self.0[0], 0)
    }
    /// Traffic can pass: Config\[2\].
    pub fn passes(&self) -> bool {
        bit(self.0[0], 3)
    }
    pub fn stage_2(&self) -> bool {
        self.passes() && bit(self.0[0], 2)
    }
    pub fn stage_1(&self) -> bool {
        self.passes() && bit(self.0[0], 1)
    }
    /// S1Fmt; the reserved value behaves as linear.
    pub fn context_format(&self) -> u64 {
        match bits(self.0[0], 5, 4) {
            0b11 => 0b00,
            format => format,
        }
    }
    pub fn context_pointer(&self) -> u64 {
        self.0[0] & 0x00ff_ffff_ffff_ffc0
    }
    /// S1CDMax, where there are SubstreamIDs.
    pub fn log2_contexts(&self, configuration: &Configuration) -> u64 {
        if configuration.substream_bits == 0 {
            0
        } else {
            bits(self.0[0], 63, 59)
        }
    }
    /// S1DSS.
    pub fn default_substream(&self) -> u64 {
        bits(self.0[1], 1, 0)
    }
    /// PPAR.
    pub fn responses_have_pasid(&self) -> bool {
        bit(self.0[1], 18)
    }
    fn forbids_stall(&self) -> bool {
        bit(self.0[1], 27)
    }
    fn eats(&self) -> u64 {
        bits(self.0[1], 29, 28)
    }
    pub fn ats(&self, configuration: &Configuration) -> Ats {
        let translates = self.stage_1() || self.stage_2();
        if configuration.ats && translates && self.eats() == 0b01 {
            Ats::Full
        } else {
            Ats::Refused
        }
    }
    fn world(&self) -> u64 {
        bits(self.0[1], 31, 30)
    }
    fn world_ignored(&self, configuration: &Configuration) -> bool {
        !configuration.stage_1 || !configuration.hypervisor || self.stage_2() || !self.stage_1()
    }
    /// PRIVCFG and INSTCFG: 0b10 and 0b11 override, everything else uses what came in.
    pub fn overridden(&self, privilege: bool, configuration: &Configuration) -> Option<bool> {
        let field = if privilege {
            bits(self.0[1], 49, 48)
        } else {
            bits(self.0[1], 51, 50)
        };
        (configuration.override_permissions && field >= 0b10).then_some(field == 0b11)
    }
    pub fn vmid(&self) -> u16 {
        self.0[2] as u16
    }
    /// The regime, for `hosts` = CR2.E2H.
    pub fn regime(&self, hosts: bool, configuration: &Configuration) -> Regime {
        if self.world_ignored(configuration) || self.world() == 0b00 {
            Regime::El1
        } else if hosts {
            Regime::El2Host
        } else {
            Regime::El2
        }
    }
    /// S2S.
    pub fn stage_2_stalls(&self) -> bool {
        bit(self.0[2], 57)
    }
    /// S2R.
    pub fn stage_2_records(&self) -> bool {
        bit(self.0[2], 58)
    }

    /// What stage 2 walks with.
    pub fn second_stage(&self, configuration: &Configuration) -> SecondStage {
        let word = self.0[2];
        let input_bits = 64 - bits(word, 37, 32) as u8;
        let start = match bits(word, 39, 38) {
            0 => 2,
            1 => 1,
            2 => 0,
            _ => 3,
        };
        SecondStage {
            vmid: self.vmid(),
            input_bits,
            start,
            root: self.0[3] & 0x000f_ffff_ffff_fff0,
            output_bits: address_width(bits(word, 50, 48)).min(configuration.physical_bits),
            access_faults: !bit(word, 53),
            updates_accessed: bit(word, 56),
            updates_dirty: bit(word, 56) && bit(word, 55),
        }
    }

    /// Whether the entry must not be used: SteIllegal of 5.2.2, for non-secure entries.
    pub fn illegal(&self, configuration: &Configuration) -> bool {
        if !self.valid() {
            return true;
        }
        if !self.passes() {
            return false;
        }
        self.illegal_ats(configuration)
            || !self.world_ignored(configuration) && self.world() & 1 == 1
            || self.stage_1() && self.illegal_stage_1(configuration)
            || self.stage_2() && self.illegal_stage_2(configuration)
            || self.illegal_vmid(configuration)
    }

    fn illegal_ats(&self, configuration: &Configuration) -> bool {
        if !configuration.ats || !(self.stage_1() || self.stage_2()) {
            return false;
        }
        match self.eats() {
            // Split-stage ATS is not supported.
            0b10 => true,
            0b01 => self.stage_2() && self.stage_2_stalls(),
            _ => false,
        }
    }

    fn illegal_stage_1(&self, configuration: &Configuration) -> bool {
        let contexts = bits(self.0[0], 63, 59);
        !configuration.stage_1
            || self.forbids_stall() && configuration.stall_model != StallModel::Configurable
            || configuration.substream_bits != 0
                && (contexts > configuration.substream_bits.into()
                    || contexts != 0
                        && !configuration.two_level_contexts
                        && self.context_format() != 0)
            || self.context_pointer() >> configuration.physical_bits != 0
    }

    fn illegal_stage_2(&self, configuration: &Configuration) -> bool {
        let word = self.0[2];
        let stage = self.second_stage(configuration);
        let stalls_wrongly = match configuration.stall_model {
            StallModel::Configurable => false,
            StallModel::Never => self.stage_2_stalls(),
            StallModel::Always => !self.stage_2_stalls(),
        };
        let sets_access = bit(word, 56);
        let sets_dirty = bit(word, 55);
        let size_field = bits(word, 37, 32);
        let (most, least) = (
            if configuration.small_tables { 48 } else { 39 },
            (64 - u64::from(configuration.physical_bits)).max(16),
        );
        !configuration.stage_2
            || stalls_wrongly
            // S2AA64: no AArch32 tables. S2TG: 4 KiB only. S2ENDI: little-endian only.
            || !bit(word, 51)
            || bits(word, 47, 46) != 0b00
            || bit(word, 52)
            || (sets_access || sets_dirty) && configuration.flag_update == FlagUpdate::None
            || sets_dirty && configuration.flag_update == FlagUpdate::Accessed
            || !(least..=most).contains(&size_field)
            || stage.inconsistent(configuration)
            || stage.root >> stage.output_bits != 0
    }

    fn illegal_vmid(&self, configuration: &Configuration) -> bool {
        let ignored = !configuration.stage_2
            || !(self.stage_1() || self.stage_2())
            || !self.world_ignored(configuration) && self.world() != 0;
        !ignored && !configuration.vmid_16 && self.vmid() > 0xff
    }
}

/// How stage 2 walks, from a stream table entry.
#[derive(Clone, Copy, Debug)]
pub struct SecondStage {
    pub vmid: u16,
    pub input_bits: u8,
    pub start: u8,
    pub root: u64,
    pub output_bits: u8,
    /// A clear access flag faults.
    pub access_faults: bool,
    pub updates_accessed: bool,
    pub updates_dirty: bool,
}

impl SecondStage {
    /// Whether SL0 and T0SZ contradict each other: at its start the walk resolves at least one bit,
    /// and up to 16 concatenated tables (Arm ARM D8.2).
    fn inconsistent(&self, configuration: &Configuration) -> bool {
        let below = super::caches::level_shift(self.start);
        let resolved = i32::from(self.input_bits) - i32::from(below);
        !(1..=13).contains(&resolved)
            || self.start == 0 && configuration.physical_bits < 44
            || self.start == 3 && !configuration.small_tables
    }
}

/// A context descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a>(pub &'a [u64; 8]);

/// How stage 1 walks one half of the virtual addresses.
#[derive(Clone, Copy, Debug)]
pub struct FirstStage {
    pub input_bits: u8,
    pub root: u64,
    pub hierarchical: bool,
}

impl Context<'_> {
    fn valid(&self) -> bool {
        bit(self.0[0], 31)
    }
    /// EPD0 or EPD1, which the regimes without two halves ignore.
    fn disabled(&self, upper: bool, regime: Regime) -> bool {
        if regime == Regime::El2 {
            return upper;
        }
        bit(self.0[0], if upper { 30 } else { 14 })
    }
    fn size_field(&self, upper: bool) -> u64 {
        if upper {
            bits(self.0[0], 21, 16)
        } else {
            bits(self.0[0], 5, 0)
        }
    }
    fn root(&self, upper: bool) -> u64 {
        self.0[if upper { 2 } else { 1 }] & 0x000f_ffff_ffff_fff0
    }
    /// IPS, capped to the OAS.
    pub fn output_bits(&self, configuration: &Configuration) -> u8 {
        address_width(bits(self.0[0], 34, 32)).min(configuration.physical_bits)
    }
    /// A clear access flag faults: AFFD = 0.
    pub fn access_faults(&self) -> bool {
        !bit(self.0[0], 35)
    }
    /// WXN.
    pub fn writable_is_not_executable(&self) -> bool {
        bit(self.0[0], 36)
    }
    /// TBI0 or TBI1.
    pub fn ignores_top_byte(&self, upper: bool) -> bool {
        bit(self.0[0], if upper { 39 } else { 38 })
    }
    /// PAN.
    pub fn privileged_access_never(&self) -> bool {
        bit(self.0[0], 40)
    }
    /// HA.
    pub fn updates_accessed(&self) -> bool {
        bit(self.0[0], 43)
    }
    /// HD, which counts with HA only.
    pub fn updates_dirty(&self) -> bool {
        bit(self.0[0], 42) && self.updates_accessed()
    }
    /// S.
    pub fn stalls(&self) -> bool {
        bit(self.0[0], 44)
    }
    /// R.
    pub fn records(&self) -> bool {
        bit(self.0[0], 45)
    }
    /// ASET.
    pub fn aset(&self) -> bool {
        bit(self.0[0], 47)
    }
    pub fn asid(&self) -> u16 {
        (self.0[0] >> 48) as u16
    }

    /// Whether both say the same in what may be kept with a TLB entry (5.4.1): everything but V, A,
    /// R and S, and of the halves only what is not disabled.
    /// Descriptors that disable both halves fill nothing.
    pub fn agrees(&self, other: &Self) -> bool {
        const LOWER: u64 = 0x3fff;
        const UPPER: u64 = 0x3fff << 16;
        const EITHER: u64 = !(LOWER | UPPER | 1 << 31 | 0b111 << 44);
        let walks = |context: &Self| !(bit(context.0[0], 14) && bit(context.0[0], 30));
        let differing = self.0[0] ^ other.0[0];
        if !walks(self) && !walks(other) {
            return true;
        }
        let same = |half: u64, disabled: u32, root: usize| {
            bit(self.0[0], disabled) || differing & half == 0 && self.0[root] == other.0[root]
        };
        differing & EITHER == 0
            && same(LOWER, 14, 1)
            && same(UPPER, 30, 2)
            && self.0[3..5] == other.0[3..5]
    }

    /// How the half that holds `address` is walked; `None` if that is disabled or the address lies
    /// outside the range (3.4.1).
    pub fn first_stage(
        &self,
        address: u64,
        regime: Regime,
        configuration: &Configuration,
    ) -> Option<FirstStage> {
        let upper = bit(address, 55) && regime != Regime::El2;
        if self.disabled(upper, regime) {
            return None;
        }
        let input_bits = 64 - self.size_field(upper) as u8;
        let extension = if upper { u64::MAX >> input_bits } else { 0 };
        if address >> input_bits != extension {
            return None;
        }
        Some(FirstStage {
            input_bits,
            root: self.root(upper),
            // HAD0 or HAD1.
            hierarchical: !(configuration.hierarchical_disable
                && bit(self.0[if upper { 2 } else { 1 }], 1)),
        })
    }

    /// Whether the descriptor must not be used: CdIllegal of 5.4.2, for non-secure streams.
    pub fn illegal(
        &self,
        stream: Stream<'_>,
        regime: Regime,
        configuration: &Configuration,
    ) -> bool {
        let word = self.0[0];
        let stalls_wrongly = match configuration.stall_model {
            StallModel::Configurable => stream.forbids_stall() && self.stalls(),
            StallModel::Never => self.stalls(),
            StallModel::Always => !self.stalls(),
        };
        let (lower, upper) = (!self.disabled(false, regime), !self.disabled(true, regime));
        let granule_0 = bits(word, 7, 6) == 0b00;
        let granule_1 = bits(word, 23, 22) == 0b10;
        let (sets_access, sets_dirty) = (bit(word, 43), bit(word, 42));
        !self.valid()
            || stalls_wrongly
            // TERM_MODEL is 1: A must be.
            || !bit(word, 46)
            // ENDI: little-endian only. AA64.
            || (lower || upper) && bit(word, 15)
            || !bit(word, 41)
            || (sets_access || sets_dirty) && configuration.flag_update == FlagUpdate::None
            || sets_dirty && configuration.flag_update == FlagUpdate::Accessed
            || regime != Regime::El2 && !configuration.asid_16 && self.asid() > 0xff
            || lower && (!granule_0 || self.illegal_half(false, configuration))
            || upper && (!granule_1 || self.illegal_half(true, configuration))
    }

    fn illegal_half(&self, upper: bool, configuration: &Configuration) -> bool {
        let most = if configuration.small_tables { 48 } else { 39 };
        !(16..=most).contains(&self.size_field(upper))
            || self.root(upper) >> self.output_bits(configuration) != 0
    }
}
