//! Plain layer 4: handshakes, flows that stay, packets of no flow.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use steer_common::{
    counters::Counter,
    flow::{State, Word},
    shared::{FLOW_CLIENT_FIN, FLOW_LEARNED, FLOW_RESET, FLOW_SERVER_FIN, Flow},
};
use steer_tests::{packets::judge_checksums, programs::Program};

use crate::{
    frames,
    world::{
        CLIENT_ISN, Case, Ends, FIRST_ISN, Given, Out, TC_REDIRECT, World, XDP_PASS, families, family, from_backend,
        from_client, to_backend, to_client,
    },
};

/// MSS 1460, SACK permitted, timestamps, NOP, window scale 7: as Linux has them.
const LINUX: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0x1b, 0x58, 0, 0, 0, 0, 1, 3, 3, 7];
/// NOP, NOP, timestamps.
const STAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0x20, 1, 0, 0, 0x30, 1];

fn after(isn: u32) -> u32 {
    isn.wrapping_add(1)
}

#[test]
fn a_syn_goes_where_the_lookup_table_says_without_options_that_would_keep_it_there() -> Result<()> {
    const FAST_OPEN: [u8; 12] = [34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
    const ODD: [u8; 20] = [1, 34, 6, 9, 9, 9, 9, 2, 4, 5, 180, 254, 5, 0xf9, 0x89, 7, 1, 1, 1, 1];
    const ODD_CLEARED: [u8; 20] = [1, 1, 1, 1, 1, 1, 1, 2, 4, 5, 180, 1, 1, 1, 1, 1, 1, 1, 1, 1];
    const MPTCP: [u8; 24] = [2, 4, 5, 180, 30, 12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 4, 2, 3, 3, 7, 1, 1, 1];
    const MPTCP_CLEARED: [u8; 24] = [2, 4, 5, 180, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 2, 3, 3, 7, 1, 1, 1];
    let mut signed = [1; 32];
    signed[..2].copy_from_slice(&[19, 18]);
    signed[20..30].copy_from_slice(&FAST_OPEN[..10]);
    let mut authenticated = [1; 28];
    authenticated[..4].copy_from_slice(&[29, 16, 1, 1]);
    authenticated[16..26].copy_from_slice(&FAST_OPEN[..10]);

    let mut world = World::new()?;
    for ends in families() {
        let syn = |options: &[u8]| ends.up(CLIENT_ISN).syn().options(options);
        let ecn = |accurate: bool| {
            let mut syn = syn(&LINUX);
            (syn.tcp.ece, syn.tcp.cwr, syn.tcp.ns) = (true, true, accurate);
            syn
        };
        let cases = [
            ("a SYN of Linux", syn(&LINUX), syn(&LINUX), Counter::Syn),
            ("a SYN without options", syn(&[]), syn(&[]), Counter::Syn),
            ("TCP Fast Open", syn(&FAST_OPEN), syn(&[1; 12]), Counter::OptionCleared),
            ("options at odd places", syn(&ODD), syn(&ODD_CLEARED), Counter::OptionCleared),
            ("MPTCP", syn(&MPTCP), syn(&MPTCP_CLEARED), Counter::OptionCleared),
            ("MD5 signature with Fast Open", syn(&signed), syn(&signed), Counter::Syn),
            ("authentication option with Fast Open", syn(&authenticated), syn(&authenticated), Counter::Syn),
            ("a request for AccECN", ecn(true), ecn(false), Counter::Syn),
        ];
        let cases = cases.map(|(what, came, left, counts)| Case {
            what,
            frame: from_client(&came),
            given: Given::nothing(),
            tc: Out::Sent(to_backend(left, ends.first)),
            xdp: Out::Untouched,
            counts: Some(counts),
        });
        world.judge(&ends, &cases)?;
        let drops = Case {
            what: "a SYN to a pool without backends",
            frame: from_client(&syn(&LINUX)),
            given: Given { empty_pool: true, ..Given::nothing() },
            tc: Out::Dropped,
            xdp: Out::Untouched,
            counts: Some(Counter::NoBackend),
        };
        world.judge(&ends, &[drops])?;
    }
    Ok(())
}

#[test]
fn a_syn_on_a_live_flow_goes_to_its_holder_and_on_a_closed_one_where_the_lookup_table_says() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let syn = ends.up(77_777).syn().options(&LINUX);
        let known = |what, ends_seen: u32, to, counts| Case {
            what,
            frame: from_client(&syn),
            given: Given::flow(Flow { flags: FLOW_LEARNED | ends_seen, ..ends.spliced() }),
            tc: Out::Sent(to_backend(syn.clone(), to)),
            xdp: Out::Untouched,
            counts: Some(counts),
        };
        let cases = [
            known("live", 0, ends.owner, Counter::SynKnownFlow),
            known("half closed by its client", FLOW_CLIENT_FIN, ends.owner, Counter::SynKnownFlow),
            known("half closed by its backend", FLOW_SERVER_FIN, ends.owner, Counter::SynKnownFlow),
            known("closed", FLOW_CLIENT_FIN | FLOW_SERVER_FIN, ends.first, Counter::Syn),
            known("reset", FLOW_RESET, ends.first, Counter::Syn),
        ];
        world.judge(&ends, &cases)?;
    }
    Ok(())
}

