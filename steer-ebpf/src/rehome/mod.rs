//! How a flow moves: what is held, the owner opened, the splice, what is said to whom.

pub(crate) mod buffer;
pub(crate) mod client;
pub(crate) mod emit;
pub(crate) mod hold;
pub(crate) mod server;
