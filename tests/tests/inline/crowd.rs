//! Many clients through the balancer, with their own addresses and behind one.

use anyhow::Result;
use steer_common::counters::Counter;
use steer_tests::{
    agent::Hook,
    demo::Load,
    l4::Snat,
    nginx,
    scenario::{Run, Scenario},
    topology::Family,
};

/// Connections that are open while others come and go: of so many behind one address some have a
/// port that is in use towards several backends.
const OPEN: usize = 1500;

fn run(hook: Hook, family: Family, snat: Snat) -> Result<Run> {
    let patient = nginx::Settings { patience: "600s".to_owned(), ..nginx::Settings::default() };
    Scenario::new(hook, family).nginx(patient).inline(snat).start()
}

/// Everybody resumes where its session is held, wherever the balancer sends it.
fn everybody_resumes(hook: Hook, family: Family, snat: Snat, open: usize) -> Result<()> {
    let run = run(hook, family, snat)?;
    let steer = run.agent()?;
    let _held = run.hold(open)?;
    let load = Load { clients: 64, reconnects: 640, parallel: 32 };
    let seen = load.run(&run, "inline")?;
    assert_eq!(seen.errors, 0, "{:?}", seen.samples);
    assert_eq!((seen.reconnects, seen.resumed, seen.on_owner), (640, 640, 640));
    assert!(steer.count(Counter::SpliceOpened)? > 200);
    assert_eq!(steer.count(Counter::LegCollided)?, 0);
    if open > 0 {
        assert!(steer.count(Counter::LegTranslated)? > 0, "no port was taken");
    }
    if hook == Hook::Xdp {
        assert!(steer.count(Counter::XdpForwarded)? > 640, "XDP carried part of it");
    }
    Ok(())
}

#[test]
fn sessions_resume_on_their_owners_behind_a_balancer_tc_ipv4() -> Result<()> {
    everybody_resumes(Hook::Tc, Family::V4, Snat::No, 0)
}

#[test]
fn sessions_resume_on_their_owners_behind_a_balancer_tc_ipv6() -> Result<()> {
    everybody_resumes(Hook::Tc, Family::V6, Snat::No, 0)
}

#[test]
fn sessions_resume_on_their_owners_behind_a_balancer_xdp_ipv4() -> Result<()> {
    everybody_resumes(Hook::Xdp, Family::V4, Snat::No, 0)
}

#[test]
fn sessions_resume_on_their_owners_behind_one_address_tc_ipv4() -> Result<()> {
    everybody_resumes(Hook::Tc, Family::V4, Snat::Yes, OPEN)
}

#[test]
fn sessions_resume_on_their_owners_behind_one_address_xdp_ipv6() -> Result<()> {
    everybody_resumes(Hook::Xdp, Family::V6, Snat::Yes, OPEN)
}
