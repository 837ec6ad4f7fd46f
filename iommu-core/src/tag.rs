//! Which address-space tags of one IOMMU are in use.

use crate::error::TagsExhausted;
use crate::ids::Tag;
use alloc::vec::Vec;
use spin::Mutex;

/// The tags of one IOMMU. A tag leaves and enters circulation clean.
#[derive(Debug)]
pub struct TagAllocator {
    last: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u32,
    freed: Vec<u32>,
}

impl TagAllocator {
    /// Tags from `first` to `last`, both included.
    pub const fn new(first: u32, last: u32) -> Self {
        Self {
            last,
            state: Mutex::new(State {
                next: first,
                freed: Vec::new(),
            }),
        }
    }

    /// A tag that nobody uses.
    pub fn allocate(&self) -> Result<Tag, TagsExhausted> {
        let mut state = self.state.lock();
        if let Some(tag) = state.freed.pop() {
            return Ok(Tag(tag));
        }
        if state.next > self.last {
            return Err(TagsExhausted);
        }
        let tag = state.next;
        state.next += 1;
        Ok(Tag(tag))
    }

    /// Puts a tag back, whose entries were invalidated.
    pub fn free(&self, tag: Tag) {
        self.state.lock().freed.push(tag.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_given_to_one_at_a_time() {
        let tags = TagAllocator::new(2, 3);
        let (two, three) = (tags.allocate().unwrap(), tags.allocate().unwrap());
        assert_eq!((two, three), (Tag(2), Tag(3)));
        assert_eq!(tags.allocate(), Err(TagsExhausted));
        tags.free(two);
        assert_eq!(tags.allocate(), Ok(Tag(2)));
    }
}
