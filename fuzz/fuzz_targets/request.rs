//! See `fuzz/src/user/request.rs`.
#![no_main]

#[path = "../../steer-user/src/control/request.rs"]
mod request;
#[path = "../src/user/request.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
