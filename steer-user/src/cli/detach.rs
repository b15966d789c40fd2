//! `steer detach`: needs no agent and no configuration.

use std::{
    collections::HashSet,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use steer_common::shared::SWITCH_LEAVE;

use super::Place;
use crate::{
    agent::{self, Farewell, Open},
    clock::parse_seconds,
    control,
    plane::{self, Detached, PinDir, Plane},
    show,
};

/// How long the agent may take to end: it writes down what it knows.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is counted what is open.
const LOOK: Duration = Duration::from_secs(1);
/// How often the count is told.
const TELL: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
pub(super) struct Detach {
    /// First leave: new connections go to the kernel's own rules, and nothing is removed before the
    /// open ones have ended, e.g. 10m; if they have not by then, nothing is removed
    #[arg(long, value_name = "DURATION", value_parser = parse_seconds)]
    wait: Option<Duration>,
}

impl Detach {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        plane::rights::require()?;
        let dir = place.dir();
        place.refuse_hidden(&dir)?;
        if dir.layouts().is_empty() {
            dir.remove()?;
            return show::outcome(
                place.format(),
                format!("nothing is pinned at {}", dir.root().display()),
            );
        }
        if let Some(limit) = self.wait {
            wait(&dir, limit)?;
        }
        // Told by the state that is about to go.
        let sockets = dir.layouts().iter().filter_map(PinDir::socket).collect::<Vec<_>>();
        for layout in dir.layouts() {
            stop_agent(&layout, sockets.first().cloned().unwrap_or_else(|| place.socket()))?;
        }
        let farewell = farewell(&dir);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the runtime")?;
        let (detached, addresses) = runtime.block_on(detach(&dir))?;
        sockets.iter().for_each(|socket| control::remove_dead_socket(socket));
        say(farewell);
        let programs = detached
            .programs
            .iter()
            .map(|(interface, kind)| format!("{} of {interface}", kind.word()));
        let what = programs.chain(addresses.iter().map(ToString::to_string)).collect::<Vec<_>>();
        let what =
            if what.is_empty() { "no program was attached".to_owned() } else { what.join(", ") };
        show::outcome(
            place.format(),
            format!("removed the state at {} ({what})", dir.root().display()),
        )
    }
}

/// Leaves, and waits until no connection needs the programs any more.
fn wait(dir: &PinDir, limit: Duration) -> Result<()> {
    dir.require()?;
    let mut plane = Plane::open(dir)?;
    plane.set_switch(SWITCH_LEAVE, true)?;
    let deadline = Instant::now() + limit;
    let mut told: Option<Instant> = None;
    loop {
        // A reload may have made tables of another size.
        let open = agent::open(&Plane::open(dir)?)?;
        if open.total() == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!(
                "{} are still open after {}: nothing was removed; leave mode stays on (new connections go to the kernel's own \
                 rules). `steer detach` removes everything now and breaks them, `steer leave off` takes new connections again",
                describe(open),
                humantime::format_duration(limit)
            );
        }
        if told.is_none_or(|told| told.elapsed() >= TELL) {
            show::note(format_args!("waiting for {}", describe(open)));
            told = Some(Instant::now());
        }
        std::thread::sleep(LOOK.min(deadline.saturating_duration_since(Instant::now())));
    }
}

fn describe(open: Open) -> String {
    let Open { connections, handshakes, direct } = open;
    let parts = [
        (connections, "to VIPs"),
        (handshakes, "being made"),
        (direct, "to backends themselves, by another port of their client"),
    ];
    let parts = parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}"));
    format!("{} connections ({})", open.total(), parts.collect::<Vec<_>>().join(", "))
}

/// Programs last, so that TCP to a VIP never reaches the local stack while the VIP is there.
async fn detach(dir: &PinDir) -> Result<(Detached, Vec<IpAddr>)> {
    let known = plane::vip_addresses(dir).into_iter().collect::<HashSet<_>>();
    let addresses = if known.is_empty() { Vec::new() } else { agent::unassign(&known).await? };
    let detached = plane::detach(dir)?;
    agent::remove_unused(&detached.qdiscs).await?;
    Ok((detached, addresses))
}

/// Whom it concerns that the programs go. What cannot be read keeps nobody from removing it.
fn farewell(dir: &PinDir) -> Farewell {
    let of = |layout: &PinDir| Plane::open(layout).and_then(|plane| Farewell::prepare(&plane));
    of(dir).unwrap_or_else(|error| {
        log::debug!("find the clients whose connections end: {error:#}");
        Farewell::default()
    })
}

fn say(farewell: Farewell) {
    match farewell.say() {
        Ok(0) => {}
        Ok(untold) => show::note(format_args!(
            "{untold} clients could not be told that their connections are over: those that only listen wait for their own \
             timeouts"
        )),
        Err(error) => show::note(format_args!("{error:#}")),
    }
}

/// Ends the agent, which would attach again what is detached: at its socket, or else the process
/// that holds the lock.
fn stop_agent(dir: &PinDir, socket: PathBuf) -> Result<()> {
    if !dir.agent_runs() {
        return Ok(());
    }
    let at = dir.state();
    if let Err(error) = control::ask(dir, &socket, &control::Request::Stop {}) {
        log::debug!("{error:#}");
        // It may have ended meanwhile.
        let Some(process) = dir.agent_process() else {
            return if dir.agent_runs() {
                Err(error).with_context(|| {
                    format!("stop the agent that runs for {} (stop it by hand)", at.display())
                })
            } else {
                Ok(())
            };
        };
        // SAFETY: a signal to the process that holds the lock of this very directory.
        unsafe { libc::kill(process as libc::pid_t, libc::SIGTERM) };
    }
    let deadline = Instant::now() + PATIENCE;
    while dir.agent_runs() {
        if Instant::now() > deadline {
            bail!("the agent that runs for {} does not end: stop it by hand", at.display());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
