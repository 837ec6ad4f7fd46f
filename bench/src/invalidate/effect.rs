//! What a command does to the caches, whichever IOMMU it is for.

/// What one command invalidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Pages of an IOTLB.
    Iotlb(Pages),
    /// Everything under a tag in an IOTLB.
    IotlbWide,
    /// Pages of the device TLB of a device, by its id.
    DeviceTlb(u32, Pages),
    /// All of a device's TLB.
    DeviceTlbWide(u32),
    /// A sync, with or without a word.
    Sync,
    /// Something else: contexts, PASIDs.
    Other,
}

/// Pages of 4 KiB, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    pub first: u64,
    pub count: u64,
}

impl Pages {
    /// The page numbers of `bits` 63:12, in which, from the lowest on, ones with a zero on top give
    /// the size: the encoding of PCIe's invalidation requests (10.3.1) and of RISC-V's `S` bit. `None`
    /// if all bits but the highest are ones, which stands for everything.
    pub fn napot(bits: u64) -> Option<Self> {
        let order = bits.trailing_ones() + 1;
        (order < 52).then(|| Self {
            first: bits >> order << order,
            count: 1 << order,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Table 10-4 of the PCIe specification: S with bit 12 clear is 8 KiB, 0111 is 64 KiB.
    #[test]
    fn napot() {
        let pages = |first, count| Some(Pages { first, count });
        assert_eq!(Pages::napot(0x1230), pages(0x1230, 2));
        assert_eq!(Pages::napot(0x1237), pages(0x1230, 16));
        assert_eq!(Pages::napot((1 << 51) - 1), None);
    }
}
