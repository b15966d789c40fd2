//! Addresses between the kernel's layout and what people write.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

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
}
