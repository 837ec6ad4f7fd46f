//! The device directory and the process directories.

use crate::bench::{Bench, DEVICE, DPE, EN_ATS, EN_PRI, GADE, PDTV, PRPR, SADE, SV39, V, WRITABLE};
use iommu_model::riscv::Configuration;
use iommu_model::{Access, Hardware, Policy, Refusal, Request};

const ADDRESS: u64 = 0x4000_0000;
const FRAME: u64 = 0x8100_0000;

#[test]
fn contexts_are_found_in_directories_of_every_shape() {
    for (levels, msi_flat) in [
        (1, true),
        (2, true),
        (3, true),
        (1, false),
        (2, false),
        (3, false),
    ] {
        let configuration = Configuration {
            msi_flat,
            ..Configuration::default()
        };
        let bench = Bench::off(configuration, Policy::STRICT, 0, levels);
        bench.turn_on();
        let root = bench.take();
        bench.map(root, 3, ADDRESS, FRAME, WRITABLE);
        let bits = [6 + u32::from(!msi_flat), 15 + u32::from(!msi_flat), 24][levels as usize - 1];
        for device in [0, 1, (1 << bits) - 1, (1 << bits) / 3] {
            bench.set_device(device, [V, 0, 7 << 12, SV39 | root >> 12]);
            let request = Request {
                device,
                ..bench.request(ADDRESS, Access::Read)
            };
            assert!(bench.iommu.translate(&request).is_ok(), "{device:#x}");
        }
    }
}

#[test]
fn contexts_are_found_in_process_directories_of_every_shape() {
    for (mode, bits) in [(1, 8), (2, 17), (3, 20)] {
        let bench = Bench::new(Configuration::default());
        let (directory, root) = (bench.take(), bench.take());
        bench.map(root, 3, ADDRESS, FRAME, WRITABLE);
        let pdtp = u64::from(mode) << 60 | directory >> 12;
        bench.set_device(DEVICE, [V | PDTV, 0, 0, pdtp]);
        for process in [0, 1, (1 << bits) - 1, (1 << bits) / 3] {
            let place = bench.process_place(directory, mode, process);
            bench.store(place, &[V | 7 << 12, SV39 | root >> 12]);
            assert_eq!(bench.read_as(process, ADDRESS), Ok(FRAME), "{process:#x}");
        }
        if bits < 20 {
            let refused = bench.read_as(1 << bits, ADDRESS);
            assert_eq!(refused, Err(Refusal::UnsupportedRequest));
            assert_eq!(bench.causes(), [260]);
        }
    }
}

#[test]
fn requests_without_a_process_use_process_0_or_none() {
    for (control, expected) in [(DPE, Ok(FRAME)), (0, Ok(ADDRESS))] {
        let bench = Bench::new(Configuration::default());
        let (directory, root) = (bench.take(), bench.take());
        bench.map(root, 3, ADDRESS, FRAME, WRITABLE);
        let pdtp = 1 << 60 | directory >> 12;
        bench.set_device(DEVICE, [V | PDTV | control, 0, 0, pdtp]);
        bench.store(directory, &[V | 7 << 12, SV39 | root >> 12]);
        assert_eq!(bench.read(ADDRESS), expected);
    }
    // A process id where there is no process directory.
    let bench = Bench::new(Configuration::default());
    bench.set_device(DEVICE, [V, 0, 0, 0]);
    assert_eq!(bench.read(ADDRESS), Ok(ADDRESS));
    assert_eq!(bench.read_as(0, ADDRESS), Err(Refusal::UnsupportedRequest));
    assert_eq!(bench.causes(), [260]);
}

