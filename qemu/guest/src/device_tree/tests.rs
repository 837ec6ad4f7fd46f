//! Trees with the nodes and values that QEMU 11.1.3 dumps for its virt machines (`dumpdtb`).

use super::*;
use dtoolkit::model::{DeviceTree as Model, DeviceTreeNode, DeviceTreeProperty};

fn cells(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_be_bytes())
        .collect()
}

fn node(name: &str, properties: &[(&str, &[u8])]) -> DeviceTreeNode {
    let mut node = DeviceTreeNode::new(name).unwrap();
    for (name, value) in properties {
        node.add_property(DeviceTreeProperty::new(*name, value.to_vec()).unwrap());
    }
    node
}

fn tree(children: Vec<DeviceTreeNode>) -> Vec<u8> {
    let mut model = Model::new();
    let two = cells(&[2]);
    for name in ["#address-cells", "#size-cells"] {
        model
            .root
            .add_property(DeviceTreeProperty::new(name, two.clone()).unwrap());
    }
    for child in children {
        model.root.add_child(child);
    }
    model.to_dtb()
}

const RANGES: [u32; 14] = [
    0x0100_0000,
    0,
    0,
    0,
    0x3eff_0000,
    0,
    0x1_0000, //
    0x0200_0000,
    0,
    0x1000_0000,
    0,
    0x1000_0000,
    0,
    0x2eff_0000,
];

fn host_bridge(ranges: &[u8], iommu_map: &[u8]) -> DeviceTreeNode {
    node(
        "pcie@10000000",
        &[
            ("compatible", b"pci-host-ecam-generic\0"),
            ("reg", &cells(&[0x40, 0x1000_0000, 0, 0x1000_0000])),
            ("#address-cells", &cells(&[3])),
            ("#size-cells", &cells(&[2])),
            ("bus-range", &cells(&[0, 255])),
            ("ranges", ranges),
            ("iommu-map", iommu_map),
        ],
    )
}

fn virt() -> Vec<u8> {
    let mut bus = node(
        "soc",
        &[
            ("#address-cells", &cells(&[2])),
            ("#size-cells", &cells(&[2])),
            ("compatible", b"simple-bus\0"),
            ("ranges", &[]),
        ],
    );
    bus.add_child(node(
        "iommu@3010000",
        &[
            ("compatible", b"riscv,iommu\0"),
            ("reg", &cells(&[0, 0x301_0000, 0, 0x1000])),
            ("phandle", &cells(&[0x8000])),
        ],
    ));
    let mut bridge = host_bridge(
        &cells(&RANGES),
        &cells(&[0, 0x8000, 0, 8, 9, 0x8000, 9, 0xfff7]),
    );
    bridge.add_child(node(
        "iommu@8",
        &[
            ("compatible", b"riscv,pci-iommu\0"),
            ("reg", &cells(&[0x800, 0, 0, 0, 0])),
        ],
    ));
    tree(alloc::vec![
        node(
            "memory@80000000",
            &[("reg", &cells(&[0, 0x8000_0000, 0, 0x2000_0000]))]
        ),
        node("chosen", &[("bootargs", b"run=control\0")]),
        node("cpus", &[("timebase-frequency", &cells(&[10_000_000]))]),
        bus,
        bridge,
    ])
}

#[test]
fn reads_what_qemu_describes() {
    let blob = virt();
    assert_eq!(DeviceTree::total_size(&blob), Some(blob.len()));
    let tree = DeviceTree::new(&blob).unwrap();
    assert_eq!(tree.command_line(), Ok("run=control"));
    let ram = Region {
        base: 0x8000_0000,
        size: 0x2000_0000,
    };
    assert_eq!(tree.memory(), Ok(alloc::vec![ram]));
    assert_eq!(tree.timebase_frequency(), Ok(10_000_000));
    let iommu = tree.platform_iommu("riscv,iommu").unwrap();
    assert_eq!(
        iommu.registers,
        Region {
            base: 0x301_0000,
            size: 0x1000
        }
    );
    assert_eq!(iommu.phandle, Some(0x8000));
    assert_eq!(tree.pci_iommu("riscv,pci-iommu").unwrap().requester, 8);

    let bridge = tree.host_bridge().unwrap();
    let space = Region {
        base: 0x40_1000_0000,
        size: 0x1000_0000,
    };
    assert_eq!(bridge.configuration_space, space);
    assert_eq!((bridge.first_bus, bridge.last_bus), (0, 255));
    assert_eq!(
        bridge.memory_window,
        Region {
            base: 0x1000_0000,
            size: 0x2eff_0000
        }
    );
    let specifier = bridge.device_id(0x10).unwrap();
    assert_eq!((specifier.phandle, specifier.device.0), (0x8000, 0x10));
    assert!(
        bridge.device_id(8).is_err(),
        "the IOMMU itself is not translated"
    );
}

