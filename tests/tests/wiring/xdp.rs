//! XDP sends only to interfaces that take its frames; all else leaves by TC.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use steer_common::counters::Counter;
use steer_tests::{
    agent::{Agent, Hook},
    case::{Case, OWNER},
    payload,
    process::eventually,
    scenario::{Run, Scenario},
    topology::{Family, backend_side, mac, mac_text},
};

use crate::logged;

fn two_backends() -> Scenario {
    Scenario::new(Hook::Xdp, Family::V4).backends(2)
}

/// As `steer status` has it.
fn takes_xdp(steer: &Agent<'_>, interface: &str) -> Result<bool> {
    let status = steer.json("status")?;
    let interfaces = status["interfaces"].as_array().cloned().unwrap_or_default();
    Ok(interfaces
        .iter()
        .any(|found| found["name"] == interface && found["takes_xdp"] == Value::Bool(true)))
}

fn gro(run: &Run, backend: usize, state: &str) -> Result<()> {
    run.lab.backend(backend).tool(&format!("ethtool -K eth0 gro {state}")).map(drop)
}

/// A veth takes frames only while its peer has GRO or XDP: this one has neither.
#[test]
fn a_veth_whose_peer_has_no_gro_gets_its_packets_by_tc() -> Result<()> {
    let run = two_backends().start()?;
    gro(&run, OWNER, "off")?;
    let case = Case::start(&run)?;
    ensure!(
        !takes_xdp(&case.steer, &backend_side(OWNER))? && takes_xdp(&case.steer, &backend_side(1))?
    );
    logged(&case.steer, &format!("{} takes no frames of XDP", backend_side(OWNER)))?;
    case.moves(&case.dial)?;
    ensure!(case.upload(&case.dial, &payload::bytes(2_000_000, 1))?.resumed);
    case.expect(&[(Counter::SpliceOpened, 2)])?;
    // Answers go to the clients' side, which takes them.
    ensure!(case.counted(Counter::XdpForwarded)? > 20);
    Ok(())
}

/// The way to a backend leads out of an interface that is not managed and has no XDP at all.
#[test]
fn what_leaves_by_a_bridge_leaves_by_tc() -> Result<()> {
    let run = two_backends().unknown_neighbours().start()?;
    let (port, gateway) = (backend_side(OWNER), run.lab.gateway());
    gateway.ip(&format!(
        "link add br0 address {} type bridge\nlink set br0 up\naddr del 10.2.0.1/24 dev {port}\n\
         link set {port} master br0\naddr add 10.2.0.1/24 dev br0\n",
        mac_text(mac(OWNER + 1, 1))
    ))?;
    let case = Case::start(&run)?;
    case.moves(&case.dial)?;
    ensure!(case.upload(&case.dial, &payload::bytes(2_000_000, 1))?.resumed);
    case.expect(&[(Counter::SpliceOpened, 2)])
}

#[test]
fn transfers_outlive_an_interface_that_stops_to_take_frames_and_takes_them_again() -> Result<()> {
    let run = two_backends().start()?;
    let case = Case::start(&run)?;
    let side = backend_side(OWNER);
    ensure!(takes_xdp(&case.steer, &side)?);
    let body = payload::bytes(400_000, 2);
    for state in ["off", "on"] {
        gro(&run, OWNER, state)?;
        let changed = Instant::now();
        while changed.elapsed() < Duration::from_secs(5) {
            ensure!(case.upload(&case.dial, &body)?.resumed, "gro {state}");
            thread::sleep(Duration::from_millis(50));
        }
        let now = eventually(Duration::from_secs(10), || {
            (takes_xdp(&case.steer, &side).ok()? == (state == "on")).then_some(())
        });
        ensure!(now.is_some(), "gro {state}: {}", case.steer.log());
    }
    logged(&case.steer, "take no frames of XDP any more")?;
    // XDP rests for a while, and not for good; next hops remember for up to two seconds what they
    // lead to.
    let forwards = eventually(Duration::from_secs(10), || {
        let before = case.counted(Counter::XdpForwarded).ok()?;
        let resumed = case.upload(&case.dial, &body).ok()?.resumed;
        (resumed && case.counted(Counter::XdpForwarded).ok()? > before + 20).then_some(())
    });
    forwards.context("XDP does not forward again")
}
