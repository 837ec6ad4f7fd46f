//! What the kernel allowed at each moment, and whether the devices kept to it.
//!
//! The oracle knows nothing of IOMMUs. The kernel tells it of each change as it makes it; it keeps
//! when each translation and each binding began and ended, and judges every record of the devices'
//! history by that:
//! - what a device did, it was allowed to do at that moment: by a translation that was in the page
//!   table, or that was removed by an operation whose invalidation had not returned yet;
//! - what a device was refused, the kernel had not allowed during all of the time between request
//!   and refusal.

use crate::kernel::PAGE;
use crate::outcome::{Outcome, failed};
use iommu_model::Access;
use iommu_model::device::{Record, Via};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An address space, as the oracle numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Space(pub usize);

/// Records and notes shown around a failure.
const SHOWN: usize = 40;
/// What is kept of the past for that.
const KEPT: usize = 8000;

/// When something was allowed. It may begin to work at `from` and must work from `firm_from` on; it
/// must still work until `firm_until` and may work until `until`.
#[derive(Clone, Copy, Debug)]
struct Period {
    from: u64,
    firm_from: Option<u64>,
    firm_until: Option<u64>,
    until: Option<u64>,
}

impl Period {
    const fn beginning(now: u64) -> Self {
        Self {
            from: now,
            firm_from: None,
            firm_until: None,
            until: None,
        }
    }

    /// Whether it may work at `time`.
    fn allows(&self, time: u64) -> bool {
        self.from <= time && self.until.is_none_or(|until| time <= until)
    }

    /// Whether it must work from `start` to `end`.
    fn promises(&self, start: u64, end: u64) -> bool {
        self.firm_from.is_some_and(|from| from <= start)
            && self.firm_until.is_none_or(|until| end <= until)
    }
}

#[derive(Clone, Copy, Debug)]
struct Grant {
    physical: u64,
    write: bool,
    user: bool,
    period: Period,
}

#[derive(Clone, Copy, Debug)]
struct Binding {
    space: Space,
    period: Period,
}

/// A requester: a device and the PASID of its requests.
pub type Requester = (u32, Option<u32>);

#[derive(Default)]
struct State {
    spaces: usize,
    grants: BTreeMap<(Space, u64), Vec<Grant>>,
    bindings: BTreeMap<Requester, Vec<Binding>>,
    /// Devices whose refusals mean nothing: quarantined, removed, or asked for what nobody promises.
    excused: BTreeSet<u32>,
    /// Devices that may do anything by physical address, as the platform trusts them.
    trusted: BTreeSet<u32>,
    past: VecDeque<(u64, String)>,
    judged: usize,
    refused: usize,
}

/// The oracle.
#[derive(Default)]
pub struct Oracle(Mutex<State>);

impl Oracle {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new address space.
    pub fn space(&self) -> Space {
        let mut state = self.state();
        state.spaces += 1;
        Space(state.spaces)
    }

    /// A translation of the page at `page` is about to be stored.
    pub fn mapping(&self, space: Space, page: u64, physical: u64, rights: (bool, bool), now: u64) {
        let mut state = self.state();
        state.grants.entry((space, page)).or_default().push(Grant {
            physical,
            write: rights.0,
            user: rights.1,
            period: Period::beginning(now),
        });
        if page.is_multiple_of(2 << 20) || state.grants.len() < 4096 {
            let rights = if rights.0 { "writable" } else { "read-only" };
            let Space(number) = space;
            state.note(
                now,
                format_args!("space {number}: maps {page:#x} to {physical:#x}, {rights}"),
            );
        }
    }

    /// It is stored, and whoever had to hear of it has.
    pub fn mapped(&self, space: Space, page: u64, now: u64) {
        let mut state = self.state();
        for grant in state.grants.entry((space, page)).or_default() {
            grant.period.firm_from.get_or_insert(now);
        }
    }

    /// Every translation of the page that is in force is about to go.
    pub fn removing(&self, space: Space, page: u64, now: u64) {
        let mut state = self.state();
        for grant in state.grants.entry((space, page)).or_default() {
            grant.period.firm_until.get_or_insert(now);
        }
        let Space(number) = space;
        state.note(now, format_args!("space {number}: removes {page:#x}"));
    }

    /// Every translation of the page that was going is gone: the invalidation has returned.
    pub fn removed(&self, space: Space, page: u64, now: u64) {
        let mut state = self.state();
        for grant in state.grants.entry((space, page)).or_default() {
            if grant.period.firm_until.is_some() {
                grant.period.until.get_or_insert(now);
            }
        }
        let Space(number) = space;
        state.note(now, format_args!("space {number}: {page:#x} is gone"));
    }

    /// The address space's translations are about to go, all of them, or have gone.
    pub fn whole_space(&self, space: Space, gone: bool, now: u64) {
        let pages: Vec<u64> = {
            let state = self.state();
            let all = state.grants.range((space, 0)..=(space, u64::MAX));
            all.map(|(&(_, page), _)| page).collect()
        };
        for page in pages {
            if gone {
                self.removed(space, page, now);
            } else {
                self.removing(space, page, now);
            }
        }
    }

