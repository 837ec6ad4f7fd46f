//! What one address space is attached to, and the notifier that keeps it coherent.

use super::{BindError, UnbindError};
use crate::Range;
use crate::error::{AttachError, QueueError};
use crate::flush::{Failed, flush_each, serve_alone};
use crate::ids::{DeviceId, Pasid, Tag};
use crate::invalidation_set::{Attachment, InvalidationSet, Replaced, is_same};
use crate::iommu::Iommu;
use crate::operation::{Invalidation, Levels, Target};
use crate::page_request::{PageRequestHandler, PageRequests, RouteError};
use crate::page_table::PageTable;
use crate::planted::{self, Fault};
use crate::primitive::Mutex;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::DerefMut;
use core::sync::atomic::{AtomicU64, Ordering};
use core_notifier::{Notifier, NotifierKind, Srcu};

/// An invalidation that the hardware did not confirm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The address space, by its PASID.
    pub pasid: Pasid,
    /// The virtual addresses, in bytes, whose old translations may live on.
    pub range: Range,
    /// What went wrong.
    pub error: QueueError,
}

/// Who is told that an invalidation failed.
///
/// From then on, and until [`SvaSpace::settle`](super::SvaSpace::settle) has succeeded, the kernel
/// must not reuse any frame that it takes from the address space, nor the page table if the range is
/// everything; [`SvaSpace::is_settled`](super::SvaSpace::is_settled) says where that stands. The call
/// may come with interrupts off and from within a notification; it must not sleep and must not call
/// back into the framework.
///
/// A device that does not answer ([`QueueError::DeviceTimeout`], which names it) is told of once, by
/// the first address space whose invalidation it leaves unanswered, and again only after it was
/// restored.
pub trait FailureHandler: Send + Sync {
    /// The old translations of `failure.range` may still be in use.
    fn invalidation_failed(&self, failure: Failure);
}

/// Devices that do not answer, with their IOMMUs.
type Silent = Vec<(Arc<dyn Iommu>, DeviceId)>;

/// One address space's bindings. It is the notifier that the address space calls.
pub(super) struct Domain {
    table: PageTable,
    pasid: Pasid,
    set: InvalidationSet,
    failures: Arc<dyn FailureHandler>,
    state: Mutex<State>,
    /// Invalidations that failed.
    failed: AtomicU64,
    /// How many of them were made up for.
    settled: AtomicU64,
}

#[derive(Default)]
struct State {
    released: bool,
    bindings: Vec<Binding>,
}

struct Binding {
    iommu: Arc<dyn Iommu>,
    attachment: Attachment,
    resolver: Option<Resolver>,
}

/// Who resolves the page requests of a binding.
#[derive(Clone)]
pub(super) struct Resolver {
    pub(super) page_requests: Arc<PageRequests>,
    pub(super) handler: Arc<dyn PageRequestHandler>,
}

impl Binding {
    fn is(&self, iommu: &Arc<dyn Iommu>, device: DeviceId, pasid: Pasid) -> bool {
        let Attachment {
            device: its,
            pasid: with,
            ..
        } = self.attachment;
        is_same(&self.iommu, iommu) && its == device && with == pasid
    }

    /// Lets the IOMMU translate, and then page requests come.
    fn program(&self, table: &PageTable) -> Result<(), BindError> {
        let Attachment {
            device, pasid, tag, ..
        } = self.attachment;
        if planted::is(Fault::HandlerPublishedEarly) {
            self.publish()?;
            return Ok(self.iommu.attach(device, pasid, tag, table)?);
        }
        self.iommu.attach(device, pasid, tag, table)?;
        if let Err(error) = self.publish() {
            if let (Some(resolver), true) = (&self.resolver, planted::is(Fault::RollbackUnroutes)) {
                resolver.page_requests.unroute(device, pasid);
            }
            if !planted::is(Fault::RollbackLeavesAttached) {
                self.iommu.detach(device, pasid)?;
            }
            return Err(error.into());
        }
        Ok(())
    }

    /// Hands page requests to their handler from now on, if there is one.
    fn publish(&self) -> Result<(), RouteError> {
        let Attachment { device, pasid, .. } = self.attachment;
        match &self.resolver {
            Some(Resolver {
                page_requests,
                handler,
            }) => page_requests.route(device, pasid, handler.clone()),
            None => Ok(()),
        }
    }

