//! A device that keeps using what it cached, a pool that poisons what it is given, and CPUs that map
//! and unmap. An access through a stale translation to a frame that was given back is a violation.

use super::*;
use crate::error::{AttachError, Incompatible, TagsExhausted, Timeout};
use crate::fault::{Fault as IommuFault, FaultSummary};
use crate::ids::{DeviceId, Pasid, Tag};
use crate::iommu::{Completed, DeviceConfig, Features, Ticket};
use crate::operation::Invalidation;
use crate::page_table::PageTable;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;

const PAGES: usize = 64;
const SHIFT: u32 = 12;
const FREE: u64 = 0;
const ERROR: QueueError = QueueError::MemoryFault;
const ATTACHMENT: Attachment = Attachment {
    device: DeviceId(8),
    pasid: Pasid::UNTAGGED,
    tag: Tag(1),
    device_tlb: false,
};

/// One I/O page table, the IOTLB before it and the frames behind it. Page and frame numbers are
/// stored plus 1; 0 is none.
struct Machine {
    table: [AtomicU64; PAGES],
    tlb: Mutex<[u64; PAGES]>,
    /// For each frame, the page that it is mapped at, or was until it is given back.
    users: [AtomicU64; PAGES],
    pages: Mutex<Vec<usize>>,
    frames: Mutex<Vec<usize>>,
    violations: AtomicUsize,
    reported: AtomicUsize,
    now: AtomicU64,
}

impl Machine {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            table: [const { AtomicU64::new(0) }; PAGES],
            tlb: Mutex::new([0; PAGES]),
            users: [const { AtomicU64::new(FREE) }; PAGES],
            pages: Mutex::new((0..PAGES).collect()),
            frames: Mutex::new((0..PAGES).collect()),
            violations: AtomicUsize::new(0),
            reported: AtomicUsize::new(0),
            now: AtomicU64::new(0),
        })
    }

    /// An access of the device: by the IOTLB, else by a walk that fills it. An invalidation waits for
    /// it, as the hardware's does.
    fn access(&self, page: usize) {
        let mut tlb = self.tlb.lock();
        if tlb[page] == 0 {
            tlb[page] = self.table[page].load(SeqCst);
        }
        let Some(frame) = (tlb[page] as usize).checked_sub(1) else {
            return;
        };
        if self.users[frame].load(SeqCst) != page as u64 + 1 {
            self.violations.fetch_add(1, SeqCst);
        }
    }

    /// Maps a free page to a free frame.
    fn map(&self) -> Option<Mapping> {
        let page = self.pages.lock().pop()?;
        let Some(frame) = self.frames.lock().pop() else {
            self.pages.lock().push(page);
            return None;
        };
        self.users[frame].store(page as u64 + 1, SeqCst);
        self.table[page].store(frame as u64 + 1, SeqCst);
        Some(Mapping { page, frame })
    }
}

/// What an unmap holds back.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    page: usize,
    frame: usize,
}

impl Mapping {
    fn range(&self) -> Range {
        let start = (self.page as u64) << SHIFT;
        Range::new(start, start + (1 << SHIFT)).unwrap()
    }
}

impl Owner for Arc<Machine> {
    type Item = Mapping;

    fn reclaim(&self, Mapping { page, frame }: Mapping) {
        self.users[frame].store(FREE, SeqCst);
        self.frames.lock().push(frame);
        self.pages.lock().push(page);
    }

    fn flush_failed(&self, _: QueueError, _: usize) {
        self.reported.fetch_add(1, SeqCst);
    }
}

impl Clock for Machine {
    fn now(&self) -> u64 {
        self.now.load(SeqCst)
    }
}

