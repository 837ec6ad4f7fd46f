//! Page requests of bound devices: to the address space's handler, and out of the way at unbind.

use super::*;
use crate::page_request::{
    DeviceShare, Origin, PageGroup, PageRequestHandler, Permissions, Resolve, Response, Responses,
    RouteError,
};
use crate::pcie::tests::{EVERYTHING, Fake as Function, no_ports};
use crate::pcie::{self, Services};

/// An IOMMU whose GPU may make page requests, and an address space.
struct Bench {
    system: System,
    iommu: Arc<FakeIommu>,
    service: Arc<PageRequests>,
    notifiers: Arc<AddressSpace>,
    space: SvaSpace,
}

impl Bench {
    fn new() -> Self {
        let system = System::new();
        let iommu = system.iommu(0, true, false);
        let service = PageRequests::new(dynamic(&iommu));
        service.add_device(GPU, DeviceShare(16)).unwrap();
        let (notifiers, space) = system.join();
        Self {
            system,
            iommu,
            service,
            notifiers,
            space,
        }
    }

    fn bind(&self, handler: Arc<dyn PageRequestHandler>) -> Result<(), BindError> {
        self.space
            .bind_with_page_requests(&self.service, GPU, Requests::Tagged, handler)
    }

    /// The GPU asks for a page.
    fn request(&self, group: u16) {
        self.iommu.requests.lock().push(PageRequest {
            device: GPU,
            pasid: self.space.pasid(),
            address: 0x5000,
            permissions: Permissions {
                write: true,
                ..Permissions::default()
            },
            group,
            last: true,
            origin: Origin::PageRequest,
        });
    }

    fn respond(&self, group: u16, response: Response) -> (usize, Call) {
        let response = PageResponse {
            device: GPU,
            pasid: Some(self.space.pasid()),
            group,
            origin: Origin::PageRequest,
            response,
        };
        (0, Respond([response].into()))
    }
}

fn success() -> Arc<dyn PageRequestHandler> {
    Arc::new(Resolve(|_: &PageGroup| Response::Success))
}

#[derive(Default)]
struct Keeper(Mutex<Vec<PageGroup>>);

impl PageRequestHandler for Keeper {
    fn handle(&self, group: PageGroup, _: &mut Responses) {
        self.0.lock().push(group);
    }
}

#[test]
fn a_bound_device_is_answered_by_the_handler() {
    let bench = Bench::new();
    bench.bind(success()).unwrap();
    bench.system.take();
    bench.request(3);
    bench.service.serve().unwrap();
    let answer = bench.respond(3, Response::Success);
    assert_eq!(bench.system.take(), [answer]);
}

#[test]
fn unbinding_blocks_answers_drains_and_clears_in_this_order() {
    let bench = Bench::new();
    let keeper = Arc::new(Keeper::default());
    bench.bind(keeper.clone()).unwrap();
    bench.request(3);
    bench.service.serve().unwrap();
    assert_eq!(keeper.0.lock().len(), 1, "a thread is at work on it");
    bench.request(4);
    bench.system.take();
    let pasid = bench.space.pasid();
    bench
        .space
        .unbind(&dynamic(&bench.iommu), GPU, Requests::Tagged)
        .unwrap();
    let expected = [
        (0, Block(GPU, pasid)),
        bench.respond(3, Response::Invalid),
        (0, Drain(GPU, pasid)),
        bench.respond(4, Response::Invalid),
        (0, Detach(GPU, pasid)),
    ];
    assert_eq!(bench.system.take(), expected);
    keeper.0.lock().clear();
    bench.request(5);
    bench.service.serve().unwrap();
    let refused = bench.respond(5, Response::Invalid);
    assert_eq!(bench.system.take(), [refused], "and once bound no longer");
}

