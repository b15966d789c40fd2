//! VIPs that share the pool of another one: whatever VIP its client dialled, a flow is answered in
//! that one's name.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use steer_common::{
    counters::Counter,
    shared::{
        Entrance, FLOW_RESET, Flow, FlowKey, SERVICE_BACKEND, SERVICE_WAY_THERE, Settings,
        VIP_SHARED, flow_entrance,
    },
};
use steer_tests::{ends::endpoint, packets::Segment, programs::Program};

use crate::world::{
    CLIENT_ISN, Case, Ends, FIRST_ISN, Given, OWNER_ISN, Out, TC_DROP, TC_NEXT, TC_REDIRECT, World,
    after, families, from_backend, from_client, to_backend, to_client,
};

/// The number of the second VIP.
const ENTRANCE: u8 = 37;
/// MSS 1460.
const MSS: [u8; 4] = [2, 4, 5, 180];

/// The address of the second VIP.
fn second(ends: &Ends) -> SocketAddr {
    let text = if ends.client.is_ipv4() { "198.51.100.11:443" } else { "[2001:db8:1::11]:443" };
    text.parse().expect("an address and port")
}

/// The VIPs, the one that the pool is known by first.
fn vips(ends: &Ends) -> [SocketAddr; 2] {
    [ends.vip, second(ends)]
}

fn number(ends: &Ends, vip: SocketAddr) -> u8 {
    if vip == ends.vip { 0 } else { ENTRANCE }
}

/// The same flow of a client that dialled this VIP.
fn by(ends: &Ends, vip: SocketAddr, flow: Flow) -> Flow {
    Flow { flags: flow.flags | flow_entrance(number(ends, vip)), ..flow }
}

fn given(given: Given) -> Given {
    Given { vip_flags: VIP_SHARED, ..given }
}

fn prepare(world: &mut World, ends: &Ends, what: Given) -> Result<()> {
    let entrance =
        Entrance { endpoint: endpoint(second(ends)), pool: ends.vip_id, zero: 0, since: 0 };
    world.loaded.plane.set_entrance(u32::from(ENTRANCE), &entrance)?;
    for key in [ends.key(), beside(ends, ends.vip), beside(ends, second(ends))] {
        world.loaded.plane.flows.remove(&key)?;
        world.loaded.plane.handshakes.remove(&key)?;
        world.forget_trace_of(&key)?;
    }
    world.loaded.plane.legs.remove_stale(|_, _| true)?;
    world.forget_flow_trace(ends)?;
    world.prepare(ends, &given(what))
}

/// The key of a flow by a VIP while the other one's has the usual key.
fn beside(ends: &Ends, vip: SocketAddr) -> FlowKey {
    FlowKey { service: ends.key().service_beside(number(ends, vip)), ..ends.key() }
}

/// A segment of the client to one of the VIPs.
fn up(ends: &Ends, vip: SocketAddr, seq: u32) -> Segment {
    Segment::new(ends.client, vip, seq)
}

fn data(ends: &Ends, vip: SocketAddr) -> Segment {
    up(ends, vip, after(CLIENT_ISN)).ack(after(FIRST_ISN)).payload(b"data")
}

fn answer(ends: &Ends) -> Segment {
    ends.down(ends.first, after(FIRST_ISN)).ack(after(CLIENT_ISN)).payload(b"answer")
}

fn with_port(mut segment: Segment, port: u16, source: bool) -> Segment {
    if source {
        segment.source.set_port(port);
        segment.tcp.source_port = port;
    } else {
        segment.destination.set_port(port);
        segment.tcp.destination_port = port;
    }
    segment
}