/// Invalidates when it is waited for, as late as it can. Fails one wait in `fail_one_in`, if that is
/// not 0, and then invalidates nothing.
struct LateIommu {
    machine: Arc<Machine>,
    features: Features,
    submitted: Mutex<BTreeMap<u64, Range>>,
    submissions: AtomicU64,
    levels: Mutex<Vec<Levels>>,
    fail_one_in: AtomicU64,
    during_wait: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl LateIommu {
    fn new(machine: &Arc<Machine>) -> Arc<Self> {
        Arc::new(Self {
            machine: machine.clone(),
            features: Features {
                pasid_bits: 0,
                device_tlb: false,
                iotlb_keyed_by_pasid: false,
                chained_sync: true,
                caches_not_present: false,
                page_requests: false,
                stall: false,
            },
            submitted: Mutex::default(),
            submissions: AtomicU64::new(0),
            levels: Mutex::default(),
            fail_one_in: AtomicU64::new(0),
            during_wait: Mutex::new(None),
        })
    }

    fn submissions(&self) -> u64 {
        self.submissions.load(SeqCst)
    }
}

impl Iommu for LateIommu {
    fn features(&self) -> Features {
        self.features
    }
    fn check(&self, _: &PageTable) -> Result<(), Incompatible> {
        Ok(())
    }
    fn allocate_tag(&self) -> Result<Tag, TagsExhausted> {
        Ok(Tag(1))
    }
    fn free_tag(&self, _: Tag) {}
    fn enable_device(&self, _: DeviceId, _: DeviceConfig) -> Result<(), AttachError> {
        Ok(())
    }
    fn disable_device(&self, _: DeviceId) -> Result<(), AttachError> {
        Ok(())
    }
    fn device_config(&self, _: DeviceId) -> Option<DeviceConfig> {
        None
    }
    fn attach(&self, _: DeviceId, _: Pasid, _: Tag, _: &PageTable) -> Result<(), AttachError> {
        Ok(())
    }
    fn block(&self, _: DeviceId, _: Pasid) -> Result<(), AttachError> {
        Ok(())
    }
    fn detach(&self, _: DeviceId, _: Pasid) -> Result<(), AttachError> {
        Ok(())
    }
    fn submit(&self, invalidation: &Invalidation<'_>) -> Result<Ticket, QueueError> {
        let end = self.submissions.fetch_add(1, SeqCst) + 1;
        self.submitted.lock().insert(end, invalidation.range);
        self.levels.lock().push(invalidation.levels);
        Ok(Ticket {
            end,
            has_sync: true,
        })
    }
    fn wait(&self, ticket: Ticket) -> Result<Completed, QueueError> {
        let during = self.during_wait.lock().take();
        during.into_iter().for_each(|during| during());
        thread::yield_now();
        let range = self.submitted.lock().remove(&ticket.end).unwrap();
        let fail_one_in = self.fail_one_in.load(SeqCst);
        if fail_one_in != 0 && ticket.end.is_multiple_of(fail_one_in) {
            return Err(ERROR);
        }
        let mut tlb = self.machine.tlb.lock();
        for (page, entry) in tlb.iter_mut().enumerate() {
            if range.contains((page as u64) << SHIFT) {
                *entry = 0;
            }
        }
        Ok(Completed { _proof: () })
    }
    fn take_faults(&self, _: &mut dyn FnMut(IommuFault)) -> FaultSummary {
        FaultSummary::default()
    }
}

type Domain = DeferredDomain<Arc<Machine>, Arc<Machine>>;

struct System {
    machine: Arc<Machine>,
    iommu: Arc<LateIommu>,
    domain: Arc<Domain>,
}

const BOUNDS: Bounds = Bounds {
    ranges: 8,
    nanoseconds: 1000,
};

fn system() -> System {
    let machine = Machine::new();
    let iommu = LateIommu::new(&machine);
    let srcu = Arc::new(Srcu::new());
    let domain = Domain::new(srcu, BOUNDS, machine.clone(), machine.clone());
    let dynamic: Arc<dyn Iommu> = iommu.clone();
    drop(domain.add(&dynamic, ATTACHMENT, Trust::Trusted).unwrap());
    System {
        machine,
        iommu,
        domain: Arc::new(domain),
    }
}

impl System {
    /// Maps a page, lets the device use it, and clears the entry.
    fn cleared(&self) -> Mapping {
        let mapping = self.machine.map().unwrap();
        self.machine.access(mapping.page);
        self.machine.table[mapping.page].store(0, SeqCst);
        mapping
    }

    fn unmap(&self, levels: Levels) -> Result<(), Held<Mapping>> {
        let mapping = self.cleared();
        self.domain.unmapped(mapping.range(), levels, mapping)
    }

    fn unmap_leaf(&self) {
        self.unmap(Levels::LeafOnly).unwrap();
    }

    /// Lets the device use all pages, and says how many accesses should not have been possible.
    fn violations(&self) -> usize {
        (0..PAGES).for_each(|page| self.machine.access(page));
        self.machine.violations.load(SeqCst)
    }

