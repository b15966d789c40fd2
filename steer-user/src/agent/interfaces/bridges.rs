//! The ports of bridges as the kernel has them: which are looked at, and why others are not.
//!
//! What is moved goes from port to port, past the bridge: into a port that the spanning tree blocks
//! it would make a loop, and past a bridge that filters VLANs it would keep a tag that the bridge
//! takes off. So a port is looked at only while its bridge says that it forwards.

use anyhow::{Result, bail};
use rtnetlink::packet_route::link::{
    BridgePortState, BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    LinkAttribute, LinkInfo, LinkMessage,
};
use steer_common::shared::{INTERFACE_BRIDGE_AT, INTERFACE_INSIDE, INTERFACE_OUTSIDE, MAX_BRIDGES};

use super::{links, mtu, named};
use crate::config::{Bridge, Side, Stp};

/// All bits of an interface in `interfaces` that say something of a port.
pub(super) const PORT: u32 =
    INTERFACE_OUTSIDE | INTERFACE_INSIDE | (MAX_BRIDGES - 1) << INTERFACE_BRIDGE_AT;

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
    index: Option<u32>,
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
    /// The bridge is not one to look at, whatever its ports do.
    Bridge(String),
}

impl Port {
    /// Every port of these bridges, as these interfaces tell.
    pub(crate) fn all(bridges: &[Bridge], links: &[LinkMessage]) -> Vec<Self> {
        let of = |(number, bridge)| ports(number, bridge, links);
        (0..).zip(bridges).flat_map(of).collect()
    }

    /// Its index, and what the map `interfaces` has of it while it is looked at.
    pub(super) fn flags(&self) -> Option<(u32, u32)> {
        let side = match self.side {
            Side::Outside => INTERFACE_OUTSIDE,
            Side::Inside => INTERFACE_INSIDE,
        };
        let looked_at = self.state == PortState::Forwarding;
        looked_at.then_some((self.index?, side | self.number << INTERFACE_BRIDGE_AT))
    }

    /// Why it is not looked at; `None` where it is.
    pub(crate) fn trouble(&self) -> Option<String> {
        let Self { name, bridge, .. } = self;
        match &self.state {
            PortState::Forwarding => None,
            PortState::Not(state) => Some(format!("its state is {state}")),
            PortState::Gone => Some(format!("there is no interface {name}")),
            PortState::Elsewhere => Some(format!("{name} is no port of {bridge}")),
            PortState::Bridge(why) => Some(why.clone()),
        }
    }
}

fn ports(number: u32, bridge: &Bridge, links: &[LinkMessage]) -> Vec<Port> {
    let why = trouble(bridge, links);
    let controller = named(links, &bridge.name).map(|link| link.header.index);
    let port = |(name, side): (&str, Side)| {
        let link = named(links, name);
        let state = match (&why, link) {
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
    let mut told = infos(link).flat_map(|info| match info {
        LinkInfo::Data(InfoData::Bridge(told)) => &told[..],
        _ => &[],
    });
    told.find_map(|told| match told {
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
        let wrong = ports(0, bridge, links).into_iter();
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

fn infos(link: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    link.attributes.iter().flat_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => &infos[..],
        _ => &[],
    })
}
