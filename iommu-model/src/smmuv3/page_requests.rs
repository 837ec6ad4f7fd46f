//! Page requests, their queue, and the responses that the SMMU makes itself (chapter 8).

use super::State;
use super::entries::Stream;
use super::queues::Source;
use super::registers::{OVERFLOW, cr0, gerror};
use crate::bus::{PageRequest, PageResponse, ResponseCode};

impl State {
    /// Sends a page response.
    pub fn respond(&self, stream: u32, response: PageResponse) {
        if let Some(device) = self.devices.get(&stream) {
            device.port.respond(response);
        }
    }

    /// A page request message arrives (chapter 8).
    pub fn page_request(&mut self, request: &PageRequest) {
        let accepts = self.configuration.pri
            && self.registers.enabled(cr0::PRIQEN | cr0::SMMUEN)
            && !self.registers.error_active(gerror::PRIQ_ABT);
        if !accepts {
            return self.answer(request, None, ResponseCode::Failure);
        }
        let most = self.configuration.page_request_queue_log2;
        let registers = self.registers.page_requests;
        let ring = self.ring(registers, most, 16);
        let overflowed = (registers.producer ^ registers.consumer) & OVERFLOW != 0;
        let last_only = self.registers.page_requests_message.attributes & 1 << 31 != 0;
        if overflowed || ring.count(registers) >= ring.slots() {
            if !overflowed {
                self.registers.page_requests.producer ^= OVERFLOW;
            }
            if request.last {
                self.answer_overflow(request);
            }
        } else {
            if self
                .push(ring, registers, &page_request_words(request))
                .is_err()
            {
                self.raise(gerror::PRIQ_ABT);
                return self.answer(request, None, ResponseCode::Failure);
            }
            self.registers.page_requests.producer = ring.advance(registers.producer);
            if !last_only && ring.count(registers) == 0 {
                self.interrupt(Source::PageRequests);
            }
        }
        if last_only && request.last {
            self.interrupt(Source::PageRequests);
        }
    }

    /// The automatic response on overflow (8.1).
    fn answer_overflow(&mut self, request: &PageRequest) {
        let Some(pasid) = request
            .pasid
            .filter(|_| self.configuration.substream_bits > 0)
        else {
            return self.answer(request, None, ResponseCode::Success);
        };
        if self.configuration.responses_have_pasid {
            return self.answer(request, Some(pasid), ResponseCode::Success);
        }
        match self.stream(request.device) {
            Ok(stream) => {
                let tagged = Stream(&stream.words).responses_have_pasid();
                self.answer(request, tagged.then_some(pasid), ResponseCode::Success);
            }
            Err(_) => self.answer(request, None, ResponseCode::Failure),
        }
    }

    /// An automatic response, which a stop marker does not get.
    fn answer(&self, request: &PageRequest, pasid: Option<u32>, code: ResponseCode) {
        let stop_marker =
            request.pasid.is_some() && request.last && !request.read && !request.write;
        // Requests that are not the last of their group are answered too, except on overflow (8.2).
        if !stop_marker {
            let group = request.group;
            self.respond(request.device, PageResponse { pasid, group, code });
        }
    }
}

/// An entry of the page-request queue (chapter 8).
///
/// ```text
///  word 0  63  62   61 60 59  58   57..52 51          32 31       0
///         |SSV|Last| W| R| X|Priv|  res. | SubstreamID  | StreamID |
///  word 1  63             12 11..9 8      0
///         | page address    | res. |PRGIndex|
/// ```
fn page_request_words(request: &PageRequest) -> [u64; 2] {
    let tagged = request.pasid.is_some();
    let flags = [
        (58, request.privileged && tagged),
        (59, request.execute && tagged),
        (60, request.read),
        (61, request.write),
        (62, request.last),
        (63, tagged),
    ];
    let flags = flags
        .iter()
        .fold(0, |word, &(at, set)| word | u64::from(set) << at);
    let substream = u64::from(request.pasid.unwrap_or(0) & 0xf_ffff);
    [
        flags | substream << 32 | u64::from(request.device),
        request.address & !0xfff | u64::from(request.group & 0x1ff),
    ]
}
