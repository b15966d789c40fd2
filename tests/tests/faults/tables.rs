//! Tables too small for what is asked of them: fewer sessions resume, and nobody sees an error.

use anyhow::Result;
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, FIRST, OWNER},
    demo::{Load, Tally},
    loss::Loss,
    payload,
    setting::{Setting, in_settings},
};

use crate::owners::unchecked;

const PARALLEL_32: Load = Load { clients: 32, reconnects: 320, parallel: 32 };

#[test]
fn a_pending_table_of_2_entries_serves_32_parallel_clients() -> Result<()> {
    in_settings(55, |setting| crowd(setting, "pending = 2", &[]).map(drop))
}

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
