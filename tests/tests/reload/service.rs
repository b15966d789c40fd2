//! What a service manager is told.

use std::{os::unix::net::UnixDatagram, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use steer_tests::{
    agent::{Agent, Hook},
    process::eventually,
    scenario::Scenario,
    topology::Family,
};

use super::{PATIENCE, asked, logged, signal};

/// A service manager that only listens.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(path).context("listen as a service manager")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(Self(socket))
    }

    /// Waits for a message that has this line; returns the whole message.
    fn hears(&self, line: &str) -> Result<String> {
        let mut heard = Vec::new();
        let hear = || {
            let mut bytes = [0; 4096];
            let n = self.0.recv(&mut bytes).ok()?;
            let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
            let is_it = text.lines().any(|said| said == line);
            heard.push(text.clone());
            is_it.then_some(text)
        };
        eventually(PATIENCE, hear).with_context(|| format!("no {line} in {heard:?}"))
    }
}

#[test]
fn a_service_manager_hears_of_the_start_of_reloads_of_every_turn_and_of_the_end() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("notify");
    let manager = Manager::at(&path)?;
    let mut run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    run.steer.environment = vec![
        ("NOTIFY_SOCKET".to_owned(), path.display().to_string()),
        ("WATCHDOG_USEC".to_owned(), "3000000".to_owned()),
    ];
    let mut steer = run.agent()?;
    let ready = manager.hears("READY=1")?;
    ensure!(ready.contains("STATUS=") && ready.contains("backends 4"), "{ready}");
    manager.hears("WATCHDOG=1")?;
    manager.hears("WATCHDOG=1")?;

    signal(&steer, Signal::SIGHUP)?;
    let reloading = manager.hears("RELOADING=1")?;
    let stamp = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    ensure!(stamp.is_some_and(|stamp| stamp.parse::<u64>().is_ok()), "{reloading}");
    manager.hears("READY=1")?;
    logged(&steer, "changes nothing")?;

    steer.rewrite(|file| file.replace("interval = \"200ms\"", "interval = \"300ms\""))?;
    signal(&steer, Signal::SIGHUP)?;
    manager.hears("RELOADING=1")?;
    manager.hears("READY=1")?;
    logged(&steer, "is in force (2 changes)")?;
    manager.hears("WATCHDOG=1")?;

    steer.rewrite(|file| format!("colour = 1\n{file}"))?;
    signal(&steer, Signal::SIGHUP)?;
    manager.hears("RELOADING=1")?;
    manager.hears("READY=1")?;
    logged(&steer, "reload: refused")?;

    steer.end(Signal::SIGTERM)?;
    manager.hears("STOPPING=1").map(drop)
}

#[test]
fn an_agent_that_is_starting_or_not_there_is_told_so_in_words() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let mut steer = Agent::prepare(&run.lab, &run.steer)?;
    for words in
        ["status", "backends list", "sessions list", "stats", "keys list", "config show", "reload"]
    {
        let output = asked(&run, &steer, words)?;
        let told = super::said(&output);
        ensure!(told.contains("no gateway runs here") && !told.contains("BPF_"), "{words}: {told}");
    }
    // The pin directory is there, and somebody holds it, and there are no maps yet.
    std::fs::create_dir_all(steer.map_pin(""))?;
    let held = std::fs::File::open(steer.map_pin(""))?;
    held.lock()?;
    for words in ["status", "backends list", "sessions list", "stats", "keys list"] {
        let output = asked(&run, &steer, words)?;
        let told = super::said(&output) + &String::from_utf8_lossy(&output.stdout);
        ensure!(told.contains("starting") && !told.contains("BPF_"), "{words}: {told}");
    }
    drop(held);
    let output = asked(&run, &steer, "status")?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    steer.launch()
}
