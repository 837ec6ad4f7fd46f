//! Turning the SMMU's parts on and off. Each change is acknowledged by the hardware, with a
//! deadline.

use crate::caps::Capabilities;
use crate::planted::{self, Fault};
use crate::spec::registers::{CR0, CR1, CR2, GBPA, Value, offset};
use iommu_core::error::Timeout;
use iommu_core::platform::{Mmio, Parts, Platform, wait_until};
use spin::Mutex;

/// Nanoseconds that a handshake may take.
const LIMIT: u64 = 1_000_000_000;

/// Turns translation, both queues and interrupts off, whatever state the SMMU is in. From then on it
/// aborts every transaction and accesses no memory.
///
/// The abort is set first, so that no transaction bypasses the SMMU in between (6.3.14).
pub fn stop<P: Platform>(parts: &Parts<P>) -> Result<(), Timeout> {
    abort_while_disabled(parts)?;
    parts.mmio.write32(offset::IRQ_CTRL, 0);
    wait_until(&parts.clock, LIMIT, "disabling SMMU interrupts", || {
        parts.mmio.read32(offset::IRQ_CTRLACK) == 0
    })?;
    enable(parts, 0, "disabling the SMMU")
}

fn abort_while_disabled<P: Platform>(parts: &Parts<P>) -> Result<(), Timeout> {
    let read = || Value::<GBPA::Register>::new(parts.mmio.read32(offset::GBPA));
    let updated = |operation| {
        let idle = || !read().is_set(GBPA::UPDATE);
        wait_until(&parts.clock, LIMIT, operation, idle)
    };
    updated("an earlier update of SMMU_GBPA")?;
    let mut value = read();
    value.modify(GBPA::ABORT::SET + GBPA::UPDATE::SET);
    parts.mmio.write32(offset::GBPA, value.get());
    updated("an update of SMMU_GBPA")
}

/// Writes CR0 and waits until every bit has taken effect (6.3.10).
pub fn enable<P: Platform>(
    parts: &Parts<P>,
    value: u32,
    operation: &'static str,
) -> Result<(), Timeout> {
    parts.mmio.write32(offset::CR0, value);
    wait_until(&parts.clock, LIMIT, operation, || {
        parts.mmio.read32(offset::CR0ACK) == value
    })
}

/// The bits of CR0 while the SMMU translates, in the order in which they are set.
pub struct Steps {
    /// Commands are consumed.
    pub commands: u32,
    /// And events recorded.
    pub events: u32,
    /// And page requests; as before without them.
    pub requests: u32,
    /// And transactions translated.
    pub translation: u32,
}

impl Steps {
    /// The steps for this SMMU. With ATS, translated requests are checked against STE.EATS from the
    /// start, because the bit may be cached with stream table entries (6.3.9.2).
    pub fn new(capabilities: &Capabilities) -> Self {
        let mut commands = CR0::CMDQEN::SET.value;
        if capabilities.device_tlb() && !planted::is(Fault::SmmuTranslatedUnchecked) {
            commands |= CR0::ATSCHK::SET.value;
        }
        let events = commands | CR0::EVENTQEN::SET.value;
        let mut requests = events;
        if capabilities.page_requests() {
            requests |= CR0::PRIQEN::SET.value;
        }
        let translation = requests | CR0::SMMUEN::SET.value;
        Self {
            commands,
            events,
            requests,
            translation,
        }
    }
}

/// Says how tables and queues are accessed and what is recorded. The SMMU is off.
pub fn configure(mmio: &impl Mmio, capabilities: &Capabilities) {
    let cacheability = capabilities.cacheability();
    let cache = cacheability.cache() as u32;
    let shareability = cacheability.shareability() as u32;
    let attributes = CR1::TABLE_SH.val(shareability)
        + CR1::TABLE_OC.val(cache)
        + CR1::TABLE_IC.val(cache)
        + CR1::QUEUE_SH.val(shareability)
        + CR1::QUEUE_OC.val(cache)
        + CR1::QUEUE_IC.val(cache);
    mmio.write32(offset::CR1, attributes.value);

    let mut recording = CR2::RECINVSID::SET.value;
    if capabilities.broadcast_maintenance() {
        recording |= CR2::PTM::SET.value;
    }
    mmio.write32(offset::CR2, recording);
}

/// The right to acknowledge global errors.
///
/// An error is active while its bits in GERROR and GERRORN differ, and each is acknowledged by
/// turning its bit in GERRORN round (6.3.18, 6.3.19). Who writes the register writes everybody's
/// bits, so two who acknowledge different errors side by side would undo each other's.
#[derive(Debug, Default)]
pub struct GlobalErrors(Mutex<()>);

impl GlobalErrors {
    /// Acknowledges the error whose bit is `error`, if it is active; whether it was. The caller has
    /// interrupts off, as the ring has when it restarts the command queue.
    pub fn acknowledge(&self, mmio: &impl Mmio, error: u32) -> bool {
        let _acknowledging = self.0.lock();
        let acknowledged = mmio.read32(offset::GERRORN);
        let is_active = (mmio.read32(offset::GERROR) ^ acknowledged) & error != 0;
        if is_active {
            mmio.write32(offset::GERRORN, acknowledged ^ error);
        }
        is_active
    }
}

/// Acknowledges every error that was active when the SMMU was found. An active command queue error
/// would keep commands from being consumed.
pub fn acknowledge_errors(mmio: &impl Mmio) {
    let errors = mmio.read32(offset::GERROR);
    mmio.write32(offset::GERRORN, errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::sync::Arc;
    use core::sync::atomic::{AtomicU32, Ordering};
    use iommu_core::testing::{FakeMmio, FakeRegisters};

    /// An SMMU whose errors are always active.
    #[derive(Default)]
    struct Erring(AtomicU32);

    impl FakeRegisters for Erring {
        fn read(&self, at: usize, _: usize) -> u64 {
            let acknowledged = self.0.load(Ordering::SeqCst);
            // Somebody else may run between the read and the write that follows it.
            std::thread::yield_now();
            match at {
                offset::GERRORN => acknowledged.into(),
                offset::GERROR => (!acknowledged).into(),
                _ => panic!("register {at:#x}"),
            }
        }
        fn write(&self, at: usize, _: usize, value: u64) {
            assert_eq!(at, offset::GERRORN);
            self.0.store(value as u32, Ordering::SeqCst);
        }
    }

    #[test]
    fn two_who_acknowledge_do_not_undo_each_other() {
        let (fake, errors) = (Arc::new(Erring::default()), GlobalErrors::default());
        std::thread::scope(|scope| {
            for bit in [1, 4] {
                let (mmio, errors) = (FakeMmio(fake.clone()), &errors);
                let fake = &fake;
                scope.spawn(move || {
                    for turn in 0..2000 {
                        assert!(errors.acknowledge(&mmio, bit));
                        let now = fake.0.load(Ordering::SeqCst) & bit != 0;
                        assert_eq!(now, turn % 2 == 0, "turn {turn}: the bit was turned back");
                    }
                });
            }
        });
    }
}
