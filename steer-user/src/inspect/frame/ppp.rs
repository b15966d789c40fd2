//! PPP (RFC 1661), alone, in HDLC and over Ethernet.

use super::{Kind, Next, Path, path::Layer, take};

/// What addresses all stations, unnumbered information (RFC 1662 3.1).
const ALL_STATIONS: [u8; 2] = [0xff, 3];
/// Protocols (IANA, PPP DLL Protocol Numbers).
const IPV4: u16 = 0x21;
const BRIDGED: u16 = 0x31;
const IPV6: u16 = 0x57;
const MPLS: u16 = 0x281;

/// Reads a protocol, of one byte or two, and address and control in front of it, where they were
/// not left out.
pub(super) fn header(bytes: &[u8]) -> Option<Next<'_>> {
    let bytes = bytes.strip_prefix(&ALL_STATIONS).unwrap_or(bytes);
    let (first, behind) = bytes.split_first()?;
    // RFC 1661 2: only the last byte of a protocol is odd.
    if first & 1 != 0 {
        return protocol(u16::from(*first), behind);
    }
    let (second, behind) = behind.split_first()?;
    protocol(u16::from_be_bytes([*first, *second]), behind)
}

fn protocol(number: u16, behind: &[u8]) -> Option<Next<'_>> {
    Some(match number {
        IPV4 | IPV6 => Next::Ip(behind),
        MPLS => Next::Mpls(behind),
        BRIDGED => return bridged(behind),
        // Network and link control (RFC 1661 2).
        0x8000.. => return Next::no_tcp(Kind::Ppp(number)),
        other => return Next::unread(Kind::Ppp(other)),
    })
}

/// RFC 3518 4.2: flags and pads, kind of MAC, perhaps an identifier.
fn bridged(bytes: &[u8]) -> Option<Next<'_>> {
    let (h, behind) = take::<2>(bytes)?;
    if h[0] & 0x40 != 0 || h[1] != 1 {
        Next::unread(Kind::Ppp(BRIDGED))
    } else {
        Some(Next::Ethernet(behind))
    }
}

/// RFC 2516 4: version and type, code, session, length; behind it PPP without address and control.
pub(super) fn over_ethernet<'a>(bytes: &'a [u8], path: &mut Path) -> Option<Next<'a>> {
    let (h, behind) = take::<6>(bytes)?;
    if h[0] != 0x11 || h[1] != 0 {
        return Next::no_tcp(Kind::Other("PPPoE discovery"));
    }
    path.push(Layer::Pppoe, u32::from(u16::from_be_bytes([h[2], h[3]])));
    let len = usize::from(u16::from_be_bytes([h[4], h[5]]));
    Some(Next::Ppp(behind.get(..len).unwrap_or(behind)))
}

/// PPP in HDLC-like framing, or Cisco's HDLC, which has an EtherType: unicast or broadcast, a zero.
pub(super) fn hdlc(bytes: &[u8]) -> Option<Next<'_>> {
    const CISCO_UNICAST: u8 = 0x0f;
    const CISCO_BROADCAST: u8 = 0x8f;
    const KEEPALIVE: u16 = 0x8035;
    let (h, behind) = take::<4>(bytes)?;
    if !matches!(h[0], CISCO_UNICAST | CISCO_BROADCAST) {
        return Some(Next::Ppp(bytes));
    }
    match u16::from_be_bytes([h[2], h[3]]) {
        KEEPALIVE => Next::no_tcp(Kind::Other("Cisco HDLC keepalive")),
        number => Some(Next::EtherType(number, behind)),
    }
}
