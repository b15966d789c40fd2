//! What is known of flows: records, their cache, locks, traces, ports at backends, connections that are not
//! ours.

pub(crate) mod entrances;
pub(crate) mod events;
pub(crate) mod fast;
pub(crate) mod foreign;
pub(crate) mod legs;
pub(crate) mod lock;
pub(crate) mod stamps;
pub(crate) mod table;
pub(crate) mod traces;
