//! Benchmarks: printed, never asserted on.

mod packet;
mod parse;
mod rehome;

pub use self::{packet::packet, parse::parse, rehome::rehome};
