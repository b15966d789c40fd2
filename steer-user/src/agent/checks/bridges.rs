//! What is wrong with bridges, their ports and the members behind them.

use std::{fs, net::IpAddr, path::Path};

use rtnetlink::packet_route::link::LinkMessage;
use steer_common::shared::{BACKEND_BRIDGED, BACKEND_PRESENT, Backend, BridgePath};

use super::{Kind, Warning};
use crate::{
    address::socket,
    agent::interfaces::{Port, calls_netfilter, trouble, unequal_mtu},
    config::Bridge,
    service::Service,
};

/// Where the settings of all bridges stand.
const SETTINGS: &str = "/proc/sys/net/bridge";

/// What keeps packets at bridges from being looked at, or has others misjudge them; `members` are
/// the addresses of the backends behind them.
pub fn bridges(bridges: &[Bridge], links: &[LinkMessage], members: &[IpAddr]) -> Vec<Warning> {
    let mut said = netfilter(bridges, links, members);
    for bridge in bridges {
        let name = &bridge.name;
        let why = match trouble(bridge, links) {
            Some(why) => vec![why],
            None => {
                let ports = Port::all(std::slice::from_ref(bridge), links).into_iter();
                ports
                    .filter_map(|port| Some(format!("{}: {}", port.name, port.trouble()?)))
                    .collect()
            }
        };
        let warning =
            |why| Warning::new(Kind::Bridge, format!("bridge {name}: not looked at: {why}"));
        said.extend(why.into_iter().map(warning));
        said.extend(unequal_mtu(bridge, links).map(|why| Warning::new(Kind::Bridge, why)));
    }
    said
}

/// Bridges whose packets the kernel shows to its packet filter: connection tracking sees of a moved
/// connection what the bridge forwards, and nothing of what goes from port to port.
pub fn netfilter(bridges: &[Bridge], links: &[LinkMessage], members: &[IpAddr]) -> Vec<Warning> {
    netfilter_by(Path::new(SETTINGS), bridges, links, members)
}

fn netfilter_by(
    settings: &Path,
    bridges: &[Bridge],
    links: &[LinkMessage],
    members: &[IpAddr],
) -> Vec<Warning> {
    // Without the module nobody is called, whatever a bridge says.
    if !settings.exists() {
        return Vec::new();
    }
    let families = [
        ("iptables", members.iter().any(IpAddr::is_ipv4)),
        ("ip6tables", members.iter().any(IpAddr::is_ipv6)),
    ];
    let mut said = Vec::new();
    for (word, _) in families.into_iter().filter(|(_, is_there)| *is_there) {
        let then = "connection tracking sees one half of each moved connection and calls it INVALID, which many rules drop";
        let setting = format!("bridge-nf-call-{word}");
        let on = fs::read_to_string(settings.join(&setting)).is_ok_and(|read| read.trim() != "0");
        if on && !bridges.is_empty() {
            let text = format!("{setting} is on: {then}; set net.bridge.{setting}=0");
            said.push(Warning::new(Kind::BridgeNetfilter, text));
            continue;
        }
        for Bridge { name, .. } in
            bridges.iter().filter(|bridge| calls_netfilter(bridge, links, word == "ip6tables"))
        {
            let text = format!(
                "nf_call_{word} is on at {name}: {then}; ip link set {name} type bridge nf_call_{word} 0"
            );
            said.push(Warning::new(Kind::BridgeNetfilter, text));
        }
    }
    said
}

/// Backends to which frames come with the tags of two VLANs.
pub fn ambiguous(backends: &[(u32, Backend)], paths: &[BridgePath], now: u32) -> Vec<Warning> {
    let mixed = members(backends, paths).filter(|(_, path)| path.is_mixed(now));
    let warning = |(backend, _): (&Backend, _)| {
        let text = format!(
            "{}: frames to {} come with the tags of two VLANs: nothing is moved to it or from it; say which one is meant \
             (`vlan` in its [[pool.backend]])",
            Service::of(&backend.vip).titled(),
            socket(&backend.endpoint)
        );
        Warning::new(Kind::VlanAmbiguous, text)
    };
    mixed.map(warning).collect()
}

/// Backends to which nothing can be moved, for nobody knows the way: a sentence each.
pub fn unseen(backends: &[(u32, Backend)], paths: &[BridgePath], now: u32) -> Vec<String> {
    let sentence = |(backend, path): (&Backend, BridgePath)| {
        let what = match (path.was_sent_to(now), path.was_heard(now)) {
            (true, true) => return None,
            (true, false) => "no frame of it came in inside",
            (false, true) => "no frame to it came in outside",
            (false, false) => "no frame to it came in outside, and none of it inside",
        };
        let (of, at) = (Service::of(&backend.vip).titled(), socket(&backend.endpoint));
        Some(format!("{of}: {at}: {what} in the last 5m: nothing is moved to it"))
    };
    members(backends, paths).filter_map(sentence).collect()
}

