//! The way of a request: stream table entry, context descriptor, walks, and what becomes of a
//! fault (3.9, 3.12, 5.5).

use super::State;
use super::caches::{Asid, CachedStream, Regime, Tag};
use super::entries::{Ats, Context, SecondStage, Stream};
use super::events::ConfigurationError;
use super::registers::{cr0, cr2, gbpa};
use super::walk::{Class, Fault, FaultKind, Purpose, Space, Want};
use crate::bus::{Access, Permissions, Refusal, Request, Translation};

/// What an entry or descriptor says about a fault: S and R (5.5).
#[derive(Clone, Copy, Debug)]
pub struct Handling {
    pub stalls: bool,
    pub records: bool,
}

/// Why a request got nowhere.
#[derive(Clone, Copy, Debug)]
pub enum Problem {
    /// The stream is disabled: nothing is recorded.
    Silent,
    /// A structure is wrong, or could not be read at the address.
    Configuration(ConfigurationError, Option<u64>),
    /// A walk failed.
    Fault(Fault, Handling),
}

/// Where a request's address goes.
enum Path {
    /// Out as it came.
    Bypass,
    /// Through stage 1, and stage 2 if the space has one.
    First(Space),
    /// Through stage 2 only.
    Second(SecondStage),
}

/// A translation, before anybody is told of it.
struct Reached {
    address: u64,
    log2_size: u8,
    permissions: Permissions,
}

/// Terminated and recorded, whatever the tables say of stalls.
const ALWAYS: Handling = Handling {
    stalls: false,
    records: true,
};

/// How many requests speculation remembers.
const RECENT: usize = 64;

impl State {
    /// [`Hardware::translate`](crate::Hardware::translate).
    pub fn translate(&mut self, request: &Request) -> Result<Translation, Refusal> {
        if !self.registers.enabled(cr0::SMMUEN) {
            return self.bypass_disabled(request);
        }
        self.remember(request);
        let stream = match self.stream(request.device) {
            Ok(stream) => stream,
            Err(problem) => return Err(self.refuse(problem, request, plain(request))),
        };
        let want = self.want(Stream(&stream.words), request, Purpose::Transaction);
        match self.reach(&stream, request, want) {
            Ok(reached) => Ok(reached.translation()),
            Err(problem) => Err(self.refuse(problem, request, want)),
        }
    }

    /// Without SMMUEN, GBPA decides (6.3.9.6, 3.4).
    fn bypass_disabled(&self, request: &Request) -> Result<Translation, Refusal> {
        let wide = request.address >> self.configuration.physical_bits != 0;
        if self.registers.gbpa & gbpa::ABORT != 0 || wide {
            return Err(Refusal::UnsupportedRequest);
        }
        Ok(identity(request.address))
    }

    /// Records a problem of a transaction, or lets the transaction wait.
    fn refuse(&mut self, problem: Problem, request: &Request, want: Want) -> Refusal {
        if let Problem::Fault(fault, handling) = &problem
            && handling.stalls
            && !matches!(fault.kind, FaultKind::WalkAbort(_))
        {
            if let Some(tag) = self.stall(fault, request, want) {
                return Refusal::Stalled(tag.into());
            }
            // 3.12 permits to terminate what is configured to stall, with a record.
            let problem = Problem::Fault(*fault, ALWAYS);
            self.record(problem.record(request, want));
            return Refusal::NotPresent;
        }
        if self.is_recorded(&problem) {
            self.record(problem.record(request, want));
        }
        match problem {
            Problem::Silent => Refusal::UnsupportedRequest,
            Problem::Configuration(..) => Refusal::CompleterAbort,
            Problem::Fault(fault, _) => match fault.kind {
                FaultKind::WalkAbort(_) => Refusal::CompleterAbort,
                _ => Refusal::NotPresent,
            },
        }
    }

    fn is_recorded(&self, problem: &Problem) -> bool {
        match problem {
            Problem::Configuration(ConfigurationError::BadStream, _) => {
                self.registers.cr2 & cr2::RECINVSID != 0
            }
            _ => true,
        }
    }

