//! Another configuration is put in force while the agent runs: nothing is lost, all of it is
//! changed or nothing is.

mod changes;
mod refused;
mod saved;
mod service;
mod shapes;

use std::process::Output;

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use steer_tests::{agent::Agent, process::eventually, scenario::Run};

/// Longest wait for what the agent does by itself.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Runs `steer` with these words, whatever comes of it.
fn asked(run: &Run, steer: &Agent<'_>, words: &str) -> Result<Output> {
    run.lab.gateway().run(|| Ok(steer.command(words).output()?))
}

/// Standard error as text.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Sends the agent a signal.
fn signal(steer: &Agent<'_>, signal: Signal) -> Result<()> {
    let process = steer.process_id().context("no agent runs")?;
    kill(Pid::from_raw(process.cast_signed()), signal).context("send a signal")
}

/// Waits until the agent has logged these words.
fn logged(steer: &Agent<'_>, words: &str) -> Result<()> {
    let said = || steer.log().contains(words).then_some(());
    eventually(PATIENCE, said)
        .with_context(|| format!("no line with {words:?} in: {}", steer.log()))
}
