//! Waits until every packet that is at a program now has passed it.

use rustix::thread::{MembarrierCommand, membarrier};

/// What the programs read before this call they are done with after it: the kernel waits for all
/// readers under RCU, as every run of a program is one (membarrier(2)).
///
/// Where it does not wait for them (CPUs without a tick), such a packet is what it was before: one
/// that may come to a table whose entries were copied already.
pub(super) fn packets_at_hand() {
    if let Err(error) = membarrier(MembarrierCommand::Global) {
        log::debug!("wait for the packets at hand: {error}");
    }
}
