//! Notifiers that write down what they see.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::Mutex;

use core_notifier::{
    AddressSpaceHooks, Invalidation, Misuse, Notifier, NotifierKind, Progress, Range, Token,
    WouldBlock,
};

/// What a notifier was called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Start,
    Refused,
    Finish,
    End,
    Ranges,
    FinishRanges,
    Release,
}

/// What happened, in order, with the name of whom it happened to.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Vec<(char, Seen)>>>);

impl Trace {
    pub fn push(&self, name: char, seen: Seen) {
        self.0.lock().unwrap().push((name, seen));
    }

    pub fn take(&self) -> Vec<(char, Seen)> {
        core::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// A shadow table that refuses and works in two passes as it is told to.
pub struct Shadow {
    pub name: char,
    pub trace: Trace,
    pub refuses: AtomicBool,
    pub pending: bool,
    pub last: Mutex<Option<Invalidation>>,
}

impl Shadow {
    pub fn create(name: char, trace: &Trace) -> Arc<Shadow> {
        Arc::new(Shadow {
            name,
            trace: trace.clone(),
            refuses: AtomicBool::new(false),
            pending: false,
            last: Mutex::new(None),
        })
    }

    pub fn refusing(name: char, trace: &Trace) -> Arc<Shadow> {
        let shadow = Shadow::create(name, trace);
        shadow.refuses.store(true, SeqCst);
        shadow
    }
}

impl Notifier for Shadow {
    fn kind(&self) -> NotifierKind {
        NotifierKind::ShadowTable
    }

    fn start_invalidation(
        &self,
        invalidation: &Invalidation,
        token: &mut Token,
    ) -> Result<Progress, WouldBlock> {
        *self.last.lock().unwrap() = Some(*invalidation);
        if self.refuses.load(SeqCst) {
            self.trace.push(self.name, Seen::Refused);
            return Err(WouldBlock);
        }
        self.trace.push(self.name, Seen::Start);
        token.words[0] = u64::from(u32::from(self.name));
        Ok(match self.pending {
            true => Progress::Pending,
            false => Progress::Complete,
        })
    }

    fn finish_start(&self, _invalidation: &Invalidation, token: &mut Token) {
        assert_eq!(
            token.words[0],
            u64::from(u32::from(self.name)),
            "not its token"
        );
        self.trace.push(self.name, Seen::Finish);
    }

    fn end_invalidation(&self, invalidation: &Invalidation) {
        let started = self.last.lock().unwrap().map(|start| start.range());
        assert_eq!(started, Some(invalidation.range()));
        self.trace.push(self.name, Seen::End);
    }

    fn invalidate_range(&self, _range: Range) {
        self.trace.push(self.name, Seen::Ranges);
    }

    fn release(&self) {
        self.trace.push(self.name, Seen::Release);
    }
}

/// A secondary TLB that works in two passes or one.
pub struct Tlb {
    pub name: char,
    pub trace: Trace,
    pub two_passes: bool,
    pub caches_refusals: bool,
    pub told: Mutex<Vec<Range>>,
}

impl Tlb {
    pub fn create(name: char, trace: &Trace, two_passes: bool) -> Arc<Tlb> {
        Arc::new(Tlb {
            name,
            trace: trace.clone(),
            two_passes,
            caches_refusals: true,
            told: Mutex::default(),
        })
    }

    pub fn take_told(&self) -> Vec<Range> {
        core::mem::take(&mut *self.told.lock().unwrap())
    }
}

impl Notifier for Tlb {
    fn kind(&self) -> NotifierKind {
        NotifierKind::SecondaryTlb
    }

    fn has_two_passes(&self) -> bool {
        self.two_passes
    }

    fn caches_refusals(&self) -> bool {
        self.caches_refusals
    }

    fn invalidate_range(&self, range: Range) {
        assert!(!self.two_passes, "one pass of a notifier of two");
        self.told.lock().unwrap().push(range);
        self.trace.push(self.name, Seen::Ranges);
    }

    fn begin_invalidate_ranges(&self, ranges: &[Range], token: &mut Token) -> Progress {
        self.told.lock().unwrap().extend_from_slice(ranges);
        self.trace.push(self.name, Seen::Ranges);
        token.words = [u64::from(u32::from(self.name)); 8];
        Progress::Pending
    }

    fn finish_invalidate_ranges(&self, ranges: &[Range], token: &mut Token) {
        let told = self.told.lock().unwrap();
        assert!(told.ends_with(ranges), "the passes differ in their ranges");
        assert_eq!(
            token.words,
            [u64::from(u32::from(self.name)); 8],
            "not its token"
        );
        self.trace.push(self.name, Seen::FinishRanges);
    }

    fn invalidate_range_start(&self, _range: Range) {
        self.trace.push(self.name, Seen::Start);
    }

    fn invalidate_range_end(&self, _range: Range) {
        self.trace.push(self.name, Seen::End);
    }

    fn release(&self) {
        self.trace.push(self.name, Seen::Release);
    }
}

/// A kernel that counts.
#[derive(Default)]
pub struct Kernel {
    pub non_blocking: AtomicUsize,
    pub entered: AtomicUsize,
    pub wakes: AtomicUsize,
    pub waits: AtomicUsize,
    pub misuses: Mutex<Vec<Misuse>>,
}

impl Kernel {
    pub fn create() -> &'static Kernel {
        Box::leak(Box::default())
    }

    /// What a kernel's sleeping functions call first.
    pub fn might_sleep(&self) {
        assert_eq!(
            self.non_blocking.load(SeqCst),
            0,
            "sleeping where it is not allowed"
        );
    }

    pub fn take_misuses(&self) -> Vec<Misuse> {
        core::mem::take(&mut *self.misuses.lock().unwrap())
    }
}

impl AddressSpaceHooks for Kernel {
    fn wait(&self, done: &dyn Fn() -> bool) {
        self.waits.fetch_add(1, SeqCst);
        while !done() {
            std::thread::yield_now();
        }
    }

    fn wake(&self) {
        self.wakes.fetch_add(1, SeqCst);
    }

    fn enter_non_blocking(&self) {
        self.non_blocking.fetch_add(1, SeqCst);
        self.entered.fetch_add(1, SeqCst);
    }

    fn leave_non_blocking(&self) {
        self.non_blocking.fetch_sub(1, SeqCst);
    }

    fn report(&self, misuse: Misuse) {
        self.misuses.lock().unwrap().push(misuse);
    }
}
