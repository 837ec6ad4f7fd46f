//! The device against a front-end of its own making: rust-vmm's for everything but IOTLB messages,
//! which it does not have, and a page table that is a map.

#![allow(
    missing_docs,
    clippy::std_instead_of_alloc,
    clippy::std_instead_of_core
)]

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use shootdown_device_tlb::{Device, Refused, What};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};

const PHYSICAL: u64 = 0x8000_0000;
const USER: u64 = 0x7f00_0000_0000;
const SIZE: u64 = 1 << 20;
const PAGE: u64 = 4096;
const LONG: Duration = Duration::from_secs(20);

const MAIN_IOTLB: u32 = 22;
const BACKEND_IOTLB: u32 = 1;
const NEED_REPLY: u32 = 8 | 1;
const REPLY: u32 = 4 | 1;

/// QEMU, as far as the device sees it.
struct Fake {
    frontend: Frontend,
    main: Arc<Mutex<UnixStream>>,
    memory: File,
    /// I/O virtual pages and the offsets of their frames in memory.
    table: Arc<Mutex<BTreeMap<u64, u64>>>,
    misses: Arc<AtomicU64>,
}

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("shootdown-{name}-{}", std::process::id()))
}

fn device(name: &str) -> (Device, Fake) {
    let path = path(name);
    let ticks = AtomicU64::new(0);
    let device = Device::listen(&path, move || ticks.fetch_add(1, Ordering::Relaxed));
    let device = device.expect("a socket");
    let fake = Fake::connect(UnixStream::connect(&path).expect("it listens"));
    assert!(device.wait_for_start(LONG));
    (device, fake)
}

impl Fake {
    /// What QEMU does from its start to the driver's `DRIVER_OK`.
    fn connect(socket: UnixStream) -> Self {
        let main = socket.try_clone().expect("cloned");
        let mut frontend = Frontend::from_stream(socket, 1);
        frontend.set_owner().expect("owned");
        let features = frontend.get_features().expect("features");
        assert_eq!(features, 1 << 33 | 1 << 32 | 1 << 30);
        frontend.set_features(features).expect("taken");
        let wanted = VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::BACKEND_REQ;
        let offered = frontend.get_protocol_features().expect("features");
        assert_eq!(offered, wanted);
        frontend.set_protocol_features(wanted).expect("taken");
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        frontend.set_backend_request_fd(&theirs).expect("taken");
        let memory = File::from(memfd_create("fake", MemfdFlags::CLOEXEC).expect("memory"));
        ftruncate(&memory, 2 * SIZE).expect("memory");
        // Two regions of one file, as a PC has below and above its ROMs.
        let region = |index: u64| VhostUserMemoryRegionInfo {
            guest_phys_addr: PHYSICAL + index * SIZE,
            memory_size: SIZE,
            userspace_addr: USER + index * 16 * SIZE,
            mmap_offset: index * SIZE,
            mmap_handle: memory.as_raw_fd(),
        };
        frontend
            .set_mem_table(&[region(0), region(1)])
            .expect("mapped");
        frontend.set_vring_num(0, 64).expect("taken");
        frontend.set_vring_base(0, 0).expect("taken");
        frontend.set_vring_enable(0, true).expect("taken");
        let fake = Self {
            frontend,
            main: Arc::new(Mutex::new(main)),
            memory,
            table: Arc::default(),
            misses: Arc::default(),
        };
        fake.answer_misses(ours);
        fake
    }

    /// Translates, as QEMU's IOMMU does, what the device asks on `channel`.
    fn answer_misses(&self, channel: UnixStream) {
        let (main, table, misses) = (self.main.clone(), self.table.clone(), self.misses.clone());
        thread::spawn(move || {
            while let Some((request, payload)) = receive(&channel) {
                assert_eq!(
                    (request, payload.len(), payload[25]),
                    (BACKEND_IOTLB, 32, 1)
                );
                misses.fetch_add(1, Ordering::Relaxed);
                let page = word(&payload, 0) / PAGE * PAGE;
                let frame = table.lock().expect("whole").get(&page).copied();
                if let Some(frame) = frame {
                    assert_eq!(tell(&main, 2, page, PAGE, USER + frame), 0);
                }
                let failed = u64::from(frame.is_none());
                send(&channel, BACKEND_IOTLB, REPLY, &failed.to_ne_bytes());
            }
        });
    }

