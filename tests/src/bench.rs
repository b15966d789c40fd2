//! Benchmarks: printed, and recorded in docs/bench by [`record`]; never asserted on.

mod parse;
pub mod record;
mod rehome;

pub use self::{parse::parse, rehome::rehome};
