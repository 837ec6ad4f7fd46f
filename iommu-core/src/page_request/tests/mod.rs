//! Groups, hostile devices, overflow, unbinding and threads.

mod endings;
mod groups;
mod random;
mod rig;
