//! The groups of one device: a fixed pool, without heap calls, without concurrency.
//!
//! Every step takes the same time however many groups are open, and whatever the device sends: a
//! group is found in a hash table whose chains are bounded, and slots are linked by index.

use super::list::{Link, Links, List, NONE};
use super::request::{GROUP_INDEX_BITS, Origin, PageRequest, Permissions, Response};
use crate::ids::Pasid;
use crate::planted::{self, Fault};
use alloc::boxed::Box;
use alloc::vec;

/// How many open groups may share a place in the hash table. One more is refused, so that a device
/// that chooses its PASIDs and indices well makes nobody search.
const LONGEST_CHAIN: usize = 8;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It waits for the last of its group, or it needs no answer.
    Taken,
    /// It completed its group, which is ready now.
    Ready,
    /// Its group is answered at once.
    Answered(Response),
}

/// A group that is taken out to be answered by a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InService {
    pub(super) slot: Link,
    pub(super) pasid: Pasid,
}

/// What of a group a response names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answerable {
    pub(super) pasid: Pasid,
    pub(super) group: u16,
    pub(super) origin: Origin,
}

/// One page of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The I/O virtual address in bytes; a page's first, except for a stall.
    pub address: u64,
    /// What the device asks for.
    pub permissions: Permissions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Open,
    Ready,
    InService,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    state: State,
    key: Answerable,
    /// Its first and last page.
    pages: (Link, Link),
    /// The next group at the same place of the hash table.
    chain: Link,
    /// Which of all groups of this IOMMU; tells a late answer from a new group in the same slot.
    number: u64,
}

#[derive(Clone, Copy, Debug)]
struct PageSlot {
    page: Page,
    next: Link,
}

/// The groups of one device.
#[derive(Debug)]
pub(super) struct Pool {
    pages: Box<[PageSlot]>,
    free_pages: Link,
    groups: Box<[Group]>,
    links: Links,
    free_groups: List,
    /// Groups whose last request has not come, the oldest first.
    open: List,
    /// Complete groups that nobody handles yet, the oldest first.
    ready: List,
    buckets: Box<[Link]>,
    /// One bit for each group index: a request of that group was refused, so its last is answered
    /// [`Response::Invalid`].
    poisoned: [u64; (1 << GROUP_INDEX_BITS) / 64],
}

impl Pool {
    /// A pool for `share` requests: 1 to 32,768.
    pub(super) fn new(share: u16) -> Self {
        let count = usize::from(share.clamp(1, 1 << 15));
        let slot = PageSlot {
            page: Page {
                address: 0,
                permissions: Permissions::default(),
            },
            next: NONE,
        };
        let group = Group {
            state: State::Free,
            key: Answerable {
                pasid: Pasid::UNTAGGED,
                group: 0,
                origin: Origin::PageRequest,
            },
            pages: (NONE, NONE),
            chain: NONE,
            number: 0,
        };
        let mut pages = vec![slot; count].into_boxed_slice();
        for (index, slot) in pages.iter_mut().enumerate().take(count - 1) {
            slot.next = index as Link + 1;
        }
        let mut links = Links::new(count);
        let mut free_groups = List::default();
        for index in 0..count as Link {
            free_groups.push(&mut links, index);
        }
        Self {
            pages,
            free_pages: 0,
            groups: vec![group; count].into(),
            links,
            free_groups,
            open: List::default(),
            ready: List::default(),
            buckets: vec![NONE; (2 * count).next_power_of_two()].into(),
            poisoned: Default::default(),
        }
    }

    /// Takes a request in. `is_served` says whether anybody handles a PASID's requests.
    ///
    /// If the pool is full, the oldest group that is still open makes room: a device that never ends
    /// its groups loses them, and its further requests are served.
    pub(super) fn accept(
        &mut self,
        request: &PageRequest,
        is_served: impl FnOnce(Pasid) -> bool,
    ) -> Outcome {
        if request.is_stop_marker() && !planted::is(Fault::StopMarkerAnswered) {
            return Outcome::Taken;
        }
        let (known, depth) = self.find(request);
        if self.is_poisoned(request) || request.is_malformed() {
            if let Some(slot) = known {
                self.close(slot);
                self.release(slot);
            }
            return self.refuse(request);
        }
        let is_refused = known.is_none()
            && ((depth >= LONGEST_CHAIN && !request.last) || !is_served(request.pasid));
        if is_refused || !self.make_room(known) {
            return self.refuse(request);
        }
        let slot = known.unwrap_or_else(|| self.begin(request));
        self.add_page(slot, request);
        if !request.last {
            return Outcome::Taken;
        }
        if known.is_some() {
            self.close(slot);
        }
        self.groups[usize::from(slot)].state = State::Ready;
        self.ready.push(&mut self.links, slot);
        Outcome::Ready
    }

