//! What a re-home costs.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use steer_common::counters::Counter;

use crate::{
    agent::Hook,
    scenario::{Run, Scenario},
    topology::Family,
};

/// The goal: a re-home adds one gateway-backend SYN and SYN-ACK, and no more than this besides.
const ALLOWANCE: Duration = Duration::from_micros(50);

/// Measures what a re-home adds to a resumption.
///
/// # Errors
/// When the lab cannot be built, or a resumption fails.
pub fn rehome(hook: Hook, family: Family, pairs: usize, json: bool) -> Result<()> {
    let run = Scenario::new(hook, family).start()?;
    let agent = run.agent()?;
    let client = run.new_client()?;
    run.session_at(&client, 0)?;
    let (stays, moves) = (run.source_of(0)?, run.source_not_of(0)?);
    let before = agent.count(Counter::SpliceOpened)?;
    let (mut stayed, mut moved, mut opened) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..pairs {
        stayed.push(resumption(&run, &client, stays)?);
        opened.push(syn_time(&run)?);
        moved.push(resumption(&run, &client, moves)?);
    }
    let rehomed = agent.count(Counter::SpliceOpened)? - before;
    // A port used again meets its old flow, whose backend is the owner already: nothing moves.
    ensure!(
        rehomed as usize * 10 >= pairs * 9,
        "only {rehomed} of {pairs} resumptions were re-homed"
    );
    report(
        &Figures { stayed: median(stayed), moved: median(moved), opened: median(opened), pairs },
        json,
    );
    Ok(())
}

fn resumption(run: &Run, client: &crate::client::Client, source: usize) -> Result<Duration> {
    let handshake = run.visit(client, &run.dial(source))?;
    ensure!(handshake.resumed, "a resumption from {} was a full handshake", run.source(source));
    Ok(handshake.time)
}

/// From the gateway's SYN to the backend's SYN-ACK, as its kernel sees it: a TCP connect.
fn syn_time(run: &Run) -> Result<Duration> {
    let backend = run.backend_address(0);
    run.lab.gateway().run(|| {
        let start = Instant::now();
        TcpStream::connect(backend).context("connect from the gateway to the backend")?;
        Ok(start.elapsed())
    })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

struct Figures {
    stayed: Duration,
    moved: Duration,
    opened: Duration,
    pairs: usize,
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn report(figures: &Figures, json: bool) {
    let added = figures.moved.saturating_sub(figures.stayed);
    let goal = figures.opened + ALLOWANCE;
    println!("resumptions, {} pairs, interleaved         p50", figures.pairs);
    println!("  session at the first backend            {:>6} us", figures.stayed.as_micros());
    println!("  re-homed to the owner                   {:>6} us", figures.moved.as_micros());
    println!("  added by the re-home                    {:>6} us", added.as_micros());
    println!("  one SYN and SYN-ACK, gateway to backend {:>6} us", figures.opened.as_micros());
    println!("  goal (that and 50 us more)              {:>6} us", goal.as_micros());
    if json {
        println!(
            "{{\"stayed_us\":{},\"rehomed_us\":{},\"added_us\":{},\"syn_us\":{},\"goal_us\":{},\"met\":{}}}",
            figures.stayed.as_micros(),
            figures.moved.as_micros(),
            added.as_micros(),
            figures.opened.as_micros(),
            goal.as_micros(),
            added <= goal
        );
    }
}
