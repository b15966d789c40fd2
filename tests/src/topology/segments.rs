//! Two gateways, of which one works at a time, between two segments of Ethernet.
//!
//! ```text
//! client eth0 ── front ┬ front gateway 0 back ┬ back ── eth0 backend 0
//!                      └ front gateway 1 back ┘     ── eth0 backend 1 ...
//! ```
//!
//! Client and backends route by an address of their segment that is on no interface: whoever works
//! takes it. Every end of a segment has to be asked for its station.

use std::{net::IpAddr, sync::Arc};

use anyhow::{Context, Result};

use super::{
    Family, Lab, Plan,
    addresses::{BRIDGE, backend_net},
    batches, host, router,
};
use crate::{netns::NetNs, process};

/// One of the two segments; a gateway's interface has its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Segment {
    /// Towards the clients.
    Front,
    /// Towards the backends.
    Back,
}

impl Segment {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Front, Self::Back];

    /// Its name, which a gateway's interface there has.
    pub fn name(self) -> &'static str {
        match self {
            Self::Front => "front",
            Self::Back => "back",
        }
    }

    /// The address that others route by.
    pub fn virtual_address(self, family: Family) -> IpAddr {
        self.address(family, 1)
    }

    /// What fits behind an address of this segment.
    pub fn prefix(self, family: Family) -> u8 {
        match (self, family) {
            (Self::Front, Family::V4) => 24,
            (Self::Front, Family::V6) => 64,
            (Self::Back, Family::V4) => 16,
            (Self::Back, Family::V6) => 32,
        }
    }

    fn address(self, family: Family, host: u8) -> IpAddr {
        match (self, family) {
            (Self::Front, Family::V4) => [10, 1, 0, host].into(),
            (Self::Front, Family::V6) => [0xfd00, 1, 0, 0, 0, 0, 0, host.into()].into(),
            // Behind the nets of all backends.
            (Self::Back, Family::V4) => [10, 2, 255, host].into(),
            (Self::Back, Family::V6) => [0xfd00, 2, 0xffff, 0, 0, 0, 0, host.into()].into(),
        }
    }
}

/// The namespaces, wired and routed.
#[derive(Debug)]
pub struct Segments {
    switches: [NetNs; 2],
    labs: [Lab; 2],
}

impl Segments {
    /// Builds them with so many backends.
    ///
    /// # Errors
    /// Without root, or when a tool refuses.
    pub fn build(n_backends: usize) -> Result<Self> {
        process::require_root()?;
        let switches = [switch()?, switch()?];
        let client = Arc::new(host()?);
        let backends =
            (0..n_backends).map(|_| Ok(Arc::new(host()?))).collect::<Result<Vec<_>>>()?;
        let seen_by = |gateway: NetNs| Lab {
            client: client.clone(),
            balancer: None,
            gateway,
            interfaces: Segment::ALL.map(|segment| segment.name().to_owned()).to_vec(),
            bridge: false,
            backends: backends.clone(),
        };
        let segments = Self { switches, labs: [seen_by(router()?), seen_by(router()?)] };
        segments.wire()?;
        segments.address()?;
        Ok(segments)
    }

    /// The labs, each as one of the gateways sees it: they share all but that gateway.
    pub fn into_labs(self) -> ([Lab; 2], [NetNs; 2]) {
        (self.labs, self.switches)
    }

    fn wire(&self) -> Result<()> {
        let [front, back] = &self.switches;
        plug(front, "client", self.labs[0].client(), "eth0")?;
        for (number, lab) in self.labs.iter().enumerate() {
            plug(front, &port(number), lab.gateway(), Segment::Front.name())?;
            plug(back, &port(number), lab.gateway(), Segment::Back.name())?;
        }
        for (index, ns) in self.labs[0].backends.iter().enumerate() {
            plug(back, &format!("b{index}"), ns, "eth0")?;
        }
        Ok(())
    }

    fn address(&self) -> Result<()> {
        let [lab, _] = &self.labs;
        let unknown = Plan { neighbours_known: false, ..Plan::default() };
        lab.client().ip(&batches::client(&unknown)).context("address the client")?;
        for (index, ns) in lab.backends.iter().enumerate() {
            ns.ip(&backend(index)).with_context(|| format!("address backend {index}"))?;
        }
        let gateways = self.labs.iter().map(Lab::gateway).enumerate();
        gateways.into_iter().try_for_each(|(number, ns)| address_gateway(ns, number))
    }
}

/// Brings a gateway's links up as after a start of its machine, with its own addresses and routes
/// alone.
///
/// # Errors
/// When `ip` refuses.
pub fn address_gateway(ns: &NetNs, number: usize) -> Result<()> {
    let names = Segment::ALL.map(Segment::name);
    let up = names
        .map(|name| format!("addr flush dev {name} scope global\nlink set {name} up\n"))
        .concat();
    ns.ip(&(up + &gateway(number))).with_context(|| format!("address {}", port(number)))
}

/// The name of a gateway's port in a switch.
pub fn port(gateway: usize) -> String {
    format!("gw{}", gateway + 1)
}

fn switch() -> Result<NetNs> {
    let ns = NetNs::create()?;
    ns.ip(&format!("link add {BRIDGE} type bridge\nlink set {BRIDGE} up\n"))?;
    Ok(ns)
}

/// A cable from a switch's port to an interface of somebody.
fn plug(switch: &NetNs, port: &str, far: &NetNs, interface: &str) -> Result<()> {
    let path = far.path();
    switch
        .ip(&format!(
            "link add {port} type veth peer name {interface} netns {path}\n\
             link set {port} master {BRIDGE} up\n"
        ))
        .and_then(|()| far.ip(&format!("link set {interface} up\n")))
        .with_context(|| format!("plug in {port}"))
}

fn backend(index: usize) -> String {
    let (v4, v6) = backend_net(index, 2);
    let families = [(Family::V4, IpAddr::V4(v4)), (Family::V6, IpAddr::V6(v6))];
    families.iter().fold(String::new(), |batch, (family, own)| {
        let (prefix, default, gate) = (
            Segment::Back.prefix(*family),
            default(*family),
            Segment::Back.virtual_address(*family),
        );
        batch
            + &format!(
                "addr add {own}/{prefix} dev eth0\nroute add {default} via {gate} dev eth0\n"
            )
    })
}

fn gateway(number: usize) -> String {
    let host = 11 + u8::try_from(number).unwrap_or(u8::MAX);
    let mut batch = String::new();
    for (segment, family) in
        Segment::ALL.into_iter().flat_map(|segment| [(segment, Family::V4), (segment, Family::V6)])
    {
        let (own, name) = (segment.address(family, host), segment.name());
        batch += &format!("addr add {own}/{} dev {name}\n", segment.prefix(family));
    }
    batch
        + "route add 10.64.0.0/24 via 10.1.0.2\n\
           route add fd00:64::/64 via fd00:1::2\n"
}

fn default(family: Family) -> &'static str {
    match family {
        Family::V4 => "default",
        Family::V6 => "::/0",
    }
}