    fn map(&self, page: u64, frame: u64) {
        self.table.lock().expect("whole").insert(page, frame);
    }

    fn invalidate(&self, iova: u64, size: u64) {
        assert_eq!(tell(&self.main, 3, iova, size, 0), 0);
    }

    fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }
}

/// Sends an IOTLB message on the main channel; what the device replies.
fn tell(main: &Mutex<UnixStream>, kind: u8, iova: u64, size: u64, user: u64) -> u64 {
    let main = main.lock().expect("whole");
    let mut payload = [iova, size, user, 0].map(u64::to_ne_bytes).concat();
    payload[24..26].copy_from_slice(&[3, kind]);
    send(&main, MAIN_IOTLB, NEED_REPLY, &payload);
    let (request, reply) = receive(&main).expect("a reply");
    assert_eq!(request, MAIN_IOTLB);
    word(&reply, 0)
}

fn send(mut socket: &UnixStream, request: u32, flags: u32, payload: &[u8]) {
    let mut message = [request, flags, payload.len() as u32]
        .map(u32::to_ne_bytes)
        .concat();
    message.extend_from_slice(payload);
    // The device may have gone.
    let _ = socket.write_all(&message);
}

fn receive(mut socket: &UnixStream) -> Option<(u32, Vec<u8>)> {
    let mut header = [0; 12];
    socket.read_exact(&mut header).ok()?;
    let mut payload =
        vec![0; u32::from_ne_bytes([header[8], header[9], header[10], header[11]]) as usize];
    socket.read_exact(&mut payload).ok()?;
    Some((
        u32::from_ne_bytes([header[0], header[1], header[2], header[3]]),
        payload,
    ))
}

fn word(payload: &[u8], index: usize) -> u64 {
    u64::from_ne_bytes(payload[8 * index..][..8].try_into().expect("a word"))
}

#[test]
fn a_translation_is_asked_for_once_and_used_until_it_is_invalidated() {
    let (device, fake) = device("once");
    fake.map(0x1000, 0x5000);
    fake.memory.write_all_at(b"before", 0x5010).expect("memory");
    device.write(0x1000, b"first").expect("mapped");
    assert_eq!(device.read(0x1010, 6).expect("cached"), b"before");
    assert_eq!(device.cached(0x1fff).map(|it| it.user), Some(USER + 0x5000));

    // The page table changes and nobody is told: the device uses what it has.
    fake.map(0x1000, 0x6000);
    device.write(0x1020, b"stale").expect("cached");
    let mut bytes = [0; 5];
    fake.memory
        .read_exact_at(&mut bytes, 0x5020)
        .expect("memory");
    assert_eq!((&bytes, fake.misses()), (b"stale", 1));

    // One that misses the page changes nothing; one that touches it does.
    fake.invalidate(0x2000, 0x1000);
    assert!(device.cached(0x1000).is_some());
    fake.invalidate(0x1fff, 1);
    assert_eq!(device.cached(0x1000), None);
    device.write(0x1020, b"fresh").expect("mapped");
    fake.memory
        .read_exact_at(&mut bytes, 0x6020)
        .expect("memory");
    assert_eq!((&bytes, fake.misses()), (b"fresh", 2));
}

#[test]
fn a_right_that_was_not_asked_for_is_not_kept() {
    let (device, fake) = device("rights");
    fake.map(0x1000, 0x5000);
    device.read(0x1000, 1).expect("mapped");
    assert_eq!(device.cached(0x1000).map(|it| it.write), Some(false));
    device.write(0x1000, &[1]).expect("mapped");
    assert_eq!(fake.misses(), 2, "the write was asked for");
    device.read(0x1000, 1).expect("mapped");
    device.write(0x1000, &[1]).expect("mapped");
    assert_eq!(fake.misses(), 2);
}

