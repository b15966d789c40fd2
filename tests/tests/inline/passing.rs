//! What passes the gateway and is none of steer's business goes on, whatever happens to the agent.

use std::{thread, time::Duration};

use anyhow::Result;
use nix::sys::signal::Signal;
use steer_common::counters::Counter;
use steer_tests::{
    agent::Shape,
    case::{Case, OWNER},
    l4::Snat,
    setting::in_settings,
    street::{CROWD, Street},
};

/// Transfers through the balancer that are older than the gateway, and some that begin while it
/// steers.
#[test]
fn transfers_go_on_while_the_agent_starts_is_killed_and_leaves() -> Result<()> {
    in_settings(320, |setting| {
        for snat in [Snat::No, Snat::Yes] {
            let street = Street::build(setting, Shape::Inline, snat)?;
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

/// In observe mode nothing is moved, and what would have been is counted.
#[test]
fn the_default_is_to_look_on() -> Result<()> {
    in_settings(321, |setting| {
        let scenario = setting.scenario().vip_setting("mode = \"observe\"");
        let run = scenario.inline(Snat::No).start()?;
        let case = Case::start(&run)?;
        case.stays(&case.dial)?;
        case.expect(&[(Counter::Observed, 1), (Counter::Rehome, 0)])?;
        case.unharmed(0)
    })
}

/// The owner's link is down, and the default route leads to the balancer, which would send a SYN
/// back: it is not sent there.
#[test]
fn a_flow_whose_owner_is_behind_a_link_that_is_down_stays_where_it_was_sent() -> Result<()> {
    /// Longer than the way to a backend is taken for fresh.
    const HOP_AGE: Duration = Duration::from_millis(2500);
    in_settings(322, |setting| {
        let run = setting.scenario().inline(Snat::No).start()?;
        let case = Case::start(&run)?;
        run.lab.link(OWNER, false)?;
        thread::sleep(HOP_AGE);
        case.stays(&case.dial)?;
        case.expect(&[(Counter::OwnerNoRoute, 1), (Counter::SpliceOpened, 0), (Counter::Syn, 1)])?;
        case.unharmed(0)
    })
}
