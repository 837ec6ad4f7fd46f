//! Encodings against values that others computed: see `golden/README.md`.

extern crate alloc;

use alloc::collections::BTreeMap;
use iommu_core::cover::Block;
use iommu_core::fault::{Access, Fault, Reason};
use iommu_core::ids::{DeviceId, Pasid, PhysicalAddress, Tag};
use iommu_core::ring::CompletionWord;
use iommu_riscv::caps::Capabilities;
use iommu_riscv::faults::decode;
use iommu_riscv::spec::commands::{self, Reach};
use iommu_riscv::spec::events::{Cause, FaultRecord, TransactionType};
use iommu_riscv::spec::registers::{
    self, CommandQueueStatus, DirectoryMode, EventQueueStatus, FeaturesControl, InterruptsPending,
};
use iommu_riscv::spec::tables::{
    DeviceContext, DeviceContextFormat, FirstStageMode, ProcessAttributes, ProcessContext,
    ProcessDirectoryMode, TranslationControl, non_leaf,
};

const TAG: Tag = Tag(0xabcde);
const DEVICE: DeviceId = DeviceId(0x00ed_cba9);
const ROOT: PhysicalAddress = PhysicalAddress(0xfe_dcba_9876_5000);

fn pasid() -> Pasid {
    Pasid::new(0x98765).unwrap()
}

fn golden() -> BTreeMap<&'static str, Vec<u64>> {
    include_str!("golden/reference-model.txt")
        .lines()
        .map(|line| {
            let mut fields = line.split(' ');
            let name = fields.next().unwrap();
            let word = |field| u64::from_str_radix(field, 16).unwrap();
            (name, fields.map(word).collect())
        })
        .collect()
}

/// Compares every pair, and sees to it that a whole family of golden values was used.
fn compare(family: impl Fn(&str) -> bool, ours: &[(&str, &[u64])]) {
    let golden = golden();
    for (name, words) in ours {
        assert_eq!(golden[name], *words, "{name}");
    }
    let used: Vec<_> = ours.iter().map(|(name, _)| *name).collect();
    for name in golden.keys().filter(|name| family(name)) {
        assert!(used.contains(name), "{name} is not compared");
    }
}

#[test]
fn commands() {
    let block = |address, order| Block { address, order };
    let word = CompletionWord {
        address: PhysicalAddress(0x80_1234_5678_9abc),
        value: 0x89ab_cdef,
    };
    let rid = DeviceId(0xba98);
    compare(
        |name| name.starts_with("io") || name.starts_with("ats"),
        &[
            ("iotinval_vma_all", &commands::iotinval_vma_all()),
            ("iotinval_gvma_all", &commands::iotinval_gvma_all()),
            ("iotinval_vma_tag", &commands::iotinval_vma_tag(TAG)),
            (
                "iotinval_vma_page",
                &commands::iotinval_vma_page(TAG, 0xfedc_ba98_7654_3fff, Reach::Leaf),
            ),
            (
                "iotinval_vma_page_nl",
                &commands::iotinval_vma_page(TAG, 0x1234_5000, Reach::NonLeaf),
            ),
            (
                "iotinval_vma_8k",
                &commands::iotinval_vma_block(Tag(1), block(0x1234_4000, 1), Reach::Leaf),
            ),
            (
                "iotinval_vma_2m_nl",
                &commands::iotinval_vma_block(Tag(1), block(0x1220_0000, 9), Reach::NonLeaf),
            ),
            ("iofence", &commands::iofence()),
            ("iofence_with_word", &commands::iofence_with_word(word)),
            ("iodir_inval_ddt_all", &commands::iodir_inval_ddt_all()),
            ("iodir_inval_ddt", &commands::iodir_inval_ddt(DEVICE)),
            (
                "iodir_inval_pdt",
                &commands::iodir_inval_pdt(DEVICE, pasid()),
            ),
            (
                "ats_inval_page",
                &commands::ats_inval(rid, Pasid::UNTAGGED, block(0x1234_5678_9abc_d000, 0)),
            ),
            (
                "ats_inval_all_pasid",
                &commands::ats_inval(rid, pasid(), Block::ALL),
            ),
            (
                "ats_inval_segment",
                &commands::ats_inval(DeviceId(0xfe_ba98), Pasid::UNTAGGED, block(0x1000, 0)),
            ),
        ],
    );
}

