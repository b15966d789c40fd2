//! Plain kernel layer 4 with source-address persistence, as nftables does it: the rival of a gateway
//! with VIPs, or the balancer in front of one without.

use anyhow::{Context, Result};

use crate::{
    netns::NetNs,
    topology::{Family, Lab, PORT, backend, vip},
};

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
        set_up_in(lab.gateway(), lab.n_backends(), Snat::No)?;
        Ok(Self { lab })
    }
}

/// As [`PlainL4::start`], in the balancer in front of the gateway, for good.
///
/// # Errors
/// As [`PlainL4::start`], and where there is no balancer.
pub fn set_up(lab: &Lab, snat: Snat) -> Result<()> {
    let balancer = lab.balancer().context("no balancer stands in front of the gateway")?;
    // As one in hardware, it translates what it does not judge.
    balancer.sysctl("netfilter/nf_conntrack_checksum", "0")?;
    set_up_in(balancer, lab.n_backends(), snat)
}

fn set_up_in(ns: &NetNs, n_backends: usize, snat: Snat) -> Result<()> {
    let rules = table(Family::V4, n_backends, snat) + &table(Family::V6, n_backends, snat);
    ns.nft(&rules).context("set up plain layer 4 in nftables").map(drop)
}

/// Whether backends see the balancer's own address instead of the clients'.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Snat {
    /// They see the clients'.
    #[default]
    No,
    /// They see the balancer's (masquerade): one address, whose ports are used towards several
    /// backends at once.
    Yes,
}

impl Drop for PlainL4<'_> {
    fn drop(&mut self) {
        // Fails only if the table is gone already.
        let delete = format!("delete table ip {TABLE}\ndelete table ip6 {TABLE}\n");
        drop(self.lab.gateway().nft(&delete));
    }
}

fn table(family: Family, n_backends: usize, snat: Snat) -> String {
    let ip = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    let vip = vip(family).ip();
    let map: Vec<_> =
        (0..n_backends).map(|index| format!("{index} : {}", backend(family, index).ip())).collect();
    let map = map.join(", ");
    let masquerade = match snat {
        Snat::No => "",
        Snat::Yes => {
            " chain hide {\n  type nat hook postrouting priority srcnat\n  oifname eth0 masquerade\n }\n"
        }
    };
    format!(
        "table {ip} {TABLE} {{\n chain balance {{\n  type nat hook prerouting priority dstnat\n  \
         {ip} daddr {vip} tcp dport {PORT} dnat to jhash {ip} saddr mod {n_backends} seed 0x5eed map {{ {map} }}\n }}\n{masquerade}}}\n"
    )
}
