//! The lab's network: a client namespace, the gateway, and one namespace per backend, joined by
//! veth pairs.
//!
//! ```text
//! client eth0 ── clients │ gateway │ b0 ── eth0 backend 0
//!                        │         │ b1 ── eth0 backend 1 ...
//! ```
//!
//! The VIP is on no interface: the client routes it to the gateway. The clients' source addresses
//! are routed to the client namespace, which holds them all (a local route), as an egress gateway
//! in front of many users would.
//!
//! With [`Plan::balancer`] another router stands between the client and the gateway, and has the
//! VIP:
//!
//! ```text
//! client eth0 ── outside │ balancer │ eth0 ── clients │ gateway │ b0 ── eth0 backend 0 ...
//! ```

//! With [`Plan::bridge`] the gateway behind that balancer is a bridge without addresses, and the
//! backends are the balancer's neighbours.
//!
//! [`Segments`] are two gateways, of which one works at a time, between two segments.

mod addresses;
mod batches;
mod links;
mod segments;

use std::sync::Arc;

use anyhow::{Context, Result};

pub use self::addresses::{
    BRIDGE, CLIENT_SIDE, Family, OUTSIDE, PORT, backend, backend_side, balancer, mac, mac_text,
    second_vip, source, vip,
};
use self::addresses::{OUTSIDE_LINK, backend_net};
pub use self::{
    links::Link,
    segments::{Segment, Segments, address_gateway, port},
};
use crate::{netns::NetNs, process};

/// What the virtual links leave to the receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offloads {
    /// As veth has it: checksums unfinished, segments up to 64 KB.
    On,
    /// As veth has it, but GRO on, so that what XDP redirects is delivered.
    OnWithGro,
    /// Checksums finished by the sender, as on a wire; GRO on, so that what XDP redirects is
    /// delivered.
    ChecksumsOff,
    /// Nothing at all: packets are MTU-sized at every hook, so that loss counts wire packets.
    Off,
}

impl Offloads {
    /// What ethtool shall change, if anything.
    fn features(self) -> Option<&'static str> {
        match self {
            Self::On => None,
            Self::OnWithGro => Some("gro on"),
            Self::ChecksumsOff => Some("tx off gro on"),
            Self::Off => Some("tx off tso off gso off gro off"),
        }
    }
}

/// What the network looks like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many backends.
    pub n_backends: usize,
    /// Offloads of every link.
    pub offloads: Offloads,
    /// MTU of the link to the client.
    pub client_mtu: u32,
    /// MTU of the links to the backends, by backend; 1500 where it names none.
    pub backend_mtu: Vec<(usize, u32)>,
    /// What the links are, by number: 0 is the clients', `i + 1` that of backend `i`; veth where it
    /// names none.
    pub links: Vec<(usize, Link)>,
    /// Whether neighbours are known from the start; otherwise the kernel has to ask for them.
    pub neighbours_known: bool,
    /// Whether a balancer stands in front of the gateway.
    pub balancer: bool,
    /// Whether the gateway is a bridge; only behind a balancer, with neighbours that are known.
    pub bridge: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            n_backends: 3,
            offloads: Offloads::On,
            client_mtu: 1500,
            backend_mtu: Vec::new(),
            links: Vec::new(),
            neighbours_known: true,
            balancer: false,
            bridge: false,
        }
    }
}

/// The namespaces, wired and routed.
#[derive(Debug)]
pub struct Lab {
    client: Arc<NetNs>,
    balancer: Option<NetNs>,
    gateway: NetNs,
    /// Those of the gateway.
    interfaces: Vec<String>,
    bridge: bool,
    backends: Vec<Arc<NetNs>>,
}

impl Lab {
    /// Builds what `plan` says.
    ///
    /// # Errors
    /// Without root, or when a tool refuses.
    pub fn build(plan: &Plan) -> Result<Self> {
        process::require_root()?;
        let client = Arc::new(host()?);
        let balancer = plan.balancer.then(router).transpose()?;
        let gateway = router()?;
        let backends = (0..plan.n_backends).map(|_| Ok(Arc::new(host()?)));
        let backends = backends.collect::<Result<Vec<_>>>()?;
        let interfaces = std::iter::once(CLIENT_SIDE.to_owned())
            .chain((0..plan.n_backends).map(backend_side))
            .collect();
        let lab = Self { client, balancer, gateway, interfaces, bridge: plan.bridge, backends };
        lab.wire(plan)?;
        lab.address(plan)?;
        Ok(lab)
    }

    /// The clients' namespace.
    pub fn client(&self) -> &NetNs {
        &self.client
    }

    /// The balancer's namespace, where there is one.
    pub fn balancer(&self) -> Option<&NetNs> {
        self.balancer.as_ref()
    }

    /// The gateway's namespace.
    pub fn gateway(&self) -> &NetNs {
        &self.gateway
    }

    /// Whether the gateway is a bridge.
    pub fn is_bridge(&self) -> bool {
        self.bridge
    }

    /// The clients' station, and the one that their packets go to: the gateway's, or that of the
    /// balancer in front of it.
    pub fn client_link(&self) -> ([u8; 6], [u8; 6]) {
        let link = if self.balancer.is_some() { OUTSIDE_LINK } else { 0 };
        (mac(link, 2), mac(link, 1))
    }

    /// A backend's namespace.
    pub fn backend(&self, index: usize) -> &NetNs {
        &self.backends[index]
    }

    /// How many backends there are.
    pub fn n_backends(&self) -> usize {
        self.backends.len()
    }

    /// The gateway's interfaces: towards the clients first, then those towards the backends.
    pub fn gateway_interfaces(&self) -> Vec<String> {
        self.interfaces.clone()
    }