/// The source port of a frame.
fn port_in(ends: &Ends, frame: &[u8]) -> u16 {
    let at = if ends.client.is_ipv4() { 34 } else { 54 };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

#[test]
fn a_settled_flow_is_answered_by_the_vip_that_its_client_dialled() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        for vip in vips(&ends) {
            prepare(&mut world, &ends, Given::nothing())?;
            let moved = ends.down(ends.owner, after(OWNER_ISN)).ack(after(CLIENT_ISN));
            let shown = ends.down(ends.owner, after(FIRST_ISN)).ack(after(CLIENT_ISN));
            let case = |what, frame, flow, sent: Vec<u8>| Case {
                what,
                frame,
                given: given(Given::flow(by(&ends, vip, flow))),
                tc: Out::Sent(sent.clone()),
                xdp: Out::Sent(sent),
                counts: None,
            };
            let (asked, answered) = (data(&ends, vip), answer(&ends));
            let cases = [
                case(
                    "from a client",
                    from_client(&asked),
                    ends.settled(),
                    to_backend(asked, ends.first),
                ),
                case(
                    "from a backend",
                    from_backend(&answered),
                    ends.settled(),
                    to_client(answered, vip),
                ),
                case(
                    "from an owner",
                    from_backend(&moved.payload(b"moved")),
                    ends.spliced(),
                    to_client(shown.payload(b"moved"), vip),
                ),
            ];
            world.judge(&ends, &cases)?;
        }
    }
    Ok(())
}

/// In the cache, too: the flow's packets go by its slot, and another VIP's do not.
#[test]
fn a_slot_tells_the_vip_that_its_client_dialled() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let [home, second] = vips(&ends);
        prepare(&mut world, &ends, Given::flow(by(&ends, second, ends.settled())))?;
        world.run(Program::Tc, &from_client(&data(&ends, second)))?;
        let (_, slot) = world.slot(&ends)?.context("a slot")?;
        assert_eq!(slot.translation.entrance, ENTRANCE);
        // Nobody but the slot knows the flow now.
        world.loaded.plane.flows.insert(&ends.key(), &Flow::default())?;
        let answered = answer(&ends).ack(after(CLIENT_ISN) + 4);
        let ran = world.run(Program::Tc, &from_backend(&answered))?;
        assert_eq!(ran.frame, to_client(answered, second));
        let next = |vip| {
            let ack = after(FIRST_ISN) + 6;
            up(&ends, vip, after(CLIENT_ISN) + 4).ack(ack).payload(b"more")
        };
        let ran = world.run(Program::Tc, &from_client(&next(second)))?;
        assert_eq!(ran.frame, to_backend(next(second), ends.first));
        let ran = world.run(Program::Tc, &from_client(&next(home)))?;
        assert_eq!(ran.action, TC_DROP, "another VIP's packet is none of the flow's");
    }
    Ok(())
}

/// The client's handshake with a VIP, to the end; the port that it has at its backend.
fn connect(world: &World, ends: &Ends, vip: SocketAddr, isn: u32) -> Result<u16> {
    let syn = up(ends, vip, isn).syn().options(&MSS);
    let ran = world.run(Program::Tc, &from_client(&syn))?;
    assert_eq!(ran.action, TC_REDIRECT);
    let port = port_in(ends, &ran.frame);
    assert!(
        ran.frame == to_backend(with_port(syn, port, true), ends.first),
        "only its port changed"
    );
    let syn_ack = ends.down(ends.first, FIRST_ISN).syn().ack(after(isn)).options(&MSS);
    let ran = world.run(Program::Tc, &from_backend(&with_port(syn_ack.clone(), port, false)))?;
    assert!(ran.frame == to_client(syn_ack, vip), "the SYN-ACK is the VIP's");
    let ack = up(ends, vip, after(isn)).ack(after(FIRST_ISN));
    let ran = world.run(Program::Tc, &from_client(&ack))?;
    assert!(ran.frame == to_backend(with_port(ack, port, true), ends.first), "the first ACK");
    Ok(port)
}

/// Bytes of a connection, either way.
fn talk(world: &World, ends: &Ends, vip: SocketAddr, isn: u32, port: u16) -> Result<()> {
    let asked = up(ends, vip, after(isn)).ack(after(FIRST_ISN)).payload(b"no hello");
    let ran = world.run(Program::Tc, &from_client(&asked))?;
    assert!(ran.frame == to_backend(with_port(asked, port, true), ends.first), "to the backend");
    let answered = ends.down(ends.first, after(FIRST_ISN)).ack(after(isn) + 8).payload(b"said");
    let ran = world.run(Program::Tc, &from_backend(&with_port(answered.clone(), port, false)))?;
    assert!(ran.frame == to_client(answered, vip), "to the client");
    Ok(())
}

