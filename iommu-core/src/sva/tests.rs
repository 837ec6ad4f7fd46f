//! Binding, notification, exit and unbinding against IOMMUs that write down what they are asked.

mod page_requests;
mod reset;
mod silent;

use super::*;
use crate::Range;
use crate::error::{AttachError, Incompatible, QueueError, TagsExhausted, Timeout};
use crate::fault::{Fault, FaultSummary};
use crate::ids::{PhysicalAddress, Tag};
use crate::iommu::{Completed, DeviceConfig, Features, PageFaults, Ticket};
use crate::operation::{Invalidation, Levels, Target};
use crate::page_request::{PageRequest, PageResponse, Taken};
use crate::page_table::Format;
use crate::quarantine;
use crate::tag::TagAllocator;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use core_notifier::Srcu;
use spin::Mutex;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    Attach(DeviceId, Pasid, Tag),
    Block(DeviceId, Pasid),
    Detach(DeviceId, Pasid),
    Submit(Vec<Target>, Range, Levels),
    Wait,
    Respond(Vec<PageResponse>),
    Drain(DeviceId, Pasid),
    Quarantine(DeviceId),
    Restore(DeviceId),
}
use Call::*;

const TABLE: PageTable = PageTable {
    root: PhysicalAddress(0x1000),
    format: Format::X86_64 { levels: 4 },
    written_back: false,
};
const NIC: DeviceId = DeviceId(8);
/// With a TLB, as the next.
const GPU: DeviceId = DeviceId(16);
const FPGA: DeviceId = DeviceId(24);
const UNKNOWN: DeviceId = DeviceId(99);

/// Keeps a log, shared by all IOMMUs of a test, of (its number, what it was asked).
struct FakeIommu {
    number: usize,
    features: Features,
    tags: TagAllocator,
    attached: Mutex<Vec<(DeviceId, Pasid)>>,
    failure: Mutex<Option<QueueError>>,
    /// Whose TLB does not answer, and whether the IOMMU can say so.
    silent: Mutex<Option<(DeviceId, bool)>>,
    standing: quarantine::Quarantine,
    /// How many targets a list can have.
    room: AtomicUsize,
    /// What the wait for each list answers.
    answers: Mutex<Vec<Option<QueueError>>>,
    /// What the next waits answer, the last first.
    waits_fail: Mutex<Vec<QueueError>>,
    /// Makes `submit` linger until this is set, or for as long as a correct caller takes to prove
    /// that it does not set it.
    linger: Mutex<Option<Arc<AtomicBool>>>,
    lingers: AtomicBool,
    outlived: AtomicBool,
    /// What happens elsewhere while a device is attached or detached.
    meanwhile: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
    /// Page requests that devices have made.
    requests: Mutex<Vec<PageRequest>>,
    log: Log,
}
type Log = Arc<Mutex<Vec<(usize, Call)>>>;

impl FakeIommu {
    fn log(&self, call: Call) -> Result<(), QueueError> {
        self.log.lock().push((self.number, call));
        self.failure.lock().map_or(Ok(()), Err)
    }

    /// What becomes of a list for a device's TLB.
    fn ask(&self, device: DeviceId) -> Result<(), QueueError> {
        match *self.silent.lock() {
            Some((silent, named)) if silent == device && !self.standing.has(device) => {
                let device = named.then_some(device);
                Err(QueueError::DeviceTimeout { device })
            }
            _ => Ok(()),
        }
    }

    fn meanwhile(&self) {
        let happens = self.meanwhile.lock().clone();
        if let Some(happens) = happens {
            happens();
        }
    }
}