fn members<'a>(
    backends: &'a [(u32, Backend)],
    paths: &'a [BridgePath],
) -> impl Iterator<Item = (&'a Backend, BridgePath)> {
    let there = BACKEND_PRESENT | BACKEND_BRIDGED;
    let bridged = backends.iter().filter(move |(_, backend)| backend.flags & there == there);
    bridged.map(|(id, backend)| (backend, paths.get(*id as usize).copied().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        address::endpoint,
        agent::interfaces::tests::{bridge, bridge_link},
    };

    fn backend(id: u32, flags: u16) -> (u32, Backend) {
        let at = std::net::SocketAddr::from(([10, 0, 0, id as u8], 443));
        let vip = "web".parse::<Service>().unwrap().endpoint();
        (id, Backend { endpoint: endpoint(at), vip, flags, ..Backend::default() })
    }

    #[test]
    fn members_of_which_nothing_was_seen_lately_are_named_with_the_direction() {
        let there = BACKEND_PRESENT | BACKEND_BRIDGED;
        let backends = [
            backend(0, there),
            backend(1, there),
            backend(2, there),
            backend(3, there),
            backend(4, BACKEND_PRESENT),
            backend(5, BACKEND_BRIDGED),
        ];
        let path = |sent, heard| BridgePath { sent, heard, ..BridgePath::default() };
        let paths = [path(900, 950), path(900, 600), path(699, 950), path(0, 0)];
        let said = unseen(&backends, &paths, 1000);
        let told =
            ["inside in the last 5m", "outside in the last 5m", "outside, and none of it inside"];
        assert_eq!(said.len(), 3, "{said:?}");
        for (n, (said, told)) in said.iter().zip(told).enumerate() {
            let of = format!("pool web: 10.0.0.{}:443: no frame", n + 1);
            assert!(said.starts_with(&of) && said.contains(told), "{said}");
        }
    }

    #[test]
    fn members_with_the_tags_of_two_vlans_are_warned_of_until_one_is_named() {
        let backends = [backend(0, BACKEND_PRESENT | BACKEND_BRIDGED)];
        let said =
            |mixed| ambiguous(&backends, &[BridgePath { mixed, ..BridgePath::default() }], 1000);
        let [warning] = &said(990)[..] else { panic!("a warning") };
        assert_eq!(warning.kind, Kind::VlanAmbiguous);
        assert!(warning.text.starts_with("pool web: frames to 10.0.0.0:443 come with"));
        assert_eq!((said(0), said(600)), (Vec::new(), Vec::new()));
    }

    #[test]
    fn connection_tracking_at_bridges_is_named_by_family_and_only_where_it_can_be() {
        use rtnetlink::packet_route::link::InfoBridge;
        let root = tempfile::tempdir().unwrap();
        let bridges = [bridge()];
        let members = |text: &str| [text.parse::<IpAddr>().unwrap()];
        let said = |told: Vec<InfoBridge>, members: &[IpAddr]| {
            let links = [bridge_link(told)];
            let said = netfilter_by(root.path(), &bridges, &links, members);
            said.into_iter().map(|warning| warning.text).collect::<Vec<_>>()
        };
        let (v4, v6) = (members("10.0.0.1"), members("2001:db8::1"));
        assert_eq!(said(vec![], &v4), [""; 0]);
        let own = said(vec![InfoBridge::NfCallIpTables(true)], &v4);
        assert!(
            own.len() == 1 && own[0].ends_with("ip link set br0 type bridge nf_call_iptables 0"),
            "{own:?}"
        );
        assert_eq!(said(vec![InfoBridge::NfCallIpTables(true)], &v6), [""; 0]);
        fs::write(root.path().join("bridge-nf-call-ip6tables"), "1\n").unwrap();
        fs::write(root.path().join("bridge-nf-call-iptables"), "0\n").unwrap();
        let all = said(vec![], &v6);
        assert!(
            all.len() == 1 && all[0].ends_with("set net.bridge.bridge-nf-call-ip6tables=0"),
            "{all:?}"
        );
        assert_eq!(said(vec![], &v4), [""; 0]);
        let nowhere = netfilter_by(
            &root.path().join("none"),
            &bridges,
            &[bridge_link(vec![InfoBridge::NfCallIpTables(true)])],
            &v4,
        );
        assert_eq!(nowhere, []);
    }
}
