//! Packets of flows and handshakes that no record fits: what vouches for whose they are.

use anyhow::Result;
use steer_common::{
    counters::Counter,
    flow::{State, StateWord},
    shared::{
        Backend, FLOW_CLIENT_FIN, FLOW_CLOSED, FLOW_LEARNED, FLOW_RESET, FLOW_SERVER_FIN,
        FLOW_UNCONFIRMED, Flow, Vip,
    },
};
use steer_tests::{packets::Segment, programs::Program};

use crate::world::{
    CLIENT_ISN, Case, Ends, FIRST_ISN, Given, Out, TC_DROP, TC_NEXT, TC_REDIRECT, World, families,
    family, from_backend, from_client, programs_seconds, to_backend, to_client,
};

/// MSS 1460.
const MSS: [u8; 4] = [2, 4, 5, 180];

/// A handshake, after which every table forgets the flow: only its trace is left.
fn forgotten(world: &mut World, ends: &Ends) -> Result<()> {
    world.prepare(ends, &Given::nothing())?;
    let (client, first) = (CLIENT_ISN.wrapping_add(1), FIRST_ISN.wrapping_add(1));
    for frame in [
        from_client(&ends.up(CLIENT_ISN).syn().options(&MSS)),
        from_backend(&ends.down(ends.first, FIRST_ISN).syn().ack(client).options(&MSS)),
        from_client(&ends.up(client).ack(first)),
    ] {
        world.run(Program::Tc, &frame)?;
    }
    // Where the lookup table leads nowhere, only the trace knows the flow.
    world.prepare(ends, &Given { empty_pool: true, ..Given::nothing() })
}

#[test]
fn what_is_left_of_a_flow_counts_only_while_its_backend_is_of_the_same_vip() -> Result<()> {
    let mut world = World::new()?;
    let [ends, other] = families();
    let id = u32::from(ends.first_id);
    for (what, vip_id, goes_on) in
        [("its own", ends.vip_id, true), ("another VIP's", other.vip_id, false)]
    {
        forgotten(&mut world, &ends)?;
        let backend =
            world.loaded.plane.backends()?.into_iter().find(|(at, _)| *at == id).map(|(_, b)| b);
        world.loaded.plane.set_backend(id, &Backend { vip_id, ..backend.unwrap_or_default() })?;
        let up =
            ends.up(CLIENT_ISN.wrapping_add(1)).ack(FIRST_ISN.wrapping_add(1)).payload(b"data");
        let ran = world.run(Program::Tc, &from_client(&up))?;
        let wanted = if goes_on {
            (TC_REDIRECT, to_backend(up, ends.first))
        } else {
            (TC_DROP, from_client(&up))
        };
        assert_eq!((ran.action, ran.frame), wanted, "{what}");
    }
    Ok(())
}

/// What is left of a flow is its client's to use, whoever sends a SYN or a reset in its name.
#[test]
fn nobody_who_forges_a_packet_takes_a_flow_from_its_trace() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let (client, first) = (CLIENT_ISN.wrapping_add(1), FIRST_ISN.wrapping_add(1));
        forgotten(&mut world, &ends)?;
        let forged = ends.up(77_000).syn().options(&MSS);
        let ran = world.run(Program::Tc, &from_client(&forged))?;
        assert_eq!(
            (ran.action, ran.frame),
            (TC_REDIRECT, to_backend(forged, ends.first)),
            "to the flow's backend"
        );
        for down in [
            ends.down(ends.first, first).ack(client),
            ends.down(ends.first, first).ack(client).payload(b"data"),
        ] {
            // The way to the client is not known here; it is not for the stack, and the flow is
            // known again.
            assert_ne!(
                world.run(Program::Tc, &from_backend(&down))?.action,
                TC_NEXT,
                "what the backend says next"
            );
        }
        assert_eq!(StateWord(world.flow(&ends)?.word).state(), State::First);

        forgotten(&mut world, &ends)?;
        let reset = ends.up(77_000).rst();
        let ran = world.run(Program::Tc, &from_client(&reset))?;
        assert_eq!(
            (ran.action, ran.frame),
            (TC_REDIRECT, to_backend(reset, ends.first)),
            "its backend judges a reset"
        );
        assert!(world.flow(&ends).is_err(), "which makes no record");
        for forged in [ends.up(77_000).ack(5), ends.up(77_000).rst(), ends.up(77_000).ack(5).fin()]
        {
            world.run(Program::Tc, &from_client(&forged))?;
        }
        let flags = world.flow(&ends)?.flags & (FLOW_RESET | FLOW_CLOSED | FLOW_CLIENT_FIN);
        assert_eq!(flags, 0, "ends at numbers that only they themselves told");
    }
    Ok(())
}

