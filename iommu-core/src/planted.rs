//! What all IOMMUs share: the mistakes that can be planted in it, and the tests that notice each.

core_notifier::planted_faults! {
    /// A flush begins without a fence.
    FlushUnfenced => loom "lib" "invalidation_set::loom::a_flush_against_attach";
    /// A flush of everything is taken for one of nothing.
    EverythingTakenForNothing => real "lib" "everything_is_not_nothing";
    /// A flush leaves out the last page of a range.
    LastPageMissing => real "lib" "a_notification_reaches_every_cache";
    /// A flush leaves out the first page of a range.
    FirstPageMissing => real "lib" "a_notification_reaches_every_cache";
    /// Leaves only are invalidated although page-table pages were freed.
    LevelsNotPassedOn => real "lib" "a_notification_reaches_every_cache";
    /// A flush serves the first IOMMU only.
    OtherIommusForgotten => real "lib" "all_iommus_are_posted_to";
    /// A flush leaves out the IOMMUs beyond those that are under way at a time.
    LaterIommusForgotten => real "lib" "more_iommus_than_are_served_at_once";
    /// A flush does not wait for what it posted.
    CompletionNotAwaited => real "lib" "a_notification_reaches_every_cache";
    /// Where one list cannot order the two, the device TLBs are left out.
    SecondListLeftOut => real "lib" "device_tlbs_wait_for_the_iotlb";
    /// Where one list cannot order the two, the device TLBs come before the IOTLB.
    SecondListFirst => real "lib" "device_tlbs_wait_for_the_iotlb";
    /// A list that was dropped because of somebody else's error counts as done.
    AbortedListNotRetried => real "lib" "an_error_of_another_device";
    /// The address space's owner is not told that an invalidation failed.
    FailureNotReported => real "lib" "a_failed_invalidation_is_told an_error_of_its_own";
    /// The set of an address space is changed after the device was programmed.
    SetChangedAfterAttach => real "lib" "notifications_reach_a_device";
    /// A device that comes to an IOTLB which others fill keeps what it took out of it meanwhile.
    SharedEntriesTrusted => real "lib" "a_device_that_joins_others";
    /// A device's targets leave the set before the hardware is blocked.
    SetChangedBeforeDetach => real "lib" "notifications_reach_a_device_until_it_is_detached";
    /// The replaced set is not waited for.
    ReplacedNotAwaited => loom "lib" "invalidation_set::loom::a_flush_against_detach";
    /// A target that two attachments share leaves the set with the first of them.
    SharedTargetRemoved => real "lib" "a_shared_target_stays";
    /// The set has no device TLBs.
    DeviceTlbTargetsLeftOut => real "lib" "a_notification_reaches_every_cache";
    /// The set has one IOTLB target for all PASIDs, though the IOTLB is keyed by PASID.
    PasidKeyIgnored => real "lib" "an_iotlb_that_is_keyed_by_pasid";
    /// Exit does not block the devices.
    ReleaseNotBlocking => real "lib" "exit_blocks_and_unbind_detaches";
    /// Exit forgets bindings of requests without a PASID.
    ReleaseForgetsUntagged => real "lib" "exit_blocks_and_unbind_detaches";
    /// Unbinding does not detach requests without a PASID.
    UnbindForgetsUntagged => real "lib" "unbinding_detaches_untagged_requests";
    /// A tag goes back to the pool although another binding of the address space has it.
    TagFreedInUse => real "lib" "a_tag_is_freed_with_the_last_binding";
    /// A PASID that some hardware did not confirm to have forgotten is given out again.
    UnconfirmedPasidReused => real "lib" "a_failed_invalidation_is_told";
    /// A binding whose detach the hardware did not confirm is forgotten.
    UnconfirmedBindingForgotten => real "lib" "a_binding_that_was_not_detached_stays";
    /// A cover leaves out what lies below the middle of the range's smallest block.
    CoverLowSideMissing => real "lib" "no_cover_of_a_small_range";
    /// A cover's sides are rounded down to fewer blocks, not up.
    CoverRoundsDown => real "lib" "no_cover_of_a_small_range";
    /// The ring takes the movement of the head for completion though syncs write a word.
    CompletionByHead => real "lib iommu-vtd/unit iommu-smmuv3/errors iommu-riscv/unit" "a_head_that_moves_completes_nothing";
    /// The ring takes any completion word for its own, of whatever lap.
    StaleWordTaken => real "lib iommu-vtd/unit iommu-smmuv3/errors iommu-riscv/unit" "a_word_of_an_earlier_lap_completes_nothing";
    /// The ring looks at a completion word once, as a compiler makes of a plain load.
    WordLoadedOnce => real "iommu-vtd/unit iommu-smmuv3/errors iommu-riscv/unit" "a_completion_that_comes_late_is_seen";
    /// The ring sees what another waiter saw without acquiring it.
    DoneNotAcquired => loom "lib" "completion_that_another_waiter_saw";
    /// The ring lets an error end a wait as a success.
    ErrorEndsWaitAsSuccess => real "lib iommu-vtd/unit iommu-smmuv3/errors iommu-riscv/unit" "an_error_is_told_to_its_own_list";
    /// The ring tells an error to the list behind the one that failed.
    ErrorToldToTheNext => real "lib iommu-vtd/unit iommu-smmuv3/errors iommu-riscv/unit" "an_error_is_told_to_its_own_list";
    /// The ring does not let the hardware go on after an error.
    QueueNotRestarted => real "iommu-vtd/unit iommu-smmuv3/errors iommu-riscv/unit" "an_error_is_told_to_its_own_list";
    /// The ring leaves an illegal command where it is.
    IllegalCommandKept => real "lib" "an_illegal_command_fails_its_own";
    /// The ring overwrites commands that the hardware has not read when it is full.
    FullRingOverwritten => real "lib" "a_full_ring_waits";
    /// The ring writes two producers' lists to the same slots.
    SlotsNotReserved => loom "lib" "completion_means_executed_with_a_sync_for_each";
    /// The ring takes a sync in front of a list for its own when lists share syncs.
    SharedSyncTooEarly => loom "lib" "completion_means_executed_with_a_shared_sync";
    /// The ring leaves out the syncs inside lists.
    BarrierLeftOut => real "lib" "a_barrier_is_a_sync";
    /// Stores are not cleaned to memory though the IOMMU does not snoop.
    StoresNotCleaned => real "lib iommu-vtd/unit iommu-smmuv3/tables iommu-riscv/unit" "valid_last published_last cleaned";
    /// After a time-out, the other devices of the list are not served.
    OthersNotServed => real "lib" "a_silent_device_costs_the_others_nothing";
    /// A device that is known not to answer is asked again by every flush.
    SuspectAskedAgain => real "lib" "a_silent_device_is_asked_once";
    /// A device that does not answer is told of by every flush.
    FailureToldAgain => real "lib" "a_silent_device_is_told_once";
    /// Deferred: items are given back before the flush.
    ReclaimedBeforeFlush => real "lib" "deferred::tests";
    /// Deferred: a flush gives back what was unmapped after it began.
    LaterUnmapsReclaimed => real "lib" "deferred::tests";
    /// Deferred: items are given back although the flush failed.
    FailureReclaimed => real "lib" "deferred::tests";
    /// Page requests: a group whose request was refused is handed to its handler.
    PoisonForgotten => real "lib" "a_malformed_request_poisons";
    /// Page requests: an overflow leaves open groups as they are.
    OpenGroupsKept => real "lib" "an_overflow_forgets_open_groups";
    /// Page requests: groups of different PASIDs mix.
    GroupsMixPasids => real "lib" "groups_of_devices_and_pasids";
    /// Page requests: a full share refuses what is new, and never gives up what does not end.
    EndlessGroupsKept => real "lib" "a_device_that_never_ends_its_groups";
    /// Page requests: a stop marker is taken for a request.
    StopMarkerAnswered => real "lib" "a_stop_marker_is_dropped";
    /// Page requests: a dropped group is not answered.
    DroppedGroupForgotten => real "lib" "a_group_that_its_handler_drops";
    /// Page requests: a late answer ends whatever group has the slot now.
    LateAnswerTaken => real "lib" "a_late_answer_changes_nothing";
    /// Page requests: unbinding leaves complete groups without an answer.
    GroupsLeftAtUnbind => real "lib" "unbinding_answers_drains unbinding_blocks_answers";
    /// Page requests: unbinding does not drain.
    DrainLeftOut => real "lib" "unbinding_blocks_answers";
    /// Page requests: the drain comes before the entry is blocked.
    DrainBeforeBlock => real "lib" "unbinding_blocks_answers";
    /// Page requests: exit leaves the handler where it is.
    HandlerKeptAtExit => real "lib" "a_dead_address_space_answers";
    /// Page requests: the handler is set before the hardware is programmed.
    HandlerPublishedEarly => real "lib" "a_binding_whose_requests_cannot_be_routed";
    /// A binding looks whether the address space has ended before it takes the lock that exit takes.
    ReleaseCheckedBeforehand => loom "lib" "sva::loom::bind_against_exit";
    /// A PASID is given back before the devices that use it are unbound.
    PasidReusedEarly => loom "lib" "sva::loom::a_pasid_that_comes_back";
    /// A binding that fails leaves its targets in the set.
    RollbackKeepsTargets => real "lib" "a_device_that_another_address_space_has";
    /// A binding that fails gives back a tag that another binding of the address space has.
    RollbackFreesTag => real "lib" "a_binding_that_fails_leaves_the_others";
    /// A binding that fails takes away the handler that was there before it.
    RollbackUnroutes => real "lib" "a_binding_whose_requests_cannot_be_routed";
    /// A binding that fails leaves the device attached.
    RollbackLeavesAttached => real "lib" "a_binding_whose_requests_cannot_be_routed";
    /// The ring leaves the doorbell of a list that nobody waits for to a waiter.
    PostedNotRung => real "lib" "a_list_that_nobody_waits_for";
    /// A guest's command with reserved bits is taken as if it had none.
    GuestReservedBitsPassed => real "lib iommu-vtd/unit iommu-smmuv3/guest iommu-riscv/unit" "bits_outside reserved_bits";
    /// Of a guest's commands, the one that is refused is left out, and the others go on.
    GuestRefusalSkipped => real "iommu-vtd/unit iommu-smmuv3/guest iommu-riscv/unit" "a_batch_ends";
    /// A guest's device that did not answer is told to nobody.
    GuestSilenceNotTold => real "iommu-vtd/unit iommu-smmuv3/guest iommu-riscv/unit" "a_silent_device_is_named_by_both";
}
