//! ICMP errors about flows of ours: translated as the packets they quote were.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4};
use steer_common::{
    counters::Counter,
    shared::{Entrance, Flow, VIP_SHARED, flow_entrance},
};
use steer_tests::{ends::endpoint, packets::Segment};

use crate::world::{
    BACKEND_MAC, CLIENT_ISN, CLIENT_MAC, Case, Ends, FIRST_ISN, GATE_MAC, Given, INNER_MAC,
    OWNER_ISN, Out, World, families, shapes,
};

const MTU: u16 = 1400;

/// Frag-Needed or Packet-Too-Big with the IP header and eight bytes of what it is about.
pub(crate) fn too_big(
    macs: ([u8; 6], [u8; 6]),
    from: IpAddr,
    to: IpAddr,
    hop_limit: u8,
    about: &Segment,
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(macs.0, macs.1);
    let quoted = about.packet().expect("a packet");
    let mut frame = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let needed = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: MTU };
            let builder = builder.ipv4(from.octets(), to.octets(), hop_limit);
            builder
                .icmpv4(Icmpv4Type::DestinationUnreachable(needed))
                .write(&mut frame, &quoted[..28])
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let builder = builder.ipv6(from.octets(), to.octets(), hop_limit);
            builder
                .icmpv6(Icmpv6Type::PacketTooBig { mtu: u32::from(MTU) })
                .write(&mut frame, &quoted[..48])
        }
        _ => unreachable!("one family"),
    }
    .expect("an error");
    frame
}

pub(crate) fn router(ends: &Ends) -> IpAddr {
    let name = if ends.client.is_ipv4() { "203.0.113.1" } else { "2001:db8:ffff::1" };
    name.parse().expect("an address")
}

fn case(what: &'static str, frame: Vec<u8>, given: Given, left: Vec<u8>) -> Case {
    let counts = Some(Counter::IcmpTranslated);
    Case { what, frame, given, tc: Out::Sent(left), xdp: Out::Untouched, counts }
}

#[test]
fn an_error_about_a_backends_segment_reaches_it_in_its_own_numbers() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let (inwards, outwards) = ((CLIENT_MAC, GATE_MAC), (INNER_MAC, BACKEND_MAC));
        let error = |macs, to: SocketAddr, hop_limit, seq: u32| {
            too_big(
                macs,
                router(&ends),
                to.ip(),
                hop_limit,
                &ends.down(to, seq.wrapping_add(1)).ack(1),
            )
        };
        let came = error(inwards, ends.vip, 64, FIRST_ISN);
        let cases = [
            case(
                "spliced",
                came.clone(),
                Given::flow(ends.spliced()),
                error(outwards, ends.owner, 63, OWNER_ISN),
            ),
            case(
                "settled",
                came,
                Given::flow(ends.settled()),
                error(outwards, ends.first, 63, FIRST_ISN),
            ),
        ];
        world.judge(&ends, &cases)?;
    }
    Ok(())
}

#[test]
fn an_error_about_a_clients_segment_reaches_it_as_one_about_the_vip() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let (outwards, inwards) = ((BACKEND_MAC, INNER_MAC), (GATE_MAC, CLIENT_MAC));
        let error = |macs, hop_limit, to| {
            let about = Segment::new(ends.client, to, CLIENT_ISN.wrapping_add(1)).ack(1);
            too_big(macs, router(&ends), ends.client.ip(), hop_limit, &about)
        };
        let left = error(inwards, 63, ends.vip);
        let cases = [
            case(
                "spliced",
                error(outwards, 64, ends.owner),
                Given::flow(ends.spliced()),
                left.clone(),
            ),
            case("settled", error(outwards, 64, ends.first), Given::flow(ends.settled()), left),
        ];
        world.judge(&ends, &cases)?;
    }
    Ok(())
}

/// The errors name the VIP that the client dialled, where several share the pool.
#[test]
fn errors_about_a_flow_by_another_vip_of_the_pool_are_translated_in_its_name() -> Result<()> {
    const NUMBER: u8 = 9;
    let mut world = World::new()?;
    for ends in families() {
        let second = if ends.client.is_ipv4() { "198.51.100.11:443" } else { "[2001:db8::11]:443" };
        let second = second.parse::<SocketAddr>()?;
        let entrance =
            Entrance { endpoint: endpoint(second), pool: ends.vip_id, ..Entrance::default() };
        world.loaded.plane.set_entrance(u32::from(NUMBER), &entrance)?;
        let flow = ends.settled();
        let flow = Flow { flags: flow.flags | flow_entrance(NUMBER), ..flow };
        let given = Given { vip_flags: VIP_SHARED, ..Given::flow(flow) };
        let about_server = |macs, to: SocketAddr, hop_limit| {
            let about = ends.down(to, FIRST_ISN.wrapping_add(1)).ack(1);
            too_big(macs, router(&ends), to.ip(), hop_limit, &about)
        };
        let about_client = |macs, hop_limit, to| {
            let about = Segment::new(ends.client, to, CLIENT_ISN.wrapping_add(1)).ack(1);
            too_big(macs, router(&ends), ends.client.ip(), hop_limit, &about)
        };
        let cases = [
            case(
                "about a backend's segment",
                about_server((CLIENT_MAC, GATE_MAC), second, 64),
                given.clone(),
                about_server((INNER_MAC, BACKEND_MAC), ends.first, 63),
            ),
            case(
                "about a client's segment",
                about_client((BACKEND_MAC, INNER_MAC), 64, ends.first),
                given.clone(),
                about_client((GATE_MAC, CLIENT_MAC), 63, second),
            ),
            Case {
                what: "about a segment that the first VIP did not send",
                frame: about_server((CLIENT_MAC, GATE_MAC), ends.vip, 64),
                given,
                tc: Out::Untouched,
                xdp: Out::Untouched,
                counts: Some(Counter::IcmpPassed),
            },
        ];
        world.judge(&ends, &cases)?;
    }
    Ok(())
}

#[test]
fn errors_about_no_flow_or_about_what_was_never_sent_pass_untouched() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let error = |seq| {
            too_big(
                (CLIENT_MAC, GATE_MAC),
                router(&ends),
                ends.vip.ip(),
                64,
                &ends.down(ends.vip, seq).ack(1),
            )
        };
        let cases = [
            ("no flow", error(FIRST_ISN), Given::nothing()),
            ("never sent", error(FIRST_ISN.wrapping_add(1 << 20)), Given::flow(ends.settled())),
        ];
        let cases = cases.map(|(what, frame, given)| Case {
            what,
            frame,
            given,
            tc: Out::Untouched,
            xdp: Out::Untouched,
            counts: Some(Counter::IcmpPassed),
        });
        world.judge(&ends, &cases)?;
    }
    Ok(())
}
