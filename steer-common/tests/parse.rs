//! The frame parser against etherparse, and against frames that are cut short or lie.

use etherparse::{
    EtherType, IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv4Options,
    Ipv6Extensions, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, Ipv6RoutingExtensions,
    NetHeaders, PacketBuilder, PacketHeaders, TcpHeader, TransportHeader, VlanId,
};
use proptest::prelude::*;
use steer_common::{
    shared::Address,
    wire::{
        ETHERNET_LEN, ETHERTYPE_SERVICE_VLAN,
        ip::{self, Ip, MAX_L4_OFFSET, NotIp, Part},
        tcp::{self, Segment},
    },
};

const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

/// A frame of these headers.
fn frame(ip: IpHeaders, tcp: TcpHeader, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(MACS.0, MACS.1).ip(ip).tcp_header(tcp);
    builder.write(&mut frame, payload).expect("headers that etherparse can write");
    frame
}

/// The same frame with a VLAN tag in front of its EtherType.
fn tagged(frame: &[u8], ethertype: u16, id: u16) -> Vec<u8> {
    [&frame[..12], &ethertype.to_be_bytes(), &id.to_be_bytes(), &frame[12..]].concat()
}

#[track_caller]
fn parsed(frame: &[u8]) -> Ip {
    match ip::parse(frame) {
        Ok(ip) => ip,
        other => panic!("{other:?}: {frame:02x?}"),
    }
}

/// Flag bits as etherparse knows them.
fn bits(tcp: &TcpHeader) -> u8 {
    [tcp.fin, tcp.syn, tcp.rst, tcp.psh, tcp.ack, tcp.urg, tcp.ece, tcp.cwr]
        .iter()
        .enumerate()
        .fold(0, |bits, (i, set)| bits | u8::from(*set) << i)
}

/// What etherparse makes of a TCP header with so much payload.
fn expected_segment(tcp: &TcpHeader, payload_len: usize) -> Segment {
    Segment {
        source_port: tcp.source_port.to_be_bytes(),
        destination_port: tcp.destination_port.to_be_bytes(),
        seq: tcp.sequence_number,
        ack: tcp.acknowledgment_number,
        window: tcp.window_size,
        flags: bits(tcp),
        accurate_ecn: tcp.ns,
        header_len: tcp.header_len(),
        payload_len,
    }
}

/// Asserts that both parsers see the same frame, which both can walk to its end.
#[track_caller]
fn assert_agrees(frame: &[u8]) {
    let headers = PacketHeaders::from_ethernet_slice(frame).expect("a frame that etherparse wrote");
    let ip = parsed(frame);
    match headers.net.expect("an IP header") {
        NetHeaders::Ipv4(v4, _) => assert_v4(&ip, &v4),
        NetHeaders::Ipv6(v6, extensions) => assert_v6(&ip, &v6, &extensions),
        NetHeaders::Arp(_) => panic!("not written here"),
    }
    assert_eq!(ip.l4 + ip.l4_len, frame.len());
    let payload_len = headers.payload.slice().len();
    match headers.transport {
        Some(TransportHeader::Tcp(tcp)) => {
            assert_eq!(ip.l4, frame.len() - payload_len - tcp.header_len());
            assert_eq!(ip.part, Part::Whole);
            assert_eq!(tcp::parse(frame, &ip), Some(expected_segment(&tcp, payload_len)));
        }
        None => assert_eq!((ip.l4, ip.part != Part::Whole), (frame.len() - payload_len, true)),
        Some(_) => panic!("not written here"),
    }
}

#[track_caller]
fn assert_v4(ip: &Ip, v4: &Ipv4Header) {
    assert_eq!(
        (ip.source, ip.destination),
        (Address::from_v4(v4.source), Address::from_v4(v4.destination))
    );
    assert!(!ip.v6 && ip.source.is_v4());
    assert_eq!((ip.hop_limit, ip.protocol), (v4.time_to_live, v4.protocol.0));
    assert_eq!(ip.options, !v4.options.is_empty());
    assert_eq!(ip.may_fragment, !v4.dont_fragment);
    assert_eq!(ip.fragment_id, u32::from(v4.identification));
    assert_eq!(ip.part, part(v4.is_fragmenting_payload(), v4.fragment_offset));
}