#[test]
fn a_dead_address_space_answers_invalid() {
    let bench = Bench::new();
    bench.bind(success()).unwrap();
    bench.system.take();
    bench.notifiers.release();
    bench.request(3);
    bench.service.serve().unwrap();
    let pasid = bench.space.pasid();
    let refused = bench.respond(3, Response::Invalid);
    assert_eq!(bench.system.take(), [(0, Block(GPU, pasid)), refused]);
    drop(bench.space);
    let rest = [
        (0, Block(GPU, pasid)),
        (0, Drain(GPU, pasid)),
        (0, Detach(GPU, pasid)),
    ];
    assert_eq!(bench.system.take(), rest);
}

#[test]
fn a_reset_forgets_what_was_asked_before_it() {
    let function = Function::endpoint();
    let bench = Bench::new();
    bench.bind(success()).unwrap();
    let read = pcie::Function::read(&function).unwrap();
    let services = Services::enable(read, &no_ports(), EVERYTHING).unwrap();
    let page_requests = bench.service.clone();
    let mut handshake = ResetHandshake::with_page_requests(page_requests, GPU, services);
    bench.request(3);
    bench.system.take();
    handshake.park().unwrap();
    bench.request(4);
    function.reset();
    handshake.restore().unwrap();
    bench.service.serve().unwrap();
    assert_eq!(
        bench.system.take(),
        [(0, Quarantine(GPU)), (0, Restore(GPU))]
    );
    bench.request(3);
    bench.service.serve().unwrap();
    assert_eq!(bench.system.take(), [bench.respond(3, Response::Success)]);
}

#[test]
fn a_binding_whose_requests_cannot_be_routed_is_undone() {
    let bench = Bench::new();
    let pasid = bench.space.pasid();
    bench.service.route(GPU, pasid, success()).unwrap();
    bench.system.take();
    let in_use = RouteError::PasidInUse(GPU, pasid);
    assert_eq!(bench.bind(success()), Err(BindError::Route(in_use)));
    let calls = bench.system.take();
    assert_eq!(
        calls,
        [(0, Attach(GPU, pasid, Tag(7))), (0, Detach(GPU, pasid))]
    );
    assert_eq!(bench.iommu.tags.allocate(), Ok(Tag(7)), "the tag is free");
    bench.notifiers.invalidate_range(range());
    assert_eq!(bench.system.take(), []);
    bench.request(3);
    bench.service.serve().unwrap();
    let answer = bench.respond(3, Response::Success);
    assert_eq!(
        bench.system.take(),
        [answer],
        "whoever had the PASID has it"
    );

    bench.service.remove_device(GPU);
    let unknown = RouteError::UnknownDevice(GPU);
    assert_eq!(bench.bind(success()), Err(BindError::Route(unknown)));
}

#[test]
fn a_binding_that_fails_leaves_the_others_of_its_address_space() {
    let bench = Bench::new();
    let iommu = dynamic(&bench.iommu);
    bench.space.bind(&iommu, NIC, Requests::Tagged).unwrap();
    bench.service.remove_device(GPU);
    bench.system.take();
    let unknown = RouteError::UnknownDevice(GPU);
    assert_eq!(bench.bind(success()), Err(BindError::Route(unknown)));
    bench.system.take();
    bench.notifiers.invalidate_range(range());
    let submit = Submit([iotlb(7, 0)].into(), range(), Levels::All);
    assert_eq!(bench.system.take(), [(0, submit), (0, Wait)]);
    assert_eq!(bench.iommu.tags.allocate(), Ok(Tag(8)), "7 is in use");
    assert_eq!(*bench.iommu.attached.lock(), [(NIC, bench.space.pasid())]);
}

#[test]
fn a_drain_that_is_not_confirmed_keeps_the_binding() {
    let bench = Bench::new();
    bench.bind(success()).unwrap();
    *bench.iommu.failure.lock() = Some(QueueError::MemoryFault);
    let unbind = || {
        bench
            .space
            .unbind(&dynamic(&bench.iommu), GPU, Requests::Tagged)
    };
    assert!(matches!(unbind(), Err(UnbindError::Detach(_))));
    *bench.iommu.failure.lock() = None;
    bench.system.take();
    unbind().unwrap();
    let calls = bench.system.take();
    assert!(matches!(
        calls[..],
        [(0, Block(..)), (0, Drain(..)), (0, Detach(..))]
    ));
}
