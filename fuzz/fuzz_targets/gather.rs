//! See [`steer_fuzz::gather`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| steer_fuzz::gather::run(data));
