//! Connections that end, or are given up, while others want their ports: what is kept until nobody
//! has to repeat anything, and who hears of it.

use anyhow::Result;
use steer_common::{
    counters::Counter,
    flow::{State, StateWord},
    shared::{Answers, BACKEND_PRESENT, FLOW_CLIENT_FIN, FLOW_HELLO, Flow, SWITCH_RESIZING},
    wire::tls::server_flight::Follow,
};
use steer_tests::{packets::Segment, programs::Program};

use crate::world::{
    CLIENT_ISN, Ends, FIRST_ISN, Given, OWNER_ISN, STAMPS, TC_NEXT, TC_REDIRECT, World, after,
    families, family, from_backend, from_client, programs_seconds, shapes, to_backend, to_client,
};

/// MSS 1460.
const MSS: [u8; 4] = [2, 4, 5, 180];

/// A re-homed flow, in both tables.
fn rehomed(world: &mut World, ends: &Ends) -> Result<()> {
    world.prepare(ends, &Given::flow(ends.spliced()))?;
    let record = world.flow(ends)?;
    world.loaded.plane.splices.insert(&ends.key(), &record)
}

/// The flow's last packet becomes a second older.
fn passes_a_second(world: &mut World, ends: &Ends) -> Result<()> {
    let flows = &mut world.loaded.plane.flows;
    let flow = flows.find(&ends.key())?.expect("a record");
    flows.insert(&ends.key(), &Flow { seen: flow.seen - 1, ..flow })
}

/// What was lost may be sent again until each side acknowledged the other's FIN, and the record in
/// `flows` may be pushed out before.
#[test]
fn a_splice_is_kept_until_both_sides_acknowledged_the_others_fin() -> Result<()> {
    let mut world = World::new()?;
    let evictions = [None, Some(0), Some(1), Some(3)];
    for (ends, evicted) in shapes().into_iter().flat_map(|ends| evictions.map(|at| (ends, at))) {
        let (client, first, owner) = (after(CLIENT_ISN), after(FIRST_ISN), after(OWNER_ISN));
        let steps = [
            (
                "the client's FIN",
                from_client(&ends.up(client).ack(first).fin().options(&STAMPS)),
                true,
            ),
            (
                "the owner's FIN, which acknowledges the client's",
                from_backend(&ends.down(ends.owner, owner).ack(client + 1).fin().options(&STAMPS)),
                true,
            ),
            (
                "a packet of somebody who does not know the numbers",
                from_client(&ends.up(client + 9).ack(first.wrapping_add(1 << 30)).options(&STAMPS)),
                true,
            ),
            (
                "the last acknowledgement",
                from_client(&ends.up(client + 1).ack(first + 1).options(&STAMPS)),
                false,
            ),
        ];
        rehomed(&mut world, &ends)?;
        for (at, (what, frame, kept)) in steps.into_iter().enumerate() {
            passes_a_second(&mut world, &ends)?;
            if evicted == Some(at) {
                world.loaded.plane.flows.remove(&ends.key())?;
            }
            world.run(Program::Tc, &frame)?;
            let splice = world.loaded.plane.splices.find(&ends.key())?;
            let case = format!("after {what}, {}, evicted before {evicted:?}", family(&ends));
            assert_eq!(splice.is_some(), kept, "{case}");
        }
        rehomed(&mut world, &ends)?;
        world.run(Program::Tc, &from_client(&ends.up(client).ack(first).rst()))?;
        assert!(world.loaded.plane.splices.find(&ends.key())?.is_none(), "a reset ends it at once");
    }
    Ok(())
}

