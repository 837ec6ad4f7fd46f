//! Commands of a guest, any bytes: what a driver sends for them has the effect that the specification
//! gives to the guest's words, narrowed to what the guest owns; and what it refuses has none.
//!
//! The effects are read from the words by `vtd`, `smmuv3` and `riscv` here, which share nothing with
//! the drivers. What is legal also runs: on the models, which decode by themselves.

mod riscv;
mod smmuv3;
mod vtd;

use iommu_core::error::QueueError;
use iommu_core::guest::{
    DeviceMap, Executed, Guest, GuestTag, HostCommand, MOST_COMMANDS, Refusal,
};
use iommu_core::ids::DeviceId;
use iommu_core::iommu::{DeviceConfig, Iommu};
use iommu_core::testing::{Event, Recorder};
use iommu_model::device::{Configuration, Device, History};
use iommu_model::{Coherency, Hardware, Machine, Memory, ModelPlatform, Policy};
use std::sync::Arc;

/// The most commands of one input: more than one call takes.
const MOST: usize = MOST_COMMANDS + 8;

/// Pages in the whole address space.
const EVERYTHING: u128 = 1 << 52;

/// Runs the commands in `data`: the first byte chooses the hardware, the next three what the guest owns.
pub fn run(data: &[u8]) {
    let [choice, low, high, pasid_bits, commands @ ..] = data else {
        return;
    };
    let Some(tag) = GuestTag::new(u16::from_le_bytes([*low, *high])) else {
        return;
    };
    let devices = Seat::map();
    let guest = Guest {
        tag,
        devices: &devices,
        pasid_bits: *pasid_bits,
    };
    let least = choice & 4 != 0;
    match choice & 3 {
        0 => vtd::run(&guest, least, choice & 8 != 0, commands),
        1 => smmuv3::run(&guest, least, commands),
        _ => riscv::run(&guest, least, commands),
    }
}

/// One device: the guest's id, the host's, and whether the host has it enabled, with a device TLB.
struct Seat {
    guest: u32,
    host: u32,
    device_tlb: Option<bool>,
}

const SEATS: [Seat; 5] = [
    Seat::new(0, 0x108, Some(true)),
    Seat::new(9, 0x110, Some(true)),
    Seat::new(7, 0x118, Some(false)),
    Seat::new(11, 0x120, None),
    Seat::new(0x1_0009, 0x128, Some(true)),
];

impl Seat {
    const fn new(guest: u32, host: u32, device_tlb: Option<bool>) -> Self {
        Self {
            guest,
            host,
            device_tlb,
        }
    }

    fn map() -> DeviceMap<5> {
        let mut map = DeviceMap::new();
        for seat in &SEATS {
            let added = map.add(DeviceId(seat.guest), DeviceId(seat.host));
            added.expect("there is room for every seat");
        }
        map
    }

    fn of(guest: u32) -> Option<&'static Self> {
        SEATS.iter().find(|seat| seat.guest == guest)
    }
}

/// Page numbers: the first, and how many.
type Pages = (u64, u128);

/// What one command does.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Effect {
    /// Translations leave the IOTLB.
    Tlb {
        /// Of one VM, or of all.
        vm: Option<u32>,
        /// Of one address space in it (ASID, PSCID, PASID), or of all.
        space: Option<u32>,
        pages: Pages,
        leaf_only: bool,
        /// DMA reads and writes that were under way are done.
        drains: [bool; 2],
    },
    /// A table's entries leave a cache.
    Structure {
        device: u32,
        /// The entry of one PASID, or all.
        process: Option<u32>,
        leaf_only: bool,
    },
    /// Translations leave a device TLB.
    DeviceTlb {
        device: u32,
        pasid: Option<u32>,
        every_pasid: bool,
        pages: Pages,
    },
    /// Older reads and writes are visible.
    Fence { drains: [bool; 2] },
}

/// How a command is read.
enum Reading {
    /// It does that.
    Does(Effect),
    /// The specification has it, and it is not for guests.
    HostOnly,
    /// The specification has no such command.
    Unknown,
    /// It breaks a rule of the specification, on this hardware.
    Illegal,
}

/// What hardware allows.
struct Limits {
    /// Width of a tag in bits.
    tag_bits: u8,
    /// Width of a PASID in bits.
    pasid_bits: u8,
    /// Whether the IOTLB tells address spaces apart by PASID.
    spaces_are_pasids: bool,
    /// What DMA can be waited for.
    drains: [bool; 2],
}

impl Effect {
    /// The same for a guest; `None` if it asks for what is not its own.
    fn of(self, guest: &Guest<'_>, limits: &Limits) -> Option<Self> {
        let bits = guest.pasid_bits.min(limits.pasid_bits);
        let may = |pasid: u32| u64::from(pasid) < 1 << bits && bits > 0;
        match self {
            Self::Tlb {
                space,
                pages,
                leaf_only,
                drains,
                ..
            } => {
                let tag = u32::from(guest.tag.get());
                let is_its = !limits.spaces_are_pasids || space.is_none_or(may);
                (is_its && tag < 1 << limits.tag_bits).then_some(Self::Tlb {
                    vm: Some(tag),
                    space,
                    pages,
                    leaf_only,
                    drains: [0, 1].map(|which| drains[which] && limits.drains[which]),
                })
            }
            Self::Structure {
                device,
                process,
                leaf_only,
            } => {
                let seat = Seat::of(device).filter(|seat| seat.device_tlb.is_some())?;
                // The entry of PASID 0 is also that of requests without one.
                let is_its = process.is_none_or(|process| process == 0 || may(process));
                is_its.then_some(Self::Structure {
                    device: seat.host,
                    process,
                    leaf_only,
                })
            }
            Self::DeviceTlb {
                device,
                pasid,
                every_pasid,
                pages,
            } => {
                let seat = Seat::of(device).filter(|seat| seat.device_tlb == Some(true))?;
                pasid.is_none_or(may).then_some(Self::DeviceTlb {
                    device: seat.host,
                    pasid,
                    every_pasid: every_pasid && pasid.is_some(),
                    pages,
                })
            }
            fence @ Self::Fence { .. } => Some(fence),
        }
    }
}

