//! See `fuzz/src/user/assess.rs`.
#![no_main]
#![expect(
    dead_code,
    unused_imports,
    reason = "parts of steer-user, which say more than the target asks"
)]

#[path = "../../steer-user/src/address.rs"]
mod address;
#[path = "../../steer-user/src/assess/mod.rs"]
mod assess;
#[path = "../../steer-user/src/clock.rs"]
mod clock;
#[path = "../../steer-user/src/config/mod.rs"]
mod config;
#[path = "../../steer-user/src/inspect/mod.rs"]
mod inspect;
#[path = "../../steer-user/src/agent/key_layout.rs"]
mod key_layout;
#[path = "../../steer-user/src/service.rs"]
mod service;
#[path = "../src/user/assess.rs"]
mod target;

/// Where `assess` looks for it.
mod agent {
    pub(crate) use crate::key_layout;
}

/// What `assess` asks of it for its page, which is not made here.
mod show {
    pub(crate) fn assessment_lines(_: &crate::assess::Report) -> Vec<String> {
        Vec::new()
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
