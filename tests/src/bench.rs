//! Benchmarks: printed, and recorded in docs/bench by [`record`]; never asserted on.

mod live;
mod parse;
pub mod record;
mod rehome;
mod scale;

pub use self::{live::live, parse::parse, rehome::rehome, scale::scale};
