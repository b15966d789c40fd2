//! Backends that are to rest: how many connections are open at them, waiting until they may be
//! stopped, and the states that an operator gives them.

use std::{net::SocketAddr, process::Output, thread};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use steer_common::counters::Counter;
use steer_tests::{
    agent::{Agent, Hook},
    client::{Client, Connection, Dial},
    nginx,
    process::eventually,
    scenario::{Run, Scenario},
    topology::Family,
};

use crate::{TEN_SECONDS, backend, error, said};

/// Two servers that keep connections open.
fn run() -> Result<Run> {
    let nginx = nginx::Settings { keepalive: "60s".to_owned(), ..nginx::Settings::default() };
    Scenario::new(Hook::Tc, Family::V4).backends(2).nginx(nginx).start()
}

/// A connection that stays open.
fn open(run: &Run, client: &Client, dial: &Dial) -> Result<Connection> {
    let mut connection = run.lab.client().run(|| client.connect(dial))?;
    connection.keep_open(true);
    connection.get("/")?;
    Ok(connection)
}

/// Waits until the agent has counted so many open connections at a backend.
fn counted(steer: &Agent<'_>, at: SocketAddr, open: u64) -> Result<Value> {
    let told = || steer.backend(at).ok().filter(|backend| backend["open_flows"] == open);
    eventually(TEN_SECONDS * 2, told)
        .with_context(|| format!("not {open} open: {:?}", steer.backend(at)))
}

fn output(run: &Run, steer: &Agent<'_>, words: &str) -> Result<Output> {
    run.lab.gateway().run(|| Ok(steer.command(words).output()?))
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn open_flows_are_counted_where_they_are_held() -> Result<()> {
    let run = run()?;
    let mut steer = run.agent()?;
    let (owner, other) = (run.backend_address(0), run.backend_address(1));
    let client = run.new_client()?;
    run.session_at(&client, 0)?;
    let elsewhere = run.dial(run.source_of(1)?);
    // The first backend of both is the other one; one moves.
    let moved = open(&run, &client, &elsewhere)?;
    ensure!(moved.handshake.resumed, "it did not move");
    let stays = open(&run, &run.new_client()?, &elsewhere)?;
    let held = counted(&steer, owner, 1)?;
    ensure!(held["sessions"].as_u64() > Some(0) && held["key_names"] == 0, "{held}");
    counted(&steer, other, 1)?;
    let list = steer.json("backends list")?;
    ensure!(list["counted_seconds"].as_u64().is_some_and(|age| age < 60), "{list}");
    ensure!(steer.json("status")?["vips"][0]["open_flows"] == 2);
    ensure!(steer.steer("backends list")?.contains("OPEN"));
    drop(moved);
    counted(&steer, owner, 0)?;
    drop(stays);
    counted(&steer, other, 0)?;
    // Nobody counts without an agent.
    steer.end(Signal::SIGKILL)?;
    ensure!(steer.backend(owner)?["open_flows"] == Value::Null);
    ensure!(steer.json("backends list")?["counted_seconds"] == Value::Null);
    Ok(())
}

#[test]
fn a_drain_that_waits_ends_when_nothing_is_open_and_says_what_is_left() -> Result<()> {
    let run = run()?;
    let steer = run.agent()?;
    let (owner, address) = (run.backend_address(0), run.backend_address(0).to_string());
    let (client, home) = (run.new_client()?, run.dial(run.source_of(0)?));
    let connection = open(&run, &client, &home)?;
    let early = output(&run, &steer, &format!("backends drain --wait --timeout 12s {address}"))?;
    let (code, told_early) = (early.status.code(), told(&early));
    ensure!(code == Some(3), "{code:?} {told_early} {}", said(&early));
    ensure!(
        told_early.contains("not safe to stop after 12s (1 open flow,")
            && told_early.ends_with("the drain goes on"),
        "{told_early}"
    );
    ensure!(said(&early).contains("1 open flow, "), "no progress: {}", said(&early));
    ensure!(steer.backend(owner)?["state"] == "draining");
    // From the moment the command returned nothing new comes here, and its sessions do.
    let stranger = run.new_client()?;
    for _ in 0..5 {
        stranger.forget();
        ensure!(run.backend_named(&run.visit(&stranger, &home)?.server)? == 1);
    }
    let visit = run.visit(&client, &home)?;
    ensure!(visit.resumed && run.backend_named(&visit.server)? == 0, "{visit:?}");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            output(&run, &steer, &format!("backends drain --wait --timeout 1m {address}"))
        });
        counted(&steer, owner, 1)?;
        ensure!(!waiting.is_finished(), "it is not safe yet");
        drop(connection);
        let done = waiting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let sentence = told(&done);
        ensure!(
            done.status.success()
                && sentence.contains(&format!("{address}: safe to stop (0 open flows, ")),
            "{sentence} {}",
            said(&done)
        );
        ensure!(!sentence.contains(" 0 sessions left"), "its session is left: {sentence}");
        Ok(())
    })?;
    run.servers[0].stop()?;
    // It was safe: whoever comes is served.
    ensure!(run.backend_named(&run.visit(&stranger, &home)?.server)? == 1);
    Ok(())
}

