//! Binding and unbinding against exit and page faults, under every interleaving that loom explores.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p iommu-core --release --lib`.

use super::domain::{Domain, Resolver};
use super::*;
use crate::error::{Incompatible, QueueError, TagsExhausted};
use crate::fault::{Fault, FaultSummary};
use crate::ids::{PhysicalAddress, Tag};
use crate::iommu::{Completed, DeviceConfig, Features, PageFaults, Ticket};
use crate::operation::Invalidation;
use crate::page_request::{
    DeviceShare, Origin, PageGroup, PageRequest, PageRequestHandler, PageResponse, Permissions,
    Response, Responses, Taken,
};
use crate::page_table::Format;
use ::loom::sync::Mutex;
use ::loom::thread;
use alloc::vec::Vec;
use core_notifier::Srcu;

const DEVICE: DeviceId = DeviceId(8);
const PASID: u32 = 1;

fn table(root: u64) -> PageTable {
    PageTable {
        root: PhysicalAddress(root),
        format: Format::X86_64 { levels: 4 },
        written_back: false,
    }
}

/// One device behind one IOMMU. What the hardware does is in one order, so it has a lock.
#[derive(Default)]
struct Machine(Mutex<Hardware>);

#[derive(Default)]
struct Hardware {
    /// The root of each PASID's entry; `None` in a blocked one.
    entries: Vec<(Pasid, Option<u64>)>,
    /// Requests that left the device.
    on_the_way: Vec<PageRequest>,
    /// Requests in the IOMMU's queue.
    queue: Vec<PageRequest>,
    /// Groups that were answered.
    answered: Vec<(u16, Response)>,
}

impl Machine {
    fn lock(&self) -> ::loom::sync::MutexGuard<'_, Hardware> {
        self.0.lock().unwrap()
    }

    /// The device asks for a page, with the address space's root for an address, which tells whose
    /// memory it wants.
    fn ask(&self, group: u16, root: u64) {
        self.lock().on_the_way.push(PageRequest {
            device: DEVICE,
            pasid: Pasid::new(PASID).unwrap(),
            address: root,
            permissions: Permissions {
                write: true,
                ..Permissions::default()
            },
            group,
            last: true,
            origin: Origin::PageRequest,
        });
    }

    fn walks(&self) -> Option<u64> {
        self.lock().entries.iter().find_map(|(_, root)| *root)
    }

    fn answers(&self, group: u16) -> usize {
        let hardware = self.lock();
        let its = hardware.answered.iter().filter(|(its, _)| *its == group);
        its.count()
    }
}

impl Hardware {
    /// What is on the way arrives.
    fn arrive(&mut self) {
        let arrived = core::mem::take(&mut self.on_the_way);
        self.queue.extend(arrived);
    }

    fn entry(&mut self, pasid: Pasid) -> Option<&mut (Pasid, Option<u64>)> {
        self.entries.iter_mut().find(|(its, _)| *its == pasid)
    }
}