#[test]
fn what_has_no_translation_is_refused_each_time() {
    let (device, fake) = device("refused");
    fake.map(0x1000, 0x5000);
    let refused = device.write(0x1ff8, &[7; 16]);
    assert!(matches!(
        refused,
        Err(Refused::Untranslated { iova: 0x2000 })
    ));
    let mut bytes = [0; 8];
    fake.memory
        .read_exact_at(&mut bytes, 0x5ff8)
        .expect("memory");
    assert_eq!(bytes, [7; 8], "the first page was written");
    fake.map(0x2000, 0x7000);
    device.write(0x1ff8, &[8; 16]).expect("both are mapped");
    // Where QEMU has the second region's frame, this one has none.
    fake.map(0x3000, SIZE);
    assert!(matches!(
        device.read(0x3000, 1),
        Err(Refused::NoMemory { .. })
    ));
    fake.map(0x4000, 16 * SIZE + 0x2000);
    device.write(0x4000, b"high").expect("mapped");
    let last = device.take_history().pop().expect("it happened");
    let What::Accessed {
        physical, cached, ..
    } = last.what
    else {
        panic!("{last}");
    };
    assert_eq!((physical, cached), (PHYSICAL + SIZE + 0x2000, false));
}

#[test]
fn an_answer_is_late_by_the_delay_and_the_device_works_on_meanwhile() {
    let (device, fake) = device("late");
    let delay = Duration::from_millis(200);
    fake.map(0x1000, 0x5000);
    device.write(0x1000, b"first").expect("mapped");
    device.set_answer_delay(delay);
    thread::scope(|scope| {
        let begun = std::time::Instant::now();
        let invalidation = scope.spawn(|| fake.invalidate(0, 0));
        assert!(device.wait_for_invalidation(LONG));
        device.write(0x1000, b"again").expect("cached");
        invalidation.join().expect("answered");
        assert!(begun.elapsed() >= delay);
    });
    assert_eq!(device.cached(0x1000), None);
    let order: Vec<&str> = device
        .history()
        .iter()
        .map(|event| match event.what {
            What::Accessed { .. } => "accessed",
            What::Received(_) => "translation",
            What::InvalidationReceived(_) => "invalidation",
            What::InvalidationAnswered(_) => "answered",
            _ => "other",
        })
        .collect();
    assert_eq!(
        order,
        [
            "translation",
            "accessed",
            "invalidation",
            "accessed",
            "answered"
        ]
    );
}

#[test]
fn without_an_answer_the_invalidation_stays_open_until_it_comes() {
    let (device, fake) = device("never");
    device.never_answer();
    let answered = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            fake.invalidate(0x1000, 0x1000);
            answered.store(1, Ordering::SeqCst);
        });
        assert!(device.wait_for_invalidation(LONG));
        thread::sleep(Duration::from_millis(50));
        assert_eq!(answered.load(Ordering::SeqCst), 0);
        device.set_answer_delay(Duration::ZERO);
    });
    assert_eq!(answered.load(Ordering::SeqCst), 1);
}

#[test]
fn a_stopped_device_has_nothing_and_a_left_one_says_so() {
    let (device, fake) = device("stopped");
    fake.map(0x1000, 0x5000);
    device.read(0x1000, 1).expect("mapped");
    assert_eq!(fake.frontend.get_vring_base(0).expect("a number"), 0);
    assert_eq!(device.cached(0x1000), None);
    let main = fake.main.lock().expect("whole");
    main.shutdown(std::net::Shutdown::Both).expect("closed");
    while device.ended().is_none() {
        thread::yield_now();
    }
    assert!(matches!(
        device.read(0x9000, 1),
        Err(Refused::NoAnswer { .. })
    ));
}

#[test]
fn a_device_nobody_connects_to_ends() {
    let path = path("nobody");
    drop(Device::listen(&path, || 0).expect("a socket"));
    assert!(!path.exists());
    // One that owes an answer ends too.
    let (device, fake) = self::device("owing");
    device.never_answer();
    thread::scope(|scope| {
        let main = fake.main.clone();
        scope.spawn(move || {
            let main = main.lock().expect("whole");
            let mut payload = [0_u8; 32];
            payload[25] = 3;
            send(&main, MAIN_IOTLB, NEED_REPLY, &payload);
            while receive(&main).is_some() {}
        });
        assert!(device.wait_for_invalidation(LONG));
        drop(device);
    });
}
