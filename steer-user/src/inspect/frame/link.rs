//! Link types (<https://www.tcpdump.org/linktypes.html>): what the first header of a frame is.

use super::{Kind, Next, be16, ppp, take, wireless};

const NULL: u16 = 0;
const ETHERNET: u16 = 1;
const TOKEN_RING: u16 = 6;
const PPP: u16 = 9;
const FDDI: u16 = 10;
/// Raw IP, as it is numbered on some systems.
const RAW_BSD: u16 = 12;
const RAW_OPENBSD: u16 = 14;
const PPP_HDLC: u16 = 50;
const PPP_ETHER: u16 = 51;
const ATM_RFC1483: u16 = 100;
const RAW: u16 = 101;
const C_HDLC: u16 = 104;
const IEEE802_11: u16 = 105;
const LOOP: u16 = 108;
const LINUX_SLL: u16 = 113;
const PFLOG: u16 = 117;
const IEEE802_11_RADIOTAP: u16 = 127;
const PPP_PPPD: u16 = 166;
const PPI: u16 = 192;
const PPP_WITH_DIR: u16 = 204;
const C_HDLC_WITH_DIR: u16 = 205;
const MPLS: u16 = 219;
const IPV4: u16 = 228;
const IPV6: u16 = 229;
const NFLOG: u16 = 239;
const NETANALYZER: u16 = 240;
const PKTAP: u16 = 258;
const LINUX_SLL2: u16 = 276;
const DSA_TAG_BRCM: u16 = 281;
const DSA_TAG_BRCM_PREPEND: u16 = 282;
const DSA_TAG_DSA: u16 = 284;
const DSA_TAG_EDSA: u16 = 285;

/// Reads what stands in front of the first header that is not the capturing system's own.
pub(super) fn read(link: u16, frame: &[u8]) -> Option<Next<'_>> {
    Some(match link {
        ETHERNET => Next::Ethernet(frame),
        RAW | RAW_BSD | RAW_OPENBSD | IPV4 | IPV6 => Next::Ip(frame),
        // An address family, in the capturing machine's byte order or another.
        NULL | LOOP => Next::Ip(take::<4>(frame)?.1),
        LINUX_SLL => return cooked(take::<16>(frame)?),
        LINUX_SLL2 => return cooked_2(take::<20>(frame)?),
        PPP => Next::Ppp(frame),
        // A direction in front; or instead of the address byte.
        PPP_WITH_DIR => Next::Ppp(take::<1>(frame)?.1),
        PPP_PPPD => Next::Ppp(take::<2>(frame)?.1),
        PPP_ETHER => return ppp::over_ethernet(frame, &mut super::Path::default()),
        PPP_HDLC | C_HDLC => return ppp::hdlc(frame),
        C_HDLC_WITH_DIR => return ppp::hdlc(take::<1>(frame)?.1),
        MPLS => Next::Mpls(frame),
        ATM_RFC1483 => Next::Llc(frame),
        FDDI => return fddi(take::<13>(frame)?),
        TOKEN_RING => return token_ring(take::<14>(frame)?),
        IEEE802_11 => Next::Wireless(frame),
        IEEE802_11_RADIOTAP => return wireless::radiotap(frame),
        PFLOG => {
            // Its length, rounded up to four bytes.
            let len = usize::from(*frame.first()?).next_multiple_of(4);
            Next::Ip(frame.get(len..)?)
        }
        PPI => {
            let (h, _) = take::<8>(frame)?;
            let behind = frame.get(usize::from(u16::from_le_bytes([h[2], h[3]]))..)?;
            Next::Link(u16::from_le_bytes([h[4], h[5]]), behind)
        }
        PKTAP => {
            let (h, _) = take::<12>(frame)?;
            let len = u32::from_le_bytes([h[0], h[1], h[2], h[3]]) as usize;
            Next::Link(u16::from_le_bytes([h[8], h[9]]), frame.get(len..)?)
        }
        NETANALYZER | DSA_TAG_BRCM_PREPEND => Next::Ethernet(take::<4>(frame)?.1),
        // A switch's tag between the addresses and the EtherType.
        DSA_TAG_BRCM | DSA_TAG_DSA => Next::EtherType(be16(frame, 16)?, frame.get(18..)?),
        DSA_TAG_EDSA => Next::EtherType(be16(frame, 20)?, frame.get(22..)?),
        NFLOG => return nflog(frame),
        other => return Next::unread(Kind::LinkType(other)),
    })
}

