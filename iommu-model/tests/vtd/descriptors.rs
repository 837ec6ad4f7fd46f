//! Descriptors as Linux encodes them, and what the model makes of them.

use crate::bench::*;
use iommu_model::vtd::Configuration;
use iommu_model::{Hardware, Policy};

/// `start,last | IOTLB did=7 | device TLB sid=0100 | PASID IOTLB did=7 pasid=9 | PASID device TLB | ..`
/// for 200 ranges, as the command builders of Linux 7.3.4 produced them, two words each as
/// `low:high`.
const LINUX: &str = include_str!("../../../iommu-vtd/tests/golden/linux-range-commands.txt");

struct Row {
    first: u64,
    last: u64,
    iotlb: [u64; 2],
    device_tlb: [u64; 2],
    pasid_iotlb: [u64; 2],
    pasid_device_tlb: [u64; 2],
}

fn rows() -> Vec<Row> {
    let hexadecimal = |text: &str| u64::from_str_radix(text.trim(), 16).unwrap();
    let descriptor = |text: &str| {
        let (low, high) = text.split_once(':').unwrap();
        [hexadecimal(low), hexadecimal(high)]
    };
    let row = |line: &str| {
        let columns: Vec<_> = line.split('|').collect();
        let (first, last) = columns[0].split_once(',').unwrap();
        Row {
            first: hexadecimal(first),
            last: hexadecimal(last),
            iotlb: descriptor(columns[1]),
            device_tlb: descriptor(columns[2]),
            pasid_iotlb: descriptor(columns[3]),
            pasid_device_tlb: descriptor(columns[4]),
        }
    };
    let lines = LINUX.lines().filter(|line| !line.starts_with('#'));
    let rows: Vec<_> = lines.map(row).collect();
    assert_eq!(rows.len(), 200);
    rows
}

/// Linux's cover of a range: the smallest aligned power of two around it.
fn cover(row: &Row) -> (u64, u64) {
    let order = (u64::BITS - (row.first ^ row.last).leading_zeros()).max(12);
    let mask = 1u64.checked_shl(order).map_or(u64::MAX, |size| size - 1);
    (row.first & !mask, mask.wrapping_add(1))
}

#[test]
fn device_tlb_ranges_reach_the_device() {
    let bench = Bench::new();
    let device = std::sync::Arc::new(Sent::default());
    bench.model.connect(0x100, device.clone());
    for row in rows() {
        bench.post(&[row.device_tlb, row.pasid_device_tlb]);
        let (address, size) = cover(&row);
        for (request, pasid) in device.take_invalidations().iter().zip([None, Some(9)]) {
            assert_eq!((request.address, request.size), (address, size));
            assert_eq!((request.pasid, request.global), (pasid, false));
            bench.model.invalidation_completed(0x100, 1 << request.itag);
        }
    }
    assert_eq!(bench.read32(FSTS), 0);
    assert_eq!(bench.read64(IQH), bench.read64(IQT));
}

/// Of the pages in and around each range, exactly those of the cover go.
#[test]
fn pasid_iotlb_and_iotlb_ranges_are_taken_from_the_cache() {
    let configuration = Configuration {
        largest_order: 63,
        ..Configuration::default()
    };
    for second in [false, true] {
        let bench = Bench::with(configuration, Policy::STRICT, 0);
        let root = bench.table.root;
        let entry = if second { second_stage } else { first_stage };
        bench.set_pasid(PASID, entry(root, DOMAIN));
        for row in rows() {
            let (address, size) = cover(&row);
            let end = address.wrapping_add(size);
            let pages = [row.first, row.last, address.wrapping_sub(4096), end];
            let usable = |page: &u64| *page >> 47 == 0;
            let pages: Vec<_> = pages
                .map(|page| page & !0xfff)
                .into_iter()
                .filter(usable)
                .collect();
            for &page in &pages {
                bench.table.map(page, BASE);
                bench.read(page).unwrap();
                bench.table.unmap(page);
            }
            // Linux's DR and DW are set; it makes everything of what is too large for a page mask.
            let descriptor = if second { row.iotlb } else { row.pasid_iotlb };
            bench.execute(&[descriptor]);
            for page in pages {
                let inside = page.wrapping_sub(address) < size || size == 0;
                assert_eq!(
                    bench.read(page).is_err(),
                    inside,
                    "{page:#x} of {address:#x}+{size:#x}"
                );
            }
            bench.execute(&[[0x12, 0]]);
            while bench.take_fault().is_some() {}
            bench.write32(FSTS, 1);
        }
    }
}