#[test]
fn a_syn_is_remembered_as_it_was() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        world.prepare(&ends, &Given::nothing())?;
        world.run(Program::Tc, &from_client(&ends.up(CLIENT_ISN).syn().options(&LINUX)))?;
        let found = world.loaded.plane.handshakes.find(&ends.key())?.expect("a handshake");
        assert_eq!(Word(found.word), Word::new(State::Syn, CLIENT_ISN));
        assert_eq!(
            (found.client_ts, found.client_mss, found.client_scale, found.first),
            (0x1b58, 1460, 7, ends.first_id)
        );
    }
    Ok(())
}

#[test]
fn a_syn_ack_comes_from_the_vip_with_the_smallest_mss_of_the_pool() -> Result<()> {
    /// The MSS option at an even and at an odd place.
    const EVEN: [u8; 8] = [2, 4, 5, 180, 1, 3, 3, 7];
    const ODD: [u8; 8] = [1, 2, 4, 5, 180, 3, 3, 7];
    let mut world = World::new()?;
    for ends in families() {
        let syn_ack = |options: &[u8]| ends.down(ends.first, FIRST_ISN).syn().ack(after(CLIENT_ISN)).options(options);
        let cases = [
            ("a SYN-ACK", 1460, &EVEN[..], &EVEN[..], Counter::SynAck),
            ("a SYN-ACK without options", 1200, &[], &[], Counter::SynAck),
            ("clamped", 1200, &EVEN, &[2, 4, 4, 176, 1, 3, 3, 7], Counter::MssClamped),
            ("clamped at an odd place", 1200, &ODD, &[1, 2, 4, 4, 176, 3, 3, 7], Counter::MssClamped),
        ];
        let cases = cases.map(|(what, vip_mss, came, left, counts)| Case {
            what,
            frame: from_backend(&syn_ack(came)),
            given: Given { vip_mss, ..Given::handshake(ends.handshake()) },
            tc: Out::Sent(to_client(syn_ack(left), ends.vip)),
            xdp: Out::Untouched,
            counts: Some(counts),
        });
        world.judge(&ends, &cases)?;
    }
    Ok(())
}

