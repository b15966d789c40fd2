//! The failovers for people: what each cost without replication, and with it.

use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    Cluster, Failure, Outcome, Plan,
    failover::fail_over,
    load::{Flows, Load, Phase},
};
use crate::{process, topology::Family};

/// What to show.
#[derive(Clone, Debug)]
pub struct Show {
    /// How gateways fail, one failover each.
    pub failures: Vec<Failure>,
    /// What clients dial.
    pub family: Family,
    /// What goes on meanwhile.
    pub load: Load,
    /// Whether the last line shall be JSON.
    pub json: bool,
}

/// Shows what failovers cost, without replication and with it; `true` if with it they cost nothing.
///
/// # Errors
/// When the lab, the servers or steer do not come up, or nobody takes over.
pub fn show(options: &Show) -> Result<bool> {
    process::require_root()?;
    let start = Instant::now();
    progress(
        "lab: a client with 64 addresses, two gateways with keepalived and [takeover], three nginx, a redis",
    );
    let mut seamless = true;
    let mut objects = Vec::new();
    for failure in &options.failures {
        let [off, on] = [once(options, *failure, false)?, once(options, *failure, true)?];
        println!("\n{}", table(&off, &on));
        for (name, outcome) in [("off", &off), ("on", &on)] {
            let died = outcome.flows.iter().flat_map(|flows| flows.samples.first());
            died.for_each(|sample| println!("[ha] {name}: {sample}"));
        }
        seamless &= on.is_seamless() && off.wrong() == 0;
        objects.push(json!({"failure": failure.word(), "off": object(&off), "on": object(&on)}));
    }
    if options.json {
        println!("\n{}", json!({ "failovers": objects }));
    }
    progress(&format!("done in {:.1} s", start.elapsed().as_secs_f64()));
    Ok(seamless)
}

fn once(options: &Show, failure: Failure, ha: bool) -> Result<Outcome> {
    let word = if ha { "on" } else { "off" };
    progress(&format!("{}, [ha] {word}: starting both gateways", failure.word()));
    let cluster = Cluster::start(&Plan { family: options.family, ..Plan::new(ha) })?;
    let mut pair = cluster.pair()?;
    progress(&format!("{}, [ha] {word}: clients at work", failure.word()));
    let outcome = fail_over(&cluster, &mut pair, failure, &options.load)?;
    progress(&format!("{}, [ha] {word}: {}", failure.word(), object(&outcome)));
    Ok(outcome)
}

fn table(off: &Outcome, on: &Outcome) -> String {
    let mut rows = vec![
        row(off.failure.word(), ["[ha] off".to_owned(), "[ha] on".to_owned()]),
        both("taken over after", off, on, |outcome| format!("{} ms", outcome.outage.as_millis())),
        both("sessions resumed", off, on, |outcome| {
            of(outcome.sessions.resumed, outcome.sessions.offered)
        }),
    ];
    for (off, on) in off.flows.iter().zip(&on.flows) {
        let kind = if off.rehomed { "re-homed" } else { "other" };
        let name = format!("{kind} {} went on", off.way.word());
        rows.push(row(&name, [off, on].map(|flows| of(flows.went_on, flows.went_on + flows.died))));
    }
    rows.push(both("wrong bytes", off, on, |outcome| outcome.wrong().to_string()));
    for (name, phase) in
        [("before", Phase::Before), ("during", Phase::During), ("after", Phase::After)]
    {
        rows.push(both(&format!("visits {name}: resumed"), off, on, |outcome| {
            of(outcome.visits(phase).resumed, outcome.visits(phase).offered)
        }));
        rows.push(both(&format!("visits {name}: errors"), off, on, |outcome| {
            outcome.visits(phase).errors.to_string()
        }));
    }
    rows.join("\n")
}

fn both(name: &str, off: &Outcome, on: &Outcome, say: impl Fn(&Outcome) -> String) -> String {
    row(name, [say(off), say(on)])
}

fn row(name: &str, [off, on]: [String; 2]) -> String {
    format!("{name:<28}{off:>14}{on:>14}")
}

fn of(part: usize, whole: usize) -> String {
    format!("{part} of {whole}")
}

/// An outcome for programs.
pub(super) fn object(outcome: &Outcome) -> Value {
    let sessions = outcome.sessions;
    let visits = |phase| {
        let visits = outcome.visits(phase);
        json!({"offered": visits.offered, "resumed": visits.resumed, "errors": visits.errors})
    };
    json!({
        "outage_ms": u64::try_from(outcome.outage.as_millis()).unwrap_or(u64::MAX),
        "wrong_bytes": outcome.wrong(),
        "sessions": {
            "offered": sessions.offered,
            "resumed": sessions.resumed,
            "full": sessions.full,
            "errors": sessions.errors,
        },
        "rehomed": of_kind(outcome, true),
        "other": of_kind(outcome, false),
        "visits": {
            "before": visits(Phase::Before),
            "during": visits(Phase::During),
            "after": visits(Phase::After),
        },
    })
}

fn of_kind(outcome: &Outcome, rehomed: bool) -> Value {
    let (went_on, died) = outcome.counts(rehomed);
    let way = |flows: &Flows| {
        let Flows { went_on, died, bytes, .. } = flows;
        (flows.way.word().to_owned(), json!({"went_on": went_on, "died": died, "bytes": bytes}))
    };
    let mut object = json!({"went_on": went_on, "died": died});
    object["ways"] = Value::Object(outcome.of(rehomed).map(way).collect());
    object
}

fn progress(line: &str) {
    eprintln!("demo: {line}");
}
