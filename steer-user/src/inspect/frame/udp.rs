//! Tunnels over UDP, known by the port that they are sent to.

use super::{Kind, Next, Path, be16, ethernet, path::Layer, take, wireless};

/// Ports (IANA).
mod port {
    pub(super) const L2TP: u16 = 1701;
    pub(super) const GTP_U: u16 = 2152;
    pub(super) const TEREDO: u16 = 3544;
    pub(super) const LISP: u16 = 4341;
    pub(super) const ESP: u16 = 4500;
    pub(super) const GRE: u16 = 4754;
    pub(super) const VXLAN: u16 = 4789;
    pub(super) const VXLAN_GPE: u16 = 4790;
    pub(super) const CAPWAP: u16 = 5247;
    pub(super) const GENEVE: u16 = 6081;
    pub(super) const MPLS: u16 = 6635;
    /// VXLAN as Linux has it unless told otherwise.
    pub(super) const VXLAN_LINUX: u16 = 8472;
    pub(super) const TZSP: u16 = 37008;
    pub(super) const WIREGUARD: u16 = 51820;
}

const IP_PROTOCOL_UDP: u8 = 17;
const IP_PROTOCOL_GRE: u8 = 47;

/// Ports, length, checksum. What does not begin as its port says is no tunnel.
pub(super) fn header<'a>(bytes: &'a [u8], path: &mut Path) -> Option<Next<'a>> {
    let (h, behind) = take::<8>(bytes)?;
    let len = usize::from(u16::from_be_bytes([h[4], h[5]]));
    let behind = len.checked_sub(8).and_then(|len| behind.get(..len)).unwrap_or(behind);
    let none = || Next::no_tcp(Kind::IpProtocol(IP_PROTOCOL_UDP));
    let Some(first) = behind.first() else { return none() };
    match be16(h, 2)? {
        port::VXLAN | port::VXLAN_LINUX | port::VXLAN_GPE if first & 0x08 != 0 => {
            vxlan(behind, path)
        }
        port::GENEVE if first >> 6 == 0 => geneve(behind, path),
        // Version 1, not GTP'.
        port::GTP_U if first >> 4 == 3 => gtp(behind, path),
        port::L2TP => l2tp(behind, path),
        port::MPLS => Some(Next::Mpls(behind)),
        port::GRE => Some(Next::Transport(IP_PROTOCOL_GRE, behind)),
        port::LISP => Some(Next::Ip(take::<8>(behind)?.1)),
        port::TEREDO => teredo(behind),
        port::TZSP => tzsp(behind),
        port::CAPWAP => capwap(behind),
        // What begins with four zeros is the exchange of keys (RFC 3948 2.2), a lone byte keeps the
        // way open.
        port::ESP if behind.len() > 4 && behind[..4] != [0; 4] => {
            Next::unread(Kind::Udp(port::ESP))
        }
        port::WIREGUARD if behind.starts_with(&[4, 0, 0, 0]) => {
            Next::unread(Kind::Udp(port::WIREGUARD))
        }
        _ => none(),
    }
}

/// RFC 7348 5: flags, reserved, network 24 bits, reserved. With flag P (VXLAN-GPE) the fourth byte
/// is a protocol.
fn vxlan<'a>(bytes: &'a [u8], path: &mut Path) -> Option<Next<'a>> {
    const NEXT_PROTOCOL: u8 = 4;
    let (h, behind) = take::<8>(bytes)?;
    path.push(Layer::Vxlan, u32::from_be_bytes([0, h[4], h[5], h[6]]));
    if h[0] & NEXT_PROTOCOL != 0 {
        ethernet::next_protocol(h[3], behind)
    } else {
        Some(Next::Ethernet(behind))
    }
}

/// RFC 8926 3.4: version 2 bits, words of options 6, control 1, critical 1; EtherType, network 24
/// bits, reserved.
fn geneve<'a>(bytes: &'a [u8], path: &mut Path) -> Option<Next<'a>> {
    const CONTROL: u8 = 0x80;
    let (h, behind) = take::<8>(bytes)?;
    if h[1] & CONTROL != 0 {
        return Next::no_tcp(Kind::Other("Geneve control"));
    }
    path.push(Layer::Geneve, u32::from_be_bytes([0, h[4], h[5], h[6]]));
    let options = usize::from(h[0] & 0x3f) * 4;
    Some(Next::EtherType(u16::from_be_bytes([h[2], h[3]]), behind.get(options..)?))
}