    /// [`Hardware::translate_for_device`](crate::Hardware::translate_for_device): 3.9.1.2.
    pub fn translate_for_device(&mut self, request: &Request) -> Result<Translation, Refusal> {
        if !self.registers.enabled(cr0::SMMUEN) {
            self.record(Some(super::events::bad_ats_request(request)));
            return Err(Refusal::UnsupportedRequest);
        }
        self.remember(request);
        let stream = self
            .stream(request.device)
            .map_err(|_| Refusal::CompleterAbort)?;
        let entry = Stream(&stream.words);
        if !entry.passes() {
            return Err(Refusal::UnsupportedRequest);
        }
        if entry.ats(&self.configuration) == Ats::Refused {
            self.record(Some(super::events::bad_ats_request(request)));
            return Err(Refusal::UnsupportedRequest);
        }
        let want = self.want(entry, request, Purpose::Grant);
        match self.reach(&stream, request, want) {
            Ok(reached) => self.grant(&stream, request, reached),
            Err(Problem::Fault(fault, _)) => match fault.kind {
                FaultKind::WalkAbort(_) => Err(Refusal::CompleterAbort),
                _ => Err(Refusal::NotPresent),
            },
            Err(Problem::Silent) => Err(Refusal::UnsupportedRequest),
            Err(Problem::Configuration(..)) => Err(Refusal::CompleterAbort),
        }
    }

    /// What a translation completion grants (13.7.1).
    fn grant(
        &self,
        stream: &CachedStream,
        request: &Request,
        reached: Reached,
    ) -> Result<Translation, Refusal> {
        let there = reached.permissions;
        let execute = request.pasid.is_some() && request.access == Access::Execute;
        let (read, execute) = match Stream(&stream.words).overridden(false, &self.configuration) {
            None => (there.read, execute && there.read && there.execute),
            Some(true) => (there.execute, execute && there.execute),
            Some(false) => (there.read, execute && there.read),
        };
        let granted = Permissions {
            read,
            write: there.write,
            execute,
        };
        let wanted = match request.access {
            Access::Execute if request.pasid.is_none() => Access::Read,
            access => access,
        };
        if !granted.permit(wanted) {
            return Err(Refusal::NotPresent);
        }
        Ok(Reached {
            permissions: granted,
            ..reached
        }
        .translation())
    }

    /// [`Hardware::admits_translated`](crate::Hardware::admits_translated): 3.9.1.3.
    pub fn admits_translated(&mut self, device: u32) -> bool {
        let forbidden = Some(super::events::translated_forbidden(device));
        if !self.registers.enabled(cr0::SMMUEN) {
            self.record(forbidden);
            return false;
        }
        let cached = self.caches.streams.get(&device);
        let checks = cached.map_or(self.registers.enabled(cr0::ATSCHK), |stream| {
            stream.checks_translated
        });
        if !checks {
            return true;
        }
        let Ok(stream) = self.stream(device) else {
            return false;
        };
        let entry = Stream(&stream.words);
        if !entry.passes() {
            return false;
        }
        let admitted = entry.ats(&self.configuration) == Ats::Full;
        if !admitted {
            self.record(forbidden);
        }
        admitted
    }

    /// What a request wants, after the overrides (13.1.2, 13.7). A request without a PASID is data
    /// and unprivileged.
    fn want(&self, stream: Stream<'_>, request: &Request, purpose: Purpose) -> Want {
        let plain = plain(request);
        let privileged = stream
            .overridden(true, &self.configuration)
            .unwrap_or(plain.privileged);
        let access = match (plain.access, stream.overridden(false, &self.configuration)) {
            (Access::Write, _) => Access::Write,
            (access, None) => access,
            (_, Some(true)) => Access::Execute,
            (_, Some(false)) => Access::Read,
        };
        Want {
            access,
            privileged,
            purpose,
        }
    }

