//! The cache of settled flows: who goes by it, and who takes back what it was lent.

use anyhow::{Context as _, Result};
use steer_common::{
    counters::Counter,
    fast::{BEHIND, LIFE, OLD},
    shared::{
        Backend, FLOW_CLIENT_FIN, FLOW_CLOSED, FLOW_LEARNED, FLOW_RIVALLED, FLOW_UNCONFIRMED,
        FastSlot, Flow, FlowKey, Hop, HopSlot, Vip,
    },
};
use steer_tests::{
    ends::GATE_MAC,
    packets::{Segment, judge_checksums},
    programs::Program,
};
use steer_user::config::Sizes;

use crate::world::{
    CLIENT_ISN, Ends, FIRST_ISN, Given, TC_REDIRECT, World, XDP_PASS, XDP_REDIRECT, families,
    family, from_backend, from_client, shapes, to_backend, to_client,
};

const HOOKS: [(Program, i32); 2] = [(Program::Tc, TC_REDIRECT), (Program::Xdp, XDP_REDIRECT)];

/// What the client says first, and says next.
fn says(ends: &Ends, flow: &Flow, text: &'static [u8]) -> Segment {
    let acknowledged = flow.server_next.wrapping_add(flow.translation().delta);
    ends.up(flow.client_next).ack(acknowledged).payload(text)
}

/// What the flow's backend says next.
fn answers(ends: &Ends, flow: &Flow, text: &'static [u8]) -> Segment {
    let backend = if flow.holder() == ends.owner_id { ends.owner } else { ends.first };
    ends.down(backend, flow.server_next).ack(flow.client_next).payload(text)
}

/// A world in which the flow has a slot.
fn entered(
    world: &mut World,
    program: Program,
    ends: &Ends,
    flow: Flow,
) -> Result<(u32, FastSlot)> {
    world.prepare_for(program, ends, &Given::flow(flow))?;
    let before = world.loaded.plane.counter(Counter::FastEntered)?;
    world.run(program, &from_client(&says(ends, &flow, b"hello")))?;
    assert_eq!(world.loaded.plane.counter(Counter::FastEntered)?, before + 1);
    world.slot(ends)?.with_context(|| format!("{program:?}, {}: no slot", family(ends)))
}

