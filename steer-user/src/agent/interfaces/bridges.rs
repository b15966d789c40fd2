//! The ports of bridges as the kernel has them: which are looked at, and why others are not.
//!
//! What is moved goes from port to port, past the bridge: into a port that the spanning tree blocks
//! it would make a loop, and past a bridge that filters VLANs it would keep a tag that the bridge
//! takes off. So a port is looked at only while its bridge says that it forwards.

use std::collections::HashMap;

use anyhow::{Result, bail};
use rtnetlink::packet_route::link::{
    BridgePortState, BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    LinkAttribute, LinkInfo, LinkMessage,
};
use steer_common::shared::{
    INTERFACE_BRIDGE_AT, INTERFACE_INSIDE, INTERFACE_OUTSIDE, INTERFACE_WAITS, MAX_BRIDGES,
};

use super::{links, mtu, named};
use crate::{
    config::{Bridge, Side, Stp},
    plane::Plane,
};

/// All bits of an interface in `interfaces` that say something of a port.
pub(super) const PORT: u32 = INTERFACE_OUTSIDE
    | INTERFACE_INSIDE
    | INTERFACE_WAITS
    | (MAX_BRIDGES - 1) << INTERFACE_BRIDGE_AT;

/// A port of a bridge of the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Port {
    /// Its name.
    pub(crate) name: String,
    /// The name of its bridge.
    pub(crate) bridge: String,
    /// The side that the configuration has it on.
    pub(crate) side: Side,
    /// How it stands with it.
    pub(crate) state: PortState,
    /// The number of its bridge.
    number: u32,
    /// Its index, where it is there.
    pub(super) index: Option<u32>,
}

/// How it stands with a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum PortState {
    /// It forwards.
    Forwarding,
    /// It is a port of the bridge and does not forward: the kernel's word for it.
    Not(&'static str),
    /// There is no interface of this name.
    Gone,
    /// It is no port of the bridge.
    Elsewhere,
    /// The bridge is not there.
    NoBridge(String),
    /// The bridge is not one to look at, whatever its ports do.
    Bridge(String),
}

impl Port {
    /// Every port of these bridges, as these interfaces tell.
    pub(crate) fn all(bridges: &[Bridge], links: &[LinkMessage]) -> Vec<Self> {
        Self::known(bridges, links, &HashMap::new())
    }

    /// As [`Port::all`]; one that has another name by now is known by the index that it had before.
    pub(super) fn known(
        bridges: &[Bridge],
        links: &[LinkMessage],
        before: &HashMap<String, u32>,
    ) -> Vec<Self> {
        let of = |(number, bridge)| ports(number, bridge, links, before);
        (0..).zip(bridges).flat_map(of).collect()
    }

    /// Its index, and what the map `interfaces` has of it while it is looked at.
    pub(super) fn flags(&self) -> Option<(u32, u32)> {
        let side = match self.side {
            Side::Outside => INTERFACE_OUTSIDE,
            Side::Inside => INTERFACE_INSIDE,
        };
        let bits = match self.state {
            PortState::Forwarding => side | self.number << INTERFACE_BRIDGE_AT,
            PortState::Not(_) | PortState::Elsewhere | PortState::NoBridge(_) => INTERFACE_WAITS,
            PortState::Gone | PortState::Bridge(_) => return None,
        };
        Some((self.index?, bits))
    }

    /// How it stands with it, in a word.
    pub(crate) fn word(&self) -> &'static str {
        match self.state {
            PortState::Forwarding => "forwarding",
            PortState::Not(state) => state,
            PortState::Gone => "gone",
            PortState::Elsewhere | PortState::NoBridge(_) => "no-port",
            PortState::Bridge(_) => "unfit",
        }
    }

    /// Whether the map `interfaces` says that it is looked at.
    pub(crate) fn is_looked_at(&self, plane: &Plane) -> Result<bool> {
        let flags = self.index.map(|index| plane.interfaces.find(&index)).transpose()?.flatten();
        Ok(flags.unwrap_or_default() & (INTERFACE_OUTSIDE | INTERFACE_INSIDE) != 0)
    }

    /// Why it is not looked at; `None` where it is.
    pub(crate) fn trouble(&self) -> Option<String> {
        let Self { name, bridge, .. } = self;
        match &self.state {
            PortState::Forwarding => None,
            PortState::Not(state) => Some(format!("its state is {state}")),
            PortState::Gone => Some(format!("there is no interface {name}")),
            PortState::Elsewhere => Some(format!("{name} is no port of {bridge}")),
            PortState::NoBridge(why) | PortState::Bridge(why) => Some(why.clone()),
        }
    }
}

