//! The invalidation queue (6.5.2): fetching, ordering, completion, errors.

use super::State;
use super::caches::{Block, Stage, Tag};
use super::commands::{Command, Illegal};
use super::registers::{Event, FSTS_ICE, FSTS_IQE, FSTS_ITE, GSTS_QUEUE};
use crate::bus::{InvalidationRequest, PageResponse};

/// How many descriptors the hardware holds that it fetched and did not complete.
const WINDOW: usize = 32;

/// Invalidation requests that a device holds at most (PCIe 10.3.2).
const ITAGS: u8 = 32;

/// The invalidation queue beyond its registers.
#[derive(Default)]
pub(super) struct Queue {
    /// What was fetched and is not complete, in the order of the queue.
    pending: Vec<Pending>,
    /// Descriptors fetched so far.
    fetched: u64,
    /// The number of the last wait descriptor that was fetched.
    last_wait: u64,
    /// Requests that devices have not answered.
    outstanding: Vec<Outstanding>,
    /// The tail register was not written since an error was acknowledged.
    needs_doorbell: bool,
    pub reject_next: bool,
    /// Where the descriptor is that was rejected, and what it says: there it stays illegal.
    rejected: Option<(u64, [u64; 4])>,
    pub frozen: bool,
}

struct Pending {
    number: u64,
    command: Command,
    /// For a wait descriptor: it waits for what is behind this number.
    since: u64,
    /// For a device-TLB invalidation: it was sent.
    sent: bool,
}

struct Outstanding {
    number: u64,
    source_id: u16,
    itag: u8,
}

/// What a descriptor is to the ordering rules.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Context,
    Pasid,
    Iotlb,
    Device,
    Other,
    Wait,
}

fn class(command: &Command) -> Class {
    match command {
        Command::ContextCache { .. } => Class::Context,
        Command::PasidCache { .. } => Class::Pasid,
        Command::Iotlb { .. } | Command::PasidIotlb { .. } => Class::Iotlb,
        Command::DeviceTlb { .. } => Class::Device,
        Command::InterruptEntryCache | Command::PageGroupResponse { .. } => Class::Other,
        Command::Wait { .. } => Class::Wait,
    }
}

impl State {
    /// Fetches one descriptor, or executes one that was fetched; false if neither is possible now.
    pub(super) fn work_on_queue(&mut self) -> bool {
        if self.queue.frozen {
            return false;
        }
        let executable: Vec<_> = (0..self.queue.pending.len())
            .filter(|&index| self.is_executable(index))
            .collect();
        let fetch = self.may_fetch();
        let choices = executable.len() + usize::from(fetch);
        if choices == 0 {
            return false;
        }
        let choice = if self.policy.unordered {
            self.machine().random.below(choices as u64) as usize
        } else {
            0
        };
        match executable.get(choice) {
            Some(&index) => self.execute(index),
            None => self.fetch(),
        }
        true
    }

    /// Whether something was fetched that is not complete.
    pub(super) fn has_pending_descriptors(&self) -> bool {
        !self.queue.pending.is_empty()
    }

    fn may_fetch(&self) -> bool {
        let registers = &self.registers;
        let fenced =
            |pending: &Pending| matches!(pending.command, Command::Wait { fence, .. } if fence);
        registers.status & GSTS_QUEUE != 0
            && !registers.queue_goes_off()
            && registers.fault_status & (FSTS_IQE | FSTS_ITE) == 0
            && registers.iqh != registers.iqt
            && !self.queue.needs_doorbell
            && self.queue.pending.len() < WINDOW
            && !self.queue.pending.iter().any(fenced)
    }

    /// Bits that IQH and IQT count in: a descriptor is 2 to this power of bytes.
    fn descriptor_order(&self) -> u32 {
        if self.registers.wide_descriptors() {
            5
        } else {
            4
        }
    }

