//! Address-space notifiers for `no_std` kernels and hypervisors.
//!
//! A device that walks the CPU's page table caches what it finds there. Whoever changes the table
//! tells the [`AddressSpace`], which tells every subscribed [`Notifier`]; a notifier drops what its
//! hardware cached. The operations and their meaning are those of Linux's `mm/mmu_notifier.c`, as of
//! 2017 and as of today, on top of a sleepable read-copy-update of our own ([`Srcu`]).
//!
//! - Notifying takes no lock, allocates nothing and is legal with interrupts off. Without a
//!   subscriber it costs one relaxed load.
//! - After [`AddressSpace::unregister`] or [`AddressSpace::release`] has returned, no callback of
//!   the notifiers concerned runs or will run.
//! - What Linux answers with `BUG_ON` is a typed error here.
//!
//! # Example
//!
//! ```
//! use core::sync::atomic::{AtomicU64, Ordering};
//! use std::sync::{Arc, Mutex, MutexGuard};
//!
//! use core_notifier::{AddressSpace, AddressSpaceLock, Notifier, Range, Srcu};
//!
//! /// The kernel's lock over one address space.
//! struct MemoryMapLock(Mutex<()>);
//!
//! impl AddressSpaceLock for MemoryMapLock {
//!     type Guard<'a> = MutexGuard<'a, ()>;
//!     fn lock(&self) -> MutexGuard<'_, ()> {
//!         self.0.lock().unwrap()
//!     }
//! }
//!
//! /// Counts the bytes that a device would have to forget.
//! #[derive(Default)]
//! struct DeviceTlb(AtomicU64);
//!
//! impl Notifier for DeviceTlb {
//!     fn invalidate_range(&self, range: Range) {
//!         self.0.fetch_add(range.end() - range.start(), Ordering::Relaxed);
//!     }
//! }
//!
//! let lock = MemoryMapLock(Mutex::new(()));
//! let space = AddressSpace::new(Arc::new(Srcu::new()));
//! let tlb = Arc::new(DeviceTlb::default());
//! let notifier: Arc<dyn Notifier> = tlb.clone();
//!
//! space.register(&lock, notifier.clone())?;
//! space.invalidate_range(Range::new(0x1000, 0x3000)?);
//! assert_eq!(tlb.0.load(Ordering::Relaxed), 0x2000);
//!
//! space.unregister(&notifier)?;
//! space.invalidate_range(Range::ALL);
//! assert_eq!(tlb.0.load(Ordering::Relaxed), 0x2000);
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
//!
//! The page `notifier.md` of the project's book maps every function of the C file to ours and gives
//! the memory-order argument.
#![no_std]

extern crate alloc;
#[cfg(any(test, planted))]
extern crate std;

mod address_space;
mod error;
mod event;
mod hooks;
mod interval;
mod list;
mod notifier;
mod passes;
#[doc(hidden)]
pub mod plant;
#[cfg(not(planted))]
mod planted;
#[cfg(planted)]
pub mod planted;
mod primitive;
mod range;
mod retired;
mod shared;
mod srcu;

pub use address_space::{AddressSpace, AddressSpaceLock, Batch, OpenInvalidation};
pub use error::{
    GetError, InsertError, InvertedRange, RangeOverflow, RegisterError, RemoveError, Stalled,
    UnregisterError, WaitError, WouldBlock,
};
pub use event::{Event, Invalidation, Owner};
pub use hooks::{AddressSpaceHooks, Misuse};
pub use interval::{IntervalNotifier, IntervalSubscription, ReadSequence};
pub use notifier::{Notifier, NotifierKind};
pub use passes::{Progress, Token};
pub use range::Range;
pub use srcu::{
    Checked, Context, Counters, Fenced, GracePeriod, Hooked, Hooks, Mode, Published, Reader,
    Retired, Srcu, SrcuDomains, SrcuGuard,
};
