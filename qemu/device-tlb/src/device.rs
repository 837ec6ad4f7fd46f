//! The device, as who uses it sees it.

use crate::answers::Answers;
use crate::history::{Access, Direction, Event, What};
use crate::service::{Shared, State};
use crate::tlb::Translation;
use std::fmt;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A request never crosses a border of this many bytes (PCI Express 6.0, 2.2.7.1).
const BORDER: u64 = 4096;
/// How often a translation may be taken away between its arrival and its use.
const ATTEMPTS: usize = 100;

/// A PCIe function with a TLB. When it is dropped, the connection to QEMU ends.
///
/// All methods may be called from any thread, also while an invalidation is not answered.
pub struct Device {
    shared: Arc<Shared>,
    path: PathBuf,
    service: Option<JoinHandle<()>>,
}

/// A request that reached memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// When, on the device's clock.
    pub at: u64,
    /// The physical address of its first byte.
    pub physical: u64,
    /// Whether the device had the translation; else it asked for it.
    pub cached: bool,
}

/// Why an access did not reach memory.
#[derive(Debug)]
#[non_exhaustive]
pub enum Refused {
    /// The IOMMU has no translation that allows it.
    Untranslated {
        /// The I/O virtual address.
        iova: u64,
    },
    /// The translation leads to where there is no memory.
    NoMemory {
        /// The I/O virtual address.
        iova: u64,
    },
    /// The translation was invalidated each time before it could be used.
    Unsettled {
        /// The I/O virtual address.
        iova: u64,
    },
    /// QEMU did not answer.
    NoAnswer {
        /// The I/O virtual address.
        iova: u64,
        /// What the socket says.
        error: io::Error,
    },
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untranslated { iova } => write!(formatter, "{iova:#x} has no translation"),
            Self::NoMemory { iova } => write!(formatter, "{iova:#x} leads to no memory"),
            Self::Unsettled { iova } => {
                write!(formatter, "{iova:#x} lost its translation {ATTEMPTS} times")
            }
            Self::NoAnswer { iova, error } => {
                write!(formatter, "QEMU does not translate {iova:#x}: {error}")
            }
        }
    }
}

impl std::error::Error for Refused {}