#[track_caller]
fn assert_v6(ip: &Ip, v6: &Ipv6Header, extensions: &Ipv6Extensions) {
    assert_eq!(
        (ip.source, ip.destination),
        (Address::from_v6(v6.source), Address::from_v6(v6.destination))
    );
    assert!(ip.v6 && !ip.may_fragment);
    assert_eq!(ip.hop_limit, v6.hop_limit);
    assert_eq!(ip.options, !extensions.is_empty());
    if let Some(fragment) = &extensions.fragment {
        assert_eq!(ip.fragment_id, fragment.identification);
        assert_eq!(ip.part, part(fragment.is_fragmenting_payload(), fragment.fragment_offset));
    }
}

fn part(fragmented: bool, offset: IpFragOffset) -> Part {
    match (fragmented, offset.value()) {
        (false, _) => Part::Whole,
        (true, 0) => Part::First,
        (true, _) => Part::Later,
    }
}

fn tcp_header() -> impl Strategy<Value = TcpHeader> {
    let options =
        (0usize..=10).prop_flat_map(|words| prop::collection::vec(any::<u8>(), 4 * words));
    (any::<[u16; 3]>(), any::<[u32; 2]>(), any::<[bool; 9]>(), options).prop_map(
        |([source, destination, window], [seq, ack], bits, options)| {
            let mut tcp = TcpHeader::new(source, destination, seq, window);
            tcp.acknowledgment_number = ack;
            [tcp.ns, tcp.fin, tcp.syn, tcp.rst, tcp.psh, tcp.ack, tcp.urg, tcp.ece, tcp.cwr] = bits;
            tcp.set_options_raw(&options).expect("at most 40 bytes");
            tcp
        },
    )
}

/// Mostly unfragmented.
fn fragmentation() -> impl Strategy<Value = (bool, IpFragOffset)> {
    let offset = prop_oneof![3 => Just(0u16), 1 => 1u16..0x2000];
    (prop::bool::weighted(0.2), offset)
        .prop_map(|(more, offset)| (more, IpFragOffset::try_new(offset).expect("13 bits")))
}

fn ipv4() -> impl Strategy<Value = IpHeaders> {
    let options =
        (0usize..=10).prop_flat_map(|words| prop::collection::vec(any::<u8>(), 4 * words));
    let addresses = any::<[[u8; 4]; 2]>();
    (addresses, any::<u8>(), any::<u16>(), any::<bool>(), fragmentation(), options).prop_map(
        |([source, destination], ttl, identification, dont_fragment, (more, offset), options)| {
            let mut v4 = Ipv4Header::new(0, ttl, IpNumber::TCP, source, destination)
                .expect("no payload yet");
            v4.identification = identification;
            v4.dont_fragment = dont_fragment;
            (v4.more_fragments, v4.fragment_offset) = (more, offset);
            v4.options = Ipv4Options::try_from(&options[..]).expect("at most 40 bytes");
            IpHeaders::Ipv4(v4, Ipv4Extensions::default())
        },
    )
}

fn extension() -> impl Strategy<Value = Ipv6RawExtHeader> {
    (0usize..4).prop_flat_map(|eights| prop::collection::vec(any::<u8>(), 6 + 8 * eights)).prop_map(
        |payload| Ipv6RawExtHeader::new_raw(IpNumber::TCP, &payload).expect("a length that fits"),
    )
}

