//! What each interface of the network namespace takes, in the map `interfaces`: XDP redirects only
//! to those that are known to take its frames, and what has no Ethernet header is known as such.
//!
//! A packet may leave by any interface, managed or not: all of them are in it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures_util::{Stream, StreamExt as _, future, stream};
use rtnetlink::{
    MulticastGroup,
    packet_route::link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
};
use steer_common::shared::{
    INTERFACE_L3, INTERFACE_TAKES_XDP, INTERFACE_WAITS, MAX_BRIDGES, MAX_INTERFACES, VLAN_WORDS,
};
use tokio::time;

use super::{
    bridges::{PORT, Port},
    has_ip_only, is_nic, links,
    netdev::Netdev,
};
use crate::{
    config::{Bridge, Config, Interface},
    plane::{Plane, ifindex},
};

/// How often it is looked without any news: before Linux 6.3 nothing tells that a program was
/// attached by a link.
const LOOK: Duration = Duration::from_secs(5);
/// Shortest time between two looks, however much happens.
const BREATH: Duration = Duration::from_millis(100);
/// XDP rests for so long when an interface stops to take its frames: the programs remember the
/// answer in a next hop for up to 2 s.
const REST: Duration = Duration::from_secs(3);

/// Until when XDP rests.
static RESTS_UNTIL: Mutex<Option<Instant>> = Mutex::new(None);

/// Whether XDP rests: nobody may let it forward before that is over.
pub(in crate::agent) fn xdp_rests() -> bool {
    let until = *RESTS_UNTIL.lock().unwrap_or_else(PoisonError::into_inner);
    until.is_some_and(|until| Instant::now() < until)
}

/// Fills the maps `interfaces` and `vlans` with what the kernel says now. Takes [`REST`] where an
/// interface stopped to take frames of XDP since the map was filled last, and XDP is on.
pub async fn fill_interfaces(plane: &mut Plane, bridges: &[Bridge]) -> Result<()> {
    let netdev = Netdev::find().await?;
    let (found, _) = look(netdev.as_ref(), bridges, &HashMap::new()).await?;
    apply_vlans(plane, bridges)?;
    if apply(plane, &found)? == Pause::Needed {
        time::sleep(REST).await;
        set_xdp(plane, 1)?;
    }
    Ok(())
}

/// Keeps the maps right for ever. Of the managed interfaces it is told where XDP does not send, of
/// the ports of bridges whether they are looked at.
pub(in crate::agent) async fn watch(mut plane: Plane, config: Config) -> Result<()> {
    let mut told = Told::default();
    loop {
        match follow(&mut plane, &config, &mut told).await {
            Ok(()) => log::warn!("the kernel tells no more what interfaces can do; asking anew"),
            Err(error) => log::error!("follow what the interfaces can do: {error:#}"),
        }
        time::sleep(LOOK).await;
    }
}

/// What was said last.
#[derive(Default)]
struct Told {
    /// Managed interfaces that XDP does not send to.
    slow: HashSet<String>,
    /// Why each port of a bridge is not looked at, if so.
    ports: HashMap<String, Option<String>>,
    /// The index that each port had when it was seen last: the programs stay there, whatever it is
    /// called by then.
    indices: HashMap<String, u32>,
}

/// Looks whenever there are news, and now and then, until nothing is told any more. While XDP rests
/// ports are followed all the same.
async fn follow(plane: &mut Plane, config: &Config, told: &mut Told) -> Result<()> {
    let netdev = Netdev::find().await?;
    let mut news = news(netdev.as_ref())?;
    let mut rests = None;
    loop {
        let (found, ports) = look(netdev.as_ref(), &config.bridges, &told.indices).await?;
        told.indices.extend(ports.iter().filter_map(|port| Some((port.name.clone(), port.index?))));
        apply_vlans(plane, &config.bridges)?;
        if apply(plane, &found)? == Pause::Needed {
            rests = Some(Instant::now() + REST);
        }
        tell_ports(&ports, &mut told.ports);
        if rests.is_some_and(|until| until <= Instant::now()) {
            set_xdp(plane, 1)?;
            rests = None;
        }
        if rests.is_none() {
            tell_slow(plane, &config.interfaces, &mut told.slow)?;
        }
        time::sleep(BREATH).await;
        let left = rests.map(|until| until.saturating_duration_since(Instant::now()));
        match time::timeout(left.map_or(LOOK, |left| left.min(LOOK)), news.next()).await {
            Ok(None) => return Ok(()),
            // What came meanwhile is seen by the same look.
            Ok(Some(())) => {
                while let Some(Some(())) = future::FutureExt::now_or_never(news.next()) {}
            }
            Err(_) => {}
        }
    }
}

/// An item whenever an interface comes, goes or changes.
fn news(netdev: Option<&Netdev>) -> Result<impl Stream<Item = ()> + Unpin + use<>> {
    let opened = rtnetlink::new_multicast_connection(&[MulticastGroup::Link]);
    let (connection, handle, messages) = opened.context("listen to the interfaces")?;
    tokio::spawn(connection);
    // The connection ends with the last handle.
    let links = messages.map(move |_| drop(handle.clone()));
    let devices = match netdev {
        Some(netdev) => netdev.changes()?.left_stream(),
        None => stream::pending().right_stream(),
    };
    Ok(stream::select(links, devices))
}

