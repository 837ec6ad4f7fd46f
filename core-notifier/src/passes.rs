//! Work in two passes: begun everywhere first, waited for afterwards.

/// How many may be waited for together.
const PENDING: usize = 8;

/// What somebody remembers between the first pass and the second: a few words on the notifying
/// thread's stack, zero at first. Room for the positions of eight command queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Token {
    /// Nobody but the one whose token it is looks at these.
    pub words: [u64; 8],
}

/// How far the first pass has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "what is pending has to be finished"]
pub enum Progress {
    /// Nothing is left to do; there is no second pass.
    Complete,
    /// The work is under way; the second pass waits for it.
    Pending,
}

/// Those who wait for their second pass, without memory from the heap.
pub(crate) struct Passes<W> {
    /// Made for the first of them: usually there is none, and the room is large.
    pending: Option<[Option<(W, Token)>; PENDING]>,
    count: usize,
}

impl<W: Copy> Passes<W> {
    pub(crate) const fn new() -> Self {
        Passes {
            pending: None,
            count: 0,
        }
    }

    /// Runs the first pass of `who`. The second follows in [`finish`](Self::finish) with the same
    /// token, or at once if too many are waited for already.
    pub(crate) fn begin(
        &mut self,
        who: W,
        begin: impl FnOnce(W, &mut Token) -> Progress,
        finish: impl FnOnce(W, &mut Token),
    ) {
        let mut token = Token::default();
        if begin(who, &mut token) == Progress::Pending && !self.remember(who, &token) {
            finish(who, &mut token);
        }
    }

    /// False if there is no room.
    #[cold]
    #[inline(never)]
    fn remember(&mut self, who: W, token: &Token) -> bool {
        let pending = self.pending.get_or_insert([None; PENDING]);
        let Some(place) = pending.get_mut(self.count) else {
            return false;
        };
        *place = Some((who, *token));
        self.count += 1;
        true
    }

    /// Runs the second pass of everyone, in the order of the first. Called once.
    #[inline]
    pub(crate) fn finish(&mut self, mut finish: impl FnMut(W, &mut Token)) {
        if let Some(pending) = &mut self.pending {
            core::hint::cold_path();
            for (who, token) in pending.iter_mut().flatten() {
                finish(*who, token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn everyone_pending_is_finished_once_with_its_own_token() {
        for count in 0..2 * PENDING as u64 {
            let mut passes = Passes::new();
            let early = core::cell::RefCell::new(Vec::new());
            for who in 0..count {
                passes.begin(
                    who,
                    |who, token| {
                        assert_eq!(*token, Token::default());
                        token.words[7] = who + 100;
                        Progress::Pending
                    },
                    |who, token| early.borrow_mut().push((who, token.words[7])),
                );
            }
            let mut finished = early.into_inner();
            assert_eq!(finished.len(), (count as usize).saturating_sub(PENDING));
            passes.finish(|who, token| finished.push((who, token.words[7])));
            finished.sort_unstable();
            assert!(
                finished
                    .iter()
                    .copied()
                    .eq((0..count).map(|who| (who, who + 100)))
            );
        }
    }

    #[test]
    fn what_is_complete_has_no_second_pass() {
        let mut passes = Passes::new();
        passes.begin((), |(), _| Progress::Complete, |(), _| panic!("finished"));
        passes.finish(|(), _| panic!("finished"));
    }
}