impl Iommu for FakeIommu {
    fn features(&self) -> Features {
        self.features
    }
    fn check(&self, table: &PageTable) -> Result<(), Incompatible> {
        match table.format {
            Format::X86_64 { levels: 4 } => Ok(()),
            _ => Err(Incompatible::Architecture),
        }
    }
    fn allocate_tag(&self) -> Result<Tag, TagsExhausted> {
        self.tags.allocate()
    }
    fn free_tag(&self, tag: Tag) {
        self.tags.free(tag);
    }
    fn enable_device(&self, _: DeviceId, _: DeviceConfig) -> Result<(), AttachError> {
        Ok(())
    }
    fn disable_device(&self, _: DeviceId) -> Result<(), AttachError> {
        Ok(())
    }
    fn device_config(&self, device: DeviceId) -> Option<DeviceConfig> {
        (device != UNKNOWN).then_some(DeviceConfig {
            pasid_bits: 8,
            device_tlb: device == GPU || device == FPGA,
            page_faults: match device {
                GPU => PageFaults::PageRequests {
                    response_pasid: true,
                },
                _ => PageFaults::Fatal,
            },
        })
    }
    fn attach(
        &self,
        device: DeviceId,
        pasid: Pasid,
        tag: Tag,
        _: &PageTable,
    ) -> Result<(), AttachError> {
        let mut attached = self.attached.lock();
        if attached.contains(&(device, pasid)) {
            return Err(AttachError::PasidInUse(device, pasid));
        }
        self.log(Attach(device, pasid, tag))?;
        attached.push((device, pasid));
        drop(attached);
        self.meanwhile();
        Ok(())
    }
    fn block(&self, device: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        self.log(Block(device, pasid))?;
        Ok(self.ask(device)?)
    }
    fn detach(&self, device: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        self.meanwhile();
        self.log(Detach(device, pasid))?;
        self.ask(device)?;
        self.attached
            .lock()
            .retain(|entry| *entry != (device, pasid));
        Ok(())
    }
    fn submit(&self, invalidation: &Invalidation<'_>) -> Result<Ticket, QueueError> {
        let Invalidation {
            targets,
            range,
            levels,
        } = *invalidation;
        self.standing.check(targets)?;
        let (commands, capacity) = (targets.len(), self.room.load(SeqCst));
        if commands > capacity {
            return Err(QueueError::ListTooLong { commands, capacity });
        }
        if let Some(caller_left) = self.linger.lock().take() {
            self.lingers.store(true, SeqCst);
            for _ in 0..20_000 {
                std::thread::yield_now();
            }
            self.outlived.store(caller_left.load(SeqCst), SeqCst);
        }
        self.log(Submit(targets.into(), range, levels))?;
        let mut asked = targets.iter().filter_map(Target::device);
        let answer = asked.find_map(|device| self.ask(device).err());
        let mut answers = self.answers.lock();
        answers.push(answer);
        Ok(Ticket {
            end: answers.len() as u64 - 1,
            has_sync: true,
        })
    }
    fn suspect(&self, device: DeviceId) -> bool {
        self.standing.suspect(device)
    }
    fn quarantine(&self, device: DeviceId) -> Result<(), AttachError> {
        self.log(Quarantine(device))?;
        self.standing.begin(device);
        Ok(())
    }
    fn is_quarantined(&self, device: DeviceId) -> bool {
        self.standing.has(device)
    }
    fn restore(&self, device: DeviceId) -> Result<(), AttachError> {
        self.log(Restore(device))?;
        self.standing.end(device);
        Ok(self
            .ask(device)
            .inspect_err(|_| self.standing.begin(device))?)
    }
    fn wait(&self, ticket: Ticket) -> Result<Completed, QueueError> {
        self.log(Wait)?;
        if let Some(error) = self.answers.lock()[ticket.end as usize] {
            return Err(error);
        }
        if let Some(error) = self.waits_fail.lock().pop() {
            return Err(error);
        }
        Ok(Completed { _proof: () })
    }
    fn take_faults(&self, _: &mut dyn FnMut(Fault)) -> FaultSummary {
        FaultSummary::default()
    }
    fn take_page_requests(&self, _: usize, take: &mut dyn FnMut(Taken)) -> usize {
        let requests = core::mem::take(&mut *self.requests.lock());
        requests.into_iter().map(Taken::Request).for_each(take);
        0
    }
    fn respond(&self, responses: &[PageResponse]) -> Result<(), QueueError> {
        self.log(Respond(responses.into()))
    }
    fn drain_page_requests(&self, device: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        Ok(self.log(Drain(device, pasid))?)
    }
}

