//! The stream table and the tables of context descriptors: finding an entry, in the caches or in
//! memory (5.1, 5.3, 6.3.24, 6.3.25).

use super::State;
use super::caches::CachedStream;
use super::entries::{SecondStage, Stream, bit, bits};
use super::events::ConfigurationError;
use super::registers::cr0;
use super::requests::{Handling, Problem, configuration, recorded_always};
use super::walk::{Class, Purpose, Want};
use crate::bus::Access;

impl State {
    /// The legal stream table entry of `device`, from the cache or the table.
    pub fn stream(&mut self, device: u32) -> Result<CachedStream, Problem> {
        let table = self.registers.stream_table_config;
        let width = (table & 0x3f).min(self.configuration.stream_bits.into());
        if u64::from(device) >> width != 0 {
            return Err(configuration(ConfigurationError::BadStream));
        }
        let cached = match self.caches.streams.get(&device) {
            Some(&cached) => cached,
            None => {
                let at = self.stream_address(device)?;
                let words = self.fetch(at, ConfigurationError::StreamFetch)?;
                let cached = CachedStream {
                    words,
                    checks_translated: self.registers.enabled(cr0::ATSCHK),
                };
                self.caches.streams.insert(device, cached);
                cached
            }
        };
        if Stream(&cached.words).illegal(&self.configuration) {
            return Err(configuration(ConfigurationError::BadStreamEntry));
        }
        Ok(cached)
    }

    fn stream_address(&mut self, device: u32) -> Result<u64, Problem> {
        let table = self.registers.stream_table_config;
        let base = self.registers.stream_table & self.configuration.physical_mask() & !0x3f;
        // No StreamID is wider than 32 bits.
        let log2_size = (table & 0x3f).min(32);
        if !self.two_level_streams() {
            let aligned = base & !((64 << log2_size) - 1);
            return Ok(aligned + 64 * u64::from(device));
        }
        let split = self.split();
        let bytes: u64 = 8 << log2_size.saturating_sub(split);
        let index = device >> split;
        let at = (base & !(bytes.max(64) - 1)) + 8 * u64::from(index);
        let descriptor = match self.caches.stream_tables.get(&index) {
            Some(&cached) => cached,
            None => {
                let word = self.load(at, ConfigurationError::StreamFetch)?;
                self.caches.stream_tables.insert(index, word);
                word
            }
        };
        let span = bits(descriptor, 4, 0) as u32;
        let low = device & ((1 << split) - 1);
        if span == 0 || span > 11 || span > split + 1 || low >> (span - 1) != 0 {
            return Err(configuration(ConfigurationError::BadStream));
        }
        let leaf = descriptor & self.configuration.physical_mask() & !((64 << (span - 1)) - 1);
        Ok(leaf + 64 * u64::from(low))
    }

    /// FMT of the stream table; reserved values are linear.
    pub fn two_level_streams(&self) -> bool {
        self.configuration.two_level_streams
            && self.registers.stream_table_config >> 16 & 0b11 == 0b01
    }

    /// SPLIT of the stream table; reserved values behave as 6.
    pub fn split(&self) -> u32 {
        match self.registers.stream_table_config >> 6 & 0x1f {
            split @ (8 | 10) => split,
            _ => 6,
        }
    }

    /// The context descriptor at `index`, from the cache or the table.
    pub fn context(
        &mut self,
        stream: &CachedStream,
        device: u32,
        index: u32,
        second: Option<&SecondStage>,
        want: Want,
    ) -> Result<[u64; 8], Problem> {
        if let Some(&cached) = self.caches.contexts.get(&(device, index)) {
            return Ok(cached);
        }
        let entry = Stream(&stream.words);
        let handling = Handling {
            stalls: entry.stage_2_stalls(),
            records: entry.stage_2_records(),
        };
        let log2_contexts = entry.log2_contexts(&self.configuration);
        let pointer = entry.context_pointer();
        let low_bits = match entry.context_format() {
            _ if log2_contexts == 0 => 0,
            0b00 => log2_contexts,
            0b01 => 6,
            _ => 10,
        };
        if entry.context_format() == 0b00 && pointer & ((64 << low_bits) - 1) != 0 {
            self.complain("a table of context descriptors is not aligned to its size");
        }
        let at = if log2_contexts == 0 || entry.context_format() == 0b00 {
            (pointer & !((64 << low_bits) - 1)) + 64 * u64::from(index)
        } else {
            let number = index >> low_bits;
            let bytes: u64 = 8 << log2_contexts.saturating_sub(low_bits);
            let at = (pointer & !(bytes.max(64) - 1)) + 8 * u64::from(number);
            let descriptor = match self.caches.context_tables.get(&(device, number)) {
                Some(&cached) => cached,
                None => {
                    let at = self.context_access(second, at, want, handling)?;
                    let word = self.load(at, ConfigurationError::ContextFetch)?;
                    self.caches.context_tables.insert((device, number), word);
                    word
                }
            };
            let leaf = descriptor & 0x00ff_ffff_ffff_f000 & !((64 << low_bits) - 1);
            if !bit(descriptor, 0) || leaf >> self.configuration.physical_bits != 0 {
                return Err(configuration(ConfigurationError::BadSubstream));
            }
            leaf + 64 * u64::from(index & ((1 << low_bits) - 1))
        };
        let at = self.context_access(second, at, want, handling)?;
        let words = self.fetch(at, ConfigurationError::ContextFetch)?;
        self.caches.contexts.insert((device, index), words);
        Ok(words)
    }

    /// The physical address of a context descriptor, which stage 2 translates if it is enabled.
    fn context_access(
        &mut self,
        second: Option<&SecondStage>,
        at: u64,
        want: Want,
        handling: Handling,
    ) -> Result<u64, Problem> {
        let Some(second) = second else { return Ok(at) };
        let reading = Want {
            access: Access::Read,
            privileged: true,
            purpose: match want.purpose {
                Purpose::Speculation => Purpose::Speculation,
                _ => Purpose::Transaction,
            },
        };
        self.stage_2(second, at, reading, Class::Context)
            .map(|leaf| leaf.output)
            .map_err(|fault| Problem::Fault(fault, recorded_always(fault, handling)))
    }

    fn fetch(&self, at: u64, error: ConfigurationError) -> Result<[u64; 8], Problem> {
        let mut words = [0; 8];
        for (word, at) in words.iter_mut().zip((at..).step_by(8)) {
            *word = self.load(at, error)?;
        }
        Ok(words)
    }

    fn load(&self, at: u64, error: ConfigurationError) -> Result<u64, Problem> {
        self.memory
            .load(at)
            .map_err(|_| Problem::Configuration(error, Some(at)))
    }
}