    /// Takes the link to a backend down or up again, at the gateway.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn link(&self, backend: usize, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.gateway.ip(&format!("link set {} {state}\n", backend_side(backend)))
    }

    /// Sets the MSS that a backend announces, by its route.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn announce_mss(&self, backend: usize, mss: u32) -> Result<()> {
        let (v4, v6) = backend_net(backend, 1);
        self.backends[backend]
            .ip(&format!("route replace default via {v4} advmss {mss}\nroute replace ::/0 via {v6} advmss {mss}\n"))
    }

    fn wire(&self, plan: &Plan) -> Result<()> {
        let backends = self.backends.iter().map(|ns| &**ns);
        let ends = std::iter::once(self.before_gateway()).chain(backends);
        if let Some(balancer) = &self.balancer {
            let (number, mtu) = (OUTSIDE_LINK, plan.client_mtu);
            links::wire(Link::Veth, number, OUTSIDE, mtu, balancer, &self.client)
                .context("wire the balancer")?;
        }
        for (number, (name, far)) in self.gateway_interfaces().iter().zip(ends).enumerate() {
            let kind = plan
                .links
                .iter()
                .find(|(link, _)| *link == number)
                .map_or(Link::Veth, |(_, kind)| *kind);
            let mtu = plan
                .backend_mtu
                .iter()
                .find(|(i, _)| i + 1 == number)
                .map_or(1500, |(_, mtu)| *mtu);
            let mtu = if number == 0 { plan.client_mtu } else { mtu };
            links::wire(kind, number, name, mtu, &self.gateway, far)
                .with_context(|| format!("wire {name}"))?;
        }
        self.set_mtu_of_far_ends(plan)?;
        plan.offloads.features().map_or(Ok(()), |features| self.set_features(features))
    }

    /// Who the gateway's clients' side is wired to.
    fn before_gateway(&self) -> &NetNs {
        self.balancer.as_ref().unwrap_or(&self.client)
    }

    fn set_mtu_of_far_ends(&self, plan: &Plan) -> Result<()> {
        for ns in [Some(&*self.client), self.balancer.as_ref()].into_iter().flatten() {
            ns.ip(&format!("link set eth0 mtu {} up\n", plan.client_mtu))?;
        }
        for (index, backend) in self.backends.iter().enumerate() {
            let mtu =
                plan.backend_mtu.iter().find(|(i, _)| *i == index).map_or(1500, |(_, mtu)| *mtu);
            backend.ip(&format!("link set eth0 mtu {mtu} up\n"))?;
        }
        Ok(())
    }

    fn set_features(&self, features: &str) -> Result<()> {
        let set =
            |ns: &NetNs, name: &str| ns.tool(&format!("ethtool -K {name} {features}")).map(drop);
        self.gateway_interfaces().iter().try_for_each(|name| set(&self.gateway, name))?;
        if let Some(balancer) = &self.balancer {
            [OUTSIDE, "eth0"].iter().try_for_each(|name| set(balancer, name))?;
        }
        std::iter::once(&self.client).chain(&self.backends).try_for_each(|ns| set(ns, "eth0"))
    }

    fn address(&self, plan: &Plan) -> Result<()> {
        self.client.ip(&batches::client(plan))?;
        self.balancer.as_ref().map_or(Ok(()), |ns| ns.ip(&batches::balancer(plan)))?;
        if plan.bridge {
            self.gateway.ip(&batches::bridge(&self.gateway_interfaces()))?;
        } else {
            self.gateway.ip(&batches::gateway(plan))?;
        }
        self.backends
            .iter()
            .enumerate()
            .try_for_each(|(index, ns)| ns.ip(&batches::backend(index, plan)))
    }
}

fn host() -> Result<NetNs> {
    let ns = NetNs::create()?;
    ns.run(|| {
        // No duplicate address detection: addresses serve at once. Sources need not be addresses of
        // an interface.
        set(&[("ipv6/conf/default/accept_dad", "0"), ("ipv6/conf/default/dad_transmits", "0")])?;
        set(&[("ipv6/ip_nonlocal_bind", "1"), ("ipv6/conf/default/accept_ra", "0")])?;
        set(&[("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/default/rp_filter", "0")])
    })?;
    Ok(ns)
}

fn router() -> Result<NetNs> {
    let ns = host()?;
    ns.run(|| set(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]))?;
    Ok(ns)
}

fn set(sysctls: &[(&str, &str)]) -> Result<()> {
    sysctls.iter().try_for_each(|(path, value)| {
        std::fs::write(format!("/proc/sys/net/{path}"), value)
            .with_context(|| format!("set {path}={value}"))
    })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn every_backend_hears_a_client_by_its_own_source_address() -> Result<()> {
        let lab = Lab::build(&Plan::default())?;
        for (family, index) in
            [Family::V4, Family::V6].into_iter().flat_map(|family| [(family, 0), (family, 2)])
        {
            let server = lab.backend(index).run(|| Ok(UdpSocket::bind(backend(family, index))?))?;
            lab.client().run(|| {
                let client = UdpSocket::bind((source(family, 7), 0))?;
                Ok(client.send_to(b"hello", backend(family, index))?)
            })?;
            server.set_read_timeout(Some(std::time::Duration::from_secs(1)))?;
            assert_eq!(server.recv_from(&mut [0; 8])?.1.ip(), source(family, 7));
        }
        Ok(())
    }

    #[test]
    fn the_vip_is_routed_to_the_gateway() -> Result<()> {
        let lab = Lab::build(&Plan::default())?;
        for (family, gateway) in [(Family::V4, "via 10.1.0.1"), (Family::V6, "via fd00:1::1")] {
            let route = lab.client().tool(&format!("ip route get {}", vip(family).ip()))?;
            assert!(route.contains(gateway), "{route}");
        }
        Ok(())
    }
}
