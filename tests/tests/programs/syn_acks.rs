//! A SYN on the addresses of a live flow, and what its backend answers: only an answer to that very
//! SYN ends the flow.

use anyhow::Result;
use steer_common::{
    counters::Counter,
    flow::{State, StateWord},
    shared::Flow,
};
use steer_tests::{flood::LINUX, programs::Program};

use crate::world::{
    CLIENT_ISN, Ends, FIRST_ISN, Given, TC_REDIRECT, World, after, families, from_backend,
    from_client, shapes, to_backend,
};

/// Sequence number of the newer SYN.
const NEWER: u32 = CLIENT_ISN.wrapping_add(0x4000_0000);

/// A flow on its first backend, and a SYN that came after it.
fn dialled_again(ends: &Ends) -> Given {
    let newer = Flow { word: StateWord::new(State::Syn, NEWER).0, ..ends.handshake() };
    Given { handshake: Some(newer), ..Given::flow(ends.settled()) }
}

/// Runs a SYN-ACK of the first backend to a SYN; whether the flow is there still, what became of
/// the handshake, and how many flows were counted as replaced.
fn answered(world: &mut World, ends: &Ends, isn: u32) -> Result<(bool, Option<State>, u64)> {
    world.prepare(ends, &dialled_again(ends))?;
    let replaced = world.loaded.plane.counter(Counter::FlowReplaced)?;
    let syn_ack = ends
        .down(ends.first, FIRST_ISN.wrapping_add(7))
        .syn()
        .ack(isn.wrapping_add(1))
        .options(&LINUX);
    world.run(Program::Tc, &from_backend(&syn_ack))?;
    let plane = &world.loaded.plane;
    let handshake =
        plane.handshakes.find(&ends.key())?.map(|handshake| StateWord(handshake.word).state());
    let replaced = plane.counter(Counter::FlowReplaced)? - replaced;
    Ok((plane.flows.find(&ends.key())?.is_some(), handshake, replaced))
}

#[test]
fn the_answer_to_the_newer_syn_ends_the_flow() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        assert_eq!(
            answered(&mut world, &ends, NEWER)?,
            (false, Some(State::SynAck), 1),
            "{}",
            ends.client
        );
    }
    Ok(())
}

/// The repeated answer to the flow's own SYN, and one to a SYN that nobody sent.
#[test]
fn a_late_or_forged_answer_leaves_the_flow_and_the_newer_syn_as_they_are() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        for isn in [CLIENT_ISN, NEWER.wrapping_sub(1), NEWER.wrapping_add(1), NEWER ^ 1 << 31] {
            assert_eq!(
                answered(&mut world, &ends, isn)?,
                (true, Some(State::Syn), 0),
                "{isn:#x}, {}",
                ends.client
            );
        }
    }
    Ok(())
}

/// The flow's backend is down, so a SYN in its client's name went to another one, which knows
/// nothing of the flow: its answer ends nothing. Only where the client acknowledges it was the SYN
/// the client's.
#[test]
fn another_backends_answer_ends_the_flow_only_where_the_client_acknowledges_it() -> Result<()> {
    const ANSWER: u32 = 0x0bad_cafe;
    let mut world = World::new()?;
    for ends in families() {
        let newer = Flow {
            word: StateWord::new(State::Syn, NEWER).0,
            first: ends.owner_id,
            owner: ends.owner_id,
            ..ends.handshake()
        };
        world.prepare(&ends, &Given { handshake: Some(newer), ..Given::flow(ends.settled()) })?;
        let replaced = world.loaded.plane.counter(Counter::FlowReplaced)?;
        let syn_ack =
            ends.down(ends.owner, ANSWER).syn().ack(NEWER.wrapping_add(1)).options(&LINUX);
        assert_eq!(
            world.run(Program::Tc, &from_backend(&syn_ack))?.action,
            TC_REDIRECT,
            "{}",
            ends.client
        );
        for seq in [CLIENT_ISN, NEWER] {
            // Both what is the flow's and what is of the other handshake's numbers but acknowledges
            // the flow's backend.
            let data = ends.up(after(seq)).ack(after(FIRST_ISN)).payload(b"the flow's");
            let ran = world.run(Program::Tc, &from_client(&data))?;
            assert_eq!(ran.action, TC_REDIRECT, "{}", ends.client);
            assert_eq!(ran.frame, to_backend(data, ends.first), "{}", ends.client);
        }
        assert_eq!(world.flow(&ends)?.first, ends.first_id);
        assert_eq!(world.loaded.plane.counter(Counter::FlowReplaced)?, replaced);

        let acknowledged = ends.up(after(NEWER)).ack(after(ANSWER));
        let ran = world.run(Program::Tc, &from_client(&acknowledged))?;
        assert_eq!(ran.frame, to_backend(acknowledged, ends.owner), "{}", ends.client);
        assert_eq!(world.flow(&ends)?.first, ends.owner_id);
        assert_eq!(world.loaded.plane.counter(Counter::FlowReplaced)? - replaced, 1);
    }
    Ok(())
}