#[test]
fn a_settled_flow_changes_addresses_only_both_ways_on_both_hooks() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let up = ends.up(after(CLIENT_ISN)).ack(after(FIRST_ISN));
        let down = ends.down(ends.first, after(FIRST_ISN)).ack(after(CLIENT_ISN));
        let mut marked = up.clone();
        marked.traffic_class = 0xb9;
        let cases = [
            ("an acknowledgement", up.clone()),
            ("data", up.clone().options(&STAMPS).payload(b"odd")),
            ("DSCP and ECN", marked),
            ("a selective acknowledgement", up.clone().options(&[1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2])),
            ("malformed options", up.clone().options(&[8, 40, 1, 1])),
            ("1460 bytes", up.options(&[]).payload(&[0xa5; 1440])),
        ];
        let cases = cases.map(|(what, came)| {
            let left = Out::Sent(to_backend(came.clone(), ends.first));
            both_hooks(what, from_client(&came), ends.settled(), left)
        });
        world.judge(&ends, &cases)?;
        let cases = [("an answer", down.clone()), ("an answer's data", down.options(&STAMPS).payload(&[9; 1001]))];
        let cases = cases.map(|(what, came)| {
            let left = Out::Sent(to_client(came.clone(), ends.vip));
            both_hooks(what, from_backend(&came), ends.settled(), left)
        });
        world.judge(&ends, &cases)?;
    }
    Ok(())
}

#[test]
fn ip_options_and_extension_headers_are_carried_along() -> Result<()> {
    const DESTINATION_OPTIONS: u8 = 60;
    const PADDED: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
    let mut world = World::new()?;
    let [v4, v6] = families();
    let up = |ends: &Ends| ends.up(after(CLIENT_ISN)).ack(after(FIRST_ISN)).options(&STAMPS).payload(b"data");
    let mut with_options = up(&v4);
    with_options.ip_options = vec![1, 1, 1, 0];
    let left = Out::Sent(frames::whole_length(to_backend(with_options.clone(), v4.first)));
    let came = frames::whole_length(from_client(&with_options));
    world.judge(&v4, &[both_hooks("IPv4 options", came, v4.settled(), left)])?;

    let came = frames::with_extension(&from_client(&up(&v6)), DESTINATION_OPTIONS, &PADDED);
    let left = frames::with_extension(&to_backend(up(&v6), v6.first), DESTINATION_OPTIONS, &PADDED);
    world.judge(&v6, &[both_hooks("an extension header", came, v6.settled(), Out::Sent(left))])
}

#[test]
fn fragments_follow_the_first_one_and_make_a_right_segment() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let segment = ends.up(after(CLIENT_ISN)).ack(after(FIRST_ISN)).options(&STAMPS).payload(&[0x5a; 501]);
        let [first, later] = frames::fragments(&from_client(&segment), 128);
        for program in [Program::Tc, Program::TcComplete] {
            world.prepare(&ends, &Given::flow(ends.settled()))?;
            let first = world.run(program, &first).with_context(|| format!("first, {}", family(&ends)))?;
            let later = world.run(program, &later).with_context(|| format!("later, {}", family(&ends)))?;
            assert_eq!((first.action, later.action), (TC_REDIRECT, TC_REDIRECT), "{program:?}");
            let whole = frames::whole(&first.frame, &later.frame);
            judge_checksums(&whole)?;
            assert_eq!(whole[whole.len() - 501..], [0x5a; 501]);
        }
        for fragment in [&first, &later] {
            let ran = world.run(Program::Xdp, fragment)?;
            assert_eq!((ran.action, &ran.frame), (XDP_PASS, fragment), "XDP leaves fragments to TC");
        }
    }
    Ok(())
}

#[test]
fn the_end_of_the_hop_limit_is_dropped_towards_a_backend_and_left_to_the_stack_towards_a_client() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let mut up = ends.up(after(CLIENT_ISN)).ack(after(FIRST_ISN));
        let mut down = ends.down(ends.first, after(FIRST_ISN)).ack(after(CLIENT_ISN));
        (up.hop_limit, down.hop_limit) = (1, 1);
        let case = |what, frame, tc| Case {
            what,
            frame,
            given: Given::flow(ends.settled()),
            tc,
            xdp: Out::Untouched,
            counts: Some(Counter::HopLimit),
        };
        let cases = [
            case("towards a backend", from_client(&up), Out::Dropped),
            case("towards a client", from_backend(&down), Out::Untouched),
        ];
        world.judge(&ends, &cases)?;
    }
    Ok(())
}