impl Iommu for Machine {
    fn features(&self) -> Features {
        Features {
            pasid_bits: 8,
            device_tlb: true,
            iotlb_keyed_by_pasid: false,
            chained_sync: true,
            caches_not_present: false,
            page_requests: true,
            stall: false,
        }
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
        Some(DeviceConfig {
            pasid_bits: 8,
            device_tlb: false,
            page_faults: PageFaults::PageRequests {
                response_pasid: true,
            },
        })
    }
    fn attach(
        &self,
        _: DeviceId,
        pasid: Pasid,
        _: Tag,
        table: &PageTable,
    ) -> Result<(), AttachError> {
        let mut hardware = self.lock();
        assert!(hardware.entry(pasid).is_none(), "the PASID is in use");
        hardware.entries.push((pasid, Some(table.root.0)));
        Ok(())
    }
    fn block(&self, _: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        if let Some((_, root)) = self.lock().entry(pasid) {
            *root = None;
        }
        Ok(())
    }
    fn detach(&self, _: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        self.lock().entries.retain(|(its, _)| *its != pasid);
        Ok(())
    }
    fn submit(&self, _: &Invalidation<'_>) -> Result<Ticket, QueueError> {
        Ok(Ticket {
            end: 0,
            has_sync: true,
        })
    }
    fn wait(&self, _: Ticket) -> Result<Completed, QueueError> {
        Ok(Completed { _proof: () })
    }
    fn take_faults(&self, _: &mut dyn FnMut(Fault)) -> FaultSummary {
        FaultSummary::default()
    }
    fn take_page_requests(&self, _: usize, take: &mut dyn FnMut(Taken)) -> usize {
        let requests = core::mem::take(&mut self.lock().queue);
        requests.into_iter().map(Taken::Request).for_each(take);
        0
    }
    fn respond(&self, responses: &[PageResponse]) -> Result<(), QueueError> {
        let answers = responses.iter().map(|one| (one.group, one.response));
        self.lock().answered.extend(answers);
        Ok(())
    }
    fn drain_page_requests(&self, _: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        let mut hardware = self.lock();
        let walks = hardware
            .entry(pasid)
            .is_some_and(|(_, root)| root.is_some());
        assert!(!walks, "drained before the entry is blocked");
        hardware.arrive();
        Ok(())
    }
}

/// Tells of nothing.
struct Quiet;

impl FailureHandler for Quiet {
    fn invalidation_failed(&self, _: Failure) {}
}

/// Resolves the faults of the address space with this root, until it is unbound or has ended.
struct Handler {
    root: u64,
    ended: Mutex<bool>,
}

impl Handler {
    fn new(root: u64) -> Arc<Self> {
        Arc::new(Self {
            root,
            ended: Mutex::new(false),
        })
    }

    fn end(&self) {
        *self.ended.lock().unwrap() = true;
    }
}

impl PageRequestHandler for Handler {
    fn handle(&self, group: PageGroup, responses: &mut Responses) {
        // Looked at first: a group whose pages are there after that is one that came too late.
        let ended = *self.ended.lock().unwrap();
        for page in group.pages() {
            assert!(!ended, "a page is asked for after the end");
            assert_eq!(page.address, self.root, "a page of another address space");
        }
        group.respond(Response::Success, responses);
    }
}

struct Scene {
    machine: Arc<Machine>,
    service: Arc<PageRequests>,
}

impl Scene {
    fn new() -> Self {
        let machine = Arc::new(Machine::default());
        let service = PageRequests::new(machine.clone());
        service.add_device(DEVICE, DeviceShare(2)).unwrap();
        Self { machine, service }
    }

    fn domain(&self) -> Arc<Domain> {
        let pasid = Pasid::new(PASID).unwrap();
        let srcu = Arc::new(Srcu::new());
        Arc::new(Domain::new(srcu, table(0x1000), pasid, Arc::new(Quiet)))
    }

    fn bind(&self, domain: &Domain, handler: &Arc<Handler>) -> Result<(), BindError> {
        let resolver = Resolver {
            page_requests: self.service.clone(),
            handler: handler.clone(),
        };
        let pasid = domain.pasid();
        domain.bind(self.service.iommu(), DEVICE, pasid, Some(resolver))
    }

    fn unbind(&self, domain: &Domain) -> Result<(), UnbindError> {
        domain.unbind(self.service.iommu(), DEVICE, domain.pasid())
    }

    /// Requests arrive, and a thread serves them.
    fn serve(&self) -> thread::JoinHandle<()> {
        let (machine, service) = (self.machine.clone(), self.service.clone());
        thread::spawn(move || {
            machine.lock().arrive();
            service.serve().unwrap();
        })
    }

    /// All that the device asked is answered in the end, and no more than once.
    fn ends(&self, groups: &[u16]) {
        self.machine.lock().arrive();
        self.service.serve().unwrap();
        for &group in groups {
            assert_eq!(self.machine.answers(group), 1, "answers to group {group}");
        }
    }
}

fn model(scene: impl Fn() + Sync + Send + 'static) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(scene);
}