    fn reach(
        &mut self,
        stream: &CachedStream,
        request: &Request,
        want: Want,
    ) -> Result<Reached, Problem> {
        let entry = Stream(&stream.words);
        let path = self.path(stream, request, want)?;
        let handling_2 = Handling {
            stalls: entry.stage_2_stalls(),
            records: entry.stage_2_records(),
        };
        let address = request.address;
        match path {
            Path::Bypass => {
                self.check_input(address)?;
                let all = identity(address);
                Ok(Reached {
                    address,
                    log2_size: all.size.trailing_zeros() as u8,
                    permissions: all.permissions,
                })
            }
            Path::First(space) => {
                let context = Context(&space.context);
                let handling_1 = Handling {
                    stalls: context.stalls(),
                    records: context.records(),
                };
                let leaf = self.stage_1(&space, address, want).map_err(|fault| {
                    let handling = if fault.stage_2 {
                        handling_2
                    } else {
                        handling_1
                    };
                    Problem::Fault(fault, recorded_always(fault, handling))
                })?;
                Ok(Reached {
                    address: leaf.output | address & ((1 << leaf.log2_size) - 1),
                    log2_size: leaf.log2_size,
                    permissions: leaf.stage_1.and(leaf.stage_2).of(want.privileged),
                })
            }
            Path::Second(second) => {
                self.check_input(address)?;
                let leaf = self
                    .stage_2(&second, address, want, Class::Input)
                    .map_err(|fault| Problem::Fault(fault, recorded_always(fault, handling_2)))?;
                Ok(Reached {
                    address: leaf.output,
                    log2_size: leaf.log2_size,
                    permissions: leaf.rights.of(want.privileged),
                })
            }
        }
    }

    /// An address that stage 1 does not translate must fit the output (3.4).
    fn check_input(&self, address: u64) -> Result<(), Problem> {
        if address >> self.configuration.physical_bits == 0 {
            return Ok(());
        }
        let fault = Fault {
            kind: FaultKind::AddressSize,
            stage_2: false,
            class: Class::Input,
            ipa: 0,
            table_read: false,
        };
        Err(Problem::Fault(fault, ALWAYS))
    }

    /// Which way the entry sends a request (5.2, S1DSS).
    fn path(
        &mut self,
        stream: &CachedStream,
        request: &Request,
        want: Want,
    ) -> Result<Path, Problem> {
        let entry = Stream(&stream.words);
        if !entry.passes() {
            return Err(Problem::Silent);
        }
        let log2_contexts = entry.log2_contexts(&self.configuration);
        let substreams = entry.stage_1() && log2_contexts > 0;
        let index = match (request.pasid, entry.default_substream()) {
            (Some(substream), default) => {
                if !substreams || u64::from(substream) >> log2_contexts != 0 {
                    return Err(configuration(ConfigurationError::BadSubstream));
                }
                if substream == 0 && default == 0b10 {
                    return Err(configuration(ConfigurationError::StreamDisabled));
                }
                Some(substream)
            }
            (None, _) if !substreams => Some(0),
            (None, 0b01) => None,
            (None, 0b10) => Some(0),
            (None, _) => return Err(configuration(ConfigurationError::StreamDisabled)),
        };
        let second = entry
            .stage_2()
            .then(|| entry.second_stage(&self.configuration));
        match (index.filter(|_| entry.stage_1()), second) {
            (Some(index), second) => {
                let space = self.space(stream, request.device, index, second, want)?;
                Ok(Path::First(space))
            }
            (None, Some(second)) => Ok(Path::Second(second)),
            (None, None) => Ok(Path::Bypass),
        }
    }

    fn space(
        &mut self,
        stream: &CachedStream,
        device: u32,
        index: u32,
        second: Option<SecondStage>,
        want: Want,
    ) -> Result<Space, Problem> {
        let entry = Stream(&stream.words);
        let context = self.context(stream, device, index, second.as_ref(), want)?;
        let tag = self.tag(entry, &context);
        if Context(&context).illegal(entry, tag.regime, &self.configuration) {
            return Err(configuration(ConfigurationError::BadContext));
        }
        self.compare_contexts(device, index, &context, tag);
        Ok(Space {
            tag,
            context,
            second,
        })
    }

