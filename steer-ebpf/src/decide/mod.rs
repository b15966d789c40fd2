//! What a hello offers, and which backend that leads to.

pub(crate) mod hello;
pub(crate) mod offers;
pub(crate) mod read_hello;
pub(crate) mod verdict;
