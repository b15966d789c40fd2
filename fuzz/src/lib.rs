//! What the fuzz targets do with their bytes. `steer-common/tests/corpus.rs` runs the same over the committed corpora.

pub mod client_hello;
pub mod gather;
pub mod segment;
pub mod server_flight;
