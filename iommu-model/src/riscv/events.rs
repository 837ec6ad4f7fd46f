//! The fault queue and the page-request queue (sections "Fault/Event-Queue", "Page-Request-Queue",
//! "PCIe ATS Page Request handling").

use super::State;
use super::faults::{Cause, Fault, TransactionType};
use super::registers::{FIP, MEMORY_FAULT, OVERFLOW, PIP, Queue};
use super::tables::DeviceContext;
use super::walk::Purpose;
use crate::bus::{PageRequest, PageResponse, Request, ResponseCode};

/// How many events wait at most before the oldest is written.
const WAITING: usize = 16;

/// PCIe's code of a page request message, and of an invalidation completion.
const PAGE_REQUEST: u64 = 0x04;
const INVALIDATE_COMPLETION: u64 = 0x02;

/// What could not be entered into a queue, as `pqcsr` tells it.
enum Refused {
    Off,
    MemoryFault,
    Overflow,
}

impl State {
    /// Reports why a request was refused, if that is to be reported.
    pub(super) fn report_request(&mut self, fault: Fault, request: &Request, purpose: Purpose) {
        let transaction = match purpose {
            Purpose::Speculation => return,
            Purpose::Access => TransactionType::untranslated(request.access),
            // A successful answer is not reported, even one without permissions.
            Purpose::TranslationRequest
                if fault.cause.refusal() == crate::bus::Refusal::NotPresent =>
            {
                return;
            }
            Purpose::TranslationRequest => TransactionType::TranslationRequest,
        };
        self.report(fault, transaction, request, request.address);
    }

    /// Reports a translated request that was refused.
    pub(super) fn report_translated(&mut self, fault: Fault, device: u32) {
        let request = message_of(device, None, false);
        self.report(fault, TransactionType::TranslatedRead, &request, 0);
    }

    /// Reports that an invalidation completion was refused.
    pub(super) fn report_completion(&mut self, fault: Fault, device: u32) {
        let request = message_of(device, None, false);
        let transaction = TransactionType::Message;
        self.report(fault, transaction, &request, INVALIDATE_COMPLETION);
    }

    /// Reports that a message of the IOMMU's own could not be written.
    pub(super) fn report_message_failure(&mut self, address: u64) {
        let none = message_of(0, None, false);
        let fault = Cause::MSI_WRITE_ACCESS_FAULT.into();
        self.report(fault, TransactionType::None, &none, address);
    }

    fn report(
        &mut self,
        fault: Fault,
        transaction: TransactionType,
        request: &Request,
        iotval: u64,
    ) {
        if fault.silent {
            return;
        }
        let pasid = request.pasid.map_or(0, |pasid| {
            u64::from(pasid & 0xf_ffff) << 12 | 1 << 32 | u64::from(request.privileged) << 33
        });
        let first = u64::from(fault.cause.0)
            | pasid
            | (transaction as u64) << 34
            | u64::from(request.device & 0xff_ffff) << 40;
        self.faults.push_back([first, 0, iotval, fault.iotval2]);
        if !self.policy.later || self.faults.len() > WAITING {
            self.write_fault();
        }
    }

    /// Writes the oldest fault that waits.
    pub(super) fn write_fault(&mut self) -> bool {
        let Some(record) = self.faults.pop_front() else {
            return false;
        };
        let _ = self.enter(Queue::Fault, &record);
        true
    }

    pub(super) fn write_faults_out(&mut self) {
        while self.write_fault() {}
    }

    /// Enters a record into a queue. While an error bit is set, records are lost.
    fn enter(&mut self, queue: Queue, record: &[u64]) -> Result<(), Refused> {
        let registers = self.registers.queue_mut(queue);
        let errors = registers.csr & (MEMORY_FAULT | OVERFLOW);
        let outcome = if !registers.is_on() {
            return Err(Refused::Off);
        } else if errors & MEMORY_FAULT != 0 {
            Err(Refused::MemoryFault)
        } else if errors & OVERFLOW != 0 {
            Err(Refused::Overflow)
        } else if registers.is_full() {
            registers.csr |= OVERFLOW;
            Err(Refused::Overflow)
        } else {
            let size = record.len() as u64 * 8;
            let stored = registers
                .entry(registers.tail, size)
                .is_some_and(|entry| store(&self.memory, entry, record));
            if stored {
                registers.tail = (registers.tail + 1) & registers.mask();
                Ok(())
            } else {
                registers.csr |= MEMORY_FAULT;
                Err(Refused::MemoryFault)
            }
        };
        let bit = if queue == Queue::Fault { FIP } else { PIP };
        if outcome.is_ok() {
            self.raise(queue, bit);
        }
        self.update_interrupts();
        outcome
    }

