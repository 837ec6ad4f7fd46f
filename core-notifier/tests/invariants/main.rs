//! The invariants of Linux's notifiers, N1 to N31, each as a test that carries its number.
#![cfg(not(loom))]

extern crate alloc;

#[path = "../common/mod.rs"]
mod common;
mod devices;
mod intervals;
mod lifetime;
mod passes;
mod sections;
mod support;
