//! Frames that `packets` does not make: other protocols, extension headers, fragments.

use etherparse::{Ipv4Header, PacketBuilder};

use crate::world::{CLIENT_MAC, Ends, GATE_MAC};

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;

/// An ARP request.
pub(crate) fn arp() -> Vec<u8> {
    let mut frame = [[0xff; 6], CLIENT_MAC].concat();
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend([0; 20]);
    frame
}

/// A datagram from the client to the VIP's port.
pub(crate) fn udp(ends: &Ends) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, GATE_MAC);
    let builder = match (ends.client.ip(), ends.vip.ip()) {
        (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) => {
            builder.ipv4(from.octets(), to.octets(), 64)
        }
        (std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) => {
            builder.ipv6(from.octets(), to.octets(), 64)
        }
        _ => unreachable!("one family"),
    };
    let mut frame = Vec::new();
    builder
        .udp(ends.client.port(), ends.vip.port())
        .write(&mut frame, b"data")
        .expect("a datagram");
    frame
}

/// Counts IPv4 options into the datagram's length.
pub(crate) fn whole_length(mut frame: Vec<u8>) -> Vec<u8> {
    let (mut header, _) = Ipv4Header::from_slice(&frame[ETHERNET..]).expect("an IPv4 header");
    header.total_len = (frame.len() - ETHERNET) as u16;
    header.header_checksum = header.calc_header_checksum();
    let header = header.to_bytes();
    frame[ETHERNET..ETHERNET + header.len()].copy_from_slice(&header);
    frame
}

/// Puts two fragments together again, of which the second may be several.
pub(crate) fn whole(first: &[u8], later: &[u8]) -> Vec<u8> {
    if first[ETHERNET] >> 4 == 4 {
        let (mut header, _) = Ipv4Header::from_slice(&first[ETHERNET..]).expect("an IPv4 header");
        let payload = [&first[ETHERNET + IPV4..], &later[ETHERNET + IPV4..]].concat();
        header.more_fragments = false;
        header.set_payload_len(payload.len()).expect("a length");
        header.header_checksum = header.calc_header_checksum();
        return [&first[..ETHERNET], &header.to_bytes(), &payload].concat();
    }
    let mut frame = first[..ETHERNET + IPV6].to_vec();
    frame[ETHERNET + 6] = first[ETHERNET + IPV6];
    frame.extend(&first[ETHERNET + IPV6 + 8..]);
    frame.extend(&later[ETHERNET + IPV6 + 8..]);
    let len = (frame.len() - ETHERNET - IPV6) as u16;
    frame[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&len.to_be_bytes());
    frame
}
