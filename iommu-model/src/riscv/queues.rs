//! The command queue: what is fetched, in which order it is executed, what a fence waits for
//! (sections "Command-Queue", "Command-queue CSR").
//!
//! Commands are fetched in order. Without [`Policy::unordered`](crate::Policy) each is executed
//! before the next is fetched. With it, a few are fetched ahead, even behind a fence that is not
//! complete, and executed in any order: all that is promised is that a complete `IOFENCE.C` finds
//! every command before it done.

use super::State;
use super::commands::{Command, Fence};
use super::registers::{CMD_ILL, CMD_TO, ENABLE, FENCE_W_IP, MEMORY_FAULT, Queue};
use std::collections::{BTreeMap, VecDeque};

/// How many commands are fetched before the first of them is executed, at most.
const FETCHED_AHEAD: usize = 6;
const COMMAND_SIZE: u64 = 16;
const ERRORS: u32 = MEMORY_FAULT | CMD_TO | CMD_ILL;

/// The commands that are fetched and not done.
#[derive(Debug, Default)]
pub(super) struct CommandQueue {
    /// `cqh` is past these.
    passed: Vec<(Command, Progress)>,
    /// From `cqh` on. None for an illegal one.
    ahead: VecDeque<(Option<Command>, Progress)>,
    /// An `ATS.INVAL` that `cqh` is past has timed out, and no fence has said so.
    timed_out: bool,
    tags: BTreeMap<u32, Tags>,
    /// The next command that is not a fence counts as illegal.
    pub reject_next: bool,
    /// The index of the command that was rejected, and what it says: there it stays illegal.
    rejected: Option<(u32, [u64; 2])>,
    /// Nothing is executed any more.
    pub frozen: bool,
}

/// How far a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Fetched,
    /// The device has been asked under this tag.
    Sent(u8),
    TimedOut,
    Done,
}

/// The invalidation tags of a device, a bit each.
#[derive(Clone, Copy, Debug, Default)]
struct Tags {
    used: u32,
    /// Timed out or aborted; the answer may still come.
    abandoned: u32,
}

impl Tags {
    /// A free tag, else one that nobody waits for any more.
    fn take(&mut self) -> Option<u8> {
        let free = !(self.used | self.abandoned);
        let tag = [free, self.abandoned]
            .into_iter()
            .find(|&tags| tags != 0)?
            .trailing_zeros();
        self.abandoned &= !(1 << tag);
        self.used |= 1 << tag;
        Some(tag as u8)
    }

    fn abandon(&mut self, tag: u8) {
        self.used &= !(1 << tag);
        self.abandoned |= 1 << tag;
    }
}

impl State {
    /// The tail was moved, or what kept commands from being executed is over.
    pub(super) fn ring_doorbell(&mut self) {
        if !self.policy.later {
            while self.run_commands() {}
        }
    }

    /// Does one piece of the command queue's work.
    pub(super) fn run_commands(&mut self) -> bool {
        let registers = self.registers.queue(Queue::Command);
        let runs = registers.is_on() && registers.csr & (ENABLE | ERRORS) == ENABLE;
        if !runs || self.commands.frozen {
            return false;
        }
        if self.policy.unordered {
            let first = self.random.below(4);
            (0..4).any(|turn| match (first + turn) % 4 {
                0 => self.commands.ahead.len() < FETCHED_AHEAD && self.fetch(),
                1 => self.start_any(),
                _ => self.pass(),
            })
        } else {
            if self.commands.ahead.is_empty() && !self.fetch() {
                return false;
            }
            // Nothing is there if the fetch has stopped the queue.
            let ready = !self.commands.ahead.is_empty() && self.start_ahead(0);
            self.pass() || ready
        }
    }