    fn fetch(&mut self) {
        let order = self.descriptor_order();
        let bytes = 0x1000u64 << (self.registers.iqa & 0b111);
        let (head, tail) = (self.registers.iqh, self.registers.iqt);
        if tail >= bytes || tail & ((1 << order) - 1) != 0 {
            return self.stop(Illegal::Tail);
        }
        let at = (self.registers.iqa & !0xfff) + head;
        let mut words = [0; 4];
        for (index, word) in words.iter_mut().take(1 << (order - 3)).enumerate() {
            // Queue accesses snoop, whatever ECAP.C says.
            match self.load(at + 8 * index as u64, true) {
                Some(value) => *word = value,
                None => return self.stop(Illegal::Fetch),
            }
        }
        let wide = self.registers.wide_descriptors();
        match Command::decode(words, wide, &self.configuration) {
            Err(illegal) => self.stop(illegal),
            Ok(command)
                if self.queue.rejected.take() == Some((at, words))
                    || class(&command) != Class::Wait
                        && std::mem::take(&mut self.queue.reject_next) =>
            {
                self.queue.rejected = Some((at, words));
                self.stop(Illegal::Type);
            }
            Ok(command) => {
                self.registers.iqh = (head + (1 << order)) % bytes;
                self.accept(command);
            }
        }
    }

    fn accept(&mut self, command: Command) {
        let queue = &mut self.queue;
        queue.fetched += 1;
        let (number, mut since) = (queue.fetched, 0);
        if let Command::Wait { .. } = command {
            // Only what lies between this wait and the one before it is waited for (6.5.2.11).
            since = if self.policy.unordered {
                queue.last_wait
            } else {
                0
            };
            queue.last_wait = number;
        }
        queue.pending.push(Pending {
            number,
            command,
            since,
            sent: false,
        });
    }

    /// IQE: the queue stands in front of the descriptor until software acknowledges it.
    fn stop(&mut self, illegal: Illegal) {
        self.registers.queue_error = self.registers.queue_error & !0xf | illegal as u64;
        self.raise_fault_status(FSTS_IQE);
    }

    /// Software acknowledged an error. Whether that alone lets the queue go on, or only the next
    /// write of the tail register, no driver may rely on.
    pub(super) fn queue_acknowledged(&mut self) {
        self.queue.needs_doorbell = self.policy.unordered && self.chance(2);
    }

    pub(super) fn ring_doorbell(&mut self) {
        self.queue.needs_doorbell = false;
    }

    /// The ordering rules of 6.5.2.11.
    fn is_executable(&self, index: usize) -> bool {
        let pending = &self.queue.pending[index];
        let before = &self.queue.pending[..index];
        let own = class(&pending.command);
        let in_turn = || before.iter().all(|other| class(&other.command) >= own);
        match own {
            Class::Context | Class::Pasid | Class::Iotlb => in_turn(),
            Class::Device => {
                let ordered = self.configuration.orders_device_tlb || !self.policy.unordered;
                !pending.sent
                    && (!ordered || in_turn())
                    && self.free_itag(&pending.command).is_some()
            }
            Class::Other => true,
            Class::Wait => before.iter().all(|other| other.number <= pending.since),
        }
    }

    fn free_itag(&self, command: &Command) -> Option<u8> {
        let Command::DeviceTlb { source_id, .. } = *command else {
            return None;
        };
        let is_used = |itag: u8| {
            self.queue
                .outstanding
                .iter()
                .any(|other| other.source_id == source_id && other.itag == itag)
        };
        (0..ITAGS).find(|&itag| !is_used(itag))
    }

    fn execute(&mut self, index: usize) {
        let command = self.queue.pending[index].command;
        if let Command::DeviceTlb { .. } = command {
            return self.send(index);
        }
        self.queue.pending.remove(index);
        match command {
            Command::Wait {
                status,
                interrupt,
                drain_page_requests,
                ..
            } => self.complete_wait(status, interrupt, drain_page_requests),
            Command::PageGroupResponse {
                source_id,
                pasid,
                group,
                code,
            } => self.respond(source_id, PageResponse { pasid, group, code }),
            other => self.invalidate(other),
        }
    }

