//! Benchmarks: printed, and recorded in docs/bench by [`record`]; never asserted on.

mod e2e;
mod parse;
pub mod record;
mod rehome;

pub use self::{
    e2e::{EndToEnd, e2e},
    parse::parse,
    rehome::rehome,
};