    /// Blocks the entry, takes what was cached through it out, and refuses further page requests.
    fn block(&self) -> Result<(), AttachError> {
        let Attachment { device, pasid, .. } = self.attachment;
        let result = self.iommu.block(device, pasid);
        if let Some(resolver) = &self.resolver
            && !planted::is(Fault::HandlerKeptAtExit)
        {
            resolver.page_requests.unroute(device, pasid);
        }
        result
    }

    /// Everything that undoes [`program`](Self::program), in the order of its reverse.
    fn clear(&self) -> Result<(), AttachError> {
        let Attachment { device, pasid, .. } = self.attachment;
        if let Some(resolver) = &self.resolver {
            if planted::is(Fault::DrainBeforeBlock) {
                resolver.page_requests.drain(device, pasid)?;
            }
            self.block()?;
            if !planted::is(Fault::DrainLeftOut) {
                resolver.page_requests.drain(device, pasid)?;
            }
        }
        self.iommu.detach(device, pasid)
    }
}

impl Domain {
    pub(super) fn new(
        srcu: Arc<Srcu>,
        table: PageTable,
        pasid: Pasid,
        failures: Arc<dyn FailureHandler>,
    ) -> Self {
        Self {
            table,
            pasid,
            set: InvalidationSet::new(srcu),
            failures,
            state: Mutex::new(State::default()),
            failed: AtomicU64::new(0),
            settled: AtomicU64::new(0),
        }
    }

    pub(super) fn pasid(&self) -> Pasid {
        self.pasid
    }

    pub(super) fn bind(
        &self,
        iommu: &Arc<dyn Iommu>,
        device: DeviceId,
        pasid: Pasid,
        resolver: Option<Resolver>,
    ) -> Result<(), BindError> {
        let (result, replaced) = self.try_bind(iommu, device, pasid, resolver);
        // Waits for the flushes that do not know of the device.
        drop(replaced);
        let Some(target) = result? else {
            return Ok(());
        };
        // While such a flush was under way, the device may have filled its TLB out of the IOTLB with
        // what the flush then took out of the IOTLB alone.
        let everything = Invalidation {
            targets: &[target],
            range: Range::ALL,
            levels: Levels::All,
        };
        serve_alone(iommu, &everything).map_err(|error| {
            let _ = self.unbind(iommu, device, pasid);
            AttachError::Queue(error).into()
        })
    }

    /// Binds, and says which device TLB may hold something stale: that of a device which shares IOTLB
    /// entries with one that was bound before. Hands out the replaced sets to be dropped without the lock, as their drop waits
    /// for notifications and `release` takes the lock in one.
    fn try_bind(
        &self,
        iommu: &Arc<dyn Iommu>,
        device: DeviceId,
        pasid: Pasid,
        resolver: Option<Resolver>,
    ) -> (Result<Option<Target>, BindError>, [Option<Replaced>; 2]) {
        let (mut state, attachment) = match self.prepared(iommu, device, pasid) {
            Ok(prepared) => prepared,
            Err(error) => return (Err(error), [None, None]),
        };
        let add = || Some(self.set.add(iommu, attachment));
        let late = planted::is(Fault::SetChangedAfterAttach);
        let mut added = if late { None } else { add() };
        let binding = Binding {
            iommu: iommu.clone(),
            attachment,
            resolver,
        };
        let shares = state.tag(iommu).is_some() && attachment.device_tlb;
        let stale = shares && !planted::is(Fault::SharedEntriesTrusted);
        let programmed = binding.program(&self.table);
        if late {
            added = add();
        }
        match programmed {
            Ok(()) => {
                state.bindings.push(binding);
                let stale = stale.then_some(Target::DeviceTlb { device, pasid });
                (Ok(stale), [added, None])
            }
            Err(error) => {
                let kept = planted::is(Fault::RollbackKeepsTargets);
                let removed = (!kept).then(|| self.set.remove(iommu, attachment));
                if state.tag(iommu) != Some(attachment.tag) || planted::is(Fault::RollbackFreesTag)
                {
                    iommu.free_tag(attachment.tag);
                }
                (Err(error), [added, removed])
            }
        }
    }