#[derive(Default)]
struct Failures(Mutex<Vec<Failure>>);

impl FailureHandler for Failures {
    fn invalidation_failed(&self, failure: Failure) {
        self.0.lock().push(failure);
    }
}

#[derive(Default)]
struct Lock(std::sync::Mutex<()>);

impl AddressSpaceLock for Lock {
    type Guard<'a> = std::sync::MutexGuard<'a, ()>;
    fn lock(&self) -> Self::Guard<'_> {
        self.0.lock().unwrap()
    }
}

struct System {
    log: Log,
    failures: Arc<Failures>,
    sva: Arc<Sva>,
}

impl System {
    fn new() -> Self {
        let failures = Arc::new(Failures::default());
        Self {
            log: Log::default(),
            sva: Sva::new(Pasid::new(3).unwrap(), failures.clone()),
            failures,
        }
    }

    fn iommu(&self, number: usize, chained_sync: bool, keyed: bool) -> Arc<FakeIommu> {
        let standing = quarantine::Quarantine::default();
        [NIC, GPU, FPGA]
            .into_iter()
            .for_each(|device| standing.admit(device));
        Arc::new(FakeIommu {
            number,
            features: Features {
                pasid_bits: 8,
                device_tlb: true,
                iotlb_keyed_by_pasid: keyed,
                chained_sync,
                caches_not_present: false,
                page_requests: false,
                stall: false,
            },
            tags: TagAllocator::new(7, 8),
            attached: Mutex::default(),
            failure: Mutex::default(),
            silent: Mutex::default(),
            standing,
            room: AtomicUsize::new(usize::MAX),
            answers: Mutex::default(),
            waits_fail: Mutex::default(),
            linger: Mutex::default(),
            lingers: AtomicBool::new(false),
            meanwhile: Mutex::default(),
            outlived: AtomicBool::new(false),
            requests: Mutex::default(),
            log: self.log.clone(),
        })
    }

    fn join(&self) -> (Arc<AddressSpace>, SvaSpace) {
        let notifiers = Arc::new(AddressSpace::new(Arc::new(Srcu::new())));
        let space = self.sva.join(notifiers.clone(), &Lock::default(), TABLE);
        (notifiers, space.unwrap())
    }

    fn take(&self) -> Vec<(usize, Call)> {
        core::mem::take(&mut *self.log.lock())
    }
}

fn dynamic(iommu: &Arc<FakeIommu>) -> Arc<dyn Iommu> {
    iommu.clone()
}

fn range() -> Range {
    Range::new(0x1000, 0x3000).unwrap()
}

fn iotlb(tag: u32, pasid: u32) -> Target {
    Target::Iotlb {
        tag: Tag(tag),
        pasid: Pasid::new(pasid).unwrap(),
    }
}

fn device_tlb(device: DeviceId, pasid: u32) -> Target {
    Target::DeviceTlb {
        device,
        pasid: Pasid::new(pasid).unwrap(),
    }
}

#[test]
fn a_notification_reaches_every_cache_once_iotlbs_first() {
    let system = System::new();
    let iommu = dynamic(&system.iommu(0, true, false));
    let (notifiers, space) = system.join();
    for (device, requests) in [
        (GPU, Requests::Tagged),
        (GPU, Requests::Untagged),
        (NIC, Requests::Tagged),
    ] {
        space.bind(&iommu, device, requests).unwrap();
    }
    system.take();
    notifiers.invalidate_range(range());
    let targets = [iotlb(7, 0), device_tlb(GPU, 0), device_tlb(GPU, 1)];
    let submit = Submit(targets.into(), range(), Levels::All);
    assert_eq!(system.take(), [(0, submit), (0, Wait)]);
}

#[test]
fn an_iotlb_that_is_keyed_by_pasid_is_invalidated_for_each() {
    let system = System::new();
    let iommu = dynamic(&system.iommu(0, true, true));
    let (notifiers, space) = system.join();
    space.bind(&iommu, NIC, Requests::Tagged).unwrap();
    space.bind(&iommu, NIC, Requests::Untagged).unwrap();
    system.take();
    notifiers.invalidate_range(range());
    let targets = [iotlb(7, 0), iotlb(7, 1)];
    let submit = Submit(targets.into(), range(), Levels::All);
    assert_eq!(system.take(), [(0, submit), (0, Wait)]);
}