#[test]
fn a_missing_node_is_named() {
    let blob = tree(alloc::vec![]);
    let tree = DeviceTree::new(&blob).unwrap();
    assert_eq!(
        tree.memory(),
        Err(DeviceTreeError::MissingNode { node: "/memory" })
    );
    let missing = DeviceTreeError::MissingNode {
        node: "arm,smmu-v3",
    };
    assert_eq!(tree.platform_iommu("arm,smmu-v3"), Err(missing));
    let node = "pci-host-ecam-generic";
    assert_eq!(
        tree.host_bridge(),
        Err(DeviceTreeError::MissingNode { node })
    );
    assert_eq!(tree.command_line(), Ok(""));
}

#[test]
fn a_malformed_property_is_named() {
    let node_name = "arm,smmu-v3";
    let smmu = |reg: Option<&[u8]>| {
        let mut properties: Vec<(&str, &[u8])> = alloc::vec![("compatible", b"arm,smmu-v3\0")];
        properties.extend(reg.map(|reg| ("reg", reg)));
        tree(alloc::vec![node("smmuv3@9050000", &properties)])
    };
    let (node, property) = (node_name, "reg");
    let ask = |blob: &[u8]| DeviceTree::new(blob).unwrap().platform_iommu("arm,smmu-v3");
    assert_eq!(
        ask(&smmu(None)),
        Err(DeviceTreeError::MissingProperty { node, property })
    );
    for reg in [&[][..], &[0; 4], &[0; 15], &[0; 20]] {
        assert_eq!(
            ask(&smmu(Some(reg))),
            Err(DeviceTreeError::BadProperty { node, property })
        );
    }

    let node = "pci-host-ecam-generic";
    for (ranges, map, property) in [
        (cells(&RANGES[..7]), cells(&[]), "ranges"),
        (cells(&RANGES[..9]), cells(&[]), "ranges"),
        (cells(&RANGES), cells(&[0, 1, 0]), "iommu-map"),
    ] {
        let blob = tree(alloc::vec![host_bridge(&ranges, &map)]);
        let error = DeviceTree::new(&blob).unwrap().host_bridge().unwrap_err();
        assert_eq!(error, DeviceTreeError::BadProperty { node, property });
    }
}

/// Flips every byte in turn: whatever the result, nothing panics.
#[test]
fn damaged_blobs_are_refused_or_answered() {
    let blob = virt();
    let mut refused = 0;
    for at in 0..blob.len() {
        let mut damaged = blob.clone();
        damaged[at] ^= 0xff;
        match DeviceTree::new(&damaged) {
            Err(DeviceTreeError::Malformed { .. }) => refused += 1,
            Err(error) => panic!("unexpected {error}"),
            Ok(tree) => {
                let _ = (
                    tree.memory(),
                    tree.command_line(),
                    tree.timebase_frequency(),
                );
                let _ = tree.host_bridge().map(|bridge| bridge.device_id(0));
                let _ = (
                    tree.platform_iommu("riscv,iommu"),
                    tree.pci_iommu("riscv,pci-iommu"),
                );
            }
        }
    }
    assert!(
        refused > 40,
        "only {refused} of {} were refused",
        blob.len()
    );
    for length in 0..blob.len() {
        assert!(DeviceTree::new(&blob[..length]).is_err());
    }
}
