//! Whether every page fault that waits for software is answered exactly once: each group of page
//! requests by one response, each stalled transaction by one resumption.

use crate::outcome::{Outcome, ensure, failed};
use iommu_model::device::Message;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What waits: a device with a group index, or with the number of a stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Waiting {
    Group(u32, u16),
    Stall(u32, u32),
}

impl Waiting {
    const fn device(self) -> u32 {
        match self {
            Self::Group(device, _) | Self::Stall(device, _) => device,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// How many wait.
    owed: usize,
    /// How many were forgotten by a reset: they may be answered.
    forgotten: usize,
}

#[derive(Default)]
struct State {
    counts: BTreeMap<Waiting, Count>,
    answered: usize,
}

/// What waits for an answer.
#[derive(Default)]
pub struct Answers(Mutex<State>);

impl Answers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what was said, in the order in which it was.
    ///
    /// # Errors
    ///
    /// Something was answered that did not wait.
    pub fn note(&self, messages: &[Message]) -> Outcome {
        let mut state = self.state();
        for message in messages {
            match *message {
                Message::Asked(request) => {
                    // Neither read nor write, with a PASID: a stop marker.
                    let asks = request.read || request.write || request.pasid.is_none();
                    if request.last && asks {
                        state.owe(Waiting::Group(request.device, request.group));
                    }
                }
                Message::Stalled(device, number) => state.owe(Waiting::Stall(device, number)),
                Message::Answered(device, response) => {
                    state.answer(Waiting::Group(device, response.group))?;
                }
                Message::Resumed(device, number) => {
                    state.answer(Waiting::Stall(device, number))?;
                }
                Message::Forgot(device) => state.forget(device),
            }
        }
        Ok(())
    }

    /// How many answers came.
    pub fn answered(&self) -> usize {
        self.state().answered
    }

    /// How many of a device's wait.
    pub fn owed(&self, device: u32) -> usize {
        let state = self.state();
        let its = state.counts.iter().filter(|(at, _)| at.device() == device);
        its.map(|(_, count)| count.owed).sum()
    }

    /// Every group and every stalled transaction was answered.
    ///
    /// # Errors
    ///
    /// One that was not.
    pub fn nobody_waits(&self) -> Outcome {
        let state = self.state();
        let waiting = state.counts.iter().find(|(_, count)| count.owed > 0);
        ensure(
            waiting.is_none(),
            format_args!("never answered: {waiting:x?}"),
        )
    }
}

impl State {
    fn owe(&mut self, waiting: Waiting) {
        self.counts.entry(waiting).or_default().owed += 1;
    }

    fn answer(&mut self, waiting: Waiting) -> Outcome {
        self.answered += 1;
        let count = self.counts.entry(waiting).or_default();
        match (count.owed, count.forgotten) {
            (0, 0) => return failed(format_args!("answered though nothing waits: {waiting:x?}")),
            (0, _) => count.forgotten -= 1,
            _ => count.owed -= 1,
        }
        Ok(())
    }

    fn forget(&mut self, device: u32) {
        let mut its = self.counts.iter_mut();
        for (_, count) in its.by_ref().filter(|(at, _)| at.device() == device) {
            count.forgotten += std::mem::take(&mut count.owed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iommu_model::{PageRequest, PageResponse, ResponseCode};

    fn asked(group: u16, last: bool) -> Message {
        Message::Asked(PageRequest {
            device: 8,
            pasid: Some(1),
            privileged: false,
            address: 0,
            read: true,
            write: false,
            execute: false,
            last,
            group,
        })
    }

    fn answered(group: u16) -> Message {
        let response = PageResponse {
            pasid: Some(1),
            group,
            code: ResponseCode::Success,
        };
        Message::Answered(8, response)
    }

    #[test]
    fn each_group_has_one_answer() {
        let answers = Answers::default();
        let group = [asked(3, false), asked(3, true)];
        assert!(answers.note(&group).is_ok() && answers.nobody_waits().is_err());
        assert!(answers.note(&[answered(3)]).is_ok() && answers.nobody_waits().is_ok());
        assert!(answers.note(&[answered(3)]).is_err());
    }

    #[test]
    fn a_reset_device_waits_for_nothing() {
        let answers = Answers::default();
        let messages = [asked(3, true), Message::Forgot(8)];
        assert!(answers.note(&messages).is_ok() && answers.nobody_waits().is_ok());
        assert!(answers.note(&[answered(3)]).is_ok());
        assert!(answers.note(&[answered(3)]).is_err());
    }
}
