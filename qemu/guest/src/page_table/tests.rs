//! Every format against a plain walk of the raw words, written from the manuals alone.

use super::*;
use crate::arch::{aarch64, riscv64, x86_64};
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

#[derive(Default)]
struct FakeMemory {
    tables: BTreeMap<u64, Vec<u64>>,
    next: u64,
    limit: Option<usize>,
}

impl TableMemory for FakeMemory {
    fn allocate_table(&mut self) -> Option<u64> {
        if self.limit == Some(self.tables.len()) {
            return None;
        }
        self.next += PAGE_SIZE;
        self.tables.insert(self.next, vec![0; TABLE_ENTRIES]);
        Some(self.next)
    }
    fn free_table(&mut self, table: u64) {
        assert!(
            self.tables.remove(&table).is_some(),
            "{table:#x} freed twice"
        );
    }
    fn read(&self, table: u64, index: usize) -> u64 {
        self.tables[&table][index]
    }
    fn write(&mut self, table: u64, index: usize, entry: u64) {
        self.tables.get_mut(&table).unwrap()[index] = entry;
    }
}

/// What a walk of the raw words finds: (physical address, writable, unprivileged).
type Walk = fn(&FakeMemory, u64, u8, u64) -> Option<(u64, bool, bool)>;

fn walk_x86_64(memory: &FakeMemory, root: u64, _: u8, address: u64) -> Option<(u64, bool, bool)> {
    let (mut table, mut writable, mut user) = (root, true, true);
    for shift in [39, 30, 21, 12] {
        let entry = memory.read(table, (address >> shift & 0x1ff) as usize);
        if entry & 1 == 0 {
            return None;
        }
        writable &= entry & 2 != 0;
        user &= entry & 4 != 0;
        let base = entry & 0x000f_ffff_ffff_f000;
        if shift == 12 || entry & 0x80 != 0 {
            return Some((base + (address & ((1 << shift) - 1)), writable, user));
        }
        table = base;
    }
    None
}

fn walk_aarch64(memory: &FakeMemory, root: u64, _: u8, address: u64) -> Option<(u64, bool, bool)> {
    let mut table = root;
    for shift in [39, 30, 21, 12] {
        let entry = memory.read(table, (address >> shift & 0x1ff) as usize);
        let base = entry & 0x0000_ffff_ffff_f000;
        match (entry & 3, shift) {
            (3, 12) | (1, 30 | 21) => {
                assert_ne!(entry & 1 << 10, 0, "access flag");
                let (read_only, user) = (entry & 1 << 7 != 0, entry & 1 << 6 != 0);
                return Some((base + (address & ((1 << shift) - 1)), !read_only, user));
            }
            (3, _) => table = base,
            _ => return None,
        }
    }
    None
}

fn walk_riscv64(
    memory: &FakeMemory,
    root: u64,
    levels: u8,
    address: u64,
) -> Option<(u64, bool, bool)> {
    let mut table = root;
    for level in (0..levels).rev() {
        let shift = 12 + 9 * level;
        let entry = memory.read(table, (address >> shift & 0x1ff) as usize);
        if entry & 1 == 0 {
            return None;
        }
        let base = (entry >> 10 & 0xfff_ffff_ffff) << 12;
        if entry & 0xe != 0 {
            assert_ne!(entry & 1 << 6, 0, "A");
            assert!(
                entry & 4 == 0 || entry & 1 << 7 != 0,
                "D of a writable page"
            );
            let offset = address & ((1 << shift) - 1);
            return Some((base + offset, entry & 4 != 0, entry & 16 != 0));
        }
        table = base;
    }
    None
}

