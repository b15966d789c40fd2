//! See `fuzz/src/user/rows.rs`.
#![no_main]

#[expect(dead_code, reason = "only what `record` names of it is used")]
#[path = "../../steer-user/src/address.rs"]
mod address;
#[expect(dead_code, reason = "only what `record` names of it is used")]
#[path = "../../steer-user/src/rows/fact.rs"]
mod fact;
#[expect(dead_code, reason = "only what a gateway itself does is not done")]
#[path = "../../steer-user/src/ha/record.rs"]
mod record;
#[expect(dead_code, reason = "only what `record` names of it is used")]
#[path = "../../steer-user/src/service.rs"]
mod service;
#[path = "../src/user/rows.rs"]
mod target;

/// Where `record` looks for it.
mod rows {
    pub use crate::fact::Fact;
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
