//! See `fuzz/src/user/capture.rs`.
#![no_main]
#![expect(
    dead_code,
    unused_imports,
    reason = "part of steer-user, which says more than the target asks"
)]

#[path = "../../steer-user/src/inspect/mod.rs"]
mod inspect;
#[path = "../src/user/capture.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
