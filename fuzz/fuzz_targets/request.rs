//! See `fuzz/src/user/request.rs`.
#![no_main]

#[path = "../../steer-user/src/control/request.rs"]
mod request;
#[path = "../src/user/request.rs"]
mod target;
// Only what `request` names of it is used.
#[allow(dead_code)]
#[path = "../../steer-user/src/agent/checks/warning.rs"]
mod warning;

/// Where `request` looks for it.
mod agent {
    pub mod checks {
        pub use crate::warning::Warning;
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