#[test]
fn all_iommus_are_posted_to_before_any_is_waited_for() {
    let system = System::new();
    let iommus: Vec<_> = (0..3)
        .map(|number| dynamic(&system.iommu(number, true, false)))
        .collect();
    let (notifiers, space) = system.join();
    for iommu in &iommus {
        space.bind(iommu, NIC, Requests::Tagged).unwrap();
    }
    system.take();
    notifiers.invalidate_range(range());
    let calls = system.take();
    let is_wait: Vec<_> = calls.iter().map(|(_, call)| *call == Wait).collect();
    assert_eq!(is_wait, [false, false, false, true, true, true]);
}

#[test]
fn more_iommus_than_are_served_at_once_are_all_served() {
    let system = System::new();
    let (notifiers, space) = system.join();
    for number in 0..20 {
        let iommu = dynamic(&system.iommu(number, true, false));
        space.bind(&iommu, NIC, Requests::Tagged).unwrap();
    }
    system.take();
    notifiers.invalidate_range(range());
    let calls = system.take();
    for number in 0..20 {
        assert_eq!(calls.iter().filter(|(at, _)| *at == number).count(), 2);
    }
}

#[test]
fn device_tlbs_wait_for_the_iotlb_where_one_list_cannot_order_them() {
    let system = System::new();
    let iommu = dynamic(&system.iommu(0, false, false));
    let (notifiers, space) = system.join();
    space.bind(&iommu, GPU, Requests::Tagged).unwrap();
    system.take();
    notifiers.invalidate_range(range());
    let first = Submit([iotlb(7, 0)].into(), range(), Levels::All);
    let second = Submit([device_tlb(GPU, 1)].into(), range(), Levels::All);
    assert_eq!(
        system.take(),
        [(0, first), (0, Wait), (0, second), (0, Wait)]
    );
}

#[test]
fn aging_flushes_leaves_and_leaves_the_answer_to_the_cpu() {
    let system = System::new();
    let iommu = dynamic(&system.iommu(0, true, false));
    let (notifiers, space) = system.join();
    space.bind(&iommu, NIC, Requests::Tagged).unwrap();
    system.take();
    assert!(!notifiers.clear_flush_young(range()));
    let submit = Submit([iotlb(7, 0)].into(), range(), Levels::LeafOnly);
    assert_eq!(system.take(), [(0, submit), (0, Wait)]);
}

#[test]
fn sections_cost_nothing_and_may_be_non_blockable() {
    let system = System::new();
    let iommu = dynamic(&system.iommu(0, true, false));
    let (notifiers, space) = system.join();
    space.bind(&iommu, NIC, Requests::Tagged).unwrap();
    system.take();
    let unmap = core_notifier::Invalidation::new(range(), core_notifier::Event::Unmap);
    drop(notifiers.start_invalidation(unmap));
    drop(notifiers.try_start_invalidation(unmap).unwrap());
    assert_eq!(system.take(), []);
}

#[test]
fn exit_blocks_and_unbind_detaches() {
    let system = System::new();
    let iommu = dynamic(&system.iommu(0, true, false));
    let (notifiers, space) = system.join();
    let pasid = space.pasid();
    space.bind(&iommu, NIC, Requests::Tagged).unwrap();
    space.bind(&iommu, GPU, Requests::Untagged).unwrap();
    system.take();
    notifiers.release();
    assert_eq!(
        system.take(),
        [(0, Block(NIC, pasid)), (0, Block(GPU, Pasid::UNTAGGED))]
    );
    notifiers.invalidate_range(range());
    assert_eq!(system.take(), []);
    assert_eq!(
        space.bind(&iommu, UNKNOWN, Requests::Tagged),
        Err(BindError::Released)
    );
    space.unbind(&iommu, NIC, Requests::Tagged).unwrap();
    assert_eq!(system.take(), [(0, Detach(NIC, pasid))]);
}

