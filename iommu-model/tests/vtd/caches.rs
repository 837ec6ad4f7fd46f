//! Entries stay until a command names them.

use crate::bench::*;
use crate::page_table::{DATA, LARGE, PRESENT};
use iommu_model::vtd::Configuration;
use iommu_model::{Hardware, Policy, Refusal};

const PAGE: u64 = 4096;
const GONE: Result<u64, Refusal> = Err(Refusal::NotPresent);

fn piotlb(domain: u16, pasid: u32) -> u64 {
    6 | 2 << 4 | u64::from(domain) << 16 | u64::from(pasid) << 32
}

fn piotlb_page(domain: u16, pasid: u32) -> u64 {
    piotlb(domain, pasid) | 1 << 4
}

fn iotlb(granularity: u64, domain: u16) -> u64 {
    2 | granularity << 4 | u64::from(domain) << 16
}

fn pasid_cache(granularity: u64, domain: u16, pasid: u32) -> u64 {
    7 | granularity << 4 | u64::from(domain) << 16 | u64::from(pasid) << 32
}

/// Maps `count` pages and caches them, then unmaps them.
fn stale(bench: &Bench, count: u64) -> Vec<u64> {
    let pages: Vec<_> = (0..count).map(|page| VA + page * PAGE).collect();
    for &page in &pages {
        bench.table.map(page, bench.page());
        bench.read(page).unwrap();
    }
    for &page in &pages {
        bench.table.unmap(page);
    }
    pages
}

fn held(bench: &Bench, pages: &[u64]) -> Vec<bool> {
    pages.iter().map(|&page| bench.read(page).is_ok()).collect()
}

#[test]
fn a_translation_outlives_its_entry() {
    let bench = Bench::new();
    let pages = stale(&bench, 2);
    assert_eq!(held(&bench, &pages), [true, true]);
    assert_eq!(bench.model.cached_translations(), 2);
}

#[test]
fn a_page_selective_command_takes_its_block_and_no_page_more() {
    let bench = Bench::new();
    // VA is page 5 of 8: a block of 2 from page 4 holds it and the page in front of it.
    let pages = stale(&bench, 3);
    bench.execute(&[[piotlb_page(DOMAIN, PASID), pages[1] | 0x40]]);
    assert_eq!(held(&bench, &pages), [true, false, true]);
    // Bits that the mask covers are ignored: from page 6, the block of 2 is pages 6 and 7.
    bench.execute(&[[piotlb_page(DOMAIN, PASID), pages[2] | 0x41]]);
    assert_eq!(held(&bench, &pages), [true, false, false]);
    assert_eq!(bench.take_fault(), Some(0x71));
}

#[test]
fn a_command_for_another_pasid_or_domain_takes_nothing() {
    let bench = Bench::new();
    let pages = stale(&bench, 1);
    bench.execute(&[
        [piotlb(DOMAIN + 1, PASID), 0],
        [piotlb(DOMAIN, PASID + 1), 0],
        [piotlb_page(DOMAIN, PASID + 1), VA],
        [iotlb(2, DOMAIN + 1), 0],
        // Page-selective within a domain is for the second stage.
        [iotlb(3, DOMAIN), VA],
    ]);
    assert_eq!(held(&bench, &pages), [true]);
    bench.execute(&[[piotlb(DOMAIN, PASID), 0]]);
    assert_eq!(held(&bench, &pages), [false]);
}

#[test]
fn domain_and_global_commands_take_every_pasid() {
    for command in [iotlb(2, DOMAIN), iotlb(1, 0)] {
        let bench = Bench::new();
        let pages = stale(&bench, 2);
        bench.execute(&[[command, 0]]);
        assert_eq!(held(&bench, &pages), [false, false]);
    }
}

/// The kernel replaces a table: a leaf-only command leaves the address of the old one in the cache.
#[test]
fn a_leaf_only_command_leaves_the_addresses_of_tables() {
    let bench = Bench::new();
    let (old, new) = (bench.page(), bench.page());
    bench.table.map(VA, old);
    bench.table.map(VA + PAGE, old);
    bench.read(VA).unwrap();
    let other = bench.page();
    let place = 8 * (VA >> 12 & 0x1ff);
    bench.store(other + place, &[new | DATA, new | DATA]);
    bench.table.store(bench.table.slot(VA, 2), other | DATA);

    bench.execute(&[[piotlb_page(DOMAIN, PASID), VA | 0x40]]);
    assert_eq!(bench.read(VA), Ok(old), "by the old table");
    assert_eq!(bench.read(VA + PAGE), Ok(old), "the neighbour too");
    bench.execute(&[[piotlb_page(DOMAIN, PASID), VA]]);
    assert_eq!(bench.read(VA), Ok(new));
    assert_eq!(bench.read(VA + PAGE), Ok(old), "cached by itself");
}