impl Device {
    /// A device that waits for QEMU's connection at `path`, where there is nothing yet. Its history
    /// is written by `clock`, in nanoseconds.
    ///
    /// # Errors
    ///
    /// If there can be no socket.
    pub fn listen(
        path: &Path,
        clock: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared::new(clock));
        let service = {
            let (shared, path) = (shared.clone(), path.to_owned());
            thread::spawn(move || match accept(&shared, &listener, &path) {
                Ok(Some(socket)) => serve(&shared, &socket),
                Ok(None) => {}
                Err(error) => shared.end(&error.to_string()),
            })
        };
        Ok(Self {
            shared,
            path: path.to_owned(),
            service: Some(service),
        })
    }

    /// QEMU's options for it: a function named `name` on the root port `bus`. Below a root port only
    /// does QEMU give it ATS.
    pub fn qemu_arguments(&self, name: &str, bus: &str) -> [String; 4] {
        let path = self.path.display();
        [
            "-chardev".to_owned(),
            format!("socket,id={name}-channel,path={path}"),
            "-device".to_owned(),
            // The kind of virtio device, an entropy source, does not matter: nobody drives it as one.
            format!(
                "vhost-user-test-device-pci,id={name},virtio-id=4,num_vqs=1,vq_size=64,\
                 chardev={name}-channel,iommu_platform=on,ats=on,bus={bus}"
            ),
        ]
    }

    /// Reads `length` bytes.
    ///
    /// # Errors
    ///
    /// At the first page that cannot be read; those before were.
    pub fn read(&self, iova: u64, length: u64) -> Result<Vec<u8>, Refused> {
        let mut bytes = vec![0; length as usize];
        let mut rest = bytes.as_mut_slice();
        while !rest.is_empty() {
            let at = iova + length - rest.len() as u64;
            let (page, behind) = rest.split_at_mut(within_page(at, rest.len()));
            self.read_page(at, page)?;
            rest = behind;
        }
        Ok(bytes)
    }

    /// Writes bytes.
    ///
    /// # Errors
    ///
    /// At the first page that cannot be written; those before were.
    pub fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), Refused> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = iova + (bytes.len() - rest.len()) as u64;
            let (page, behind) = rest.split_at(within_page(at, rest.len()));
            self.write_page(at, page)?;
            rest = behind;
        }
        Ok(())
    }

    /// Fills `bytes` by one request, which lies within one page of 4 KiB.
    ///
    /// # Errors
    ///
    /// If there is no way to memory.
    pub fn read_page(&self, iova: u64, bytes: &mut [u8]) -> Result<Done, Refused> {
        let access = self.request(iova, bytes.len(), Direction::Read);
        self.perform(access, |state, user| state.memory.read(user, bytes))
    }

    /// Writes `bytes` by one request, which lies within one page of 4 KiB.
    ///
    /// # Errors
    ///
    /// If there is no way to memory.
    pub fn write_page(&self, iova: u64, bytes: &[u8]) -> Result<Done, Refused> {
        let access = self.request(iova, bytes.len(), Direction::Write);
        self.perform(access, |state, user| state.memory.write(user, bytes))
    }

    /// The translation that the device has of an address. No access asks QEMU while there is one.
    pub fn cached(&self, iova: u64) -> Option<Translation> {
        self.shared.state().tlb.cached(iova)
    }

    /// From now on, also for a request that is waiting, invalidations are answered so long after they
    /// came. Until then the device uses what it has.
    pub fn set_answer_delay(&self, delay: Duration) {
        self.shared
            .change(|state| state.answers = Answers::After(delay));
    }

    /// From now on invalidations are not answered, until [`set_answer_delay`](Self::set_answer_delay).
    ///
    /// QEMU waits for the answer and does nothing else: every other access to its machine waits too.
    pub fn never_answer(&self) {
        self.shared.change(|state| state.answers = Answers::Never);
    }

    /// Waits until an invalidation came that is not answered; false if none comes within `limit`.
    pub fn wait_for_invalidation(&self, limit: Duration) -> bool {
        self.shared.wait_until(limit, |state| state.unanswered > 0)
    }

    /// Whether an invalidation came that is not answered.
    pub fn owes_answer(&self) -> bool {
        self.shared.state().unanswered > 0
    }

    /// Waits until the machine's driver has started the device; false if it does not within `limit`.
    pub fn wait_for_start(&self, limit: Duration) -> bool {
        self.shared.wait_until(limit, |state| state.running)
    }

    /// Forgets every translation, as a function does when its ATS is enabled (PCI Express 6.0,
    /// 10.5.1.3). QEMU itself asks for some when it starts the device.
    pub fn forget_all(&self) {
        self.shared.change(|state| state.tlb.clear());
    }

    /// What happened since the device was made, or since [`take_history`](Self::take_history).
    pub fn history(&self) -> Vec<Event> {
        self.shared.state().history.clone()
    }

    /// What happened since the last call.
    pub fn take_history(&self) -> Vec<Event> {
        std::mem::take(&mut self.shared.state().history)
    }

    /// Why QEMU has left the device, if it has.
    pub fn ended(&self) -> Option<String> {
        self.shared.state().end.clone()
    }

    fn request(&self, iova: u64, length: usize, direction: Direction) -> Access {
        Access {
            issued: self.shared.now(),
            iova,
            length: length as u64,
            direction,
        }
    }

    fn perform(
        &self,
        request: Access,
        mut access: impl FnMut(&State, u64) -> Option<u64>,
    ) -> Result<Done, Refused> {
        let iova = request.iova;
        let write = request.direction == Direction::Write;
        for attempt in 0..ATTEMPTS {
            let mut state = self.shared.state();
            if let Some(translation) = state.tlb.find(iova, write) {
                let physical = access(&state, translation.user_of(iova));
                let physical = physical.ok_or(Refused::NoMemory { iova })?;
                let cached = attempt == 0;
                let done = What::Accessed {
                    access: request,
                    physical,
                    cached,
                };
                let at = self.shared.note(&mut state, done);
                return Ok(Done {
                    at,
                    physical,
                    cached,
                });
            }
            drop(state);
            let translated = self
                .shared
                .miss(iova, write)
                .map_err(|error| Refused::NoAnswer { iova, error })?;
            if !translated {
                let mut state = self.shared.state();
                self.shared.note(&mut state, What::Refused(request));
                return Err(Refused::Untranslated { iova });
            }
        }
        Err(Refused::Unsettled { iova })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.shared.end("the device is gone");
        if let Some(service) = self.service.take() {
            let _ = service.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// How many of `length` bytes lie in the page of the first.
fn within_page(iova: u64, length: usize) -> usize {
    length.min((BORDER - iova % BORDER) as usize)
}

/// QEMU's connection; `None` if the device ends before.
fn accept(shared: &Shared, listener: &UnixListener, path: &Path) -> io::Result<Option<UnixStream>> {
    while shared.state().end.is_none() {
        match listener.accept() {
            Ok((socket, _)) => {
                // Nobody else is to come, and who is killed leaves nothing.
                let _ = std::fs::remove_file(path);
                socket.set_nonblocking(false)?;
                return Ok(Some(socket));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Serves QEMU until either side ends. A second thread closes the socket when the device ends, so
/// that the first does not wait for a message.
fn serve(shared: &Shared, socket: &UnixStream) {
    thread::scope(|scope| {
        scope.spawn(|| {
            while shared.state().end.is_none() {
                shared.wait_until(Duration::MAX, |_| false);
            }
            let _ = socket.shutdown(std::net::Shutdown::Both);
        });
        shared.serve(socket);
    });
}
