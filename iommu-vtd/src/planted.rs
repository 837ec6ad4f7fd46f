//! The mistakes that can be planted in this driver, and the tests that notice each.

iommu_core::planted_faults! {
    /// VT-d: an invalidation leaves out the device TLBs.
    VtdDeviceTlbLeftOut => real "unit" "submit::";
    /// VT-d: an invalidation leaves out the IOTLBs.
    VtdIotlbLeftOut => real "unit" "submit::";
    /// VT-d: an invalidation goes to the device TLBs before the IOTLBs.
    VtdDeviceTlbFirst => real "unit" "submit::";
    /// VT-d: nothing orders the device TLBs behind the IOTLBs.
    VtdFenceLeftOut => real "unit" "submit::";
    /// VT-d: a page-selective invalidation covers half of its block (AM).
    VtdAddressMaskShort => real "unit golden" "submit:: lists_cover";
    /// VT-d: a device-TLB invalidation covers half of its block (ADDR and S).
    VtdDeviceTlbSizeShort => real "unit golden" "submit:: lists_cover";
    /// VT-d: IH is set although entries above the leaves changed.
    VtdLeafHintAlways => real "unit" "submit::one_page";
    /// VT-d: an IOTLB invalidation names another domain-id.
    VtdWrongDomain => real "unit" "submit::one_page attach::";
    /// VT-d: an IOTLB invalidation names another PASID.
    VtdWrongIotlbPasid => real "unit" "submit::one_page";
    /// VT-d: a device-TLB invalidation names another PASID.
    VtdWrongDeviceTlbPasid => real "unit" "submit::the_device_tlb_follows";
    /// VT-d: a device-TLB invalidation names another device.
    VtdWrongDevice => real "unit" "submit::the_device_tlb_follows";
    /// VT-d: translations requested without a PASID are invalidated as those of PASID 0.
    VtdUntaggedAsTagged => real "unit" "attach::untagged";
    /// VT-d: a PASID entry that goes is not taken out of the PASID cache.
    VtdPasidCacheKept => real "unit" "attach::block attach::detach";
    /// VT-d: a PASID entry that goes leaves its translations in the IOTLB.
    VtdIotlbKept => real "unit" "attach::block attach::detach";
    /// VT-d: a PASID entry that goes leaves its translations in the device TLB.
    VtdDeviceTlbKept => real "unit" "attach::block attach::detach";
    /// VT-d: a context entry that goes is not taken out of the context cache.
    VtdContextCacheKept => real "unit" "devices::disable";
    /// VT-d: a context entry that goes leaves what was cached below it.
    VtdBelowContextKept => real "unit" "devices::disable";
    /// VT-d: entries that were cached as not present are not invalidated (CAP.CM).
    VtdNotPresentKept => real "unit" "caching_mode";
    /// VT-d: the word with the present bit is stored first.
    VtdPresentFirst => real "unit" "order::";
    /// VT-d: an entry's other words are cleared before its present bit.
    VtdRestClearedFirst => real "unit" "order::";
    /// VT-d: blocking leaves the present bit set.
    VtdBlockLeavesPresent => real "unit" "attach::block order::";
    /// VT-d: blocking invalidates nothing.
    VtdBlockKeepsCaches => real "unit" "attach::block";
    /// VT-d: what was cached before the driver came is not invalidated.
    VtdInheritedKept => real "unit" "bring_up::probe_invalidates";
    /// VT-d: a required write-buffer flush is left out.
    VtdWriteBufferKept => real "unit" "devices::a_required_write_buffer_flush";
    /// VT-d: a PASID entry has the domain-id 0, not that of its tag.
    VtdEntryWithoutDomain => real "unit" "attach::";
    /// VT-d: a PASID entry lets requests run with supervisor privilege (SRE).
    VtdSupervisorAllowed => real "unit" "attach::";
    /// VT-d: a PASID entry tells walks not to snoop though the tables are not cleaned (PWSNP).
    VtdWalkNotSnooped => real "unit" "attach::";
    /// VT-d: a quarantine leaves the context entry present.
    VtdQuarantineKeepsEntry => real "unit" "quarantine::";
    /// VT-d: a quarantine leaves what was cached through the context entry.
    VtdQuarantineKeepsCaches => real "unit" "quarantine::";
    /// VT-d: lists leave a device out before the hardware has forgotten its entry.
    VtdQuarantineTooEarly => real "unit" "quarantine::a_device_that_could_not_be_cut_off";
    /// VT-d: the TLB of a device in quarantine is invalidated on detach and on disable.
    VtdQuarantinedAsked => real "unit" "quarantine::";
    /// VT-d: a device that was restored is still left out of lists.
    VtdRestoreLeavesOut => real "unit" "quarantine::";
    /// VT-d: a fault record is not freed.
    VtdRecordKept => real "unit" "faults::";
    /// VT-d: an overflow of the fault records is not acknowledged.
    VtdOverflowKept => real "unit" "faults::an_overflow";
    /// VT-d: a time-out of a device is acknowledged and told to nobody.
    VtdTimeoutIgnored => real "unit" "an_error_is_told_to_its_own_list";
    /// VT-d: a time-out names no device though the hardware does.
    VtdTimeoutWithoutDevice => real "unit" "a_device_that_does_not_answer";
    /// VT-d: a time-out is not acknowledged.
    VtdTimeoutKept => real "unit" "a_device_that_does_not_answer";
    /// VT-d: page requests that were taken are not given back.
    VtdPageRequestsKept => real "unit" "page_requests::requests_are_taken";
    /// VT-d: an overflow of the page-request queue is not acknowledged.
    VtdPageOverflowKept => real "unit" "page_requests::an_overflow";
    /// VT-d: an overflow of the page-request queue is told while requests are in it.
    VtdPageOverflowEarly => real "unit" "page_requests::an_overflow";
    /// VT-d: a group that was refused is answered as resolved.
    VtdRefusedAsResolved => real "unit" "page_requests::responses_share";
    /// VT-d: a response has no PASID though the device wants it.
    VtdResponseWithoutPasid => real "unit" "page_requests::responses_share";
    /// VT-d: a drain does not wait for page requests (PD).
    VtdDrainWithoutFlag => real "unit" "page_requests::a_drain_follows";
    /// VT-d: a drain leaves out the device TLB, whose invalidation pushes requests before it.
    VtdDrainWithoutDevice => real "unit" "page_requests::a_drain_follows";
    /// VT-d: a guest's descriptor keeps the domain-id that the guest wrote.
    VtdGuestTagForgotten => real "unit" "guest::any_command";
    /// VT-d: a guest's descriptor keeps the source-id that the guest wrote.
    VtdGuestSourceKept => real "unit" "guest::any_command";
    /// VT-d: a guest's own words are passed on, with domain-id and source-id replaced.
    VtdGuestWordsPassedOn => real "unit" "guest::any_command";
}
