//! IPsec policies that cover addresses of ours. Steered packets are redirected from the ingress
//! hook to the egress interface: no policy is looked up for them, so that what it would have
//! encrypted or blocked goes out in clear.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use netlink_packet_xfrm::{
    UserPolicyInfo, XFRM_POLICY_BLOCK, XFRM_POLICY_FWD, XFRM_POLICY_OUT, XfrmAttrs, XfrmMessage,
    policy,
};
use rtnetlink::{
    packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    proto::new_connection,
    sys::{SocketAddr, protocols::NETLINK_XFRM},
};

use super::{Kind, Warning};

/// Policies that are named one by one; the rest is counted.
const NAMED: usize = 3;

/// The policies of this network namespace that cover any of the addresses. A kernel without IPsec
/// has none.
pub(crate) async fn policies(addresses: &BTreeSet<IpAddr>) -> Result<Vec<Warning>> {
    let opened = new_connection::<XfrmMessage>(NETLINK_XFRM);
    let (connection, handle, _) = match opened {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(Vec::new()),
        opened => opened.context("open a netlink socket of IPsec")?,
    };
    tokio::spawn(connection);
    let mut ask = NetlinkMessage::from(XfrmMessage::GetPolicy(policy::DelGetMessage::default()));
    ask.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    ask.finalize();
    let mut answers =
        handle.request(ask, SocketAddr::new(0, 0)).context("list the policies of IPsec")?;
    let mut found = BTreeSet::new();
    while let Some(answer) = answers.next().await {
        match answer.payload {
            NetlinkPayload::InnerMessage(XfrmMessage::AddPolicy(policy)) => {
                let in_tunnel_device =
                    policy.nlas.iter().any(|nla| matches!(nla, XfrmAttrs::IfId(id) if *id != 0));
                found.extend(
                    covered(&policy.user_policy_info, addresses).filter(|_| !in_tunnel_device),
                );
            }
            NetlinkPayload::Error(error) => {
                return Err(error.to_io()).context("list the policies of IPsec");
            }
            _ => {}
        }
    }
    Ok(sentences(found))
}

/// A policy in words, if it covers forwarded TCP packets of one of the addresses.
fn covered(policy: &UserPolicyInfo, addresses: &BTreeSet<IpAddr>) -> Option<String> {
    let direction = match policy.direction {
        XFRM_POLICY_FWD => "fwd",
        XFRM_POLICY_OUT => "out",
        // What is for the machine itself, and what single sockets have.
        _ => return None,
    };
    let selector = &policy.selector;
    let ends = [(selector.saddr, selector.prefixlen_s), (selector.daddr, selector.prefixlen_d)];
    let v6 = i32::from(selector.family) == libc::AF_INET6;
    let networks = ends.map(|(address, len)| {
        (if v6 { IpAddr::V6(address.to_ipv6()) } else { IpAddr::V4(address.to_ipv4()) }, len)
    });
    let tcp = matches!(i32::from(selector.proto), 0 | libc::IPPROTO_TCP);
    let covers =
        networks.iter().any(|network| addresses.iter().any(|address| contains(*network, *address)));
    let [(from, from_len), (to, to_len)] = networks;
    let block = if policy.action == XFRM_POLICY_BLOCK { ", block" } else { "" };
    (tcp && covers).then(|| format!("{direction}, {from}/{from_len} to {to}/{to_len}{block}"))
}

fn contains((network, len): (IpAddr, u8), address: IpAddr) -> bool {
    let differs = |bits: u128, width: u32| {
        bits.checked_shr(width.saturating_sub(len.into())).unwrap_or_default() != 0
    };
    match (network, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => !differs((a.to_bits() ^ b.to_bits()).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => !differs(a.to_bits() ^ b.to_bits(), 128),
        _ => false,
    }
}

fn sentences(policies: BTreeSet<String>) -> Vec<Warning> {
    if policies.is_empty() {
        return Vec::new();
    }
    let named = policies
        .iter()
        .take(NAMED)
        .map(|policy| format!("({policy})"))
        .collect::<Vec<_>>()
        .join(" ");
    let more = policies.len().saturating_sub(NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let text = format!(
        "IPsec policies cover a VIP or backends: {named}{more}; steered packets pass them by, neither encrypted nor blocked"
    );
    vec![Warning::new(Kind::Ipsec, text)]
}

#[cfg(test)]
mod tests {
    use netlink_packet_xfrm::{Address, Selector};

    use super::*;

    fn policy(direction: u8, from: (&str, u8), to: (&str, u8)) -> UserPolicyInfo {
        let address = |text: &str| Address::from_ip(&text.parse().unwrap());
        let family = if from.0.contains(':') { libc::AF_INET6 } else { libc::AF_INET };
        let selector = Selector {
            saddr: address(from.0),
            prefixlen_s: from.1,
            daddr: address(to.0),
            prefixlen_d: to.1,
            family: family as u16,
            ..Selector::default()
        };
        UserPolicyInfo { selector, direction, ..UserPolicyInfo::default() }
    }

    fn told(policy: &UserPolicyInfo) -> Option<String> {
        let ours = ["10.66.2.11", "198.51.100.10", "2001:db8::10"];
        covered(policy, &ours.iter().map(|address| address.parse().unwrap()).collect())
    }

    #[test]
    fn a_policy_that_covers_a_backend_or_a_vip_at_either_end_is_told() {
        let there = policy(XFRM_POLICY_FWD, ("10.66.1.0", 24), ("10.66.2.0", 24));
        assert_eq!(told(&there).as_deref(), Some("fwd, 10.66.1.0/24 to 10.66.2.0/24"));
        let back = UserPolicyInfo {
            action: XFRM_POLICY_BLOCK,
            ..policy(XFRM_POLICY_OUT, ("198.51.100.10", 32), ("0.0.0.0", 0))
        };
        assert_eq!(told(&back).as_deref(), Some("out, 198.51.100.10/32 to 0.0.0.0/0, block"));
        assert!(told(&policy(XFRM_POLICY_FWD, ("2001:db8::", 32), ("2001:db8:1::", 48))).is_some());
        assert!(told(&policy(XFRM_POLICY_FWD, ("::", 0), ("::", 0))).is_some());
    }

    #[test]
    fn one_that_covers_nothing_of_ours_or_no_tcp_or_no_forwarding_is_not() {
        assert_eq!(told(&policy(XFRM_POLICY_FWD, ("10.66.1.0", 24), ("10.66.3.0", 24))), None);
        assert_eq!(
            told(&policy(netlink_packet_xfrm::XFRM_POLICY_IN, ("0.0.0.0", 0), ("0.0.0.0", 0))),
            None
        );
        assert_eq!(told(&policy(3, ("0.0.0.0", 0), ("0.0.0.0", 0))), None);
        let mut udp = policy(XFRM_POLICY_FWD, ("0.0.0.0", 0), ("0.0.0.0", 0));
        udp.selector.proto = libc::IPPROTO_UDP as u8;
        assert_eq!(told(&udp), None);
    }

    #[test]
    fn many_policies_are_one_sentence() {
        assert_eq!(sentences(BTreeSet::new()), []);
        let many = (0..5).map(|n| format!("fwd, {n}")).collect();
        let said = sentences(many);
        assert!(
            said.len() == 1 && said[0].text.contains("(fwd, 0) (fwd, 1) (fwd, 2) and 2 more"),
            "{said:?}"
        );
    }
}
