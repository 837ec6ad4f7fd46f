//! A device that caches translations, a page table that changes under it, and an allocator that
//! poisons what it is given back: N13 to N15, N29, N31.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::Mutex;
use std::thread;

use core_notifier::{AddressSpace, Batch, Fenced, Notifier, NotifierKind, Progress, Range, Token};

use crate::common::{StopOnDrop, new_space};

const PAGE: u64 = 0x1000;
/// Pages that one page-table page maps.
const PAGES: usize = 4;
/// Bit of an entry that allows writing.
const WRITABLE: u64 = 1 << 63;

/// Frames that know whether they are free. Frame 0 is nobody's.
struct Memory {
    frames: Vec<Frame>,
}

#[derive(Default)]
struct Frame {
    poisoned: AtomicBool,
    /// As a page-table page: the frames that it maps.
    entries: [AtomicU64; PAGES],
}

impl Memory {
    fn new(frames: usize) -> Memory {
        Memory {
            frames: (0..frames).map(|_| Frame::default()).collect(),
        }
    }

    fn frame(&self, number: u64) -> &Frame {
        &self.frames[(number & !WRITABLE) as usize]
    }

    /// Poisons the frame. Whoever uses it from now on has a stale translation.
    fn free(&self, number: u64) {
        self.frame(number).poisoned.store(true, SeqCst);
    }

    fn allocate(&self, number: u64) -> u64 {
        self.frame(number).poisoned.store(false, SeqCst);
        number
    }
}

/// What the device's walker keeps.
#[derive(Default)]
struct Cached {
    /// The page-table page: what a non-leaf entry says.
    table: Option<u64>,
    leaves: [Option<u64>; PAGES],
}

/// What an access of a device comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Fault,
    Frame(u64),
    Poison,
}

/// A device with a TLB, behind a page table of two levels whose root is one entry.
struct Device {
    memory: Arc<Memory>,
    root: Arc<AtomicU64>,
    cached: Mutex<Cached>,
    /// Two passes: invalidates in the second one.
    two_passes: bool,
    caches_refusals: bool,
}

impl Device {
    fn access(&self, page: usize, right: u64) -> Access {
        let mut cached = self.cached.lock().unwrap();
        let leaf = match cached.leaves[page] {
            Some(leaf) => leaf,
            None => {
                let table = *cached.table.get_or_insert_with(|| self.root.load(SeqCst));
                if self.memory.frame(table).poisoned.load(SeqCst) {
                    return Access::Poison;
                }
                if table == 0 {
                    cached.table = None;
                    return Access::Fault;
                }
                let leaf = self.memory.frame(table).entries[page].load(SeqCst);
                if leaf != 0 {
                    cached.leaves[page] = Some(leaf);
                }
                leaf
            }
        };
        if leaf == 0 || leaf & right != right {
            return Access::Fault;
        }
        match self.memory.frame(leaf).poisoned.load(SeqCst) {
            true => Access::Poison,
            false => Access::Frame(leaf & !WRITABLE),
        }
    }

    fn forget(&self, range: Range) {
        let mut cached = self.cached.lock().unwrap();
        for (page, leaf) in cached.leaves.iter_mut().enumerate() {
            let start = page as u64 * PAGE;
            if range.overlaps(Range::with_length(start, PAGE).unwrap()) {
                *leaf = None;
            }
        }
        // All levels: nobody says that page-table pages stay.
        cached.table = None;
    }
}

impl Notifier for Device {
    fn kind(&self) -> NotifierKind {
        NotifierKind::SecondaryTlb
    }

    fn has_two_passes(&self) -> bool {
        self.two_passes
    }

    fn caches_refusals(&self) -> bool {
        self.caches_refusals
    }

    fn invalidate_range(&self, range: Range) {
        self.forget(range);
    }

    fn begin_invalidate_ranges(&self, _ranges: &[Range], _token: &mut Token) -> Progress {
        Progress::Pending
    }

    fn finish_invalidate_ranges(&self, ranges: &[Range], _token: &mut Token) {
        ranges.iter().for_each(|range| self.forget(*range));
    }
}

/// An address space with one page-table page, and two devices that walk it.
struct Machine {
    memory: Arc<Memory>,
    root: Arc<AtomicU64>,
    space: AddressSpace,
    devices: [Arc<Device>; 2],
}

/// The frame that is the page-table page at first.
const TABLE: u64 = 1;

