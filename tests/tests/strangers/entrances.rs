//! VIPs that share one pool: its sessions, its backends, and one port of a client towards several of
//! them at once.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use steer_common::counters::Counter;
use steer_tests::{
    case::{FIRST, OWNER},
    client::{Client, Dial},
    nginx, payload,
    scenario::Run,
    setting::{Setting, in_settings},
    talk::Who,
    topology::second_vip,
};

use crate::street::{Since, Street, nothing_was_guessed};

const PORT: u16 = 20_000;
/// Bytes each way.
const MEGABYTE: usize = 1 << 20;

fn run(setting: Setting) -> Result<Run> {
    let kept = nginx::Settings { keepalive: "60s".to_owned(), ..nginx::Settings::default() };
    let mut scenario = setting.scenario().nginx(kept);
    scenario.steer.second_vips = true;
    let run = scenario.start()?;
    for server in &run.servers {
        server.put("file", &payload::bytes(MEGABYTE, 7))?;
    }
    Ok(run)
}

/// A megabyte either way; whether the session was resumed, and where.
fn visit(run: &Run, client: &Client, from: usize, vip: SocketAddr) -> Result<(bool, usize)> {
    let dial = Dial::new(run.source(from), vip);
    let (handshake, ()) = run.connect(client, &dial, |connection| {
        connection.keep_open(true);
        let sum = payload::sha256(&payload::bytes(MEGABYTE, 7));
        ensure!(connection.get("/files/file")?.sha256 == sum, "the file arrived changed");
        connection.put("/files/up", &payload::bytes(MEGABYTE, 3))?;
        connection.keep_open(false);
        connection.get("/")?;
        connection.finish()
    })?;
    let server = run.backend_named(&handshake.server)?;
    let uploaded = run.servers[server].uploaded("up")?;
    ensure!(uploaded == payload::sha256(&payload::bytes(MEGABYTE, 3)), "the upload changed");
    Ok((handshake.resumed, server))
}

#[test]
fn a_session_of_one_vip_is_resumed_at_its_owner_by_another_one() -> Result<()> {
    in_settings(246, |setting| {
        let run = run(setting)?;
        let steer = run.agent()?;
        let vips = [run.vip(), second_vip(setting.family)];
        for (learned, offered) in [(vips[0], vips[1]), (vips[1], vips[0])] {
            let before = steer.count(Counter::SpliceOpened)?;
            let client = run.new_client()?;
            let first = visit(&run, &client, run.source_of(OWNER)?, learned)?;
            ensure!(first == (false, OWNER), "{first:?}");
            // From another address, which leads elsewhere.
            let again = visit(&run, &client, run.source_of(FIRST)?, offered)?;
            ensure!(again == (true, OWNER), "{again:?}");
            ensure!(steer.count(Counter::SpliceOpened)? == before + 1, "it was moved there");
        }
        nothing_was_lost(&steer)
    })
}

fn nothing_was_lost(steer: &steer_tests::agent::Agent<'_>) -> Result<()> {
    for counter in [Counter::EntranceUnknown, Counter::LegCollided, Counter::NoFlowForwarded] {
        let n = steer.count(counter)?;
        ensure!(n == 0, "{}: {n}", counter.word());
    }
    Ok(())
}

/// A drain, a new agent and what is shown are the pool's, once for all of its VIPs.
#[test]
fn backends_drain_for_all_vips_of_their_pool_and_are_shown_once() -> Result<()> {
    in_settings(247, |setting| {
        let run = run(setting)?;
        let mut steer = run.agent()?;
        let vips = [run.vip(), second_vip(setting.family)];
        let client = run.new_client()?;
        visit(&run, &client, run.source_of(OWNER)?, vips[0])?;
        let backend = run.backend_address(OWNER).to_string();
        let listed = steer.steer("backends list")?;
        let rows = listed.lines().filter(|line| line.contains(&backend) && line.contains(" up "));
        ensure!(rows.count() == 1, "{listed}");
        let status = steer.steer("status")?;
        ensure!(status.contains(&vips[1].to_string()), "{status}");
        let sessions = steer.steer(&format!("sessions list --vip {}", vips[1]))?;
        ensure!(sessions.contains(&vips[0].to_string()), "{sessions}");
        let home = run.source_of(OWNER)?;
        steer.steer(&format!("backends drain {backend}"))?;
        for vip in vips {
            let other = visit(&run, &run.new_client()?, home, vip)?;
            ensure!(other.1 != OWNER, "{other:?}: it drains");
        }
        // What it owns persists, by either VIP.
        for vip in vips {
            let again = visit(&run, &client, home, vip)?;
            ensure!(again == (true, OWNER), "{again:?}");
        }
        steer.steer(&format!("backends undrain {backend}"))?;
        // Another agent goes on with all of it.
        steer.end(Signal::SIGKILL)?;
        steer.launch()?;
        for vip in vips {
            let other = visit(&run, &run.new_client()?, home, vip)?;
            ensure!(other == (false, OWNER), "{other:?}");
            let again = visit(&run, &client, run.source_of(FIRST)?, vip)?;
            ensure!(again == (true, OWNER), "{again:?}");
        }
        steer.steer("detach").map(drop)
    })
}

/// The client's address leads both connections to the same backend.
#[test]
fn one_port_serves_both_vips_at_once() -> Result<()> {
    in_settings(248, |setting| {
        let mut street = Street::build(setting)?;
        street.steer.second_vips = true;
        let mut steer = street.agent()?;
        let vips = [street.vip(), second_vip(setting.family)];
        let translated = Since::now(&steer)?.of(Counter::LegTranslated)?;
        for (client, order) in [(0, [0, 1]), (1, [1, 0]), (2, [0, 1])] {
            let source = SocketAddr::new(street.client(client), PORT);
            let [one, other] = order.map(|which| vips[which]);
            let mut first = street.dial_from(source, one).context("the first")?;
            first.exchange(MEGABYTE).context("the first, alone")?;
            let mut second = street.dial_from(source, other).context("the second")?;
            for _ in 0..2 {
                second.exchange(MEGABYTE).context("the second")?;
                first.exchange(MEGABYTE).context("the first, beside the second")?;
            }
            ensure!(first.server_name == second.server_name, "one backend");
            if client == 2 {
                steer.end(Signal::SIGKILL)?;
                steer.launch()?;
            }
            first.say(Who::Server, 1000)?;
            second.say(Who::Server, 1000)?;
            first.finish(Who::Server).context("the first ends")?;
            second.exchange(MEGABYTE).context("the second, alone")?;
            second.finish(Who::Client).context("the second ends")?;
            // The port is free again.
            let mut third = street.dial_from(source, other).context("the third")?;
            third.exchange(MEGABYTE).context("the third")?;
            third.finish(Who::Client).context("the third ends")?;
        }
        let translated = steer.count(Counter::LegTranslated)? - translated;
        ensure!((3..=6).contains(&translated), "{translated} had another port");
        nothing_was_guessed(&steer)
    })
}
