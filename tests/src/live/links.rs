//! The gateway's interfaces are what `hook = "auto"` meets outside a lab: VLANs, bridges, bonds,
//! NICs.

use anyhow::{Result, ensure};
use steer_common::counters::Counter;

use super::small_tables;
use crate::{
    agent::{Agent, Hook},
    client::{Client, Dial},
    payload,
    scenario::{Run, Scenario},
    topology::{Family, Link},
};

/// Bytes fetched over one connection: more than any initial window, so that the client acknowledges
/// and the server goes on by what it hears.
const FILE: usize = 900_000;

/// A session is offered at home and away, and a file is fetched over a re-homed flow.
pub(super) fn over(hook: Hook, clients: Link, backends: Link) -> Result<String> {
    let run = start(hook, clients, backends)?;
    let steer = run.agent()?;
    works(&run, &steer)?;
    Ok(format!(
        "a file over a re-homed flow, {} packets by XDP",
        steer.count(Counter::XdpForwarded)?
    ))
}

/// As [`over`] with NICs on all sides, where `auto` must take XDP and XDP must forward.
pub(super) fn over_nics_by_xdp() -> Result<String> {
    let run = start(Hook::Auto, Link::Nic, Link::Nic)?;
    let steer = run.agent()?;
    let status = steer.json("status")?;
    let interfaces = status["interfaces"].as_array().cloned().unwrap_or_default();
    ensure!(
        interfaces.len() == 3 && interfaces.iter().all(|interface| interface["xdp"] == true),
        "`auto` did not take XDP on every NIC: {interfaces:?}; log: {}",
        steer.log()
    );
    works(&run, &steer)?;
    let forwarded = steer.count(Counter::XdpForwarded)?;
    // The file alone is over 600 segments.
    ensure!(forwarded > 600, "XDP forwarded {forwarded} packets, so most went by TC");
    Ok(format!("XDP on all, a file over a re-homed flow, {forwarded} packets by XDP"))
}

fn start(hook: Hook, clients: Link, backends: Link) -> Result<Run> {
    small_tables(Scenario::new(hook, Family::V4).backends(2))
        .links(&[clients, backends, backends])
        .start()
}

/// Every step as a client of a good network sees it: no error, nothing changed, the session resumed
/// by its owner.
pub(super) fn works(run: &Run, steer: &Agent<'_>) -> Result<()> {
    let body = payload::bytes(FILE, 7);
    let sums =
        run.servers.iter().map(|server| server.put("file", &body)).collect::<Result<Vec<_>>>()?;
    let client = run.new_client()?;
    run.session_at(&client, 0)?;
    let home = run.visit(&client, &run.dial(run.source_of(0)?))?;
    ensure!(home.resumed && home.server == "backend-0", "not resumed at home: {home:?}");
    let away = run.dial(run.source_not_of(0)?);
    fetch_rehomed(run, steer, &client, &away, &sums[0])
}

/// Fetches the file with the session of backend 0 from an address of another backend's flows.
pub(super) fn fetch_rehomed(
    run: &Run,
    steer: &Agent<'_>,
    client: &Client,
    away: &Dial,
    sum: &str,
) -> Result<()> {
    let before = steer.count(Counter::SpliceOpened)?;
    let (handshake, fetched) = run.connect(client, away, |connection| {
        let response = connection.get("/files/file")?;
        connection.finish()?;
        Ok(response.sha256)
    })?;
    ensure!(
        handshake.resumed && handshake.server == "backend-0",
        "not resumed by its owner: {handshake:?}"
    );
    ensure!(fetched == sum, "the file arrived changed");
    let opened = steer.count(Counter::SpliceOpened)? - before;
    ensure!(opened == 1, "{opened} splices for one flow");
    Ok(())
}