#[test]
fn a_connection_is_made_by_either_vip_under_the_same_key() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        for vip in vips(&ends) {
            prepare(&mut world, &ends, Given::nothing())?;
            let port = connect(&world, &ends, vip, CLIENT_ISN)?;
            assert_eq!(port, ends.client.port());
            talk(&world, &ends, vip, CLIENT_ISN, port)?;
            assert_eq!(world.flow(&ends)?.entrance(), number(&ends, vip));
        }
    }
    Ok(())
}

/// One port of a client to both VIPs, led to one backend.
#[test]
fn the_second_flow_from_one_port_has_another_one_at_its_backend_and_both_go_on() -> Result<()> {
    const OTHER_ISN: u32 = CLIENT_ISN + 0x0100_0000;
    let mut world = World::new()?;
    for ends in families() {
        let [home, second] = vips(&ends);
        for (one, other) in [(home, second), (second, home)] {
            prepare(&mut world, &ends, Given::nothing())?;
            let own = connect(&world, &ends, one, CLIENT_ISN)?;
            let port = connect(&world, &ends, other, OTHER_ISN)?;
            assert_eq!(own, ends.client.port());
            assert!(port >= 1024 && port != own, "port {port}");
            for _ in 0..2 {
                talk(&world, &ends, other, OTHER_ISN, port)?;
                talk(&world, &ends, one, CLIENT_ISN, own)?;
            }
            let flow = world.loaded.plane.flow(&beside(&ends, other))?.context("the second")?;
            assert_eq!(flow.entrance(), number(&ends, other));
            // A SYN that is repeated finds its flow, also when the first one is gone.
            world.loaded.plane.flows.remove(&ends.key())?;
            world.loaded.plane.handshakes.remove(&ends.key())?;
            world.forget_flow_trace(&ends)?;
            talk(&world, &ends, other, OTHER_ISN, port)?;
        }
    }
    Ok(())
}

/// Anybody can send SYNs: what lasts for as long as a connection is left by who completes one.
#[test]
fn the_way_of_a_second_flow_is_remembered_when_its_client_made_it() -> Result<()> {
    const OTHER_ISN: u32 = CLIENT_ISN + 0x0100_0000;
    let mut world = World::new()?;
    for ends in families() {
        prepare(&mut world, &ends, Given::nothing())?;
        connect(&world, &ends, ends.vip, CLIENT_ISN)?;
        let n_ways = |world: &World| -> Result<usize> {
            let legs = world.loaded.plane.legs.entries()?;
            Ok(legs.iter().filter(|(key, _)| key.service & SERVICE_WAY_THERE != 0).count())
        };
        let syn = up(&ends, second(&ends), OTHER_ISN).syn().options(&MSS);
        let ran = world.run(Program::Tc, &from_client(&syn))?;
        assert_eq!(ran.action, TC_REDIRECT);
        assert_ne!(port_in(&ends, &ran.frame), ends.client.port(), "it has a leg");
        assert_eq!(n_ways(&world)?, 0, "a SYN leaves no way");
        connect(&world, &ends, second(&ends), OTHER_ISN)?;
        assert_eq!(n_ways(&world)?, 1, "its acknowledgement does");
    }
    Ok(())
}