/// 3GPP TS 29.281 5.1: flags, type, length, tunnel; then, if any of three flags is set, sequence 2,
/// number 1 and the type of the first extension, each of which says its length in words and ends
/// with the type of the next.
fn gtp<'a>(bytes: &'a [u8], path: &mut Path) -> Option<Next<'a>> {
    const ANY_OF_THREE: u8 = 7;
    const EXTENSION: u8 = 4;
    const PACKET: u8 = 0xff;
    let (h, mut behind) = take::<8>(bytes)?;
    if h[1] != PACKET {
        return Next::no_tcp(Kind::Other("GTP-U signalling"));
    }
    path.push(Layer::Gtp, u32::from_be_bytes([h[4], h[5], h[6], h[7]]));
    if h[0] & ANY_OF_THREE != 0 {
        let (optional, rest) = take::<4>(behind)?;
        behind = rest;
        let mut next = if h[0] & EXTENSION != 0 { optional[3] } else { 0 };
        while next != 0 {
            let len = usize::from(*behind.first()?) * 4;
            if len == 0 {
                return Next::unread(Kind::Malformed("GTP-U"));
            }
            next = *behind.get(len - 1)?;
            behind = behind.get(len..)?;
        }
    }
    Some(match behind.first()? >> 4 {
        4 | 6 => Next::Ip(behind),
        // The tunnel's set-up says what it carries, which is not here.
        _ if ethernet::is_likely(behind) => Next::Ethernet(behind),
        _ if behind.starts_with(&[0xff, 3]) => Next::Ppp(behind),
        _ => return Next::unread(Kind::Other("GTP-U with neither IP, Ethernet nor PPP behind")),
    })
}

/// RFC 2661 3.1: flags and version, perhaps a length, tunnel and session, perhaps numbers, perhaps
/// an offset.
fn l2tp<'a>(bytes: &'a [u8], path: &mut Path) -> Option<Next<'a>> {
    const CONTROL: u16 = 0x8000;
    const LENGTH: u16 = 0x4000;
    const SEQUENCE: u16 = 0x0800;
    const OFFSET: u16 = 0x0200;
    let flags = be16(bytes, 0)?;
    if flags & CONTROL != 0 {
        return Next::no_tcp(Kind::Other("L2TP control"));
    }
    if flags & 0xf != 2 {
        return Next::unread(Kind::Udp(port::L2TP));
    }
    let mut at = if flags & LENGTH != 0 { 4 } else { 2 };
    path.push(Layer::L2tp, u32::from(be16(bytes, at)?) << 16 | u32::from(be16(bytes, at + 2)?));
    at += if flags & SEQUENCE != 0 { 8 } else { 4 };
    if flags & OFFSET != 0 {
        at += 2 + usize::from(be16(bytes, at)?);
    }
    Some(Next::Ppp(bytes.get(at..)?))
}

/// RFC 4380 5.1.1: perhaps an authentication, perhaps an origin, IPv6.
fn teredo(mut bytes: &[u8]) -> Option<Next<'_>> {
    if bytes.starts_with(&[0, 1]) {
        let (h, _) = take::<4>(bytes)?;
        bytes = bytes.get(13 + usize::from(h[2]) + usize::from(h[3])..)?;
    }
    if bytes.starts_with(&[0, 0]) {
        bytes = take::<8>(bytes)?.1;
    }
    if bytes.first()? >> 4 == 6 {
        Some(Next::Ip(bytes))
    } else {
        Next::no_tcp(Kind::IpProtocol(IP_PROTOCOL_UDP))
    }
}

/// TaZmen Sniffer Protocol: version, type, encapsulated protocol; fields of type, length and value
/// up to an end.
fn tzsp(bytes: &[u8]) -> Option<Next<'_>> {
    const PADDING: u8 = 0;
    const END: u8 = 1;
    let (h, mut behind) = take::<4>(bytes)?;
    if h[0] != 1 || !matches!(h[1], 0 | 1) {
        return Next::no_tcp(Kind::Other("TZSP without a packet"));
    }
    loop {
        let (field, rest) = behind.split_first()?;
        behind = match *field {
            END => break,
            PADDING => rest,
            _ => rest.get(1 + usize::from(*rest.first()?)..)?,
        };
    }
    behind = behind.get(1..)?;
    match u16::from_be_bytes([h[2], h[3]]) {
        1 => Some(Next::Ethernet(behind)),
        0x12 => Some(Next::Wireless(behind)),
        _ => Next::unread(Kind::Udp(port::TZSP)),
    }
}

/// RFC 5415 4.3: version and type; length 5 bits, radio 5, binding 5, native 1; flags. Native
/// frames are of IEEE 802.11.
fn capwap(bytes: &[u8]) -> Option<Next<'_>> {
    const ENCRYPTED: u8 = 1;
    const FRAGMENT: u8 = 0x80;
    const KEEPALIVE: u8 = 0x08;
    let (h, _) = take::<8>(bytes)?;
    if h[0] & 0xf == ENCRYPTED {
        return Next::unread(Kind::Udp(port::CAPWAP));
    }
    if h[3] & KEEPALIVE != 0 {
        return Next::no_tcp(Kind::Other("CAPWAP keepalive"));
    }
    let behind = bytes.get(usize::from(h[1] >> 3) * 4..)?;
    // Of a fragment, the first one has the headers.
    if h[3] & FRAGMENT != 0 && be16(bytes, 6)? >> 3 != 0 {
        return Next::unread(Kind::Udp(port::CAPWAP));
    }
    if h[2] & 1 == 0 { Some(Next::Ethernet(behind)) } else { wireless::of_capwap(behind) }
}
