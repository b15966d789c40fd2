//! What numbers on the wire and in capture files are called.

/// EtherTypes that hold no packets of hosts: neighbours, switches, stations.
pub(super) const ETHER_TYPES_WITHOUT_TCP: [u16; 24] = [
    0x0806, 0x0842, 0x22f0, 0x22f4, 0x22ea, 0x8035, 0x8808, 0x8809, 0x8863, 0x887b, 0x888e, 0x8892,
    0x8899, 0x88a4, 0x88ab, 0x88cc, 0x88e1, 0x88e3, 0x88f5, 0x88f6, 0x88f7, 0x8902, 0x8914, 0x9000,
];

/// Service access points of IEEE 802.2 that hold no IP: spanning tree, IPX, NetBIOS, IS-IS, SNA and
/// the like.
pub(super) const LLC_WITHOUT_TCP: [u8; 10] =
    [0x00, 0x02, 0x04, 0x08, 0x0c, 0x42, 0xe0, 0xf0, 0xf4, 0xfe];

/// IP protocols that are themselves what hosts and routers say to each other.
pub(super) const IP_PROTOCOLS_WITHOUT_TCP: [u8; 19] =
    [1, 2, 3, 8, 9, 17, 27, 33, 46, 58, 59, 88, 89, 103, 112, 113, 124, 132, 136];

/// Link types of capture files (<https://www.tcpdump.org/linktypes.html>).
pub(super) fn link_type(number: u16) -> Option<&'static str> {
    Some(match number {
        3 | 202 => "AX.25",
        7 | 129 => "ARCNET",
        8 => "SLIP",
        99 => "Symantec firewall",
        106 => "IP over ATM",
        107 | 182 | 206 => "frame relay",
        109 => "OpenBSD encapsulated IP",
        114 => "LocalTalk",
        119 => "IEEE 802.11 with Prism",
        122 => "IP over Fibre Channel",
        123 => "SunATM",
        130..=137 | 164 | 167 | 168 | 174 | 178..=181 | 183 | 194 | 200 | 232..=234 | 238 => {
            "Juniper"
        }
        138 => "IP over IEEE 1394",
        139..=142 => "SS7",
        143 | 273 => "DOCSIS",
        144 => "IrDA",
        147..=162 => "for private use",
        163 => "IEEE 802.11 with AVS",
        165 => "BACnet",
        169 => "GPRS LLC",
        175 | 176 | 197 => "Endace ERF",
        177 => "ISDN",
        184 | 185 => "ARINC",
        186 | 189 | 220 | 249 | 266 | 278 | 288 => "USB",
        187 | 201 | 251 | 254..=256 | 272 => "Bluetooth",
        188 | 193 => "IEEE 802.16",
        190 | 227 => "CAN",
        191 | 195 | 215 | 230 | 283 => "IEEE 802.15.4",
        196 => "SITA",
        199 | 209 => "IPMB",
        210 => "FlexRay",
        212 => "LIN",
        216 => "Linux evdev",
        221 => "DECT",
        224 | 225 => "Fibre Channel",
        226 => "Solaris ipnet",
        231 => "D-Bus",
        235 => "DVB",
        241 => "netANALYZER with preambles",
        242 => "IP over InfiniBand",
        243 => "MPEG-2 transport stream",
        245 => "NFC",
        246 => "pfsync",
        247 => "InfiniBand",
        248 => "SCTP",
        250 => "RTAC serial",
        252 => "exported PDUs",
        253 => "netlink",
        257 => "PROFIBUS",
        259 => "EPON",
        260 => "IPMI",
        261 | 262 | 287 => "Z-Wave",
        267 => "OpenFlow",
        271 => "Linux vsock",
        274 => "Ethernet mPackets",
        279 => "EBHSCR",
        280 => "VPP dispatch",
        289 => "ATSC",
        _ => return None,
    })
}

