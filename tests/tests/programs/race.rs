//! Two CPUs at one flow: one gets its word, the other waits, or gives up where that takes too long,
//! and what comes of both is what one packet after the other would have come to.

use std::{
    sync::{RwLock, atomic::AtomicUsize},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use steer_common::{
    counters::Counter,
    flow::{State, StateWord},
    shared::Flow,
};
use steer_tests::{
    frames::{meet, pin_to},
    packets::Segment,
    programs::Program,
};

use crate::{
    surgery::{hello, stamps},
    world::{
        CLIENT_ISN, Case, Ends, FIRST_ISN, Given, Out, TC_DROP, TC_REDIRECT, World, families,
        from_client,
    },
};

/// Races of one kind and family.
const ROUNDS: usize = 1000;
const ID: [u8; 32] = [0x42; 32];
/// The session ID is in the first piece.
const CUT: usize = 200;

/// Both CPUs want to decide: one asks the owner, the other's hello is a repetition.
#[test]
fn two_cpus_that_are_given_the_same_hello_ask_the_owner_once() -> Result<()> {
    for ends in families() {
        let whole = from_client(&piece(&ends, 0, &hello(&ID, 1400)));
        let seen = race(&ends, [&whole, &whole])?;
        judge("the same hello", &seen)?;
        ensure!((1..ROUNDS).contains(&seen.first_lost), "one CPU was always the first: {seen:?}");
    }
    Ok(())
}

/// Whichever comes first, nothing of the hello is lost.
#[test]
fn two_cpus_that_are_given_two_pieces_of_a_hello_keep_both_and_ask_the_owner_once() -> Result<()> {
    for ends in families() {
        let whole = hello(&ID, 1400);
        let (first, second) = whole.split_at(CUT);
        let frames =
            [from_client(&piece(&ends, 0, first)), from_client(&piece(&ends, CUT as u32, second))];
        let seen = race(&ends, [&frames[0], &frames[1]])?;
        judge("two pieces", &seen)?;
    }
    Ok(())
}

/// As one CPU finds a flow that the other does not let go.
#[test]
fn a_hello_on_a_flow_that_another_cpu_holds_is_dropped_and_counted_busy() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let word = StateWord::new(State::Established, CLIENT_ISN).lock().0;
        let flow = Flow { word, ..ends.established() };
        let case = Case {
            what: "a hello on a locked flow",
            frame: from_client(&piece(&ends, 0, &hello(&ID, 300))),
            given: Given { session: Some(ID.to_vec()), ..Given::flow(flow) },
            tc: Out::Dropped,
            xdp: Out::Untouched,
            counts: Some(Counter::FlowBusy),
        };
        world.judge(&ends, &[case])?;
        world.prepare(&ends, &Given { session: Some(ID.to_vec()), ..Given::flow(flow) })?;
        world.run(Program::Tc, &from_client(&piece(&ends, 0, &hello(&ID, 300))))?;
        ensure!(world.flow(&ends)?.word == word, "the lock was broken");
    }
    Ok(())
}

/// What came of all rounds.
#[derive(Debug, Default)]
struct Seen {
    /// How often an owner was asked.
    rehomed: u64,
    /// How often a CPU waited for the other.
    waited: u64,
    /// How often it gave up: only where the other one was not running.
    busy: u64,
    /// Rounds in which the first CPU did not ask the owner.
    first_lost: usize,
}

/// Each round asked once; and the CPUs met at work.
fn judge(what: &str, seen: &Seen) -> Result<()> {
    println!("{what}: {ROUNDS} rounds, {seen:?}");
    ensure!(seen.rehomed == ROUNDS as u64, "{seen:?}");
    ensure!(seen.waited > 0, "the CPUs never met: {seen:?}");
    ensure!(2 * seen.busy <= seen.waited, "who waits gives up: {seen:?}");
    Ok(())
}