#[test]
fn packets_of_a_settled_flow_leave_by_its_slot_as_they_do_by_its_record() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        for flow in [ends.settled(), ends.spliced()] {
            for (program, redirect) in HOOKS {
                let frames = |world: &World| -> Result<Vec<_>> {
                    let flow = world.flow(&ends)?;
                    let both = [
                        from_client(&says(&ends, &flow, b"more")),
                        from_backend(&answers(&ends, &flow, b"answer")),
                    ];
                    both.into_iter().map(|frame| world.run(program, &frame)).collect()
                };
                entered(&mut world, program, &ends, flow)?;
                let record = world.flow(&ends)?;
                // Nobody but the slot knows the flow now.
                world.loaded.plane.flows.remove(&ends.key())?;
                world.loaded.plane.flows.insert(&ends.key(), &Flow::default())?;
                let (_, slot) = world.slot(&ends)?.context("a slot")?;
                let both = [
                    from_client(&says(&ends, &record, b"more")),
                    from_backend(&answers(&ends, &record, b"answer")),
                ];
                let fast = both.iter().map(|frame| world.run(program, frame));
                let fast = fast.collect::<Result<Vec<_>>>()?;
                let (_, after) = world.slot(&ends)?.context("a slot")?;
                assert_eq!(after.client_next, slot.client_next.wrapping_add(4));
                assert_eq!(after.server_next, slot.server_next.wrapping_add(6));
                // The same by the record alone.
                world.prepare_for(program, &ends, &Given::flow(flow))?;
                world.run(program, &from_client(&says(&ends, &flow, b"hello")))?;
                let (at, _) = world.slot(&ends)?.context("a slot")?;
                let kept = world.flow(&ends)?;
                world.set_slot(at, FastSlot::default())?;
                world.loaded.plane.flows.insert(&ends.key(), &kept)?;
                let slow = frames(&world)?;
                for (fast, slow) in fast.iter().zip(&slow) {
                    let what = format!("{program:?}, {}", family(&ends));
                    assert_eq!(fast.action, redirect, "{what}");
                    assert_eq!(fast.frame, slow.frame, "{what}");
                    judge_checksums(&fast.frame)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn whoever_looks_at_the_record_takes_the_numbers_back() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        for (program, _) in HOOKS {
            entered(&mut world, program, &ends, ends.settled())?;
            for _ in 0..3 {
                let flow = world.flow(&ends)?;
                world.run(program, &from_client(&says(&ends, &flow, b"data")))?;
                world.run(program, &from_backend(&answers(&ends, &flow, b"answer")))?;
            }
            let lent = world.flow(&ends)?;
            assert_ne!(world.record(&ends)?.client_next, lent.client_next);
            let mut fin = says(&ends, &lent, b"");
            fin.tcp.fin = true;
            world.run(Program::Tc, &from_client(&fin))?;
            let record = world.record(&ends)?;
            assert_eq!(world.slot(&ends)?, None);
            assert_eq!(record.client_next, lent.client_next.wrapping_add(1));
            assert_eq!(record.server_next, lent.server_next);
            assert_eq!(record.flags & FLOW_CLIENT_FIN, FLOW_CLIENT_FIN, "the end was not seen");
        }
    }
    Ok(())
}

/// What a slot may not be used for: its flow's record is asked then.
#[test]
fn a_slot_that_is_written_old_or_of_something_else_is_not_used() -> Result<()> {
    type Spoil = fn(&mut FastSlot, &mut HopSlot);
    const SPOILED: [(&str, Spoil); 6] = [
        ("being written", |slot, _| slot.version += 1),
        ("old", |slot, _| slot.entered -= LIFE + 2),
        ("empty", |slot, _| slot.entered = 0),
        ("another client's", |slot, _| slot.key.client_port = [0, 1]),
        ("another VIP's", |slot, _| slot.key.service += 1),
        ("of a hop that gave its place to another one", |_, hop| hop.version += 2),
    ];
    let mut world = World::new()?;
    for ends in shapes() {
        for (program, redirect) in HOOKS {
            for (what, spoil) in SPOILED {
                let (at, mut slot) = entered(&mut world, program, &ends, ends.settled())?;
                let mut hop = world.hop(slot.hop)?;
                let record = world.flow(&ends)?;
                // Who goes by the slot goes to the owner.
                slot.holder = ends.owner_id;
                spoil(&mut slot, &mut hop);
                world.set_hop(slot.hop, hop)?;
                world.set_slot(at, slot)?;
                let more = says(&ends, &record, b"more");
                let ran = world.run(program, &from_client(&more))?;
                assert_eq!(ran.action, redirect, "{what}");
                assert_eq!(ran.frame, to_backend(more, ends.first), "{what}, {program:?}");
            }
        }
    }
    Ok(())
}

/// A client whose router changes, or whoever knows no number of the flow.
#[test]
fn a_clients_packet_that_comes_another_way_or_says_no_exact_number_goes_by_the_record() -> Result<()>
{
    const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0d];
    let mut world = World::new()?;
    for ends in shapes() {
        entered(&mut world, Program::Tc, &ends, ends.settled())?;
        let flow = world.flow(&ends)?;
        let more = says(&ends, &flow, b"more");
        world.run(Program::Tc, &more.frame(OTHER_MAC, GATE_MAC, &[])?)?;
        let hop = world.record(&ends)?.client_hop;
        assert_eq!(hop.ethernet[..6], OTHER_MAC, "the way back was not followed");
        let flow = world.flow(&ends)?;
        let answer = world.run(Program::Tc, &from_backend(&answers(&ends, &flow, b"answer")))?;
        assert_eq!(answer.frame[..6], OTHER_MAC);

        let (_, before) = entered(&mut world, Program::Tc, &ends, ends.settled())?;
        let flow = world.flow(&ends)?;
        let elsewhere = ends.up(flow.client_next ^ 0x4000_0000).ack(flow.server_next ^ 0x4000_0000);
        let ran = world.run(Program::Tc, &from_client(&elsewhere.clone().payload(b"?")))?;
        assert_eq!(ran.frame, to_backend(elsewhere.payload(b"?"), ends.first));
        assert_eq!(world.slot(&ends)?, None, "it went by the slot");
        assert_eq!(world.record(&ends)?.client_next, before.client_next);
    }
    Ok(())
}

