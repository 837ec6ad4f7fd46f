//! The driver against a small fake of the hardware that knows the registers' write rules and
//! decodes the queue and the tables by its own reading of the specification.

extern crate alloc;

mod attach;
mod bring_up;
mod devices;
mod errors;
mod fake;
mod faults;
mod guest;
mod order;
mod page_requests;
mod quarantine;
mod rig;
mod submit;
