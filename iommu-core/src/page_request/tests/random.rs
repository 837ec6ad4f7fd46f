//! Whatever comes, and from several threads.

use super::super::*;
use super::rig::*;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// A small generator of numbers: the tests need variety, not quality.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % sides
    }

    fn request(&mut self) -> PageRequest {
        let odds = |dice: &mut Self, of| dice.roll(of) == 0;
        PageRequest {
            device: [NIC, GPU, ABSENT][self.roll(3) as usize],
            pasid: pasid(self.roll(5) as u32),
            address: self.roll(1 << 20) << 12,
            permissions: Permissions {
                read: !odds(self, 8),
                write: odds(self, 2),
                execute: odds(self, 16),
                privileged: odds(self, 32),
            },
            group: self.roll(48) as u16,
            last: odds(self, 3),
            origin: Origin::PageRequest,
        }
    }
}

/// Whatever comes, every last request that is no stop marker is answered exactly once.
#[test]
fn every_last_request_is_answered_once() {
    let mut dice = Dice(42);
    for _ in 0..50 {
        let system = System::new();
        let mut due = BTreeMap::<_, usize>::new();
        for _ in 0..20 {
            let requests: Vec<_> = (0..dice.roll(200)).map(|_| dice.request()).collect();
            for request in &requests {
                if request.last && !request.is_stop_marker() {
                    *due.entry((request.device, request.group)).or_default() += 1;
                }
            }
            system.serve(requests);
            if dice.roll(4) == 0 {
                system.service.unroute(NIC, pasid(1));
            }
        }
        let mut answered = BTreeMap::<_, usize>::new();
        for (device, group, _) in system.queue.responses() {
            *answered.entry((device, group)).or_default() += 1;
        }
        assert_eq!(answered, due);
    }
}

/// Threads that serve, resolve, unroute and route again: each group is answered once, and none after
/// its handler was taken away and drained.
#[test]
fn threads_meet_without_losing_a_group() {
    const GROUPS: u16 = 4000;
    let system = System::new();
    let threads = Arc::new(GroupQueue::new(16, || ()));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..GROUPS {
                let group = number % 16;
                system.queue.fill([read(group, 1), last(read(group, 2))]);
                if number % 8 == 0 {
                    system.service.serve().unwrap();
                }
            }
            done.store(true, SeqCst);
        });
        scope.spawn(|| {
            while !done.load(SeqCst) {
                system.service.serve().unwrap();
            }
        });
        scope.spawn(|| {
            while !done.load(SeqCst) {
                threads.resolve(|_| Response::Success).unwrap();
            }
        });
        scope.spawn(|| {
            while !done.load(SeqCst) {
                system.service.unroute(NIC, pasid(1));
                system.service.drain(NIC, pasid(1)).unwrap();
                system
                    .service
                    .route(NIC, pasid(1), threads.clone())
                    .unwrap();
                std::thread::yield_now();
            }
        });
    });
    system.service.serve().unwrap();
    threads.resolve(|_| Response::Success).unwrap();
    assert_eq!(system.queue.responses().len(), usize::from(GROUPS));
}
