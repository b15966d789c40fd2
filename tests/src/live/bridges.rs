//! A bridge in front of servers in VLANs of their own, with the kernel's own VLAN interfaces at both
//! ends.

use anyhow::{Result, ensure};

use super::{links::works, small_tables};
use crate::{
    agent::{Agent, Hook},
    l4::Snat,
    scenario::{Run, Scenario},
    topology::{BRIDGE, Family, Link},
};

/// The owner stands in VLAN 101, the other backend in 102.
fn start() -> Result<Run> {
    small_tables(Scenario::new(Hook::Tc, Family::V4).backends(2))
        .links(&[Link::Veth, Link::Tagged(101), Link::Tagged(102)])
        .bridge(Snat::No)
        .start()
}

/// A file is fetched over a flow that was moved from one VLAN to the other.
pub(super) fn over_tags() -> Result<String> {
    let run = start()?;
    let steer = run.agent()?;
    works(&run, &steer)?;
    Ok("a file over a flow that moved from VLAN 102 to 101".to_owned())
}

/// Such a bridge is refused, with what to do.
pub(super) fn refused_where_vlans_are_filtered() -> Result<String> {
    let run = start()?;
    run.lab.gateway().ip(&format!("link set {BRIDGE} type bridge vlan_filtering 1\n"))?;
    let Err(refused) = Agent::start(&run.lab, &run.steer) else {
        anyhow::bail!("an agent started at a bridge that filters VLANs")
    };
    let said = format!("{refused:#}");
    ensure!(said.contains("vlan_filtering 0"), "it says what to do: {said}");
    Ok("refused, with what to do".to_owned())
}
