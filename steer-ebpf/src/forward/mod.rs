//! How a packet leaves: the next hop, fragments, errors, what is too large.

pub(crate) mod bridge;
pub(crate) mod deliver;
pub(crate) mod direct;
pub(crate) mod fragment;
pub(crate) mod icmp;
pub(crate) mod next_hop;
pub(crate) mod resegment;
pub(crate) mod settled;
pub(crate) mod too_big;
