//! Inline pools: what becomes of packets between clients and the backends that they dial
//! themselves, beside what all shapes have in common.

use anyhow::{Context as _, Result};
use steer_common::{
    counters::Counter,
    flow::{State, StateWord},
    shared::{
        BACKEND_PRESENT, Backend, BackendPath, ExemptKey, FLOW_RESET, Flow, SERVICE_BACKEND,
        SWITCH_LEAVE,
    },
};
use steer_tests::{
    ends::{Ends, inline},
    packets::Segment,
    programs::Program,
};

use crate::world::{
    CLIENT_ISN, Case, FIRST_ISN, Given, OWNER_ISN, Out, TC_NEXT, World, after, from_backend,
    from_client, to_backend, to_client,
};

/// MSS 1460.
const MSS: [u8; 4] = [2, 4, 5, 180];

fn syn(ends: &Ends) -> Segment {
    ends.up(CLIENT_ISN).syn().options(&MSS)
}

fn data(ends: &Ends) -> Segment {
    ends.up(after(CLIENT_ISN)).ack(after(FIRST_ISN)).payload(b"data")
}

fn answer(ends: &Ends) -> Segment {
    ends.down(ends.first, after(FIRST_ISN)).ack(after(CLIENT_ISN)).payload(b"answer")
}

/// The client's network of so many bits, of its address in the mapped form, is left alone.
fn exempt(ends: &Ends, bits: u32) -> ExemptKey {
    ExemptKey {
        prefix_len: 16 + bits,
        vip: ends.vip_id.to_be_bytes(),
        client: ends.key().client.octets(),
        ..ExemptKey::default()
    }
}

/// A connection that the gateway did not see begin is any router's.
#[test]
fn what_has_no_record_passes_untouched_in_both_directions() -> Result<()> {
    let mut world = World::new()?;
    for ends in inline() {
        let case = |what, frame, counts| Case {
            what,
            frame,
            given: Given::nothing(),
            tc: Out::Untouched,
            xdp: Out::Untouched,
            counts: Some(counts),
        };
        let cases = [
            case("from a client", from_client(&data(&ends)), Counter::ForeignPassed),
            case("from a backend", from_backend(&answer(&ends)), Counter::BackendPassed),
        ];
        world.judge(&ends, &cases)?;
    }
    Ok(())
}

#[test]
fn a_settled_flow_keeps_its_addresses() -> Result<()> {
    let mut world = World::new()?;
    for ends in inline() {
        let case = |what, frame, sent: Vec<u8>| Case {
            what,
            frame,
            given: Given::flow(ends.settled()),
            tc: Out::Sent(sent.clone()),
            xdp: Out::Sent(sent),
            counts: Some(Counter::Forwarded),
        };
        let (up, down) = (data(&ends), answer(&ends));
        let cases = [
            case("from a client", from_client(&up), to_backend(up, ends.first)),
            case("from a backend", from_backend(&down), to_client(down, ends.first)),
        ];
        world.judge(&ends, &cases)?;
    }
    Ok(())
}

/// The pool leaves some clients alone, such as the balancer's monitors; others of their network it
/// does not.
#[test]
fn connections_of_exempt_clients_pass_untouched() -> Result<()> {
    let mut world = World::new()?;
    for ends in inline() {
        for bits in [128, 104] {
            for own in [true, false] {
                world.prepare(&ends, &Given::nothing())?;
                let mut key = exempt(&ends, bits);
                if !own {
                    key.vip = [0, 99];
                }
                world.loaded.plane.add_exempt(&[key])?;
                let before = world.loaded.plane.counter(Counter::Exempt)?;
                let ran = world.run(Program::Tc, &from_client(&syn(&ends)))?;
                let passed = ran.action == TC_NEXT && ran.frame == from_client(&syn(&ends));
                assert_eq!(passed, own, "{bits} bits, the pool's own: {own}");
                let counted = world.loaded.plane.counter(Counter::Exempt)? - before;
                assert_eq!(counted, u64::from(own));
                world.loaded.plane.retain_exempt(|_| false)?;
            }
        }
    }
    Ok(())
}

