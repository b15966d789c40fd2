//! Encapsulations, made by hand from their specifications.

/// What is wrapped, or what wrapping came to.
#[derive(Clone, Debug)]
pub(crate) enum Inner {
    /// An IP packet.
    Ip(Vec<u8>),
    /// An EtherType and what it heads.
    Type(u16, Vec<u8>),
    /// An Ethernet frame.
    Frame(Vec<u8>),
}

use Inner::{Frame, Ip, Type};

const ADDRESSES: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

impl Inner {
    /// What is behind an Ethernet header.
    pub(crate) fn of(frame: &[u8]) -> Self {
        Ip(frame[14..].to_vec())
    }

    fn typed(self) -> (u16, Vec<u8>) {
        match self {
            Ip(packet) => (if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd }, packet),
            Type(number, bytes) => (number, bytes),
            Frame(frame) => (0x6558, frame),
        }
    }

    /// What stands behind a tag: a frame's addresses are in front of it.
    fn tagged(self) -> (u16, Vec<u8>) {
        match self {
            Frame(frame) => (u16::from_be_bytes([frame[12], frame[13]]), frame[14..].to_vec()),
            other => other.typed(),
        }
    }

    /// As a frame.
    pub(crate) fn frame(self) -> Vec<u8> {
        match self {
            Frame(frame) => frame,
            other => {
                let (number, bytes) = other.typed();
                ethernet(number, &bytes)
            }
        }
    }
}

pub(crate) fn ethernet(number: u16, behind: &[u8]) -> Vec<u8> {
    [&ADDRESSES[..], &number.to_be_bytes(), behind].concat()
}

pub(crate) fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 0, 0, 7, 0, 0, 64, protocol, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2];
    header[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    let sum: u32 =
        header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    [&header, payload].concat()
}

pub(crate) fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    header[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    for last in [1, 2] {
        header.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    [&header, payload].concat()
}

pub(crate) fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let len = 8 + payload.len() as u16;
    [&50_000u16.to_be_bytes()[..], &port.to_be_bytes(), &len.to_be_bytes(), &[0, 0], payload]
        .concat()
}

fn v4_udp(port: u16, payload: &[u8]) -> Inner {
    Ip(ipv4(17, &udp(port, payload)))
}

pub(crate) fn vlan(number: u16, inner: Inner) -> Inner {
    let (kind, bytes) = inner.tagged();
    Type(0x8100, [&(0x6000 | number).to_be_bytes()[..], &kind.to_be_bytes(), &bytes].concat())
}

pub(crate) fn vxlan(network: u32, inner: Inner) -> Inner {
    v4_udp(4789, &[&[8, 0, 0, 0][..], &(network << 8).to_be_bytes(), &inner.frame()].concat())
}

pub(crate) fn gre_key(key: u32, inner: Inner) -> Inner {
    let (kind, bytes) = inner.typed();
    Ip(ipv4(47, &[&[0x20, 0][..], &kind.to_be_bytes(), &key.to_be_bytes(), &bytes].concat()))
}

pub(crate) fn mpls(label: u32, inner: Inner) -> Inner {
    let entry = (label << 12 | 0x140).to_be_bytes();
    let behind = if let Ip(packet) = inner { packet } else { inner.frame() };
    Type(0x8847, [&entry[..], &behind].concat())
}

pub(crate) fn gtp(tunnel: u32, inner: Inner) -> Inner {
    let Ip(packet) = inner else { return inner };
    let len = packet.len() as u16;
    v4_udp(2152, &[&[0x30, 0xff][..], &len.to_be_bytes(), &tunnel.to_be_bytes(), &packet].concat())
}

pub(crate) fn pppoe(session: u16, inner: Inner) -> Inner {
    let Ip(packet) = inner else { return inner };
    let protocol: u16 = if packet[0] >> 4 == 4 { 0x21 } else { 0x57 };
    let len = packet.len() as u16 + 2;
    Type(
        0x8864,
        [
            &[0x11, 0][..],
            &session.to_be_bytes(),
            &len.to_be_bytes(),
            &protocol.to_be_bytes(),
            &packet,
        ]
        .concat(),
    )
}