    /// Fetches the next command.
    fn fetch(&mut self) -> bool {
        let registers = self.registers.queue(Queue::Command);
        let ahead = self.commands.ahead.len() as u32;
        let index = registers.head.wrapping_add(ahead) & registers.mask();
        let fetched_all = ahead > registers.mask() || index == registers.tail;
        if fetched_all {
            return false;
        }
        match self.command_at(index) {
            Some(words) => {
                let is_rejected = self.commands.rejected.take() == Some((index, words));
                let command = self.decode(words).filter(|_| !is_rejected);
                self.commands.ahead.push_back((command, Progress::Fetched));
                true
            }
            // Whether an entry behind others is there is seen when `cqh` reaches it.
            None if ahead == 0 => {
                self.stop(MEMORY_FAULT);
                true
            }
            None => false,
        }
    }

    fn command_at(&self, index: u32) -> Option<[u64; 2]> {
        let entry = self
            .registers
            .queue(Queue::Command)
            .entry(index, COMMAND_SIZE)?;
        let load = |at| self.memory.load(at).ok();
        Some([load(entry)?, load(entry + 8)?])
    }

    /// Executes any command that is fetched.
    fn start_any(&mut self) -> bool {
        let passed = self.commands.passed.len();
        let count = passed + self.commands.ahead.len();
        let first = self.random.below(count as u64) as usize;
        (0..count).any(|turn| match (first + turn) % count {
            index if index < passed => self.start_passed(index),
            index => self.start_ahead(index - passed),
        })
    }

    fn start_passed(&mut self, index: usize) -> bool {
        let (command, progress) = self.commands.passed[index];
        let Some(now) = self.start(command, progress) else {
            return false;
        };
        if now == Progress::Done {
            self.commands.passed.remove(index);
        } else {
            self.commands.passed[index].1 = now;
        }
        true
    }

    fn start_ahead(&mut self, index: usize) -> bool {
        let (Some(command), progress) = self.commands.ahead[index] else {
            return false;
        };
        // What counts as illegal when `cqh` reaches it is not executed before.
        if self.commands.reject_next {
            return false;
        }
        match self.start(command, progress) {
            Some(now) => {
                self.commands.ahead[index].1 = now;
                true
            }
            None => false,
        }
    }

    /// Executes a command that was not: its progress then, or none if it cannot be yet.
    fn start(&mut self, command: Command, progress: Progress) -> Option<Progress> {
        if progress != Progress::Fetched {
            return None;
        }
        match command {
            Command::Fence(_) => None,
            Command::InvalidateDeviceTlb(invalidation) => {
                let tags = self.commands.tags.entry(invalidation.device).or_default();
                let tag = tags.take()?;
                if let Some(port) = self.ports.get(&invalidation.device) {
                    port.invalidate(invalidation.request(tag));
                }
                Some(Progress::Sent(tag))
            }
            command => {
                self.execute(command);
                Some(Progress::Done)
            }
        }
    }

    /// Lets `cqh` pass the command that it stands at, if that may be.
    fn pass(&mut self) -> bool {
        let Some(&(command, progress)) = self.commands.ahead.front() else {
            return false;
        };
        let could_be = progress == Progress::Fetched && !matches!(command, Some(Command::Fence(_)));
        let rejected = could_be && std::mem::take(&mut self.commands.reject_next);
        let Some(command) = command.filter(|_| !rejected) else {
            let index = self.registers.queue(Queue::Command).head;
            self.commands.rejected = self.command_at(index).map(|words| (index, words));
            self.stop(CMD_ILL);
            return true;
        };
        match command {
            Command::Fence(fence) if progress == Progress::Fetched => {
                return self.complete(fence);
            }
            _ if progress == Progress::Done => {}
            _ if progress == Progress::TimedOut => self.commands.timed_out = true,
            // Without a tag, or in order, the queue waits for the command to be executed.
            _ if progress == Progress::Fetched && !self.policy.unordered => return false,
            command => self.commands.passed.push((command, progress)),
        }
        self.commands.ahead.pop_front();
        let registers = self.registers.queue_mut(Queue::Command);
        registers.head = (registers.head + 1) & registers.mask();
        true
    }