/// What a backend sends on a record that only its client's packet made says where both are; then
/// ends count.
#[test]
fn a_backend_confirms_the_numbers_of_a_record_that_its_client_made() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let (client, server) = (90_000_000, 80_000_000);
        let guessed = Flow {
            flags: FLOW_LEARNED | FLOW_UNCONFIRMED,
            client_next: 7,
            server_next: 9,
            ..ends.settled()
        };
        world.prepare(&ends, &Given::flow(guessed))?;
        // As it stands a second later.
        let older = world.flow(&ends)?;
        world.loaded.plane.flows.insert(&ends.key(), &Flow { seen: older.seen - 1, ..older })?;
        let down = ends.down(ends.first, server).ack(client).payload(b"data");
        assert_eq!(world.run(Program::Tc, &from_backend(&down))?.action, TC_REDIRECT);
        let told = world.flow(&ends)?;
        assert_eq!((told.client_next, told.server_next), (client, server + 4));
        assert_eq!(told.flags & FLOW_UNCONFIRMED, 0);
        world.run(Program::Tc, &from_client(&ends.up(client).ack(server + 4).fin()))?;
        assert_eq!(
            world.flow(&ends)?.flags & FLOW_CLIENT_FIN,
            FLOW_CLIENT_FIN,
            "an end counts now"
        );
    }
    Ok(())
}

/// A backend answers two SYNs of one port within a moment: an aborted connection and the next one,
/// or a forged one and the client's. Fast Open answers one by more than its number. What was opened
/// goes on as plain layer 4.
#[test]
fn what_a_backend_says_on_a_connection_that_another_syn_opened_is_its_clients() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let second = CLIENT_ISN.wrapping_add(0x2000_0000);
        let told = FIRST_ISN.wrapping_add(1 << 25);
        let syn = |isn| ends.up(isn).syn().options(&MSS);
        let syn_ack = |seq, ack| ends.down(ends.first, seq).syn().ack(ack).options(&MSS);
        let twice = [
            from_client(&syn(CLIENT_ISN)),
            from_backend(&syn_ack(FIRST_ISN, CLIENT_ISN.wrapping_add(1))),
            from_client(&syn(second)),
            from_backend(&syn_ack(told, second.wrapping_add(1))),
            from_client(&ends.up(second.wrapping_add(1)).ack(told.wrapping_add(1))),
        ];
        let data = b"in the SYN";
        let acknowledged = CLIENT_ISN.wrapping_add(1 + data.len() as u32);
        let fast = [
            from_client(&syn(CLIENT_ISN).payload(data)),
            from_backend(&syn_ack(told, acknowledged)),
            from_client(&ends.up(acknowledged).ack(told.wrapping_add(1))),
        ];
        for (what, frames, next) in [
            ("two SYNs", &twice[..], second.wrapping_add(1)),
            ("data in the SYN", &fast, acknowledged),
        ] {
            world.prepare(&ends, &Given::nothing())?;
            world.loaded.plane.handshakes.remove(&ends.key())?;
            for frame in frames {
                assert_ne!(world.run(Program::Tc, frame)?.action, TC_NEXT, "{what}: of the VIP");
            }
            let down = ends.down(ends.first, told.wrapping_add(1)).ack(next).payload(b"data");
            assert_ne!(
                world.run(Program::Tc, &from_backend(&down))?.action,
                TC_NEXT,
                "{what}: the backend's data"
            );
            assert_eq!(StateWord(world.flow(&ends)?.word).state(), State::First, "{what}");
        }
    }
    Ok(())
}

