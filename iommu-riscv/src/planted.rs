//! The mistakes that can be planted in this driver, and the tests that notice each.

iommu_core::planted_faults! {
    /// RISC-V: an invalidation leaves out the device TLBs.
    RiscvDeviceTlbLeftOut => real "unit" "invalidation::";
    /// RISC-V: an invalidation leaves out the IOATC.
    RiscvIotlbLeftOut => real "unit" "invalidation::";
    /// RISC-V: a device TLB is told before the IOATC is done.
    RiscvDeviceTlbNotDelayed => real "unit" "invalidation::the_iotlb_is_done";
    /// RISC-V: an address-specific invalidation is used though entries above the leaves changed.
    RiscvLeavesOnly => real "unit" "invalidation::when_tables_changed";
    /// RISC-V: an aligned block is encoded as half of it.
    RiscvBlockShort => real "unit" "invalidation::";
    /// RISC-V: page by page, the last page is left out.
    RiscvLastPageMissing => real "unit" "invalidation::leaves_go";
    /// RISC-V: global mappings are kept though the range lies in the kernel's half.
    RiscvGlobalKept => real "unit" "invalidation::a_range_of_the_kernels_half";
    /// RISC-V: an IOTINVAL names another PSCID.
    RiscvWrongTag => real "unit" "invalidation:: devices::";
    /// RISC-V: an ATS.INVAL names another process id.
    RiscvWrongProcess => real "unit" "invalidation::a_device_tlb";
    /// RISC-V: an ATS.INVAL names another device.
    RiscvWrongDevice => real "unit" "invalidation::a_device_tlb";
    /// RISC-V: an ATS.INVAL for a PASID asks without one.
    RiscvTaggedAsUntagged => real "unit" "invalidation::a_device_tlb";
    /// RISC-V: a process context that changes is not taken out of the cache.
    RiscvProcessContextKept => real "unit" "devices::";
    /// RISC-V: a process context that changes leaves its translations in the IOATC.
    RiscvIotlbKept => real "unit" "devices::";
    /// RISC-V: a process context that is blocked leaves its translations in the device TLB.
    RiscvDeviceTlbKept => real "unit" "devices::blocking devices::an_untagged";
    /// RISC-V: a device context that goes is not taken out of the cache.
    RiscvDeviceContextKept => real "unit" "devices::disabling";
    /// RISC-V: a device context that goes leaves its translations in the IOATC.
    RiscvBelowDeviceKept => real "unit" "devices::disabling";
    /// RISC-V: what was translated through an entry goes in one list with the entry.
    RiscvBelowNotDelayed => real "unit" "devices::";
    /// RISC-V: the word with the valid bit is stored first.
    RiscvValidFirst => real "unit" "devices::the_valid_word";
    /// RISC-V: a context's other words are cleared before its valid bit.
    RiscvRestClearedFirst => real "unit" "devices::the_valid_word";
    /// RISC-V: a new branch of a directory is linked before its pages are filled.
    RiscvBranchLinkedFirst => real "unit" "devices::the_valid_word";
    /// RISC-V: blocking leaves the valid bit set.
    RiscvBlockLeavesValid => real "unit" "devices::blocking";
    /// RISC-V: blocking invalidates nothing.
    RiscvBlockKeepsCaches => real "unit" "devices::blocking";
    /// RISC-V: what was cached before the driver came is not invalidated.
    RiscvInheritedKept => real "unit" "probe::everything_inherited";
    /// RISC-V: an IOFENCE.C does not wait for the device's reads and writes (PR, PW).
    RiscvFenceWithoutWrites => real "unit" "invalidation::a_page_is_one";
    /// RISC-V: a process context has the PSCID 0, not that of its tag.
    RiscvContextWithoutTag => real "unit" "devices::attaching";
    /// RISC-V: a process context lets requests run with supervisor privilege (ENS).
    RiscvSupervisorAllowed => real "unit" "devices::attaching";
    /// RISC-V: a device context has the IOMMU update accessed and dirty bits unasked (SADE).
    RiscvAccessedDirtyUpdated => real "unit" "devices::the_context_says devices::enabling";
    /// RISC-V: a quarantine leaves the device context valid.
    RiscvQuarantineKeepsEntry => real "unit" "quarantine::";
    /// RISC-V: a quarantine leaves what was cached through the device context.
    RiscvQuarantineKeepsCaches => real "unit" "quarantine::";
    /// RISC-V: lists leave a device out before the hardware has forgotten its context.
    RiscvQuarantineTooEarly => real "unit" "quarantine::a_device_that_could_not_be_cut_off";
    /// RISC-V: the TLB of a device in quarantine is invalidated on detach.
    RiscvQuarantinedAsked => real "unit" "quarantine::";
    /// RISC-V: a device that was restored is still left out of lists.
    RiscvRestoreLeavesOut => real "unit" "quarantine::";
    /// RISC-V: fault records that were taken are not given back.
    RiscvFaultsKept => real "unit" "faults::";
    /// RISC-V: an overflow of the fault queue is not acknowledged.
    RiscvOverflowKept => real "unit" "faults::an_overflow";
    /// RISC-V: a time-out of a device is acknowledged and told to nobody.
    RiscvTimeoutIgnored => real "unit" "an_error_is_told_to_its_own_list";
    /// RISC-V: the command queue is restarted while its register is busy.
    RiscvBusyIgnored => real "unit" "quarantine::a_silent_device";
    /// RISC-V: a time-out is not acknowledged.
    RiscvTimeoutKept => real "unit" "an_error_is_told_to_its_own_list";
    /// RISC-V: page requests that were taken are not given back.
    RiscvPageRequestsKept => real "unit" "page_requests::requests_are_taken";
    /// RISC-V: an overflow of the page-request queue is not acknowledged.
    RiscvPageOverflowKept => real "unit" "page_requests::an_overflow";
    /// RISC-V: an overflow of the page-request queue is told while requests are in it.
    RiscvPageOverflowEarly => real "unit" "page_requests::an_overflow";
    /// RISC-V: a group that was refused is answered as resolved.
    RiscvRefusedAsResolved => real "unit" "page_requests::responses_share";
    /// RISC-V: a response has no PASID though the device wants it.
    RiscvResponseWithoutPasid => real "unit" "page_requests::responses_share";
    /// RISC-V: nothing orders a drain behind the responses.
    RiscvDrainUnordered => real "unit" "page_requests::a_drain_fences";
    /// RISC-V: a drain pushes nothing that is on its way.
    RiscvDrainWithoutDevice => real "unit" "page_requests::a_drain_fences";
    /// RISC-V: a guest's command keeps the GSCID that the guest wrote, or none.
    RiscvGuestTagForgotten => real "unit" "guest::any_command";
    /// RISC-V: a guest's command keeps the device id that the guest wrote.
    RiscvGuestDeviceKept => real "unit" "guest::any_command";
    /// RISC-V: a guest's own words are passed on, with GSCID and device id replaced.
    RiscvGuestWordsPassedOn => real "unit" "guest::any_command";
}