/// What `flows` forgets is put back with the numbers of a second ago, however much was sent since the
/// flow was moved.
#[test]
fn a_splice_is_put_back_with_its_numbers_after_more_than_any_window() -> Result<()> {
    /// Less than the furthest that one segment may be ahead, bytes; two are more.
    const STEP: u32 = 12 << 20;
    let mut world = World::new()?;
    for ends in shapes() {
        let (first, owner) = (after(FIRST_ISN), after(OWNER_ISN));
        rehomed(&mut world, &ends)?;
        // Something is still learned from it, so that the cache of settled flows does not have it.
        let flow = world.flow(&ends)?;
        world.loaded.plane.flows.insert(&ends.key(), &Flow { flags: 0, ..flow })?;
        let mut sent = after(CLIENT_ISN);
        for _ in 0..5 {
            passes_a_second(&mut world, &ends)?;
            sent = sent.wrapping_add(STEP);
            world.run(Program::Tc, &from_client(&ends.up(sent).ack(first).options(&STAMPS)))?;
        }
        world.loaded.plane.flows.remove(&ends.key())?;
        let segment = ends.down(ends.owner, owner).ack(sent).options(&STAMPS);
        world.run(Program::Tc, &from_backend(&segment))?;
        let flow = world.flow(&ends)?;
        assert_eq!(flow.client_next, sent, "{}", family(&ends));
        world.run(Program::Tc, &from_client(&ends.up(sent).ack(first).fin().options(&STAMPS)))?;
        let flags = world.flow(&ends)?.flags;
        assert!(flags & FLOW_CLIENT_FIN != 0, "its end is known, {}: {flags:#x}", family(&ends));
    }
    Ok(())
}

/// A gateway that carried a flow once, and to which it comes back from another one: its own record is
/// too old, and what the other one told stands in `splices`.
#[test]
fn what_another_gateway_carried_meanwhile_goes_on_where_the_own_record_is_too_old() -> Result<()> {
    /// Longer than `flow_timeout`, seconds.
    const LONG: u32 = 9000;
    let mut world = World::new()?;
    for ends in shapes() {
        let (client, first) = (after(CLIENT_ISN), after(FIRST_ISN));
        let frame = from_client(&ends.up(client).ack(first).options(&STAMPS));
        for (told, goes_on) in [(0, true), (LONG, false)] {
            rehomed(&mut world, &ends)?;
            let plane = &mut world.loaded.plane;
            let flow = plane.flows.find(&ends.key())?.expect("a record");
            let old = Flow { seen: flow.seen.wrapping_sub(LONG), ..flow };
            plane.flows.insert(&ends.key(), &old)?;
            let splice = Flow { seen: flow.seen.wrapping_sub(told), ..flow };
            plane.splices.insert(&ends.key(), &splice)?;
            let before = world.loaded.plane.counter(Counter::Spliced)?;
            world.run(Program::Tc, &frame)?;
            let plane = &world.loaded.plane;
            let forwarded = plane.counter(Counter::Spliced)? - before;
            assert_eq!(forwarded, u64::from(goes_on), "{}", family(&ends));
            assert_eq!(plane.splices.find(&ends.key())?.is_some(), goes_on, "{}", family(&ends));
        }
    }
    Ok(())
}

