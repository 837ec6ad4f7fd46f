//! The notifier core's own planted faults; [`plant`](crate::plant) is the machinery.

use crate::primitive::Ordering;

crate::planted_faults! {
    /// A grace period does not wait for the rank that is out of use.
    IdleRankNotAwaited => loom "loom" "fenced::one_reader_with_two_sections";
    /// A grace period does not wait for the rank that readers use.
    CurrentRankNotAwaited => loom "loom" "fenced::one_reader_with_two_sections";
    /// The first look of a grace period leaves out the rank that is out of use.
    OneRankLookedAt => loom "loom" "fenced::one_reader_with_two_sections";
    /// A grace period does not move new readers to the other rank.
    RankNeverChanges => real "races" "a_stream_of_readers";
    /// A grace period begins without a fence.
    DriverUnfenced => loom "loom" "fenced::one_reader_against_two_updaters";
    /// Who asks for a grace period looks at the sequence without a fence.
    RequestUnfenced => loom "loom" "fenced::one_reader_against_two_updaters";
    /// Who asks for a grace period is content with one that is under way.
    PeriodUnderWayJoined => loom "loom" "fenced::one_reader_against_two_updaters";
    /// The end of a grace period that another thread drove is not acquired.
    EndNotAcquired => loom "loom" "fenced::one_reader_against_two_updaters";
    /// An expedited wait does not make the driver hurry.
    ExpeditedNotRecorded => real "srcu" "expedited";
    /// A bounded wait goes on when it is told to stop.
    NeverGivesUp => real "srcu" "a_leaked_guard";
    /// Fenced: locks are summed before unlocks.
    LocksSummedFirst => loom "loom" "fenced::two_readers fenced_shared::two_readers";
    /// Fenced: the sum of unlocks acquires nothing.
    SumNotAcquired => loom "loom" "fenced::one_reader_with_two_sections";
    /// Fenced: a section goes on alone where another is.
    AloneAnyway => loom "loom" "fenced::nested fenced::two_readers";
    /// Fenced: the exit of a section that is alone on its line releases nothing.
    OwnExitRelaxed => loom "loom" "fenced::one_reader_with_two_sections";
    /// Fenced: the exit of a section on the shared line releases nothing.
    SharedExitRelaxed => loom "loom" "fenced::two_readers fenced::nested";
    /// Fenced: the entry on a line of one's own has no place in the total order.
    ClaimUnordered => loom "loom" "fenced::one_reader_with_two_sections";
    /// Fenced: the entry on the shared line has no place in the total order.
    JoinUnordered => loom "loom" "fenced_shared::one_reader_with_two_sections";
    /// Hooked: the exit from a slot releases nothing.
    SlotExitRelaxed => loom "loom" "hooked::one_reader_with_two_sections";
    /// Hooked: a look that finds a slot free acquires nothing.
    SlotNotAcquired => loom "loom" "hooked::one_reader_with_two_sections";
    /// Hooked: a grace period does not look at slots.
    SlotsNotLookedAt => loom "loom" "hooked::one_reader_with_two_sections";
    /// Hooked: a section takes a slot that another owns.
    ClaimWithoutLook => loom "loom" "hooked::nested";
    /// Hooked: the claim of a slot acquires nothing from the previous owner.
    ClaimNotAcquired => loom "loom" "hooked_moving";
    /// Hooked: a grace period issues no barrier on all CPUs.
    BarrierLeftOut => loom "loom" "hooked::one_reader_with_two_sections";
    /// Hooked: slots are looked at before the barrier only.
    BarrierAfterSlots => loom "loom" "hooked::one_reader_with_two_sections";
    /// Hooked: the barrier comes before both sums and not between them.
    BarrierBeforeUnlocks => loom "loom" "hooked_shared::one_reader_with_two_sections";
    /// Hooked: the barrier comes after both sums and not between them.
    BarrierAfterLocks => loom "loom" "hooked_shared::one_reader_with_two_sections";
    /// Hooked: locks are summed before unlocks.
    HookedLocksSummedFirst => loom "loom" "hooked_shared::two_readers";
    /// Hooked: the pointer of a published value is loaded relaxed.
    HookedFollowRelaxed => loom "loom" "hooked::published_value";
    /// Hooked: an expedited grace period waits for the ordinary barrier.
    ExpeditedBroadcastNotUsed => real "srcu" "expedited";
    /// A grace period leaves out the last line: the shared one, or the last CPU.
    LastLineNotLookedAt => real "srcu" "hooked a_leaked_guard";
    /// A replaced value is dropped without a wait for its readers.
    RetiredNotAwaited => loom "loom" "published_value";
    /// A replaced value that is dropped inside a section is dropped at once.
    RetiredInsideDropped => real "srcu" "a_value_replaced_inside";
    /// Checked: a context that is inside a section is not found.
    InsideNotNoticed => real "srcu" "checked_waits";
    /// Checked: the exit of a section leaves its context behind.
    PlaceNotGivenBack => real "srcu" "checked";
    /// Checked: the context that runs callbacks is not known.
    CallbackNotNoticed => real "srcu" "checked_barrier";
    /// Callbacks are called without a grace period.
    CallbacksNotDelayed => real "races" "callbacks_wait";
    /// Two threads call callbacks at the same time.
    RunnerNotExclusive => loom "loom" "two_barriers";
    /// The barrier is content when the queue is empty.
    BarrierForQueueOnly => loom "loom" "two_barriers one_reader_against_a_deferred";
    /// All keys get the same domain.
    DomainsAllOne => real "srcu" "domains";
    /// Unregistration does not wait for a grace period.
    UnregisterNotAwaited => loom "loom" "n1_";
    /// Unregistration asks whether exit was first before its section begins.
    UnregisterAsksOutside => loom "loom" "fenced::n3_";
    /// Unregistration takes the notifier out of the list and then calls its release outside of any section.
    UnregisterReleasesLate => real "races" "n2_n3_n5";
    /// Unregistration leaves lists that nobody walks any more to a callback.
    UnregisterKeepsLists => real "semantics" "unregister_drops";
    /// Exit does not wait for a grace period.
    ReleaseNotAwaited => real "races" "n4_ n2_n3_n5";
    /// Registration subscribes after the kernel has its lock back.
    RegisterUnlocked => real "semantics" "n6_";
    /// The end of an invalidation does not invalidate the range.
    EndWithoutInvalidate => real "semantics" "invalidate_range_end";
    /// The first notifier that says young ends the round of clear_young.
    YoungShortCircuits => real "semantics" "n28_";
    /// Notifiers are called for an empty range.
    EmptyRangePassedOn => real "semantics" "n30_";
    /// An address space that is dropped does not release its notifiers.
    DropNotReleased => real "semantics" "destruction";
    /// Two threads may unregister the same notifier.
    ClaimedTwice => real "races" "two_unregister";
    /// Registration after exit is let in.
    RegisteredAfterExit => real "semantics" "registering_after";
    /// Permissions that rise are not announced to notifiers that cache refusals.
    RiseNotPassedOn => real "invariants" "n29_";
    /// A shadow table that claims the passes of a TLB is registered.
    MixedKindRegistered => real "invariants" "n12_";
    /// The second pass of an invalidation of ranges is left out.
    FinishSkipped => real "invariants" "two_passes_";
    /// The second pass of a start is left out.
    StartFinishSkipped => real "invariants" "n25_";
    /// When the list refuses a start, the interval side is not undone.
    IntervalsNotUndone => real "invariants" "n07_";
    /// Who refused a start is told of an end.
    EndAfterRefusal => real "invariants" "n07_";
    /// Nobody is asked after the first refusal.
    RefusalEndsTheRound => real "invariants" "n09_";
    /// The kernel is not told that a callback must not sleep.
    NonBlockingNotTold => real "invariants" "n11_";
    /// The last user's put leaves the notifier in the list.
    PutWithoutUnregister => real "invariants" "n16_ n17_";
    /// The first put ends the subscription, whoever else uses it.
    FirstPutEnds => real "invariants" "n17_";
    /// Interval: the search misses a hit that has nothing to its right.
    QueryMissesLast => real "intervals" "queries_";
    /// Interval: the last end leaves the sequence as it is.
    PeriodNeverEnds => real "invariants" "n24_ the_sequence";
    /// Interval: an insertion counts the invalidations that are open as not met.
    InsertionMeetsNothing => real "invariants" "n21_";
    /// Interval: the end of a period releases nothing to who waits for it.
    EndNotReleased => loom "intervals_loom" "n19_";
    /// Interval: an invalidation is not noted in the subscriptions that it meets.
    PeriodNotNoted => real "invariants" "n19_";
    /// Interval: an insertion overwrites what an invalidation noted meanwhile.
    InsertionNotedLate => loom "intervals_loom" "n21_";
    /// Interval: hooked: a start reads the array without a fence after it has counted itself.
    EnterUnfenced => loom "intervals_loom" "hooked::n21_";
    /// Interval: a lookup begins while its interval is being invalidated.
    ReadDoesNotWait => real "invariants" "n19_ n20_";
    /// Interval: removal waits for a period that its insertion began with.
    CancelledNotNoticed => real "invariants" "n23_";
    /// Interval: removal does not wait for the end of the period.
    RemovalDoesNotSleep => real "invariants" "n21_";
    /// Interval: removal does not wait for callbacks.
    RemovalNotAwaited => real "invariants" "n22_";
    /// Interval: insertion after exit is let in.
    InsertedAfterExit => real "intervals" "inserting_after";
    /// A full batch drops its last range instead of joining two.
    BatchDropsLast => real "invariants" "batch_";
}

/// `ordering`, or none at all if `fault` is planted.
#[inline(always)]
pub(crate) fn weaken(ordering: Ordering, fault: Fault) -> Ordering {
    if is(fault) {
        Ordering::Relaxed
    } else {
        ordering
    }
}
