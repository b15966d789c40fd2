//! The lab's address plan: the same in every lab, for no lab sees another.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// TCP port of the VIP and of every backend.
pub const PORT: u16 = 443;
/// Name of the client-side interface of the gateway.
pub const CLIENT_SIDE: &str = "clients";

/// Name of the bridge that the gateway is, with [`super::Plan::bridge`].
pub const BRIDGE: &str = "br0";

/// Name of the balancer's interface towards the clients; the one towards the gateway is `eth0`.
pub const OUTSIDE: &str = "outside";
/// Number of the link between the clients and the balancer.
pub(super) const OUTSIDE_LINK: usize = 200;

/// IP version of what a client dials.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What clients dial.
pub fn vip(family: Family) -> SocketAddr {
    let address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x10)),
    };
    SocketAddr::new(address, PORT)
}

/// The balancer's own address towards the gateway, where one stands in front of it.
pub fn balancer(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 3, 0, 2)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 3, 0, 0, 0, 0, 0, 2)),
    }
}

/// What clients dial as well, where VIPs share a pool.
pub fn second_vip(family: Family) -> SocketAddr {
    let address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(198, 51, 100, 11)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x11)),
    };
    SocketAddr::new(address, PORT)
}

/// A client's source address; `index` below 250.
pub fn source(family: Family, index: usize) -> IpAddr {
    let number = u8::try_from(index + 1).unwrap_or(u8::MAX);
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 64, 0, number)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0x64, 0, 0, 0, 0, 0, u16::from(number))),
    }
}

/// Where a backend listens.
pub fn backend(family: Family, index: usize) -> SocketAddr {
    let (v4, v6) = backend_net(index, 2);
    let address = match family {
        Family::V4 => IpAddr::V4(v4),
        Family::V6 => IpAddr::V6(v6),
    };
    SocketAddr::new(address, PORT)
}

/// The gateway's interface towards a backend.
pub fn backend_side(index: usize) -> String {
    format!("b{index}")
}

/// MAC address of an end of a link: link 0 is the clients', link `i + 1` that of backend `i`; end 1
/// is the gateway's.
pub fn mac(link: usize, end: u8) -> [u8; 6] {
    [0x02, 0x57, 0xee, 0, u8::try_from(link).unwrap_or(u8::MAX), end]
}

/// A MAC address as `ip` wants it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Address of an end of a backend's link: host 1 is the gateway, host 2 the backend.
pub(super) fn backend_net(index: usize, host: u8) -> (Ipv4Addr, Ipv6Addr) {
    let number = u8::try_from(index).unwrap_or(u8::MAX);
    let v6 = Ipv6Addr::new(0xfd00, 2, u16::from(number), 0, 0, 0, 0, u16::from(host));
    (Ipv4Addr::new(10, 2, number, host), v6)
}
