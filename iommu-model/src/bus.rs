//! What travels between a device and an IOMMU, in PCIe's terms.

/// What a device wants to do at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// A read.
    Read,
    /// A write.
    Write,
    /// An instruction fetch.
    Execute,
}

/// A memory request that carries an untranslated address, or an ATS translation request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The requester id as the IOMMU sees it.
    pub device: u32,
    /// The PASID, if the request has the PASID prefix.
    pub pasid: Option<u32>,
    /// Whether the prefix asks for privileged mode.
    pub privileged: bool,
    /// The I/O virtual address, in bytes.
    pub address: u64,
    /// What is wanted. For a translation request, [`Access::Read`] is one with the no-write flag.
    pub access: Access,
}

/// What an address translates to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The physical address of the byte that was asked for.
    pub address: u64,
    /// The size of the naturally aligned block around it that translates alike, in bytes.
    pub size: u64,
    /// What is permitted there.
    pub permissions: Permissions,
}

/// What a translation permits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Reads.
    pub read: bool,
    /// Writes.
    pub write: bool,
    /// Instruction fetches.
    pub execute: bool,
}

impl Permissions {
    /// Whether `access` is permitted.
    pub const fn permit(self, access: Access) -> bool {
        match access {
            Access::Read => self.read,
            Access::Write => self.write,
            Access::Execute => self.execute,
        }
    }
}

/// Why a request was not translated, as the completion tells the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Unsupported Request: no translation service for this device or PASID.
    UnsupportedRequest,
    /// Completer Abort: tables that the IOMMU cannot use.
    CompleterAbort,
    /// A successful ATS completion without permissions, or an access that page faulted: a page
    /// request may make it good.
    NotPresent,
    /// The request waits in the IOMMU for software (Arm: a stalled transaction), under this number.
    Stalled(u32),
}

/// An ATS invalidation request, from the IOMMU to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidationRequest {
    /// The invalidation tag, 0 to 31, that the completion gives back.
    pub itag: u8,
    /// The PASID; `None` for translations without one.
    pub pasid: Option<u32>,
    /// Whether translations of every PASID go (the Global Invalidate bit).
    pub global: bool,
    /// The first byte, aligned to `size`.
    pub address: u64,
    /// A power of two of at least 4096, in bytes; 0 for the whole address space.
    pub size: u64,
}

/// A page request message, from a device to the IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// The requester id.
    pub device: u32,
    /// The PASID.
    pub pasid: Option<u32>,
    /// Whether privileged access is asked for.
    pub privileged: bool,
    /// The page's first byte.
    pub address: u64,
    /// Reads are wanted.
    pub read: bool,
    /// Writes are wanted.
    pub write: bool,
    /// Instruction fetches are wanted.
    pub execute: bool,
    /// The last of its group. Without any access wanted, and last: a stop marker.
    pub last: bool,
    /// The page request group index, 9 bits.
    pub group: u16,
}

/// The code of a page group response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseCode {
    /// The pages are there; try again.
    Success,
    /// Some page cannot be had.
    InvalidRequest,
    /// A lasting failure: the device disables its page requests.
    Failure,
}

/// A page group response message, from the IOMMU to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageResponse {
    /// The PASID, if the message has the prefix.
    pub pasid: Option<u32>,
    /// The group.
    pub group: u16,
    /// What software says.
    pub code: ResponseCode,
}

/// The side of a device that an IOMMU talks to.
pub trait Port: Send + Sync {
    /// An invalidation request arrives. The device answers, at once or later, by
    /// [`Hardware::invalidation_completed`](crate::Hardware::invalidation_completed) from a
    /// [`step`](Port::step), never from inside this call.
    fn invalidate(&self, request: InvalidationRequest);

    /// A page group response arrives.
    fn respond(&self, response: PageResponse);

    /// A stalled transaction goes on: it is translated again, or aborted.
    fn resume(&self, stalled: u32, retry: bool);

    /// Does one piece of the work that the device does by itself; false if there was none.
    fn step(&self) -> bool;
}