#[test]
fn xdp_leaves_an_unfinished_checksum_to_tc() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let mut frame = from_client(&ends.up(after(CLIENT_ISN)).ack(after(FIRST_ISN)).payload(b"data"));
        let tcp = if ends.client.is_ipv4() { 34 } else { 54 };
        let addresses = if ends.client.is_ipv4() { 26..34 } else { 22..54 };
        let len = frame.len() - tcp;
        let sum = frame[addresses].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
        let sum = sum + len as u32 + 6;
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = ((sum & 0xffff) + (sum >> 16)) as u16;
        frame[tcp + 16..tcp + 18].copy_from_slice(&sum.to_be_bytes());
        world.prepare_for(Program::Xdp, &ends, &Given::flow(ends.settled()))?;
        let ran = world.run(Program::Xdp, &frame)?;
        assert_eq!((ran.action, ran.frame == frame), (XDP_PASS, true));
        assert_eq!(world.loaded.plane.counter(Counter::XdpUnfinishedChecksum)?, 1 + u64::from(ends.client.is_ipv6()));
    }
    Ok(())
}

#[test]
fn ends_are_marked_only_at_the_exact_number_with_a_right_checksum() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let up = |seq| ends.up(seq).ack(after(FIRST_ISN));
        let down = |seq| ends.down(ends.first, seq).ack(after(CLIENT_ISN));
        let (client, server) = (after(CLIENT_ISN), after(FIRST_ISN));
        let broken = |mut frame: Vec<u8>| {
            *frame.last_mut().expect("a frame") ^= 0x55;
            frame
        };
        let cases = [
            ("the client's FIN", from_client(&up(client).fin()), FLOW_CLIENT_FIN),
            ("the server's FIN", from_backend(&down(server).fin()), FLOW_SERVER_FIN),
            ("the client's reset", from_client(&up(client).rst()), FLOW_RESET),
            ("the server's reset", from_backend(&down(server).rst()), FLOW_RESET),
            ("a reset elsewhere", from_client(&up(client + 9).rst()), 0),
            ("a FIN elsewhere", from_client(&up(client + 9).fin()), 0),
            ("a FIN with data", from_client(&up(client).payload(b"data").fin()), FLOW_CLIENT_FIN),
            ("data", from_client(&up(client).payload(b"data")), 0),
            ("a client's FIN that was damaged", broken(from_client(&up(client).payload(b"data").fin())), 0),
            ("a server's reset that was damaged", broken(from_backend(&down(server).rst().options(&[1, 1, 1, 1]))), 0),
        ];
        for (what, frame, mark) in cases {
            // Also before the first data: who checks a VIP connects and ends.
            for flow in [ends.settled(), ends.established()] {
                world.prepare(&ends, &Given::flow(flow))?;
                let ran = world.run(Program::Tc, &frame)?;
                assert_eq!(ran.action, TC_REDIRECT, "{what} goes on");
                let flags = world.flow(&ends)?.flags & (FLOW_CLIENT_FIN | FLOW_SERVER_FIN | FLOW_RESET);
                assert_eq!(flags, mark, "{what}");
            }
            world.prepare_for(Program::Xdp, &ends, &Given::flow(ends.settled()))?;
            let ran = world.run(Program::Xdp, &frame)?;
            assert_eq!(ran.action == XDP_PASS, what != "data", "XDP leaves ends to TC: {what}");
        }
    }
    Ok(())
}

