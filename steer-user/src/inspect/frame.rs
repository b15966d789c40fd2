//! Frames of a capture as TCP segments.

use std::net::{IpAddr, SocketAddr};

use etherparse::{EtherType, IpNumber, LaxNetSlice, LaxSlicedPacket};
use steer_common::wire::tcp::TCP_LEN;

/// Link types (<https://www.tcpdump.org/linktypes.html>).
mod link {
    pub(super) const NULL: u16 = 0;
    pub(super) const ETHERNET: u16 = 1;
    /// Raw IP, as it is numbered on some systems.
    pub(super) const RAW_BSD: u16 = 12;
    pub(super) const RAW_OPENBSD: u16 = 14;
    pub(super) const RAW: u16 = 101;
    pub(super) const LOOP: u16 = 108;
    pub(super) const LINUX_SLL: u16 = 113;
    pub(super) const IPV4: u16 = 228;
    pub(super) const IPV6: u16 = 229;
    pub(super) const LINUX_SLL2: u16 = 276;
}

/// Length of a null or loopback header, bytes: an address family.
const NULL_LEN: usize = 4;
/// Length of a Linux cooked header, bytes; its last two are an EtherType.
const SLL_LEN: usize = 16;
/// Length of a Linux cooked header of version 2, bytes; its first two are an EtherType.
const SLL2_LEN: usize = 20;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// A TCP segment.
    Tcp(Segment<'a>),
    /// Anything else, fragments of IP datagrams among it.
    Other,
    /// A frame of a link type that is not read.
    UnknownLink,
}

/// A TCP segment, as much of it as was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment<'a> {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) seq: u32,
    pub(super) ack: u32,
    /// Any of [`steer_common::wire::tcp::flags`].
    pub(super) flags: u8,
    pub(super) payload: &'a [u8],
}

impl Segment<'_> {
    /// Whether all of `bits` are set.
    pub(super) fn has(&self, bits: u8) -> bool {
        self.flags & bits == bits
    }
}

/// Reads a frame of this link type.
pub(super) fn parse(link: u16, frame: &[u8]) -> Frame<'_> {
    let packet = match link {
        link::ETHERNET => LaxSlicedPacket::from_ethernet(frame).ok(),
        link::RAW | link::RAW_BSD | link::RAW_OPENBSD | link::IPV4 | link::IPV6 => from_ip(frame, 0),
        link::NULL | link::LOOP => from_ip(frame, NULL_LEN),
        link::LINUX_SLL => from_cooked(frame, SLL_LEN - 2, SLL_LEN),
        link::LINUX_SLL2 => from_cooked(frame, 0, SLL2_LEN),
        _ => return Frame::UnknownLink,
    };
    packet.and_then(|packet| segment(&packet)).map_or(Frame::Other, Frame::Tcp)
}

fn from_ip(frame: &[u8], at: usize) -> Option<LaxSlicedPacket<'_>> {
    LaxSlicedPacket::from_ip(frame.get(at..)?).ok()
}

fn from_cooked(frame: &[u8], ethertype_at: usize, len: usize) -> Option<LaxSlicedPacket<'_>> {
    let ethertype = u16::from_be_bytes(*frame.get(ethertype_at..)?.first_chunk()?);
    Some(LaxSlicedPacket::from_ether_type(EtherType(ethertype), frame.get(len..)?))
}

fn segment<'a>(packet: &LaxSlicedPacket<'a>) -> Option<Segment<'a>> {
    let (source, destination, payload): (IpAddr, IpAddr, _) = match packet.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into(), ip.payload())
        }
        LaxNetSlice::Ipv6(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into(), ip.payload())
        }
        LaxNetSlice::Arp(_) => return None,
    };
    if payload.ip_number != IpNumber::TCP || payload.fragmented {
        return None;
    }
    let h: &[u8; TCP_LEN] = payload.payload.first_chunk()?;
    let header_len = usize::from(h[12] >> 4) * 4;
    if header_len < TCP_LEN {
        return None;
    }
    let port = |at: usize| u16::from_be_bytes([h[at], h[at + 1]]);
    let number = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    Some(Segment {
        source: SocketAddr::new(source, port(0)),
        destination: SocketAddr::new(destination, port(2)),
        seq: number(4),
        ack: number(8),
        flags: h[13],
        // The capture may end inside the options.
        payload: payload.payload.get(header_len..).unwrap_or_default(),
    })
}
