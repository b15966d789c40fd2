//! Whom inline pools leave alone. Entries come before the pool's record and go after the switch, so
//! that a start which fails leaves nobody out.

use std::collections::HashSet;

use anyhow::Result;
use steer_common::shared::ExemptKey;

use super::Pools;
use crate::{
    address::address,
    agent::plan::Numbers,
    config::{Pool, Prefix},
};

/// Bits of an address in its 16 bytes before an IPv4 address begins.
const MAPPED: u32 = 96;

impl Pools {
    /// Has those left alone whom the configuration names; nobody of what another pool had under one
    /// of these numbers.
    pub(super) fn adopt_exempt(&mut self, numbers: &Numbers) -> Result<()> {
        let reused = &numbers.reused_vips;
        self.plane.retain_exempt(|key| !reused.contains(&u16::from_be_bytes(key.vip)))?;
        let wanted = self.pools.iter().zip(&numbers.vips).flat_map(|(pool, id)| keys(pool, *id));
        self.plane.add_exempt(&wanted.collect::<Vec<_>>())
    }

    /// Leaves nobody alone whom the configuration does not name.
    pub(super) fn remove_exempt(&mut self) -> Result<()> {
        let mut wanted = HashSet::new();
        for pool in &self.pools {
            if let Some(vip) = self.plane.vip(&pool.service().endpoint())? {
                wanted.extend(keys(pool, vip.id));
            }
        }
        self.plane.retain_exempt(|key| wanted.contains(key))
    }
}

fn keys(pool: &Pool, id: u16) -> impl Iterator<Item = ExemptKey> {
    let prefixes = pool.inline().into_iter().flat_map(|inline| &inline.exempt);
    prefixes.map(move |prefix| key(id, prefix))
}

fn key(pool: u16, prefix: &Prefix) -> ExemptKey {
    let before = if prefix.address().is_ipv4() { MAPPED } else { 0 };
    ExemptKey {
        prefix_len: u16::BITS + before + u32::from(prefix.bits()),
        vip: pool.to_be_bytes(),
        client: address(prefix.address()).octets(),
        zero: [0; 2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_covers_the_pools_number_and_as_much_of_the_address_as_the_prefix() {
        let made = |text: &str| {
            let key = key(0x0102, &text.parse().unwrap());
            assert_eq!((key.vip, key.zero), ([1, 2], [0; 2]));
            (key.prefix_len, key.client)
        };
        let v4 = |a, b, c, d| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d];
        let v6 = |c, last| [0x20, 1, 0xd, 0xb8, c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        assert_eq!(made("10.0.0.2"), (16 + 128, v4(10, 0, 0, 2)));
        assert_eq!(made("10.0.0.0/24"), (16 + 96 + 24, v4(10, 0, 0, 0)));
        assert_eq!(made("0.0.0.0/0"), (16 + 96, v4(0, 0, 0, 0)));
        assert_eq!(made("2001:db8::2"), (16 + 128, v6(0, 2)));
        assert_eq!(made("2001:db8:8000::/33"), (16 + 33, v6(0x80, 0)));
    }
}
