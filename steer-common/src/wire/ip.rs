//! From the Ethernet header to the transport header, IPv4 (RFC 791) and IPv6 (RFC 8200) through one
//! type.

use super::{
    ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN, Packet,
    byte, lower, upper,
};
use crate::shared::Address;

/// IP protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// IPv6 extension headers walked before a packet counts as not ours.
const MAX_EXTENSIONS: usize = 4;
/// Largest offset of a transport header, bytes from the start of the frame; what lies deeper is not
/// ours.
pub const MAX_L4_OFFSET: usize = 0xff;
/// Length of an IPv6 header, bytes (RFC 8200 3).
pub const IPV6_LEN: usize = 40;
/// Length of an IPv4 header without options, bytes (RFC 791 3.1).
pub const IPV4_LEN: usize = 20;

/// IP header of a frame, both families.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Whether this is IPv6.
    pub v6: bool,
    /// Hop limit (TTL).
    pub hop_limit: u8,
    /// Transport protocol.
    pub protocol: u8,
    /// Offset of the transport header, bytes from the start of the frame.
    pub l4: usize,
    /// Bytes of the transport header and its payload.
    pub l4_len: usize,
    /// Whether the packet carries IPv4 options or IPv6 extension headers.
    pub options: bool,
    /// Whether routers may fragment it (IPv4 without DF).
    pub may_fragment: bool,
    /// Which part of a datagram this is.
    pub part: Part,
    /// Identification of a fragment, 16 bits in IPv4 and 32 in IPv6.
    pub fragment_id: u32,
}

impl Ip {
    /// Whether this is a whole datagram without IPv4 options and IPv6 extension headers.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        !self.options && self.part == Part::Whole
    }

    /// Bytes of the IP header in each of the segments that a packet of several becomes on the wire.
    /// Linux puts the jumbo payload option (RFC 2675) in front of those above 64 KB and takes it
    /// away again.
    #[inline(always)]
    pub const fn header_on_wire(&self) -> usize {
        const JUMBO: usize = 8;
        let header = self.l4 - ETHERNET_LEN;
        if self.options && self.v6 && self.l4_len > u16::MAX as usize - JUMBO {
            header - JUMBO
        } else {
            header
        }
    }
}

/// Which part of a datagram a packet is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    #[default]
    Whole,
    /// The first fragment, which carries the transport header.
    First,
    /// A later fragment.
    Later,
}

impl Part {
    #[inline(always)]
    const fn of(fragmented: bool, offset: u16) -> Self {
        match (fragmented, offset) {
            (false, _) => Part::Whole,
            (true, 0) => Part::First,
            (true, _) => Part::Later,
        }
    }
}

/// Why a frame is not read as IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotIp {
    /// Another protocol.
    Other,
    /// A VLAN tag in the frame itself.
    Vlan,
    /// A header cut short or with lengths that lie.
    Malformed,
}

/// Reads a frame from its Ethernet header to its transport header.
///
/// # Errors
/// What the frame is instead.
#[inline(always)]
pub fn parse<P: Packet + ?Sized>(packet: &P) -> Result<Ip, NotIp> {
    let mut ip = Ip::default();
    parse_into(packet, || 0, &mut ip)?;
    Ok(ip)
}

/// As [`parse`], in place, for a frame that may be several segments in one: such a packet above 64
/// KB says 0 for its length (Linux "BIG TCP", for IPv6 with or without the jumbo payload option of
/// RFC 2675). `whole` says how long the frame is then, bytes; 0 where it is no such frame.
///
/// # Errors
/// What the frame is instead; nothing in `ip` counts then.
#[inline(always)]
pub fn parse_into<P: Packet + ?Sized>(
    packet: &P,
    whole: impl Fn() -> usize,
    ip: &mut Ip,
) -> Result<(), NotIp> {
    match packet.be16(12) {
        None => Err(NotIp::Malformed),
        Some(ETHERTYPE_IPV4) => ipv4(packet, ETHERNET_LEN, whole, ip),
        Some(ETHERTYPE_IPV6) => ipv6(packet, ETHERNET_LEN, whole, ip),
        Some(ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN) => Err(NotIp::Vlan),
        Some(_) => Err(NotIp::Other),
    }
}