    /// Takes the oldest complete group out, to be answered under `number`.
    pub(super) fn take_ready(&mut self, number: u64) -> Option<InService> {
        let slot = self.ready.first()?;
        self.ready.remove(&mut self.links, slot);
        let group = &mut self.groups[usize::from(slot)];
        (group.state, group.number) = (State::InService, number);
        let pasid = group.key.pasid;
        Some(InService { slot, pasid })
    }

    pub(super) fn has_ready(&self) -> bool {
        self.ready.first().is_some()
    }

    /// Ends the group that was taken out as `number`; `None` if it was answered already.
    pub(super) fn finish(&mut self, slot: Link, number: u64) -> Option<Answerable> {
        self.in_service(slot, number)?;
        Some(self.release(slot))
    }

    /// Copies pages of the group that was taken out as `number`, from `link` or the first one on, and
    /// says how many, and where the next is.
    pub(super) fn pages(
        &self,
        slot: Link,
        number: u64,
        link: Option<Link>,
        to: &mut [Page],
    ) -> (usize, Link) {
        let Some(group) = self.in_service(slot, number) else {
            return (0, NONE);
        };
        let mut link = link.unwrap_or(group.pages.0);
        let mut count = 0;
        for place in to {
            let Some(at) = self.pages.get(usize::from(link)) else {
                break;
            };
            (*place, link) = (at.page, at.next);
            count += 1;
        }
        (count, link)
    }

    /// Ends every group that `concerns` says, whatever its state, and hands over those that are
    /// complete: the others' devices expect no answer yet.
    pub(super) fn end_all(
        &mut self,
        concerns: impl Fn(Pasid) -> bool,
        mut complete: impl FnMut(Answerable),
    ) {
        for slot in 0..self.groups.len() as Link {
            let Group { state, key, .. } = self.groups[usize::from(slot)];
            if state == State::Free || !concerns(key.pasid) {
                continue;
            }
            match state {
                State::Open => self.close(slot),
                State::Ready => self.ready.remove(&mut self.links, slot),
                State::InService | State::Free => {}
            }
            self.release(slot);
            if state != State::Open {
                complete(key);
            }
        }
    }

    /// The queue overflowed: the last requests of open groups may be lost and answered, so these
    /// groups and what is remembered of refused ones are forgotten. Complete groups stay.
    pub(super) fn overflowed(&mut self) {
        if planted::is(Fault::OpenGroupsKept) {
            return;
        }
        while let Some(slot) = self.open.first() {
            self.close(slot);
            self.release(slot);
        }
        self.poisoned = Default::default();
    }

    /// How many requests are in it.
    pub(super) fn kept(&self) -> usize {
        let next = |&link: &Link| Some(self.pages.get(usize::from(link))?.next);
        let free = core::iter::successors(Some(self.free_pages), next);
        // The last link leads to no page.
        self.pages.len() + 1 - free.count()
    }

    /// Forgets which groups had a request that was refused.
    pub(super) fn forgive(&mut self) {
        self.poisoned = Default::default();
    }

    fn in_service(&self, slot: Link, number: u64) -> Option<&Group> {
        self.groups
            .get(usize::from(slot))
            .filter(|group| group.state == State::InService)
            .filter(|group| group.number == number || planted::is(Fault::LateAnswerTaken))
    }

    /// Refuses a request: its group is answered when its last request comes.
    fn refuse(&mut self, request: &PageRequest) -> Outcome {
        if request.last {
            return Outcome::Answered(Response::Invalid);
        }
        self.poison(request.group);
        Outcome::Taken
    }

    fn poison(&mut self, group: u16) {
        let (word, bit) = poison_bit(group);
        self.poisoned[word] |= bit;
    }

    /// Whether a request of its group was refused; the last one ends that.
    fn is_poisoned(&mut self, request: &PageRequest) -> bool {
        let (word, bit) = poison_bit(request.group);
        let poisoned = request.origin == Origin::PageRequest
            && self.poisoned[word] & bit != 0
            && !planted::is(Fault::PoisonForgotten);
        if poisoned && request.last {
            self.poisoned[word] &= !bit;
        }
        poisoned
    }

