//! Transactions that fault and wait for CMD_RESUME (3.12.2, 7.2.1).

use super::State;
use super::events::{Record, translation_fault};
use super::walk::{Fault, Want};
use crate::bus::Request;

/// A transaction that waits for CMD_RESUME.
#[derive(Debug)]
pub struct Stalled {
    pub device: u32,
    tag: u16,
    /// Its event, until that is in the queue.
    pub record: Option<Record>,
    /// What the event tells was invalidated meanwhile: it is tried again instead (7.2.1).
    pub outdated: bool,
}

impl State {
    /// Lets a faulting transaction wait; its tag, or `None` if no more can.
    pub fn stall(&mut self, fault: &Fault, request: &Request, want: Want) -> Option<u16> {
        let most = self.configuration.stall_max;
        let tag = (0..most).find(|&tag| self.stalled.iter().all(|stalled| stalled.tag != tag))?;
        self.stalled.push(Stalled {
            device: request.device,
            tag,
            record: Some(translation_fault(fault, request, want, Some(tag))),
            outdated: false,
        });
        if !self.policy.later {
            self.record_stalled();
        }
        Some(tag)
    }

    /// Writes the event of one stalled transaction, once the queue is writable.
    pub fn record_stalled(&mut self) -> bool {
        if !self.events_are_writable() {
            return false;
        }
        let waiting = |stalled: &Stalled| stalled.record.is_some();
        let Some(index) = self.stalled.iter().position(waiting) else {
            return false;
        };
        if self.stalled[index].outdated {
            let stalled = self.stalled.remove(index);
            self.release(&stalled, true);
        } else if let Some(record) = self.stalled[index].record.take() {
            self.push_event(record);
        }
        true
    }

    /// CMD_RESUME. One that fits no recorded stall does nothing.
    pub fn resume(&mut self, stream: u32, tag: u16, retry: bool) {
        let fits = |stalled: &Stalled| {
            stalled.device == stream && stalled.tag == tag && stalled.record.is_none()
        };
        if let Some(index) = self.stalled.iter().position(fits) {
            let stalled = self.stalled.remove(index);
            self.release(&stalled, retry);
        }
    }

    /// Terminates every stalled transaction that `chosen` picks.
    pub fn terminate(&mut self, chosen: impl Fn(&Stalled) -> bool) {
        let all = std::mem::take(&mut self.stalled);
        let (gone, kept) = all.into_iter().partition(chosen);
        self.stalled = kept;
        let gone: Vec<Stalled> = gone;
        for stalled in &gone {
            self.release(stalled, false);
        }
    }

    fn release(&self, stalled: &Stalled, retry: bool) {
        if let Some(device) = self.devices.get(&stalled.device) {
            device.port.resume(stalled.tag.into(), retry);
        }
    }
}
