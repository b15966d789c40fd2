//! The main job for people: the same reconnecting clients, first through plain kernel layer 4, then
//! through steer. In the inline and the bridge shape that layer 4 is a balancer in front of the gateway, which
//! stays as it is while steer is switched on.
//!
//! [`run`] does it, `load` is the clients, `report` all that is printed on stdout.

mod load;
mod report;

use std::{process::Command, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use steer_common::counters::Counter;

pub use self::load::{Load, Tally};
use self::report::Report;
use crate::{
    agent::{Agent, Hook, Shape},
    l4::{PlainL4, Snat},
    nginx, process,
    scenario::{Run, Scenario},
    topology::Family,
};

/// What the demo shall show.
#[derive(Clone, Debug)]
pub struct Options {
    /// Hook of the gateway's interfaces.
    pub hook: Hook,
    /// Where steer stands.
    pub shape: Shape,
    /// Whether the balancer in front hides the clients' addresses.
    pub snat: Snat,
    /// Connections that are open and silent beside the clients', through the balancer in front.
    pub open: usize,
    /// What clients dial.
    pub family: Family,
    /// The clients.
    pub load: Load,
    /// Whether the last line shall be JSON.
    pub json: bool,
}

/// Runs the demo and prints it; `true` if steer resumed every session on its owner without an
/// error.
///
/// # Errors
/// When the lab, nginx or steer do not come up.
pub fn run(options: &Options) -> Result<bool> {
    process::require_root()?;
    options.load.check()?;
    ensure!(
        options.snat == Snat::No || options.shape != Shape::Gateway,
        "--snat is about the balancer in front, which --shape inline and bridge have"
    );
    ensure!(
        options.open == 0 || options.shape != Shape::Gateway,
        "--open is about the balancer in front, which --shape inline and bridge have"
    );
    ensure!(
        options.shape != Shape::Bridge || options.hook == Hook::Tc,
        "the ports of a bridge have TC programs alone"
    );
    let start = Instant::now();
    progress(
        "lab: a client with 64 addresses, the gateway, three nginx (mutual TLS 1.2, session IDs, no tickets)",
    );
    let scenario = Scenario::new(options.hook, options.family);
    let report = match options.shape {
        Shape::Gateway => {
            let run = scenario.start()?;
            let l4 = through_plain_l4(&run, &options.load)?;
            through_steer(&run, options, l4)?
        }
        Shape::Inline | Shape::Bridge => {
            let patient =
                nginx::Settings { patience: "600s".to_owned(), ..nginx::Settings::default() };
            let scenario = scenario.nginx(patient);
            let run = match options.shape {
                Shape::Bridge => scenario.bridge(options.snat).start()?,
                _ => scenario.inline(options.snat).start()?,
            };
            progress(&format!(
                "balancer in front: nftables DNAT by source address{}",
                if options.snat == Snat::Yes { ", masquerade" } else { "" }
            ));
            let l4 = options.load.run(&run, "the balancer alone")?;
            through_steer(&run, options, l4)?
        }
    };
    report.print(options.json);
    progress(&format!("done in {:.1} s", start.elapsed().as_secs_f64()));
    Ok(report.steer_resumed_all())
}

fn through_plain_l4(run: &Run, load: &Load) -> Result<Tally> {
    progress("plain layer 4: nftables DNAT, backend by hash of the source address");
    let _rival = PlainL4::start(&run.lab)?;
    load.run(run, "plain layer 4")
}

fn through_steer(run: &Run, options: &Options, l4: Tally) -> Result<Report> {
    progress(&format!("steer: loading programs on {}", options.hook.word()));
    let agent = run.agent()?;
    let held = run.hold(options.open)?;
    if !held.is_empty() {
        progress(&format!("{} connections are open beside the clients'", held.len()));
    }
    let steer = options.load.run(run, "steer")?;
    let hook = hook_used(&agent, options.hook)?;
    Ok(Report {
        l4,
        steer,
        shape: options.shape,
        snat: options.snat,
        rehomed: agent.count(Counter::SpliceOpened)?,
        leg_translated: agent.count(Counter::LegTranslated)?,
        leg_collided: agent.count(Counter::LegCollided)?,
        hook,
        sessions_dump: dump(&agent)?,
        stats: agent.steer("stats")?,
        pin: agent.map_pin("sessions").display().to_string(),
    })
}

/// The hook that the agent attached, by its own status, so that the report cannot claim another.
fn hook_used(agent: &Agent<'_>, wanted: Hook) -> Result<String> {
    let status = agent.json("status")?;
    let interfaces = status["interfaces"].as_array().context("steer status names no interfaces")?;
    let n_with =
        |program: &str| interfaces.iter().filter(|interface| interface[program] == true).count();
    let used = match (n_with("tc"), n_with("xdp")) {
        (tc, 0) if tc == interfaces.len() => Hook::Tc,
        (tc, xdp) if tc == xdp && xdp == interfaces.len() => Hook::Xdp,
        _ => bail!("steer's programs are not on every interface: {}", status["interfaces"]),
    };
    ensure!(
        wanted == Hook::Auto || used == wanted,
        "steer runs on {}, not on {}",
        used.word(),
        wanted.word()
    );
    Ok(used.word().to_owned())
}

fn dump(agent: &Agent<'_>) -> Result<String> {
    process::run(
        Command::new("bpftool").args(["map", "dump", "pinned"]).arg(agent.map_pin("sessions")),
    )
}

fn progress(line: &str) {
    eprintln!("demo: {line}");
}