/// Where an agent died while it changed the size of `flows`, the programs of the interfaces may have
/// two of them: a flow that waits in one goes on by what the other side's programs made of it.
#[test]
fn a_flow_that_waits_in_one_table_goes_on_as_the_programs_with_the_other_one_have_it() -> Result<()>
{
    let mut world = World::new()?;
    for ends in shapes() {
        let (client, first) = (after(CLIENT_ISN), after(FIRST_ISN));
        let spliced = ends.spliced();
        let waiting = Flow { word: StateWord::new(State::Wait, CLIENT_ISN).0, ..spliced };
        let another = Flow { word: StateWord::new(State::Spliced, CLIENT_ISN ^ 1).0, ..spliced };
        let from_client = from_client(&ends.up(client).ack(first).options(&STAMPS));
        let from_first = from_backend(&ends.down(ends.first, first).ack(client).payload(b"first"));
        for (what, kept, resizing, of_client, of_first) in [
            ("the owner has it", Some(spliced), true, Some(State::Spliced), Some(State::Spliced)),
            ("no table is another", Some(spliced), false, None, None),
            ("it waits there, too", Some(waiting), true, None, None),
            ("another connection", Some(another), true, None, None),
            ("it was given up", None, true, Some(State::First), Some(State::First)),
        ] {
            for (frame, now) in [(&from_client, of_client), (&from_first, of_first)] {
                world.prepare(&ends, &Given::flow(waiting))?;
                let plane = &mut world.loaded.plane;
                if let Some(kept) = kept {
                    let seen = plane.flows.find(&ends.key())?.expect("a record").seen;
                    plane.splices.insert(&ends.key(), &Flow { seen, ..kept })?;
                }
                plane.set_switch(SWITCH_RESIZING, resizing)?;
                let dropped = world.loaded.plane.counter(Counter::WaitDropped)?;
                world.run(Program::Tc, frame)?;
                let plane = &mut world.loaded.plane;
                plane.set_switch(SWITCH_RESIZING, false)?;
                let state = StateWord(world.flow(&ends)?.word).state();
                assert_eq!(state, now.unwrap_or(State::Wait), "{what}, {}", family(&ends));
                let dropped = world.loaded.plane.counter(Counter::WaitDropped)? - dropped;
                assert_eq!(dropped, u64::from(now.is_none()), "{what}, {}", family(&ends));
            }
        }
    }
    Ok(())
}

/// While tables get another size the programs of the interfaces may have different ones, for a moment:
/// what begins waits, and so does what is still read of a handshake, for half of what it teaches would
/// stand in each. All else goes on.
#[test]
fn while_tables_are_filled_what_begins_or_is_read_waits_and_all_else_goes_on() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let (client, first) = (after(CLIENT_ISN), after(FIRST_ISN));
        let up = || ends.up(client).ack(first).options(&STAMPS);
        let down = || ends.down(ends.first, first).ack(client).options(&STAMPS);
        let (data, told) =
            (from_client(&up().payload(b"up")), from_backend(&down().payload(b"down")));
        let read = Flow { flags: FLOW_HELLO, ..ends.settled() };
        let other = Flow { flags: 0, ..ends.settled() };
        for (what, flow, frame, waits) in [
            ("a client's data", ends.settled(), &data, false),
            ("a backend's data", ends.settled(), &told, false),
            ("a client's data in a handshake", read, &data, true),
            ("a backend's data in a handshake", read, &told, true),
            ("a client's data in what is no TLS", other, &data, false),
            ("a backend's data in what is no TLS", other, &told, false),
            ("a reset in a handshake", read, &from_client(&up().rst()), false),
            ("a hello", ends.established(), &data, true),
        ] {
            for filling in [true, false] {
                world.prepare(&ends, &Given::flow(flow))?;
                let until = if filling { programs_seconds() + 5 } else { 0 };
                world.loaded.plane.set_switch_number(SWITCH_RESIZING, until)?;
                let before = world.loaded.plane.counter(Counter::TablesFilling)?;
                world.run(Program::Tc, frame)?;
                world.loaded.plane.set_switch_number(SWITCH_RESIZING, 0)?;
                let dropped = world.loaded.plane.counter(Counter::TablesFilling)? - before;
                assert_eq!(dropped, u64::from(waits && filling), "{what}, {}", family(&ends));
            }
        }
    }
    Ok(())
}

