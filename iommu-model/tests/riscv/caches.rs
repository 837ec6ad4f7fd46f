//! Stale entries stay, and each command removes exactly its own.

use crate::bench::{
    AV, Bench, DEVICE, DPE, DV, GLOBAL, GV, GVMA, INVAL_DDT, INVAL_PDT, NL, PDTV, PSCV, READ_ONLY,
    S, SV39, V, VMA, WRITABLE, page,
};
use iommu_model::riscv::Configuration;
use iommu_model::{Access, Hardware, Policy, Refusal};

const REFUSED: Result<u64, Refusal> = Err(Refusal::NotPresent);
const ADDRESS: u64 = 0x12_3456_7000;
const FRAME: u64 = 0x8100_0000;
/// PSCID 7 in an IOTINVAL.VMA.
const TAG: u64 = PSCV | 7 << 12;

#[test]
fn a_leaf_entry_stays_until_its_page_is_invalidated() {
    let bench = Bench::new(Configuration::default());
    let root = bench.with_first_stage();
    for number in 0..4 {
        let offset = number << 12;
        bench.map(root, 3, ADDRESS + offset, FRAME + offset, WRITABLE);
        assert_eq!(bench.read(ADDRESS + offset), Ok(FRAME + offset));
        bench.map(root, 3, ADDRESS + offset, 0, 0);
    }
    let held = |number: u64| bench.read(ADDRESS + (number << 12)).is_ok();
    // Others' pages, tags and stages, and the directories.
    bench.run(&[
        [VMA | AV | TAG, page(ADDRESS + 0x4000)],
        [VMA | AV | PSCV | 8 << 12, page(ADDRESS)],
        [VMA | AV | GV | TAG, page(ADDRESS)],
        [GVMA, 0],
        [INVAL_DDT, 0],
    ]);
    assert!((0..4).all(held));
    bench.run(&[[VMA | AV | TAG, page(ADDRESS + 0x1000)]]);
    assert_eq!([0, 1, 2, 3].map(held), [true, false, true, true]);
    // 8 KiB from the third page.
    bench.run(&[[VMA | AV | TAG, page(ADDRESS + 0x2000) | S]]);
    assert_eq!([0, 1, 2, 3].map(held), [true, false, false, false]);
    bench.run(&[[VMA | TAG, 0]]);
    assert!(!held(0));
}

#[test]
fn an_entry_for_a_superpage_goes_with_any_of_its_pages() {
    let bench = Bench::new(Configuration::default());
    let root = bench.with_first_stage();
    let place = bench.entry_place(root, 3, 0x4000_0000, 1);
    bench.store(place, &[0x8120_0000 >> 12 << 10 | WRITABLE]);
    let found = bench.translate(0x4012_3456, Access::Read).unwrap();
    assert_eq!((found.address, found.size), (0x8132_3456, 2 << 20));
    bench.store(place, &[0]);
    assert!(bench.read(0x4000_0000).is_ok());
    bench.run(&[[VMA | AV | TAG, page(0x401f_f000)]]);
    assert_eq!(bench.read(0x4000_0000), REFUSED);
}

#[test]
fn contiguous_pages_are_one_entry() {
    let bench = Bench::new(Configuration::default());
    let root = bench.with_first_stage();
    let entry = 1 << 63 | 0x8101_8000 >> 12 << 10 | WRITABLE;
    for number in 0..16 {
        let place = bench.entry_place(root, 3, 0x4001_0000 + (number << 12), 0);
        bench.store(place, &[entry]);
    }
    let found = bench.translate(0x4001_5678, Access::Read).unwrap();
    assert_eq!((found.address, found.size), (0x8101_5678, 64 << 10));
    // Other sizes are reserved.
    let place = bench.entry_place(root, 3, 0x4002_0000, 0);
    bench.store(place, &[1 << 63 | 0x8102_4000 >> 12 << 10 | WRITABLE]);
    assert_eq!(bench.read(0x4002_0000), REFUSED);
}