/// Types of Linux network interfaces (ARPHRD) whose frames do not have an EtherType.
const ARPHRD_NETLINK: u16 = 824;

/// Linux cooked: packet type, ARPHRD, length of an address and the address, protocol.
fn cooked<'a>((h, behind): (&'a [u8; 16], &'a [u8])) -> Option<Next<'a>> {
    of_cooked(u16::from_be_bytes([h[2], h[3]]), u16::from_be_bytes([h[14], h[15]]), behind)
}

/// Version 2: protocol, interface, ARPHRD, packet type, address.
fn cooked_2<'a>((h, behind): (&'a [u8; 20], &'a [u8])) -> Option<Next<'a>> {
    of_cooked(u16::from_be_bytes([h[8], h[9]]), u16::from_be_bytes([h[0], h[1]]), behind)
}

fn of_cooked(arphrd: u16, protocol: u16, behind: &[u8]) -> Option<Next<'_>> {
    /// ETH_P_802_2 of <linux/if_ether.h>.
    const LLC: u16 = 4;
    Some(match (arphrd, protocol) {
        (ARPHRD_NETLINK, _) => return Next::no_tcp(Kind::Other("netlink")),
        (_, LLC) => Next::Llc(behind),
        (_, other) if other < 0x600 => return Next::unread(Kind::EtherType(other)),
        (_, other) => Next::EtherType(other, behind),
    })
}

/// Frame control, two addresses, LLC.
fn fddi<'a>((h, behind): (&'a [u8; 13], &'a [u8])) -> Option<Next<'a>> {
    if h[0] & 0x30 == 0x10 {
        Some(Next::Llc(behind))
    } else {
        Next::no_tcp(Kind::Other("FDDI management"))
    }
}

/// Access control, frame control, two addresses, perhaps a route, LLC.
fn token_ring<'a>((h, behind): (&'a [u8; 14], &'a [u8])) -> Option<Next<'a>> {
    if h[1] & 0xc0 != 0x40 {
        return Next::no_tcp(Kind::Other("token ring management"));
    }
    let routed = h[8] & 0x80 != 0;
    let route_len = if routed { usize::from(*behind.first()? & 0x1f) } else { 0 };
    Some(Next::Llc(behind.get(route_len..)?))
}

/// Attributes of the kernel's nflog messages (<linux/netfilter/nfnetlink_log.h>): `length, type,
/// value`, padded to four bytes, lengths and types in the byte order of the capturing machine.
fn nflog(frame: &[u8]) -> Option<Next<'_>> {
    const PACKET_HEADER: u16 = 1;
    const PAYLOAD: u16 = 9;
    let (_, attributes) = take::<4>(frame)?;
    let read = |number: fn([u8; 2]) -> u16| {
        let (mut rest, mut protocol) = (attributes, None);
        while let Some((h, behind)) = take::<4>(rest) {
            let len = usize::from(number([h[0], h[1]]));
            let value = behind.get(..len.checked_sub(4)?.min(behind.len()))?;
            match number([h[2], h[3]]) & 0x7fff {
                PACKET_HEADER => protocol = be16(value, 0),
                PAYLOAD => {
                    return Some(
                        protocol
                            .map_or(Next::Ip(value), |protocol| Next::EtherType(protocol, value)),
                    );
                }
                _ => {}
            }
            rest = rest.get(len.next_multiple_of(4)..)?;
        }
        None
    };
    read(u16::from_le_bytes).or_else(|| read(u16::from_be_bytes))
}
