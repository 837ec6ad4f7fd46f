use super::*;
use crate::bus::{PageRequest, Permissions, Request, ResponseCode};
use crate::machine::Policy;
use crate::memory::{Coherency, Memory};
use std::collections::BTreeMap;

const BASE: u64 = 0x8000_0000;
const BOTH: Permissions = Permissions {
    read: true,
    write: true,
    execute: false,
};
const READ: Permissions = Permissions {
    read: true,
    write: false,
    execute: false,
};

/// An IOMMU that is told what to answer, and keeps what it hears.
#[derive(Default)]
struct Fake {
    /// Blocks by their first virtual address: physical address, size, rights.
    blocks: Mutex<BTreeMap<u64, (u64, u64, Permissions)>>,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    translations: usize,
    completions: Vec<(u32, u32)>,
    page_requests: Vec<PageRequest>,
    forbids_translated: bool,
}

impl Fake {
    fn map(&self, address: u64, physical: u64, size: u64, permissions: Permissions) {
        lock(&self.blocks).insert(address, (physical, size, permissions));
    }

    fn look_up(&self, request: &Request) -> Result<Translation, Refusal> {
        lock(&self.told).translations += 1;
        let blocks = lock(&self.blocks);
        let (&from, &(to, size, permissions)) = blocks
            .range(..=request.address)
            .next_back()
            .filter(|(from, (_, size, _))| request.address - **from < *size)
            .ok_or(Refusal::NotPresent)?;
        if !permissions.permit(request.access) {
            return Err(Refusal::NotPresent);
        }
        Ok(Translation {
            address: to + (request.address - from),
            size,
            permissions,
        })
    }
}

impl Hardware for Fake {
    fn read(&self, _: usize, _: usize) -> u64 {
        0
    }
    fn write(&self, _: usize, _: usize, _: u64) {}
    fn step(&self) -> bool {
        false
    }
    fn speculate(&self) {}
    fn translate(&self, request: &Request) -> Result<Translation, Refusal> {
        self.look_up(request)
    }
    fn translate_for_device(&self, request: &Request) -> Result<Translation, Refusal> {
        self.look_up(request)
    }
    fn admits_translated(&self, _: u32) -> bool {
        !lock(&self.told).forbids_translated
    }
    fn connect(&self, _: u32, _: Arc<dyn Port>) {}
    fn invalidation_completed(&self, device: u32, itags: u32) {
        lock(&self.told).completions.push((device, itags));
    }
    fn page_request(&self, request: PageRequest) {
        lock(&self.told).page_requests.push(request);
    }
    fn take_interrupts(&self) -> Vec<&'static str> {
        Vec::new()
    }
    fn time_out_devices(&self) {}
    fn reject_next(&self) {}
    fn remove(&self) {}
}

struct Bench {
    machine: Arc<Machine>,
    fake: Arc<Fake>,
    device: Arc<Device>,
    history: Arc<History>,
}

const TLB: Configuration = Configuration {
    device_tlb: true,
    ..Configuration::new(8)
};

fn bench(policy: Policy, configuration: Configuration) -> Bench {
    let memory = Memory::new(BASE, 4 << 20, Coherency::Coherent);
    let machine = Machine::new(memory, policy, 1);
    let fake = Arc::new(Fake::default());
    let history = Arc::new(History::default());
    let iommu: Arc<dyn Hardware> = fake.clone();
    machine.add_iommu(iommu.clone());
    let device = Device::new(&machine, &iommu, &history, configuration);
    Bench {
        machine,
        fake,
        device,
        history,
    }
}

impl Bench {
    fn invalidate(&self, itag: u8, address: u64, size: u64) {
        self.device.invalidate(InvalidationRequest {
            itag,
            pasid: Some(1),
            global: false,
            address,
            size,
        });
    }

    fn write(&self, address: u64, length: usize) -> Ended {
        self.device
            .run(Transfer::write(Some(1), address, vec![7; length]))
    }
}

#[test]
fn a_transfer_is_cut_at_page_borders_and_every_byte_arrives() {
    let bench = bench(Policy::STRICT, Configuration::new(8));
    bench.fake.map(0x1000, BASE + 0x5000, 0x1000, BOTH);
    bench.fake.map(0x2000, BASE + 0x3000, 0x1000, BOTH);
    let bytes: Vec<u8> = (0..100).collect();
    let address = 0x1fcd;
    let write = Transfer::write(None, address, bytes.clone());
    assert!(bench.device.run(write).is_done());
    let read = bench.device.run(Transfer::read(None, address, 100));
    assert_eq!(read, Ended::Done(bytes));
    assert_eq!(bench.machine.memory.load(BASE + 0x3000).unwrap() as u8, 51);
    let pieces: Vec<_> = bench.history.take();
    let lengths: Vec<_> = pieces.iter().map(|record| record.length).collect();
    assert_eq!(lengths, [51, 49, 51, 49]);
    assert_eq!(pieces[0].physical, Some(BASE + 0x5fcd));
}

