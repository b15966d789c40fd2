//! Benchmarks: printed, never asserted on.

mod parse;
mod rehome;

pub use self::{parse::parse, rehome::rehome};
