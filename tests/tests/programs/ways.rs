//! The way to a client: the one that its packets come by, and now and then the forwarding table's.

use anyhow::Result;
use steer_common::{
    counters::Counter,
    shared::{FLOW_HOP_WANTED, FLOW_LEARNED, Flow, Hop},
};
use steer_tests::{
    ends::{CLIENT_MAC, GATE_MAC},
    packets::Segment,
    programs::Program,
};

use crate::world::{
    Asked, CLIENT_ISN, Case, Ends, FIRST_ISN, Given, Out, TC_REDIRECT, World, XDP_PASS, XDP_REDIRECT, families, family,
    from_backend, from_client, to_client,
};

/// Longer than the way to a client is taken for fresh, seconds.
const STALE: u32 = 3;

/// A world whose forwarding table knows a router towards every client.
fn with_router() -> Result<World> {
    let world = World::new()?;
    world.ns.ip("addr add 192.0.2.1/24 dev eth0\naddr add 2001:db8::1/64 dev eth0 nodad\n")?;
    world.ns.sysctl("ipv4/ip_forward", "1")?;
    world.ns.sysctl("ipv6/conf/all/forwarding", "1")?;
    for router in ["192.0.2.7", "2001:db8::7"] {
        world
            .ns
            .ip(&format!("neigh add {router} lladdr 02:00:00:00:00:0c dev eth0\nroute add default via {router}\n"))?;
    }
    Ok(world)
}

fn syn_ack(ends: &Ends) -> Segment {
    ends.down(ends.first, FIRST_ISN).syn().ack(CLIENT_ISN + 1).options(&[2, 4, 5, 180])
}

fn data(ends: &Ends) -> Segment {
    ends.down(ends.first, FIRST_ISN + 1).ack(CLIENT_ISN + 1).payload(b"data")
}

/// Says nothing that was not said before.
fn nothing_new(ends: &Ends) -> Segment {
    ends.down(ends.first, FIRST_ISN + 1).ack(CLIENT_ISN + 1)
}

/// How often the forwarding table and the kernel's neighbour discovery were asked.
fn asked(world: &World) -> Result<[u64; 2]> {
    let plane = &world.loaded.plane;
    Ok([plane.counter(Counter::HopAsked)?, plane.counter(Counter::NeighbourAsked)?])
}

#[test]
fn the_first_packets_to_a_client_and_whatever_is_new_go_the_way_its_packets_came() -> Result<()> {
    let mut world = with_router()?;
    for ends in families() {
        let handshake = || Given::handshake(ends.handshake());
        let flow = || Given::flow(ends.settled());
        let cases = [
            ("a SYN-ACK", syn_ack(&ends), handshake(), Asked::Never),
            ("a SYN-ACK once more", syn_ack(&ends), handshake(), Asked::Ago(STALE)),
            ("the first data", data(&ends), flow(), Asked::Never),
            ("the first packet, which says nothing new", nothing_new(&ends), flow(), Asked::Never),
            ("data after a pause", data(&ends), flow(), Asked::Ago(STALE)),
            ("nothing new, but soon", nothing_new(&ends), flow(), Asked::Now),
        ];
        for (what, segment, given, way_asked) in cases {
            let before = asked(&world)?;
            let sent = Out::Sent(to_client(segment.clone(), ends.vip));
            let xdp = if segment.tcp.syn { Out::Untouched } else { sent.clone() };
            let given = Given { way_asked, ..given };
            world.judge(&ends, &[Case { what, frame: from_backend(&segment), given, tc: sent, xdp, counts: None }])?;
            assert_eq!(asked(&world)?, before, "{what}, {}", family(&ends));
        }
    }
    Ok(())
}

/// As `traces` puts it back into `flows`. A packet from elsewhere in the stream may be anybody's.
#[test]
fn a_record_without_a_way_back_gets_it_from_its_clients_next_packet() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        for (ahead, noted) in [(0, true), (1000, false)] {
            let flow = Flow { flags: FLOW_LEARNED | FLOW_HOP_WANTED, ..ends.settled() };
            world.prepare(&ends, &Given::flow(flow))?;
            let record = Flow { client_hop: Hop::default(), ..world.flow(&ends)? };
            world.loaded.plane.flows.insert(&ends.key(), &record)?;
            let segment = ends.up(record.client_next + ahead).ack(FIRST_ISN + 1).payload(b"data");
            world.run(Program::Tc, &from_client(&segment))?;
            let hop = world.flow(&ends)?.client_hop;
            let known = hop.ifindex == world.ifindex && hop.ethernet == Hop::stations(CLIENT_MAC, GATE_MAC);
            assert_eq!(known, noted, "{ahead} bytes ahead, {}: {hop:?}", family(&ends));
        }
    }
    Ok(())
}

#[test]
fn what_says_nothing_new_after_a_pause_asks_the_kernel_but_never_twice_in_a_row() -> Result<()> {
    let mut world = with_router()?;
    for ends in families() {
        let given = Given { way_asked: Asked::Ago(STALE), ..Given::flow(ends.settled()) };
        let frame = from_backend(&nothing_new(&ends));
        for asks in [true, false, true] {
            let before = asked(&world)?;
            if asks {
                world.prepare_for(Program::Xdp, &ends, &given)?;
                let xdp = world.run(Program::Xdp, &frame)?;
                assert_eq!((xdp.action, &xdp.frame), (XDP_PASS, &frame), "XDP has no neighbour discovery");
                world.prepare(&ends, &given)?;
            }
            let ran = world.run(Program::Tc, &frame)?;
            assert_eq!(ran.action, TC_REDIRECT);
            let more = u64::from(asks);
            assert_eq!(asked(&world)?, before.map(|n| n + more), "{}", family(&ends));
            // The kernel writes the link's header itself, so that the frame has still its old one.
            assert_eq!(ran.frame[..12] == frame[..12], asks);
            // Never asked: however long the pause before it, the next packet goes the client's way.
            assert_eq!(world.flow(&ends)?.client_hop.asked == 0, asks);
        }
        world.prepare_for(Program::Xdp, &ends, &Given { way_asked: Asked::Never, ..given })?;
        assert_eq!(world.run(Program::Xdp, &frame)?.action, XDP_REDIRECT, "the turn after is the client's way again");
    }
    Ok(())
}

#[test]
fn a_client_that_the_forwarding_table_does_not_know_keeps_its_own_way() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let segment = nothing_new(&ends);
        let given = Given { way_asked: Asked::Ago(STALE), ..Given::flow(ends.settled()) };
        world.prepare(&ends, &given)?;
        let ran = world.run(Program::Tc, &from_backend(&segment))?;
        assert_eq!((ran.action, ran.frame), (TC_REDIRECT, to_client(segment, ends.vip)), "{}", family(&ends));
    }
    Ok(())
}
