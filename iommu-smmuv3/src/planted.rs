//! The mistakes that can be planted in this driver, and the tests that notice each.

iommu_core::planted_faults! {
    /// SMMUv3: an invalidation leaves out the device TLBs.
    SmmuDeviceTlbLeftOut => real "unit" "an_invalidation_of a_device_tlb_is_invalidated";
    /// SMMUv3: an invalidation leaves out the TLB.
    SmmuTlbLeftOut => real "unit" "an_invalidation_of";
    /// SMMUv3: an invalidation goes to the device TLBs before the TLB.
    SmmuDeviceTlbFirst => real "unit" "a_device_tlb_is_invalidated_after";
    /// SMMUv3: nothing orders the device TLBs behind the TLB.
    SmmuSyncLeftOut => real "unit" "a_device_tlb_is_invalidated_after";
    /// SMMUv3: a range command covers one page too few.
    SmmuRangeShort => real "golden lib" "range_commands exactly";
    /// SMMUv3: of a range that takes two commands, the second is left out.
    SmmuSecondSpanLeftOut => real "golden lib" "range_commands exactly";
    /// SMMUv3: page by page, the last page is left out.
    SmmuLastPageMissing => real "golden" "without_ranges";
    /// SMMUv3: a CMD_ATC_INV covers half of its block.
    SmmuAtcSizeShort => real "golden unit" "device_tlb";
    /// SMMUv3: the Leaf bit is set although entries above the leaves changed.
    SmmuLeafAlways => real "unit" "an_invalidation_of_the_iotlb";
    /// SMMUv3: a TLB invalidation names another ASID.
    SmmuWrongAsid => real "unit" "an_invalidation_of_the_iotlb";
    /// SMMUv3: a CMD_ATC_INV names another SubstreamID.
    SmmuWrongSubstream => real "unit" "an_invalidation_of_a_device_tlb";
    /// SMMUv3: a CMD_ATC_INV names another StreamID.
    SmmuWrongStream => real "unit" "an_invalidation_of_a_device_tlb";
    /// SMMUv3: translations requested without a PASID are invalidated as those of SubstreamID 0.
    SmmuUntaggedAsTagged => real "unit" "untagged_translations";
    /// SMMUv3: a context descriptor that is blocked is not taken out of the configuration cache.
    SmmuDescriptorKept => real "unit" "blocking_ detaching_";
    /// SMMUv3: a context descriptor that is blocked leaves its translations in the TLB.
    SmmuTlbKept => real "unit" "blocking_ detaching_";
    /// SMMUv3: a context descriptor that is blocked leaves its translations in the device TLB.
    SmmuAtcKept => real "unit" "blocking_ detaching_";
    /// SMMUv3: a context descriptor that became valid is still cached as invalid.
    SmmuInvalidDescriptorKept => real "unit" "attaching_forgets";
    /// SMMUv3: a stream table entry that changed is not taken out of the configuration cache.
    SmmuStreamEntryKept => real "unit" "enabling_a_device disabling_a_device";
    /// SMMUv3: a level 1 descriptor that changed is not taken out of the configuration cache.
    SmmuLevel1Kept => real "unit" "enabling_a_device";
    /// SMMUv3: the word with the valid bit is stored first.
    SmmuValidFirst => real "tables" "becomes_valid_last";
    /// SMMUv3: an entry's other words are cleared before its valid bit.
    SmmuRestClearedFirst => real "tables" "becomes_valid_last";
    /// SMMUv3: blocking lets walks go on.
    SmmuBlockKeepsWalking => real "unit" "blocking_is_silent";
    /// SMMUv3: a blocked context descriptor keeps its ASID, under which others fill the TLB.
    SmmuBlockKeepsAsid => real "unit tables" "blocking_is_silent becomes_valid_last";
    /// SMMUv3: blocking invalidates nothing.
    SmmuBlockKeepsCaches => real "unit" "blocking_ detaching_";
    /// SMMUv3: detaching leaves a blocked context descriptor valid and clears the rest.
    SmmuDetachLeavesValid => real "unit" "detaching_blocks_first";
    /// SMMUv3: what was cached before the driver came is not invalidated.
    SmmuInheritedKept => real "unit" "probe_invalidates";
    /// SMMUv3: translated requests are not checked against the stream table.
    SmmuTranslatedUnchecked => real "bring_up" "obligations";
    /// SMMUv3: a context descriptor has ASID 0, not that of its tag.
    SmmuDescriptorWithoutAsid => real "unit" "entries_in_memory";
    /// SMMUv3: a context descriptor ignores that the access flag is clear (AFFD).
    SmmuAccessFlagIgnored => real "unit" "entries_in_memory";
    /// SMMUv3: a context descriptor has the SMMU change access flags itself (HA).
    SmmuAccessFlagUpdated => real "unit" "entries_in_memory";
    /// SMMUv3: a quarantine leaves the stream table entry valid.
    SmmuQuarantineKeepsEntry => real "quarantine" "";
    /// SMMUv3: a quarantine leaves what was cached through the stream table entry.
    SmmuQuarantineKeepsCaches => real "quarantine" "";
    /// SMMUv3: lists leave a device out before the hardware has forgotten its entry.
    SmmuQuarantineTooEarly => real "quarantine" "a_device_that_could_not_be_cut_off";
    /// SMMUv3: the TLB of a device in quarantine is invalidated on detach and on disable.
    SmmuQuarantinedAsked => real "quarantine" "";
    /// SMMUv3: a device that was restored is still left out of lists.
    SmmuRestoreLeavesOut => real "quarantine" "";
    /// SMMUv3: events that were taken are not given back.
    SmmuEventsKept => real "faults" "the_queue_wraps faults_are_handed_over_once";
    /// SMMUv3: an overflow of the event queue is not acknowledged.
    SmmuOverflowKept => real "faults" "an_overflow_is_told_once";
    /// SMMUv3: a CMD_SYNC that found a device silent is executed again and told to nobody.
    SmmuTimeoutIgnored => real "errors" "an_error_is_told_to_its_own_list";
    /// SMMUv3: an error of the command queue is not acknowledged.
    SmmuErrorKept => real "errors unit" "an_error_is_told_to_its_own_list a_stopped_queue";
    /// SMMUv3: page requests that were taken are not given back.
    SmmuPageRequestsKept => real "page_requests" "requests_are_taken";
    /// SMMUv3: an overflow of the PRI queue is not acknowledged.
    SmmuPageOverflowKept => real "page_requests" "an_overflow";
    /// SMMUv3: an overflow of the PRI queue is told while requests are in it.
    SmmuPageOverflowEarly => real "page_requests" "an_overflow";
    /// SMMUv3: an aborted write to the PRI queue is told to nobody.
    SmmuPageAbortIgnored => real "page_requests" "an_aborted_write";
    /// SMMUv3: a group that was refused is answered as resolved.
    SmmuRefusedAsResolved => real "page_requests" "answers_share";
    /// SMMUv3: a response has no PASID though the device wants it.
    SmmuResponseWithoutPasid => real "page_requests" "answers_share";
    /// SMMUv3: a stalled transaction that was refused is tried again.
    SmmuStallRetried => real "page_requests" "answers_share";
    /// SMMUv3: nothing orders a drain behind the responses.
    SmmuDrainUnordered => real "page_requests" "a_drain_pushes";
    /// SMMUv3: a drain pushes nothing that is on its way.
    SmmuDrainWithoutDevice => real "page_requests" "a_drain_pushes";
    /// SMMUv3: transactions of a device that goes stay stalled.
    SmmuStallsLeft => real "page_requests" "a_stalling_device_that_goes";
    /// SMMUv3: a blocked context descriptor still stalls.
    SmmuBlockStalls => real "page_requests" "entries_say";
    /// SMMUv3: a guest's command keeps the VMID that the guest wrote.
    SmmuGuestTagForgotten => real "guest" "any_command";
    /// SMMUv3: a guest's command keeps the StreamID that the guest wrote.
    SmmuGuestStreamKept => real "guest" "any_command";
    /// SMMUv3: a guest's own words are passed on, with VMID and StreamID replaced.
    SmmuGuestWordsPassedOn => real "guest" "any_command";
}
