//! Page tables: formats, rights, accessed and dirty bits, the second stage and both together.

use crate::bench::{
    AV, Bench, DEVICE, DPE, EN_ATS, EXECUTABLE, FQCSR, GADE, GV, GVMA, NL, PDTV, PSCV, READ_ONLY,
    SADE, SV39, V, VMA, WRITABLE, page,
};
use iommu_model::riscv::Configuration;
use iommu_model::{Access, Hardware, Refusal, Request};

const ADDRESS: u64 = 0x12_3456_7000;
const FRAME: u64 = 0x8100_0000;
const REFUSED: Result<u64, Refusal> = Err(Refusal::NotPresent);
const GSCID: u64 = 0x1234 << 44;

/// A second stage of three levels, and its root.
fn guest(bench: &Bench) -> u64 {
    bench.memory().take(16 << 10, 16 << 10).unwrap()
}

/// Maps the pages of the machine's memory from `from` to themselves for the guest.
fn map_through(bench: &Bench, guest: u64, from: u64, pages: u64) {
    for number in 0..pages {
        let at = from + 4096 * number;
        bench.map(guest, 3, at, at, WRITABLE);
    }
}

#[test]
fn three_to_five_levels_are_walked_and_addresses_are_sign_extended() {
    for levels in 3..=5 {
        let bench = Bench::new(Configuration::default());
        let root = bench.take();
        let mode = u64::from(5 + levels) << 60;
        bench.set_device(DEVICE, [V, 0, 7 << 12, mode | root >> 12]);
        let bits = 12 + 9 * levels;
        let (low, high) = ((1 << (bits - 1)) - 4096, u64::MAX << (bits - 1));
        for address in [low, high] {
            let index = address & ((1 << bits) - 1);
            bench.map(root, levels, index, FRAME, WRITABLE);
            assert_eq!(bench.read(address), Ok(FRAME));
        }
        assert_eq!(bench.read(low + 4096), REFUSED);
        assert_eq!(bench.read(high - 4096), REFUSED);
    }
}

#[test]
fn modes_that_are_not_there_make_a_context_malformed() {
    for modes in 0..3 {
        let configuration = Configuration {
            first_stage_modes: modes,
            ..Configuration::default()
        };
        let bench = Bench::new(configuration);
        let mode = u64::from(8 + modes) << 60;
        bench.set_device(DEVICE, [V, 0, 0, mode]);
        assert_eq!(bench.read(0), Err(Refusal::UnsupportedRequest));
        assert_eq!(bench.causes(), [259]);
    }
}

#[test]
fn rights_are_those_of_the_entry() {
    // V, A and D with: R; W; RW; X; RX; WX; RWX; and U or not.
    let rights = [
        (2, [true, false, false]),
        (4, [false; 3]),
        (6, [true, true, false]),
        (8, [false, false, true]),
        (10, [true, false, true]),
        (12, [false; 3]),
        (14, [true, true, true]),
    ];
    for (bits, expected) in rights {
        let bench = Bench::new(Configuration::default());
        let root = bench.with_first_stage();
        bench.map(root, 3, ADDRESS, FRAME, 0xd1 | bits);
        bench.map(root, 3, ADDRESS + 0x1000, FRAME, 0xc1 | bits);
        let accesses = [Access::Read, Access::Write, Access::Execute];
        let found = accesses.map(|access| bench.ask(ADDRESS, access).is_ok());
        assert_eq!(found, expected, "{bits:#x}");
        for access in accesses {
            assert_eq!(bench.ask(ADDRESS + 0x1000, access), REFUSED);
        }
    }
}

#[test]
fn supervisor_rights_come_from_the_process_context() {
    for (context, user_page, supervisor_page) in [
        (0, None, None),
        (2, Some(false), Some(true)),
        (6, Some(true), Some(true)),
    ] {
        let bench = Bench::new(Configuration::default());
        let (directory, root) = (bench.take(), bench.take());
        bench.set_device(DEVICE, [V | PDTV, 0, 0, 1 << 60 | directory >> 12]);
        bench.store(directory + 16, &[V | context | 7 << 12, SV39 | root >> 12]);
        bench.map(root, 3, ADDRESS, FRAME, EXECUTABLE);
        bench.map(root, 3, ADDRESS + 0x1000, FRAME, EXECUTABLE & !0x10);
        let ask = |address, access| {
            let request = Request {
                pasid: Some(1),
                privileged: true,
                ..bench.request(address, access)
            };
            bench.iommu.translate(&request)
        };
        for (address, expected) in [(ADDRESS, user_page), (ADDRESS + 0x1000, supervisor_page)] {
            let found = ask(address, Access::Read);
            match expected {
                None => assert_eq!(found, Err(Refusal::UnsupportedRequest)),
                Some(permitted) => assert_eq!(found.is_ok(), permitted),
            }
        }
        assert!(ask(ADDRESS, Access::Execute).is_err(), "whatever SUM says");
        let expected = supervisor_page == Some(true);
        assert_eq!(ask(ADDRESS + 0x1000, Access::Execute).is_ok(), expected);
    }
}