#[test]
fn several_backends_drain_at_once_or_none_where_one_is_unknown() -> Result<()> {
    let run = run()?;
    let mut steer = run.agent()?;
    let addresses = [0, 1].map(|index| run.backend_address(index).to_string());
    let state = |steer: &Agent<'_>| -> Result<Vec<Value>> {
        addresses.iter().map(|at| Ok(backend(steer, at)?["state"].clone())).collect()
    };
    let refused = error(steer.steer(&format!("backends drain {} 10.9.9.9:443", addresses[0])));
    ensure!(refused.contains("there is no backend 10.9.9.9:443"), "{refused}");
    ensure!(state(&steer)? == ["up", "up"], "nothing of it was done");
    let refused = error(steer.steer(&format!("backends drain --timeout 1m {}", addresses[0])));
    ensure!(refused.contains("--wait"), "{refused}");
    steer.steer(&format!("backends drain --wait {}", addresses.join(" ")))?;
    ensure!(state(&steer)? == ["draining", "draining"]);
    let wait = format!("backends drain --wait --timeout 1m {}", addresses[0]);
    steer.end(Signal::SIGTERM)?;
    ensure!(error(steer.steer(&wait)).contains("needs a running agent"));
    Ok(())
}

/// Neither new clients nor sessions come to it, and what runs goes on, over a restart of the agent,
/// too.
#[test]
fn a_disabled_backend_keeps_what_runs_and_gets_nothing_more() -> Result<()> {
    let run = run()?;
    let mut steer = run.agent()?;
    let (owner, address) = (run.backend_address(0), run.backend_address(0).to_string());
    let (client, home) = (run.new_client()?, run.dial(run.source_of(0)?));
    run.session_at(&client, 0)?;
    let mut connection = open(&run, &run.new_client()?, &home)?;
    steer.steer(&format!("backends disable {address}"))?;
    steer.end(Signal::SIGTERM)?;
    steer.launch_timed()?;
    let listed = steer.backend(owner)?;
    ensure!(listed["state"] == "disabled" && listed["drain_seconds"] == Value::Null, "{listed}");
    let drift = steer.json("status")?["drift"].to_string();
    ensure!(drift.contains(&format!("{address} is disabled; ")), "{drift}");
    ensure!(steer.json("status")?["health"]["state"] == "healthy", "on purpose is no trouble");
    let visit = run.visit(&client, &home)?;
    ensure!(!visit.resumed && run.backend_named(&visit.server)? == 1, "{visit:?}");
    ensure!(steer.count(Counter::OwnerDrained)? == 1);
    connection.get("/")?;
    ensure!(error(steer.steer(&format!("backends undrain {address}"))).contains("is disabled"));
    steer.steer(&format!("backends enable {address}"))?;
    ensure!(steer.backend(owner)?["state"] == "up");
    ensure!(run.backend_named(&run.visit(&run.new_client()?, &home)?.server)? == 0);
    Ok(())
}

#[test]
fn a_backend_that_is_off_counts_as_down_whatever_its_checks_say() -> Result<()> {
    let run = run()?;
    let mut steer = run.agent()?;
    let (owner, address) = (run.backend_address(0), run.backend_address(0).to_string());
    let (client, home) = (run.new_client()?, run.dial(run.source_of(0)?));
    run.session_at(&client, 0)?;
    steer.steer(&format!("backends drain {address}"))?;
    steer.steer(&format!("backends off {address}"))?;
    let visit = run.visit(&client, &home)?;
    ensure!(!visit.resumed && run.backend_named(&visit.server)? == 1, "{visit:?}");
    ensure!(steer.count(Counter::OwnerDown)? == 1);
    // An agent that starts is told the same.
    steer.end(Signal::SIGTERM)?;
    steer.launch_timed()?;
    ensure!(steer.backend(owner)?["state"] == "off");
    ensure!(steer.json("status")?["health"] == json!({"state": "healthy", "because": []}));
    // What its checks found meanwhile is what it is afterwards.
    run.servers[0].stop()?;
    let down = || steer.log().contains(&format!("backend {address} is down")).then_some(());
    eventually(TEN_SECONDS, down).context("its checks do not go on")?;
    ensure!(steer.backend(owner)?["state"] == "off");
    steer.steer(&format!("backends enable {address}"))?;
    ensure!(steer.backend(owner)?["state"] == "down");
    run.servers[0].restart(run.lab.backend(0))?;
    let up = || steer.backend(owner).ok().filter(|backend| backend["state"] == "up");
    eventually(TEN_SECONDS, up).context("it does not come back")?;
    // Lookup tables follow a moment later.
    let served = || {
        let visit = run.visit(&run.new_client().ok()?, &home).ok()?;
        (run.backend_named(&visit.server).ok()? == 0).then_some(())
    };
    eventually(TEN_SECONDS, served).context("new clients do not come back")?;
    Ok(())
}
