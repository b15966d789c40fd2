//! The managed interfaces as the kernel has them. Asked by netlink: /sys may show another network
//! namespace.

mod bridges;
mod egress;
mod foretold;
mod netdev;

use anyhow::{Context as _, Result, bail};
pub(super) use bridges::refuse_bridges;
pub(crate) use bridges::{Port, calls_netfilter, trouble, unequal_mtu};
pub use egress::fill_interfaces;
pub(crate) use egress::takes_xdp;
pub(super) use egress::{watch, xdp_rests};
pub(crate) use foretold::refusals;
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, LinkInfo, LinkLayerType, LinkMessage};

use crate::{
    config::{Hook, Interface},
    plane::{Target, Xdp},
};

/// MTU of Ethernet, bytes.
const ETHERNET_MTU: u32 = 1500;

/// Where the programs go, and how much fits through.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Interfaces {
    /// One per interface.
    pub(super) targets: Vec<Target>,
    /// Smallest MTU, bytes.
    pub(super) mtu: u32,
}

impl Interfaces {
    /// Finds every one of these interfaces, or refuses.
    pub(super) async fn find(interfaces: &[Interface]) -> Result<Self> {
        let links = links().await?;
        let mut found = Self { targets: Vec::new(), mtu: u32::MAX };
        for interface in interfaces {
            let Some(link) = named(&links, &interface.name) else {
                bail!("there is no interface {}", interface.name);
            };
            if let Some(why) = not_ethernet(&interface.name, link) {
                bail!(why);
            }
            found.mtu = found.mtu.min(mtu(link).unwrap_or(ETHERNET_MTU));
            found.targets.push(target(interface, link));
        }
        Ok(found)
    }
}

/// Every interface of the network namespace.
pub(super) async fn links() -> Result<Vec<LinkMessage>> {
    let (connection, handle, _) = rtnetlink::new_connection().context("open a netlink socket")?;
    tokio::spawn(connection);
    handle.link().get().execute().try_collect().await.context("list the interfaces")
}

/// The interface of this name.
pub(super) fn named<'a>(links: &'a [LinkMessage], interface: &str) -> Option<&'a LinkMessage> {
    links.iter().find(|link| name(link).is_some_and(|name| name == interface))
}

/// Why an interface cannot be managed, if its frames have no Ethernet header.
pub(super) fn not_ethernet(name: &str, link: &LinkMessage) -> Option<String> {
    let layer = link.header.link_layer_type;
    let ethernet = matches!(layer, LinkLayerType::Ether | LinkLayerType::Loopback);
    (!ethernet).then(|| {
        format!(
            "{name} carries no Ethernet header (its link type is {layer}): steer reads Ethernet frames; name the interface \
             that the packets come in by with one, and have tunnels end on another machine"
        )
    })
}

/// Whether an interface carries IP packets without a link-layer header.
fn has_ip_only(link: &LinkMessage) -> bool {
    matches!(
        link.header.link_layer_type,
        LinkLayerType::None
            | LinkLayerType::Tunnel
            | LinkLayerType::Tunnel6
            | LinkLayerType::Sit
            | LinkLayerType::Ipgre
            | LinkLayerType::Ip6gre
            | LinkLayerType::Ppp
            | LinkLayerType::Rawip
            | LinkLayerType::Slip
            | LinkLayerType::Cslip
            | LinkLayerType::Slip6
            | LinkLayerType::Cslip6
    )
}

fn target(interface: &Interface, link: &LinkMessage) -> Target {
    let xdp = match interface.hook {
        Hook::Tc => Xdp::Never,
        Hook::Xdp => Xdp::Must,
        Hook::Auto if is_nic(link) => Xdp::May,
        Hook::Auto => Xdp::Never,
    };
    Target { interface: interface.name.clone(), xdp }
}

/// Whether this is hardware: what the kernel makes (veth, bridge, bond, tunnel, VLAN) tells its
/// kind.
pub(super) fn is_nic(link: &LinkMessage) -> bool {
    let has_kind = |attribute: &LinkAttribute| match attribute {
        LinkAttribute::LinkInfo(infos) => {
            infos.iter().any(|info| matches!(info, LinkInfo::Kind(_)))
        }
        _ => false,
    };
    link.header.link_layer_type == LinkLayerType::Ether && !link.attributes.iter().any(has_kind)
}

fn name(link: &LinkMessage) -> Option<&String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    })
}

fn mtu(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use rtnetlink::packet_route::link::InfoKind;

    pub(crate) use super::bridges::tests::{bridge, bridge_link};
    use super::*;

    fn link(attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.link_layer_type = LinkLayerType::Ether;
        link.attributes = attributes;
        link
    }

    fn auto(link: &LinkMessage) -> Xdp {
        target(&Interface { name: "eth0".into(), hook: Hook::Auto }, link).xdp
    }

    #[test]
    fn auto_takes_xdp_on_a_nic_and_tc_on_what_the_kernel_made() {
        assert_eq!(auto(&link(vec![LinkAttribute::Mtu(1500)])), Xdp::May);
        let veth = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]);
        assert_eq!(auto(&link(vec![veth])), Xdp::Never);
    }

    #[test]
    fn what_has_no_ethernet_header_is_refused_by_name_and_type() {
        let mut tun = link(Vec::new());
        assert_eq!(not_ethernet("eth0", &tun), None);
        tun.header.link_layer_type = LinkLayerType::None;
        let why = not_ethernet("tun0", &tun).unwrap();
        assert!(why.starts_with("tun0 carries no Ethernet header (its link type is "), "{why}");
        tun.header.link_layer_type = LinkLayerType::Infiniband;
        assert!(not_ethernet("ib0", &tun).is_some() && !has_ip_only(&tun));
    }
}