/// Section "Device-context configuration checks".
#[test]
fn malformed_device_contexts_are_told() {
    let all = Configuration::default();
    let bare = Configuration {
        ats: false,
        amo_hwad: false,
        pd17: false,
        second_stage_modes: 1,
        ..all
    };
    let sv48x4 = 9 << 60;
    let cases: [(Configuration, [u64; 4]); 24] = [
        (all, [V | 1 << 12, 0, 0, 0]),
        (all, [V | 1 << 23, 0, 0, 0]),
        (all, [V | 1 << 32, 0, 0, 0]),
        (all, [V | 1 << 63, 0, 0, 0]),
        (all, [V | EN_PRI, 0, 0, 0]),
        (all, [V | EN_ATS | PRPR, 0, 0, 0]),
        // T2GPA, SBE, SXL.
        (all, [V | EN_ATS | 1 << 3, SV39, 0, 0]),
        (all, [V | 1 << 10, 0, 0, 0]),
        (all, [V | 1 << 11, 0, 0, 0]),
        (all, [V | DPE, 0, 0, 0]),
        (all, [V, 0, 1, 0]),
        (all, [V, 0, 1 << 32, 0]),
        (all, [V, 0, 1 << 40, 0]),
        (all, [V, 0, 0, 1 << 44]),
        (all, [V, 0, 0, 1 << 60]),
        (all, [V, 0, 0, 11 << 60]),
        (all, [V | PDTV, 0, 0, 4 << 60]),
        (all, [V, 1 << 60, 0, 0]),
        (all, [V, 11 << 60, 0, 0]),
        (bare, [V | EN_ATS, 0, 0, 0]),
        (bare, [V | SADE, 0, 0, 0]),
        (bare, [V | GADE, 0, 0, 0]),
        (bare, [V | PDTV, 0, 0, 2 << 60]),
        (bare, [V, sv48x4, 0, 0]),
    ];
    for (configuration, words) in cases {
        let bench = Bench::new(configuration);
        bench.set_device(DEVICE, words);
        let refused = bench.read(ADDRESS);
        assert_eq!(refused, Err(Refusal::UnsupportedRequest), "{words:x?}");
        assert_eq!(bench.causes(), [259], "{words:x?}");
    }
    // Custom bits, and whatever there is while V is 0.
    let bench = Bench::new(all);
    bench.set_device(DEVICE, [V | 0xff << 24, 0, 0xf_ffff << 12, 0]);
    assert_eq!(bench.read(ADDRESS), Ok(ADDRESS));
    bench.set_device(DEVICE + 1, [!1; 4]);
    let request = Request {
        device: DEVICE + 1,
        ..bench.request(ADDRESS, Access::Read)
    };
    bench.iommu.translate(&request).unwrap_err();
    assert_eq!(bench.causes(), [258]);
    // The second half of the extended format.
    for (word, value) in [
        (4, 2 << 60),
        (4, 1 << 60),
        (5, 1 << 52),
        (6, 1 << 47),
        (7, 1),
    ] {
        let bench = Bench::new(all);
        bench.set_device(DEVICE, [V, 0, 0, 0]);
        bench.store(bench.device_place(DEVICE) + 8 * word, &[value]);
        bench.read(ADDRESS).unwrap_err();
        assert_eq!(bench.causes(), [259], "{word} {value:#x}");
    }
}

/// Section "Process-context configuration checks".
#[test]
fn malformed_process_contexts_are_told() {
    let cases = [
        [V | 1 << 3, 0],
        [V | 1 << 11, 0],
        [V | 1 << 32, 0],
        [V, 1 << 44],
        [V, 1 << 60],
        [V, 11 << 60],
    ];
    for words in cases {
        let bench = Bench::new(Configuration::default());
        let directory = bench.take();
        bench.set_device(DEVICE, [V | PDTV, 0, 0, 1 << 60 | directory >> 12]);
        bench.store(directory + 16, &words);
        let refused = bench.read_as(1, ADDRESS);
        assert_eq!(refused, Err(Refusal::CompleterAbort), "{words:x?}");
        assert_eq!(bench.causes(), [267]);
    }
}

#[test]
fn non_leaf_entries_are_checked_and_must_be_memory() {
    for (entry, device_cause, process_cause) in [
        (0, 258, 266),
        (1 | 1 << 1, 259, 267),
        (1 | 1 << 54, 259, 267),
        (1, 257, 265),
    ] {
        let bench = Bench::new(Configuration::default());
        bench.store(bench.ddt, &[entry]);
        bench.read(ADDRESS).unwrap_err();
        assert_eq!(bench.causes(), [device_cause]);

        let bench = Bench::new(Configuration::default());
        let directory = bench.take();
        bench.store(directory, &[entry]);
        bench.set_device(DEVICE, [V | PDTV, 0, 0, 3 << 60 | directory >> 12]);
        bench.read_as(1, ADDRESS).unwrap_err();
        assert_eq!(bench.causes(), [process_cause]);
    }
}
