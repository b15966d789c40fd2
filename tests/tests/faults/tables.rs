//! Tables too small for what is asked of them: fewer sessions resume, and nobody sees an error.

use anyhow::Result;
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, OWNER},
    demo::{Load, Tally},
    payload,
    setting::{Setting, in_settings},
};

const PARALLEL_32: Load = Load { clients: 32, reconnects: 320, parallel: 32 };

#[test]
fn a_pending_table_of_2_entries_serves_32_parallel_clients() -> Result<()> {
    in_settings(55, |setting| {
        let (seen, case_counts) = crowd(setting, "pending = 2", &[Counter::PendingLost, Counter::SpliceOpened])?;
        let [lost, spliced] = case_counts[..] else { unreachable!("two were asked for") };
        assert!(spliced > 0, "some are moved all the same: {seen:?}");
        assert!(seen.resumed as u64 + lost >= 320, "whatever did not resume had lost its buffer: {lost}, {seen:?}");
        Ok(())
    })
}

#[test]
fn a_splice_table_of_1_entry_serves_32_parallel_clients() -> Result<()> {
    in_settings(56, |setting| {
        let (seen, counts) = crowd(setting, "splices = 1", &[Counter::SplicesFull])?;
        assert!(counts[0] > 0 && seen.resumed < 320, "{counts:?} {seen:?}");
        Ok(())
    })
}

#[test]
fn a_handshake_table_of_4_entries_serves_32_parallel_clients() -> Result<()> {
    in_settings(57, |setting| crowd(setting, "handshakes = 4", &[]).map(drop))
}

#[test]
fn a_flow_table_of_4_entries_serves_32_parallel_clients() -> Result<()> {
    in_settings(58, |setting| crowd(setting, "flows = 4", &[]).map(drop))
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
                    trouble = Load { clients: 8, reconnects: 32, parallel: 8 }.run(&run, "meanwhile").map(drop);
                }
            })?;
            trouble.map(|()| response)
        })?;
        assert!(handshake.resumed && response.sha256 == sum, "{handshake:?}");
        case.unharmed_but_for_resets()
    })
}

/// Lets a crowd in; nobody may see an error. Returns what it saw, and how much some counters grew.
fn crowd(setting: Setting, size: &str, counters: &[Counter]) -> Result<(Tally, Vec<u64>)> {
    let run = setting.scenario().size(size).start()?;
    let case = Case::start(&run)?;
    let seen = PARALLEL_32.run(&run, size)?;
    assert_eq!(seen.errors, 0, "{:?}", seen.samples);
    assert_eq!(seen.reconnects, 320);
    case.unharmed_but_for_resets()?;
    let counts = counters.iter().map(|counter| case.counted(*counter)).collect::<Result<_>>()?;
    Ok((seen, counts))
}