fn ports(
    number: u32,
    bridge: &Bridge,
    links: &[LinkMessage],
    before: &HashMap<String, u32>,
) -> Vec<Port> {
    let why = trouble(bridge, links);
    let controller = named(links, &bridge.name).map(|link| link.header.index);
    let port = |(name, side): (&str, Side)| {
        let renamed = || links.iter().find(|link| Some(&link.header.index) == before.get(name));
        let link = named(links, name).or_else(renamed);
        let state = match (&why, link) {
            (Some(why), _) if controller.is_none() => PortState::NoBridge(why.clone()),
            (Some(why), _) => PortState::Bridge(why.clone()),
            (None, None) => PortState::Gone,
            (None, Some(link)) => state(link, controller),
        };
        let index = link.map(|link| link.header.index);
        let (name, bridge) = (name.to_owned(), bridge.name.clone());
        Port { name, bridge, side, state, number, index }
    };
    bridge.ports().map(port).collect()
}

fn state(port: &LinkMessage, bridge: Option<u32>) -> PortState {
    let controller = port.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    });
    if controller.is_none() || controller != bridge {
        return PortState::Elsewhere;
    }
    let told = infos(port).find_map(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(told)) => {
            told.iter().find_map(|told| match told {
                InfoBridgePort::State(state) => Some(*state),
                _ => None,
            })
        }
        _ => None,
    });
    match told {
        Some(BridgePortState::Forwarding) => PortState::Forwarding,
        Some(BridgePortState::Disabled) => PortState::Not("disabled"),
        Some(BridgePortState::Listening) => PortState::Not("listening"),
        Some(BridgePortState::Learning) => PortState::Not("learning"),
        Some(BridgePortState::Blocking) => PortState::Not("blocking"),
        Some(_) | None => PortState::Not("unknown"),
    }
}

/// Why nothing of a bridge is looked at; `None` where its ports decide.
pub(crate) fn trouble(bridge: &Bridge, links: &[LinkMessage]) -> Option<String> {
    let name = &bridge.name;
    let Some(link) = named(links, name) else {
        return Some(format!("there is no bridge {name}"));
    };
    if !infos(link).any(|info| *info == LinkInfo::Kind(InfoKind::Bridge)) {
        return Some(format!("{name} is no bridge"));
    }
    settings(link).find_map(|told| match told {
        InfoBridge::StpState(stp)
            if *stp != BridgeStpState::Disabled && bridge.stp == Stp::Refused =>
        {
            Some(format!(
                "STP is on at {name}, which may block ports: turn it off (ip link set {name} type bridge stp_state 0), or have \
                 `stp = \"watched\"` in [[bridge]]"
            ))
        }
        InfoBridge::VlanFiltering(true) => Some(format!(
            "{name} filters VLANs, and what goes from port to port past it would keep a tag that it takes off: turn \
             that off (ip link set {name} type bridge vlan_filtering 0)"
        )),
        _ => None,
    })
}

/// That the ports of a bridge have several MTUs, if they do.
pub(crate) fn unequal_mtu(bridge: &Bridge, links: &[LinkMessage]) -> Option<String> {
    let of = |(port, _)| Some((port, mtu(named(links, port)?)?));
    let mtus = bridge.ports().filter_map(of).collect::<Vec<(&str, u32)>>();
    let (_, first) = mtus.first()?;
    let name = &bridge.name;
    mtus.iter().any(|(_, mtu)| mtu != first).then(|| {
        let each = mtus.iter().map(|(port, mtu)| format!("{port} {mtu}"));
        format!(
            "the ports of {name} have several MTUs ({}), and a bridge drops what does not fit without a word: give all the same",
            each.collect::<Vec<_>>().join(", ")
        )
    })
}

/// Why a start with these bridges would be refused, as sentences.
pub(super) fn refusals(bridges: &[Bridge], links: &[LinkMessage]) -> Vec<String> {
    let mut said = Vec::new();
    for bridge in bridges {
        if let Some(why) = trouble(bridge, links) {
            said.push(why);
            continue;
        }
        // A port that does not forward now is waited for.
        let wrong = ports(0, bridge, links, &HashMap::new()).into_iter();
        let wrong =
            wrong.filter(|port| !matches!(port.state, PortState::Forwarding | PortState::Not(_)));
        said.extend(
            wrong.filter_map(|port| Some(format!("bridge {}: {}", bridge.name, port.trouble()?))),
        );
        said.extend(unequal_mtu(bridge, links));
    }
    said
}

