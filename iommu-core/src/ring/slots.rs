//! The ring's memory and its registers.

use super::lists::Lists;
use super::position::{self, is_lap_done, lap};
use super::sequencer::Slots;
use super::{Command, Completion, CompletionWord, Config, QueueRegisters};
use crate::error::OutOfMemory;
use crate::ids::PhysicalAddress;
use crate::planted::{self, Fault};
use crate::platform::{Clock, DmaBuffer, Observer, Parts, Platform};
use alloc::sync::Arc;

pub(super) struct RingSlots<const WORDS: usize, R: QueueRegisters<WORDS>, P: Platform> {
    parts: Arc<Parts<P>>,
    registers: R,
    entries: DmaBuffer<P>,
    words: Option<DmaBuffer<P>>,
    count: usize,
}

impl<const WORDS: usize, R: QueueRegisters<WORDS>, P: Platform> RingSlots<WORDS, R, P> {
    pub(super) fn new(
        parts: &Arc<Parts<P>>,
        registers: R,
        config: Config,
    ) -> Result<Self, OutOfMemory> {
        let count = config.slots;
        let bytes = count * WORDS * 8;
        let entries = DmaBuffer::new(parts, bytes, bytes.max(4096), config.coherency)?;
        let words = match config.completion {
            Completion::Memory => Some(DmaBuffer::new(parts, count * 4, 4096, config.coherency)?),
            Completion::Head => None,
        };
        Ok(Self {
            parts: parts.clone(),
            registers,
            entries,
            words,
            count,
        })
    }

    pub(super) fn physical(&self) -> PhysicalAddress {
        self.entries.physical()
    }

    pub(super) fn registers(&self) -> &R {
        &self.registers
    }

    pub(super) fn parts(&self) -> &Parts<P> {
        &self.parts
    }

    /// Whether the command at `position` is a sync without a word.
    pub(super) fn is_bare_sync(&self, position: u64) -> bool {
        let first = self.slot(position) * WORDS;
        let sync = self.registers.sync(None);
        (0..WORDS).all(|word| self.entries.load(first + word) == sync[word])
    }

    /// Puts a sync without a word in place of the command at `position`.
    pub(super) fn replace_by_bare_sync(&self, position: u64) {
        self.store(position, self.registers.sync(None));
        self.entries.publish(self.slot(position) * WORDS, WORDS);
    }

    fn store(&self, position: u64, command: Command<WORDS>) {
        let first = self.slot(position) * WORDS;
        for (word, value) in command.into_iter().enumerate() {
            self.entries.store(first + word, value);
        }
    }

    fn slot(&self, position: u64) -> usize {
        position::slot(position, self.count)
    }
}

impl<const WORDS: usize, R: QueueRegisters<WORDS>, P: Platform> Slots for RingSlots<WORDS, R, P> {
    type Command = Command<WORDS>;

    fn without_interrupts<T>(section: impl FnOnce() -> T) -> T {
        P::without_interrupts(section)
    }

    fn relax(&self) {
        self.parts.clock.relax();
    }

    fn write(&self, position: u64, command: Command<WORDS>) {
        self.store(position, command);
    }

    fn tell(&self, start: u64, end: u64) {
        if !P::Observer::LISTENS {
            return;
        }
        for position in start..end {
            let first = self.slot(position) * WORDS;
            let command: Command<WORDS> =
                core::array::from_fn(|word| self.entries.stored(first + word));
            self.parts.observer.command(&command);
        }
    }

    fn publish(&self, start: u64, end: u64) {
        let (first, count) = (self.slot(start), (end - start) as usize);
        let before_wrap = count.min(self.count - first);
        self.entries.publish(first * WORDS, before_wrap * WORDS);
        if count > before_wrap {
            self.entries.publish(0, (count - before_wrap) * WORDS);
        }
        self.registers.write_tail(&self.parts.mmio, end);
        self.parts.observer.doorbell();
    }

    fn sync(&self, position: u64) -> Command<WORDS> {
        let word = self.words.as_ref().map(|words| CompletionWord {
            address: PhysicalAddress(words.physical().0 + 4 * self.slot(position) as u64),
            value: lap(position, self.count),
        });
        self.registers.sync(word)
    }

    fn has_words(&self) -> bool {
        self.words.is_some()
    }

    fn is_written(&self, end: u64) -> bool {
        let sync = end - 1;
        self.words.as_ref().is_some_and(|words| {
            let word = words.load32(self.slot(sync));
            is_lap_done(word, lap(sync, self.count))
                || word != 0 && planted::is(Fault::StaleWordTaken)
        })
    }

    /// A head beyond the tail is a lie and counts as no progress.
    fn consumed(&self, lists: &Lists) -> u64 {
        let head = self.registers.read_head(&self.parts.mmio) & (self.count - 1);
        if head == lists.slot(lists.tail()) {
            return lists.tail();
        }
        lists.position(head).unwrap_or(lists.done())
    }
}
