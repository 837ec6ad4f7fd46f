//! Two passes for everyone, and batches: what Linux lacks. N25.

use core::sync::atomic::Ordering::SeqCst;

use alloc::sync::Arc;

use core_notifier::{Range, WouldBlock};

use crate::common::{Call, Log, RANGE, Recorder, drain, new_space};
use crate::intervals::Mirror;
use crate::sections::UNMAP;
use crate::support::{Seen, Seen::*, Shadow, Tlb, Trace};

fn at(start: u64, end: u64) -> Range {
    Range::new(start, end).unwrap()
}

/// Every first pass comes before every second one, and both come once for each name.
fn assert_two_passes(seen: &[(char, Seen)], begin: Seen, finish: Seen, names: &str) {
    let of = |kind: Seen| -> String {
        let named = seen.iter().filter(|entry| entry.1 == kind);
        named.map(|entry| entry.0).collect()
    };
    assert_eq!(of(begin), names);
    assert_eq!(of(finish), names);
    let last_begin = seen.iter().rposition(|entry| entry.1 == begin);
    let first_finish = seen.iter().position(|entry| entry.1 == finish);
    assert!(
        last_begin < first_finish,
        "waited before all had begun: {seen:?}"
    );
}

#[test]
fn two_passes_begin_everywhere_before_anybody_is_waited_for() {
    let trace = Trace::default();
    let space = new_space();
    for name in ['c', 'b', 'a'] {
        space
            .register_locked(Tlb::create(name, &trace, true))
            .unwrap();
    }
    space.invalidate_range(RANGE);
    assert_two_passes(&trace.take(), Ranges, FinishRanges, "abc");
    space.raise_permissions(RANGE);
    assert_two_passes(&trace.take(), Ranges, FinishRanges, "abc");
    space.invalidate_range_end(RANGE);
    assert_two_passes(&trace.take(), Ranges, FinishRanges, "abc");
}

#[test]
fn two_passes_and_one_pass_work_together() {
    let trace = Trace::default();
    let space = new_space();
    space
        .register_locked(Tlb::create('c', &trace, true))
        .unwrap();
    space
        .register_locked(Tlb::create('b', &trace, false))
        .unwrap();
    space
        .register_locked(Tlb::create('a', &trace, true))
        .unwrap();
    space.invalidate_range(RANGE);
    let expected = [
        ('a', Ranges),
        ('b', Ranges),
        ('c', Ranges),
        ('a', FinishRanges),
        ('c', FinishRanges),
    ];
    assert_eq!(trace.take(), expected);
}

#[test]
fn two_passes_of_more_than_can_be_waited_for_together_are_all_finished() {
    for notifiers in [8, 9, 20] {
        let trace = Trace::default();
        let space = new_space();
        for _ in 0..notifiers {
            space
                .register_locked(Tlb::create('a', &trace, true))
                .unwrap();
        }
        space.invalidate_range(RANGE);
        let seen = trace.take();
        let finished = seen.iter().filter(|entry| entry.1 == FinishRanges).count();
        assert_eq!((seen.len(), finished), (2 * notifiers, notifiers));
    }
}

#[test]
fn n25_every_pending_start_is_finished_once_also_if_somebody_refuses() {
    let trace = Trace::default();
    let space = new_space();
    let pending = |name| {
        let mut shadow = Shadow::create(name, &trace);
        Arc::get_mut(&mut shadow).unwrap().pending = true;
        shadow
    };
    let refusing = Shadow::refusing('r', &trace);
    space.register_locked(pending('b')).unwrap();
    space.register_locked(refusing.clone()).unwrap();
    space.register_locked(pending('a')).unwrap();
    let mirrors = [
        Mirror::two_passes(),
        Mirror::two_passes(),
        Mirror::two_passes(),
    ];
    let intervals = mirrors
        .each_ref()
        .map(|mirror| mirror.insert(&space, RANGE));
    let finishes = || {
        mirrors
            .each_ref()
            .map(|mirror| mirror.finishes.load(SeqCst))
    };

    // Refused by the list: everybody is finished, then who began is ended.
    assert_eq!(space.try_start_invalidation(UNMAP).err(), Some(WouldBlock));
    assert_eq!(finishes(), [1; 3]);
    let seen = trace.take();
    assert_two_passes(&seen, Start, Finish, "ab");
    assert_eq!(seen[5..], [('a', End), ('b', End)]);

    // Refused by an interval notifier: those before it are finished.
    mirrors[1].refuses.store(true, SeqCst);
    assert_eq!(space.try_start_invalidation(UNMAP).err(), Some(WouldBlock));
    let pending = || mirrors.each_ref().map(|mirror| mirror.pending.load(SeqCst));
    assert_eq!(finishes(), pending());
    assert_eq!(finishes()[1], 1);
    assert_eq!(trace.take(), []);

    // By nobody.
    mirrors[1].refuses.store(false, SeqCst);
    refusing.refuses.store(false, SeqCst);
    space.try_start_invalidation(UNMAP).unwrap().end();
    let began_all = [('a', Start), ('r', Start), ('b', Start)];
    let then = [
        ('a', Finish),
        ('b', Finish),
        ('a', End),
        ('r', End),
        ('b', End),
    ];
    assert_eq!(trace.take(), [&began_all[..], &then[..]].concat());
    assert_eq!(finishes(), pending());
    for interval in &intervals {
        space.remove_interval(interval).unwrap();
    }
}

