//! Packets larger than their way.

use std::net::SocketAddr;

use anyhow::Result;
use steer_common::counters::Counter;
use steer_tests::{
    packets::{Segment, judge_checksums},
    pieces::with_extension,
    programs::Program,
};

use crate::{
    frames,
    world::{
        CLIENT_ISN, FIRST_ISN, Given, STAMPS, TC_REDIRECT, World, XDP_PASS, after, from_backend,
        from_client, shapes,
    },
};

#[test]
fn a_packet_larger_than_its_way_is_answered_with_the_mtu() -> Result<()> {
    const MTU: u16 = 1300;
    let mut world = World::new()?;
    for ends in shapes() {
        let up = ends.up(after(CLIENT_ISN)).ack(after(FIRST_ISN)).payload(&[3; 1400]);
        let given = Given { mtu: Some(u32::from(MTU)), ..Given::flow(ends.settled()) };
        let down = from_backend(
            &ends.down(ends.first, after(FIRST_ISN)).ack(after(CLIENT_ISN)).payload(&[3; 1400]),
        );
        let other = from_backend(&ends.down(ends.owner, 1).ack(1));
        world.prepare(&ends, &given)?;
        assert_eq!(world.run(Program::Xdp, &from_client(&up))?.action, XDP_PASS);

        // What the packet before was must not matter.
        world.run(Program::Tc, &other)?;
        let ran = world.run(Program::Tc, &from_client(&up))?;
        assert_eq!(ran.action, TC_REDIRECT);
        judge_too_big([ends.client, ends.vip], &ran.frame, MTU)?;
        // One with IP options or an extension header as well: no router keeps silent about it.
        let longer = if ends.client.is_ipv4() {
            frames::whole_length(from_client(&Segment {
                ip_options: vec![1, 1, 1, 0],
                ..up.clone()
            }))
        } else {
            const DESTINATION_OPTIONS: u8 = 60;
            with_extension(&from_client(&up), DESTINATION_OPTIONS, &[0, 0, 1, 4, 0, 0, 0, 0])
        };
        let ran = world.run(Program::Tc, &longer)?;
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

/// Frag-Needed (RFC 1191 4) or Packet-Too-Big (RFC 4443 3.2) to the sender of a packet, from whom
/// it wrote to.
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
            let right = icmp.icmp_type().calc_checksum(
                header.source,
                header.destination,
                icmp.payload(),
            )?;
            assert_eq!(icmp.checksum(), right);
            icmp.payload().to_vec()
        }
        other => panic!("no ICMP error: {other:?}"),
    };
    let ports = if sender.is_ipv4() { 20 } else { 40 };
    assert_eq!(
        inner[ports..ports + 4],
        [sender.port().to_be_bytes(), receiver.port().to_be_bytes()].concat()
    );
    Ok(())
}

#[test]
fn a_packet_larger_than_its_way_that_may_be_fragmented_is_cut() -> Result<()> {
    const MTU: u16 = 1300;
    let mut world = World::new()?;
    let ends = shapes()[0];
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