/// Whose hello was moved waits for a word of its owner, whichever; a client that resets waits for
/// nothing.
#[test]
fn an_owner_answers_by_its_first_word_or_its_end_and_a_client_that_resets_waits_for_none()
-> Result<()> {
    let mut world = World::new()?;
    let answers = |answered, withdrawn| Answers { answered, withdrawn };
    for ends in shapes() {
        let (client, first, owner) = (after(CLIENT_ISN), after(FIRST_ISN), after(OWNER_ISN));
        let up = || ends.up(client).ack(first).options(&STAMPS);
        let down = |seq| ends.down(ends.owner, seq).ack(client);
        let alert = from_backend(&down(owner).payload(&[0x15, 3, 3, 0, 2, 2, 40]));
        let behind_it = from_client(&ends.up(client).ack(first + 7).rst());
        let reset = from_client(&ends.up(client).ack(first).rst());
        // The beginning of a ServerHello, which its kernel repeats whatever its process does.
        let begun = from_backend(&down(owner).payload(&[0x16, 3, 3, 0, 74, 2, 0, 0, 70]));
        for (what, frames, told) in [
            ("an acknowledgement", vec![from_backend(&down(owner))], answers(0, 0)),
            ("an alert", vec![alert.clone()], answers(1, 0)),
            ("a word, again and again", vec![begun.clone(), begun.clone(), begun], answers(1, 0)),
            ("and a reset behind it", vec![alert, behind_it], answers(1, 0)),
            ("the owner's FIN", vec![from_backend(&down(owner).fin())], answers(1, 0)),
            ("its reset", vec![from_backend(&down(owner).rst())], answers(1, 0)),
            ("the client's FIN", vec![from_client(&up().fin())], answers(0, 0)),
            ("its reset, twice", vec![reset.clone(), reset], answers(0, 1)),
        ] {
            let flow = Flow { flags: 0, follow: Follow::new(owner), ..ends.spliced() };
            world.prepare(&ends, &Given::flow(flow))?;
            let seen = world.loaded.plane.answers(ends.owner_id.into())?;
            frames.iter().try_for_each(|frame| world.run(Program::Tc, frame).map(drop))?;
            let now = world.loaded.plane.answers(ends.owner_id.into())?;
            let new = answers(now.answered - seen.answered, now.withdrawn - seen.withdrawn);
            assert_eq!(new, told, "{what}, {}", family(&ends));
        }
    }
    Ok(())
}

/// The last acknowledgement was lost, so that a trace is left of the VIP's flow: a connection that
/// the client dials itself from the same port is its own.
#[test]
fn a_direct_connection_takes_the_port_of_a_flow_that_both_sides_ended() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let (client, first) = (after(CLIENT_ISN), after(FIRST_ISN));
        let down = |seq| ends.down(ends.first, seq);
        world.prepare(&ends, &Given::nothing())?;
        for frame in [
            from_client(&ends.up(CLIENT_ISN).syn().options(&MSS)),
            from_backend(&down(FIRST_ISN).syn().ack(client).options(&MSS)),
            from_client(&ends.up(client).ack(first)),
            from_client(&ends.up(client).ack(first).fin()),
            from_backend(&down(first).ack(client + 1).fin()),
        ] {
            let ran = world.run(Program::Tc, &frame)?;
            assert_eq!(ran.action, TC_REDIRECT);
        }
        assert!(world.flow(&ends)?.closing(), "both ended it");
        let mut syn = Segment { destination: ends.first, ..ends.up(9).syn().options(&MSS) };
        syn.tcp.destination_port = ends.first.port();
        for frame in [
            from_client(&syn),
            from_backend(&down(5).syn().ack(10).options(&MSS)),
            from_backend(&down(6).ack(10).payload(b"hello")),
        ] {
            let ran = world.run(Program::Tc, &frame)?;
            assert_eq!((ran.action, ran.frame), (TC_NEXT, frame), "{}", family(&ends));
        }
    }
    Ok(())
}