    fn free(&self) -> usize {
        self.machine.frames.lock().len()
    }
}

#[test]
fn half_of_the_ranges_make_one_flush() {
    let system = system();
    (0..3).for_each(|_| system.unmap_leaf());
    assert_eq!((system.iommu.submissions(), system.domain.held()), (0, 3));
    assert_eq!(
        system.violations(),
        0,
        "frames are held while the device reaches them"
    );
    system.unmap_leaf();
    assert_eq!((system.iommu.submissions(), system.domain.held()), (1, 0));
    assert_eq!((system.free(), system.violations()), (PAGES, 0));
    (0..400).for_each(|_| system.unmap_leaf());
    assert_eq!(system.iommu.submissions(), 1 + 100);
}

#[test]
fn a_flush_has_all_levels_if_one_unmap_has() {
    let system = system();
    system.unmap_leaf();
    system.unmap(Levels::All).unwrap();
    system.unmap_leaf();
    system.domain.flush().unwrap();
    system.unmap_leaf();
    system.domain.flush().unwrap();
    assert_eq!(*system.iommu.levels.lock(), [Levels::All, Levels::LeafOnly]);
}

#[test]
fn nothing_is_older_than_the_bound_when_the_timer_polls() {
    let system = system();
    assert_eq!(system.domain.deadline(), None);
    system.machine.now.store(500, SeqCst);
    system.unmap_leaf();
    assert_eq!(system.domain.deadline(), Some(1500));
    system.machine.now.store(1499, SeqCst);
    system.domain.poll().unwrap();
    assert_eq!(system.domain.held(), 1);
    system.machine.now.store(1500, SeqCst);
    system.domain.poll().unwrap();
    assert_eq!((system.domain.held(), system.domain.deadline()), (0, None));
}

#[test]
fn an_unmap_flushes_what_a_late_timer_left() {
    let system = system();
    system.unmap_leaf();
    system.machine.now.store(1000, SeqCst);
    system.unmap_leaf();
    assert_eq!(system.domain.held(), 0);
}

#[test]
fn what_a_failed_flush_leaves_is_held_reported_and_tried_again() {
    let system = system();
    system.iommu.fail_one_in.store(1, SeqCst);
    for _ in 0..8 {
        system.unmap_leaf();
    }
    assert_eq!((system.domain.held(), system.free()), (8, PAGES - 8));
    assert_eq!(system.machine.reported.load(SeqCst), 2);

    // No room: the item comes back, and nothing of the rest is given away.
    let mapping = system.cleared();
    let page = mapping.page;
    let held = system
        .domain
        .unmapped(mapping.range(), Levels::LeafOnly, mapping);
    let held = held.unwrap_err();
    assert_eq!((held.item.page, held.error), (page, ERROR));
    assert_eq!((system.domain.held(), system.violations()), (8, 0));

    // The hardware recovers: brought again, it goes with all the others.
    system.iommu.fail_one_in.store(0, SeqCst);
    let range = held.item.range();
    system
        .domain
        .unmapped(range, Levels::LeafOnly, held.item)
        .unwrap();
    assert_eq!((system.domain.held(), system.free()), (0, PAGES));
    assert_eq!(system.violations(), 0);
}

#[test]
fn what_is_unmapped_during_a_flush_waits_for_the_next() {
    let system = system();
    system.unmap_leaf();
    let late = system.cleared();
    let domain = system.domain.clone();
    *system.iommu.during_wait.lock() = Some(Box::new(move || {
        domain
            .unmapped(late.range(), Levels::LeafOnly, late)
            .unwrap();
    }));
    system.domain.flush().unwrap();
    assert_eq!((system.domain.held(), system.free()), (1, PAGES - 1));
    system.domain.flush().unwrap();
    assert_eq!((system.free(), system.violations()), (PAGES, 0));
}

#[test]
fn without_a_device_nothing_is_sent() {
    let System {
        machine,
        iommu,
        domain,
    } = system();
    let dynamic: Arc<dyn Iommu> = iommu.clone();
    drop(domain.remove(&dynamic, ATTACHMENT));
    let mapping = machine.map().unwrap();
    domain
        .unmapped(mapping.range(), Levels::All, mapping)
        .unwrap();
    domain.flush().unwrap();
    assert_eq!(
        (iommu.submissions(), machine.frames.lock().len()),
        (0, PAGES)
    );
}

#[test]
fn dropping_a_domain_flushes_it() {
    let system = system();
    system.unmap_leaf();
    let System {
        machine, domain, ..
    } = system;
    drop(domain);
    assert_eq!(machine.frames.lock().len(), PAGES);
}

#[test]
fn what_cannot_be_flushed_is_leaked_with_the_domain() {
    /// Keeps its items alive by their reference counts.
    struct Keeper;
    impl Owner for Keeper {
        type Item = Arc<()>;
        fn reclaim(&self, _: Arc<()>) {}
        fn flush_failed(&self, error: QueueError, held: usize) {
            assert_eq!((error, held), (ERROR, 1));
        }
    }
    let machine = Machine::new();
    let iommu = LateIommu::new(&machine);
    iommu.fail_one_in.store(1, SeqCst);
    let dynamic: Arc<dyn Iommu> = iommu;
    let domain = DeferredDomain::new(Arc::new(Srcu::new()), BOUNDS, Keeper, machine);
    drop(domain.add(&dynamic, ATTACHMENT, Trust::Trusted).unwrap());
    let item = Arc::new(());
    let range = Range::new(0, 4096).unwrap();
    domain
        .unmapped(range, Levels::LeafOnly, item.clone())
        .unwrap();
    drop(domain);
    assert_eq!(Arc::strong_count(&item), 2);
}

#[test]
fn devices_without_trust_and_shadowing_iommus_are_refused() {
    let System {
        machine, domain, ..
    } = system();
    let add = |iommu: &Arc<LateIommu>, trust| {
        let iommu: Arc<dyn Iommu> = iommu.clone();
        domain.add(&iommu, ATTACHMENT, trust).map(drop)
    };
    let mut shadowing = LateIommu::new(&machine);
    let untrusted = Err(Refused::Untrusted(ATTACHMENT.device));
    assert_eq!(add(&shadowing, Trust::Untrusted), untrusted);
    let features = &mut Arc::get_mut(&mut shadowing).unwrap().features;
    features.caches_not_present = true;
    assert_eq!(
        add(&shadowing, Trust::Trusted),
        Err(Refused::CachesNotPresent)
    );
    assert_eq!(domain.set.read().unwrap().len(), 1, "nothing was added");
}

#[test]
fn a_timeout_is_handed_on_as_it_is() {
    let error = QueueError::Timeout(Timeout {
        operation: "waiting",
        nanoseconds: 1,
    });
    let held = Held { item: 7, error };
    let text = "no room for another unmapped range: waiting took more than 1 ns";
    assert_eq!(std::format!("{held}"), text);
}

/// Four CPUs map and unmap, one polls, two devices use every page. Ends after `rounds` unmaps of each
/// CPU, or with the first violation, and returns the violations.
fn race(fail_one_in: u64, rounds: usize) -> usize {
    let system = system();
    let System {
        machine,
        iommu,
        domain,
    } = &system;
    iommu.fail_one_in.store(fail_one_in, SeqCst);
    let done = AtomicBool::new(false);
    let is_over = || done.load(SeqCst) || machine.violations.load(SeqCst) > 0;
    let unmap = |mapping: Mapping| {
        machine.table[mapping.page].store(0, SeqCst);
        let mut item = mapping;
        while let Err(held) = domain.unmapped(item.range(), Levels::LeafOnly, item) {
            item = held.item;
        }
    };
    thread::scope(|scope| {
        for first in [0, PAGES / 2] {
            let is_over = &is_over;
            scope.spawn(move || {
                for page in (0..PAGES).cycle().skip(first) {
                    machine.access(page);
                    if is_over() {
                        return;
                    }
                    thread::yield_now();
                }
            });
        }
        scope.spawn(|| {
            while !is_over() {
                machine.now.fetch_add(100, SeqCst);
                let _ = domain.poll();
                thread::yield_now();
            }
        });
        let cpus: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..rounds {
                        if is_over() {
                            return;
                        }
                        match machine.map() {
                            Some(mapping) => {
                                thread::yield_now();
                                unmap(mapping);
                            }
                            None => thread::yield_now(),
                        }
                    }
                })
            })
            .collect();
        cpus.into_iter().for_each(|cpu| cpu.join().unwrap());
        done.store(true, SeqCst);
    });
    let violations = machine.violations.load(SeqCst);
    iommu.fail_one_in.store(0, SeqCst);
    domain.flush().unwrap();
    assert_eq!(
        (domain.held(), system.free()),
        (0, PAGES),
        "nothing is lost"
    );
    assert_eq!(machine.pages.lock().len(), PAGES);
    violations
}

#[test]
fn no_frame_is_given_back_early_under_races() {
    assert_eq!(race(0, 2_000), 0);
}

#[test]
fn no_frame_is_given_back_early_under_races_with_failures() {
    assert_eq!(race(3, 2_000), 0);
}
