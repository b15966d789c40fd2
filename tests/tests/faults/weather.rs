//! Loss, duplication, delay and reordering on both sides of the gateway and in both directions:
//! transfers arrive whole, sessions are resumed on their owner or replaced by a full handshake, and
//! no client sees an error.

use std::{panic::resume_unwind, thread, time::Duration};

use anyhow::{Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, OWNER},
    client::{Dial, Handshake},
    detour::{Detour, Fate, Seen},
    payload,
    process::eventually,
    relay::{Delay, Relay},
    setting::{Setting, in_numbered_setting, in_settings},
    weather::{Percent, Weather},
};

use crate::owners::unchecked;

/// TCP backs off without end while every fifth packet is lost four times over: after so long the
/// rest may come through.
const STORM: Duration = Duration::from_secs(6);

#[test]
fn transfers_and_handshakes_survive_1_percent_loss_and_1_percent_duplication() -> Result<()> {
    in_numbered_setting(80, |setting| in_weather(setting, Percent { lost: 1, twice: 1 }, 4 << 20))
}

#[test]
fn transfers_and_handshakes_survive_5_percent_loss_and_5_percent_duplication() -> Result<()> {
    in_numbered_setting(81, |setting| in_weather(setting, Percent { lost: 5, twice: 5 }, 1 << 20))
}

#[test]
fn transfers_and_handshakes_survive_20_percent_loss_and_20_percent_duplication() -> Result<()> {
    in_numbered_setting(82, |setting| in_weather(setting, Percent { lost: 20, twice: 20 }, 100_000))
}

/// The spread is longer than the pause between two packets: most of them are overtaken.
#[test]
fn transfers_and_handshakes_survive_10_to_20_ms_of_delay_and_the_reordering_it_makes() -> Result<()>
{
    in_numbered_setting(84, |setting| {
        let run = unchecked(setting.wire()).start()?;
        let case = Case::start(&run)?;
        let relay = Relay::start(
            &run,
            Delay { least: Duration::from_millis(10), spread: Duration::from_millis(10) },
        )?;
        let handshakes = transfers(&case, 2 << 20, 20)?;
        ensure!(relay.overtaken() > 500, "{} frames were overtaken", relay.overtaken());
        ensure!(handshakes.iter().all(|handshake| handshake.resumed), "{handshakes:?}");
        case.expect(&[(Counter::SpliceOpened, 22), (Counter::OwnerSilent, 0)])?;
        right(&case)
    })
}

/// A path whose routers cut what is longer than they take, and bring the last piece first, always.
#[test]
fn uploads_arrive_over_a_path_that_brings_fragments_in_the_wrong_order() -> Result<()> {
    in_settings(156, |setting| {
        let run = unchecked(setting.finished()).start()?;
        // One that follows connections puts the pieces together.
        if run.lab.balancer().is_some() {
            return Ok(());
        }
        let case = Case::start(&run)?;
        let cut = |seen: Seen| {
            if seen.data.is_some_and(|n| n > 4) { Fate::FragmentsReversed(512) } else { Fate::Pass }
        };
        let detour = Detour::start(&run, cut)?;
        let handshake = case.upload(&case.dial, &payload::bytes(200_000, 7))?;
        drop(detour);
        ensure!(handshake.resumed, "{handshake:?}");
        // Of three pieces of a whole segment two are held, of all but what came before the detour.
        let (held, forwarded) =
            (case.counted(Counter::FragmentHeld)?, case.counted(Counter::FragmentForwarded)?);
        ensure!(held > 200 && forwarded > held, "{held} held, {forwarded} forwarded");
        case.expect(&[(Counter::SpliceOpened, 1), (Counter::FragmentPassed, 0)])?;
        right(&case)
    })
}

fn in_weather(setting: Setting, percent: Percent, len: usize) -> Result<()> {
    let run = unchecked(setting.wire()).start()?;
    let case = Case::start(&run)?;
    let weather = Weather::everywhere(&run.lab, percent)?;
    let handshakes = thread::scope(|scope| {
        let transfers = scope.spawn(|| transfers(&case, len, 20));
        eventually(STORM, || transfers.is_finished().then_some(()));
        drop(weather);
        transfers.join().unwrap_or_else(|panic| resume_unwind(panic))
    })?;
    let resent = case.kernel(0, "Tcp.RetransSegs")? + case.kernel(OWNER + 1, "Tcp.RetransSegs")?;
    let twice =
        case.kernel(0, "TcpExt.TCPDSACKRecv")? + case.kernel(OWNER + 1, "TcpExt.TCPDSACKRecv")?;
    let resumed = handshakes.iter().filter(|handshake| handshake.resumed).count() as u64;
    let (opened, gave_up) =
        (case.counted(Counter::SpliceOpened)?, case.counted(Counter::OwnerSilent)?);
    println!(
        "{percent:?}: {resumed} of {} resumed, {opened} splices, {gave_up} owners given up, {resent} segments sent \
              again, {twice} told as duplicates",
        handshakes.len()
    );
    ensure!(resent > 10 && twice > 10, "the weather was real: {resent} sent again, {twice} twice");
    // Whoever gave its owner up made a full handshake, whose session is the first backend's from
    // then on.
    ensure!(
        opened + case.counted(Counter::SessionHit)? >= resumed,
        "{opened} splices, {resumed} resumed"
    );
    ensure!(
        resumed > 0 && (gave_up > 0 || resumed == handshakes.len() as u64),
        "{resumed} resumed, {gave_up} given up"
    );
    right(&case)
}

/// No kernel met a wrong checksum or, beyond the duplicates that Linux doubts, a wrong SACK.
/// (Timestamps are judged by the bytes that arrive: a segment that was sent again and overtaken is
/// too old by RFC 7323 as well.)
fn right(case: &Case<'_>) -> Result<()> {
    for end in 0..=case.run.lab.n_backends() {
        let count = |name| case.kernel(end, name);
        let (discarded, doubted) =
            (count("TcpExt.TCPSACKDiscard")?, count("TcpExt.TCPDSACKIgnoredDubious")?);
        ensure!(
            discarded <= doubted,
            "end {end} discarded {discarded} SACKs and doubted {doubted}"
        );
        ensure!(count("Tcp.InCsumErrors")? == 0, "end {end} met wrong checksums");
    }
    Ok(())
}

/// A download, an upload and so many visits, all at once, and what their handshakes were.
fn transfers(case: &Case<'_>, len: usize, visits: usize) -> Result<Vec<Handshake>> {
    let (run, body) = (case.run, payload::bytes(len, 1));
    // Wherever the upload ends: both have the file to be downloaded, and take one.
    let sums =
        run.servers.iter().map(|server| server.put("down", &body)).collect::<Result<Vec<_>>>()?;
    let dial = Dial { timeout: Duration::from_secs(60), ..case.dial.clone() };
    thread::scope(|scope| {
        let down = scope
            .spawn(|| run.connect(&case.client, &dial, |connection| connection.get("/files/down")));
        let up = scope.spawn(|| {
            run.connect(&case.client, &dial, |connection| connection.put("/files/up", &body))
        });
        let mut handshakes = case.visit_at_once(visits, &dial)?;
        let (handshake, response) = down.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        ensure!(response.sha256 == sums[OWNER], "the download arrived changed");
        handshakes.push(handshake);
        let (handshake, _) = up.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        let at = run.backend_named(&handshake.server)?;
        ensure!(run.servers[at].uploaded("up")? == sums[at], "the upload arrived changed");
        handshakes.push(handshake);
        Ok(handshakes)
    })
}
