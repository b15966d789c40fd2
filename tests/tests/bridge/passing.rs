//! What passes the bridge and is none of steer's business goes on, whatever happens to steer and
//! to the bridge.

use anyhow::Result;
use nix::sys::signal::Signal;
use steer_common::counters::Counter;
use steer_tests::{
    agent::{Hook, Shape},
    l4::Snat,
    setting::{Setting, in_settings},
    street::{CROWD, Street},
    topology::BRIDGE,
};

fn street(setting: Setting, snat: Snat) -> Result<Street> {
    Street::build(Setting { hook: Hook::Tc, ..setting }, Shape::Bridge, snat)
}

/// Transfers that are older than steer, and some that begin while it steers.
#[test]
fn transfers_go_on_while_the_agent_starts_is_killed_and_leaves() -> Result<()> {
    in_settings(350, |setting| {
        for snat in [Snat::No, Snat::Yes] {
            let street = street(setting, snat)?;
            let older = street.talk(0)?;
            let mut steer = street.agent()?;
            older.goes_on();
            let younger = street.talk(CROWD)?;
            steer.end(Signal::SIGKILL)?;
            older.goes_on();
            younger.goes_on();
            steer.launch()?;
            older.goes_on();
            younger.goes_on();
            assert_eq!(steer.count(Counter::SpliceOpened)?, 0);
            assert!(steer.count(Counter::ForeignPassed)? > 0, "the older ones passed");
            steer.steer("detach")?;
            older.goes_on();
            younger.goes_on();
            older.end()?;
            younger.end()?;
        }
        Ok(())
    })
}

/// The operator takes the bridge away and makes it again under running transfers.
#[test]
fn transfers_go_on_when_the_bridge_is_made_anew() -> Result<()> {
    in_settings(351, |setting| {
        let street = street(setting, Snat::No)?;
        let steer = street.agent()?;
        let crowd = street.talk(0)?;
        crowd.goes_on();
        let ports = street.lab.gateway_interfaces();
        let masters: String =
            ports.iter().map(|port| format!("link set {port} master {BRIDGE}\n")).collect();
        street.lab.gateway().ip(&format!(
            "link del {BRIDGE}\nlink add {BRIDGE} type bridge\nlink set {BRIDGE} up\n{masters}"
        ))?;
        crowd.goes_on();
        crowd.end()?;
        let younger = street.talk(CROWD)?;
        younger.goes_on();
        younger.end()?;
        assert!(steer.count(Counter::Syn)? >= CROWD as u64, "the new ones are looked at again");
        Ok(())
    })
}
