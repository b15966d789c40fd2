//! Connections that are not steer's do not notice it: those that are routed to backends, those that
//! the kernel's own rules or a program of the gateway carry, the gateway's own, and those that
//! share a port with a flow of a VIP.
//!
//! Both ends of each are held by the test ([`steer_tests::talk`]), and every byte is compared. That
//! an agent which dies in the middle of a start breaks nothing is shown by `tests/faults/crash.rs`,
//! what single packets do by `tests/programs`.

mod entrances;
mod evicted;
mod gateway;
mod handshakes;
mod idle;
mod observe;
mod paths;
mod ports;
mod routed;
mod rules;
mod stations;
mod street;