#[test]
fn no_operand_spills_into_its_neighbour() {
    let wide = DeviceId(u32::MAX);
    let [first, _] = commands::iodir_inval_ddt(wide);
    assert_eq!(first, 0xffff_ff02_0000_0003);
    let [first, _] = commands::iotinval_vma_tag(Tag(u32::MAX));
    assert_eq!(first, 0x0000_0001_ffff_f001);
    let [_, second] = commands::iotinval_vma_page(TAG, u64::MAX, Reach::Leaf);
    assert_eq!(second, 0x3fff_ffff_ffff_fc00);
    let [attributes, _] = {
        let mode = FirstStageMode::with_levels(3);
        let context = ProcessContext::first_stage(mode, ROOT, Tag(u32::MAX));
        [context.attributes, context.first_stage_context]
    };
    assert_eq!(attributes, 0xffff_f001);
    assert_eq!(non_leaf(PhysicalAddress(u64::MAX)), 0x003f_ffff_ffff_fc01);
}

#[test]
fn ranges_of_device_tlb_invalidations() {
    let mut count = 0;
    for line in include_str!("golden/ats-payload.txt").lines() {
        let fields: Vec<_> = line
            .split(' ')
            .map(|field| u64::from_str_radix(field, 16).unwrap())
            .collect();
        let [first, last, payload] = fields[..] else {
            panic!("three fields")
        };
        let order = (0..52)
            .find(|order| first >> (12 + order) == last >> (12 + order))
            .unwrap_or(52);
        let address = match order {
            52 => 0,
            _ => first >> (12 + order) << (12 + order),
        };
        let [_, ours] = commands::ats_inval(DEVICE, pasid(), Block { address, order });
        assert_eq!(ours, payload, "{first:x}..={last:x}");
        count += 1;
    }
    assert_eq!(count, 200);
}

/// Section "Address Range Invalidation Extension" in words: X = 0 is 8 KiB; all ones under a zero
/// is everything.
#[test]
fn ranges_of_iotlb_invalidations() {
    let address = |order| {
        let block = Block { address: 0, order };
        let [_, second] = commands::iotinval_vma_block(TAG, block, Reach::Leaf);
        assert_eq!(second >> 9 & 1 == 1, order > 0);
        second >> 10
    };
    assert_eq!(address(0), 0);
    for order in 1..=52 {
        assert_eq!(address(order).trailing_ones(), order - 1);
        assert_eq!(address(order) >> order, 0);
    }
    assert_eq!(address(52), (1 << 51) - 1);
}

#[test]
fn tables() {
    let context = |mode, options| DeviceContext::process_directory(mode, ROOT, options).words();
    let both = TranslationControl::EN_ATS | TranslationControl::SADE;
    let process = |levels| {
        let mode = FirstStageMode::with_levels(levels);
        let context = ProcessContext::first_stage(mode, ROOT, TAG);
        [context.attributes, context.first_stage_context]
    };
    compare(
        |name| {
            name.starts_with("device_context")
                || name.starts_with("process_context")
                || name.starts_with("non_leaf")
        },
        &[
            (
                "device_context_pd8",
                &context(ProcessDirectoryMode::PD8, TranslationControl::empty()),
            ),
            (
                "device_context_pd17_ats_sade",
                &context(ProcessDirectoryMode::PD17, both),
            ),
            (
                "device_context_pd20_ats_sade",
                &context(ProcessDirectoryMode::PD20, both),
            ),
            ("process_context_sv39", &process(3)),
            ("process_context_sv48", &process(4)),
            ("process_context_sv57", &process(5)),
            ("non_leaf", &[non_leaf(ROOT)]),
            ("non_leaf_process", &[non_leaf(ROOT)]),
        ],
    );
}