/// Refuses bridges that are not as the configuration has them.
pub(in crate::agent) async fn refuse_bridges(bridges: &[Bridge]) -> Result<()> {
    if bridges.is_empty() {
        return Ok(());
    }
    match refusals(bridges, &links().await?) {
        why if why.is_empty() => Ok(()),
        why => bail!(why.join("; ")),
    }
}

/// Whether a bridge itself has its packets shown to the packet filter, of this family.
pub(crate) fn calls_netfilter(bridge: &Bridge, links: &[LinkMessage], v6: bool) -> bool {
    let called = |told: &InfoBridge| match told {
        InfoBridge::NfCallIpTables(on) => *on && !v6,
        InfoBridge::NfCallIp6Tables(on) => *on && v6,
        _ => false,
    };
    named(links, &bridge.name).is_some_and(|link| settings(link).any(called))
}

/// What a bridge says of itself.
fn settings(link: &LinkMessage) -> impl Iterator<Item = &InfoBridge> {
    infos(link).flat_map(|info| match info {
        LinkInfo::Data(InfoData::Bridge(told)) => &told[..],
        _ => &[],
    })
}

fn infos(link: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    link.attributes.iter().flat_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => &infos[..],
        _ => &[],
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use rtnetlink::packet_route::link::LinkLayerType;

    use super::*;
    use crate::config::Vlans;

    pub(crate) fn bridge() -> Bridge {
        Bridge {
            name: "br0".into(),
            outside: vec!["p0".into()],
            inside: vec!["p1".into()],
            vlans: Vlans::Any,
            stp: Stp::Refused,
        }
    }

    fn link(index: u32, name: &str, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut link = LinkMessage::default();
        (link.header.index, link.header.link_layer_type) = (index, LinkLayerType::Ether);
        link.attributes = vec![LinkAttribute::IfName(name.into()), LinkAttribute::Mtu(1500)];
        link.attributes.extend(attributes);
        link
    }

    /// The bridge, as the kernel tells of it.
    pub(crate) fn bridge_link(told: Vec<InfoBridge>) -> LinkMessage {
        let infos = vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(InfoData::Bridge(told))];
        link(2, "br0", vec![LinkAttribute::LinkInfo(infos)])
    }

    fn port(index: u32, name: &str, state: BridgePortState) -> LinkMessage {
        let data = InfoPortData::BridgePort(vec![InfoBridgePort::State(state)]);
        let infos = LinkAttribute::LinkInfo(vec![LinkInfo::PortData(data)]);
        link(index, name, vec![LinkAttribute::Controller(2), infos])
    }

    fn good() -> [LinkMessage; 3] {
        [
            bridge_link(vec![InfoBridge::StpState(BridgeStpState::Disabled)]),
            port(3, "p0", BridgePortState::Forwarding),
            port(4, "p1", BridgePortState::Forwarding),
        ]
    }

    /// The bits of each port that has any, and why the others have none.
    fn looked_at(bridges: &[Bridge], links: &[LinkMessage]) -> (Vec<(u32, u32)>, Vec<String>) {
        let ports = Port::all(bridges, links);
        let bits = ports.iter().filter_map(Port::flags).collect();
        (bits, ports.iter().filter_map(Port::trouble).collect())
    }

    #[test]
    fn ports_that_forward_have_their_side_and_the_number_of_their_bridge() {
        let sides = vec![(3, INTERFACE_OUTSIDE), (4, INTERFACE_INSIDE)];
        assert_eq!(looked_at(&[bridge()], &good()), (sides, vec![]));
        let other = Bridge {
            name: "br1".into(),
            outside: vec!["p8".into()],
            inside: vec!["p9".into()],
            ..bridge()
        };
        let second = 1 << INTERFACE_BRIDGE_AT;
        let sides = vec![(3, INTERFACE_OUTSIDE | second), (4, INTERFACE_INSIDE | second)];
        assert_eq!(looked_at(&[other, bridge()], &good()).0, sides);
    }

    #[test]
    fn a_port_that_has_another_name_now_is_known_by_its_index() {
        let [br0, p0, _] = good();
        let links = [br0, p0, port(4, "renamed", BridgePortState::Forwarding)];
        let bits = |before: HashMap<String, u32>| {
            let ports = Port::known(&[bridge()], &links, &before);
            ports.iter().filter_map(Port::flags).collect::<Vec<_>>()
        };
        let outside = (3, INTERFACE_OUTSIDE);
        assert_eq!(bits(HashMap::new()), [outside]);
        let before = HashMap::from([("p1".to_owned(), 4)]);
        assert_eq!(bits(before), [outside, (4, INTERFACE_INSIDE)]);
    }

    #[test]
    fn at_a_port_that_does_not_forward_or_is_elsewhere_moved_flows_wait() {
        let with = |changed: LinkMessage| {
            let [br0, p0, _] = good();
            looked_at(&[bridge()], &[br0, p0, changed])
        };
        let outside = vec![(3, INTERFACE_OUTSIDE)];
        let waits = vec![(3, INTERFACE_OUTSIDE), (4, INTERFACE_WAITS)];
        for (state, word) in [
            (BridgePortState::Disabled, "disabled"),
            (BridgePortState::Listening, "listening"),
            (BridgePortState::Learning, "learning"),
            (BridgePortState::Blocking, "blocking"),
        ] {
            let told = vec![format!("its state is {word}")];
            assert_eq!(with(port(4, "p1", state)), (waits.clone(), told));
        }
        let mut left = port(4, "p1", BridgePortState::Forwarding);
        left.attributes.retain(|attribute| !matches!(attribute, LinkAttribute::Controller(_)));
        assert_eq!(with(left.clone()), (waits.clone(), vec!["p1 is no port of br0".into()]));
        left.attributes.push(LinkAttribute::Controller(9));
        assert_eq!(with(left), (waits, vec!["p1 is no port of br0".into()]));
        let gone = link(4, "p2", vec![]);
        assert_eq!(with(gone), (outside, vec!["there is no interface p1".into()]));
    }

    #[test]
    fn no_port_of_a_bridge_has_bits_that_may_block_filters_vlans_or_is_none() {
        let [br0, p0, p1] = good();
        let with = |bridge: &Bridge, link: LinkMessage| {
            let links = [link, p0.clone(), p1.clone()];
            (
                looked_at(std::slice::from_ref(bridge), &links)
                    .0
                    .iter()
                    .filter(|(_, bits)| *bits != INTERFACE_WAITS)
                    .count(),
                refusals(std::slice::from_ref(bridge), &links),
            )
        };
        for (told, said) in [
            (InfoBridge::StpState(BridgeStpState::KernelStp), "STP is on at br0"),
            (InfoBridge::StpState(BridgeStpState::UserStp), "STP is on at br0"),
            (InfoBridge::VlanFiltering(true), "br0 filters VLANs"),
        ] {
            let (n, refused) = with(&bridge(), bridge_link(vec![told]));
            assert!(n == 0 && refused.len() == 1 && refused[0].starts_with(said), "{refused:?}");
        }
        let watched = Bridge { stp: Stp::Watched, ..bridge() };
        let stp = bridge_link(vec![InfoBridge::StpState(BridgeStpState::KernelStp)]);
        assert_eq!(with(&watched, stp), (2, vec![]));
        assert_eq!(with(&bridge(), link(2, "br0", vec![])), (0, vec!["br0 is no bridge".into()]));
        assert_eq!(
            with(&bridge(), link(2, "br1", vec![])),
            (0, vec!["there is no bridge br0".into()])
        );
        assert_eq!(with(&bridge(), br0), (2, vec![]));
    }

    #[test]
    fn a_start_is_refused_for_wrong_ports_and_mtus_and_not_for_a_port_that_waits() {
        let [br0, p0, _] = good();
        let refused = |p1: LinkMessage| refusals(&[bridge()], &[br0.clone(), p0.clone(), p1]);
        assert_eq!(refused(port(4, "p1", BridgePortState::Disabled)), [""; 0]);
        assert_eq!(refused(link(4, "p1", vec![])), ["bridge br0: p1 is no port of br0"]);
        assert_eq!(refused(link(4, "p2", vec![])), ["bridge br0: there is no interface p1"]);
        let mut large = port(4, "p1", BridgePortState::Forwarding);
        large.attributes.retain(|attribute| !matches!(attribute, LinkAttribute::Mtu(_)));
        large.attributes.push(LinkAttribute::Mtu(9000));
        let [told] = &refused(large)[..] else { panic!("one sentence") };
        assert!(
            told.starts_with("the ports of br0 have several MTUs (p0 1500, p1 9000)"),
            "{told}"
        );
    }
}