/// Without a port of its own it would be mistaken for the first one.
#[test]
fn where_no_leg_is_free_the_syn_of_the_second_flow_is_dropped() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        prepare(&mut world, &ends, Given::flow(ends.settled()))?;
        let plane = &mut world.loaded.plane;
        for attempt in 0..steer_common::legs::TRIES {
            let key = beside(&ends, second(&ends));
            let port = steer_common::legs::candidate(&key, CLIENT_ISN, attempt);
            let at = FlowKey {
                client_port: port,
                service: SERVICE_BACKEND | ends.first_id,
                ..ends.key()
            };
            let leg =
                steer_common::shared::Leg { port, service: ends.vip_id, ..Default::default() };
            plane.legs.insert(&at, &leg)?;
        }
        let syn = up(&ends, second(&ends), CLIENT_ISN).syn().options(&MSS);
        let ran = world.run(Program::Tc, &from_client(&syn))?;
        assert_eq!(ran.action, TC_DROP);
    }
    Ok(())
}

/// A flow that is over claims no port: the next one, by another VIP, has the usual key.
#[test]
fn the_port_of_a_flow_that_is_over_is_free_for_another_vip() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let over = Flow { flags: ends.settled().flags | FLOW_RESET, ..ends.settled() };
        prepare(&mut world, &ends, Given::flow(over))?;
        let again = CLIENT_ISN + 0x0100_0000;
        let port = connect(&world, &ends, second(&ends), again)?;
        assert_eq!(port, ends.client.port());
        talk(&world, &ends, second(&ends), again, port)?;
    }
    Ok(())
}

/// Of a flow whose record was evicted the trace says by which VIP its client came, to either side.
#[test]
fn a_flow_whose_record_was_evicted_goes_on_by_its_vip_whoever_speaks_next() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        for vip in vips(&ends) {
            for by_client in [false, true] {
                prepare(&mut world, &ends, Given::nothing())?;
                let port = connect(&world, &ends, vip, CLIENT_ISN)?;
                world.loaded.plane.flows.remove(&ends.key())?;
                world.loaded.plane.handshakes.remove(&ends.key())?;
                // Where no way to the client is known the packet itself is lost.
                let frame = if by_client {
                    from_client(&data(&ends, vip))
                } else {
                    from_backend(&answer(&ends))
                };
                world.run(Program::Tc, &frame)?;
                assert_eq!(world.flow(&ends)?.entrance(), number(&ends, vip));
                talk(&world, &ends, vip, CLIENT_ISN, port)?;
            }
        }
    }
    Ok(())
}

/// Two that have one port: either's record may go, and its trace or leg says whose it is.
#[test]
fn either_of_two_flows_from_one_port_outlives_its_record() -> Result<()> {
    const OTHER_ISN: u32 = CLIENT_ISN + 0x0100_0000;
    let mut world = World::new()?;
    for ends in families() {
        let [home, second] = vips(&ends);
        for gone in [ends.key(), beside(&ends, second)] {
            prepare(&mut world, &ends, Given::nothing())?;
            let own = connect(&world, &ends, home, CLIENT_ISN)?;
            let port = connect(&world, &ends, second, OTHER_ISN)?;
            world.loaded.plane.flows.remove(&gone)?;
            world.loaded.plane.handshakes.remove(&gone)?;
            talk(&world, &ends, second, OTHER_ISN, port)?;
            talk(&world, &ends, home, CLIENT_ISN, own)?;
            world.loaded.plane.flows.remove(&gone)?;
            // Its server speaks next; where no way to the client is known that packet is lost.
            let (isn, port) =
                if gone == ends.key() { (CLIENT_ISN, own) } else { (OTHER_ISN, port) };
            let said = ends.down(ends.first, after(FIRST_ISN)).ack(after(isn));
            let said = with_port(said.payload(b"said"), port, false);
            world.run(Program::Tc, &from_backend(&said))?;
            let flow = world.loaded.plane.flow(&gone)?.context("the flow is gone")?;
            let vip = if gone == ends.key() { home } else { second };
            assert_eq!(flow.entrance(), number(&ends, vip));
            talk(&world, &ends, vip, isn, port)?;
        }
    }
    Ok(())
}

