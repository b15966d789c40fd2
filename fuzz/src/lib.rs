//! What the fuzz targets do with their bytes; those of `steer-user` stand in `user`.
//! `steer-common/tests/corpus.rs` and `steer-user/tests/corpus.rs` run the same over the committed
//! corpora.

pub mod client_hello;
pub mod gather;
pub mod segment;
pub mod server_flight;
