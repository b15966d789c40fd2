//! Tables too small for what is asked of them: fewer sessions resume, and nobody sees an error.

use std::time::Duration;

use anyhow::Result;
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, FIRST, OWNER},
    client::Dial,
    demo::Load,
    loss::Loss,
    payload,
    setting::{Setting, in_settings},
};

use crate::owners::unchecked;

const PARALLEL_32: Load = Load { clients: 32, reconnects: 320, parallel: 32 };
/// What becomes of a hello whose handshake or flow was pushed out, or of a session whose lesson
/// was.
const FORGOTTEN: [Counter; 8] = [
    Counter::NoFlowForwarded,
    Counter::HandshakeMismatch,
    Counter::SessionMiss,
    Counter::NotMovable,
    Counter::GatherStalled,
    Counter::HelloCut,
    Counter::PendingLost,
    Counter::FlowBusy,
];

/// Hellos wait for an owner that is silent, so that two entries are far too few.
#[test]
fn a_pending_table_of_2_entries_serves_32_parallel_clients_of_a_silent_owner() -> Result<()> {
    in_settings(73, |setting| {
        let run = unchecked(setting).vip_setting("owner_tries = 1").size("pending = 2").start()?;
        let case = Case::start(&run)?;
        let _silence = Loss::incoming(run.lab.backend(OWNER), "meta l4proto tcp")?;
        for handshake in case.visit_at_once(32, &case.dial)? {
            assert_eq!(run.backend_named(&handshake.server)?, FIRST, "{handshake:?}");
        }
        let lost = case.counted(Counter::PendingLost)?;
        assert!(lost > 0 && case.counted(Counter::OwnerSilent)? > 0, "{lost} lost their buffer");
        case.unharmed_but_for_resets()
    })
}

#[test]
fn a_splice_table_of_1_entry_serves_32_parallel_clients() -> Result<()> {
    in_settings(56, |setting| crowd(setting, "splices = 1", &[Counter::SplicesFull]))
}

/// Sessions that were pushed out are sessions nobody knows.
#[test]
fn a_session_table_of_4_entries_serves_32_parallel_clients() -> Result<()> {
    in_settings(103, |setting| crowd(setting, "sessions = 4", &[Counter::SessionMiss]))
}

/// Handshakes that last: the clients' acknowledgements are swallowed, and their hellos come late.
#[test]
fn a_handshake_table_of_4_entries_serves_32_parallel_clients_that_idle_before_their_hello()
-> Result<()> {
    in_settings(105, |setting| {
        let run =
            setting.scenario().vip_setting("swallow = true").size("handshakes = 4").start()?;
        let case = Case::start(&run)?;
        let dial = Dial { idle: Duration::from_millis(100), ..case.dial.clone() };
        let seen = case.visit_at_once(32, &dial)?;
        let full = seen.iter().filter(|handshake| !handshake.resumed).count() as u64;
        let (swallowed, found) =
            (case.counted(Counter::AckSwallowed)?, case.counted(Counter::TraceFound)?);
        assert!(
            full > 0 && found >= full,
            "{full} of 32 in full, {swallowed} swallowed, {found} found by their traces"
        );
        case.unharmed_but_for_resets()
    })
}

#[test]
fn a_flow_table_of_4_entries_serves_32_parallel_clients() -> Result<()> {
    in_settings(58, |setting| crowd(setting, "flows = 4", &FORGOTTEN))
}

/// The flow table forgets the flow in the middle of its download; the splice table does not.
#[test]
fn a_splice_outlives_its_flow_tables_entry() -> Result<()> {
    in_settings(59, |setting| {
        let run = setting.scenario().size("flows = 4").start()?;
        let case = Case::start(&run)?;
        let sum = run.servers[OWNER].put("down", &payload::bytes(8 << 20, 1))?;
        let mut crowded = false;
        let (handshake, response) = run.connect(&case.client, &case.dial, |connection| {
            let mut trouble = Ok(());
            let response = connection.get_watched("/files/down", |read| {
                if read > 1 << 20 && !std::mem::replace(&mut crowded, true) {
                    trouble = Load { clients: 8, reconnects: 32, parallel: 8 }
                        .run(&run, "meanwhile")
                        .map(drop);
                }
            })?;
            trouble.map(|()| response)
        })?;
        assert!(handshake.resumed && response.sha256 == sum, "{handshake:?}");
        case.unharmed_but_for_resets()
    })
}

/// Every table at once, and whole files instead of short visits.
#[test]
fn tables_that_are_all_tiny_serve_32_parallel_clients_whole_files() -> Result<()> {
    in_settings(104, |setting| {
        let tiny = ["sessions = 4", "flows = 4", "splices = 2", "handshakes = 4", "pending = 2"];
        let run =
            tiny.iter().fold(setting.scenario(), |scenario, size| scenario.size(size)).start()?;
        let case = Case::start(&run)?;
        let fetch = |number: usize| -> Result<usize> {
            let (client, mut resumed) = (run.new_client()?, 0);
            for visit in 0..4 {
                resumed +=
                    usize::from(case.fetch_with(&client, &run.dial(number + 23 * visit))?.resumed);
            }
            Ok(resumed)
        };
        let resumed: usize = run.at_once(32, 32, fetch)?.iter().sum();
        let counts = [&FORGOTTEN[..], &[Counter::SplicesFull]].concat();
        let counted = counts.iter().map(|counter| case.counted(*counter)).sum::<Result<u64>>()?;
        assert!(counted as usize >= 96 - resumed, "{resumed} of 96 resumed, {counted} counted");
        case.unharmed_but_for_resets()
    })
}

/// Lets a crowd in for which the table is too small; nobody may see an error, and whoever did not
/// resume was counted here.
fn crowd(setting: Setting, size: &str, counters: &[Counter]) -> Result<()> {
    let run = setting.scenario().size(size).start()?;
    let case = Case::start(&run)?;
    let seen = PARALLEL_32.run(&run, size)?;
    assert_eq!(seen.errors, 0, "{:?}", seen.samples);
    assert_eq!(seen.reconnects, 320);
    case.unharmed_but_for_resets()?;
    let counted = counters.iter().map(|counter| case.counted(*counter)).sum::<Result<u64>>()?;
    println!("{size}: {} of 320 resumed, {counted} counted", seen.resumed);
    let full = 320 - seen.resumed as u64;
    assert!(full > 0 && counted >= full, "{full} of 320 in full, {counted} counted");
    Ok(())
}