/// Every bit that is no field of a descriptor, tried one by one.
#[test]
fn reserved_bits_stop_the_queue() {
    let types: [([u64; 2], [u64; 2]); 10] = [
        ([0x11, 0], [0x0003_ffff_ffff_003f, 0]),
        ([0x12, 0], [0xffff_00ff, !0]),
        ([0x32, 0], [0xffff_00ff, !0xf80]),
        ([0x0000_0020_0000_0003, 0], [0x0000_ffff_001f_000f, !0xffe]),
        ([0x04, 0], [0x0000_ffff_f800_001f, 0]),
        ([0x05, 0], [0xffff_ffff_0000_00ff, !3]),
        ([0x26, 0], [0x000f_ffff_ffff_003f, !0]),
        ([0x36, 0], [0x000f_ffff_ffff_003f, !0xf80]),
        ([0x17, 0], [0x000f_ffff_ffff_003f, 0]),
        ([0x08, 0], [0x000f_ffff_ffff_01ff, !0x7fe]),
    ];
    for (descriptor, fields) in types {
        for (word, bit) in (0..2).flat_map(|word| (0..64).map(move |bit| (word, bit))) {
            if fields[word] >> bit & 1 != 0 {
                continue;
            }
            let bench = Bench::new();
            let mut words = descriptor;
            words[word] |= 1 << bit;
            bench.post(&[words]);
            assert_ne!(bench.read32(FSTS) & IQE, 0, "{words:x?}");
            assert_eq!(bench.read64(IQH), 0);
        }
        let bench = Bench::new();
        bench.post(&[descriptor]);
        assert_eq!(bench.read32(FSTS) & IQE, 0, "{descriptor:x?}");
    }
}

#[test]
fn granularities_and_types_that_are_reserved_stop_the_queue() {
    let reserved = 4;
    let kind = 3;
    for (low, high, error) in [
        (0x01, 0, reserved),
        (0x02, 0, reserved),
        (0x06, 0, reserved),
        (0x16, 0, reserved),
        (0x27, 0, reserved),
        // AM beyond MAMV.
        (0x36, 19, reserved),
        (0x00, 0, kind),
        (0x0a, 0, kind),
        (0x0f, 0, kind),
        // The upper part of the type.
        (0x211, 0, kind),
    ] {
        let bench = Bench::new();
        bench.post(&[[low, high]]);
        assert_ne!(bench.read32(FSTS) & IQE, 0, "{low:#x}");
        assert_eq!(bench.read64(IQERCD) & 0xf, error, "{low:#x}");
    }
}

/// The upper half of a descriptor of 256 bits is zero.
#[test]
fn words_two_and_three_are_reserved() {
    for word in 2..4 {
        let bench = Bench::new();
        bench.store(bench.queue, &[0x12, 0]);
        bench.store(bench.queue + 8 * word, &[1]);
        bench.write64(IQT, 32);
        assert_eq!(bench.read64(IQERCD) & 0xf, 4);
    }
}

/// PFSID is a field only with ECAP.DIT.
#[test]
fn pfsid_needs_the_throttle() {
    for (device_tlb_throttle, stops) in [(false, true), (true, false)] {
        let configuration = Configuration {
            device_tlb_throttle,
            ..Configuration::default()
        };
        for descriptor in [
            [0x1230_0020_0000_4003, 0],
            [0x0020_0009_0020_0008, 0],
            [0x0000_0009_0020_1008, 0],
        ] {
            let bench = Bench::with(configuration, Policy::STRICT, 0);
            bench.post(&[descriptor]);
            assert_eq!(bench.read32(FSTS) & IQE != 0, stops);
        }
    }
}

#[test]
fn descriptors_of_128_bits_have_no_pasid() {
    let bench = Bench::new();
    bench.command(1 << 31);
    bench.write64(IQT, 0);
    bench.write64(IQA, bench.queue);
    bench.command(1 << 31 | 1 << 26);
    bench.store(bench.queue, &[0x12, 0]);
    bench.store(bench.queue + 16, &bench.wait(5));
    bench.store(bench.queue + 32, &[0x26, 0]);
    bench.write64(IQT, 48);
    assert_eq!(bench.memory.cpu_load(bench.status), 5);
    assert_eq!(bench.read64(IQH), 32);
    assert_eq!(bench.read64(IQERCD) & 0xf, 5);
}
