//! The main job: a client that comes back from another address resumes at the backend that holds
//! its session.

use std::time::Duration;

use anyhow::{Context as _, Result};
use steer_common::counters::Counter;
use steer_tests::{
    agent::Hook,
    demo::Load,
    kernel_counters::KernelCounters,
    process::eventually,
    scenario::{Run, Scenario},
    topology::Family,
};

#[test]
fn a_session_resumes_on_its_owner_from_another_address_tc_ipv4() -> Result<()> {
    one_client(Hook::Tc, Family::V4)
}

#[test]
fn a_session_resumes_on_its_owner_from_another_address_tc_ipv6() -> Result<()> {
    one_client(Hook::Tc, Family::V6)
}

#[test]
fn a_session_resumes_on_its_owner_from_another_address_xdp_ipv4() -> Result<()> {
    one_client(Hook::Xdp, Family::V4)
}

#[test]
fn a_session_resumes_on_its_owner_from_another_address_xdp_ipv6() -> Result<()> {
    one_client(Hook::Xdp, Family::V6)
}

#[test]
fn sessions_of_32_parallel_clients_resume_on_their_owners_tc_ipv4() -> Result<()> {
    many_clients(Hook::Tc, Family::V4)
}

#[test]
fn sessions_of_32_parallel_clients_resume_on_their_owners_tc_ipv6() -> Result<()> {
    many_clients(Hook::Tc, Family::V6)
}

#[test]
fn sessions_of_32_parallel_clients_resume_on_their_owners_xdp_ipv4() -> Result<()> {
    many_clients(Hook::Xdp, Family::V4)
}

#[test]
fn sessions_of_32_parallel_clients_resume_on_their_owners_xdp_ipv6() -> Result<()> {
    many_clients(Hook::Xdp, Family::V6)
}

#[test]
fn a_session_offered_where_its_owner_is_the_first_backend_is_not_moved() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).start()?;
    let steer = run.agent()?;
    let (client, home) = (run.new_client()?, run.source_of(0)?);
    run.session_at(&client, 0)?;
    assert!(run.visit(&client, &run.dial(home))?.resumed);
    assert_eq!((steer.count(Counter::SessionHit)?, steer.count(Counter::Rehome)?), (1, 0));
    Ok(())
}

/// Every address in turn: wherever the first backend is, the session's owner answers.
fn one_client(hook: Hook, family: Family) -> Result<()> {
    let run = Scenario::new(hook, family).start()?;
    let steer = run.agent()?;
    let client = run.new_client()?;
    run.session_at(&client, 0)?;
    let before = counters(&run)?;
    for source in 0..64 {
        let handshake = run.visit(&client, &run.dial(source))?;
        assert!(handshake.resumed, "from address {source}: {handshake:?}");
        assert_eq!(handshake.server, "backend-0", "from address {source}");
    }
    let (hits, rehomed) = (steer.count(Counter::SessionHit)?, steer.count(Counter::SpliceOpened)?);
    assert!(rehomed > 20 && hits + rehomed == 64, "{hits} stayed, {rehomed} were re-homed");
    if hook == Hook::Xdp {
        assert!(steer.count(Counter::XdpForwarded)? > 64, "XDP carried part of it");
    }
    unharmed(&run, &before)
}

fn many_clients(hook: Hook, family: Family) -> Result<()> {
    let mut scenario = Scenario::new(hook, family);
    scenario.steer.top.push("metrics = \"127.0.0.1:9464\"".to_owned());
    let run = scenario.start()?;
    let steer = run.agent()?;
    let before = counters(&run)?;
    let load = Load { clients: 64, reconnects: 640, parallel: 32 };
    let seen = load.run(&run, "parallel")?;
    assert_eq!(seen.errors, 0, "{:?}", seen.samples);
    assert_eq!((seen.reconnects, seen.resumed, seen.on_owner), (640, 640, 640));
    let moved = steer.count(Counter::SpliceOpened)?;
    assert!(moved > 200);
    for histogram in ["rehome_duration_seconds", "rehomed_hello_bytes"] {
        let line = format!("steer_{histogram}_count {moved}");
        let told = || {
            let all = run.lab.gateway().tool("curl -s http://127.0.0.1:9464/metrics").ok()?;
            all.lines().any(|said| said == line).then_some(())
        };
        eventually(Duration::from_secs(5), told).with_context(|| format!("no {line}"))?;
    }
    unharmed(&run, &before)
}

fn counters(run: &Run) -> Result<Vec<KernelCounters>> {
    let backends = (0..run.lab.n_backends()).map(|index| run.backend_counters(index));
    std::iter::once(run.client_counters()).chain(backends).collect()
}

/// No kernel at either end had anything to object to.
#[track_caller]
fn unharmed(run: &Run, before: &[KernelCounters]) -> Result<()> {
    for (index, (after, before)) in counters(run)?.iter().zip(before).enumerate() {
        let grown = after.since(before);
        assert_eq!((grown.harm(), grown.of("Tcp.InErrs")), (None, 0), "of end {index}");
    }
    Ok(())
}