#[test]
fn bind_against_exit_leaves_no_device_at_work() {
    model(|| {
        let scene = Scene::new();
        let (domain, handler) = (scene.domain(), Handler::new(0x1000));
        let exit = {
            let domain = domain.clone();
            thread::spawn(move || domain.release())
        };
        let bound = scene.bind(&domain, &handler);
        exit.join().unwrap();
        handler.end();
        assert_eq!(scene.machine.walks(), None, "a dead page table is walked");
        scene.machine.ask(1, 0x1000);
        scene.ends(&[1]);
        assert_eq!(scene.unbind(&domain).is_ok(), bound.is_ok());
        assert!(scene.machine.lock().entries.is_empty());
    });
}

#[test]
fn unbind_against_faults_answers_each_once_and_hands_over_none_afterwards() {
    model(|| {
        let scene = Scene::new();
        let (domain, handler) = (scene.domain(), Handler::new(0x1000));
        scene.bind(&domain, &handler).unwrap();
        scene.machine.ask(1, 0x1000);
        scene.machine.lock().arrive();
        scene.machine.ask(2, 0x1000);
        let serving = scene.serve();
        scene.unbind(&domain).unwrap();
        handler.end();
        for group in [1, 2] {
            let answers = scene.machine.answers(group);
            assert!(answers <= 1, "group {group} has {answers} answers");
        }
        serving.join().unwrap();
        scene.ends(&[1, 2]);
    });
}

#[test]
fn exit_against_faults_answers_each_once_and_hands_over_none_afterwards() {
    model(|| {
        let scene = Scene::new();
        let (domain, handler) = (scene.domain(), Handler::new(0x1000));
        scene.bind(&domain, &handler).unwrap();
        scene.machine.ask(1, 0x1000);
        let serving = scene.serve();
        domain.release();
        handler.end();
        assert_eq!(scene.machine.walks(), None, "a dead page table is walked");
        serving.join().unwrap();
        scene.ends(&[1]);
    });
}

#[test]
fn unbind_against_exit_clears_the_entry() {
    model(|| {
        let scene = Scene::new();
        let (domain, handler) = (scene.domain(), Handler::new(0x1000));
        scene.bind(&domain, &handler).unwrap();
        scene.machine.ask(1, 0x1000);
        let exit = {
            let domain = domain.clone();
            thread::spawn(move || domain.release())
        };
        scene.unbind(&domain).unwrap();
        exit.join().unwrap();
        handler.end();
        assert!(scene.machine.lock().entries.is_empty());
        scene.ends(&[1]);
    });
}

/// A lock of an address space that nobody contends for.
struct Lock;

impl AddressSpaceLock for Lock {
    type Guard<'a> = ();
    fn lock(&self) {}
}

#[test]
fn a_pasid_that_comes_back_is_the_new_owner_s_alone() {
    model(|| {
        let scene = Scene::new();
        let sva = Sva::new(Pasid::new(2).unwrap(), Arc::new(Quiet));
        let join = {
            let sva = sva.clone();
            move |root| {
                let notifiers = Arc::new(AddressSpace::new(Arc::new(Srcu::new())));
                sva.join(notifiers, &Lock, table(root)).unwrap()
            }
        };
        let bind = |space: &SvaSpace, handler: &Arc<Handler>| {
            space.bind_with_page_requests(&scene.service, DEVICE, Requests::Tagged, handler.clone())
        };
        let first = join(0x1000);
        bind(&first, &Handler::new(0x1000)).unwrap();
        // Still on its way when the device has stopped.
        scene.machine.ask(1, 0x1000);
        let leaving = thread::spawn(move || drop(first));
        // It arrives now, or when the first address space has left.
        scene.machine.lock().arrive();
        let second = join(0x2000);
        bind(&second, &Handler::new(0x2000)).unwrap();
        scene.machine.lock().arrive();
        scene.service.serve().unwrap();
        leaving.join().unwrap();
        scene.ends(&[1]);
    });
}
