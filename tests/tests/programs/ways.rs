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
    Asked, CLIENT_ISN, Case, Ends, FIRST_ISN, Given, Out, TC_REDIRECT, World, XDP_PASS,
    XDP_REDIRECT, family, from_backend, from_client, shapes, to_client,
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
        world.ns.ip(&format!(
            "neigh add {router} lladdr 02:00:00:00:00:0c dev eth0\nroute add default via {router}\n"
        ))?;
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

/// Waits until a second has begun for programs, too, and enough of it is left for one case: what is
/// asked now is asked in that second.
fn begin_a_second() {
    const INSIDE: std::ops::Range<u64> = 60_000_000..500_000_000;
    while !INSIDE.contains(&(steer_user::clock::nanoseconds() % 1_000_000_000)) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn the_first_packets_to_a_client_and_whatever_is_new_go_the_way_its_packets_came() -> Result<()> {
    let mut world = with_router()?;
    for ends in shapes() {
        let handshake = || Given::handshake(ends.handshake());
        let flow = || Given::flow(ends.settled());
        let cases = [
            ("a SYN-ACK", syn_ack(&ends), handshake(), Asked::Never),
            ("a SYN-ACK once more, just behind its SYN", syn_ack(&ends), handshake(), Asked::Now),
            ("the first data", data(&ends), flow(), Asked::Never),
            ("the first packet, which says nothing new", nothing_new(&ends), flow(), Asked::Never),
            ("data after a pause", data(&ends), flow(), Asked::Ago(STALE)),
            ("nothing new, but soon", nothing_new(&ends), flow(), Asked::Now),
        ];
        for (what, segment, given, way_asked) in cases {
            begin_a_second();
            let before = asked(&world)?;
            let sent = Out::Sent(to_client(segment.clone(), ends.vip));
            let xdp = if segment.tcp.syn { Out::Untouched } else { sent.clone() };
            let given = Given { way_asked, ..given };
            world.judge(
                &ends,
                &[Case { what, frame: from_backend(&segment), given, tc: sent, xdp, counts: None }],
            )?;
            assert_eq!(asked(&world)?, before, "{what}, {}", family(&ends));
        }
    }
    Ok(())
}

/// As `traces` puts it back into `flows`. A packet from elsewhere in both streams may be anybody's.
#[test]
fn a_record_without_a_way_back_gets_it_from_its_clients_next_packet() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        for (ahead, acknowledged, noted) in [(0, 0, true), (1000, 1, false), (1000, 0, true)] {
            let flow = Flow { flags: FLOW_LEARNED | FLOW_HOP_WANTED, ..ends.settled() };
            world.prepare(&ends, &Given::flow(flow))?;
            let record = Flow { client_hop: Hop::default(), ..world.flow(&ends)? };
            world.loaded.plane.flows.insert(&ends.key(), &record)?;
            let acknowledged = record.server_next + acknowledged;
            let segment = ends.up(record.client_next + ahead).ack(acknowledged).payload(b"data");
            world.run(Program::Tc, &from_client(&segment))?;
            let hop = world.flow(&ends)?.client_hop;
            let known = hop.ifindex == world.ifindex
                && hop.ethernet == Hop::mac_addresses(CLIENT_MAC, GATE_MAC);
            assert_eq!(
                known,
                noted,
                "{ahead} bytes ahead, {acknowledged}, {}: {hop:?}",
                family(&ends)
            );
        }
    }
    Ok(())
}