#[test]
fn after_unbind_nothing_is_sent_and_the_tag_is_reused() {
    let system = System::new();
    let fake = system.iommu(0, true, false);
    let iommu = dynamic(&fake);
    let (notifiers, space) = system.join();
    for _ in 0..5 {
        space.bind(&iommu, NIC, Requests::Tagged).unwrap();
        space.bind(&iommu, NIC, Requests::Untagged).unwrap();
        space.unbind(&iommu, NIC, Requests::Tagged).unwrap();
        space.unbind(&iommu, NIC, Requests::Untagged).unwrap();
    }
    system.take();
    notifiers.invalidate_range(range());
    assert_eq!(system.take(), []);
    assert_eq!(fake.tags.allocate(), Ok(Tag(7)));
}

#[test]
fn mistakes_are_typed_and_change_nothing() {
    let system = System::new();
    let fake = system.iommu(0, true, false);
    let iommu = dynamic(&fake);
    let (notifiers, space) = system.join();
    space.bind(&iommu, NIC, Requests::Tagged).unwrap();
    system.take();

    let (device, pasid) = (NIC, space.pasid());
    assert_eq!(
        space.bind(&iommu, NIC, Requests::Tagged),
        Err(BindError::AlreadyBound { device, pasid })
    );
    assert_eq!(
        space.bind(&iommu, UNKNOWN, Requests::Tagged),
        Err(AttachError::UnknownDevice(UNKNOWN).into())
    );
    let pasid = Pasid::UNTAGGED;
    assert_eq!(
        space.unbind(&iommu, NIC, Requests::Untagged),
        Err(UnbindError::NotBound { device, pasid })
    );
    let (_, other) = system.join();
    assert_eq!(
        other.unbind(&iommu, NIC, Requests::Tagged),
        Err(UnbindError::NotBound {
            device,
            pasid: other.pasid()
        })
    );
    assert_eq!(system.take(), []);

    notifiers.invalidate_range(range());
    let submit = Submit([iotlb(7, 0)].into(), range(), Levels::All);
    assert_eq!(system.take(), [(0, submit), (0, Wait)]);
    space.unbind(&iommu, NIC, Requests::Tagged).unwrap();
    assert!(space.unbind(&iommu, NIC, Requests::Tagged).is_err());
    assert!(fake.attached.lock().is_empty());
}

#[test]
fn a_device_that_another_address_space_has_is_refused_and_rolled_back() {
    let system = System::new();
    let fake = system.iommu(0, true, false);
    let iommu = dynamic(&fake);
    let ((_, first), (notifiers, second)) = (system.join(), system.join());
    first.bind(&iommu, NIC, Requests::Untagged).unwrap();
    assert_eq!(
        second.bind(&iommu, NIC, Requests::Untagged),
        Err(AttachError::PasidInUse(NIC, Pasid::UNTAGGED).into())
    );
    system.take();
    notifiers.invalidate_range(range());
    assert_eq!(system.take(), []);
    assert_eq!(fake.tags.allocate(), Ok(Tag(8)), "the tag was put back");
}

#[test]
fn an_address_space_that_the_iommu_cannot_walk_is_refused() {
    let system = System::new();
    let iommu = dynamic(&system.iommu(0, true, false));
    let notifiers = Arc::new(AddressSpace::new(Arc::new(Srcu::new())));
    let format = Format::Riscv64 { levels: 3 };
    let table = PageTable { format, ..TABLE };
    let space = system.sva.join(notifiers, &Lock::default(), table).unwrap();
    assert_eq!(
        space.bind(&iommu, NIC, Requests::Tagged),
        Err(AttachError::Incompatible(Incompatible::Architecture).into())
    );
    assert_eq!(system.take(), []);
}

#[test]
fn a_pasid_is_for_life_and_then_reused() {
    let system = System::new();
    let iommu = dynamic(&system.iommu(0, true, false));
    let (_, first) = system.join();
    let (_, second) = system.join();
    assert_eq!((first.pasid().get(), second.pasid().get()), (1, 2));
    first.bind(&iommu, NIC, Requests::Tagged).unwrap();
    first.unbind(&iommu, NIC, Requests::Tagged).unwrap();
    assert_eq!(first.pasid().get(), 1);
    first.bind(&iommu, NIC, Requests::Tagged).unwrap();
    system.take();
    let pasid = first.pasid();
    drop(first);
    assert_eq!(system.take()[0], (0, Detach(NIC, pasid)));
    assert_eq!(system.join().1.pasid(), pasid);
}