/// The pages of an address as PCIe ATS writes it, if it is legal.
fn sized(page: u64, is_range: bool) -> Option<Pages> {
    let order = match (is_range, page.trailing_ones()) {
        (false, _) => 0,
        (true, ones @ ..=51) => ones + 1,
        _ => return None,
    };
    Some(block(page, order))
}

/// 2^`order` pages around `page`.
fn block(page: u64, order: u32) -> Pages {
    if order >= 52 {
        return (0, EVERYTHING);
    }
    (page >> order << order, 1 << order)
}

/// Whether pages are among those of sign-extended addresses of `bits` bits.
fn is_canonical((first, count): Pages, bits: u32) -> bool {
    let half = 1u128 << (bits - 13);
    let last = u128::from(first) + count - 1;
    count > half || last < half || u128::from(first) >= EVERYTHING - half
}

/// What the driver makes of each command, against how it is read.
fn compare<const WORDS: usize>(
    guest: &Guest<'_>,
    limits: &Limits,
    words: [u64; WORDS],
    result: Result<HostCommand<WORDS>, Refusal>,
    read: impl Fn([u64; WORDS]) -> Reading,
) -> bool {
    let reading = read(words);
    match (&reading, result) {
        (Reading::HostOnly, Err(Refusal::HostOnly { .. })) => return false,
        (Reading::Unknown, Err(Refusal::UnknownOpcode { .. })) => return false,
        (Reading::HostOnly | Reading::Unknown, other) => {
            panic!("{words:x?} became {other:x?}");
        }
        (_, Err(refusal @ (Refusal::HostOnly { .. } | Refusal::UnknownOpcode { .. }))) => {
            panic!("{words:x?} was refused: {refusal}");
        }
        _ => {}
    }
    let asked = match reading {
        Reading::Does(effect) => effect.of(guest, limits),
        _ => None,
    };
    match result {
        Ok(host) => {
            let sent = host.words();
            let Reading::Does(done) = read(sent) else {
                panic!("{words:x?} became {sent:x?}, which is illegal");
            };
            assert_eq!(Some(&done), asked.as_ref(), "{words:x?} became {sent:x?}");
        }
        Err(refusal) => {
            assert_eq!(asked, None, "{words:x?} was refused: {refusal}");
            assert!(!refusal.to_string().is_empty());
        }
    }
    result.is_ok()
}

/// A driver on a model, with every seat's device.
struct Bench<U> {
    unit: U,
    recorder: Arc<Recorder>,
    _devices: Vec<Arc<Device>>,
}

impl<U: Iommu> Bench<U> {
    fn new(
        model: impl FnOnce(&Arc<Machine>) -> Arc<dyn Hardware>,
        probe: impl FnOnce(iommu_core::platform::Parts<ModelPlatform>) -> U,
    ) -> Self {
        let memory = Memory::new(0x8000_0000, 16 << 20, Coherency::Coherent);
        let machine = Machine::new(memory, Policy::STRICT, 0);
        let hardware = model(&machine);
        machine.add_iommu(hardware.clone());
        let recorder = Arc::new(Recorder::default());
        let unit = probe(ModelPlatform::parts(&machine, &hardware, &recorder));
        let history = Arc::new(History::default());
        let mut devices = Vec::new();
        for seat in &SEATS {
            let configuration = Configuration {
                device_tlb: seat.device_tlb == Some(true),
                ..Configuration::new(seat.host)
            };
            devices.push(Device::new(&machine, &hardware, &history, configuration));
            if let Some(device_tlb) = seat.device_tlb {
                let config = DeviceConfig {
                    pasid_bits: 8,
                    device_tlb,
                    ..DeviceConfig::default()
                };
                let enabled = unit.enable_device(DeviceId(seat.host), config);
                enabled.expect("the device is enabled");
            }
        }
        recorder.take();
        Self {
            unit,
            recorder,
            _devices: devices,
        }
    }

    /// Checks what became of a batch of which the first `legal` commands are legal.
    fn check(&self, legal: usize, commands: usize, executed: Result<Executed, QueueError>) {
        let executed = executed.expect("the queue goes on");
        assert_eq!(executed.taken, legal.min(MOST_COMMANDS));
        let is_refused = legal < commands && legal < MOST_COMMANDS;
        assert_eq!(executed.refused.is_some(), is_refused, "{executed:?}");
        assert!(executed.silent.is_empty(), "every device answers");
        let events = self.recorder.take();
        let doorbells = events.iter().filter(|event| **event == Event::Doorbell);
        assert_eq!(doorbells.count(), usize::from(executed.taken > 0));
        let commands = events
            .iter()
            .filter(|event| matches!(event, Event::Command(_)));
        let sync = usize::from(executed.taken > 0);
        assert_eq!(commands.count(), executed.taken + sync, "and a sync");
    }
}

/// Whether a device can be asked for a guest, as the units know it.
fn admits<const WORDS: usize>(host: HostCommand<WORDS>) -> Result<HostCommand<WORDS>, Refusal> {
    let enabled = |id: DeviceId| {
        let seat = SEATS.iter().find(|seat| seat.host == id.0);
        seat.and_then(|seat| seat.device_tlb)
    };
    host.admitted(enabled, &iommu_core::quarantine::Quarantine::default())
}