/// The backend left its pool while its answer was on its way: the client may have it.
#[test]
fn a_backend_that_answered_keeps_its_handshake_where_it_leaves_the_pool() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let syn = ends.up(CLIENT_ISN).syn().options(&MSS);
        let answer = ends.down(ends.first, FIRST_ISN).syn().ack(after(CLIENT_ISN)).options(&MSS);
        for (answered, to) in [(true, ends.first), (false, ends.owner)] {
            world.prepare(&ends, &Given::nothing())?;
            world.run(Program::Tc, &from_client(&syn))?;
            if answered {
                world.run(Program::Tc, &from_backend(&answer))?;
            }
            let (id, plane) = (u32::from(ends.first_id), &mut world.loaded.plane);
            let backend = plane.backends()?.into_iter().find(|(at, _)| *at == id).map(|(_, b)| b);
            let mut gone = backend.unwrap_or_default();
            gone.flags = BACKEND_PRESENT;
            plane.set_backend(id, &gone)?;
            let slots = [ends.owner_id; steer_common::shared::LOOKUP_SLOTS as usize];
            let base = plane
                .vips()?
                .iter()
                .find(|(_, vip)| vip.id == ends.vip_id)
                .map(|(_, vip)| vip.lookup_base);
            plane.lookup.write(base.unwrap_or_default(), &slots)?;
            let ran = world.run(Program::Tc, &from_client(&syn))?;
            let first = [ends.first_id; steer_common::shared::LOOKUP_SLOTS as usize];
            world.loaded.plane.lookup.write(base.unwrap_or_default(), &first)?;
            assert_eq!(
                (ran.action, ran.frame),
                (TC_REDIRECT, to_backend(syn.clone(), to)),
                "answered: {answered}, {}",
                family(&ends)
            );
        }
    }
    Ok(())
}

/// A client that acknowledges what another backend answered must hear that its connection is none.
#[test]
fn a_backends_reset_of_a_connection_that_is_not_its_reaches_the_client_as_the_vips() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let reset = ends.down(ends.first, 4711).rst();
        for (direct, reaches) in [(false, true), (true, false)] {
            world.prepare(&ends, &Given::nothing())?;
            if direct {
                let mut syn = Segment { destination: ends.first, ..ends.up(9).syn().options(&MSS) };
                syn.tcp.destination_port = ends.first.port();
                world.run(Program::Tc, &from_client(&syn))?;
            }
            world.prepare(&ends, &Given::handshake(ends.handshake()))?;
            let ran = world.run(Program::Tc, &from_backend(&reset))?;
            let (action, frame) = if reaches {
                (TC_REDIRECT, to_client(reset.clone(), ends.vip))
            } else {
                (TC_NEXT, from_backend(&reset))
            };
            assert_eq!((ran.action, ran.frame), (action, frame), "a direct one: {direct}");
        }
    }
    Ok(())
}

/// The client gave the connection up, and dials again from its port while an owner is asked: its
/// old backend challenges the new SYN, and the client's reset ends the old connection.
#[test]
fn a_challenge_reaches_the_client_while_an_owner_is_asked_and_its_reset_the_backend() -> Result<()>
{
    let mut world = World::new()?;
    for ends in shapes() {
        let (client, first) = (after(CLIENT_ISN), after(FIRST_ISN));
        let waits = || Flow {
            word: StateWord::new(State::Wait, CLIENT_ISN).0,
            owner: ends.owner_id,
            ..ends.established()
        };
        let given = || Given { pending: Some(vec![0; 100]), ..Given::flow(waits()) };
        world.prepare(&ends, &given())?;
        let challenge = ends.down(ends.first, first).ack(client);
        let ran = world.run(Program::Tc, &from_backend(&challenge))?;
        assert_eq!(
            (ran.action, ran.frame),
            (TC_REDIRECT, to_client(challenge, ends.vip)),
            "{}",
            family(&ends)
        );
        // At the beginning, where the data ends, behind a FIN; and elsewhere.
        for (ahead, counted) in [(0, 1), (100, 1), (101, 1), (102, 0), (50, 0)] {
            world.prepare(&ends, &given())?;
            let before = world.loaded.plane.counter(Counter::WaitReset)?;
            world.run(Program::Tc, &from_client(&ends.up(client + ahead).rst()))?;
            let resets = world.loaded.plane.counter(Counter::WaitReset)? - before;
            assert_eq!(resets, counted, "{ahead} bytes ahead, {}", family(&ends));
        }
    }
    Ok(())
}
