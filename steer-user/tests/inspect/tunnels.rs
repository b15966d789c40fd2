//! Tags and tunnels, one in another; what is not read is counted by its name.

use proptest::prelude::*;
use steer_user::inspect::{Kind, Row, Summary};

use crate::{
    ETHERNET, Flow,
    Kind::Data,
    client_hello, pcap, read, record, server_hello,
    wrap::{self, Inner, WRAPPERS},
};

const ID: [u8; 32] = [7; 32];

/// A resumption.
fn handshake(flow: &Flow) -> Vec<Vec<u8>> {
    let answer =
        [record(22, &server_hello([1; 32], &ID, &[])), record(20, &[1]), record(22, &[8; 40])]
            .concat();
    let hello = record(22, &client_hello(&ID, &[(35, vec![9; 300])]));
    [flow.opened(), vec![flow.client(Data, 0, &hello), flow.server(Data, 0, &answer)]].concat()
}

fn flows() -> [Flow; 2] {
    [Flow::v4(), Flow::new("[2001:db8::1]:40000", "[2001:db8::10]:443", 9, 9)]
}

fn wrapped(frames: &[Vec<u8>], wrap: impl Fn(Inner) -> Inner) -> Vec<Vec<u8>> {
    frames.iter().map(|frame| wrap(Inner::of(frame)).frame()).collect()
}

/// The row of a handshake is the same in any wrapping, but for what says which.
#[track_caller]
fn assert_read(flow: &Flow, frames: &[Vec<u8>], what: &str) -> Option<String> {
    let (mut rows, summary) = read(pcap(ETHERNET, frames));
    assert_eq!(
        (summary.segments, summary.not_read.total()),
        (5, 0),
        "{what}: {}",
        summary.not_read
    );
    let mut expected = read(pcap(ETHERNET, &handshake(flow))).0;
    let encapsulation = rows[0].encapsulation.take();
    expected[0].encapsulation = None;
    assert_eq!(rows, expected, "{what}");
    encapsulation
}

fn unread(link: u32, frame: Vec<u8>) -> (Vec<Row>, Summary) {
    read(pcap(link, &[frame]))
}

#[track_caller]
fn assert_unread(frame: Vec<u8>, kind: Kind, says: &str) {
    let (rows, summary) = unread(ETHERNET, frame);
    assert_eq!(
        (rows.len(), summary.not_read.total(), summary.no_tcp.total()),
        (0, 1, 0),
        "{summary:?}"
    );
    assert_eq!(summary.not_read.of(kind), 1, "{summary:?}");
    assert_eq!(summary.not_read.to_string(), format!("1 {says}"));
}

#[track_caller]
fn assert_no_tcp(frame: Vec<u8>, kind: Kind, says: &str) {
    let (rows, summary) = unread(ETHERNET, frame);
    assert_eq!(
        (rows.len(), summary.not_read.total(), summary.no_tcp.of(kind)),
        (0, 0, 1),
        "{summary:?}"
    );
    assert_eq!(summary.no_tcp.to_string(), format!("1 {says}"));
}

#[test]
fn every_encapsulation_is_read() {
    for flow in flows() {
        for (name, wrap) in WRAPPERS {
            assert_read(&flow, &wrapped(&handshake(&flow), wrap), name);
        }
    }
}