    /// Removes from the caches exactly what a command guarantees.
    pub(super) fn invalidate(&mut self, command: Command) {
        let everything = Block {
            address: 0,
            order: 64,
        };
        match command {
            Command::ContextCache { source_id, ignored } => {
                self.caches.forget_contexts(|other| {
                    source_id.is_none_or(|own| own & !ignored == other & !ignored)
                });
            }
            Command::PasidCache { domain, pasid } => self.caches.forget_pasids(domain, pasid),
            Command::Iotlb {
                domain,
                pages,
                drain,
            } => {
                let same = |tag: Tag| domain.is_none_or(|domain| domain == tag.domain);
                match pages {
                    None => self.caches.forget_translations(same, everything, false),
                    Some((block, leaf_only)) => {
                        let second = |tag: Tag| same(tag) && tag.stage == Stage::Second;
                        self.caches.forget_translations(second, block, leaf_only);
                        // The address is of the second stage: nested ones cannot be told apart.
                        let nested = |tag: Tag| same(tag) && tag.stage == Stage::Nested;
                        self.caches
                            .forget_translations(nested, everything, leaf_only);
                    }
                }
                if drain {
                    self.machine().drain();
                }
            }
            Command::PasidIotlb {
                domain,
                pasid,
                pages,
            } => {
                let named = |tag: Tag| {
                    tag.domain == domain && tag.pasid == pasid && tag.stage != Stage::Second
                };
                let (block, leaf_only) = pages.unwrap_or((everything, false));
                self.caches.forget_translations(named, block, leaf_only);
                // It drains without being asked to (6.5.4).
                self.machine().drain();
            }
            _ => {}
        }
    }

    fn send(&mut self, index: usize) {
        let pending = &self.queue.pending[index];
        let (command, number) = (pending.command, pending.number);
        let (
            Command::DeviceTlb {
                source_id,
                pasid,
                global,
                block,
            },
            Some(itag),
        ) = (command, self.free_itag(&command))
        else {
            return;
        };
        self.queue.pending[index].sent = true;
        self.queue.outstanding.push(Outstanding {
            number,
            source_id,
            itag,
        });
        // A function that is not there never answers.
        if let Some(port) = self.ports.get(&source_id) {
            port.invalidate(InvalidationRequest {
                itag,
                pasid,
                global,
                address: block.address,
                size: 1u64.checked_shl(block.order).unwrap_or(0),
            });
        }
    }

    /// A device answers.
    pub(super) fn completed(&mut self, source_id: u16, itags: u32) {
        for itag in (0..ITAGS).filter(|itag| itags >> itag & 1 != 0) {
            let is_it = |other: &Outstanding| other.source_id == source_id && other.itag == itag;
            match self.queue.outstanding.iter().position(is_it) {
                Some(index) => {
                    let number = self.queue.outstanding.remove(index).number;
                    self.queue.pending.retain(|other| other.number != number);
                }
                None => {
                    if self.registers.fault_status & FSTS_ICE == 0 {
                        let record = self.registers.queue_error & 0x0000_ffff_ffff_ffff;
                        self.registers.queue_error = record | u64::from(source_id) << 48;
                    }
                    self.raise_fault_status(FSTS_ICE);
                }
            }
        }
    }

    /// ITE (6.5.2.10): the requests of the device that is waited for longest are given up, and every
    /// wait that was fetched is dropped. Nothing is fetched until software acknowledges.
    pub(super) fn time_out(&mut self) {
        let Some(source_id) = self.queue.outstanding.first().map(|first| first.source_id) else {
            return;
        };
        let given_up: Vec<_> = self
            .queue
            .outstanding
            .extract_if(.., |other| other.source_id == source_id)
            .map(|other| other.number)
            .collect();
        self.queue.pending.retain(|other| {
            !given_up.contains(&other.number) && !matches!(other.command, Command::Wait { .. })
        });
        if self.registers.fault_status & FSTS_ITE == 0 {
            let record = self.registers.queue_error & !(0xffff << 32);
            self.registers.queue_error = record | u64::from(source_id) << 32;
        }
        self.raise_fault_status(FSTS_ITE);
    }

    fn complete_wait(&mut self, status: Option<(u64, u32)>, interrupt: bool, drain: bool) {
        if drain {
            while self.deliver_page_request() {}
        }
        if let Some((at, data)) = status {
            self.store32_snooped(at, data);
        }
        if interrupt && !self.registers.invalidation_complete {
            self.registers.invalidation_complete = true;
            self.raise(Event::Invalidation);
        }
    }
}