#[test]
fn packets_of_no_flow_go_where_the_lookup_table_says() -> Result<()> {
    let mut world = World::new()?;
    world.ns.ip("addr add 192.0.2.1/24 dev eth0\naddr add 2001:db8::1/64 dev eth0 nodad\n")?;
    world.ns.sysctl("ipv4/ip_forward", "1")?;
    world.ns.sysctl("ipv6/conf/all/forwarding", "1")?;
    let mac = "02:00:00:00:00:0c";
    world
        .ns
        .ip(&format!("neigh add 192.0.2.7 lladdr {mac} dev eth0\nneigh add 2001:db8::7 lladdr {mac} dev eth0\n"))?;
    for ends in families() {
        let up = ends.up(77).ack(99).payload(b"data");
        let down = ends.down(ends.first, 99).ack(77).payload(b"data");
        let other = ends.down(ends.owner, 99).ack(77);
        let given = Given::nothing;
        let case = |what, frame, tc, counts| Case {
            what,
            frame,
            given: given(),
            tc,
            xdp: Out::Untouched,
            counts: Some(counts),
        };
        let cases = [
            case(
                "from a client",
                from_client(&up),
                Out::Sent(to_backend(up.clone(), ends.first)),
                Counter::NoFlowForwarded,
            ),
            case(
                "of a backend that the table does not name",
                from_backend(&other),
                Out::Untouched,
                Counter::BackendPassed,
            ),
            case("of the one that it names", from_backend(&down), Out::Untouched, Counter::BackendPassed),
            case(
                "a backend's SYN",
                from_backend(&ends.down(ends.first, 1).syn()),
                Out::Untouched,
                Counter::BackendPassed,
            ),
        ];
        world.judge(&ends, &cases)?;
        // The interface's own address is the source of what the forwarding table sends.
        let goes_to_the_client = |world: &World, what: &str| -> Result<()> {
            let ran = world.run(Program::Tc, &from_backend(&down))?;
            assert_eq!(ran.action, TC_REDIRECT, "{what}");
            assert_eq!(ran.frame[14..], to_client(down.clone(), ends.vip)[14..], "{what}");
            Ok(())
        };
        world.prepare(&ends, &given())?;
        world.run(Program::Tc, &from_client(&up))?;
        goes_to_the_client(&world, "an answer to a client's packet of a flow that nobody knew")?;
        goes_to_the_client(&world, "the next one")?;
        let settings = world.loaded.plane.settings()?;
        world.prepare(&ends, &given())?;
        world.loaded.plane.set_settings(&steer_common::shared::Settings {
            takeover_until: steer_user::clock::seconds() + 60,
            ..settings
        })?;
        goes_to_the_client(&world, "in a takeover")?;
        world.loaded.plane.set_settings(&settings)?;
    }
    Ok(())
}

#[test]
fn a_packet_larger_than_its_way_is_answered_with_the_mtu() -> Result<()> {
    const MTU: u16 = 1300;
    let mut world = World::new()?;
    for ends in families() {
        let up = ends.up(after(CLIENT_ISN)).ack(after(FIRST_ISN)).payload(&[3; 1400]);
        let given = Given { mtu: Some(u32::from(MTU)), ..Given::flow(ends.settled()) };
        let down = from_backend(&ends.down(ends.first, after(FIRST_ISN)).ack(after(CLIENT_ISN)).payload(&[3; 1400]));
        let other = from_backend(&ends.down(ends.owner, 1).ack(1));
        world.prepare(&ends, &given)?;
        assert_eq!(world.run(Program::Xdp, &from_client(&up))?.action, XDP_PASS);

        // What the packet before was must not matter.
        world.run(Program::Tc, &other)?;
        let ran = world.run(Program::Tc, &from_client(&up))?;
        assert_eq!(ran.action, TC_REDIRECT);
        judge_too_big([ends.client, ends.vip], &ran.frame, MTU)?;

        world.prepare(&ends, &Given { mtu: given.mtu, ..Given::nothing() })?;
        world.run(Program::Tc, &from_client(&ends.up(CLIENT_ISN).syn()))?;
        world.prepare(&ends, &given)?;
        let ran = world.run(Program::Tc, &down)?;
        assert_eq!(ran.action, TC_REDIRECT, "never left to a stack that may know another way");
        judge_too_big([ends.first, ends.client], &ran.frame, MTU)?;
    }
    Ok(())
}

