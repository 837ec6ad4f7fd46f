//! Pages that the device asks for, and requests that stall in the IOMMU.

use super::history::Message;
use super::transfer::Piece;
use super::{Device, State};
use crate::bus::{Access, PageRequest, PageResponse, Refusal, ResponseCode};
use crate::hardware::Hardware;
use crate::machine::lock;
use std::collections::{BTreeMap, VecDeque};

/// How often a page is asked for, for one request.
const ATTEMPTS: u8 = 8;
/// Page request group indices have 9 bits.
const GROUPS: u16 = 512;

#[derive(Default)]
pub(super) struct PageRequests {
    next: u16,
    waiting: BTreeMap<u16, Piece>,
    /// By number, the oldest first: the IOMMU may use a number again before its resumption is read.
    stalled: BTreeMap<u32, VecDeque<Piece>>,
}

impl PageRequests {
    pub fn stalled(&mut self, number: u32, piece: Piece) {
        self.stalled.entry(number).or_default().push_back(piece);
    }

    fn resumed(&mut self, number: u32) -> Option<Piece> {
        self.stalled.get_mut(&number)?.pop_front()
    }

    /// Nothing is waited for any more.
    pub fn abandon(&mut self) {
        let Self {
            waiting, stalled, ..
        } = std::mem::take(self);
        let stalled = stalled.into_values().flatten();
        for piece in waiting.into_values().chain(stalled) {
            piece.refuse(Refusal::UnsupportedRequest);
        }
    }

    fn free_group(&mut self) -> Option<u16> {
        let group = (0..GROUPS)
            .map(|ahead| (self.next + ahead) % GROUPS)
            .find(|group| !self.waiting.contains_key(group))?;
        self.next = (group + 1) % GROUPS;
        Some(group)
    }
}

/// Tells that the device sends no more page requests with the PASID (PCIe 10.4.1.2.1): last, with
/// neither read nor write.
pub(super) fn stop_marker(device: u32, pasid: Option<u32>) -> PageRequest {
    PageRequest {
        device,
        pasid,
        privileged: false,
        address: 0,
        read: false,
        write: false,
        execute: false,
        last: true,
        group: 0,
    }
}

impl Device {
    /// Asks for the page of a piece, and in the same group for some that come behind it.
    pub(super) fn ask_for_pages(&self, state: &mut State, iommu: &dyn Hardware, mut piece: Piece) {
        if piece.attempts == ATTEMPTS {
            return self.refused(piece, Refusal::NotPresent);
        }
        let Some(group) = state.page_requests.free_group() else {
            return piece.again();
        };
        piece.attempts += 1;
        let request = piece.request(self.id());
        let ahead = state.configuration.group_pages.saturating_sub(1) as usize;
        let mut pages = vec![request.address & !0xfff];
        pages.extend(piece.pages_behind().take(ahead));
        // The response may come at once.
        state.page_requests.waiting.insert(group, piece);
        let last = pages.len() - 1;
        for (index, address) in pages.into_iter().enumerate() {
            let request = PageRequest {
                device: self.id(),
                pasid: request.pasid,
                privileged: request.privileged,
                address,
                read: true,
                write: request.access == Access::Write,
                execute: request.access == Access::Execute,
                last: index == last,
                group,
            };
            self.ask(iommu, request);
        }
    }

    /// Sends a page request message.
    pub(super) fn ask(&self, iommu: &dyn Hardware, request: PageRequest) {
        self.history.say(Message::Asked(request));
        iommu.page_request(request);
    }

    pub(super) fn read_responses(&self, state: &mut State) -> bool {
        let (response, resume) = {
            let mut inbox = lock(&self.inbox);
            (inbox.responses.pop_front(), inbox.resumes.pop_front())
        };
        if let Some(response) = response {
            self.read_response(state, response);
        }
        if let Some((number, retry)) = resume
            && let Some(piece) = state.page_requests.resumed(number)
        {
            if retry {
                self.try_again(state, piece);
            } else {
                self.refused(piece, Refusal::NotPresent);
            }
        }
        response.is_some() || resume.is_some()
    }

    fn read_response(&self, state: &mut State, response: PageResponse) {
        let Some(piece) = state.page_requests.waiting.get(&response.group) else {
            return;
        };
        let pasid = piece.job.transfer().pasid;
        if state.configuration.response_needs_pasid && response.pasid != pasid {
            return;
        }
        let Some(piece) = state.page_requests.waiting.remove(&response.group) else {
            return;
        };
        match response.code {
            ResponseCode::Success => self.try_again(state, piece),
            ResponseCode::InvalidRequest => self.refused(piece, Refusal::NotPresent),
            ResponseCode::Failure => {
                state.configuration.page_requests = false;
                self.refused(piece, Refusal::NotPresent);
            }
        }
    }

    fn try_again(&self, state: &mut State, piece: Piece) {
        let job = piece.job.clone();
        piece.again();
        let same = |other: &std::sync::Arc<_>| std::sync::Arc::ptr_eq(other, &job);
        if !state.jobs.iter().any(same) {
            state.jobs.push_back(job);
        }
    }
}