pub(crate) fn ip_in_ip(inner: Inner) -> Inner {
    let Ip(packet) = inner else { return inner };
    Ip(ipv4(if packet[0] >> 4 == 4 { 4 } else { 41 }, &packet))
}

/// An encapsulation: its name, and how it is made. Those that take IP alone leave others as they
/// are.
pub(crate) type Wrapper = (&'static str, fn(Inner) -> Inner);

/// All of them.
pub(crate) const WRAPPERS: &[Wrapper] = &[
    ("VLAN", |inner| vlan(5, inner)),
    ("VLAN without a number", |inner| vlan(0, inner)),
    ("QinQ", |inner| {
        let (kind, bytes) = vlan(5, inner).typed();
        Type(0x88a8, [&[0, 9][..], &kind.to_be_bytes(), &bytes].concat())
    }),
    ("QinQ of old", |inner| {
        let (kind, bytes) = vlan(5, inner).typed();
        Type(0x9100, [&[0, 9][..], &kind.to_be_bytes(), &bytes].concat())
    }),
    ("802.3 with LLC and SNAP", |inner| {
        let (kind, bytes) = inner.tagged();
        // A length is not what SNAP names.
        let (kind, bytes) =
            if kind < 0x600 { vlan(5, Type(kind, bytes)).typed() } else { (kind, bytes) };
        let llc = [&[0xaa, 0xaa, 3, 0, 0, 0][..], &kind.to_be_bytes(), &bytes].concat();
        // A trailer, as of short frames, is not of the packet.
        Frame([ethernet(llc.len() as u16, &llc), vec![0xee; 9]].concat())
    }),
    ("LLC in a jumbo frame", |inner| {
        let (kind, bytes) = inner.tagged();
        let (kind, bytes) =
            if kind < 0x600 { vlan(5, Type(kind, bytes)).typed() } else { (kind, bytes) };
        Type(0x8870, [&[0xaa, 0xaa, 3, 0, 0, 0][..], &kind.to_be_bytes(), &bytes].concat())
    }),
    ("Cisco MetaData", |inner| {
        let (kind, bytes) = inner.tagged();
        Type(0x8909, [&[1, 1, 0, 1, 0, 100][..], &kind.to_be_bytes(), &bytes].concat())
    }),
    ("MPLS", |inner| mpls(777, inner)),
    ("MPLS, three labels", |inner| {
        let Type(kind, bytes) = mpls(777, inner) else { unreachable!() };
        Type(kind, [&[0, 1, 0, 64, 0, 2, 0, 64][..], &bytes].concat())
    }),
    ("MPLS with a pseudowire's control word", |inner| {
        let frame = inner.frame();
        Type(0x8847, [&(777u32 << 12 | 0x140).to_be_bytes()[..], &[0, 0, 0, 9], &frame].concat())
    }),
    ("PPPoE", |inner| pppoe(7, inner)),
    ("IPv4", ip_in_ip),
    ("IPv6", |inner| {
        let Ip(packet) = inner else { return inner };
        Ip(ipv6(if packet[0] >> 4 == 4 { 4 } else { 41 }, &packet))
    }),
    ("IPv6 with options", |inner| {
        let Ip(packet) = inner else { return inner };
        let next = if packet[0] >> 4 == 4 { 4 } else { 41 };
        Ip(ipv6(
            0,
            &[&[60, 0, 1, 4, 0, 0, 0, 0][..], &[next, 0, 1, 4, 0, 0, 0, 0], &packet].concat(),
        ))
    }),
    ("AH", |inner| {
        let Ip(packet) = inner else { return inner };
        let next = if packet[0] >> 4 == 4 { 4 } else { 41 };
        Ip(ipv4(51, &[&[next, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2][..], &[0xcc; 12], &packet].concat()))
    }),
    ("GRE", |inner| {
        let (kind, bytes) = inner.typed();
        Ip(ipv4(47, &[&[0, 0][..], &kind.to_be_bytes(), &bytes].concat()))
    }),
    ("GRE with a key", |inner| gre_key(99, inner)),
    ("GRE with checksum, key and sequence", |inner| {
        let (kind, bytes) = inner.typed();
        Ip(ipv6(
            47,
            &[&[0xb0, 0][..], &kind.to_be_bytes(), &[1, 2, 0, 0], &[0, 0, 0, 9], &[0; 4], &bytes]
                .concat(),
        ))
    }),
    ("GRE with routes", |inner| {
        let (kind, bytes) = inner.typed();
        let route = [8, 0, 0, 4, 10, 0, 0, 1, 0, 0, 0, 0];
        Ip(ipv4(47, &[&[0x40, 0][..], &kind.to_be_bytes(), &[0; 4], &route, &bytes].concat()))
    }),
    ("PPTP", |inner| {
        let Ip(packet) = inner else { return inner };
        let protocol: u8 = if packet[0] >> 4 == 4 { 0x21 } else { 0x57 };
        let header =
            [0x30, 0x81, 0x88, 0x0b, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2, 0xff, 3, 0, protocol];
        Ip(ipv4(47, &[&header[..], &packet].concat()))
    }),
    ("ERSPAN I", |inner| Ip(ipv4(47, &[&[0, 0, 0x88, 0xbe][..], &inner.frame()].concat()))),
    ("ERSPAN II", |inner| {
        let header = [0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 44, 8, 33, 0, 0, 0, 5];
        Ip(ipv4(47, &[&header[..], &inner.frame()].concat()))
    }),
    ("ERSPAN III", |inner| {
        let header = [0x10, 0, 0x22, 0xeb, 0, 0, 0, 1, 0x20, 44, 8, 33, 1, 2, 3, 4, 0, 0, 0, 0];
        Ip(ipv4(47, &[&header[..], &inner.frame()].concat()))
    }),
    ("ERSPAN III with a header more", |inner| {
        let header = [
            0x10, 0, 0x22, 0xeb, 0, 0, 0, 1, 0x20, 44, 8, 33, 1, 2, 3, 4, 0, 0, 0, 1, 4, 0, 0, 0,
            0, 0, 0, 0,
        ];
        Ip(ipv6(47, &[&header[..], &inner.frame()].concat()))
    }),
    ("VXLAN", |inner| vxlan(4242, inner)),
    ("VXLAN of Linux", |inner| {
        v4_udp(8472, &[&[8, 0, 0, 0, 0, 0, 1, 0][..], &inner.frame()].concat())
    }),
    ("VXLAN-GPE", |inner| {
        let (number, bytes) = match inner {
            Ip(packet) => (if packet[0] >> 4 == 4 { 1 } else { 2 }, packet),
            other => (3, other.frame()),
        };
        v4_udp(4790, &[&[0x0c, 0, 0, number, 0, 0, 1, 0][..], &bytes].concat())
    }),
    ("Geneve", |inner| {
        let (kind, bytes) = inner.typed();
        v4_udp(6081, &[&[0, 0][..], &kind.to_be_bytes(), &[0, 1, 2, 0], &bytes].concat())
    }),
    ("Geneve with options", |inner| {
        let (kind, bytes) = inner.typed();
        let options = [1, 2, 3, 0, 1, 2, 3, 1, 9, 9, 9, 9];
        Ip(ipv6(
            17,
            &udp(
                6081,
                &[&[3, 0x40][..], &kind.to_be_bytes(), &[0, 1, 2, 0], &options, &bytes].concat(),
            ),
        ))
    }),
    ("GTP-U", |inner| gtp(0x1234, inner)),
    ("GTP-U with extension headers", |inner| {
        let Ip(packet) = inner else { return inner };
        // A sequence number; a PDU session container, and one of two words.
        let optional = [0, 1, 0, 0x85, 1, 0x10, 9, 0x20, 2, 0, 0, 0, 0, 0, 0, 0];
        let len = (optional.len() + packet.len()) as u16;
        v4_udp(
            2152,
            &[&[0x36, 0xff][..], &len.to_be_bytes(), &[0, 0, 0x12, 0x34], &optional, &packet]
                .concat(),
        )
    }),
    ("L2TP", |inner| {
        let Ip(packet) = inner else { return inner };
        let protocol: u8 = if packet[0] >> 4 == 4 { 0x21 } else { 0x57 };
        let len = (packet.len() + 18) as u16;
        let header =
            [&[0x4a, 2][..], &len.to_be_bytes(), &[0, 5, 0, 6, 0, 1, 0, 2, 0, 2, 0xaa, 0xaa]]
                .concat();
        v4_udp(1701, &[&header[..], &[0xff, 3, 0, protocol], &packet].concat())
    }),
    ("MPLS in IP", |inner| {
        let Type(_, bytes) = mpls(777, inner) else { unreachable!() };
        Ip(ipv4(137, &bytes))
    }),
    ("MPLS in UDP", |inner| {
        let Type(_, bytes) = mpls(777, inner) else { unreachable!() };
        v4_udp(6635, &bytes)
    }),
    ("GRE in UDP", |inner| {
        let (kind, bytes) = inner.typed();
        v4_udp(4754, &[&[0, 0][..], &kind.to_be_bytes(), &bytes].concat())
    }),
    ("EtherIP", |inner| Ip(ipv4(97, &[&[0x30, 0][..], &inner.frame()].concat()))),
    ("Ethernet in IPv6", |inner| Ip(ipv6(143, &inner.frame()))),
    ("NSH", |inner| {
        let (number, bytes) = match inner {
            Ip(packet) => (if packet[0] >> 4 == 4 { 1 } else { 2 }, packet),
            other => (3, other.frame()),
        };
        Type(0x894f, [&[0x0f, 0xc6, 1, number, 0, 0, 1, 255][..], &[0; 16], &bytes].concat())
    }),
    ("PBB", |inner| Type(0x88e7, [&[0, 0, 4, 0xd2][..], &inner.frame()].concat())),
    ("TRILL", |inner| {
        Type(0x22f3, [&[0, 0x7f, 0, 1, 0, 2, 9, 9, 9, 9][..], &inner.frame()].concat())
    }),
    ("FabricPath", |inner| Type(0x8903, [&[0, 0x41][..], &inner.frame()].concat())),
    ("MACsec, authenticated only", |inner| {
        let (kind, bytes) = inner.tagged();
        let tag = [0x20, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0, 1];
        Type(0x88e5, [&tag[..], &kind.to_be_bytes(), &bytes, &[0xdd; 16]].concat())
    }),
    ("VN-Tag", |inner| {
        let (kind, bytes) = inner.tagged();
        Type(0x8926, [&[0, 1, 0, 2][..], &kind.to_be_bytes(), &bytes].concat())
    }),
    ("E-TAG", |inner| {
        let (kind, bytes) = inner.tagged();
        Type(0x893f, [&[0, 1, 0, 2, 0, 0][..], &kind.to_be_bytes(), &bytes].concat())
    }),
    ("LISP", |inner| {
        let Ip(packet) = inner else { return inner };
        v4_udp(4341, &[&[0; 8][..], &packet].concat())
    }),
    ("TZSP", |inner| {
        v4_udp(37008, &[&[1, 0, 0, 1, 0, 10, 1, 0xc0, 1][..], &inner.frame()].concat())
    }),
    ("Teredo", |inner| {
        let Ip(packet) = inner else { return inner };
        let packet = if packet[0] >> 4 == 4 { ipv6(4, &packet) } else { packet };
        v4_udp(
            3544,
            &[&[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &[0, 0, 1, 2, 3, 4, 5, 6], &packet]
                .concat(),
        )
    }),
    ("CAPWAP", |inner| {
        v4_udp(5247, &[&[0, 0x10, 0x42, 0, 0, 0, 0, 0][..], &inner.frame()].concat())
    }),
    ("WCCP", |inner| {
        let Ip(packet) = inner else { return inner };
        Ip(ipv4(47, &[&[0, 0, 0x88, 0x3e][..], &[0, 1, 2, 3], &packet].concat()))
    }),
];
