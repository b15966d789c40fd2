//! Segments of strangers, many and no two alike: what floods are made of.
//!
//! Strangers' addresses lie in the ranges for benchmarks (RFC 2544, RFC 5180): no host of the lab
//! has them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;

use crate::{
    frames::Tap,
    packets::Segment,
    topology::{Family, Lab, mac, vip},
};

/// MSS 1460, SACK permitted, timestamps, NOP, window scale 7: as Linux has them.
pub const LINUX: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0x1b, 0x58, 0, 0, 0, 0, 1, 3, 3, 7];

/// Numbers of a known pattern; every sixteen bytes of address and port come once.
#[derive(Clone, Debug)]
pub struct Strangers {
    family: Family,
    n: u32,
}

impl Strangers {
    /// Those of a family, from the first on.
    pub fn new(family: Family) -> Self {
        Self { family, n: 0 }
    }

    /// A number of the last stranger's own, as good as any.
    pub fn number(&self) -> u32 {
        self.n.wrapping_mul(0x9e37_79b9).rotate_left(11) ^ 0x5bd1_e995
    }

    /// A segment of the next stranger to the VIP.
    pub fn segment(&mut self) -> Segment {
        self.n += 1;
        Segment::new(self.address(), vip(self.family), self.number())
    }

    /// SYNs of the next `n` strangers, as frames that reach the gateway from the clients' side.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn syns(&mut self, n: usize) -> Result<Vec<Vec<u8>>> {
        (0..n).map(|_| from_clients(&self.segment().syn().options(&LINUX))).collect()
    }

    /// One address and port after another, far from the last one.
    fn address(&self) -> SocketAddr {
        // Odd, so that every number of 32 bits comes once.
        let mixed = self.n.wrapping_mul(0x85eb_ca6b);
        let (host, port) = (mixed >> 15, 1024 + (mixed & 0x7fff) as u16);
        let ip = match self.family {
            Family::V4 => {
                IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() | host))
            }
            Family::V6 => {
                let base = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0).to_bits();
                IpAddr::V6(Ipv6Addr::from_bits(base | u128::from(host)))
            }
        };
        SocketAddr::new(ip, port)
    }
}

/// The frame of a segment as it comes from the clients' router.
///
/// # Errors
/// When it cannot be made.
pub fn from_clients(segment: &Segment) -> Result<Vec<u8>> {
    segment.frame(mac(0, 2), mac(0, 1), &[])
}

/// The frame of a segment as it comes from a backend.
///
/// # Errors
/// When it cannot be made.
pub fn from_backend(backend: usize, segment: &Segment) -> Result<Vec<u8>> {
    segment.frame(mac(backend + 1, 2), mac(backend + 1, 1), &[])
}

/// Where an attacker on the clients' side sends.
///
/// # Errors
/// Without CAP_NET_RAW.
pub fn at_clients(lab: &Lab) -> Result<Tap> {
    Tap::open(lab.client(), "eth0")
}

/// Where an attacker on a backend sends.
///
/// # Errors
/// Without CAP_NET_RAW.
pub fn at_backend(lab: &Lab, backend: usize) -> Result<Tap> {
    Tap::open(lab.backend(backend), "eth0")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_strangers_of_300_000_have_one_address_and_port() {
        let mut strangers = Strangers::new(Family::V4);
        let seen: HashSet<_> = (0..300_000).map(|_| strangers.segment().source).collect();
        assert_eq!(seen.len(), 300_000);
    }
}
