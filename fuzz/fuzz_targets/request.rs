//! See `fuzz/src/user/request.rs`.
#![no_main]

#[expect(dead_code, reason = "only what `request` names of it is used")]
#[path = "../../steer-user/src/address.rs"]
mod address;
#[expect(dead_code, reason = "only what `request` names of it is used")]
#[path = "../../steer-user/src/clock.rs"]
mod clock;
#[expect(dead_code, reason = "only what `request` names of it is used")]
#[path = "../../steer-user/src/ha/status.rs"]
mod ha;
#[expect(dead_code, reason = "only what `request` names of it is used")]
#[path = "../../steer-user/src/agent/sweep/held.rs"]
mod held;
#[path = "../../steer-user/src/control/request.rs"]
mod request;
#[expect(dead_code, reason = "only what `request` names of it is used")]
#[path = "../../steer-user/src/service.rs"]
mod service;
#[path = "../src/user/request.rs"]
mod target;
#[expect(dead_code, reason = "only what `request` names of it is used")]
#[path = "../../steer-user/src/agent/checks/warning.rs"]
mod warning;

#[expect(dead_code, reason = "only what `request` names of it is used")]
#[path = "../../steer-user/src/rows/fact.rs"]
mod fact;

/// Where `ha` looks for it.
mod rows {
    pub(crate) use crate::fact::Told;
}

/// Where `request` looks for it.
mod agent {
    pub use crate::held::Held;

    pub mod checks {
        pub use crate::warning::Warning;
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
