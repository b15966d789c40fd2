//! Benchmarks: printed, and recorded in docs/bench by [`record`]; never asserted on.

mod e2e;
mod live;
mod packet;
mod parse;
pub mod record;
mod rehome;
mod scale;

pub use self::{
    e2e::{EndToEnd, e2e},
    live::live,
    packet::packet,
    parse::parse,
    rehome::rehome,
    scale::scale,
};