#[test]
fn joining_a_released_address_space_takes_no_pasid() {
    let system = System::new();
    let notifiers = Arc::new(AddressSpace::new(Arc::new(Srcu::new())));
    notifiers.release();
    let joined = system.sva.join(notifiers, &Lock::default(), TABLE);
    assert!(matches!(joined, Err(JoinError::Register(_))));
    assert_eq!(system.join().1.pasid().get(), 1);
}

#[test]
fn a_failed_invalidation_is_told_and_the_others_are_served() {
    let system = System::new();
    let (broken, sound) = (system.iommu(0, true, false), system.iommu(1, true, false));
    let (notifiers, space) = system.join();
    space
        .bind(&dynamic(&broken), NIC, Requests::Tagged)
        .unwrap();
    space.bind(&dynamic(&sound), NIC, Requests::Tagged).unwrap();
    system.take();
    let error = QueueError::Timeout(Timeout {
        operation: "a test",
        nanoseconds: 1,
    });
    *broken.failure.lock() = Some(error);
    notifiers.invalidate_range(range());
    let pasid = space.pasid();
    let (range, told) = (range(), core::mem::take(&mut *system.failures.0.lock()));
    assert_eq!(
        told,
        [Failure {
            pasid,
            range,
            error
        }]
    );
    assert!(system.take().contains(&(1, Wait)));

    // The PASID stays taken, as the broken IOMMU may still know it.
    drop(space);
    assert_eq!(system.failures.0.lock()[0].range, Range::ALL);
    assert_ne!(system.join().1.pasid(), pasid);
}

#[test]
fn an_error_of_another_device_costs_a_second_try_and_no_invalidation() {
    let other = QueueError::DeviceTimeout { device: Some(GPU) };
    let unnamed = QueueError::DeviceTimeout { device: None };
    for errors in [
        [other].as_slice(),
        &[unnamed],
        &[QueueError::Aborted, other],
        &[other, other, other],
    ] {
        let system = System::new();
        let fake = system.iommu(0, true, false);
        let (notifiers, space) = system.join();
        space.bind(&dynamic(&fake), NIC, Requests::Tagged).unwrap();
        system.take();
        *fake.waits_fail.lock() = errors.into();
        notifiers.invalidate_range(range());
        let calls = system.take();
        let waits = calls.iter().filter(|(_, call)| *call == Wait).count();
        let submits = calls.len() - waits;
        assert_eq!((waits, submits), (errors.len() + 1, errors.len() + 1));
        assert_eq!(*system.failures.0.lock(), []);
    }
}

#[test]
fn an_error_of_its_own_device_is_told() {
    for named in [true, false] {
        let system = System::new();
        let fake = system.iommu(0, true, false);
        let (notifiers, space) = system.join();
        space.bind(&dynamic(&fake), GPU, Requests::Tagged).unwrap();
        *fake.silent.lock() = Some((GPU, named));
        notifiers.invalidate_range(range());
        let error = QueueError::DeviceTimeout { device: Some(GPU) };
        let (pasid, range) = (space.pasid(), range());
        let told = core::mem::take(&mut *system.failures.0.lock());
        assert_eq!(
            told,
            [Failure {
                pasid,
                range,
                error
            }]
        );
    }
}

#[test]
fn an_error_that_comes_again_and_again_is_told_in_the_end() {
    let system = System::new();
    let fake = system.iommu(0, true, false);
    let (notifiers, space) = system.join();
    space.bind(&dynamic(&fake), NIC, Requests::Tagged).unwrap();
    *fake.waits_fail.lock() = [QueueError::Aborted; 10].into();
    notifiers.invalidate_range(range());
    assert_eq!(system.failures.0.lock().len(), 1);
}

