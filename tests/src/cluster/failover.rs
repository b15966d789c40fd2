//! One failover under load, and what it cost.

use std::{
    panic::resume_unwind,
    sync::atomic::Ordering,
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::{
    Cluster, Gateway, LIMIT,
    load::{self, Done, Firsts, Flows, Holder, Job, Load, Phase, Sessions, Stage, Visits},
    until,
};

/// How a gateway fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Failure {
    /// The whole machine: links and processes.
    Machine,
    /// Its link towards the clients.
    FrontLink,
    /// Its agent alone: its programs go on until keepalived has noticed.
    Agent,
    /// The store, and then the machine.
    StoreThenMachine,
}

impl Failure {
    /// For people and programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::FrontLink => "front-link",
            Self::Agent => "agent",
            Self::StoreThenMachine => "store-then-machine",
        }
    }
}

/// What a failover cost.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How the gateway failed.
    pub failure: Failure,
    /// Until the other one was active.
    pub outage: Duration,
    /// Connections that lasted, by way, re-homed ones first.
    pub flows: Vec<Flows>,
    /// Sessions that were known before.
    pub sessions: Sessions,
    /// Clients that came back all the time, by [`Phase`].
    pub visits: [Visits; 3],
}

impl Outcome {
    /// Connections that lasted and were re-homed, or were not.
    pub fn of(&self, rehomed: bool) -> impl Iterator<Item = &Flows> {
        self.flows.iter().filter(move |flows| flows.rehomed == rehomed)
    }

    /// How many of them went on and how many died.
    pub fn counts(&self, rehomed: bool) -> (usize, usize) {
        self.of(rehomed).fold((0, 0), |(on, died), flows| (on + flows.went_on, died + flows.died))
    }

    /// Bytes that arrived and are not those that were sent.
    pub fn wrong(&self) -> usize {
        self.flows.iter().map(|flows| flows.wrong).sum()
    }

    /// Visits of a phase.
    pub fn visits(&self, phase: Phase) -> Visits {
        self.visits[phase as usize]
    }

    /// Whether all went on: nothing was lost, and every session was resumed.
    pub fn is_seamless(&self) -> bool {
        let Sessions { offered, resumed, .. } = self.sessions;
        self.wrong() == 0
            && self.flows.iter().all(|flows| flows.died == 0)
            && offered == resumed
            && self.visits(Phase::After).errors == 0
    }
}

/// Lets the first gateway of a pair fail while the load goes on.
///
/// # Errors
/// When the lab breaks, or nobody takes over.
pub fn fail_over(
    cluster: &Cluster,
    pair: &mut [Gateway<'_>; 2],
    failure: Failure,
    load: &Load,
) -> Result<Outcome> {
    fail_over_after(cluster, pair, failure, load, |_| Ok(()))
}

/// As [`fail_over`]; `before` is done when all sessions are known and all transfers under way.
///
/// # Errors
/// As [`fail_over`], and those of `before`.
pub fn fail_over_after(
    cluster: &Cluster,
    pair: &mut [Gateway<'_>; 2],
    failure: Failure,
    load: &Load,
    before: impl FnOnce(&mut [Gateway<'_>; 2]) -> Result<()>,
) -> Result<Outcome> {
    let run = &cluster.run;
    let firsts = Firsts::find(cluster)?;
    let holders = Holder::prepare(cluster, &firsts, load.sessions)?;
    let jobs = Job::prepare(cluster, &firsts, load)?;
    let stage = &Stage::default();
    thread::scope(|scope| {
        let transfers: Vec<_> =
            jobs.iter().map(|job| scope.spawn(move || job.run(run, stage))).collect();
        let visitors: Vec<_> = (0..load.visitors)
            .map(|number| scope.spawn(move || load::visit(cluster, number, stage)))
            .collect();
        let passed = under_way(stage, &transfers)
            .and_then(|()| before(pair))
            .and_then(|()| fail_first(pair, failure, stage, &transfers));
        if passed.is_err() {
            // Idle connections do not wait for it any longer.
            stage.stop.store(true, Ordering::Release);
        }
        let sessions = passed.and_then(|outage| {
            Ok((outage, Holder::return_all(cluster, &holders).context("offer sessions again")?))
        });
        let done: Result<Vec<_>> = transfers.into_iter().map(join).collect();
        stage.stop.store(true, Ordering::Release);
        let visits: Result<Vec<_>> = visitors.into_iter().map(join).collect();
        let (outage, sessions) = sessions?;
        let done: Vec<_> = jobs.iter().zip(done?).collect();
        let kinds = [true, false]
            .into_iter()
            .flat_map(|rehomed| load.ways.iter().map(move |way| (*way, rehomed)));
        Ok(Outcome {
            failure,
            outage,
            flows: kinds.map(|(way, rehomed)| load::sum(way, rehomed, &done)).collect(),
            sessions,
            visits: visits?.into_iter().fold([Visits::default(); 3], load::add),
        })
    })
}

/// Waits until every transfer is under way.
fn under_way(stage: &Stage, transfers: &[ScopedJoinHandle<'_, Result<Done>>]) -> Result<()> {
    let all = until(LIMIT, || {
        lasts(transfers)?;
        Ok((stage.n_under_way() == transfers.len()).then_some(()))
    });
    all?.context("not every transfer comes under way")
}

/// The failure; how long until the other gateway was active.
fn fail_first(
    [active, standby]: &mut [Gateway<'_>; 2],
    failure: Failure,
    stage: &Stage,
    transfers: &[ScopedJoinHandle<'_, Result<Done>>],
) -> Result<Duration> {
    /// What is under way has been for so long that others know of it.
    const KNOWN: Duration = Duration::from_secs(1);
    thread::sleep(KNOWN);
    ensure!(active.is_active()?, "{active} is not active: {}", active.said());
    lasts(transfers)?;
    let failed = Instant::now();
    stage.failed.set(failed).ok().context("it failed before")?;
    active.fail(failure)?;
    let taken_over = standby.await_active()?;
    stage.taken_over.set(taken_over).ok().context("it was taken over before")?;
    Ok(taken_over - failed)
}

fn lasts(transfers: &[ScopedJoinHandle<'_, Result<Done>>]) -> Result<()> {
    let ended = transfers.iter().any(ScopedJoinHandle::is_finished);
    ensure!(!ended, "a transfer ended before the gateway failed");
    Ok(())
}

fn join<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}
