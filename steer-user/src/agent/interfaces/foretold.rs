//! What a start would be refused for of the interfaces that are here, as far as it shows without
//! attaching anything.

use anyhow::Result;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

use super::{
    bridges, links, named,
    netdev::{Device, Netdev},
    not_ethernet, target,
};
use crate::{
    config::{Config, Interface},
    plane::{Xdp, attaching_xdp},
};

/// Why a start with this configuration would be refused, in the words of that start: a sentence for
/// each interface that is here and cannot be what the configuration wants.
pub(crate) async fn refusals(config: &Config) -> Result<Vec<String>> {
    let links = links().await?;
    // Before Linux 6.3 only the driver itself tells, when a program is attached.
    let devices = match Netdev::find().await? {
        Some(netdev) => Some(netdev.devices().await?),
        None => None,
    };
    let refused = |interface: &Interface| {
        let link = named(&links, &interface.name)?;
        not_ethernet(&interface.name, link)
            .or_else(|| without_xdp(interface, link, &links, devices.as_ref()?))
    };
    let interfaces = config.interfaces.iter().filter_map(refused);
    Ok(interfaces.chain(bridges::refusals(&config.bridges, &links)).collect())
}

/// Why an interface that must have XDP cannot have it.
fn without_xdp(
    interface: &Interface,
    link: &LinkMessage,
    links: &[LinkMessage],
    devices: &[Device],
) -> Option<String> {
    let device = devices.iter().find(|device| device.ifindex == link.header.index)?;
    if target(interface, link).xdp != Xdp::Must
        || device.runs_xdp()
        || is_bond_without_ports(link, links)
    {
        return None;
    }
    let attaching = attaching_xdp(&interface.name);
    Some(format!("{attaching}: it has no XDP (hook = \"xdp\"); expected hook = \"auto\" or \"tc\""))
}

/// A bond can what its ports can; without any it tells that it can nothing, and takes a program all
/// the same.
fn is_bond_without_ports(link: &LinkMessage, links: &[LinkMessage]) -> bool {
    let bond = link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Bond)),
        _ => false,
    });
    bond && !links
        .iter()
        .any(|port| port.attributes.contains(&LinkAttribute::Controller(link.header.index)))
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::LinkLayerType;

    use super::*;
    use crate::config::Hook;

    fn link(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut link = LinkMessage::default();
        (link.header.index, link.header.link_layer_type, link.attributes) =
            (index, LinkLayerType::Ether, attributes);
        link
    }

    #[test]
    fn only_a_bond_that_has_ports_is_judged_by_what_it_tells() {
        let kind = |kind| vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])];
        let (bond, port) =
            (link(2, kind(InfoKind::Bond)), link(3, vec![LinkAttribute::Controller(2)]));
        let refused = |hook, link: &LinkMessage, links: &[LinkMessage], features| {
            let interface = Interface { name: "it0".into(), hook };
            without_xdp(&interface, link, links, &[Device { ifindex: 2, features }]).is_some()
        };
        assert!(refused(Hook::Xdp, &bond, &[bond.clone(), port.clone()], 0));
        assert!(!refused(Hook::Xdp, &bond, &[bond.clone(), port], 1));
        assert!(!refused(Hook::Xdp, &bond, &[], 0));
        let bridge = link(2, kind(InfoKind::Bridge));
        assert!(refused(Hook::Xdp, &bridge, &[], 0));
        assert!(!refused(Hook::Auto, &bridge, &[], 0) && !refused(Hook::Tc, &bridge, &[], 0));
    }
}
