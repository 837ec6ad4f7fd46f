//! An SMMU that is driven by raw registers and raw words, with no driver.

use crate::smmuv3_bench::{Bench, DEVICE};
use iommu_model::smmuv3::Configuration;
use iommu_model::{Hardware, Policy, Request};

/// Register offsets (6.2).
pub mod offset {
    pub const CR0: usize = 0x20;
    pub const CR0ACK: usize = 0x24;
    pub const CR2: usize = 0x2c;
    pub const GBPA: usize = 0x44;
    pub const IRQ_CTRL: usize = 0x50;
    pub const GERROR: usize = 0x60;
    pub const GERRORN: usize = 0x64;
    pub const STRTAB_BASE: usize = 0x80;
    pub const STRTAB_BASE_CFG: usize = 0x88;
    pub const CMDQ_BASE: usize = 0x90;
    pub const CMDQ_PROD: usize = 0x98;
    pub const CMDQ_CONS: usize = 0x9c;
    pub const EVENTQ_BASE: usize = 0xa0;
    pub const EVENTQ_PROD: usize = 0x1_00a8;
    pub const EVENTQ_CONS: usize = 0x1_00ac;
    pub const EVENTQ_IRQ_CFG0: usize = 0xb0;
    pub const EVENTQ_IRQ_CFG1: usize = 0xb8;
    pub const PRIQ_BASE: usize = 0xc0;
    pub const PRIQ_PROD: usize = 0x1_00c8;
    pub const PRIQ_CONS: usize = 0x1_00cc;
}

pub const SYNC: [u64; 2] = [0x46, 0];
const COMMANDS_LOG2: u32 = 4;
pub const EVENTS_LOG2: u32 = 2;
pub const REQUESTS_LOG2: u32 = 1;
const STREAMS_LOG2: u32 = 10;

/// CR0 with everything on: SMMUEN, PRIQEN, EVENTQEN, CMDQEN, ATSCHK.
const ON: u32 = 0x1f;

/// A stream table entry for stage 1: V, Config 0b101, one context descriptor.
pub const STAGE_1: u64 = 0b1011;
/// For stage 2: Config 0b110.
pub const STAGE_2: u64 = 0b1101;
/// For both: Config 0b111.
pub const NESTED: u64 = 0b1111;
/// EATS = full ATS, in word 1.
pub const ATS: u64 = 0b01 << 28;

/// An SMMU with queues and a linear stream table, translating.
pub struct Raw {
    pub bench: Bench,
    pub commands: u64,
    pub streams: u64,
    pub events: u64,
    pub requests: u64,
    consumed: u32,
}

impl Raw {
    pub fn new(configuration: Configuration) -> Self {
        Self::with_policy(configuration, Policy::STRICT, 0)
    }

    pub fn with_policy(configuration: Configuration, policy: Policy, seed: u64) -> Self {
        let bench = Bench::new(configuration, policy, seed);
        let take = |size| bench.memory().take(size, size).unwrap();
        let raw = Self {
            commands: take(16 << COMMANDS_LOG2),
            streams: take(64 << STREAMS_LOG2),
            events: take(32 << EVENTS_LOG2),
            requests: take(64),
            consumed: 0,
            bench,
        };
        let queue = |base: u64, log2: u32| base | u64::from(log2);
        raw.write64(offset::STRTAB_BASE, raw.streams);
        raw.write(offset::STRTAB_BASE_CFG, STREAMS_LOG2);
        raw.write64(offset::CMDQ_BASE, queue(raw.commands, COMMANDS_LOG2));
        raw.write64(offset::EVENTQ_BASE, queue(raw.events, EVENTS_LOG2));
        if configuration.pri {
            raw.write64(offset::PRIQ_BASE, queue(raw.requests, REQUESTS_LOG2));
        }
        // RECINVSID.
        raw.write(offset::CR2, 0b10);
        raw.write(offset::CR0, ON);
        raw.bench.machine.settle();
        raw
    }

    pub fn read(&self, offset: usize) -> u32 {
        self.bench.smmu.read(offset, 4) as u32
    }

    pub fn write(&self, offset: usize, value: u32) {
        self.bench.smmu.write(offset, 4, value.into());
    }

    pub fn write64(&self, offset: usize, value: u64) {
        self.bench.smmu.write(offset, 8, value);
    }

