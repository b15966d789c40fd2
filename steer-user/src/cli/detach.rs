//! `steer detach`: needs no agent and no configuration.

use std::{
    collections::HashSet,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::Place;
use crate::{
    address::socket,
    agent, control,
    plane::{self, Detached, PinDir, Plane},
    show,
};

/// How long the agent may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn run(place: &Place) -> Result<()> {
    plane::rights::require()?;
    let dir = place.dir();
    if !dir.root().exists() {
        return show::outcome(place.format(), format!("nothing is pinned at {}", dir.root().display()));
    }
    stop_agent(&dir, &place.socket())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let (detached, addresses) = runtime.block_on(detach(&dir))?;
    control::remove_socket(&place.socket());
    let programs = detached.programs.iter().map(|(interface, kind)| format!("{} of {interface}", kind.word()));
    let what = programs.chain(addresses.iter().map(ToString::to_string)).collect::<Vec<_>>();
    let what = if what.is_empty() { "no program was attached".to_owned() } else { what.join(", ") };
    show::outcome(place.format(), format!("removed the state at {} ({what})", dir.root().display()))
}

/// Programs last, so that TCP to a VIP never reaches the local stack while the VIP is there.
async fn detach(dir: &PinDir) -> Result<(Detached, Vec<IpAddr>)> {
    let addresses = unassign(dir).await?;
    let detached = plane::detach(dir)?;
    agent::remove_unused(&detached.qdiscs).await?;
    Ok((detached, addresses))
}

/// Ends the agent, which would attach again what is detached.
fn stop_agent(dir: &PinDir, socket: &Path) -> Result<()> {
    if !dir.agent_runs() {
        return Ok(());
    }
    let asked = control::ask(socket, &control::Request::Stop {});
    asked.with_context(|| format!("stop the agent that runs for {} (stop it by hand)", dir.root().display()))?;
    let deadline = Instant::now() + PATIENCE;
    while dir.agent_runs() {
        if Instant::now() > deadline {
            bail!("the agent that runs for {} does not end: stop it by hand", dir.root().display());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Takes the VIPs off their interfaces; a state too broken to be read has none we could tell.
async fn unassign(dir: &PinDir) -> Result<Vec<IpAddr>> {
    let vips = Plane::open(dir).and_then(|plane| plane.vips());
    let known = vips.unwrap_or_default().iter().map(|(key, _)| socket(key).ip()).collect::<HashSet<_>>();
    if known.is_empty() { Ok(Vec::new()) } else { agent::unassign(&known).await }
}