#[test]
fn binding_and_exit_race_without_leaving_a_device_working() {
    for _ in 0..200 {
        let system = System::new();
        let iommu = dynamic(&system.iommu(0, true, false));
        let (notifiers, space) = system.join();
        let bound = std::thread::scope(|scope| {
            let bind = scope.spawn(|| space.bind(&iommu, NIC, Requests::Tagged).is_ok());
            notifiers.release();
            bind.join().unwrap()
        });
        let blocked = system.take().contains(&(0, Block(NIC, space.pasid())));
        assert_eq!(bound, blocked);
    }
}

#[test]
fn unbind_waits_for_the_notifications_under_way() {
    let system = System::new();
    let fake = system.iommu(0, true, false);
    let iommu = dynamic(&fake);
    let (notifiers, space) = system.join();
    space.bind(&iommu, GPU, Requests::Tagged).unwrap();
    let unbound = Arc::new(AtomicBool::new(false));
    *fake.linger.lock() = Some(unbound.clone());
    std::thread::scope(|scope| {
        scope.spawn(|| notifiers.invalidate_range(range()));
        while !fake.lingers.load(SeqCst) {
            std::thread::yield_now();
        }
        space.unbind(&iommu, GPU, Requests::Tagged).unwrap();
        unbound.store(true, SeqCst);
    });
    let calls = system.take();
    assert!(calls.contains(&(0, Detach(GPU, space.pasid()))));
    assert!(
        !fake.outlived.load(SeqCst),
        "unbind returned while a flush was sending"
    );
}

#[test]
fn everything_is_not_nothing() {
    let system = System::new();
    let iommu = dynamic(&system.iommu(0, true, false));
    let (notifiers, space) = system.join();
    space.bind(&iommu, NIC, Requests::Tagged).unwrap();
    system.take();
    notifiers.invalidate_range(Range::ALL);
    let submit = Submit([iotlb(7, 0)].into(), Range::ALL, Levels::All);
    assert_eq!(system.take(), [(0, submit), (0, Wait)]);
    notifiers.invalidate_range(Range::new(0x1000, 0x1000).unwrap());
    assert_eq!(system.take(), []);
}

#[test]
fn notifications_reach_a_device_until_it_is_detached() {
    let system = System::new();
    let fake = system.iommu(0, true, false);
    let iommu = dynamic(&fake);
    let (notifiers, space) = system.join();
    *fake.meanwhile.lock() = Some(Arc::new(move || notifiers.invalidate_range(range())));
    let pasid = space.pasid();
    let targets = [iotlb(7, 0), device_tlb(GPU, 1)];
    let submit = Submit(targets.into(), range(), Levels::All);
    space.bind(&iommu, GPU, Requests::Tagged).unwrap();
    let attach = Attach(GPU, pasid, Tag(7));
    let expected = [(0, attach), (0, submit.clone()), (0, Wait)];
    assert_eq!(system.take(), expected, "the device may walk already");
    space.unbind(&iommu, GPU, Requests::Tagged).unwrap();
    let expected = [(0, submit), (0, Wait), (0, Detach(GPU, pasid))];
    assert_eq!(system.take(), expected, "the device may walk still");
}

#[test]
fn a_shared_target_stays_until_its_last_user_leaves() {
    let system = System::new();
    let iommu = dynamic(&system.iommu(0, true, false));
    let (notifiers, space) = system.join();
    space.bind(&iommu, NIC, Requests::Tagged).unwrap();
    space.bind(&iommu, GPU, Requests::Tagged).unwrap();
    space.unbind(&iommu, GPU, Requests::Tagged).unwrap();
    system.take();
    notifiers.invalidate_range(range());
    let submit = Submit([iotlb(7, 0)].into(), range(), Levels::All);
    assert_eq!(system.take(), [(0, submit), (0, Wait)]);
}

#[test]
fn unbinding_detaches_untagged_requests() {
    let system = System::new();
    let fake = system.iommu(0, true, false);
    let iommu = dynamic(&fake);
    let (_, space) = system.join();
    space.bind(&iommu, NIC, Requests::Untagged).unwrap();
    space.unbind(&iommu, NIC, Requests::Untagged).unwrap();
    assert_eq!(*fake.attached.lock(), []);
}