/// The non-leaf extension: without NL an address reaches leaf entries only.
#[test]
fn a_non_leaf_entry_stays_until_it_is_named() {
    let ways: [(&str, [u64; 2], bool); 6] = [
        ("leaf, page", [VMA | AV | TAG, page(ADDRESS)], false),
        (
            "leaf, range",
            [VMA | AV | TAG, page(ADDRESS | 0x7f_f000) | S],
            false,
        ),
        (
            "non-leaf, page",
            [VMA | AV | NL | TAG, page(ADDRESS + 0x3000)],
            true,
        ),
        (
            "non-leaf, elsewhere",
            [VMA | AV | NL | TAG, page(ADDRESS + (1 << 30))],
            false,
        ),
        ("tag", [VMA | TAG, 0], true),
        ("all", [VMA, 0], true),
    ];
    for (name, command, gone) in ways {
        let bench = Bench::new(Configuration::default());
        let root = bench.with_first_stage();
        bench.map(root, 3, ADDRESS, FRAME, WRITABLE);
        bench.map(root, 3, ADDRESS + 0x1000, FRAME + 0x1000, WRITABLE);
        assert!(bench.read(ADDRESS).is_ok());
        bench.store(bench.entry_place(root, 3, ADDRESS, 1), &[0]);
        bench.run(&[command]);
        // The second page was not cached, so it takes a walk.
        assert_eq!(bench.read(ADDRESS + 0x1000).is_err(), gone, "{name}");
    }
}

#[test]
fn global_entries_serve_every_process_and_go_only_without_a_tag() {
    let bench = Bench::new(Configuration::default());
    let directory = bench.take();
    bench.set_device(DEVICE, [V | PDTV | DPE, 0, 0, 1 << 60 | directory >> 12]);
    let roots = [bench.take(), bench.take()];
    for (process, root) in roots.into_iter().enumerate() {
        let context = [V | (7 + process as u64) << 12, SV39 | root >> 12];
        bench.store(directory + 16 * process as u64, &context);
        bench.map(root, 3, ADDRESS, FRAME, WRITABLE | GLOBAL);
    }
    assert_eq!(bench.read_as(0, ADDRESS), Ok(FRAME));
    for root in roots {
        bench.map(root, 3, ADDRESS, 0, 0);
    }
    bench.run(&[
        [VMA | TAG, 0],
        [VMA | AV | TAG, page(ADDRESS)],
        [VMA | PSCV | 8 << 12, 0],
    ]);
    assert_eq!(bench.read_as(1, ADDRESS), Ok(FRAME), "one is another's");
    bench.run(&[[VMA | AV, page(ADDRESS)]]);
    assert_eq!(bench.read_as(0, ADDRESS), REFUSED);
    assert_eq!(bench.read_as(1, ADDRESS), REFUSED);
}

#[test]
fn what_is_not_valid_is_not_kept() {
    let bench = Bench::new(Configuration::default());
    assert_eq!(bench.read(ADDRESS), Err(Refusal::UnsupportedRequest));
    let root = bench.with_first_stage();
    assert_eq!(bench.read(ADDRESS), REFUSED);
    bench.map(root, 3, ADDRESS + 0x1000, FRAME, WRITABLE);
    assert_eq!(bench.read(ADDRESS), REFUSED);
    bench.map(root, 3, ADDRESS, FRAME, WRITABLE);
    assert_eq!(bench.read(ADDRESS), Ok(FRAME));
}

/// "An implementation may use any translation for an address that was valid at any time since the
/// most recent IOTINVAL that subsumes that address."
#[test]
fn a_kept_entry_without_the_right_forbids_until_it_is_invalidated() {
    for again in [false, true] {
        let bench = Bench::new(Configuration {
            walks_again_before_fault: again,
            ..Configuration::default()
        });
        let root = bench.with_first_stage();
        bench.map(root, 3, ADDRESS, FRAME, READ_ONLY);
        assert!(bench.read(ADDRESS).is_ok());
        bench.map(root, 3, ADDRESS, FRAME, WRITABLE);
        assert_eq!(bench.ask(ADDRESS, Access::Write).is_ok(), again);
        bench.run(&[[VMA | AV | TAG, page(ADDRESS)]]);
        assert_eq!(bench.ask(ADDRESS, Access::Write), Ok(FRAME));
    }
}

#[test]
fn a_device_context_stays_until_inval_ddt() {
    let bench = Bench::new(Configuration::default());
    let root = bench.with_first_stage();
    bench.map(root, 3, ADDRESS, FRAME, WRITABLE);
    assert!(bench.read(ADDRESS).is_ok());
    bench.set_device(DEVICE, [0; 4]);
    let did = u64::from(DEVICE) << 40;
    bench.run(&[
        [VMA, 0],
        [INVAL_DDT | DV | (did + (1 << 40)), 0],
        [INVAL_PDT | DV | did, 0],
    ]);
    assert!(bench.read(ADDRESS).is_ok());
    bench.run(&[[INVAL_DDT | DV | did, 0]]);
    assert_eq!(bench.read(ADDRESS), Err(Refusal::UnsupportedRequest));
    assert_eq!(bench.causes(), [258]);
}