#[inline(always)]
fn ipv4<P: Packet + ?Sized>(
    packet: &P,
    l3: usize,
    whole: impl Fn() -> usize,
    ip: &mut Ip,
) -> Result<(), NotIp> {
    let Some(h) = packet.words::<{ IPV4_LEN / 4 }>(l3) else { return Err(NotIp::Malformed) };
    let (version_len, mut total) = (byte(h[0], 0), lower(h[0]) as usize);
    if total == 0 {
        total = whole().saturating_sub(l3);
    }
    let header_len = (version_len & 0xf) as usize * 4;
    if version_len >> 4 != 4 || header_len < IPV4_LEN || total < header_len {
        return Err(NotIp::Malformed);
    }
    // RFC 791 3.1: flags are the upper three bits (0x2000: more fragments), the offset the lower
    // 13.
    let flags_offset = lower(h[1]);
    *ip = Ip {
        source: Address::from_words([0, 0, MAPPED, h[3]]),
        destination: Address::from_words([0, 0, MAPPED, h[4]]),
        v6: false,
        hop_limit: byte(h[2], 0),
        protocol: byte(h[2], 1),
        l4: l3 + header_len,
        l4_len: total - header_len,
        options: header_len != IPV4_LEN,
        may_fragment: flags_offset & 0x4000 == 0,
        part: Part::of(flags_offset & 0x3fff != 0, flags_offset & 0x1fff),
        fragment_id: upper(h[1]) as u32,
    };
    Ok(())
}

/// Third word of a mapped IPv4 address.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

#[inline(always)]
fn ipv6<P: Packet + ?Sized>(
    packet: &P,
    l3: usize,
    whole: impl Fn() -> usize,
    ip: &mut Ip,
) -> Result<(), NotIp> {
    let Some(h) = packet.words::<{ IPV6_LEN / 4 }>(l3) else { return Err(NotIp::Malformed) };
    if byte(h[0], 0) >> 4 != 6 {
        return Err(NotIp::Malformed);
    }
    // A mapped address never stands on the wire (RFC 4291 2.5.5.2 has it for sockets); here it is
    // an IPv4 flow's.
    let mapped = |words: &[u32]| words[0] == 0 && words[1] == 0 && words[2] == MAPPED;
    if mapped(&[h[2], h[3], h[4]]) || mapped(&[h[6], h[7], h[8]]) {
        return Err(NotIp::Other);
    }
    let mut payload = upper(h[1]) as usize;
    if payload == 0 {
        payload = whole().saturating_sub(l3 + IPV6_LEN);
    }
    *ip = Ip {
        source: Address::from_words([h[2], h[3], h[4], h[5]]),
        destination: Address::from_words([h[6], h[7], h[8], h[9]]),
        v6: true,
        hop_limit: byte(h[1], 3),
        protocol: byte(h[1], 2),
        l4: l3 + IPV6_LEN,
        l4_len: payload,
        options: false,
        may_fragment: false,
        part: Part::Whole,
        fragment_id: 0,
    };
    if ip.protocol == PROTOCOL_TCP || ip.protocol == PROTOCOL_ICMPV6 {
        return Ok(());
    }
    // RFC 8200 4.1: each extension header names the next one; a bounded walk, deeper chains are not
    // ours.
    for _ in 0..MAX_EXTENSIONS {
        match ip.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | FRAGMENT => {}
            _ => break,
        }
        if !skip_extension(packet, ip) {
            return Err(NotIp::Malformed);
        }
        if ip.part == Part::Later {
            break;
        }
    }
    Ok(())
}

/// Steps over one extension header; false where it lies about its length or reaches too deep.
#[inline(always)]
fn skip_extension<P: Packet + ?Sized>(packet: &P, ip: &mut Ip) -> bool {
    let Some(h) = packet.words::<2>(ip.l4) else { return false };
    let len = if ip.protocol == FRAGMENT {
        // RFC 8200 4.5: offset in the upper 13 bits, bit 0 says that more follow.
        let offset_more = lower(h[0]);
        ip.part = Part::of(offset_more & 0xfff9 != 0, offset_more & 0xfff8);
        ip.fragment_id = u32::from_be(h[1]);
        8
    } else {
        (byte(h[0], 1) as usize + 1) * 8
    };
    if len > ip.l4_len || ip.l4 + len > MAX_L4_OFFSET {
        return false;
    }
    ip.options = true;
    ip.protocol = byte(h[0], 0);
    ip.l4 += len;
    ip.l4_len -= len;
    true
}
