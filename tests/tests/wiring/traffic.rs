//! What only the traffic shows: answers that go round the gateway, one source for everybody.

use std::{net::TcpStream, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use steer_tests::{
    agent::Hook,
    process::eventually,
    scenario::{Run, Scenario},
    topology::Family,
};

use crate::{METRICS, NAMED, calm, logged, metered, warned};

fn two_backends() -> Scenario {
    let mut scenario = Scenario::new(Hook::Tc, Family::V4).backends(2);
    scenario.steer.top.push(format!("metrics = \"{METRICS}\""));
    scenario
}

/// Dials the VIP so often from one source, and hangs up; how many were answered.
fn dial(run: &Run, n: usize) -> Result<usize> {
    let vip = run.vip();
    let answered = |_: &usize| TcpStream::connect_timeout(&vip, Duration::from_millis(300)).is_ok();
    run.lab.client().run(|| Ok((0..n).filter(answered).count()))
}

fn flows(run: &Run, steer: &steer_tests::agent::Agent<'_>) -> Result<[u64; 2]> {
    let flows = |index| {
        steer
            .backend(run.backend_address(index))
            .map(|found| found["flows"].as_u64().unwrap_or_default())
    };
    Ok([flows(0)?, flows(1)?])
}

#[test]
fn backends_whose_answers_go_round_the_gateway_are_named_while_their_checks_say_that_all_is_well()
-> Result<()> {
    let run = two_backends().start()?;
    let steer = run.agent()?;
    dial(&run, 3)?;
    // Another router is their way to the clients now; checks come from the gateway itself.
    for index in 0..2 {
        run.lab.backend(index).ip("route add blackhole 10.1.0.0/24\n")?;
    }
    let words = "no answer came back through here";
    // Clients go on to try.
    for _ in 0..5 {
        ensure!(dial(&run, 6)? == 0);
        thread::sleep(Duration::from_secs(2));
    }
    warned(&steer, words)?;
    logged(&steer, words)?;
    metered(&run, "return-path", 1)?;
    for index in 0..2 {
        ensure!(steer.backend(run.backend_address(index))?["state"] == "up");
        run.lab.backend(index).ip("route del blackhole 10.1.0.0/24\n")?;
    }
    ensure!(dial(&run, 8)? == 8, "they answer again");
    calm(&steer, words)?;
    metered(&run, "return-path", 0)?;
    logged(&steer, "no more: ")
}

#[test]
fn backends_that_never_answered_through_here_are_shown_in_the_list() -> Result<()> {
    let run = two_backends().start()?;
    for index in 0..2 {
        run.lab.backend(index).ip("route add blackhole 10.1.0.0/24\n")?;
    }
    let steer = run.agent()?;
    ensure!(dial(&run, 8)? == 0);
    warned(&steer, "no answer came back through here")?;
    let list = steer.steer("backends list")?;
    ensure!(list.contains("RETURN") && list.contains("not seen"), "{list}");
    Ok(())
}

#[test]
fn with_fallback_source_one_source_that_makes_most_flows_is_warned_of() -> Result<()> {
    let run = two_backends().vip_setting("fallback = \"source\"").start()?;
    let steer = run.agent()?;
    ensure!(dial(&run, 40)? == 40);
    ensure!(flows(&run, &steer)?.contains(&0), "the source chooses");
    warned(&steer, "10.1.0.2 makes most flows")?;
    metered(&run, "one-source", 1)
}

#[test]
fn with_fallback_auto_flows_are_spread_once_one_source_makes_most_of_them() -> Result<()> {
    let run = two_backends().vip_setting("fallback = \"auto\"").start()?;
    let mut steer = run.agent()?;
    ensure!(dial(&run, 40)? == 40);
    ensure!(flows(&run, &steer)?.contains(&0), "the source chooses at first");
    logged(&steer, "backends are chosen by flow from now on")?;
    ensure!(dial(&run, 40)? == 40);
    ensure!(flows(&run, &steer)?.iter().all(|flows| *flows >= 10), "{:?}", flows(&run, &steer)?);
    // The finding outlives the agent.
    steer.end(nix::sys::signal::Signal::SIGTERM)?;
    steer.launch()?;
    let before = flows(&run, &steer)?;
    ensure!(dial(&run, 20)? == 20);
    let spread = eventually(NAMED, || {
        let now = flows(&run, &steer).ok()?;
        (now[0] >= before[0] + 3 && now[1] >= before[1] + 3).then_some(())
    });
    spread.context("the new agent chooses by source again")
}
