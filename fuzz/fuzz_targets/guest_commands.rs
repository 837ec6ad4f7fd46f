#![no_main]
//! See the function.
libfuzzer_sys::fuzz_target!(|data: &[u8]| shootdown_fuzz::guest_commands::run(data));
