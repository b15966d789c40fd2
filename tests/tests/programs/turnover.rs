//! How many SYNs of strangers a handshake outlives in its table: a flood that shall cost a
//! resumption must be as large within one round trip.

use anyhow::{Context, Result, ensure};
use steer_common::flow::{State, StateWord};
use steer_tests::{
    flood::{LINUX, Strangers},
    frames::pin_to,
    packets::Segment,
    programs::Program,
    topology::Family,
};
use steer_user::config::Sizes;

use crate::world::{CLIENT_ISN, Ends, FIRST_ISN, Given, World, from_backend, from_client, shapes};

const SMALL: u32 = 1024;
/// SYNs between two looks.
const STEP: u32 = 32;

#[test]
fn a_handshake_outlives_about_as_many_answered_syns_as_its_table_has_entries() -> Result<()> {
    for (entries, trials) in [(SMALL, 10), (Sizes::default().handshakes, 2)] {
        let mut world = world(entries)?;
        let (ends, mut strangers) = (shapes()[0], Strangers::new(Family::V4));
        let outlived = (0..trials)
            .map(|_| outlived(&mut world, &ends, &mut strangers, true, 2 * entries))
            .collect::<Result<Vec<_>>>()?;
        println!("in a table of {entries} entries a handshake outlived {outlived:?} SYNs");
        ensure!(
            outlived.iter().all(|n| (entries / 2..2 * entries).contains(n)),
            "{outlived:?} of {entries}"
        );
    }
    Ok(())
}

/// What is asked for once more stays before what is not.
#[test]
fn syns_that_no_backend_answers_push_out_no_handshake_that_was_answered() -> Result<()> {
    let (mut world, ends) = (world(SMALL)?, shapes()[0]);
    let outlived = outlived(&mut world, &ends, &mut Strangers::new(Family::V4), false, 20 * SMALL)?;
    ensure!(outlived == 20 * SMALL, "only {outlived}");
    Ok(())
}

fn world(handshakes: u32) -> Result<World> {
    World::of(&Sizes {
        sessions: SMALL,
        flows: SMALL,
        fast: SMALL,
        splices: SMALL,
        legs: SMALL,
        handshakes,
        pending: 16,
    })
}

/// One handshake that its first backend answered, then strangers' SYNs, `answered` or not, until it
/// is forgotten or there were `most`; how many those were.
fn outlived(
    world: &mut World,
    ends: &Ends,
    strangers: &mut Strangers,
    answered: bool,
    most: u32,
) -> Result<u32> {
    world.prepare(ends, &Given::nothing())?;
    let (loaded, ifindex) = (&world.loaded, world.ifindex);
    let dial = |client, isn, answered| -> Result<()> {
        let syn = Segment::new(client, ends.vip, isn).syn().options(&LINUX);
        loaded.run(Program::Tc, &from_client(&syn), ifindex)?;
        if answered {
            let answer = Segment::new(ends.first, client, FIRST_ISN)
                .syn()
                .ack(isn.wrapping_add(1))
                .options(&LINUX);
            loaded.run(Program::Tc, &from_backend(&answer), ifindex)?;
        }
        Ok(())
    };
    world.ns.run(|| {
        // The table turns over for each CPU by itself, and this flood comes in by one.
        pin_to(0)?;
        dial(ends.client, CLIENT_ISN, true)?;
        let begun = loaded.plane.handshakes.find(&ends.key())?.context("no handshake")?;
        ensure!(StateWord(begun.word).state() == State::SynAck, "it was not answered");
        let mut n = 0;
        while n < most && loaded.plane.handshakes.find(&ends.key())?.is_some() {
            (0..STEP).try_for_each(|_| {
                let stranger = strangers.segment();
                dial(stranger.source, strangers.number(), answered)
            })?;
            n += STEP;
        }
        Ok(n)
    })
}
