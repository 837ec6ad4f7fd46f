//! Doubly linked lists over the slots of a pool, linked by index.

use alloc::vec;
use alloc::vec::Vec;

/// The index of a slot.
pub(super) type Link = u16;

/// No slot. A pool has fewer.
pub(super) const NONE: Link = Link::MAX;

/// For each slot the one before it and the one after it, in the one list that it is in.
#[derive(Debug, Default)]
pub(super) struct Links(Vec<(Link, Link)>);

impl Links {
    /// Links of `count` slots that are in no list.
    pub(super) fn new(count: usize) -> Self {
        Self(vec![(NONE, NONE); count])
    }

    /// Adds a slot that is in no list.
    pub(super) fn grow(&mut self) {
        self.0.push((NONE, NONE));
    }
}

/// A list; slots leave it from anywhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    first: Link,
    last: Link,
}

impl Default for List {
    fn default() -> Self {
        Self {
            first: NONE,
            last: NONE,
        }
    }
}

impl List {
    pub(super) fn first(&self) -> Option<Link> {
        (self.first != NONE).then_some(self.first)
    }

    /// Appends a slot that is in no list.
    pub(super) fn push(&mut self, Links(links): &mut Links, slot: Link) {
        links[usize::from(slot)] = (self.last, NONE);
        match links.get_mut(usize::from(self.last)) {
            Some((_, after)) => *after = slot,
            None => self.first = slot,
        }
        self.last = slot;
    }

    /// Takes a slot out, which is in this list.
    pub(super) fn remove(&mut self, Links(links): &mut Links, slot: Link) {
        let (before, after) = links[usize::from(slot)];
        match links.get_mut(usize::from(before)) {
            Some((_, next)) => *next = after,
            None => self.first = after,
        }
        match links.get_mut(usize::from(after)) {
            Some((previous, _)) => *previous = before,
            None => self.last = before,
        }
    }
}