/// Runs two frames at the same time on two CPUs, again and again on a new flow; each round must end
/// with the owner asked once and the hello buffered whole.
fn race(ends: &Ends, frames: [&[u8]; 2]) -> Result<Seen> {
    let world = World::new()?;
    let counters = [Counter::Rehome, Counter::FlowWaited, Counter::FlowBusy];
    let before = counters.map(|counter| world.loaded.plane.counter(counter));
    let (world, here) = (RwLock::new(world), AtomicUsize::new(0));
    let first_lost = thread::scope(|scope| {
        let second = scope.spawn(|| rounds(&world, ends, &here, 1, frames));
        let first = scope.spawn(|| rounds(&world, ends, &here, 0, frames));
        let won = first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        second.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).and(won)
    })?;
    let plane = &world.read().map_err(|_| anyhow::anyhow!("a CPU panicked"))?.loaded.plane;
    let [rehomed, waited, busy] = before;
    Ok(Seen {
        rehomed: plane.counter(Counter::Rehome)? - rehomed?,
        waited: plane.counter(Counter::FlowWaited)? - waited?,
        busy: plane.counter(Counter::FlowBusy)? - busy?,
        first_lost,
    })
}

/// One CPU's part; the first also makes the flow and judges. Returns how often it did not get to
/// ask the owner itself.
fn rounds(
    world: &RwLock<World>,
    ends: &Ends,
    here: &AtomicUsize,
    cpu: usize,
    frames: [&[u8]; 2],
) -> Result<usize> {
    let poisoned = |_| anyhow::anyhow!("the other CPU panicked");
    pin_to(cpu)?;
    world.read().map_err(|_| anyhow::anyhow!("the other CPU panicked"))?.ns.enter()?;
    let (mut trouble, mut lost) = (Ok(()), 0);
    // Whatever happens, both come to every meeting.
    for round in 0..ROUNDS {
        if cpu == 0 && trouble.is_ok() {
            let given = Given { session: Some(ID.to_vec()), ..Given::flow(ends.established()) };
            trouble = world.write().map_err(|_| anyhow::anyhow!("poisoned"))?.prepare(ends, &given);
        }
        meet(here, 3 * round + 1);
        let ran = {
            let world = world.read().map_err(poisoned)?;
            meet(here, 3 * round + 2);
            give_a_lead(cpu, round);
            world.loaded.run(Program::Tc, frames[cpu], world.ifindex)
        };
        meet(here, 3 * round + 3);
        match ran {
            Ok(ran) if ran.action == TC_REDIRECT => {}
            Ok(ran) if ran.action == TC_DROP => lost += 1,
            Ok(ran) => {
                trouble = trouble.and(Err(anyhow::anyhow!("round {round}: action {}", ran.action)))
            }
            Err(error) => trouble = trouble.and(Err(error)),
        }
        if cpu == 0 && trouble.is_ok() {
            let world = world.read().map_err(|_| anyhow::anyhow!("poisoned"))?;
            trouble = ends_well(&world, ends, frames).with_context(|| format!("round {round}"));
        }
    }
    trouble.map(|()| lost)
}

/// Has one of the two CPUs begin later, by another time each round, and the other one in the next
/// rounds: on some machines one of them is always the first else, or they never meet.
fn give_a_lead(cpu: usize, round: usize) {
    /// Rounds until it is the other's turn.
    const TURN: usize = 250;
    /// How much longer it is in each of them.
    const STEP: Duration = Duration::from_nanos(300);
    if round / TURN % 2 == cpu {
        let lead = STEP * (round % TURN) as u32;
        let begun = Instant::now();
        while begun.elapsed() < lead {
            std::hint::spin_loop();
        }
    }
}

/// A client repeats what nobody acknowledged: what a busy flow had dropped is then there as well.
fn ends_well(world: &World, ends: &Ends, frames: [&[u8]; 2]) -> Result<()> {
    for frame in frames {
        let ran = world.loaded.run(Program::Tc, frame, world.ifindex)?;
        ensure!(
            [TC_DROP, TC_REDIRECT].contains(&ran.action),
            "the repetition: action {}",
            ran.action
        );
    }
    let word = StateWord(world.flow(ends)?.word);
    ensure!(word == StateWord::new(State::Wait, CLIENT_ISN), "the flow's word is {word:?}");
    ensure!(world.buffered(ends)? == hello(&ID, 1400), "the hello is not buffered whole");
    Ok(())
}

fn piece(ends: &Ends, offset: u32, data: &[u8]) -> Segment {
    let (seq, ack) = (CLIENT_ISN.wrapping_add(1).wrapping_add(offset), FIRST_ISN.wrapping_add(1));
    ends.up(seq).ack(ack).options(&stamps(0x1c00, 0x3001)).payload(data)
}