#[test]
fn reserved_bits_of_entries_fault() {
    let bench = Bench::new(Configuration {
        svpbmt: false,
        ..Configuration::default()
    });
    let root = bench.with_first_stage();
    let leaf = bench.entry_place(root, 3, ADDRESS, 0);
    let middle = bench.entry_place(root, 3, ADDRESS, 1);
    let (good_leaf, good_middle) = (FRAME >> 12 << 10 | WRITABLE, bench.load(middle));
    let read = |place, entry| {
        bench.store(place, &[entry]);
        let found = bench.read(ADDRESS);
        bench.run(&[[VMA, 0]]);
        found
    };
    for bit in 54..64 {
        assert_eq!(read(leaf, good_leaf | 1 << bit), REFUSED, "leaf {bit}");
    }
    assert_eq!(read(leaf, good_leaf), Ok(FRAME));
    for bit in [4, 6, 7].into_iter().chain(54..64) {
        assert_eq!(read(middle, good_middle | 1 << bit), REFUSED, "{bit}");
    }
    // Reserved for software.
    for bit in [8, 9] {
        assert_eq!(read(middle, good_middle | 1 << bit), Ok(FRAME));
    }
    // A superpage must be aligned; the last level has no table below.
    assert_eq!(read(middle, good_leaf & !0x7_fc00 | 1 << 10), REFUSED);
    assert_eq!(read(middle, good_middle), Ok(FRAME));
    assert_eq!(read(leaf, FRAME >> 12 << 10 | 1), REFUSED);
    // No memory: a read access fault.
    bench.causes();
    bench.write32(FQCSR, 1 | 1 << 9);
    assert_eq!(read(middle, 1), Err(Refusal::CompleterAbort));
    assert_eq!(bench.causes(), [5]);
}

#[test]
fn accessed_and_dirty_bits_are_updated_or_demanded() {
    for (control, updates) in [(0, false), (SADE, true)] {
        let bench = Bench::new(Configuration::default());
        let root = bench.take();
        let words = [V | EN_ATS | control, 0, 7 << 12, SV39 | root >> 12];
        bench.set_device(DEVICE, words);
        bench.map(root, 3, ADDRESS, FRAME, WRITABLE & !0xc0);
        let bits = || bench.load(bench.entry_place(root, 3, ADDRESS, 0)) >> 6 & 3;
        let request = |access| bench.request(ADDRESS, access);
        let read = bench.iommu.translate_for_device(&request(Access::Read));
        // A right to write is given only with the D bit.
        assert_eq!(read.is_ok_and(|found| !found.permissions.write), updates);
        assert_eq!(bits(), u64::from(updates));
        let write = bench.iommu.translate_for_device(&request(Access::Write));
        assert_eq!(write.is_ok_and(|found| found.permissions.write), updates);
        assert_eq!(bits(), 3 * u64::from(updates));
    }
}

/// An update does not touch an entry that is not the one that was checked.
#[test]
fn an_update_looks_at_the_entry_again() {
    let bench = Bench::new(Configuration::default());
    let root = bench.take();
    bench.set_device(DEVICE, [V | SADE, 0, 7 << 12, SV39 | root >> 12]);
    bench.map(root, 3, ADDRESS, FRAME, WRITABLE & !0x80);
    assert!(bench.read(ADDRESS).is_ok());
    // Clean in the cache; gone in memory.
    bench.map(root, 3, ADDRESS, 0, 0);
    assert_eq!(bench.ask(ADDRESS, Access::Write), REFUSED);
    assert_eq!(bench.load(bench.entry_place(root, 3, ADDRESS, 0)), 0);
    assert_eq!(
        bench.read(ADDRESS),
        Ok(FRAME),
        "the old entry is still there"
    );
}