    /// The open group of a request, and how many were looked at.
    fn find(&self, request: &PageRequest) -> (Option<Link>, usize) {
        let mut depth = 0;
        let mut slot = match request.origin {
            Origin::PageRequest => self.buckets[self.bucket(request.pasid, request.group)],
            Origin::Stall => NONE,
        };
        while let Some(group) = self.groups.get(usize::from(slot)) {
            let is_its = group.key.pasid == request.pasid || planted::is(Fault::GroupsMixPasids);
            if group.key.group == request.group && is_its {
                return (Some(slot), depth);
            }
            (slot, depth) = (group.chain, depth + 1);
        }
        (None, depth)
    }

    /// Makes sure that there is a free page, at the cost of the oldest open group. False if there is
    /// none, or if it was `known` that had to go.
    fn make_room(&mut self, known: Option<Link>) -> bool {
        if self.free_pages != NONE {
            return true;
        }
        let Some(oldest) = self.open.first() else {
            return false;
        };
        if planted::is(Fault::EndlessGroupsKept) {
            return false;
        }
        self.poison(self.groups[usize::from(oldest)].key.group);
        self.close(oldest);
        self.release(oldest);
        known != Some(oldest)
    }

    /// Begins a group. There is a free page, hence a free group: each has at least one page. One
    /// that is complete at once needs no place in the hash table.
    fn begin(&mut self, request: &PageRequest) -> Link {
        let slot = self.free_groups.first().unwrap_or(0);
        self.free_groups.remove(&mut self.links, slot);
        let bucket = self.bucket(request.pasid, request.group);
        let group = &mut self.groups[usize::from(slot)];
        group.key = Answerable {
            pasid: request.pasid,
            group: request.group,
            origin: request.origin,
        };
        group.pages = (NONE, NONE);
        if !request.last {
            group.state = State::Open;
            group.chain = core::mem::replace(&mut self.buckets[bucket], slot);
            self.open.push(&mut self.links, slot);
        }
        slot
    }

    /// Takes an open group out of the hash table and the list of open groups.
    fn close(&mut self, slot: Link) {
        let Group { key, chain, .. } = self.groups[usize::from(slot)];
        let bucket = self.bucket(key.pasid, key.group);
        let mut at = self.buckets[bucket];
        if at == slot {
            self.buckets[bucket] = chain;
        }
        while let Some(group) = self.groups.get_mut(usize::from(at)) {
            if group.chain == slot {
                group.chain = chain;
            }
            at = group.chain;
        }
        self.open.remove(&mut self.links, slot);
    }

    fn add_page(&mut self, slot: Link, request: &PageRequest) {
        let link = self.free_pages;
        let at = &mut self.pages[usize::from(link)];
        self.free_pages = at.next;
        *at = PageSlot {
            page: Page {
                address: request.address,
                permissions: request.permissions,
            },
            next: NONE,
        };
        let (first, last) = &mut self.groups[usize::from(slot)].pages;
        match self.pages.get_mut(usize::from(*last)) {
            Some(previous) => previous.next = link,
            None => *first = link,
        }
        *last = link;
    }

    /// Frees a group that is in no list, with its pages.
    fn release(&mut self, slot: Link) -> Answerable {
        let group = &mut self.groups[usize::from(slot)];
        group.state = State::Free;
        let (first, last) = group.pages;
        if let Some(page) = self.pages.get_mut(usize::from(last)) {
            page.next = self.free_pages;
            self.free_pages = first;
        }
        let key = group.key;
        self.free_groups.push(&mut self.links, slot);
        key
    }

    fn bucket(&self, pasid: Pasid, group: u16) -> usize {
        let pasid = if planted::is(Fault::GroupsMixPasids) {
            0
        } else {
            pasid.get()
        };
        let key = pasid << GROUP_INDEX_BITS | u32::from(group);
        let bits = self.buckets.len().trailing_zeros();
        (key.wrapping_mul(0x9e37_79b1) >> (u32::BITS - bits)) as usize
    }
}

/// Group indices beyond the specification's are refused before they are remembered as their own.
const fn poison_bit(group: u16) -> (usize, u64) {
    let index = group as usize & ((1 << GROUP_INDEX_BITS) - 1);
    (index / 64, 1 << (index % 64))
}