#[test]
fn the_tlb_is_used_without_asking_until_exactly_its_block_is_invalidated() {
    let bench = bench(Policy::STRICT, TLB);
    bench.fake.map(0x1000, BASE, 0x1000, BOTH);
    bench.fake.map(0x2000, BASE + 0x1000, 0x1000, BOTH);
    assert!(bench.write(0x1000, 0x2000).is_done());
    assert_eq!(lock(&bench.fake.told).translations, 2);
    lock(&bench.fake.blocks).clear();
    assert!(bench.write(0x1000, 0x2000).is_done());

    bench.invalidate(3, 0x2000, 0x1000);
    bench.machine.settle();
    assert_eq!(lock(&bench.fake.told).completions, [(8, 1 << 3)]);
    assert!(bench.write(0x1000, 8).is_done());
    assert_eq!(bench.write(0x2000, 8), Ended::Refused(Refusal::NotPresent));
}

#[test]
fn a_large_entry_goes_whole_and_other_pasids_stay() {
    let bench = bench(Policy::STRICT, TLB);
    bench.fake.map(0x20_0000, BASE, 0x20_0000, BOTH);
    let other = Transfer::write(Some(2), 0x20_0000, vec![1]);
    assert!(bench.device.run(other).is_done());
    assert!(bench.write(0x3f_f000, 8).is_done());
    assert!(bench.write(0x20_0000, 8).is_done());
    assert_eq!(bench.device.held(), 2);
    bench.invalidate(0, 0x30_0000, 0x1000);
    bench.machine.settle();
    assert_eq!(bench.device.held(), 1);
    bench.invalidate(1, 0, 0);
    bench.machine.settle();
    assert_eq!(bench.device.held(), 1);
    bench.device.invalidate(InvalidationRequest {
        itag: 2,
        pasid: Some(1),
        global: true,
        address: 0,
        size: 0,
    });
    bench.machine.settle();
    assert_eq!(bench.device.held(), 0);
}

#[test]
fn an_entry_without_the_right_is_asked_for_again() {
    let bench = bench(Policy::STRICT, TLB);
    bench.fake.map(0x1000, BASE, 0x1000, READ);
    assert!(
        bench
            .device
            .run(Transfer::read(Some(1), 0x1000, 8))
            .is_done()
    );
    assert!(!bench.write(0x1000, 8).is_done());
    bench.fake.map(0x1000, BASE, 0x1000, BOTH);
    assert!(bench.write(0x1000, 8).is_done());
}

#[test]
fn translated_requests_need_the_iommu_s_leave() {
    let bench = bench(Policy::STRICT, TLB);
    let forged = || Transfer {
        translated: true,
        ..Transfer::write(None, BASE + 0x10, vec![0xaa; 8])
    };
    lock(&bench.fake.told).forbids_translated = true;
    assert!(!bench.device.run(forged()).is_done());
    assert_eq!(bench.machine.memory.load(BASE + 0x10), Ok(0));
    lock(&bench.fake.told).forbids_translated = false;
    assert!(bench.device.run(forged()).is_done());
    assert_eq!(bench.history.take()[1].via, Via::Forged);
}

#[test]
fn a_completion_pushes_what_used_the_entry() {
    for seed in 0..50 {
        let memory = Memory::new(BASE, 4 << 20, Coherency::Coherent);
        let machine = Machine::new(memory, Policy::FREE, seed);
        let fake = Arc::new(Fake::default());
        let iommu: Arc<dyn Hardware> = fake.clone();
        let history = Arc::new(History::default());
        machine.add_iommu(iommu.clone());
        let device = Device::new(&machine, &iommu, &history, TLB);
        fake.map(0x1000, BASE, 0x1000, BOTH);
        let jobs: Vec<_> = (0..8)
            .map(|at| device.start(Transfer::write(Some(1), 0x1000 + at * 8, vec![1; 8])))
            .collect();
        for _ in 0..seed {
            machine.step();
        }
        lock(&fake.blocks).clear();
        device.invalidate(InvalidationRequest {
            itag: 0,
            pasid: Some(1),
            global: false,
            address: 0x1000,
            size: 0x1000,
        });
        while lock(&fake.told).completions.is_empty() {
            assert!(machine.step());
        }
        let poison = 0xdead_dead_dead_dead;
        for at in 0..8 {
            machine.memory.store(BASE + at * 8, poison).unwrap();
        }
        machine.settle();
        for (at, job) in (0..).zip(jobs) {
            assert!(job.ended().is_some());
            assert_eq!(machine.memory.load(BASE + at * 8), Ok(poison));
        }
    }
}

