//! Benchmarks: printed, and recorded in docs/bench by [`record`]; never asserted on.

mod e2e;
mod packet;
mod parse;
pub mod record;
mod rehome;

pub use self::{
    e2e::{EndToEnd, e2e},
    packet::packet,
    parse::parse,
    rehome::rehome,
};
