//! What goes wrong in the middle of a change: the kernel takes nothing more into a map.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use steer_common::shared::BACKEND_PRESENT;
use steer_tests::{
    agent::{Agent, Hook},
    process::{self, eventually},
    scenario::Scenario,
    tables,
    topology::Family,
};
use steer_user::plane::Plane;

use crate::{TEN_SECONDS, backend, error, two_backends};

/// A backend that nobody configured, and that answers to nothing.
const NEW: &str = "10.2.0.77:443";

/// From now on no process may write to a map; this holds until the map is gone.
fn freeze(steer: &Agent<'_>, map: &str) -> Result<()> {
    let mut bpftool = Command::new("bpftool");
    bpftool.args(["map", "freeze", "pinned"]).arg(steer.map_pin(map));
    process::run(&mut bpftool).map(drop)
}

/// Numbers of backends that are in pools, as the maps have them.
fn present(steer: &Agent<'_>) -> Result<Vec<u32>> {
    let backends = Plane::open(&tables::pins(steer))?.backends()?.into_iter();
    let present = backends.filter(|(_, backend)| backend.flags & BACKEND_PRESENT != 0);
    Ok(present.map(|(id, _)| id).collect())
}

/// A record without a number would be in the pool, and never listed.
#[test]
fn a_backend_whose_number_cannot_be_noted_is_in_no_pool_and_spoils_no_later_change() -> Result<()> {
    let run = two_backends()?;
    let steer = run.agent()?;
    let before = present(&steer)?;
    freeze(&steer, "backend_ids")?;
    for _ in 0..2 {
        error(steer.steer(&format!("backends add --vip {} {NEW}", run.vip())));
        ensure!(present(&steer)? == before, "{:?} was {before:?}", present(&steer));
    }
    let other = run.backend_address(1).to_string();
    steer.steer(&format!("backends drain {other}"))?;
    ensure!(backend(&steer, &other)?["state"] == "draining");
    steer.steer(&format!("backends undrain {other}"))?;
    ensure!(run.resume_elsewhere(&run.new_client()?)?.resumed);
    Ok(())
}

/// A backend that was removed, and that nothing names, is forgotten by the sweep.
#[test]
fn a_sweep_that_fails_is_told_and_ends_nothing() -> Result<()> {
    let run = two_backends()?;
    let steer = run.agent()?;
    let agent = steer.json("status")?["agent"]["pid"].clone();
    freeze(&steer, "backend_ids")?;
    steer.steer(&format!("backends remove {}", run.backend_address(1)))?;
    let told = || (steer.log().matches("sweep the tables: ").count() > 1).then_some(());
    eventually(TEN_SECONDS * 2, told).with_context(|| steer.log())?;
    ensure!(steer.log().contains("it is tried again"), "{}", steer.log());
    ensure!(steer.json("status")?["agent"]["pid"] == agent, "{}", steer.log());
    let client = run.new_client()?;
    run.session_at(&client, 0)?;
    ensure!(run.visit(&client, &run.dial(7))?.resumed);
    Ok(())
}

/// The pool is changed by then.
#[test]
fn names_that_cannot_be_kept_refuse_no_backend() -> Result<()> {
    let name = "key_names = [\"000102030405060708090a0b0c0d0e0f\"]";
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).backend_setting(1, name).start()?;
    let steer = run.agent()?;
    let address = run.backend_address(1).to_string();
    steer.steer(&format!("backends remove {address}"))?;
    let mut plane = Plane::open(&tables::pins(&steer))?;
    let mut keys = Vec::new();
    plane.key_names.for_each(|key, _| keys.push(key))?;
    for key in keys {
        plane.key_names.remove(&key)?;
    }
    freeze(&steer, "key_names")?;
    steer.steer(&format!("backends add --vip {} {address}", run.vip()))?;
    ensure!(backend(&steer, &address)?["state"] != "removed");
    ensure!(steer.log().contains("write the map key_names"), "nothing is said: {}", steer.log());
    run.source_of(1).map(drop)
}
