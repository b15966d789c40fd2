//! Pools whose packets pass a bridge, behind a balancer that dials their backends itself
//! (docs/behind-a-balancer.md).

mod moves;
mod passing;
mod ports;
mod vlans;