    /// Completes the fence at the head, if everything before it is done. `cqh` passes it next.
    fn complete(&mut self, fence: Fence) -> bool {
        if !self.commands.passed.is_empty() {
            return false;
        }
        if std::mem::take(&mut self.commands.timed_out) {
            self.stop(CMD_TO);
            return true;
        }
        // What is posted may be either, so one bit alone promises nothing of it.
        if fence.reads && fence.writes {
            self.drain();
        }
        if let Some((address, data)) = fence.store
            && self.memory.store32(address, data).is_err()
        {
            self.stop(MEMORY_FAULT);
            return true;
        }
        if fence.interrupt {
            self.registers.queue_mut(Queue::Command).csr |= FENCE_W_IP;
            self.update_interrupts();
        }
        if let Some(fence) = self.commands.ahead.front_mut() {
            fence.1 = Progress::Done;
        }
        true
    }

    /// Sets an error bit, which stops the queue with `cqh` at the command. What is behind it will be
    /// fetched again. Of what is before it, the text says for CMD_ILL and CQMF: "Previous commands
    /// may have completed, timed out, or their execution aborted".
    fn stop(&mut self, error: u32) {
        self.registers.queue_mut(Queue::Command).csr |= error;
        let ahead = std::mem::take(&mut self.commands.ahead);
        for (command, progress) in ahead.into_iter().filter_map(|(c, p)| Some((c?, p))) {
            self.abandon(command, progress);
        }
        if error != CMD_TO && self.policy.unordered {
            self.abort_some();
        }
        self.update_interrupts();
    }

    /// Each command that was passed is aborted, or goes on.
    fn abort_some(&mut self) {
        let passed = std::mem::take(&mut self.commands.passed);
        for (command, progress) in passed {
            if self.random.once_in(2) {
                self.abandon(command, progress);
            } else {
                self.commands.passed.push((command, progress));
            }
        }
    }

    /// The queue was turned off: what was fetched is executed or aborted.
    pub(super) fn abort_commands(&mut self) {
        let passed = std::mem::take(&mut self.commands.passed);
        let ahead = std::mem::take(&mut self.commands.ahead);
        let ahead = ahead.into_iter().filter_map(|(c, p)| Some((c?, p)));
        for (command, progress) in passed.into_iter().chain(ahead) {
            self.abandon(command, progress);
        }
        self.commands.timed_out = false;
    }

    /// Nobody waits for a command any more.
    fn abandon(&mut self, command: Command, progress: Progress) {
        if let (Command::InvalidateDeviceTlb(invalidation), Progress::Sent(tag)) =
            (command, progress)
        {
            let tags = self.commands.tags.entry(invalidation.device).or_default();
            tags.abandon(tag);
        }
    }

    /// A device has answered the invalidations of these tags.
    pub(super) fn complete_invalidations(&mut self, device: u32, itags: u32) {
        let tags = self.commands.tags.entry(device).or_default();
        tags.abandoned &= !itags;
        let answered = tags.used & itags;
        tags.used &= !itags;
        let is_answered = |command: &Command, progress: Progress| {
            matches!((command, progress), (Command::InvalidateDeviceTlb(sent), Progress::Sent(tag))
                if sent.device == device && answered >> tag & 1 == 1)
        };
        self.commands
            .passed
            .retain(|(command, progress)| !is_answered(command, *progress));
        for (command, progress) in &mut self.commands.ahead {
            if let Some(command) = command
                && is_answered(command, *progress)
            {
                *progress = Progress::Done;
            }
        }
        self.ring_doorbell();
    }

    /// No device that has been asked will answer in time. The next fence says so.
    pub(super) fn time_out_devices(&mut self) {
        let passed = std::mem::take(&mut self.commands.passed);
        for (command, progress) in passed {
            if let Progress::Sent(_) = progress {
                self.abandon(command, progress);
                self.commands.timed_out = true;
            } else {
                self.commands.passed.push((command, progress));
            }
        }
        for index in 0..self.commands.ahead.len() {
            if let (Some(command), progress @ Progress::Sent(_)) = self.commands.ahead[index] {
                self.abandon(command, progress);
                self.commands.ahead[index].1 = Progress::TimedOut;
            }
        }
        self.ring_doorbell();
    }
}