#[test]
fn control_bits() {
    type Tc = TranslationControl;
    type Pc = ProcessAttributes;
    let tc = |bit: Tc| [bit.bits()];
    let pc = |bit: Pc| [bit.bits()];
    compare(
        |name| name.starts_with("tc.") || name.starts_with("pc."),
        &[
            ("tc.V", &tc(Tc::V)),
            ("tc.EN_ATS", &tc(Tc::EN_ATS)),
            ("tc.EN_PRI", &tc(Tc::EN_PRI)),
            ("tc.T2GPA", &tc(Tc::T2GPA)),
            ("tc.DTF", &tc(Tc::DTF)),
            ("tc.PDTV", &tc(Tc::PDTV)),
            ("tc.PRPR", &tc(Tc::PRPR)),
            ("tc.GADE", &tc(Tc::GADE)),
            ("tc.SADE", &tc(Tc::SADE)),
            ("tc.DPE", &tc(Tc::DPE)),
            ("tc.SBE", &tc(Tc::SBE)),
            ("tc.SXL", &tc(Tc::SXL)),
            ("pc.V", &pc(Pc::V)),
            ("pc.ENS", &pc(Pc::ENS)),
            ("pc.SUM", &pc(Pc::SUM)),
        ],
    );
}

#[test]
fn register_offsets_and_values() {
    let offset = |offset: usize| [offset as u64];
    compare(
        |name| name.starts_with("offset") || name.starts_with("cqb"),
        &[
            ("offset.CAPABILITIES", &offset(registers::CAPABILITIES)),
            ("offset.FCTL", &offset(registers::FCTL)),
            ("offset.DDTP", &offset(registers::DDTP)),
            ("offset.CQB", &offset(registers::CQB)),
            ("offset.CQH", &offset(registers::CQH)),
            ("offset.CQT", &offset(registers::CQT)),
            ("offset.FQB", &offset(registers::FQB)),
            ("offset.FQH", &offset(registers::FQH)),
            ("offset.FQT", &offset(registers::FQT)),
            ("offset.CQCSR", &offset(registers::CQCSR)),
            ("offset.FQCSR", &offset(registers::FQCSR)),
            ("offset.PQCSR", &offset(registers::PQCSR)),
            ("offset.IPSR", &offset(registers::IPSR)),
            ("offset.TR_REQ_IOVA", &offset(registers::TR_REQ_IOVA)),
            ("offset.TR_REQ_CTRL", &offset(registers::TR_REQ_CTL)),
            ("offset.TR_RESPONSE", &offset(registers::TR_RESPONSE)),
            (
                "ddtp_3lvl",
                &[registers::ddtp(DirectoryMode::with_levels(3), ROOT)],
            ),
            ("cqb_256", &[registers::queue_base(8, ROOT)]),
        ],
    );
    assert_eq!(DirectoryMode::OFF, DirectoryMode(0));
    assert_eq!(DirectoryMode::BARE, DirectoryMode(1));
}

#[test]
fn status_bits() {
    type Cq = CommandQueueStatus;
    type Eq = EventQueueStatus;
    type Ip = InterruptsPending;
    type Fc = FeaturesControl;
    let word = |bits: u32| [u64::from(bits)];
    compare(
        |name| {
            ["cqcsr", "fqcsr", "pqcsr", "ipsr", "fctl"].contains(&name.split('.').next().unwrap())
        },
        &[
            ("cqcsr.cqen", &word(Cq::CQEN.bits())),
            ("cqcsr.cie", &word(Cq::CIE.bits())),
            ("cqcsr.cqmf", &word(Cq::CQMF.bits())),
            ("cqcsr.cmd_to", &word(Cq::CMD_TO.bits())),
            ("cqcsr.cmd_ill", &word(Cq::CMD_ILL.bits())),
            ("cqcsr.fence_w_ip", &word(Cq::FENCE_W_IP.bits())),
            ("cqcsr.cqon", &word(Cq::CQON.bits())),
            ("cqcsr.busy", &word(Cq::BUSY.bits())),
            ("fqcsr.fqen", &word(Eq::QEN.bits())),
            ("fqcsr.fie", &word(Eq::IE.bits())),
            ("fqcsr.fqmf", &word(Eq::QMF.bits())),
            ("fqcsr.fqof", &word(Eq::QOF.bits())),
            ("fqcsr.fqon", &word(Eq::QON.bits())),
            ("fqcsr.busy", &word(Eq::BUSY.bits())),
            ("pqcsr.pqen", &word(Eq::QEN.bits())),
            ("pqcsr.pqmf", &word(Eq::QMF.bits())),
            ("pqcsr.pqof", &word(Eq::QOF.bits())),
            ("pqcsr.pqon", &word(Eq::QON.bits())),
            ("pqcsr.busy", &word(Eq::BUSY.bits())),
            ("ipsr.cip", &word(Ip::CIP.bits())),
            ("ipsr.fip", &word(Ip::FIP.bits())),
            ("ipsr.pmip", &word(Ip::PMIP.bits())),
            ("ipsr.pip", &word(Ip::PIP.bits())),
            ("fctl.be", &word(Fc::BE.bits())),
            ("fctl.wsi", &word(Fc::WSI.bits())),
            ("fctl.gxl", &word(Fc::GXL.bits())),
        ],
    );
}