impl Machine {
    fn new() -> Machine {
        let memory = Arc::new(Memory::new(64));
        let root = Arc::new(AtomicU64::new(TABLE));
        let space = new_space();
        let devices = [false, true].map(|two_passes| {
            let device = Arc::new(Device {
                memory: memory.clone(),
                root: root.clone(),
                cached: Mutex::default(),
                two_passes,
                caches_refusals: true,
            });
            space.register_locked(device.clone()).unwrap();
            device
        });
        Machine {
            memory,
            root,
            space,
            devices,
        }
    }

    fn entry(&self, page: usize) -> &AtomicU64 {
        &self.memory.frame(TABLE).entries[page]
    }

    fn range(page: usize) -> Range {
        Range::with_length(page as u64 * PAGE, PAGE).unwrap()
    }

    /// What both devices get at `page`, which leaves the translation in their TLBs.
    fn accesses(&self, page: usize) -> [Access; 2] {
        self.devices.each_ref().map(|device| device.access(page, 0))
    }

    /// Unmaps `page` in these steps, with an access of both devices after each that `refill` says.
    fn unmap(&self, page: usize, steps: [Step; 3], refill: u32) -> Vec<Access> {
        let frame = self.entry(page).load(SeqCst);
        let mut accesses = Vec::new();
        for (place, step) in steps.into_iter().enumerate() {
            if refill & (1 << place) != 0 {
                accesses.extend(self.accesses(page));
            }
            match step {
                Step::Clear => self.entry(page).store(0, SeqCst),
                Step::Notify => self.space.invalidate_range(Machine::range(page)),
                Step::Free => self.memory.free(frame),
            }
        }
        accesses.extend(self.accesses(page));
        accesses
    }
}

#[derive(Clone, Copy)]
enum Step {
    Clear,
    Notify,
    Free,
}

/// Whether any refill between the steps lets a device reach the freed frame.
fn reaches_poison(steps: [Step; 3]) -> bool {
    (0..8).any(|refill| {
        let machine = Machine::new();
        let frame = machine.memory.allocate(7);
        machine.entry(2).store(frame, SeqCst);
        assert_eq!(machine.accesses(2), [Access::Frame(7); 2]);
        machine.unmap(2, steps, refill).contains(&Access::Poison)
    })
}

#[test]
fn n13_between_the_store_and_the_free_is_the_only_right_moment() {
    use Step::{Clear, Free, Notify};
    assert!(!reaches_poison([Clear, Notify, Free]));
    // What the core cannot make right: the notification at the wrong moment.
    assert!(reaches_poison([Notify, Clear, Free]));
    assert!(reaches_poison([Clear, Free, Notify]));
}

/// Devices access pages on threads of their own until `work` is done.
fn while_devices_access(machine: &Machine, work: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    let poisoned = AtomicUsize::new(0);
    let rounds = AtomicUsize::new(0);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for device in &machine.devices {
            scope.spawn(|| {
                let mut page = 0;
                while !stop.load(SeqCst) {
                    page = (page * 5 + 3) % PAGES;
                    if device.access(page, 0) == Access::Poison {
                        poisoned.fetch_add(1, SeqCst);
                    }
                    rounds.fetch_add(1, SeqCst);
                    thread::yield_now();
                }
            });
        }
        while rounds.load(SeqCst) < 4 {
            thread::yield_now();
        }
        work();
    });
    assert_eq!(poisoned.load(SeqCst), 0, "a device read freed memory");
}

#[test]
fn n13_devices_that_refill_at_any_moment_never_reach_a_freed_page() {
    let machine = Machine::new();
    let map = |page: usize, round: u64| {
        // Other frames in the next round; those of this one are poisoned then.
        let frame = machine
            .memory
            .allocate(8 + (round % 8) * PAGES as u64 + page as u64);
        machine.entry(page).store(frame, SeqCst);
        frame
    };
    while_devices_access(&machine, || {
        for round in 0..300 {
            let frames: Vec<_> = (0..PAGES).map(|page| map(page, round)).collect();
            thread::yield_now();
            let unmap = |batch: &mut Batch<'_, Fenced>| {
                for page in 0..PAGES {
                    machine.entry(page).store(0, SeqCst);
                    batch.add(Machine::range(page));
                }
            };
            if round % 2 == 0 {
                machine.space.batch(unmap);
            } else {
                for page in 0..PAGES {
                    machine.entry(page).store(0, SeqCst);
                    machine.space.invalidate_range(Machine::range(page));
                }
            }
            frames
                .into_iter()
                .for_each(|frame| machine.memory.free(frame));
        }
    });
}

