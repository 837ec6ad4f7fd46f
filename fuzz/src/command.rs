//! What commands invalidate, by a reading of the specifications that shares nothing with the
//! drivers: page-selective forms only, everything else by its opcode.

/// What one command takes away, or waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Translations of `pages` from page number `first` on under a tag, or under all.
    Iotlb {
        tag: Option<u32>,
        pasid: u32,
        first: u64,
        pages: u128,
        leaf_only: bool,
    },
    /// Translations that a device holds.
    DeviceTlb {
        device: u32,
        pasid: Option<u32>,
        first: u64,
        pages: u128,
    },
    /// Commands behind it wait for those in front of it.
    Fence,
}

/// Pages in the whole address space.
const EVERYTHING: u128 = 1 << 52;

/// VT-d: 256-bit descriptors (sections 6.5.2.3 to 6.5.2.8). `None` for an encoding that the
/// specification does not have.
pub fn vtd(words: [u64; 4]) -> Option<Effect> {
    let [low, high, reserved_2, reserved_3] = words;
    if reserved_2 | reserved_3 != 0 {
        return None;
    }
    let pasid = (low >> 32 & 0xf_ffff) as u32;
    match low & 0xf {
        2 if low >> 4 & 3 == 2 && high == 0 => Some(Effect::Iotlb {
            tag: Some((low >> 16 & 0xffff) as u32),
            pasid: 0,
            first: 0,
            pages: EVERYTHING,
            leaf_only: false,
        }),
        3 => {
            let (first, pages) = low_order_ones(high, high & 1 != 0, 0xffe)?;
            Some(Effect::DeviceTlb {
                device: (low >> 32 & 0xffff) as u32,
                pasid: None,
                first,
                pages,
            })
        }
        5 => (low & 0x7f0 == 1 << 6 && low >> 32 == 0 && high == 0).then_some(Effect::Fence),
        6 => {
            let tag = Some((low >> 16 & 0xffff) as u32);
            if low >> 52 != 0 || low >> 6 & 0x3ff != 0 {
                return None;
            }
            let (first, pages, leaf_only) = match (low >> 4 & 3, high & 0xf80) {
                (2, 0) if high == 0 => (0, EVERYTHING, false),
                (3, 0) => {
                    let order = high & 0x3f;
                    // Address bits that the mask covers are ignored by hardware.
                    let first = high >> 12 >> order << order;
                    (order <= 52).then_some((first, 1 << order, high & 0x40 != 0))?
                }
                _ => return None,
            };
            Some(Effect::Iotlb {
                tag,
                pasid,
                first,
                pages,
                leaf_only,
            })
        }
        8 => {
            let (first, pages) = low_order_ones(high, high & 1 << 11 != 0, 0x7ff)?;
            Some(Effect::DeviceTlb {
                device: (low >> 16 & 0xffff) as u32,
                pasid: Some(pasid),
                first,
                pages,
            })
        }
        _ => None,
    }
}

/// PCIe's address and size of an invalidation request: with S, the lowest clear bit of the address
/// says the size. Bits of `reserved` are to be zero.
fn low_order_ones(word: u64, sized: bool, reserved: u64) -> Option<(u64, u128)> {
    if word & reserved != 0 {
        return None;
    }
    let page = word >> 12;
    if !sized {
        return Some((page, 1));
    }
    let order = page.trailing_ones() + 1;
    if order >= 52 {
        return Some((0, EVERYTHING));
    }
    Some((page >> order << order, 1 << order))
}

/// SMMUv3: opcodes and fields of section 4.4 and 4.5, for a 4 KiB granule.
pub fn smmuv3([low, high]: [u64; 2]) -> Option<Effect> {
    let leaf_only = high & 1 != 0;
    match low & 0xff {
        // CMD_TLBI_NH_ASID
        0x11 if high == 0 => Some(Effect::Iotlb {
            tag: Some((low >> 48) as u32),
            pasid: 0,
            first: 0,
            pages: EVERYTHING,
            leaf_only: false,
        }),
        // CMD_TLBI_NH_VA
        0x12 => {
            let (number, scale) = (low >> 12 & 0x1f, low >> 20 & 0x3f);
            let (granule, level) = (high >> 10 & 3, high >> 8 & 3);
            if scale > 31 || high & 0xfe != 0 {
                return None;
            }
            let pages = match (granule, number, scale) {
                (0, 0, 0) if level == 0 => 1,
                (0, ..) => return None,
                // A range of one page without a level hint is reserved.
                (1, 0, 0) if level == 0 => return None,
                (1, ..) => u128::from(number + 1) << scale,
                _ => return None,
            };
            Some(Effect::Iotlb {
                tag: Some((low >> 48) as u32),
                pasid: 0,
                first: high >> 12,
                pages,
                leaf_only,
            })
        }
        // CMD_ATC_INV
        0x40 => {
            let order = high & 0x3f;
            if high & 0xfc0 != 0 || order > 52 {
                return None;
            }
            Some(Effect::DeviceTlb {
                device: (low >> 32) as u32,
                pasid: (low >> 11 & 1 == 1).then_some((low >> 12 & 0xf_ffff) as u32),
                first: high >> 12 >> order << order,
                pages: 1 << order,
            })
        }
        // CMD_SYNC without a signal
        0x46 => (low == 0x46 && high == 0).then_some(Effect::Fence),
        _ => None,
    }
}

/// RISC-V IOMMU 1.0, section "Command-Queue".
pub fn riscv([low, high]: [u64; 2]) -> Option<Effect> {
    match (low & 0x7f, low >> 7 & 7) {
        // IOTINVAL.VMA
        (1, 0) => {
            let (has_tag, has_address) = (low >> 32 & 1 == 1, low >> 10 & 1 == 1);
            let reserved = low & (1 << 11 | 1 << 33 | 0x3f << 35 | 0xf << 60);
            if reserved != 0 || has_address && !has_tag || high & (0x1ff | 3 << 62) != 0 {
                return None;
            }
            let (first, pages) = match (has_address, high >> 9 & 1) {
                (false, _) if high == 0 => (0, EVERYTHING),
                (true, 0) => (high >> 10, 1),
                (true, _) => {
                    let page = high >> 10;
                    let order = page.trailing_ones() + 1;
                    if order >= 52 {
                        (0, EVERYTHING)
                    } else {
                        (page >> order << order, 1 << order)
                    }
                }
                _ => return None,
            };
            Some(Effect::Iotlb {
                tag: has_tag.then_some((low >> 12 & 0xf_ffff) as u32),
                pasid: 0,
                first,
                pages,
                leaf_only: has_address && low >> 34 & 1 == 0,
            })
        }
        // ATS.INVAL
        (4, 0) => {
            let (first, pages) = low_order_ones(high, high & 1 << 11 != 0, 0x7ff)?;
            let segment = if low >> 33 & 1 == 1 { low >> 56 } else { 0 };
            Some(Effect::DeviceTlb {
                device: (segment << 16 | low >> 40 & 0xffff) as u32,
                pasid: (low >> 32 & 1 == 1).then_some((low >> 12 & 0xf_ffff) as u32),
                first,
                pages,
            })
        }
        _ => None,
    }
}