    /// The lock, which is held until the device is bound, and what it will be bound as.
    fn prepared(
        &self,
        iommu: &Arc<dyn Iommu>,
        device: DeviceId,
        pasid: Pasid,
    ) -> Result<(impl DerefMut<Target = State>, Attachment), BindError> {
        let mut state = self.state.lock();
        let attachment = self.prepare(&state, iommu, device, pasid)?;
        if planted::is(Fault::ReleaseCheckedBeforehand) {
            drop(state);
            state = self.state.lock();
        }
        Ok((state, attachment))
    }

    /// Every check that needs no change, and then a tag.
    fn prepare(
        &self,
        state: &State,
        iommu: &Arc<dyn Iommu>,
        device: DeviceId,
        pasid: Pasid,
    ) -> Result<Attachment, BindError> {
        if state.released {
            return Err(BindError::Released);
        }
        if state
            .bindings
            .iter()
            .any(|binding| binding.is(iommu, device, pasid))
        {
            return Err(BindError::AlreadyBound { device, pasid });
        }
        iommu.check(&self.table).map_err(AttachError::from)?;
        let config = iommu
            .device_config(device)
            .ok_or(AttachError::UnknownDevice(device))?;
        if iommu.is_quarantined(device) {
            return Err(BindError::Quarantined(device));
        }
        let tag = match state.tag(iommu) {
            Some(tag) => tag,
            None => iommu.allocate_tag()?,
        };
        Ok(Attachment {
            device,
            pasid,
            tag,
            device_tlb: config.device_tlb,
        })
    }

    pub(super) fn unbind(
        &self,
        iommu: &Arc<dyn Iommu>,
        device: DeviceId,
        pasid: Pasid,
    ) -> Result<(), UnbindError> {
        let mut state = self.state.lock();
        let at = state
            .bindings
            .iter()
            .position(|binding| binding.is(iommu, device, pasid))
            .ok_or(UnbindError::NotBound { device, pasid })?;
        if planted::is(Fault::SetChangedBeforeDetach) {
            drop(self.set.remove(iommu, state.bindings[at].attachment));
        }
        if !(pasid.is_untagged() && planted::is(Fault::UnbindForgetsUntagged)) {
            let clear = || state.bindings[at].clear();
            let cleared = self.contain(iommu, device, clear);
            if !planted::is(Fault::UnconfirmedBindingForgotten) {
                cleared.map_err(UnbindError::Detach)?;
            }
        }
        let binding = state.bindings.swap_remove(at);
        let attachment = binding.attachment;
        let removed = self.set.remove(iommu, attachment);
        let last = state.tag(iommu) != Some(attachment.tag) || planted::is(Fault::TagFreedInUse);
        drop(state);
        // Waits for the flushes under way: after that nothing is sent to the device any more, and
        // nothing is invalidated under a tag that somebody else may get.
        drop(removed);
        if last {
            iommu.free_tag(attachment.tag);
        }
        Ok(())
    }

    /// Unbinds everything; false if some hardware did not confirm.
    pub(super) fn unbind_all(&self) -> bool {
        let mut clean = true;
        let mut skip = 0;
        loop {
            let next = self.state.lock().bindings.get(skip).map(|binding| {
                let Attachment { device, pasid, .. } = binding.attachment;
                (binding.iommu.clone(), device, pasid)
            });
            let Some((iommu, device, pasid)) = next else {
                return clean;
            };
            if let Err(UnbindError::Detach(error)) = self.unbind(&iommu, device, pasid) {
                self.report(Range::ALL, error);
                (clean, skip) = (false, skip + 1);
            }
        }
    }

    fn invalidate(&self, range: Range, levels: Levels) {
        flush_each(&self.set, range, levels, &mut |failed| {
            self.failed.fetch_add(1, Ordering::AcqRel);
            if failed.is_news || planted::is(Fault::FailureToldAgain) {
                self.report(range, AttachError::Queue(failed.error));
            }
        });
    }

