//! The re-home state machine in a world of its own: a gateway that executes it as the kernel
//! programs do, a client, two backends, and a network that loses, repeats, delays and reorders as
//! proptest chooses.
//!
//! Every scenario ends with a network that works again, so whoever keeps repeating must come
//! through: a client that did not give up has its whole answer from exactly one backend, and no
//! byte of it is wrong. A connection that the client dialled to the owner itself, from the same
//! port, goes on; and what an attacker sends blindly changes nothing.

mod backend;
mod client;
mod direct;
mod gateway;
mod packet;
mod world;

use std::{cell::RefCell, collections::BTreeSet};

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use steer_common::{counters::Counter, wire::tcp::flags};

use backend::Temper;
use client::Habits;
use gateway::Setup;
use world::{Fate, Forgery, Scenario, World};

/// Scenarios in one run; `PROPTEST_CASES` asks for more.
const CASES: u32 = 6_000;

/// What the scenarios must have met for a run to count.
const MET: &[Counter] = &[
    Counter::SpliceOpened,
    Counter::Gather,
    Counter::GatherLimit,
    Counter::GatherWindow,
    Counter::GatherStalled,
    Counter::GatherHoles,
    Counter::GatherBeyond,
    Counter::GatherEnded,
    Counter::AckInvalid,
    Counter::HelloCut,
    Counter::SessionMiss,
    Counter::NotMovable,
    Counter::ServerFirst,
    Counter::AckSwallowed,
    Counter::OwnerSynRepeated,
    Counter::OwnerSilent,
    Counter::OwnerRefused,
    Counter::OwnerChallenge,
    Counter::OwnerIncompatible,
    Counter::OwnerNoRoute,
    Counter::OwnerReset,
    Counter::OwnerSynAckRepeated,
    Counter::SplicesFull,
    Counter::PendingLost,
    Counter::WaitDropped,
    Counter::WaitReset,
    Counter::ResetInvalid,
    Counter::StrayBackend,
];

#[test]
fn every_order_of_events_ends_with_one_backend_and_no_wrong_byte() {
    let met = RefCell::new(BTreeSet::new());
    let config = Config {
        cases: Config::default().cases.max(CASES),
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let outcome = runner.run(&scenario(), |scenario| {
        let mut world = World::new(&scenario);
        world.run();
        world.judge();
        met.borrow_mut().extend(world.gateway.counted.iter().copied());
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let missing: Vec<_> = MET.iter().filter(|counter| !met.borrow().contains(counter)).collect();
    assert!(missing.is_empty(), "no scenario met {missing:?}");
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let fates = prop::collection::vec(fate(), 0..60);
    let forgeries = prop::collection::vec((0u64..1_000, forgery()), 0..4);
    (setup(), habits(), tempers(), fates, prop::option::weighted(0.1, 0u64..3_000), forgeries)
        .prop_map(|(setup, habits, (first, owner), fates, evict_ms, forgeries)| Scenario {
            setup,
            habits,
            first,
            owner,
            fates,
            evict_ms,
            forgeries,
        })
}

fn setup() -> impl Strategy<Value = Setup> {
    let decidable = prop_oneof![3 => 1u32..80, 2 => 80u32..3_000, 1 => 3_000u32..20_000];
    let hinted = prop_oneof![1 => Just(u32::MAX), 1 => 1u32..3_000];
    (decidable, hinted, prop::bool::weighted(0.85), prop::bool::weighted(0.2), 1u16..4, 0u8..20)
        .prop_map(|(decidable_at, hinted_at, moves, swallow, owner_tries, accident)| Setup {
            decidable_at,
            hinted_at,
            moves,
            swallow,
            owner_tries,
            no_route: accident == 0,
            splices_full: accident == 1,
        })
}

fn habits() -> impl Strategy<Value = Habits> {
    let isn = prop_oneof![any::<u32>(), (u32::MAX - 3_000)..=u32::MAX];
    let hello = prop_oneof![4 => 1usize..600, 3 => 600usize..5_000, 1 => 5_000usize..15_000, 1 => 12_000usize..15_000];
    let pieces = prop::collection::vec(1usize..1_500, 0..12);
    let window = prop_oneof![3 => Just(1usize), 4 => Just(10usize), 1 => Just(40usize)];
    let reset_ms = prop::option::weighted(0.15, 0u64..1_500);
    (isn, hello, pieces, window, 0u64..60, prop::bool::weighted(0.15), any::<[bool; 3]>(), reset_ms)
        .prop_map(
            |(
                isn,
                hello_len,
                pieces,
                window,
                pause_ms,
                fin,
                [bare_fin, coalesces, probes],
                reset_ms,
            )| Habits {
                isn,
                hello_len,
                pieces,
                window,
                pause_ms,
                fin,
                bare_fin,
                coalesces,
                probes,
                reset_ms,
            },
        )
}

fn tempers() -> impl Strategy<Value = (Temper, Temper)> {
    let window = prop_oneof![1 => 60u16..2_000, 3 => Just(u16::MAX)];
    let first = (any::<u32>(), prop::bool::weighted(0.1), window).prop_map(
        |(isn, speaks_first, window)| Temper { isn, speaks_first, window, ..Temper::default() },
    );
    let talk = prop::collection::vec(0u64..2_000, 0..6);
    let owner = (any::<u32>(), 0u8..12, talk).prop_map(|(isn, mood, talk)| Temper {
        isn,
        silent: mood == 0,
        refuses: mood == 1,
        talks: (mood == 2).then_some(talk),
        small: mood == 3,
        ..Temper::default()
    });
    (first, owner)
}

/// What a flow must not take: no attacker hits what the first backend's number is, nor the exact
/// number for a reset.
fn forgery() -> impl Strategy<Value = Forgery> {
    let bits = prop::sample::select(vec![
        flags::ACK,
        flags::ACK | flags::PSH,
        flags::ACK | flags::FIN,
        0,
        flags::FIN,
    ]);
    let offset = prop_oneof![3 => 2u32..2_000, 1 => 2u32..20_000, 1 => any::<u32>()];
    (bits, offset, any::<u32>(), prop_oneof![1 => Just(0usize), 3 => 1usize..1_400])
        .prop_map(|(flags, offset, ack, len)| Forgery { flags, offset, ack, len })
}

/// Mostly a network that works, with delays that overtake retransmissions in both directions.
fn fate() -> impl Strategy<Value = Fate> {
    let delay = || prop_oneof![4 => Just(100u64), 2 => 100u64..20_000, 1 => 20_000u64..600_000];
    prop_oneof![
        5 => delay().prop_map(Fate::Late),
        2 => Just(Fate::Lost),
        1 => (delay(), delay()).prop_map(|(a, b)| Fate::Twice(a, b)),
    ]
}