    /// What TLB entries of a descriptor are found by (3.17).
    fn tag(&self, entry: Stream<'_>, context: &[u64; 8]) -> Tag {
        let hosts = self.registers.cr2 & cr2::E2H != 0;
        let regime = entry.regime(hosts, &self.configuration);
        Tag {
            regime,
            vmid: (self.configuration.stage_2 && regime == Regime::El1).then(|| entry.vmid()),
            asid: match regime {
                Regime::El2 => Asid::None,
                Regime::El1 | Regime::El2Host => Asid::Of(Context(context).asid()),
            },
        }
    }

    /// Complains if another descriptor in the cache has the same ASID and does not say the same:
    /// whichever of them filled a TLB entry, both use it (5.4.1).
    fn compare_contexts(&mut self, device: u32, index: u32, context: &[u64; 8], tag: Tag) {
        let differ = self.caches.contexts.iter().any(|(&(of, at), other)| {
            let Some(stream) = self.caches.streams.get(&of) else {
                return false;
            };
            let entry = Stream(&stream.words);
            let described = Context(other);
            (of, at) != (device, index)
                && entry.stage_1()
                && self.tag(entry, other) == tag
                && !described.illegal(entry, tag.regime, &self.configuration)
                && !described.agrees(&Context(context))
        });
        if differ {
            self.complain("two context descriptors with one ASID differ");
        }
    }

    fn remember(&mut self, request: &Request) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(*request);
        if self.policy.forgetful && self.random.once_in(8) {
            self.caches.forget(&self.random);
        }
    }

    /// Fetches, unasked, what a request asked for before, or for a page beside it (3.21).
    pub fn speculate(&mut self) {
        if !self.registers.enabled(cr0::SMMUEN) || self.recent.is_empty() {
            return;
        }
        let any = self.random.below(self.recent.len() as u64) as usize;
        let mut request = self.recent[any];
        match self.random.below(4) {
            0 => request.address = request.address.wrapping_add(0x1000),
            1 => request.address = request.address.wrapping_sub(0x1000),
            _ => {}
        }
        self.prefetch(&request);
    }

    /// Walks for `request` without any effect but on the caches.
    pub fn prefetch(&mut self, request: &Request) {
        if !self.registers.enabled(cr0::SMMUEN) {
            return;
        }
        if let Ok(stream) = self.stream(request.device) {
            let want = self.want(Stream(&stream.words), request, Purpose::Speculation);
            // A prefetch that fails leaves no trace.
            let _ = self.reach(&stream, request, want);
        }
    }
}

impl Reached {
    fn translation(&self) -> Translation {
        Translation {
            address: self.address,
            size: 1 << self.log2_size,
            permissions: self.permissions,
        }
    }
}

/// An address that is not translated.
fn identity(address: u64) -> Translation {
    Translation {
        address,
        size: 4096,
        permissions: Permissions {
            read: true,
            write: true,
            execute: false,
        },
    }
}

/// A structure is wrong.
pub const fn configuration(error: ConfigurationError) -> Problem {
    Problem::Configuration(error, None)
}

/// An aborted walk is recorded and terminated whatever the tables say (5.5).
pub fn recorded_always(fault: Fault, handling: Handling) -> Handling {
    match fault.kind {
        FaultKind::WalkAbort(_) => ALWAYS,
        _ => handling,
    }
}

/// What a request says of itself.
fn plain(request: &Request) -> Want {
    let tagged = request.pasid.is_some();
    Want {
        access: match request.access {
            Access::Execute if !tagged => Access::Read,
            access => access,
        },
        privileged: request.privileged && tagged,
        purpose: Purpose::Transaction,
    }
}