#[test]
fn batch_of_many_pages_costs_one_round() {
    let trace = Trace::default();
    let space = new_space();
    let tlb = Tlb::create('a', &trace, true);
    space.register_locked(tlb.clone()).unwrap();
    let mut batch = space.begin_batch();
    for page in 0..512 {
        batch.add(at(page * 0x1000, (page + 1) * 0x1000));
    }
    batch.add(at(0x1000_0000, 0x1000_1000));
    assert_eq!(trace.take(), [], "told before the flush");
    batch.flush();
    assert_eq!(trace.take(), [('a', Ranges), ('a', FinishRanges)]);
    assert_eq!(
        tlb.take_told(),
        [at(0, 0x20_0000), at(0x1000_0000, 0x1000_1000)]
    );
    // It is empty now; neither another flush nor the drop tells anything.
    batch.flush();
    drop(batch);
    assert_eq!(trace.take(), []);
}

#[test]
fn batch_tells_notifiers_of_one_pass_range_by_range() {
    let log = Log::default();
    let space = new_space();
    space
        .register_locked(Recorder::create('a', &log, false))
        .unwrap();
    space.batch(|batch| {
        batch.add(at(0x5000, 0x6000));
        batch.add(at(0x1000, 0x2000));
    });
    let expected = [at(0x1000, 0x2000), at(0x5000, 0x6000)];
    assert_eq!(
        drain(&log),
        expected.map(|range| ('a', Call::Invalidate(range)))
    );
}

#[test]
fn batch_that_is_full_covers_everything_that_was_added() {
    let trace = Trace::default();
    let space = new_space();
    let tlb = Tlb::create('a', &trace, true);
    space.register_locked(tlb.clone()).unwrap();
    let pages: Vec<_> = (0..100_u64).map(|page| page * page * 0x1_0000).collect();
    space.batch(|batch| {
        for page in &pages {
            batch.add(at(*page, page + 0x1000));
        }
        assert_eq!(batch.ranges().len(), 8);
    });
    let told = tlb.take_told();
    assert!(told.len() <= 8);
    for page in pages {
        assert!(
            told.iter()
                .any(|range| range.contains(page) && range.contains(page + 0xfff))
        );
    }
    assert_eq!(trace.take().len(), 2);
}

#[test]
fn batch_is_flushed_by_its_drop_and_by_unwinding() {
    let trace = Trace::default();
    let space = new_space();
    let tlb = Tlb::create('a', &trace, false);
    space.register_locked(tlb.clone()).unwrap();
    let mut batch = space.begin_batch();
    batch.add(RANGE);
    drop(batch);
    assert_eq!(tlb.take_told(), [RANGE]);
    let unwound = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| {
        space.batch(|batch| {
            batch.add(RANGE);
            std::panic::resume_unwind(Box::new(()));
        });
    }));
    assert!(unwound.is_err());
    assert_eq!(tlb.take_told(), [RANGE]);
}

#[test]
fn batch_that_is_leaked_tells_nothing_and_disturbs_nothing() {
    let trace = Trace::default();
    let space = new_space();
    let tlb = Tlb::create('a', &trace, true);
    space.register_locked(tlb.clone()).unwrap();
    let mut batch = space.begin_batch();
    batch.add(RANGE);
    core::mem::forget(batch);
    assert_eq!(tlb.take_told(), []);
    space.batch(|batch| batch.add(Range::ALL));
    assert_eq!(tlb.take_told(), [Range::ALL]);
    space.release();
}