    /// Does `operation`, which sends something to the TLB of `device`; if that does not answer, after
    /// the device was cut off.
    fn contain(
        &self,
        iommu: &Arc<dyn Iommu>,
        device: DeviceId,
        operation: impl Fn() -> Result<(), AttachError>,
    ) -> Result<(), AttachError> {
        const ATTEMPTS: usize = 3;
        let mut result = operation();
        for _ in 1..ATTEMPTS {
            let Err(AttachError::Queue(error)) = result else {
                break;
            };
            match error {
                QueueError::DeviceTimeout {
                    device: Some(other),
                } if other != device => {}
                QueueError::DeviceTimeout { .. } => {
                    if iommu.suspect(device) {
                        let device = Some(device);
                        let error = QueueError::DeviceTimeout { device };
                        self.report(Range::ALL, AttachError::Queue(error));
                    }
                    iommu.quarantine(device)?;
                }
                QueueError::Aborted => {}
                _ => break,
            }
            result = operation();
        }
        result
    }

    /// Whether no invalidation is left that failed.
    pub(super) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire) == self.failed.load(Ordering::Acquire)
    }

    /// Cuts off every device that does not answer, and makes up for what failed.
    pub(super) fn settle(&self) -> Result<(), AttachError> {
        let bindings = self.state.lock().bindings.len();
        let failed = self.failed.load(Ordering::Acquire);
        if self.settled.load(Ordering::Acquire) == failed {
            return Ok(());
        }
        // Each round but the last cuts off at least one device.
        for _ in 0..=bindings {
            let silent = self.flush_everything()?;
            if silent.is_empty() {
                self.settled.fetch_max(failed, Ordering::AcqRel);
                return Ok(());
            }
            for (iommu, device) in silent {
                iommu.quarantine(device)?;
            }
        }
        Err(AttachError::Queue(QueueError::Aborted))
    }

    /// Takes everything out of every cache; returns the devices that do not answer.
    fn flush_everything(&self) -> Result<Silent, QueueError> {
        let mut silent = Silent::new();
        let mut result = Ok(());
        let mut note = |Failed { iommu, error, .. }: Failed<'_>| match error {
            QueueError::DeviceTimeout {
                device: Some(device),
            } => silent.push((iommu.clone(), device)),
            error => result = result.and(Err(error)),
        };
        flush_each(&self.set, Range::ALL, Levels::All, &mut note);
        result.map(|()| silent)
    }

    /// Tells of a failure of the hardware; other errors leave nothing stale behind.
    fn report(&self, range: Range, error: AttachError) {
        if let AttachError::Queue(error) = error
            && !planted::is(Fault::FailureNotReported)
        {
            self.failures.invalidation_failed(Failure {
                pasid: self.pasid,
                range,
                error,
            });
        }
    }
}

impl State {
    /// The tag that the address space has on an IOMMU.
    fn tag(&self, iommu: &Arc<dyn Iommu>) -> Option<Tag> {
        self.bindings
            .iter()
            .find(|binding| is_same(&binding.iommu, iommu))
            .map(|binding| binding.attachment.tag)
    }
}

impl Notifier for Domain {
    /// The IOMMU walks the CPU's page table and keeps no copy of it.
    fn kind(&self) -> NotifierKind {
        NotifierKind::SecondaryTlb
    }

    /// Blocks every device, quietly, so that the page table can be freed. Idempotent.
    fn release(&self) {
        let mut state = self.state.lock();
        state.released = true;
        for binding in &state.bindings {
            let forgotten = planted::is(Fault::ReleaseNotBlocking)
                || planted::is(Fault::ReleaseForgetsUntagged)
                    && binding.attachment.pasid.is_untagged();
            if forgotten {
                continue;
            }
            let (iommu, device) = (&binding.iommu, binding.attachment.device);
            if let Err(error) = self.contain(iommu, device, || binding.block()) {
                self.report(Range::ALL, error);
            }
        }
    }

    /// The accessed bits are in the shared page table, so the answer is the CPU's; the translations
    /// go, so that the next access sets the bit again.
    fn clear_flush_young(&self, range: Range) -> bool {
        self.invalidate(range, Levels::LeafOnly);
        false
    }

    fn invalidate_range(&self, range: Range) {
        self.invalidate(range, Levels::All);
    }
}
