//! See [`steer_fuzz::segment`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| steer_fuzz::segment::run(data));