/// Any of `INTERFACE_*` for every interface that is there, by its index, and how it stands with the
/// ports of bridges, which had these indices before.
async fn look(
    netdev: Option<&Netdev>,
    bridges: &[Bridge],
    before: &HashMap<String, u32>,
) -> Result<(HashMap<u32, u32>, Vec<Port>)> {
    let links = links().await?;
    let takers = match netdev {
        Some(netdev) => {
            let devices = netdev.devices().await?.into_iter();
            devices.filter(|device| device.takes_xdp()).map(|device| device.ifindex).collect()
        }
        None => links
            .iter()
            .filter(|link| has_xdp_in_driver(link))
            .map(|link| link.header.index)
            .collect(),
    };
    let mut found = links
        .iter()
        .map(|link| (link.header.index, flags(link, &takers)))
        .collect::<HashMap<_, _>>();
    let ports = Port::known(bridges, &links, before);
    for (index, flags) in ports.iter().filter_map(Port::flags) {
        *found.entry(index).or_default() |= flags;
    }
    Ok((found, ports))
}

fn flags(link: &LinkMessage, takers: &HashSet<u32>) -> u32 {
    let takes = if takers.contains(&link.header.index) { INTERFACE_TAKES_XDP } else { 0 };
    let l3 = if has_ip_only(link) { INTERFACE_L3 } else { 0 };
    takes | l3
}

/// Before Linux 6.3 only a NIC with an XDP program in its driver, which with ours attached is ours,
/// is known to take frames.
fn has_xdp_in_driver(link: &LinkMessage) -> bool {
    let in_driver = |attribute: &LinkAttribute| match attribute {
        LinkAttribute::Xdp(xdp) => xdp.contains(&LinkXdp::Attached(XdpAttached::Driver)),
        _ => false,
    };
    is_nic(link) && link.attributes.iter().any(in_driver)
}

/// What is to be written where the map differs from what was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Difference {
    written: Vec<(u32, u32)>,
    removed: Vec<u32>,
    /// Interfaces that are there and take no frames of XDP any more.
    lost: Vec<u32>,
}

/// An interface without any flag needs no entry.
fn difference(known: &[(u32, u32)], found: &HashMap<u32, u32>) -> Difference {
    let mut difference = Difference::default();
    for (index, flags) in known {
        let now = found.get(index).copied();
        if now.is_none_or(|now| now == 0) {
            difference.removed.push(*index);
        }
        if now.is_some_and(|now| flags & !now & INTERFACE_TAKES_XDP != 0) {
            difference.lost.push(*index);
        }
    }
    let known = known.iter().copied().collect::<HashMap<_, _>>();
    let news =
        found.iter().filter(|(index, flags)| **flags != 0 && known.get(index) != Some(flags));
    difference.written.extend(news.map(|(index, flags)| (*index, *flags)));
    difference
}

/// Whether XDP rests until no next hop remembers an interface that it may not send to any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
enum Pause {
    Needed,
    None,
}

fn apply(plane: &mut Plane, found: &HashMap<u32, u32>) -> Result<Pause> {
    let difference = difference(&plane.interfaces.entries()?, found);
    let mut pause = Pause::None;
    if !difference.lost.is_empty() && plane.settings()?.xdp != 0 {
        *RESTS_UNTIL.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + REST);
        set_xdp(plane, 0)?;
        pause = Pause::Needed;
        let lost = difference.lost.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        log::warn!(
            "interfaces with index {lost} take no frames of XDP any more: packets to them leave by TC"
        );
    }
    for index in &difference.removed {
        plane.interfaces.remove(index)?;
    }
    let room = (MAX_INTERFACES as usize).saturating_sub(plane.interfaces.count()? as usize);
    for (number, (index, flags)) in difference.written.iter().enumerate() {
        if number >= room && plane.interfaces.find(index)?.is_none() {
            log::warn!("more than {MAX_INTERFACES} interfaces: XDP does not send to the rest");
            break;
        }
        plane.interfaces.insert(index, flags)?;
    }
    Ok(pause)
}

/// Writes which VLANs each bridge takes. While a bridge's number may be another's no port has one.
fn apply_vlans(plane: &mut Plane, bridges: &[Bridge]) -> Result<()> {
    let mut wanted = bridges.iter().flat_map(|bridge| bridge.vlans.words()).collect::<Vec<_>>();
    wanted.resize((MAX_BRIDGES * VLAN_WORDS) as usize, 0);
    let known = plane.vlans()?;
    if known == wanted || bridges.is_empty() && known.is_empty() {
        return Ok(());
    }
    for (index, flags) in plane.interfaces.entries()? {
        if flags & PORT != 0 {
            // Flows that were moved wait meanwhile.
            plane.interfaces.insert(&index, &(flags & !PORT | INTERFACE_WAITS))?;
        }
    }
    plane.set_vlans(&wanted)
}