/// What says nothing new may show that the way to its client is another one by now, which the record
/// knows how to find out; not so while the client is heard.
#[test]
fn what_says_nothing_new_to_a_client_that_is_quiet_goes_by_the_record() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        for (program, redirect) in HOOKS {
            for quiet in [false, true] {
                let (at, slot) = entered(&mut world, program, &ends, ends.settled())?;
                let flow = world.flow(&ends)?;
                if quiet {
                    world.set_slot(at, FastSlot { heard: slot.heard - 3, ..slot })?;
                }
                let nothing = from_backend(&answers(&ends, &flow, b""));
                assert_eq!(world.run(program, &nothing)?.action, redirect);
                let what = format!("{program:?}, {}, quiet: {quiet}", family(&ends));
                assert_eq!(world.slot(&ends)?.is_none(), quiet, "{what}");
            }
        }
    }
    Ok(())
}

/// What was found out while the flow was lent: its record does not ask once more.
#[test]
fn the_record_gets_back_what_became_of_the_clients_hop() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let (_, slot) = entered(&mut world, Program::Tc, &ends, ends.settled())?;
        let mut hop = world.hop(slot.hop)?;
        hop.hop.mtu = 1400;
        world.set_hop(slot.hop, hop)?;
        let mut record = world.record(&ends)?;
        record.client_hop.asked -= 5;
        world.loaded.plane.flows.insert(&ends.key(), &record)?;
        let mut fin = says(&ends, &world.flow(&ends)?, b"");
        fin.tcp.fin = true;
        world.run(Program::Tc, &from_client(&fin))?;
        let known = world.record(&ends)?.client_hop;
        assert_eq!((known.mtu, known.asked), (1400, slot.heard));
    }
    Ok(())
}

/// XDP may not send to every hop. What it leaves to TC goes by the slot there, and either asks what
/// the hop takes by now.
#[test]
fn what_xdp_may_not_send_leaves_the_slot_and_hears_of_the_hop() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let (_, slot) = entered(&mut world, Program::Xdp, &ends, ends.settled())?;
        let hop = world.hop(slot.hop)?;
        let old = Hop { flags: 0, asked: hop.hop.asked - 9, ..hop.hop };
        world.set_hop(slot.hop, HopSlot { hop: old, ..hop })?;
        let answer = answers(&ends, &world.flow(&ends)?, b"answer");
        let ran = world.run(Program::Xdp, &from_backend(&answer))?;
        assert_eq!(ran.action, XDP_REDIRECT, "the interface takes such frames again");
        assert_eq!(world.hop(slot.hop)?.hop.flags, hop.hop.flags);
        // It does not, and was asked just now.
        let now = Hop { flags: 0, ..world.hop(slot.hop)?.hop };
        world.set_hop(slot.hop, HopSlot { hop: now, ..hop })?;
        let next = answers(&ends, &world.flow(&ends)?, b"next");
        let (_, before) = world.slot(&ends)?.context("a slot")?;
        assert_eq!(world.run(Program::Xdp, &from_backend(&next))?.action, XDP_PASS);
        let (_, after) = world.slot(&ends)?.context("the slot is still there")?;
        assert_eq!(after, before, "TC stamps what TC sends");
        world.run(Program::Tc, &from_backend(&next))?;
        let (_, after) = world.slot(&ends)?.context("the slot is still there")?;
        assert_eq!(after.server_next, before.server_next.wrapping_add(4));
    }
    Ok(())
}

/// The table of flows forgets who is not looked up: of a flow that it forgot the slot is soon given
/// back, and the next packet makes its record anew.
#[test]
fn a_flow_whose_record_was_pushed_out_is_put_back_while_its_trace_is_fresh() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        for (program, _) in HOOKS {
            let (at, slot) = entered(&mut world, program, &ends, ends.settled())?;
            let flow = world.flow(&ends)?;
            world.loaded.plane.flows.remove(&ends.key())?;
            world.set_slot(at, FastSlot { seen: slot.seen - 2, ..slot })?;
            let more = says(&ends, &flow, b"more");
            world.run(program, &from_client(&more))?;
            let (_, after) = world.slot(&ends)?.context("a slot")?;
            assert_eq!(after.entered, OLD, "{program:?}, {}", family(&ends));
        }
    }
    Ok(())
}

