//! Neighbours that were not heard of for long are confirmed, whether or not anybody checks
//! backends.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use steer_tests::{
    agent::Hook,
    client::Dial,
    process::eventually,
    scenario::Scenario,
    topology::{Family, mac, mac_text},
};

/// A round of the agent, the kernel's five seconds of grace and its probes.
const FOUND: Duration = Duration::from_secs(90);

#[test]
fn a_backend_that_changed_its_mac_address_without_a_word_is_found_again_without_health_checks()
-> Result<()> {
    let mut scenario = Scenario::new(Hook::Tc, Family::V4).backends(2).unknown_neighbours();
    scenario.steer.health = vec!["enabled = false".to_owned()];
    let run = scenario.gateway_sysctl("ipv4/neigh/b0/base_reachable_time_ms", "1000").start()?;
    let _steer = run.agent()?;
    let backend = run.lab.backend(0);
    // It knows the gateway and so asks nobody: nothing that it sends tells its new address before
    // it is spoken to.
    let gateway = mac_text(mac(1, 1));
    backend.ip(&format!("neigh replace 10.2.0.1 lladdr {gateway} dev eth0 nud permanent\n"))?;
    let (client, source) = (run.new_client()?, run.source_of(0)?);
    run.visit(&client, &run.dial(source))?;
    thread::sleep(Duration::from_secs(3));
    backend.sysctl("ipv4/conf/all/arp_notify", "0")?;
    backend.ip("link set eth0 address 02:57:ee:ff:ff:01\n")?;
    backend.ip(&format!("neigh replace 10.2.0.1 lladdr {gateway} dev eth0 nud permanent\n"))?;
    let impatient = Dial { timeout: Duration::from_secs(2), ..run.dial(source) };
    let visit = || run.visit(&client, &impatient).ok();
    eventually(FOUND, visit).context("the backend stays lost").map(drop)
}