/// A client's router fails over to another one, with another MAC address, before the client's flow
/// has its backend for good: what the client repeats or says next comes by the new one, and the
/// answers go there. A packet that knows neither stream's number may be anybody's.
#[test]
fn until_a_flow_is_settled_answers_follow_its_client_to_another_router() -> Result<()> {
    const NEW_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0d];
    let mut world = World::new()?;
    let by_new = |segment: &Segment| segment.frame(NEW_MAC, GATE_MAC, &[]);
    for ends in shapes() {
        let next = CLIENT_ISN.wrapping_add(1);
        let syn = ends.up(CLIENT_ISN).syn().options(&[2, 4, 5, 180]);
        let ack = ends.up(next).ack(FIRST_ISN.wrapping_add(1));
        // Ten bytes of a record of a hundred.
        let part = ack.clone().payload(&[22, 3, 1, 0, 100, 1, 0, 0, 96, 3]);
        let more = ends.up(next + 10).ack(FIRST_ISN.wrapping_add(1)).payload(&[3, 0, 0]);
        let forged = ends.up(next + 1).ack(FIRST_ISN.wrapping_add(2)).payload(b"x");
        let old = |segment: &Segment| Ok::<_, anyhow::Error>(from_client(segment));
        let up_to = |n: usize| -> Result<Vec<_>> {
            let all = [old(&syn)?, from_backend(&syn_ack(&ends)), old(&ack)?, old(&part)?];
            Ok(all.into_iter().take(n).collect())
        };
        let cases = [
            ("a repeated SYN", up_to(1)?, by_new(&syn)?, NEW_MAC, syn_ack(&ends)),
            ("a SYN repeated after its answer", up_to(2)?, by_new(&syn)?, NEW_MAC, syn_ack(&ends)),
            ("the acknowledgement", up_to(2)?, by_new(&ack)?, NEW_MAC, data(&ends)),
            ("the first data", up_to(3)?, by_new(&part)?, NEW_MAC, nothing_new(&ends)),
            ("more data", up_to(4)?, by_new(&more)?, NEW_MAC, nothing_new(&ends)),
            ("forged data", up_to(3)?, by_new(&forged)?, CLIENT_MAC, data(&ends)),
        ];
        for (what, before, changed, to, answer) in cases {
            world.prepare(&ends, &Given::nothing())?;
            for frame in before {
                world.run(Program::Tc, &frame)?;
            }
            world.run(Program::Tc, &changed)?;
            let ran = world.run(Program::Tc, &from_backend(&answer))?;
            assert_eq!(ran.action, TC_REDIRECT, "{what}, {}", family(&ends));
            assert_eq!(ran.frame[..6], to, "{what}, {}", family(&ends));
        }
    }
    Ok(())
}

/// Where the client's router changed its address since, nobody but the forwarding table knows;
/// where the client repeats its SYN, that shows the way.
#[test]
fn a_syn_ack_that_nobody_acknowledged_asks_the_kernel_unless_the_syn_came_again() -> Result<()> {
    let mut world = with_router()?;
    for ends in shapes() {
        let syn = ends.up(CLIENT_ISN).syn().options(&[2, 4, 5, 180]);
        for (comes_again, asks) in [(false, 1), (true, 0)] {
            let given =
                Given { way_asked: Asked::Ago(STALE), ..Given::handshake(ends.handshake()) };
            world.prepare(&ends, &given)?;
            if comes_again {
                world.run(Program::Tc, &from_client(&syn))?;
            }
            let before = asked(&world)?[1];
            let ran = world.run(Program::Tc, &from_backend(&syn_ack(&ends)))?;
            assert_eq!(ran.action, TC_REDIRECT);
            assert_eq!(asked(&world)?[1], before + asks, "{comes_again}, {}", family(&ends));
        }
    }
    Ok(())
}

#[test]
fn what_says_nothing_new_after_a_pause_asks_the_kernel_but_never_twice_in_a_row() -> Result<()> {
    let mut world = with_router()?;
    for ends in shapes() {
        let given = Given { way_asked: Asked::Ago(STALE), ..Given::flow(ends.settled()) };
        let frame = from_backend(&nothing_new(&ends));
        for asks in [true, false, true] {
            let before = asked(&world)?;
            if asks {
                world.prepare_for(Program::Xdp, &ends, &given)?;
                let xdp = world.run(Program::Xdp, &frame)?;
                assert_eq!(
                    (xdp.action, &xdp.frame),
                    (XDP_PASS, &frame),
                    "XDP has no neighbour discovery"
                );
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
        assert_eq!(
            world.run(Program::Xdp, &frame)?.action,
            XDP_REDIRECT,
            "the turn after is the client's way again"
        );
    }
    Ok(())
}

#[test]
fn a_client_that_the_forwarding_table_does_not_know_keeps_its_own_way() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let segment = nothing_new(&ends);
        let given = Given { way_asked: Asked::Ago(STALE), ..Given::flow(ends.settled()) };
        world.prepare(&ends, &given)?;
        let ran = world.run(Program::Tc, &from_backend(&segment))?;
        assert_eq!(
            (ran.action, ran.frame),
            (TC_REDIRECT, to_client(segment, ends.vip)),
            "{}",
            family(&ends)
        );
    }
    Ok(())
}