/// A backend that left its pool keeps the flows that it has; new connections are not looked at.
#[test]
fn connections_to_a_backend_that_left_its_pool_pass_untouched() -> Result<()> {
    let mut world = World::new()?;
    for ends in inline() {
        for (given, kept) in [(Given::nothing(), false), (Given::flow(ends.settled()), true)] {
            world.prepare(&ends, &given)?;
            let id = u32::from(ends.first_id);
            let backends = world.loaded.plane.backends()?;
            let (_, backend) = backends.into_iter().find(|(at, _)| *at == id).context("it")?;
            let gone = Backend { flags: backend.flags & !BACKEND_PRESENT, ..backend };
            world.loaded.plane.set_backend(id, &gone)?;
            let (vip, served) = (ends.served(), ends.served());
            let record = world.loaded.plane.vip(&vip)?.context("the pool")?;
            world.loaded.plane.set_vip(&served, &record)?;
            let came = if kept { data(&ends) } else { syn(&ends) };
            let ran = world.run(Program::Tc, &from_client(&came))?;
            let wanted =
                if kept { to_backend(came.clone(), ends.first) } else { from_client(&came) };
            assert_eq!(ran.frame, wanted, "kept: {kept}");
        }
    }
    Ok(())
}

/// The owner's late packets are of nobody: its client's port may be another connection's by now.
#[test]
fn what_an_owner_sends_behind_the_end_of_a_moved_flow_is_dropped() -> Result<()> {
    let mut world = World::new()?;
    for ends in inline() {
        let over = Flow { flags: ends.spliced().flags | FLOW_RESET, ..ends.spliced() };
        world.prepare(&ends, &Given::flow(over))?;
        world.loaded.plane.flows.remove(&ends.key())?;
        let late = ends.down(ends.owner, after(OWNER_ISN)).ack(after(CLIENT_ISN)).payload(b"late");
        let before = world.loaded.plane.counter(Counter::LegOver)?;
        world.run(Program::Tc, &from_backend(&late))?;
        assert_eq!(world.loaded.plane.counter(Counter::LegOver)? - before, 1);
    }
    Ok(())
}

/// The stack may know a way that the forwarding table does not tell a program.
#[test]
fn a_flow_that_was_not_moved_is_left_to_the_stack_where_no_way_is_known() -> Result<()> {
    let mut world = World::new()?;
    for ends in inline() {
        world.prepare(&ends, &Given::flow(ends.settled()))?;
        let id = u32::from(ends.first_id);
        world.loaded.plane.set_backend_path(id, &BackendPath::default())?;
        let before = world.loaded.plane.counter(Counter::LeftToStack)?;
        let ran = world.run(Program::Tc, &from_client(&data(&ends)))?;
        assert_eq!((ran.action, ran.frame), (TC_NEXT, from_client(&data(&ends))));
        assert_eq!(world.loaded.plane.counter(Counter::LeftToStack)? - before, 1);
    }
    Ok(())
}

/// A client's second connection to a backend, from a port that a moved flow has there.
#[test]
fn a_syn_to_a_port_that_a_moved_flow_has_gets_another_one_and_so_do_its_answers() -> Result<()> {
    let mut world = World::new()?;
    for ends in inline() {
        world.prepare(&ends, &Given::flow(ends.spliced()))?;
        let mut came = Segment { destination: ends.owner, ..syn(&ends) };
        came.tcp.destination_port = ends.owner.port();
        let ran = world.run(Program::Tc, &from_client(&came))?;
        let at = if ends.client.is_ipv4() { 34 } else { 54 };
        let port = u16::from_be_bytes([ran.frame[at], ran.frame[at + 1]]);
        assert!(port != ends.client.port(), "another port");
        let mut left = came.clone();
        left.source.set_port(port);
        left.tcp.source_port = port;
        assert_eq!(ran.frame, to_backend(left, ends.owner), "only the port changed");
        // The backend's answer to that port is the second connection's, the one to the client's own
        // is the moved flow's.
        let mut syn_ack = ends.down(ends.owner, 5).syn().ack(after(CLIENT_ISN)).options(&MSS);
        syn_ack.destination.set_port(port);
        syn_ack.tcp.destination_port = port;
        let ran = world.run(Program::Tc, &from_backend(&syn_ack))?;
        syn_ack.destination.set_port(ends.client.port());
        syn_ack.tcp.destination_port = ends.client.port();
        assert_eq!(ran.frame, to_client(syn_ack, ends.owner), "as the backend that was dialled");
        let moved =
            ends.down(ends.owner, after(OWNER_ISN)).ack(after(CLIENT_ISN)).payload(b"moved");
        let ran = world.run(Program::Tc, &from_backend(&moved))?;
        let source = if ends.client.is_ipv4() { 26..30 } else { 22..38 };
        let shown = to_client(moved, ends.first);
        assert_eq!(ran.frame[source.clone()], shown[source], "as the backend that it dialled");
        let second = world.loaded.plane.handshakes.find(&steer_common::shared::FlowKey {
            service: SERVICE_BACKEND | ends.owner_id,
            ..ends.key()
        })?;
        assert_eq!(second.context("a handshake")?.first_port, port.to_be_bytes());
    }
    Ok(())
}

