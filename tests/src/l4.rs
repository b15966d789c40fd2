//! The rival: plain kernel layer 4 with source-address persistence, as nftables does it.

use anyhow::{Context, Result};

use crate::topology::{Family, Lab, PORT, backend, vip};

const TABLE: &str = "steer_lab_l4";

/// Source-address persistence in the gateway; removed when dropped.
pub struct PlainL4<'a> {
    lab: &'a Lab,
}

impl<'a> PlainL4<'a> {
    /// Sends the VIP's connections to the backend that a hash of the client's address names.
    ///
    /// # Errors
    /// When nft refuses it: the kernel has no NAT.
    pub fn start(lab: &'a Lab) -> Result<Self> {
        let n = lab.n_backends();
        let rules = table(Family::V4, n) + &table(Family::V6, n);
        lab.gateway().nft(&rules).context("set up plain layer 4 in nftables")?;
        Ok(Self { lab })
    }
}

impl Drop for PlainL4<'_> {
    fn drop(&mut self) {
        // Fails only if the table is gone already.
        drop(
            self.lab.gateway().nft(&format!("delete table ip {TABLE}\ndelete table ip6 {TABLE}\n")),
        );
    }
}

fn table(family: Family, n_backends: usize) -> String {
    let ip = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    let vip = vip(family).ip();
    let map: Vec<_> =
        (0..n_backends).map(|index| format!("{index} : {}", backend(family, index).ip())).collect();
    let map = map.join(", ");
    format!(
        "table {ip} {TABLE} {{\n chain balance {{\n  type nat hook prerouting priority dstnat\n  \
         {ip} daddr {vip} tcp dport {PORT} dnat to jhash {ip} saddr mod {n_backends} seed 0x5eed map {{ {map} }}\n }}\n}}\n"
    )
}
