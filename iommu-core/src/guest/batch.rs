//! Commands of a guest on their way: one list, one doorbell, one wait.

use super::{GuestCommand, GuestDevice, HostCommand, Refusal};
use crate::error::QueueError;
use crate::ids::DeviceId;
use crate::planted::{self, Fault};
use crate::platform::Platform;
use crate::quarantine::Quarantine;
use crate::ring::{Item, QueueRegisters, Ring};

/// The most commands of one call: half of the shortest queue that a backend works with. Neither does a
/// guest keep the queue from others for long, nor does it make the host use more than a few KiB of
/// stack.
pub const MOST_COMMANDS: usize = 64;

/// How often a list that was dropped because of somebody else's error is posted again.
const ATTEMPTS: usize = 3;

/// How often a device TLB is asked alone, where the hardware does not say which device is silent,
/// before the device is held to be the one.
const ALONE: usize = 2;

/// How far a guest's commands were executed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the guest's queue goes on behind what was taken, and silent devices are to be cut off"]
pub struct Executed {
    /// How many commands, from the first, were taken. They are complete, except for
    /// [`silent`](Self::silent) devices.
    pub taken: usize,
    /// Why the command behind those was not taken; `None` if there are no more, or if there are more
    /// than one call takes and the next call goes on with it.
    pub refused: Option<Refusal>,
    /// The devices whose TLBs did not answer what they were asked in this call.
    ///
    /// Their translations may live on. The hypervisor tells the guest as the hardware would tell a
    /// host, and cuts the device off with [`Iommu::quarantine`](crate::iommu::Iommu::quarantine).
    pub silent: SilentDevices,
}

/// A few devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SilentDevices {
    devices: [Option<GuestDevice>; MOST_COMMANDS],
    count: usize,
}

impl SilentDevices {
    const NONE: Self = Self {
        devices: [None; MOST_COMMANDS],
        count: 0,
    };

    /// The devices, each once.
    pub fn iter(&self) -> impl Iterator<Item = GuestDevice> {
        self.devices.iter().flatten().copied()
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn has(&self, device: GuestDevice) -> bool {
        self.iter().any(|its| its.host == device.host)
    }

    fn add(&mut self, device: GuestDevice) {
        if let Some(place) = self.devices.get_mut(self.count)
            && !planted::is(Fault::GuestSilenceNotTold)
        {
            *place = Some(device);
            self.count += 1;
        }
    }
}

/// The commands of one call that are legal, up to the first that is not.
#[derive(Debug)]
pub struct Batch<const WORDS: usize> {
    commands: [HostCommand<WORDS>; MOST_COMMANDS],
    count: usize,
    refused: Option<Refusal>,
}

impl<const WORDS: usize> Batch<WORDS> {
    /// Validates commands from the first on, [`MOST_COMMANDS`] at most, until one is refused.
    pub fn new(
        commands: &[GuestCommand<WORDS>],
        validate: impl Fn(GuestCommand<WORDS>) -> Result<HostCommand<WORDS>, Refusal>,
    ) -> Self {
        let mut batch = Self {
            commands: [HostCommand::new([0; WORDS]); MOST_COMMANDS],
            count: 0,
            refused: None,
        };
        for (command, place) in commands.iter().zip(&mut batch.commands) {
            match validate(*command) {
                Ok(command) => *place = command,
                Err(_) if planted::is(Fault::GuestRefusalSkipped) => continue,
                Err(refusal) => {
                    batch.refused = Some(refusal);
                    break;
                }
            }
            batch.count += 1;
        }
        batch
    }

    /// The legal commands.
    pub fn commands(&self) -> &[HostCommand<WORDS>] {
        &self.commands[..self.count]
    }

    /// Posts the commands as one list with one doorbell, and waits for it. Devices in quarantine are left
    /// out.
    ///
    /// If a device does not answer, everything is done once more, each device for itself, so that it is
    /// known which device it was and that all others are done; the device is `suspect` from then on.
    ///
    /// # Errors
    ///
    /// An error of the queue that is no device's: how much is complete is not known.
    pub fn execute<R: QueueRegisters<WORDS>, P: Platform>(
        self,
        queue: &Ring<WORDS, R, P>,
        quarantine: &Quarantine,
    ) -> Result<Executed, QueueError> {
        let way = Way { queue, quarantine };
        let commands = self.commands();
        let mut silent = SilentDevices::NONE;
        if !commands.is_empty() {
            match way.run(commands) {
                Err(QueueError::DeviceTimeout { device }) => {
                    way.find_silent(commands, device, &mut silent)?;
                }
                result => result?,
            }
        }
        Ok(Executed {
            taken: self.count,
            refused: self.refused,
            silent,
        })
    }
}

/// The way to the hardware.
struct Way<'a, const WORDS: usize, R: QueueRegisters<WORDS>, P: Platform> {
    queue: &'a Ring<WORDS, R, P>,
    quarantine: &'a Quarantine,
}

impl<const WORDS: usize, R: QueueRegisters<WORDS>, P: Platform> Way<'_, WORDS, R, P> {
    /// One list, waited for, and posted again if it was dropped because of somebody else's error.
    fn run(&self, commands: &[HostCommand<WORDS>]) -> Result<(), QueueError> {
        for _ in 1..ATTEMPTS {
            match self.run_once(commands) {
                Err(error) if !is_its_own(error, commands) => {}
                result => return result,
            }
        }
        self.run_once(commands)
    }

    fn run_once(&self, commands: &[HostCommand<WORDS>]) -> Result<(), QueueError> {
        let is_left_out = |command: &HostCommand<WORDS>| {
            let device = command.asked_device();
            device.is_some_and(|device| self.quarantine.has(device.host))
        };
        let ticket = self.queue.submit(|emit| {
            for command in commands.iter().filter(|command| !is_left_out(command)) {
                emit(Item::Command(command.words()));
            }
        })?;
        self.queue.wait(ticket).map(drop)
    }

    /// Everything once more, in the same order, each device for itself but for the one that is `named`.
    fn find_silent(
        &self,
        commands: &[HostCommand<WORDS>],
        named: Option<DeviceId>,
        silent: &mut SilentDevices,
    ) -> Result<(), QueueError> {
        let asked = HostCommand::asked_device;
        for part in commands.chunk_by(|one, other| asked(one) == asked(other)) {
            let Some(device) = asked(&part[0]) else {
                self.run(part)?;
                continue;
            };
            if silent.has(device) {
                continue;
            }
            if named == Some(device.host) || self.is_silent(part)? {
                self.quarantine.suspect(device.host);
                silent.add(device);
            }
        }
        Ok(())
    }

    /// Whether a device does not answer. An error that names nobody may be another's, whose list went by
    /// at the same time; only if it comes again it is this device's.
    fn is_silent(&self, part: &[HostCommand<WORDS>]) -> Result<bool, QueueError> {
        for _ in 0..ALONE {
            match self.run(part) {
                Ok(()) => return Ok(false),
                Err(QueueError::DeviceTimeout { device: None }) => {}
                Err(QueueError::DeviceTimeout { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Whether an error concerns one of `commands`, or may.
fn is_its_own<const WORDS: usize>(error: QueueError, commands: &[HostCommand<WORDS>]) -> bool {
    match error {
        QueueError::Aborted => false,
        QueueError::DeviceTimeout { device } => commands
            .iter()
            .filter_map(HostCommand::asked_device)
            .any(|its| device.is_none_or(|device| device == its.host)),
        _ => true,
    }
}