#[test]
fn n14_a_page_that_is_replaced_is_seen_old_then_new_through_every_alias() {
    const OLD: u64 = 10;
    const NEW: u64 = 11;
    // Two pages map the same frame; each step is followed by accesses to both, or not.
    for refill in 0..64_u32 {
        let machine = Machine::new();
        let mut seen = Vec::new();
        let steps: [&dyn Fn(); 6] = [
            &|| (),
            &|| {
                machine.entry(0).store(0, SeqCst);
                machine.entry(1).store(0, SeqCst);
            },
            &|| {
                let both = Range::with_length(0, 2 * PAGE).unwrap();
                machine.space.invalidate_range(both);
            },
            &|| machine.entry(0).store(NEW, SeqCst),
            &|| machine.entry(1).store(NEW, SeqCst),
            &|| (),
        ];
        for page in [0, 1] {
            machine.entry(page).store(OLD, SeqCst);
        }
        for (place, step) in steps.iter().enumerate() {
            step();
            if refill & (1 << place) != 0 {
                seen.extend(machine.accesses(0));
                seen.extend(machine.accesses(1));
            }
        }
        let first_new = seen.iter().position(|access| *access == Access::Frame(NEW));
        let last_old = seen
            .iter()
            .rposition(|access| *access == Access::Frame(OLD));
        if let (Some(first_new), Some(last_old)) = (first_new, last_old) {
            assert!(last_old < first_new, "new and then old: {seen:?}");
        }
        assert!(!seen.contains(&Access::Poison));
        assert_eq!(machine.accesses(1), [Access::Frame(NEW); 2]);
    }
}

#[test]
fn n15_the_callback_runs_on_the_caller_s_thread_and_under_its_spinlock() {
    // That it does not allocate is shown in `allocation.rs`.
    struct UnderLock {
        thread: thread::ThreadId,
        lock: Arc<Mutex<()>>,
        calls: AtomicUsize,
    }
    impl Notifier for UnderLock {
        fn invalidate_range(&self, _range: Range) {
            assert_eq!(thread::current().id(), self.thread);
            assert!(self.lock.try_lock().is_err(), "the lock was let go of");
            self.calls.fetch_add(1, SeqCst);
        }
    }
    let lock = Arc::new(Mutex::new(()));
    let space = new_space();
    let notifier = Arc::new(UnderLock {
        thread: thread::current().id(),
        lock: lock.clone(),
        calls: AtomicUsize::new(0),
    });
    space.register_locked(notifier.clone()).unwrap();
    let page_table_lock = lock.lock().unwrap();
    space.invalidate_range(Machine::range(0));
    space.raise_permissions(Machine::range(0));
    space.batch(|batch| batch.add(Machine::range(0)));
    drop(page_table_lock);
    assert_eq!(notifier.calls.load(SeqCst), 3);
}

#[test]
fn n29_a_rise_of_permissions_reaches_who_caches_refusals_and_nobody_else() {
    let machine = Machine::new();
    let other = Arc::new(Device {
        memory: machine.memory.clone(),
        root: machine.root.clone(),
        cached: Mutex::default(),
        two_passes: false,
        caches_refusals: false,
    });
    machine.space.register_locked(other.clone()).unwrap();
    machine.entry(0).store(5, SeqCst);
    let write = |device: &Device| device.access(0, WRITABLE);
    assert!(
        machine
            .devices
            .iter()
            .all(|device| write(device) == Access::Fault)
    );
    assert_eq!(write(&other), Access::Fault);
    machine.entry(0).store(5 | WRITABLE, SeqCst);
    // The old rights are in the TLBs: without a notification the fault repeats for ever.
    assert!(
        machine
            .devices
            .iter()
            .all(|device| write(device) == Access::Fault)
    );
    machine.space.raise_permissions(Machine::range(0));
    assert!(
        machine
            .devices
            .iter()
            .all(|device| write(device) == Access::Frame(5))
    );
    // Who says that it walks again before it faults is not bothered.
    assert_eq!(write(&other), Access::Fault);
}

#[test]
fn n31_a_page_table_page_is_reused_after_every_walker_has_forgotten_it() {
    let machine = Machine::new();
    let everything = Range::with_length(0, PAGES as u64 * PAGE).unwrap();
    while_devices_access(&machine, || {
        for round in 0..500 {
            // The leaves stay; it is the table itself that goes.
            let next = machine.memory.allocate(TABLE + 1 + round % 6);
            machine.memory.frame(next).entries[3].store(40, SeqCst);
            machine.root.store(next, SeqCst);
            machine.space.invalidate_range(everything);
            thread::yield_now();
            machine.root.store(0, SeqCst);
            machine.space.invalidate_range(everything);
            // No walker is inside it any more, in whichever pass it works.
            machine.memory.free(next);
        }
    });
}