    /// Puts a command into the queue and rings.
    pub fn post(&self, command: [u64; 2]) {
        let producer = self.read(offset::CMDQ_PROD);
        let slot = producer & ((1 << COMMANDS_LOG2) - 1);
        let at = self.commands + 16 * u64::from(slot);
        self.bench.store(at, command[0]);
        self.bench.store(at + 8, command[1]);
        let next = (producer + 1) & ((2 << COMMANDS_LOG2) - 1);
        self.write(offset::CMDQ_PROD, next);
    }

    /// Executes a command, with a CMD_SYNC behind it.
    pub fn run(&self, command: [u64; 2]) {
        self.post(command);
        self.post(SYNC);
        self.bench.machine.settle();
        let done = self.read(offset::CMDQ_CONS) & 0xf_ffff == self.read(offset::CMDQ_PROD);
        assert!(done, "{command:#x?} is not consumed");
    }

    /// Whether the queue stopped, and with what error.
    pub fn stopped(&self) -> Option<u32> {
        let active = (self.read(offset::GERROR) ^ self.read(offset::GERRORN)) & 1;
        (active == 1).then(|| self.read(offset::CMDQ_CONS) >> 24 & 0x7f)
    }

    /// Stores a stream table entry.
    pub fn stream(&self, stream: u32, words: &[u64]) {
        let at = self.streams + 64 * u64::from(stream);
        for (&word, at) in words.iter().zip((at..).step_by(8)) {
            self.bench.store(at, word);
        }
    }

    /// Lets `stream` walk `root` at stage 1, under `asid` and `vmid`; the context descriptor.
    pub fn stage_1(&self, stream: u32, root: u64, asid: u16, vmid: u16) -> u64 {
        let context = self.bench.memory().take(64, 64).unwrap();
        let words = [first_word(asid), root, 0, 0xff];
        for (word, at) in words.into_iter().zip((context..).step_by(8)) {
            self.bench.store(at, word);
        }
        self.stream(stream, &[STAGE_1 | context, ATS, vmid.into()]);
        context
    }

    /// The event records that are there, given back to the queue.
    pub fn take_events(&mut self) -> Vec<[u64; 4]> {
        self.bench.machine.settle();
        let producer = self.read(offset::EVENTQ_PROD);
        let mut events = Vec::new();
        while self.consumed != producer & ((2 << EVENTS_LOG2) - 1) {
            let slot = self.consumed & ((1 << EVENTS_LOG2) - 1);
            let at = self.events + 32 * u64::from(slot);
            let word = |word: u64| self.bench.memory().cpu_load(at + 8 * word);
            events.push([word(0), word(1), word(2), word(3)]);
            self.consumed = (self.consumed + 1) & ((2 << EVENTS_LOG2) - 1);
        }
        self.write(offset::EVENTQ_CONS, producer & 1 << 31 | self.consumed);
        events
    }

    /// The numbers of the events that are there.
    pub fn take_numbers(&mut self) -> Vec<u8> {
        let events = self.take_events();
        events.iter().map(|event| event[0] as u8).collect()
    }
}

/// The first word of a context descriptor: T0SZ 16, 4 KiB, EPD1, V, IPS 48 bits, AA64, R, A, ASET.
pub const fn first_word(asid: u16) -> u64 {
    16 | 1 << 30
        | 1 << 31
        | 0b101 << 32
        | 1 << 41
        | 1 << 45
        | 1 << 46
        | 1 << 47
        | (asid as u64) << 48
}

/// Word 2 of a stream table entry with stage 2: T0SZ 25 (39 bits), starting at level 1, PS 48 bits,
/// AA64, R.
pub const fn second_stage(vmid: u16) -> u64 {
    vmid as u64 | 25 << 32 | 1 << 38 | 0b101 << 48 | 1 << 51 | 1 << 58
}

/// An untagged read.
pub fn read_of(stream: u32, address: u64) -> Request {
    Request {
        device: stream,
        ..Bench::request(None, address, iommu_model::Access::Read)
    }
}

/// CMD_CFGI_STE, without the level 1 descriptor.
pub const fn forget_stream(stream: u32) -> [u64; 2] {
    [0x03 | (stream as u64) << 32, 1]
}

/// CMD_CFGI_STE of the device that the tests use.
pub const FORGET_DEVICE: [u64; 2] = forget_stream(DEVICE);
