//! What the IOMMU sends to the device: invalidation requests, page group responses, and the end of
//! stalls.

use super::{Device, State};
use crate::bus::{InvalidationRequest, PageResponse};
use crate::hardware::Hardware;
use crate::machine::lock;
use std::collections::VecDeque;

/// How a device answers invalidation requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// At its next step.
    Promptly,
    /// After so many of its steps; until then it goes on using what is to be invalidated.
    Late(u32),
    /// It does as asked, and the completion is lost on its way.
    Lost,
    /// It neither does as asked nor answers.
    Never,
    /// It refuses the message as one that it does not support, and so no completion comes.
    Refuses,
}

#[derive(Default)]
pub(super) struct Inbox {
    invalidations: VecDeque<(InvalidationRequest, u32)>,
    pub responses: VecDeque<PageResponse>,
    pub resumes: VecDeque<(u32, bool)>,
}

impl Inbox {
    /// A tag that comes again has been given up by the IOMMU.
    pub fn invalidate(&mut self, request: InvalidationRequest) {
        self.invalidations
            .retain(|(other, _)| other.itag != request.itag);
        self.invalidations.push_back((request, 0));
    }
}

impl Device {
    /// Answers the invalidation requests that are due, some of them in one message.
    pub(super) fn answer(&self, state: &mut State, iommu: &dyn Hardware) -> bool {
        let due = self.take_due(state);
        if due.is_empty() {
            return lock(&self.inbox).waits_for_time(state);
        }
        let mut itags = 0;
        for request in due {
            if state.configuration.answers == Answers::Refuses {
                continue;
            }
            let gone = state.tlb.invalidate(&request);
            let (now, later): (Vec<_>, _) = std::mem::take(&mut state.leaving)
                .into_iter()
                .partition(|leaving| gone.contains(&leaving.entry));
            state.leaving = later;
            for leaving in now {
                self.leave(leaving);
            }
            if state.configuration.answers != Answers::Lost {
                itags |= 1 << request.itag;
            }
        }
        // The completion pushes the device's writes before it (PCIe 10.3.5).
        if let Some(machine) = self.machine.upgrade() {
            machine.drain_device(self.id());
        }
        if itags != 0 {
            iommu.invalidation_completed(self.id(), itags);
        }
        true
    }

    fn take_due(&self, state: &State) -> Vec<InvalidationRequest> {
        let mut inbox = lock(&self.inbox);
        let wait = match state.configuration.answers {
            Answers::Never => return Vec::new(),
            Answers::Late(steps) => steps,
            Answers::Promptly | Answers::Lost | Answers::Refuses => 0,
        };
        for (_, waited) in &mut inbox.invalidations {
            *waited += 1;
        }
        let free = self
            .machine
            .upgrade()
            .is_some_and(|machine| machine.policy.unordered);
        let mut due = Vec::new();
        inbox.invalidations.retain(|(request, waited)| {
            let now = *waited > wait && !(free && !due.is_empty() && self.below(2) == 0);
            if now {
                due.push(*request);
            }
            !now
        });
        due
    }
}

impl Inbox {
    /// Whether time alone brings the next answer.
    fn waits_for_time(&self, state: &State) -> bool {
        matches!(state.configuration.answers, Answers::Late(_)) && !self.invalidations.is_empty()
    }
}