fn ipv6() -> impl Strategy<Value = IpHeaders> {
    let fragment = (fragmentation(), any::<u32>())
        .prop_map(|((more, offset), id)| Ipv6FragmentHeader::new(IpNumber::TCP, offset, more, id));
    let maybe = |weight| prop::option::weighted(weight, extension());
    let extensions =
        (maybe(0.3), maybe(0.3), maybe(0.3), prop::option::weighted(0.3, fragment), maybe(0.2));
    (any::<[[u8; 16]; 2]>(), any::<u8>(), 0u32..0x10_0000, extensions).prop_map(
        |([source, destination], hop_limit, label, (hop, options, routing, fragment, last))| {
            let v6 = Ipv6Header {
                source,
                destination,
                hop_limit,
                flow_label: label.try_into().expect("20 bits"),
                ..Ipv6Header::default()
            };
            // Behind a later fragment's header stands the middle of a datagram.
            let later =
                fragment.as_ref().is_some_and(|fragment| fragment.fragment_offset.value() != 0);
            let last = last.filter(|_| !later);
            let routing = routing
                .map(|routing| Ipv6RoutingExtensions { routing, final_destination_options: last });
            let extensions = Ipv6Extensions {
                hop_by_hop_options: hop,
                destination_options: options,
                routing,
                fragment,
                auth: None,
            };
            IpHeaders::Ipv6(v6, extensions)
        },
    )
}

/// Extension headers of a packet, in number and bytes.
fn extensions(ip: &IpHeaders) -> (usize, usize) {
    let IpHeaders::Ipv6(_, extensions) = ip else { return (0, 0) };
    let last =
        extensions.routing.as_ref().and_then(|routing| routing.final_destination_options.as_ref());
    let present = [
        extensions.hop_by_hop_options.is_some(),
        extensions.destination_options.is_some(),
        extensions.routing.is_some(),
        extensions.fragment.is_some(),
        last.is_some(),
    ];
    (present.into_iter().filter(|present| *present).count(), extensions.header_len())
}

fn any_ip() -> impl Strategy<Value = IpHeaders> {
    prop_oneof![ipv4(), ipv6()]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..64)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_etherparse(ip in any_ip(), tcp in tcp_header(), payload in payload()) {
        let (number, len) = extensions(&ip);
        prop_assume!(number <= 4 && ETHERNET_LEN + 40 + len <= MAX_L4_OFFSET);
        assert_agrees(&frame(ip, tcp, &payload));
    }

    #[test]
    fn a_frame_cut_short_reads_the_same_or_not_at_all(ip in any_ip(), tcp in tcp_header(), payload in payload()) {
        let whole = frame(ip, tcp, &payload);
        let expected = ip::parse(&whole[..]);
        for len in 0..whole.len() {
            let cut = &whole[..len];
            match (ip::parse(cut), expected) {
                (Err(NotIp::Malformed), _) => {}
                (Ok(ip), Ok(same)) => {
                    prop_assert_eq!(ip, same);
                    let segment = tcp::parse(cut, &ip);
                    prop_assert!(segment.is_none() || segment == tcp::parse(&whole[..], &ip));
                }
                (other, _) => prop_assert!(false, "{:?} at {}", other, len),
            }
        }
    }

    #[test]
    fn no_bytes_whatever_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..160), v6: bool) {
        if bytes.len() > 14 {
            bytes[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
            bytes[14] = if v6 { 0x60 } else { bytes[14] & 0xf | 0x40 };
        }
        if let Ok(ip) = ip::parse(&bytes[..]) {
            prop_assert!(ip.l4 <= MAX_L4_OFFSET);
            if let Some(segment) = tcp::parse(&bytes[..], &ip) {
                prop_assert_eq!(segment.header_len + segment.payload_len, ip.l4_len);
            }
        }
    }
}

fn plain_v4() -> Vec<u8> {
    let v4 = Ipv4Header::new(0, 64, IpNumber::TCP, [192, 0, 2, 1], [198, 51, 100, 10])
        .expect("no payload yet");
    frame(
        IpHeaders::Ipv4(v4, Ipv4Extensions::default()),
        TcpHeader::new(4000, 443, 1, 500),
        b"hello",
    )
}