/// The client reconnects from the same port, to the backend that a moved flow dialled, and the moved
/// flow's owner takes the SYN: its answer is the new connection's.
#[test]
fn the_owners_answer_to_the_next_connection_from_a_moved_flows_port_reaches_the_client()
-> Result<()> {
    let mut world = World::new()?;
    for ends in inline() {
        let over = Flow { flags: ends.spliced().flags | FLOW_RESET, ..ends.spliced() };
        let again = CLIENT_ISN.wrapping_add(0x0100_0000);
        let handshake = Flow {
            word: StateWord::new(State::Syn, again).0,
            first: ends.owner_id,
            owner: ends.owner_id,
            ..ends.handshake()
        };
        let given = Given { handshake: Some(handshake), ..Given::flow(over) };
        world.prepare(&ends, &given)?;
        let before = world.loaded.plane.counter(Counter::LegOver)?;
        let syn_ack = ends.down(ends.owner, 5).syn().ack(again.wrapping_add(1)).options(&MSS);
        let ran = world.run(Program::Tc, &from_backend(&syn_ack))?;
        assert_eq!(world.loaded.plane.counter(Counter::LegOver)?, before);
        assert_eq!(ran.frame, to_client(syn_ack, ends.first), "as the backend that was dialled");
    }
    Ok(())
}

/// What passes untouched must not come where another flow has the port: not while the gateway is
/// being left, nor for a client that is exempt.
#[test]
fn a_syn_to_a_port_that_a_moved_flow_has_never_passes_untranslated() -> Result<()> {
    let mut world = World::new()?;
    for ends in inline() {
        for leaving in [false, true] {
            world.prepare(&ends, &Given::flow(ends.spliced()))?;
            world.loaded.plane.set_switch(SWITCH_LEAVE, leaving)?;
            world.loaded.plane.add_exempt(&[exempt(&ends, 128)])?;
            let mut came = Segment { destination: ends.owner, ..syn(&ends) };
            came.tcp.destination_port = ends.owner.port();
            let ran = world.run(Program::Tc, &from_client(&came))?;
            let at = if ends.client.is_ipv4() { 34 } else { 54 };
            let port = u16::from_be_bytes([ran.frame[at], ran.frame[at + 1]]);
            assert!(port != ends.client.port(), "another port; leaving: {leaving}");
            world.loaded.plane.set_switch(SWITCH_LEAVE, false)?;
            world.loaded.plane.retain_exempt(|_| false)?;
        }
    }
    Ok(())
}

/// A closed flow's record says nothing of the connection that passes on its ports.
#[test]
fn what_an_exempt_client_says_on_the_ports_of_a_closed_flow_is_its_own() -> Result<()> {
    let mut world = World::new()?;
    for ends in inline() {
        let over = Flow { flags: ends.spliced().flags | FLOW_RESET, ..ends.spliced() };
        world.prepare(&ends, &Given::flow(over))?;
        world.loaded.plane.add_exempt(&[exempt(&ends, 128)])?;
        for came in [syn(&ends), data(&ends)] {
            let ran = world.run(Program::Tc, &from_client(&came))?;
            assert_eq!((ran.action, ran.frame), (TC_NEXT, from_client(&came)));
        }
        world.loaded.plane.retain_exempt(|_| false)?;
    }
    Ok(())
}
