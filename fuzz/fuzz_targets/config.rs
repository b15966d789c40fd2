//! See `fuzz/src/user/config.rs`.
#![no_main]
#![expect(
    dead_code,
    unused_imports,
    reason = "parts of steer-user, whose other parts need programs and a kernel"
)]

#[path = "../../steer-user/src/address.rs"]
mod address;
#[path = "../../steer-user/src/clock.rs"]
mod clock;
#[path = "../../steer-user/src/config/mod.rs"]
mod config;
#[expect(dead_code, reason = "only what `config` names of it is used")]
#[path = "../../steer-user/src/service.rs"]
mod service;
#[path = "../src/user/config.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
