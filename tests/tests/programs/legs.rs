//! Connections of one client's port at one backend: the second one has another port there.

use anyhow::{Context, Result};
use steer_common::{
    counters::Counter,
    legs::candidate,
    shared::{FlowKey, LEG_CLIENT_ENDED, LEG_ENDED, Leg, SERVICE_BACKEND, SERVICE_WAY_THERE},
};
use steer_tests::{packets::Segment, programs::Program};

use crate::world::{
    CLIENT_ISN, Ends, FIRST_ISN, Given, TC_NEXT, TC_REDIRECT, World, families, from_backend,
    from_client, to_backend,
};

/// MSS 1460.
const MSS: [u8; 4] = [2, 4, 5, 180];

/// A SYN of the client's port to a backend itself.
fn direct(ends: &Ends) -> Segment {
    let mut segment = Segment { destination: ends.first, ..ends.up(77_000).syn().options(&MSS) };
    segment.tcp.destination_port = ends.first.port();
    segment
}

fn syn(ends: &Ends) -> Segment {
    ends.up(CLIENT_ISN).syn().options(&MSS)
}

/// The source port of a SYN of these tests.
fn port_in(frame: &[u8]) -> Result<u16> {
    let tcp = frame.len() - 20 - MSS.len();
    Ok(u16::from_be_bytes(frame[tcp..tcp + 2].try_into()?))
}

/// The client dials the backend itself, then the VIP from the same port.
fn both(world: &mut World, ends: &Ends) -> Result<Vec<u8>> {
    world.prepare(ends, &Given::nothing())?;
    let ran = world.run(Program::Tc, &from_client(&direct(ends)))?;
    assert_eq!(
        (ran.action, ran.frame),
        (TC_NEXT, from_client(&direct(ends))),
        "the direct SYN passes untouched"
    );
    let ran = world.run(Program::Tc, &from_client(&syn(ends)))?;
    assert_eq!(ran.action, TC_REDIRECT);
    Ok(ran.frame)
}

#[test]
fn the_vips_connection_has_another_port_where_a_direct_one_has_the_clients() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let left = both(&mut world, &ends)?;
        let mut expected = syn(&ends);
        let port = port_in(&left)?;
        assert!(port >= 1024 && port != ends.client.port(), "port {port}");
        expected.source.set_port(port);
        expected.tcp.source_port = port;
        assert!(left == to_backend(expected, ends.first), "only address and port changed");
    }
    Ok(())
}

/// Nobody's SYN is dropped: at a backend that takes it for the other connection's it is challenged,
/// as without steer.
#[test]
fn where_no_leg_is_free_the_syn_goes_with_its_own_port() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        world.prepare(&ends, &Given::nothing())?;
        fill(&mut world, &ends)?;
        let before = world.loaded.plane.counter(Counter::LegCollided)?;
        let left = both(&mut world, &ends)?;
        assert!(left == to_backend(syn(&ends), ends.first), "the SYN as it was");
        assert_eq!(world.loaded.plane.counter(Counter::LegCollided)? - before, 1);
    }
    Ok(())
}

/// A third of a backend's ports may be in use where all clients have one address: many in a row.
#[test]
fn many_ports_in_a_row_may_be_taken() -> Result<()> {
    const TAKEN: u32 = 14;
    let mut world = World::new()?;
    for ends in families() {
        world.prepare(&ends, &Given::nothing())?;
        let port = |number| candidate(&ends.key(), CLIENT_ISN, number);
        for client_port in (0..TAKEN).map(port) {
            let service = SERVICE_BACKEND | ends.first_id;
            let taken = FlowKey { service, client_port, ..ends.key() };
            world.loaded.plane.legs.insert(&taken, &Leg::default())?;
        }
        let left = both(&mut world, &ends)?;
        assert_eq!(port_in(&left)?, u16::from_be_bytes(port(TAKEN)));
    }
    Ok(())
}