#[test]
fn a_second_stage_alone_translates_guest_addresses() {
    let bench = Bench::new(Configuration::default());
    let guest = guest(&bench);
    bench.set_device(DEVICE, [V, SV39 | GSCID | guest >> 12, 0, 0]);
    // The top level has 2048 entries.
    let high = (1 << 41) - 4096;
    bench.map(guest, 3, high, FRAME, READ_ONLY);
    bench.map(guest, 3, ADDRESS, FRAME, READ_ONLY & !0x10);
    assert_eq!(bench.read(high + 8), Ok(FRAME + 8));
    assert_eq!(bench.ask(high, Access::Write), REFUSED);
    assert_eq!(bench.read(high + 4096), REFUSED);
    assert_eq!(bench.read(ADDRESS), REFUSED, "U is needed always");
    let records = bench.faults();
    let told = records.iter().map(|record| (record[0] & 0xfff, record[3]));
    let expected = [(23, high), (21, high + 4096), (21, ADDRESS)];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    // First-stage commands do not concern it.
    bench.map(guest, 3, high, 0, 0);
    bench.run(&[
        [VMA, 0],
        [VMA | GV | GSCID, 0],
        [GVMA | GV | AV | GSCID, page(ADDRESS)],
    ]);
    bench.run(&[[GVMA | GV | (GSCID + (1 << 44)), 0]]);
    assert!(bench.read(high).is_ok());
    bench.run(&[[GVMA | GV | AV | GSCID, page(high)]]);
    assert_eq!(bench.read(high), REFUSED);
}

#[test]
fn a_root_of_the_second_stage_is_aligned_to_16_kib() {
    let bench = Bench::new(Configuration::default());
    let guest = guest(&bench);
    bench.set_device(DEVICE, [V, SV39 | ((guest >> 12) + 1), 0, 0]);
    assert_eq!(bench.read(0), Err(Refusal::UnsupportedRequest));
    assert_eq!(bench.causes(), [259]);
}

#[test]
fn both_stages_are_kept_apart() {
    let bench = Bench::new(Configuration::default());
    let (guest, root) = (guest(&bench), bench.take());
    let words = [V, SV39 | GSCID | guest >> 12, 7 << 12, SV39 | root >> 12];
    bench.set_device(DEVICE, words);
    let page_frame = 0x9000_0000;
    bench.map(root, 3, ADDRESS, page_frame, WRITABLE);
    map_through(&bench, guest, 0x8000_0000, 64);
    bench.map(guest, 3, page_frame, FRAME, WRITABLE);
    assert_eq!(bench.read(ADDRESS + 4), Ok(FRAME + 4));

    // Each alone: the other's entry is still there.
    bench.map(guest, 3, page_frame, FRAME + 0x1000, WRITABLE);
    bench.run(&[[VMA | GV | AV | PSCV | 7 << 12 | GSCID, page(ADDRESS)]]);
    assert_eq!(bench.read(ADDRESS), Ok(FRAME));
    bench.map(root, 3, ADDRESS, page_frame + 0x1000, WRITABLE);
    bench.run(&[[GVMA | GV | AV | NL | GSCID, page(page_frame)]]);
    assert_eq!(bench.read(ADDRESS), Ok(FRAME + 0x1000));
    // The host's commands do not concern a guest.
    bench.run(&[[VMA, 0], [VMA | AV | PSCV | 7 << 12, page(ADDRESS)]]);
    assert_eq!(bench.read(ADDRESS), Ok(FRAME + 0x1000));
    bench.run(&[[VMA | GV | PSCV | 7 << 12 | GSCID, 0]]);
    assert_eq!(bench.read(ADDRESS), REFUSED);
    let expected = page_frame + 0x1000;
    assert_eq!(bench.faults()[0][3], expected, "of the access itself");
}

#[test]
fn a_fault_on_the_way_through_a_first_stage_table_says_so() {
    for (updates, entry_rights, expected) in [(0, 0, 0b01), (SADE, READ_ONLY, 0b11)] {
        let bench = Bench::new(Configuration::default());
        let guest = guest(&bench);
        let root = bench.take();
        let words = [V | updates, SV39 | guest >> 12, 7 << 12, SV39 | root >> 12];
        bench.set_device(DEVICE, words);
        bench.map(root, 3, ADDRESS, 0x9000_0000, WRITABLE & !0xc0);
        let place = bench.entry_place(root, 3, ADDRESS, 0);
        for level in 1..3 {
            let table = bench.entry_place(root, 3, ADDRESS, level) & !0xfff;
            bench.map(guest, 3, table, table, READ_ONLY);
        }
        bench.map(guest, 3, place & !0xfff, place & !0xfff, entry_rights);
        assert_eq!(bench.ask(ADDRESS, Access::Execute), REFUSED);
        bench.faults();
        assert_eq!(bench.ask(ADDRESS, Access::Write), REFUSED);
        let record = bench.faults()[0];
        assert_eq!((record[0] & 0xfff, record[3]), (23, place | expected));
    }
}

#[test]
fn second_stage_bits_are_updated_with_gade() {
    let bench = Bench::new(Configuration::default());
    let guest = guest(&bench);
    bench.set_device(DEVICE, [V | GADE, SV39 | guest >> 12, 0, 0]);
    bench.map(guest, 3, ADDRESS, FRAME, WRITABLE & !0xc0);
    let bits = || bench.load(bench.entry_place(guest, 3, ADDRESS, 0)) >> 6 & 3;
    assert!(bench.read(ADDRESS).is_ok());
    assert_eq!(bits(), 1);
    assert!(bench.ask(ADDRESS, Access::Write).is_ok());
    assert_eq!(bits(), 3);
}