/// Frag-Needed (RFC 1191 4) or Packet-Too-Big (RFC 4443 3.2) to the sender of a packet, from whom it wrote to.
fn judge_too_big([sender, receiver]: [SocketAddr; 2], frame: &[u8], mtu: u16) -> Result<()> {
    use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice, icmpv4};
    let sliced = SlicedPacket::from_ethernet(frame)?;
    let inner = match (&sliced.net, &sliced.transport) {
        (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Icmpv4(icmp))) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(std::net::IpAddr::from(header.destination), sender.ip());
            assert_eq!(std::net::IpAddr::from(header.source), receiver.ip());
            let needed = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
            assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(needed));
            assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
            icmp.payload().to_vec()
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) => {
            let header = ip.header().to_header();
            assert_eq!(std::net::IpAddr::from(header.destination), sender.ip());
            assert_eq!(std::net::IpAddr::from(header.source), receiver.ip());
            assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: u32::from(mtu) });
            let right = icmp.icmp_type().calc_checksum(header.source, header.destination, icmp.payload())?;
            assert_eq!(icmp.checksum(), right);
            icmp.payload().to_vec()
        }
        other => panic!("no ICMP error: {other:?}"),
    };
    let ports = if sender.is_ipv4() { 20 } else { 40 };
    assert_eq!(inner[ports..ports + 4], [sender.port().to_be_bytes(), receiver.port().to_be_bytes()].concat());
    Ok(())
}

#[test]
fn a_packet_larger_than_its_way_that_may_be_fragmented_is_cut() -> Result<()> {
    const MTU: u16 = 1300;
    let mut world = World::new()?;
    let ends = families()[0];
    let payload: Vec<u8> = (0..1400u32).map(|n| n as u8).collect();
    let up = ends.up(after(CLIENT_ISN)).ack(after(FIRST_ISN)).options(&STAMPS).payload(&payload);
    let mut frame = from_client(&up);
    // DF off, and the header's checksum right again.
    frame[20] = 0;
    let sum = frame[14..34].chunks(2).enumerate().filter(|(at, _)| *at != 5);
    let sum: u32 = sum.map(|(_, pair)| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    world.prepare(&ends, &Given { mtu: Some(u32::from(MTU)), ..Given::flow(ends.settled()) })?;
    let ran = world.run(Program::Tc, &frame)?;
    assert_eq!(ran.action, TC_REDIRECT);
    judge_checksums(&ran.frame)?;
    // The last piece is at hand; the one before left as a copy.
    let first = (usize::from(MTU) - 20 - 32) & !3;
    let headers = 14 + 20 + 32;
    assert_eq!(ran.frame[headers..], payload[first..]);
    let seq = u32::from_be_bytes(ran.frame[38..42].try_into()?);
    assert_eq!(seq, after(CLIENT_ISN) + first as u32);
    assert_eq!(&ran.frame[30..34], &[10, 0, 0, 1], "to the backend");
    assert_eq!(&ran.frame[54..66], &STAMPS, "with the options of the whole");
    assert_eq!(world.loaded.plane.counter(Counter::TooBigCut)?, 1);
    Ok(())
}

/// A settled flow's packet, which either hook forwards.
fn both_hooks(what: &'static str, frame: Vec<u8>, flow: Flow, left: Out) -> Case {
    Case { what, frame, given: Given::flow(flow), tc: left.clone(), xdp: left, counts: Some(Counter::Forwarded) }
}
