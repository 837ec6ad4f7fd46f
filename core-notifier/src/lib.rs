//! Address-space notifiers for no_std kernels: SRCU and the operations of Linux's mmu_notifier
#![no_std]
