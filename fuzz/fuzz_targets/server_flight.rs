//! See [`steer_fuzz::server_flight`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| steer_fuzz::server_flight::run(data));