#[test]
fn a_large_page_goes_with_any_of_its_pages() {
    let bench = Bench::new();
    let frame = bench.memory.take(2 << 20, 2 << 20).unwrap();
    bench.table.map_page(VA, frame, DATA, 2);
    let inside = VA & 0x1f_ffff;
    assert_eq!(bench.read(VA), Ok(frame + inside));
    bench.table.store(bench.table.slot(VA, 2), 0);
    assert_eq!(bench.read(VA ^ 0x10_0000), Ok(frame + (inside ^ 0x10_0000)));
    bench.execute(&[[piotlb_page(DOMAIN, PASID), (VA ^ 0x8_0000) | 0x40]]);
    assert_eq!(bench.read(VA), GONE);
}

#[test]
fn the_pasid_cache_and_the_iotlb_are_two() {
    let bench = Bench::new();
    let frame = bench.page();
    bench.table.map(VA, frame);
    bench.read(VA).unwrap();
    // Another address space without mappings.
    bench.set_pasid(PASID, first_stage(bench.page(), DOMAIN));
    bench.execute(&[[piotlb(DOMAIN, PASID), 0]]);
    assert_eq!(bench.read(VA), Ok(frame), "by the cached PASID entry");
    bench.execute(&[[pasid_cache(1, DOMAIN, PASID), 0]]);
    assert_eq!(bench.read(VA), Ok(frame), "out of the IOTLB");
    bench.execute(&[[piotlb(DOMAIN, PASID), 0]]);
    assert_eq!(bench.read(VA), GONE);
}

#[test]
fn pasid_cache_commands_take_what_they_name() {
    for (command, goes) in [
        (pasid_cache(1, DOMAIN, PASID), true),
        (pasid_cache(1, DOMAIN, PASID + 1), false),
        (pasid_cache(1, DOMAIN + 1, PASID), false),
        (pasid_cache(0, DOMAIN, 0), true),
        (pasid_cache(0, DOMAIN + 1, PASID), false),
        (pasid_cache(3, 0, 0), true),
    ] {
        let bench = Bench::new();
        bench.table.map(VA, bench.page());
        bench.read(VA).unwrap();
        bench.set_pasid(PASID, [0; 8]);
        bench.execute(&[[command, 0]]);
        assert_eq!(bench.read(VA).is_err(), goes, "{command:#x}");
    }
}

/// FM masks low bits of the function number.
#[test]
fn context_cache_commands_take_what_they_name() {
    let device = |source_id: u64, mask: u64| 1 | 3 << 4 | source_id << 32 | mask << 48;
    for (command, goes) in [
        (0x11, true),
        (0x21, true),
        (device(0x20, 0), true),
        (device(0x21, 0), false),
        (device(0x24, 1), true),
        (device(0x22, 1), false),
        (device(0x26, 2), true),
        (device(0x21, 2), false),
        (device(0x27, 3), true),
        (device(0x28, 3), false),
    ] {
        let bench = Bench::new();
        bench.table.map(VA, bench.page());
        bench.read(VA).unwrap();
        bench.set_context([0; 4]);
        bench.execute(&[[command, 0], [pasid_cache(3, 0, 0), 0], [iotlb(1, 0), 0]]);
        assert_eq!(bench.read(VA).is_err(), goes, "{command:#x}");
    }
}

#[test]
fn setting_the_root_table_empties_everything_only_if_the_hardware_says_so() {
    for root_table_invalidates in [true, false] {
        let configuration = Configuration {
            root_table_invalidates,
            ..Configuration::default()
        };
        let bench = Bench::with(configuration, Policy::STRICT, 0);
        let pages = stale(&bench, 1);
        bench.command(1 << 31 | 1 << 30 | 1 << 26);
        assert_eq!(held(&bench, &pages), [!root_table_invalidates]);
    }
}

#[test]
fn what_is_not_present_is_not_cached() {
    let bench = Bench::new();
    assert_eq!(bench.read(VA), GONE);
    let frame = bench.page();
    bench.table.map(VA, frame);
    assert_eq!(bench.read(VA), Ok(frame));
    bench.set_pasid(PASID + 1, first_stage(bench.table.root, DOMAIN));
}