    /// A device is about to be bound.
    pub fn binding(&self, requester: Requester, space: Space, now: u64) {
        let mut state = self.state();
        let period = Period::beginning(now);
        state
            .bindings
            .entry(requester)
            .or_default()
            .push(Binding { space, period });
        let Space(number) = space;
        state.note(
            now,
            format_args!("binds {} to space {number}", Name(requester)),
        );
    }

    /// It is bound, or was not bound after all.
    pub fn bound(&self, requester: Requester, held: bool, now: u64) {
        let mut state = self.state();
        if let Some(binding) = state.bindings.entry(requester).or_default().last_mut() {
            if held {
                binding.period.firm_from.get_or_insert(now);
            } else {
                binding.period.firm_until.get_or_insert(now);
                binding.period.until.get_or_insert(now);
            }
        }
    }

    /// A device is about to be unbound, or its address space to end.
    pub fn unbinding(&self, requester: Requester, now: u64) {
        let mut state = self.state();
        for binding in state.bindings.entry(requester).or_default() {
            binding.period.firm_until.get_or_insert(now);
        }
        state.note(now, format_args!("unbinds {}", Name(requester)));
    }

    /// It is unbound.
    pub fn unbound(&self, requester: Requester, now: u64) {
        let mut state = self.state();
        for binding in state.bindings.entry(requester).or_default() {
            if binding.period.firm_until.is_some() {
                binding.period.until.get_or_insert(now);
            }
        }
        state.note(now, format_args!("{} is unbound", Name(requester)));
    }

    /// Nothing is promised to this device any more.
    pub fn excuse(&self, device: u32) {
        self.state().excused.insert(device);
    }

    /// Promises hold again for this device.
    pub fn unexcuse(&self, device: u32) {
        self.state().excused.remove(&device);
    }

    /// The platform gave this device ATS, and so whatever physical address it names.
    pub fn trust(&self, device: u32) {
        self.state().trusted.insert(device);
    }

    /// Something worth reading in a failure's history.
    pub fn note(&self, now: u64, what: impl fmt::Display) {
        self.state().note(now, what);
    }

    /// How many records were judged, and how many of them were refusals.
    pub fn judged(&self) -> (usize, usize) {
        let state = self.state();
        (state.judged, state.refused)
    }

    /// Judges what the devices did.
    ///
    /// # Errors
    ///
    /// A failure that tells what happened around the first record that breaks a promise.
    pub fn judge(&self, records: &[Record]) -> Outcome {
        let mut state = self.state();
        for record in records {
            state.judged += 1;
            state.refused += usize::from(record.refusal.is_some());
            state.note(record.ended, record);
            let verdict = match (record.refusal, record.physical) {
                (Some(_), _) => state.judge_refusal(record),
                (None, Some(physical)) => state.judge_access(record, physical),
                // A rig that cannot see physical addresses leaves it to the frames' contents.
                (None, None) => Ok(()),
            };
            if let Err(why) = verdict {
                let story = state.story(record);
                return failed(format_args!("{why}: {record}\n{story}"));
            }
        }
        Ok(())
    }

    /// Forgets what ended before `time`: a long run does not remember all of it.
    pub fn forget_before(&self, time: u64) {
        let mut state = self.state();
        let over = |period: &Period| period.until.is_some_and(|until| until < time);
        for grants in state.grants.values_mut() {
            grants.retain(|grant| !over(&grant.period));
        }
        state.grants.retain(|_, grants| !grants.is_empty());
        for bindings in state.bindings.values_mut() {
            bindings.retain(|binding| !over(&binding.period));
        }
    }
}

impl State {
    fn note(&mut self, now: u64, what: impl fmt::Display) {
        if self.past.len() == KEPT {
            self.past.pop_front();
        }
        self.past.push_back((now, what.to_string()));
    }

    /// Grants that matter to a record, with the binding that each is used through.
    fn grants(&self, record: &Record) -> impl Iterator<Item = (&Binding, &Grant)> {
        let page = record.address / PAGE * PAGE;
        let bindings = self.bindings.get(&(record.device, record.pasid));
        bindings.into_iter().flatten().flat_map(move |binding| {
            let grants = self.grants.get(&(binding.space, page));
            grants
                .into_iter()
                .flatten()
                .filter(|grant| grant.user && (grant.write || record.access != Access::Write))
                .map(move |grant| (binding, grant))
        })
    }

