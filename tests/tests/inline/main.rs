//! Pools without a VIP, behind a balancer that dials their backends itself (docs/behind-a-balancer.md).

mod cookies;
mod crowd;
mod exempt;
mod legs;
mod passing;
