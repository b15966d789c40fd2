//! Pools without a VIP, behind a balancer that dials their backends itself (docs/behind-a-balancer.md).

mod cookies;
mod crowd;
mod down;
mod exempt;
mod failover;
mod killed;
mod legs;
mod passing;
mod round;
mod rules;