/// Says of each port of a bridge, when it begins and when it ends, whether it is looked at.
fn tell_ports(ports: &[Port], told: &mut HashMap<String, Option<String>>) {
    for port in ports {
        let why = port.trouble();
        if told.insert(port.name.clone(), why.clone()).as_ref() == Some(&why) {
            continue;
        }
        let (bridge, name, side) = (&port.bridge, &port.name, port.side.word());
        match why {
            None => log::info!("bridge {bridge}: port {name} ({side}) is looked at"),
            Some(why) => log::warn!(
                "bridge {bridge}: port {name} ({side}) is not looked at: {why}; all passes unread \
                 there, and nothing is moved to it or from it"
            ),
        }
    }
}

fn set_xdp(plane: &mut Plane, xdp: u32) -> Result<()> {
    let mut settings = plane.settings()?;
    settings.xdp = xdp;
    plane.set_settings(&settings)
}

/// Says of each managed interface once that packets to it take the slower way, where XDP runs on
/// another.
fn tell_slow(plane: &Plane, managed: &[Interface], told: &mut HashSet<String>) -> Result<()> {
    let mut slow = HashSet::new();
    if plane.settings()?.xdp != 0 {
        for Interface { name: interface, .. } in managed {
            let Some(index) = ifindex(interface) else { continue };
            if plane.interfaces.find(&index)?.unwrap_or_default() & INTERFACE_TAKES_XDP == 0 {
                slow.insert(interface.clone());
            }
        }
    }
    for interface in slow.difference(told) {
        log::warn!(
            "{interface} takes no frames of XDP: packets to it leave by TC, also where they came by XDP"
        );
    }
    *told = slow;
    Ok(())
}

/// Whether XDP sends to an interface, as the map says.
pub(crate) fn takes_xdp(plane: &Plane, interface: &str) -> Result<bool> {
    let flags =
        ifindex(interface).map(|index| plane.interfaces.find(&index)).transpose()?.flatten();
    Ok(flags.unwrap_or_default() & INTERFACE_TAKES_XDP != 0)
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::{InfoKind, LinkInfo, LinkLayerType};

    use super::*;

    fn link(index: u32, layer: LinkLayerType, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut link = LinkMessage::default();
        (link.header.index, link.header.link_layer_type, link.attributes) =
            (index, layer, attributes);
        link
    }

    #[test]
    fn what_the_kernel_says_and_what_has_no_ethernet_header_is_told_together() {
        let takers = HashSet::from([1, 2]);
        let of = |index, layer| flags(&link(index, layer, Vec::new()), &takers);
        assert_eq!(of(1, LinkLayerType::Ether), INTERFACE_TAKES_XDP);
        assert_eq!(of(3, LinkLayerType::Ether), 0);
        assert_eq!(of(2, LinkLayerType::None), INTERFACE_TAKES_XDP | INTERFACE_L3);
        for layer in [
            LinkLayerType::Tunnel,
            LinkLayerType::Tunnel6,
            LinkLayerType::Sit,
            LinkLayerType::Ipgre,
            LinkLayerType::Ip6gre,
            LinkLayerType::Ppp,
            LinkLayerType::Rawip,
        ] {
            assert_eq!(of(3, layer), INTERFACE_L3, "{layer:?}");
        }
    }

    #[test]
    fn before_linux_6_3_only_a_nic_with_xdp_in_its_driver_is_known_to_take_frames() {
        let xdp = |mode| LinkAttribute::Xdp(vec![LinkXdp::Attached(mode)]);
        let kind = |kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]);
        let is = |attributes| has_xdp_in_driver(&link(1, LinkLayerType::Ether, attributes));
        assert!(is(vec![xdp(XdpAttached::Driver)]));
        assert!(!is(vec![xdp(XdpAttached::SocketBuffer)]) && !is(Vec::new()));
        for made in [InfoKind::Bond, InfoKind::Veth, InfoKind::Vlan] {
            assert!(!is(vec![kind(made), xdp(XdpAttached::Driver)]));
        }
    }

    #[test]
    fn only_an_interface_that_is_still_there_can_be_lost_to_xdp() {
        let found = HashMap::from([(1, 0), (2, INTERFACE_TAKES_XDP), (4, INTERFACE_L3), (6, 0)]);
        let known = [
            (1, INTERFACE_TAKES_XDP),
            (2, INTERFACE_TAKES_XDP),
            (3, INTERFACE_TAKES_XDP),
            (4, INTERFACE_L3),
        ];
        let wanted = Difference { written: Vec::new(), removed: vec![1, 3], lost: vec![1] };
        assert_eq!(difference(&known, &found), wanted);
        let gained = difference(&[], &HashMap::from([(2, INTERFACE_TAKES_XDP)]));
        assert_eq!(
            gained,
            Difference { written: vec![(2, INTERFACE_TAKES_XDP)], ..Difference::default() }
        );
        let turned = difference(&[(5, INTERFACE_TAKES_XDP)], &HashMap::from([(5, INTERFACE_L3)]));
        assert_eq!(
            turned,
            Difference { written: vec![(5, INTERFACE_L3)], removed: Vec::new(), lost: vec![5] }
        );
    }
}