#[test]
fn answers_come_late_get_lost_or_do_not_come() {
    let silent = [Answers::Lost, Answers::Never, Answers::Refuses];
    for (answers, held, answered) in [
        (Answers::Late(5), 0, true),
        (silent[0], 0, false),
        (silent[1], 1, false),
        (silent[2], 1, false),
    ] {
        let bench = bench(Policy::STRICT, TLB);
        bench.fake.map(0x1000, BASE, 0x1000, BOTH);
        assert!(bench.write(0x1000, 8).is_done());
        bench.device.set_answers(answers);
        bench.invalidate(31, 0x1000, 0x1000);
        bench.machine.step();
        assert!(lock(&bench.fake.told).completions.is_empty());
        bench.machine.settle();
        assert_eq!(bench.device.held(), held, "{answers:?}");
        let told = lock(&bench.fake.told);
        assert_eq!(!told.completions.is_empty(), answered, "{answers:?}");
    }
}

#[test]
fn pages_are_asked_for_in_a_group_and_the_request_tried_again() {
    let asking = Configuration {
        page_requests: true,
        ..TLB
    };
    let bench = bench(Policy::STRICT, asking);
    let job = bench
        .device
        .start(Transfer::write(Some(1), 0x1ff8, vec![9; 0x1010]));
    bench.machine.settle();
    assert_eq!(job.ended(), None);
    let asked = std::mem::take(&mut lock(&bench.fake.told).page_requests);
    let first: Vec<_> = asked.iter().filter(|request| request.group == 0).collect();
    assert_eq!(first.len(), 3);
    assert!(first[2].last && !first[0].last && first[0].write);
    assert_eq!(first[1].address, 0x2000);
    bench.fake.map(0x1000, BASE, 0x1000, BOTH);
    bench.fake.map(0x2000, BASE + 0x1000, 0x1000, BOTH);
    bench.fake.map(0x3000, BASE + 0x2000, 0x1000, BOTH);
    let mut groups: Vec<_> = asked.iter().map(|request| request.group).collect();
    groups.dedup();
    for group in groups {
        let respond = |pasid| {
            bench.device.respond(PageResponse {
                pasid,
                group,
                code: ResponseCode::Success,
            });
            bench.machine.settle();
        };
        // Without the PASID it is none of the device's.
        respond(None);
        respond(Some(1));
    }
    assert!(job.ended().is_some_and(|ended| ended.is_done()));
    bench.device.stop(Some(1));
    let told = lock(&bench.fake.told);
    let marker = told.page_requests.last().unwrap();
    assert!(marker.last && !marker.read && !marker.write);
}

#[test]
fn failure_ends_page_requests_and_invalid_ends_the_transfer() {
    for (code, goes_on) in [
        (ResponseCode::InvalidRequest, true),
        (ResponseCode::Failure, false),
    ] {
        let bench = bench(
            Policy::STRICT,
            Configuration {
                page_requests: true,
                ..TLB
            },
        );
        let respond = |group| {
            bench.device.respond(PageResponse {
                pasid: Some(1),
                group,
                code,
            });
        };
        let job = bench
            .device
            .start(Transfer::write(Some(1), 0x1000, vec![1]));
        bench.machine.settle();
        respond(0);
        bench.machine.settle();
        assert_eq!(job.ended(), Some(Ended::Refused(Refusal::NotPresent)));
        bench
            .device
            .start(Transfer::write(Some(1), 0x1000, vec![1]));
        bench.machine.settle();
        let asked = lock(&bench.fake.told).page_requests.len();
        assert_eq!(asked, if goes_on { 2 } else { 1 });
    }
}

#[test]
fn a_reset_device_has_forgotten_all_and_a_removed_one_is_silent() {
    let bench = bench(Policy::STRICT, TLB);
    bench.fake.map(0x1000, BASE, 0x1000, BOTH);
    assert!(bench.write(0x1000, 8).is_done());
    bench.invalidate(0, 0x1000, 0x1000);
    bench.device.reset();
    bench.machine.settle();
    assert_eq!(bench.device.held(), 0);
    assert!(lock(&bench.fake.told).completions.is_empty());
    bench.device.enable_device_tlb(true);
    assert!(bench.write(0x1000, 8).is_done());
    bench.device.remove();
    bench.invalidate(1, 0x1000, 0x1000);
    bench.machine.settle();
    assert!(lock(&bench.fake.told).completions.is_empty());
    assert_eq!(
        bench.write(0x1000, 8),
        Ended::Refused(Refusal::UnsupportedRequest)
    );
}

#[test]
fn mischief_is_done_a_message_a_step() {
    let bench = bench(Policy::STRICT, TLB);
    bench.device.mischief(Mischief::Completion {
        device: 9,
        itags: !0,
    });
    bench.device.mischief(Mischief::Flood {
        pasid: Some(3),
        requests: 1000,
    });
    bench.machine.settle();
    let told = lock(&bench.fake.told);
    assert_eq!(told.completions, [(9, !0)]);
    assert_eq!(told.page_requests.len(), 1000);
    assert!(told.page_requests.iter().all(|request| !request.last));
}
