//! Re-homed flows that carry much, and handshakes, over links that lose packets.

use std::{panic::resume_unwind, thread, time::Duration};

use anyhow::Result;
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, OWNER},
    client::Dial,
    demo::Load,
    loss::Loss,
    payload,
    process::eventually,
    setting::{Setting, in_one_setting, in_settings},
};

use crate::owners::unchecked;

const MEGABYTES_20: usize = 20 * 1024 * 1024;
/// TCP backs off without end while most packets are lost: after so long the rest may come through.
const LOSSY: Duration = Duration::from_secs(6);

#[test]
fn twenty_megabytes_pass_a_splice_both_ways() -> Result<()> {
    in_settings(52, |setting| {
        both_ways(setting, 0)?;
        Ok(())
    })
}

#[test]
fn twenty_megabytes_pass_a_splice_both_ways_at_1_percent_loss() -> Result<()> {
    in_settings(53, |setting| {
        let resent = both_ways(setting.wire(), 1)?;
        assert!(resent > 50, "the loss was real: {resent} segments sent again");
        Ok(())
    })
}

/// Without translation of SACK edges the owner discards them, and each download takes many times as
/// long.
#[test]
fn five_times_twenty_megabytes_at_2_percent_loss_and_no_sack_is_discarded() -> Result<()> {
    in_one_setting(|setting| {
        let run = unchecked(setting.wire()).start()?;
        let case = Case::start(&run)?;
        let sum = run.servers[OWNER].put("down", &payload::bytes(MEGABYTES_20, 1))?;
        let _loss = Loss::everywhere(&run.lab, 2)?;
        for _ in 0..5 {
            let (handshake, response) =
                run.connect(&case.client, &case.dial, |connection| connection.get("/files/down"))?;
            assert!(handshake.resumed && response.sha256 == sum, "{handshake:?}");
        }
        assert!(case.kernel(OWNER + 1, "TcpExt.TCPSackRecovery")? > 50, "SACK was at work");
        case.expect(&[(Counter::SpliceOpened, 5)])?;
        case.unharmed_but_for_resets()
    })
}

#[test]
fn sixty_parallel_handshakes_at_20_percent_loss_all_succeed() -> Result<()> {
    in_one_setting(|setting| {
        let run = unchecked(setting.wire()).start()?;
        let case = Case::start(&run)?;
        let loss = Loss::everywhere(&run.lab, 20)?;
        let dial = Dial { timeout: Duration::from_secs(60), ..case.dial.clone() };
        let handshakes = thread::scope(|scope| {
            let visits = scope.spawn(|| case.visit_at_once(60, &dial));
            eventually(LOSSY, || visits.is_finished().then_some(()));
            drop(loss);
            visits.join().unwrap_or_else(|panic| resume_unwind(panic))
        })?;
        let resumed = handshakes.iter().filter(|handshake| handshake.resumed).count() as u64;
        let gave_up = case.counted(Counter::OwnerSilent)?;
        assert!(resumed > 30, "{resumed} resumed, {gave_up} times the owner was given up");
        // One that gave its owner up leaves a session of the first backend to those that come after
        // it.
        assert!(
            case.counted(Counter::SpliceOpened)? + case.counted(Counter::SessionHit)? >= resumed
        );
        case.unharmed_but_for_resets()
    })
}

/// Many clients at once on splices that are opened and closed all the time.
#[test]
fn parallel_clients_resume_while_big_transfers_run() -> Result<()> {
    in_settings(54, |setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        let sum = run.servers[OWNER].put("down", &payload::bytes(MEGABYTES_20, 1))?;
        thread::scope(|scope| -> Result<()> {
            let big = scope.spawn(|| {
                run.connect(&case.client, &case.dial, |connection| connection.get("/files/down"))
            });
            let load = Load { clients: 16, reconnects: 160, parallel: 16 };
            let seen = load.run(&run, "beside a download")?;
            assert_eq!(
                (seen.errors, seen.resumed, seen.on_owner),
                (0, 160, 160),
                "{:?}",
                seen.samples
            );
            let (handshake, response) = big.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            assert!(handshake.resumed && response.sha256 == sum);
            Ok(())
        })?;
        case.unharmed_but_for_resets()
    })
}

/// Returns how many segments were sent again.
fn both_ways(setting: Setting, percent: u32) -> Result<i64> {
    let run = unchecked(setting).start()?;
    let case = Case::start(&run)?;
    let bytes = payload::bytes(MEGABYTES_20, 1);
    let sum = run.servers[OWNER].put("down", &bytes)?;
    let loss = Loss::everywhere(&run.lab, percent)?;
    let (handshake, response) =
        run.connect(&case.client, &case.dial, |connection| connection.get("/files/down"))?;
    assert!(handshake.resumed && response.sha256 == sum, "{handshake:?}");
    assert!(case.upload(&case.dial, &bytes)?.resumed);
    drop(loss);
    case.expect(&[(Counter::SpliceOpened, 2), (Counter::OptionsMalformed, 0)])?;
    case.unharmed_but_for_resets()?;
    Ok(case.kernel(0, "Tcp.RetransSegs")? + case.kernel(OWNER + 1, "Tcp.RetransSegs")?)
}