#[test]
fn non_leaf_directory_entries_go_only_with_all() {
    let bench = Bench::new(Configuration::default());
    let root = bench.with_first_stage();
    bench.map(root, 3, ADDRESS, FRAME, WRITABLE);
    assert!(bench.read(ADDRESS).is_ok());
    bench.store(bench.ddt, &[0]);
    let did = u64::from(DEVICE) << 40;
    bench.run(&[[INVAL_DDT | DV | did, 0]]);
    assert!(bench.read(ADDRESS).is_ok());
    bench.run(&[[INVAL_DDT, 0]]);
    assert_eq!(bench.read(ADDRESS), Err(Refusal::UnsupportedRequest));
}

#[test]
fn a_process_context_stays_until_it_is_named() {
    let bench = Bench::new(Configuration::default());
    let directory = bench.take();
    bench.set_device(DEVICE, [V | PDTV, 0, 0, 3 << 60 | directory >> 12]);
    let root = bench.take();
    bench.map(root, 3, ADDRESS, FRAME, WRITABLE);
    let places = [0x12345, 0x12346].map(|process| {
        let place = bench.process_place(directory, 3, process);
        bench.store(place, &[V | 7 << 12, SV39 | root >> 12]);
        assert_eq!(bench.read_as(process, ADDRESS), Ok(FRAME));
        place
    });
    for place in places {
        bench.store(place, &[0, 0]);
    }
    let inval = INVAL_PDT | DV | u64::from(DEVICE) << 40;
    bench.run(&[
        [VMA, 0],
        [inval | 0x2345 << 12, 0],
        [(inval + (1 << 40)) | 0x12345 << 12, 0],
    ]);
    assert!(bench.read_as(0x12345, ADDRESS).is_ok());
    bench.run(&[[inval | 0x12345 << 12, 0]]);
    assert_eq!(bench.read_as(0x12345, ADDRESS), REFUSED);
    assert_eq!(bench.read_as(0x12346, ADDRESS), Ok(FRAME));
    // Its non-leaf entries go with the device.
    bench.store(directory, &[0]);
    bench.store(places[0], &[V | 7 << 12, SV39 | root >> 12]);
    assert_eq!(bench.read_as(0x12345, ADDRESS), Ok(FRAME));
    bench.run(&[[INVAL_DDT | DV | u64::from(DEVICE) << 40, 0]]);
    assert_eq!(bench.read_as(0x12345, ADDRESS), REFUSED);
    assert_eq!(bench.causes(), [266, 266]);
}

/// Entries are tagged by PSCID, not by device or process.
#[test]
fn one_tag_is_one_address_space() {
    let bench = Bench::new(Configuration::default());
    let root = bench.with_first_stage();
    bench.map(root, 3, ADDRESS, FRAME, WRITABLE);
    assert!(bench.read(ADDRESS).is_ok());
    let other = bench.take();
    bench.set_device(6, [V, 0, 7 << 12, SV39 | other >> 12]);
    let request = iommu_model::Request {
        device: 6,
        ..bench.request(ADDRESS, Access::Read)
    };
    assert!(bench.iommu.translate(&request).is_ok());
}

#[test]
fn speculation_fetches_again_and_changes_nothing_else() {
    let bench = Bench::new(Configuration::default());
    let root = bench.with_first_stage();
    bench.map(root, 3, ADDRESS, FRAME, WRITABLE);
    bench.map(root, 3, ADDRESS + 0x1000, FRAME, WRITABLE & !0xc0);
    assert!(bench.read(ADDRESS).is_ok());
    bench.run(&[[VMA, 0]]);
    assert_eq!(bench.iommu.cached_translations(), 0);
    for _ in 0..100 {
        bench.iommu.speculate();
    }
    assert_eq!(bench.iommu.cached_translations(), 1);
    bench.map(root, 3, ADDRESS, 0, 0);
    assert_eq!(bench.read(ADDRESS), Ok(FRAME));
    assert_eq!(bench.faults(), Vec::<[u64; 4]>::new());
}

#[test]
fn a_forgetful_cache_loses_entries() {
    let forgetful = Policy {
        forgetful: true,
        ..Policy::STRICT
    };
    let bench = Bench::with_policy(forgetful, 1);
    let root = bench.with_first_stage();
    bench.map(root, 3, ADDRESS, FRAME, WRITABLE);
    assert!(bench.read(ADDRESS).is_ok());
    bench.map(root, 3, ADDRESS, FRAME + 0x1000, WRITABLE);
    let changed = (0..1000).any(|_| bench.read(ADDRESS) == Ok(FRAME + 0x1000));
    assert!(changed);
}
