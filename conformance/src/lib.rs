//! One conformance suite for every rig.
//!
//! A *rig* is an IOMMU, or several, driven by the real drivers, with devices that read and write by
//! virtual address. A *kernel* of the suite's own changes page tables and announces it as a real one
//! does. An *oracle* that knows nothing of IOMMUs keeps what the kernel allowed at each moment and
//! judges every access of every device by it. The *cases* are written once, against the rig.

// A test-side crate has std; only the library crates must not need it.
#![allow(clippy::std_instead_of_alloc, clippy::std_instead_of_core)]

pub mod answers;
pub mod cases;
pub mod demo;
pub mod kernel;
pub mod oracle;
pub mod outcome;
pub mod rig;
pub mod run;
pub mod scene;
pub mod soak;
