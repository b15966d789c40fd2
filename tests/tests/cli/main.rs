//! The command line and the agent's life on a live gateway: what docs/cli.md and docs/config.md
//! promise.

mod backends;
mod bridge;
mod check;
mod doctor;
mod flows;
mod frozen;
mod health;
mod life;
mod pools;
mod session_file;
mod state;
mod store;
mod verbs;
mod watch;

use std::{env, path::PathBuf, process::Output};

use anyhow::{Context, Result};
use serde_json::Value;
use steer_tests::{
    agent::{Agent, Hook},
    scenario::{Run, Scenario},
    topology::Family,
};

pub(crate) const TEN_SECONDS: std::time::Duration = std::time::Duration::from_secs(10);

/// A configuration without fault; tests damage a copy.
pub(crate) const GOOD: &str = r#"[[interface]]
name = "eth0"

[[vip]]
address = "198.51.100.10:443"
session_timeout = "10m"

[[vip.backend]]
address = "10.0.0.11:443"
"#;

pub(crate) fn two_backends() -> Result<Run> {
    Scenario::new(Hook::Tc, Family::V4).backends(2).start()
}

#[track_caller]
pub(crate) fn error<T>(outcome: Result<T>) -> String {
    outcome.err().map(|error| format!("{error:#}")).expect("this was refused")
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The program that the lab's agents run.
pub(crate) fn binary() -> Result<PathBuf> {
    let beside = env::current_exe()?.ancestors().nth(2).map(|directory| directory.join("steer"));
    env::var_os("STEER_BIN")
        .map(PathBuf::from)
        .or(beside)
        .filter(|path| path.exists())
        .context("no binary steer")
}

pub(crate) fn backend(steer: &Agent<'_>, address: &str) -> Result<Value> {
    let list = steer.json("backends list")?;
    let found = list["backends"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|backend| backend["address"] == address);
    found.cloned().with_context(|| format!("no backend {address} in {list}"))
}