/// A flow that both sides ended may still have a window of data under way, and lost segments
/// repeated.
#[test]
fn what_is_repeated_far_behind_an_end_is_still_the_flows() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let (client, server) = (90_000_000, 80_000_000);
        let over = Flow {
            flags: FLOW_LEARNED | FLOW_CLIENT_FIN | FLOW_SERVER_FIN | FLOW_CLOSED,
            client_next: client,
            server_next: server,
            ..ends.settled()
        };
        let down = |seq, ack| ends.down(ends.first, seq).ack(ack).payload(b"once more");
        let case = |what, segment: Segment, is_its| Case {
            what,
            frame: from_backend(&segment),
            given: Given::flow(over),
            tc: if is_its { Out::Sent(to_client(segment, ends.vip)) } else { Out::Untouched },
            xdp: Out::Untouched,
            counts: None,
        };
        let cases = [
            case("at its end", down(server - 9, client), true),
            case("200 kB behind", down(server - 200_000, client), true),
            case(
                "behind, while the client's data is not acknowledged",
                down(server, client - 4_000_000),
                true,
            ),
            case("far ahead: another connection's", down(server + 10_000_000, client), false),
            case("acknowledges what was never sent", down(server, client + 10_000_000), false),
        ];
        world.judge(&ends, &cases)?;
    }
    Ok(())
}

/// A connection that is older than its VIP is noted, and lives for as long as its two ends say: a reset
/// at a number that neither of them expects ends nothing.
#[test]
fn a_reset_leaves_the_note_of_an_older_connection_as_it_is() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let own = |seq: u32| ends.up(seq).ack(99);
        for reset in [None, Some(from_client(&own(77).rst())), Some(from_client(&own(1).rst()))] {
            world.prepare(&ends, &Given::nothing())?;
            world.forget_flow_trace(&ends)?;
            world.loaded.plane.foreign.remove_stale(|_, _| true)?;
            let plane = &mut world.loaded.plane;
            let vip = plane.vip(&ends.served())?.expect("the VIP");
            let now = programs_seconds();
            plane.set_vip(&ends.served(), &Vip { since: now, ..vip })?;
            let data = from_client(&own(77).payload(b"older"));
            let frames = [Some(data.clone()), reset, Some(data)];
            for (at, frame) in frames.into_iter().flatten().enumerate() {
                let ran = world.run(Program::Tc, &frame)?;
                assert_eq!((ran.action, ran.frame), (TC_NEXT, frame), "{at}, {}", family(&ends));
                // From then on only its note tells that it is older.
                let since = now - 2 * vip.flow_timeout;
                world.loaded.plane.set_vip(&ends.served(), &Vip { since, ..vip })?;
            }
        }
    }
    Ok(())
}

/// A SYN with FIN, RST or ACK opens nothing: what is known of the client's handshake stays.
#[test]
fn a_syn_with_other_flags_leaves_a_handshake_as_it_is() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        world.prepare(&ends, &Given::handshake(ends.handshake()))?;
        for segment in [ends.up(9).syn().ack(9), ends.up(9).syn().fin(), ends.up(9).syn().rst()] {
            world.run(Program::Tc, &from_client(&segment))?;
            let known =
                world.loaded.plane.handshakes.find(&ends.key())?.map(|known| StateWord(known.word));
            assert_eq!(known, Some(StateWord::new(State::Syn, CLIENT_ISN)));
        }
    }
    Ok(())
}