fn v6_with(extensions: Ipv6Extensions) -> Vec<u8> {
    let v6 = Ipv6Header {
        source: [0x20; 16],
        destination: [0x21; 16],
        hop_limit: 64,
        ..Ipv6Header::default()
    };
    frame(IpHeaders::Ipv6(v6, extensions), TcpHeader::new(4000, 443, 1, 500), b"hello")
}

fn raw(payload_len: usize) -> Ipv6RawExtHeader {
    Ipv6RawExtHeader::new_raw(IpNumber::TCP, &vec![0; payload_len]).expect("a length that fits")
}

#[test]
fn each_extension_header_alone_leads_to_tcp() {
    let none = Ipv6Extensions::default;
    let routing = Ipv6RoutingExtensions { routing: raw(14), final_destination_options: None };
    let atomic = Ipv6FragmentHeader::new(IpNumber::TCP, IpFragOffset::ZERO, false, 7);
    for extensions in [
        none(),
        Ipv6Extensions { hop_by_hop_options: Some(raw(6)), ..none() },
        Ipv6Extensions { destination_options: Some(raw(22)), ..none() },
        Ipv6Extensions { routing: Some(routing), ..none() },
        Ipv6Extensions { fragment: Some(atomic), ..none() },
    ] {
        assert_agrees(&v6_with(extensions));
    }
}

#[test]
fn the_fifth_extension_header_is_not_walked() {
    let routing =
        Ipv6RoutingExtensions { routing: raw(6), final_destination_options: Some(raw(6)) };
    let five = Ipv6Extensions {
        hop_by_hop_options: Some(raw(6)),
        destination_options: Some(raw(6)),
        routing: Some(routing),
        fragment: Some(Ipv6FragmentHeader::new(IpNumber::TCP, IpFragOffset::ZERO, false, 7)),
        auth: None,
    };
    let ip = parsed(&v6_with(five));
    assert_eq!(
        (ip.l4, ip.protocol),
        (ETHERNET_LEN + 40 + 4 * 8, IpNumber::IPV6_DESTINATION_OPTIONS.0)
    );
}

#[test]
fn a_transport_header_too_deep_is_not_looked_for() {
    let deep = |payload_len| {
        let extensions = Ipv6Extensions {
            destination_options: Some(raw(payload_len)),
            ..Ipv6Extensions::default()
        };
        ip::parse(&v6_with(extensions)[..])
    };
    assert!(
        matches!(deep(198), Ok(ip) if ip.l4 == MAX_L4_OFFSET - 1 && ip.protocol == ip::PROTOCOL_TCP)
    );
    assert_eq!(deep(206), Err(NotIp::Malformed));
}

#[test]
fn the_first_fragment_carries_the_header_and_later_ones_do_not() {
    for (offset, more, part) in
        [(0, true, Part::First), (185, true, Part::Later), (185, false, Part::Later)]
    {
        let offset = IpFragOffset::try_new(offset).expect("13 bits");
        let fragment = Some(Ipv6FragmentHeader::new(IpNumber::TCP, offset, more, 0xdead_beef));
        let ip = parsed(&v6_with(Ipv6Extensions { fragment, ..Ipv6Extensions::default() }));
        assert_eq!((ip.part, ip.fragment_id, ip.protocol), (part, 0xdead_beef, ip::PROTOCOL_TCP));
    }
}

#[test]
fn nothing_behind_a_later_fragments_header_is_walked() {
    let offset = IpFragOffset::try_new(10).expect("13 bits");
    let fragment =
        Some(Ipv6FragmentHeader::new(IpNumber::IPV6_DESTINATION_OPTIONS, offset, false, 1));
    let mut bytes = v6_with(Ipv6Extensions { fragment, ..Ipv6Extensions::default() });
    bytes[ETHERNET_LEN + 40] = 60;
    let ip = parsed(&bytes);
    assert_eq!((ip.l4, ip.part), (ETHERNET_LEN + 48, Part::Later));
}