    fn judge_access(&self, record: &Record, physical: u64) -> Result<(), &'static str> {
        if record.via == Via::Forged {
            return if self.trusted.contains(&record.device) {
                Ok(())
            } else {
                Err("a device reached memory by an address that nobody gave it")
            };
        }
        let right = |grant: &Grant| grant.physical == physical / PAGE * PAGE;
        let allowed = self.grants(record).any(|(binding, grant)| {
            right(grant) && grant.period.allows(record.ended) && binding.period.allows(record.ended)
        });
        if allowed {
            return Ok(());
        }
        Err("a device used a translation that the kernel did not allow")
    }

    fn judge_refusal(&self, record: &Record) -> Result<(), &'static str> {
        if record.via == Via::Forged || self.excused.contains(&record.device) {
            return Ok(());
        }
        let (start, end) = (record.issued, record.ended);
        let promised = self.grants(record).any(|(binding, grant)| {
            grant.period.promises(start, end) && binding.period.promises(start, end)
        });
        if promised {
            return Err("a device was refused what the kernel allowed all the time");
        }
        Ok(())
    }

    /// What happened around a record, and before that to its requester and its page.
    fn story(&self, record: &Record) -> String {
        let time = record.ended;
        let mut past: Vec<_> = self.past.iter().collect();
        past.sort_by_key(|(at, _)| *at);
        let here = past.partition_point(|(at, _)| *at <= time);
        let begin = here.saturating_sub(SHOWN);
        let name = Name((record.device, record.pasid)).to_string();
        let page = format!("{:#x}", record.address / PAGE * PAGE);
        let about = |what: &str| {
            what.contains(&page)
                || what.contains(&format!("{name} is"))
                || what.contains(&format!("binds {name}"))
        };
        let mut story = String::new();
        let mut tell = |(at, what): &(u64, String)| {
            let mark = if *at == time { ">" } else { " " };
            let _ = writeln!(story, "  {mark} {:>9} us  {what}", at / 1000);
        };
        let earlier: Vec<_> = past[..begin]
            .iter()
            .filter(|(_, what)| about(what))
            .collect();
        for note in &earlier[earlier.len().saturating_sub(SHOWN)..] {
            tell(note);
        }
        for note in &past[begin..past.len().min(here + 2)] {
            tell(note);
        }
        story
    }
}

struct Name(Requester);

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self((device, pasid)) = *self;
        write!(formatter, "device {device:#x}")?;
        match pasid {
            Some(pasid) => write!(formatter, " PASID {pasid}"),
            None => write!(formatter, " untagged"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iommu_model::Refusal;

    const FRAME: u64 = 0x8000_0000;

    fn record(issued: u64, ended: u64, refused: bool) -> Record {
        Record {
            issued,
            ended,
            device: 8,
            pasid: Some(1),
            address: 0x1008,
            physical: (!refused).then_some(FRAME + 8),
            length: 8,
            access: Access::Write,
            via: Via::Iommu,
            refusal: refused.then_some(Refusal::NotPresent),
        }
    }

    /// Bound from 10 on, mapped from 20 (firmly from 30), removal begun at 40 and done at 50.
    fn oracle() -> Oracle {
        let oracle = Oracle::default();
        let space = oracle.space();
        oracle.binding((8, Some(1)), space, 5);
        oracle.bound((8, Some(1)), true, 10);
        oracle.mapping(space, 0x1000, FRAME, (true, true), 20);
        oracle.mapped(space, 0x1000, 30);
        oracle.removing(space, 0x1000, 40);
        oracle.removed(space, 0x1000, 50);
        oracle
    }

    #[test]
    fn an_access_outside_the_translation_s_time_is_a_failure() {
        for (time, held) in [(15, false), (20, true), (45, true), (50, true), (51, false)] {
            let verdict = oracle().judge(&[record(time, time, false)]);
            assert_eq!(verdict.is_ok(), held, "at {time}");
        }
        let elsewhere = Record {
            physical: Some(FRAME + PAGE),
            ..record(45, 45, false)
        };
        assert!(oracle().judge(&[elsewhere]).is_err());
        let stranger = Record {
            pasid: None,
            ..record(45, 45, false)
        };
        assert!(oracle().judge(&[stranger]).is_err());
    }

    #[test]
    fn a_refusal_within_the_firm_time_is_a_failure() {
        for (start, end, held) in [
            (25, 35, true),
            (31, 39, false),
            (35, 45, true),
            (60, 70, true),
        ] {
            let verdict = oracle().judge(&[record(start, end, true)]);
            assert_eq!(verdict.is_ok(), held, "from {start} to {end}");
        }
    }

    #[test]
    fn read_only_pages_are_not_written_and_forgeries_need_trust() {
        let oracle = oracle();
        let space = oracle.space();
        oracle.binding((9, None), space, 0);
        oracle.bound((9, None), true, 1);
        oracle.mapping(space, 0x1000, FRAME, (false, true), 2);
        let write = Record {
            device: 9,
            pasid: None,
            ..record(5, 6, false)
        };
        let read = Record {
            access: Access::Read,
            ..write
        };
        assert!(oracle.judge(&[read]).is_ok());
        assert!(oracle.judge(&[write]).is_err());
        let forged = Record {
            via: Via::Forged,
            ..write
        };
        assert!(oracle.judge(&[forged]).is_err());
        oracle.trust(9);
        assert!(oracle.judge(&[forged]).is_ok());
    }
}