#[test]
fn a_process_directory_of_a_guest_lies_in_guest_memory() {
    let bench = Bench::new(Configuration::default());
    let (guest, root) = (guest(&bench), bench.take());
    let (directory, elsewhere) = (bench.take(), 0x9000_0000);
    let iohgatp = SV39 | guest >> 12;
    bench.set_device(
        DEVICE,
        [V | PDTV | DPE, iohgatp, 0, 1 << 60 | elsewhere >> 12],
    );
    bench.store(directory, &[V | 7 << 12, SV39 | root >> 12]);
    bench.map(root, 3, ADDRESS, ADDRESS, WRITABLE);
    assert_eq!(bench.read(ADDRESS), REFUSED);
    assert_eq!(bench.faults()[0][3], elsewhere | 1);
    bench.map(guest, 3, elsewhere, directory, READ_ONLY);
    map_through(&bench, guest, 0x8000_0000, 64);
    bench.map(guest, 3, ADDRESS, FRAME, WRITABLE);
    assert_eq!(bench.read(ADDRESS), Ok(FRAME));
}

#[test]
fn the_smaller_block_of_two_stages_counts() {
    let bench = Bench::new(Configuration::default());
    let (guest, root) = (guest(&bench), bench.take());
    let words = [V, SV39 | guest >> 12, 7 << 12, SV39 | root >> 12];
    bench.set_device(DEVICE, words);
    map_through(&bench, guest, 0x8000_0000, 64);
    let large = bench.entry_place(root, 3, 0x4000_0000, 1);
    bench.store(large, &[0x9000_0000 >> 12 << 10 | WRITABLE | 2 << 61]);
    bench.map(guest, 3, 0x9000_3000, FRAME, WRITABLE);
    let found = bench.translate(0x4000_3123, Access::Read).unwrap();
    assert_eq!((found.address, found.size), (FRAME + 0x123, 4096));
}

/// Section "Process to translate addresses of MSIs".
#[test]
fn pages_of_interrupt_files_have_a_table_of_their_own() {
    let bench = Bench::new(Configuration::default());
    let guest = guest(&bench);
    bench.set_device(DEVICE, [V | EN_ATS, SV39 | GSCID | guest >> 12, 0, 0]);
    let msi_table = bench.take();
    // Files 0 to 3 by bits 0 and 4 of the page number.
    let rest = [1 << 60 | msi_table >> 12, 0x11, 0x2_8000];
    bench.store(bench.device_place(DEVICE) + 32, &rest);
    bench.store(msi_table + 3 * 16, &[FRAME >> 12 << 10 | 7]);
    assert_eq!(bench.ask(0x2801_1008, Access::Write), Ok(FRAME + 8));
    bench.store(msi_table + 3 * 16, &[0]);
    bench.run(&[[GVMA | GV | AV | GSCID, page(0x2801_0000)]]);
    assert!(bench.ask(0x2801_1000, Access::Write).is_ok());
    bench.run(&[[GVMA | GV | AV | GSCID, page(0x2801_1000)]]);
    assert_eq!(bench.ask(0x2801_1000, Access::Write), REFUSED);
    for (entry, cause) in [(0, 262), (1, 263), (5, 263), (7 | 8, 263), (3, 263)] {
        bench.store(msi_table, &[entry]);
        bench.faults();
        bench.ask(0x2800_0000, Access::Write).unwrap_err();
        assert_eq!(bench.causes(), [cause], "{entry:#x}");
    }
    bench.store(msi_table, &[FRAME >> 12 << 10 | 7]);
    assert_eq!(
        bench.ask(0x2800_0000, Access::Execute),
        Err(Refusal::CompleterAbort)
    );
    assert_eq!(bench.causes(), [1]);
    // Other pages are the second stage's; no block that is translated alike holds a file's page.
    assert_eq!(bench.read(0x2800_2000), REFUSED);
    assert_eq!(bench.causes(), [21]);
    let superpage = bench.entry_place(guest, 3, 0x2800_0000, 1);
    bench.store(superpage, &[0x8100_0000 >> 12 << 10 | WRITABLE]);
    for (address, size) in [
        (0x2800_2000, 0x2000),
        (0x2800_4000, 0x4000),
        (0x2804_0000, 0x4_0000),
    ] {
        let found = bench.translate(address, Access::Write).unwrap();
        assert_eq!(
            (found.address & 0x1f_ffff, found.size),
            (address & 0x1f_ffff, size)
        );
    }
}
