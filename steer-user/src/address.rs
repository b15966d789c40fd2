//! Addresses between the kernel's layout and what people write.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use steer_common::shared::{Address, Endpoint};

/// The TCP endpoint of a socket address.
pub fn endpoint(socket: SocketAddr) -> Endpoint {
    Endpoint::tcp(address(socket.ip()), socket.port())
}

/// The socket address of an endpoint.
pub fn socket(endpoint: &Endpoint) -> SocketAddr {
    SocketAddr::new(ip(&endpoint.address), endpoint.port())
}

/// The map's form of an IP address.
pub fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => Address::from_v4(v4.octets()),
        IpAddr::V6(v6) => Address::from_v6(v6.octets()),
    }
}

/// The IP address in the map's form; mapped IPv4 comes back as IPv4.
pub fn ip(address: &Address) -> IpAddr {
    Ipv6Addr::from(address.octets()).to_canonical()
}

/// Why an address can stand in no packet to or from us; `None` where it can.
pub fn unusable(socket: SocketAddr) -> Option<&'static str> {
    match socket.ip() {
        _ if socket.port() == 0 => Some("port 0; expected a port of 1 to 65535"),
        ip if ip.is_unspecified() || ip.is_multicast() => Some("expected a unicast address"),
        ip if ip.is_loopback() => {
            Some("a loopback address; expected one that other machines reach")
        }
        IpAddr::V4(v4) if v4.is_broadcast() => Some("expected a unicast address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() || scope(socket) != 0 => {
            Some("an address of one link only; expected one that routes lead to")
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("expected the IPv4 address itself, not mapped into IPv6")
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// Whether this machine has the address itself, in the network namespace of the calling thread:
/// from there it talks to itself. Nothing is sent.
pub fn is_own(ip: IpAddr) -> bool {
    let any = if ip.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        IpAddr::from(Ipv6Addr::UNSPECIFIED)
    };
    let source = |probe: UdpSocket| probe.connect((ip, 1)).and_then(|()| probe.local_addr());
    UdpSocket::bind((any, 0)).and_then(source).is_ok_and(|source| source.ip() == ip)
}

fn scope(socket: SocketAddr) -> u32 {
    if let SocketAddr::V6(v6) = socket { v6.scope_id() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_survive_the_round_trip_in_both_families() {
        for text in ["198.51.100.10:443", "[2001:db8::10]:8443"] {
            let there: SocketAddr = text.parse().unwrap();
            assert_eq!(socket(&endpoint(there)).to_string(), text);
        }
    }

    #[test]
    fn only_an_address_of_this_machine_is_its_own() {
        for (text, own) in [("127.0.0.1", true), ("192.0.2.99", false), ("2001:db8::99", false)] {
            assert_eq!(is_own(text.parse().unwrap()), own, "{text}");
        }
    }

    #[test]
    fn what_no_packet_can_be_sent_to_is_told_from_addresses() {
        let v4 = [
            "10.0.0.1:0",
            "0.0.0.0:443",
            "224.0.0.1:443",
            "127.0.0.1:443",
            "127.9.9.9:443",
            "255.255.255.255:443",
        ];
        let v6 = [
            "[::]:443",
            "[ff02::1]:443",
            "[::ffff:10.0.0.1]:443",
            "[::1]:443",
            "[fe80::1]:443",
            "[fd00::1%2]:443",
        ];
        for text in v4.into_iter().chain(v6) {
            assert!(unusable(text.parse().unwrap()).is_some(), "{text}");
        }
        for text in ["10.0.0.1:1", "169.254.1.1:443", "[2001:db8::1]:65535", "[fd00::1]:443"] {
            assert_eq!(unusable(text.parse().unwrap()), None, "{text}");
        }
    }
}
