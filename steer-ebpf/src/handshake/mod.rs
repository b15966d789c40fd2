//! Where a flow begins: SYN, SYN-ACK, and packets whose flow has no record.

pub(crate) mod syn;
pub(crate) mod syn_ack;
pub(crate) mod unknown;
pub(crate) mod vouched;
