//! Floods of SYNs.

use std::{
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    case::Case,
    detour::{Detour, Fate},
    flood::{Strangers, at_clients},
    frames::pin_to,
    setting::{Setting, in_one_setting, in_settings},
    tables::entries,
};

use crate::bystanders::{Bystanders, PORTIONS, scenario};

/// Entries of a small `handshakes` table.
const SMALL: usize = 1024;
/// Entries of the default one.
const DEFAULT: usize = 65_536;

#[test]
fn a_syn_flood_of_eight_times_the_handshake_table_hurts_no_flow_and_loses_no_session() -> Result<()>
{
    in_settings(90, |setting| flood(setting, SMALL, 8 * SMALL))
}

#[test]
fn a_syn_flood_of_three_times_the_default_handshake_table_hurts_no_flow_and_loses_no_session()
-> Result<()> {
    in_one_setting(|setting| flood(setting, DEFAULT, 3 * DEFAULT))
}

fn flood(setting: Setting, table: usize, n: usize) -> Result<()> {
    let run = scenario(setting).size(&format!("handshakes = {table}")).start()?;
    let mut case = Case::start(&run)?;
    let bystanders = Bystanders::gather(&mut case)?;
    let (syns, tap) = (Strangers::new(run.family).syns(n)?, at_clients(&run.lab)?);
    let portions: Vec<_> = syns.chunks(n.div_ceil(PORTIONS)).collect();
    let n_sent = AtomicUsize::new(0);
    bystanders.during(&case, |now| {
        n_sent.fetch_add(tap.pour(portions[now.portion])?, Ordering::Relaxed);
        Ok(())
    })?;
    let (n_sent, seen) = (n_sent.into_inner() as u64, case.counted(Counter::Syn)?);
    println!("{n_sent} SYNs through a table of {table}");
    ensure!(n_sent > 2 * table as u64 && seen >= n_sent, "{n_sent} SYNs were sent, {seen} came");
    let held = entries(&case.steer, "handshakes")?;
    ensure!(held <= table && held > table / 2, "{held} handshakes in a table of {table}");
    bystanders.no_table_grew(&case)?;
    case.expect(&[
        (Counter::FlowEstablished, 2),
        (Counter::SpliceOpened, 1),
        (Counter::NoFlowForwarded, 0),
    ])?;
    case.unharmed(1)?;
    bystanders.resume(&case)?;
    case.moves(&case.dial).map(drop)
}

/// Most who reconnect in the middle of a flood resume; who does not, because his handshake was
/// pushed out, is counted.
#[test]
fn sessions_that_are_offered_while_a_syn_flood_goes_on_resume_or_are_counted() -> Result<()> {
    in_one_setting(|setting| {
        let run = scenario(setting).size(&format!("handshakes = {}", DEFAULT / 4)).start()?;
        let mut case = Case::start(&run)?;
        let bystanders = Bystanders::gather(&mut case)?;
        let (syns, tap, start) =
            (Strangers::new(run.family).syns(2 * DEFAULT)?, at_clients(&run.lab)?, Instant::now());
        let (n_sent, seen) = thread::scope(|scope| {
            let flood = scope.spawn(|| tap.pour(&syns));
            let mut seen = Vec::new();
            while !flood.is_finished() || seen.is_empty() {
                seen.push(bystanders.reconnects(&case, seen.len())?);
            }
            anyhow::Ok((flood.join().unwrap_or_else(|panic| resume_unwind(panic))?, seen))
        })?;
        let full = seen.iter().filter(|resumed| !**resumed).count() as u64;
        println!(
            "{full} of {} in full while {n_sent} SYNs came in {:?}",
            seen.len(),
            start.elapsed()
        );
        ensure!(
            n_sent > DEFAULT && case.counted(Counter::NoFlowForwarded)? >= full,
            "{full} in full, not counted"
        );
        ensure!(full <= seen.len() as u64 / 2, "{full} of {} in full", seen.len());
        case.unharmed_but_for_resets()
    })
}

/// A flood turns the table over between the first backend's answer and the client's acknowledgement
/// of it.
#[test]
fn a_handshake_that_a_flood_pushes_out_within_its_round_trip_gets_its_first_backend_and_is_counted()
-> Result<()> {
    in_settings(91, |setting| {
        round_trip(setting, SMALL / 2, |case| {
            case.moves(&case.dial)?;
            case.expect(&[(Counter::NoFlowForwarded, 0), (Counter::SpliceOpened, 1)])
        })?;
        round_trip(setting, 4 * SMALL, |case| {
            case.stays(&case.dial)?;
            ensure!(
                case.counted(Counter::NoFlowForwarded)? > 0
                    && case.counted(Counter::TraceFound)? > 0
            );
            case.expect(&[(Counter::SpliceOpened, 0), (Counter::FlowEstablished, 0)])
        })
    })
}

/// One connection, within whose round trip so many SYNs come.
fn round_trip(setting: Setting, n: usize, judge: impl Fn(&Case<'_>) -> Result<()>) -> Result<()> {
    /// The client's acknowledgement comes right behind its SYN.
    const ACKNOWLEDGEMENT: usize = 1;
    let run = scenario(setting).size(&format!("handshakes = {SMALL}")).start()?;
    let case = Case::start(&run)?;
    let (syns, tap) = (Strangers::new(run.family).syns(n)?, at_clients(&run.lab)?);
    let flooded = Arc::new(AtomicBool::new(false));
    let floods = flooded.clone();
    let _detour = Detour::start(&run, move |seen| {
        // An LRU table forgets last what came in on another CPU than the flood: here all comes in
        // on one.
        let pinned = pin_to(0).is_ok();
        if seen.number == ACKNOWLEDGEMENT {
            let came = tap.pour(&syns).is_ok_and(|n_sent| n_sent > syns.len() / 2);
            floods.store(pinned && came, Ordering::Relaxed);
        }
        Fate::Pass
    })?;
    judge(&case)?;
    ensure!(flooded.load(Ordering::Relaxed), "the flood was not sent");
    case.unharmed_but_for_resets()
}