#[test]
fn vlan_tags_in_the_frame_are_named_not_read() {
    let inner = tagged(&plain_v4(), EtherType::VLAN_TAGGED_FRAME.0, 7);
    assert_eq!(ip::parse(&inner[..]), Err(NotIp::Vlan));
    assert_eq!(ip::parse(&tagged(&inner, ETHERTYPE_SERVICE_VLAN, 8)[..]), Err(NotIp::Vlan));
}

#[test]
fn the_tags_that_etherparse_writes_are_tags() {
    let id = |id: u16| VlanId::try_new(id).expect("12 bits");
    let (mut one, mut two) = (Vec::new(), Vec::new());
    let ethernet = || PacketBuilder::ethernet2(MACS.0, MACS.1);
    let tcp = TcpHeader::new(4000, 443, 1, 500);
    let single = ethernet().single_vlan(id(7)).ipv4([192, 0, 2, 1], [198, 51, 100, 10], 64);
    single.tcp_header(tcp.clone()).write(&mut one, b"hello").expect("a frame");
    let double = ethernet().double_vlan(id(8), id(7)).ipv4([192, 0, 2, 1], [198, 51, 100, 10], 64);
    double.tcp_header(tcp).write(&mut two, b"hello").expect("a frame");
    assert_eq!(ip::parse(&one[..]), Err(NotIp::Vlan));
    assert_eq!(ip::parse(&two[..]), Err(NotIp::Vlan));
}

#[test]
fn other_protocols_are_not_ours() {
    let mut arp = plain_v4();
    arp[12..14].copy_from_slice(&EtherType::ARP.0.to_be_bytes());
    assert_eq!(ip::parse(&arp[..]), Err(NotIp::Other));
    assert_eq!(ip::parse(&[0; 13][..]), Err(NotIp::Malformed));
}

/// Asserts what becomes of a frame in which one byte was changed.
#[track_caller]
fn assert_refused(mut frame: Vec<u8>, at: usize, byte: u8) {
    frame[at] = byte;
    let refused = match ip::parse(&frame[..]) {
        Ok(ip) => tcp::parse(&frame[..], &ip).is_none(),
        other => other == Err(NotIp::Malformed),
    };
    assert!(refused, "byte {at} = {byte:#04x}");
}

#[test]
fn an_ipv4_header_that_lies_is_refused() {
    const TOTAL_LEN_LOW: usize = ETHERNET_LEN + 3;
    for version_len in [0x65, 0x05, 0x44, 0x40] {
        assert_refused(plain_v4(), ETHERNET_LEN, version_len);
    }
    // Header length beyond the total length; total length short of either header.
    assert_refused(plain_v4(), ETHERNET_LEN, 0x4f);
    for total in [0, 19, 20, 39] {
        assert_refused(plain_v4(), TOTAL_LEN_LOW, total);
    }
}

#[test]
fn a_tcp_header_that_lies_is_refused() {
    const DATA_OFFSET: usize = ETHERNET_LEN + 20 + 12;
    for words in [0, 1, 4, 7, 15] {
        assert_refused(plain_v4(), DATA_OFFSET, words << 4);
    }
}

#[test]
fn an_ipv6_header_that_lies_is_refused() {
    let plain = || v6_with(Ipv6Extensions::default());
    assert_refused(plain(), ETHERNET_LEN, 0x40);
    for payload_len in [0, 19] {
        assert_refused(plain(), ETHERNET_LEN + 5, payload_len);
    }
}

#[test]
fn an_extension_header_that_lies_is_refused() {
    let with = || {
        v6_with(Ipv6Extensions { hop_by_hop_options: Some(raw(6)), ..Ipv6Extensions::default() })
    };
    // Longer than the packet, deeper than is looked, and a packet that ends inside it.
    for eights in [4, 30, 255] {
        assert_refused(with(), ETHERNET_LEN + 41, eights);
    }
    assert_refused(with(), ETHERNET_LEN + 5, 7);
}