/// Each golden bit alone turns exactly its own answer on.
#[test]
fn capability_bits() {
    let golden = golden();
    let with = |name: &str| Capabilities::new(golden[name][0], 0);
    assert_eq!(with("capabilities.version").version(), 0x10);
    assert_eq!(with("capabilities.pas_56").physical_address_bits(), 56);
    for (name, levels, bits) in [("Sv39", 3, 39), ("Sv48", 4, 48), ("Sv57", 5, 57)] {
        let capabilities = with(&format!("capabilities.{name}"));
        assert_eq!(capabilities.virtual_address_bits(), bits);
        for other in 0..8 {
            assert_eq!(capabilities.walks_levels(other), other == levels);
        }
    }
    for (name, bits) in [("pd8", 8), ("pd17", 17), ("pd20", 20)] {
        let capabilities = with(&format!("capabilities.{name}"));
        assert_eq!(capabilities.process_id_bits(), bits);
    }
    type Question = fn(&Capabilities) -> bool;
    let questions: [(&str, Question); 6] = [
        ("ats", Capabilities::has_ats),
        ("dbg", Capabilities::has_debug),
        ("nl", Capabilities::has_non_leaf_invalidation),
        ("s", Capabilities::has_range_invalidation),
        ("Sv32x4", Capabilities::has_second_stage),
        ("msi_flat", |capabilities| {
            capabilities.device_context_format() == DeviceContextFormat::Extended
        }),
    ];
    for (name, question) in questions {
        let mask = golden[format!("capabilities.{name}").as_str()][0];
        let second_stage = if name == "Sv32x4" { 0xe << 16 } else { 0 };
        assert!(question(&Capabilities::new(mask, 0)), "{name}");
        assert!(
            !question(&Capabilities::new(!(mask | second_stage), 0)),
            "{name}"
        );
    }
    for name in ["Sv39x4", "Sv48x4", "Sv57x4"] {
        assert!(with(&format!("capabilities.{name}")).has_second_stage());
    }
    let control = |name| with(name).wanted_control();
    assert_eq!(control("capabilities.version"), FeaturesControl::empty());
    assert_eq!(control("capabilities.igs_wsi"), FeaturesControl::WSI);
    assert_eq!(control("capabilities.igs_both"), FeaturesControl::WSI);
}

fn record(name: &str) -> FaultRecord {
    FaultRecord(golden()[name].clone().try_into().unwrap())
}

#[test]
fn fault_records() {
    assert_eq!(
        decode(record("fault_read_pasid")),
        Fault {
            device: DEVICE,
            pasid: pasid(),
            address: Some(0x3_ffff_1234_5678),
            access: Access::Read,
            reason: Reason::PageFault,
            code: 13,
        }
    );
    assert_eq!(
        decode(record("fault_write_untagged")),
        Fault {
            device: DEVICE,
            pasid: Pasid::UNTAGGED,
            address: Some(0x3_ffff_1234_5678),
            access: Access::Write,
            reason: Reason::PasidNotConfigured,
            code: 266,
        }
    );
    let unknown = record("fault_unknown");
    assert!(unknown.is_privileged());
    assert_eq!(unknown.transaction_type(), TransactionType(63));
    assert_eq!(unknown.iotval2(), 0x1111_2222_3333_4444);
    assert_eq!(
        decode(unknown),
        Fault {
            device: DeviceId(0xff_ffff),
            pasid: Pasid::MAX,
            address: None,
            access: Access::Unknown,
            reason: Reason::Other,
            code: 4095,
        }
    );
}

