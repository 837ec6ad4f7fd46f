//! Fault records (7.2) and page requests (7.4, 7.5).

use super::State;
use super::registers::Event;
use super::requests::Fault;
use crate::bus::{Access, PageRequest, PageResponse, Request, ResponseCode};

/// Bytes in a page request descriptor.
const DESCRIPTOR: u64 = 32;
/// PRS.
const PENDING: u32 = 1 << 0;
const OVERFLOW: u32 = 1 << 1;

impl State {
    /// Records why a request was refused (11.4.7.4).
    pub(super) fn report(&mut self, request: &Request, fault: Fault, for_device: bool) {
        if !fault.recorded {
            return;
        }
        let write = request.access == Access::Write;
        let mut high = u64::from(request.device & 0xffff)
            | u64::from(fault.code) << 32
            | u64::from(for_device) << 60
            | u64::from(!write) << 62;
        if let Some(pasid) = request.pasid {
            let execute = request.access == Access::Execute;
            high |= 1 << 31
                | u64::from(pasid) << 40
                | u64::from(execute) << 30
                | u64::from(request.privileged) << 29;
        }
        self.record_fault([request.address & !0xfff, high]);
    }

    /// A page request arrives.
    pub(super) fn accept_page_request(&mut self, request: PageRequest) {
        self.page_requests.push_back(request);
    }

    /// Queues a page request that arrived, or answers it; false if there is none.
    pub(super) fn deliver_page_request(&mut self) -> bool {
        let Some(request) = self.page_requests.pop_front() else {
            return false;
        };
        if let Err(fault) = self.admit(&request) {
            self.report_page_request(&request, fault);
            self.answer(&request, ResponseCode::Failure);
            return true;
        }
        // What does not fit is lost; the device is told to try again (7.5.3).
        if self.registers.page_requests & OVERFLOW != 0 || !self.queue_page_request(&request) {
            self.answer(&request, ResponseCode::Success);
        }
        true
    }

    /// Whether the device may ask for pages (7.5.1).
    fn admit(&mut self, request: &PageRequest) -> Result<(), Fault> {
        let refusal = crate::bus::Refusal::UnsupportedRequest;
        if !self.registers.translates() || !self.configuration.page_requests {
            return Err(Fault::unless(true, 0, refusal));
        }
        let source_id = request.device as u16;
        let context = self.context(source_id)?;
        let blocked = |code| Err(context.fault(code));
        if !context.page_requests {
            return blocked(0x47);
        }
        match request.pasid {
            Some(_) if !context.pasids => blocked(0x45),
            Some(pasid) if pasid >> context.pasid_order() != 0 => blocked(0x46),
            _ => Ok(()),
        }
    }

    fn report_page_request(&mut self, request: &PageRequest, fault: Fault) {
        if !fault.recorded {
            return;
        }
        // T1 = 0, T2 = 1: a page request.
        let mut high = u64::from(request.device & 0xffff) | u64::from(fault.code) << 32 | 1 << 28;
        if let Some(pasid) = request.pasid {
            high |= 1 << 31 | u64::from(pasid) << 40;
        }
        self.record_fault([request.address & !0xfff, high]);
    }

    /// Writes a page request descriptor (7.5.1.1); false if the queue is full or not there.
    fn queue_page_request(&mut self, request: &PageRequest) -> bool {
        let registers = &self.registers;
        let bytes = 0x1000u64 << (registers.pqa & 0b111);
        let (head, tail) = (registers.pqh % bytes, registers.pqt % bytes);
        let next = (tail + DESCRIPTOR) % bytes;
        let base = registers.pqa & !0xfff;
        let has_room = next != head;
        let words = descriptor(request);
        let written = has_room
            && (base + tail..)
                .step_by(8)
                .zip(words)
                .all(|(at, word)| self.store_snooped(at, word));
        if !written {
            self.set_page_request_status(OVERFLOW);
            return false;
        }
        self.registers.pqt = next;
        self.set_page_request_status(PENDING);
        true
    }

    fn set_page_request_status(&mut self, flag: u32) {
        let was = self.registers.page_requests;
        self.registers.page_requests |= flag;
        if was == 0 {
            self.raise(Event::PageRequest);
        }
    }

    /// Answers for software, which will not see the request: once a group, and no stop marker.
    fn answer(&mut self, request: &PageRequest, code: ResponseCode) {
        let is_stop_marker = !(request.read || request.write || request.execute);
        if !request.last || is_stop_marker {
            return;
        }
        let response = PageResponse {
            pasid: request.pasid,
            group: request.group,
            code,
        };
        self.respond(request.device as u16, response);
    }

    pub(super) fn respond(&self, source_id: u16, response: PageResponse) {
        if let Some(port) = self.ports.get(&source_id) {
            port.respond(response);
        }
    }
}

/// Type 1 in bits 7:0, PASID present in 8, the requester in 31:16, PASID in 51:32, execute in 52,
/// privileged in 53; in word 1 read in bit 0, write in 1, last in 2, the group in 11:3.
fn descriptor(request: &PageRequest) -> [u64; 4] {
    let mut low = 1
        | u64::from(request.device & 0xffff) << 16
        | u64::from(request.execute) << 52
        | u64::from(request.privileged) << 53;
    if let Some(pasid) = request.pasid {
        low |= 1 << 8 | u64::from(pasid) << 32;
    }
    let high = u64::from(request.read)
        | u64::from(request.write) << 1
        | u64::from(request.last) << 2
        | u64::from(request.group) << 3
        | request.address & !0xfff;
    [low, high, 0, 0]
}