#[test]
fn a_tag_is_freed_with_the_last_binding() {
    let system = System::new();
    let fake = system.iommu(0, true, false);
    let iommu = dynamic(&fake);
    let (_, space) = system.join();
    space.bind(&iommu, NIC, Requests::Tagged).unwrap();
    space.bind(&iommu, GPU, Requests::Tagged).unwrap();
    space.unbind(&iommu, NIC, Requests::Tagged).unwrap();
    assert_eq!(fake.tags.allocate(), Ok(Tag(8)), "7 is still in use");
    space.unbind(&iommu, GPU, Requests::Tagged).unwrap();
    assert_eq!(fake.tags.allocate(), Ok(Tag(7)));
}

#[test]
fn a_binding_that_was_not_detached_stays() {
    let system = System::new();
    let fake = system.iommu(0, true, false);
    let iommu = dynamic(&fake);
    let (notifiers, space) = system.join();
    space.bind(&iommu, NIC, Requests::Tagged).unwrap();
    *fake.failure.lock() = Some(QueueError::MemoryFault);
    let refused = space.unbind(&iommu, NIC, Requests::Tagged);
    let error = AttachError::Queue(QueueError::MemoryFault);
    assert_eq!(refused, Err(UnbindError::Detach(error)));
    *fake.failure.lock() = None;
    system.take();
    notifiers.invalidate_range(range());
    assert_eq!(system.take().len(), 2, "its caches are still invalidated");
    assert_eq!(fake.tags.allocate(), Ok(Tag(8)), "its tag is still in use");
    space.unbind(&iommu, NIC, Requests::Tagged).unwrap();
}

#[test]
fn a_list_that_the_queue_cannot_hold_goes_in_parts_iotlbs_first() {
    let system = System::new();
    let fake = system.iommu(0, true, false);
    let iommu = dynamic(&fake);
    let (notifiers, space) = system.join();
    for device in [GPU, FPGA] {
        space.bind(&iommu, device, Requests::Tagged).unwrap();
        space.bind(&iommu, device, Requests::Untagged).unwrap();
    }
    system.take();
    fake.room.store(2, SeqCst);
    notifiers.invalidate_range(range());
    let list = |targets: &[Target]| {
        let submit = Submit(targets.into(), range(), Levels::All);
        [(0, submit), (0, Wait)]
    };
    let gpu = [device_tlb(GPU, 0), device_tlb(GPU, 1)];
    let fpga = [device_tlb(FPGA, 0), device_tlb(FPGA, 1)];
    let expected = [list(&[iotlb(7, 0)]), list(&gpu), list(&fpga)].concat();
    assert_eq!(system.take(), expected);
    assert!(space.is_settled());
}

#[test]
fn a_device_that_joins_others_begins_with_an_empty_tlb() {
    let system = System::new();
    let iommu = dynamic(&system.iommu(0, true, false));
    let (_, space) = system.join();
    let pasid = space.pasid();
    let attach = |device| (0, Attach(device, pasid, Tag(7)));
    for device in [GPU, NIC] {
        space.bind(&iommu, device, Requests::Tagged).unwrap();
    }
    assert_eq!(system.take(), [attach(GPU), attach(NIC)]);
    space.bind(&iommu, FPGA, Requests::Tagged).unwrap();
    let everything = Submit([device_tlb(FPGA, 1)].into(), Range::ALL, Levels::All);
    assert_eq!(system.take(), [attach(FPGA), (0, everything), (0, Wait)]);
}

#[test]
fn a_device_that_does_not_answer_is_not_bound_to_what_others_share() {
    let system = System::new();
    let fake = system.iommu(0, true, false);
    let iommu = dynamic(&fake);
    let (_, space) = system.join();
    space.bind(&iommu, FPGA, Requests::Tagged).unwrap();
    *fake.silent.lock() = Some((GPU, true));
    assert!(space.bind(&iommu, GPU, Requests::Tagged).is_err());
    assert_eq!(fake.attached.lock()[..], [(FPGA, space.pasid())]);
}