/// Table "Fault record CAUSE field encodings", number by number.
#[test]
fn every_cause_has_its_reason() {
    let reason = |cause: u16| decode(FaultRecord([cause.into(), 0, 0, 0])).reason;
    for cause in 0..4096 {
        let expected = match cause {
            12 | 13 | 15 | 20 | 21 | 23 => Reason::PageFault,
            256 | 258 => Reason::DeviceNotConfigured,
            266 => Reason::PasidNotConfigured,
            259 | 267 => Reason::MalformedEntry,
            1 | 5 | 7 | 257 | 265 | 268 | 269 | 274 => Reason::TableAccess,
            261..=264 | 270 | 271 | 273 => Reason::Interrupt,
            _ => Reason::Other,
        };
        assert_eq!(reason(cause), expected, "{cause}");
    }
    assert_eq!(Cause::TRANSACTION_TYPE_DISALLOWED, Cause(260));
    assert_eq!(Cause::INTERNAL_DATA_PATH_ERROR, Cause(272));
}

/// Table "Fault record TTYP field encodings"; where the type is silent, the cause may speak.
#[test]
fn every_transaction_type_has_its_access() {
    let decoded = |ttyp: u64, cause: u64| decode(FaultRecord([ttyp << 34 | cause, 0, 0x5000, 0]));
    for ttyp in 0..64 {
        let expected = match ttyp {
            1 | 5 => Access::Execute,
            2 | 6 => Access::Read,
            3 | 7 => Access::Write,
            _ => Access::Unknown,
        };
        let fault = decoded(ttyp, 258);
        assert_eq!(fault.access, expected, "{ttyp}");
        let has_address = matches!(ttyp, 1..=3 | 5..=8);
        assert_eq!(fault.address, has_address.then_some(0x5000), "{ttyp}");
    }
    assert_eq!(decoded(8, 1).access, Access::Execute);
    assert_eq!(decoded(8, 5).access, Access::Read);
    assert_eq!(decoded(8, 7).access, Access::Write);
}

/// The figures of the specification: sections "Page-Request-Queue" (PID 12, PV 32, PRIV 33, EXEC 34,
/// DID 40; R 0, W 1, L 2, index 3, page address 12) and "PAYLOAD of an ATS.PRGR command" (index 32,
/// response code 44).
#[test]
fn page_requests_and_responses_are_laid_out_as_the_figures_say() {
    use iommu_core::page_request::{Origin, PageRequest, Permissions};
    use iommu_riscv::page_requests::decode;
    use iommu_riscv::spec::commands::{ResponseCode, ats_prgr};
    use iommu_riscv::spec::events::PageRequestRecord;
    let all = PageRequest {
        device: DeviceId(0xab_cdef),
        pasid: Pasid::MAX,
        address: 0xffff_8000_0000_1000,
        permissions: Permissions {
            read: true,
            write: true,
            execute: true,
            privileged: true,
        },
        group: 0x155,
        last: true,
        origin: Origin::PageRequest,
    };
    let first = 0xf_ffff << 12 | 0b111 << 32 | 0xab_cdef << 40;
    let second = 0xffff_8000_0000_1000 | 0x155 << 3 | 0b111;
    assert_eq!(decode(PageRequestRecord([first, second])), all);
    // Without PV, PID means nothing, and reserved bits never do.
    let bare = decode(PageRequestRecord([0xffff_ffff | 0x1f << 35, 0]));
    assert_eq!(bare.pasid, Pasid::UNTAGGED);
    assert_eq!(
        (bare.device, bare.permissions),
        (DeviceId(0), Permissions::default())
    );

    let widest = ats_prgr(
        DeviceId(u32::MAX),
        Some(Pasid::MAX),
        u16::MAX,
        ResponseCode::ResponseFailure,
    );
    let operands = 0xff << 56 | 0xffff << 40 | 0b11 << 32 | 0xf_ffff << 12;
    assert_eq!(widest, [operands | 0x84, 0x1ff << 32 | 0xf << 44]);
    let plain = ats_prgr(DeviceId(0x100), None, 5, ResponseCode::InvalidRequest);
    assert_eq!(plain, [0x100 << 40 | 0x84, 5 << 32 | 1 << 44]);
}
