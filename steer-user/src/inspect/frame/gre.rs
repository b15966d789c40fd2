//! GRE (RFC 2784, 2890) and what it carries beside EtherTypes: ERSPAN, PPTP (RFC 2637), WCCP.

use super::{Kind, Next, Path, ip::Addresses, path::Layer, take};

/// Flags of the header's first two bytes.
mod flag {
    pub(super) const CHECKSUM: u16 = 0x8000;
    pub(super) const ROUTING: u16 = 0x4000;
    pub(super) const KEY: u16 = 0x2000;
    pub(super) const SEQUENCE: u16 = 0x1000;
    /// Of version 1: an acknowledgement.
    pub(super) const ACKNOWLEDGEMENT: u16 = 0x80;
    pub(super) const VERSION: u16 = 7;
}

/// Protocols that are no EtherTypes of Ethernet's.
const KEEPALIVE: u16 = 0;
const WCCP: u16 = 0x883e;
const ERSPAN: u16 = 0x88be;
const ERSPAN_III: u16 = 0x22eb;

/// Flags, protocol, and what the flags say is there.
pub(super) fn header<'a>(
    bytes: &'a [u8],
    addresses: &Addresses,
    path: &mut Path,
) -> Option<Next<'a>> {
    let (h, mut behind) = take::<4>(bytes)?;
    let (flags, protocol) = (u16::from_be_bytes([h[0], h[1]]), u16::from_be_bytes([h[2], h[3]]));
    let mut key = None;
    if flags & (flag::CHECKSUM | flag::ROUTING) != 0 {
        behind = take::<4>(behind)?.1;
    }
    if flags & flag::KEY != 0 {
        let (number, rest) = take::<4>(behind)?;
        (key, behind) = (Some(u32::from_be_bytes(*number)), rest);
    }
    if flags & flag::SEQUENCE != 0 {
        behind = take::<4>(behind)?.1;
    }
    if flags & flag::VERSION == 1 && flags & flag::ACKNOWLEDGEMENT != 0 {
        behind = take::<4>(behind)?.1;
    }
    match flags & flag::VERSION {
        0 => {}
        // Its key is a length and a call, of which each direction has its own.
        1 => key = None,
        _ => return Next::unread(Kind::Other("GRE of another version")),
    }
    if flags & flag::ROUTING != 0 {
        behind = routes(behind)?;
    }
    match protocol {
        ERSPAN if flags & flag::SEQUENCE == 0 => return Some(Next::Ethernet(behind)),
        ERSPAN | ERSPAN_III => return erspan(behind, path),
        KEEPALIVE => return Next::no_tcp(Kind::Other("GRE keepalive")),
        _ => {}
    }
    match key {
        Some(key) => path.push(Layer::GreKey, key),
        None => path.push(Layer::Gre, addresses.digest()),
    }
    if protocol == WCCP { wccp(behind) } else { Some(Next::EtherType(protocol, behind)) }
}

/// RFC 1701: entries of family, offset, length and an address, up to one without length.
fn routes(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let (h, behind) = take::<4>(bytes)?;
        bytes = behind.get(usize::from(h[3])..)?;
        if h[3] == 0 {
            return Some(bytes);
        }
    }
}

/// ERSPAN of types II and III: version 4 bits, VLAN 12, class and flags 6, session 10, then four
/// bytes, or eight and perhaps eight more.
pub(super) fn erspan<'a>(bytes: &'a [u8], path: &mut Path) -> Option<Next<'a>> {
    const TYPE_II: u8 = 1;
    const TYPE_III: u8 = 2;
    let (h, _) = take::<8>(bytes)?;
    let (vlan, session) =
        (u16::from_be_bytes([h[0], h[1]]) & 0xfff, u16::from_be_bytes([h[2], h[3]]) & 0x3ff);
    path.push(Layer::Erspan, u32::from(session));
    if vlan != 0 {
        path.push(Layer::Vlan, u32::from(vlan));
    }
    match h[0] >> 4 {
        TYPE_II => Some(Next::Ethernet(bytes.get(8..)?)),
        TYPE_III => {
            let (h, behind) = take::<12>(bytes)?;
            // Protocol data unit 1 bit, frame type 5, hardware 6, direction 1, granularity 2,
            // optional header 1.
            let behind = if h[11] & 1 != 0 { take::<8>(behind)?.1 } else { behind };
            match h[10] >> 2 & 0x1f {
                0 => Some(Next::Ethernet(behind)),
                2 => Some(Next::Ip(behind)),
                _ => Next::unread(Kind::Other("ERSPAN with neither Ethernet nor IP behind")),
            }
        }
        _ => Next::unread(Kind::Other("ERSPAN of another type")),
    }
}

/// Version 2 has four bytes in front of the packet, version 1 none.
fn wccp(bytes: &[u8]) -> Option<Next<'_>> {
    let is_ip = bytes.first()? >> 4 == 4;
    Some(Next::Ip(if is_ip { bytes } else { take::<4>(bytes)?.1 }))
}
