//! IP, and what its protocol numbers say is behind: TCP, or IP again.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use etherparse::{Ipv6HeaderSlice, LaxIpSlice, err::ip::LaxHeaderSliceError};
use steer_common::wire::{ip::PROTOCOL_TCP, tcp::TCP_LEN};

use super::{Frame, Kind, Next, Path, Segment, gre, path::Layer, take, udp};

/// Protocol numbers (IANA) that lead on.
mod protocol {
    pub(super) const IPV4: u8 = 4;
    pub(super) const UDP: u8 = 17;
    pub(super) const IPV6: u8 = 41;
    pub(super) const GRE: u8 = 47;
    /// IP within IP of KA9Q.
    pub(super) const IPIP: u8 = 94;
    /// RFC 3378.
    pub(super) const ETHERIP: u8 = 97;
    /// RFC 4023.
    pub(super) const MPLS: u8 = 137;
    /// RFC 8986 4.9.
    pub(super) const ETHERNET: u8 = 143;
    /// Extension headers of IPv6 that say their length in words of eight bytes, but for the first.
    pub(super) const EXTENSIONS: [u8; 6] = [0, 43, 60, 135, 139, 140];
    pub(super) const FRAGMENT: u8 = 44;
    /// RFC 4302: its length in words of four bytes, but for two.
    pub(super) const AUTHENTICATION: u8 = 51;
}

/// The addresses of the innermost IP header so far.
pub(super) struct Addresses {
    source: IpAddr,
    destination: IpAddr,
}

impl Default for Addresses {
    fn default() -> Self {
        let none = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self { source: none, destination: none }
    }
}

impl Addresses {
    /// A number that is another for another pair of ends, but for a chance in 2^32, and the same in
    /// both directions.
    pub(super) fn digest(&self) -> u32 {
        let number = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        let (a, b) = (number(self.source), number(self.destination));
        let (low, high) = if a < b { (a, b) } else { (b, a) };
        let mixed =
            (low ^ high.rotate_left(61)).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        (mixed >> 96) as u32
    }
}

/// Reads a header, of IPv4 with its extensions. Where the length is 0, as in packets above 64 KiB (RFC
/// 2675, BIG TCP) and in those that a network card will cut, all that is there is the packet's.
pub(super) fn header<'a>(bytes: &'a [u8], addresses: &mut Addresses) -> Option<Next<'a>> {
    if bytes.first()? >> 4 == 6 {
        return header_v6(bytes, addresses);
    }
    let (ip, stopped) = match LaxIpSlice::from_slice(bytes) {
        Ok(read) => read,
        Err(LaxHeaderSliceError::Len(_)) => return None,
        Err(LaxHeaderSliceError::Content(_)) => return Next::unread(Kind::Malformed("IP")),
    };
    (addresses.source, addresses.destination) = (ip.source_addr(), ip.destination_addr());
    let payload = ip.payload();
    if stopped.is_some_and(|(error, _)| error.len_error().is_some()) {
        return None;
    }
    // The first fragment has the headers and is read as if it was captured in part.
    if payload.fragmented && !is_first(&ip) {
        return Next::unread(Kind::Fragment);
    }
    Some(Next::Transport(payload.ip_number.0, payload.payload))
}

/// Reads the header of IPv6; its extensions are read one by one, as what is behind any header
/// ([`behind`]).
fn header_v6<'a>(bytes: &'a [u8], addresses: &mut Addresses) -> Option<Next<'a>> {
    let header = Ipv6HeaderSlice::from_slice(bytes).ok()?;
    addresses.source = header.source_addr().into();
    addresses.destination = header.destination_addr().into();
    let there = bytes.get(header.slice().len()..)?;
    let rest = match usize::from(header.payload_length()) {
        0 => there,
        len => there.get(..len).unwrap_or(there),
    };
    Some(Next::Transport(header.next_header().0, rest))
}

fn is_first(ip: &LaxIpSlice<'_>) -> bool {
    match ip {
        LaxIpSlice::Ipv4(ip) => ip.header().fragments_offset().value() == 0,
        LaxIpSlice::Ipv6(_) => false,
    }
}

/// What a protocol number says is behind it.
pub(super) fn behind<'a>(
    number: u8,
    bytes: &'a [u8],
    addresses: &Addresses,
    path: &mut Path,
) -> Option<Next<'a>> {
    match number {
        PROTOCOL_TCP => Some(Next::Tcp(bytes)),
        protocol::UDP => udp::header(bytes, path),
        protocol::GRE => gre::header(bytes, addresses, path),
        protocol::IPV4 | protocol::IPV6 | protocol::IPIP => {
            path.push(Layer::IpInIp, addresses.digest());
            Some(Next::Ip(bytes))
        }
        protocol::MPLS => Some(Next::Mpls(bytes)),
        protocol::ETHERNET => Some(Next::Ethernet(bytes)),
        // Version 3 and twelve zeros.
        protocol::ETHERIP => Some(Next::Ethernet(take::<2>(bytes)?.1)),
        number if protocol::EXTENSIONS.contains(&number) => {
            let (h, _) = take::<8>(bytes)?;
            Some(Next::Transport(h[0], bytes.get((usize::from(h[1]) + 1) * 8..)?))
        }
        protocol::AUTHENTICATION => {
            let (h, _) = take::<8>(bytes)?;
            Some(Next::Transport(h[0], bytes.get((usize::from(h[1]) + 2) * 4..)?))
        }
        protocol::FRAGMENT => {
            let (h, rest) = take::<8>(bytes)?;
            // The first one has the headers; the lower three bits are no part of its place.
            let is_first = u16::from_be_bytes([h[2], h[3]]) >> 3 == 0;
            if is_first { Some(Next::Transport(h[0], rest)) } else { Next::unread(Kind::Fragment) }
        }
        other => Next::end(Kind::IpProtocol(other)),
    }
}

/// Reads a TCP header.
pub(super) fn segment<'a>(bytes: &'a [u8], addresses: &Addresses, path: Path) -> Frame<'a> {
    let Some((h, _)) = take::<TCP_LEN>(bytes) else { return Frame::Unread(Kind::Cut) };
    let header_len = usize::from(h[12] >> 4) * 4;
    if header_len < TCP_LEN {
        return Frame::Unread(Kind::Malformed("TCP"));
    }
    let port = |at: usize| u16::from_be_bytes([h[at], h[at + 1]]);
    let number = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    Frame::Tcp(Segment {
        source: SocketAddr::new(addresses.source, port(0)),
        destination: SocketAddr::new(addresses.destination, port(2)),
        seq: number(4),
        ack: number(8),
        flags: h[13],
        window: port(14),
        accurate_ecn: h[12] & 1 != 0,
        options: bytes.get(TCP_LEN..header_len),
        // The capture may end inside the options.
        payload: bytes.get(header_len..).unwrap_or_default(),
        path,
    })
}