#[test]
fn every_encapsulation_is_read_within_every_other() {
    let flow = Flow::v4();
    for (outer, wrap) in WRAPPERS {
        for (inner, wrap_first) in WRAPPERS {
            let frames = wrapped(&handshake(&flow), |packet| wrap(wrap_first(packet)));
            assert_read(&flow, &frames, &format!("{inner} in {outer}"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_is_read(
        picked in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
        v6 in any::<bool>(),
    ) {
        let flow = flows()[usize::from(v6)];
        let stack: Vec<_> = picked.iter().map(|index| WRAPPERS[index.index(WRAPPERS.len())]).collect();
        let names: Vec<_> = stack.iter().map(|wrapper| wrapper.0).collect();
        let frames = wrapped(&handshake(&flow), |packet| stack.iter().fold(packet, |inner, (_, wrap)| wrap(inner)));
        assert_read(&flow, &frames, &names.join(" in "));
    }

    /// Whatever is cut off, or is not what its header says: every frame is counted once.
    #[test]
    fn every_frame_is_counted(
        picked in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        cut in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let stack: Vec<_> = picked.iter().map(|index| WRAPPERS[index.index(WRAPPERS.len())].1).collect();
        let mut frames = wrapped(&handshake(&Flow::v4()), |packet| stack.iter().fold(packet, |inner, wrap| wrap(inner)));
        for frame in &mut frames {
            for (at, byte) in &changes {
                let at = at.index(frame.len());
                frame[at] = *byte;
            }
            frame.truncate(cut.index(frame.len() + 1));
        }
        let (_, summary) = read(pcap(ETHERNET, &frames));
        prop_assert_eq!(summary.frames, 5);
        prop_assert_eq!(summary.segments + summary.not_read.total() + summary.no_tcp.total(), 5);
    }
}

#[test]
fn a_row_says_what_it_was_wrapped_in() {
    let flow = Flow::v4();
    let told =
        |wrap: fn(Inner) -> Inner| assert_read(&flow, &wrapped(&handshake(&flow), wrap), "it");
    assert_eq!(told(|inner| inner), None);
    assert_eq!(told(|inner| wrap::vlan(0, inner)), None, "a class alone is no network");
    assert_eq!(told(|inner| wrap::vlan(5, inner)).as_deref(), Some("VLAN 5"));
    assert_eq!(
        told(|inner| wrap::vlan(9, wrap::vxlan(42, wrap::vlan(5, inner)))).as_deref(),
        Some("VLAN 9 / VXLAN 42 / VLAN 5")
    );
    assert_eq!(
        told(|inner| wrap::mpls(16, wrap::gre_key(3, inner))).as_deref(),
        Some("MPLS 16 / GRE 3")
    );
    assert_eq!(told(|inner| wrap::pppoe(7, inner)).as_deref(), Some("PPPoE 7"));
    assert_eq!(
        told(|inner| wrap::ip_in_ip(wrap::gtp(0x10, inner))).as_deref(),
        Some("IP in IP / GTP 0x10")
    );
}

#[test]
fn what_is_wrapped_too_deep_is_counted() {
    let frame = handshake(&Flow::v4()).remove(0);
    let deep = |n| (0..n).fold(Inner::of(&frame), |inner, _| wrap::vlan(5, inner)).frame();
    assert_eq!(unread(ETHERNET, deep(20)).0.len(), 1);
    assert_unread(deep(200), Kind::Deep, "with too many headers");
    let endless = (0..30).fold(Inner::of(&frame), |inner, _| wrap::ip_in_ip(inner)).frame();
    assert_unread(endless, Kind::Deep, "with too many headers");
}

#[test]
fn what_is_not_read_is_counted_by_its_name() {
    let ip = |protocol, payload: &[u8]| wrap::ethernet(0x0800, &wrap::ipv4(protocol, payload));
    let to = |port, payload: &[u8]| ip(17, &wrap::udp(port, payload));
    assert_unread(wrap::ethernet(0x7777, &[0; 60]), Kind::EtherType(0x7777), "EtherType 0x7777");
    let encrypted = wrap::ethernet(0x88e5, &[0x2c; 60]);
    assert_unread(encrypted, Kind::EtherType(0x88e5), "EtherType 0x88e5 (MACsec)");
    assert_unread(
        wrap::ethernet(0x8906, &[0; 60]),
        Kind::EtherType(0x8906),
        "EtherType 0x8906 (FCoE)",
    );
    assert_unread(ip(50, &[1; 60]), Kind::IpProtocol(50), "IP protocol 50 (ESP)");
    assert_unread(ip(200, &[1; 60]), Kind::IpProtocol(200), "IP protocol 200");
    assert_unread(to(4500, &[1; 60]), Kind::Udp(4500), "UDP port 4500 (ESP in UDP)");
    assert_unread(wrap::ethernet(6, &[0x14, 0x14, 3, 0, 0, 0]), Kind::Llc(0x14), "LLC 0x14");
    let snap =
        wrap::ethernet(40, &[&[0xaa, 0xaa, 3, 0x11, 0x22, 0x33, 1, 2][..], &[0; 32]].concat());
    assert_unread(snap, Kind::Snap(0x11_2233, 0x102), "SNAP 112233 0x0102");
    let ppp = |protocol: u16| {
        let header = [&[0x11, 0, 0, 7, 0, 20][..], &protocol.to_be_bytes(), &[0; 18]].concat();
        wrap::ethernet(0x8864, &header)
    };
    assert_unread(ppp(0x2d), Kind::Ppp(0x2d), "PPP protocol 0x002d (compressed TCP/IP)");
    assert_no_tcp(ppp(0xc021), Kind::Ppp(0xc021), "PPP protocol 0xc021 (LCP)");
    assert_unread(
        wrap::ethernet(0x0800, &[0x43; 40]),
        Kind::Malformed("IP"),
        "malformed IP header",
    );
    assert_unread(
        wrap::ethernet(0x0800, &[0x75; 40]),
        Kind::Malformed("IP"),
        "malformed IP header",
    );
    assert_unread(ip(6, &[0; 40]), Kind::Malformed("TCP"), "malformed TCP header");
    assert_unread(ip(6, &[0; 19]), Kind::Cut, "cut within a header");
    assert_unread(vec![0; 13], Kind::Cut, "cut within a header");
    assert_unread(
        ip(47, &[0, 3, 8, 0, 0, 0]),
        Kind::Other("GRE of another version"),
        "GRE of another version",
    );
}

#[test]
fn what_is_no_tcp_is_counted_apart() {
    let ip = |protocol, payload: &[u8]| wrap::ethernet(0x0800, &wrap::ipv4(protocol, payload));
    assert_no_tcp(
        wrap::ethernet(0x0806, &[0; 28]),
        Kind::EtherType(0x0806),
        "EtherType 0x0806 (ARP)",
    );
    assert_no_tcp(ip(1, &[8; 40]), Kind::IpProtocol(1), "IP protocol 1 (ICMP)");
    assert_no_tcp(ip(17, &wrap::udp(53, b"name")), Kind::IpProtocol(17), "IP protocol 17 (UDP)");
    let tree = wrap::ethernet(38, &[&[0x42, 0x42, 3][..], &[0; 35]].concat());
    assert_no_tcp(tree, Kind::Llc(0x42), "LLC 0x42 (spanning tree)");
    // What is sent to a tunnel's port and is no tunnel.
    for (port, payload) in
        [(4789, &[0; 60][..]), (6081, &[0xff; 60]), (2152, b"x"), (3544, &[0x45; 60]), (4789, b"")]
    {
        assert_no_tcp(
            ip(17, &wrap::udp(port, payload)),
            Kind::IpProtocol(17),
            "IP protocol 17 (UDP)",
        );
    }
    let echo = [0x32, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_no_tcp(
        ip(17, &wrap::udp(2152, &echo)),
        Kind::Other("GTP-U signalling"),
        "GTP-U signalling",
    );
}

#[test]
fn later_fragments_are_counted_and_first_ones_read_as_far_as_they_go() {
    let flow = Flow::v4();
    let hello = record(22, &client_hello(&ID, &[(35, vec![9; 1200])]));
    let packet = flow.client(Data, 0, &hello)[14..].to_vec();
    let fragment = |packet: &[u8], flags: u16| {
        let mut packet = packet.to_vec();
        packet[6..8].copy_from_slice(&flags.to_be_bytes());
        packet
    };
    let rest = wrap::ethernet(0x0800, &fragment(&packet[..400], 0x2000 | 50));
    assert_unread(rest, Kind::Fragment, "IP fragment");
    // The first 1000 bytes in a fragment, the rest in a segment that comes again.
    let mut first = fragment(&packet[..1000], 0x2000);
    first[2..4].copy_from_slice(&1000u16.to_be_bytes());
    let again = flow.client(Data, 900, &hello[900..]);
    let frames = [flow.opened(), vec![wrap::ethernet(0x0800, &first), again]].concat();
    let (rows, summary) = read(pcap(ETHERNET, &frames));
    assert_eq!((rows.len(), summary.segments), (1, 5));
    assert_eq!(rows[0].client_hello.as_ref().map(|hello| hello.segments), Some(2));
    // The same in IPv6, and of a tunnel's packets: the outer header is the fragment's.
    let v6 = |offset: u16| {
        wrap::ethernet(
            0x86dd,
            &wrap::ipv6(44, &[&[4, 0][..], &offset.to_be_bytes(), &[0; 4], &packet].concat()),
        )
    };
    assert_eq!(unread(ETHERNET, v6(1)).1.segments, 1);
    assert_unread(v6(0x101), Kind::Fragment, "IP fragment");
}

#[test]
fn packets_above_64_kib_are_read() {
    let hello = record(22, &client_hello(&ID, &[(35, vec![9; 300])]));
    let answer = [record(22, &server_hello([1; 32], &ID, &[])), record(20, &[1])].concat();
    for flow in flows() {
        // Early data, and a server's records, of 150 000 bytes each.
        let mut frames = flow.opened();
        let small = flow.client(Data, 0, &hello);
        let large = |small: Vec<u8>| [small, vec![0x17; 150_000]].concat();
        for mut frame in [large(small), large(flow.server(Data, 0, &answer))] {
            if frame[12] == 8 {
                frame[16..18].fill(0);
            } else {
                frame[18..20].fill(0);
            }
            frames.push(frame);
        }
        // The same with the option that RFC 2675 wants.
        let mut jumbo = frames.clone();
        for frame in jumbo.iter_mut().skip(3).filter(|frame| frame[12] != 8) {
            let len = (frame.len() - 54 + 8) as u32;
            let option = [&[6, 0, 0xc2, 4][..], &len.to_be_bytes()].concat();
            frame[20] = 0;
            frame.splice(54..54, option);
        }
        for frames in [frames, jumbo] {
            let (rows, summary) = read(pcap(ETHERNET, &frames));
            assert_eq!((rows.len(), summary.segments, summary.not_read.total()), (1, 5, 0));
            assert!(rows[0].client_hello.is_some() && rows[0].server_hello.is_some());
            assert_eq!(rows[0].outcome.to_string(), "resumed");
        }
    }
}

#[test]
fn one_side_may_be_wrapped_and_the_other_not() {
    for (name, wrap) in WRAPPERS {
        let flow = Flow::v4();
        let frames: Vec<_> = handshake(&flow)
            .into_iter()
            .map(|frame| {
                if frame[26..30] == [192, 0, 2, 1] {
                    wrap(Inner::of(&frame)).frame()
                } else {
                    frame
                }
            })
            .collect();
        assert_read(&flow, &frames, name);
    }
}
