//! Clocks that jump. The programs go by the kernel's CLOCK_MONOTONIC, which nobody can set; what an
//! agent sees of it may be another one, in a time namespace (a container). The time of day is used
//! nowhere: a lint forbids it (steer-user/clippy.toml), so that setting it is nothing to be tried
//! on a machine that others use as well.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, OWNER},
    payload,
    setting::in_one_setting,
};

/// One sweep and a bit: what is too old is deleted then.
const SWEPT: Duration = Duration::from_millis(6_500);

#[test]
fn an_agent_whose_clock_is_a_day_ahead_ages_nothing() -> Result<()> {
    in_one_setting(|_| goes_by_another_clock("86400"))
}

/// As far back as such a clock can be set: it must not have been before the machine's start.
#[test]
fn an_agent_whose_clock_is_behind_ages_nothing_and_drains_in_time() -> Result<()> {
    let uptime = std::fs::read_to_string("/proc/uptime")?;
    let seconds = uptime.split('.').next().unwrap_or_default().parse::<u64>()?;
    in_one_setting(|_| goes_by_another_clock(&format!("-{}", seconds.saturating_sub(5))))
}

/// The agent that learned a session is replaced by one with another clock, in the middle of a
/// download.
fn goes_by_another_clock(offset: &str) -> Result<()> {
    let run = steer_tests::setting::PLAIN.scenario().start()?;
    let mut case = Case::start(&run)?;
    let sum = run.servers[OWNER].put("down", &payload::bytes(16 << 20, 1))?;
    let sessions = case.steer.json("sessions list")?["total"].clone();
    let (client, dial) = (case.client.clone(), case.dial.clone());
    let steer = &mut case.steer;
    let mut relaunched = None;
    let (handshake, response) = run.connect(&client, &dial, |connection| {
        connection.get_watched("/files/down", |read| {
            if read > 1 << 20 {
                relaunched.get_or_insert_with(|| -> Result<()> {
                    steer.end(Signal::SIGKILL)?;
                    steer.launch_by(&["unshare", "--time", "--monotonic", offset])?;
                    thread::sleep(SWEPT);
                    Ok(())
                });
            }
        })
    })?;
    relaunched.transpose()?;
    ensure!(handshake.resumed && response.sha256 == sum, "{handshake:?}");
    ensure!(case.steer.json("sessions list")?["total"] == sessions, "sessions were lost");
    case.moves(&case.dial)?;
    // A drain's deadline is the agent's to write and the programs' to judge.
    case.steer.steer(&format!("backends drain --for 1h {}", run.backend_address(OWNER)))?;
    case.moves(&case.dial)?;
    case.expect(&[
        (Counter::SpliceOpened, 3),
        (Counter::SessionExpired, 0),
        (Counter::OwnerDrained, 0),
    ])?;
    case.steer.steer(&format!("backends drain --for 1s {}", run.backend_address(OWNER)))?;
    thread::sleep(Duration::from_millis(2_200));
    case.stays(&case.dial)?;
    case.expect(&[(Counter::OwnerDrained, 1)])?;
    case.unharmed(3)
}