    /// Takes a page request message.
    pub(super) fn take_page_request(&mut self, request: PageRequest) {
        self.page_requests.push_back(request);
        if !self.policy.later || self.page_requests.len() > WAITING {
            self.handle_page_request();
        }
    }

    pub(super) fn handle_page_requests(&mut self) {
        while self.handle_page_request() {}
    }

    /// Queues the oldest page request that waits, or answers it.
    pub(super) fn handle_page_request(&mut self) -> bool {
        let Some(request) = self.page_requests.pop_front() else {
            return false;
        };
        match self.page_request_context(&request) {
            Ok(context) => match self.enter(Queue::PageRequest, &page_request_record(&request)) {
                Ok(()) => {}
                Err(Refused::Overflow) => {
                    self.answer_page_request(&request, ResponseCode::Success, Some(context));
                }
                Err(Refused::Off | Refused::MemoryFault) => {
                    self.answer_page_request(&request, ResponseCode::Failure, Some(context));
                }
            },
            Err((fault, context)) => {
                let message = message_of(request.device, request.pasid, request.privileged);
                self.report(fault, TransactionType::Message, &message, PAGE_REQUEST);
                let code = match fault.cause {
                    Cause::TRANSACTION_TYPE_DISALLOWED => ResponseCode::InvalidRequest,
                    _ => ResponseCode::Failure,
                };
                self.answer_page_request(&request, code, context);
            }
        }
        true
    }

    /// The context of a device that may send page requests.
    fn page_request_context(
        &mut self,
        request: &PageRequest,
    ) -> Result<DeviceContext, (Fault, Option<DeviceContext>)> {
        let disallowed = Fault::from(Cause::TRANSACTION_TYPE_DISALLOWED);
        match self.directory_mode() {
            0 => return Err((Cause::ALL_INBOUND_TRANSACTIONS_DISALLOWED.into(), None)),
            1 => return Err((disallowed, None)),
            _ => {}
        }
        let context = self
            .check_device_id(request.device)
            .and_then(|()| self.locate_device(request.device))
            .map_err(|fault| (fault, None))?;
        if context.enables_ats() && context.enables_page_requests() {
            return Ok(context);
        }
        let fault = disallowed.of_device(context.disables_faults());
        Err((fault, Some(context)))
    }

    /// Answers for software, if an answer is due. Failures carry the PASID of the request, other
    /// codes only if PRPR says that the device wants it.
    fn answer_page_request(
        &mut self,
        request: &PageRequest,
        code: ResponseCode,
        context: Option<DeviceContext>,
    ) {
        let stop_marker = !request.read && !request.write;
        if !request.last || stop_marker {
            return;
        }
        let wants_pasid = context.is_some_and(|context| context.responses_need_pasid());
        let with_pasid = code == ResponseCode::Failure || wants_pasid;
        if let Some(port) = self.ports.get(&request.device) {
            port.respond(PageResponse {
                pasid: request.pasid.filter(|_| with_pasid),
                group: request.group,
                code,
            });
        }
    }
}

fn store(memory: &crate::Memory, entry: u64, record: &[u64]) -> bool {
    let words = (entry..).step_by(8).zip(record);
    words
        .map(|(at, &word)| memory.store(at, word))
        .all(|stored| stored.is_ok())
}

/// What a message says of its sender.
fn message_of(device: u32, pasid: Option<u32>, privileged: bool) -> Request {
    Request {
        device,
        pasid,
        privileged,
        address: 0,
        access: crate::bus::Access::Read,
    }
}

/// Figure "Page-request-queue record".
fn page_request_record(request: &PageRequest) -> [u64; 2] {
    let pasid = request.pasid.map_or(0, |pasid| {
        u64::from(pasid & 0xf_ffff) << 12
            | 1 << 32
            | u64::from(request.privileged) << 33
            | u64::from(request.execute) << 34
    });
    [
        pasid | u64::from(request.device & 0xff_ffff) << 40,
        u64::from(request.read)
            | u64::from(request.write) << 1
            | u64::from(request.last) << 2
            | u64::from(request.group & 0x1ff) << 3
            | request.address & !0xfff,
    ]
}