/// A backend's number was given to another pool's while the flow was lent and its record forgotten.
#[test]
fn a_backend_of_another_pool_is_not_the_flows_any_more() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        entered(&mut world, Program::Tc, &ends, ends.settled())?;
        let flow = world.flow(&ends)?;
        let id = u32::from(ends.first_id);
        let (_, other) =
            world.loaded.plane.backends()?.into_iter().find(|(at, _)| *at == id).context("it")?;
        world.loaded.plane.set_backend(id, &Backend { vip_id: 9, ..other })?;
        world.loaded.plane.flows.remove(&ends.key())?;
        world.run(Program::Tc, &from_client(&says(&ends, &flow, b"more")))?;
        assert_eq!(world.slot(&ends)?, None, "{}", family(&ends));
    }
    Ok(())
}

#[test]
fn numbers_that_moved_far_are_the_records_again() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let edge = BEHIND.wrapping_sub(8);
        let flow = Flow { client_next: edge.wrapping_sub(5), ..ends.settled() };
        let (_, slot) = entered(&mut world, Program::Tc, &ends, flow)?;
        assert_eq!(slot.client_next, edge);
        world
            .run(Program::Tc, &from_client(&says(&ends, &world.flow(&ends)?, b"over the edge")))?;
        let flow = world.flow(&ends)?;
        let last = says(&ends, &flow, b"x");
        let ran = world.run(Program::Tc, &from_client(&last))?;
        assert_eq!(ran.frame, to_backend(last, ends.first));
        assert_eq!(world.record(&ends)?.client_next, edge.wrapping_add(14));
    }
    Ok(())
}

/// The record was pushed out, and the slot is still there: the client's next connection is its own.
#[test]
fn a_new_connection_does_not_go_by_the_slot_of_the_one_before_on_its_ports() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let isn = CLIENT_ISN ^ 0x5000_0000;
        entered(&mut world, Program::Tc, &ends, ends.spliced())?;
        world.loaded.plane.flows.remove(&ends.key())?;
        world.loaded.plane.splices.remove(&ends.key())?;
        let run = |frame: &[u8]| world.run(Program::Tc, frame);
        let syn = ends.up(isn).syn().options(&[2, 4, 5, 180]);
        let first = FIRST_ISN ^ 0x5000_0000;
        let answer = ends.down(ends.first, first).syn().ack(isn.wrapping_add(1));
        let ack = ends.up(isn.wrapping_add(1)).ack(first.wrapping_add(1));
        run(&from_client(&syn))?;
        run(&from_backend(&answer.options(&[2, 4, 5, 180])))?;
        let ran = run(&from_client(&ack))?;
        assert_eq!(ran.frame, to_backend(ack, ends.first), "{}", family(&ends));
        assert_eq!(world.slot(&ends)?, None);
        let greeting = ends.down(ends.first, first.wrapping_add(1)).ack(isn.wrapping_add(1));
        let ran = run(&from_backend(&greeting.clone().payload(b"220")))?;
        assert_eq!(ran.frame, to_client(greeting.payload(b"220"), ends.vip));
    }
    Ok(())
}

#[test]
fn what_is_watched_or_would_age_is_not_entered() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        for flags in [
            0,
            FLOW_LEARNED | FLOW_CLOSED,
            FLOW_LEARNED | FLOW_RIVALLED,
            FLOW_LEARNED | FLOW_UNCONFIRMED,
        ] {
            let flow = Flow { flags, ..ends.settled() };
            world.prepare(&ends, &Given::flow(flow))?;
            world.run(Program::Tc, &from_client(&says(&ends, &flow, b"hello")))?;
            assert_eq!(world.slot(&ends)?, None, "{flags:#x}");
        }
        world.prepare(&ends, &Given::flow(ends.settled()))?;
        let plane = &mut world.loaded.plane;
        let vip = plane.vip(&ends.served())?.context("the VIP")?;
        plane.set_vip(&ends.served(), &Vip { flow_timeout: 60, ..vip })?;
        world.run(Program::Tc, &from_client(&says(&ends, &ends.settled(), b"hello")))?;
        assert_eq!(world.slot(&ends)?, None);
    }
    Ok(())
}

