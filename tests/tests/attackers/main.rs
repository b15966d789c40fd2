//! Attackers: floods, forgeries and clients that never finish. Whatever they send, connections that
//! are up go on, sessions that are known resume on their owner, no table grows beyond its size, and
//! everything is counted.
//!
//! What was held and what was lost, with figures, stands in `docs/reliability.md`. Errors of ICMP
//! with wrong numbers are in `tests/icmp.rs` too, blind resets of a flow that waits for its owner
//! in `tests/faults/owners.rs`.

mod bystanders;
mod errors;
mod forged;
mod hellos;
mod lessons;
mod raw;
mod strangers;
mod syns;
