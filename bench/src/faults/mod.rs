//! Page requests: groups assembled, handled and answered, beside a re-creation of Linux's way.
//!
//! An operation is one request. Devices keep a number of groups open, each of four requests, whose
//! members come interleaved. What the hardware does with a response costs nothing on either side.

mod linux;
mod queue;

use crate::case::{Case, Work, forever};
use crate::heap;
use iommu_core::page_request::{
    DeviceShare, PageGroup, PageRequest, PageRequests, Resolve, Response,
};
use queue::{DEVICE, PASID, Queue};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests in a group.
const REQUESTS: usize = 4;

/// How many groups are open in the groups of cases.
pub const OPEN: [usize; 2] = [8, 512];

/// The cases with `open` groups.
pub fn cases(open: usize) -> Vec<Case> {
    vec![ours(open), linux(open)]
}

/// Ours: one service, one handler.
pub fn ours(open: usize) -> Case {
    Case::new("ours", move || {
        let (queue, service) = service(open);
        let (queue, service) = (forever(queue), forever(service));
        serve(queue, service)
    })
}

fn linux(open: usize) -> Case {
    Case::new("Linux model", move || {
        let mut stream = Stream::new(open);
        let mut model = linux::Model::new(resolve_linux);
        Box::new(move |times| {
            for _ in 0..times {
                model.report(stream.next());
            }
        })
    })
}

/// Heap calls, doorbells and waits, a line a fact for `cargo xtask bench`.
pub fn print_facts() {
    const OPERATIONS: u64 = 100_000;
    let (queue, service) = service(512);
    let (queue, service) = (forever(queue), forever(service));
    let mut work = serve(queue, service);
    work(10_000);
    let count = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
    for counter in [&queue.responses, &queue.doorbells] {
        counter.store(0, Ordering::Relaxed);
    }
    let calls = heap::calls(|| work(OPERATIONS));
    let (responses, doorbells) = (count(&queue.responses), count(&queue.doorbells));
    println!("fact\theap calls, page requests\t{calls}");
    println!(
        "fact\tdoorbells a response\t{}",
        doorbells as f64 / responses as f64
    );
    println!("fact\twaits\t{}", count(&queue.waits));
    println!(
        "fact\trequests without a response\t{}",
        OPERATIONS as f64 / REQUESTS as f64 - responses as f64
    );
}

fn service(open: usize) -> (Arc<Queue>, Arc<PageRequests>) {
    let queue = Arc::new(Queue::new(Stream::new(open)));
    let service = PageRequests::new(queue.clone());
    let share = DeviceShare((open * REQUESTS + 64) as u16);
    service.add_device(DEVICE, share).expect("it is enabled");
    let handler = Arc::new(Resolve(resolve));
    service.route(DEVICE, PASID, handler).expect("it is free");
    (queue, service)
}

fn serve(queue: &'static Arc<Queue>, service: &'static Arc<PageRequests>) -> Work {
    Box::new(move |times| {
        queue.expect(times);
        while queue.is_expecting() {
            service.serve().expect("the queue takes responses");
        }
    })
}

/// Looks at each page, as a handler does.
fn resolve(group: &PageGroup) -> Response {
    answer(group.pages().map(|page| page.address))
}

fn resolve_linux(pages: &mut dyn Iterator<Item = u64>) -> Response {
    answer(pages)
}

fn answer(pages: impl Iterator<Item = u64>) -> Response {
    pages.for_each(|address| {
        black_box(address);
    });
    Response::Success
}

/// The requests that a device sends with so many groups open: one of each group in turn, and the
/// groups end at different times.
pub struct Stream {
    open: usize,
    number: usize,
}

impl Stream {
    fn new(open: usize) -> Self {
        assert!(open.is_power_of_two(), "so that taking turns costs nothing");
        Self { open, number: 0 }
    }

    fn next(&mut self) -> PageRequest {
        let number = self.number;
        self.number += 1;
        let group = number & (self.open - 1);
        let round = number / self.open;
        PageRequest {
            group: group as u16,
            last: (round + group) % REQUESTS == REQUESTS - 1,
            address: (number as u64) << 12,
            ..queue::REQUEST
        }
    }
}