/// Whoever forges a SYN to the backend itself, with the address and port of a client whose
/// handshake with the VIP is on its way, changes nothing of that: the forged one has another port
/// at the backend.
#[test]
fn a_forged_direct_syn_leaves_a_handshake_as_it_is() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let (client, told) = (CLIENT_ISN.wrapping_add(1), FIRST_ISN.wrapping_add(1));
        for forged_before_the_answer in [true, false] {
            world.prepare(&ends, &Given::nothing())?;
            world.run(Program::Tc, &from_client(&syn(&ends)))?;
            let answer =
                from_backend(&ends.down(ends.first, FIRST_ISN).syn().ack(client).options(&MSS));
            let mut steps = [answer, from_client(&direct(&ends))];
            if forged_before_the_answer {
                steps.reverse();
            }
            for frame in &steps {
                let ran = world.run(Program::Tc, frame)?;
                if *frame == from_client(&direct(&ends)) {
                    assert!(
                        ran.action == TC_REDIRECT && port_in(&ran.frame)? != ends.client.port(),
                        "{}",
                        ran.action
                    );
                }
            }
            for segment in
                [ends.up(client).ack(told), ends.up(client).ack(told).payload(b"no TLS, as it is")]
            {
                let ran = world.run(Program::Tc, &from_client(&segment))?;
                assert_eq!((ran.action, ran.frame), (TC_REDIRECT, to_backend(segment, ends.first)));
            }
        }
    }
    Ok(())
}

/// A direct connection with a leg gives it back once both sides ended it; another one on its port
/// has it anew.
#[test]
fn the_ends_of_a_direct_connection_are_noted_in_both_its_entries() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        // A connection to the VIP has the port, so that the direct one has a leg.
        world.prepare(&ends, &Given::flow(ends.settled()))?;
        let port = port_in(&world.run(Program::Tc, &from_client(&direct(&ends)))?.frame)?;
        let up = |segment: Segment| {
            let mut segment = Segment { destination: ends.first, ..segment };
            segment.tcp.destination_port = ends.first.port();
            from_client(&segment)
        };
        let down = |mut segment: Segment| {
            segment.destination.set_port(port);
            segment.tcp.destination_port = port;
            from_backend(&segment)
        };
        let fins = [
            (up(ends.up(77_001).ack(9).fin()), LEG_CLIENT_ENDED),
            (down(ends.down(ends.first, 9).ack(77_002)), LEG_CLIENT_ENDED),
            (down(ends.down(ends.first, 9).ack(77_002).fin()), LEG_ENDED),
            (up(ends.up(77_002).ack(10)), LEG_ENDED),
            (from_client(&direct(&ends)), 0),
            (down(ends.down(ends.first, 9).rst()), LEG_ENDED),
            (from_client(&direct(&ends)), 0),
            (up(ends.up(77_001).rst()), LEG_CLIENT_ENDED),
        ];
        for (step, (frame, wanted)) in fins.iter().enumerate() {
            world.run(Program::Tc, frame)?;
            let at_backend = FlowKey { service: SERVICE_BACKEND | ends.first_id, ..ends.key() };
            let back = FlowKey { client_port: port.to_be_bytes(), ..at_backend };
            let there = FlowKey { service: at_backend.service | SERVICE_WAY_THERE, ..at_backend };
            for key in [back, there] {
                let leg = world.loaded.plane.legs.find(&key)?.context("a leg")?;
                assert_eq!(leg.service & LEG_ENDED, *wanted, "step {step}, {}", ends.client);
            }
        }
        for key in [ends.key(), FlowKey { client_port: port.to_be_bytes(), ..ends.key() }] {
            for service in [SERVICE_BACKEND, SERVICE_BACKEND | SERVICE_WAY_THERE] {
                world
                    .loaded
                    .plane
                    .legs
                    .remove(&FlowKey { service: service | ends.first_id, ..key })?;
            }
        }
    }
    Ok(())
}

/// Legs of other clients, until none fits any more.
fn fill(world: &mut World, ends: &Ends) -> Result<()> {
    let legs = &mut world.loaded.plane.legs;
    let room = legs.max_entries()?;
    let other = |number: u32| {
        let backend = ends.owner_id + (number >> 16) as u16;
        let port = (number as u16).to_be_bytes();
        FlowKey { service: SERVICE_BACKEND | backend, client_port: port, ..ends.key() }
    };
    for number in 0..room {
        if legs.insert(&other(number), &Leg::default()).is_err() {
            break;
        }
    }
    let full = legs.insert(&other(room), &Leg::default());
    full.err().map(drop).context("the table is not full")
}
