//! Programs, addresses and sizes at interfaces that change under a running agent.

use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions};
use nix::sys::signal::Signal;
use steer_tests::{
    agent::Hook,
    process::{self, eventually},
    scenario::{Run, Scenario},
    tables,
    topology::{CLIENT_SIDE, Family, backend_side},
    weather,
};
use steer_user::{
    address::endpoint,
    plane::{Kind, Plane},
};

use crate::{NAMED, calm, logged, warned};

fn scenario() -> Scenario {
    Scenario::new(Hook::Tc, Family::V4).backends(2)
}

/// Attaches a program of somebody else in front of all others at the clients' side; it stays for as
/// long as this is held.
fn in_front(run: &Run) -> Result<SchedClassifier> {
    run.lab.gateway().run(|| {
        let mut program = weather::ends_the_chain()?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        program.attach_with_options(CLIENT_SIDE, TcAttachType::Ingress, options)?;
        Ok(program)
    })
}

#[test]
fn a_program_that_ends_the_chain_is_behind_ours_at_a_start_and_named_where_it_comes_in_front()
-> Result<()> {
    let run = scenario().start()?;
    let _first = in_front(&run)?;
    let mut steer = run.agent()?;
    let words = format!("{CLIENT_SIDE}: a TC program of somebody else (id ");
    ensure!(run.resume_elsewhere(&run.new_client()?)?.resumed, "it came behind that one");
    calm(&steer, &words)?;
    let _second = in_front(&run)?;
    warned(&steer, &words)?;
    logged(&steer, &words)?;
    ensure!(run.visit(&run.new_client()?, &run.dial(0)).is_err(), "it ends the chain");
    // The next start comes in front of that, too.
    steer.end(Signal::SIGTERM)?;
    steer.launch()?;
    calm(&steer, &words)?;
    ensure!(run.resume_elsewhere(&run.new_client()?)?.resumed);
    Ok(())
}

#[test]
fn clients_are_told_what_interfaces_take_as_they_are_now() -> Result<()> {
    let run = scenario().start()?;
    let steer = run.agent()?;
    let told = || {
        let vips = Plane::open(&tables::pins(&steer)).and_then(|plane| plane.vips());
        vips.ok()?.into_iter().find(|(at, _)| *at == endpoint(run.vip())).map(|(_, vip)| vip.mss)
    };
    let is = |mss: u16| {
        eventually(NAMED, || told().filter(|now| *now == mss))
            .with_context(|| format!("{:?} is not {mss}; log: {}", told(), steer.log()))
    };
    let before = told().context("no VIP")?;
    for (side, mtu, less) in [
        (CLIENT_SIDE.to_owned(), 1400, 100),
        (CLIENT_SIDE.to_owned(), 1500, 0),
        (backend_side(1), 1300, 200),
    ] {
        run.lab.gateway().ip(&format!("link set {side} mtu {mtu}\n"))?;
        is(before - less)?;
    }
    Ok(())
}

/// The VIP's network comes to another interface than the one that the VIP had to be put on.
#[test]
fn a_vip_on_another_interface_than_its_own_moves_there() -> Result<()> {
    let run = scenario().vip_setting("assign = true").start()?;
    let steer = run.agent()?;
    let gateway = run.lab.gateway();
    let SocketAddr::V4(vip) = run.vip() else { anyhow::bail!("no VIP of IPv4") };
    let (side, vip) = (backend_side(1), *vip.ip());
    let is_on = |name: &str| {
        let addresses = gateway.tool(&format!("ip -4 address show dev {name}")).ok()?;
        Some(addresses.contains(&format!(" {vip}/32 ")))
    };
    ensure!(is_on(CLIENT_SIDE) == Some(true) && is_on(&side) == Some(false));
    let mut neighbour = vip.octets();
    neighbour[3] = 250;
    gateway.ip(&format!("addr add {}/24 dev {side}\n", IpAddr::from(neighbour)))?;
    let moved = || (is_on(&side)? && !is_on(CLIENT_SIDE)?).then_some(());
    eventually(NAMED, moved).with_context(|| steer.log())?;
    // What somebody else put anywhere stays there.
    gateway.ip(&format!("addr del {vip}/32 dev {side}\naddr add {vip}/32 dev {CLIENT_SIDE}\n"))?;
    thread::sleep(Duration::from_secs(5));
    ensure!(is_on(CLIENT_SIDE) == Some(true), "{}", steer.log());
    Ok(())
}

/// The sweep of such a table takes a while, and it rests twenty times as long.
#[test]
fn programs_come_back_while_the_sweep_of_a_large_table_rests() -> Result<()> {
    const SESSIONS: u32 = 300_000;
    /// Shorter than it rests at least.
    const SOON: Duration = Duration::from_secs(4);
    let run = scenario().size(&format!("sessions = {}", 2 * SESSIONS)).start()?;
    let steer = run.agent()?;
    tables::fill_sessions(&steer, SESSIONS)?;
    let pin = tables::pins(&steer).link(&backend_side(1), Kind::Tc);
    for time in 0..4 {
        let mut bpftool = Command::new("bpftool");
        process::run(bpftool.args(["link", "detach", "pinned"]).arg(&pin))?;
        let back =
            || (steer.log().matches("tc was not attached any more").count() > time).then_some(());
        eventually(SOON, back).with_context(|| format!("time {time}: {}", steer.log()))?;
    }
    Ok(())
}
