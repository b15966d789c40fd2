//! An agent's life: what it leaves goes on without it, the next one takes it over, and detach
//! leaves nothing.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::{links::fetch_rehomed, small_tables};
use crate::{agent::Hook, payload, scenario::Scenario, topology::Family, traces::Traces};

/// Bytes of the file at the end.
const FILE: usize = 900_000;

/// Killed, started again, told to end, started again, detached; every step re-homes a flow and
/// fetches a file.
pub(super) fn of_an_agent() -> Result<String> {
    let run = small_tables(Scenario::new(Hook::Tc, Family::V4).backends(2)).start()?;
    let body = payload::bytes(FILE, 9);
    let sums =
        run.servers.iter().map(|server| server.put("file", &body)).collect::<Result<Vec<_>>>()?;
    let mut steer = run.agent()?;
    let client = run.new_client()?;
    run.session_at(&client, 0)?;
    let away = run.dial(run.source_not_of(0)?);
    let mut fetched = 0;
    let mut fetch = |steer: &_| {
        fetched += 1;
        fetch_rehomed(&run, steer, &client, &away, &sums[0])
    };

    fetch(&steer)?;
    steer.end(Signal::SIGKILL)?;
    fetch(&steer)?;
    steer.launch()?;
    ensure!(!steer.log().contains("WARN"), "the agent that adopts warns: {}", steer.log());
    fetch(&steer)?;
    let ended = steer.ended_by(Signal::SIGTERM)?;
    // An agent that is told to end finishes its walk through the tables.
    ensure!(ended.success(), "told to end, the agent ends by {ended}: {}", steer.log());
    fetch(&steer)?;
    steer.launch()?;
    fetch(&steer)?;

    let there = Traces::of(&run, &steer)?;
    ensure!(there.tc == [1, 1, 1] && !there.pins.is_empty(), "the gateway runs by {there:?}");
    steer.steer("detach")?;
    Traces::of(&run, &steer)?.none()?;
    Ok(format!(
        "{fetched} files over re-homed flows; killed, adopted, ended, adopted, detached: nothing left"
    ))
}