/// Its record was pushed out: what its slot knew is the splice's, from which the record is put back.
#[test]
fn a_splice_gets_the_numbers_of_its_flows_slot() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let flow = ends.spliced();
        entered(&mut world, Program::Tc, &ends, flow)?;
        let record = world.record(&ends)?;
        world.loaded.plane.splices.insert(&ends.key(), &record)?;
        world.run(Program::Tc, &from_client(&says(&ends, &world.flow(&ends)?, b"more")))?;
        let known = world.flow(&ends)?;
        world.loaded.plane.flows.remove(&ends.key())?;
        let mut fin = says(&ends, &known, b"");
        fin.tcp.fin = true;
        world.run(Program::Tc, &from_client(&fin))?;
        let record = world.record(&ends)?;
        assert_eq!(record.client_next, known.client_next.wrapping_add(1));
        assert_eq!(record.flags & FLOW_CLIENT_FIN, FLOW_CLIENT_FIN, "the end was not seen");
    }
    Ok(())
}

/// A backend's packets have another key than the client's then.
#[test]
fn a_flow_with_another_port_at_its_backend_is_not_entered() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let flow = Flow { first_port: [0x77, 7], ..ends.settled() };
        world.prepare(&ends, &Given::flow(flow))?;
        let ran = world.run(Program::Tc, &from_client(&says(&ends, &flow, b"hello")))?;
        assert_eq!(ran.action, TC_REDIRECT);
        assert_eq!(world.slot(&ends)?, None);
    }
    Ok(())
}

/// One pair of slots, and three flows: one of them goes by its record until a slot is old.
#[test]
fn a_flow_without_a_place_goes_by_its_record_and_takes_the_place_of_an_old_one() -> Result<()> {
    let sizes = Sizes {
        sessions: 64,
        flows: 1024,
        fast: 2,
        splices: 64,
        legs: 64,
        handshakes: 64,
        pending: 16,
    };
    let mut world = World::of(&sizes)?;
    let ends = shapes().into_iter().next().context("a family")?;
    world.prepare(&ends, &Given::flow(ends.settled()))?;
    let record = world.record(&ends)?;
    let others = [1u16, 2].map(|port| FlowKey { client_port: port.to_be_bytes(), ..ends.key() });
    let (now, ahead) = (record.seen, record.client_next.wrapping_add(77));
    for (at, key) in (0..).zip(others) {
        world.loaded.plane.flows.insert(&key, &record)?;
        let slot =
            FastSlot { entered: now, seen: now, key, client_next: ahead, ..FastSlot::default() };
        world.set_slot(at, slot)?;
    }
    let hello = says(&ends, &record, b"hello");
    let before = world.loaded.plane.counter(Counter::FastFull)?;
    let ran = world.run(Program::Tc, &from_client(&hello))?;
    assert_eq!(ran.frame, to_backend(hello.clone(), ends.first));
    assert_eq!(world.slot(&ends)?, None);
    assert_eq!(world.loaded.plane.counter(Counter::FastFull)?, before + 1);

    let (_, one) = world.slots()?[0];
    world.set_slot(0, FastSlot { entered: now - LIFE - 2, ..one })?;
    let ran = world.run(Program::Tc, &from_client(&hello))?;
    assert_eq!(ran.frame, to_backend(hello, ends.first));
    assert_eq!(world.slot(&ends)?.map(|(at, _)| at), Some(0));
    let given_back = world.loaded.plane.flows.find(&others[0])?.context("a record")?;
    assert_eq!(given_back.client_next, ahead, "what the old slot knew is lost");
    Ok(())
}

/// More hops than there is room for in one place: their flows go by their records.
#[test]
fn flows_of_more_hops_than_there_is_room_for_go_by_their_records() -> Result<()> {
    let mut world = World::new()?;
    let ends = shapes().into_iter().next().context("a family")?;
    let (_, slot) = entered(&mut world, Program::Tc, &ends, ends.settled())?;
    let own = world.hop(slot.hop)?;
    world.prepare(&ends, &Given::flow(ends.settled()))?;
    for at in 0..4 {
        let mut taken = own;
        taken.hop.ethernet[5] ^= 1 + at as u8;
        world.set_hop((slot.hop + at) & 1023, taken)?;
    }
    let before = world.loaded.plane.counter(Counter::FastHopsFull)?;
    let hello = says(&ends, &ends.settled(), b"hello");
    let ran = world.run(Program::Tc, &from_client(&hello))?;
    assert_eq!(ran.frame, to_backend(hello, ends.first));
    assert_eq!(world.slot(&ends)?, None);
    assert_eq!(world.loaded.plane.counter(Counter::FastHopsFull)?, before + 1);
    Ok(())
}