/// The first one is over and forgotten, and of the second one no record is left either.
#[test]
fn the_second_flow_outlives_the_first_one_and_its_own_record() -> Result<()> {
    const OTHER_ISN: u32 = CLIENT_ISN + 0x0100_0000;
    let mut world = World::new()?;
    for ends in families() {
        let [home, second] = vips(&ends);
        prepare(&mut world, &ends, Given::nothing())?;
        connect(&world, &ends, home, CLIENT_ISN)?;
        let port = connect(&world, &ends, second, OTHER_ISN)?;
        for gone in [ends.key(), beside(&ends, second)] {
            world.loaded.plane.flows.remove(&gone)?;
            world.loaded.plane.handshakes.remove(&gone)?;
        }
        world.forget_flow_trace(&ends)?;
        talk(&world, &ends, second, OTHER_ISN, port)?;
    }
    Ok(())
}

/// What has no record to one VIP is not the flow's that the client has with another one.
#[test]
fn what_has_no_record_reaches_no_flow_of_another_vip() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        prepare(&mut world, &ends, Given::flow(ends.settled()))?;
        let before = world.record(&ends)?;
        let before = Flow { seen: 0, ..before };
        let stray = data(&ends, second(&ends));
        let ran = world.run(Program::Tc, &from_client(&stray))?;
        assert_eq!(ran.action, TC_DROP);
        assert_eq!(Flow { seen: 0, ..world.record(&ends)? }, before);
        // A reset, too.
        let ran = world.run(Program::Tc, &from_client(&stray.rst()))?;
        assert_eq!(ran.action, TC_DROP);
        assert_eq!(Flow { seen: 0, ..world.record(&ends)? }, before);
    }
    Ok(())
}

/// A connection to one VIP that is older than the gateway passes, whatever the client's port is used
/// for at another one.
#[test]
fn an_older_connection_to_one_vip_passes_beside_a_flow_of_another() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        prepare(&mut world, &ends, Given::nothing())?;
        let (now, plane) = (steer_user::clock::seconds(), &mut world.loaded.plane);
        let (_, entrance) = plane.entrances()?.pop().context("the second VIP")?;
        plane.set_entrance(u32::from(ENTRANCE), &Entrance { since: now, ..entrance })?;
        let record = plane.vip(&ends.served())?.context("the first VIP")?;
        plane.set_vip(&ends.served(), &record)?;
        let older = data(&ends, second(&ends));
        let passes = |world: &World| -> Result<()> {
            let ran = world.run(Program::Tc, &from_client(&older))?;
            assert_eq!((ran.action, ran.frame), (TC_NEXT, from_client(&older)));
            Ok(())
        };
        passes(&world)?;
        let port = connect(&world, &ends, ends.vip, CLIENT_ISN)?;
        talk(&world, &ends, ends.vip, CLIENT_ISN, port)?;
        // Known by now, it needs no doubt.
        let plane = &mut world.loaded.plane;
        plane.set_entrance(u32::from(ENTRANCE), &Entrance { since: 0, ..entrance })?;
        plane.set_vip(&ends.served(), &record)?;
        passes(&world)?;
        world.loaded.plane.foreign.remove_stale(|_, _| true)?;
    }
    Ok(())
}

/// Only a client's packet says which VIP it dialled.
#[test]
fn a_takeover_waits_for_the_client_to_say_which_vip_it_dialled() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        prepare(&mut world, &ends, Given::nothing())?;
        let settings = world.loaded.plane.settings()?;
        world.loaded.plane.set_settings(&Settings { takeover_until: u32::MAX / 2, ..settings })?;
        let before = world.loaded.plane.counter(Counter::EntranceUnknown)?;
        let ran = world.run(Program::Tc, &from_backend(&answer(&ends)))?;
        assert_eq!(ran.action, TC_DROP);
        assert_eq!(world.loaded.plane.counter(Counter::EntranceUnknown)? - before, 1);
        world.run(Program::Tc, &from_client(&data(&ends, second(&ends))))?;
        world.run(Program::Tc, &from_backend(&answer(&ends)))?;
        assert_eq!(world.flow(&ends)?.entrance(), ENTRANCE);
        talk(&world, &ends, second(&ends), CLIENT_ISN, ends.client.port())?;
        world.loaded.plane.set_settings(&settings)?;
    }
    Ok(())
}