fn check<F: EntryFormat>(levels: u8, walk: Walk) {
    let mut memory = FakeMemory::default();
    let mut kernel = PageTable::<F>::new(&mut memory, levels).unwrap();
    let ram = Region::between(0x20_0000 - 0x1000, 0x8000_3000);
    kernel
        .map_identity(&mut memory, ram, Access::KernelMemory)
        .unwrap();
    let kernel_tables = memory.tables.len();
    let mut space = kernel.sibling(&mut memory).unwrap();
    let user = space.user_region();
    let seen = |memory: &FakeMemory, space: &PageTable<F>, address| {
        walk(memory, space.root(), levels, address)
    };

    for address in [0x1f_f000, 0x1f_fff8, 0x20_0000, 0x4123_4560, 0x8000_2ff8] {
        assert_eq!(seen(&memory, &space, address), Some((address, true, false)));
    }
    for address in [0x1f_eff8, 0x8000_3000, user.base, user.end() - 8] {
        assert_eq!(seen(&memory, &space, address), None);
    }

    let pages = [
        user.base,
        user.base + 0x1000,
        user.base + 0x20_0000,
        user.end() - 0x1000,
    ];
    for (number, page) in pages.into_iter().enumerate() {
        let frame = 0x9000_0000 + number as u64 * 0x1000;
        space.map(&mut memory, page, frame, true).unwrap();
        assert_eq!(
            seen(&memory, &space, page + 0x123),
            Some((frame + 0x123, true, true))
        );
        assert_eq!(
            space.translate(&memory, page + 0x123),
            Some((frame + 0x123, true))
        );
        assert_eq!(seen(&memory, &kernel, page), None);
    }
    space.protect(&mut memory, pages[1]).unwrap();
    assert_eq!(
        seen(&memory, &space, pages[1]),
        Some((0x9000_1000, false, true))
    );
    assert_eq!(
        seen(&memory, &space, pages[0]),
        Some((0x9000_0000, true, true))
    );
    assert_eq!(space.unmap(&mut memory, pages[0]), Ok(0x9000_0000));
    assert_eq!(seen(&memory, &space, pages[0]), None);
    assert_eq!(
        space.unmap(&mut memory, pages[0]),
        Err(MapError::NotMapped { address: pages[0] })
    );

    let mut left = Vec::new();
    space.destroy(&mut memory, |page, frame| left.push((page, frame)));
    assert_eq!(
        left,
        [
            (pages[1], 0x9000_1000),
            (pages[2], 0x9000_2000),
            (pages[3], 0x9000_3000)
        ]
    );
    assert_eq!(
        memory.tables.len(),
        kernel_tables,
        "every table of the address space is freed"
    );
    assert_eq!(
        seen(&memory, &kernel, 0x4123_4560),
        Some((0x4123_4560, true, false))
    );
}

#[test]
fn x86_64_four_levels() {
    check::<x86_64::paging::Format>(4, walk_x86_64);
}

#[test]
fn aarch64_four_levels() {
    check::<aarch64::paging::Format>(4, walk_aarch64);
}

#[test]
fn riscv64_sv39_and_sv48() {
    check::<riscv64::paging::Format>(3, walk_riscv64);
    check::<riscv64::paging::Format>(4, walk_riscv64);
}

#[test]
fn refusals_change_nothing() {
    let mut memory = FakeMemory::default();
    let mut table = PageTable::<x86_64::paging::Format>::new(&mut memory, 4).unwrap();
    let base = table.user_region().base;
    let unaligned = base + 8;
    assert_eq!(
        table.map(&mut memory, unaligned, 0, true),
        Err(MapError::Unaligned { address: unaligned })
    );
    assert_eq!(
        table.map(&mut memory, base, 8, true),
        Err(MapError::Unaligned { address: 8 })
    );
    assert_eq!(
        table.map(&mut memory, 0x1000, 0, true),
        Err(MapError::OutsideUserRegion { address: 0x1000 })
    );
    assert_eq!(
        table.protect(&mut memory, base),
        Err(MapError::NotMapped { address: base })
    );
    memory.limit = Some(memory.tables.len());
    assert_eq!(
        table.map(&mut memory, base, 0x1000, true),
        Err(MapError::OutOfFrames)
    );
    memory.limit = None;
    table.map(&mut memory, base, 0x1000, true).unwrap();
    assert_eq!(
        table.map(&mut memory, base, 0x2000, true),
        Err(MapError::AlreadyMapped { address: base })
    );
    assert_eq!(table.translate(&memory, base), Some((0x1000, true)));
}
