//! What a client sees through each way to the servers, end to end in network namespaces: `cargo
//! xtask bench e2e`.
//!
//! `lane` is a way in a lab of its own, `crowd` the clients at work on it, `rates`, `latency` and
//! `bulk` measure, `cpu` reads what the kernel counted of it. `method`, `goals`, `page` and
//! `object` say what came of it.

mod bulk;
mod cpu;
mod crowd;
mod goals;
mod lane;
mod latency;
mod method;
mod object;
mod page;
mod rates;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;

use self::{
    lane::{Lane, Way},
    page::Figures,
};
use crate::{
    agent::Hook,
    process,
    scenario::{Run, Scenario},
    topology::{Family, Offloads},
};

/// How the benchmark is run.
#[derive(Clone, Debug)]
pub struct EndToEnd {
    /// Whether the last line shall be JSON.
    pub json: bool,
    /// Where the page goes, if anywhere.
    pub record: Option<PathBuf>,
    /// A minute instead of four: too short for figures to be trusted.
    pub quick: bool,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// Rounds of every rate; in each round every way has its turn.
    rounds: usize,
    /// Length of a turn.
    turn: Duration,
    /// Handshakes on every track, one after the other.
    handshakes: usize,
    /// Rounds of every bulk transfer.
    transfers: usize,
}

const WHOLE: Effort =
    Effort { rounds: 7, turn: Duration::from_millis(1000), handshakes: 600, transfers: 7 };
const QUICK: Effort =
    Effort { rounds: 2, turn: Duration::from_millis(300), handshakes: 60, transfers: 2 };

/// Clients at work at a time.
const CLIENTS: usize = 16;

/// Measures, prints, and records if told to.
///
/// # Errors
/// When a lab does not come up; a client's error is counted, shown, and misses a goal.
pub fn e2e(options: &EndToEnd) -> Result<()> {
    process::require_root()?;
    let started = Instant::now();
    let progress = |what: &str| eprintln!("bench: {:>4} s: {what}", started.elapsed().as_secs());
    let effort = if options.quick { QUICK } else { WHOLE };
    let mut report = method::begin(effort, options)?;
    let figures = measure(effort, &progress)?;
    figures.fill(&mut report)?;
    report.print();
    if let Some(directory) = &options.record {
        report.write(directory)?;
    }
    if options.json {
        object::print(&figures);
    }
    progress("done");
    Ok(())
}

fn measure(effort: Effort, progress: &dyn Fn(&str)) -> Result<Figures> {
    progress("a lab for each way, checksums finished as on a wire");
    let runs = labs(&Way::ALL.map(|way| (way, Offloads::ChecksumsOff)))?;
    let lanes = open(&Way::ALL, &runs)?;
    let rates = rates::measure(&lanes, effort, progress)?;
    progress("handshakes one after the other");
    let latency = latency::measure(&lanes, effort.handshakes)?;
    drop(lanes);
    drop(runs);
    progress("other labs for bulk transfers");
    let ways = bulk::LANES.map(|(way, _)| way);
    let runs = labs(&bulk::LANES)?;
    let lanes = open(&ways, &runs)?;
    let bulk = bulk::measure(&lanes, effort.transfers, progress)?;
    Ok(Figures { rates, latency, bulk })
}

/// A lab for each way, its three nginx up.
fn labs(ways: &[(Way, Offloads)]) -> Result<Vec<Run>> {
    let build = |&(way, offloads): &(Way, Offloads)| {
        let hook = if let Way::Steer(hook) = way { hook } else { Hook::Tc };
        let mut scenario =
            Scenario::new(hook, Family::V4).offloads(offloads).nginx(lane::servers());
        // As steer has it: checks of ten backends a second would be part of the load.
        scenario.steer.health.clear();
        scenario.start()
    };
    ways.iter().map(build).collect()
}

fn open<'a>(ways: &[Way], runs: &'a [Run]) -> Result<Vec<Lane<'a>>> {
    ways.iter().zip(runs).map(|(&way, run)| Lane::open(way, run)).collect()
}
