//! `cargo xtask verify --kernel 6.1`: one re-home with a real TLS client, two servers and the real agent, inside the
//! kernel that runs this.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{agent::Hook, scenario::Scenario, topology::Family};

fn main() -> ExitCode {
    for (hook, family) in [(Hook::Tc, Family::V4), (Hook::Tc, Family::V6), (Hook::Xdp, Family::V4)] {
        if let Err(error) = rehome(hook, family) {
            eprintln!("live: {} {family:?}: {error:#}", hook.word());
            return ExitCode::FAILURE;
        }
        eprintln!("live: {} {family:?}: resumed on the owner from another address, by a splice", hook.word());
    }
    ExitCode::SUCCESS
}

/// A session of backend 0 is offered from an address whose flows go to backend 1.
fn rehome(hook: Hook, family: Family) -> Result<()> {
    let run = Scenario::new(hook, family).backends(2).start()?;
    let steer = run.agent()?;
    let handshake = run.resume_elsewhere(&run.new_client()?)?;
    let splices = steer.count(Counter::SpliceOpened)?;
    ensure!(handshake.resumed, "a full handshake: {handshake:?}");
    ensure!(handshake.server == "backend-0", "resumed at another backend than the owner: {handshake:?}");
    ensure!(splices == 1, "{splices} splices, not 1");
    Ok(())
}