/// Whatever reaches the VIP without a connection is adopted, and its backend's reset ends that:
/// nobody waits for it.
#[test]
fn what_a_backend_resets_is_not_taken_for_a_connection() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        world.prepare(&ends, &Given::nothing())?;
        world.loaded.plane.handshakes.remove(&ends.key())?;
        world.run(Program::Tc, &from_client(&ends.up(77).ack(99).payload(b"noise")))?;
        let adopted =
            || Ok::<_, anyhow::Error>(world.loaded.plane.handshakes.find(&ends.key())?.is_some());
        assert!(adopted()?, "adopted");
        let reset = ends.down(ends.first, 99).rst();
        assert_ne!(
            world.run(Program::Tc, &from_backend(&reset))?.action,
            TC_NEXT,
            "the client hears of it"
        );
        assert!(!adopted()?, "forgotten");
    }
    Ok(())
}

/// Gives the gateway a way to the clients of its own: what has no record goes by the forwarding
/// table.
fn by_route(world: &World) -> Result<()> {
    world.ns.ip("addr add 192.0.2.1/24 dev eth0\naddr add 2001:db8::1/64 dev eth0 nodad\n")?;
    world.ns.sysctl("ipv4/ip_forward", "1")?;
    world.ns.sysctl("ipv6/conf/all/forwarding", "1")?;
    let mac = "02:00:00:00:00:0c";
    world.ns.ip(&format!(
        "neigh add 192.0.2.7 lladdr {mac} dev eth0\nneigh add 2001:db8::7 lladdr {mac} dev eth0\n"
    ))?;
    Ok(())
}

/// Where handshakes are pushed out faster than clients complete them, nothing but what the lookup
/// table said once is left of a connection, and its backend has not spoken: both sides' packets go
/// on, whatever the tables forget next.
#[test]
fn what_was_adopted_outlives_its_handshakes_record() -> Result<()> {
    let mut world = World::new()?;
    by_route(&world)?;
    for ends in families() {
        world.prepare(&ends, &Given::nothing())?;
        world.loaded.plane.handshakes.remove(&ends.key())?;
        let up = ends.up(77).ack(99).payload(b"data");
        let down = ends.down(ends.first, 99).ack(81).payload(b"data");
        world.run(Program::Tc, &from_client(&up))?;
        let forgets = |world: &mut World| {
            world.prepare(&ends, &Given { empty_pool: true, ..Given::nothing() })
        };
        for what in ["once", "twice"] {
            forgets(&mut world)?;
            let ran = world.run(Program::Tc, &from_backend(&down))?;
            assert_eq!(ran.action, TC_REDIRECT, "the backend's answer, forgotten {what}");
            assert_eq!(
                ran.frame[14..],
                to_client(down.clone(), ends.vip)[14..],
                "the backend's answer, forgotten {what}"
            );
            forgets(&mut world)?;
            let ran = world.run(Program::Tc, &from_client(&up))?;
            assert_eq!(
                (ran.action, ran.frame),
                (TC_REDIRECT, to_backend(up.clone(), ends.first)),
                "the client's packet, forgotten {what}"
            );
        }
        // A connection that the client dials itself is not the VIP's.
        forgets(&mut world)?;
        let mut direct = Segment { destination: ends.first, ..ends.up(5).syn().options(&MSS) };
        direct.tcp.destination_port = ends.first.port();
        world.run(Program::Tc, &from_client(&direct))?;
        let ran = world.run(Program::Tc, &from_backend(&down))?;
        assert_eq!((ran.action, ran.frame), (TC_NEXT, from_backend(&down)), "its own connection's");
    }
    Ok(())
}

#[test]
fn packets_of_no_flow_go_where_the_lookup_table_says() -> Result<()> {
    let mut world = World::new()?;
    by_route(&world)?;
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
            case(
                "of the one that it names",
                from_backend(&down),
                Out::Untouched,
                Counter::BackendPassed,
            ),
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
        world.forget_trace(&ends)?;
        world.loaded.plane.set_settings(&steer_common::shared::Settings {
            takeover_until: steer_user::clock::seconds() + 60,
            ..settings
        })?;
        goes_to_the_client(&world, "in a takeover")?;
        world.loaded.plane.set_settings(&settings)?;
    }
    Ok(())
}
