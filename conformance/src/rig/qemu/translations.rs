//! What QEMU's trace says of a device's access: where it went.

/// How translations are traced and read.
#[derive(Clone, Copy)]
pub struct Reader {
    /// Trace events to turn on.
    pub events: &'static [&'static str],
    read: fn(&str) -> Option<Translation>,
}

/// QEMU does not say how large a block it translated, which may be larger.
const PAGE_MASK: u64 = 4095;

/// One translation that QEMU made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The requester.
    pub device: u32,
    /// An I/O virtual address.
    pub address: u64,
    /// What it was translated to.
    pub physical: u64,
    /// The bits of an address that stay as they are.
    pub mask: u64,
}

/// `vtd_dmar_translate dev 02:00.00 iova 0x1000 -> gpa 0x2000 mask 0xfff`
pub const VTD: Reader = Reader {
    events: &["vtd_dmar_translate"],
    read: |line| {
        let rest = line.strip_prefix("vtd_dmar_translate dev ")?;
        let mut words = rest.split_whitespace();
        let device = requester(words.next()?)?;
        let mut after = |word: &str| {
            words.find(|&it| it == word)?;
            hexadecimal(words.next()?)
        };
        let (address, block, mask) = (after("iova")?, after("gpa")?, after("mask")?);
        Some(Translation {
            device,
            address,
            physical: block & !mask | address & mask,
            mask,
        })
    },
};

/// `smmuv3_translate_success smmuv3-iommu-memory-region-8-0 sid=0x100 iova=0x1000 translated=0x2000
/// perm=0x3 stage=1`
pub const SMMUV3: Reader = Reader {
    events: &["smmuv3_translate_success"],
    read: |line| {
        let rest = line.strip_prefix("smmuv3_translate_success ")?;
        let value = |name: &str| {
            let mut words = rest.split_whitespace();
            words.find_map(|word| hexadecimal(word.strip_prefix(name)?.strip_prefix('=')?))
        };
        Some(Translation {
            device: value("sid")? as u32,
            address: value("iova")?,
            physical: value("translated")?,
            mask: PAGE_MASK,
        })
    },
};

/// `riscv_iommu_dma riscv.iommu: translate 0001:02.0 #0 WR 0x1000 -> 0x2000`; of an access that is
/// refused, it repeats the address or says 0, where no memory is.
pub const RISCV: Reader = Reader {
    events: &["riscv_iommu_dma"],
    read: |line| {
        let rest = line.strip_prefix("riscv_iommu_dma ")?;
        let (_, rest) = rest.split_once(": translate ")?;
        let words: Vec<&str> = rest.split_whitespace().collect();
        let &[device, _pasid, _access, address, "->", physical] = words.as_slice() else {
            return None;
        };
        let (address, physical) = (hexadecimal(address)?, hexadecimal(physical)?);
        Some(Translation {
            device: requester(device)?,
            address,
            physical: (physical != address && physical > PAGE_MASK).then_some(physical)?,
            mask: PAGE_MASK,
        })
    },
};

impl Reader {
    /// Whether a line is of one of its events.
    pub fn traces(&self, line: &str) -> bool {
        let name = line.split(' ').next();
        self.events.iter().any(|&event| name == Some(event))
    }

    /// Where the access of `device` to the page of `address` went, by the last line that tells of it.
    pub fn find(&self, lines: &[String], device: u32, address: u64) -> Option<u64> {
        lines
            .iter()
            .rev()
            .filter_map(|line| (self.read)(line))
            .find(|it| it.device == device && it.address & !it.mask == address & !it.mask)
            .map(|it| it.physical & !it.mask | address & it.mask)
    }
}

/// Reads `bus:device.function`, hexadecimal.
fn requester(text: &str) -> Option<u32> {
    let (bus, rest) = text.split_once(':')?;
    let (device, function) = rest.split_once('.')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    Some(number(bus)? << 8 | number(device)? << 3 | number(function)?)
}

/// Reads `0x...`.
fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of QEMU 11.1.3.
    #[test]
    fn each_reader_reads_qemu_s_lines() {
        let lines = |text: &str| vec!["something else 1".to_owned(), text.to_owned()];
        let vtd =
            lines("vtd_dmar_translate dev 02:00.00 iova 0x1000000123 -> gpa 0x1234000 mask 0xfff");
        assert_eq!(VTD.find(&vtd, 0x200, 0x10_0000_0123), Some(0x123_4123));
        assert_eq!(VTD.find(&vtd, 0x201, 0x10_0000_0123), None);
        let smmu = lines(
            "smmuv3_translate_success smmuv3-iommu-memory-region-0-1 sid=0x100 iova=0x1000000008 \
             translated=0x41234008 perm=0x3 stage=1",
        );
        assert_eq!(SMMUV3.find(&smmu, 0x100, 0x10_0000_0008), Some(0x4123_4008));
        let riscv = lines(
            "riscv_iommu_dma riscv.iommu: translate 01:00.0 #0 WO 0x1000000008 -> 0x81234008",
        );
        assert_eq!(RISCV.find(&riscv, 0x100, 0x10_0000_0008), Some(0x8123_4008));
    }
}
