//! The unit against a fake IOMMU that decodes for itself.

extern crate alloc;

mod devices;
mod errors;
mod fake;
mod faults;
mod guest;
mod invalidation;
mod page_requests;
mod probe;
mod quarantine;

use iommu_core::testing::Event;

/// Where the bench's first allocations lie: device directory, command queue, completion words,
/// fault queue. The page-request queue follows.
const DIRECTORY: u64 = 1 << 32;
const QUEUE: u64 = 2 << 32;
const WORDS: u64 = 3 << 32;
const FAULTS: u64 = 4 << 32;

/// IODIR.INVAL_DDT, IOTINVAL.VMA, IOTINVAL.GVMA of everything, and the `IOFENCE.C`.
const PROBE_COMMANDS: u64 = 4;

/// Spells out, word by word, what the driver is to post.
struct Script {
    position: u64,
    events: Vec<Event>,
}

impl Script {
    /// After `position` commands on a queue of 256.
    fn after(position: u64) -> Self {
        Self {
            position,
            events: Vec::new(),
        }
    }

    fn command(mut self, first: u64, second: u64) -> Self {
        self.position += 1;
        self.events.push(Event::Command(vec![first, second]));
        self
    }

    /// `IOFENCE.C` with AV, PR and PW that writes the lap of its slot, and the doorbell.
    fn posted(self) -> Self {
        let (slot, lap) = (self.position % 256, self.position / 256 + 1);
        let mut script = self.command(lap << 32 | 0x3402, (WORDS + 4 * slot) >> 2);
        script.events.push(Event::Doorbell);
        script
    }

    /// The same, waited for.
    fn done(self) -> Self {
        let mut script = self.posted();
        script.events.push(Event::Wait);
        script
    }
}
