//! Packets of one flow that the gateway meets on two CPUs at the same time, sent by two threads
//! that are bound to them.

use anyhow::{Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, OWNER},
    client::Dial,
    detour::{Detour, Fate, Seen},
    payload,
    setting::{Setting, in_settings},
};

/// Connections of one kind.
const VISITS: u64 = 40;

#[test]
fn flows_whose_every_packet_comes_on_both_cpus_at_once_move_exactly_once_with_the_right_bytes()
-> Result<()> {
    in_settings(96, |setting| raced(setting, |_| Fate::FromBothCpus, &[], true))
}

/// The session ID stands in the second piece.
#[test]
fn flows_whose_hello_comes_in_two_pieces_on_two_cpus_at_once_move_exactly_once() -> Result<()> {
    let pairs = |seen: Seen| {
        if seen.data.is_some_and(|n| n % 2 == 0) { Fate::BesideNext } else { Fate::Pass }
    };
    in_settings(97, |setting| raced(setting, pairs, &[30], false))
}

/// Each connection's hello is given to the gateway by two CPUs at once; `upload`: so is all that
/// follows.
fn raced(setting: Setting, rule: fn(Seen) -> Fate, cuts: &[usize], upload: bool) -> Result<()> {
    let run = setting.finished().scenario().start()?;
    let case = Case::start(&run)?;
    let detour = Detour::start(&run, rule)?;
    let dial = Dial { cuts: cuts.to_vec(), ..case.dial.clone() };
    for _ in 0..VISITS {
        case.moves(&dial)?;
    }
    if upload {
        let body = payload::bytes(1 << 20, 3);
        ensure!(case.upload(&dial, &body)?.resumed, "not resumed");
    }
    drop(detour);
    let flows = VISITS + u64::from(upload);
    let (waited, busy) = (case.counted(Counter::FlowWaited)?, case.counted(Counter::FlowBusy)?);
    println!("{flows} flows, {waited} packets waited for the other CPU, {busy} in vain");
    case.expect(&[
        (Counter::Rehome, flows),
        (Counter::SpliceOpened, flows),
        (Counter::OwnerSilent, 0),
    ])?;
    ensure!(case.kernel(OWNER + 1, "Tcp.EstabResets")? == 0, "the owner's connections were reset");
    Ok(())
}
