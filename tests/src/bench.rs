//! Benchmarks: printed, and recorded in docs/bench by [`record`]; never asserted on.

mod packet;
mod parse;
pub mod record;
mod rehome;

pub use self::{packet::packet, parse::parse, rehome::rehome};