#[test]
fn caching_mode_caches_what_is_not_present() {
    let configuration = Configuration {
        caching_mode: true,
        ..Configuration::default()
    };
    let bench = Bench::with(configuration, Policy::STRICT, 0);
    let frame = bench.page();
    bench.table.map(VA, frame);
    // The context.
    let words = context(bench.directory);
    bench.set_context([0; 4]);
    assert!(bench.read(VA).is_err());
    bench.set_context(words);
    assert!(bench.read(VA).is_err());
    bench.execute(&[[1 | 3 << 4 | u64::from(DEVICE) << 32, 0]]);
    assert_eq!(bench.read(VA), Ok(frame));
    // The PASID entry: under domain 0, or by its PASID.
    for command in [pasid_cache(0, 0, 0), pasid_cache(1, DOMAIN, PASID)] {
        bench.set_pasid(PASID, [0; 8]);
        bench.execute(&[[pasid_cache(3, 0, 0), 0]]);
        assert!(bench.read(VA).is_err());
        bench.set_pasid(PASID, first_stage(bench.table.root, DOMAIN));
        assert!(bench.read(VA).is_err());
        bench.execute(&[[pasid_cache(0, DOMAIN, 0), 0]]);
        assert!(bench.read(VA).is_err());
        bench.execute(&[[command, 0]]);
        assert_eq!(bench.read(VA), Ok(frame));
    }
    // The first stage is never cached so.
    assert!(bench.read(VA + PAGE).is_err());
    bench.table.map(VA + PAGE, frame);
    assert_eq!(bench.read(VA + PAGE), Ok(frame));
}

#[test]
fn caching_mode_caches_holes_of_the_second_stage() {
    let configuration = Configuration {
        caching_mode: true,
        ..Configuration::default()
    };
    let bench = Bench::with(configuration, Policy::STRICT, 0);
    let frame = bench.page();
    bench.set_pasid(PASID, second_stage(bench.table.root, DOMAIN));
    assert!(bench.read(VA).is_err());
    bench.table.map(VA, frame);
    assert!(bench.read(VA).is_err());
    bench.execute(&[[iotlb(3, DOMAIN), VA + PAGE]]);
    assert!(bench.read(VA).is_err());
    bench.execute(&[[iotlb(3, DOMAIN), VA]]);
    assert_eq!(bench.read(VA), Ok(frame));
}

#[test]
fn the_second_stage_is_the_domains() {
    let bench = Bench::new();
    let pages = stale_second_stage(&bench);
    bench.execute(&[
        [piotlb(DOMAIN, PASID), 0],
        [piotlb_page(DOMAIN, PASID), pages[0]],
        [iotlb(3, DOMAIN + 1), pages[0]],
    ]);
    assert_eq!(held(&bench, &pages), [true, true]);
    bench.execute(&[[iotlb(3, DOMAIN), pages[0] | 0x40]]);
    assert_eq!(held(&bench, &pages), [false, true]);
}

fn stale_second_stage(bench: &Bench) -> Vec<u64> {
    bench.set_pasid(PASID, second_stage(bench.table.root, DOMAIN));
    stale(bench, 2)
}

/// A change of the second stage is told by its own addresses: every nested translation of the domain
/// goes.
#[test]
fn nested_translations_go_with_either_stage() {
    // The first stage's tables are where the second stage maps them one to one.
    let guest = BASE;
    for (commands, goes) in [
        (vec![], [false, false]),
        (vec![[piotlb_page(DOMAIN, PASID), VA | 0x40]], [true, false]),
        (vec![[piotlb(DOMAIN, PASID), 0]], [true, true]),
        (vec![[iotlb(3, DOMAIN), guest | 0x40]], [true, true]),
        (vec![[iotlb(2, DOMAIN), 0]], [true, true]),
    ] {
        let bench = Bench::new();
        let second = bench.page();
        let giant = bench.page();
        bench.store(second, &[giant | 3]);
        bench.store(giant + 8, &[guest | LARGE | 3]);
        // AW 1: three levels. The root is a table of level 3.
        let mut words = nested(bench.table.root, giant, DOMAIN);
        words[0] = words[0] & !0x1c | 1 << 2;
        bench.set_pasid(PASID, words);
        let pages = stale(&bench, 2);
        bench.execute(&commands);
        let gone: Vec<_> = held(&bench, &pages).iter().map(|held| !held).collect();
        assert_eq!(gone, goes, "{commands:x?}");
    }
}

#[test]
fn a_forgetful_cache_loses_entries_by_itself() {
    let policy = Policy {
        forgetful: true,
        ..Policy::STRICT
    };
    let bench = Bench::with(Configuration::default(), policy, 1);
    let pages = stale(&bench, 1);
    assert!((0..1000).any(|_| held(&bench, &pages) == [false]));
}

#[test]
fn speculation_fetches_neighbours_and_reports_nothing() {
    let policy = Policy {
        speculative: true,
        ..Policy::STRICT
    };
    let bench = Bench::with(Configuration::default(), policy, 1);
    bench.table.map(VA, bench.page());
    bench.table.map(VA + PAGE, bench.page());
    bench.read(VA).unwrap();
    for _ in 0..100 {
        bench.model.speculate();
    }
    assert_eq!(bench.model.cached_translations(), 2);
    bench.table.unmap(VA + PAGE);
    assert!(
        bench.read(VA + PAGE).is_ok(),
        "stale without having been used"
    );
    assert_eq!(bench.take_fault(), None);
    assert_ne!(bench.table.entry(VA, 1) & PRESENT, 0);
}