/// EtherTypes (IEEE 802 numbers).
pub(super) fn ether_type(number: u16) -> Option<&'static str> {
    Some(match number {
        0x0800 => "IPv4",
        0x0806 => "ARP",
        0x0842 => "Wake-on-LAN",
        0x22ea => "SRP",
        0x22eb => "ERSPAN",
        0x22f0 => "AVTP",
        0x22f3 => "TRILL",
        0x22f4 => "IS-IS",
        0x6004 => "DEC LAT",
        0x6558 => "bridged Ethernet",
        0x8035 => "RARP",
        0x809b => "AppleTalk",
        0x80f3 => "AppleTalk ARP",
        0x8100 => "VLAN",
        0x8137 => "IPX",
        0x8204 => "QNX",
        0x86dd => "IPv6",
        0x8808 => "flow control",
        0x8809 => "slow protocols",
        0x880b => "PPP",
        0x883e => "WCCP",
        0x8847 | 0x8848 => "MPLS",
        0x8863 => "PPPoE discovery",
        0x8864 => "PPPoE",
        0x8870 => "LLC in a jumbo frame",
        0x887b => "HomePlug",
        0x888e => "EAPOL",
        0x8892 => "PROFINET",
        0x8899 => "Realtek",
        0x889a => "HyperSCSI",
        0x88a2 => "ATA over Ethernet",
        0x88a4 => "EtherCAT",
        0x88a8 => "service VLAN",
        0x88ab => "Ethernet Powerlink",
        0x88b5..=0x88b7 => "experimental",
        0x88b8..=0x88ba => "IEC 61850",
        0x88be => "ERSPAN",
        0x88cc => "LLDP",
        0x88cd => "SERCOS",
        0x88d9 => "LLTD",
        0x88e1 => "HomePlug AV",
        0x88e3 => "MRP",
        0x88e5 => "MACsec",
        0x88e7 => "PBB",
        0x88f5 => "MVRP",
        0x88f6 => "MMRP",
        0x88f7 => "PTP",
        0x88fb => "PRP",
        0x8902 => "CFM",
        0x8903 => "FabricPath",
        0x8906 => "FCoE",
        0x8909 => "Cisco MetaData",
        0x8914 => "FIP",
        0x8915 => "RoCE",
        0x8926 => "VN-Tag",
        0x892f => "HSR",
        0x893f => "E-TAG",
        0x894f => "NSH",
        0x9000 => "loopback test",
        0x9100 | 0x9200 | 0x9300 => "service VLAN",
        0xd28b => "Arista timestamps",
        0xf1c1 => "R-TAG",
        _ => return None,
    })
}

/// Service access points of IEEE 802.2.
pub(super) fn llc(number: u8) -> Option<&'static str> {
    Some(match number {
        0x00 => "LLC itself",
        0x04 | 0x08 | 0x0c => "SNA",
        0x06 => "IP",
        0x42 => "spanning tree",
        0xaa => "SNAP",
        0xe0 => "IPX",
        0xf0 => "NetBIOS",
        0xf4 => "LAN management",
        0xfe => "OSI",
        _ => return None,
    })
}

/// Protocols of PPP (IANA, PPP DLL Protocol Numbers).
pub(super) fn ppp(number: u16) -> Option<&'static str> {
    Some(match number {
        0x2d => "compressed TCP/IP",
        0x2f => "uncompressed TCP/IP",
        0x31 => "bridged frames",
        0x3d => "multilink",
        0x53 | 0x55 => "encrypted",
        0xfb | 0xfd => "compressed",
        0x8021 => "IPCP",
        0x8057 => "IPv6CP",
        0x80fd => "CCP",
        0xc021 => "LCP",
        0xc023 => "PAP",
        0xc223 => "CHAP",
        0xc227 => "EAP",
        _ => return None,
    })
}

/// IP protocol numbers (IANA).
pub(super) fn ip_protocol(number: u8) -> Option<&'static str> {
    Some(match number {
        1 => "ICMP",
        2 => "IGMP",
        3 => "GGP",
        8 => "EGP",
        9 => "IGP",
        17 => "UDP",
        27 => "RDP",
        33 => "DCCP",
        46 => "RSVP",
        50 => "ESP",
        51 => "AH",
        55 => "minimal encapsulation",
        58 => "ICMPv6",
        59 => "no next header",
        88 => "EIGRP",
        89 => "OSPF",
        98 => "ENCAP",
        103 => "PIM",
        108 => "IPComp",
        112 => "VRRP",
        113 => "PGM",
        115 => "L2TPv3",
        123 => "PTP",
        124 => "IS-IS",
        132 => "SCTP",
        133 => "Fibre Channel",
        136 => "UDP-Lite",
        142 => "ROHC",
        144 => "AGGFRAG",
        _ => return None,
    })
}

/// UDP ports (IANA) of tunnels that are not read.
pub(super) fn udp_port(number: u16) -> Option<&'static str> {
    Some(match number {
        1701 => "L2TPv3",
        4500 => "ESP in UDP",
        5247 => "CAPWAP, encrypted or in fragments",
        37008 => "TZSP",
        51820 => "WireGuard",
        _ => return None,
    })
}

/// Types of pcapng blocks (draft-ietf-opsawg-pcapng 11.1).
pub(super) fn block(number: u32) -> Option<&'static str> {
    Some(match number {
        2 => "obsolete packet",
        7 => "IRIG timestamp or Socket Aggregation",
        8 => "ARINC 429",
        0x101 | 0x102 => "Hone project",
        0x201..=0x22a => "Sysdig",
        0x0bad | 0x4000_0bad => "custom",
        0x8000_0000.. => "private",
        _ => return None,
    })
}
